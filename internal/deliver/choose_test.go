package deliver_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
)

// chooser takes even numbers. While it is blind it cannot tell of those from the number blind on;
// of refused ones it never can.
type chooser struct {
	blind   atomic.Int64
	refused int
	asked   atomic.Int64
}

func newChooser() *chooser {
	c := &chooser{refused: -1}
	c.blind.Store(1 << 60)
	return c
}

func (c *chooser) choose(_ context.Context, r deliver.Record, choices []deliver.Choice) {
	c.asked.Add(1)
	for i := r.Start(); i < r.Len(); i++ {
		switch n := number(r.Event(i)); {
		case n == c.refused:
			choices[i] = deliver.Choice{Problem: "the plugin fails with it", Final: true}
		case int64(n) >= c.blind.Load():
			choices[i] = deliver.Choice{Problem: "the plugin does not run"}
		default:
			choices[i].Take = n%2 == 0
		}
	}
}

// evens are the even numbers below n, but for one.
func evens(n, but int) (list []int) {
	for i := 0; i < n; i += 2 {
		if i != but {
			list = append(list, i)
		}
	}
	return list
}

// What follows an event of which it cannot be told waits, and says why; then it comes in order.
func TestChooseWaits(t *testing.T) {
	for _, order := range []deliver.Order{deliver.ByPath, deliver.All} {
		bubble(t, func(t *testing.T) {
			c, log := newChooser(), new(bytes.Buffer)
			c.blind.Store(35)
			r := start(t, deliver.Options{Choose: c.choose, Policy: deliver.Policy{Order: order}, Logger: slog.New(slog.NewTextHandler(log, nil))})
			r.append(0, 100, 10)
			time.Sleep(time.Minute)
			checkSame(t, r.sink.got(), evens(30, -1))
			if asked := c.asked.Load(); asked > 60 {
				t.Errorf("it was asked %d times", asked)
			}
			st := r.Status()
			if !strings.Contains(st.Problem, "cannot tell which events are for the sink since") || !strings.HasSuffix(st.Problem, "the plugin does not run") || st.LagEvents != 70 {
				t.Errorf("%+v", st)
			}
			if err := r.Health(); err == nil || !strings.Contains(err.Error(), "the plugin does not run; 70 events wait in the journal") {
				t.Error(err)
			}
			c.blind.Store(1 << 60)
			r.flush(t)
			checkSame(t, r.sink.got(), evens(100, -1))
			if st := r.Status(); st.Problem != "" || st.Filtered != 50 || r.Health() != nil {
				t.Errorf("%+v, %v", st, r.Health())
			}
			r.stop()
			if text := log.String(); strings.Count(text, "It cannot be told which events") != 1 || strings.Count(text, "It can be told again") != 1 {
				t.Errorf("logged:\n%s", text)
			}
		})
	}
}

func checkSame(t *testing.T, got, want []int) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// An event of which it never can be told becomes a dead letter, and a redrive sends it.
func TestChooseRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChooser()
		c.refused = 13
		r := start(t, deliver.Options{Choose: c.choose})
		r.append(0, 30, 10, "a", "b")
		r.flush(t)
		checkSame(t, r.sink.got(), evens(30, -1))
		letters, err := r.store.List(t.Context(), 0, 10)
		if err != nil || len(letters) != 1 || number(letters[0].Event) != 13 || letters[0].Cause != deliver.CauseFailed || letters[0].Reason != "the plugin fails with it" || letters[0].Attempts != 0 {
			t.Fatalf("%+v, %v", letters, err)
		}
		if st := r.Status(); st.Failed != 1 || st.Filtered != 14 {
			t.Errorf("%+v", st)
		}
		if _, _, err := r.Redrive(t.Context(), deliver.Letters{IDs: []uint64{letters[0].ID}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkSame(t, r.sink.got(), append(evens(30, -1), 13))
	})
}

// While there is no room for a dead letter, what follows it on its path waits; others go on.
func TestChooseRefusedWithoutRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var full atomic.Bool
		full.Store(true)
		store := &delivermem.Store{Fail: func(_ context.Context, what string) error {
			if what == "add" && full.Load() {
				return fmt.Errorf("no: %w", deliver.ErrFull)
			}
			return nil
		}}
		c := newChooser()
		c.refused = 4
		r := start(t, deliver.Options{Choose: c.choose, Store: store})
		r.append(0, 20, 10, "a", "x", "b", "x")
		time.Sleep(time.Minute)
		// Those of a are 0, 4, 8, 12 and 16.
		checkSame(t, r.sink.got(), []int{0, 2, 6, 10, 14, 18})
		full.Store(false)
		r.flush(t)
		checkSame(t, r.sink.got(), []int{0, 2, 6, 10, 14, 18, 8, 12, 16})
	})
}

// What cannot be told for too long becomes dead letters, of one record after the other.
func TestChooseGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChooser()
		c.blind.Store(5)
		r := start(t, deliver.Options{Choose: c.choose, Policy: deliver.Policy{GiveUp: time.Hour}})
		r.append(0, 30, 10)
		time.Sleep(time.Hour + time.Minute)
		checkSame(t, r.sink.got(), []int{0, 2, 4})
		letters, _ := r.store.List(t.Context(), 0, 100)
		if len(letters) != 5 || number(letters[0].Event) != 5 || letters[0].Cause != deliver.CauseFailed || letters[0].Reason != "the plugin does not run" {
			t.Fatalf("%+v", letters)
		}
		time.Sleep(30 * time.Minute)
		if letters, _ := r.store.List(t.Context(), 0, 100); len(letters) != 5 {
			t.Errorf("%d dead letters: the next record has not got its time", len(letters))
		}
		c.blind.Store(1 << 60)
		r.flush(t)
		checkSame(t, r.sink.got(), append([]int{0, 2, 4}, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28))
	})
}

// A delivery that waits ends at once, and goes on there.
func TestChooseStops(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChooser()
		c.blind.Store(10)
		s := new(sink)
		r := start(t, deliver.Options{Choose: c.choose, Sink: s})
		r.append(0, 30, 10)
		time.Sleep(time.Minute)
		begun := time.Now()
		if err := r.stop(); err != nil || time.Since(begun) > time.Second {
			t.Error(err, time.Since(begun))
		}
		c.blind.Store(1 << 60)
		r = start(t, deliver.Options{Choose: c.choose, Sink: s, Journal: r.journal, Store: r.store})
		r.flush(t)
		checkSame(t, s.got(), evens(30, -1))
	})
}

// A replay of what can be told does not wait for what cannot.
func TestChooseInReplay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChooser()
		r := start(t, deliver.Options{Choose: c.choose})
		last := r.append(0, 10, 10)
		r.flush(t)
		c.blind.Store(10)
		r.append(10, 10, 10)
		time.Sleep(time.Minute)
		first := last
		first.Index, first.Ordinal = 0, 0
		if _, err := r.Replay(t.Context(), first, last); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		checkSame(t, r.sink.got(), []int{0, 2, 4, 6, 8, 2, 4, 6, 8})
		if st := r.Status(); st.Problem == "" {
			t.Error("the live stream does not say that it waits")
		}
		c.blind.Store(1 << 60)
		r.flush(t)
		checkSame(t, r.sink.got(), []int{0, 2, 4, 6, 8, 2, 4, 6, 8, 10, 12, 14, 16, 18})
	})
}
