package inbox

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// simDisk is a disk in memory that fails, and forgets what was not synced when its power is
// cut.
type simDisk struct {
	mu       sync.Mutex
	random   *rand.Rand
	files    map[string]*simFile // as the process sees them
	names    map[string]*simFile // as they are on the disk
	capacity int                 // bytes; 0: no bound
	writes   error               // what writes fail with, half done
	syncs    error
	opens    error
}

type simFile struct {
	d       *simDisk
	live    []byte // the page cache
	stored  []byte // what the disk has
	pending []simWrite
}

type simWrite struct {
	at int64
	b  []byte
}

func newSimDisk(random *rand.Rand) *simDisk {
	return &simDisk{random: random, files: map[string]*simFile{}, names: map[string]*simFile{}}
}

const sector = 512

// cutPower returns the disk as the next process finds it.
func (d *simDisk) cutPower() *simDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := newSimDisk(d.random)
	n.capacity = d.capacity
	names := maps.Clone(d.names)
	for name, f := range d.files { // what was not synced may be there or not
		if d.random.IntN(2) == 0 {
			names[name] = f
		}
	}
	for name := range d.names {
		if d.files[name] == nil && d.random.IntN(2) == 0 {
			delete(names, name)
		}
	}
	for name, f := range names {
		b := slices.Clone(f.stored)
		for _, w := range f.pending {
			for from := int64(0); from < int64(len(w.b)); {
				to := min(int64(len(w.b)), (w.at+from)/sector*sector+sector-w.at)
				if d.random.IntN(2) == 0 {
					copy(b[w.at+from:], w.b[from:to])
				}
				from = to
			}
		}
		n.files[name] = &simFile{d: n, live: b, stored: slices.Clone(b)}
		n.names[name] = n.files[name]
	}
	return n
}

// kill returns the disk as the next process finds it when the machine goes on.
func (d *simDisk) kill() *simDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := newSimDisk(d.random)
	n.capacity = d.capacity
	clone := make(map[*simFile]*simFile)
	for name, f := range d.files {
		clone[f] = &simFile{d: n, live: slices.Clone(f.live), stored: slices.Clone(f.stored), pending: slices.Clone(f.pending)}
		n.files[name] = clone[f]
	}
	for name, f := range d.names {
		if clone[f] == nil {
			clone[f] = &simFile{d: n, live: slices.Clone(f.live), stored: slices.Clone(f.stored), pending: slices.Clone(f.pending)}
		}
		n.names[name] = clone[f]
	}
	return n
}

func (d *simDisk) used() (n int) {
	for _, f := range d.files {
		n += len(f.live)
	}
	return n
}

func (d *simDisk) list() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.files)), nil
}

func (d *simDisk) create(name string, size int64) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] != nil {
		return nil, fs.ErrExist
	}
	if d.capacity > 0 && d.used()+int(size) > d.capacity {
		return nil, syscall.ENOSPC
	}
	f := &simFile{d: d, live: make([]byte, size), stored: make([]byte, size)}
	d.files[name] = f
	return f, nil
}

func (d *simDisk) open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opens != nil {
		return nil, d.opens
	}
	if f := d.files[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (d *simDisk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.files, name)
	return nil
}

func (d *simDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[from]
	if f == nil {
		return fs.ErrNotExist
	}
	delete(d.files, from)
	d.files[to] = f
	return nil
}

func (d *simDisk) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.syncs != nil {
		return d.syncs
	}
	d.names = maps.Clone(d.files)
	return nil
}

func (f *simFile) ReadAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if at >= int64(len(f.live)) {
		return 0, io.EOF
	}
	n := copy(b, f.live[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *simFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	err := f.d.writes
	if err != nil {
		b = b[:f.d.random.IntN(len(b)+1)]
	}
	if at+int64(len(b)) > int64(len(f.live)) {
		return 0, errors.New("the file would grow")
	}
	copy(f.live[at:], b)
	if len(b) > 0 { // a disk knows only sectors
		from, to := at/sector*sector, min((at+int64(len(b))+sector-1)/sector*sector, int64(len(f.live)))
		f.pending = append(f.pending, simWrite{from, slices.Clone(f.live[from:to])})
	}
	return len(b), err
}

// Sync behaves as Linux does: after a failure nothing is tried again, and what was not
// written is taken to be.
func (f *simFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.syncs != nil {
		for _, w := range f.pending {
			if f.d.random.IntN(2) == 0 {
				copy(f.stored[w.at:], w.b)
			}
		}
		f.pending = nil
		return f.d.syncs
	}
	for _, w := range f.pending {
		copy(f.stored[w.at:], w.b)
	}
	f.pending = nil
	return nil
}

func (f *simFile) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return int64(len(f.live)), nil
}

func (f *simFile) Close() error { return nil }
