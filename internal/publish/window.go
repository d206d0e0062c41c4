package publish

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

// maxUnitBytes bounds the units in which the events of one request are stored, if the
// journal does not take less. A larger event is a unit of its own.
const maxUnitBytes = 512 << 10

// key stands for what makes an event a repeat: two keyed hashes, so that nobody can
// make, and nobody will see, two events with the same.
//
// Beside source and id it has what rights to publish are given for. Else somebody could
// keep out events that he may not publish, by publishing others of their ids before.
type key [2]uint64

// window knows which events are in the journal lately, or on their way to it.
type window struct {
	journal Journal
	store   func(context.Context, []*event.Event) (waiter, error)
	age     time.Duration
	maxIDs  int
	maxUnit int
	seeds   [2]maphash.Seed
	log     *slog.Logger
	warned  throttle.Throttle

	ctx    context.Context // of reading the journal
	cancel context.CancelFunc
	wake   chan struct{} // there is something to settle, or to read
	ended  chan struct{}

	mu sync.Mutex
	// stored is what was stored, in two halves, of which the earlier one is forgotten
	// when the later one is full or old.
	later, earlier map[key]struct{}
	turned         time.Time // when later was begun
	pending        map[key]*flight
	flights        []*flight         // submitted, in this order
	ready          chan struct{}     // closed when stored is complete
	reading        bool              // somebody needs it to be
	doubt          *journal.Position // read the journal from here; nil: from where the window begins
	closing        bool
}

// waiter is what [journal.Receipt] is for whoever waits.
type waiter interface {
	Wait(context.Context) (journal.Position, error)
}

// flight is events that were submitted together.
type flight struct {
	events  []*event.Event
	keys    []key
	bytes   int
	from    journal.Position // the end of the journal before
	receipt waiter
	stored  prometheus.Counter
	settled chan struct{} // closed when err is valid
	err     error
}

func newWindow(j Journal, age time.Duration, maxIDs int, log *slog.Logger) *window {
	w := &window{
		journal: j, age: age, maxIDs: maxIDs, maxUnit: min(maxUnitBytes, j.MaxUnitBytes()), log: log,
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		wake:  make(chan struct{}, 1), ended: make(chan struct{}),
		later: make(map[key]struct{}), pending: make(map[key]*flight),
		ready: make(chan struct{}), turned: time.Now(),
	}
	w.store = func(ctx context.Context, events []*event.Event) (waiter, error) { return j.Submit(ctx, events...) }
	w.ctx, w.cancel = context.WithCancel(context.Background())
	go w.run()
	return w
}

func (w *window) key(e *event.Event) key {
	var room [512]byte
	b := room[:0]
	for _, part := range [...]string{e.Namespace, e.Type, e.Source} {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(part))), part...)
	}
	b = append(b, e.ID...)
	return key{maphash.Bytes(w.seeds[0], b), maphash.Bytes(w.seeds[1], b)}
}

// submit stores those events that are not stored yet, and counts them once they are. It
// returns what to wait for, and how many events were submitted now.
func (w *window) submit(ctx context.Context, events []*event.Event, stored prometheus.Counter) (waits []*flight, submitted int, err error) {
	keys := make([]key, len(events))
	for i, e := range events {
		keys[i] = w.key(e)
	}
	waits, fresh, err := w.claim(ctx, events, keys)
	for i, f := range fresh {
		f.stored = stored
		if err == nil {
			f.receipt, err = w.store(ctx, f.events)
		}
		if err != nil {
			w.fail(fresh[i:], err)
			return nil, 0, err
		}
		submitted += len(f.keys)
		f.events = nil
		w.follow(f)
	}
	return waits, submitted, err
}

// claim sorts out repeats. The fresh flights are those that the caller has to submit
// now; waits has these and those of others that have events of the caller.
func (w *window) claim(ctx context.Context, events []*event.Event, keys []key) (waits, fresh []*flight, err error) {
	if err := w.lockReady(ctx); err != nil {
		return nil, nil, err
	}
	defer w.mu.Unlock()
	var unit, last *flight
	end := w.journal.End()
	for i, e := range events {
		k := keys[i]
		if _, ok := w.later[k]; ok {
			continue
		}
		if _, ok := w.earlier[k]; ok {
			continue
		}
		f := w.pending[k]
		if f == nil {
			size := journal.StoredBytes(e)
			if unit == nil || unit.bytes+size > w.maxUnit {
				unit = &flight{from: end, settled: make(chan struct{}), keys: make([]key, 0, len(events)-i), events: make([]*event.Event, 0, len(events)-i)}
				fresh = append(fresh, unit)
			}
			unit.events, unit.keys, unit.bytes = append(unit.events, e), append(unit.keys, k), unit.bytes+size
			w.pending[k] = unit
			f = unit
		}
		if f != last { // mostly there is one
			waits = append(waits, f)
			last = f
		}
	}
	return waits, fresh, nil
}

