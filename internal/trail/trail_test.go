package trail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeJournal keeps what it is given, unless it is told what to answer instead.
type fakeJournal struct {
	mu      sync.Mutex
	answer  func(events []*event.Event) error // nil: nil
	stored  []*event.Event
	appends int
}

func (f *fakeJournal) Append(ctx context.Context, events ...*event.Event) (journal.Position, error) {
	f.mu.Lock()
	f.appends++
	answer := f.answer
	f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return journal.Position{}, err
	}
	if answer != nil {
		if err := answer(events); err != nil {
			return journal.Position{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = append(f.stored, events...)
	return journal.Position{}, nil
}

func (f *fakeJournal) fail(answer func([]*event.Event) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// is makes the journal answer with err, always.
func (f *fakeJournal) is(err error) { f.fail(func([]*event.Event) error { return err }) }

// names returns what was stored: the metadata "name", or type and count of reports.
func (f *fakeJournal) names() (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.stored {
		name, _ := e.Metadata.Text("name")
		if e.Type == LostType {
			count, _ := e.Metadata.Text("count")
			name = "lost " + count
		}
		names = append(names, name)
	}
	return names
}

func record(name string) Record {
	return Record{What: "test", Path: "sys/test", Operation: "update", Fields: event.Fields{{Key: "name", Value: name}}}
}

func shut(t *testing.T, trail *Trail) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := trail.Close(ctx); err != nil {
		t.Error(err)
	}
}

// counted returns the counters of the trail: "reason" of refused ones, "received",
// "appended".
func counted(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "tocsin_"), "_total")
			for _, l := range m.GetLabel() {
				if l.GetName() == "reason" {
					name = l.GetValue()
				}
			}
			if v := m.GetCounter().GetValue(); v > 0 {
				counts[name] = v
			}
		}
	}
	return counts
}

func pushback() error { return &journal.PushbackError{Reason: "test", RetryAfter: time.Second} }

// errFull is pushback that does not say when to try again.
var errFull = fmt.Errorf("test: %w", journal.ErrFull)

func TestOrder(t *testing.T) {
	f := new(fakeJournal)
	trail := New(Options{Journal: f})
	var want []string
	for i := range 1000 {
		name := fmt.Sprint(i)
		want = append(want, name)
		if i%10 != 0 {
			trail.Record(record(name))
			continue
		}
		if err := trail.Commit(t.Context(), record(name)); err != nil {
			t.Fatal(err)
		}
		if got := f.names(); len(got) != i+1 {
			t.Fatalf("after the commit of %d there are %d records", i, len(got))
		}
	}
	shut(t, trail)
	if got := f.names(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	f := new(fakeJournal)
	reg := prometheus.NewRegistry()
	trail := New(Options{Journal: f, Metrics: metrics.New(reg)})
	const callers, each = 8, 300
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("%d/%d", c, i)
				if i%50 != 49 {
					trail.Record(record(name))
				} else if err := trail.Commit(t.Context(), record(name)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	shut(t, trail)
	next := make([]int, callers)
	for _, name := range f.names() {
		var c, i int
		if _, err := fmt.Sscanf(name, "%d/%d", &c, &i); err != nil {
			t.Fatal(err)
		}
		if i != next[c] {
			t.Fatalf("caller %d: record %d, want %d", c, i, next[c])
		}
		next[c]++
	}
	if got := counted(t, reg); got["received"] != callers*each || got["appended"] != callers*each || len(got) != 2 {
		t.Errorf("counted %v", got)
	}
	if f.appends >= callers*each/2 {
		t.Errorf("%d appends for %d records: they are not grouped", f.appends, callers*each)
	}
}

// Records wait for a journal that pushes back; nothing is lost as long as they fit.
func TestPushback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeJournal)
		f.is(pushback())
		trail := New(Options{Journal: f})
		trail.Record(record("a"))
		trail.Record(record("b"))
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if f.appends < 10 || f.appends > 12 {
			t.Errorf("%d appends in ten seconds for a journal that says one per second", f.appends)
		}
		f.fail(nil)
		time.Sleep(time.Second)
		if got := f.names(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("got %v", got)
		}
		shut(t, trail)
	})
}

// A commit is not kept waiting by a journal that pushes back, and makes the trail ask
// it again at once.
func TestCommitWhilePushback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeJournal)
		f.is(&journal.PushbackError{Reason: "test", RetryAfter: time.Hour})
		trail := New(Options{Journal: f})
		trail.Record(record("a"))
		synctest.Wait()
		begin := time.Now()
		if err := trail.Commit(t.Context(), record("b")); !errors.As(err, new(*journal.PushbackError)) {
			t.Errorf("got %v", err)
		}
		f.is(errFull)
		if err := trail.Commit(t.Context(), record("c")); !errors.Is(err, journal.ErrPushback) {
			t.Errorf("got %v", err)
		}
		f.fail(nil)
		if err := trail.Commit(t.Context(), record("d")); err != nil {
			t.Error(err)
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		if got := f.names(); !slices.Equal(got, []string{"a", "d"}) {
			t.Errorf("got %v", got)
		}
		shut(t, trail)
	})
}

