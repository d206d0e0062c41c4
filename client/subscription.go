package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/tocsin-events/tocsin/event"
)

// Subscription is a stream of events. Its methods are called by one goroutine
// at a time, except Close. It holds no goroutine of its own.
type Subscription struct {
	target  *url.URL
	options Options
	timing  timing

	conn      *websocket.Conn // nil between connections; written under mu
	frames    *frames         // of conn
	idle      *time.Timer     // ends the read that waits on conn
	began     time.Time       // of the first handshake
	connected time.Time       // when conn was made
	position  string          // of the last event that Next returned; "" before the first
	behind    bool            // position was lost: go on with the oldest event there is
	received  bool            // an event came, with or without a position
	failures  int             // attempts and connections that failed since the last event
	delay     time.Duration   // before the next attempt to connect
	over      error           // why Next returns nothing more

	done  context.Context // ends with Close
	close context.CancelFunc
	mu    sync.Mutex // between Next and Close
}

// Message is one event as the server sent it.
type Message struct {
	// Event is the decoded event.
	Event *event.Event
	// Position is where the event is in the server's journal: the Since of a
	// subscription that goes on after it. Empty when the server keeps none.
	Position string
	// Raw is the message, including Vault's newline at its end and, when there
	// is a Position, the attribute "sequence".
	Raw []byte
}

// timing is how patient a subscription is.
type timing struct {
	// The n-th attempt to connect waits a random time up to the smaller of
	// maxBackoff and minBackoff times 2 to the n, so that the subscribers of a
	// server that was restarted do not come back all at once.
	minBackoff, maxBackoff time.Duration
	// handshake bounds one attempt.
	handshake time.Duration
	// idle is how long a connection may be without a message or a ping. The
	// server sends a ping every 30 s, so a longer silence means that it is gone
	// although TCP has not noticed.
	idle time.Duration
}

var defaultTiming = timing{
	minBackoff: 250 * time.Millisecond,
	maxBackoff: 15 * time.Second,
	handshake:  30 * time.Second,
	idle:       100 * time.Second,
}

// Next returns the next event. It waits until there is one, and connects again
// as often as needed. The error is ctx.Err() when ctx ends first; after that,
// Next can be called again and goes on where it was.
//
// Any other error ends the subscription, because connecting again would not help:
// a [*StatusError] when the server now refuses, an [*EndedError] when it took the
// right to subscribe away, ErrTooLarge, ErrClosed, io.EOF behind the last event if
// Options.NoFollow is set. Only after a message that cannot
// be decoded, which is an error as well, the next call goes on behind it.
func (s *Subscription) Next(ctx context.Context) (*Message, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	for {
		raw, err := s.message(ctx)
		if err != nil {
			return nil, err
		}
		m, err := s.decode(bytes.Clone(raw))
		if err != nil {
			return nil, err
		}
		if m.Position != "" && m.Position <= s.position {
			continue // repeated; each event is returned once
		}
		s.position, s.behind, s.received, s.failures = m.Position, false, true, 0
		return m, nil
	}
}

// Raw is one event as the server sent it, not decoded. Its memory is used again.
type Raw struct {
	// Message is the JSON of the CloudEvent, with what is behind it.
	Message []byte
	// Position is that of [Message]; nil when the server keeps none.
	Position []byte
	// Time is the attribute "time" as it is written; nil without one.
	Time []byte
}

