// Package nats publishes events to streams of NATS JetStream. An event is delivered when the
// server has acknowledged that it is stored; nothing is kept here.
//
// The id of a message (Nats-Msg-Id) is that of the event, so that a stream takes an event
// once within its duplicate window, however often it is sent.
package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/sink/nats/subject"
)

// Secret returns a secret. It is read for each connection.
type Secret func() (string, error)

// Options say where and how to publish. URLs, Subject and Format are required.
type Options struct {
	// URLs of servers, nats:// or tls://, of which one that answers is enough. Others of their
	// cluster are not asked for.
	URLs []string
	// Subject is a template, see [subject.Parse]. A stream must have the subjects.
	Subject string
	Format  format.Format
	// At most one of a user with its password, a token, and a credentials file (what is in it: a
	// JWT and a seed).
	Username    string
	Password    Secret
	Token       Secret
	Credentials Secret
	TLS         TLS
	// Dial connects to a server; nil: to wherever that is.
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Name    string        // of the client, as the server shows it; default tocsin
	Timeout time.Duration // of making a connection; default [DefaultTimeout]
}

// TLS is how a connection is checked, at least TLS 1.2. The zero TLS means the authorities of
// the system, and TLS if the URL or the server wants it. Otherwise there is no connection
// without TLS.
type TLS struct {
	CA         Secret // PEM with the authorities, instead of those of the system
	Cert, Key  Secret // PEM of a client certificate and its private key; both or none
	ServerName string // in the certificate of the server, if it is not the host
}

// DefaultTimeout bounds making a connection.
const DefaultTimeout = 10 * time.Second

// Sink publishes to one cluster over one connection, which is made when it is needed. See
// [deliver.Sink] for its methods.
type Sink struct {
	o       Options
	subject *subject.Template

	dialing chan struct{} // has an element: somebody makes a connection
	mu      sync.Mutex
	link    *link // nil: there is none
	secrets secretBox
	closing chan struct{}
	close   sync.Once
}

var errClosed = errors.New("the sink is closed")

// New returns a sink. It reads the secrets, to tell early what is wrong with them, and does
// not connect.
func New(o Options) (*Sink, error) {
	o.Name = cmp.Or(o.Name, "tocsin")
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if len(o.URLs) == 0 {
		return nil, errors.New("urls is empty; name a server, as nats://nats.example.com:4222")
	}
	for _, u := range o.URLs {
		if err := CheckURL(u); err != nil {
			return nil, err
		}
	}
	template, err := subject.Parse(o.Subject)
	if err != nil {
		return nil, fmt.Errorf("subject %w", err)
	}
	if _, err := format.Named(o.Format.String()); err != nil {
		return nil, err
	}
	ways := 0
	for _, used := range []bool{o.Username != "" || o.Password != nil, o.Token != nil, o.Credentials != nil} {
		if used {
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, errors.New("there is more than one of username with password, token, and credentials; keep one")
	case o.Username == "" && o.Password != nil:
		return nil, errors.New("there is a password, but no username")
	}
	s := &Sink{o: o, subject: template, dialing: make(chan struct{}, 1), closing: make(chan struct{}), secrets: newSecretBox()}
	if _, _, err := s.settings(); err != nil {
		return nil, err
	}
	return s, nil
}

// CheckURL says what is wrong with the URL of a server.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "nats" && u.Scheme != "tls":
		return errors.New("is no url of a server; write it as nats://nats.example.com:4222, or with tls://")
	case u.User != nil:
		return errors.New("has a user in it; put it into username and password, or token")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("has a path, query or fragment after %s; leave it out", u.Host)
	}
	return nil
}

// message is an event on its way.
type message struct {
	item int // in the batch
	msg  *nats.Msg
}

