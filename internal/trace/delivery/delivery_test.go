package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/export"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// everyEvent is a tracer that makes a span of each event, and asks to read the last few
// again, as one with open requests does.
type everyEvent struct {
	resume trace.Progress
	last   []journal.Position
	stats  trace.Stats
}

const openRequests = 3

func newEveryEvent(p trace.Progress) (Tracer, error) {
	return &everyEvent{resume: p, last: []journal.Position{p.Read}}, nil
}

func (t *everyEvent) Add(dst []*trace.Span, e *event.Event, at journal.Position) []*trace.Span {
	if t.last = append(t.last, at); len(t.last) > openRequests {
		t.last = t.last[1:]
	}
	if !t.resume.Closed.IsZero() && at.Compare(t.resume.Closed) <= 0 {
		t.stats.Repeated++
		return dst
	}
	t.stats.Complete++
	s := &trace.Span{Name: e.Type, Opened: at, Closed: at, Start: e.Time, End: e.Time, Failed: strings.HasSuffix(e.Path, "/bad")}
	binary.BigEndian.PutUint64(s.TraceID[8:], at.Ordinal)
	return append(dst, s)
}

func (t *everyEvent) Settle(dst []*trace.Span) []*trace.Span              { return dst }
func (t *everyEvent) Flush(dst []*trace.Span) []*trace.Span               { return dst }
func (t *everyEvent) Expire(dst []*trace.Span, _ time.Time) []*trace.Span { return dst }
func (t *everyEvent) Stats() trace.Stats                                  { return t.stats }
func (t *everyEvent) Progress() trace.Progress {
	closed := t.last[len(t.last)-1]
	if closed.Compare(t.resume.Closed) < 0 {
		closed = t.resume.Closed
	}
	return trace.Progress{Read: t.last[0], Open: closed, Closed: closed}
}

// receiver is an exporter whose answers a test decides.
type receiver struct {
	mu     sync.Mutex
	answer func(spans []uint64) export.Answer // nil: delivered
	taken  []uint64
	calls  int
	most   int // in one call
	closed bool
}

func (r *receiver) Encode(spans []*trace.Span) export.Payload {
	var body []byte
	for _, s := range spans {
		body = append(body, s.TraceID[8:]...)
	}
	return export.Payload{Body: body, Spans: len(spans)}
}

func (r *receiver) Export(ctx context.Context, p export.Payload) export.Answer {
	var spans []uint64
	for i := range p.Spans {
		spans = append(spans, binary.BigEndian.Uint64(p.Body[8*i:]))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	r.most = max(r.most, p.Spans)
	var a export.Answer
	if r.answer != nil {
		a = r.answer(spans)
	}
	if a.Outcome == export.Delivered {
		r.taken = append(r.taken, spans...)
	}
	return a
}

func (r *receiver) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

func (r *receiver) set(answer func([]uint64) export.Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// has returns the spans that were taken, sorted, each once, and how many twice.
func (r *receiver) has() (spans []uint64, twice int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	spans = slices.Clone(r.taken)
	slices.Sort(spans)
	spans = slices.Compact(spans)
	return spans, len(r.taken) - len(spans)
}

func down([]uint64) export.Answer { return export.Answer{Outcome: export.Retry, Reason: "refused"} }

func openJournal(t *testing.T, c journal.Config) *journal.Journal {
	t.Helper()
	c.Dir = t.TempDir()
	c.Logger = slog.New(slog.DiscardHandler)
	j, err := journal.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return j
}

func appendEvents(t *testing.T, j *journal.Journal, n int) {
	t.Helper()
	for n > 0 {
		var unit []*event.Event
		for range min(n, 100) {
			unit = append(unit, &event.Event{ID: event.NewID(), Type: "test/span", Source: "vault://test", Path: "p", Time: time.Now()})
		}
		if _, err := j.Append(t.Context(), unit...); err != nil {
			t.Fatal(err)
		}
		n -= len(unit)
	}
}

// config is quick enough for tests.
func config(r export.Exporter) Config {
	return Config{
		Name: "test", Exporter: r, Tracer: newEveryEvent, Sampling: Sampling{Ratio: 1}, From: FromStart,
		MaxSpans: 10, MaxDelay: 5 * time.Millisecond, Backoff: Backoff{time.Millisecond, 5 * time.Millisecond},
	}
}

// start runs a delivery. The returned function ends it and waits.
func start(t *testing.T, c Config, j Journal) (*Delivery, func()) {
	t.Helper()
	d := New(c, Deps{Journal: j})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the delivery does not end")
		}
	})
	t.Cleanup(stop)
	return d, stop
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func taken(r *receiver, n int) func() bool {
	return func() bool { spans, _ := r.has(); return len(spans) == n }
}

