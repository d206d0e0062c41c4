package plugin

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// DefaultSteadyAfter is how long a plugin has to run to count as one that runs well.
const DefaultSteadyAfter = 10 * time.Second

const (
	// firstPause is the pause before the first start again; it doubles with each failure.
	firstPause = 200 * time.Millisecond
	// recordEvery is how often failures in a row are recorded, after the first.
	recordEvery = 5 * time.Minute
	// closeTimeout is how long a plugin has to close its stream, and to end.
	closeTimeout = 5 * time.Second
	// pollEvery is how often a plugin is asked for its progress and metrics.
	pollEvery = 5 * time.Second
)

// errEnded means that the stream has come to its end.
var errEnded = errors.New("the stream has ended")

// Run starts the plugin and keeps it running until ctx ends, or until the restart policy wants no
// more. It returns when all has ended, and always nil: what goes wrong is told elsewhere.
func (s *Source) Run(ctx context.Context) error {
	failures := 0
	for {
		if !s.settled(ctx) {
			break
		}
		err := s.once(ctx)
		if ctx.Err() != nil {
			break
		}
		if s.wasWell() {
			failures = 0
		}
		failures++
		pause := s.pause(failures)
		if !s.after(err, failures, pause) {
			if !errors.Is(err, errEnded) || !s.extracts {
				return nil
			}
			// Who filters its events by fields is not done with them.
			s.over, failures, pause = true, 0, 0
		}
		if !sleep(ctx, pause) {
			break
		}
	}
	s.set(Stopped)
	return nil
}

// settled waits until nothing of the last run is left, so that there are never two.
func (s *Source) settled(ctx context.Context) bool {
	idle := s.strays.idle()
	moment := time.NewTimer(grace)
	defer moment.Stop()
	select {
	case <-idle:
		return ctx.Err() == nil
	case <-moment.C:
	case <-ctx.Done():
		return false
	}
	s.log.Error("A plugin does not end. It is started again when it has.")
	s.set(Stuck)
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}

// pause returns how long to wait after so many failures in a row: between half of it and all.
func (s *Source) pause(failures int) time.Duration {
	d := s.config.MaxPause
	if shift := failures - 1; shift < 30 {
		d = min(firstPause<<shift, d)
	}
	return d/2 + rand.N(d/2+1)
}

// after notes why a run is over, and says whether there is another one.
func (s *Source) after(err error, failures int, pause time.Duration) bool {
	ended := errors.Is(err, errEnded)
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		f = failure(Broken, "%v", err)
	}
	f = &Failure{f.Kind, s.redact(f.Reason)}
	again := s.config.Restart == Always || s.config.Restart == OnFailure && !ended
	if f.Kind == Refused {
		again = false
	}
	now := time.Now()
	s.mu.Lock()
	st := &s.status
	i := Incident{What: "plugin-source-failed", Name: st.Name, Plugin: st.Plugin, Version: st.Version, Kind: f.Kind, Reason: f.Reason, Failures: failures}
	var record bool
	if ended {
		i.What, i.Kind, i.Reason, i.Failures = "plugin-source-ended", "", "", 0
		s.trouble = nil
		record = !again || failures == 1
	} else {
		if s.trouble == nil {
			s.since = now
		}
		record = s.trouble == nil || !again || now.Sub(s.recorded) >= recordEvery
		if record {
			s.recorded = now
		}
		s.trouble = f
		st.LastError, st.LastErrorKind, st.LastErrorAt = f.Reason, f.Kind, now
	}
	i.Since = s.since
	st.Failures = i.Failures
	switch {
	case again:
		s.setLocked(Waiting)
		st.NextStart = now.Add(pause)
	case ended:
		s.setLocked(Ended)
	default:
		s.setLocked(Failed)
	}
	s.mu.Unlock()

	switch {
	case ended && again:
		s.log.Info("The stream of a plugin has ended. It is opened again.", "pause", pause.Round(time.Millisecond))
	case ended:
		s.log.Info("The stream of a plugin has ended.")
	case again:
		if skipped, ok := s.failing.Allow(); ok || *f != s.told {
			s.told = *f
			s.log.Error("A plugin has failed and is started again.", "kind", string(f.Kind), "error", f.Reason, "failures", failures, "pause", pause.Round(time.Millisecond), "skipped", skipped)
		}
	default:
		s.log.Error("A plugin has failed and is not started again.", "kind", string(f.Kind), "error", f.Reason)
	}
	if record {
		s.deps.Record(i)
	}
	return again
}

