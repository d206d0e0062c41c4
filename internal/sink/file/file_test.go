//go:build unix

package file

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

func open(t testing.TB, o Options) *Sink {
	t.Helper()
	o.Format = format.Format(orDefault(string(o.Format), "cloudevents"))
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

func send(t testing.TB, s *Sink, first, n int) {
	t.Helper()
	b := &deliver.Batch{Items: delivertest.Events(first, n)}
	for i, r := range b.Results(s.Send(context.Background(), b)) {
		if r.Outcome != deliver.Delivered {
			t.Fatalf("event %d: %s, %s", first+i, r.Outcome, r.Reason)
		}
	}
}

// refused sends an event and returns why it could not be written.
func refused(t testing.TB, s *Sink) string {
	t.Helper()
	r := s.Send(context.Background(), &deliver.Batch{Items: delivertest.Events(0, 1)})
	if r.Outcome != deliver.Retry || r.Reason == "" {
		t.Fatalf("%+v", r)
	}
	return r.Reason
}

// wantEvents checks that a file and those that were moved away have n ordinary events, in order.
func wantEvents(t testing.TB, path string, n int) {
	t.Helper()
	lines, whole := readAll(t, path)
	if len(lines) != n || !whole {
		t.Errorf("%d lines (ended: %v), want %d", len(lines), whole, n)
		return
	}
	for i, item := range delivertest.Events(0, n) {
		if e, err := event.ParseCloudEvent(lines[i]); err != nil || e.ID != item.Event.ID {
			t.Errorf("line %d: %v %.200s", i, err, lines[i])
			return
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// eventually waits for what another goroutine does.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for begun := time.Now(); !done(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("%s has not happened", what)
		}
	}
}

// names returns the files in a directory.
func names(t testing.TB, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// TestRepair: what a crash leaves at the end is never glued to what comes, and only half an
// event is removed.
func TestRepair(t *testing.T) {
	item := delivertest.Events(0, 1)[0]
	line := func(f format.Format) string {
		b, err := f.AppendLine(nil, item)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	begins := map[string]string{"begin": line(format.Raw)[:3]}
	for _, f := range []format.Format{format.CloudEvents, format.Vault, format.Flipt, format.Raw, "begin"} {
		begin := begins[string(f)]
		if begin != "" {
			f = format.Raw
		}
		whole := line(f)
		for name, tt := range map[string]struct{ before, after string }{
			"empty":              {"", ""},
			"whole":              {whole + "\n", whole + "\n"},
			"without newline":    {whole, whole + "\n"},
			"half":               {whole + "\n" + whole[:len(whole)/2], whole + "\n"},
			"one character":      {whole + "\n" + whole[:1], whole + "\n"},
			"all but one":        {whole + "\n" + whole[:len(whole)-1], whole + "\n"},
			"half, alone":        {whole[:len(whole)/2], ""},
			"zeros":              {whole + "\n" + strings.Repeat("\x00", 5000), whole + "\n"},
			"somebody else's":    {"# notes", "# notes\n"},
			"somebody's JSON":    {`{"mine":1`, `{"mine":1` + "\n"},
			"half and zeros":     {whole + "\n" + whole[:50] + "\x00\x00", whole + "\n"},
			"long before":        {strings.Repeat("x", 200<<10) + "\n" + whole[:40], strings.Repeat("x", 200<<10) + "\n"},
			"a long half":        {whole + "\n" + whole[:40] + strings.Repeat("y", 200<<10), whole + "\n"},
			"line break of a CR": {"a\r", "a\r\n"},
		} {
			if f == format.Raw && begin == "" && tt.after != tt.before && name != "zeros" { // a half cannot be told
				tt.after = tt.before + "\n"
			}
			path := filepath.Join(t.TempDir(), "f")
			write(t, path, tt.before)
			s := open(t, Options{Path: path, Format: f, Begin: begin})
			send(t, s, 0, 1)
			if got, want := read(t, path), tt.after+whole+"\n"; got != want {
				t.Errorf("%s, %s: got %.300q, want %.300q", f, name, got, want)
			}
		}
	}
}

func TestModeAndDirectories(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "f.jsonl")
	send(t, open(t, Options{Path: path, Mode: 0o644}), 0, 1)
	syscall.Umask(0)
	for name, want := range map[string]fs.FileMode{path: 0o644, filepath.Join(dir, "a"): fs.ModeDir | 0o700, filepath.Join(dir, "a", "b"): fs.ModeDir | 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, want)
		}
	}
	other := filepath.Join(dir, "c", "f.jsonl")
	send(t, open(t, Options{Path: other}), 0, 1)
	for name, want := range map[string]fs.FileMode{other: 0o640, filepath.Dir(other): fs.ModeDir | 0o750} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, want)
		}
	}
	// The mode of a file that is there is left alone.
	there := filepath.Join(dir, "there")
	write(t, there, "")
	send(t, open(t, Options{Path: there, Mode: 0o644}), 0, 1)
	if info, err := os.Stat(there); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// TestNotAFile: what is no regular file is not written to.
