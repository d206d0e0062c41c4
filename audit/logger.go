package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/filestore"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/queue"
)

// WhenFull is what [Logger.Log] does when the queue has no room, because a sink has been down
// for long, or the disk is full or broken.
type WhenFull uint8

// The choices.
const (
	// Block waits until there is room, or the context ends: nothing happens in the service
	// that is not in the trail.
	Block WhenFull = iota
	// Reject returns [ErrFull] at once: the service decides. [Logger.Health] tells for a while.
	Reject
	// Drop goes on without: the service comes first. How many events are missing is
	// counted, and told by an event in their place, of type "SERVICE/audit-trail/dropped".
	Drop
)

// Oversize is what [Logger.Log] does with an event that is too large.
type Oversize uint8

// The choices.
const (
	// Truncate leaves out Payload, Before, After or Changes, the largest first, and cuts long
	// texts. What was left out is listed in Truncated. A Payload, Before or After that cannot be
	// encoded is left out, too, with a length of 0, and told to Options.Log.
	Truncate Oversize = iota
	// Refuse returns [ErrTooLarge], or [ErrInvalid] for what cannot be encoded. The event of a
	// request that is over ([Draft.Log], and with it every middleware) is truncated all the
	// same: else a client could keep a request out of the trail by a long path.
	Refuse
)

// Bounds of [Options].
const (
	DefaultMaxDiskBytes   = 1 << 30
	DefaultMaxMemoryBytes = 64 << 20
	DefaultEventBytes     = 256 << 10
	MinEventBytes         = 16 << 10
	MaxEventBytes         = 768 << 10 // so that hubs take it with their limits
	DefaultCloseTimeout   = 10 * time.Second

	defaultDeadLetterBytes = 256 << 20
)

// Options say what a [Logger] does. Service and Outputs are required.
type Options struct {
	// Service is the name of the service. 1 to 64 letters, digits, "-", "_" and ".".
	Service string
	// Source is the CloudEvents source of the events, a URI-reference. Empty means
	// "audit://HOST/SERVICE" with the name of the machine.
	Source string
	// Outputs are where events are brought to.
	Outputs []Output

	// Dir is the directory of a queue on disk. It belongs to this logger alone: no other
	// process, and no other logger of this one, can use it at the same time. It is made if it does
	// not exist. Empty keeps the queue in memory: what is not delivered when the process ends
	// is lost.
	Dir string
	// MaxBytes bounds the queue; 0 means [DefaultMaxDiskBytes] or [DefaultMaxMemoryBytes].
	MaxBytes int64
	// MaxDeadLetterBytes bounds the dead letters of each sink; 0 means 256 MiB. When there is no
	// room for more, the sink waits rather than lose one.
	MaxDeadLetterBytes int64
	// WhenFull is what happens when the queue is full; default Block.
	WhenFull WhenFull

	// MaxEventBytes bounds the JSON form of an event, from [MinEventBytes] to
	// [MaxEventBytes]; 0 means [DefaultEventBytes].
	MaxEventBytes int
	// Oversize is what happens to larger events; default Truncate.
	Oversize Oversize
	// OnlyChanges keeps what has changed between Before and After, and not these
	// themselves.
	OnlyChanges bool
	// Redact says what is hidden.
	Redact Redaction

	// Log is told about sinks and disks that do not work, and about what is lost. Nil: nobody
	// is.
	Log *slog.Logger
}

var (
	// ErrClosed is returned by a logger after Close.
	ErrClosed = errors.New("the audit logger is closed")
	// ErrFull is wrapped by the error of an event that the queue had no room for, or the disk
	// did not take. The event is not in the trail, unless the error wraps that of the context,
	// too: then it may still get there.
	ErrFull = queue.ErrFull
	// ErrLocked means that another logger uses the directory.
	ErrLocked = queue.ErrLocked
	// ErrNoSink means that a logger has no sink of a name.
	ErrNoSink = errors.New("there is no such sink")
)

// Logger takes audit events and brings them to its sinks. Its methods are safe for concurrent
// use. It has goroutines, which Close ends.
type Logger struct {
	options  Options
	source   string
	log      *slog.Logger
	redactor *redactor
	encoder  encoder
	queue    *queue.Queue
	outputs  []*output

	invalid, truncated atomic.Uint64

	closed  atomic.Bool
	closing sync.Mutex
	ended   bool
	endErr  error
	stop    context.CancelFunc
	running sync.WaitGroup
}

// output is one sink at work.
type output struct {
	name     string
	delivery *deliver.Delivery
	store    *filestore.Store
	sink     deliver.Sink
	failed   atomic.Pointer[error] // why Run ended
}

// New returns a logger, with what a former process left in its queue. It connects to nothing:
// a sink that is down does not keep a service from starting.
func New(o Options) (*Logger, error) {
	l, err := prepare(&o)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := l.open(); err != nil {
		l.abandon()
		return nil, fmt.Errorf("audit: %w", err)
	}
	l.run()
	return l, nil
}

