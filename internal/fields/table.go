package fields

import (
	"container/list"
	"context"
	"strings"
	"sync"

	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// table has what was extracted of one record.
type table struct {
	key  tableKey
	turn chan struct{} // has an element while somebody asks plugins

	mu      sync.RWMutex
	columns map[string]*column

	bytes int64 // guarded by Registry.mu
	kept  bool  // the same
}

// tableKey tells records apart. A sequence is enough unless the journal began anew.
type tableKey struct {
	sequence    uint64
	first, last string // ids of events
	events      int
}

// column has one field of all events of a record. It is immutable; one with values that are
// missing is replaced by another.
type column struct {
	cells   []cell
	missing bool // some are unavailable
}

// cell is a value, or why there is none.
type cell struct {
	part  *part // nil: nobody was asked
	begin uint32
	count uint32 // of elements; 0: the event does not have the field
}

// part is what several cells have in common: where their values are, or why they are missing.
type part struct {
	field *sourceplugin.Field
	raw   []string // elements as plugins encode them
	texts []string // and as people write them
	// missing is why there are no values. by is the plugin that has refused once.
	missing *Missing
	by      sourceplugin.Plugin
	// The plugin has ended when it was asked about among events, alone times about this one only.
	among, alone int
}

// unavailable says that it may be known another time.
func (c *cell) unavailable() bool {
	return c.part != nil && c.part.missing != nil && !c.part.missing.Final
}

// isPlugins says whether an event may be one that plugins extract from.
func isPlugins(eventType string) bool { return strings.HasPrefix(eventType, falcoevent.TypePrefix) }

// tableOf returns the table of a record, which others may use at the same time.
func (r *Registry) tableOf(rec Record) *table {
	key := tableKey{sequence: rec.Position(0).Seq, first: rec.Event(0).ID, last: rec.Event(rec.Len() - 1).ID, events: rec.Len()}
	fresh := &table{key: key, turn: make(chan struct{}, 1), columns: make(map[string]*column)}
	if key.sequence == 0 {
		return fresh
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.tables[key]; e != nil {
		r.recent.MoveToFront(e)
		return e.Value.(*table)
	}
	fresh.kept = true
	r.tables[key] = r.recent.PushFront(fresh)
	r.grow(fresh, tableBytes)
	return fresh
}

// tableBytes is about what a table takes without columns.
const tableBytes = 512

// grow accounts for memory, and forgets what was not used for longest. mu is held.
func (r *Registry) grow(t *table, bytes int64) {
	if !t.kept {
		return
	}
	t.bytes += bytes
	r.bytes += bytes
	for r.bytes > r.o.MemoryBytes && r.recent.Len() > 1 {
		r.forget(r.recent.Back())
	}
	if r.bytes > r.o.MemoryBytes {
		r.forget(r.recent.Back()) // whoever looks at it has it still
	}
	r.metrics.memory.Set(float64(r.bytes))
}

func (r *Registry) forget(e *list.Element) {
	t := r.recent.Remove(e).(*table)
	delete(r.tables, t.key)
	r.bytes -= t.bytes
	t.kept, t.bytes = false, 0
}

// lock waits for the turn to ask plugins.
func (t *table) lock(ctx context.Context) error {
	select {
	case t.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *table) unlock() { <-t.turn }

func (t *table) column(name string) *column {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.columns[name]
}

func (t *table) set(name string, c *column) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.columns[name] = c
}
