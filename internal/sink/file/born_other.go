//go:build !linux

package file

import (
	"io/fs"
	"os"
	"time"
)

// born returns when a file was written to last, which is the best guess at when it was
// made.
func born(_ *os.File, info fs.FileInfo) time.Time { return info.ModTime() }
