package plugin

import (
	"time"

	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// BenchmarkSource has events of 700 bytes from a plugin made durable, and the same by the
// journal alone, in units like those of the source.
func BenchmarkSource(b *testing.B) {
	payload := fmt.Appendf(nil, `{"text":"%s"}`, strings.Repeat("some text ", 69)[:689])
	for _, resume := range []bool{false, true} {
		b.Run(fmt.Sprintf("plugin/resume=%v", resume), func(b *testing.B) {
			j := newJournal(b)
			var template []byte
			const size = 256
			for range size {
				template = scapevent.Append(template, 999, 1_700_000_000_000_000_000, payload)
			}
			calls := b.N/size + 1
			f := newFake(func(_ context.Context, _ *fake, n int, out *sourceplugin.Batch) error {
				out.Events, out.Count = append(out.Events, template...), size
				if resume {
					out.Position = fmt.Append(nil, n)
				}
				if n >= calls {
					return context.Canceled // it has failed
				}
				return nil
			})
			f.about.Capabilities.Resume = resume
			c := config()
			c.Restart = Never
			s := New(c, Deps{Launch: launches(f), Journal: j, Logger: slog.New(slog.DiscardHandler)})
			b.SetBytes(int64(len(payload)))
			b.ResetTimer()
			_ = s.Run(context.Background())
			b.StopTimer()
			if got := s.Status().Events; got != uint64(calls*size) {
				b.Fatalf("%d of %d", got, calls*size)
			}
		})
	}
	b.Run("journal", func(b *testing.B) {
		j := newJournal(b)
		const size = 128
		var unit []*event.Event
		for range size {
			unit = append(unit, &event.Event{
				ID: event.NewID(), Type: "falco/fakes", Source: "plugin://test", Path: "falco/fakes/test", Data: payload,
				DataContentType: "application/json", Time: benchTime,
				Metadata: event.Fields{{Key: "event_source", Value: "fakes"}, {Key: "path", Value: "falco/fakes/test"}, {Key: "plugin", Value: "fake"}, {Key: "plugin_id", Value: "999"}, {Key: "plugin_version", Value: "1.2.3"}},
			})
		}
		b.SetBytes(int64(len(payload)))
		b.ResetTimer()
		var receipts []*journal.Receipt
		for range b.N/size + 1 {
			r, err := j.Submit(context.Background(), unit...)
			if err != nil {
				b.Fatal(err)
			}
			if receipts = append(receipts, r); len(receipts) > 64 {
				if _, err := receipts[0].Wait(context.Background()); err != nil {
					b.Fatal(err)
				}
				receipts = receipts[1:]
			}
		}
		for _, r := range receipts {
			if _, err := r.Wait(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

var benchTime = time.Unix(1_700_000_000, 0)