func TestDelivers(t *testing.T) {
	j := openJournal(t, journal.Config{})
	appendEvents(t, j, 250)
	r := &receiver{}
	d, stop := start(t, config(r), j)
	appendEvents(t, j, 7)
	eventually(t, "all are delivered", taken(r, 257))
	eventually(t, "it has caught up", func() bool { return d.Stats().LagEvents == 0 })
	stop()
	if _, twice := r.has(); twice != 0 || r.most > 10 || !r.closed {
		t.Errorf("%d twice, %d in a batch, closed: %v", twice, r.most, r.closed)
	}
	if s := d.Stats(); s.Delivered != 257 || s.Rejected != 0 || s.Tracer.Complete != 257 || s.Lag != 0 {
		t.Errorf("%+v", s)
	}
	if err := d.Health(); err != nil {
		t.Error(err)
	}
}

// TestOutage: while the receiver is down nothing is lost, and only a few batches are kept
// in memory.
func TestOutage(t *testing.T) {
	j := openJournal(t, journal.Config{})
	r := &receiver{answer: down}
	c := config(r)
	c.InFlight = 3
	d, _ := start(t, c, j)
	appendEvents(t, j, 2000)
	eventually(t, "some attempts", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.calls > 20 })
	if s := d.Stats(); s.InFlight > 3 || s.LagEvents != 2000 || s.Lag <= 0 || s.Delivered != 0 {
		t.Errorf("%+v", s)
	}
	if made := d.Stats().Tracer.Complete; made > 1000 {
		t.Errorf("%d spans were made although nobody takes them", made)
	}
	r.set(nil)
	eventually(t, "all are delivered", taken(r, 2000))
	if _, twice := r.has(); twice != 0 {
		t.Errorf("%d twice", twice)
	}
}

// TestRestarts: over any number of orderly ends nothing is lost. Twice comes only what was
// delivered of a record of the journal of which something else was not, and nothing after a
// round in which all was delivered.
func TestRestarts(t *testing.T) {
	j := openJournal(t, journal.Config{})
	r := &receiver{}
	written, most := 0, 0
	for round := range 12 {
		random := rand.New(rand.NewPCG(1, uint64(round)))
		calls := 0
		r.set(func([]uint64) export.Answer {
			if calls++; round%3 == 1 && calls > random.IntN(5) {
				return export.Answer{Outcome: export.Retry, Reason: "down"}
			}
			return export.Answer{}
		})
		_, stop := start(t, config(r), j)
		n := 1 + random.IntN(150)
		appendEvents(t, j, n)
		written += n
		if round%3 == 0 {
			eventually(t, "all are delivered", taken(r, written))
		}
		_, before := r.has()
		stop()
		switch round % 3 {
		case 0:
			most = before
		case 1:
			if _, twice := r.has(); twice > most {
				t.Errorf("round %d: %d twice, %d before", round, twice, most)
			}
		}
	}
	r.set(nil)
	start(t, config(r), j)
	eventually(t, "all are delivered", taken(r, written))
}

