package meter

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// again returns the lines of a recording n times, each time with other request ids.
func again(b *testing.B, n int) [][]byte {
	lines := recorded(b, "openbao-audit-small")
	tr := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "prod"})
	ids := make([]string, len(lines))
	for i, line := range lines {
		for _, e := range tr.Translate(nil, line)[:1] {
			ids[i], _ = e.Metadata.Text("request_id")
		}
	}
	var out [][]byte
	for range n {
		fresh := map[string][]byte{}
		for i, line := range lines {
			if len(ids[i]) != 36 {
				continue
			}
			if fresh[ids[i]] == nil {
				fresh[ids[i]] = []byte(uuid.NewString())
			}
			out = append(out, bytes.ReplaceAll(line, []byte(ids[i]), fresh[ids[i]]))
		}
	}
	return out
}

// BenchmarkRequest counts spans: what comes on top of pairing.
func BenchmarkRequest(b *testing.B) {
	t := newTable(DefaultMaxSeries, DefaultBuckets)
	m := &Meter{table: t}
	spans := make([]*trace.Span, 500)
	for i := range spans {
		spans[i] = &trace.Span{Source: "vault://prod", End: time.Unix(0, int64(i*i*1000)), Start: time.Unix(0, 0), Request: trace.Request{
			ID: "x", Operation: "read", MountPoint: string(rune('a'+i%20)) + "/", MountType: "kv", Path: "a",
		}}
	}
	now := time.Unix(100, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.request(spans[i%len(spans)], now)
	}
}

// BenchmarkIngest stores lines in a journal as a source does, alone and with a meter that
// counts them meanwhile.
func BenchmarkIngest(b *testing.B) {
	lines := again(b, 100)
	var alone float64
	for _, with := range []bool{false, true} {
		name := "alone"
		if with {
			name = "counted"
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				j := openJournal(b)
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				ended <- nil
				registry := prometheus.NewRegistry()
				if with {
					m, err := New(b.Context(), Options{}, Deps{Journal: j, Registry: registry})
					if err != nil {
						b.Fatal(err)
					}
					<-ended
					go func() { ended <- m.Run(ctx) }()
				}
				tr := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "prod"})
				var receipts []*journal.Receipt
				b.StartTimer()
				for i := 0; i < len(lines); i += 200 {
					var events []*event.Event
					for _, line := range lines[i:min(i+200, len(lines))] {
						events = tr.Translate(events, line)
					}
					r, err := j.Submit(b.Context(), events...)
					if err != nil {
						b.Fatal(err)
					}
					receipts = append(receipts, r)
				}
				for _, r := range receipts {
					if _, err := r.Wait(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				cancel()
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			rate := float64(len(lines)*b.N) / b.Elapsed().Seconds()
			b.ReportMetric(rate, "lines/s")
			if !with {
				alone = rate
			} else if alone > 0 {
				b.ReportMetric(rate/alone, "ratio")
			}
		})
	}
}