// A commit far behind in the queue is answered too.
func TestCommitBehindManyWhilePushback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeJournal)
		f.is(pushback())
		trail := New(Options{Journal: f})
		for i := range 10 * groupEvents {
			trail.Record(record(fmt.Sprint(i)))
		}
		synctest.Wait()
		if err := trail.Commit(t.Context(), record("late")); err == nil {
			t.Error("committed")
		}
		f.fail(nil)
		shut(t, trail)
		got := f.names()
		if len(got) != 10*groupEvents || slices.Contains(got, "late") {
			t.Errorf("%d records", len(got))
		}
	})
}

func TestCommitGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		f := new(fakeJournal)
		release := make(chan struct{})
		f.fail(func([]*event.Event) error { <-release; return nil })
		trail := New(Options{Journal: f, Metrics: metrics.New(reg)})
		trail.Record(record("slow"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := trail.Commit(ctx, record("given up")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(release)
		shut(t, trail)
		if got := f.names(); !slices.Equal(got, []string{"slow"}) {
			t.Errorf("got %v", got)
		}
		if got := counted(t, reg); got["cancelled"] != 1 {
			t.Errorf("counted %v", got)
		}
	})
}

// What does not fit is counted, and told where it is missing.
func TestLoss(t *testing.T) {
	small := record("kept")
	large := record("kept")
	large.Fields.Set("note", strings.Repeat("x", maxText))
	for name, r := range map[string]Record{"too many": small, "too many bytes": large} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testLoss(t, r) })
		})
	}
}

func testLoss(t *testing.T, r Record) {
	reg := prometheus.NewRegistry()
	f := new(fakeJournal)
	f.is(pushback())
	trail := New(Options{Journal: f, Metrics: metrics.New(reg)})
	e, err := trail.maker.event(r, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	kept, lost := min(maxWaiting, maxWaitingBytes/newItem(e).size), 7
	for range kept + lost {
		trail.Record(r)
	}
	if got := counted(t, reg); got["busy"] != float64(lost) {
		t.Errorf("counted %v", got)
	}
	// There is room again for the first group only.
	once := true
	f.fail(func([]*event.Event) error {
		if once {
			once = false
			return nil
		}
		return pushback()
	})
	time.Sleep(2 * time.Second)
	trail.Record(record("after"))
	f.fail(nil)
	time.Sleep(2 * time.Second)
	want := append(slices.Repeat([]string{"kept"}, kept), fmt.Sprintf("lost %d", lost), "after")
	if got := f.names(); !slices.Equal(got, want) {
		t.Errorf("%d records, the last %q, want %d, the last %q", len(got), got[max(0, len(got)-3):], len(want), want[len(want)-3:])
	}
	shut(t, trail)
	if n := len(f.names()); n != len(want) {
		t.Errorf("%d more records at the end", n-len(want))
	}
}

// A loss is told also when nothing else follows.
func TestLossAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeJournal)
		f.is(pushback())
		trail := New(Options{Journal: f})
		before := time.Now()
		for range maxWaiting + 5 {
			trail.Record(record("x"))
		}
		f.fail(nil)
		shut(t, trail)
		got := f.stored[len(f.stored)-1]
		since, _ := got.Metadata.Text("since")
		if count, _ := got.Metadata.Text("count"); got.Type != LostType || got.Path != LostPath || count != "5" || since != before.UTC().Format(time.RFC3339Nano) {
			t.Errorf("the last event is %s", show(got))
		}
	})
}

// A record with which the journal finds fault does not keep others from being
// written, and is told about.
func TestFaultyRecord(t *testing.T) {
	for _, fault := range []error{&event.InvalidError{Attribute: "x", Reason: "test"}, &event.LimitError{Part: "x"}} {
		f := new(fakeJournal)
		started, release := make(chan struct{}), make(chan struct{})
		f.fail(func(events []*event.Event) error {
			if name, _ := events[0].Metadata.Text("name"); name == "first" {
				close(started)
				<-release
			}
			for _, e := range events {
				if name, _ := e.Metadata.Text("name"); name == "bad" {
					return fault
				}
			}
			return nil
		})
		trail := New(Options{Journal: f})
		trail.Record(record("first"))
		<-started
		for _, name := range []string{"a", "bad", "b"} { // these are in one group
			trail.Record(record(name))
		}
		close(release)
		if err := trail.Commit(t.Context(), record("bad")); !errors.Is(err, fault) {
			t.Errorf("commit: %v", err)
		}
		shut(t, trail)
		if got := f.names(); !slices.Equal(got, []string{"first", "a", "b", "lost 1"}) {
			t.Errorf("got %v", got)
		}
	}
}

// A journal that takes no report either is not asked for ever.
func TestFaultyReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeJournal)
		f.is(&event.InvalidError{Attribute: "x", Reason: "test"})
		trail := New(Options{Journal: f})
		trail.Record(record("a"))
		synctest.Wait() // would never return
		if f.appends != 2 {
			t.Errorf("%d appends", f.appends)
		}
		shut(t, trail)
	})
}