// prepare checks options.
func prepare(o *Options) (*Logger, error) {
	if !isName(o.Service) {
		return nil, fmt.Errorf("the Service %q must be 1 to %d letters, digits, \"-\", \"_\" and \".\"", cut(o.Service, 80), maxNameBytes)
	}
	if len(o.Outputs) == 0 {
		return nil, errors.New("there are no Outputs, so events would go nowhere; add for example audit.ToFile")
	}
	names := make(map[string]bool)
	for i := range o.Outputs {
		if err := o.Outputs[i].check(); err != nil {
			return nil, err
		}
		if names[o.Outputs[i].Name] {
			return nil, fmt.Errorf("two sinks are called %s; give one another name with Named", o.Outputs[i].Name)
		}
		names[o.Outputs[i].Name] = true
	}
	o.MaxEventBytes = cmp.Or(o.MaxEventBytes, DefaultEventBytes)
	switch {
	case o.MaxEventBytes < MinEventBytes || o.MaxEventBytes > MaxEventBytes:
		return nil, fmt.Errorf("MaxEventBytes is %d, it must be %d to %d", o.MaxEventBytes, MinEventBytes, MaxEventBytes)
	case o.MaxBytes < 0 || o.MaxDeadLetterBytes < 0:
		return nil, errors.New("MaxBytes and MaxDeadLetterBytes cannot be negative")
	case o.WhenFull > Drop:
		return nil, fmt.Errorf("WhenFull is %d, it must be Block, Reject or Drop", o.WhenFull)
	case o.Oversize > Refuse:
		return nil, fmt.Errorf("Oversize is %d, it must be Truncate or Refuse", o.Oversize)
	case o.Dir != "" && o.MaxBytes != 0 && o.MaxBytes < queue.MinDiskBytes:
		return nil, fmt.Errorf("MaxBytes is %d, a queue on disk needs at least %d", o.MaxBytes, queue.MinDiskBytes)
	case o.Dir == "" && o.MaxBytes != 0 && o.MaxBytes < queue.MinMemoryBytes:
		return nil, fmt.Errorf("MaxBytes is %d, a queue in memory needs at least %d", o.MaxBytes, queue.MinMemoryBytes)
	}
	if o.Dir == "" {
		o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxMemoryBytes)
	}
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxDiskBytes)
	o.MaxDeadLetterBytes = cmp.Or(o.MaxDeadLetterBytes, defaultDeadLetterBytes)
	if o.Source == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "localhost"
		}
		o.Source = "audit://" + url.PathEscape(host) + "/" + o.Service
	}
	if err := messageLimits.Check(&event.Event{ID: "x", Type: "x", Source: o.Source, Time: time.Now()}); err != nil {
		return nil, fmt.Errorf("the Source: %w", err)
	}
	r, err := newRedactor(o.Redact)
	if err != nil {
		return nil, err
	}
	l := &Logger{options: *o, source: o.Source, log: o.Log, redactor: r}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.encoder = encoder{redactor: r, maxBytes: o.MaxEventBytes, refuse: o.Oversize == Refuse, diffOnly: o.OnlyChanges, log: l.log}
	return l, nil
}

// open opens the queue and makes the sinks.
func (l *Logger) open() (err error) {
	o := &l.options
	readers := make([]string, len(o.Outputs))
	for i := range o.Outputs {
		readers[i] = o.Outputs[i].Name
	}
	if l.queue, err = queue.Open(queue.Options{
		Dir: o.Dir, MaxBytes: o.MaxBytes, WhenFull: queue.WhenFull(o.WhenFull), Readers: readers,
		After: l.openStores, Decode: l.decode, Dropped: l.droppedEntry, Progress: l.progress, Logger: l.log,
	}); err != nil {
		return err
	}
	for i := range o.Outputs {
		out, running := &o.Outputs[i], l.outputs[i]
		sink, err := out.make(l)
		if err != nil {
			return fmt.Errorf("sink %s: %w", out.Name, err)
		}
		running.sink = sink
		running.delivery = deliver.New(deliver.Options{
			Name: out.Name, Sink: running.sink, Match: out.Filter.match(l.log), Policy: out.policy(), From: deliver.FromStart,
			Journal: l.queue, Store: passingStore{running.store, l.queue, out.Name}, Logger: l.log,
		})
	}
	return nil
}

// openStores opens what the deliveries remember, when the directory is locked. It returns the
// last position that any of them knows.
func (l *Logger) openStores() (last position.Position, err error) {
	for i := range l.options.Outputs {
		name := l.options.Outputs[i].Name
		s, err := filestore.Open(filestore.Options{Dir: l.options.Dir, Name: name, MaxBytes: l.options.MaxDeadLetterBytes, Logger: l.log})
		if err != nil {
			return last, err
		}
		l.outputs = append(l.outputs, &output{name: name, store: s})
		state, _, err := s.Load(context.Background())
		if err != nil {
			return last, err
		}
		if state.Through.Compare(last) > 0 {
			last = state.Through
		}
	}
	return last, nil
}