// wasWell says whether the last run was one that was noted as good.
func (s *Source) wasWell() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.steady
	s.steady = false
	return was
}

// well notes that a plugin runs and has done so for a while.
func (s *Source) well() {
	s.mu.Lock()
	s.steady = true
	was := s.trouble
	s.trouble, s.status.Failures = nil, 0
	i := Incident{What: "plugin-source-recovered", Name: s.status.Name, Plugin: s.status.Plugin, Version: s.status.Version, Since: s.since}
	s.mu.Unlock()
	if was != nil {
		s.log.Info("A plugin runs well again.")
		s.deps.Record(i)
	}
}

// run is one life of a plugin.
type run struct {
	*Source
	plugin  sourceplugin.Plugin
	about   *sourceplugin.Description
	stream  sourceplugin.Stream
	place   place   // of the stream when it was opened
	reading reading // Next
	asking  reading // its metrics or progress
	// converting is used by the goroutine that reads.
	converting *converter
	ended      bool // the plugin was closed
}

// once starts the plugin and reads it until it ends, and returns why it did; errEnded, a
// *Failure, or whatever when ctx has ended.
func (s *Source) once(ctx context.Context) error {
	s.set(Starting)
	// Everything below goes on for a moment when ctx has ended.
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()

	s.mu.Lock()
	s.status.Starts++
	s.mu.Unlock()
	p, err := await(ctx, s, s.config.StartTimeout, kill, func() (sourceplugin.Plugin, error) { return s.deps.Launch(life) },
		func(p sourceplugin.Plugin) { s.end(p) })
	if err != nil {
		return started(err, s.config.StartTimeout, "the plugin cannot be started")
	}
	r := &run{Source: s, plugin: p, about: p.Describe()}
	defer r.close()
	if err := r.admit(); err != nil {
		return err
	}
	if s.config.ExtractOnly || s.over {
		return r.idle(ctx, life)
	}

	if r.place, err = s.load(ctx, r.about); err != nil {
		return failure(NoState, "read the resume position: %v", err)
	}
	r.stream, err = await(ctx, s, s.config.StartTimeout, kill, func() (sourceplugin.Stream, error) {
		return p.Open(life, sourceplugin.Open{Params: s.config.Params, Resume: r.place.Position, MaxEventBytes: s.config.MaxEvent})
	}, func(st sourceplugin.Stream) { _ = st.Close(context.Background()) })
	if err != nil {
		return started(err, s.config.StartTimeout, "its stream cannot be opened")
	}
	s.log.Info("The stream of a plugin is open.", "plugin", clean(r.about.Name, maxName), "version", clean(r.about.Version, maxName), "resumed", r.place.Position != nil)
	return r.read(ctx, life)
}

func started(err error, timeout time.Duration, what string) error {
	switch {
	case errors.Is(err, errTimeout):
		return failure(Hanging, "%s: it has taken more than %v", what, timeout)
	case errors.Is(err, sourceplugin.ErrTimeout):
		return failure(Hanging, "%s: %v", what, err)
	}
	return failure(NotStarted, "%s: %v", what, err)
}

// maxName bounds what is shown of what a plugin calls itself.
const maxName = 128

// admit checks what the plugin says of itself, and makes it the one that runs.
func (r *run) admit() error {
	d := r.about
	s := r.Source
	name := clean(d.Name, maxName)
	s.mu.Lock()
	st := &s.status
	st.Plugin, st.Version, st.ID, st.EventSource, st.Resumable = name, clean(d.Version, maxName), d.ID, clean(d.EventSource, maxName), d.Capabilities.Resume
	s.mu.Unlock()
	switch {
	case s.config.ExtractOnly && !d.Capabilities.Extract:
		return failure(Refused, "the plugin %q extracts no fields, but extract_only is true", name)
	case !s.config.ExtractOnly && !d.Capabilities.Source:
		return failure(Refused, "the plugin %q opens no stream; set extract_only: true to have it extract fields only", name)
	case !s.config.ExtractOnly && d.EventSource == "":
		return failure(Refused, "the plugin %q does not say what its events are about (its event source is empty)", name)
	case (d.ID == 0) != (d.EventSource == "") && d.Capabilities.Source:
		return failure(Refused, "the plugin %q has the id %d and the event source %q; it must have both or neither", name, d.ID, clean(d.EventSource, maxName))
	}
	if !s.config.ExtractOnly {
		if _, err := r.fits(r.sample()); err != nil {
			return failure(Refused, "events of the plugin %q cannot be stored: %v", name, err)
		}
	}
	if problem := s.deps.Claims.take(s.config.Name, d); problem != "" {
		return failure(Refused, "%s", problem)
	}
	s.mu.Lock()
	s.current = r.plugin
	s.mu.Unlock()
	s.extracts = d.Capabilities.Extract
	return nil
}

