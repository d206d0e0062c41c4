package tail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scene is a directory with a log that is written by the test and followed by a
// Tailer. Its time is that of a synctest bubble: waiting takes none.
type scene struct {
	*testing.T
	dir, path string
	tailer    *Tailer
	opts      Options
	got       []string // of Data, with a mark for what is not whole
	last      Checkpoint
	lossy     bool
	log       bytes.Buffer
	seq       int
}

// inScene runs test in a bubble.
func inScene(t *testing.T, test func(s *scene)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, dir: dir, path: filepath.Join(dir, "audit.log")}
		s.opts.Path = s.path
		s.opts.Logger = slog.New(slog.NewTextHandler(&s.log, nil))
		defer func() {
			if s.tailer != nil {
				s.tailer.Close()
			}
		}()
		test(s)
	})
}

// start begins to follow, at the checkpoint of a scene that was stopped.
func (s *scene) start() {
	s.Helper()
	s.opts.Checkpoint = s.last
	tl, err := New(s.opts)
	if err != nil {
		s.Fatal(err)
	}
	s.tailer = tl
}

// stop ends following, as a process that dies does. The checkpoint goes through JSON.
func (s *scene) stop() {
	s.Helper()
	s.tailer.Close()
	s.tailer = nil
	b, err := json.Marshal(s.last)
	if err != nil {
		s.Fatal(err)
	}
	s.last = Checkpoint{}
	if err := json.Unmarshal(b, &s.last); err != nil {
		s.Fatal(err)
	}
}

// settle reads until the tailer has had nothing for d.
func (s *scene) settle(d time.Duration) {
	s.Helper()
	for {
		ctx, cancel := context.WithTimeout(s.Context(), d)
		var b Batch
		err := s.tailer.Next(ctx, &b)
		cancel()
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				s.Fatal(err)
			}
			return
		}
		for i, l := range b.Lines {
			mark := [...]string{"", "torn:", "long:"}[l.Kind]
			s.got = append(s.got, mark+string(l.Data))
			if c := b.Through(i); i == len(b.Lines)-1 && !slices.Equal(c.Files, b.After().Files) {
				s.Errorf("checkpoint through the last line is %+v, behind the batch %+v", c, b.After())
			}
		}
		s.last = b.After()
		s.lossy = s.lossy || b.Lossy
	}
}

// text returns n lines, long and unlike those before.
func (s *scene) text(n int) string {
	var b strings.Builder
	for range n {
		s.seq++
		fmt.Fprintf(&b, "line %06d %s\n", s.seq, strings.Repeat(string(rune('a'+s.seq%26)), 100))
	}
	return b.String()
}

func (s *scene) write(name, text string) {
	s.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) do(errs ...error) {
	s.Helper()
	if err := errors.Join(errs...); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) rename(from, to string) {
	s.Helper()
	s.do(os.Rename(filepath.Join(s.dir, from), filepath.Join(s.dir, to)))
}

func (s *scene) copy(from, to string) {
	s.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, from))
	s.do(err, os.WriteFile(filepath.Join(s.dir, to), b, 0o600))
}

// expect compares all that came with texts.
func (s *scene) expect(texts ...string) {
	s.Helper()
	want := strings.Split(strings.TrimSuffix(strings.Join(texts, ""), "\n"), "\n")
	if len(texts) == 0 {
		want = nil
	}
	if slices.Equal(s.got, want) {
		return
	}
	short := func(lines []string) (out []string) {
		for _, l := range lines {
			out = append(out, fmt.Sprintf("%.16s", l))
		}
		return out
	}
	s.Fatalf("got %d lines %q\nwant %d lines %q\nlog:\n%s", len(s.got), short(s.got), len(want), short(want), &s.log)
}

const beat = 300 * time.Millisecond // a little more than the time between two checks

