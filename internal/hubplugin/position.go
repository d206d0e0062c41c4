package hubplugin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// positionFile keeps a position. It is for one goroutine.
type positionFile struct {
	path   string
	last   string // that is to be kept
	stored string
	at     time.Time // when it was written
	failed bool
}

// saveTime is how often it is written at most.
const saveTime = time.Second

const maxPosition = 1 << 10

// read returns the position in the file, "" if there is none yet.
func (p *positionFile) read() (string, error) {
	f, err := os.Open(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("position_file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPosition+1))
	if err != nil {
		return "", fmt.Errorf("position_file: %w", err)
	}
	position := strings.TrimSpace(string(b))
	if len(b) > maxPosition || strings.ContainsFunc(position, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("position_file: %s has no position; remove it to begin anew", p.path)
	}
	p.stored, p.last = position, position
	return position, nil
}

// note keeps a position, now or soon.
func (p *positionFile) note(position string, log *slog.Logger) {
	p.last = position
	if p.last == p.stored || time.Since(p.at) < saveTime {
		return
	}
	err := p.write()
	if err != nil && !p.failed {
		log.Error("How far the stream was read cannot be kept.", "error", err)
	}
	p.failed = err != nil
}

// write replaces the file.
func (p *positionFile) write() error {
	p.at = time.Now()
	f, err := os.CreateTemp(filepath.Dir(p.path), filepath.Base(p.path)+".*")
	if err != nil {
		return fmt.Errorf("position_file: %w", err)
	}
	_, err = f.WriteString(p.last + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), p.path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("position_file: %w", err)
	}
	p.stored = p.last
	return nil
}

// close writes what was not written yet.
func (p *positionFile) close() error {
	if p.last == p.stored {
		return nil
	}
	return p.write()
}
