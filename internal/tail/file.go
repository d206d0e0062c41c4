package tail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// errTruncated says that a file no longer begins with what it began with, or is
// shorter than what was read of it.
var errTruncated = errors.New("file was truncated")

// file is one open file that is being read.
type file struct {
	f     *os.File
	name  string // what it was opened as; a rotation may have renamed it since
	id    Identity
	head  []byte // its first bytes, up to headBytes, as far as they were there
	size  int64  // when last asked
	links uint64 // names that it has; 0 once deleted
	split splitter

	limit  int64     // a newer file is read up to here before the older ones are asked again
	active time.Time // when it was opened or last had something new
	passed time.Time // when a newer file first had something; zero before
	atEnd  bool      // the last read found no more
	retry  backoff   // after a failed read
}

// openFile opens the regular file at name for reading from offset on.
func openFile(name string, offset int64, maxLine int, now time.Time) (*file, error) {
	// Without O_NONBLOCK the open of a named pipe would wait for a writer.
	h, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := &file{f: h, name: name, split: newSplitter(offset, maxLine), active: now}
	info, err := h.Stat()
	if err == nil {
		err = checkRegular(name, info)
	}
	if err == nil {
		f.note(info)
		err = f.checkHead()
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return f, nil
}

// checkRegular refuses what has no offsets to come back to.
func checkRegular(name string, info fs.FileInfo) error {
	switch m := info.Mode(); {
	case m.IsRegular():
		return nil
	case m.IsDir():
		return fmt.Errorf("%s is a directory, not a file", name)
	default:
		return fmt.Errorf("%s is not a regular file (%v) and cannot be followed", name, m.Type())
	}
}

// identify returns device, inode and modification time of a file.
func identify(info fs.FileInfo) Identity {
	id := Identity{Modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Device, id.Inode = uint64(st.Dev), uint64(st.Ino)
	}
	return id
}

// note takes over what fstat says.
func (f *file) note(info fs.FileInfo) {
	head := f.id.Head
	f.id = identify(info)
	f.id.Head = head
	f.size = info.Size()
	f.links = 1
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.links = uint64(st.Nlink)
	}
}

// stat asks for the state of the file. It returns errTruncated when what was read
// is no longer there.
func (f *file) stat() error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	f.note(info)
	if f.size < f.split.end {
		return errTruncated
	}
	return f.checkHead()
}

// checkHead compares the beginning of the file with what it was, and remembers
// more of it while it grows. It returns errTruncated when it differs.
func (f *file) checkHead() error {
	var b [headBytes]byte
	n, err := f.f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case n < len(f.head) || !bytes.Equal(b[:len(f.head)], f.head):
		return errTruncated
	case n > len(f.head):
		f.head = append(f.head, b[len(f.head):n]...)
		f.id.Head = fingerprint(f.head)
	}
	return nil
}

// read reads once, not beyond limit, and appends the lines that are complete now.
// It returns errTruncated, and takes nothing, when the file is no longer the one
// that it was.
func (f *file) read(lines []Line, limit int64, now time.Time) ([]Line, error) {
	space := f.split.space()
	if rest := limit - f.split.end; rest < int64(len(space)) {
		space = space[:max(rest, 0)]
	}
	n, err := f.f.ReadAt(space, f.split.end)
	f.atEnd = n < len(space) || len(space) == 0
	if err != nil && !errors.Is(err, io.EOF) {
		f.atEnd = true
		if n == 0 {
			return lines, err
		}
	}
	if n == 0 {
		return lines, nil
	}
	// The file may have been truncated and refilled beyond our offset just before
	// the read. It can be told only afterwards, and then for certain: whoever sees
	// new bytes at the offset sees the new beginning too.
	if err := f.checkHead(); err != nil {
		return lines, err
	}
	f.active = now
	return f.split.cut(lines, n), nil
}

// restart makes f begin anew after a truncation.
func (f *file) restart() error {
	f.split = newSplitter(0, f.split.maxLine)
	f.head, f.id.Head, f.limit = nil, Fingerprint{}, 0
	return f.checkHead()
}

// reopen replaces the descriptor, which a network file system may have made
// stale, when the name still leads to the same file.
func (f *file) reopen(now time.Time) error {
	g, err := openFile(f.name, 0, f.split.maxLine, now)
	if err != nil {
		return err
	}
	if !g.id.sameInode(f.id) || !f.id.Head.matches(g.head) {
		g.f.Close()
		return fmt.Errorf("%s is another file now", f.name)
	}
	f.f.Close()
	f.f = g.f
	return nil
}

// position returns where f is to be read on.
func (f *file) position() Position { return Position{Identity: f.id, Offset: f.split.done} }

// is reports whether f is the file of p, unchanged as far as p has seen it.
func (f *file) is(p Position) bool {
	return f.id.sameInode(p.Identity) && p.Head.matches(f.head)
}

// copyOf reports whether f surely has the content of p, under another inode.
func (f *file) copyOf(p Identity) bool {
	return !f.id.sameInode(p) && p.Head.full() && p.Head.matches(f.head)
}

// seekLastLine moves to the begin of the last line of f if that is not ended yet,
// else to the end.
func (f *file) seekLastLine() error {
	end := f.size
	var b [32 << 10]byte
	for end > 0 {
		n := min(end, int64(len(b)))
		if _, err := f.f.ReadAt(b[:n], end-n); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if i := bytes.LastIndexByte(b[:n], '\n'); i >= 0 {
			end = end - n + int64(i) + 1
			break
		}
		end -= n
	}
	f.split = newSplitter(end, f.split.maxLine)
	return nil
}

// backoff spaces out attempts.
type backoff struct {
	delay time.Duration
	until time.Time
}

const maxBackoff = time.Second

// wait reports whether the next attempt is not due yet.
func (b *backoff) wait(now time.Time) bool { return now.Before(b.until) }

// failed puts off the next attempt.
func (b *backoff) failed(now time.Time) {
	b.delay = min(max(2*b.delay, 25*time.Millisecond), maxBackoff)
	b.until = now.Add(b.delay)
}

// ok forgets earlier failures.
func (b *backoff) ok() { *b = backoff{} }
