package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
)

// published is an event to publish, or why there is none.
type published struct {
	line  int // 0 for that of the command line
	event *event.Event
	err   error
	fatal bool // nothing follows
	note  string
}

func oneEvent(e *event.Event) func(context.Context) <-chan published {
	return func(context.Context) <-chan published {
		events := make(chan published, 1)
		events <- published{event: e}
		close(events)
		return events
	}
}

// maxLineBytes bounds a line; an event of the largest size that a hub can be configured
// to take fits, escaped.
const maxLineBytes = 64 << 20

var errLineTooLong = fmt.Errorf("the line has more than %d bytes", maxLineBytes)

// readCloudEvents parses lines until the input or the context ends. A read that waits for
// input when the context ends is left behind, as the end of the program ends it.
func readCloudEvents(in io.Reader) func(context.Context) <-chan published {
	return func(ctx context.Context) <-chan published {
		events := make(chan published, 256)
		go func() {
			defer close(events)
			r := bufio.NewReaderSize(in, 256<<10)
			for line := 1; ; line++ {
				text, err := readLine(r)
				end := err != nil && !errors.Is(err, errLineTooLong)
				p := published{line: line, err: err}
				switch text = bytes.TrimSpace(text); {
				case end && !errors.Is(err, io.EOF):
					p.err, p.fatal = fmt.Errorf("read standard input: %w", err), true
				case err != nil && !end:
				case len(text) == 0 && end:
					return
				case len(text) == 0:
					continue
				default:
					p.event, p.err = event.ParseCloudEvent(text)
				}
				select {
				case events <- p:
				case <-ctx.Done():
					return
				}
				if end {
					return
				}
			}
		}()
		return events
	}
}

// readLine returns the next line. The rest of one that is too long is skipped.
func readLine(r *bufio.Reader) (line []byte, err error) {
	tooLong := false
	for {
		part, err := r.ReadSlice('\n')
		if !tooLong {
			if line == nil && err == nil {
				return part, nil // valid until the next call, and parsed before
			}
			line = append(line, part...)
			if len(line) > maxLineBytes {
				line, tooLong = nil, true
			}
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == nil && tooLong:
			return nil, errLineTooLong
		}
		return line, err
	}
}

// publication is what happens while events are published.
type publication struct {
	publisher *client.Publisher
	patience  time.Duration
	giveUp    context.CancelCauseFunc
	notes     *notes
	what      string // "line"

	// Of the goroutine that reads.
	queued int    // events
	last   int    // line
	id     string // of the last event
	hidden bool   // it has no path
	failed error  // why not all is stored
	unsent bool   // an event was read and not queued

	mu       sync.Mutex
	lines    lineNumbers
	refused  int
	denied   int // of them
	refusals []refusedEvent
	outage   *time.Timer // ends patience; nil while there is no outage
}

// maxRefusals is how many refusals a summary lists.
const maxRefusals = 1000

// refusedEvent is an event that is not stored.
type refusedEvent struct {
	Line    int    `json:"line,omitempty"`
	ID      string `json:"id,omitempty"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (r *publication) refuse(e refusedEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused++
	if e.Code == "denied" || e.Code == "reserved" {
		r.denied++
	}
	if len(r.refusals) < maxRefusals {
		r.refusals = append(r.refusals, e)
	}
	where := "The event was refused"
	if e.Line > 0 {
		where = fmt.Sprintf("%s %d", strings.ToUpper(r.what[:1])+r.what[1:], e.Line)
	}
	r.notes.say("%s: %s: %s", where, visible(e.Code), visible(e.Message))
}

// notify is told by the publisher what happens.
func (r *publication) notify(n client.Notice) {
	switch n.Kind {
	case client.Refused:
		r.mu.Lock()
		line := r.lines.of(n.Refusal.Index)
		r.mu.Unlock()
		r.refuse(refusedEvent{Line: line, ID: n.Refusal.ID, Code: n.Refusal.Code, Message: n.Refusal.Message})
	case client.Warned:
		r.notes.say("Warning: %s", visible(n.Err.Error()))
	case client.Reconnected:
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.outage != nil {
			r.outage.Stop()
			r.outage = nil
		}
	case client.Disconnected:
		r.disconnected(n)
	}
}

// disconnected waits for the hub, if that has sense.
func (r *publication) disconnected(n client.Notice) {
	patience := r.patience
	switch {
	case errors.Is(n.Err, client.ErrPermission), errors.Is(n.Err, client.ErrNotFound), errors.Is(n.Err, client.ErrBadRequest):
		patience = 0 // more of the same does not help
	case errors.Is(n.Err, client.ErrUnavailable):
		patience = max(patience, busyPatience)
	}
	if patience == 0 {
		r.giveUp(n.Err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outage == nil {
		r.outage = time.AfterFunc(patience, func() {
			r.giveUp(fmt.Errorf("%w, for %v", n.Err, patience))
		})
		r.notes.say("%s. Trying for %v.", visible(n.Err.Error()), patience)
	}
}

// notes are what is said on standard error while something goes on there.
type notes struct {
	mu   sync.Mutex
	w    io.Writer
	text bool // for people
	line bool // the last line is the progress
}

func newNotes(w io.Writer, text bool) *notes { return &notes{w: w, text: text} }

// say prints a line, if people read it.
func (n *notes) say(format string, args ...any) {
	if !n.text {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	fmt.Fprintf(n.w, format+"\n", args...)
}

func (n *notes) erase() {
	if n.line {
		fmt.Fprint(n.w, eraseLine)
		n.line = false
	}
}

// show writes a text into the line of the progress; "" erases it.
func (n *notes) show(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	if text != "" {
		fmt.Fprint(n.w, fit(text, outputWidth(n.w)))
		n.line = true
	}
}

// progress writes once a second what was published, into the same line of a terminal. The
// returned function ends that and erases the line.
func (n *notes) progress(p *client.Publisher, terminal bool) (stop func()) {
	if !terminal || !n.text {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		before, at := p.Stats(), time.Now()
		for {
			select {
			case <-done:
				return
			case now := <-ticker.C:
				stats := p.Stats()
				n.mu.Lock()
				fmt.Fprint(n.w, eraseLine, progressLine(before, stats, now.Sub(at)))
				n.line = true
				n.mu.Unlock()
				before, at = stats, now
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		n.erase()
	}
}

// progressLine says what happened between two moments. It fits into 80 columns.
func progressLine(before, now client.Stats, elapsed time.Duration) string {
	line := fmt.Sprintf("%.0f events/s · %d stored", float64(now.Acknowledged-before.Acknowledged)/elapsed.Seconds(), now.Acknowledged)
	if now.Refused > 0 {
		line += fmt.Sprintf(" · %d refused", now.Refused)
	}
	return line + fmt.Sprintf(" · %d waiting", now.Waiting)
}
