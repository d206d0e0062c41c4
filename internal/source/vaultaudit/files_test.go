package vaultaudit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/tail"
)

// patterns makes the only input of s one with patterns, of files in its directory.
func (s *stand) patterns(names ...string) {
	var paths []string
	for _, name := range names {
		paths = append(paths, filepath.Join(s.dir, name))
	}
	s.config.Inputs = []Input{{Name: "test", Paths: paths}}
}

func quickScan(f *Source) { f.scanEvery = 10 * time.Millisecond }

// TestPatterns follows files that match, those that come later too, and after a restart.
func TestPatterns(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.patterns("audit-*.log")
	want := map[int]bool{}
	n := 0
	write := func(file string, lines int) {
		for range lines {
			appendTo(t, filepath.Join(s.dir, file), auditLine(n)+"\n")
			want[n] = true
			n++
		}
	}
	all := func(what string) {
		t.Helper()
		s.waitFor(what, func() bool { return len(lineEvents(t, s.journal)) >= len(want) })
	}
	s.start(quickScan)
	write("audit-a.log", 10)
	write("audit-b.log", 10)
	all("two files")
	write("audit-c.log", 10)
	write("audit-a.log", 10)
	all("a third one")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	write("audit-d.log", 10)
	write("audit-b.log", 10)
	s.start(quickScan)
	all("what came meanwhile")
	write("audit-e.log", 10)
	all("a fifth one")
	s.waitFor("stats", func() bool { st := s.file.TailStats("test"); return st.Behind == 0 && st.Lines == 30 })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	checkUnion(t, s.journal, want)
}

// TestPatternsFromEnd shows that only what is there at the first start is passed over.
func TestPatternsFromEnd(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.patterns("audit-*.log")
	s.config.Inputs[0].From = tail.End
	old := filepath.Join(s.dir, "audit-a.log")
	appendTo(t, old, auditLines(0, 10))
	s.start(quickScan)
	s.waitFor("position", func() bool {
		position, _ := s.stored()
		return position != nil && s.file.open.Load() == 1
	})
	appendTo(t, filepath.Join(s.dir, "audit-b.log"), auditLines(10, 20))
	s.waitLines(10)
	appendTo(t, old, auditLines(20, 30))
	s.waitLines(20)
	s.restart()
	appendTo(t, old, auditLines(30, 40))
	s.waitLines(30)
	want := map[int]bool{}
	for n := 10; n < 40; n++ {
		want[n] = true
	}
	checkUnion(t, s.journal, want)
}

// TestRotatedFilesMatch rotates a log whose rotated files match the pattern too, in
// every way, also between two runs: no line is read twice, and none is missed.
func TestRotatedFilesMatch(t *testing.T) {
	t.Parallel()
	for _, manner := range []string{"shift", "dated", "copytruncate"} {
		t.Run(manner, func(t *testing.T) {
			t.Parallel()
			const rounds, lines = 24, 120
			rnd := rand.New(rand.NewPCG(5, uint64(len(manner))))
			s := newStand(t)
			s.patterns("audit.log*")
			rotate := func(round int) {
				var err error
				switch manner {
				case "shift":
					for k := round; k > 0 && err == nil; k-- {
						err = os.Rename(fmt.Sprintf("%s.%d", s.path, k), fmt.Sprintf("%s.%d", s.path, k+1))
					}
					if err == nil {
						err = os.Rename(s.path, s.path+".1")
					}
				case "dated":
					err = os.Rename(s.path, fmt.Sprintf("%s-202611%02d", s.path, round+1))
				default:
					var b []byte
					if b, err = os.ReadFile(s.path); err == nil {
						err = os.WriteFile(fmt.Sprintf("%s-202611%02d", s.path, round+1), b, 0o600)
					}
					if err == nil {
						err = os.Truncate(s.path, 0)
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			s.start(s.bare, quickScan)
			for round := range rounds {
				s.write(auditLines(round*lines, (round+1)*lines))
				if manner == "copytruncate" || rnd.IntN(3) > 0 {
					s.waitLines((round + 1) * lines)
				}
				stopped := rnd.IntN(4) == 0
				if stopped {
					if err := s.stop(); err != nil {
						t.Fatal(err)
					}
				}
				rotate(round)
				if stopped {
					s.start(s.bare, quickScan)
				}
			}
			s.waitLines(rounds * lines)
			// The files are looked at some more times, and by another process.
			for range 2 {
				time.Sleep(100 * time.Millisecond)
				if err := s.stop(); err != nil {
					t.Fatal(err)
				}
				s.start(s.bare, quickScan)
			}
			time.Sleep(300 * time.Millisecond)
			if n := len(lineEvents(t, s.journal)); n != rounds*lines {
				t.Fatalf("%d lines, want %d; log\n%s", n, rounds*lines, &s.log)
			}
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// bare takes away what recognises entries that came already, so that only what is known
// of files keeps them from being read twice.
func (s *stand) bare(f *Source) { f.window = nil }

// TestCompressedFilesMatch shows that they are told of and not read.
func TestCompressedFilesMatch(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.patterns("audit.log*")
	appendTo(t, s.path+".2.gz", "\x1f\x8b")
	s.write(auditLines(0, 10))
	s.start(quickScan)
	s.waitLines(10)
	s.waitFor("a message", func() bool { return len(s.log.String()) > 0 && s.file.Stats().Lines == 10 })
	checkExactlyOnce(t, s.journal, 10)
	if err := s.file.Health(); err != nil {
		t.Error(err)
	}
}

// TestDeletedFileIsLeft shows that a file which matched and was deleted is not held open
// for ever, and that nothing of it stays in the record.
func TestDeletedFileIsLeft(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.patterns("audit-*.log")
	path := filepath.Join(s.dir, "audit-a.log")
	appendTo(t, path, auditLines(0, 10))
	s.start(quickScan, func(f *Source) { f.linger = 50 * time.Millisecond })
	s.waitLines(10)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s.waitFor("the end", func() bool { return s.file.open.Load() == 0 })
	appendTo(t, path, auditLines(10, 20)) // another one
	s.waitLines(20)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	checkExactlyOnce(t, s.journal, 20)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s.start(quickScan)
	s.waitFor("a file that is gone", func() bool { return s.file.TailStats("test").Missing == 1 && s.file.open.Load() == 0 })
	if err := s.file.Health(); err != nil {
		t.Error(err)
	}
}
