package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashChildEnv) != "" {
		crashChild()
		return
	}
	goleak.VerifyTestMain(m)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// small is a configuration for tests that look at retention and bounds.
func small(dir string) Config {
	limits := event.DefaultLimits
	limits.MaxEventBytes = 8 << 10
	return Config{Dir: dir, Limits: limits, MaxUnitBytes: 16 << 10, Logger: quiet()}
}

func open(t *testing.T, c Config) *Journal {
	t.Helper()
	if c.Logger == nil {
		c.Logger = quiet()
	}
	j, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, j) })
	return j
}

func shut(t *testing.T, j *Journal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := j.Close(ctx); err != nil {
		t.Error(err)
	}
}

func numbered(i int) *event.Event {
	return &event.Event{ID: fmt.Sprintf("id-%d", i), Type: "test/event", Source: "test://source",
		Time: time.Unix(1700000000, int64(i)).UTC(), Data: fmt.Appendf(nil, "data %d", i)}
}

func appendEvents(t *testing.T, j *Journal, events ...*event.Event) Position {
	t.Helper()
	p, err := j.Append(t.Context(), events...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readTo returns the events after a position up to end, as "id@position".
func readTo(t *testing.T, j *Journal, after, end Position) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	for r := j.Read(after); r.after.Compare(end) < 0; {
		b, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("after %d events: %v", len(got), err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			got = append(got, b.Event(i).ID+"@"+b.Position(i).String())
		}
	}
	return got
}

func TestAppendAndRead(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	if !j.End().IsZero() || !j.Begin().IsZero() {
		t.Errorf("new journal begins at %v and ends at %v", j.Begin(), j.End())
	}
	live := j.Read(j.End())
	first := fullEvent()
	before := *first
	p := appendEvents(t, j, first)
	if !reflect.DeepEqual(*first, before) {
		t.Error("Append changed the event")
	}
	q := appendEvents(t, j, numbered(1), numbered(2))
	if want := (Position{Seq: 1, Index: 0, Ordinal: 0}); p != want {
		t.Errorf("first position %v, want %v", p, want)
	}
	if want := (Position{Seq: 2, Index: 0, Ordinal: 1}); q != want {
		t.Errorf("second position %v, want %v", q, want)
	}
	if want := (Position{Seq: 2, Index: 1, Ordinal: 2}); j.End() != want {
		t.Errorf("end %v, want %v", j.End(), want)
	}
	// Once from what the writer left in memory, once from the files.
	for range 2 {
		for _, r := range []*Reader{live, j.Read(Position{})} {
			b, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := b.Event(0), asDecoded(&before, b.Recorded()); b.Len() != 1 || !reflect.DeepEqual(got, want) {
				t.Errorf("got %#v\nwant %#v", got, want)
			}
			if age := time.Since(b.Recorded()); age < 0 || age > time.Minute {
				t.Errorf("recorded %v", b.Recorded())
			}
		}
		j.records.expire(time.Now().Add(time.Hour))
		live = j.Read(Position{})
	}
	// From the middle of a record.
	if got, want := readTo(t, j, q, j.End()), []string{"id-2@" + j.End().String()}; !slices.Equal(got, want) {
		t.Errorf("after %v: %v, want %v", q, got, want)
	}
}

func TestAppendRefuses(t *testing.T) {
	j := open(t, small(t.TempDir()))
	ctx := t.Context()
	var invalid *event.InvalidError
	var limit *event.LimitError
	if _, err := j.Append(ctx); !errors.As(err, &invalid) {
		t.Errorf("no events: %v", err)
	}
	if _, err := j.Append(ctx, numbered(1), &event.Event{ID: "incomplete"}); !errors.As(err, &invalid) {
		t.Errorf("incomplete event: %v", err)
	}
	large := numbered(1)
	large.Data = make([]byte, 9<<10)
	if _, err := j.Submit(ctx, large); !errors.As(err, &limit) {
		t.Errorf("large event: %v", err)
	}
	large.Data = large.Data[:7<<10]
	if _, err := j.Submit(ctx, large, large, large); !errors.As(err, &limit) {
		t.Errorf("large unit: %v", err)
	}
	if _, err := j.Append(ctx, large, large); err != nil {
		t.Errorf("largest unit: %v", err)
	}
	if want := uint64(1); j.End().Ordinal != want {
		t.Errorf("end %v: something that was refused is stored", j.End())
	}
}

// TestGroupCommit checks that events which wait for each other's sync share
// records, that units stay together, and that every producer finds its events in
// its order at the positions it was told.
func TestGroupCommit(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	const producers, units = 50, 40
	var mu sync.Mutex
	told := make(map[string]Position)
	var all sync.WaitGroup
	for p := range producers {
		all.Go(func() {
			var receipts []*Receipt
			for u := range units {
				var unit []*event.Event
				for i := range 1 + (p+u)%3 {
					e := numbered(u)
					e.ID = fmt.Sprintf("%d/%d/%d", p, u, i)
					unit = append(unit, e)
				}
				r, err := j.Submit(t.Context(), unit...)
				if err != nil {
					t.Error(err)
					return
				}
				receipts = append(receipts, r)
			}
			for u, r := range receipts {
				at, err := r.Wait(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				told[fmt.Sprintf("%d/%d/0", p, u)] = at
				mu.Unlock()
			}
		})
	}
	all.Wait()
	end := j.End()
	if records := end.Seq; records > producers*units/4 {
		t.Errorf("%d units took %d records", producers*units, records)
	}
	next := make([]struct{ unit, index int }, producers)
	previous := ""
	for n, text := range readTo(t, j, Position{}, end) {
		id, position, _ := strings.Cut(text, "@")
		if position <= previous {
			t.Fatalf("position %s after %s", position, previous)
		}
		previous = position
		at, _ := ParsePosition(position)
		if at.Ordinal != uint64(n) {
			t.Fatalf("event %d has position %v", n, at)
		}
		var p, u, i int
		if _, err := fmt.Sscanf(id, "%d/%d/%d", &p, &u, &i); err != nil {
			t.Fatal(err)
		}
		if want := next[p]; u != want.unit || i != want.index {
			t.Fatalf("%s: want unit %d event %d of producer %d", id, want.unit, want.index, p)
		}
		if i == 0 && told[id] != at {
			t.Fatalf("%s is at %v, its producer was told %v", id, at, told[id])
		}
		if next[p].index++; next[p].index == 1+(p+u)%3 {
			next[p].unit, next[p].index = u+1, 0
		}
	}
	for p := range next {
		if next[p].unit != units {
			t.Errorf("producer %d: %d units in the journal", p, next[p].unit)
		}
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for round := range 3 {
		j := open(t, Config{Dir: dir})
		if got := readTo(t, j, Position{}, j.End()); !slices.Equal(got, want) {
			t.Fatalf("round %d: %v, want %v", round, got, want)
		}
		for i := range 3 {
			e := numbered(round*10 + i)
			want = append(want, e.ID+"@"+appendEvents(t, j, e).String())
		}
		shut(t, j)
	}
	if last, _ := ParsePosition(want[8][len("id-22@"):]); last.Ordinal != 8 {
		t.Errorf("last ordinal %d, want 8", last.Ordinal)
	}
}

func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	var locked *LockedError
	_, err := Open(t.Context(), Config{Dir: dir})
	if !errors.As(err, &locked) || !errors.Is(err, ErrLocked) || locked.PID != os.Getpid() || locked.Path != filepath.Join(dir, "LOCK") {
		t.Errorf("second open: %v", err)
	}
	shut(t, j)
	if err := os.WriteFile(filepath.Join(dir, "VERSION"), []byte("tocsin data 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "tocsin data 2") {
		t.Errorf("other version: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "VERSION")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrVersion) {
		t.Errorf("foreign directory: %v", err)
	}
	for _, c := range []Config{{}, {Dir: dir, MaxBytes: 1}, {Dir: dir, MaxAge: -1}, {Dir: dir, MaxUnitBytes: 100 << 20}} {
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: file}); err == nil {
		t.Error("a file as data directory: no error")
	}
}

// TestDamagedStream checks that a journal whose stream the server does not find is
// not silently begun anew.
func TestDamagedStream(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	appendEvents(t, j, numbered(1))
	shut(t, j)
	meta := filepath.Join(dir, storeDir, "$G", "streams", streamName, "meta.inf")
	if err := os.WriteFile(meta, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if j, err := Open(t.Context(), Config{Dir: dir, Logger: quiet()}); err == nil {
		shut(t, j)
		t.Fatal("opened")
	} else if !strings.Contains(err.Error(), streamName) && !strings.Contains(err.Error(), "cannot be opened") {
		t.Errorf("error does not say what is wrong: %v", err)
	}
}

func TestReadWaits(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	r := j.Read(j.End())
	got := make(chan string)
	go func() {
		b, err := r.Next(t.Context())
		if err != nil {
			got <- err.Error()
			return
		}
		got <- b.Event(0).ID
	}()
	appendEvents(t, j, numbered(7))
	if id := <-got; id != "id-7" {
		t.Errorf("got %s", id)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestGapBySize checks that a reader is told exactly what retention took from it.
func TestGapBySize(t *testing.T) {
	c := small(t.TempDir())
	c.MaxBytes = 200 << 10
	j := open(t, c)
	slow := j.Read(Position{}) // on an empty journal: the first event is due to it
	late := j.Read(Position{})
	appendEvents(t, j, numbered(0), numbered(1), numbered(2))
	b, err := late.Next(t.Context())
	if err != nil || b.Len() != 3 {
		t.Fatal(b, err)
	}
	middle := j.Read(b.Position(0)) // events 1 and 2 are due
	for i := 3; i < 103; i += 2 {
		e, f := numbered(i), numbered(i+1)
		e.Data = make([]byte, 7<<10)
		_, _ = rand.Read(e.Data)
		appendEvents(t, j, e, f)
	}
	j.records.expire(time.Now().Add(time.Hour)) // memory is more than retention
	end := j.End()
	begin := j.Begin()
	if begin.IsZero() || begin.Seq < 20 {
		t.Fatalf("nothing was removed: begin %v, end %v", begin, end)
	}
	for name, c := range map[string]struct {
		reader *Reader
		after  Position
		events uint64
		seqs   uint64
	}{
		"from the beginning": {slow, Position{}, begin.NextOrdinal(), begin.Seq},
		"in the middle":      {middle, b.Position(0), begin.NextOrdinal() - 1, begin.Seq},
		"later":              {late, b.Position(2), begin.NextOrdinal() - 3, begin.Seq - 1},
	} {
		var gap *GapError
		if _, err := c.reader.Next(t.Context()); !errors.As(err, &gap) || gap.Cause != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if gap.After != c.after || gap.Events != c.events || gap.Records != c.seqs ||
			gap.Next != (Position{Seq: begin.Seq + 1, Index: 0, Ordinal: begin.NextOrdinal()}) {
			t.Errorf("%s: %+v, begin %+v", name, gap, begin)
		}
		next, err := c.reader.Next(t.Context())
		if err != nil || next.Position(0) != gap.Next || next.Start() != 0 {
			t.Errorf("%s: after the gap %v, %v", name, next, err)
		}
		rest := readTo(t, j, c.reader.after, end)
		if want := end.Ordinal - c.reader.after.Ordinal; uint64(len(rest)) != want {
			t.Errorf("%s: %d more events, want %d", name, len(rest), want)
		}
	}
	// A reader that wants what there is has no gap.
	if b, err := j.Read(Position{}).Next(t.Context()); err != nil || b.Position(0).Ordinal != begin.NextOrdinal() {
		t.Error(b, err)
	}
	if b, err := j.Read(begin).Next(t.Context()); err != nil || b.Position(0).Ordinal != begin.NextOrdinal() {
		t.Error(b, err)
	}
}

// TestRetentionByAge checks that the newest record is kept, since it knows the
// ordinal that comes next.
func TestRetentionByAge(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir, MaxAge: 300 * time.Millisecond})
	for i := range 5 {
		appendEvents(t, j, numbered(i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for j.Begin() != (Position{Seq: 4, Index: BetweenRecords, Ordinal: 3}) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("begin %v after 10 s", j.Begin())
		}
	}
	shut(t, j)
	j = open(t, Config{Dir: dir, MaxAge: time.Nanosecond})
	if p := appendEvents(t, j, numbered(5)); p != (Position{Seq: 6, Index: 0, Ordinal: 5}) {
		t.Errorf("position after all is old: %v", p)
	}
}

func TestForeignPosition(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	appendEvents(t, j, numbered(0), numbered(1))
	appendEvents(t, j, numbered(2))
	for name, p := range map[string]Position{
		"later record":          {Seq: 9, Index: 0, Ordinal: 1},
		"later ordinal":         {Seq: 2, Index: 0, Ordinal: 9},
		"other ordinal":         {Seq: 1, Index: 0, Ordinal: 1},
		"other ordinal, record": {Seq: 1, Index: 1, Ordinal: 0},
	} {
		if _, err := j.Since(t.Context(), p.String(), time.Now()); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: since: %v", name, err)
		}
		r := j.Read(p)
		var gap *GapError
		if _, err := r.Next(t.Context()); !errors.As(err, &gap) || !errors.Is(err, ErrNotFound) || gap.After != p {
			t.Errorf("%s: read: %v", name, err)
			continue
		}
		if b, err := r.Next(t.Context()); err != nil || b.Start() != 0 || b.Len() == 0 {
			t.Errorf("%s: after the gap: %v, %v", name, b, err)
		}
	}
}

func TestSince(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	ctx := t.Context()
	for _, since := range []string{"", "oldest", "0s", "1h", "2026-11-21T06:10:05Z"} {
		if p, err := j.Since(ctx, since, time.Now()); err != nil || !p.IsZero() {
			t.Errorf("empty journal: since %q: %v, %v", since, p, err)
		}
	}
	var times []time.Time
	for i := 0; i < 60; i += 2 {
		appendEvents(t, j, numbered(i), numbered(i+1))
		b, err := j.Read(Position{Seq: j.End().Seq - 1, Index: BetweenRecords, Ordinal: j.End().Ordinal - 2}).Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, b.Recorded())
	}
	end := j.End()
	first := times[0]
	late := numbered(99)
	late.ID = Position{Seq: 5, Index: 1, Ordinal: 9}.String() // looks like a position, but of no event here
	late.ID = strings.Replace(late.ID, "9", "8", 1)
	appendEvents(t, j, late)
	now := time.Now()
	for since, want := range map[string]uint64{ // the ordinal that comes next
		"":                                       0,
		"oldest":                                 0,
		"0s":                                     61,
		"87600h":                                 0,
		now.Sub(times[7]).String():               14,
		now.Sub(times[29]).String():              58,
		times[7].Format(time.RFC3339Nano):        14,
		times[7].Add(1).Format(time.RFC3339Nano): 16,
		times[7].In(time.FixedZone("", 7200)).Format(time.RFC3339Nano): 14,
		first.Add(-time.Second).Format(time.RFC3339Nano):               0,
		now.Add(time.Hour).Format(time.RFC3339):                        61,
		end.String():                                                   60,
		Position{Seq: 5, Index: 1, Ordinal: 9}.String():                10,
		Position{Seq: 5, Index: BetweenRecords, Ordinal: 9}.String():   10,
		"id-0":  1,
		"id-1":  2,
		"id-30": 31,
		"id-59": 60,
		late.ID: 61,
	} {
		p, err := j.Since(ctx, since, now)
		if err != nil || p.NextOrdinal() != want {
			t.Errorf("since %q: %v, %v; want ordinal %d next", since, p, err, want)
			continue
		}
		if got := readTo(t, j, p, j.End()); uint64(len(got)) != 61-want {
			t.Errorf("since %q: read %d events, want %d", since, len(got), 61-want)
		}
	}
	for since, want := range map[string]error{
		"-5m": ErrBadSince, "2026-13-01T00:00:00Z": ErrBadSince, "2026-01-01": ErrBadSince, "5 minutes": ErrBadSince,
		"a\x00b": ErrBadSince, "\xff": ErrBadSince, strings.Repeat("x", 5000): ErrBadSince,
		"id-60": ErrNotFound, "id-5": nil, "nonsense": ErrNotFound, Position{Seq: 99, Index: 0, Ordinal: 99}.String(): ErrNotFound,
	} {
		if _, err := j.Since(ctx, since, now); !errors.Is(err, want) {
			t.Errorf("since %.30q: %v, want %v", since, err, want)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := j.Since(cancelled, "nonsense", now); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestCursorAndStates(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	names := []string{"plain", "with space", "ünï=code.*>", "", "a/b"}
	j := open(t, Config{Dir: dir})
	for i, name := range names {
		c := j.Cursor(name)
		if p, err := c.Load(ctx); err != nil || !p.IsZero() {
			t.Errorf("%q: new cursor %v, %v", name, p, err)
		}
		for n := range 2 {
			if err := c.Save(ctx, Position{Seq: uint64(i + 1), Index: uint32(n), Ordinal: 7}); err != nil {
				t.Fatal(err)
			}
		}
	}
	kv, err := j.State(ctx, "some-state")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(ctx, "key", "value"); err != nil {
		t.Fatal(err)
	}
	objects, err := j.Objects(ctx, "objects")
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 3<<20)
	if _, err := objects.PutBytes(ctx, "large", large); err != nil {
		t.Fatal(err)
	}
	shut(t, j)
	j = open(t, Config{Dir: dir})
	for i, name := range names {
		if p, err := j.Cursor(name).Load(ctx); err != nil || p != (Position{Seq: uint64(i + 1), Index: 1, Ordinal: 7}) {
			t.Errorf("%q: cursor after reopening %v, %v", name, p, err)
		}
	}
	if kv, err = j.State(ctx, "some-state"); err != nil {
		t.Fatal(err)
	}
	if entry, err := kv.Get(ctx, "key"); err != nil || string(entry.Value()) != "value" {
		t.Errorf("state after reopening: %v, %v", entry, err)
	}
	if objects, err = j.Objects(ctx, "objects"); err != nil {
		t.Fatal(err)
	}
	if got, err := objects.GetBytes(ctx, "large"); err != nil || len(got) != len(large) {
		t.Errorf("object after reopening: %d bytes, %v", len(got), err)
	}
}

func TestCloseWhileAppending(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	var mu sync.Mutex
	var acknowledged []string
	var all sync.WaitGroup
	reader := j.Read(Position{})
	all.Go(func() {
		for {
			if _, err := reader.Next(context.Background()); err != nil {
				if !errors.Is(err, ErrClosed) {
					t.Errorf("reader: %v", err)
				}
				return
			}
		}
	})
	running := make(chan struct{}, 100)
	for p := range 20 {
		all.Go(func() {
			for i := 0; ; i++ {
				e := numbered(i)
				e.ID = fmt.Sprintf("%d/%d", p, i)
				at, err := j.Append(context.Background(), e)
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged = append(acknowledged, e.ID+"@"+at.String())
				mu.Unlock()
				if i == 3 {
					running <- struct{}{}
				}
			}
		})
	}
	for range 20 {
		<-running
	}
	for range 3 {
		all.Go(func() { shut(t, j) })
	}
	all.Wait()
	if _, err := j.Append(t.Context(), numbered(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if _, err := j.Read(Position{}).Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if err := j.Health(); !errors.Is(err, ErrClosed) {
		t.Errorf("health after close: %v", err)
	}
	j = open(t, Config{Dir: dir})
	got := readTo(t, j, Position{}, j.End())
	slices.Sort(got)
	slices.Sort(acknowledged)
	if !slices.Equal(got, acknowledged) {
		t.Errorf("%d events acknowledged, %d in the journal", len(acknowledged), len(got))
	}
}

// What is removed from a state leaves nothing behind, when the remover wants that.
func TestStateForgets(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	kv, err := j.State(t.Context(), "state")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context(), "key", jetstream.PurgeTTL(time.Second)); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of the marker", func() bool {
		status, err := kv.Status(t.Context())
		return err == nil && status.Values() == 0
	})
}

// TestRecent: at least so many events follow, and less than a record more.
func TestRecent(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	if p, err := j.Recent(t.Context(), 5); err != nil || !p.IsZero() {
		t.Errorf("of an empty journal: %v, %v", p, err)
	}
	const records = 40
	stored := 0
	for i := range records { // 1, 2, 3, 1, 2, 3, ... events
		var unit []*event.Event
		for range i%3 + 1 {
			unit = append(unit, numbered(stored))
			stored++
		}
		appendEvents(t, j, unit...)
	}
	for n := range stored + 3 {
		p, err := j.Recent(t.Context(), uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		got := stored - int(p.NextOrdinal())
		if want := min(n, stored); got < want || got > want+2 {
			t.Errorf("%d events follow %v, want %d", got, p, n)
		}
		if followed := readTo(t, j, p, j.End()); got > 0 && len(followed) != got {
			t.Errorf("%d events were read after %v, want %d", len(followed), p, got)
		}
	}
}
