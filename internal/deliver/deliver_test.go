package deliver_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
	"github.com/tocsin-events/tocsin/internal/position"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testEvent returns event n of a path.
func testEvent(n int, path string) *event.Event {
	return &event.Event{ID: strconv.Itoa(n), Type: "test/event", Source: "/test", Path: path, Time: time.Now(), Data: fmt.Appendf(nil, "%d", n)}
}

// number is the inverse of testEvent.
func number(e *event.Event) int {
	n, err := strconv.Atoi(e.ID)
	if err != nil {
		panic(err)
	}
	return n
}

// sink is a sink whose answers a test decides.
type sink struct {
	mu     sync.Mutex
	answer func(ctx context.Context, b *deliver.Batch) deliver.Result // nil: delivered
	taken  []int                                                      // events, in the order in which they were
	calls  []call
	closed bool
}

type call struct {
	at     time.Time
	events []int
	result deliver.Result
}

func (s *sink) Send(ctx context.Context, b *deliver.Batch) (r deliver.Result) {
	s.mu.Lock()
	answer := s.answer
	s.mu.Unlock()
	var events []int
	for _, item := range b.Items {
		events = append(events, number(item.Event))
	}
	at := time.Now()
	if answer != nil {
		r = answer(ctx, b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call{at, events, r})
	if r.Outcome == deliver.Delivered {
		s.taken = append(s.taken, events...)
	}
	return r
}

func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *sink) set(answer func(ctx context.Context, b *deliver.Batch) deliver.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *sink) got() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]int(nil), s.taken...)
}

func (s *sink) history() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]call(nil), s.calls...)
}

func (s *sink) attempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func always(r deliver.Result) func(context.Context, *deliver.Batch) deliver.Result {
	return func(context.Context, *deliver.Batch) deliver.Result { return r }
}

// run is a delivery that runs until the test ends, or stop is called.
type run struct {
	*deliver.Delivery
	sink    *sink
	journal *delivermem.Journal
	store   *delivermem.Store
	stop    func() error
	mu      sync.Mutex
	changes []deliver.Change
}

func start(t *testing.T, o deliver.Options) *run {
	t.Helper()
	r := &run{sink: new(sink), journal: new(delivermem.Journal), store: new(delivermem.Store)}
	if o.Sink == nil {
		o.Sink = r.sink
	} else if s, ok := o.Sink.(*sink); ok {
		r.sink = s
	}
	if o.Journal == nil {
		o.Journal = r.journal
	} else {
		r.journal = o.Journal.(*delivermem.Journal)
	}
	if o.Store == nil {
		o.Store = r.store
	} else if s, ok := o.Store.(*delivermem.Store); ok {
		r.store = s
	}
	if o.From == "" {
		o.From = deliver.FromStart
	}
	o.Name = "test"
	o.Changed = func(c deliver.Change) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changes = append(r.changes, c)
	}
	r.Delivery = deliver.New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	var err error
	r.stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *run) kinds() (kinds []deliver.Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.changes {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

// flush waits until everything is decided.
func (r *run) flush(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1000*time.Hour)
	defer cancel()
	if err := r.Flush(ctx); err != nil {
		t.Fatalf("flush: %v; %+v", err, r.Status())
	}
}

// append appends n events, in records of at most size, of paths.
func (r *run) append(first, n, size int, paths ...string) (last position.Position) {
	if len(paths) == 0 {
		paths = []string{"p"}
	}
	for n > 0 {
		var events []*event.Event
		for range min(n, size) {
			events = append(events, testEvent(first, paths[first%len(paths)]))
			first++
		}
		n -= len(events)
		last = r.journal.Append(events...)
	}
	return last
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func checkOrder(t *testing.T, got []int, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%d events, want %d", len(got), n)
	}
	for i, v := range got {
		if v != i {
			t.Fatalf("event %d is %d", i, v)
		}
	}
}

func TestDelivers(t *testing.T) {
	for _, order := range []deliver.Order{deliver.ByPath, deliver.All, deliver.None} {
		for _, concurrency := range []int{1, 4} {
			for _, batch := range []int{1, 7, 500} {
				bubble(t, func(t *testing.T) {
					r := start(t, deliver.Options{Policy: deliver.Policy{Order: order, Concurrency: concurrency, MaxEvents: batch}})
					r.append(0, 10_000, 64)
					r.flush(t)
					got := r.sink.got()
					if order == deliver.None {
						if len(got) != 10_000 {
							t.Fatalf("%d events", len(got))
						}
					} else {
						checkOrder(t, got, 10_000)
					}
					if err := r.stop(); err != nil {
						t.Fatal(err)
					}
					s, _, _ := r.store.Load(t.Context())
					if s.Through != r.journal.End() {
						t.Errorf("stored %v, want %v", s.Through, r.journal.End())
					}
					if !r.sink.closed {
						t.Error("the sink was not closed")
					}
				})
			}
		}
	}
}
