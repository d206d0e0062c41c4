package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What is in the data directory beside the store of the embedded server, which is
// in the subdirectory that it names itself, "jetstream".
const (
	versionFile = "VERSION"
	lockFile    = "LOCK"
	probeFile   = "PROBE"
	storeDir    = "jetstream"

	dataVersion = "tocsin data 1"
)

// LockedError says who uses a data directory. It wraps [ErrLocked].
type LockedError struct {
	Path string // of the lock file
	PID  int    // of the process that holds it; 0 when it did not say
}

func (e *LockedError) Error() string {
	holder := "another process"
	if e.PID != 0 {
		holder = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%v: %s is locked by %s; stop it or choose another data directory", ErrLocked, e.Path, holder)
}

// Unwrap makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Unwrap() error { return ErrLocked }

// dataDir is a data directory locked by this process.
type dataDir struct {
	path string
	lock *os.File
}

// openDataDir makes and locks the directory and checks its version.
func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := acquireLock(filepath.Join(path, lockFile))
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: path, lock: lock}
	if err := d.checkVersion(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func acquireLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		text := make([]byte, 32)
		n, _ := f.ReadAt(text, 0)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(text[:n])))
		return nil, &LockedError{Path: path, PID: pid}
	}
	// The pid only serves the error above, so a full disk is no reason to fail.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// checkVersion reads the version of the directory, or writes it into a new one.
func (d *dataDir) checkVersion() error {
	path := filepath.Join(d.path, versionFile)
	text, err := os.ReadFile(path)
	switch {
	case err == nil && string(bytes.TrimSpace(text)) == dataVersion:
		return nil
	case err == nil:
		return fmt.Errorf("%w: %s says %.60q, this program reads %q; use the version of tocsin that wrote it, or another data directory",
			ErrVersion, path, bytes.TrimSpace(text), dataVersion)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read data version: %w", err)
	}
	if _, err := os.Stat(filepath.Join(d.path, storeDir)); err == nil {
		return fmt.Errorf("%w: %s has a %s directory but no %s file; it is not tocsin's, choose another data directory",
			ErrVersion, d.path, storeDir, versionFile)
	}
	if err := writeFileSync(path, []byte(dataVersion+"\n")); err != nil {
		return fmt.Errorf("write data version: %w", err)
	}
	return nil
}

// writeFileSync replaces path by a file that is durable when it returns.
func writeFileSync(path string, content []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// free returns how many bytes this process may still write into the directory.
func (d *dataDir) free() (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(d.path, &stat); err != nil {
		return 0, fmt.Errorf("ask for free space of %s: %w", d.path, err)
	}
	return int64(stat.Bavail) * int64(stat.Bsize), nil
}

// probe writes, syncs and removes a file of size bytes.
func (d *dataDir) probe(size int) error {
	path := filepath.Join(d.path, probeFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer os.Remove(path)
	chunk := make([]byte, 64<<10)
	for written := 0; written < size && err == nil; written += len(chunk) {
		_, err = f.Write(chunk)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

func (d *dataDir) close() {
	// Closing alone would leave the lock to a child that was forked at this moment, until it runs
	// its own program.
	_ = unix.Flock(int(d.lock.Fd()), unix.LOCK_UN)
	_ = d.lock.Close()
}

// isFull reports whether err, or a text that came from one, says that there is no
// space.
func isFull(err error) bool {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return true
	}
	text := err.Error()
	return strings.Contains(text, unix.ENOSPC.Error()) || strings.Contains(text, unix.EDQUOT.Error())
}