// NextRaw is a Next for those who pass events on as they are: it waits until there is an event,
// and calls take with it and with those that came together with it, as long as take returns true.
// What take is given is valid until it returns. It is for [FormatCloudEvents]; the messages are not
// checked.
func (s *Subscription) NextRaw(ctx context.Context, take func(Raw) bool) error {
	if s.options.Format != FormatCloudEvents {
		return errors.New("NextRaw is for subscriptions with FormatCloudEvents")
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	raw, err := s.message(ctx)
	if err != nil {
		return err
	}
	last := append(make([]byte, 0, 64), s.position...)
	for more := true; more && err == nil; {
		r := Raw{Message: raw}
		r.Position, r.Time = rawHead(raw)
		if len(r.Position) == 0 || string(r.Position) > string(last) { // else it is repeated
			last, s.behind, s.received, s.failures = append(last[:0], r.Position...), false, true, 0
			more = take(r)
		}
		if more {
			raw, err = s.frames.take()
		}
	}
	s.position = string(last)
	if err != nil && err != errNotThere {
		return s.broken(ctx, err)
	}
	return nil
}

// bounded returns a context that ends with the subscription, too.
func (s *Subscription) bounded(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.done, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// message waits for the next message, whatever it takes. It is valid until the next call.
func (s *Subscription) message(ctx context.Context) ([]byte, error) {
	for {
		if s.over != nil {
			return nil, s.over
		}
		if s.conn == nil {
			if err := s.reconnect(ctx); err != nil {
				return nil, err
			}
		}
		raw, err := s.read(ctx)
		if err == nil {
			return raw, nil
		}
		if err := s.broken(ctx, err); err != nil {
			return nil, err
		}
	}
}

// broken notes that the connection has ended. An error is one that connecting again does not help
// against.
func (s *Subscription) broken(ctx context.Context, err error) error {
	s.drop()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, websocket.ErrMessageTooBig):
		return fmt.Errorf("%w of %d bytes", ErrTooLarge, s.options.MaxMessageBytes)
	}
	s.ended(err)
	return nil
}

