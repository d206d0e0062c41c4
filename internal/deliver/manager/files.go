package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin-events/tocsin/internal/config"
)

// checkPath says whether a sink that was added at run time may write to a file: it must
// be below the directory that the configuration names for that, also after all links in the
// path, and not where the hub itself keeps its data.
func (m *Manager) checkPath(path string) error {
	refuse := func(format string, args ...any) error {
		return config.Error{{File: "definition", Key: "sink.file.path", Message: fmt.Sprintf(format, args...)}}
	}
	below := m.o.Delivery.FilesBelow
	if below == "" {
		return refuse("sinks of type file cannot be added while the hub runs; set delivery.files_below in its configuration file to the directory where they may write")
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return refuse("%q must be a whole path below %s, without . and ..", path, below)
	}
	root, err := resolve(below)
	if err != nil {
		return refuse("delivery.files_below cannot be used: %v", err)
	}
	target, err := resolve(path)
	if err != nil {
		return refuse("%v", err)
	}
	if !within(root, target) || target == root {
		return refuse("%q is not below %s", path, below)
	}
	if data, err := resolve(m.o.DataDir); err != nil || within(data, target) {
		return refuse("%q is in the data directory of the hub", path)
	}
	return nil
}

// resolve follows the links in a path, of which the last parts need not exist.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		// A link to what does not exist would be made by writing to it.
		if _, err := os.Lstat(path); err == nil {
			resolved, err := filepath.EvalSymlinks(path)
			if err != nil {
				return "", fmt.Errorf("%q is a link that leads nowhere: %w", path, err)
			}
			return filepath.Join(resolved, rest), nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(path)
		if parent == path {
			return "", fmt.Errorf("%q does not exist", path)
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = parent
	}
}

// within says whether a resolved path is a directory or below it.
func within(directory, path string) bool {
	return path == directory || strings.HasPrefix(path, strings.TrimSuffix(directory, string(filepath.Separator))+string(filepath.Separator))
}
