// Package demo replays a recorded audit log as if a server were writing it now.
// It only writes a file; the hub follows that file as it would follow any other.
package demo

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// recording is described in README.md.
//
//go:embed recording.jsonl.gz
var recording []byte

// The first lines prepare mounts and namespaces. They are written at once, so that
// something happens right after the start.
const setup = 29

// The recorded client worked without pauses, so the gaps are stretched until a
// person can follow: a few notifications per second.
const (
	stretch = 40
	maxGap  = time.Second
	restart = 2 * time.Second // between two runs
)

// Replay writes the recorded audit log to a file, again and again. Each run is a
// new boot of the recorded server: the file of the run before is renamed to
// path.1, and requests and mounts have new ids. Within a run the order, the pairs
// of request and response and the text of the entries are those of the recording;
// times are moved to now.
type Replay struct {
	path  string
	lines []line
	file  *os.File
}

// New makes the file at path. Run writes to it.
func New(path string) (*Replay, error) {
	lines, err := load()
	if err != nil {
		return nil, err
	}
	r := &Replay{path: path, lines: lines}
	if err := r.create(); err != nil {
		return nil, fmt.Errorf("replay the demo: %w", err)
	}
	return r, nil
}

// Run replays until ctx ends; then it returns nil. It returns an error when the
// file cannot be written. It must be called once.
func (r *Replay) Run(ctx context.Context) error {
	for {
		err := r.boot(ctx)
		if err == nil {
			err = sleep(ctx, restart)
		}
		err = errors.Join(err, r.file.Close())
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("replay the demo: %w", err)
		}
		if err := r.create(); err != nil {
			return fmt.Errorf("replay the demo: %w", err)
		}
	}
}

// create rotates the file of the run before away and makes a new one.
func (r *Replay) create() error {
	err := os.Rename(r.path, r.path+".1")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r.file, err = os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

// boot writes all lines once.
func (r *Replay) boot(ctx context.Context) error {
	id := event.NewID()
	for i, l := range r.lines {
		if i > setup {
			gap := min(stretch*l.time.Sub(r.lines[i-1].time), maxGap)
			if err := sleep(ctx, gap); err != nil {
				return err
			}
		}
		if _, err := r.file.Write(append(l.at(id, time.Now()), '\n')); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// line is one recorded audit entry.
type line struct {
	text []byte
	time time.Time
}

var (
	entryTime = regexp.MustCompile(`^\{"time":"([^"]+)"`)
	// variable parts of an entry: the id of the request, accessors of mounts,
	// and times.
	requestID = regexp.MustCompile(`("request":\{"id":")([^"]+)(")`)
	accessor  = regexp.MustCompile(`("[a-z_]*accessor":"[a-z_]+_)([0-9a-f]{8})(")`)
	timestamp = regexp.MustCompile(`(")(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)(")`)
)

// Recording returns the recorded audit log as it is, one entry a line.
func Recording() ([]byte, error) {
	unzip, err := gzip.NewReader(bytes.NewReader(recording))
	if err != nil {
		return nil, fmt.Errorf("read the embedded recording: %w", err)
	}
	all, err := io.ReadAll(unzip)
	if err != nil {
		return nil, fmt.Errorf("read the embedded recording: %w", err)
	}
	return all, nil
}

func load() ([]line, error) {
	all, err := Recording()
	if err != nil {
		return nil, err
	}
	var lines []line
	for text := range bytes.Lines(all) {
		text = bytes.TrimSuffix(text, []byte("\n"))
		m := entryTime.FindSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("read the embedded recording: line %d has no time", len(lines)+1)
		}
		t, err := time.Parse(time.RFC3339Nano, string(m[1]))
		if err != nil {
			return nil, fmt.Errorf("read the embedded recording: line %d: %w", len(lines)+1, err)
		}
		lines = append(lines, line{text: text, time: t})
	}
	return lines, nil
}

// at returns the entry as the server would have written it in the run with this
// id at this time. The result is a new slice.
func (l line) at(run string, now time.Time) []byte {
	shift := now.Sub(l.time)
	text := replaceSecond(requestID, l.text, func(id string) string { return event.DeriveID("demo", run, id) })
	text = replaceSecond(accessor, text, func(id string) string { return event.DeriveID("demo", run, id)[:8] })
	return replaceSecond(timestamp, text, func(s string) string {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return s
		}
		return t.Add(shift).UTC().Format(time.RFC3339Nano)
	})
}

// replaceSecond replaces the second group in every match of a pattern that has
// three.
func replaceSecond(pattern *regexp.Regexp, text []byte, by func(string) string) []byte {
	var out []byte
	end := 0
	for _, m := range pattern.FindAllSubmatchIndex(text, -1) {
		out = append(out, text[end:m[4]]...)
		out = append(out, by(string(text[m[4]:m[5]]))...)
		end = m[5]
	}
	return append(out, text[end:]...)
}
