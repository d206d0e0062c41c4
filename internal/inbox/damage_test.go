package inbox

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// small makes a spool of two files with lines of every kind of record, and returns the
// content of the files and the lines.
func small(t testing.TB) (files map[string][]byte, want []string) {
	t.Helper()
	dir := t.TempDir()
	o := Options{Dir: dir, SegmentBytes: 4 << 10, MaxBytes: 64 << 10, MemoryBytes: 16 << 10}
	x := open(t, o)
	for i, text := range []string{"zero", "one", strings.Repeat("two", 1200), "three", strings.Repeat("four", 200), "five"} {
		put(t, x, text)
		want = append(want, text)
		if i == 3 { // something is dropped in the middle
			x.mu.Lock()
			x.drop(lines("a", "bc"), time.Now().UnixNano())
			x.mu.Unlock()
			x.wakeWriter()
		}
		if err := x.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, x)
	return spoolFiles(t, dir), want
}

func spoolFiles(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// readAll reads a spool with these files, adds a line to it, and returns what comes. It fails
// for anything that was not put in, or is out of order.
func readAll(t testing.TB, files map[string][]byte, want []string) (got []string, lost []Lost, kept []string) {
	t.Helper()
	d := newSimDisk(nil)
	for name, content := range files {
		if name != lockFile {
			d.files[name] = &simFile{d: d, live: slices.Clone(content), stored: slices.Clone(content)}
		}
	}
	x, err := Open(Options{Dir: t.TempDir(), disk: d, SegmentBytes: 4 << 10, MaxBytes: 64 << 10, MemoryBytes: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, x)
	put(t, x, "new")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var b Batch
	rest := append(slices.Clone(want), "new")
	for len(rest) > 0 {
		if err := x.Read(ctx, &b); err != nil {
			t.Fatalf("after %d lines: %v", len(got), err)
		}
		if b.Lost != nil {
			lost = append(lost, *b.Lost)
		}
		for _, l := range b.Lines {
			i := slices.Index(rest, string(l.Data))
			if i < 0 {
				t.Fatalf("%.20q after %d lines", l.Data, len(got))
			}
			rest = rest[i+1:]
			got = append(got, string(l.Data))
		}
		x.Release(b.After())
	}
	shut(t, x)
	for name := range d.files {
		if strings.HasSuffix(name, damagedSuffix) {
			kept = append(kept, name)
		}
	}
	return got, lost, kept
}

// step goes through a file byte by byte, and, where there are mostly data, faster if time is
// short.
func step(at int) int {
	if at < 500 || os.Getenv("TOCSIN_FAULT_ROUNDS") != "" {
		return 1
	}
	return 9
}

func count(lost []Lost, reason Reason) (places, lines int) {
	for _, l := range lost {
		if l.Reason == reason {
			places, lines = places+1, lines+int(l.Lines)
		}
	}
	return places, lines
}

func TestUndamaged(t *testing.T) {
	files, want := small(t)
	if len(files) != 4 {
		t.Errorf("%d files", len(files))
	}
	got, lost, kept := readAll(t, files, want)
	if len(got) != len(want)+1 || len(kept) > 0 || len(lost) != 1 || lost[0].Lines != 2 || lost[0].Bytes != 3 {
		t.Errorf("%d lines, %+v, %q", len(got), lost, kept)
	}
}

// Files that end anywhere: the lines in front of the cut come, the others do not, and
// nothing else does.
func TestCut(t *testing.T) {
	t.Parallel()
	files, want := small(t)
	for name, content := range files {
		if !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		for _, sealed := range []bool{true, false} {
			whole := slices.Clone(content)
			if !sealed {
				clear(whole[headerBlock : 2*headerBlock])
			}
			used := len(bytes.TrimRight(whole, "\x00"))
			for cut := 0; cut < used; cut += step(cut) {
				for _, zeros := range []bool{true, false} {
					if sealed && !zeros && step(1000) > 1 {
						continue
					}
					damaged := maps1(files)
					damaged[name] = slices.Clone(whole[:cut])
					if zeros {
						damaged[name] = append(damaged[name], make([]byte, len(whole)-cut)...)
					}
					got, lost, _ := readAll(t, damaged, want)
					full, _ := count(lost, Full)
					_, missing := count(lost, Damaged)
					// What is missing at the end of the epoch is told only by what was sealed.
					if n := len(got) - 1 + missing + 2*full; n > len(want)+2 || sealed && cut > segmentHeader && zeros && n < len(want)+2 {
						t.Fatalf("%s cut at %d, sealed %v, zeros %v: %d lines, %+v", name, cut, sealed, zeros, len(got), lost)
					}
				}
			}
		}
	}
}

func maps1(files map[string][]byte) map[string][]byte {
	clone := make(map[string][]byte)
	for name, content := range files {
		clone[name] = content
	}
	return clone
}

// Whatever byte is changed: nothing comes that was not put in, and what is missing is told
// and kept aside.
func TestFlipped(t *testing.T) {
	t.Parallel()
	files, want := small(t)
	for name, content := range files {
		if !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		for at := 0; at < len(content); at += step(at) {
			damaged := maps1(files)
			damaged[name] = slices.Clone(content)
			damaged[name][at] ^= 0x20
			got, lost, kept := readAll(t, damaged, want)
			full, _ := count(lost, Full)
			places, _ := count(lost, Damaged)
			if missing := len(want) + 1 - len(got) + 1 - full; missing > 0 && (places == 0 || len(kept) != 1) {
				t.Fatalf("%s changed at %d: %d lines, %+v, %q", name, at, len(got), lost, kept)
			}
		}
	}
}

// Without the file of the epochs, or with a damaged one, positions still grow.
func TestEpochFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, epochName)
	var last Position
	var before []byte
	for name, damage := range map[string]func(){
		"gone":     func() { os.Remove(path) },
		"empty":    func() { os.WriteFile(path, nil, 0o600) },
		"garbage":  func() { os.WriteFile(path, []byte(strings.Repeat("x", 1024)), 0o600) },
		"half":     func() { b, _ := os.ReadFile(path); copy(b[epochBlock:], "garbage"); os.WriteFile(path, b, 0o600) },
		"other":    func() { b, _ := os.ReadFile(path); copy(b, "garbage"); os.WriteFile(path, b, 0o600) },
		"the last": func() { os.WriteFile(path, before, 0o600) },
		"nothing":  func() {},
	} {
		x := open(t, Options{Dir: dir})
		at := put(t, x, "x")
		if at.Compare(last) <= 0 {
			t.Errorf("%v after %v", at, last)
		}
		last = at
		shut(t, x)
		var err error
		if before, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		damage()
		x = open(t, Options{Dir: dir})
		if at := put(t, x, "x"); at.Compare(last) <= 0 {
			t.Errorf("%s: %v after %v", name, at, last)
		} else {
			last = at
		}
		shut(t, x)
	}
}

