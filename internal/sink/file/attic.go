package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tocsin-events/tocsin/internal/throttle"
)

// attic is the files that were moved away: it compresses them and removes those that are
// not kept.
type attic struct {
	o       *Options
	log     *slog.Logger
	name    string // of the file
	closing <-chan struct{}
	soon    chan struct{} // has an element when there is something to do
	trouble throttle.Throttle
}

func newAttic(o *Options, closing <-chan struct{}) *attic {
	return &attic{o: o, log: o.Logger, name: filepath.Base(o.Path), closing: closing, soon: make(chan struct{}, 1)}
}

// Names of files that were moved away.
const (
	stampLayout = "20060102T150405.000000000Z"
	gzipSuffix  = ".gz"
	partSuffix  = ".gz.part" // is being written
)

// moved is a file that was moved away.
type moved struct {
	name string
	at   time.Time
	gzip bool
}

// parseMoved takes the name of a file apart, as one that was moved away from name.
func parseMoved(name, file string) (m moved, part, ok bool) {
	rest, ok := strings.CutPrefix(file, name+".")
	if !ok || len(rest) < len(stampLayout) {
		return moved{}, false, false
	}
	at, err := time.Parse(stampLayout, rest[:len(stampLayout)])
	// The layout must be met to the letter: what is parsed more generously is not ours.
	if err != nil || at.Format(stampLayout) != rest[:len(stampLayout)] {
		return moved{}, false, false
	}
	switch rest[len(stampLayout):] {
	case "":
		return moved{file, at, false}, false, true
	case gzipSuffix:
		return moved{file, at, true}, false, true
	case partSuffix:
		return moved{file, at, true}, true, true
	}
	return moved{}, false, false
}

// list returns the files that were moved away, the oldest first, and what is left of
// compressing that was interrupted.
func list(dir *os.Root, name string) (all []moved, parts []string, err error) {
	d, err := dir.Open(".")
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(1000)
		for _, e := range entries {
			m, part, ok := parseMoved(name, e.Name())
			switch {
			case !ok || !e.Type().IsRegular():
			case part:
				parts = append(parts, e.Name())
			default:
				all = append(all, m)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, err
		}
	}
	slices.SortFunc(all, func(a, b moved) int { return strings.Compare(a.name, b.name) })
	return all, parts, nil
}

// nameFor returns a name for a file that is moved away now: later than all that there are, also
// when the clock was set back.
func (a *attic) nameFor(dir *os.Root, name string, now time.Time) (string, error) {
	all, _, err := list(dir, name)
	if err != nil {
		return "", err
	}
	now = now.UTC()
	if n := len(all); n > 0 && !all[n-1].at.Before(now) {
		now = all[n-1].at.Add(1)
	}
	for {
		to := name + "." + now.Format(stampLayout)
		_, plain := dir.Lstat(to)
		_, packed := dir.Lstat(to + gzipSuffix)
		switch {
		case errors.Is(plain, fs.ErrNotExist) && errors.Is(packed, fs.ErrNotExist):
			return to, nil
		case plain != nil && !errors.Is(plain, fs.ErrNotExist):
			return "", plain
		}
		now = now.Add(1) // there is something else of that name
	}
}

// tidySoon makes that run looks at the files.
func (a *attic) tidySoon() {
	select {
	case a.soon <- struct{}{}:
	default:
	}
}

// tidyEvery is how often old files are looked for.
const tidyEvery = 10 * time.Minute

// run tidies until the sink is closed.
func (a *attic) run() {
	if !a.o.Gzip && a.o.Keep == 0 && a.o.KeepAge == 0 {
		return
	}
	select {
	case <-a.closing:
		return
	case <-a.soon: // not before the file is open, and so locked
		a.tidySoon()
	}
	ticker := time.NewTicker(tidyEvery)
	defer ticker.Stop()
	for {
		select {
		case <-a.closing:
			return
		case <-a.soon:
		case <-ticker.C:
		}
		if err := a.tidy(); err != nil && !errors.Is(err, errClosed) {
			if skipped, ok := a.trouble.Allow(); ok {
				a.log.Warn("Files that were moved away cannot be compressed or removed.", "file", a.o.Path, "error", err, "repeats", skipped)
			}
		}
	}
}