// TestRestartWithinARecord: of a record with the spans of many batches, those that were
// delivered do not come again.
func TestRestartWithinARecord(t *testing.T) {
	j := openJournal(t, journal.Config{})
	const requests = 300
	var unit []*event.Event
	early := make(map[uint64]bool) // the first half
	for n := range requests {
		pair := request(n, time.Now())
		unit = append(unit, pair...)
		id, _ := pair[0].Metadata.Text("request_id")
		id = strings.ReplaceAll(id, "-", "")
		low, err := strconv.ParseUint(id[16:], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		early[low] = n < requests/2
	}
	if _, err := j.Append(t.Context(), unit...); err != nil {
		t.Fatal(err)
	}
	r := &receiver{}
	c := config(r)
	c.Tracer = func(p trace.Progress) (Tracer, error) { return trace.NewTracer(trace.Options{Resume: p}) }
	r.set(func(spans []uint64) export.Answer {
		if slices.ContainsFunc(spans, func(s uint64) bool { return !early[s] }) {
			return export.Answer{Outcome: export.Retry, Reason: "down"}
		}
		return export.Answer{}
	})
	_, stop := start(t, c, j)
	eventually(t, "half of them", func() bool { spans, _ := r.has(); return len(spans) > requests/2-c.MaxSpans })
	stop()
	r.set(nil)
	_, stop = start(t, c, j)
	eventually(t, "all are delivered", taken(r, requests))
	stop()
	if _, twice := r.has(); twice > 0 {
		t.Errorf("%d twice", twice)
	}
	if r.most > c.MaxSpans {
		t.Errorf("a batch of %d", r.most)
	}
}

func TestSavePause(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: saveLeast, time.Millisecond: saveLeast, 20 * time.Millisecond: 200 * time.Millisecond, time.Minute: saveMost,
	} {
		if got := savePause(took); got != want {
			t.Errorf("%v: %v, want %v", took, got, want)
		}
	}
}

// TestOrderlyEnd: when the receiver works, what was read is sent before the end, and
// nothing twice after it.
func TestOrderlyEnd(t *testing.T) {
	j := openJournal(t, journal.Config{})
	r := &receiver{}
	c := config(r)
	c.MaxDelay, c.MaxSpans = time.Hour, 1000
	d, stop := start(t, c, j)
	appendEvents(t, j, 25)
	eventually(t, "they are read", func() bool { return testutil.ToFloat64(d.metrics.Received) == 25 })
	if spans, _ := r.has(); len(spans) != 0 {
		t.Fatalf("%d are sent already", len(spans))
	}
	stop()
	if spans, _ := r.has(); len(spans) != 25 {
		t.Errorf("%d of 25 after the end", len(spans))
	}
	_, stop = start(t, config(r), j)
	appendEvents(t, j, 1)
	eventually(t, "the next", taken(r, 26))
	stop()
	if _, twice := r.has(); twice != 0 {
		t.Errorf("%d twice", twice)
	}
}

func TestFrom(t *testing.T) {
	j := openJournal(t, journal.Config{})
	appendEvents(t, j, 20)
	r := &receiver{}
	c := config(r)
	c.From = FromEnd
	d, stop := start(t, c, j)
	eventually(t, "it has begun", func() bool { return !d.order.committed().through.IsZero() })
	stop()
	appendEvents(t, j, 5) // while it does not run
	start(t, c, j)
	eventually(t, "what came after the first start", taken(r, 5))
	if spans, _ := r.has(); spans[0] != 20 {
		t.Errorf("%d", spans)
	}
}