func TestNotAFile(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	write(t, target, "untouched\n")
	if err := errors.Join(
		os.Symlink(target, filepath.Join(dir, "link")), os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "dangling")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Mkdir(filepath.Join(dir, "directory"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"link": "it is a symbolic link; set the path to what that points to", "dangling": "it is a symbolic link",
		"fifo": "it is no regular file", "directory": "it is a directory; name a file in it", "target/f": "not a directory",
	} {
		if got := refused(t, open(t, Options{Path: filepath.Join(dir, name)})); !strings.Contains(got, want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := read(t, target); got != "untouched\n" {
		t.Errorf("the target of a link has %q", got)
	}
}

// TestBelow: links that are made later do not lead out of the directory.
func TestBelow(t *testing.T) {
	dir := t.TempDir()
	below, outside := filepath.Join(dir, "below"), filepath.Join(dir, "outside")
	for _, d := range []string{below, outside} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Options{Path: filepath.Join(below, "x", "y", "f"), Below: below, RotateBytes: 1})
	send(t, s, 0, 1)
	send(t, s, 1, 1)
	wantEvents(t, filepath.Join(below, "x", "y", "f"), 2)
	_ = s.Close()
	if err := errors.Join(os.RemoveAll(filepath.Join(below, "x")), os.Symlink(outside, filepath.Join(below, "x"))); err != nil {
		t.Fatal(err)
	}
	if got := refused(t, open(t, Options{Path: filepath.Join(below, "x", "f"), Below: below})); !strings.Contains(got, "escapes") {
		t.Errorf("got %s", got)
	}
	if list := names(t, outside); len(list) > 0 {
		t.Errorf("outside there is %q", list)
	}
	for _, path := range []string{filepath.Join(dir, "f"), below, filepath.Join(below, "..", "f"), below + "x/f"} {
		if _, err := New(Options{Path: path, Below: below, Format: format.Raw}); err == nil || !strings.Contains(err.Error(), "is not below") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestOneWriter: two sinks do not write to one file.
func TestOneWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	first, second := open(t, Options{Path: path}), open(t, Options{Path: path})
	send(t, first, 0, 1)
	if got := refused(t, second); !strings.Contains(got, "another sink or process writes to it") {
		t.Errorf("got %s", got)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	send(t, second, 1, 1)
	wantEvents(t, path, 2)
}

// TestMovedAway is what logrotate does, with and without a signal.
func TestMovedAway(t *testing.T) {
	for name, reopen := range map[string]bool{"noticed": false, "told": true} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			o := Options{Path: path, lookEvery: 1}
			if reopen {
				o.lookEvery = time.Hour
			}
			s := open(t, o)
			send(t, s, 0, 2)
			next := func(how string) {
				t.Helper()
				if reopen {
					if err := s.Reopen(); err != nil {
						t.Fatalf("%s: %v", how, err)
					}
				}
			}
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			next("moved")
			send(t, s, 2, 2)
			if n := strings.Count(read(t, path+".1"), "\n"); n != 2 {
				t.Errorf("%d events are in the file that was moved", n)
			}
			if n := strings.Count(read(t, path), "\n"); n != 2 {
				t.Errorf("%d events are in the new file", n)
			}
			// copytruncate
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			next("truncated")
			send(t, s, 4, 1)
			if text := read(t, path); strings.Count(text, "\n") != 1 || strings.Contains(text, "\x00") {
				t.Errorf("after a truncation there is %q", text)
			}
			// Removed, replaced.
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			next("removed")
			send(t, s, 5, 1)
			write(t, path+".new", "of another\n")
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
			next("replaced")
			send(t, s, 6, 1)
			if text := read(t, path); !strings.HasPrefix(text, "of another\n{") || strings.Count(text, "\n") != 2 {
				t.Errorf("after it was replaced there is %q", text)
			}
			// The whole directory.
			dir := filepath.Dir(path)
			if err := os.Rename(dir, dir+".away"); err != nil {
				t.Fatal(err)
			}
			next("directory moved")
			send(t, s, 7, 1)
			if n := strings.Count(read(t, path), "\n"); n != 1 {
				t.Errorf("%d events are in the new directory", n)
			}
		})
	}
}

func TestRotateBySize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.jsonl")
	const most = 4000
	s := open(t, Options{Path: path, RotateBytes: most})
	for i := range 40 {
		send(t, s, i*3, 3)
	}
	list := names(t, filepath.Dir(path))
	if len(list) < 5 || !slices.IsSorted(list) {
		t.Fatalf("files: %q", list)
	}
	for _, name := range list {
		if info, err := os.Stat(filepath.Join(filepath.Dir(path), name)); err != nil || info.Size() > most || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info.Size(), err)
		}
		if m, part, ok := parseMoved("f.jsonl", name); name != "f.jsonl" && (!ok || part || m.gzip || time.Since(m.at).Abs() > time.Minute) {
			t.Errorf("%s is not understood", name)
		}
	}
	wantEvents(t, path, 120)
	// After a restart it goes on with the file that there is.
	_ = s.Close()
	s = open(t, Options{Path: path, RotateBytes: most})
	for i := 40; i < 50; i++ {
		send(t, s, i*3, 3)
	}
	wantEvents(t, path, 150)
}

