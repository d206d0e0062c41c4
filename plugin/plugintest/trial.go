package plugintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// Bounds of what a plugin gives.
const (
	maxBatchBytes    = 64<<20 + 20<<20 // and one event
	maxPositionBytes = 64 << 10
	maxTextBytes     = 1 << 20
)

// pause is between two looks at something that is waited for.
const pause = 10 * time.Millisecond

// trial is one check of one plugin.
type trial struct {
	testing.TB
	o      Options
	launch launcher
	plugin sourceplugin.Plugin
	about  *sourceplugin.Description
}

// try runs the check with a plugin of its own, and looks at what is left when that has ended.
func (c check) try(t testing.TB, o Options, launch launcher) {
	o.complete()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { // the last one
		begun := time.Now()
		for err := goleak.Find(before); err != nil; err = goleak.Find(before) {
			if time.Since(begun) > o.Prompt {
				t.Errorf("goroutines are left behind: %v", err)
				return
			}
		}
	})
	x := &trial{TB: t, o: o, launch: launch}
	p, err := x.start(o.Config, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatalf("start the plugin: %v", err)
	}
	x.plugin, x.about = p, p.Describe()
	x.Cleanup(func() { x.closePlugin(p) })
	c.run(x)
}

// start starts a plugin.
func (x *trial) start(config string, log *slog.Logger) (p sourceplugin.Plugin, err error) {
	x.Helper()
	x.within(x.o.Patience, "the start of the plugin", func(ctx context.Context) {
		p, err = x.launch(ctx, log, config)
	})
	return p, err
}

// closePlugin closes a plugin, which may be closed already.
func (x *trial) closePlugin(p sourceplugin.Plugin) {
	x.Helper()
	x.within(x.o.Prompt, "Close of the plugin", func(ctx context.Context) {
		switch err := p.Close(ctx); {
		case err != nil:
			x.Errorf("Close of the plugin: %v", err)
		case ctx.Err() != nil: // a process is killed then
			x.Errorf("Close of the plugin has needed more than %v", x.o.Prompt)
		}
	})
}

// within runs f with a context of that long, and fails when it has not returned then. It waits no
// longer than that and a moment.
func (x *trial) within(d time.Duration, what string, f func(context.Context)) {
	x.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	type end struct {
		whole    bool
		panicked any
	}
	done := make(chan end, 1)
	go func() {
		var e end
		defer func() { e.panicked = recover(); done <- e }()
		f(ctx)
		e.whole = true
	}()
	timer := time.NewTimer(d + x.o.Prompt)
	defer timer.Stop()
	select {
	case e := <-done:
		switch {
		case e.panicked != nil:
			x.Fatalf("%s panicked: %v", what, e.panicked)
		case !e.whole:
			x.FailNow() // f has said why
		}
	case <-timer.C:
		buf := make([]byte, 64<<10)
		x.Fatalf("%s has not returned after %v\n%s", what, d+x.o.Prompt, buf[:runtime.Stack(buf, true)])
	}
}

// ask calls the plugin, and says no more than that it failed.
func (x *trial) ask(what string, f func(context.Context) error) {
	x.Helper()
	x.within(x.o.Patience, what, func(ctx context.Context) {
		if err := f(ctx); err != nil {
			x.Errorf("%s: %v", what, err)
		}
	})
}

