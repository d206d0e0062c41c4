package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// stuckTime is how long code of a plugin may go on after its context has ended.
const stuckTime = 5 * time.Second

// Host is for the hub and the packages below this one: it returns what the plugin says of
// itself, and what makes it run with a config. The error is that of [Plugin.Check].
func (p *Plugin) Host() (*sourceplugin.Description, func(ctx context.Context, config string) (sourceplugin.Plugin, error), error) {
	if p.err != nil {
		return nil, nil, fmt.Errorf("the declaration of the plugin %q: %w", p.about.Name, p.err)
	}
	return &p.about, p.start, nil
}

func (p *Plugin) start(ctx context.Context, config string) (sourceplugin.Plugin, error) {
	r := &running{plugin: p, streams: make(map[*stream]bool)}
	err := guard("New", func() (err error) {
		r.instance, err = p.make(ctx, config)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// guard calls code of the author. A panic becomes an error; the log has the stack.
func guard(what string, call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			slog.Error("The plugin has panicked.", "in", what, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in %s: %v", what, r)
		}
	}()
	return call()
}

// running is a plugin that has its config. It implements [sourceplugin.Plugin].
type running struct {
	plugin   *Plugin
	instance any

	mu      sync.Mutex
	streams map[*stream]bool // nil: closed
}

var errClosed = errors.New("the plugin is closed")

// Describe implements [sourceplugin.Plugin].
func (r *running) Describe() *sourceplugin.Description { return &r.plugin.about }

// OpenParams implements [sourceplugin.Plugin].
func (r *running) OpenParams(ctx context.Context) (list []sourceplugin.OpenParam, err error) {
	if r.plugin.params == nil {
		return nil, sourceplugin.ErrNotSupported
	}
	err = guard("OpenParams", func() (err error) {
		list, err = r.plugin.params(ctx, r.instance)
		return err
	})
	return list, err
}

// SetConfig implements [sourceplugin.Plugin].
func (r *running) SetConfig(ctx context.Context, config string) error {
	if r.plugin.setConfig == nil {
		return sourceplugin.ErrNotSupported
	}
	return guard("SetConfig", func() error { return r.plugin.setConfig(ctx, r.instance, config) })
}

// Metrics implements [sourceplugin.Plugin].
func (r *running) Metrics(context.Context) (list []sourceplugin.Metric, err error) {
	m, ok := r.instance.(Measurer)
	if !ok {
		return nil, nil
	}
	err = guard("Metrics", func() error {
		for _, m := range m.Metrics() {
			list = append(list, sourceplugin.Metric{Name: m.Name, Monotonic: m.Monotonic, Value: m.Value})
		}
		return nil
	})
	return list, err
}

// Strings implements [sourceplugin.Plugin].
func (r *running) Strings(ctx context.Context, events []sourceplugin.Event) (list []string, err error) {
	s, ok := r.instance.(Stringer)
	if !ok {
		return nil, sourceplugin.ErrNotSupported
	}
	err = guard("String", func() error {
		for i := range events {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			e := view(&events[i])
			text, err := s.String(&e)
			if err != nil {
				return fmt.Errorf("event %d: %w", i+1, err)
			}
			list = append(list, strings.ToValidUTF8(text, "\uFFFD"))
		}
		return nil
	})
	return list, err
}

// Extract implements [sourceplugin.Plugin].
func (r *running) Extract(ctx context.Context, events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (v sourceplugin.Values, err error) {
	x, ok := r.instance.(Extractor)
	if !ok {
		return v, sourceplugin.ErrNotSupported
	}
	requests := make([]Request, len(fields))
	for i, f := range fields {
		if f.Index < 0 || f.Index >= len(r.plugin.about.Fields) {
			return v, fmt.Errorf("there is no field number %d: the plugin has %d", f.Index, len(r.plugin.about.Fields))
		}
		field := &r.plugin.about.Fields[f.Index]
		switch {
		case f.ArgPresent && !field.Arg.Index && !field.Arg.Key:
			return v, fmt.Errorf("the field %s takes no argument", field.Name)
		case !f.ArgPresent && field.Arg.Required:
			return v, fmt.Errorf("the field %s needs an argument", field.Name)
		}
		requests[i] = Request{Name: field.Name, Arg: f.Arg, Index: f.ArgIndex, HasArg: f.ArgPresent, field: field}
	}
	v.Counts = make([]uint32, 0, len(events)*len(fields))
	err = guard("Extract", func() error {
		for i := range events {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			e := view(&events[i])
			size := len(e.Data)
			for j := range requests {
				requests[j].begin(&events[i], size)
			}
			if err := x.Extract(ctx, &e, requests); err != nil {
				return fmt.Errorf("event %d: %w", i+1, err)
			}
			for j := range requests {
				if requests[j].err != nil {
					return fmt.Errorf("event %d: %w", i+1, requests[j].err)
				}
				requests[j].take(&v)
			}
		}
		return nil
	})
	if err != nil {
		return sourceplugin.Values{}, err
	}
	return v, nil
}

// Open implements [sourceplugin.Plugin].
func (r *running) Open(ctx context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	if r.plugin.open == nil {
		return nil, sourceplugin.ErrNotSupported
	}
	s := &stream{running: r, ended: make(chan struct{}), asked: make(chan *Batch), filled: make(chan error, 1)}
	s.batch = Batch{limits: r.plugin.batch, id: r.plugin.about.ID, names: r.plugin.about.AsyncNames, maxEvent: o.MaxEventBytes, resumes: r.plugin.about.Capabilities.Resume}
	resume := o.Resume
	if !s.batch.resumes {
		resume = nil
	}
	err := guard("Open", func() (err error) {
		s.author, err = r.plugin.open(ctx, r.instance, o.Params, resume)
		return err
	})
	switch _, tells := s.author.(Progresser); {
	case err != nil:
		return nil, err
	case s.author == nil:
		return nil, errors.New("Open has returned neither a stream nor an error")
	case r.plugin.about.Capabilities.Progress && !tells:
		_ = guard("Close", s.author.Close)
		return nil, fmt.Errorf("Info.Progress is true, but a %T has no Progress method", s.author)
	}
	r.mu.Lock()
	closed := r.streams == nil
	if !closed {
		r.streams[s] = true
	}
	r.mu.Unlock()
	go s.run()
	if closed {
		return nil, errors.Join(errClosed, s.Close(ctx))
	}
	return s, nil
}

// Close implements [sourceplugin.Plugin].
func (r *running) Close(ctx context.Context) error {
	r.mu.Lock()
	streams := r.streams
	r.streams = nil
	r.mu.Unlock()
	if streams == nil {
		return nil
	}
	var errs []error
	for s := range streams {
		errs = append(errs, s.Close(ctx))
	}
	if c, ok := r.instance.(io.Closer); ok {
		done := make(chan error, 1)
		go func() { done <- guard("Close", c.Close) }()
		var late <-chan time.Time
		if _, bounded := ctx.Deadline(); !bounded {
			late = time.After(stuckTime)
		}
		select {
		case err := <-done:
			errs = append(errs, err)
		case <-late:
			errs = append(errs, fmt.Errorf("the plugin does not close, %v after it was asked to", stuckTime))
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("the plugin does not close: %w", ctx.Err()))
		}
	}
	return errors.Join(errs...)
}

// stream is an open stream. A goroutine of its own calls the author's code, so that code which
// does not end does not hold up the host.
type stream struct {
	running *running
	author  Stream
	batch   Batch // of Next, unless it is left behind

	asked  chan *Batch   // to be filled
	filled chan error    // has room for one
	ended  chan struct{} // closed when the goroutine has closed the author's stream
	failed error         // of Next, for good

	mu      sync.Mutex
	cancel  context.CancelFunc // of the NextBatch that runs
	ctx     context.Context
	closing chan struct{} // nil until Close
	closed  error         // of the author's Close; read after ended
}

// run calls the author's code until the stream is closed.
func (s *stream) run() {
	defer close(s.ended)
	for b := range s.asked {
		s.mu.Lock()
		ctx := s.ctx
		s.mu.Unlock()
		s.filled <- guard("NextBatch", func() error { return s.author.NextBatch(ctx, b) })
	}
	s.closed = guard("Close", s.author.Close)
}

// Next implements [sourceplugin.Stream].
func (s *stream) Next(ctx context.Context, out *sourceplugin.Batch) error {
	out.Reset()
	if s.failed != nil {
		return s.failed
	}
	b := &s.batch
	b.buf, b.count, b.untimed, b.positioned, b.dropped, b.why = out.Events[:0], 0, false, false, 0, ""
	calling, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	s.mu.Lock()
	if s.closing != nil {
		s.mu.Unlock()
		return errClosed
	}
	s.ctx, s.cancel = calling, cancel
	s.asked <- b // the goroutine waits for it
	s.mu.Unlock()
	err, stuck := s.wait(calling)
	if stuck != nil {
		out.Events = nil // the author's code may still write to it
		s.failed = stuck
		return stuck
	}
	b.stamp(uint64(time.Now().UnixNano()))
	*out = sourceplugin.Batch{Events: b.buf, Count: b.count, Dropped: b.dropped, DroppedReason: b.why}
	if b.positioned {
		out.Position = append([]byte{}, b.position...)
	}
	nothing := b.count == 0 && b.dropped == 0 && !b.positioned
	switch {
	case b.err != nil:
		// What the author got wrong counts, whatever he returned.
		s.failed = b.err
	case err == nil && nothing && ctx.Err() == nil:
		<-calling.Done() // it should have waited itself
		return nil
	case err == nil, calling.Err() != nil && errors.Is(err, calling.Err()):
		if nothing {
			return ctx.Err() // or the time of the batch is over
		}
		return nil
	case err != io.EOF && errors.Is(err, io.EOF):
		// Of a connection that broke, say. Whoever looks for io.EOF must not find the end.
		s.failed = errors.New(err.Error())
	default:
		s.failed = err
	}
	return s.failed
}

// wait waits for the author's code, for a while after its context has ended.
func (s *stream) wait(calling context.Context) (err, stuck error) {
	select {
	case err := <-s.filled:
		return err, nil
	case <-calling.Done():
	}
	late := time.NewTimer(stuckTime)
	defer late.Stop()
	select {
	case err := <-s.filled:
		return err, nil
	case <-late.C:
		return nil, fmt.Errorf("NextBatch does not return, %v after its context has ended; it must wait for ctx.Done(), too", stuckTime)
	}
}

// Acknowledge implements [sourceplugin.Stream].
func (s *stream) Acknowledge(ctx context.Context, position []byte) error {
	a, ok := s.author.(Acknowledger)
	if !ok {
		return nil
	}
	return guard("Acknowledge", func() error { return a.Acknowledge(ctx, position) })
}

// Progress implements [sourceplugin.Stream].
func (s *stream) Progress(context.Context) (p sourceplugin.Progress, err error) {
	t, ok := s.author.(Progresser)
	if !ok || !s.running.plugin.about.Capabilities.Progress {
		return p, sourceplugin.ErrNotSupported
	}
	err = guard("Progress", func() error {
		fraction, text := t.Progress()
		if !(fraction >= 0) { // also what is no number
			fraction = 0
		}
		p = sourceplugin.Progress{Fraction: min(fraction, 1), Text: strings.ToValidUTF8(text, "\uFFFD")}
		return nil
	})
	return p, err
}

// Close implements [sourceplugin.Stream]. Code of the author that does not end is left behind when
// ctx ends, or after some seconds if that has no deadline.
func (s *stream) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closing == nil {
		s.closing = make(chan struct{})
		if s.cancel != nil {
			s.cancel()
		}
		close(s.asked)
		s.running.mu.Lock()
		delete(s.running.streams, s)
		s.running.mu.Unlock()
	}
	s.mu.Unlock()
	var late <-chan time.Time
	if _, bounded := ctx.Deadline(); !bounded {
		late = time.After(stuckTime)
	}
	select {
	case <-s.ended:
		return s.closed
	case <-late:
		return fmt.Errorf("the stream does not end, %v after it was closed", stuckTime)
	case <-ctx.Done():
		return fmt.Errorf("the stream does not end: %w", ctx.Err())
	}
}