// tidy removes what is not kept and compresses the rest. One file that cannot be does not
// keep it from the others.
func (a *attic) tidy() error {
	dir, err := openDirectory(a.o)
	if err != nil {
		return err
	}
	defer dir.Close()
	all, parts, err := list(dir, a.name)
	if err != nil {
		return err
	}
	var trouble []error
	for _, p := range parts { // of an earlier process: nobody else compresses here
		trouble = append(trouble, remove(dir, p))
	}
	newer := 0 // files that are newer than m, of which one may be there plain and compressed
	for i, m := range slices.Backward(all) {
		if i+1 < len(all) && !all[i+1].at.Equal(m.at) {
			newer++
		}
		select {
		case <-a.closing:
			return errClosed
		default:
		}
		expired := a.o.KeepAge > 0 && time.Since(m.at) > a.o.KeepAge
		switch {
		case expired || a.o.Keep > 0 && newer >= a.o.Keep:
			trouble = append(trouble, remove(dir, m.name))
		case a.o.Gzip && !m.gzip:
			err := a.compress(dir, m.name)
			if errors.Is(err, errClosed) {
				return err
			}
			trouble = append(trouble, err)
		}
	}
	return errors.Join(trouble...)
}

func remove(dir *os.Root, name string) error {
	if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, bare(err))
	}
	return nil
}

// compress replaces a file by a compressed one. At every moment one of both is there, whole.
func (a *attic) compress(dir *os.Root, name string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("compress %s: %w", name, bare(err))
		}
	}()
	from, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := dir.Lstat(name + gzipSuffix); err == nil {
		// It was compressed, and the process ended before the plain file was removed; or it is
		// somebody else's.
		return a.finish(dir, from, name)
	}
	part := name + partSuffix
	to, err := dir.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = dir.Remove(part) // or it is removed the next time
		}
	}()
	if err := a.pack(to, from); err != nil {
		return errors.Join(err, to.Close())
	}
	if err := to.Close(); err != nil {
		return err
	}
	if err := dir.Rename(part, name+gzipSuffix); err != nil {
		return err
	}
	if err := syncRoot(dir); err != nil {
		return err
	}
	return dir.Remove(name)
}

// pack writes a file compressed, synced, and with the same permissions.
func (a *attic) pack(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	w, err := gzip.NewWriterLevel(to, gzip.DefaultCompression)
	if err != nil {
		return err
	}
	w.ModTime, w.Name = info.ModTime(), a.name
	if _, err := io.Copy(w, interruptible{from, a.closing}); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := to.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	return to.Sync()
}

// finish removes a file when its compressed form is there with the same content.
func (a *attic) finish(dir *os.Root, plain *os.File, name string) error {
	f, err := dir.Open(name + gzipSuffix)
	if err != nil {
		return err
	}
	defer f.Close()
	same, err := a.sameContent(plain, f)
	if errors.Is(err, errClosed) {
		return err
	}
	if err != nil || !same {
		return fmt.Errorf("there is already %s with other content; remove one of both", name+gzipSuffix)
	}
	return dir.Remove(name)
}

func (a *attic) sameContent(plain, packed io.Reader) (bool, error) {
	r, err := gzip.NewReader(packed)
	if err != nil {
		return false, err
	}
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	plain = interruptible{plain, a.closing}
	for {
		n, errX := io.ReadFull(plain, x)
		m, errY := io.ReadFull(r, y)
		switch {
		case errors.Is(errX, errClosed):
			return false, errX
		case !bytes.Equal(x[:n], y[:m]):
			return false, nil
		case errX == nil && errY == nil:
		case isEnd(errX) && isEnd(errY):
			return true, nil
		default:
			return false, errors.Join(errX, errY)
		}
	}
}

func isEnd(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

// interruptible is a reader that fails when the sink is closed.
type interruptible struct {
	io.Reader
	closing <-chan struct{}
}

func (r interruptible) Read(p []byte) (int, error) {
	select {
	case <-r.closing:
		return 0, errClosed
	default:
		return r.Reader.Read(p)
	}
}
