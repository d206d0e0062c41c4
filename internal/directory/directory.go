// Package directory makes, locks and syncs directories that belong to one process.
package directory

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrLocked means that another process uses the directory.
var ErrLocked = errors.New("the directory is in use")

// Make makes a directory that is there after a power cut, with those above it. This user
// alone may read what it makes.
func Make(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	above := filepath.Dir(dir)
	if above != dir {
		if err := Make(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := Sync(above); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}
