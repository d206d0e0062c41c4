package hub

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// memJournal is a journal in memory, obviously right.
type memJournal struct {
	mu      sync.Mutex
	records []*memBatch // record i has sequence first+i
	first   uint64
	next    uint64 // ordinal of the next event
	grown   chan struct{}
	err     error // of every read, if set
}

type memBatch struct {
	events    []*event.Event
	seq, base uint64
	start     int
}

func newMemJournal() *memJournal { return &memJournal{first: 1, grown: make(chan struct{})} }

func (b *memBatch) Len() int                 { return len(b.events) }
func (b *memBatch) Start() int               { return b.start }
func (b *memBatch) Event(i int) *event.Event { return b.events[i] }
func (b *memBatch) Size() int                { return 1000 * len(b.events) }
func (b *memBatch) Position(i int) journal.Position {
	return journal.Position{Seq: b.seq, Index: uint32(i), Ordinal: b.base + uint64(i)}
}

func (j *memJournal) append(events ...*event.Event) journal.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := &memBatch{events: events, seq: j.first + uint64(len(j.records)), base: j.next}
	j.next += uint64(len(events))
	j.records = append(j.records, b)
	close(j.grown)
	j.grown = make(chan struct{})
	return b.Position(0)
}

// remove is retention: it removes the oldest n records.
func (j *memJournal) remove(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.first += uint64(n)
	j.records = j.records[n:]
}

func (j *memJournal) End() journal.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.records) == 0 {
		if j.first == 1 {
			return journal.Position{}
		}
		return journal.Position{Seq: j.first - 1, Index: journal.BetweenRecords, Ordinal: j.next - 1}
	}
	last := j.records[len(j.records)-1]
	return last.Position(len(last.events) - 1)
}

func (j *memJournal) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.err = err
	close(j.grown)
	j.grown = make(chan struct{})
}

func (j *memJournal) Read(after journal.Position) Reader { return &memReader{j, after} }

type memReader struct {
	j     *memJournal
	after journal.Position
}

func (r *memReader) Next(ctx context.Context) (Batch, error) {
	for {
		r.j.mu.Lock()
		grown := r.j.grown
		if r.j.err != nil {
			r.j.mu.Unlock()
			return nil, r.j.err
		}
		seq, index := r.after.Seq, int(r.after.Index)+1
		if r.after.IsZero() {
			seq, index = r.j.first, 0
		} else if r.after.Index == journal.BetweenRecords {
			seq, index = seq+1, 0
		}
		for ; seq < r.j.first+uint64(len(r.j.records)); seq, index = seq+1, 0 {
			if seq < r.j.first {
				next := r.j.records[0].Position(0)
				r.j.mu.Unlock()
				return nil, &journal.GapError{After: r.after, Next: next, Events: next.Ordinal - nextOrdinal(r.after), Records: next.Seq - seq}
			}
			if b := *r.j.records[seq-r.j.first]; index < len(b.events) {
				b.start = index
				r.j.mu.Unlock()
				return &b, nil
			}
		}
		r.j.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// testJournal is a journal that can be appended to.
type testJournal interface {
	Journal
	append(events ...*event.Event) journal.Position
}

// realJournal is the real one in a directory of its own.
type realJournal struct {
	Journal
	t testing.TB
	j *journal.Journal
}

func newRealJournal(t testing.TB) *realJournal {
	t.Helper()
	j, err := journal.Open(context.Background(), journal.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := j.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return &realJournal{FromJournal(j), t, j}
}

func (r *realJournal) append(events ...*event.Event) journal.Position {
	p, err := r.j.Append(context.Background(), events...)
	if err != nil {
		r.t.Error(err)
	}
	return p
}

var eventTime = time.Date(2026, 11, 21, 3, 4, 5, 123456789, time.UTC)

// testEvent is a kv-v2 event whose JSON message is about 700 bytes long.
func testEvent(n int) *event.Event {
	e := &event.Event{
		ID: fmt.Sprintf("%08d-0000-4000-8000-000000000000", n), Type: "kv-v2/data-write",
		Source: event.SourceVault("node-1"), Path: "secret/data/app", Time: eventTime,
		Plugin: &event.PluginInfo{MountClass: "secret", MountAccessor: "kv_5dc4d18e", MountPath: "secret/", Plugin: "kv", Version: "2"},
	}
	e.Metadata.Set("path", "secret/data/app")
	e.Metadata.Set("data_path", "secret/data/app")
	e.Metadata.Set("operation", "data-write")
	e.Metadata.Set("modified", "true")
	e.Metadata.Set("current_version", fmt.Sprint(n))
	e.Metadata.Set("padding", strings.Repeat("x", 200))
	return e
}

func everything(*event.Event) bool { return true }

// allJSON asks for everything after a position.
func allJSON(after journal.Position) Request {
	return Request{Selection: Selection{Type: "*", Namespaces: []string{""}}, Format: VaultJSON, After: after, Allow: everything, AccessKey: "root"}
}

func newTestHub(t testing.TB, j Journal, o Options) *Hub {
	t.Helper()
	o.Journal = j
	h := New(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return h
}
