// Package delivermem has a journal and a store for deliveries that are in memory: for
// tests, and for programs that want to keep nothing.
package delivermem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
)

// ErrClosed is what readers of a closed journal return.
var ErrClosed = errors.New("the journal is closed")

// Journal is a journal in memory. The zero value is empty and ready for use. It is safe for
// concurrent use.
type Journal struct {
	mu      sync.Mutex
	records []*record // without those that were removed
	last    *record   // the newest one ever appended
	grown   chan struct{}
	closed  bool
}

// record is what one Append appended.
type record struct {
	seq      uint64
	ordinal  uint64 // of the first event
	events   []*event.Event
	recorded time.Time
	size     int
}

func (r *record) position(i int) position.Position {
	return position.Position{Seq: r.seq, Index: uint32(i), Ordinal: r.ordinal + uint64(i)}
}

func (r *record) end() position.Position { return r.position(len(r.events) - 1) }

// Append puts events behind all others, as one record, and returns the position of the last
// one. The events are not copied; their Recorded becomes now if it is zero.
func (j *Journal) Append(events ...*event.Event) position.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(events) == 0 {
		return j.end()
	}
	r := &record{seq: 1, events: slices.Clone(events), recorded: time.Now().UTC()}
	if j.last != nil {
		r.seq, r.ordinal = j.last.seq+1, j.last.end().NextOrdinal()
	}
	for _, e := range events {
		if e.Recorded.IsZero() {
			e.Recorded = r.recorded
		}
		r.size += 400 + len(e.ID) + len(e.Type) + len(e.Namespace) + len(e.Source) + len(e.Path) + len(e.Data)
		for _, f := range e.Metadata {
			r.size += 40 + len(f.Key) + len(f.Value)
		}
	}
	j.records, j.last = append(j.records, r), r
	if j.grown != nil {
		close(j.grown)
		j.grown = nil
	}
	return r.end()
}

// Trim removes all records but the newest keep, as retention does.
func (j *Journal) Trim(keep int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.records) - keep; n > 0 {
		j.records = slices.Delete(j.records, 0, n)
	}
}

// Close ends all readers.
func (j *Journal) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	if j.grown != nil {
		close(j.grown)
		j.grown = nil
	}
}

// End implements [deliver.Journal].
func (j *Journal) End() position.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end()
}

func (j *Journal) end() position.Position {
	if j.last == nil {
		return position.Position{}
	}
	return j.last.end()
}

// Read implements [deliver.Journal].
func (j *Journal) Read(after position.Position) deliver.Reader {
	return &reader{journal: j, after: after, begin: after.IsZero()}
}

type reader struct {
	journal *Journal
	after   position.Position // last position handed out
	begin   bool              // nothing was: there is no gap in front of the first record
}

// Next implements [deliver.Reader].
func (r *reader) Next(ctx context.Context) (deliver.Record, error) {
	for {
		rec, grown, err := r.next()
		if rec != nil || err != nil {
			return rec, err
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// next returns the next record if there is one, else a channel that is closed when there is.
func (r *reader) next() (deliver.Record, chan struct{}, error) {
	j := r.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, nil, ErrClosed
	}
	i, _ := slices.BinarySearchFunc(j.records, r.after.Seq, func(rec *record, seq uint64) int {
		if rec.seq < seq || rec.seq == seq && int(r.after.Index) >= len(rec.events)-1 {
			return -1
		}
		return 1
	})
	if i == len(j.records) {
		if j.grown == nil {
			j.grown = make(chan struct{})
		}
		return nil, j.grown, nil
	}
	rec, start := j.records[i], 0
	if rec.seq == r.after.Seq {
		start = int(r.after.Index) + 1
	}
	first := rec.position(start)
	if missing := first.Ordinal - r.after.NextOrdinal(); missing > 0 && !r.begin {
		r.after = position.Position{Seq: rec.seq - 1, Index: position.BetweenRecords, Ordinal: first.Ordinal - 1}
		return nil, nil, &deliver.Gap{Next: first, Events: missing, Err: fmt.Errorf("%d events were removed", missing)}
	}
	r.after, r.begin = rec.end(), false
	return &due{rec, start}, nil, nil
}

// due is a record as one reader gets it.
type due struct {
	record *record
	start  int
}

func (d *due) Len() int                         { return len(d.record.events) }
func (d *due) Start() int                       { return d.start }
func (d *due) Event(i int) *event.Event         { return d.record.events[i] }
func (d *due) Position(i int) position.Position { return d.record.position(i) }
func (d *due) End() position.Position           { return d.record.end() }
func (d *due) Recorded() time.Time              { return d.record.recorded }
func (d *due) Size() int                        { return d.record.size }
