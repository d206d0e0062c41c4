package rule

import (
	"context"

	"github.com/tocsin-events/tocsin/internal/fields"
)

// Set is a compiled set of rules, as Compile(files []load.File, o Options) (*Set, *load.Report) makes
// it. It is immutable and safe for concurrent use.
type Set struct {
	unimplemented struct{}
}

// RunOptions are what a Run works with. The zero value is usable.
type RunOptions struct {
	// Fields extracts the fields of plugins. Nil: events have none.
	Fields *fields.Registry
	// Payload returns a payload that is kept outside of its event; nil: such events have none.
	Payload func(ctx context.Context, ref string) ([]byte, error)
}

// Run judges events by a Set, and remembers what windows and throttles need. It is for one
// goroutine.
type Run struct {
	set *Set
}

// NewRun returns a Run that has seen nothing. [Run.Close] ends it. The error wraps
// [fields.ErrTooMany].
func (s *Set) NewRun(o RunOptions) (*Run, error) { return &Run{set: s}, nil }

// Close says that the fields of plugins are not wanted any more.
func (r *Run) Close() {}

// Record judges the events of a record from the one with the index from on, and gives the alerts
// to emit, in the order of events and, for an event, of rules. An Alert is emit's to keep, as long
// as the event.
//
// It returns the index of the first event that was not judged: that of the record's end if there is
// no error. With an error nothing that Record remembers has been changed by the event of that
// index, so that a later call may go on there. The error wraps a [*fields.Missing] if a plugin
// cannot tell the value of a field now, ctx.Err(), or is that of emit.
func (r *Run) Record(ctx context.Context, rec fields.Record, from int, emit func(*Alert) error) (next int, err error) {
	return rec.Len(), nil
}

// Lenient has the run take values that a plugin cannot tell now for missing ones, and count them,
// instead of returning an error. It is for who has waited for long enough.
func (r *Run) Lenient(on bool) {}
