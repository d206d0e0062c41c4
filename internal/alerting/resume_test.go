package alerting

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// What windows know survives a restart, and nothing is judged twice.
func TestResume(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("many", `event.type = "app/fail"`, "window: {count: 3, within: 1h, by: ['event.metadata[who]']}")+ruleText("each", `event.type = "app/a"`, ""))
	_, stop := s.start()
	s.append(app(1, "app/fail", "who", "me"), app(2, "app/fail", "who", "me"), app(3, "app/a"))
	eventually(t, "an alert", func() bool { return len(s.alerts()) == 1 })
	stop()
	s.append(app(4, "app/fail", "who", "me"), app(5, "app/a"))
	a, stop := s.start()
	s.judged(a)
	stop()
	if got := outputs(s.alerts()); got != "each app/a <NA> | many app/fail me | each app/a <NA>" {
		t.Errorf("got %s", got)
	}
}

// forgetful is a journal that stores no progress any more.
type forgetful struct {
	*journal.Journal
	off chan struct{} // closed: from now on
}

func (f *forgetful) State(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	select {
	case <-f.off:
		return nil, errors.New("not now")
	default:
		return f.Journal.State(ctx, bucket)
	}
}

// What is stored for a large memory does not become more and more, also not by attempts that fail.
func TestLargeMemory(t *testing.T) {
	t.Parallel()
	f := &forgetful{openJournal(t), make(chan struct{})}
	r := record{journal: f}
	memory := make([]byte, 2*inlineBytes)
	rand.NewChaCha8([32]byte{}).Read(memory)
	save := func() error { return r.save(t.Context(), journal.Position{}, memory) }
	if err := save(); err != nil {
		t.Fatal(err)
	}
	close(f.off)
	for range 3 {
		if save() == nil {
			t.Fatal("it is no failure")
		}
	}
	f.off = make(chan struct{})
	for range 10 {
		if err := save(); err != nil {
			t.Fatal(err)
		}
	}
	objects, err := f.Objects(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := objects.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%d objects, %v", len(list), err)
	}
	if list, err := objects.List(t.Context(), jetstream.ListObjectsShowDeleted()); err != nil || len(list) > 5 {
		t.Errorf("%d objects with those that were removed, %v", len(list), err)
	}
	again := record{journal: f}
	if _, is, known, err := again.load(t.Context()); err != nil || !known || !bytes.Equal(is, memory) {
		t.Errorf("read back: %t, %v", known, err)
	}
}

// After a crash the events behind the stored cursor are judged again, and alerts that are in the
// journal already do not come again.
func TestAfterACrash(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("many", `event.type = "app/fail"`, "window: {count: 3, within: 1h}")+ruleText("each", `event.type = "app/a"`, ""))
	f := &forgetful{s.journal, make(chan struct{})}
	s.o.Journal = f
	a, stop := s.start()
	s.append(app(1, "app/fail"), app(2, "app/a"))
	s.judged(a)
	eventually(t, "the cursor is stored", func() bool {
		r := record{journal: s.journal}
		at, _, _, err := r.load(t.Context())
		return err == nil && at.Compare(s.journal.End()) >= 0
	})
	close(f.off)
	s.append(app(3, "app/fail"), app(4, "app/fail"), app(5, "app/a"))
	eventually(t, "alerts", func() bool { return len(s.alerts()) == 3 })
	eventually(t, "the trouble is told", func() bool { return a.Health() != nil })
	stop()

	s.o.Journal = s.journal
	a, stop = s.start()
	s.append(app(6, "app/a"))
	s.judged(a)
	stop()
	after := s.alerts()
	if got := outputs(after); got != "each app/a <NA> | many app/fail <NA> | each app/a <NA> | each app/a <NA>" {
		t.Errorf("got %s", got)
	}
	if n := a.stats.repeats.Load(); n != 2 {
		t.Errorf("%d repeats", n)
	}
	seen := make(map[string]bool)
	for _, e := range after {
		if seen[e.ID] {
			t.Errorf("the alert %s is there twice", e.ID)
		}
		seen[e.ID] = true
	}
}

// unsure is a journal that stores some units and then does not know whether it has.
type unsure struct {
	*journal.Journal
	unknown error
	appends atomic.Int64
}

// newUnsure finds the error of an outcome that is not known.
func newUnsure(t *testing.T, j *journal.Journal) *unsure {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 1000 {
		_, err := j.Append(ctx, app(1000, "app/other"))
		if p, ok := errors.AsType[*journal.PushbackError](err); ok && p.Unknown {
			return &unsure{Journal: j, unknown: err}
		}
	}
	t.Fatal("every outcome is known")
	return nil
}

