package trace

import (
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// Tracer makes spans of the audit entries of any number of sources. It is not safe for
// concurrent use.
type Tracer struct {
	o Options
}

// NewTracer returns a Tracer. It fails when an option cannot be understood.
func NewTracer(o Options) (*Tracer, error) { return &Tracer{o: o}, nil }

// Add takes the next event of the journal and appends the spans that are complete to dst.
// Events that are no audit entries are asked only whether they belong to the request
// before them. A position of zero is for events that do not come from a journal.
func (t *Tracer) Add(dst []*Span, e *event.Event, at journal.Position) []*Span { return dst }

// Flush must be called behind the last event of each batch of the journal. It appends the
// span of the last request, which waits for the events derived from it, and lets go of the
// batch's memory.
func (t *Tracer) Flush(dst []*Span) []*Span { return dst }

// Expire closes the requests that have waited for too long, the oldest first. It is for
// the time in which no events come, and must be called between batches only, and only when
// all that the journal has was read.
func (t *Tracer) Expire(dst []*Span, now time.Time) []*Span { return dst }

// Close closes all requests that are open, as at the end of a file.
func (t *Tracer) Close(dst []*Span) []*Span { return dst }

// Progress returns how far the Tracer has come. It may be called between batches only. It
// belongs to all spans that were given out so far: once these are delivered, it may be
// stored and a restart go on from it.
func (t *Tracer) Progress() Progress { return Progress{} }

// Stats returns the counters.
func (t *Tracer) Stats() Stats { return Stats{} }