// A spool that is not the one that was read, as after somebody removed the directory or
// brought back an old one: all that came since is read, also when it came before the
// reader, and what was in the other one is told to be lost.
func TestSeekElsewhere(t *testing.T) {
	for _, c := range []struct {
		name    string
		restore bool // of a copy of the directory
		restart bool // before the reader comes
	}{{"removed", false, false}, {"brought back", true, false}, {"removed and opened twice", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			dir, saved := filepath.Join(t.TempDir(), "spool"), filepath.Join(t.TempDir(), "saved")
			x := open(t, Options{Dir: dir})
			put(t, x, "saved")
			_, at := read(t, x, 1)
			x.Release(at)
			shut(t, x)
			if err := os.CopyFS(saved, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			x = open(t, Options{Dir: dir})
			put(t, x, "one", "two")
			if err := x.Seek(at); err != nil {
				t.Fatal(err)
			}
			_, at = read(t, x, 2)
			shut(t, x)

			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if c.restore {
				if err := os.Rename(saved, dir); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Millisecond) // nobody is so fast
			x = open(t, Options{Dir: dir})
			end := put(t, x, "first", "second", "third", "fourth")
			if c.restart {
				shut(t, x)
				x = open(t, Options{Dir: dir})
			}
			if err := x.Seek(at); err != nil {
				t.Fatal(err)
			}
			x.Release(at) // that is stored
			got, after := read(t, x, 4)
			if strings.Join(got, " ") != "first second third fourth" || after != end {
				t.Errorf("%q, then %v, want %v", got, after, end)
			}
			if !c.restart { // then nobody knows
				if lost, _ := readLost(t, x); lost.Reason != Damaged || lost.Lines != 0 {
					t.Errorf("%+v", lost)
				}
			}
			shut(t, x)
		})
	}
}

// A position that this inbox never had is that of another one: it releases nothing.
func TestPositionOfAnother(t *testing.T) {
	x := open(t, Options{Dir: t.TempDir()})
	if err := x.Seek(Position{math.MaxInt64, 1000}); err != nil {
		t.Fatal(err)
	}
	if lost, _ := readLost(t, x); lost.Reason != Damaged {
		t.Errorf("%+v", lost)
	}
	put(t, x, "first")
	read(t, x, 1)
	x.Release(Position{math.MaxInt64, 1000})
	if s := x.Stats(); s.DiskLines != 1 {
		t.Errorf("%+v", s)
	}
	if err := x.Durable(t.Context(), Position{math.MaxInt64, 1000}); err == nil || errors.Is(err, context.Canceled) {
		t.Error("what was never put is durable")
	}
	shut(t, x)
}

