package hub

import (
	"context"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// Journal is what the hub needs of a journal. It is safe for concurrent use.
type Journal interface {
	// Read returns a reader of what comes after a position. It holds no
	// resources, so that one can be had for each batch.
	Read(after journal.Position) Reader
	// End returns the position of the last event that readers can see.
	End() journal.Position
}

// Reader reads a journal in order. It is for one goroutine at a time.
type Reader interface {
	// Next waits for the next batch. A [*journal.GapError] says that retention
	// removed what was due; any other error means that nothing can be read now.
	Next(ctx context.Context) (Batch, error)
}

// Batch is some successive events of a journal. It is immutable. Those before
// Start are not due to the reader.
type Batch interface {
	Len() int
	Start() int
	Event(i int) *event.Event
	Position(i int) journal.Position
	Size() int // of its memory, in bytes
}

// FromJournal makes a journal readable for the hub.
func FromJournal(j *journal.Journal) Journal { return wrappedJournal{j} }

type wrappedJournal struct{ *journal.Journal }

func (w wrappedJournal) Read(after journal.Position) Reader {
	return wrappedReader{w.Journal.Read(after)}
}

type wrappedReader struct{ *journal.Reader }

func (w wrappedReader) Next(ctx context.Context) (Batch, error) {
	b, err := w.Reader.Next(ctx)
	if err != nil {
		return nil, err
	}
	return b, nil
}
