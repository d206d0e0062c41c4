package deliver_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
)

// stored is a journal whose records exist only while somebody keeps them, like those of a
// journal on a disk.
type stored struct {
	records, events, bytes int
	mu                     sync.Mutex
	made                   []weak.Pointer[byte]
	read                   int
}

func (s *stored) End() position.Position {
	return position.Position{Seq: uint64(s.records), Index: uint32(s.events - 1), Ordinal: uint64(s.records*s.events - 1)}
}

func (s *stored) Read(after position.Position) deliver.Reader {
	return &storedReader{s, int(after.Seq)}
}

type storedReader struct {
	*stored
	next int
}

func (r *storedReader) Next(ctx context.Context) (deliver.Record, error) {
	if r.next == r.records {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	// All events of the record share its memory.
	body := bytes.Repeat([]byte("x"), r.bytes)
	rec := &storedRecord{seq: r.next, stored: r.stored, events: make([]event.Event, r.events)}
	for i := range rec.events {
		n := r.next*r.events + i
		rec.events[i] = event.Event{ID: fmt.Sprint(n), Type: "test/event", Source: "/test", Path: "p", Data: body[i : i+1 : i+1]}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, weak.Make(&body[0]))
	r.read++
	r.next++
	return rec, nil
}

type storedRecord struct {
	stored *stored
	seq    int
	events []event.Event
}

func (r *storedRecord) Len() int                 { return len(r.events) }
func (r *storedRecord) Start() int               { return 0 }
func (r *storedRecord) Event(i int) *event.Event { return &r.events[i] }
func (r *storedRecord) Position(i int) position.Position {
	return position.Position{Seq: uint64(r.seq + 1), Index: uint32(i), Ordinal: uint64(r.seq*len(r.events) + i)}
}
func (r *storedRecord) End() position.Position { return r.Position(len(r.events) - 1) }
func (r *storedRecord) Recorded() time.Time    { return time.Now() }
func (r *storedRecord) Size() int              { return r.stored.bytes + 400*len(r.events) }

func (s *stored) kept() (kept int) {
	runtime.GC()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.made {
		if p.Value() != nil {
			kept++
		}
	}
	return kept
}

// TestMemory: a sink that is down keeps no more of the journal in memory than its window;
// where it wants few events of many records, it keeps these and not the records, and reads on.
func TestMemory(t *testing.T) {
	const records, size = 200, 1 << 20
	for _, test := range []struct {
		name       string
		match      func(*event.Event) bool
		kept, read int // at most, at least
	}{
		{"everything", nil, 6, 4},
		{"few", func(e *event.Event) bool { return number(e)%100 == 0 }, 2, records},
	} {
		bubble(t, func(t *testing.T) {
			j := &stored{records: records, events: 100, bytes: size}
			s := &sink{answer: down}
			d := deliver.New(deliver.Options{Name: "x", Sink: s, Journal: j, Store: new(discard), From: deliver.FromStart, Match: test.match, Policy: deliver.Policy{MaxEvents: 1}})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- d.Run(ctx) }()
			time.Sleep(time.Hour)
			if kept := j.kept(); kept > test.kept || j.read < test.read {
				t.Errorf("%s: %d of %d records are in memory", test.name, kept, j.read)
			}
			s.set(nil)
			if err := d.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := 100 * records
			if test.match != nil {
				want = records
			}
			if got := s.got(); len(got) != want || !slices.IsSorted(got) {
				t.Errorf("%d events", len(got))
			}
			if kept := j.kept(); kept > 1 {
				t.Errorf("%s: %d records are in memory when all is done", test.name, kept)
			}
			cancel()
			<-done
		})
	}
}

// TestStuck: one event that cannot be delivered, or several, do not keep the records that
// they are in, so that others go on up to the window of events.
func TestStuck(t *testing.T) {
	const records, size = 200, 1 << 20
	bubble(t, func(t *testing.T) {
		j := &stored{records: records, events: 100, bytes: size}
		s := new(sink)
		stuck := func(n int) bool { return n%100 == 50 }
		s.answer = func(_ context.Context, b *deliver.Batch) deliver.Result {
			if stuck(number(b.Items[0].Event)) {
				return deliver.Result{Outcome: deliver.Doubtful}
			}
			return deliver.Result{}
		}
		d := deliver.New(deliver.Options{Name: "x", Sink: s, Journal: j, Store: new(discard), From: deliver.FromStart,
			Policy: deliver.Policy{MaxEvents: 1, Order: deliver.None, Attempts: 1 << 30, Window: deliver.Window{Events: 100_000, Bytes: 4 << 20}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(24 * time.Hour)
		if got := len(s.got()); got != 99*records {
			t.Errorf("%d delivered", got)
		}
		if kept := j.kept(); kept > 3 {
			t.Errorf("%d records are in memory", kept)
		}
		s.set(nil)
		if err := d.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(s.got()); got != 100*records {
			t.Errorf("%d delivered", got)
		}
		cancel()
		<-done
	})
}

// TestWindow: nothing is read further than the window, whatever is stuck.
func TestWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		s.answer = func(_ context.Context, b *deliver.Batch) deliver.Result {
			if number(b.Items[0].Event) == 0 {
				return deliver.Result{Outcome: deliver.Doubtful}
			}
			return deliver.Result{}
		}
		r := start(t, deliver.Options{Sink: s, Policy: deliver.Policy{MaxEvents: 1, Order: deliver.None, Attempts: 1 << 30, Window: deliver.Window{Events: 100}}})
		r.append(0, 10_000, 10)
		time.Sleep(24 * time.Hour)
		if got := len(s.got()); got < 74 || got > 110 {
			t.Errorf("%d delivered", got)
		}
		r.sink.set(nil)
		r.flush(t)
		synctest.Wait()
		if got := len(s.got()); got != 10_000 {
			t.Errorf("%d delivered", got)
		}
	})
}

// discard is a store that keeps nothing.
type discard struct{ deliver.DeadLetters }

func (discard) Load(context.Context) (deliver.State, bool, error)    { return deliver.State{}, true, nil }
func (discard) Save(context.Context, deliver.State) error            { return nil }
func (discard) Count(context.Context) (letters, n uint64, err error) { return 0, 0, nil }