// TestRotations goes through every way in which a log is replaced while it is
// being followed.
func TestRotations(t *testing.T) {
	tests := map[string]func(s *scene){
		"rename and create": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log.1", b) // the writer has not noticed
			s.settle(beat)
			s.expect(a, b)
			s.write("audit.log", c)
			s.settle(beat)
			s.expect(a, b, c)
			s.settle(5 * time.Second)
			if n := len(s.last.Files); n != 1 {
				s.Errorf("still reads %d files", n)
			}
		},
		"late lines in the renamed file": func(s *scene) {
			a, b, late, c := s.text(20), s.text(20), s.text(20), s.text(3)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log", b)
			s.settle(beat)
			s.write("audit.log.1", late)
			s.write("audit.log", c)
			s.settle(beat)
			s.expect(a, b, late, c)
		},
		"new file is empty until the writer notices": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log", "") // logrotate's create
			s.settle(time.Minute)    // SIGHUP is late
			s.write("audit.log.1", b)
			s.settle(beat)
			s.write("audit.log", c)
			s.settle(beat)
			s.expect(a, b, c)
		},
		"order is kept when much is unread": func(s *scene) {
			a, b, c := s.text(20), s.text(30_000), s.text(20_000)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.write("audit.log", b)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log", c)
			s.settle(beat)
			s.expect(a, b, c)
		},
		"half a line at the end of the renamed file": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a+"half")
			s.start()
			s.settle(beat)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log", b)
			s.settle(5 * time.Second)
			s.expect(a, b, "torn:half")
		},
		"half a line that is completed after the rename": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a+"half")
			s.start()
			s.settle(beat)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log.1", "-whole\n")
			s.write("audit.log", b)
			s.settle(5 * time.Second)
			s.expect(a, "half-whole\n", b)
		},
		"several rotations between two looks": func(s *scene) {
			var want []string
			add := func(name string) {
				want = append(want, s.text(10))
				s.write(name, want[len(want)-1])
			}
			add("audit.log")
			s.start()
			s.settle(beat)
			for i := range 5 {
				add("audit.log")
				s.rename("audit.log", fmt.Sprintf("audit-2026-11-21T06-00-0%d.000.log", i))
				add("audit.log")
			}
			s.settle(beat)
			s.expect(want...)
			s.settle(5 * time.Second)
			s.expect(want...)
		},
		"numbered rotations between two looks": func(s *scene) {
			var want []string
			s.start()
			for i := range 6 {
				want = append(want, s.text(10))
				s.write("audit.log", want[i])
				if i == 0 {
					s.settle(beat)
				}
				for n := 9; n > 0; n-- {
					os.Rename(fmt.Sprintf("%s.%d", s.path, n), fmt.Sprintf("%s.%d", s.path, n+1))
				}
				s.rename("audit.log", "audit.log.1")
			}
			want = append(want, s.text(10))
			s.write("audit.log", want[6])
			s.settle(5 * time.Second)
			s.expect(want...)
		},
		"more rotations than files may be open": func(s *scene) {
			want := []string{s.text(1)}
			s.write("audit.log", want[0])
			s.start()
			s.settle(beat)
			for i := range 3 * maxOpen {
				s.rename("audit.log", fmt.Sprintf("audit.log-20261121%04d", i))
				want = append(want, s.text(1))
				s.write("audit.log", want[i+1])
			}
			s.settle(5 * time.Second)
			s.expect(want...)
		},
		"copytruncate": func(s *scene) {
			a, b, c := s.text(20), s.text(5), s.text(30)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.copy("audit.log", "audit.log.1")
			s.do(os.Truncate(s.path, 0))
			s.write("audit.log", b)
			s.settle(beat)
			s.expect(a, b)
			s.write("audit.log", c)
			s.settle(beat)
			s.expect(a, b, c)
			if st := s.tailer.Stats(); st.Truncations != 1 || st.Recovered != 0 {
				s.Errorf("stats %+v", st)
			}
			if !strings.Contains(s.log.String(), "truncated") || !s.lossy {
				s.Errorf("no warning, lossy %v: %s", s.lossy, &s.log)
			}
		},
		"copytruncate with unread lines": func(s *scene) {
			a, b, c := s.text(20), s.text(5), s.text(10)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.write("audit.log", b)
			s.copy("audit.log", "audit.log.1")
			s.do(os.Truncate(s.path, 0))
			s.write("audit.log", c)
			s.settle(5 * time.Second)
			s.expect(a, b, c)
			if st := s.tailer.Stats(); st.Truncations != 1 || st.Recovered != 1 {
				s.Errorf("stats %+v", st)
			}
		},
		"truncated and grown to the same size": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(1)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.do(os.Truncate(s.path, 0))
			s.write("audit.log", b)
			s.settle(beat)
			s.expect(a, b)
			s.write("audit.log", c)
			s.settle(beat)
			s.expect(a, b, c)
		},
		"truncated and grown beyond": func(s *scene) {
			a, b := s.text(20), s.text(2000)
			s.write("audit.log", a+"half")
			s.start()
			s.settle(beat)
			s.do(os.Truncate(s.path, 0))
			s.write("audit.log", b)
			s.settle(beat)
			s.expect(a, "torn:half\n", b)
		},
		"truncated under a writer that does not append": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.do(os.Truncate(s.path, 0))
			f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
			s.do(err)
			_, err = f.WriteAt([]byte(b), int64(len(a)))
			s.do(err, f.Close())
			s.settle(beat)
			s.expect(a, b)
			if st := s.tailer.Stats(); st.NULs != uint64(len(a)) {
				s.Errorf("%d NULs, want %d", st.NULs, len(a))
			}
		},
		"deleted and still written to": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a)
			f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0)
			s.do(err)
			defer f.Close()
			s.start()
			s.settle(beat)
			s.do(os.Remove(s.path))
			s.settle(beat)
			_, err = f.WriteString(b)
			s.do(err)
			s.settle(beat)
			s.expect(a, b)
			s.settle(goneAfter + time.Second)
			if err := s.tailer.Health(); err == nil || !strings.Contains(err.Error(), s.path) {
				s.Errorf("health %v", err)
			}
		},
		"deleted and created": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.do(os.Remove(s.path))
			s.write("audit.log", b)
			s.settle(5 * time.Second)
			s.expect(a, b)
			s.write("audit.log", a)
			s.settle(beat)
			s.expect(a, b, a)
		},
		"symbolic link that changes": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(5)
			s.write("one", a)
			s.do(os.Symlink("one", s.path))
			s.start()
			s.settle(beat)
			s.do(os.Remove(s.path), os.Symlink("two", s.path)) // leads nowhere yet
			s.write("one", b)
			s.settle(beat)
			s.write("two", c)
			s.settle(5 * time.Second)
			s.expect(a, b, c)
		},
		"renamed away and back": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log", b)
			s.settle(5 * time.Second)
			s.do(os.Remove(s.path))
			s.rename("audit.log.1", "audit.log")
			s.settle(5 * time.Second)
			s.write("audit.log", c)
			s.settle(beat)
			s.expect(a, b, c)
		},
		"replaced by a copy, as editors do": func(s *scene) {
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.copy("audit.log", "tmp")
			s.rename("tmp", "audit.log")
			s.settle(5 * time.Second)
			s.write("audit.log", b)
			s.settle(beat)
			s.expect(a, b)
		},
		"replaced by a directory for a while": func(s *scene) {
			a, b, c := s.text(20), s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.rename("audit.log", "audit.log.1")
			s.do(os.Mkdir(s.path, 0o700))
			s.write("audit.log.1", b)
			s.settle(beat)
			if err := s.tailer.Health(); err == nil || !strings.Contains(err.Error(), "is a directory") {
				s.Errorf("health %v", err)
			}
			s.do(os.Remove(s.path))
			s.write("audit.log", c)
			s.settle(5 * time.Second)
			s.expect(a, b, c)
			if err := s.tailer.Health(); err != nil {
				s.Errorf("health %v", err)
			}
		},
		"old rotated files and other logs beside it": func(s *scene) {
			s.write("audit.log.1", s.text(20))
			s.write("audit.log.2.gz", s.text(20))
			s.write("audit-http.log", s.text(20))
			a, b := s.text(20), s.text(20)
			s.write("audit.log", a)
			s.start()
			s.settle(beat)
			s.write("audit-http.log", s.text(20))
			s.rename("audit.log.1", "audit.log.2")
			s.rename("audit.log", "audit.log.1")
			s.write("audit.log", b)
			s.settle(5 * time.Second)
			s.expect(a, b)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { inScene(t, test) })
	}
}

