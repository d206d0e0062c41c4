package journal

import (
	"fmt"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// record is one record in memory, shared by all readers. It is safe for concurrent
// use.
type record struct {
	seq    uint64
	header recordHeader
	broken error // why the header could not be read

	once   sync.Once
	stored []byte // as it came from the stream; nil once decoded
	body   []byte
	events []event.Event
	err    error
}

// parseRecord looks at the header of a stored record only.
func parseRecord(seq uint64, stored []byte) (*record, error) {
	h, err := parseRecordHeader(stored)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", seq, err)
	}
	return &record{seq: seq, header: h, stored: stored}, nil
}

// newRecord makes a record of an uncompressed body, which it keeps.
func newRecord(seq uint64, h recordHeader, body []byte) *record {
	return &record{seq: seq, header: h, body: body}
}

// load decodes the record, once.
func (r *record) load() error {
	r.once.Do(func() {
		if r.err = r.broken; r.err != nil {
			return
		}
		if r.body == nil {
			if r.body, r.err = recordBody(&r.header, r.stored); r.err != nil {
				return
			}
			r.stored = nil
		}
		r.events, r.err = decodeEvents(&r.header, r.body)
	})
	if r.err != nil {
		return fmt.Errorf("record %d: %w", r.seq, r.err)
	}
	return nil
}

// memory is what the record takes when decoded.
func (r *record) memory() int64 {
	const perEvent, perField = 360, 40
	return int64(r.header.bodySize()+r.header.text) + int64(perEvent*r.header.count+perField*r.header.fields) + 512
}

func (r *record) position(i int) Position {
	return Position{Seq: r.seq, Index: uint32(i), Ordinal: r.header.ordinal + uint64(i)}
}

func (r *record) lastPosition() Position { return r.position(r.header.count - 1) }

// before is the position directly in front of the record.
func (r *record) before() Position {
	if r.header.ordinal == 0 {
		return Position{}
	}
	return Position{Seq: r.seq - 1, Index: BetweenRecords, Ordinal: r.header.ordinal - 1}
}

// Batch is the events of one record, as one reader gets them. It is safe for
// concurrent use, stays valid for ever, and may be shared with other readers: its
// events must not be changed.
type Batch struct {
	record *record
	start  int
}

// Len returns the number of events of the record, of which those before Start are
// not due to this reader.
func (b *Batch) Len() int { return len(b.record.events) }

// Start returns the index of the first event that is due to this reader.
func (b *Batch) Start() int { return b.start }

// Event returns event i of the record, 0 <= i < Len.
func (b *Batch) Event(i int) *event.Event { return &b.record.events[i] }

// Position returns the position of event i.
func (b *Batch) Position(i int) Position { return b.record.position(i) }

// End returns the position of the last event.
func (b *Batch) End() Position { return b.record.lastPosition() }

// Recorded returns when the record was written, which is also what every event's
// Recorded says.
func (b *Batch) Recorded() time.Time { return b.record.header.recorded }

// Size returns the bytes of memory that the batch takes, approximately.
func (b *Batch) Size() int { return int(b.record.memory()) }
