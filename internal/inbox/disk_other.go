//go:build !linux

package inbox

import (
	"errors"
	"os"
	"syscall"
)

// allocate gives a file its size and takes the space from the disk.
func allocate(f *os.File, size int64) error { return writeZeros(f, size) }

// syncData makes what was written durable.
func syncData(f *os.File) error { return f.Sync() }

// isFull reports whether err says that there is no space.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) }
