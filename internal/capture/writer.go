package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/gzip"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

const (
	// writeBytes is how much is written at once, at least, uncompressed.
	writeBytes = 256 << 10
	// memberBytes is how much makes a member of a compressed capture, at least.
	memberBytes = 4 << 20
)

// WriterOptions say how a capture is written. The zero value is good.
type WriterOptions struct {
	Gzip bool
	// Machine is told at the beginning if it is not nil.
	Machine *Machine
	// MaxBlockBytes bounds a block with an event; 0 is DefaultMaxBlockBytes.
	MaxBlockBytes int
}

// Writer writes a capture. It writes nothing before the first event, because programs refuse
// captures without any. Only whole blocks are written, and only whole members of compressed
// ones, so what a crash leaves can be read. Its methods are called by one goroutine at a time.
type Writer struct {
	out     io.Writer
	options WriterOptions
	buf     []byte
	z       *gzip.Writer
	member  []byte // compressed and not written
	inside  int    // bytes in the member, uncompressed
	events  uint64
	err     error // for good
}

// NewWriter returns a writer to out.
func NewWriter(out io.Writer, o WriterOptions) *Writer {
	if o.MaxBlockBytes <= 0 {
		o.MaxBlockBytes = DefaultMaxBlockBytes
	}
	return &Writer{out: out, options: o}
}

// Write writes an event, of which it keeps nothing. ErrTooLarge is of this event, every other
// error for good.
func (w *Writer) Write(e scapevent.Event) error {
	if w.err != nil {
		return w.err
	}
	total := round4(blockHeaderBytes + cpuBytes + len(e) + blockTrailerBytes)
	if total > w.options.MaxBlockBytes {
		return fmt.Errorf("%w: its block has %d bytes, more than %d", ErrTooLarge, total, w.options.MaxBlockBytes)
	}
	if w.events == 0 {
		w.buf = appendSection(w.buf)
		if w.options.Machine != nil {
			w.buf = w.options.Machine.appendBlock(w.buf)
		}
	}
	w.events++
	end := len(w.buf) + total
	w.buf = appendBlockHeader(w.buf, blockEventLarge, uint32(total))
	w.buf = append(w.buf, 0, 0) // the CPU
	w.buf = append(w.buf, e...)
	for len(w.buf) < end-blockTrailerBytes {
		w.buf = append(w.buf, 0)
	}
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(total))
	if len(w.buf) >= writeBytes {
		return w.drain(false)
	}
	return nil
}

func round4(n int) int { return (n + 3) &^ 3 }

// Events returns how many events were written.
func (w *Writer) Events() uint64 { return w.events }

// Flush writes all that is buffered.
func (w *Writer) Flush() error {
	if w.err != nil {
		return w.err
	}
	return w.drain(true)
}

// Close flushes. It does not close what is below.
func (w *Writer) Close() error {
	err := w.Flush()
	if w.err == nil {
		w.err = errors.New("the capture is closed")
	}
	return err
}

// drain writes what is in buf, and ends the member if it is large enough or has to end.
func (w *Writer) drain(end bool) (err error) {
	b := w.buf
	if w.options.Gzip {
		if b, err = w.compress(end); err != nil {
			w.err = err
			return err
		}
	}
	if len(b) > 0 {
		if _, err = w.out.Write(b); err != nil {
			w.err = err
		}
	}
	if w.buf = w.buf[:0]; cap(w.buf) > 4*writeBytes {
		w.buf = nil // a large event was there
	}
	return err
}

// compress adds buf to the member, and returns the member if it has ended.
func (w *Writer) compress(end bool) ([]byte, error) {
	if w.z == nil {
		if len(w.buf) == 0 {
			return nil, nil
		}
		w.z = gzip.NewWriter((*memory)(&w.member))
	} else if w.inside == 0 && len(w.buf) == 0 {
		return nil, nil
	}
	if w.inside == 0 {
		w.member = w.member[:0]
		w.z.Reset((*memory)(&w.member))
	}
	if _, err := w.z.Write(w.buf); err != nil {
		return nil, err
	}
	w.inside += len(w.buf)
	if !end && w.inside < memberBytes {
		return nil, nil
	}
	w.inside = 0
	err := w.z.Close()
	return w.member, err
}

// memory is a slice that one can write to.
type memory []byte

func (m *memory) Write(p []byte) (int, error) {
	*m = append(*m, p...)
	return len(p), nil
}

// FileWriter is a Writer of a file that is made with the first event.
type FileWriter struct {
	*Writer
	f *lazyFile // nil: the file is somebody else's
}

// To returns the FileWriter of what is open already, and stays so.
func To(out io.Writer, o WriterOptions) *FileWriter { return &FileWriter{NewWriter(out, o), nil} }

// Create returns the writer of a file, which must not exist unless replace is set. Whether the
// name may be used is looked at now and when the first event comes. Only the user can read the
// file, also one that is replaced and that others could read.
func Create(name string, replace bool, o WriterOptions) (*FileWriter, error) {
	switch info, err := os.Lstat(name); {
	case err == nil && !replace:
		return nil, &os.PathError{Op: "create", Path: name, Err: os.ErrExist}
	case err == nil && info.IsDir():
		return nil, &os.PathError{Op: "create", Path: name, Err: syscall.EISDIR}
	}
	if info, err := os.Stat(filepath.Dir(name)); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is no directory", filepath.Dir(name))
	}
	f := &lazyFile{name: name, replace: replace}
	return &FileWriter{NewWriter(f, o), f}, nil
}

// Close flushes and closes the file. Nothing is left if there was no event. After an error of
// Write, Flush or Sync that was for good it is that error.
func (w *FileWriter) Close() error {
	err := w.Writer.Close()
	if w.f != nil {
		if closed := w.f.close(); err == nil {
			err = closed
		}
	}
	return err
}

// Sync flushes, and returns when the disk has it, and the name of the file. What is no file is
// flushed only.
func (w *FileWriter) Sync() error {
	if err := w.Flush(); err != nil || w.f == nil || w.f.file == nil || !w.f.regular {
		return err
	}
	if err := w.f.file.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(w.f.name))
	if err != nil {
		return nil // one may write into a directory that one cannot read
	}
	defer dir.Close()
	if err := dir.Sync(); !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// lazyFile is a file that is opened with the first write.
type lazyFile struct {
	name    string
	replace bool
	file    *os.File
	regular bool
	size    int64
}

// open makes the file, or empties the one that is there. What is no regular file, such as a
// pipe, is written to as it is.
func (f *lazyFile) open() (err error) {
	if !f.replace {
		f.regular = true
		f.file, err = os.OpenFile(f.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	}
	file, err := os.OpenFile(f.name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		if info.Mode().Perm()&0o077 != 0 {
			err = file.Chmod(0o600)
		}
		if err == nil {
			err = file.Truncate(0)
		}
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.file, f.regular = file, info.Mode().IsRegular()
	return nil
}

func (f *lazyFile) Write(p []byte) (n int, err error) {
	if f.file == nil {
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	n, err = f.file.Write(p)
	if err != nil && n > 0 {
		// A part of a block would make the file a damaged one. If that cannot be helped, readers
		// get what is before it.
		_ = f.file.Truncate(f.size)
		return n, err
	}
	f.size += int64(n)
	return n, err
}

func (f *lazyFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
