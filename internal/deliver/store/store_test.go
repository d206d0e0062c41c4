package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/position"
)

const crashChildEnv = "TOCSIN_STORE_CRASH_CHILD" // data directory

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashChildEnv); dir != "" {
		crashChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, j) })
	return j
}

func shut(t *testing.T, j *journal.Journal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := j.Close(ctx); err != nil {
		t.Error(err)
	}
}

func newStore(j *journal.Journal, most int64) *Store {
	return New(Options{Journal: j, Sink: "slack", MaxBytes: most})
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(i int) position.Position {
	return position.Position{Seq: uint64(i/10 + 1), Index: uint32(i % 10), Ordinal: uint64(i)}
}

func letter(i int) deliver.DeadLetter {
	return deliver.DeadLetter{
		Event: &event.Event{ID: fmt.Sprintf("id-%d", i), Type: "test/event", Namespace: "ns/", Source: "test://source",
			Metadata: event.Fields{{Key: "k", Value: "v"}}, Time: noon, Recorded: noon, Data: fmt.Appendf(nil, `{"n":%d}`, i), DataContentType: "application/json"},
		At: at(i), Cause: "refused",
		Failure: deliver.Failure{Outcome: deliver.Refused, Attempts: i + 1, First: noon, Last: noon.Add(time.Second), Status: 400, Reason: "said no"},
	}
}

func letters(from, to int) (l []deliver.DeadLetter) {
	for i := from; i < to; i++ {
		l = append(l, letter(i))
	}
	return l
}

// ids returns what is listed as "id:event".
func ids(t *testing.T, s *Store, after uint64, limit int) (got []string) {
	t.Helper()
	list, err := s.List(t.Context(), after, limit)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		got = append(got, fmt.Sprintf("%d:%s", l.ID, l.Event.ID))
	}
	return got
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	s := newStore(j, 1<<20)
	if st, ok, err := s.Load(t.Context()); ok || err != nil {
		t.Fatalf("state of a new sink: %+v, %v, %v", st, ok, err)
	}
	want := deliver.State{
		Through: at(12),
		Held:    deliver.Held{By: "paused", Reason: "maintenance", Since: noon, ByEndpoint: true},
		Replays: []deliver.ReplayState{
			{ID: "r1", Begun: noon, Through: at(3), Until: at(9), Sent: 4, SetAside: 1, Missed: 2},
			{ID: "r2", Until: at(2)},
		},
		Redrives: []deliver.RedriveState{
			{ID: "d1", Begun: noon, Next: 3, Last: math.MaxUint64, IDs: []uint64{3, 5}, Sent: 1, Refused: 2},
		},
	}
	for _, part := range []any{want, want.Held, want.Replays[0], want.Redrives[0]} {
		for i := range reflect.ValueOf(part).NumField() {
			if reflect.ValueOf(part).Field(i).IsZero() {
				t.Errorf("the test knows no %T.%s", part, reflect.TypeOf(part).Field(i).Name)
			}
		}
	}
	for _, st := range []deliver.State{{}, {Through: at(1)}, want} {
		if err := s.Save(t.Context(), st); err != nil {
			t.Fatal(err)
		}
		if got, ok, err := s.Load(t.Context()); !ok || err != nil || !reflect.DeepEqual(got, st) {
			t.Errorf("got %+v, %v, %v, want %+v", got, ok, err, st)
		}
	}
	if _, ok, err := New(Options{Journal: j, Sink: "other"}).Load(t.Context()); ok || err != nil {
		t.Errorf("another sink: %v, %v", ok, err)
	}
	if names, err := Names(t.Context(), j); err != nil || !reflect.DeepEqual(names, []string{"slack"}) {
		t.Errorf("names: %v, %v", names, err)
	}
	shut(t, j)
	j = open(t, dir)
	s = newStore(j, 1<<20)
	if got, ok, err := s.Load(t.Context()); !ok || err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("after reopening: %+v, %v, %v", got, ok, err)
	}
	if err := s.Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Load(t.Context()); ok || err != nil {
		t.Errorf("after Drop: %v, %v", ok, err)
	}
	if names, err := Names(t.Context(), j); err != nil || len(names) != 0 {
		t.Errorf("names after Drop: %v, %v", names, err)
	}
}

