package inbox

import (
	"errors"
	"os"

	"github.com/tocsin-events/tocsin/internal/directory"
)

// disk is what an inbox needs of a file system.
type disk interface {
	// list returns the names in the directory.
	list() ([]string, error)
	// create makes a file of a size whose space is there, as far as the file system
	// can promise that.
	create(name string, size int64) (file, error)
	open(name string) (file, error)
	remove(name string) error
	rename(from, to string) error
	// sync makes the names durable.
	sync() error
}

type file interface {
	ReadAt(b []byte, offset int64) (int, error)
	WriteAt(b []byte, offset int64) (int, error)
	// Sync makes the content durable.
	Sync() error
	Size() (int64, error)
	Close() error
}

// directoryDisk is a directory of the operating system.
type directoryDisk string

func (d directoryDisk) path(name string) string { return string(d) + string(os.PathSeparator) + name }

func (d directoryDisk) list() (names []string, err error) {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func (d directoryDisk) create(name string, size int64) (file, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := directory.Allocate(f, size); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(d.path(name)))
	}
	return systemFile{f}, nil
}

func (d directoryDisk) open(name string) (file, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return systemFile{f}, nil
}

func (d directoryDisk) remove(name string) error     { return os.Remove(d.path(name)) }
func (d directoryDisk) rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }
func (d directoryDisk) sync() error                  { return directory.Sync(string(d)) }

type systemFile struct{ *os.File }

func (f systemFile) Sync() error { return directory.SyncData(f.File) }

func (f systemFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
