// Package enrich asks the API of a Vault or OpenBao server for what its audit log
// hides: which version its kv mounts have (sys/mounts), and what the hashes of small
// numbers are with which version numbers show in the log of one audit device
// (sys/audit-hash).
//
// It works beside the stream: nothing waits for it, and without answers all goes on as
// if it were not there. It needs a token with few rights, see docs/enrichment.md. Its
// requests stand in the audit log as those of any client.
package enrich

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/derivation"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

// Bounds of what is asked for.
const (
	// firstNumbers is how many numbers are asked for at first, and with each question
	// of the stream that shows that they do not suffice.
	firstNumbers = 100
	// maxNumber is the largest number that is asked for.
	maxNumber = 1000
	// maxNamespaces is how many namespaces are asked for their mounts.
	maxNamespaces = 100
	// maxVain is how many mounts are remembered that nothing is known of.
	maxVain = 1000
	// roundTimeout bounds one round of questions.
	roundTimeout = 2 * time.Minute
)

// Config of an Asker. Name, Address and Token are required.
type Config struct {
	// Name of the device for the source, which answers about hashes are for.
	Name string
	// Device is the path of the audit device on the server; empty: hashes are not
	// asked for.
	Device string
	// Address is the URL of the server.
	Address string
	// Namespace is that of the token; empty for root.
	Namespace string
	// Token returns the token. It is called for every round of questions.
	Token func() (string, error)
	TLS   vaultclient.TLS
	// Interval is how often the server is asked when nothing is left open. What the
	// stream leaves open makes it be asked sooner, but not more often than every ten
	// seconds. Default five minutes.
	Interval time.Duration
	// Logger is slog.Default if nil.
	Logger *slog.Logger

	pause   time.Duration // shortest time between two rounds, in tests
	backoff time.Duration // after the first failure, in tests
}

const (
	defaultPause   = 10 * time.Second
	defaultBackoff = 2 * time.Second
	maxBackoff     = 5 * time.Minute
)

// Asker asks one server for one of its audit devices. Run must be called once;
// everything else is safe for concurrent use.
type Asker struct {
	config    Config
	log       *slog.Logger
	transport *http.Transport
	wake      chan struct{} // has room for one
	ready     atomic.Bool   // there are answers

	mu      sync.Mutex
	answers []derivation.Answers // of mounts, of hashes: at most one of each
	asked   questions
	err     error

	// Of Run alone.
	known  hashes
	renew  renewal
	refuse map[string]bool // namespaces whose mounts the token may not read, until the next regular round
	told   map[string]bool // of these, those that were logged
	logged string
}

// questions are what the stream left open and nobody has asked for yet.
type questions struct {
	open       bool
	namespaces map[string]bool // seen so far, asked for in every round
	vain       map[derivation.UnknownMount]bool
	more       bool // hashes beyond those known
}

// New returns an Asker that asks nothing yet. It reads the files of TLS.
func New(c Config) (*Asker, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Interval <= 0 {
		c.Interval = 5 * time.Minute
	}
	if c.pause == 0 {
		c.pause = defaultPause
	}
	if c.backoff == 0 {
		c.backoff = defaultBackoff
	}
	c.Device = strings.Trim(c.Device, "/")
	c.Namespace = derivation.Namespace(c.Namespace)
	transport, err := c.TLS.Transport()
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConns, transport.MaxConnsPerHost = 1, 1
	if _, err := vaultclient.New(vaultclient.Options{Address: c.Address}); err != nil {
		return nil, err
	}
	return &Asker{
		config:    c,
		log:       c.Logger,
		transport: transport,
		wake:      make(chan struct{}, 1),
		asked:     questions{namespaces: make(map[string]bool), vain: make(map[derivation.UnknownMount]bool)},
		refuse:    make(map[string]bool),
		told:      make(map[string]bool),
	}, nil
}

