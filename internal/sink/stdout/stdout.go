// Package stdout writes events to the output of the program: one line each, in a format or
// for people.
package stdout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/terminal"
)

// Pretty is the format for people.
const Pretty = "pretty"

// Output is what one or several sinks of a process write to, such as its standard output.
// Lines of one are never within lines of another. It is safe for concurrent use.
type Output struct {
	w        io.Writer
	terminal bool
	colours  bool

	turn chan struct{} // has an element: somebody is writing
	rest []byte        // of what was written last and did not fit; it comes first
}

// NewOutput returns an output that writes to w, which nobody else should write to.
func NewOutput(w io.Writer) *Output {
	return &Output{w: w, terminal: terminal.Is(w), colours: terminal.Colours(w), turn: make(chan struct{}, 1)}
}

// write writes whole lines. After an error, n of them are written: all that ended before
// it, and the one that it happened in, of which the rest comes before anything else.
func (o *Output) write(lines []byte) (n int, err error) {
	for len(o.rest) > 0 {
		k, err := o.w.Write(o.rest)
		o.rest = o.rest[k:]
		if err != nil {
			return 0, err
		}
	}
	k, err := o.w.Write(lines)
	if err == nil && k < len(lines) {
		err = io.ErrShortWrite
	}
	if err == nil {
		return bytes.Count(lines, []byte{'\n'}), nil
	}
	n = bytes.Count(lines[:k], []byte{'\n'})
	if k > 0 && lines[k-1] != '\n' {
		end := k + bytes.IndexByte(lines[k:], '\n') + 1
		o.rest = slices.Clone(lines[k:end])
		n++
	}
	return n, err
}

// Options say what is written. All are required.
type Options struct {
	Output *Output
	// Format is the name of a [format.Format], or [Pretty]: the line for people that tocsin
	// subscribe prints, with colours if the output is a terminal and NO_COLOR is not set.
	// On a terminal, what would move its cursor is replaced in every format.
	Format string
}

// Sink writes to an output. See [deliver.Sink] for its methods.
type Sink struct {
	out    *Output
	format format.Format // "": pretty

	close   sync.Once
	closing chan struct{}
}

var errClosed = errors.New("the sink is closed")

// New returns a sink.
func New(o Options) (*Sink, error) {
	if o.Output == nil {
		return nil, errors.New("output is missing")
	}
	s := &Sink{out: o.Output, closing: make(chan struct{})}
	if o.Format == Pretty {
		return s, nil
	}
	var err error
	if s.format, err = format.Named(o.Format); err != nil {
		return nil, fmt.Errorf("%w, or pretty", err)
	}
	return s, nil
}

// Send implements [deliver.Sink]. Nobody can interrupt the system while it writes: when ctx ends,
// the lines may still be written later, if somebody reads.
func (s *Sink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	var lines []byte
	items := make([]int, 0, len(b.Items)) // of each line
	for i := range b.Items {
		line, err := s.append(lines, &b.Items[i])
		if err != nil {
			b.Decide(i, deliver.Result{Outcome: deliver.Impossible, Reason: err.Error()})
			continue
		}
		lines, items = append(line, '\n'), append(items, i)
	}
	if len(items) == 0 {
		return deliver.Result{}
	}
	n, err := s.write(ctx, lines)
	if err == nil {
		return deliver.Result{}
	}
	for _, i := range items[:n] {
		b.Decide(i, deliver.Result{Outcome: deliver.Delivered})
	}
	return deliver.Result{Outcome: deliver.Retry, Reason: reason(err)}
}

// append appends the line of an event, without its newline.
func (s *Sink) append(dst []byte, item *deliver.Item) ([]byte, error) {
	if s.format == "" {
		return terminal.AppendEvent(dst, item.Event, "", s.out.colours), nil
	}
	line, err := s.format.AppendLine(dst, *item)
	if err != nil || !s.out.terminal {
		return line, err
	}
	return append(dst, terminal.Visible(string(line[len(dst):]))...), nil
}

type written struct {
	lines int
	err   error
}

// write writes lines when it is their turn.
func (s *Sink) write(ctx context.Context, lines []byte) (int, error) {
	select {
	case <-s.closing:
		return 0, errClosed
	default:
	}
	select {
	case s.out.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("nobody reads the output: %w", context.Cause(ctx))
	case <-s.closing:
		return 0, errClosed
	}
	done := make(chan written, 1)
	go func() {
		n, err := s.out.write(lines)
		<-s.out.turn
		done <- written{n, err}
	}()
	select {
	case w := <-done:
		return w.lines, w.err
	case <-ctx.Done():
		return 0, fmt.Errorf("nobody reads the output: %w", context.Cause(ctx))
	case <-s.closing:
	}
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case w := <-done:
		return w.lines, w.err
	case <-ctx.Done():
	case <-timer.C:
	}
	return 0, errClosed
}

// closeGrace is how long lines that are being written are waited for when the sink is
// closed.
const closeGrace = time.Second

// Close implements [deliver.Sink]. The output stays open.
func (s *Sink) Close() error {
	s.close.Do(func() { close(s.closing) })
	return nil
}

func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	switch {
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return "nobody reads the output of the hub any more; start the hub again with a reader, or disable the sink"
	case errors.Is(err, errClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err.Error()
	}
	return "write to the output: " + err.Error()
}
