package journal

import (
	"errors"
	"fmt"
	"time"
)

const (
	// maxInFlight is how many records may be on their way to the disk: the next
	// ones are built and compressed while the first is synced.
	maxInFlight = 4
	// ackTimeout is when a record without an answer has failed. A slow disk may
	// take seconds for a sync, and recovering costs more than waiting.
	ackTimeout = 20 * time.Second
	// ackAlarm is when a missing answer makes the supervisor look at the server.
	ackAlarm = time.Second
	// maxStandstill is by how much records may be from the future, because the clock of the machine
	// was set back.
	maxStandstill = time.Minute
)

// writer is the one goroutine that makes records of the queue's blocks. It alone
// knows what comes next in the stream.
type writer struct {
	*Journal
	session *session // nil while the journal is down
	last    uint64   // sequence of the newest record sent
	ordinal uint64   // of the next event
	clock   int64    // recorded time of the newest record, nanoseconds
	number  uint64   // of the newest record sent, as ack knows it
	flights []flight // oldest first
	held    *block   // taken, but there was no space for it

	packed []byte // buffer for the compressed form of the record being sent
}

// flight is a record on its way to the disk.
type flight struct {
	block   *block
	number  uint64
	seq     uint64
	ordinal uint64
	header  recordHeader
	body    []byte // uncompressed, when readers at the tail want it
	sent    time.Time
	alarmed bool
}

// fault is why the journal cannot go on.
type fault struct {
	kind    error // ErrFull or ErrUnavailable
	cause   error
	restart bool // the embedded server must be restarted
}

// restored is how the supervisor hands the journal back to the writer.
type restored struct {
	session *session
	end     Position // last event
}

// run works until stop is closed, and then until nothing waits or the journal is
// down.
func (w *writer) run(stop <-chan struct{}) {
	defer close(w.written)
	ticker := time.NewTicker(ackAlarm / 2)
	defer ticker.Stop()
	for {
		w.send()
		if stop == nil && (w.session == nil || len(w.flights) == 0 && w.held == nil && w.queue.idle()) {
			return
		}
		select {
		case <-w.queue.wake:
		case a := <-w.acks:
			w.acked(a)
		case f := <-w.faults:
			w.fail(f)
		case r := <-w.restored:
			w.resume(r)
		case now := <-ticker.C:
			w.checkAge(now)
		case <-stop:
			stop = nil
		case <-w.abort:
			w.fail(fault{kind: ErrUnavailable, cause: ErrClosed})
			return
		}
	}
}

// send makes records of what waits. A block that is not yet worth a sync of its own
// waits as long as another record is being synced, so that batches grow with the
// load and an idle journal answers at once.
func (w *writer) send() {
	for w.session != nil && len(w.flights) < maxInFlight {
		min := 1
		if len(w.flights) > 0 {
			min = w.config.recordBytes()
		}
		b := w.held
		if b == nil {
			b = w.queue.take(min)
		}
		if b == nil {
			return
		}
		w.held = nil
		if err := w.checkSpace(b.size); err != nil {
			if len(w.flights) > 0 {
				w.held = b // what is on its way has a known outcome soon
				return
			}
			w.flights = append(w.flights, flight{block: b})
			w.fail(fault{kind: ErrFull, cause: err})
			return
		}
		if err := w.sendBlock(b); err != nil {
			w.flights = append(w.flights, flight{block: b})
			w.fail(*err)
		}
	}
}

func (w *writer) sendBlock(b *block) *fault {
	recorded := w.tick(time.Now())
	f := flight{block: b, number: w.number + 1, seq: w.last + 1, ordinal: w.ordinal, sent: time.Now()}
	plain := b.complete(f.ordinal, recorded)
	record, ok := compress(w.packed[:0], plain)
	w.packed = record
	if !ok {
		record = plain
	}
	if err := w.session.publish(f.number, w.last, record); err != nil {
		return &fault{kind: ErrUnavailable, cause: fmt.Errorf("send record: %w", err), restart: true}
	}
	if w.records.wanted(f.seq) {
		f.header, _ = parseRecordHeader(plain)
		f.body = b.giveBody()
	}
	w.number, w.last, w.ordinal = f.number, f.seq, f.ordinal+uint64(b.count)
	w.flights = append(w.flights, f)
	return nil
}

// tick returns the time of the next record. Records are found by time, so the clock stands still
// rather than go back; but one that was far ahead, and has been set back, is not waited for: what
// goes by the times of records would stand still, too.
func (w *writer) tick(now time.Time) time.Time {
	if at := now.UnixNano(); at > w.clock || w.clock-at > int64(maxStandstill) {
		w.clock = at
	}
	return time.Unix(0, w.clock)
}