func (u *unsure) Append(ctx context.Context, events ...*event.Event) (journal.Position, error) {
	n := u.appends.Add(1)
	if n%3 != 0 { // each unit is tried at least twice
		if n%3 == 1 {
			if _, err := u.Journal.Append(ctx, events...); err != nil {
				return journal.Position{}, err
			}
		}
		return journal.Position{}, u.unknown
	}
	return u.Journal.Append(ctx, events...)
}

// Alerts that may be stored or not are looked for before they are appended again, so that they are
// there once.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("each", `event.type = "app/a"`, ""))
	s.o.Journal = newUnsure(t, s.journal)
	a, _ := s.start()
	const events = 3
	for i := range events {
		s.append(app(i, "app/a"))
		s.judged(a)
	}
	of := make(map[string]int)
	for _, e := range s.alerts() {
		id, _ := e.Metadata.Text(MetadataEventID)
		of[id]++
	}
	for i := range events {
		if n := of[fmt.Sprint("event-", i)]; n != 1 {
			t.Errorf("event %d has %d alerts", i, n)
		}
	}
	if n := a.stats.repeats.Load(); n == 0 {
		t.Error("nothing was found")
	}
}

// A cursor that is ahead of the journal, which was replaced by another one, does not have its
// events pass by, and alerts that it has are not raised again.
func TestJournalIsAnotherOne(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("each", `event.type = "app/a"`, ""))
	s.append(app(1, "app/a"))
	a, stop := s.start()
	s.judged(a)
	stop()
	r := record{journal: s.journal}
	_, memory, _, err := r.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ahead := journal.Position{Seq: 1000, Ordinal: 5000}
	if err := r.save(t.Context(), ahead, memory); err != nil {
		t.Fatal(err)
	}
	_, stop = s.start()
	eventually(t, "the gap is told", func() bool { return len(s.told("rules-gap")) == 1 })
	s.append(app(2, "app/a"))
	eventually(t, "an alert", func() bool {
		list := s.alerts()
		id, _ := list[len(list)-1].Metadata.Text(MetadataEventID)
		return id == "event-2"
	})
	stop()
	if got := s.alerts(); len(got) != 2 {
		t.Errorf("%d alerts", len(got))
	}
	if at, _, _, err := r.load(t.Context()); err != nil || at.Compare(ahead) >= 0 {
		t.Errorf("the cursor is at %v, %v", at, err)
	}
}

// What retention removes before it is judged is counted and told, and judging goes on behind it.
func TestRetentionPassesTheCursor(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("each", `event.type = "app/a"`, ""))
	s.journal = openJournal(t, func(c *journal.Config) {
		c.Limits = event.DefaultLimits
		c.Limits.MaxEventBytes = 64 << 10
		c.MaxUnitBytes = 64 << 10
		c.MaxBytes = 1 << 20
	})
	s.o.Journal = s.journal
	s.append(app(0, "app/a"))
	a, stop := s.start()
	s.judged(a)
	stop()
	random := rand.NewChaCha8([32]byte{})
	const events = 100
	for i := 1; i <= events; i++ {
		e := app(i, "app/a")
		e.Data = make([]byte, 30<<10)
		random.Read(e.Data)
		e.DataContentType = "application/octet-stream"
		s.append(e)
	}
	a, stop = s.start()
	s.judged(a)
	eventually(t, "it is stored", func() bool { return a.Status().Lag == 0 })
	missed, judged := a.Status().Missed, a.Status().Events
	stop()
	if missed == 0 || missed+judged != events {
		t.Errorf("%d events are missed, %d judged, of %d", missed, judged, events)
	}
	var told uint64
	for _, r := range s.told("rules-gap") {
		n, _ := r.Fields.Text("count")
		count, _ := strconv.ParseUint(n, 10, 64)
		told += count
	}
	if told != missed {
		t.Errorf("%d events are told to be missed, of %d", told, missed)
	}
}

// Rules that are overtaken by retention all the time do not fill the journal with saying so.
func TestManyGaps(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("each", `event.type = "app/a"`, ""))
	a, err := New(s.o)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := a.miss(t.Context(), &journal.GapError{Events: 3}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.told("rules-gap")); n != 1 {
		t.Errorf("told %d times", n)
	}
	a.tellMissed(true)
	told := s.told("rules-gap")
	if n, _ := told[len(told)-1].Fields.Text("count"); len(told) != 2 || n != "297" || a.Status().Missed != 300 {
		t.Errorf("told %+v, %d missed", told, a.Status().Missed)
	}
}
