package queue

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/position"
)

// filled makes a directory with one file that has n groups of one entry, and returns the content.
func filled(t testing.TB, n int) (dir string, file string, content []byte, ends []int64) {
	t.Helper()
	dir = t.TempDir()
	q := open(t, options(dir))
	for i := range n {
		add(t, q, fmt.Sprintf("entry %d", i))
		q.mu.Lock()
		ends = append(ends, q.disk.active.end)
		q.mu.Unlock()
	}
	shut(t, q)
	files := segments(t, dir)
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return dir, files[0], content, ends
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Wherever a file is cut off, or goes on with zeros or with something else, the entries
// before are there, and the numbers go on behind them.
func TestTorn(t *testing.T) {
	dir, file, content, ends := filled(t, 5)
	for cut := 0; cut < len(content); cut += 3 {
		want := 0
		for _, end := range ends {
			if int64(cut) >= end {
				want++
			}
		}
		for _, tail := range [][]byte{nil, make([]byte, 1000), bytes.Repeat([]byte("x"), 1000)} {
			write(t, file, append(bytes.Clone(content[:cut]), tail...))
			for _, f := range segments(t, dir) {
				if f != file {
					os.Remove(f)
				}
			}
			q := open(t, options(dir))
			add(t, q, "after")
			got := strings.Split(texts(readAll(t, q, q.Read(position.Position{}), position.Position{})), ",")
			s := q.Stats()
			if len(got) != want+1 || got[want] != "after" {
				t.Fatalf("cut at %d: %v, want %d: %+v", cut, got, want, s)
			}
			if cut >= segmentHeader && s.Damaged > 0 {
				t.Fatalf("cut at %d: %+v", cut, s)
			}
			shut(t, q)
		}
	}
}

// Wherever a byte is wrong, the loss is told, as far as it can be, and what is whole is read.
func TestDamaged(t *testing.T) {
	dir, file, content, ends := filled(t, 5)
	for i := 0; i < len(content); i++ {
		damaged := bytes.Clone(content)
		damaged[i] ^= 0x10
		write(t, file, damaged)
		// The next file says where this one ended.
		for _, f := range segments(t, dir) {
			if f != file {
				os.Remove(f)
			}
		}
		os.Remove(file + damagedSuffix)
		o := options(dir)
		o.After = func() (position.Position, error) { return positionOf(4), nil }
		q := open(t, o)
		add(t, q, "after")
		all := readAll(t, q, q.Read(position.Position{}), position.Position{})
		s := q.Stats()
		seen := uint64(0)
		for _, item := range all {
			seen += max(item.gap, 1)
		}
		if all[len(all)-1].text != "after" || seen != 6 {
			t.Fatalf("byte %d: %s", i, texts(all))
		}
		lost := 0
		for _, item := range all {
			lost += int(item.gap)
		}
		inHeader := i < segmentHeader
		covered := i < 28 || !inHeader // by a checksum
		switch {
		case !covered && lost > 0, covered && !inHeader && lost != 1, inHeader && covered && lost != 5:
			t.Fatalf("byte %d of %v: %s, %+v", i, ends, texts(all), s)
		}
		q.Passed("a", q.End())
		shut(t, q)
	}
}

// A file that is damaged while the queue runs is noticed when it is read.
func TestDamagedWhileRunning(t *testing.T) {
	o := options(t.TempDir())
	o.MaxBytes = 64 << 20
	q := open(t, o)
	entry := strings.Repeat("x", 100_000)
	for i := range 200 {
		add(t, q, fmt.Sprintf("%d %s", i, entry))
	}
	f, err := os.OpenFile(segments(t, o.Dir)[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), 350_000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	all := readAll(t, q, q.Read(position.Position{}), position.Position{})
	gaps := 0
	for _, i := range all {
		gaps += int(i.gap)
	}
	if s := q.Stats(); gaps != 1 || len(all) != 200 || s.Damaged != 1 || s.Missing != 1 {
		t.Errorf("%d items, %d missing: %+v", len(all), gaps, s)
	}
	if again := readAll(t, q, q.Read(position.Position{}), position.Position{}); len(again) != len(all) {
		t.Errorf("another reader has %d", len(again))
	}
	q.Passed("a", q.End())
	add(t, q, "x")
	shut(t, q)
	if _, err := os.Stat(segmentPath(o.Dir, 1) + damagedSuffix); err != nil {
		t.Errorf("the damaged file is not kept: %v", err)
	}
}

// When the disk does not work, each policy does what it says, and all goes on when it works
// again. Nothing that was acknowledged is lost, nothing that was refused is there.
func TestDiskFails(t *testing.T) {
	for _, policy := range []WhenFull{Block, Reject, Drop} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			o := options(t.TempDir())
			o.WhenFull = policy
			q := open(t, o)
			add(t, q, "a")
			// The next write fails, and so does the file that would follow.
			q.mu.Lock()
			q.disk.active.file.Close()
			dir := q.disk.dir
			q.disk.dir = dir + "/missing"
			q.mu.Unlock()
			done := make(chan error)
			go func() { done <- q.Append(t.Context(), []byte("b")) }()
			for q.Stats().Trouble == nil && policy == Block {
				time.Sleep(time.Millisecond)
			}
			want := "a,b,c"
			switch policy {
			case Reject:
				if err := <-done; !errors.Is(err, ErrFull) {
					t.Errorf("%v", err)
				}
				want = "a,c"
			case Drop:
				if err := <-done; err != nil {
					t.Error(err)
				}
				want = "a,dropped 1,c"
			}
			q.mu.Lock()
			q.disk.dir = dir
			q.mu.Unlock()
			if policy == Block {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			for q.Stats().Trouble != nil {
				time.Sleep(time.Millisecond)
			}
			add(t, q, "c")
			all := readAll(t, q, q.Read(positionOf(0)), positionOf(0))
			if got := "a," + texts(all); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			for i, item := range all {
				if item.at.Ordinal != uint64(i+1) {
					t.Errorf("%s has the number %d", item.text, item.at.Ordinal)
				}
			}
			_ = q.Close()
		})
	}
}

