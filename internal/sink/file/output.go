package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tocsin-events/tocsin/internal/directory"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

// lookEvery is by default the least time between two looks at whether the path still leads to the file.
const lookEvery = 250 * time.Millisecond

// retryRotation is how long a file that cannot be moved away grows on before that is tried
// again.
const retryRotation = time.Minute

// handle is what is needed of an open file.
type handle interface {
	io.Writer
	io.ReaderAt
	Truncate(size int64) error
	Sync() error
	Stat() (fs.FileInfo, error)
	Close() error
}

// output is the file. It belongs to one goroutine.
type output struct {
	o     *Options
	log   *slog.Logger
	name  string // of the file in its directory
	attic *attic

	dir     *os.Root // nil: closed, and so is file
	file    handle
	locked  *os.File // the same
	size    int64    // of what is in the file
	born    time.Time
	written int64 // through the file since it was opened
	dirty   bool  // there is something to sync
	named   bool  // the directory has a name that is not synced
	lost    error // why something may be lost that was written before; Sync has not told it yet
	looked  time.Time
	wait    time.Time // the file is not moved away before

	old      *time.Timer // the file is too old
	rotation throttle.Throttle
}

func newOutput(o *Options, closing <-chan struct{}) *output {
	out := &output{o: o, log: o.Logger, name: filepath.Base(o.Path), attic: newAttic(o, closing)}
	out.old = time.NewTimer(time.Hour)
	out.old.Stop()
	return out
}

// write appends lines. When it fails, nothing of them is in the file, as far as the system
// allows.
func (out *output) write(lines []byte) error {
	if err := out.ready(int64(len(lines))); err != nil {
		return err
	}
	n, err := out.file.Write(lines)
	if err == nil && n < len(lines) {
		err = io.ErrShortWrite
	}
	if err == nil && out.o.Sync == SyncAlways {
		err = out.file.Sync()
	}
	if err != nil {
		err = fmt.Errorf("write to %s: %w", out.o.Path, bare(err))
		if undone := out.undo(n); undone != nil {
			err = fmt.Errorf("%w (and what was written of it cannot be taken back: %w)", err, bare(undone))
		}
		out.release()
		return err
	}
	out.size += int64(n)
	out.written += int64(n)
	out.dirty = out.dirty || out.o.Sync == SyncProgress
	return nil
}

// undo takes back the last n bytes that were written.
func (out *output) undo(n int) error {
	if n <= 0 {
		return nil
	}
	info, err := out.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != out.size+int64(n) {
		return nil // somebody else has changed it; it is looked at when it is opened
	}
	return out.file.Truncate(out.size)
}

// bare is an error without the path, which is told already.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// ready makes that the file is open, is the one of the path, and has room for n bytes.
func (out *output) ready(n int64) error {
	now := time.Now()
	if out.file != nil && now.Sub(out.looked) >= out.o.lookEvery {
		out.looked = now
		if !out.same() {
			out.release()
		}
	}
	if out.file == nil {
		if err := out.open(); err != nil {
			return err
		}
	}
	full := out.o.RotateBytes > 0 && out.size+n > out.o.RotateBytes
	tooOld := out.o.RotateAge > 0 && now.Sub(out.born) >= out.o.RotateAge
	switch {
	case out.size == 0:
		if tooOld { // its life begins with the first event
			out.born = now
			out.old.Reset(out.o.RotateAge)
		}
		return nil
	case !full && !tooOld || now.Before(out.wait):
		return nil
	}
	return out.rotate(now)
}

// same says whether the path leads to the open file, and nobody has changed that.
func (out *output) same() bool {
	at, err := os.Lstat(out.o.Path)
	if err != nil {
		return false
	}
	info, err := out.file.Stat()
	return err == nil && os.SameFile(at, info) && info.Size() == out.size
}

// release closes the file. The next one who needs it opens it again.
func (out *output) release() {
	if out.dirty {
		out.lose(out.file.Sync())
	}
	if out.named && out.o.Sync != SyncNever {
		out.lose(syncRoot(out.dir))
	}
	if out.file != nil {
		unlockFile(out.locked) // it stays open as long as somebody syncs it
		if err := out.file.Close(); err != nil && out.dirty {
			out.lose(err)
		}
	}
	if out.dir != nil {
		_ = out.dir.Close() // nothing was written through it
	}
	out.dir, out.file, out.locked, out.dirty, out.named = nil, nil, nil, false, false
	out.old.Stop()
}

