package store

import (
	"context"
	"errors"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/position"
)

// FromJournal lets deliveries read the journal of a hub.
func FromJournal(j *journal.Journal) deliver.Journal { return events{j} }

type events struct{ *journal.Journal }

func (e events) Read(after position.Position) deliver.Reader { return reader{e.Journal.Read(after)} }

type reader struct{ *journal.Reader }

// Next returns the next batch; what the journal says of a gap is a [*deliver.Gap].
func (r reader) Next(ctx context.Context) (deliver.Record, error) {
	b, err := r.Reader.Next(ctx)
	if err != nil {
		if gap, ok := errors.AsType[*journal.GapError](err); ok {
			err = &deliver.Gap{Next: gap.Next, Events: gap.Events, Err: gap}
		}
		return nil, err
	}
	return b, nil
}
