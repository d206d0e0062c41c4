package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/store"
	"github.com/tocsin-events/tocsin/internal/health"
)

// Put adds the sink of a name, or replaces it, by a definition as [config.ParseSink] takes
// it. A replaced one goes on at its place, after what was on its way. When Put returns nil
// the definition is durable; when it returns an error nothing has changed, unless that wraps
// [ErrUnavailable]. Other errors are a [config.Error] or say otherwise what is wrong with
// the definition (see [DefinitionError]), or wrap [ErrInFile] or [ErrTooMany].
func (m *Manager) Put(ctx context.Context, name string, text []byte) (_ Info, created bool, err error) {
	c, err := config.ParseSink(name, text)
	if err != nil {
		return Info{}, false, err
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	old, _ := m.find(name)
	if old != nil && old.origin == File {
		return Info{}, false, fmt.Errorf("%w: change it there", ErrInFile)
	}
	var before *config.Sink
	if old != nil {
		before = &old.config
	}
	if err := c.KeepSecrets(before); err != nil {
		return Info{}, false, err
	}
	m.mu.RLock()
	state, many := m.state, len(m.sinks)
	m.mu.RUnlock()
	switch {
	case state == stopped:
		return Info{}, false, fmt.Errorf("%w: the hub is ending", ErrUnavailable)
	case old == nil && many >= m.o.Delivery.MaxSinks:
		return Info{}, false, fmt.Errorf("%w, %d", ErrTooMany, m.o.Delivery.MaxSinks)
	}
	s := m.newSink(name, API, c)
	if err := m.build(s); err != nil {
		return Info{}, false, &DefinitionError{err}
	}
	if old != nil {
		s.created = old.created
	}
	r, err := m.seal(ctx, &c, s.created)
	if err == nil {
		err = m.store(ctx, name, r)
	}
	if err != nil {
		s.halt()
		if !errors.Is(err, ErrUnavailable) {
			err = fmt.Errorf("%w: encrypt the secrets of the sink: %w", ErrConflict, err)
		}
		return Info{}, false, err
	}
	s.created, s.updated, s.sealed = r.Created, r.Updated, len(r.Sealed) > 0
	if old != nil {
		old.unregister()
		old.halt()
		if old.delivery != nil {
			s.before = old.status().Counts
		}
	}
	// What is published after the answer is for the sink, so its place must be durable.
	begun := s.delivery.Begin(ctx)
	m.mu.Lock()
	m.sinks[name] = s
	m.mu.Unlock()
	s.unregister = m.o.Health.Register("sink "+name, health.Degradation, s.health)
	if state == running {
		m.start(s)
	}
	if begun != nil {
		return Info{}, false, fmt.Errorf("store where the sink %s begins: %w: %w", name, ErrUnavailable, begun)
	}
	return m.info(ctx, s), old == nil, nil
}

// DefinitionError is what is wrong with a definition that can be read.
type DefinitionError struct{ Err error }

func (e *DefinitionError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *DefinitionError) Unwrap() error { return e.Err }

// Deleted is what was left of a sink that was removed.
type Deleted struct {
	Kept                         bool
	DeadLetters, DeadLetterBytes uint64 // that were kept, or dropped
}

// Delete removes a sink that was added at run time. With keep its place in the journal
// and its dead letters stay for a later one of the name; without, they are dropped, also
// those that a sink has left that was removed before. The error wraps [ErrNoSink],
// [ErrInFile] or [ErrUnavailable].
func (m *Manager) Delete(ctx context.Context, name string, keep bool) (Deleted, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	s, err := m.find(name)
	d := Deleted{Kept: keep}
	if err != nil {
		info, left := m.left(ctx, name)
		if !left || keep {
			return Deleted{}, err
		}
		d.DeadLetters, d.DeadLetterBytes = info.Status.DeadLetters, info.Status.DeadLetterBytes
		return d, m.drop(ctx, store.New(store.Options{Journal: m.o.Journal, Sink: name}))
	}
	if s.origin == File {
		return Deleted{}, fmt.Errorf("%w: remove it there", ErrInFile)
	}
	if err := m.forget(ctx, name); err != nil {
		return Deleted{}, err
	}
	s.unregister()
	s.halt()
	m.mu.Lock()
	delete(m.sinks, name)
	m.mu.Unlock()
	d.DeadLetters, d.DeadLetterBytes, err = s.store.Count(ctx)
	if err == nil && !keep {
		err = m.drop(ctx, s.store)
	}
	if err != nil {
		return d, fmt.Errorf("the sink is removed, but not what it has left: %w: %w", ErrUnavailable, err)
	}
	return d, nil
}

func (m *Manager) drop(ctx context.Context, st *store.Store) error {
	if err := st.Drop(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// holdError makes the error of a delivery one of this package.
func holdError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Pause makes that a sink is sent nothing until Resume, also after a restart.
func (m *Manager) Pause(ctx context.Context, name, reason string) error {
	s, err := m.runs(name)
	if err != nil {
		return err
	}
	return holdError(s.delivery.Pause(ctx, reason))
}

// Disable is Pause for good; it differs in what is said about the sink.
func (m *Manager) Disable(ctx context.Context, name, reason string) error {
	s, err := m.runs(name)
	if err != nil {
		return err
	}
	return holdError(s.delivery.Disable(ctx, reason))
}

// Resume ends what Pause or Disable began, or what an endpoint wanted. The error wraps
// [ErrConflict] for a sink that its definition disables.
func (m *Manager) Resume(ctx context.Context, name string) error {
	s, err := m.runs(name)
	if err != nil {
		return err
	}
	if s.config.Disabled {
		return fmt.Errorf("%w: the sink has %s; set it to false there", ErrConflict, byDefinition)
	}
	return holdError(s.delivery.Resume(ctx))
}

// TestType is the type of events that only test a sink.
const TestType = "tocsin/sink-test"

// Test sends one event to a sink at once, beside all others, also when it is paused: an
// example of an event type, or, with "", one that says that it is a test. The error wraps
// [ErrNoSample] for a type without an example.
func (m *Manager) Test(ctx context.Context, name, eventType string) (deliver.Result, *event.Event, error) {
	s, err := m.runs(name)
	if err != nil {
		return deliver.Result{}, nil, err
	}
	e := m.testEvent(name)
	if eventType != "" && eventType != TestType {
		sample, ok := (*event.Event)(nil), false
		if m.o.Sample != nil {
			sample, ok = m.o.Sample(eventType)
		}
		if !ok {
			return deliver.Result{}, nil, fmt.Errorf("%w %q: only types that the hub knows can be tried; leave the type out for an event that says that it is a test", ErrNoSample, eventType)
		}
		example := *sample
		example.ID, example.Time, example.Recorded = e.ID, e.Time, e.Recorded
		e = &example
	}
	return s.delivery.Test(ctx, e), e, nil
}

func (m *Manager) testEvent(name string) *event.Event {
	now := time.Now().UTC()
	e := event.NewNotification(TestType, event.MetadataPath, Path(name), event.MetadataOperation, "test", event.MetadataModified, "false",
		"sink", name, "message", "This is a test.")
	e.Source, e.Path, e.Time, e.Recorded = "tocsin://"+m.o.Node, Path(name), now, now
	e.Data, e.DataContentType = []byte(`{"message":"This is a test.","sink":"`+name+`"}`), "application/json"
	return e
}

// Path is the path of a sink: of events about it, and of policies.
func Path(name string) string { return "sys/sinks/" + name }

// Attempts returns the last attempts of a sink, the newest first.
func (m *Manager) Attempts(name string) ([]deliver.Attempt, error) {
	s, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if s.delivery == nil {
		return nil, s.trouble()
	}
	return s.delivery.Attempts(), nil
}
