//go:build unix

package file

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		child(path)
		return
	}
	if err := flag.Set("test.parallel", "8"); err != nil { // they wait most of the time
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// disk is a directory whose disk does what a test wants.
type disk struct {
	t       testing.TB
	options Options

	mu      sync.Mutex
	mode    delivertest.Mode
	changed chan struct{} // closed when the mode changes
	syncs   int
	writes  int
	noSync  error // what Sync answers once
}

func newDisk(t testing.TB, o Options) *disk {
	d := &disk{t: t, options: o, changed: make(chan struct{})}
	if d.options.Path == "" {
		d.options.Path = filepath.Join(t.TempDir(), "logs", "deep", "events.jsonl")
	}
	if d.options.Format == "" {
		d.options.Format = format.CloudEvents
	}
	d.options.lookEvery = 1
	d.options.wrap = func(h handle) handle { return &faulty{h, d} }
	return d
}

func (d *disk) Sink(log *slog.Logger) (deliver.Sink, error) {
	o := d.options
	o.Logger = log
	return New(o)
}

func (d *disk) Set(m delivertest.Mode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := filepath.Dir(d.options.Path)
	if (m == delivertest.Refuses) != (d.mode == delivertest.Refuses) {
		// The directory is gone, and something else has its name.
		if m == delivertest.Refuses {
			_ = os.Rename(dir, dir+".away")
			_ = os.WriteFile(dir, nil, 0o600)
		} else {
			_ = os.Remove(dir)
			_ = os.Rename(dir+".away", dir)
		}
	}
	d.mode = m
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *disk) Arrived() []delivertest.Arrival {
	d.t.Helper()
	lines, whole := readAll(d.t, d.options.Path)
	if !whole {
		d.t.Error("the file does not end with a newline")
	}
	var list []delivertest.Arrival
	for _, line := range lines {
		e, err := event.ParseCloudEvent(line)
		if err != nil {
			d.t.Errorf("a line is no event: %v: %.200q", err, line)
			continue
		}
		list = append(list, delivertest.Arrival{ID: e.ID, Event: e})
	}
	return list
}

// readAll returns the lines of a file and of all that were moved away, in order.
func readAll(t testing.TB, path string) (lines [][]byte, whole bool) {
	t.Helper()
	dir, err := os.OpenRoot(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, true
	}
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	all, _, err := list(dir, filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for i, m := range all {
		if i > 0 && all[i-1].at.Equal(m.at) {
			continue // is being compressed, and there twice
		}
		b, err := dir.ReadFile(m.name)
		if errors.Is(err, fs.ErrNotExist) { // compressed a moment ago
			m.gzip = true
			b, err = dir.ReadFile(m.name + gzipSuffix)
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.gzip {
			r, err := gzip.NewReader(bytes.NewReader(b))
			if err == nil {
				b, err = io.ReadAll(r)
			}
			if err != nil {
				t.Fatalf("%s: %v", m.name, err)
			}
		}
		text = append(text, b...)
	}
	b, err := dir.ReadFile(filepath.Base(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	text = append(text, b...)
	s := bufio.NewScanner(bytes.NewReader(text))
	s.Buffer(nil, 64<<20)
	for s.Scan() {
		lines = append(lines, bytes.Clone(s.Bytes()))
	}
	return lines, len(text) == 0 || text[len(text)-1] == '\n'
}

// faulty is a file on a disk.
type faulty struct {
	handle
	disk *disk
}

func (f *faulty) Write(p []byte) (int, error) {
	d := f.disk
	d.mu.Lock()
	mode, changed := d.mode, d.changed
	d.writes++
	d.mu.Unlock()
	part := func(err syscall.Errno) (int, error) {
		n, _ := f.handle.Write(p[:len(p)*2/3])
		return n, &fs.PathError{Op: "write", Path: d.options.Path, Err: err}
	}
	switch mode {
	case delivertest.Fails:
		return part(syscall.ENOSPC)
	case delivertest.Closes:
		return part(syscall.EIO)
	case delivertest.Hangs:
		<-changed
		return 0, syscall.EIO
	case delivertest.Slow:
		time.Sleep(20 * time.Millisecond)
	}
	return f.handle.Write(p)
}

func (f *faulty) Sync() error {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	if err := d.noSync; err != nil {
		d.noSync = nil
		return err
	}
	return f.handle.Sync()
}

func TestConformance(t *testing.T) {
	t.Parallel()
	variants := make(map[string]delivertest.Harness)
	for name, o := range map[string]Options{
		"plain":    {Sync: SyncProgress},
		"rotating": {Sync: SyncAlways, RotateBytes: 8 << 10, Gzip: true},
	} {
		variants[name] = delivertest.Harness{
			Receiver: func(t testing.TB) delivertest.Receiver {
				d := newDisk(t, o)
				t.Cleanup(func() { d.Set(delivertest.Works) }) // what hangs ends
				return d
			},
			Modes:   []delivertest.Mode{delivertest.Fails, delivertest.Refuses, delivertest.Closes, delivertest.Hangs, delivertest.Slow},
			Without: map[delivertest.Mode]string{delivertest.RefusesOne: "a file takes every event"},
		}
	}
	delivertest.RunEach(t, variants)
}
