package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

// newCaptureWriter makes the writer of a capture, compressed also if its name says so, with a
// hostname or that of this machine. "-" is the standard output.
func newCaptureWriter(s *Streams, name string, replace, gzip bool, hostname string) (*capture.FileWriter, error) {
	if hostname == "" {
		hostname, _ = os.Hostname()
	}
	o := capture.WriterOptions{
		Gzip:    gzip || strings.HasSuffix(name, ".gz"),
		Machine: &capture.Machine{Hostname: hostname, CPUs: uint32(runtime.NumCPU())},
	}
	if name == "-" {
		if isTerminal(s.Out) {
			return nil, &adviceError{errors.New("a capture is not for a terminal"), "Send the standard output into a file or a pipe."}
		}
		return capture.To(s.Out, o), nil
	}
	w, err := capture.Create(name, replace, o)
	if errors.Is(err, os.ErrExist) {
		return nil, &adviceError{err, "Give another name, or --force to replace it."}
	}
	if err != nil {
		return nil, &adviceError{fmt.Errorf("create the capture %s: %w", visible(name), err), "Give a name in a directory that is there and that you may write to."}
	}
	return w, nil
}

// closeCapture closes w and returns err with what that adds.
func closeCapture(w *capture.FileWriter, err error) error {
	if closed := w.Close(); closed != nil && !errors.Is(err, closed) {
		return errors.Join(err, closed)
	}
	return err
}

// captureWritten is the answer of "capture write".
type captureWritten struct {
	File     string `json:"file,omitempty"` // none without an event
	Events   uint64 `json:"events"`
	TooLarge uint64 `json:"too_large"`
	Without  uint64 `json:"without_payload"` // which could not be fetched
	Gaps     int    `json:"gaps"`
	Position string `json:"position,omitempty"` // of the last event: a --since to go on

	why string // the first payload could not be fetched
}

// selection chooses from the events of one subscription.
type selection struct{ types, sources []event.Glob }

func newSelection(types, sources []string) (subscribe string, s selection) {
	subscribe = "*"
	if len(types) == 1 {
		subscribe = types[0]
	}
	for _, t := range types {
		s.types = append(s.types, event.CompileGlob(t))
	}
	for _, t := range sources {
		s.sources = append(s.sources, event.CompileGlob(t))
	}
	return subscribe, s
}

func (s *selection) has(e *event.Event) bool {
	return matchesOne(s.types, e.Type) && matchesOne(s.sources, e.Source)
}

// matchesOne reports whether one of the globs matches, or there is none.
func matchesOne(globs []event.Glob, text string) bool {
	for _, g := range globs {
		if g.Match(text) {
			return true
		}
	}
	return len(globs) == 0
}

// flushEvery is how often a file is completed while events come.
const flushEvery = time.Second

// captureWriting is a subscription whose events are written into a capture.
type captureWriting struct {
	w          *capture.FileWriter
	selected   selection
	until      time.Time // zero: no end
	connection *connection
	notes      *notes
	err        io.Writer
	terminal   bool // people look at the notes

	answer captureWritten
	denied bool // payloads are not for this token
	buf    []byte
}

// notice is told what happens to the connection.
func (r *captureWriting) notice(n client.Notice) {
	if n.Kind == client.Gap {
		r.answer.Gaps++
	}
	r.notes.mu.Lock()
	defer r.notes.mu.Unlock()
	r.notes.erase()
	reportNotice(r.err, n)
}

// copy writes what comes until the end.
func (r *captureWriting) copy(ctx context.Context, sub *client.Subscription) error {
	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan received, 256)
	var reading sync.WaitGroup
	reading.Go(func() { receive(ctx, sub, messages) })
	defer reading.Wait()
	defer cancel()
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var last time.Time
	defer r.notes.show("")
	for {
		select {
		case <-ctx.Done():
			return nil // what came is written
		case <-tick.C:
			if err := r.w.Flush(); err != nil {
				return err
			}
			if r.terminal && r.w.Events() > 0 {
				r.notes.show(fmt.Sprintf("%s, up to %s", eventCount(r.w.Events()), last.Format(time.RFC3339)))
			}
		case m := <-messages:
			switch {
			case errors.Is(m.err, io.EOF), m.err != nil && ctx.Err() != nil:
				return nil
			case m.err != nil:
				return m.err
			}
			e := m.message.Event
			if !r.until.IsZero() && !e.Recorded.Before(r.until) {
				return nil // what follows was recorded later
			}
			if last = e.Recorded; !r.selected.has(e) {
				continue
			}
			if err := r.write(ctx, e); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			r.answer.Position = m.message.Position
		}
	}
}

// write writes an event without its place in the journal.
func (r *captureWriting) write(ctx context.Context, e *event.Event) (err error) {
	if e.Extensions.Delete(event.ExtensionSequence); len(e.Extensions) == 0 {
		e.Extensions = nil
	}
	if err := r.fetch(ctx, e); err != nil {
		return err
	}
	if r.buf, err = falcoevent.Append(r.buf[:0], e); err == nil {
		err = r.w.Write(scapevent.Event(r.buf))
	}
	if cap(r.buf) > 4<<20 {
		r.buf = nil // a large event was there
	}
	if errors.Is(err, capture.ErrTooLarge) || errors.Is(err, falcoevent.ErrTooLarge) {
		r.answer.TooLarge++
		return nil
	}
	return err
}

// fetch gets the payload of an event of a plugin that was too large for the journal. One that
// the token may not have, or that is not there any more, is told about at the end; such an event is
// written as the journal has it.
func (r *captureWriting) fetch(ctx context.Context, e *event.Event) error {
	name, kept := strings.CutPrefix(e.DataRef, vaultaudit.PayloadPath)
	if !kept || e.Data != nil || !strings.HasPrefix(e.Type, falcoevent.TypePrefix) {
		return nil
	}
	if r.denied {
		r.answer.Without++
		return nil
	}
	data, err := r.connection.payload(ctx, name)
	if err == nil {
		if want, ok := e.Metadata.Text("sha256"); ok {
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want {
				err = errors.New("the hub has other bytes than the event says")
			}
		}
	}
	switch {
	case err == nil:
		e.Data, e.DataRef = data, ""
		return nil
	case ctx.Err() != nil:
		return err
	case errors.Is(err, client.ErrPermission):
		r.denied = true
		err = errors.New("only a root token may fetch it")
	}
	if r.answer.Without++; r.answer.why == "" {
		r.answer.why = err.Error()
	}
	return nil
}

// payloadTries is how often a payload is asked for while the hub does not answer as it should.
const payloadTries = 5

// payload gets bytes that were too large for the journal.
func (c *connection) payload(ctx context.Context, name string) (data []byte, err error) {
	// A payload does not depend on the namespace of the request.
	v, err := vaultclient.New(vaultclient.Options{Address: c.address, Token: c.token, Transport: c.transport})
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		data, err = v.Payload(ctx, name, capture.DefaultMaxBlockBytes)
		status, refused := errors.AsType[*client.StatusError](err)
		if err == nil || try == payloadTries || errors.Is(err, vaultclient.ErrTooLarge) || refused && status.StatusCode < 500 && status.StatusCode != http.StatusTooManyRequests {
			return data, err
		}
		timer := time.NewTimer(time.Duration(try) * 500 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// received is what a subscription has returned.
type received struct {
	message *client.Message
	err     error
}

// receive hands over what the subscription returns, up to its first error.
func receive(ctx context.Context, sub *client.Subscription, messages chan<- received) {
	for {
		m, err := sub.Next(ctx)
		select {
		case messages <- received{m, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}
