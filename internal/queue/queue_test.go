package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
)

func TestMain(m *testing.M) {
	if killChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

func decode(number uint64, entry []byte) (*event.Event, error) {
	if strings.HasPrefix(string(entry), "bad") {
		return nil, errors.New("it is bad")
	}
	return &event.Event{ID: strconv.FormatUint(number, 10), Note: string(entry)}, nil
}

func droppedEntry(n uint64, first, last time.Time) []byte {
	return fmt.Appendf(nil, "dropped %d", n)
}

func options(dir string) Options {
	return Options{Dir: dir, Readers: []string{"a"}, Decode: decode, Dropped: droppedEntry}
}

func open(t testing.TB, o Options) *Queue {
	t.Helper()
	q, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

func shut(t testing.TB, q *Queue) {
	t.Helper()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, q *Queue, entries ...string) {
	t.Helper()
	for _, e := range entries {
		if err := q.Append(t.Context(), []byte(e)); err != nil {
			t.Fatal(err)
		}
	}
}

// item is what a reader told: an entry, or a gap.
type item struct {
	text string
	at   position.Position
	gap  uint64
}

// readAll reads to the end of a queue.
func readAll(t testing.TB, q *Queue, r deliver.Reader, after position.Position) (all []item) {
	t.Helper()
	for at := after; at.Compare(q.End()) < 0; {
		rec, err := r.Next(t.Context())
		var gap *deliver.Gap
		if errors.As(err, &gap) {
			all = append(all, item{gap: gap.Events, at: gap.Next})
			at = gap.Next
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := rec.Start(); i < rec.Len(); i++ {
			all = append(all, item{text: rec.Event(i).Note, at: rec.Position(i)})
		}
		if at = rec.End(); rec.Recorded().IsZero() || rec.Size() <= 0 {
			t.Errorf("recorded %v, size %d", rec.Recorded(), rec.Size())
		}
	}
	return all
}

func texts(all []item) string {
	var s []string
	for _, i := range all {
		if i.gap > 0 {
			s = append(s, fmt.Sprintf("<%d missing>", i.gap))
		} else {
			s = append(s, i.text)
		}
	}
	return strings.Join(s, ",")
}

// both runs a test with a queue in memory and with one on disk.
func both(t *testing.T, f func(t *testing.T, o Options)) {
	t.Run("memory", func(t *testing.T) { f(t, options("")) })
	t.Run("disk", func(t *testing.T) { f(t, options(t.TempDir())) })
}

func TestOrder(t *testing.T) {
	both(t, func(t *testing.T, o Options) {
		q := open(t, o)
		if !q.End().IsZero() {
			t.Errorf("the end is %v", q.End())
		}
		add(t, q, "a", "b", "bad", "c")
		all := readAll(t, q, q.Read(position.Position{}), position.Position{})
		if got := texts(all); got != "a,b,c" {
			t.Errorf("read %s", got)
		}
		for _, i := range all {
			if i.at.Compare(all[0].at) < 0 || i.at.Seq == 0 {
				t.Errorf("position %v", i.at)
			}
		}
		if got := texts(readAll(t, q, q.Read(all[1].at), all[1].at)); got != "c" {
			t.Errorf("behind b: %s", got)
		}
		if s := q.Stats(); s.Appended != 4 || s.Waiting != 4 || s.Oldest.IsZero() {
			t.Errorf("%+v", s)
		}
		q.Passed("a", q.End())
		q.Passed("nobody", position.Position{})
		if s := q.Stats(); s.Waiting != 0 || !s.Oldest.IsZero() {
			t.Errorf("%+v", s)
		}
		shut(t, q)
		shut(t, q)
		if err := q.Append(t.Context(), []byte("x")); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if _, err := q.Read(position.Position{}).Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// A reader that waits is woken, and ends with its context.
func TestReaderWaits(t *testing.T) {
	both(t, func(t *testing.T, o Options) {
		q := open(t, o)
		r := q.Read(position.Position{})
		got := make(chan string)
		go func() {
			rec, err := r.Next(t.Context())
			if err != nil {
				got <- err.Error()
				return
			}
			got <- rec.Event(rec.Start()).Note
		}()
		add(t, q, "x")
		if text := <-got; text != "x" {
			t.Error(text)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Readers that are at different places get all entries, whatever is read from memory or
// files, and however the entries are grouped.
func TestManyReaders(t *testing.T) {
	both(t, func(t *testing.T, o Options) {
		const writers, each = 8, 600
		o.MaxBytes = 64 << 20
		o.Readers = []string{"0", "1", "2"}
		q := open(t, o)
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for i := range each {
					text := fmt.Sprintf("%d %d %s", w, i, strings.Repeat("x", rand.IntN(3000)))
					if err := q.Append(t.Context(), []byte(text)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for n := range 3 {
			group.Go(func() {
				r := q.Read(position.Position{})
				var next [writers]int
				for count := 0; count < writers*each; {
					rec, err := r.Next(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					for i := rec.Start(); i < rec.Len(); i++ {
						var w, k int
						if _, err := fmt.Sscan(rec.Event(i).Note, &w, &k); err != nil || next[w] != k || rec.Event(i).ID != strconv.FormatUint(rec.Position(i).Ordinal, 10) {
							t.Errorf("%.20q, want %d of %d: %v", rec.Event(i).Note, next[w], w, err)
							return
						}
						next[w]++
						count++
					}
					if n > 0 && rand.IntN(n) == 0 {
						q.Passed(strconv.Itoa(n), rec.End())
					}
				}
				q.Passed(strconv.Itoa(n), q.End())
			})
		}
		group.Wait()
		s := q.Stats()
		if s.Waiting != 0 || s.Appended != writers*each || s.Bytes > 5<<20 || s.Damaged+s.Missing > 0 {
			t.Errorf("%+v", s)
		}
		if o.Dir != "" && s.Syncs >= writers*each {
			t.Errorf("%d syncs for %d entries: none was shared", s.Syncs, writers*each)
		}
	})
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	want := ""
	var last position.Position
	for round := range 4 {
		q := open(t, options(dir))
		if _, err := Open(options(dir)); !errors.Is(err, ErrLocked) {
			t.Fatalf("opened twice: %v", err)
		}
		for i := range 3 {
			text := fmt.Sprintf("%d-%d", round, i)
			want += "," + text
			add(t, q, text)
		}
		all := readAll(t, q, q.Read(position.Position{}), position.Position{})
		if got := "," + texts(all); got != want {
			t.Errorf("round %d: %s, want %s", round, got, want)
		}
		if now := all[len(all)-1].at; now.Compare(last) <= 0 {
			t.Errorf("the position %v is not behind %v", now, last)
		} else {
			last = now
		}
		shut(t, q)
	}
	// What is passed goes, but the numbers go on.
	q := open(t, options(dir))
	q.Passed("a", q.End())
	add(t, q, "x")
	q.Passed("a", q.End())
	shut(t, q)
	q = open(t, options(dir))
	if files := segments(t, dir); len(files) != 1 {
		t.Errorf("files %v", files)
	}
	add(t, q, "y")
	if q.End().Ordinal != 13 {
		t.Errorf("the end is %v", q.End())
	}
	r := q.Read(position.Position{})
	if got := texts(readAll(t, q, r, position.Position{})); got != "<12 missing>,x,y" {
		t.Error(got)
	}
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A position that a reader knows is never given twice, also when the files are gone.
func TestFilesGone(t *testing.T) {
	dir := t.TempDir()
	q := open(t, options(dir))
	add(t, q, "a", "b", "c")
	end := q.End()
	shut(t, q)
	for _, f := range segments(t, dir) {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	o := options(dir)
	o.After = func() (position.Position, error) { return end, nil }
	q = open(t, o)
	add(t, q, "d")
	if got := texts(readAll(t, q, q.Read(end), end)); got != "d" {
		t.Error(got)
	}
}

func TestWhenFull(t *testing.T) {
	both(t, func(t *testing.T, o Options) {
		o.MaxBytes = 1 << 20 // 16 MiB on disk
		entry := strings.Repeat("x", 10_000)
		if o.Dir != "" {
			entry = strings.Repeat("x", 100_000)
		}
		fill := func(t *testing.T, q *Queue) (n int) {
			t.Helper()
			for ; ; n++ {
				err := q.Append(t.Context(), []byte(entry))
				if errors.Is(err, ErrFull) {
					return n
				}
				if err != nil || n > 5000 {
					t.Fatal(n, err)
				}
			}
		}
		t.Run("reject", func(t *testing.T) {
			o := o
			o.WhenFull = Reject
			if o.Dir != "" {
				o.Dir = filepath.Join(o.Dir, "reject")
			}
			q := open(t, o)
			n := fill(t, q)
			err := q.Append(t.Context(), []byte(entry))
			if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "wait") {
				t.Errorf("%v", err)
			}
			s := q.Stats()
			if s.Bytes > s.MaxBytes || s.Bytes < s.MaxBytes/10*8 || s.Waiting != uint64(n) || s.Rejected != 2 {
				t.Errorf("%d entries: %+v", n, s)
			}
			q.Passed("a", positionOf(uint64(n/2)))
			if more := fill(t, q); more < n/4 {
				t.Errorf("%d more are taken of %d", more, n)
			}
			q.Passed("a", q.End())
			add(t, q, "y")
		})
		t.Run("block", func(t *testing.T) {
			o := o
			if o.Dir != "" {
				o.Dir = filepath.Join(o.Dir, "block")
			}
			q := open(t, o)
			n := 0
			for ; ; n++ {
				ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("too long"))
				err := q.Append(ctx, []byte(entry))
				cancel()
				if err != nil {
					if !strings.Contains(err.Error(), "too long") {
						t.Error(err)
					}
					break
				}
			}
			done := make(chan error)
			go func() { done <- q.Append(t.Context(), []byte("after")) }()
			q.Passed("a", positionOf(uint64(n-2)))
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		t.Run("drop", func(t *testing.T) {
			o := o
			o.WhenFull = Drop
			if o.Dir != "" {
				o.Dir = filepath.Join(o.Dir, "drop")
			}
			q := open(t, o)
			var dropped uint64
			n := 0
			for ; dropped < 10; n++ {
				add(t, q, entry)
				dropped = q.Stats().Dropped
			}
			kept := uint64(n) - dropped
			q.Passed("a", q.End())
			add(t, q, "y")
			r := q.Read(positionBefore(kept))
			if got := texts(readAll(t, q, r, positionBefore(kept))); got != fmt.Sprintf("dropped %d,y", dropped) {
				t.Error(got)
			}
			// Those that are dropped last are told of at the end.
			for dropped = q.Stats().Dropped; q.Stats().Dropped < dropped+3; {
				add(t, q, entry)
			}
			at := q.End()
			shut(t, q)
			if o.Dir == "" {
				return
			}
			q = open(t, o)
			if got := texts(readAll(t, q, q.Read(at), at)); got != "dropped 3" {
				t.Errorf("at the end: %q", got)
			}
		})
	})
}

func TestEntrySizes(t *testing.T) {
	both(t, func(t *testing.T, o Options) {
		q := open(t, o)
		for _, size := range []int{0, MaxEntryBytes + 1} {
			if err := q.Append(t.Context(), make([]byte, size)); err == nil {
				t.Errorf("%d bytes are taken", size)
			}
		}
		big := strings.Repeat("y", MaxEntryBytes)
		if o.Dir == "" {
			big = big[:500_000]
		}
		add(t, q, "a", big, "b")
		if got := texts(readAll(t, q, q.Read(position.Position{}), position.Position{})); got != "a,"+big+",b" {
			t.Errorf("read %d bytes", len(got))
		}
	})
}

// TestFullForAMoment: a queue that finds no room in the same moment in which a reader makes some
// takes entries again.
func TestFullForAMoment(t *testing.T) {
	for _, what := range []WhenFull{Reject, Drop} {
		o := options(t.TempDir())
		o.WhenFull = what
		q := open(t, o)
		add(t, q, "a")
		q.disk.retry <- struct{}{} // files were removed before the writer has noted that there is no room
		q.failed(&group{done: make(chan struct{})}, q.noSpace())
		if err := q.Append(t.Context(), []byte("b")); err != nil {
			t.Errorf("%d: %v", what, err)
		}
		if s := q.Stats(); s.Appended != 2 || s.Dropped+s.Rejected != 0 {
			t.Errorf("%d: %+v", what, s)
		}
	}
}
