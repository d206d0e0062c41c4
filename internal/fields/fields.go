// Package fields has plugins extract fields of the events that they know, for those who decide by
// them: filters of subscriptions and sinks, and rules.
//
// # How it works
//
// Whoever wants fields says so first, with [Registry.Use], and then looks at the records of the
// journal through a [View]. Nothing is extracted before somebody asks a View for a value. Then all
// events of the record are asked about at once, for all fields that are in use, with one call of
// each plugin, of all at the same time; what they answer is shared by all who look at the same
// record. So there is one call per record and plugin, however many subscriptions, sinks and fields
// there are, and none as long as nobody asks.
//
// Which plugin is asked depends on the event source of the event, which its type says: one that
// has the field and extracts from that event source, first the plugin that the event came from.
//
// # What can go wrong
//
// A plugin that does not run, does not answer in time, or lies about what it answers costs the
// fields their values, for the moment: a later View asks again. One that cannot cope with a
// single event is told from one that cannot work at all by asking about the others without it. A
// value that is missing is never mistaken for one that the event does not have: see [Missing].
// Calls, answers and what is kept of them are bounded; a plugin that has failed is left alone for
// a moment, so that it delays nobody again and again.
package fields

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Bounds.
const (
	// DefaultTimeout is Options.Timeout if not set.
	DefaultTimeout = 5 * time.Second
	// DefaultMemoryBytes is Options.MemoryBytes if not set.
	DefaultMemoryBytes = 32 << 20
	// MaxInUse bounds the different fields in use.
	MaxInUse = 1024
	// maxTogether bounds the fields that are asked for at once, beside those of who asks.
	maxTogether = 64
	// logEvery is the time between two messages about values that are missing.
	logEvery = time.Minute
)

// ErrTooMany means that as many different fields are in use as there may be.
var ErrTooMany = errors.New("too many different fields of plugins are in use")

// Extractor is a source whose plugin may be asked, while it runs. Plugins are comparable.
type Extractor interface {
	Name() string
	Plugin() (sourceplugin.Plugin, bool)
}

// Record is some successive events of a journal. Two with the same position and events are the
// same.
type Record interface {
	Len() int
	Event(i int) *event.Event
	Position(i int) position.Position
}

// Options configure a Registry.
type Options struct {
	// Payload returns a payload that is kept outside of its event; the error wraps
	// [fs.ErrNotExist] if it is not there any more. It may be called several times at once. Nil:
	// such events have no fields.
	Payload func(ctx context.Context, ref string) ([]byte, error)
	// Timeout bounds the time in which the plugins have to answer about a record.
	Timeout time.Duration
	// MemoryBytes bounds what is kept of answers.
	MemoryBytes int64
	Logger      *slog.Logger          // default: none
	Registry    prometheus.Registerer // nil: the counters are nowhere
}

// Registry knows the plugins that extract, and what they have answered lately. It is safe for
// concurrent use. It has no goroutines but those of calls that are under way.
type Registry struct {
	o       Options
	metrics *fieldMetrics

	mu         sync.Mutex
	extractors []*extractor
	uses       map[string]int // of each field
	tables     map[tableKey]*list.Element
	recent     *list.List // of *table, the one used last in front
	bytes      int64
	nextLog    time.Time
	skipped    int // messages
}

// New returns a Registry without extractors.
func New(o Options) *Registry {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = DefaultMemoryBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Registry{
		o: o, metrics: newFieldMetrics(o.Registry),
		uses: make(map[string]int), tables: make(map[tableKey]*list.Element), recent: list.New(),
	}
}

// Add makes an extractor known. Those that were added first are asked first.
func (r *Registry) Add(e Extractor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.extractors = append(r.extractors, &extractor{source: e})
}

func (r *Registry) all() []*extractor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.extractors[:len(r.extractors):len(r.extractors)]
}

// Check returns nil if a field, as [fieldtext.Parse] reads it, may be one of a plugin: one that is
// known has it, as it is written, or a plugin that has not been started yet may have it. The
// fields of plugins that have run once are known. A field that is compared with a text as a whole
// must be of a type that can be equal to it.
func (r *Registry) Check(field string, equals *string) error {
	name, _, _, err := fieldtext.Split(field)
	if err != nil {
		return err
	}
	all := r.all()
	if len(all) == 0 {
		return fmt.Errorf("field %s: there is no plugin that could extract it, because plugins.sources is empty", name)
	}
	var known []sourceplugin.Field
	var wrong error // the plugin has it, but not so
	unknown := false
	for _, e := range all {
		d := e.describe()
		if d == nil {
			unknown = true
			continue
		}
		if !d.Capabilities.Extract {
			continue
		}
		q, err := fieldtext.Parse(field, d.Fields)
		if err == nil && equals != nil {
			err = fieldtext.CheckText(&d.Fields[q.Index], *equals)
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, fieldtext.ErrUnknownField) && wrong == nil:
			wrong = err
		}
		known = append(known, d.Fields...)
	}
	switch {
	case wrong != nil:
		return wrong
	case unknown && !ofKnown(name, known):
		return nil
	}
	_, err = fieldtext.Parse(field, known)
	return err
}

// ofKnown says whether a field is one of a plugin that is known: the names of all fields of a
// plugin begin with the same few words before the first dot.
func ofKnown(name string, known []sourceplugin.Field) bool {
	prefix, _, found := strings.Cut(name, ".")
	return found && slices.ContainsFunc(known, func(f sourceplugin.Field) bool {
		p, _, found := strings.Cut(f.Name, ".")
		return found && p == prefix
	})
}

// Use is the interest of somebody in fields. It is safe for concurrent use.
type Use struct {
	registry *Registry
	names    []string
	released sync.Once
}

// Use says that fields are wanted, as [fieldtext.Parse] reads them. Those of no plugin never have
// a value. [Use.Release] ends it. The error wraps [ErrTooMany].
func (r *Registry) Use(names ...string) (*Use, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := make(map[string]bool)
	for _, name := range names {
		if r.uses[name] == 0 {
			fresh[name] = true
		}
	}
	if len(r.uses)+len(fresh) > MaxInUse {
		return nil, fmt.Errorf("%w: %d, of at most %d", ErrTooMany, len(r.uses), MaxInUse)
	}
	u := &Use{registry: r, names: slices.Clone(names)}
	for _, name := range names {
		r.uses[name]++
	}
	r.metrics.inUse.Set(float64(len(r.uses)))
	return u, nil
}

// Names returns the fields. They must not be changed.
func (u *Use) Names() []string { return u.names }

// Release says that the fields are not wanted any more. Views may still be looked at.
func (u *Use) Release() {
	u.released.Do(func() {
		r := u.registry
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, name := range u.names {
			if r.uses[name]--; r.uses[name] == 0 {
				delete(r.uses, name)
			}
		}
		r.metrics.inUse.Set(float64(len(r.uses)))
	})
}

// together returns the fields to ask for when somebody wants those of own: these, and behind
// them others that are in use.
func (r *Registry) together(own []string) []string {
	names := slices.Clone(own)
	r.mu.Lock()
	defer r.mu.Unlock()
	var others []string
	for name := range r.uses {
		if !slices.Contains(own, name) {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	return append(names, others[:min(len(others), maxTogether)]...)
}