// sample returns an event of the plugin without data.
func (r *run) sample() *event.Event {
	var e event.Event
	origin := falcoevent.NewOrigin(r.config.Name, r.config.Namespace, r.config.Path, r.about)
	origin.Set(&e, event.NewID(), scapevent.Append(nil, r.about.ID, 1, nil))
	return &e
}

// close ends the plugin.
func (r *run) close() {
	r.mu.Lock()
	r.current, r.values, r.status.Progress = nil, nil, nil
	r.mu.Unlock()
	if !r.ended {
		r.ended = true
		r.end(r.plugin)
	}
}

// end closes a plugin, which is not waited for for ever.
func (s *Source) end(p sourceplugin.Plugin) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_, err := await(context.Background(), s, closeTimeout, cancel, func() (struct{}, error) { return struct{}{}, p.Close(ctx) }, nil)
	if err != nil {
		s.log.Warn("A plugin was not ended in order.", "error", clean(s.redact(err.Error()), maxReason))
	}
}

// idle waits while a plugin that has no stream runs.
func (r *run) idle(ctx, life context.Context) error {
	state := Running
	if r.over {
		state = Ended
	}
	r.set(state)
	r.log.Info("A plugin extracts fields.", "plugin", clean(r.about.Name, maxName), "version", clean(r.about.Version, maxName))
	failed := make(chan error, 1)
	stop := r.watch(life, failed)
	defer stop()
	steady := time.NewTimer(r.config.SteadyAfter)
	defer steady.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-r.exited():
			return failure(Broken, "its process has ended")
		case <-steady.C:
			r.wellIfAnswering(steady)
		}
	}
}

// wellIfAnswering notes that a plugin runs well, or, while it owes an answer, looks again later.
func (r *run) wellIfAnswering(steady *time.Timer) {
	if r.asking.took() > r.config.SteadyAfter/2 {
		steady.Reset(r.config.SteadyAfter / 10)
		return
	}
	r.well()
}

// exited is closed when the process of the plugin has ended, if that can be known.
func (r *run) exited() <-chan struct{} {
	if p, ok := r.plugin.(interface{ Exited() <-chan struct{} }); ok {
		return p.Exited()
	}
	return nil
}

