package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// captureEvents are 700 B each, so a capture has about 300 MB.
const captureEvents = 400_000

// writeCapture writes a capture and returns its size and the time that it took.
func writeCapture(name string) (size int64, took time.Duration, err error) {
	e := scapevent.Append(nil, 3, 1, bytes.Repeat([]byte("x"), eventBytes))
	start := time.Now()
	w, err := capture.Create(name, true, capture.WriterOptions{})
	if err != nil {
		return 0, 0, err
	}
	for range captureEvents {
		if err := w.Write(e); err != nil {
			return 0, 0, errors.Join(err, w.Close())
		}
	}
	if err := w.Close(); err != nil {
		return 0, 0, err
	}
	took = time.Since(start)
	info, err := os.Stat(name)
	if err != nil {
		return 0, 0, err
	}
	return info.Size(), took, nil
}

// onDisk waits until the disk has a file, so that what is measured next does not wait for that.
func onDisk(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// captureWrite writes a capture that is not there, and compares with a copy of it: bytes
// per second. Both begin with nothing to be written to the disk.
func captureWrite(_ context.Context, s settings) (ours, against float64, err error) {
	name := filepath.Join(s.dir, "bench.scap")
	defer os.Remove(name)
	size, took, err := writeCapture(name)
	if err != nil {
		return 0, 0, err
	}
	if err := onDisk(name); err != nil {
		return 0, 0, err
	}
	copied, err := cacheCopy(name)
	return float64(size) / took.Seconds(), float64(size) / copied.Seconds(), err
}

// captureRead reads a capture that the disk cache has, and compares with a copy of it: bytes
// per second.
func captureRead(_ context.Context, s settings) (ours, against float64, err error) {
	name := filepath.Join(s.dir, "bench.scap")
	defer os.Remove(name)
	size, _, err := writeCapture(name)
	if err != nil {
		return 0, 0, err
	}
	if err := onDisk(name); err != nil {
		return 0, 0, err
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	start := time.Now()
	r, err := capture.NewReader(f, capture.ReaderOptions{})
	for err == nil {
		_, err = r.Next()
	}
	took := time.Since(start)
	if !errors.Is(err, io.EOF) || r.Stats().Events != captureEvents {
		return 0, 0, fmt.Errorf("read the capture: %w", err)
	}
	copied, err := cacheCopy(name)
	return float64(size) / took.Seconds(), float64(size) / copied.Seconds(), err
}

// cacheCopy copies a file that the disk cache has in pieces of 256 KiB, into one that is not there.
func cacheCopy(name string) (took time.Duration, err error) {
	in, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	start := time.Now()
	out, err := os.Create(name + ".copy")
	if err != nil {
		return 0, err
	}
	defer os.Remove(out.Name())
	// Without the types, so that the kernel does not copy by itself.
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 256<<10))
	err = errors.Join(err, out.Close())
	return time.Since(start), err
}
