package inbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/internal/tail"
)

func TestMain(m *testing.M) {
	if killChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, o Options) *Inbox {
	t.Helper()
	x, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = x.Close(ctx)
	})
	return x
}

func lines(texts ...string) (all []Line) {
	for _, text := range texts {
		all = append(all, Line{Data: []byte(text), Size: int64(len(text))})
	}
	return all
}

func put(t testing.TB, x *Inbox, texts ...string) Position {
	t.Helper()
	at, err := x.Put(t.Context(), lines(texts...))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// read returns the next n lines, and fails for losses.
func read(t testing.TB, x *Inbox, n int) (texts []string, after Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var b Batch
	for len(texts) < n {
		if err := x.Read(ctx, &b); err != nil {
			t.Fatalf("after %d of %d lines: %v", len(texts), n, err)
		}
		if b.Lost != nil {
			t.Fatalf("lost: %+v", b.Lost)
		}
		for _, l := range b.Lines {
			texts = append(texts, string(l.Data))
		}
		after = b.After()
	}
	if len(texts) > n {
		t.Fatalf("%d lines, want %d", len(texts), n)
	}
	return texts, after
}

func readLost(t testing.TB, x *Inbox) (*Lost, Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var b Batch
	if err := x.Read(ctx, &b); err != nil {
		t.Fatal(err)
	}
	if b.Lost == nil {
		t.Fatalf("%d lines, want the news of a loss", len(b.Lines))
	}
	return b.Lost, b.After()
}

func shut(t testing.TB, x *Inbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := x.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestInbox(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for it")
	x := open(t, Options{Dir: dir})
	at := put(t, x, "one", "", "three")
	got, after := read(t, x, 3)
	if fmt.Sprint(got) != "[one  three]" || after != at {
		t.Errorf("%q, then %v, want %v", got, after, at)
	}
	put(t, x, "four", "five")
	if got, _ := read(t, x, 2); fmt.Sprint(got) != "[four five]" {
		t.Errorf("%q", got)
	}
	shut(t, x)
	if _, err := x.Put(t.Context(), lines("x")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := x.Read(t.Context(), &Batch{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}

	// The next process goes on where the reader was.
	x = open(t, Options{Dir: dir})
	if err := x.Seek(after); err != nil {
		t.Fatal(err)
	}
	last := put(t, x, "six")
	if last.Compare(after) <= 0 {
		t.Errorf("%v is not behind %v", last, after)
	}
	if got, _ := read(t, x, 3); fmt.Sprint(got) != "[four five six]" {
		t.Errorf("%q", got)
	}
	if x.Seek(after) == nil {
		t.Error("it seeks while it is read")
	}
	for name, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, segmentName(1)): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	shut(t, x)
}

// Every kind and size of line comes back as it was.
func TestLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	x := open(t, Options{Dir: dir, SegmentBytes: 300 << 10, MaxBytes: 100 << 20, MemoryBytes: 64 << 20})
	var want []Line
	for _, size := range []int{0, 1, 100, maxPayload - 30, maxPayload, maxPayload + 1, 200 << 10, 1 << 20, 3, 3 << 20, 4} {
		l := Line{Data: bytes.Repeat([]byte{byte(size)}, size), Size: int64(size)}
		want = append(want, l)
		l.Size++ // it ended in "\r\n"
		want = append(want, l)
		l.Kind, l.Size = tail.TooLong, 100<<20
		want = append(want, l)
	}
	var ends []Position
	for i := range want {
		at, err := x.Put(t.Context(), want[i:i+1])
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, at)
	}
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check := func(x *Inbox, from int) {
		t.Helper()
		var b Batch
		for i := from; i < len(want); {
			if err := x.Read(t.Context(), &b); err != nil || b.Lost != nil {
				t.Fatal(err, b.Lost)
			}
			for n, l := range b.Lines {
				if !bytes.Equal(l.Data, want[i].Data) || l.Size != want[i].Size || l.Kind != want[i].Kind {
					t.Errorf("line %d: %d bytes, size %d, kind %d", i, len(l.Data), l.Size, l.Kind)
				}
				if b.Through(n) != ends[i] {
					t.Errorf("line %d ends at %v, want %v", i, b.Through(n), ends[i])
				}
				i++
			}
		}
	}
	check(x, 0)
	shut(t, x)
	for from := range want {
		x := open(t, Options{Dir: dir, SegmentBytes: 300 << 10, MaxBytes: 100 << 20, MemoryBytes: 64 << 20})
		if from > 0 {
			if err := x.Seek(ends[from-1]); err != nil {
				t.Fatal(err)
			}
		}
		check(x, from)
		shut(t, x)
	}
}

// Files are used again, or removed, and what is reserved stays.
func TestRelease(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, SegmentBytes: 8 << 10, ReserveBytes: 32 << 10, MaxBytes: 1 << 20}
	x := open(t, o)
	if s := x.Stats(); s.FileBytes != 32<<10 || s.ReservedBytes != 32<<10 {
		t.Errorf("%+v", s)
	}
	var last Position
	for i := range 500 {
		put(t, x, fmt.Sprint(i, strings.Repeat("x", 300)))
		_, last = read(t, x, 1)
		x.Release(last)
	}
	if names := segmentFiles(t, dir); len(names) != 4 {
		t.Errorf("%q", names)
	}
	if s := x.Stats(); s.FileBytes != 32<<10 || s.DiskLines != 0 || s.MemoryLines != 0 || s.Oldest != 0 {
		t.Errorf("%+v", s)
	}
	for i := range 500 {
		put(t, x, fmt.Sprint(i, strings.Repeat("x", 300)))
	}
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := x.Stats(); s.FileBytes < 150<<10 || s.DiskLines != 500 || s.ReservedBytes < 16<<10 || s.State != Spooling || s.Oldest == 0 {
		t.Errorf("%+v", s)
	}
	_, last = read(t, x, 500)
	x.Release(last)
	if names := segmentFiles(t, dir); len(names) != 4 {
		t.Errorf("%q", names)
	}
	shut(t, x)
	x = open(t, o)
	if s := x.Stats(); s.FileBytes != 32<<10 {
		t.Errorf("%+v", s)
	}
	put(t, x, "next")
	if err := x.Seek(last); err != nil {
		t.Error(err)
	}
	if got, _ := read(t, x, 1); got[0] != "next" {
		t.Errorf("%q", got)
	}
	shut(t, x)
}

func segmentFiles(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), segmentSuffix) {
			names = append(names, e.Name())
		}
	}
	return names
}

// A batch has few bytes beside one line, however long the lines are: a reader that catches
// up must not need the memory of all of them.
func TestBatchesAreBounded(t *testing.T) {
	x := open(t, Options{Dir: t.TempDir()})
	const n, size = 40, 300 << 10
	for i := range n {
		put(t, x, fmt.Sprintf("%0*d", size+i, i), "short")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var b Batch
	for got := 0; got < 2*n; got += len(b.Lines) {
		if err := x.Read(ctx, &b); err != nil || b.Lost != nil {
			t.Fatal(err, b.Lost)
		}
		bytes := 0
		for i, l := range b.Lines {
			bytes += len(l.Data)
			at := got + i
			if at%2 == 0 && string(l.Data) != fmt.Sprintf("%0*d", size+at/2, at/2) || at%2 == 1 && string(l.Data) != "short" {
				t.Fatalf("line %d is %.20q", at, l.Data)
			}
		}
		if bytes > size+n+2*readChunk {
			t.Fatalf("a batch of %d lines with %d bytes", len(b.Lines), bytes)
		}
	}
	shut(t, x)
}