// read reads the stream until it ends, fails, or ctx ends, and sees to it that what was read
// is durable.
func (r *run) read(ctx, life context.Context) error {
	r.set(Running)
	readCtx, stopReading := context.WithCancel(life)
	defer stopReading()
	pumpCtx, stopPump := context.WithCancel(life)
	defer stopPump()
	// When the hub stops, the journal has a while for what was read.
	release := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(r.config.StopTimeout, stopPump)
		context.AfterFunc(life, func() { t.Stop() })
	})
	defer release()

	failed := make(chan error, 3)
	p := newPump(r)
	saver := newSaver(r, p, failed) // before the pump runs, which tells it
	read := make(chan error, 1)
	leave := r.strays.add()
	go func() {
		defer leave()
		defer close(p.filled)
		read <- r.fill(readCtx, p)
	}()
	pumped := make(chan error, 1)
	go func() { pumped <- p.run(pumpCtx) }()
	saved := make(chan struct{})
	go func() { defer close(saved); saver.run(life) }()
	stopWatch := r.watch(life, failed)
	defer stopWatch()
	steady := time.NewTimer(r.config.SteadyAfter)
	defer steady.Stop()

	var err error
	hung, back, pumpOver := false, false, false
	for waiting := true; waiting; {
		waiting = false
		select {
		case <-ctx.Done():
		case err = <-read:
			back = true
		case err = <-failed:
			hung = true
		case <-r.exited():
			// What it has sent may still be on its way to Next, which then fails.
			select {
			case err = <-read:
				back = true
			case <-time.After(closeTimeout):
				err, hung = failure(Broken, "its process has ended"), true
			}
		case err = <-pumped:
			pumpOver = true
		case <-steady.C:
			r.wellIfAnswering(steady)
			waiting = true
		}
	}

	stopReading()
	if hung {
		r.ended = true
		r.end(r.plugin)
	}
	if !back {
		select {
		case late := <-read:
			if err == nil {
				err = late
			}
		case <-time.After(min(closeTimeout, r.config.StopTimeout)):
			p.abandon() // and fill stays behind, as a stray
		}
	}
	if !pumpOver {
		if late := <-pumped; late != nil && err == nil {
			err = late
		}
	}
	saver.finish(!hung)
	<-saved
	if !hung {
		closing, cancel := context.WithTimeout(life, closeTimeout)
		defer cancel()
		if _, cerr := await(context.Background(), r.Source, closeTimeout, cancel, func() (struct{}, error) { return struct{}{}, r.stream.Close(closing) }, nil); cerr != nil {
			r.log.Debug("A stream was not closed in order.", "error", clean(r.redact(cerr.Error()), maxReason))
		}
	}
	if errors.Is(err, journal.ErrClosed) {
		return failure(Broken, "the journal is closed")
	}
	return err
}

// fill reads batches until there are no more. It returns errEnded, a *Failure, or nil when
// ctx has ended.
func (r *run) fill(ctx context.Context, p *pump) error {
	empty := emptiness{}
	beats := false // it says so when it has nothing
	for {
		b := p.take(ctx)
		if b == nil {
			return nil
		}
		b.batch.Reset()
		b.batch.Position = nil
		r.reading.begin()
		calling, cancel := context.WithTimeout(ctx, r.config.CallTimeout)
		err := r.stream.Next(calling, &b.batch)
		silent := errors.Is(err, context.DeadlineExceeded) && calling.Err() != nil && ctx.Err() == nil
		cancel()
		r.reading.end()
		parts := false // they refer to the bytes of b
		lie := r.convert(ctx, b, func(b *batch) bool {
			first := p.take(ctx)
			if first == nil {
				return false
			}
			b.giveEvents(first)
			parts = true
			return p.give(first)
		})
		if errors.Is(lie, errNotTaken) {
			return nil
		}
		nothing := len(b.events) == 0 && b.position == nil && !parts
		if silent && !(beats && nothing) {
			err = nil // there is nothing, and whether the plugin is alive is known otherwise
		} else if nothing && err == nil {
			beats = true
		}
		if nothing {
			p.put(b)
			if err == nil && lie == nil && !empty.wait(ctx) {
				return nil
			}
		} else {
			empty = emptiness{}
			if !p.give(b) {
				return nil
			}
		}
		switch {
		case lie != nil:
			return lie
		case err == nil:
		case errors.Is(err, io.EOF):
			return errEnded
		case ctx.Err() != nil:
			return nil
		case silent:
			return failure(Hanging, "its stream has said nothing for %v", r.config.CallTimeout)
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, sourceplugin.ErrTimeout):
			return failure(Hanging, "its stream: %v", err)
		case errors.Is(err, sourceplugin.ErrProtocol):
			return failure(Lying, "its stream: %v", err)
		default:
			return failure(Broken, "its stream has failed: %v", err)
		}
	}
}

// emptiness keeps a plugin that has nothing, and says so at once, from using up a processor.
type emptiness struct {
	last  time.Time
	pause time.Duration
}

// wait waits a little after batches without events that came quickly.
func (e *emptiness) wait(ctx context.Context) bool {
	const quick, most = 5 * time.Millisecond, 20 * time.Millisecond
	now := time.Now()
	if now.Sub(e.last) > quick+e.pause {
		e.last, e.pause = now, 0
		return true
	}
	e.pause = min(max(time.Millisecond, 2*e.pause), most)
	ok := sleep(ctx, e.pause)
	e.last = time.Now()
	return ok
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