// TestBatchLargerThanAFile: it is in a file of its own.
func TestBatchLargerThanAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	s := open(t, Options{Path: path, RotateBytes: 4096})
	send(t, s, 0, 1)
	send(t, s, 1, 100)
	send(t, s, 101, 1)
	if list := names(t, filepath.Dir(path)); len(list) != 3 {
		t.Errorf("files: %q", list)
	}
	wantEvents(t, path, 102)
}

func TestRotateByAge(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	s := open(t, Options{Path: path, RotateAge: 1200 * time.Millisecond})
	send(t, s, 0, 3)
	// Nobody writes, and still it is moved away.
	eventually(t, "the rotation", func() bool { return len(names(t, filepath.Dir(path))) == 2 })
	send(t, s, 3, 3)
	wantEvents(t, path, 6)
	if got := strings.Count(read(t, path), "\n"); got != 3 {
		t.Errorf("%d events are in the new file", got)
	}
	// Its age is that of the file, not of the process.
	_ = s.Close()
	time.Sleep(1300 * time.Millisecond)
	s = open(t, Options{Path: path, RotateAge: 1200 * time.Millisecond})
	send(t, s, 6, 1)
	if got := strings.Count(read(t, path), "\n"); got != 1 {
		t.Errorf("%d events are in the new file after a restart", got)
	}
	wantEvents(t, path, 7)
}

// TestNoOverwrites: names that are taken are not used, and names stay in order when the clock
// is set back.
func TestNoOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	future := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	write(t, path+"."+future.Format(stampLayout), "old\n")
	write(t, path+"."+future.Add(1).Format(stampLayout)+gzipSuffix, "older")
	// A directory has the next name.
	if err := os.Mkdir(path+"."+future.Add(2).Format(stampLayout), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Path: path, RotateBytes: 1})
	for i := range 5 {
		send(t, s, i, 1)
	}
	if read(t, path+"."+future.Format(stampLayout)) != "old\n" || read(t, path+"."+future.Add(1).Format(stampLayout)+gzipSuffix) != "older" {
		t.Error("a file was overwritten")
	}
	for i, n := range []time.Duration{3, 4, 5, 6} {
		if text := read(t, path+"."+future.Add(n).Format(stampLayout)); !strings.Contains(text, delivertest.Events(i, 1)[0].Event.ID) {
			t.Errorf("file %d is %s", i, text)
		}
	}
}

