package deliver

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

// Options say what is delivered, and how. Name, Sink, Journal and Store are required.
type Options struct {
	// Name of the sink, for logs and errors.
	Name string
	// Sink is closed by Run.
	Sink Sink
	// Match selects the events for the sink; nil: all. It is called by one goroutine at a
	// time for the events of the journal, and by others for those of replays.
	Match func(*event.Event) bool
	// Choose, if not nil, is asked instead of Match, about a whole record, with a choice for each
	// event of it that is all zero. An error says that it cannot be told now, and why: nothing
	// that comes later is sent, and Choose is asked again after a pause. When that has been so for
	// Policy.GiveUp it is asked with last: then it decides what it can, and has problems with the
	// rest. It returns soon after ctx has ended, and is called by several goroutines at once.
	Choose func(ctx context.Context, r Record, choices []Choice, last bool) error
	Policy Policy
	// From says where to begin the first time; default [FromEnd].
	From    From
	Journal Journal
	Store   Store
	Logger  *slog.Logger // default: none
	// AttemptsKept is how many attempts are remembered; default [DefaultAttempts].
	AttemptsKept int
	// Changed is told what happens; nil: nobody. It is called by one goroutine at a time, in
	// the order of what happened, must not block, and may call Status and Health.
	Changed func(Change)
}

// Delivery brings events to one sink. Its methods are safe for concurrent use.
type Delivery struct {
	options Options
	policy  Policy
	log     *slog.Logger

	saving   chan struct{} // has an element while somebody stores the state
	saveKick chan struct{} // has an element when there is something to store
	kick     chan struct{} // the same for dead letters
	sent     chan struct{} // closed when nobody sends any more

	panicked atomic.Bool
	syncing  sync.Mutex

	mu   sync.Mutex
	work *sync.Cond // there may be something to send
	room *sync.Cond // there may be room for more

	loaded  bool
	begun   bool // Run was called
	running bool
	ended   error // why Run has returned; ErrEnded: because it was to
	sendCtx context.Context

	live        *stream
	unread      context.CancelFunc // ends the reading into live
	backgrounds []*background
	finished    []*background
	feeds       sync.WaitGroup
	feedCtx     context.Context
	held        Held
	gate        gate
	limiter     limiter

	workers, idle     int
	waiting           int // for room
	sending           int // batches
	backgroundSending int
	turn, robin       int // see pick
	led               uint64
	stopping          bool
	restarting        bool   // the sink could not be synced
	life              uint64 // grows when what was delivered may be lost
	unsynced          int    // how often in a row
	alarm             *time.Timer
	alarmAt           time.Time

	first    *position.Position // where the sink begins; written with saving taken
	saved    State              // as it is stored; written with saving taken, too
	unsaved  unsavedLevel
	flushing int
	flushes  []*flush

	counts      Counts
	attempts    attempts
	notices     []notice
	telling     bool
	nextWarning time.Time
	lastGap     gapNote
	lastLetter  letterNote
	letters     letterCount
	refusals    throttle.Throttle
	problems    problems
	caughtUp    bool // everything was read when something was read last
}

