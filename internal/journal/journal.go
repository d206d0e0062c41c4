// Package journal keeps events durably and in order, and lets any number of
// readers read them from any position. It stores them in an embedded NATS
// JetStream server without a listener, many events in one message, so that
// one fsync serves all producers that wait at the same time.
//
// An event is acknowledged, by [Journal.Append] or a [Receipt], only after it was
// synced to the disk. What was acknowledged survives a crash of the process or the
// machine and is read by every reader exactly where its [Position] says. What
// failed with an unknown outcome may be in the journal too, so a repeat may store
// an event twice, with the same id: at least once.
//
// When the storage fails, for example because the disk is full, producers get a
// [*PushbackError] at once, [Journal.Health] says why, and the journal recovers by
// itself; readers wait and go on.
//
// The journal also keeps what belongs to the events: cursors of consumers and small
// states, each write synced. It knows nothing of where events come from or go to,
// and selects nothing: a reader sees all of them.
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/metrics"
)

// Defaults of a [Config].
const (
	// DefaultMaxPendingBytes of events may wait for the disk before producers
	// have to.
	DefaultMaxPendingBytes = 16 << 20
	// DefaultCacheBytes of decoded records are kept for readers.
	DefaultCacheBytes = 32 << 20
	// DefaultReserveBytes are left free on the disk, so that the states can still
	// be written when the journal cannot.
	DefaultReserveBytes = 32 << 20

	// recordBytes is how large a record is made while others are in flight, and
	// maxBlockBytes how large it gets when it has to wait for them.
	recordBytes   = 256 << 10
	maxBlockBytes = 1 << 20
	// minUnitBytes and maxUnitBytes bound Config.MaxUnitBytes. The upper one is
	// given by the embedded server, which takes larger messages for corrupt.
	minUnitBytes = 4 << 10
	maxUnitBytes = 24 << 20
	// payloadSlack is what a message may have beside the events of one unit.
	payloadSlack = 4 << 10
)

// Config says where and how a journal keeps its events. Only Dir is required.
type Config struct {
	// Dir is the data directory, made when missing and used by one process at a
	// time.
	Dir string
	// MaxAge and MaxBytes are the retention: what is older, or the oldest beyond
	// so many bytes on disk, is removed, but never the newest record. 0 keeps
	// everything.
	MaxAge   time.Duration
	MaxBytes int64
	// Limits bound each event; the zero value means event.DefaultLimits.
	Limits event.Limits
	// MaxUnitBytes bounds the events of one Append or Submit together, in their
	// stored form; default four times Limits.MaxEventBytes, at most 24 MiB.
	MaxUnitBytes int
	// MaxPendingBytes bounds the events that wait for the disk.
	MaxPendingBytes int
	// CacheBytes bounds the decoded records kept in memory for readers.
	CacheBytes int64
	// ReserveBytes is how much space is left free on the disk: with less, appends
	// fail with ErrFull. A negative value reserves nothing.
	ReserveBytes int64
	// Logger gets what operators should know; default slog.Default.
	Logger *slog.Logger
	// Metrics counts appended and refused events under component "journal".
	Metrics *metrics.Metrics
}

func (c *Config) reserve() int64 { return max(c.ReserveBytes, 0) }

func (c *Config) recordBytes() int { return min(recordBytes, c.MaxUnitBytes) }

