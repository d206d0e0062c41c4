package vaultaudit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/tocsin-events/tocsin/event"
)

// unit is some lines' events of one reader, which are appended together, and where it
// is to be read on once they are durable.
type unit struct {
	from     *reader // nil for what is imported
	input    *input  // of from, or alone, to tell of its replay
	events   []*event.Event
	bytes    int
	lines    int
	after    mark
	fresh    bool   // all lines of the input that were durable before the start are before its end
	snapshot []byte // state of the translator behind the unit, now and then

	// Of what is imported:
	done     func(error) // called when it is durable
	imported *Stats
}

// eventOverhead is what an event takes beside its content, at most.
const eventOverhead = 256

// A snapshot of the translator is taken after so much time or input, whichever is
// first, so that little is to be folded in again after a restart.
const (
	snapshotInterval = 30 * time.Second
	snapshotBytes    = 512 << 20
)

// tickInterval is how often the translation looks at what the time changes.
const tickInterval = time.Second

// translation is the second stage: lines to units. It runs in one goroutine.
type translation struct {
	*Source
	out chan<- *unit

	unit    *unit
	maxUnit int            // bytes
	line    []*event.Event // of the current line
	count   Stats          // not shown yet

	now     time.Time // about
	current *reader   // whose lines are translated
	verdict verdict   // on the current line

	taken time.Time // last snapshot
	since int64     // bytes of lines since then
	last  *unit     // the last that was sent, without its events

	logged   time.Time // last message about quarantined lines
	unlogged uint64
}

// verdict is what becomes of a line.
type verdict uint8

const (
	isNew       verdict = iota
	isRepeated          // read again after a restart, and durable
	isDuplicate         // came over another input, or was sent again
)