// New returns a delivery that sends nothing before Run.
func New(o Options) *Delivery {
	if o.From == "" {
		o.From = FromEnd
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.AttemptsKept <= 0 {
		o.AttemptsKept = DefaultAttempts
	}
	d := &Delivery{
		options: o, policy: o.Policy.withDefaults(), log: o.Logger.With("sink", o.Name),
		saving: make(chan struct{}, 1), saveKick: make(chan struct{}, 1), kick: make(chan struct{}, 1), sent: make(chan struct{}),
		attempts: attempts{most: o.AttemptsKept},
	}
	d.work, d.room = sync.NewCond(&d.mu), sync.NewCond(&d.mu)
	d.gate.backoff = d.policy.Backoff
	d.limiter = newLimiter(d.policy.Rate)
	d.live = d.newStream(nil)
	return d
}

func (d *Delivery) newStream(b *background) *stream {
	return &stream{order: d.policy.Order, own: d.policy.Order == ByPath && d.policy.Concurrency > 1, background: b}
}

// Name returns the name of the sink.
func (d *Delivery) Name() string { return d.options.Name }

// Run delivers until ctx ends. Then it waits for what is on its way, for at most
// Policy.StopTimeout, stores how far it has come, and closes the sink. It returns nil after
// ctx has ended, and an error when the journal or what is stored cannot be read for ever.
// It must be called once.
func (d *Delivery) Run(ctx context.Context) error {
	sendCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	feedCtx, stopFeeds := context.WithCancel(ctx)
	defer stopFeeds()
	d.mu.Lock()
	if d.begun {
		d.mu.Unlock()
		return fmt.Errorf("sink %s: Run was called twice", d.options.Name)
	}
	d.begun, d.sendCtx, d.feedCtx = true, sendCtx, feedCtx
	d.mu.Unlock()

	err := d.retry(ctx, "read back how far the sink was", d.load)
	if err == nil {
		err = d.run(ctx, cancel, stopFeeds)
	} else {
		d.closeSink()
	}
	if ctx.Err() != nil {
		err = nil
	} else if err != nil {
		err = fmt.Errorf("sink %s: %w", d.options.Name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended = err; err == nil {
		d.ended = ErrEnded
	}
	for _, f := range d.flushes {
		close(f.done)
	}
	d.flushes = nil
	d.tellLocked()
	return err
}

// run delivers what is loaded.
func (d *Delivery) run(ctx context.Context, stopSending, stopFeeds context.CancelFunc) error {
	var helpers sync.WaitGroup
	helpCtx, stopHelpers := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHelpers()
	helpers.Go(func() { d.keep(helpCtx) })
	clerkDone := make(chan struct{})
	stopClerk := make(chan struct{})
	helpers.Go(func() {
		defer close(clerkDone)
		d.clerk(helpCtx, stopClerk)
	})
	d.mu.Lock()
	d.running = true
	for _, b := range d.backgrounds {
		d.startFeed(b)
	}
	d.mu.Unlock()

	err := d.readLive(ctx)

	stopFeeds()
	d.stop(stopSending)
	d.feeds.Wait()
	close(stopClerk)
	select {
	case <-clerkDone:
	case <-time.After(d.policy.StopTimeout):
	}
	stopHelpers()
	helpers.Wait()
	saveCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	d.save(saveCtx)
	d.closeSink()
	select {
	case <-d.sent:
	case <-time.After(time.Second):
		d.log.Warn("The sink does not end; what it has may be sent again.")
	}
	return err
}

// closeSink closes the sink. One that hangs is left alone after Policy.StopTimeout.
func (d *Delivery) closeSink() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		d.options.Sink.Close()
	}()
	limit := time.NewTimer(d.policy.StopTimeout)
	defer limit.Stop()
	select {
	case <-closed:
	case <-limit.C:
		d.log.Warn("The sink cannot be closed.")
	}
}

// stop ends the sending, and waits for what is on its way.
func (d *Delivery) stop(stopSending context.CancelFunc) {
	d.mu.Lock()
	d.stopping, d.running = true, false
	if d.alarm != nil {
		d.alarm.Stop()
	}
	if d.workers == 0 {
		close(d.sent)
	}
	d.work.Broadcast()
	d.mu.Unlock()
	limit := time.NewTimer(d.policy.StopTimeout)
	defer limit.Stop()
	select {
	case <-d.sent:
		return
	case <-limit.C:
	}
	stopSending()
	limit.Reset(time.Second)
	select {
	case <-d.sent:
	case <-limit.C:
	}
}

// flush is somebody who waits until everything up to a position is decided.
type flush struct {
	until position.Position
	done  chan struct{}
	ok    bool
}

// Flush returns when every event that was in the journal at the call is delivered, was set
// aside, or is not for this sink. Meanwhile events do not wait for others to fill batches.
// The error is that of ctx, or [ErrEnded].
func (d *Delivery) Flush(ctx context.Context) error {
	f := &flush{until: d.options.Journal.End(), done: make(chan struct{})}
	d.mu.Lock()
	switch {
	case d.ended != nil:
		d.mu.Unlock()
		return ErrEnded
	case d.loaded && d.live.through.Compare(f.until) >= 0:
		d.mu.Unlock()
		return nil
	}
	d.flushes = append(d.flushes, f)
	d.flushing++
	d.wake()
	d.mu.Unlock()
	var err error
	select {
	case <-f.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushing--
	if err == nil && !f.ok {
		err = ErrEnded
	}
	if i := slices.Index(d.flushes, f); i >= 0 {
		d.flushes = slices.Delete(d.flushes, i, i+1)
	}
	return err
}

// flushed tells those who wait that a stream has come further.
func (d *Delivery) flushed(s *stream) {
	if len(d.flushes) == 0 || s != d.live {
		return
	}
	d.flushes = slices.DeleteFunc(d.flushes, func(f *flush) bool {
		if s.through.Compare(f.until) < 0 {
			return false
		}
		f.ok = true
		close(f.done)
		return true
	})
}

// progressed notes that events of a stream were decided, and whether its place has moved.
func (d *Delivery) progressed(s *stream, moved bool) {
	if s.dropped || d.restarting {
		return
	}
	if moved {
		d.changed(true)
		d.flushed(s)
	}
	if d.waiting > 0 {
		d.room.Broadcast()
	}
	if b := s.background; b != nil && s.ended && s.undecided == 0 {
		d.complete(b)
	}
}

// changed notes that there is something to store, which is urgent if otherwise something
// that was delivered would be sent again after a crash.
func (d *Delivery) changed(urgent bool) {
	level := unsavedIdle
	if urgent {
		level = unsavedUrgent
	}
	if level <= d.unsaved {
		return
	}
	d.unsaved = level
	select {
	case d.saveKick <- struct{}{}:
	default:
	}
}

// Test hands an event to the sink, once, beside the queue and also when it is paused. Nothing
// follows from the result but an entry in Attempts.
func (d *Delivery) Test(ctx context.Context, e *event.Event) Result {
	d.mu.Lock()
	ended := d.ended
	d.mu.Unlock()
	if ended != nil {
		return Result{Outcome: Retry, Reason: ErrEnded.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, d.policy.Timeout)
	defer cancel()
	w := worker{batch: Batch{Items: []Item{{Event: e}}, Attempt: 1}, begun: time.Now()}
	r := d.call(ctx, &w.batch)
	if n := len(w.batch.decided); n > 0 {
		r = w.batch.decided[n-1].result.tidy()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remember(&w, r, time.Now())
	return r
}

// Reopen makes the sink begin anew what it writes to, if it is a [Reopener].
func (d *Delivery) Reopen() error {
	if r, ok := d.options.Sink.(Reopener); ok {
		return r.Reopen()
	}
	return nil
}