func TestPartialLine(t *testing.T) {
	inScene(t, func(s *scene) {
		s.start()
		for _, piece := range []string{"a", "b", "c\r", "\n\n", "\x00\x00d", "e\nf"} {
			s.write("audit.log", piece)
			s.settle(beat)
		}
		s.expect("abc\n\nde\n")
		if off := s.last.Files[0].Offset; off != 11 {
			s.Errorf("offset %d, want 11", off)
		}
	})
}

func TestFrom(t *testing.T) {
	inScene(t, func(s *scene) {
		s.opts.From = End
		s.write("audit.log", strings.Repeat("x", 100_000)+"\nold\nhal")
		s.start()
		s.settle(beat)
		s.write("audit.log", "f\nnew\n")
		s.settle(beat)
		s.expect("half\nnew\n")
	})
	inScene(t, func(s *scene) {
		s.opts.From = End
		s.start()
		s.settle(beat)
		s.write("audit.log", "created later\n")
		s.settle(beat)
		s.expect("created later\n")
	})
	for _, o := range []Options{{}, {Path: "x", From: "middle"}} {
		if _, err := New(o); err == nil {
			t.Errorf("no error for %+v", o)
		}
	}
}

// TestTrouble shows that nothing but the end of the context ends a Tailer.
func TestTrouble(t *testing.T) {
	inScene(t, func(s *scene) {
		s.opts.Path = filepath.Join(s.dir, "sub", "audit.log")
		s.start()
		bad := func(want string) {
			s.Helper()
			s.settle(3 * time.Second)
			if err := s.tailer.Health(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), s.opts.Path) {
				s.Errorf("health %v, want one about %q", err, want)
			}
		}
		bad("no such file")
		s.do(os.Mkdir(filepath.Join(s.dir, "sub"), 0o700))
		bad("no such file")
		s.do(os.Mkdir(s.opts.Path, 0o700))
		bad("is a directory")
		s.do(os.Remove(s.opts.Path), os.Symlink(s.opts.Path, s.opts.Path))
		bad("too many levels of symbolic links")
		s.do(os.Remove(s.opts.Path), syscall.Mkfifo(s.opts.Path, 0o600))
		bad("not a regular file")
		s.do(os.Remove(s.opts.Path))
		s.write("sub/audit.log", "at last\n")
		s.settle(3 * time.Second)
		s.expect("at last\n")
		if err := s.tailer.Health(); err != nil {
			s.Errorf("health %v", err)
		}
		if n := strings.Count(s.log.String(), "cannot be followed for now"); n != 4 {
			s.Errorf("%d warnings, want one for each trouble:\n%s", n, &s.log)
		}
	})
}

func TestTooLong(t *testing.T) {
	inScene(t, func(s *scene) {
		s.opts.MaxLine = 50_000
		s.write("audit.log", "a\n"+strings.Repeat("b", 50_000)+"\n"+strings.Repeat("c", 50_001)+"\nd\n")
		s.start()
		s.settle(beat)
		s.expect("a\n", strings.Repeat("b", 50_000), "\nlong:", strings.Repeat("c", PrefixBytes), "\nd\n")
		s.write("audit.log", strings.Repeat("e", 60_000))
		s.settle(beat)
		s.stop() // in the middle of it
		s.start()
		s.write("audit.log", strings.Repeat("e", 60_000)+"\nf\n")
		s.settle(beat)
		s.expect("a\n", strings.Repeat("b", 50_000), "\nlong:", strings.Repeat("c", PrefixBytes), "\nd\nlong:", strings.Repeat("e", PrefixBytes), "\nf\n")
	})
}
