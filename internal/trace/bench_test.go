package trace

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
)

// BenchmarkTracer makes spans of a recording again and again, each time from another
// source. It reports the time for one request.
func BenchmarkTracer(b *testing.B) {
	b.Run("full", func(b *testing.B) { benchmarkTracer(b, Options{}) })
	b.Run("bare", func(b *testing.B) { benchmarkTracer(b, Options{Bare: true}) })
}

func benchmarkTracer(b *testing.B, o Options) {
	events := translated(recorded(b, "openbao-audit-small.jsonl"), 200)
	again := make([]event.Event, len(events))
	tr := newTracer(b, o)
	var spans []*Span
	n, bytes := 0, 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		source := fmt.Sprintf("vault://%d", i)
		spans = spans[:0]
		for k, e := range events {
			again[k] = *e.Event
			again[k].Source = source
			spans = tr.Add(spans, &again[k], e.at)
			if k+1 == len(events) || events[k+1].at.Seq != e.at.Seq {
				spans = tr.Flush(spans)
			}
			bytes += len(e.Data)
		}
		n += len(spans)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(n), "ns/span")
	b.SetBytes(int64(bytes / max(1, b.N)))
}

// BenchmarkPack packs a request entry.
func BenchmarkPack(b *testing.B) {
	lines := recorded(b, "openbao-audit-small.jsonl")
	p := newPacker()
	size, packed := 0, 0
	for i := 0; b.Loop(); i++ {
		line := lines[i%len(lines)]
		size += len(line)
		packed += len(p.pack(line))
	}
	b.ReportMetric(float64(packed)/float64(b.N), "B/entry")
	b.ReportMetric(float64(size)/float64(packed), "ratio")
}

// TestMemoryOpenRequests bounds what 100,000 requests take that wait for their response.
func TestMemoryOpenRequests(t *testing.T) {
	lines := recorded(t, "openbao-audit-small.jsonl")
	var requests []placed
	for _, e := range translated(lines, len(lines)) {
		if e.Type == typeRequest && len(requestID(e.Event)) == 36 && len(e.Data) > 1000 && len(e.Data) < 2000 {
			requests = append(requests, e)
		}
	}
	tr := newTracer(t, Options{MaxBytes: 1 << 30})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const open = 100_000
	now := time.Now()
	for i := range open {
		e := *requests[i%len(requests)].Event
		id := uuid.NewString()
		old := requestID(&e)
		e.Metadata = append(event.Fields(nil), e.Metadata...)
		e.Metadata.Set(metadataRequestID, id)
		data := append([]byte(nil), e.Data...)
		copy(data[indexOf(data, old):], id)
		e.Data, e.Recorded = data, now
		tr.Add(nil, &e, position.Position{Seq: uint64(i + 1), Ordinal: uint64(i)})
		if i%100 == 99 {
			tr.Flush(nil)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	stats := tr.Stats()
	used := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d open requests: %d bytes each, counted as %d", stats.Open, used/open, stats.OpenBytes/open)
	if stats.Open != open {
		t.Errorf("%d are open", stats.Open)
	}
	if used > 100<<20 {
		t.Errorf("they take %d MB", used>>20)
	}
	if used > stats.OpenBytes {
		t.Errorf("they take %d bytes and are counted as %d, so MaxBytes does not bound them", used, stats.OpenBytes)
	}
	spans := tr.Close(nil)
	if len(spans) != open {
		t.Errorf("%d spans", len(spans))
	}
	for _, s := range spans[:1000] {
		if v, ok := s.Get("request.id"); !ok || !s.Incomplete() || s.TraceID.IsZero() {
			t.Fatalf("%s: %v", describe(s), v)
		}
	}
}

func indexOf(b []byte, s string) int {
	for i := range b {
		if string(b[i:min(len(b), i+len(s))]) == s {
			return i
		}
	}
	return -1
}