// refused checks the error of something that the plugin must refuse.
func (x *trial) refused(what string, err error) {
	x.Helper()
	switch {
	case err == nil:
		x.Errorf("%s is accepted", what)
	case errors.Is(err, sourceplugin.ErrExited):
		x.Errorf("%s ends the plugin: %v", what, err)
	case errors.Is(err, sourceplugin.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		x.Errorf("%s is not refused, but does not return in time: %v", what, err)
	case strings.Contains(err.Error(), "panic"):
		x.Errorf("%s: %v", what, err)
	default:
		x.checkText("the error about "+what, err.Error())
	}
}

// checkText checks a text for people.
func (x *trial) checkText(what, text string) {
	x.Helper()
	switch {
	case strings.TrimSpace(text) == "":
		x.Errorf("%s has no text", what)
	case len(text) > maxTextBytes:
		x.Errorf("%s has %d bytes", what, len(text))
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		x.Errorf("%s has control characters, or is no UTF-8: %q", what, text)
	}
}

// reader is an open stream, and what was read of it.
type reader struct {
	x      *trial
	stream sourceplugin.Stream
	batch  sourceplugin.Batch
	read   []sourceplugin.Event
	marks  []mark // where it gave positions
	drops  int
	ended  bool
}

// mark is a resume position. The stream that is opened with it begins behind event from at the
// earliest, and behind event to at the latest: a position may be that of an event within a batch,
// and what is behind it in the batch comes again.
type mark struct {
	position []byte
	from, to int
}

// open opens a stream with Options.Params, which is closed at the end.
func (x *trial) open(o sourceplugin.Open) *reader {
	x.Helper()
	if o.Params == "" {
		o.Params = x.o.Params
	}
	r, err := x.tryOpen(o)
	for begun := time.Now(); err != nil && x.o.Exclusive && time.Since(begun) < x.o.Prompt; {
		// A process may still be at closing the one before.
		time.Sleep(pause)
		r, err = x.tryOpen(o)
	}
	if err != nil {
		x.Fatalf("open a stream with the params %q: %v", o.Params, err)
	}
	return r
}

func (x *trial) tryOpen(o sourceplugin.Open) (r *reader, err error) {
	x.Helper()
	x.within(x.o.Patience, "Open", func(ctx context.Context) {
		var s sourceplugin.Stream
		if s, err = x.plugin.Open(ctx, o); err == nil {
			r = &reader{x: x, stream: s}
		}
	})
	if r != nil {
		x.Cleanup(r.close)
	}
	return r, err
}

// close closes the stream, which may be closed already.
func (r *reader) close() {
	r.x.Helper()
	r.x.within(r.x.o.Prompt, "Close of a stream", func(ctx context.Context) {
		if err := r.stream.Close(ctx); err != nil {
			r.x.Errorf("Close of a stream: %v", err)
		}
	})
}

// next reads a batch, and checks it. It is false at the end of the stream.
func (r *reader) next(ctx context.Context) bool {
	r.x.Helper()
	return r.took(r.stream.Next(ctx, &r.batch), ctx)
}

// took looks at a batch that Next returned with err.
func (r *reader) took(err error, ctx context.Context) bool {
	x, b := r.x, &r.batch
	x.Helper()
	if len(b.Events) > maxBatchBytes {
		x.Errorf("a batch has %d bytes", len(b.Events))
	}
	n := 0
	for rest := bytes.Clone(b.Events); len(rest) > 0; n++ { // the next batch may have the same memory
		e, behind, malformed := scapevent.Next(rest)
		if malformed != nil {
			x.Fatalf("event %d of a batch: %v", n+1, malformed)
		}
		rest = behind
		switch {
		case e.PluginID() != x.about.ID:
			x.Errorf("an event has the plugin id %d, and that of the plugin is %d", e.PluginID(), x.about.ID)
		case e.Nanos() == scapevent.NoTime:
			x.Errorf("an event has no time")
		case e.Type() == scapevent.Async && !slices.Contains(x.about.AsyncNames, e.Name()):
			x.Errorf("an asynchronous event has the name %q, which the plugin does not declare", e.Name())
		}
		r.read = append(r.read, sourceplugin.Event{Event: e, Number: uint64(len(r.read) + 1), Source: x.about.EventSource})
	}
	if n != b.Count {
		x.Fatalf("a batch has %d events, and says that it has %d", n, b.Count)
	}
	if r.drops += b.Dropped; b.Dropped > 0 {
		x.checkText("the reason for events that are left out", b.DroppedReason)
	}
	if b.Position != nil {
		switch {
		case !x.about.Capabilities.Resume:
			x.Errorf("a batch has a resume position, and the plugin does not declare that it resumes")
		case len(b.Position) > maxPositionBytes:
			x.Errorf("a resume position has %d bytes; at most %d are allowed", len(b.Position), maxPositionBytes)
		}
		from := 0
		if len(r.marks) > 0 {
			from = r.marks[len(r.marks)-1].to
		}
		r.marks = append(r.marks, mark{slices.Clone(b.Position), from, len(r.read)})
	}
	switch {
	case err == nil, ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return true
	case errors.Is(err, io.EOF):
		r.ended = true
		return false
	}
	x.Fatalf("the stream has failed after %d events: %v", len(r.read), err)
	return false
}

// all reads a stream to its end, or as much of it as is wanted of one that has none.
func (r *reader) all() *reader {
	r.x.Helper()
	r.upTo(r.x.o.wanted())
	if r.x.o.Events > 0 {
		r.toEnd()
	}
	return r
}

// upTo reads until there are so many events, or the stream has ended.
func (r *reader) upTo(n int) {
	r.x.Helper()
	r.x.within(r.x.o.Patience, fmt.Sprintf("reading %d events", n), func(ctx context.Context) {
		for len(r.read)+r.drops < n && r.next(ctx) {
			if ctx.Err() != nil {
				r.x.Fatalf("only %d of %d events have come within %v", len(r.read), n, r.x.o.Patience)
			}
		}
	})
}

// toEnd reads the rest, which should be none, until the stream ends.
func (r *reader) toEnd() {
	r.x.Helper()
	r.x.within(r.x.o.Patience, "the end of the stream", func(ctx context.Context) {
		for !r.ended && r.next(ctx) {
			if ctx.Err() != nil {
				r.x.Fatalf("the stream has not ended after %d events; Options.Endless is for streams that do not end", len(r.read))
			}
			if limit := 10*r.x.o.Events + 100_000; len(r.read) > limit {
				r.x.Fatalf("the stream has more than %d events instead of %d", limit, r.x.o.Events)
			}
		}
	})
}

// ids returns what the events are known by.
func (x *trial) ids(events []sourceplugin.Event) []string {
	ids := make([]string, len(events))
	for i := range events {
		ids[i] = x.o.Identity(view(events[i]))
	}
	return ids
}

// same fails unless a stream gave what another one did, of one without an end as far as both were
// read.
func (x *trial) same(what string, got, want []sourceplugin.Event) {
	x.Helper()
	a, b := x.ids(got), x.ids(want)
	if x.o.Endless > 0 {
		n := min(len(a), len(b))
		a, b = a[:n], b[:n]
	}
	if slices.Equal(a, b) {
		return
	}
	at := 0
	for at < len(a) && at < len(b) && a[at] == b[at] {
		at++
	}
	show := func(list []string) string {
		if at < len(list) {
			return fmt.Sprintf("%.200q", list[at])
		}
		return "missing"
	}
	x.Errorf("%s: %d events instead of %d; number %d is %s instead of %s (Options.Identity says what must be equal)", what, len(a), len(b), at+1, show(a), show(b))
}

// view returns an event as authors know it.
func view(e sourceplugin.Event) plugin.Event {
	return plugin.Event{Time: e.Time(), Data: e.Data(), Name: e.Name(), Number: e.Number, Source: e.Source}
}

// material returns events that the plugin is asked about: its own and those of Options.Feed.
func (x *trial) material() []sourceplugin.Event {
	x.Helper()
	var list []sourceplugin.Event
	if x.about.Capabilities.Source {
		r := x.open(sourceplugin.Open{}).all()
		r.close()
		list = r.read
	}
	for _, e := range x.o.Feed {
		if e.Source == "" && len(x.about.ExtractSources) > 0 {
			e.Source = x.about.ExtractSources[0]
		}
		nanos, id := uint64(max(e.Time.UnixNano(), 0)), x.about.ID
		if id == 0 {
			id = foreignID
		}
		b := scapevent.Append(nil, id, nanos, e.Data)
		if e.Name != "" {
			b = scapevent.AppendAsync(nil, id, nanos, e.Name, e.Data)
		}
		list = append(list, sourceplugin.Event{Event: b, Number: e.Number, Source: e.Source})
	}
	return list
}

// foreignID is the id of a plugin that does not exist.
const foreignID = 1_073_741_823
