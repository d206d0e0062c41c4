package vaultaudit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// unit is some lines' events, which are appended together, and where the file is
// to be read on once they are durable.
type unit struct {
	events   []*event.Event
	bytes    int
	lines    int
	after    tail.Checkpoint
	fresh    bool   // all lines that were durable before the start are before its end
	snapshot []byte // state of the translator behind the unit, now and then
}

// eventOverhead is what an event takes beside its content, at most.
const eventOverhead = 256

// A snapshot of the translator is taken after so much time or input, whichever is
// first, so that little is to be folded in again after a restart.
const (
	snapshotInterval = 30 * time.Second
	snapshotBytes    = 512 << 20
)

// translation is the second stage: lines to units. It runs in one goroutine.
type translation struct {
	*File
	skip *durableIDs
	out  chan<- *unit

	unit    *unit
	maxUnit int            // bytes
	line    []*event.Event // of the current line
	count   Stats          // not shown yet

	taken time.Time // last snapshot
	since int64     // bytes of lines since then

	logged   time.Time // last message about quarantined lines
	unlogged uint64
}

// run translates until batches is closed or ctx ends.
func (t *translation) run(ctx context.Context, batches <-chan *tail.Batch, emptied chan<- *tail.Batch) {
	t.taken = time.Now()
	t.unit = &unit{}
	// The journal takes at least twice the largest event at once.
	t.maxUnit = min(unitBytes, 2*t.config.Limits.MaxEventBytes)
	var last tail.Checkpoint
	for b := range batches {
		if !t.batch(ctx, b) {
			return
		}
		last = b.After()
		select {
		case emptied <- b:
		default:
		}
	}
	t.logQuarantined(true)
	if t.since > 0 {
		t.unit.after, t.unit.snapshot = last, t.snapshot()
		t.send(ctx)
	}
}

// batch translates the lines of b. It returns false when ctx ended first.
func (t *translation) batch(ctx context.Context, b *tail.Batch) bool {
	for i, l := range b.Lines {
		t.line = translateLine(t.translator, t.line[:0], l)
		t.count.count(l, t.line)
		if len(t.line) > 0 && t.skip.take(t.line[0].ID) {
			t.line = t.line[:0]
			t.count.Repeated++
		}
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
			u.after = b.Through(i - 1)
			if !t.send(ctx) {
				return false
			}
		}
		t.unit.events = append(t.unit.events, t.line...)
		t.unit.bytes += size
		t.unit.lines++
		t.since += l.Size
	}
	if b.Lossy {
		t.translator.Gap()
	}
	t.show()
	t.unit.after = b.After()
	if t.since > snapshotBytes || t.since > 0 && time.Since(t.taken) > t.snapshotEvery {
		t.unit.snapshot = t.snapshot()
	}
	return t.send(ctx)
}

// send hands the unit over and begins the next one.
func (t *translation) send(ctx context.Context) bool {
	t.unit.fresh = t.skip.empty()
	n := len(t.unit.events)
	select {
	case t.out <- t.unit:
		t.unit = &unit{events: make([]*event.Event, 0, n)}
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
func (t *translation) show() {
	c := t.count
	t.count = Stats{}
	t.metrics.Received.Add(float64(c.Lines))
	t.metrics.Quarantined.Add(float64(c.Quarantined))
	t.mu.Lock()
	t.stats.add(c)
	t.mu.Unlock()
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
func (t *translation) claim(ctx context.Context, e *event.Event) error {
	sum := sha256.Sum256(e.Data)
	name := hex.EncodeToString(sum[:])
	err := t.retry(ctx, stagePayload, "store the bytes of a large audit entry", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, payloadTimeout)
		defer cancel()
		store, err := t.journal.Payloads(ctx, PayloadBucket)
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

// add adds the counts of o.
func (s *Stats) add(o Stats) {
	s.Lines += o.Lines
	s.Bytes += o.Bytes
	s.Blank += o.Blank
	s.Quarantined += o.Quarantined
	s.TooLong += o.TooLong
	s.Repeated += o.Repeated
	s.Events += o.Events
	s.Refused += o.Refused
}

// durableIDs are the audit events that were appended after the stored position in
// the file, so that the lines that are read again are recognised. The same id
// counts as often as it was appended.
type durableIDs struct {
	left  map[uuid.UUID]int
	count int // how many were added
	// patience is for how many more lines ids are looked for. Those left then
	// belong to lines that are no longer in the file.
	patience int
}

// maxDurableIDs bounds how many ids are remembered: several seconds of input at
// full speed, while the position is stored every second.
const maxDurableIDs = 4 << 20

func (d *durableIDs) add(id string) {
	if d.left == nil {
		d.left = map[uuid.UUID]int{}
	}
	if d.count < maxDurableIDs {
		d.count++
		d.left[idKey(id)]++
		d.patience = 2*d.count + unitLines
	}
}

// take reports whether id is among them, and takes it out once.
func (d *durableIDs) take(id string) bool {
	if len(d.left) == 0 {
		return false
	}
	if d.patience--; d.patience < 0 {
		d.left = nil
		return false
	}
	key := idKey(id)
	n := d.left[key]
	if n == 0 {
		return false
	}
	if n == 1 {
		delete(d.left, key)
	} else {
		d.left[key] = n - 1
	}
	return true
}

// empty reports whether no line is looked for any more.
func (d *durableIDs) empty() bool { return len(d.left) == 0 }

// idKey is id in 16 bytes.
func idKey(id string) uuid.UUID {
	if u, err := uuid.Parse(id); err == nil {
		return u
	}
	return uuid.NewSHA1(uuid.Nil, []byte(id))
}
