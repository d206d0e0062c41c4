package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// several is a capture of some events, and where its blocks end.
func several() (file []byte, ends map[int]bool) {
	ends = make(map[int]bool)
	for _, b := range [][]byte{
		head, machine, block(0x999, []byte("12345678"), 0), inBlock(0x221, one, 0, 0), inBlock(0x216, two, 0, 0), inBlock(0x222, three, 0, 0, 0, 0, 0, 0),
		head, inBlock(0x221, one, 0, 0),
	} {
		file = append(file, b...)
		ends[len(file)] = true
	}
	return file, ends
}

// A capture that is cut anywhere gives what is whole before, and says that it is cut.
func TestTruncatedEverywhere(t *testing.T) {
	file, ends := several()
	whole := readAll(bytes.NewReader(file), ReaderOptions{}).events
	if len(whole) != 4 {
		t.Fatal(whole)
	}
	members := join(gzipped(t, file[:100]), gzipped(t, file[100:]))
	for name, tc := range map[string]struct {
		file []byte
		ends map[int]bool
	}{"plain": {file, ends}, "gzip": {members, map[int]bool{len(members): true}}} {
		before := 0
		for n := 2; n <= len(tc.file); n++ {
			g := readAll(iotest.HalfReader(bytes.NewReader(tc.file[:n])), ReaderOptions{})
			if len(g.events) < before || strings.Join(g.events, "\n") != strings.Join(whole[:len(g.events)], "\n") {
				t.Errorf("%s, %d bytes: %q", name, n, g.events)
			}
			before = len(g.events)
			if tc.ends[n] != (g.err == nil) || g.err != nil && !errors.Is(g.err, ErrTruncated) {
				t.Errorf("%s, %d bytes: %v", name, n, g.err)
			}
		}
		if before != len(whole) {
			t.Errorf("%s: %d events", name, before)
		}
	}
}

// Whatever byte is damaged, the reading ends, with an error that says what it is.
func TestDamagedEverywhere(t *testing.T) {
	file, _ := several()
	compressed := gzipped(t, join(file, bytes.Repeat([]byte("not a block "), 100)))
	noted := 0
	for name, file := range map[string][]byte{"plain": file, "gzip": compressed} {
		for i := range file {
			for _, by := range []byte{1, 0x80, 0xff} {
				b := bytes.Clone(file)
				b[i] ^= by
				g := readAll(bytes.NewReader(b), ReaderOptions{MaxBlockBytes: 1 << 20})
				if g.err == nil {
					continue
				}
				noted++
				located := new(Error)
				if !errors.As(g.err, &located) || !errors.Is(g.err, ErrMalformed) && !errors.Is(g.err, ErrTruncated) && !errors.Is(g.err, ErrUnsupported) && !errors.Is(g.err, ErrTooLarge) {
					t.Errorf("%s, byte %d: %v", name, i, g.err)
				}
			}
		}
	}
	if noted == 0 {
		t.Error("nothing was damaged")
	}
}