// What a recycled file still holds is never read again, even where it would fit.
func TestRecycled(t *testing.T) {
	o := Options{Dir: t.TempDir(), SegmentBytes: 4 << 10, MaxBytes: 32 << 10, ReserveBytes: 16 << 10, WhenFull: Block}
	d := newSimDisk(nil)
	next := func() *Inbox {
		o.disk = d
		return open(t, o)
	}
	x := next()
	var last Position
	for range 400 { // each a record of its own, all of the same size
		put(t, x, strings.Repeat("x", 100))
		_, last = read(t, x, 1)
		x.Release(last)
	}
	shut(t, x)
	for range 5 {
		x = next()
		if err := x.Seek(last); err != nil {
			t.Fatal(err)
		}
		put(t, x, strings.Repeat("y", 100))
		if err := x.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		killed := d.kill()
		shut(t, x)
		d = killed
		x = next()
		if err := x.Seek(last); err != nil {
			t.Fatal(err)
		}
		put(t, x, "end")
		var got []string
		for len(got) < 2 {
			var b Batch
			if err := x.Read(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			if b.Lost != nil && b.Lost.Reason != Crash {
				t.Fatalf("%+v", b.Lost)
			}
			for _, l := range b.Lines {
				got = append(got, string(l.Data))
			}
			last = b.After()
		}
		if got[0] != strings.Repeat("y", 100) || got[1] != "end" {
			t.Fatalf("%q", got)
		}
		x.Release(last)
		shut(t, x)
	}
}

// A file that a process made is durable when the next one says so, though only the first
// knew that its name was not.
func TestNamesAreSynced(t *testing.T) {
	for seed := range uint64(20) {
		d := newSimDisk(rand.New(rand.NewPCG(seed, 0)))
		o := Options{Dir: t.TempDir(), SegmentBytes: 4 << 10, MaxBytes: 32 << 10, ReserveBytes: 32 << 10, SyncInterval: time.Hour, disk: d}
		x := open(t, o)
		put(t, x, "line")
		_, _ = read(t, x, 1) // it is in a file
		killed := d.kill()
		o.disk = killed
		shut(t, x)
		x = open(t, o)
		if err := x.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.disk = killed.cutPower()
		shut(t, x)
		x = open(t, o)
		if got, _ := read(t, x, 1); got[0] != "line" {
			t.Fatalf("%q", got)
		}
		shut(t, x)
	}
}

// FuzzSegment: whatever is in a file, opening and reading the spool ends, and yields only
// what has the right checksums.
func FuzzSegment(f *testing.F) {
	files, _ := small(f)
	for name, content := range files {
		if strings.HasSuffix(name, segmentSuffix) {
			f.Add(content)
			f.Add(content[:200])
			unsealed := slices.Clone(content)
			clear(unsealed[headerBlock : 2*headerBlock])
			f.Add(unsealed)
			huge := slices.Clone(content)
			huge[segmentHeader+30] = 0xff
			f.Add(huge)
		}
	}
	f.Add([]byte(segmentMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 64<<10 {
			return
		}
		d := newSimDisk(nil)
		d.files[segmentName(1)] = &simFile{d: d, live: slices.Clone(content), stored: slices.Clone(content)}
		x := open(t, Options{Dir: t.TempDir(), disk: d, SegmentBytes: 4 << 10, MaxBytes: 128 << 10, MemoryBytes: 16 << 10})
		put(t, x, "new")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var b Batch
		var size int
		for range len(content) + 10 {
			if err := x.Read(ctx, &b); err != nil {
				t.Fatal(err)
			}
			for _, l := range b.Lines {
				size += len(l.Data)
				if string(l.Data) == "new" && b.After() == (Position{x.epoch, x.queue.next}) {
					if size > len(content)+3 {
						t.Fatalf("%d bytes of lines in a file of %d", size, len(content))
					}
					shut(t, x)
					return
				}
			}
			x.Release(b.After())
		}
		t.Fatal("it does not end")
	})
}

// FuzzRecord: every part of the format by itself.
func FuzzRecord(f *testing.F) {
	l := lines("some", "", "line")
	var payload []byte
	for i := range l {
		payload = appendLine(payload, &l[i])
	}
	f.Add(payload)
	f.Add(appendPart(nil, &l[0], 1, 3))
	f.Add(appendLost(nil, &Lost{Lines: 1, Bytes: 2}))
	f.Add((&header{nonce: 1, epoch: 1}).encode())
	f.Add((&content{end: segmentHeader}).encode(0))
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest := b; ; {
			l, next, ok := cutLine(rest)
			if !ok {
				break
			}
			if len(l.Data) > len(rest) || l.Size < 0 || len(next) >= len(rest) {
				t.Fatalf("%+v of %d bytes", l, len(rest))
			}
			rest = next
		}
		if p, ok := parsePart(b); ok && p.offset+int64(len(p.data)) > p.length {
			t.Fatalf("%+v", p)
		}
		_, _ = parseLost(b, 1)
		if h, ok := parseHeader(b); ok {
			if c, ok := parseContent(b[headerBlock:], &h, 1<<20); ok && (c.end > 1<<20 || c.next < h.first) {
				t.Fatalf("%+v", c)
			}
		}
		if r, err := parseRecord(b, 1); err == nil && r.length > maxPayload {
			t.Fatalf("%+v", r)
		}
	})
}