// lose remembers that what was written may be lost.
func (out *output) lose(err error) {
	if err != nil && out.lost == nil && out.o.Sync != SyncNever {
		out.lost = err
	}
}

// syncing is what is being synced.
type syncing struct {
	file    handle // nil: nothing
	through int64  // how much was written to it
}

// beginSync says what must be synced.
func (out *output) beginSync() syncing {
	if out.named {
		out.lose(syncRoot(out.dir))
		out.named = false
	}
	if !out.dirty || out.lost != nil {
		return syncing{}
	}
	return syncing{out.file, out.written}
}

// endSync takes what became of it. A file that was closed meanwhile was synced before that.
func (out *output) endSync(s syncing, err error) error {
	switch {
	case errors.Is(err, fs.ErrClosed):
	case err != nil:
		out.lose(err)
	case s.file != nil && out.file == s.file && out.written == s.through:
		out.dirty = false
	}
	return out.told()
}

// told returns, once, why what was written may be lost. The system may have thrown it away,
// and does not say so again when it is synced again: what was delivered since the last sync has
// to be sent again.
func (out *output) told() error {
	err := out.lost
	if err == nil {
		return nil
	}
	out.lost, out.dirty = nil, false
	out.release()
	return fmt.Errorf("sync %s: %w", out.o.Path, bare(err))
}

// open opens the file, and repairs its end.
func (out *output) open() (err error) {
	defer func() {
		if err != nil {
			out.dirty, out.named = false, false
			out.release()
		}
	}()
	if out.dir, err = openDirectory(out.o); err != nil {
		return err
	}
	f, err := out.openFile()
	if err != nil {
		return fmt.Errorf("open %s: %w", out.o.Path, bare(err))
	}
	out.file, out.locked, out.named = f, f, true
	if out.o.wrap != nil {
		out.file = out.o.wrap(f)
	}
	if err := lockFile(f); err != nil {
		return fmt.Errorf("lock %s: %w", out.o.Path, bare(err))
	}
	if at, err := out.dir.Lstat(out.name); err != nil || !isFile(f, at) {
		// Whoever moved it away may go on to compress and remove it.
		return fmt.Errorf("open %s: somebody else has moved it away in this moment", out.o.Path)
	}
	if err := out.repair(); err != nil {
		return fmt.Errorf("look at the end of %s: %w", out.o.Path, bare(err))
	}
	info, err := out.file.Stat()
	if err != nil {
		return fmt.Errorf("open %s: %w", out.o.Path, bare(err))
	}
	out.size, out.written, out.born, out.looked = info.Size(), 0, born(f, info), time.Now()
	if out.o.RotateAge > 0 {
		out.old.Reset(max(time.Until(out.born.Add(out.o.RotateAge)), time.Second))
	}
	out.attic.tidySoon()
	return nil
}

// isFile says whether an open file is the one that was looked at.
func isFile(f *os.File, at fs.FileInfo) bool {
	info, err := f.Stat()
	return err == nil && os.SameFile(at, info)
}

// openDirectory opens the directory of the file, and makes it if it is missing.
func openDirectory(o *Options) (*os.Root, error) {
	dir := filepath.Dir(o.Path)
	if o.Below == "" {
		if err := makeDirectory(dir); err != nil {
			return nil, fmt.Errorf("make the directory %s: %w", dir, bare(err))
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, fmt.Errorf("open the directory %s: %w", dir, bare(err))
		}
		return root, nil
	}
	below, err := os.OpenRoot(o.Below)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no directory %s, below which the sink may write (delivery.files_below); make it", o.Below)
	}
	if err != nil {
		return nil, fmt.Errorf("open the directory %s: %w", o.Below, bare(err))
	}
	defer below.Close()
	rel, err := filepath.Rel(o.Below, dir)
	if err == nil {
		err = below.MkdirAll(rel, directoryMode)
	}
	var root *os.Root
	if err == nil {
		root, err = below.OpenRoot(rel)
	}
	if err != nil {
		return nil, fmt.Errorf("open the directory %s below %s: %w", dir, o.Below, bare(err))
	}
	return root, nil
}