// Each section has a machine of its own, and what is counted is counted once.
func TestSections(t *testing.T) {
	thread := scapevent.Append(nil, 3, 10, nil)
	scapevent.Event(thread).SetThread(77)
	late := rawEvent(322, []uint32{4}, []byte{9, 0, 0, 0})
	binary.LittleEndian.PutUint64(late[8:], 78)
	r, err := NewReader(bytes.NewReader(join(
		head, machine, inBlock(0x221, thread, 1, 2), inBlock(0x222, one, 0, 0, 1, 0, 0, 0), inBlock(0x216, rawEvent(5, nil), 0, 0),
		head, block(0x202, nil, 0), inBlock(0x221, late, 0, 0), inBlock(0x221, rawEvent(454, nil), 0, 0))), ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		hostname string
		cpu      uint16
		thread   uint64
		number   uint64
	}{{"host", 0x201, 77, 1}, {"", 0, 78, 4}} {
		e, err := r.Next()
		if err != nil || e.Machine.Hostname != want.hostname || e.CPU != want.cpu || e.Thread() != want.thread || e.Number != want.number {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if got := r.Stats(); got != (Stats{Bytes: got.Bytes, Sections: 2, Events: 2, Hidden: 1, Foreign: 2, Blocks: 2}) {
		t.Errorf("%+v", got)
	}
}

// idle has nothing to read and does not say so.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestNoProgress(t *testing.T) {
	if g := readAll(io.MultiReader(bytes.NewReader(join(head, inBlock(0x221, one, 0, 0))), idle{}), ReaderOptions{}); len(g.events) != 1 || !errors.Is(g.err, io.ErrNoProgress) {
		t.Errorf("%+v", g)
	}
}

// endless is zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Lengths that promise much take no memory before it comes, and what is not looked at takes none
// at all.
func TestMemory(t *testing.T) {
	const size = 512 << 20
	for name, tc := range map[string]struct {
		in   io.Reader
		most uint64
		want error
	}{
		"event that ends":  {bytes.NewReader(join(head, appendBlockHeader(nil, blockEventLarge, 100<<20), make([]byte, 1<<20))), 8 << 20, ErrTruncated},
		"unknown block":    {io.MultiReader(bytes.NewReader(join(head, appendBlockHeader(nil, 0x999, size))), endless{}), 4 << 20, ErrMalformed},
		"event of 100 MiB": {io.MultiReader(bytes.NewReader(join(head, appendBlockHeader(nil, blockEventLarge, 100<<20))), endless{}), 230 << 20, ErrMalformed},
	} {
		var g got
		if n := allocated(func() { g = readAll(tc.in, ReaderOptions{}) }); n > tc.most || !errors.Is(g.err, tc.want) {
			t.Errorf("%s: %d bytes, %v", name, n, g.err)
		}
	}
}

// few reads few bytes at a time.
type few struct{ in io.Reader }

func (r few) Read(p []byte) (int, error) { return r.in.Read(p[:min(len(p), 512)]) }

// A large event that comes in small pieces is not copied with each of them.
func TestSmallReads(t *testing.T) {
	e := scapevent.Append(nil, 3, 12, bytes.Repeat([]byte("x"), 60<<20))
	start := time.Now()
	r, err := NewReader(few{bytes.NewReader(join(head, inBlock(0x221, one, 0, 0), inBlock(0x221, e, 0, 0), inBlock(0x221, two, 0, 0)))}, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]byte{one, e, two} {
		if got, err := r.Next(); err != nil || !bytes.Equal(got.Event, want) {
			t.Fatalf("%v", err)
		}
	}
	if len(r.mem) > readBytes && cap(r.buf) > readBytes {
		t.Errorf("%d bytes are kept", len(r.mem))
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

func mode(t *testing.T, name string) os.FileMode {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// Nobody else can read a capture, also if it replaces a file that others can, or one behind
// a link; and a device is written to as it is.
func TestReplace(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	write := func(name string, replace bool) error {
		w, err := Create(name, replace, WriterOptions{})
		if err != nil {
			return err
		}
		err = w.Write(one)
		if synced := w.Sync(); err == nil {
			err = synced
		}
		if closed := w.Close(); err == nil {
			err = closed
		} else if closed != err {
			t.Errorf("%s: Close returns %v, not %v again", name, closed, err)
		}
		return err
	}
	if err := write(filepath.Join(dir, "new"), false); err != nil || mode(t, filepath.Join(dir, "new")) != 0o600 {
		t.Error(err, mode(t, filepath.Join(dir, "new")))
	}
	if err := os.WriteFile(target, bytes.Repeat([]byte("old "), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	if err := write(link, false); !errors.Is(err, os.ErrExist) {
		t.Error(err)
	}
	if err := write(link, true); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(target); err != nil || !bytes.Equal(b, join(head, inBlock(0x221, one, 0, 0))) || mode(t, target) != 0o600 {
		t.Errorf("%x %v %v", b, err, mode(t, target))
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
	if _, err := Create(dir, true, WriterOptions{}); !errors.Is(err, syscall.EISDIR) {
		t.Error(err)
	}
	// Whoever was first.
	late := filepath.Join(dir, "late")
	w, err := Create(late, false, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(late, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(one), w.Close()); !errors.Is(err, os.ErrExist) {
		t.Error(err)
	}
	if b, err := os.ReadFile(late); err != nil || string(b) != "theirs" {
		t.Errorf("%q %v", b, err)
	}
	if err := write(filepath.Join(target, "x"), false); err == nil {
		t.Error("a file in a file")
	}
	if runtime.GOOS != "linux" {
		return
	}
	if err := write("/dev/full", true); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if err := write("/dev/null", true); err != nil || mode(t, "/dev/null").IsRegular() {
		t.Error(err)
	}
}

// What does not fit on the disk leaves a capture of what does.
func TestDiskFull(t *testing.T) {
	for _, suffix := range []string{"", ".gz"} {
		name := filepath.Join(t.TempDir(), "c.scap"+suffix)
		process := exec.Command("sh", "-c", `ulimit -f 1001 && exec "$0"`, os.Args[0])
		process.Env = append(os.Environ(), childEnv+"="+name)
		var said, failed bytes.Buffer
		process.Stdout, process.Stderr = &said, &failed
		if err := process.Run(); err == nil || !strings.Contains(failed.String(), "file too large") {
			t.Fatalf("%v: %s", err, failed.String())
		}
		flushed := 0
		for line := range strings.Lines(said.String()) {
			fmt.Sscan(line, &flushed)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		g := readAll(f, ReaderOptions{})
		f.Close()
		if flushed == 0 || len(g.events) < flushed || g.err != nil {
			t.Errorf("%d events are there of %d, %v", len(g.events), flushed, g.err)
		}
	}
}

// Events of all sizes and times come back as they were, in blocks that are laid out as they should.
func TestLayout(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out, WriterOptions{Machine: &Machine{Hostname: "h"}})
	var events [][]byte
	for size := range 70 {
		events = append(events, scapevent.Append(nil, uint32(size), 1<<63+uint64(size), bytes.Repeat([]byte{0xff}, size)),
			scapevent.AppendAsync(nil, 1<<31, 0, strings.Repeat("n", size), nil))
	}
	for _, e := range events {
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b := out.Bytes()[len(head)+len(machine):]
	for i, e := range events {
		total := int(binary.LittleEndian.Uint32(b[4:]))
		if binary.LittleEndian.Uint32(b) != 0x221 || total%4 != 0 || total-len(e) < 14 || total-len(e) > 17 ||
			int(binary.LittleEndian.Uint32(b[total-4:])) != total || b[8] != 0 || b[9] != 0 || !bytes.Equal(b[10:10+len(e)], e) ||
			len(bytes.Trim(b[10+len(e):total-4], "\x00")) != 0 {
			t.Fatalf("event %d: %x", i, b[:total])
		}
		b = b[total:]
	}
	if len(b) != 0 {
		t.Errorf("%x is left", b)
	}
}
