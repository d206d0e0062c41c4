package delivery

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// request returns the audit entries of a request.
func request(n int, at time.Time) (unit []*event.Event) {
	id := uuid.NewString()
	for _, kind := range []string{"request", "response"} {
		e := &event.Event{ID: event.NewID(), Type: "audit/" + kind, Source: "vault://test", Path: "p", Time: at}
		e.Data = fmt.Appendf(nil, `{"time":%q,"type":%q,"request":{"id":%q,"operation":"read","path":"kv/%d","mount_point":"kv/"}}`, at.Format(time.RFC3339Nano), kind, id, n)
		e.Metadata.Set("request_id", id)
		unit = append(unit, e)
	}
	return unit
}

// watched is a tracer that knows which records are still in memory.
type watched struct {
	*trace.Tracer
	mu   sync.Mutex
	data map[uint64]weak.Pointer[byte] // one of each record
}

func (w *watched) Add(dst []*trace.Span, e *event.Event, at journal.Position) []*trace.Span {
	w.mu.Lock()
	if len(e.Data) > 0 {
		w.data[at.Seq] = weak.Make(&e.Data[0])
	}
	w.mu.Unlock()
	return w.Tracer.Add(dst, e, at)
}

func (w *watched) kept() (seen, kept int) {
	runtime.GC()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.data {
		if p.Value() != nil {
			kept++
		}
	}
	return len(w.data), kept
}

// TestBatchKeepsLittle: a batch with a few spans of many records does not keep the records.
func TestBatchKeepsLittle(t *testing.T) {
	const records, size = 300, 200 << 10
	j := openJournal(t, journal.Config{CacheBytes: 1 << 20})
	pad := bytes.Repeat([]byte("x"), size)
	for i := range records {
		at := time.Now()
		unit := request(i, at)
		unit = append(unit, &event.Event{ID: event.NewID(), Type: "app/x", Source: "/app", Path: "p", Time: at, Data: pad})
		if _, err := j.Append(t.Context(), unit...); err != nil {
			t.Fatal(err)
		}
	}
	r := &receiver{}
	c := config(r)
	c.MaxSpans, c.MaxDelay = 1000, time.Hour
	w := &watched{data: make(map[uint64]weak.Pointer[byte])}
	c.Tracer = func(p trace.Progress) (Tracer, error) {
		t, err := trace.NewTracer(trace.Options{Resume: p})
		w.Tracer = t
		return w, err
	}
	_, stop := start(t, c, j)
	eventually(t, "all are read", func() bool { n, _ := w.kept(); return n == records })
	if _, kept := w.kept(); kept > records/4 {
		t.Errorf("a batch keeps %d records of %d bytes in memory", kept, size)
	}
	stop()
	if r.most != records {
		t.Errorf("a batch of %d spans, want %d", r.most, records)
	}
}
