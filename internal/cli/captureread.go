package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
)

const captureFileHelp = `"-" is the standard input. Captures may be compressed with gzip, and be several
behind each other.

Exit codes: 0 the whole file was read; 1 it cannot be read, or is no capture; 2 wrong usage;
3 it is truncated or damaged: what was before is printed, and where that ends is said.`

// openCapture opens a capture; "-" is the standard input. A pipe that has nothing to read does not
// hold up the end of ctx; before, if it is not nil, is called before each read of one.
func openCapture(ctx context.Context, s *Streams, name string, before func() error) (*capture.Reader, func(), error) {
	in, end := s.In, func() {}
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, nil, err
		}
		in, end = contextReader{ctx, f}, func() { f.Close() }
		if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
			in = newWaitingReader(ctx, f, before)
		}
	} else {
		in = newWaitingReader(ctx, in, before)
	}
	r, err := capture.NewReader(in, capture.ReaderOptions{})
	if err != nil {
		end()
		return nil, nil, captureEnd(name, err)
	}
	return r, end, nil
}

// captureError names the file.
func captureError(name string, err error) error {
	if name == "-" {
		name = "the standard input"
	}
	if isDamaged(err) {
		return fmt.Errorf("read %s: %w", visible(name), err)
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path // the system's words, with the name
	}
	return readError(visible(name), err)
}

// isDamaged reports whether an error is that of the bytes of a capture.
func isDamaged(err error) bool {
	return errors.Is(err, capture.ErrMalformed) || errors.Is(err, capture.ErrTruncated) || errors.Is(err, capture.ErrUnsupported) || errors.Is(err, capture.ErrTooLarge)
}

// captureEnd makes of the error that ended the reading what the command has to say: of a file that
// could be read up to some place, that it is not complete.
func captureEnd(name string, err error) error {
	damage, located := errors.AsType[*capture.Error](err)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case isDamaged(err) && located && (damage.Offset > 0 || errors.Is(err, capture.ErrTruncated)):
		return &incompleteError{captureError(name, err).Error()}
	}
	return captureError(name, err)
}

// contextReader ends with ctx what reads a file for a long time, because little of it becomes much
// or nothing in it is looked for.
type contextReader struct {
	ctx context.Context
	in  io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.Read(p)
}

// waitingReader reads from what may have nothing to read for a long time.
type waitingReader struct {
	ctx    context.Context
	in     io.Reader
	before func() error
	mem    []byte
	rest   []byte // of what was read
	err    error  // behind it
	done   chan int
}

func newWaitingReader(ctx context.Context, in io.Reader, before func() error) *waitingReader {
	return &waitingReader{ctx: ctx, in: in, before: before, mem: make([]byte, 64<<10), done: make(chan int, 1)}
}

// Read returns the error of ctx when that ends first; the read below is left behind then, and
// ends with the program.
func (r *waitingReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.err == nil && r.before != nil {
			r.err = r.before()
		}
		if r.err == nil {
			r.err = r.ctx.Err()
		}
		if r.err != nil {
			return 0, r.err
		}
		var err error
		go func() {
			var n int
			n, err = r.in.Read(r.mem)
			r.done <- n
		}()
		select {
		case n := <-r.done:
			r.rest, r.err = r.mem[:n], err
		case <-r.ctx.Done():
			r.err = r.ctx.Err()
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// captureNotes are what has to be said of a capture that comes out differently from what people
// may expect.
type captureNotes struct {
	replay *falcoevent.Replay
	told   map[uint32]bool
}

// maxToldPlugins bounds the plugins of which something is said.
const maxToldPlugins = 20

// plugin returns, once for each plugin, that its event source is not known; "" if it is.
func (n *captureNotes) plugin(id uint32) string {
	source, known := n.replay.EventSource(id)
	if known || n.told[id] || len(n.told) == maxToldPlugins {
		return ""
	}
	if n.told == nil {
		n.told = make(map[uint32]bool)
	}
	n.told[id] = true
	return fmt.Sprintf("The event source of the plugin %d is not known, so it is called %s; --event-source %d=NAME gives it.", id, source, id)
}

// sayForeign says how many events of a capture were passed over, and if there was none at all.
func sayForeign(w io.Writer, stats capture.Stats) {
	switch {
	case stats.Foreign > 0:
		fmt.Fprintf(w, "%s passed over: of system calls, or of unknown types. sysdig reads them.\n", wasWere(stats.Foreign))
	case stats.Events+stats.Hidden == 0:
		fmt.Fprintln(w, "There are no events in it.")
	}
}