// passingStore tells the queue how far a delivery will never ask again.
type passingStore struct {
	*filestore.Store
	queue *queue.Queue
	name  string
}

// Load implements [deliver.Store].
func (s passingStore) Load(ctx context.Context) (deliver.State, bool, error) {
	state, ok, err := s.Store.Load(ctx)
	if err == nil && !ok { // what other sinks have had before this one was there is not missing
		state.Through, ok = s.queue.Begin(), true
	}
	if err == nil {
		s.queue.Passed(s.name, lowest(&state))
	}
	return state, ok, err
}

// Save implements [deliver.Store].
func (s passingStore) Save(ctx context.Context, state deliver.State) error {
	if err := s.Store.Save(ctx, state); err != nil {
		return err
	}
	s.queue.Passed(s.name, lowest(&state))
	return nil
}

// lowest is the position behind which a delivery needs everything.
func lowest(s *deliver.State) position.Position {
	p := s.Through
	for _, r := range s.Replays {
		if r.Through.Compare(p) < 0 {
			p = r.Through
		}
	}
	return p
}

// progress frees what a queue in memory need not keep: nobody asks for it after a restart. A sink
// that has to sync asks again for what it could not make durable; what it could is freed when that
// is stored.
func (l *Logger) progress() {
	for _, o := range l.outputs {
		if _, ok := o.sink.(deliver.Syncer); ok {
			continue
		}
		l.queue.Passed(o.name, o.delivery.Status().Position)
	}
}

func (l *Logger) run() {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	for _, o := range l.outputs {
		l.running.Go(func() {
			if err := o.delivery.Run(ctx); err != nil {
				o.failed.Store(&err)
				l.log.Error("a sink gets no more events", "sink", o.name, "error", err)
			}
		})
	}
}

// abandon undoes what open did.
func (l *Logger) abandon() {
	for _, o := range l.outputs {
		if o.sink != nil {
			_ = o.sink.Close()
		}
	}
	if l.queue != nil {
		_ = l.queue.Close()
	}
	for _, o := range l.outputs {
		_ = o.store.Close()
	}
}

// Log adds an event to the trail. With a queue on disk it returns when the event is synced,
// and it will be delivered whatever happens to the process; with one in memory it returns at
// once. It waits for no sink, unless the queue is full and WhenFull is Block.
//
// The context provides the actor and the request (see [WithActor], [Middleware]) and bounds how long
// Log waits for room or for a disk that does not work. A context that has ended does not
// keep an event from being logged.
//
// Errors wrap [ErrInvalid], [ErrTooLarge], [ErrFull] or [ErrClosed]. What to do then is for the
// service to decide: an operation that must be audited should fail.
func (l *Logger) Log(ctx context.Context, e Event) error { return l.logWith(ctx, e, &l.encoder) }

func (l *Logger) logWith(ctx context.Context, e Event, c *encoder) error {
	if l.closed.Load() {
		return ErrClosed
	}
	w := writers.Get().(*writer)
	defer w.release()
	w.source = e
	l.complete(ctx, &w.source)
	return l.put(ctx, w, c)
}

// complete fills what is empty.
func (l *Logger) complete(ctx context.Context, e *Event) {
	if e.ID == "" {
		e.ID = event.NewID()
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Outcome == "" {
		e.Outcome = Success
	}
	e.Service = l.options.Service
	e.Truncated, e.Dropped = nil, nil
	e.FillFrom(ctx)
}

// put brings the event of w into the queue.
func (l *Logger) put(ctx context.Context, w *writer, c *encoder) error {
	if err := c.write(w, &w.source); err != nil {
		l.invalid.Add(1)
		return err
	}
	if len(w.truncated) > 0 {
		l.truncated.Add(1)
	}
	if err := l.queue.Append(ctx, w.buf); err != nil {
		if errors.Is(err, queue.ErrClosed) {
			return ErrClosed
		}
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// droppedEntry makes the entry that stands for events that were dropped.
func (l *Logger) droppedEntry(n uint64, first, last time.Time) []byte {
	w := writers.Get().(*writer)
	defer w.release()
	w.source = Event{
		Action: actionDropped, Target: Target{Type: typeTrail}, Outcome: Error, Reason: "the queue was full",
	}
	l.complete(context.Background(), &w.source)
	w.source.Dropped = &Dropped{Events: n, First: first, Last: last}
	if err := l.encoder.write(w, &w.source); err != nil {
		return []byte("{}") // it is valid: not reached
	}
	return append([]byte(nil), w.buf...)
}