// Closing while the disk does not work tells what was not written.
func TestCloseWhileDiskFails(t *testing.T) {
	q := open(t, options(t.TempDir()))
	add(t, q, "a")
	q.mu.Lock()
	q.disk.active.file.Close()
	q.disk.dir += "/missing"
	q.mu.Unlock()
	done := make(chan error)
	go func() { done <- q.Append(t.Context(), []byte("b")) }()
	for q.Stats().Trouble == nil {
		time.Sleep(time.Millisecond)
	}
	if err := q.Close(); err == nil || !strings.Contains(err.Error(), "1 entries were not written") {
		t.Errorf("%v", err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// FuzzScan: whatever is in a file, it is read without a crash, in order, and the queue works.
func FuzzScan(f *testing.F) {
	_, _, content, ends := filled(f, 3)
	f.Add(content)
	f.Add(content[:ends[1]+5])
	f.Add(append(bytes.Clone(content[:ends[0]]), content[ends[1]:]...))
	f.Add([]byte(fileMagic))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		write(t, segmentPath(dir, 1), content)
		o := options(dir)
		q, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		if q.End().Ordinal > 1<<62 {
			return // there are no numbers left
		}
		add(t, q, "after")
		begin := q.Begin()
		var last position.Position
		all := readAll(t, q, q.Read(begin), begin)
		for _, i := range all {
			if i.at.Compare(last) <= 0 && !last.IsZero() {
				t.Fatalf("%v behind %v", i.at, last)
			}
			last = i.at
		}
		if len(all) == 0 || all[len(all)-1].text != "after" {
			t.Fatalf("%v", all)
		}
	})
}

func BenchmarkAppendMemory(b *testing.B) {
	o := options("")
	o.MaxBytes, o.WhenFull = 1<<30, Drop
	q := open(b, o)
	entry := bytes.Repeat([]byte("x"), 400)
	b.ReportAllocs()
	for b.Loop() {
		_ = q.Append(b.Context(), entry)
	}
}

func BenchmarkAppendDisk(b *testing.B) {
	o := options(b.TempDir())
	q := open(b, o)
	entry := bytes.Repeat([]byte("x"), 400)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := q.Append(b.Context(), entry); err != nil {
				b.Error(err)
				return
			}
			if rand.IntN(1000) == 0 {
				q.Passed("a", q.End())
			}
		}
	})
}
