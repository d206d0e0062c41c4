package receiver

import (
	"bytes"
	"crypto/rand"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin-events/tocsin/internal/tail"
)

// remainder is what a receiver that ends leaves to its successor: lines that the inbox
// did not take any more, and what it has read of a line, or, of syslog, of a message.
type remainder struct {
	Lines [][]byte
	Rest  tail.Rest
	Raw   []byte
}

func (r remainder) unfinished() bool { return !r.Rest.Empty() || len(r.Raw) > 0 }
func (r remainder) empty() bool      { return !r.unfinished() && len(r.Lines) == 0 }

// Files of remainders are named after the connection, or, when that is closed, begin with
// looseFile.
const (
	restSuffix = ".rest"
	looseFile  = "lines-"
)

// leave stores a remainder. It is not synced: it is for a successor on the same running
// machine, as the connection is.
func (r *Receiver) leave(connection string, rest remainder) error {
	if connection == "" {
		connection = looseFile + rand.Text()
	}
	if r.config.Dir == "" {
		return errors.New("there is no directory for them")
	}
	var text bytes.Buffer
	if err := gob.NewEncoder(&text).Encode(rest); err != nil {
		return err
	}
	if err := os.MkdirAll(r.config.Dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(r.config.Dir, connection+restSuffix)
	if err := os.WriteFile(path+".new", text.Bytes(), 0o600); err != nil {
		return errors.Join(err, remove(path+".new"))
	}
	return os.Rename(path+".new", path)
}

// leaveOrCount is leave, and counts the lines that are lost when that fails.
func (r *Receiver) leaveOrCount(connection string, rest remainder) {
	if err := r.leave(connection, rest); err != nil {
		r.log.Error("Lines that were received cannot be kept over the restart.", "lines", len(rest.Lines), "error", err)
		r.counts.lost.Add(uint64(len(rest.Lines)))
	}
}

// leaveLines leaves lines of no connection.
func (r *Receiver) leaveLines(lines []tail.Line) {
	if rest := (remainder{Lines: wholeLines(nil, lines)}); len(rest.Lines) > 0 {
		r.leaveOrCount("", rest)
	}
}

// wholeLines appends the data of the lines that a remainder keeps.
func wholeLines(data [][]byte, lines []tail.Line) [][]byte {
	for _, l := range lines {
		if l.Kind == tail.Whole && len(l.Data) > 0 {
			data = append(data, l.Data)
		}
	}
	return data
}

// find reads a remainder and removes its file.
func (r *Receiver) find(path string) (*remainder, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rest := new(remainder)
	if err := gob.NewDecoder(bytes.NewReader(text)).Decode(rest); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), remove(path))
	}
	return rest, remove(path)
}

// takeOver goes on with the connections that a predecessor left, and puts the lines that
// it could not put.
func (r *Receiver) takeOver() {
	var lines [][]byte
	for _, held := range r.systemd.TakeStored(r.storePrefix()) {
		name := held.Name
		conn, err := held.Conn()
		if err != nil {
			r.log.Warn("A connection of the predecessor cannot be taken over.", "error", err)
			r.systemd.Remove(name)
			continue
		}
		rest, err := r.findOf(name)
		if err != nil {
			r.log.Warn("What the predecessor had read of a line is lost.", "error", err)
		}
		if rest != nil {
			lines = append(lines, rest.Lines...)
		}
		if r.config.Kind == HTTP || r.config.TLS != nil || !r.allowed(conn.RemoteAddr()) {
			// The configuration has changed: nobody may go on as before.
			r.counts.refusedAddress.Add(1)
			r.systemd.Remove(name)
			conn.Close()
			continue
		}
		c := r.enter(conn)
		c.rest = rest
		c.name.Store(&name)
		r.storing.Store(true)
		r.counts.takenOver.Add(1)
		r.mu.Lock()
		r.taken = append(r.taken, c)
		r.mu.Unlock()
	}
	lines = append(lines, r.findLoose()...)
	if len(lines) > 0 {
		batch := make([]tail.Line, len(lines))
		for i, l := range lines {
			batch[i] = tail.Line{Data: l, Size: int64(len(l)), Kind: tail.Whole}
		}
		if !r.put(batch) {
			r.log.Error("Lines that the predecessor left cannot be put.", "lines", len(lines))
			r.counts.lost.Add(uint64(len(lines)))
		}
	}
	for _, c := range r.taken {
		r.reading.Go(func() { r.converse(c) })
	}
	r.taken = nil
}

func (r *Receiver) findOf(connection string) (*remainder, error) {
	if r.config.Dir == "" {
		return nil, nil
	}
	rest, err := r.find(filepath.Join(r.config.Dir, filepath.Base(connection)+restSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the predecessor was killed
	}
	return rest, err
}

// findLoose returns the lines of connections that are gone. What had begun on them is
// torn.
func (r *Receiver) findLoose() (lines [][]byte) {
	if r.config.Dir == "" {
		return nil
	}
	entries, err := os.ReadDir(r.config.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("What the predecessor left cannot be read.", "error", err)
	}
	for _, entry := range entries {
		path := filepath.Join(r.config.Dir, entry.Name())
		if !strings.HasSuffix(entry.Name(), restSuffix) {
			remove(path)
			continue
		}
		rest, err := r.find(path)
		if err != nil {
			r.log.Warn("What the predecessor left cannot be read.", "error", err)
			continue
		}
		lines = append(lines, rest.Lines...)
		if rest.unfinished() {
			r.counts.torn.Add(1)
		}
	}
	return lines
}