// setDefaults completes the configuration or says what is wrong with it.
func (c *Config) setDefaults() error {
	if c.Limits == (event.Limits{}) {
		c.Limits = event.DefaultLimits
	}
	if c.MaxUnitBytes == 0 {
		c.MaxUnitBytes = min(4*c.Limits.MaxEventBytes, maxUnitBytes)
	}
	if c.MaxPendingBytes == 0 {
		c.MaxPendingBytes = DefaultMaxPendingBytes
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.ReserveBytes == 0 {
		c.ReserveBytes = DefaultReserveBytes
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Metrics == nil {
		c.Metrics = metrics.New(nil)
	}
	smallest := 4 * int64(c.MaxUnitBytes+payloadSlack)
	switch {
	case c.Dir == "":
		return errors.New("no data directory")
	case c.MaxUnitBytes < minUnitBytes || c.MaxUnitBytes > maxUnitBytes:
		return fmt.Errorf("MaxUnitBytes %d is not between %d and %d", c.MaxUnitBytes, minUnitBytes, maxUnitBytes)
	case c.MaxPendingBytes < c.MaxUnitBytes:
		return fmt.Errorf("MaxPendingBytes %d is less than MaxUnitBytes %d", c.MaxPendingBytes, c.MaxUnitBytes)
	case c.MaxAge < 0 || c.MaxBytes < 0:
		return errors.New("MaxAge and MaxBytes cannot be negative")
	case c.MaxBytes > 0 && c.MaxBytes < smallest:
		return fmt.Errorf("MaxBytes %d is too small, events of up to %d bytes need at least %d", c.MaxBytes, c.Limits.MaxEventBytes, smallest)
	}
	return nil
}

// Journal is an open journal. It is safe for concurrent use.
type Journal struct {
	config  Config
	log     *slog.Logger
	metrics *metrics.Component
	dir     *dataDir
	queue   *queue
	records *records
	limits  struct{ unit, payload int }

	session atomic.Pointer[session] // nil while the server restarts
	state   *nats.Conn              // outlives sessions
	js      jetstream.JetStream     // on state

	cursorState atomic.Pointer[jetstream.KeyValue]

	// Between the writer, which alone appends, and the supervisor, which brings
	// the server back.
	acks     chan ack
	faults   chan fault    // supervisor found one
	broken   chan fault    // writer gave up
	restored chan restored // supervisor succeeded
	alarms   chan struct{} // somebody should look
	health   atomic.Pointer[condition]
	lost     atomic.Pointer[condition]

	endMu sync.Mutex
	end   Position
	moved chan struct{} // closed when end moves

	begin atomic.Pointer[Position] // last known

	stopping chan struct{} // writer: finish and return
	abort    chan struct{} // writer: give up and return
	written  chan struct{} // closed when the writer has returned
	stopped  chan struct{} // closed when nobody listens any more
	cancel   context.CancelFunc
	tasks    sync.WaitGroup

	closeOnce sync.Once
	closed    chan struct{} // closed when all is closed
}

// Open opens the journal in c.Dir or makes a new one. It fails with a
// [*LockedError] when another process has it, and with ErrVersion when another
// version of the program wrote it.
func Open(ctx context.Context, c Config) (_ *Journal, err error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{
		config: c, log: c.Logger, metrics: c.Metrics.Component("journal", "journal"),
		acks:     make(chan ack, 2*maxInFlight),
		faults:   make(chan fault),
		broken:   make(chan fault, 1),
		restored: make(chan restored),
		alarms:   make(chan struct{}, 1),
		moved:    make(chan struct{}),
		stopping: make(chan struct{}),
		abort:    make(chan struct{}),
		written:  make(chan struct{}),
		stopped:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
	j.limits.unit, j.limits.payload = c.MaxUnitBytes, c.MaxUnitBytes+payloadSlack
	j.queue = newQueue(c.MaxPendingBytes, min(maxBlockBytes, c.MaxUnitBytes))
	if j.dir, err = openDataDir(c.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			j.release()
		}
	}()
	if err := j.start(ctx); err != nil {
		return nil, fmt.Errorf("open journal in %s: %w", c.Dir, err)
	}
	return j, nil
}

func (j *Journal) start(ctx context.Context) error {
	s, err := j.openSession(ctx)
	if err != nil {
		return err
	}
	j.session.Store(s)
	if j.state, err = connect("tocsin journal states", currentServer{j},
		nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0)); err != nil {
		return err
	}
	if j.js, err = jetstream.New(j.state); err != nil {
		return err
	}
	if err := j.ensureStream(ctx, j.js); err != nil {
		return err
	}
	end, err := j.readEnd(ctx, s)
	if err != nil {
		if version := recordVersionError(0); errors.As(err, &version) {
			return fmt.Errorf("%w: %w", ErrVersion, err)
		}
		return err
	}
	j.end = end
	running, cancel := context.WithCancel(context.Background())
	j.cancel = cancel
	j.records = newRecords(running, j, j.config.CacheBytes)
	w := &writer{Journal: j, session: s, last: end.Seq, ordinal: end.NextOrdinal()}
	go w.run(j.stopping)
	j.tasks.Go(func() { j.supervise(running) })
	j.tasks.Go(func() { j.keepHouse(running) })
	return nil
}

// Append stores the events as one unit, all or none and next to each other in one
// record, and returns the position of the first once they are durable. It does
// what [Journal.Submit] and [Receipt.Wait] do, with their errors. When ctx ends
// while the events are on their way the error is a [*PushbackError] with Unknown
// set that wraps ctx's error.
func (j *Journal) Append(ctx context.Context, events ...*event.Event) (Position, error) {
	r, err := j.submit(ctx, events)
	if err != nil {
		return Position{}, err
	}
	p, err := r.Wait(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return Position{}, &PushbackError{Reason: "the caller gave up waiting", RetryAfter: busyRetry, Unknown: true, kind: ErrBusy, cause: err}
	}
	return p, err
}

// Submit hands the events over as one unit and returns before they are durable;
// the receipt tells when they are. The journal has copied what it needs: the
// events are not used after the return. Events of successive Submits of one
// goroutine are in the journal in that order.
//
// Every event must be complete, Submit sets nothing on it: what the limits do not
// allow is refused with an *event.InvalidError or *event.LimitError. Submit blocks
// while MaxPendingBytes of events wait for the disk, until ctx ends with ErrBusy;
// it fails at once with ErrFull or ErrUnavailable while the journal is not healthy,
// and with ErrClosed after Close.
//
// When a unit fails, units submitted after it may still have been accepted. A
// producer that must keep its order waits for all its receipts and then repeats
// from the first that failed.
func (j *Journal) Submit(ctx context.Context, events ...*event.Event) (*Receipt, error) {
	r, err := j.submit(ctx, events)
	if err != nil {
		return nil, err
	}
	return &r, nil
}

func (j *Journal) submit(ctx context.Context, events []*event.Event) (Receipt, error) {
	size := 0
	var last *event.Event
	stored := 0 // bytes of last
	for _, e := range events {
		var err error
		if last != nil && e.Alike(last) {
			err = j.config.Limits.CheckLike(e, last)
			stored += len(e.ID) - len(last.ID) + len(e.Data) - len(last.Data)
		} else {
			err = j.config.Limits.Check(e)
			stored = StoredBytes(e)
		}
		if err != nil {
			j.metrics.Refused("limit").Add(float64(len(events)))
			return Receipt{}, fmt.Errorf("event %s: %w", e.ID, err)
		}
		size += stored
		last = e
	}
	switch {
	case len(events) == 0:
		return Receipt{}, &event.InvalidError{Attribute: "unit", Reason: "has no events"}
	case size > j.limits.unit:
		j.metrics.Refused("limit").Add(float64(len(events)))
		return Receipt{}, &event.LimitError{Part: "events appended together", Size: size, Max: j.limits.unit}
	}
	r, err := j.queue.put(ctx, size, events)
	if err != nil {
		j.metrics.Refused(refusal(err)).Add(float64(len(events)))
	}
	return r, err
}

// MaxUnitBytes is what the events of one Append or Submit may have together, each
// counted as [StoredBytes].
func (j *Journal) MaxUnitBytes() int { return j.limits.unit }

// refusal is the reason under which an error is counted.
func refusal(err error) string {
	switch {
	case errors.Is(err, ErrClosed):
		return "closed"
	case errors.Is(err, ErrFull):
		return "full"
	case errors.Is(err, ErrBusy):
		return "busy"
	default:
		return "unavailable"
	}
}

// End returns the position of the newest durable event, zero when there was never
// one.
func (j *Journal) End() Position {
	p, _ := j.endState()
	return p
}

// beginTimeout bounds how long Begin waits for the embedded server.
const beginTimeout = 2 * time.Second

// Begin returns the position just before the oldest event that is retained: a
// reader that starts there gets all. It is zero for an empty journal. When the
// storage does not answer in time it returns what was true when last asked.
func (j *Journal) Begin() Position {
	ctx, cancel := context.WithTimeout(context.Background(), beginTimeout)
	defer cancel()
	if s := j.session.Load(); s != nil && !j.End().IsZero() {
		if rec, err := s.fetchOne(ctx, getRequest{Seq: 1, Batch: 1}); err == nil && rec.broken == nil {
			p := rec.before()
			j.begin.Store(&p)
			return p
		}
	}
	if p := j.begin.Load(); p != nil {
		return *p
	}
	return Position{}
}

// closeGrace is how long Close waits for the files to be closed after its context
// has ended.
const closeGrace = 5 * time.Second

// Close refuses new events, waits until those accepted are durable, or ctx ends,
// stops everything and releases the data directory. Events that it did not wait
// for fail with ErrClosed, with an unknown outcome. Readers get ErrClosed. It
// may be called more than once; every call returns when the first has finished.
func (j *Journal) Close(ctx context.Context) error {
	j.closeOnce.Do(func() {
		j.queue.refuse(ErrClosed, nil)
		close(j.stopping)
		go func() {
			defer close(j.closed)
			select {
			case <-j.written:
			case <-ctx.Done():
				close(j.abort)
				<-j.written
			}
			j.queue.refuse(ErrClosed, ErrClosed)
			j.health.CompareAndSwap(nil, &condition{err: ErrClosed, since: time.Now()})
			close(j.stopped)
			j.cancel()
			j.records.close()
			j.tasks.Wait()
			j.release()
		}()
	})
	select {
	case <-j.closed:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-j.closed:
		return ctx.Err()
	case <-time.After(closeGrace):
		return fmt.Errorf("close journal: the storage does not finish: %w", ctx.Err())
	}
}

// release closes what Open has opened so far.
func (j *Journal) release() {
	if j.state != nil {
		j.state.Close()
	}
	if s := j.session.Swap(nil); s != nil {
		s.close()
	}
	j.dir.close()
}
