package spool

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func open(t *testing.T, dir string, segmentBytes int64) (*Spool, []*Damage) {
	t.Helper()
	s, damage, err := Open(Options{Dir: dir, SegmentBytes: segmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, damage
}

func put(t *testing.T, s *Spool, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := s.Append(1+strings.Count(p, ","), []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
}

// all takes everything that is waiting, without saying that it is done.
func all(t *testing.T, s *Spool) (batches []*Batch, text string) {
	t.Helper()
	var parts []string
	for {
		b, damage := s.Take(nil, 1<<20, 1<<20)
		if damage != nil {
			t.Fatal(damage)
		}
		if b == nil {
			return batches, strings.Join(parts, ",")
		}
		batches = append(batches, b)
		parts = append(parts, string(b.Payload))
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != lockFile {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestSpool(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for it")
	s, damage := open(t, dir, 0)
	if len(damage) > 0 || s.Waiting() != 0 {
		t.Fatal(damage, s.Waiting())
	}
	if b, damage := s.Take(nil, 100, 100); b != nil || damage != nil {
		t.Error("a new spool is not empty")
	}
	put(t, s, "1", "2,3", "4")
	if s.Waiting() != 4 {
		t.Errorf("%d wait", s.Waiting())
	}
	first, _ := s.Take([]byte("["), 3, 100)
	if string(first.Payload) != "[1" || first.Events != 1 {
		t.Errorf("%q, %d events", first.Payload, first.Events)
	}
	rest, _ := s.Take(nil, 1, 1) // at least one record
	if string(rest.Payload) != "2,3" || rest.Events != 2 {
		t.Errorf("%q, %d events", rest.Payload, rest.Events)
	}
	if err := s.Done(rest); err != nil {
		t.Fatal(err)
	}
	s.Close()

	// The first was not done, the last was not taken.
	s, _ = open(t, dir, 0)
	if s.Waiting() != 2 {
		t.Errorf("%d wait", s.Waiting())
	}
	put(t, s, "5")
	batches, text := all(t, s)
	if text != "1,4,5" {
		t.Errorf("%q", text)
	}
	for _, b := range batches {
		if err := s.Done(b); err != nil {
			t.Error(err)
		}
	}
	s.Close()
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("%q are left", names)
	}
	if s.Append(1, []byte("x")) == nil || s.Done(first) == nil {
		t.Error("it works after Close")
	}
}

func TestBadAppend(t *testing.T) {
	s, _ := open(t, t.TempDir(), 0)
	for _, events := range []int{-1, 0, 3} {
		if s.Append(events, []byte("12")) == nil {
			t.Errorf("%d events in two bytes", events)
		}
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, 0)
	if _, _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	s.Close()
	open(t, dir, 0)
}

// Random use, with restarts, against a list. What is done must not come back, everything
// else must, in order, and the space must be freed.
func TestAgainstList(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		dir := t.TempDir()
		s, _ := open(t, dir, 500)
		var model []string // not done, in order
		waiting := 0       // the last so many of them were not taken
		var out []*Batch   // taken
		outText := map[*Batch]string{}
		next := 0
		for range 300 {
			switch random.IntN(6) {
			case 0, 1, 2:
				p := fmt.Sprintf("event %d%s", next, strings.Repeat("x", random.IntN(100)))
				next++
				put(t, s, p)
				model = append(model, p)
				waiting++
			case 3:
				b, damage := s.Take(nil, random.IntN(300), 1+random.IntN(5))
				if damage != nil {
					t.Fatal(damage)
				}
				if (b == nil) != (waiting == 0) {
					t.Fatalf("%d wait, and it took %v", waiting, b)
				}
				if b == nil {
					continue
				}
				want := strings.Join(model[len(model)-waiting:][:b.Events], ",")
				if string(b.Payload) != want {
					t.Fatalf("it took %q, want %q", b.Payload, want)
				}
				waiting -= b.Events
				out = append(out, b)
				outText[b] = want
			case 4:
				if len(out) == 0 {
					continue
				}
				i := random.IntN(len(out))
				if err := s.Done(out[i]); err != nil {
					t.Fatal(err)
				}
				for _, p := range strings.Split(outText[out[i]], ",") {
					model = slices.DeleteFunc(model, func(s string) bool { return s == p })
				}
				out = slices.Delete(out, i, i+1)
			case 5:
				if random.IntN(5) > 0 {
					continue
				}
				s.Close()
				var damage []*Damage
				if s, damage = open(t, dir, 500); len(damage) > 0 {
					t.Fatal(damage)
				}
				out, waiting = nil, len(model)
			}
			if s.Waiting() != waiting {
				t.Fatalf("%d wait, want %d", s.Waiting(), waiting)
			}
			var size int64
			for _, name := range files(t, dir) {
				info, err := os.Stat(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				size += info.Size()
			}
			if size != s.Bytes() {
				t.Fatalf("%d bytes are used, it says %d", size, s.Bytes())
			}
		}
		batches, _ := all(t, s)
		for _, b := range append(out, batches...) {
			if err := s.Done(b); err != nil {
				t.Fatal(err)
			}
		}
		if s.Bytes() > 500 {
			t.Errorf("%d bytes are used for nothing", s.Bytes())
		}
		s.Close()
		if names := files(t, dir); len(names) > 0 {
			t.Fatalf("%q are left", names)
		}
	}
}

// segmentWith returns the content of a file with these records.
func segmentWith(payloads ...string) []byte {
	b := []byte(fileMagic)
	for _, p := range payloads {
		b = append(appendHeader(b, 1+strings.Count(p, ","), []byte(p)), p...)
	}
	return b
}

// A file that a crash cut off anywhere has its complete records, and is no damage.
func TestTorn(t *testing.T) {
	whole := segmentWith("one", "two,too", "three")
	for cut := range len(whole) + 1 {
		for name, tail := range map[string][]byte{"cut": nil, "zeros": make([]byte, 100)} {
			dir := t.TempDir()
			content := append(slices.Clone(whole[:cut]), tail...)
			if err := os.WriteFile(filepath.Join(dir, "0000000000000001.spool"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, damage := open(t, dir, 0)
			want := "one,two,too,three"
			for n, p := range []string{"", "one", "one,two,too"} {
				if cut < len(segmentWith([]string{"one", "two,too", "three"}[:n+1]...)) {
					want = p
					break
				}
			}
			// Zeros in the middle of a header or behind one cannot be told from damage.
			if len(damage) > 0 && name == "cut" {
				t.Errorf("cut at %d: %v", cut, damage)
			}
			var text string
			for {
				b, damage := s.Take(nil, 1000, 1000)
				if damage != nil {
					if name == "cut" {
						t.Errorf("cut at %d: %v", cut, damage)
					}
					continue
				}
				if b == nil {
					break
				}
				if text != "" {
					text += ","
				}
				text += string(b.Payload)
			}
			if text != want {
				t.Errorf("%s at %d: %q, want %q", name, cut, text, want)
			}
			s.Close()
		}
	}
}

// Whatever byte is changed: no record comes out that did not go in, none comes twice or
// out of order, and what is missing is told and kept.
func TestFlipped(t *testing.T) {
	payloads := []string{"one", "two,too", "three", "four"}
	whole := segmentWith(payloads...)
	for at := range whole {
		dir := t.TempDir()
		content := slices.Clone(whole)
		content[at] ^= 0x20
		path := filepath.Join(dir, "0000000000000001.spool")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, damage := open(t, dir, 0)
		told := len(damage)
		var batches []*Batch
		var got []string
		for {
			b, d := s.Take(nil, 1, 1)
			if d != nil {
				told++
				continue
			}
			if b == nil {
				break
			}
			batches = append(batches, b)
			got = append(got, string(b.Payload))
		}
		rest := payloads
		for _, g := range got {
			i := slices.Index(rest, g)
			if i < 0 {
				t.Fatalf("byte %d changed: %q", at, got)
			}
			rest = rest[i+1:]
		}
		lastPayload := at >= len(whole)-len("four")
		if len(got) < len(payloads) && told == 0 && !lastPayload {
			t.Errorf("byte %d changed: only %q, and nothing is told", at, got)
		}
		for _, b := range batches {
			if err := s.Done(b); err != nil {
				t.Error(err)
			}
		}
		s.Close()
		kept, err := os.ReadFile(path + damagedSuffix)
		if told > 0 && err != nil {
			kept, err = os.ReadFile(path)
		}
		if told > 0 && (err != nil || len(kept) != len(content)) {
			t.Errorf("byte %d changed: the file is not kept: %v", at, err)
		}
	}
}

// A record that cannot be read between others costs only itself.
func TestDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	content := segmentWith("one", "two,too", "three")
	content[bytes.Index(content, []byte("two"))] = 'T'
	path := filepath.Join(dir, "0000000000000001.spool")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, dir, 0)
	put(t, s, "four")
	first, _ := s.Take(nil, 100, 100)
	if string(first.Payload) != "one" {
		t.Errorf("%q", first.Payload)
	}
	_, damage := s.Take(nil, 100, 100)
	if damage == nil || damage.Events != 2 || !errors.Is(damage, errChecksum) || !strings.Contains(damage.Error(), "2 events") {
		t.Fatal(damage)
	}
	last, _ := s.Take(nil, 100, 100)
	if string(last.Payload) != "three,four" || s.Waiting() != 0 {
		t.Errorf("%q, %d wait", last.Payload, s.Waiting())
	}
	if err := errors.Join(s.Done(first), s.Done(last)); err != nil {
		t.Error(err)
	}
	s.Close()
	if names := files(t, dir); !slices.Equal(names, []string{"0000000000000001.spool.damaged"}) {
		t.Errorf("left are %q", names)
	}
	if damage.Path != path+damagedSuffix {
		t.Errorf("it says %s", damage.Path)
	}
}

// A disk that fails loses only what was not acknowledged, and is used again.
func TestAppendFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s, _ := open(t, dir, 1) // a file for each record
	put(t, s, "1")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(1, []byte("2")); err == nil {
		t.Fatal("it appends to a directory that is not there")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	put(t, s, "3")
	if _, text := all(t, s); text != "1,3" {
		t.Errorf("%q", text)
	}
	// A write that fails in the middle of a file.
	s.Close()
	s, _ = open(t, dir, 1<<20)
	put(t, s, "4")
	s.active.file.Close()
	if err := s.Append(1, []byte("5")); err == nil {
		t.Fatal("it writes to a file that is closed")
	}
	put(t, s, "6")
	s.Close()
	s, _ = open(t, dir, 1<<20)
	if _, text := all(t, s); text != "1,3,4,6" {
		t.Errorf("%q", text)
	}
}

// FuzzScan: whatever is in a file, opening and reading it ends, takes memory for what is
// there, and returns only what has the right checksums.
func FuzzScan(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte(fileMagic))
	f.Add(segmentWith("one", "two,too"))
	f.Add(segmentWith("one", "two,too")[:60])
	done := segmentWith("one", "two,too", "three")
	done[len(fileMagic)+stateOffset] = stateDone
	f.Add(done)
	f.Add(append(segmentWith("one"), make([]byte, 50)...))
	f.Add(append(segmentWith("one"), "garbage that is long enough for a header"...))
	huge := segmentWith("one")
	huge[len(fileMagic)+4+3] = 0x7f
	f.Add(huge)
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000000000001.spool"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, err := Open(Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		waiting, events := s.Waiting(), 0
		var batches []*Batch
		for range len(content) + 1 {
			b, damage := s.Take(nil, 1000, 1000)
			switch {
			case damage != nil:
				events += damage.Events
				continue
			case b == nil:
				if events != waiting || s.Waiting() != 0 {
					t.Fatalf("%d events waited, %d came, %d still wait", waiting, events, s.Waiting())
				}
			default:
				if len(b.Payload) > len(content) || b.Events < 1 || b.Events > len(b.Payload) {
					t.Fatalf("%d events in %d bytes of %d", b.Events, len(b.Payload), len(content))
				}
				events += b.Events
				batches = append(batches, b)
				continue
			}
			break
		}
		for _, b := range batches {
			if err := s.Done(b); err != nil {
				t.Fatal(err)
			}
		}
	})
}