// makeDirectory makes a directory that is there after a power cut, with those above it.
func makeDirectory(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	}
	above := filepath.Dir(dir)
	if above != dir {
		if err := makeDirectory(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, directoryMode); err != nil {
		if info, e := os.Stat(dir); e == nil && info.IsDir() {
			return nil // somebody else was faster
		}
		return err
	}
	if err := directory.Sync(above); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// openFile opens the file to append, or makes it.
func (out *output) openFile() (*os.File, error) {
	for range 3 { // somebody may make or remove it meanwhile
		at, err := out.dir.Lstat(out.name)
		if errors.Is(err, fs.ErrNotExist) {
			f, err := out.dir.OpenFile(out.name, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, out.o.Mode)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if err := f.Chmod(out.o.Mode); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		}
		switch {
		case err != nil:
			return nil, err
		case at.Mode()&fs.ModeSymlink != 0:
			return nil, errors.New("it is a symbolic link; set the path to what that points to")
		case at.IsDir():
			return nil, errors.New("it is a directory; name a file in it")
		case !at.Mode().IsRegular():
			return nil, errors.New("it is no regular file; name one, and use the type stdout for the output of the hub")
		}
		f, err := out.dir.OpenFile(out.name, os.O_RDWR|os.O_APPEND, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !isFile(f, at) {
			_ = f.Close() // another file than the one that was looked at
			continue
		}
		return f, nil
	}
	return nil, errors.New("somebody else replaces it all the time")
}

// maxTail bounds how much of the end of a file is looked at.
const maxTail = 64 << 20

// repair makes that the file ends with a newline.
func (out *output) repair() error {
	info, err := out.file.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	tail, err := lastLine(out.file, info.Size())
	if err != nil || len(tail) == 0 {
		return err
	}
	if half(out.o, tail) {
		out.log.Warn("The file ended in the middle of an event, which was not delivered then. The half event is removed.",
			"file", out.o.Path, "bytes", len(tail))
		return out.file.Truncate(info.Size() - int64(len(tail)))
	}
	out.log.Warn("The file did not end with a newline. It gets one.", "file", out.o.Path)
	_, err = out.file.Write([]byte{'\n'})
	return err
}

// lastLine returns what comes after the last newline of a file, or the last [maxTail] bytes of
// it.
func lastLine(f io.ReaderAt, size int64) ([]byte, error) {
	const step = 64 << 10
	var tail []byte
	for n := int64(step); ; n *= 2 {
		n = min(n, size, maxTail)
		tail = make([]byte, n)
		if k, err := f.ReadAt(tail, size-n); err != nil && (err != io.EOF || int64(k) < n) {
			return nil, err
		}
		if i := bytes.LastIndexByte(tail, '\n'); i >= 0 {
			return tail[i+1:], nil
		}
		if n == size || n == maxTail {
			return tail, nil
		}
	}
}

// half says whether a line without its newline is the beginning of an event that was not
// written whole, or nothing but zeros, as some file systems have after a power cut.
func half(o *Options, line []byte) bool {
	if len(bytes.Trim(line, "\x00")) == 0 {
		return true
	}
	var lead string
	switch o.Format {
	case format.CloudEvents:
		lead = `{"specversion":"1.0","id":"`
	case format.Vault:
		lead = `{"id":"`
	case format.Flipt:
		lead = `{"version":"0.`
	default:
		if lead = o.Begin; lead == "" {
			return false // raw data may be anything
		}
	}
	n := min(len(lead), len(line))
	return string(line[:n]) == lead[:n] && !json.Valid(line)
}

// rotateOld moves the file away when it is too old and nobody has written to it for long.
func (out *output) rotateOld() {
	if out.file == nil {
		return
	}
	now := time.Now()
	if out.size > 0 && !now.Before(out.wait) {
		if !out.same() {
			out.release()
			return
		}
		if err := out.rotate(now); err == nil {
			return
		}
	}
	out.old.Reset(max(out.o.RotateAge/2, time.Second))
}

// rotate moves the file away and begins a new one. When it cannot be moved away, it grows
// on.
func (out *output) rotate(now time.Time) error {
	dir := out.dir
	out.dir = nil // release must not close it
	defer dir.Close()
	if out.named && out.o.Sync != SyncNever {
		out.lose(syncRoot(dir))
	}
	out.named = false
	out.release()
	to, err := out.attic.nameFor(dir, out.name, now)
	if err == nil {
		err = dir.Rename(out.name, to)
	}
	if err != nil {
		out.wait = now.Add(retryRotation)
		if skipped, ok := out.rotation.Allow(); ok {
			out.log.Warn("The file should be moved away but cannot be. It grows on.", "file", out.o.Path, "error", bare(err), "repeats", skipped)
		}
	} else if out.o.Sync != SyncNever {
		out.lose(syncRoot(dir))
	}
	return out.open()
}

// syncRoot makes the names in a directory durable.
func syncRoot(dir *os.Root) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(ignoreUnsupported(f.Sync()), f.Close())
}
