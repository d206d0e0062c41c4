package trail

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

func BenchmarkCommit(b *testing.B) {
	j, err := journal.Open(b.Context(), journal.Config{Dir: filepath.Join(b.TempDir(), "data"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close(context.Background())
	trail := New(Options{Journal: j})
	defer trail.Close(context.Background())
	b.Run("one caller", func(b *testing.B) {
		for b.Loop() {
			if err := trail.Commit(b.Context(), record("x")); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("64 callers", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := trail.Commit(b.Context(), record("x")); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkRecord(b *testing.B) {
	trail := New(Options{Journal: new(countingJournal)})
	defer trail.Close(context.Background())
	r := record("x")
	r.Who = Who{DisplayName: "token", Accessor: "abcdefghijklmnopqrstuvwx", Policies: []string{"default", "team"}, Provider: "token", Remote: "192.0.2.1"}
	for b.Loop() {
		trail.Record(r)
	}
}

type countingJournal struct{ events int }

func (c *countingJournal) Append(_ context.Context, events ...*event.Event) (journal.Position, error) {
	c.events += len(events)
	return journal.Position{}, nil
}