// TestPoison: of a batch that is refused only the span is given up for which it is.
func TestPoison(t *testing.T) {
	for name, outcome := range map[string]export.Outcome{"never": export.Never, "too large": export.TooLarge, "doubtful": export.Doubtful} {
		t.Run(name, func(t *testing.T) {
			j := openJournal(t, journal.Config{})
			r := &receiver{answer: func(spans []uint64) export.Answer {
				if slices.Contains(spans, 17) {
					return export.Answer{Outcome: outcome, Reason: "I do not like it"}
				}
				return export.Answer{}
			}}
			d, _ := start(t, config(r), j)
			appendEvents(t, j, 50)
			eventually(t, "the others are delivered", taken(r, 49))
			eventually(t, "it goes on behind it", func() bool { return d.Stats().LagEvents == 0 })
			s := d.Stats()
			if s.Rejected != 1 || s.Delivered != 49 || s.Split == 0 {
				t.Errorf("%+v", s)
			}
			if err := d.Health(); err == nil || !strings.Contains(err.Error(), "refused 1 spans") || !strings.Contains(err.Error(), "I do not like it") {
				t.Errorf("health: %v", err)
			}
		})
	}
}

// TestAllRefused: a receiver that refuses everything is not asked for each span.
func TestAllRefused(t *testing.T) {
	j := openJournal(t, journal.Config{})
	r := &receiver{answer: func([]uint64) export.Answer { return export.Answer{Outcome: export.Never, Reason: "no"} }}
	c := config(r)
	c.MaxSpans = 500
	c.MaxDelay = time.Second
	d, _ := start(t, c, j)
	appendEvents(t, j, 500)
	eventually(t, "all are given up", func() bool { return d.Stats().Rejected == 500 })
	if r.calls > splitBudget+1 {
		t.Errorf("%d requests", r.calls)
	}
}

// TestPartial: what the receiver says that it has not taken is counted.
func TestPartial(t *testing.T) {
	j := openJournal(t, journal.Config{})
	r := &receiver{answer: func(spans []uint64) export.Answer { return export.Answer{Rejected: 1, Reason: "one is too old"} }}
	c := config(r)
	c.MaxDelay = time.Second
	d, _ := start(t, c, j)
	appendEvents(t, j, 20)
	eventually(t, "both batches", func() bool { s := d.Stats(); return s.Delivered == 18 && s.Rejected == 2 })
}

