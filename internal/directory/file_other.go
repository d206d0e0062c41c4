//go:build !linux

package directory

import (
	"errors"
	"os"
	"syscall"
)

// Allocate gives a file its size and takes the space from the disk.
func Allocate(f *os.File, size int64) error { return writeZeros(f, size) }

// SyncData makes what was written durable.
func SyncData(f *os.File) error { return f.Sync() }

// IsFull reports whether err says that there is no space.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) }
