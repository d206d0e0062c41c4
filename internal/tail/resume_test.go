package tail

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestResume goes through what may happen to a log while no process follows it.
func TestResume(t *testing.T) {
	tests := map[string]func(s *scene){
		"nothing": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a+"ha")
			s.start()
			s.settle(beat)
			s.stop()
			s.write("audit.log", "lf\n"+b)
			s.start()
			s.settle(beat)
			s.expect(a, "half\n", b)
		},
		"before the first line": func(s *scene) {
			s.opts.From = End
			s.write("audit.log", "old\n")
			s.start()
			s.settle(beat)
			s.stop()
			s.write("audit.log", "new\n")
			s.start()
			s.settle(beat)
			s.expect("new\n")
		},
		"a short file has grown": func(s *scene) {
			s.write("audit.log", "a\n")
			s.start()
			s.settle(beat)
			s.stop()
			b := s.text(20)
			s.write("audit.log", b)
			s.start()
			s.settle(beat)
			s.expect("a\n", b)
		},
		"one rotation": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.stop()
			s.write("audit.log", b)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log", c)
			s.start()
			s.settle(5 * time.Second)
			s.expect(a, b, c)
		},
		"several rotations": func(s *scene) {
			s.write("audit.log.1", s.text(10)) // older than all that is ours
			a := s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.stop()
			want := []string{a}
			for range 4 {
				want = append(want, s.text(20))
				s.write("audit.log", want[len(want)-1])
				for n := 9; n > 0; n-- {
					os.Rename(fmt.Sprintf("%s.%d", s.path, n), fmt.Sprintf("%s.%d", s.path, n+1))
				}
				s.rename("audit.log", "audit.log.1")
			}
			want = append(want, s.text(20))
			s.write("audit.log", want[len(want)-1])
			s.start()
			s.settle(5 * time.Second)
			s.expect(want...)
		},
		"rotation and the new file not there yet": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.stop()
			s.write("audit.log", b)
			s.rename("audit.log", "audit.log.1")
			s.start()
			s.settle(beat)
			s.expect(a, b)
			s.write("audit.log", c)
			s.settle(beat)
			s.expect(a, b, c)
		},
		"stopped between a rotation and its end": func(s *scene) {
			a, b, c, d := s.text(20), s.text(20), s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log", b)
			s.settle(beat)
			s.stop()
			if n := len(s.last.Files); n != 2 {
				s.Fatalf("%d files in the checkpoint", n)
			}
			s.write("audit.log.1", c)
			s.write("audit.log", d)
			s.start()
			s.settle(5 * time.Second)
			s.expect(a, b, c, d)
		},
		"copytruncate": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(50)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.stop()
			s.write("audit.log", b)
			s.copy("audit.log", "audit.log.1")
			s.do(os.Truncate(s.path, 0))
			s.write("audit.log", c)
			s.start()
			s.settle(5 * time.Second)
			s.expect(a, b, c)
		},
		"truncated without a copy": func(s *scene) {
			a, c := s.text(20), s.text(50)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.stop()
			s.do(os.Truncate(s.path, 0))
			s.write("audit.log", c)
			s.start()
			s.settle(5 * time.Second)
			s.expect(a, c)
			if n := s.tailer.Stats().Missing; n != 1 {
				s.Errorf("%d files missing, want 1", n)
			}
		},
		"moved to another file system": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.stop()
			s.copy("audit.log", "tmp")
			s.rename("tmp", "audit.log") // another inode with the same content
			s.write("audit.log", b)
			s.start()
			s.settle(5 * time.Second)
			s.expect(a, b)
		},
		"rotated and compressed": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.stop()
			s.rename("audit.log", "audit.log.1.gz") // as far as names tell
			s.write("audit.log", b)
			s.do(os.Rename(s.path+".1.gz", s.path+".1"), os.WriteFile(s.path+".1.gz", []byte("x"), 0o600), os.Remove(s.path+".1"))
			s.start()
			s.settle(5 * time.Second)
			s.expect(a, b)
			if st := s.tailer.Stats(); st.Missing != 1 || st.Compressed != 1 {
				s.Errorf("stats %+v", st)
			}
			if !strings.Contains(s.log.String(), "audit.log.1.gz") {
				s.Errorf("log does not name the file:\n%s", &s.log)
			}
		},
		"missing directory": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.stop()
			away := s.dir + ".away"
			s.do(os.Rename(s.dir, away))
			s.start()
			s.settle(3 * time.Second)
			if err := s.tailer.Health(); err == nil {
				s.Error("healthy without a directory")
			}
			s.do(os.Rename(away, s.dir))
			s.write("audit.log", b)
			s.settle(3 * time.Second)
			s.expect(a, b)
			if st := s.tailer.Stats(); st.Missing != 0 {
				s.Errorf("stats %+v", st)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { inScene(t, test) })
	}
}

