package plugin

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func TestMain(m *testing.M) {
	if crashChild() {
		return
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "16") // they wait most of the time
	goleak.VerifyTestMain(m)
}

// fake is a plugin that does what the test wants.
type fake struct {
	about sourceplugin.Description
	// next is Next of every stream; n counts its calls from 1 within the stream.
	next     func(ctx context.Context, f *fake, n int, b *sourceplugin.Batch) error
	open     func(o sourceplugin.Open) error
	ack      func(ctx context.Context) error
	metrics  func(ctx context.Context) ([]sourceplugin.Metric, error)
	progress sourceplugin.Progress
	tell     func(ctx context.Context) (sourceplugin.Progress, error) // instead of progress
	close    func()
	exit     chan struct{} // nil: it cannot be known

	mu     sync.Mutex
	opened []sourceplugin.Open
	acks   []string
	closed bool
	// closedAt is when.
	closedAt time.Time
}

func newFake(next func(ctx context.Context, f *fake, n int, b *sourceplugin.Batch) error) *fake {
	return &fake{
		about: sourceplugin.Description{Name: "fake", Version: "1.2.3", ID: 999, EventSource: "fakes", Capabilities: sourceplugin.Capabilities{Source: true, Resume: true, Progress: true}},
		next:  next,
	}
}

func (f *fake) Describe() *sourceplugin.Description { return &f.about }
func (f *fake) OpenParams(context.Context) ([]sourceplugin.OpenParam, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (f *fake) Strings(context.Context, []sourceplugin.Event) ([]string, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (f *fake) Extract(context.Context, []sourceplugin.Event, []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
	return sourceplugin.Values{}, sourceplugin.ErrNotSupported
}
func (f *fake) SetConfig(context.Context, string) error { return sourceplugin.ErrNotSupported }
func (f *fake) Metrics(ctx context.Context) ([]sourceplugin.Metric, error) {
	if f.metrics == nil {
		return nil, nil
	}
	return f.metrics(ctx)
}
func (f *fake) Exited() <-chan struct{} { return f.exit }
func (f *fake) Close(context.Context) error {
	f.mu.Lock()
	f.closed, f.closedAt = true, time.Now()
	f.mu.Unlock()
	if f.close != nil {
		f.close()
	}
	return nil
}

func (f *fake) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func (f *fake) Open(_ context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	f.mu.Lock()
	f.opened = append(f.opened, o)
	f.mu.Unlock()
	if f.open != nil {
		if err := f.open(o); err != nil {
			return nil, err
		}
	}
	return &fakeStream{f: f}, nil
}

type fakeStream struct {
	f *fake
	n int
}

func (s *fakeStream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	s.n++
	return s.f.next(ctx, s.f, s.n, b)
}
func (s *fakeStream) Acknowledge(ctx context.Context, position []byte) error {
	s.f.mu.Lock()
	s.f.acks = append(s.f.acks, string(position))
	s.f.mu.Unlock()
	if s.f.ack != nil {
		return s.f.ack(ctx)
	}
	return nil
}
func (s *fakeStream) Progress(ctx context.Context) (sourceplugin.Progress, error) {
	if s.f.tell != nil {
		return s.f.tell(ctx)
	}
	return s.f.progress, nil
}
func (s *fakeStream) Close(context.Context) error { return nil }

// put appends events with these payloads.
func put(b *sourceplugin.Batch, payloads ...string) {
	for _, p := range payloads {
		b.Events = scapevent.Append(b.Events, 999, 1_700_000_000_000_000_000, []byte(p))
		b.Count++
	}
}

// idle is what a stream that has nothing does.
func idle(ctx context.Context) error {
	select {
	case <-time.After(20 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// once gives payloads at the first call, and then nothing.
func once(payloads ...string) func(context.Context, *fake, int, *sourceplugin.Batch) error {
	return func(ctx context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
		if n > 1 {
			return idle(ctx)
		}
		put(b, payloads...)
		return nil
	}
}

// numbered gives events numbered from behind the resume position, so many in a batch, up to
// last, and then the end of the stream.
func numbered(size, last int, pad string) func(context.Context, *fake, int, *sourceplugin.Batch) error {
	return func(_ context.Context, f *fake, n int, b *sourceplugin.Batch) error {
		f.mu.Lock()
		resume := f.opened[len(f.opened)-1].Resume
		f.mu.Unlock()
		from := size * (n - 1)
		if resume != nil {
			from += int(binary.BigEndian.Uint64(resume))
		}
		to := min(from+size, last)
		if from >= last {
			return io.EOF
		}
		for i := from + 1; i <= to; i++ {
			put(b, fmt.Sprintf(`{"n":%d,"pad":"%s"}`, i, pad))
		}
		b.Position = binary.BigEndian.AppendUint64(nil, uint64(to))
		return nil
	}
}

func openJournal(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(context.Background(), journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func newJournal(t testing.TB) *journal.Journal {
	j := openJournal(t, t.TempDir())
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	return j
}

// events returns what a journal has, without the hub's own.
func events(t testing.TB, j *journal.Journal) (all []*event.Event) {
	t.Helper()
	end := j.End()
	r := j.Read(journal.Position{})
	for at := (journal.Position{}); at.Compare(end) < 0; {
		b, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			all = append(all, b.Event(i))
		}
		at = b.End()
	}
	return all
}

// log collects incidents.
type log struct {
	mu  sync.Mutex
	all []Incident
}

func (l *log) record(i Incident) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, i)
}

func (l *log) names() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, i := range l.all {
		names = append(names, strings.TrimPrefix(i.What, "plugin-source-"))
	}
	return strings.Join(names, " ")
}

func config() Config {
	return Config{
		Name: "test", Params: "params", Restart: OnFailure, MaxPause: 20 * time.Millisecond, MaxEvent: 20 << 20,
		StartTimeout: 2 * time.Second, CallTimeout: 2 * time.Second, StopTimeout: 2 * time.Second, SteadyAfter: 300 * time.Millisecond,
	}
}

// launches gives plugins one after the other, the last one for ever.
func launches(plugins ...*fake) func(context.Context) (sourceplugin.Plugin, error) {
	var mu sync.Mutex
	n := 0
	return func(context.Context) (sourceplugin.Plugin, error) {
		mu.Lock()
		defer mu.Unlock()
		p := plugins[min(n, len(plugins)-1)]
		n++
		return p, nil
	}
}

// start runs a source until the end of the test, or until stop.
func start(t testing.TB, c Config, d Deps) (s *Source, stop func()) {
	t.Helper()
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	s = New(c, d)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return s, stop
}

// await waits until something is so.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func awaitState(t testing.TB, s *Source, state State) {
	t.Helper()
	eventually(t, string(state), func() bool { return s.Status().State == state })
}