// Exchange takes what the stream left open and returns what the server has answered
// since the last call. It returns at once.
func (a *Asker) Exchange(q derivation.Questions) []derivation.Answers {
	if q.IsZero() && !a.ready.Load() {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	answers := a.answers
	a.answers = nil
	a.ready.Store(false)
	if a.note(q, len(answers) > 0) {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	return answers
}

// Join returns the Exchange of several askers of one server.
func Join(askers ...*Asker) func(derivation.Questions) []derivation.Answers {
	return func(q derivation.Questions) []derivation.Answers {
		var all []derivation.Answers
		for _, a := range askers {
			all = append(all, a.Exchange(q)...)
		}
		return all
	}
}

// note keeps questions that were not asked in vain, and reports whether there are
// any. Those that came while answers were on their way may be answered by them.
func (a *Asker) note(q derivation.Questions, answered bool) bool {
	o := &a.asked
	for _, m := range q.Mounts {
		if !strings.HasPrefix(m.Namespace, a.config.Namespace) || o.vain[m] || len(o.vain) >= maxVain {
			continue
		}
		if !o.namespaces[m.Namespace] && len(o.namespaces) < maxNamespaces {
			o.namespaces[m.Namespace] = true
		} else if answered {
			continue
		}
		o.vain[m] = true
		o.open = true
	}
	if !answered && a.config.Device != "" && slices.Contains(q.Devices, a.config.Name) {
		o.more, o.open = true, true
	}
	return o.open
}

// tell puts answers in place of those of the same kind that nobody took.
func (a *Asker) tell(answer derivation.Answers) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.answers {
		switch old := &a.answers[i]; {
		case len(old.Hashes) > 0 && len(answer.Hashes) > 0:
			maps.Copy(old.Hashes, answer.Hashes)
			return
		case len(old.Mounts) > 0 && len(answer.Mounts) > 0:
			old.Mounts = answer.Mounts
			return
		}
	}
	a.answers = append(a.answers, answer)
	a.ready.Store(true)
}

// Health returns what keeps the server from being asked, with what to do about it;
// nil if nothing does.
func (a *Asker) Health() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Run asks at once, then at every interval, and sooner when the stream leaves
// something open, until ctx ends. After a failure it waits longer and longer.
func (a *Asker) Run(ctx context.Context) error {
	defer a.transport.CloseIdleConnections()
	var failures int
	for {
		err := a.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.report(err)
		if err == nil {
			failures = 0
			if !a.wait(ctx) {
				return nil
			}
			continue
		}
		failures++
		if !sleep(ctx, jitter(min(a.config.backoff<<min(failures-1, 16), max(maxBackoff, a.config.backoff)))) {
			return nil
		}
	}
}

// wait returns when it is time for the next round, and false when ctx ended.
func (a *Asker) wait(ctx context.Context) bool {
	interval := jitter(a.config.Interval)
	pause := min(a.config.pause, interval)
	if !sleep(ctx, pause) {
		return false
	}
	timer := time.NewTimer(interval - pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-a.wake:
	case <-timer.C:
		a.mu.Lock()
		clear(a.asked.vain) // ask again for what was not known last time
		a.mu.Unlock()
		clear(a.refuse)
	}
	return true
}

// take returns the questions of this round.
func (a *Asker) take() (namespaces []string, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := &a.asked
	more = o.more
	o.open, o.more = false, false
	o.namespaces[a.config.Namespace] = true
	select {
	case <-a.wake:
	default:
	}
	return slices.Sorted(maps.Keys(o.namespaces)), more
}

// report keeps how a round ended, and logs it when it is another way than before.
func (a *Asker) report(err error) {
	a.mu.Lock()
	a.err = err
	a.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == a.logged {
		return
	}
	if err != nil {
		a.log.Warn("The server cannot be asked for what its audit log hides; events are derived from the log alone.", "error", err)
	} else {
		a.log.Info("The server answers again what its audit log hides.")
	}
	a.logged = text
}

// round asks everything once. What fails does not keep the rest from being asked.
func (a *Asker) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	token, err := a.config.Token()
	if err != nil {
		return &Error{Address: a.config.Address, What: "read the token", Err: err}
	}
	namespaces, more := a.take()
	a.renewToken(ctx, token)
	err = a.askMounts(ctx, token, namespaces)
	if _, answered := errors.AsType[*client.StatusError](err); err != nil && (!answered || invalidToken(err)) {
		return err // the next question would end in the same way
	}
	hashErr := a.askHashes(ctx, token, more)
	if err == nil || hashErr == nil {
		return cmp.Or(err, hashErr)
	}
	if e, ok := errors.AsType[*Error](hashErr); ok {
		e.Address = ""
	}
	return fmt.Errorf("%w; %w", err, hashErr)
}

// jitter returns d, give or take a fifth.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + time.Duration(rand.Int64N(int64(d)*2/5+1))
}

// sleep returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