// acked answers the waiters of the oldest record.
func (w *writer) acked(a ack) {
	if a.session != w.session || len(w.flights) == 0 || a.number < w.flights[0].number {
		return // of a record that was given up
	}
	f := w.flights[0]
	switch {
	case a.err != nil:
		w.fail(w.explain(a.err))
		return
	case a.number != f.number || a.seq != f.seq:
		w.fail(fault{kind: ErrUnavailable, restart: true,
			cause: fmt.Errorf("acknowledgement of record %d as %d, want %d", a.number, a.seq, f.seq)})
		return
	}
	w.flights = append(w.flights[:0], w.flights[1:]...)
	count := f.block.count
	if f.body != nil {
		w.records.add(newRecord(f.seq, f.header, f.body))
	}
	w.advance(Position{Seq: f.seq, Index: uint32(count - 1), Ordinal: f.ordinal + uint64(count) - 1})
	w.metrics.Appended.Add(float64(count))
	w.queue.finish(f.block, f.seq, f.ordinal, nil)
}

// explain makes a fault of an error of the server.
func (w *writer) explain(err error) fault {
	if isFull(err) {
		return fault{kind: ErrFull, cause: err, restart: true}
	}
	if free, ferr := w.dir.free(); ferr == nil && free < int64(w.limits.unit) {
		return fault{kind: ErrFull, cause: err, restart: true}
	}
	return fault{kind: ErrUnavailable, cause: err, restart: true}
}

// checkAge looks at the oldest record in flight: the server does not answer when
// a write failed.
func (w *writer) checkAge(now time.Time) {
	if len(w.flights) == 0 {
		return
	}
	f := &w.flights[0]
	switch age := now.Sub(f.sent); {
	case age >= ackTimeout:
		w.fail(w.explain(fmt.Errorf("no acknowledgement within %v", ackTimeout)))
	case age >= ackAlarm && !f.alarmed:
		f.alarmed = true
		w.alarm()
	}
}

// fail answers everybody who waits and hands the journal to the supervisor.
func (w *writer) fail(f fault) {
	if w.session == nil {
		return // already known
	}
	w.session = nil
	w.down(f)
	if w.held != nil {
		w.flights = append(w.flights, flight{block: w.held})
		w.held = nil
	}
	failed := 0
	for _, fl := range w.flights {
		failed += fl.block.count
		// Without a number it was never sent.
		w.queue.finish(fl.block, 0, 0, w.pushback(f, fl.number != 0))
	}
	w.flights = w.flights[:0]
	refusal := w.pushback(f, false)
	failed += w.queue.refuse(refusal, refusal)
	w.metrics.Refused("failed").Add(float64(failed))
	if !errors.Is(f.cause, ErrClosed) {
		w.broken <- f // has room for the one fault there can be
	}
}

func (w *writer) pushback(f fault, unknown bool) error {
	if errors.Is(f.cause, ErrClosed) {
		return ErrClosed
	}
	return &PushbackError{Reason: f.cause.Error(), RetryAfter: downRetry, Unknown: unknown, kind: f.kind, cause: f.cause}
}

// resume goes on after a recovery.
func (w *writer) resume(r restored) {
	w.session, w.last = r.session, r.end.Seq
	w.ordinal = r.end.NextOrdinal()
	w.advance(r.end)
	w.up()
	w.queue.accept()
}

// checkSpace keeps a reserve, so that a full disk is met here, where it can be
// told to producers, and not by the server in the middle of a write.
func (j *Journal) checkSpace(size int) error {
	free, err := j.dir.free()
	if err != nil {
		return err
	}
	if need := j.config.reserve() + int64(size); free < need {
		return fmt.Errorf("%s has %d MiB left, %d MiB are kept in reserve; free some space or let the journal keep less",
			j.dir.path, free>>20, j.config.reserve()>>20)
	}
	return nil
}

// advance tells readers that the journal now ends at p.
func (j *Journal) advance(p Position) {
	j.endMu.Lock()
	defer j.endMu.Unlock()
	if j.end == p {
		return
	}
	j.end = p
	close(j.moved)
	j.moved = make(chan struct{})
}

// endState returns the end and a channel that is closed when it moves.
func (j *Journal) endState() (Position, <-chan struct{}) {
	j.endMu.Lock()
	defer j.endMu.Unlock()
	return j.end, j.moved
}