// TestCannotRotate: a file that cannot be moved away grows on, and that is said.
func TestCannotRotate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("n", 250)) // the name with the time is too long
	var log bytes.Buffer
	s := open(t, Options{Path: path, RotateBytes: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for i := range 5 {
		send(t, s, i, 1)
	}
	_ = s.Close()
	if list := names(t, dir); len(list) != 1 {
		t.Errorf("files: %q", list)
	}
	wantEvents(t, path, 5)
	if got := log.String(); strings.Count(got, "It grows on") != 1 {
		t.Errorf("log: %s", got)
	}
}

func TestGzip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	s := open(t, Options{Path: path, RotateBytes: 1, Gzip: true, Mode: 0o604})
	for i := range 6 {
		send(t, s, i, 1)
	}
	packed := func() (n int) {
		for _, name := range names(t, filepath.Dir(path)) {
			switch m, part, ok := parseMoved("f", name); {
			case ok && (part || !m.gzip):
				return -1
			case ok:
				n++
			}
		}
		return n
	}
	eventually(t, "the compression", func() bool { return packed() == 5 })
	wantEvents(t, path, 6)
	for _, name := range names(t, filepath.Dir(path)) {
		if info, err := os.Stat(filepath.Join(filepath.Dir(path), name)); err != nil || info.Mode() != 0o604 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
}

// TestGzipAfterCrash: whatever moment a crash was at, the next process has every event once.
func TestGzipAfterCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	stamp := func(i int) string {
		return path + "." + time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC).Format(stampLayout)
	}
	lines := func(i int) string {
		b, err := format.CloudEvents.AppendLine(nil, delivertest.Events(i, 1)[0])
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	packed := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, text)
		_ = w.Close()
		return b.String()
	}
	write(t, stamp(0), lines(0))
	write(t, stamp(0)+partSuffix, "half of it")
	write(t, stamp(1), lines(1)) // complete, but the plain one is still there
	write(t, stamp(1)+gzipSuffix, packed(lines(1)))
	write(t, stamp(2)+gzipSuffix, packed(lines(2)))
	other := path + ".20260101T000000.5Z" // not ours
	write(t, other, "x")
	write(t, other+partSuffix, "x")
	conflict := stamp(3) // somebody else has compressed something of that name
	write(t, conflict, lines(3))
	write(t, conflict+gzipSuffix, packed("other\n"))
	var log bytes.Buffer
	s := open(t, Options{Path: path, RotateBytes: 1 << 20, Gzip: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	send(t, s, 4, 1)
	eventually(t, "tidying", func() bool {
		_, a := os.Stat(stamp(0))
		_, b := os.Stat(stamp(1))
		return errors.Is(a, fs.ErrNotExist) && errors.Is(b, fs.ErrNotExist)
	})
	_ = s.Close()
	if read(t, conflict) != lines(3) || read(t, conflict+gzipSuffix) != packed("other\n") || read(t, other) != "x" || read(t, other+partSuffix) != "x" {
		t.Error("a file of somebody else was changed")
	}
	if !strings.Contains(log.String(), "with other content; remove one of both") {
		t.Errorf("log: %s", log.String())
	}
	wantEvents(t, path, 5)
	if _, err := os.Stat(stamp(0) + partSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was left is there: %v", err)
	}
}

func TestKeep(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	now := time.Now().UTC()
	at := func(age time.Duration) string { return "f." + now.Add(-age).Format(stampLayout) }
	for _, name := range []string{at(50 * time.Hour), at(49*time.Hour) + gzipSuffix, at(3 * time.Hour), at(3*time.Hour) + gzipSuffix, at(2 * time.Hour), at(time.Hour)} {
		write(t, filepath.Join(dir, name), "")
	}
	others := []string{"f.1", "f.20260101", "g" + at(time.Hour)[1:], at(time.Hour) + ".bz2", "x"}
	for _, name := range others {
		write(t, filepath.Join(dir, name), "")
	}
	has := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	tidied := func(o Options, gone string) {
		t.Helper()
		o.Path = path
		s := open(t, o)
		send(t, s, 0, 1)
		eventually(t, "removal of "+gone, func() bool { return !has(gone) })
		_ = s.Close()
	}
	tidied(Options{KeepAge: 48 * time.Hour}, at(49*time.Hour)+gzipSuffix)
	for name, want := range map[string]bool{at(50 * time.Hour): false, at(3 * time.Hour): true, at(time.Hour): true} {
		if has(name) != want {
			t.Errorf("%s is there: %v", name, !want)
		}
	}
	tidied(Options{Keep: 2}, at(3*time.Hour)+gzipSuffix)
	for name, want := range map[string]bool{at(3 * time.Hour): false, at(2 * time.Hour): true, at(time.Hour): true} {
		if has(name) != want {
			t.Errorf("%s is there: %v", name, !want)
		}
	}
	for _, name := range append(others, "f") {
		if !has(name) {
			t.Errorf("%s is gone", name)
		}
	}
}

func TestSyncPolicies(t *testing.T) {
	for policy, want := range map[Sync][2]int{SyncProgress: {0, 1}, SyncAlways: {3, 3}, SyncNever: {0, 0}} {
		d := newDisk(t, Options{Sync: policy})
		s := open(t, d.options)
		for i := range 3 {
			send(t, s, i, 1)
		}
		before := d.syncs
		for range 2 { // the second one has nothing to do
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := [2]int{before, d.syncs}; got != want {
			t.Errorf("%s: synced %v times, want %v", policy, got, want)
		}
		_ = s.Close()
	}
}

// TestSyncFails: whoever relies on it is told once, also when the file was closed meanwhile,
// or nobody listened.
func TestSyncFails(t *testing.T) {
	failing := &fs.PathError{Op: "sync", Path: "f", Err: syscall.EIO}
	d := newDisk(t, Options{})
	s := open(t, d.options)
	fail := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.noSync = failing
	}
	told := func(how string) {
		t.Helper()
		if err := s.Sync(t.Context()); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "events.jsonl") {
			t.Errorf("%s: %v", how, err)
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Errorf("%s, again: %v", how, err)
		}
	}
	send(t, s, 0, 1)
	fail()
	told("sync")
	send(t, s, 1, 1)
	fail()
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	told("reopened")
	send(t, s, 2, 1)
	fail()
	out := s.o.Path + ".away"
	if err := os.Rename(s.o.Path, out); err != nil {
		t.Fatal(err)
	}
	send(t, s, 3, 1)
	told("moved away")
	// Nobody waits for the answer.
	send(t, s, 4, 1)
	j := job{do: func(*output) error { return failing }, heard: true, reply: make(chan error), gone: make(chan struct{})}
	close(j.gone)
	s.jobs <- j
	told("not heard")
	// The file is closed while it is synced.
	send(t, s, 5, 1)
	d.mu.Lock() // Sync waits
	synced := make(chan error, 1)
	go func() { synced <- s.Sync(t.Context()) }()
	reopened := make(chan error, 1)
	go func() { reopened <- s.Reopen() }()
	d.noSync = failing // of one of both
	d.mu.Unlock()
	if err := errors.Join(<-synced, <-reopened, s.Sync(t.Context())); !errors.Is(err, syscall.EIO) {
		t.Errorf("while it is closed: %v", err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}

	always := newDisk(t, Options{Sync: SyncAlways})
	s2 := open(t, always.options)
	send(t, s2, 0, 1)
	always.noSync = failing
	if got := refused(t, s2); !strings.Contains(got, "input/output error; look into the log of the system") {
		t.Errorf("reason: %s", got)
	}
	send(t, s2, 1, 1)
	wantEvents(t, always.options.Path, 2)
}

func TestImpossible(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	s := open(t, Options{Path: path, Format: format.Flipt})
	b := &deliver.Batch{Items: delivertest.Events(0, 3)}
	b.Items[1].Event = &event.Event{Type: "flipt/flag/created", Data: []byte("{}")}
	results := b.Results(s.Send(t.Context(), b))
	if results[0].Outcome != deliver.Delivered || results[1].Outcome != deliver.Impossible || results[1].Reason == "" || results[2].Outcome != deliver.Delivered {
		t.Errorf("%+v", results)
	}
	only := &deliver.Batch{Items: b.Items[1:2]}
	if r := only.Results(s.Send(t.Context(), only)); r[0].Outcome != deliver.Impossible {
		t.Errorf("%+v", r)
	}
	if n := strings.Count(read(t, path), "\n"); n != 2 {
		t.Errorf("%d lines", n)
	}
}

func TestNewRefuses(t *testing.T) {
	good := Options{Path: "/tmp/a", Format: format.Vault}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"path is missing":               func(o *Options) { o.Path = "" },
		"is a directory":                func(o *Options) { o.Path = "/tmp/" },
		"path / is a directory":         func(o *Options) { o.Path = "/" },
		"not printable":                 func(o *Options) { o.Path = "/tmp/a\nb" },
		`unknown format "x"`:            func(o *Options) { o.Format = "x" },
		"none of progress":              func(o *Options) { o.Sync = "daily" },
		"must be permissions":           func(o *Options) { o.Mode = 0o400 },
		"must be permissions, with":     func(o *Options) { o.Mode = fs.ModeSetuid | 0o600 },
		"unknown format \"\"; it is on": func(o *Options) { o.Format = "" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if got := reason(errors.New(strings.Repeat("é", 1000))); len(got) > deliver.MaxReasonBytes || len(got) < deliver.MaxReasonBytes-4 {
		t.Errorf("%d bytes", len(got))
	}
}

func FuzzRepair(f *testing.F) {
	for _, text := range []string{"", "x", "a\nb", `{"specversion":"1.0","id":"`, "\x00\x00", `{"specversion":"1.0","id":""}`, "{\n\n\r"} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, "f")
		_ = os.Remove(path)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, Options{Path: path, Sync: SyncNever})
		send(t, s, 0, 1)
		_ = s.Close()
		got := read(t, path)
		line, _ := format.CloudEvents.AppendLine(nil, delivertest.Events(0, 1)[0])
		before, ok := strings.CutSuffix(got, string(line)+"\n")
		if !ok || before != "" && before[len(before)-1] != '\n' {
			t.Fatalf("%q became %q", text, got)
		}
		kept := text[:bytes.LastIndexByte(text, '\n')+1]
		if !strings.HasPrefix(before, string(kept)) || len(before) > len(text)+1 {
			t.Fatalf("%q became %q", text, before)
		}
	})
}