// TestIndependent: a dead exporter keeps no other one from anything.
func TestIndependent(t *testing.T) {
	j := openJournal(t, journal.Config{})
	dead, alive := &receiver{answer: down}, &receiver{}
	c := config(dead)
	c.Name = "dead"
	d, stop := start(t, c, j)
	other, _ := start(t, config(alive), j)
	appendEvents(t, j, 500)
	eventually(t, "the other has all", taken(alive, 500))
	eventually(t, "the dead one has tried", func() bool { return d.Stats().Retried > 0 && d.Stats().LagEvents == 500 })
	if d.Stats().Delivered != 0 {
		t.Error("the dead one delivers")
	}
	d.gate.mu.Lock()
	d.gate.since = time.Now().Add(-time.Minute)
	d.gate.mu.Unlock()
	if err := d.Health(); err == nil || !strings.Contains(err.Error(), "refused; 500 events wait") {
		t.Errorf("health: %v", err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(Collector{d, other})
	if n, err := testutil.GatherAndCount(registry, "tocsin_traces_spans_total", "tocsin_traces_failing_seconds"); err != nil || n != 8 {
		t.Errorf("%d, %v", n, err)
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the dead one took %v to end", took)
	}
}

// stuck is an exporter that never answers and cannot be interrupted.
type stuck struct {
	receiver
	release chan struct{}
}

func (s *stuck) Export(context.Context, export.Payload) export.Answer {
	<-s.release
	return export.Answer{Outcome: export.Retry}
}

func TestEndsInTime(t *testing.T) {
	j := openJournal(t, journal.Config{})
	s := &stuck{release: make(chan struct{})}
	defer close(s.release)
	c := config(s)
	c.FlushTimeout = 50 * time.Millisecond
	d, stop := start(t, c, j)
	appendEvents(t, j, 100)
	eventually(t, "all slots are taken", func() bool { return d.Stats().InFlight == DefaultInFlight })
	stop()
}

// TestGap: what retention has removed is counted, and told.
func TestGap(t *testing.T) {
	limits := event.DefaultLimits
	limits.MaxEventBytes, limits.MaxMetadataBytes = 4<<10, 1<<10
	j := openJournal(t, journal.Config{Limits: limits, MaxUnitBytes: 16 << 10, MaxBytes: 256 << 10})
	r := &receiver{}
	d, stop := start(t, config(r), j)
	appendEvents(t, j, 10)
	eventually(t, "the first", taken(r, 10))
	eventually(t, "it has caught up", func() bool { return d.Stats().LagEvents == 0 })
	stop()
	data := make([]byte, 3<<10)
	for i := range data {
		data[i] = byte(rand.Uint32()) // does not compress
	}
	const more = 400
	for range more {
		e := &event.Event{ID: event.NewID(), Type: "test/span", Source: "vault://test", Path: "p", Time: time.Now(), Data: data, DataContentType: "application/octet-stream"}
		if _, err := j.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	d, _ = start(t, config(r), j)
	eventually(t, "it has caught up", func() bool { return d.Stats().LagEvents == 0 && d.Stats().Delivered > 0 })
	s := d.Stats()
	if s.Missed == 0 || s.Missed+s.Delivered != more {
		t.Errorf("%d missed, %d delivered, of %d", s.Missed, s.Delivered, more)
	}
}

// failingState is a journal whose states cannot be written for a while.
type failingState struct {
	*journal.Journal
	broken func() bool
}

func (f failingState) State(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	if f.broken() {
		return nil, errors.New("the disk is full")
	}
	return f.Journal.State(ctx, bucket)
}

func TestProgressCannotBeStored(t *testing.T) {
	j := openJournal(t, journal.Config{})
	var mu sync.Mutex
	broken := true
	f := failingState{j, func() bool { mu.Lock(); defer mu.Unlock(); return broken }}
	r := &receiver{}
	d, _ := start(t, config(r), f)
	appendEvents(t, j, 10)
	eventually(t, "health says so", func() bool {
		err := d.Health()
		return err != nil && strings.Contains(err.Error(), "the disk is full")
	})
	if spans, _ := r.has(); len(spans) != 0 {
		t.Error("it began although a restart would begin elsewhere")
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	eventually(t, "all are delivered", taken(r, 10))
	if err := d.Health(); err != nil {
		t.Error(err)
	}
}

func TestForeignRecord(t *testing.T) {
	j := openJournal(t, journal.Config{})
	kv, err := j.State(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`{"version":99}`, `nonsense`, `{"version":1,"tracer":"2:x","through":""}`, `{"version":1,"tracer":"1::::","through":"short"}`} {
		if _, err := kv.Put(t.Context(), "exporter.test", []byte(text)); err != nil {
			t.Fatal(err)
		}
		d := New(config(&receiver{}), Deps{Journal: j})
		if err := d.Run(t.Context()); !errors.Is(err, errRecord) || !errors.Is(d.Health(), errRecord) {
			t.Errorf("%s: %v, health: %v", text, err, d.Health())
		}
	}
}

// TestOtherJournal: a progress of a journal that was replaced is of no use, and hides
// nothing of the new one.
func TestOtherJournal(t *testing.T) {
	j := openJournal(t, journal.Config{})
	rec := record{journal: j, name: "test"}
	at := journal.Position{Seq: 1000, Index: 5, Ordinal: 100_000}
	if err := rec.save(t.Context(), mark{trace.Progress{Read: at, Open: at, Closed: at}, at}); err != nil {
		t.Fatal(err)
	}
	appendEvents(t, j, 20)
	r := &receiver{}
	d, _ := start(t, config(r), j)
	eventually(t, "all of the new journal", taken(r, 20))
	eventually(t, "it has caught up", func() bool { return d.Stats().LagEvents == 0 })
}

func ExampleBackoff() {
	b := Backoff{First: time.Second, Most: 15 * time.Second}
	w := b.wait(3)
	fmt.Println(w >= 0 && w <= 4*time.Second)
	// Output: true
}