// What another version wrote, or nobody, is an error that says so.
func TestForeignState(t *testing.T) {
	j := open(t, t.TempDir())
	s := newStore(j, 1<<20)
	kv, err := j.State(t.Context(), Bucket)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]error{
		`{"version":2,"through":{"seq":1}}`: ErrVersion,
		`{"through":"x"}`:                   ErrVersion,
		`not JSON`:                          ErrVersion,
		`{"version":1,"through":"x"}`:       nil,
		`{"version":1,"through":7}`:         nil,
	} {
		if _, err := kv.PutString(t.Context(), s.key(), text); err != nil {
			t.Fatal(err)
		}
		_, _, err := s.Load(t.Context())
		if err == nil || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), "slack") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestLetters(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	s := newStore(j, 10<<20)
	if got := ids(t, s, 0, 10); got != nil {
		t.Errorf("of a new sink: %v", got)
	}
	if err := s.Add(t.Context(), letters(0, 5)); err != nil {
		t.Fatal(err)
	}
	want := letter(3)
	want.ID = 4
	if got, err := s.Get(t.Context(), 4); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := s.Get(t.Context(), 77); !errors.Is(err, deliver.ErrNoLetter) {
		t.Errorf("one that is not there: %v", err)
	}
	if got, want := ids(t, s, 1, 2), []string{"2:id-1", "3:id-2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("page: %v, want %v", got, want)
	}
	if got := ids(t, s, math.MaxUint64, 2); got != nil {
		t.Errorf("behind the end: %v", got)
	}
	n, size, err := s.Count(t.Context())
	if n != 5 || size < 5*200 || size > 5*2000 || err != nil {
		t.Errorf("count: %d, %d, %v", n, size, err)
	}
	if err := s.Remove(t.Context(), 2, 2, 99); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Purge(t.Context(), 3); n != 2 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	shut(t, j)
	s = newStore(open(t, dir), 10<<20)
	if got, want := ids(t, s, 0, 10), []string{"4:id-3", "5:id-4"}; !reflect.DeepEqual(got, want) {
		t.Errorf("after reopening: %v, want %v", got, want)
	}
}