// TestReusedInode deletes and creates the file until it has its old inode number
// again, as file systems do.
func TestReusedInode(t *testing.T) {
	inScene(t, func(s *scene) {
		s.write("audit.log", s.text(20))
		s.start()
		s.settle(beat)
		s.stop()
		old := s.last.Files[0]
		var b string
		for try := 0; ; try++ {
			s.do(os.Remove(s.path))
			b = s.text(30)
			s.write("audit.log", b)
			info, err := os.Stat(s.path)
			s.do(err)
			if identify(info).sameInode(old.Identity) && info.Size() > old.Offset {
				break
			}
			if try == 1000 {
				s.Skip("this file system does not reuse inode numbers")
			}
			s.write(fmt.Sprintf("filler%d", try), "x")
		}
		s.got = nil
		s.start()
		s.settle(beat)
		s.expect(b)
	})
}

// TestHammer writes without pause and rotates under way in each manner, and counts
// that each line comes once and those of one file in order.
func TestHammer(t *testing.T) {
	const rotations, perFile = 60, 1000
	for _, manner := range []string{"dated names", "numbered names", "late signal"} {
		t.Run(manner, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "audit.log")
			tl, err := New(Options{Path: path, Check: 20 * time.Millisecond, Grace: 200 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer tl.Close()
			failed, opened := make(chan error, 1), make(chan struct{})
			go func() { failed <- hammer(opened, path, manner, rotations, perFile) }()
			defer func() {
				if t.Failed() {
					<-failed
				}
			}()
			want, ctx := 0, t.Context()
			var b Batch
			for want < rotations*perFile {
				if err := tl.Next(ctx, &b); err != nil {
					t.Fatal(err)
				}
				if want == 0 && len(b.Lines) > 0 {
					close(opened)
				}
				for _, l := range b.Lines {
					if got := string(l.Data[:8]); got != fmt.Sprintf("%08d", want) {
						t.Fatalf("line %s (kind %d) came where %d was due", got, l.Kind, want)
					}
					want++
				}
			}
			if err := <-failed; err != nil {
				t.Fatal(err)
			}
		})
	}
}

// hammer writes numbered lines to path, perFile into each of the given number of
// files. The first rotation waits until the file was opened.
func hammer(opened <-chan struct{}, path, manner string, files, perFile int) error {
	pad := strings.Repeat("x", 300)
	create := func() (*os.File, error) {
		return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	f, err := create()
	for n := 0; n < files*perFile && err == nil; n++ {
		_, err = fmt.Fprintf(f, "%08d %s\n", n, pad)
		file, line := n/perFile, n%perFile+1
		switch {
		case err != nil || file == files-1:
		case manner == "late signal" && line == perFile/2:
			if file == 0 {
				<-opened
			}
			err = os.Rename(path, fmt.Sprintf("%s.2026-11-21.%03d", path, file))
		case line < perFile:
		default:
			if file == 0 {
				<-opened
			}
			switch manner {
			case "dated names":
				err = os.Rename(path, fmt.Sprintf("%s-20261121%03d", path, file))
			case "numbered names":
				for k := file; k > 0; k-- {
					os.Rename(fmt.Sprintf("%s.%d", path, k), fmt.Sprintf("%s.%d", path, k+1))
				}
				err = os.Rename(path, path+".1")
			}
			f.Close()
			if err == nil {
				f, err = create()
			}
		}
	}
	if f != nil {
		f.Close()
	}
	return err
}
