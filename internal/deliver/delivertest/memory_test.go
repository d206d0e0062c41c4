package delivertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// memory is a receiver in memory, with a protocol of a function call.
type memory struct {
	flaws flaws

	mu      sync.Mutex
	mode    Mode
	changed chan struct{} // closed when the mode changes
	arrived []Arrival
}

func newMemory(f flaws) *memory { return &memory{flaws: f, changed: make(chan struct{})} }

func (m *memory) Set(mode Mode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mode = mode
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) Arrived() []Arrival {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Arrival(nil), m.arrived...)
}

func (m *memory) Sink(log *slog.Logger) (deliver.Sink, error) {
	return &memorySink{m: m, flaws: m.flaws, log: log, closed: make(chan struct{}), secret: func() string { return theSecret }}, nil
}

var (
	errTooLarge = errors.New("more than the receiver takes")
	errRefused  = errors.New("no")
	errClosed   = errors.New("the connection was closed")
)

const (
	memoryTooLarge = 2 << 20
	theSecret      = "correct horse battery staple"
)

// take is what a receiver does with one event.
func (m *memory) take(ctx context.Context, e deliver.Item, done <-chan struct{}) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.mode {
	case Fails:
		return errors.New("unavailable")
	case Refuses:
		return errors.New("nobody listens")
	case Closes:
		m.add(e)
		return errClosed
	case Hangs:
		changed := m.changed
		m.mu.Unlock()
		defer m.mu.Lock()
		select {
		case <-changed:
			return errClosed
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			return errors.New("the sink is closed")
		}
	case Slow:
		time.Sleep(5 * time.Millisecond)
	case RefusesOne:
		if e.Event.Type == RefusedType {
			return errRefused
		}
	}
	if len(e.Event.Data) >= memoryTooLarge {
		return errTooLarge
	}
	m.add(e)
	return nil
}

func (m *memory) add(e deliver.Item) {
	if m.flaws.changes {
		e.Event.Note = "seen"
	}
	read, err := event.ParseCloudEvent(event.AppendCloudEvent(nil, e.Event, e.At.String()))
	if err != nil {
		panic(err)
	}
	if m.flaws.mangles {
		read.Data = []byte(strings.ReplaceAll(string(read.Data), "<", "&lt;"))
	}
	m.arrived = append(m.arrived, Arrival{ID: e.Event.ID, Event: read})
}

// flaws are what can be wrong with a sink.
type flaws struct {
	loses, reorders, twice, mangles            bool // on the way
	leaksReason, leaksLog, leaksPrint, leaksOf bool
	ignoresContext, ignoresClose, leaks        bool
	lies, blames, blamesAll, forgives          bool // in results
	gives, panics, changes, silent             bool
	sendsAfterClose, lines, staysDown          bool
	syncLoses                                  bool
}

type memorySink struct {
	m      *memory
	flaws  flaws
	log    *slog.Logger
	secret func() string
	once   sync.Once
	closed chan struct{}

	mu    sync.Mutex
	shown string // printed
	down  bool
}

func (s *memorySink) Close() error {
	first := false
	s.once.Do(func() { first = true; close(s.closed) })
	if !first && s.flaws.panics {
		panic("closed twice")
	}
	return nil
}

func (s *memorySink) Sync(context.Context) error {
	if s.flaws.syncLoses {
		s.m.mu.Lock()
		s.m.arrived = s.m.arrived[:len(s.m.arrived)/2]
		s.m.mu.Unlock()
	}
	return nil
}

func (s *memorySink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	if s.flaws.leaksPrint {
		s.mu.Lock()
		s.shown = s.secret()
		s.mu.Unlock()
	}
	if s.flaws.leaksLog {
		s.log.Debug("sending", "authorization", s.secret())
	}
	if s.flaws.leaks {
		go func() { <-make(chan struct{}) }()
	}
	if s.flaws.ignoresContext {
		ctx = context.WithoutCancel(ctx)
	}
	done := (<-chan struct{})(s.closed)
	if s.flaws.ignoresClose {
		done = nil
	}
	select {
	case <-s.closed:
		if !s.flaws.sendsAfterClose {
			return deliver.Result{Outcome: deliver.Retry, Reason: "the sink is closed"}
		}
	default:
	}
	items := b.Items
	if s.flaws.reorders && len(items) > 2 {
		items = append([]deliver.Item{items[1], items[0]}, items[2:]...)
	}
	for i, item := range items {
		if s.flaws.loses && i == 10 {
			continue
		}
		err := s.take(ctx, item, done)
		if s.flaws.twice && err == nil {
			err = s.take(ctx, item, done)
		}
		switch {
		case err == nil || s.flaws.lies:
			continue
		case errors.Is(err, errRefused) || errors.Is(err, errTooLarge):
			outcome := deliver.Refused
			if errors.Is(err, errTooLarge) {
				outcome = deliver.Impossible
			}
			if s.flaws.forgives {
				outcome = deliver.Delivered
			}
			if s.flaws.blamesAll {
				for k := range items {
					b.Decide(k, deliver.Result{Outcome: outcome, Reason: "no"})
				}
				return deliver.Result{}
			}
			if s.flaws.blames {
				i = (i + 1) % len(items)
			}
			b.Decide(i, deliver.Result{Outcome: outcome, Reason: err.Error()})
			continue
		}
		// What came before this one is delivered.
		for k := range i {
			if r := b.Results(deliver.Result{Outcome: deliver.Retry})[k]; r.Outcome == deliver.Retry {
				b.Decide(k, deliver.Result{Outcome: deliver.Delivered})
			}
		}
		return s.failed(err)
	}
	return deliver.Result{}
}

func (s *memorySink) take(ctx context.Context, item deliver.Item, done <-chan struct{}) error {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	if s.flaws.staysDown && down {
		return errors.New("still down")
	}
	err := s.m.take(ctx, item, done)
	if err != nil {
		s.mu.Lock()
		s.down = true
		s.mu.Unlock()
	}
	return err
}

func (s *memorySink) failed(err error) deliver.Result {
	r := deliver.Result{Outcome: deliver.Retry, Reason: err.Error()}
	switch {
	case s.flaws.gives:
		r.Outcome = deliver.Refused
	case s.flaws.silent:
		r.Reason = ""
	case s.flaws.lines:
		r.Reason = "first\nsecond"
	case s.flaws.leaksReason:
		r.Reason = fmt.Sprintf("POST https://x:%s@example.com/: %v", s.secret(), err)
	}
	return r
}

// harness is for a sink with flaws.
func (f flaws) harness() Harness {
	h := Harness{
		Receiver:     func(testing.TB) Receiver { return newMemory(f) },
		Modes:        []Mode{Fails, Refuses, Closes, Hangs, Slow, RefusesOne},
		TooLargeData: memoryTooLarge,
		LargestData:  1 << 20,
		Secrets:      []string{theSecret},
		Errors:       func(testing.TB) []error { return []error{errors.New("parse the key: it is no key")} },
	}
	if f.leaksOf {
		h.Errors = func(testing.TB) []error {
			return []error{fmt.Errorf("connect: %w", fmt.Errorf("parse %q", theSecret))}
		}
		h.Options = []any{struct{ Key string }{theSecret}}
	}
	return h
}