// A letter of a position that has one replaces it: at once, in one call, after a restart,
// and after a call of which nobody knows what it did.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	s := newStore(j, 10<<20)
	add := func(s *Store, l ...deliver.DeadLetter) {
		t.Helper()
		if err := s.Add(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	check := func(s *Store, want ...string) {
		t.Helper()
		if got := ids(t, s, 0, 100); !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	add(s, letters(0, 3)...)
	add(s, letter(1), letter(5), letter(5))
	check(s, "1:id-0", "3:id-2", "4:id-1", "6:id-5")
	shut(t, j)

	s = newStore(open(t, dir), 10<<20)
	add(s, letter(0), letter(7))
	check(s, "3:id-2", "4:id-1", "6:id-5", "7:id-0", "8:id-7")
	// As an Add leaves it that was cut off before it knew, or before it removed.
	l := letter(2)
	b, err := encodeLetter(&l)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.list.Add(t.Context(), []journal.ListEntry{{Note: l.At.String(), Data: b}, {Note: l.At.String(), Data: b}}); err != nil {
		t.Fatal(err)
	}
	add(s, letter(9))
	check(s, "4:id-1", "6:id-5", "7:id-0", "8:id-7", "10:id-2", "11:id-9")
	// What was removed is nothing to replace.
	if err := s.Remove(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	add(s, letter(1))
	check(s, "6:id-5", "7:id-0", "8:id-7", "10:id-2", "11:id-9", "12:id-1")
	// Events of no journal do not replace each other.
	free := letter(1)
	free.At = position.Position{}
	add(s, free, free)
	check(s, "6:id-5", "7:id-0", "8:id-7", "10:id-2", "11:id-9", "12:id-1", "13:id-1", "14:id-1")
	if _, err := s.Purge(t.Context(), math.MaxUint64); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	add(s, letter(1), letter(1))
	check(s, "2:id-1")
}

func TestFull(t *testing.T) {
	s := newStore(open(t, t.TempDir()), 4<<10)
	i := 0
	for ; ; i++ {
		err := s.Add(t.Context(), letters(i, i+1))
		if errors.Is(err, deliver.ErrFull) {
			if !strings.Contains(err.Error(), "slack") || !strings.Contains(err.Error(), "delivery.dead_letter_bytes") {
				t.Errorf("the error says not enough: %v", err)
			}
			break
		}
		if err != nil || i > 100 {
			t.Fatalf("letter %d: %v", i, err)
		}
	}
	if n, size, err := s.Count(t.Context()); n != uint64(i) || size > 4<<10 || size < 3<<10 || err != nil {
		t.Errorf("%d letters fit, there are %d with %d bytes, %v", i, n, size, err)
	}
	// One that is there can be replaced all the same.
	if err := s.Add(t.Context(), letters(0, 1)); err != nil {
		t.Errorf("replace in a full store: %v", err)
	}
	if _, err := s.Purge(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), letters(i, i+1)); err != nil {
		t.Errorf("after a purge: %v", err)
	}
}

// A page of large letters ends early, and all are found by paging on.
func TestLargeLetters(t *testing.T) {
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		Limits: event.Limits{MaxTypeBytes: 256, MaxMetadataKeys: 64, MaxMetadataBytes: 16 << 10, MaxEventBytes: 8 << 20}, MaxPendingBytes: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, j)
	s := newStore(j, 1<<30)
	random := rand.New(rand.NewPCG(1, 2))
	want := make(map[string]*event.Event)
	for i := range 6 {
		l := letter(i)
		l.Event.Data = make([]byte, 8<<20-1<<10)
		for k := 0; k < len(l.Event.Data); k += 8 {
			l.Event.Data[k] = byte(random.Uint32())
			l.Event.Data[k+3] = byte(random.Uint32())
		}
		want[l.Event.ID] = l.Event
		if err := s.Add(t.Context(), []deliver.DeadLetter{l}); err != nil {
			t.Fatal(err)
		}
	}
	after, pages, found := uint64(0), 0, 0
	for {
		page, err := s.List(t.Context(), after, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		pages++
		for _, l := range page {
			if !reflect.DeepEqual(l.Event, want[l.Event.ID]) {
				t.Errorf("event %s is not what was set aside", l.Event.ID)
			}
			found++
			after = l.ID
		}
	}
	if found != 6 || pages < 2 {
		t.Errorf("%d letters on %d pages", found, pages)
	}
}

// Letters of another version, or that are none, are errors that name them, and the others
// can be read.
func TestForeignLetter(t *testing.T) {
	s := newStore(open(t, t.TempDir()), 10<<20)
	good := letter(1)
	b, err := encodeLetter(&good)
	if err != nil {
		t.Fatal(err)
	}
	newer := append([]byte{2}, b[1:]...)
	newerEvent := append([]byte(nil), b...)
	newerEvent[len(b)-len(journal.EncodeEvent(good.Event))] = 9
	entries := []journal.ListEntry{{Data: b}, {Data: newer}, {Data: newerEvent}, {Data: nil}, {Data: b[:30]}, {Data: b}}
	if err := s.list.Add(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	if got, want := ids(t, s, 0, 10), []string{"1:id-1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("before the broken ones: %v", got)
	}
	for id := uint64(2); id <= 5; id++ {
		_, listErr := s.List(t.Context(), id-1, 10)
		_, getErr := s.Get(t.Context(), id)
		for what, err := range map[string]error{"list": listErr, "get": getErr} {
			broken, ok := errors.AsType[*LetterError](err)
			if !ok || broken.ID != id {
				t.Errorf("%s %d: %v", what, id, err)
			}
			version := errors.Is(err, ErrVersion) || errors.Is(err, journal.ErrVersion)
			if version != (id == 2 || id == 3) {
				t.Errorf("%s %d: %v", what, id, err)
			}
		}
	}
	if got, want := ids(t, s, 5, 10), []string{"6:id-1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("behind the broken ones: %v", got)
	}
}

// TestGap checks that events that retention has removed are a gap of deliveries.
func TestGap(t *testing.T) {
	limits := event.DefaultLimits
	limits.MaxEventBytes = 8 << 10
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), Limits: limits, MaxUnitBytes: 16 << 10, MaxBytes: 100 << 10, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, j)
	events := FromJournal(j)
	first, err := j.Append(t.Context(), letter(0).Event)
	if err != nil {
		t.Fatal(err)
	}
	r := events.Read(first)
	for i := range 100 {
		e := *letter(i + 1).Event
		e.Data = make([]byte, 4<<10)
		for k := range e.Data {
			e.Data[k] = byte(rand.Uint32())
		}
		if _, err := j.Append(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
	}
	_, err = r.Next(t.Context())
	gap, ok := errors.AsType[*deliver.Gap](err)
	if !ok || gap.Events == 0 || gap.Next.Ordinal != gap.Events+1 {
		t.Fatalf("gap: %v", err)
	}
	b, err := r.Next(t.Context())
	if err != nil || b.Position(b.Start()) != gap.Next {
		t.Errorf("behind the gap: %v, %v", b, err)
	}
	if events.End() != j.End() {
		t.Error("the end is another one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := events.Read(j.End()).Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// The kill test runs this binary as a child that adds, removes and saves, and says what
// was promised to it:
//
//	letter <n>      the letter of event n is durable
//	removing <id>   it may be gone
//	state <n>       Save with the position of event n returned
func crashChild(dir string) {
	fail := func(err error) {
		fmt.Println("error", err)
		os.Exit(1)
	}
	ctx := context.Background()
	j, err := journal.Open(ctx, journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fail(err)
	}
	s := New(Options{Journal: j, Sink: "slack", MaxBytes: 1 << 30})
	st, _, err := s.Load(ctx)
	if err != nil {
		fail(err)
	}
	next := 0
	if !st.Through.IsZero() {
		next = int(st.Through.Ordinal) + 1
	}
	go func() {
		for { // what somebody does meanwhile
			list, err := s.List(ctx, 0, 1)
			if err != nil {
				fail(err)
			}
			if len(list) == 1 && list[0].At.Ordinal%7 == 3 {
				fmt.Println("removing", list[0].At.Ordinal)
				if err := s.Remove(ctx, list[0].ID); err != nil {
					fail(err)
				}
			}
			time.Sleep(time.Millisecond)
		}
	}()
	for n := next; ; n += 3 {
		if err := s.Add(ctx, letters(n, n+3)); err != nil {
			fail(err)
		}
		for i := n; i < n+3; i++ {
			fmt.Println("letter", i)
		}
		if n%2 == 0 { // not always, so that letters are added again
			continue
		}
		if err := s.Save(ctx, deliver.State{Through: at(n + 2)}); err != nil {
			fail(err)
		}
		fmt.Println("state", n+2)
	}
}

func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	promised, removing := make(map[uint64]bool), make(map[uint64]bool)
	state := -1
	for round := range 6 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashChildEnv+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var killer *time.Timer
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if err == io.EOF {
				break // what has no newline was cut off
			}
			var word string
			var n int
			if _, scanErr := fmt.Sscan(line, &word, &n); err != nil || scanErr != nil {
				t.Fatalf("child said %q", line)
			}
			switch word {
			case "letter":
				promised[uint64(n)] = true
			case "removing":
				removing[uint64(n)] = true
			case "state":
				state = n
			}
			if killer == nil {
				killer = time.AfterFunc(time.Duration(rand.Int64N(int64(150*time.Millisecond))), func() { _ = child.Process.Kill() })
			}
		}
		var exit *exec.ExitError
		if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("child ended by itself: %v", err)
		}
		killer.Stop()

		j := open(t, dir)
		s := newStore(j, 1<<30)
		st, _, err := s.Load(t.Context())
		if err != nil || state >= 0 && st.Through.Ordinal < uint64(state) {
			t.Fatalf("round %d: state %v, %v; saved was %d", round, st.Through, err, state)
		}
		// The next one of the child adds those behind the state again.
		if err := s.Add(t.Context(), letters(int(st.Through.NextOrdinal()), int(st.Through.NextOrdinal())+1)); err != nil {
			t.Fatal(err)
		}
		promised[st.Through.NextOrdinal()] = true
		found := make(map[uint64]bool)
		last := uint64(0)
		for {
			page, err := s.List(t.Context(), last, 100)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, l := range page {
				if found[l.At.Ordinal] {
					t.Errorf("round %d: the letter of event %d is there twice", round, l.At.Ordinal)
				}
				found[l.At.Ordinal], last = true, l.ID
				if want := letter(int(l.At.Ordinal)).Event; !reflect.DeepEqual(l.Event, want) {
					t.Errorf("round %d: event %d is not whole", round, l.At.Ordinal)
				}
			}
		}
		for n := range promised {
			if !found[n] && !removing[n] {
				t.Fatalf("round %d: the letter of event %d is missing", round, n)
			}
		}
		for n := range removing {
			if !found[n] { // gone for good, unless it is added again
				delete(promised, n)
				delete(removing, n)
			}
		}
		shut(t, j)
	}
	if len(promised) < 10 {
		t.Errorf("only %d letters were promised", len(promised))
	}
}

func FuzzLetter(f *testing.F) {
	l := letter(1)
	b, err := encodeLetter(&l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:40])
	f.Add([]byte{1, 2, '{', '}'})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLetter(b)
		if err != nil {
			return
		}
		again, err := encodeLetter(&l)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := parseLetter(again); err != nil || m.At != l.At || m.Cause != l.Cause || m.Event.ID != l.Event.ID {
			t.Errorf("got %+v, %v, want %+v", m, err, l)
		}
	})
}