// run translates until the feed is closed or ctx ends.
func (t *translation) run(ctx context.Context, f *feed) {
	t.taken = time.Now()
	t.unit = &unit{}
	// The journal takes at least twice the largest event at once.
	t.maxUnit = min(unitBytes, 2*t.config.Limits.MaxEventBytes)
	tick := time.NewTicker(min(tickInterval, t.settleAfter))
	defer tick.Stop()
	t.now = time.Now()
	for {
		select {
		case t.now = <-tick.C:
			if !t.tick(ctx) {
				return
			}
		case passed := <-t.imports.barriers:
			if !t.barrier(ctx, passed) {
				return
			}
		default:
		}
		b, more := f.take()
		switch {
		case b != nil:
			ok := t.batch(ctx, b)
			f.done(b)
			if !ok {
				return
			}
			continue
		case !more:
			t.logQuarantined(true)
			if t.since > 0 && t.last != nil {
				t.unit.from, t.unit.input, t.unit.after, t.unit.snapshot = t.last.from, t.last.input, t.last.after, t.snapshot()
				t.send(ctx)
			}
			return
		}
		select {
		case <-f.wake:
		case passed := <-t.imports.barriers:
			if !t.barrier(ctx, passed) {
				return
			}
		case t.now = <-tick.C:
			if !t.tick(ctx) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// tick looks at what the time changes. It returns false when ctx ended first.
func (t *translation) tick(ctx context.Context) bool {
	t.logQuarantined(false)
	if t.window != nil {
		t.window.expire(t.now)
	}
	for _, in := range t.inputs {
		if in.replay.empty() || !in.settled(t.now) {
			continue
		}
		in.log.Warn("lines that are durable are not there any more to be recognised", "lines", in.replay.giveUp())
		t.unit.from, t.unit.input = nil, in
		if !t.send(ctx) {
			return false
		}
	}
	return true
}

// barrier tells through passed when everything that was sent is durable.
func (t *translation) barrier(ctx context.Context, passed chan struct{}) bool {
	select {
	case t.out <- &unit{done: func(error) { close(passed) }}:
		return true
	case <-ctx.Done():
		return false
	}
}

// judge says whether the line with this event is taken. text is that of an entry whose id
// is the same over every device.
func (t *translation) judge(id string, text []byte) bool {
	r := t.current
	if r.replay.take(id) {
		r.misses = 0
		t.verdict = isRepeated
		return false
	}
	if t.imports.active.Load() && t.imports.tell(id) {
		t.verdict = isDuplicate
		return false
	}
	if text != nil && t.window != nil {
		key, now := idKey(id), seen{r.number, textSum(text)}
		before, ok := t.window.find(key)
		if ok && (before.number != now.number || r.Inbox != nil && (before.sum == now.sum || before.sum == unknownSum)) {
			t.verdict = isDuplicate
			return false
		}
		t.window.add(key, now, t.now)
	}
	r.misses++
	t.verdict = isNew
	return true
}

// batch translates the lines of b. It returns false when ctx ended first.
func (t *translation) batch(ctx context.Context, b *batch) bool {
	r := b.from
	t.current = r
	t.unit.from, t.unit.input = r, r.input
	t.translator.Device(r.device)
	if t.config.Ask != nil {
		t.translator.Consult(t.config.Ask)
	}
	if b.lost != nil {
		e := t.translator.lost(b.lost, b.inbox.After())
		if t.judge(e.ID, nil) {
			t.translator.Gap()
			t.unit.events = append(t.unit.events, e)
			t.unit.bytes += e.Size() + eventOverhead
		}
		t.count.Lost += b.lost.Lines
	}
	for i, l := range b.lines {
		t.line = translateLine(t.translator, t.line[:0], l, t.judge)
		switch t.count.count(l, t.line); {
		case len(t.line) > 0:
		case t.verdict == isRepeated:
			t.count.Repeated++
		case t.verdict == isDuplicate:
			t.count.Duplicates++
		default:
			t.count.Blank++
		}
		t.verdict = isNew
		size := 0
		for _, e := range t.line {
			n := e.Size()
			if n > t.config.Limits.MaxEventBytes && len(e.Data) > 0 {
				if err := t.claim(ctx, e); err != nil {
					return false
				}
				n = e.Size()
			}
			size += n + eventOverhead
		}
		if u := t.unit; u.lines > 0 && (u.bytes+size > t.maxUnit || u.lines == unitLines) {
			u.after = b.through(i - 1)
			if !t.send(ctx) {
				return false
			}
		}
		t.unit.events = append(t.unit.events, t.line...)
		t.unit.bytes += size
		t.unit.lines++
		t.since += l.Size
	}
	if b.lossy {
		t.translator.Gap()
	}
	t.show(r.input)
	t.unit.after = b.after()
	if t.since > snapshotBytes || t.since > 0 && time.Since(t.taken) > t.snapshotEvery {
		t.unit.snapshot = t.snapshot()
	}
	return t.send(ctx)
}

// send hands the unit over and begins the next one, of the same reader.
func (t *translation) send(ctx context.Context) bool {
	u := t.unit
	u.fresh = u.input.replay.empty()
	n := len(u.events)
	select {
	case t.out <- u:
		t.last = &unit{from: u.from, input: u.input, after: u.after}
		t.unit = &unit{from: u.from, input: u.input, events: make([]*event.Event, 0, n)}
		return true
	case <-ctx.Done():
		return false
	}
}

// snapshot returns the state of the translator, nil when it cannot be had.
func (t *translation) snapshot() []byte {
	t.taken, t.since = time.Now(), 0
	b, err := t.translator.Snapshot()
	if err != nil {
		t.log.Error("state of the translator cannot be stored; a restart has to read more of the journal", "error", err)
		return nil
	}
	return b
}

// show adds the counts of a batch to those that others see.
func (t *translation) show(in *input) {
	c := t.count
	t.count = Stats{}
	in.metrics.Received.Add(float64(c.Lines))
	in.metrics.Quarantined.Add(float64(c.Quarantined))
	in.metrics.Duplicates.Add(float64(c.Duplicates))
	in.metrics.Lost.Add(float64(c.Lost))
	in.count(c)
	t.unlogged += c.Quarantined
	t.logQuarantined(false)
}

// logEvery is the shortest time between two messages about quarantined lines.
const logEvery = 10 * time.Second

func (t *translation) logQuarantined(now bool) {
	if t.unlogged == 0 || !now && time.Since(t.logged) < logEvery {
		return
	}
	t.log.Warn("lines that are no audit entries were stored as events of type "+TypeQuarantined, "lines", t.unlogged)
	t.logged, t.unlogged = time.Now(), 0
}

const (
	// payloadTimeout bounds one store of a payload. It is many writes, each synced,
	// and without a deadline of the whole every single one would have that of a
	// small request, which a slow disk does not keep.
	payloadTimeout = 30 * time.Second
	// payloadReuse is how old a payload may be to serve another event too: it is
	// removed at the age of an event.
	payloadReuse = time.Hour
)

// claim moves the data of an event that is too large to the object store. It comes
// before the event, so whoever sees the event finds the data.
func (s *Source) claim(ctx context.Context, e *event.Event) error {
	sum := sha256.Sum256(e.Data)
	name := hex.EncodeToString(sum[:])
	err := s.retry(ctx, stagePayload, "store the bytes of a large audit entry", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, payloadTimeout)
		defer cancel()
		store, err := s.journal.Payloads(ctx, PayloadBucket)
		if err != nil {
			return err
		}
		switch info, err := store.GetInfo(ctx, name); {
		case err == nil && info.Size == uint64(len(e.Data)) && time.Since(info.ModTime) < payloadReuse:
			return nil // stored before a crash
		case err != nil && !errors.Is(err, jetstream.ErrObjectNotFound):
			return err
		}
		_, err = store.PutBytes(ctx, name, e.Data)
		return err
	})
	if err != nil {
		return err
	}
	e.Data, e.DataRef = nil, PayloadPath+name
	return nil
}