func FuzzParseMoved(f *testing.F) {
	f.Add("f.20261127T060207.123456789Z")
	f.Add("f.20261127T060207.123456789Z.gz.part")
	f.Fuzz(func(t *testing.T, name string) {
		m, part, ok := parseMoved("f", name)
		if !ok {
			return
		}
		want := "f." + m.at.Format(stampLayout)
		if part {
			want += partSuffix
		} else if m.gzip {
			want += gzipSuffix
		}
		if name != want {
			t.Errorf("%q is read as %+v", name, m)
		}
	})
}

// TestMovedWhileOpened: a file that another process moves away while it is opened gets nothing:
// that process may remove it.
func TestMovedWhileOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	moved := false
	s := open(t, Options{Path: path, wrap: func(h handle) handle {
		if !moved {
			moved = true
			if err := os.Rename(path, path+".away"); err != nil {
				t.Error(err)
			}
		}
		return h
	}})
	if reason := refused(t, s); !strings.Contains(reason, "somebody else has moved it away") {
		t.Error(reason)
	}
	send(t, s, 0, 3)
	wantEvents(t, path, 3)
	if away, err := os.ReadFile(path + ".away"); err != nil || len(away) > 0 {
		t.Errorf("%d bytes were written to the file that was moved away: %v", len(away), err)
	}
}