// Send implements [deliver.Sink]. Results are those of each event.
func (s *Sink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	messages := make([]message, 0, len(b.Items))
	for i := range b.Items {
		m, err := s.message(b, i)
		if err != nil {
			b.Decide(i, deliver.Result{Outcome: deliver.Impossible, Reason: err.Error()})
			continue
		}
		messages = append(messages, message{i, m})
	}
	if len(messages) == 0 {
		return deliver.Result{}
	}
	l, err := s.connect(ctx)
	if err != nil {
		return deliver.Result{Outcome: deliver.Retry, Reason: s.reason(ctx, err)}
	}
	// The first alone, the others behind each other: a stream that comes back meanwhile must not
	// store the end of a batch whose beginning it has refused.
	var first deliver.Result
	decide := func(i int, r deliver.Result) {
		r.Reason = s.secrets.hide(r.Reason)
		first = r
		b.Decide(i, r)
	}
	answered, err := l.publish(ctx, s.closing, messages[:1], decide)
	if err == nil && (first.Outcome == deliver.Retry || first.Outcome == deliver.Doubtful) {
		return deliver.Result{Outcome: deliver.Retry, Reason: first.Reason}
	}
	if err == nil && len(messages) > 1 {
		var more int
		more, err = l.publish(ctx, s.closing, messages[1:], decide)
		answered += more
	}
	if err == nil {
		return deliver.Result{}
	}
	if answered == 0 || errors.Is(err, errStuck) {
		s.drop(l) // nobody answers: it may be dead, and nobody has noticed
	}
	return deliver.Result{Outcome: deliver.Retry, Reason: s.reason(ctx, err)}
}

// connect returns the connection, and makes it if there is none.
func (s *Sink) connect(ctx context.Context) (*link, error) {
	select {
	case <-s.closing:
		return nil, errClosed
	default:
	}
	if l := s.current(); l != nil {
		return l, nil
	}
	select {
	case s.dialing <- struct{}{}:
		defer func() { <-s.dialing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.closing:
		return nil, errClosed
	}
	if l := s.current(); l != nil { // somebody else was faster
		return l, nil
	}
	options, config, err := s.settings()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	l, err := dial(ctx, s.o.URLs, s.o.Dial, config, options)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		l.close()
		return nil, errClosed
	default:
	}
	s.link = l
	return l, nil
}

// current returns the connection if there is one that works.
func (s *Sink) current() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil && s.link.ended() {
		s.link.close()
		s.link = nil
	}
	return s.link
}

// drop ends a connection.
func (s *Sink) drop(l *link) {
	s.mu.Lock()
	if s.link == l {
		s.link = nil
	}
	s.mu.Unlock()
	l.close()
}

// Close implements [deliver.Sink].
func (s *Sink) Close() error {
	s.close.Do(func() { close(s.closing) })
	s.mu.Lock()
	l := s.link
	s.link = nil
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
	return nil
}

// reason is a text about an error, with what to do.
func (s *Sink) reason(ctx context.Context, err error) string {
	at := strings.Join(hosts(s.o.URLs), ", ")
	switch {
	case errors.Is(err, errClosed):
		return err.Error()
	case errors.Is(ctx.Err(), context.Canceled), errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, errStuck), errors.Is(err, errUnanswered):
		return fmt.Sprintf("%s: %v", at, err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Sprintf("%s does not let the sink in: %v; check username and password, token or credentials", at, err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return at + " has no TLS, but the sink is to use it; set up TLS there, or remove the section tls and write nats://"
	case errors.Is(err, context.DeadlineExceeded):
		return "no connection to " + at + " in time"
	}
	return shown(s.secrets.hide(fmt.Sprintf("%s: %v", at, err)))
}

// secretBox keeps secrets, to take them out of what a server says. Its fields are functions so
// that the secrets are not in what is printed of a sink, in whichever way.
type secretBox struct {
	keep func(secret string)
	hide func(text string) string
}

const (
	// shortest is the length from which a text could be told from others.
	shortest   = 4
	maxSecrets = 64
)

func newSecretBox() secretBox {
	var mu sync.Mutex
	var list []string // each a line: credentials have several
	return secretBox{
		keep: func(secret string) {
			mu.Lock()
			defer mu.Unlock()
			for line := range strings.Lines(secret) {
				line = strings.TrimSpace(line)
				if len(line) >= shortest && !strings.HasPrefix(line, "---") && !slices.Contains(list, line) {
					list = append(list, line)
				}
			}
			if n := len(list); n > maxSecrets { // those of former files
				list = slices.Clone(list[n-maxSecrets:])
			}
		},
		hide: func(text string) string {
			mu.Lock()
			defer mu.Unlock()
			for _, secret := range list {
				text = strings.ReplaceAll(text, secret, "<secret>")
			}
			return text
		},
	}
}

// shown makes a text one line that is not too long.
func shown(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}

// maxText is how much is shown of what others have written.
const maxText = 300

// hosts returns the addresses of URLs, at most three.
func hosts(urls []string) (list []string) {
	for i, text := range urls {
		if i == 3 {
			return append(list, "...")
		}
		if u, err := url.Parse(text); err == nil {
			list = append(list, u.Host)
		}
	}
	return list
}
