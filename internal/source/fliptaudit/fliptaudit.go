// Package fliptaudit takes in the audit events of Flipt servers: what they post to their
// webhooks, and old log files. It checks signatures and tells repeats from new events; an edge
// speaks HTTP and asks who is allowed what.
//
// # Repeats
//
// Events of Flipt have no id, and two of them can be equal. Package fliptevent says how a
// repeat of a request is told from another event, by whether the one before was answered. A
// [Source] remembers that for the newest equal bodies. After a restart it only knows which
// events the journal has, of a while before; one that comes again then is stored once more and says
// of which event it may be a repeat. Nothing is lost either way.
//
// An import compares with all events of the server that the journal has, so that it can be
// repeated, at any time.
package fliptaudit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/audit/flipt"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
)

// Unsigned says who may send without a signature.
type Unsigned string

// Who may send without a signature.
const (
	Refuse       Unsigned = "refuse"   // nobody
	FromLoopback Unsigned = "loopback" // this machine
	WithToken    Unsigned = "token"    // who has a token with the right
)

// Journal is where events go; *[journal.Journal] is one.
type Journal interface {
	Append(ctx context.Context, events ...*event.Event) (journal.Position, error)
	MaxUnitBytes() int
	End() journal.Position
	Since(ctx context.Context, since string, now time.Time) (journal.Position, error)
	Read(after journal.Position) *journal.Reader
}

// Config is what a source is told. Name is required.
type Config struct {
	// Name is that of the server: events are of flipt://NAME.
	Name string
	// Secrets are the keys of signatures, of which there are several while they are changed. They
	// are asked for with every request.
	Secrets []func() (string, error)
	// Unsigned says who may send without a signature; empty is Refuse.
	Unsigned Unsigned
	// Limits are those of the journal; the zero value means event.DefaultLimits.
	Limits event.Limits
}

// Deps are what a source works with. Journal is required.
type Deps struct {
	Journal Journal
	// Keep stores what is too large for an event and returns a reference to it; nil: only its
	// size and hash are kept.
	Keep func(ctx context.Context, data []byte) (ref string, err error)
	// Metrics counts; nil keeps the counters private.
	Metrics *metrics.Metrics
	Logger  *slog.Logger
	// Now is time.Now if nil.
	Now func() time.Time
}

// Source takes in what one Flipt server says. It is safe for concurrent use.
type Source struct {
	config  Config
	deps    Deps
	counts  *metrics.Component
	repeats repeats
	imports importer

	mu     sync.Mutex
	failed error // why the secrets cannot be read
}

// New returns a source. There is nothing to be closed.
func New(c Config, d Deps) *Source {
	if c.Limits == (event.Limits{}) {
		c.Limits = event.DefaultLimits
	}
	if c.Unsigned == "" {
		c.Unsigned = Refuse
	}
	if d.Metrics == nil {
		d.Metrics = metrics.New(nil)
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	s := &Source{config: c, deps: d, counts: d.Metrics.Component("source", c.Name)}
	s.repeats.init()
	s.imports.working = make(chan struct{}, 1)
	return s
}

// Name returns the name of the server.
func (s *Source) Name() string { return s.config.Name }

// Unsigned says who may send without a signature.
func (s *Source) Unsigned() Unsigned { return s.config.Unsigned }

// ErrSecret means that a secret cannot be read.
var ErrSecret = errors.New("the secret of the source cannot be read")

// Verify reports whether a signature is that of body, in constant time. The error wraps
// [ErrSecret].
func (s *Source) Verify(signature string, body []byte) (bool, error) {
	secrets := make([]string, 0, len(s.config.Secrets))
	var failed error
	for _, secret := range s.config.Secrets {
		value, err := secret()
		if err == nil && value == "" {
			err = errors.New("it is empty")
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		secrets = append(secrets, value)
	}
	if failed != nil {
		failed = fmt.Errorf("%w: %w", ErrSecret, failed)
	}
	s.mu.Lock()
	s.failed = failed
	s.mu.Unlock()
	if flipt.Verify(signature, body, secrets...) {
		return true, nil
	}
	return false, failed
}

// Health returns what is wrong: a secret that could not be read.
func (s *Source) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Refused counts a request that was refused.
func (s *Source) Refused(reason string) { s.counts.Refused(reason).Inc() }

// draft is what a body or a line becomes.
type draft struct {
	data  []byte
	event *fliptevent.Event // nil: it is none
	why   error             // then
	key   string            // the same for what is the same event
}

// read makes a draft. data is kept.
func read(data []byte, line bool) draft {
	var d draft
	object := data
	if line {
		d.event, object, d.why = fliptevent.DecodeLine(data)
	} else {
		d.event, d.why = fliptevent.Decode(data)
	}
	if d.why != nil {
		return draft{data: data, why: d.why, key: string(data)}
	}
	// A draft is tried here, so that what cannot become an event is quarantined.
	if _, err := fliptevent.ToEvent(object, d.event, fliptevent.Origin{}); err != nil {
		return draft{data: data, why: err, key: string(data)}
	}
	d.data, d.key = object, string(fliptevent.AppendLogLine(nil, d.event))
	return d
}

// Type returns the type of the event.
func (d *draft) Type() string {
	if d.event == nil {
		return fliptevent.TypeQuarantined
	}
	return fliptevent.TypePrefix + d.event.Type + "/" + d.event.Action
}

// make makes the event of an occurrence, which satisfies the limits of the journal.
func (s *Source) make(ctx context.Context, d *draft, o fliptevent.Origin) (*event.Event, error) {
	o.Server, o.Now = s.config.Name, s.deps.Now()
	why := d.why
	if d.event != nil {
		ev, err := fliptevent.ToEvent(d.data, d.event, o)
		if err == nil {
			if err = s.fits(ev); err == nil {
				return ev, nil
			}
		}
		why = err
	}
	ev := fliptevent.Quarantined(d.data, why, o)
	err := s.fits(ev)
	if errors.Is(err, event.ErrTooLarge) {
		if ev, err = s.withoutData(ctx, ev); err == nil {
			err = s.fits(ev)
		}
	}
	return ev, err
}

func (s *Source) fits(ev *event.Event) error {
	err := s.config.Limits.Check(ev)
	if size, most := journal.StoredBytes(ev), s.deps.Journal.MaxUnitBytes(); err == nil && size > most {
		err = &event.LimitError{Part: "stored event", Size: size, Max: most}
	}
	return err
}

// withoutData returns ev with its bytes elsewhere.
func (s *Source) withoutData(ctx context.Context, ev *event.Event) (*event.Event, error) {
	small := fliptevent.Oversized(ev)
	if s.deps.Keep == nil {
		return small, nil
	}
	ref, err := s.deps.Keep(ctx, ev.Data)
	if err != nil {
		return nil, fmt.Errorf("store the bytes of a large event: %w", err)
	}
	small.DataRef = ref
	return small, nil
}

// scan reads the events of the server that the journal has between two positions.
func (s *Source) scan(ctx context.Context, after, end journal.Position, visit func(*event.Event) error) error {
	source := fliptevent.Source(s.config.Name)
	r := s.deps.Journal.Read(after)
	for at := after; at.Compare(end) < 0; {
		b, err := r.Next(ctx)
		if gap, ok := errors.AsType[*journal.GapError](err); ok {
			if gap.Next.Compare(end) > 0 {
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
		for i := b.Start(); i < b.Len(); i++ {
			if e := b.Event(i); e.Source == source {
				if err := visit(e); err != nil {
					return err
				}
			}
		}
		at = b.End()
	}
	return nil
}