// lockReady locks w when it is known what is stored. While the journal cannot be read
// the error is that of the journal.
func (w *window) lockReady(ctx context.Context) error {
	for {
		w.mu.Lock()
		if w.closing {
			w.mu.Unlock()
			return journal.ErrClosed
		}
		ready := w.ready
		select {
		case <-ready:
			return nil
		default:
		}
		if !w.reading {
			w.reading = true
			w.poke()
		}
		w.mu.Unlock()
		if _, err := w.health(); err != nil {
			return fmt.Errorf("what was published lately is not known: %w", err)
		}
		select {
		case <-ready:
		case <-time.After(healthInterval):
		case <-w.ended:
			return journal.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// healthInterval is how often those who wait until the window is known look whether the
// journal works.
const healthInterval = 100 * time.Millisecond

func (w *window) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// follow hands a submitted flight to the goroutine that settles it.
func (w *window) follow(f *flight) {
	w.mu.Lock()
	w.flights = append(w.flights, f)
	w.mu.Unlock()
	w.poke()
}

// fail settles flights that were not submitted.
func (w *window) fail(flights []*flight, err error) {
	w.mu.Lock()
	for _, f := range flights {
		w.settleLocked(f, err)
	}
	w.mu.Unlock()
	w.poke()
}

// settleLocked ends a flight. What may be stored or not makes the window unknown.
func (w *window) settleLocked(f *flight, err error) {
	for _, k := range f.keys {
		delete(w.pending, k)
		if err == nil {
			w.rememberLocked(k)
		}
	}
	if pushback, ok := errors.AsType[*journal.PushbackError](err); ok && pushback.Unknown {
		if w.doubt == nil || f.from.Compare(*w.doubt) < 0 {
			w.doubt = &f.from
		}
		select {
		case <-w.ready:
			w.ready, w.reading = make(chan struct{}), false
		default:
		}
	}
	if err == nil {
		f.stored.Add(float64(len(f.keys)))
	}
	f.err = err
	close(f.settled)
}

func (w *window) rememberLocked(k key) {
	if len(w.later) >= w.maxIDs {
		w.turnLocked()
	}
	w.later[k] = struct{}{}
}

func (w *window) turnLocked() {
	w.earlier, w.later, w.turned = w.later, make(map[key]struct{}), time.Now()
}

// run settles flights and reads the journal when that is needed.
func (w *window) run() {
	defer close(w.ended)
	timer := time.NewTicker(w.age)
	defer timer.Stop()
	for {
		w.mu.Lock()
		if time.Since(w.turned) >= w.age && len(w.later)+len(w.earlier) > 0 {
			w.turnLocked()
		}
		flights, reading := w.flights, w.reading
		w.flights = nil
		over := w.closing && len(w.pending) == 0 // also nothing that will be submitted
		w.mu.Unlock()
		for _, f := range flights {
			// What was submitted is answered, at the latest when the journal is closed.
			_, err := f.receipt.Wait(context.Background())
			w.mu.Lock()
			w.settleLocked(f, err)
			w.mu.Unlock()
		}
		if reading {
			w.read()
		}
		switch {
		case len(flights) > 0: // perhaps more came
		case over:
			return
		default:
			select {
			case <-w.wake:
			case <-timer.C:
			}
		}
	}
}

// read takes in what is stored, unless it is known already.
func (w *window) read() {
	w.mu.Lock()
	ready, doubt := w.ready, w.doubt
	w.mu.Unlock()
	select {
	case <-ready:
		return
	default:
	}
	lost, err := w.health()
	if err != nil {
		w.retry()
		return
	}
	if lost { // what is not there any more is no reason to refuse it
		doubt = nil
		w.mu.Lock()
		w.later, w.earlier = make(map[key]struct{}), nil
		w.mu.Unlock()
	}
	if err := w.readFrom(doubt); err != nil {
		if w.ctx.Err() == nil && !errors.Is(err, journal.ErrClosed) {
			if skipped, ok := w.warned.Allow(); ok {
				w.log.Warn("The newest events of the journal cannot be read, so nothing can be published; trying again.", "error", err, "skipped", skipped)
			}
		}
		w.retry()
		return
	}
	w.mu.Lock()
	w.doubt = nil
	close(w.ready)
	w.mu.Unlock()
}

// health says why the journal does not accept events. That it has lost some, which it
// says for ever, is told apart, because it goes on without them.
func (w *window) health() (lost bool, _ error) {
	err := w.journal.Health()
	if errors.Is(err, journal.ErrLost) {
		return true, nil
	}
	return false, err
}

// retry has the journal read again when somebody asks for it, or soon.
func (w *window) retry() {
	select {
	case <-time.After(healthInterval):
	case <-w.ctx.Done():
	}
	w.poke()
}

// readFrom remembers what is in the journal behind a position, without one in the
// whole window.
func (w *window) readFrom(doubt *journal.Position) error {
	var from journal.Position
	if doubt != nil {
		from = *doubt
	} else {
		newest, err := w.journal.Recent(w.ctx, uint64(w.maxIDs))
		if err != nil {
			return err
		}
		since, err := w.journal.Since(w.ctx, w.age.String(), time.Now())
		if err != nil {
			return err
		}
		if from = newest; since.Compare(newest) > 0 {
			from = since
		}
	}
	// What comes behind this end is of those who do not publish, or is pending.
	r, end := w.journal.Read(from), w.journal.End()
	for more := from.Compare(end) < 0; more; {
		b, err := r.Next(w.ctx)
		if gap, ok := errors.AsType[*journal.GapError](err); ok {
			w.log.Warn("Events of the journal are missing; repeats of them would be stored again.", "error", gap)
			more = gap.Next.Compare(end) <= 0 // it was not read yet
			continue
		}
		if err != nil {
			return err
		}
		w.mu.Lock()
		for i := b.Start(); i < b.Len(); i++ {
			w.rememberLocked(w.key(b.Event(i)))
		}
		w.mu.Unlock()
		more = b.End().Compare(end) < 0
	}
	return nil
}

// close ends run when nothing is on its way any more.
func (w *window) close(ctx context.Context) error {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
	w.cancel()
	w.poke()
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("events on their way are not answered yet: %w", ctx.Err())
	}
}
