package journal

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// readFirst and readMost bound the pauses of a reader while the storage does
	// not answer.
	readFirst = 10 * time.Millisecond
	readMost  = time.Second
)

// Reader reads the journal from one position to its end and on, as it grows. It
// holds no resources: one that is not needed any more is forgotten. A Reader is
// for one goroutine at a time.
type Reader struct {
	journal *Journal
	after   Position // last position handed out
	seq     uint64   // record due next
	index   uint32   // first event due in it
	ordinal uint64   // of that event
	exact   bool     // ordinal is known: what is missing is a gap
	foreign bool     // after is not a position of this journal
	held    *Batch   // handed out after the gap before it was reported
}

// Read returns a reader of what comes after a position: the zero Position reads
// from the oldest event retained, [Journal.End] only what is new.
func (j *Journal) Read(after Position) *Reader {
	end := j.End()
	r := &Reader{journal: j, after: after}
	switch {
	case after.IsZero():
		// In an empty journal even the first event may be removed before it is
		// read; in another one the reader takes what there is.
		r.seq, r.exact = 1, end.IsZero()
	case after.Seq > end.Seq || after.NextOrdinal() > end.NextOrdinal():
		r.foreign, r.seq = true, 1
	case after.Index == BetweenRecords || after == end:
		r.seq, r.ordinal, r.exact = after.Seq+1, after.NextOrdinal(), true
	default:
		r.seq, r.index, r.ordinal, r.exact = after.Seq, after.Index+1, after.NextOrdinal(), true
	}
	return r
}

// Next returns the next batch and blocks until there is one. Where events that
// were due cannot be had any more, it returns a [*GapError] once and goes on
// behind them with the next call; so it does when the reader's position is not one
// of this journal, and then begins with the oldest event. It survives failures
// of the storage and returns the error of ctx when that ends, and ErrClosed after
// Close.
func (r *Reader) Next(ctx context.Context) (*Batch, error) {
	if b := r.held; b != nil {
		r.held = nil
		r.take(b)
		return b, nil
	}
	if r.foreign {
		r.foreign = false
		gap := &GapError{After: r.after, Cause: fmt.Errorf("%w: the journal ends before, at position %q; it was replaced or restored", ErrNotFound, r.journal.End())}
		r.after = Position{}
		return nil, gap
	}
	pause := readFirst
	for {
		if err := r.awaitRecord(ctx); err != nil {
			return nil, err
		}
		rec, err := r.journal.records.get(ctx, r.seq)
		switch {
		case err == nil:
			if b, err := r.accept(rec); b != nil || err != nil {
				return b, err
			}
			continue
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, ErrClosed):
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-r.journal.stopped:
			timer.Stop()
			return nil, ErrClosed
		}
		pause = min(2*pause, readMost)
	}
}

// awaitRecord returns when the record that is due is durable.
func (r *Reader) awaitRecord(ctx context.Context) error {
	for {
		end, moved := r.journal.endState()
		if r.seq <= end.Seq {
			return nil
		}
		select {
		case <-r.journal.stopped:
			return ErrClosed
		default:
		}
		r.journal.records.waiting.Add(1)
		select {
		case <-moved:
		case <-ctx.Done():
		case <-r.journal.stopped:
		}
		r.journal.records.waiting.Add(-1)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// accept makes a batch of the first record found at or behind the one that is due,
// or reports the gap before it, or neither when nothing in the record is due.
func (r *Reader) accept(rec *record) (*Batch, error) {
	if err := rec.load(); err != nil {
		return nil, r.skip(rec, err)
	}
	b := &Batch{record: rec}
	if rec.seq == r.seq {
		if int(r.index) >= rec.header.count {
			r.seq, r.index = rec.seq+1, 0
			return nil, nil
		}
		b.start = int(r.index)
	}
	first := rec.position(b.start)
	if !r.exact || first.Ordinal == r.ordinal {
		r.take(b)
		return b, nil
	}
	gap := &GapError{After: r.after, Next: first, Records: rec.seq - r.seq}
	if first.Ordinal > r.ordinal {
		gap.Events = first.Ordinal - r.ordinal
	}
	if gap.Records == 0 || gap.Events == 0 {
		gap.Cause = fmt.Errorf("%w: position %q is not one of this journal", ErrNotFound, r.after)
	}
	b.start = 0
	if rec.seq == r.seq && gap.Cause == nil {
		b.start = int(r.index)
	}
	r.held = b
	return nil, gap
}

// skip passes a record that cannot be read.
func (r *Reader) skip(rec *record, cause error) *GapError {
	gap := &GapError{After: r.after, Records: rec.seq - r.seq + 1, Cause: cause}
	r.seq, r.index = rec.seq+1, 0
	if rec.broken != nil {
		// Only the next record tells how many events this one had.
		gap.Next = Position{Seq: r.seq}
		r.exact = false
		return gap
	}
	next := rec.header.ordinal + uint64(rec.header.count)
	if r.exact {
		gap.Events = next - r.ordinal
	}
	r.ordinal, r.exact = next, true
	gap.Next = Position{Seq: r.seq, Ordinal: next}
	return gap
}

// take moves the reader behind b.
func (r *Reader) take(b *Batch) {
	r.after = b.End()
	r.seq, r.index = b.record.seq+1, 0
	r.ordinal, r.exact = r.after.NextOrdinal(), true
}