// All returns an iterator over Next that ends after the first error; it yields
// that error unless it is that of ctx.
func (s *Subscription) All(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			m, err := s.Next(ctx)
			if err != nil && ctx.Err() != nil {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Close ends the subscription. A Next that waits for an event returns ErrClosed,
// as does every later one. Close may be called at any time and more than once.
func (s *Subscription) Close() error {
	s.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.CloseNow()
	}
	return nil
}

// connect makes one attempt.
func (s *Subscription) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.timing.handshake, fmt.Errorf("no answer within %v", s.timing.handshake))
	defer cancel()
	target := *s.target
	target.RawQuery = s.options.query(s.begin(time.Now()))
	httpClient := *s.options.HTTPClient
	transport := &capturing{RoundTripper: cmp.Or[http.RoundTripper](httpClient.Transport, http.DefaultTransport)}
	httpClient.Transport = transport
	conn, response, err := websocket.Dial(ctx, target.String(), &websocket.DialOptions{HTTPClient: &httpClient, HTTPHeader: s.options.header()})
	switch {
	case err == nil:
	case response != nil && response.StatusCode != http.StatusSwitchingProtocols:
		return statusError(response)
	case ctx.Err() != nil:
		return fmt.Errorf("connect to %s: %w", s.target.Host, context.Cause(ctx))
	default:
		return fmt.Errorf("connect to %s: %w", s.target.Host, innermost(err))
	}
	s.frames = newFrames(transport.stream, s.options.MaxMessageBytes, func() {
		if s.idle != nil { // called within read, or NextRaw
			s.idle.Reset(s.timing.idle)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.connected = conn, time.Now()
	if s.done.Err() != nil { // closed meanwhile
		conn.CloseNow()
	}
	return nil
}

// innermost drops what the layers of the handshake say about it ("failed to
// WebSocket dial: failed to send handshake request: Get ...") as far as the error
// has types.
func innermost(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// startSlack is how much earlier a subscription without a position begins when
// it connects again, so that the time that a handshake takes loses nothing.
const startSlack = time.Second

// oldest is the since of everything that a server has.
const oldest = "oldest"

// begin returns the since of the next connection: the position of the last event
// or, before there was one, where the subscription was to begin. Beginnings
// relative to now move into the past while the subscription has no connection.
func (s *Subscription) begin(now time.Time) string {
	switch {
	case s.position != "":
		return s.position
	case s.behind:
		return oldest
	}
	back := time.Duration(0)
	if s.options.Since != "" {
		d, err := time.ParseDuration(s.options.Since)
		if err != nil {
			return s.options.Since
		}
		back = d
	}
	if s.began.IsZero() {
		s.began = now
		return s.options.Since
	}
	return (back + now.Sub(s.began) + startSlack).Round(time.Millisecond).String()
}

// reconnect makes attempts until one succeeds, the server refuses, or ctx ends.
func (s *Subscription) reconnect(ctx context.Context) error {
	for {
		timer := time.NewTimer(s.delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		err := s.connect(ctx)
		switch {
		case err == nil:
			s.notify(Notice{Kind: Reconnected})
			if s.received && s.position == "" && !s.behind {
				s.notify(Notice{Kind: Gap, Err: errNoHistory})
			}
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case s.position != "" && (errors.Is(err, ErrBadRequest) || errors.Is(err, ErrNotFound)):
			// The same request was accepted before, so it is the position that the
			// server does not know: its journal was replaced.
			s.missed(err)
			continue
		case !retryable(err):
			return err
		}
		s.failed(err)
	}
}

// closeGap is the code with which a hub ends a subscription whose next events it
// has removed. The reason says how many.
const closeGap websocket.StatusCode = 4410

// closeComplete is the reason with which a hub ends a subscription that does not follow. Somebody
// between who ends the connection in good order does not know it.
const closeComplete = "complete"

// ended notes that the server or the network ended the connection.
func (s *Subscription) ended(err error) {
	if time.Since(s.connected) > s.timing.maxBackoff {
		s.failures = 0 // it was a good connection, if a quiet one
	}
	closed, ok := errors.AsType[websocket.CloseError](err)
	switch {
	case ok && closed.Code == closeGap:
		s.missed(errors.New(printable(closed.Reason)))
	case ok && closed.Code == websocket.StatusNormalClosure && closed.Reason == closeComplete && s.options.NoFollow:
		s.over = io.EOF
	case ok && closed.Code == websocket.StatusPolicyViolation:
		s.over = &EndedError{Reason: printable(closed.Reason)}
	case ok:
		s.failed(fmt.Errorf("the server ended the subscription with code %d %s", closed.Code, printable(closed.Reason)))
	case errors.Is(err, io.EOF):
		s.failed(errors.New("the server ended the connection"))
	default:
		s.failed(err)
	}
}

// missed notes that the server does not have the events behind the last one any
// more. Those that it has follow without delay.
func (s *Subscription) missed(err error) {
	s.position, s.behind, s.delay = "", true, 0
	s.notify(Notice{Kind: Gap, Err: err})
}

// failed notes that there is no connection because of err, and for how long.
func (s *Subscription) failed(err error) {
	most := min(s.timing.maxBackoff, s.timing.minBackoff<<min(s.failures, 10))
	s.delay = rand.N(most)
	s.failures++
	if status, ok := errors.AsType[*StatusError](err); ok {
		s.delay = max(s.delay, status.RetryAfter)
	}
	s.notify(Notice{Kind: Disconnected, Err: err, Retry: s.delay})
}

func (s *Subscription) notify(n Notice) {
	if s.options.Notify != nil {
		s.options.Notify(n)
	}
}

// read waits for one message on the connection.
func (s *Subscription) read(ctx context.Context) ([]byte, error) {
	if raw, err := s.frames.take(); err != errNotThere {
		return raw, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream := s.frames.stream
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	s.idle = time.AfterFunc(s.timing.idle, func() {
		cancel(fmt.Errorf("the server was silent for %v", s.timing.idle))
	})
	defer func() { s.idle.Stop(); s.idle = nil }()
	raw, err := s.frames.next()
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return raw, err
}

// drop gives the connection up without waiting for the server.
func (s *Subscription) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn.CloseNow()
	s.conn = nil
}

func (s *Subscription) decode(raw []byte) (*Message, error) {
	parse := event.ParseVaultJSON
	if s.options.Format == FormatCloudEvents {
		parse = event.ParseCloudEvent
	}
	e, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("decode an event of %d bytes: %w", len(raw), err)
	}
	position, _ := e.Extensions.Text(event.ExtensionSequence)
	return &Message{Event: e, Position: position, Raw: raw}, nil
}

var errNoHistory = errors.New("the server keeps no history: events while there was no connection are lost")