func FuzzState(f *testing.F) {
	b, err := encodeState(deliver.State{Through: at(12), Held: deliver.Held{By: "paused", Since: noon}, Replays: []deliver.ReplayState{{ID: "r", Until: at(3)}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := encodeState(st)
		if err != nil {
			t.Skip() // a year that JSON cannot have
		}
		if got, err := decodeState(again); err != nil || got.Through != st.Through || len(got.Replays) != len(st.Replays) {
			t.Errorf("got %+v, %v, want %+v", got, err, st)
		}
	})
}

// TestIndexInParts: adding to a long list after a restart gets done in the end, although no
// attempt has the time to look through all of it.
func TestIndexInParts(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	s := newStore(j, 1<<30)
	const n = 900
	r := rand.New(rand.NewPCG(1, 2))
	list := letters(1, n+1)
	for i := range list {
		e := *list[i].Event
		e.Data = make([]byte, 16<<10)
		for k := range e.Data {
			e.Data[k] = byte(r.Uint32())
		}
		list[i].Event = &e
	}
	if err := s.Add(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := newStore(j, 1<<30).Add(t.Context(), letters(1, 2)); err != nil {
		t.Fatal(err)
	}
	patience := time.Since(begun) / 4
	s = newStore(j, 1<<30) // as after a restart
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := s.Add(ctx, letters(1, 2))
		cancel()
		if err == nil {
			t.Logf("%d attempts", try)
			break
		}
		if try == 200 {
			t.Fatalf("after %d attempts of %v: %v", try, patience, err)
		}
	}
	if count, _, err := s.Count(t.Context()); count != n || err != nil {
		t.Errorf("%d letters: %v", count, err)
	}
}

// TestRedriveForeign: dead letters that cannot be read stay, and the others are sent.
func TestRedriveForeign(t *testing.T) {
	j := open(t, t.TempDir())
	s := newStore(j, 10<<20)
	one, two := letter(1), letter(2)
	a, err := encodeLetter(&one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := encodeLetter(&two)
	if err != nil {
		t.Fatal(err)
	}
	newer := append([]byte{2}, a[1:]...)
	if err := s.list.Add(t.Context(), []journal.ListEntry{{Data: newer}, {Data: a}, {Data: newer}, {Data: nil}, {Data: b}, {Data: newer}}); err != nil {
		t.Fatal(err)
	}
	for _, which := range []deliver.Letters{{First: 2, Last: 3}, {}} {
		d := deliver.New(deliver.Options{Name: "x", Sink: taker{}, Journal: FromJournal(j), Store: s})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		if _, _, err := d.Redrive(t.Context(), which); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; {
			if st := d.Status(); len(st.Redrives) > 0 && st.Redrives[0].Done {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("it does not end: %+v", d.Status().Redrives)
			}
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n, _, err := s.Count(t.Context()); n != 4 || err != nil {
		t.Errorf("%d are left: %v", n, err)
	}
}

// taker takes everything.
type taker struct{}

func (taker) Send(context.Context, *deliver.Batch) deliver.Result { return deliver.Result{} }
func (taker) Close() error                                        { return nil }
