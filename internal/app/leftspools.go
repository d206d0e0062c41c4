package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/inbox"
)

// leftSpool is what a source has received that is not configured any more, or under another
// name. Nobody reads it.
type leftSpool struct {
	name         string
	spool, files string // directories of the inbox and of what the receiver left
}

// findLeftSpools registers a health check for each spool of a source that does not receive
// (any more) and still has lines: it fails until somebody removes them.
func (a *App) findLeftSpools() error {
	dir := filepath.Join(a.config.DataDir, spoolDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for spools: %w", err)
	}
	known := make(map[string]bool)
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), handoverSuffix)
		if !entry.IsDir() || a.receivers[name] != nil || known[name] {
			continue
		}
		known[name] = true
		left := leftSpool{name: name, spool: filepath.Join(dir, name), files: filepath.Join(dir, name+handoverSuffix)}
		if err := left.check(); err != nil {
			a.log.Error("Entries were received that nothing reads.", "source", name, "error", err)
			a.health.Register("spool "+name, health.Degradation, func() error {
				if left.removed() {
					return nil
				}
				return err
			})
		}
	}
	return nil
}

// removed reports whether both directories are gone.
func (l leftSpool) removed() bool {
	for _, dir := range [...]string{l.spool, l.files} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	return true
}

// check returns an error when there are lines.
func (l leftSpool) check() error {
	lines, bytes, err := inbox.Left(l.spool)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(l.files, "*.rest"))
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d lines (%d bytes)", lines, bytes)
	switch {
	case lines == 0 && len(files) == 0:
		return nil
	case len(files) > 0:
		what += fmt.Sprintf(" and %d files of lines in %s", len(files), l.files)
	}
	return fmt.Errorf("the spool %s has %s that may not be in the journal, and no source named %s receives: configure it again, at least until they were read, or remove the directory", l.spool, what, l.name)
}
