package delivermem

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
)

func someEvents(first, n int) (list []*event.Event) {
	for i := range n {
		list = append(list, &event.Event{ID: fmt.Sprint(first + i), Type: "t"})
	}
	return list
}

// TestJournal reads from every position, across removed records, and waits for new ones.
func TestJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j Journal
		if !j.End().IsZero() {
			t.Error("an empty journal has an end")
		}
		var at []position.Position
		for i := range 5 {
			end := j.Append(someEvents(3*i, 3)...)
			for k := range uint32(3) {
				at = append(at, position.Position{Seq: end.Seq, Index: k, Ordinal: end.Ordinal - 2 + uint64(k)})
			}
		}
		if at[14] != j.End() {
			t.Errorf("%v, want %v", j.End(), at[14])
		}
		rest := func(after position.Position) (n int) {
			ctx, cancel := context.WithCancel(t.Context())
			r := j.Read(after)
			got := make(chan int, 100)
			go func() {
				defer close(got)
				for {
					rec, err := r.Next(ctx)
					var gap *deliver.Gap
					switch {
					case errors.As(err, &gap):
						got <- -int(gap.Events)
						continue
					case err != nil:
						return
					}
					for i := rec.Start(); i < rec.Len(); i++ {
						got <- 1
						if rec.Event(i).ID != fmt.Sprint(rec.Position(i).Ordinal) {
							t.Errorf("event %s at %v", rec.Event(i).ID, rec.Position(i))
						}
					}
				}
			}()
			synctest.Wait()
			cancel()
			for v := range got {
				n += v
			}
			return n
		}
		for i, p := range at {
			if got := rest(p); got != 14-i {
				t.Errorf("after %d: %d events", i, got)
			}
		}
		if got := rest(position.Position{}); got != 15 {
			t.Errorf("%d events", got)
		}
		if got := rest(position.Position{Seq: 2, Index: position.BetweenRecords, Ordinal: 5}); got != 9 {
			t.Errorf("%d events", got)
		}
		j.Trim(2) // 9 removed
		if got := rest(position.Position{}); got != 6 {
			t.Errorf("%d events", got)
		}
		if got := rest(at[3]); got != 6-5 {
			t.Errorf("%d events", got)
		}
		late := make(chan int)
		go func() {
			rec, err := j.Read(j.End()).Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			late <- rec.Len()
			_, err = j.Read(j.End()).Next(t.Context())
			if !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			close(late)
		}()
		synctest.Wait()
		j.Append(someEvents(15, 2)...)
		if n := <-late; n != 2 {
			t.Errorf("%d events", n)
		}
		synctest.Wait()
		j.Close()
		<-late
	})
}

func TestStore(t *testing.T) {
	ctx := t.Context()
	s := &Store{MaxLetters: 3}
	if _, ok, err := s.Load(ctx); ok || err != nil {
		t.Error(ok, err)
	}
	state := deliver.State{Redrives: []deliver.RedriveState{{IDs: []uint64{1}}}}
	if err := s.Save(ctx, state); err != nil {
		t.Fatal(err)
	}
	state.Redrives[0].IDs[0] = 7
	if got, ok, err := s.Load(ctx); !ok || err != nil || got.Redrives[0].IDs[0] != 1 {
		t.Error(got, ok, err)
	}
	letter := func(n uint64) deliver.DeadLetter {
		return deliver.DeadLetter{Event: &event.Event{}, At: position.Position{Seq: n}}
	}
	if err := s.Add(ctx, []deliver.DeadLetter{letter(1), letter(2), letter(3), letter(2)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(ctx, []deliver.DeadLetter{letter(4)}); !errors.Is(err, deliver.ErrFull) {
		t.Error(err)
	}
	if got, _ := s.List(ctx, 1, 10); len(got) != 2 || got[0].ID != 3 || got[1].ID != 4 || got[1].At.Seq != 2 {
		t.Errorf("%+v", got)
	}
	if _, err := s.Get(ctx, 2); !errors.Is(err, deliver.ErrNoLetter) {
		t.Error(err)
	}
	if err := s.Remove(ctx, 3, 77); err != nil {
		t.Error(err)
	}
	if n, err := s.Purge(ctx, 3); n != 1 || err != nil {
		t.Error(n, err)
	}
	if n, _, err := s.Count(ctx); n != 1 || err != nil {
		t.Error(n, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Save(cancelled, deliver.State{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