func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		f := new(fakeJournal)
		f.is(pushback())
		trail := New(Options{Journal: f, Metrics: metrics.New(reg)})
		for range maxWaiting + 5 {
			trail.Record(record("x"))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := trail.Close(ctx); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxWaiting+5, " records")) {
			t.Errorf("got %v", err)
		}
		trail.Record(record("after"))
		if err := trail.Commit(t.Context(), record("after")); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
		if got := counted(t, reg); got["unwritten"] != maxWaiting || got["busy"] != 5 || got["closed"] != 2 || len(f.stored) > 0 {
			t.Errorf("counted %v", got)
		}
	})
}

// Close returns also when the journal does not answer at all.
func TestCloseWhileWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trail := New(Options{Journal: deafJournal{}})
		trail.Record(record("a"))
		answer := make(chan error)
		go func() { answer <- trail.Commit(context.Background(), record("b")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := trail.Close(ctx); err == nil {
			t.Error("nothing was lost")
		}
		if err := <-answer; !errors.Is(err, context.Canceled) {
			t.Errorf("commit: %v", err)
		}
	})
}

type deafJournal struct{}

func (deafJournal) Append(ctx context.Context, _ ...*event.Event) (journal.Position, error) {
	<-ctx.Done()
	return journal.Position{}, ctx.Err()
}

func TestClosedJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		f := new(fakeJournal)
		f.is(journal.ErrClosed)
		trail := New(Options{Journal: f, Metrics: metrics.New(reg)})
		trail.Record(record("a"))
		if err := trail.Commit(t.Context(), record("b")); !errors.Is(err, journal.ErrClosed) {
			t.Errorf("got %v", err)
		}
		synctest.Wait() // it does not ask again and again
		trail.Record(record("c"))
		if got := counted(t, reg); got["journal_closed"] != 3 {
			t.Errorf("counted %v", got)
		}
		if err := trail.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "2 records") {
			t.Errorf("got %v", err)
		}
	})
}

// later is a journal that can be replaced by another one.
type later struct {
	sync.Mutex
	*journal.Journal
}

func (l *later) Append(ctx context.Context, events ...*event.Event) (journal.Position, error) {
	l.Lock()
	defer l.Unlock()
	return l.Journal.Append(ctx, events...)
}

// A real journal without space: nothing is kept that was answered with an error, and
// nothing else is lost.
func TestFullDisk(t *testing.T) {
	config := journal.Config{Dir: filepath.Join(t.TempDir(), "data"), Logger: slog.New(slog.DiscardHandler), ReserveBytes: 1 << 60}
	full, err := journal.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	l := &later{Journal: full}
	trail := New(Options{Journal: l})
	trail.Record(record("before"))
	begin := time.Now()
	err = trail.Commit(t.Context(), record("refused"))
	var pushback *journal.PushbackError
	if !errors.Is(err, journal.ErrFull) || !errors.As(err, &pushback) || pushback.RetryAfter <= 0 {
		t.Errorf("got %v", err)
	}
	if waited := time.Since(begin); waited > 10*time.Second {
		t.Errorf("it took %v to say so", waited)
	}
	l.Lock()
	if err := full.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	config.ReserveBytes = 0
	free, err := journal.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close(context.Background())
	l.Journal = free
	l.Unlock()
	if err := trail.Commit(t.Context(), record("after")); err != nil {
		t.Fatal(err)
	}
	shut(t, trail)
	batch, err := free.Read(journal.Position{}).Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := batch.Start(); i < batch.Len(); i++ {
		name, _ := batch.Event(i).Metadata.Text("name")
		got = append(got, name)
	}
	if !slices.Equal(got, []string{"before"}) && !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("got %v", got)
	}
}

// With a real journal, over its end and a new beginning.
func TestRealJournal(t *testing.T) {
	config := journal.Config{
		Dir: filepath.Join(t.TempDir(), "data"), Logger: slog.New(slog.DiscardHandler),
		Limits: event.Limits{MaxTypeBytes: 16, MaxMetadataKeys: 8, MaxMetadataBytes: 1 << 10, MaxEventBytes: 1 << 10},
	}
	open := func() *journal.Journal {
		j, err := journal.Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	trail := New(Options{Journal: j, Node: "hub-1", Limits: config.Limits})
	var want []string
	for i := range 500 {
		r := record(fmt.Sprint(i))
		r.Error = strings.Repeat("long ", i) // as large as the smallest limits allow
		trail.Record(r)
		want = append(want, strings.Repeat("long ", i)[:min(5*i, 100)])
	}
	if err := trail.Commit(t.Context(), record("last")); err != nil {
		t.Fatal(err)
	}
	shut(t, trail)
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	j = open()
	defer j.Close(context.Background())
	reader := j.Read(journal.Position{})
	got := 0
	for got < len(want)+1 {
		batch, err := reader.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := batch.Start(); i < batch.Len(); i++ {
			e := batch.Event(i)
			text, _ := e.Metadata.Text("error")
			if e.Source != "tocsin://hub-1" || e.Path != "sys/test" || got < len(want) && text[:min(len(text), 100)] != want[got] {
				t.Fatalf("record %d: %s", got, show(e))
			}
			got++
		}
	}
}
