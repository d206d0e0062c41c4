// Package catalog knows the types of events: those that the program emits or that plugins
// of Vault send ([builtIns]), those that the configuration describes, and those that were
// seen in what others publish. It checks published events against JSON Schemas where the
// configuration has some.
//
// What is learnt of an event is its type, the names of its metadata and what kinds of
// values they have, whether there is data and of which content type, and where and when it
// was seen: never a value, because not everybody who may read the catalogue may see the
// events. It is kept by namespace, bounded, and stored in the background; of the last
// seconds before a crash it is learnt again.
package catalog

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

// Origin is from where a type is known.
type Origin string

// The origins. A type that has several is of the first.
const (
	BuiltIn    Origin = "built-in"   // of the program
	Configured Origin = "configured" // by its name, or by a glob, which then is the name
	Learnt     Origin = "learnt"     // seen in what was published
)

// Origins are all of them.
var Origins = []Origin{BuiltIn, Configured, Learnt}

// Type is what is known about a type of events.
type Type struct {
	Name        string `json:"type"`
	Origin      Origin `json:"origin"`
	Description string `json:"description,omitempty"`
	// Since is the version of Tocsin that brought it, VaultSince that of Vault. Of built-in
	// types only.
	Since      string `json:"since,omitempty"`
	VaultSince string `json:"vault_since,omitempty"`
	// Metadata are its keys, by name; of others than learnt types possibly not all.
	Metadata []Key `json:"metadata"`
	// ContentTypes are those of its data, if it was seen with data.
	ContentTypes []string `json:"content_types,omitempty"`
	// Seen is what was seen of it, nil for nothing.
	Seen *Seen `json:"seen,omitempty"`
	// Schema is the one it is checked against, nil for none.
	Schema *Schema `json:"schema,omitempty"`
	// Example is a CloudEvent of the type, with made up values. Only of [Catalog.Lookup].
	Example json.RawMessage `json:"example,omitempty"`

	example *event.Event // of built-in types
}

// Key is a metadata key of a type.
type Key struct {
	Name    string `json:"key"`
	Meaning string `json:"meaning,omitempty"`
	// Kinds are those of its values: text, number, boolean, object, array, null.
	Kinds []string `json:"kinds,omitempty"`
}

// Seen is what was seen of a type in the namespaces about which was asked.
type Seen struct {
	Events uint64    `json:"events"`         // about
	First  time.Time `json:"first"`          // to the minute, as Last
	Last   time.Time `json:"last"`           //
	Source string    `json:"source"`         // of the first event
	In     []string  `json:"namespaces"`     // "" is root; at most 100
	Beyond uint64    `json:"more,omitempty"` // events with metadata keys that were not kept
	NoData bool      `json:"without_data"`   // there were events without data
}

// Schema is how a type is checked.
type Schema struct {
	Mode Mode `json:"mode"`
	// For is the type or glob of the configuration that brought it.
	For string `json:"for"`
	// Text is the schema itself. Only of [Catalog.Lookup].
	Text json.RawMessage `json:"schema,omitempty"`
}

// Config is what a Catalog is made of. State is required.
type Config struct {
	// State opens the bucket where it is kept; see [journal.Journal.State].
	State func(ctx context.Context, bucket string) (jetstream.KeyValue, error)
	// Declared are the types that the configuration describes. An exact name counts before
	// globs, and of globs the first that matches.
	Declared []Declared
	// Alerts returns the types of alerts that the rules of the moment may raise, and what they
	// mean; nil: there are none.
	Alerts func() map[string]string
	// Logger gets what operators should know; nil discards it.
	Logger *slog.Logger
}

// Catalog is safe for concurrent use.
type Catalog struct {
	exact map[string]*declaredType
	globs []*declaredType // in the order of the configuration
	rules func() map[string]string

	clock atomic.Int64 // Unix time in seconds, of the current minute
	stats counters

	mu     sync.RWMutex
	learnt map[place]*seen
	room   room

	store store
	log   *slog.Logger
	// warned keeps quiet about a storage that fails again and again.
	warned throttle.Throttle
	cancel context.CancelFunc
	done   chan struct{}
}

// Stats count since the start.
type Stats struct {
	Learnt   int    // types in memory, of each namespace
	Unlearnt uint64 // events whose type was not kept because there are too many
	Warned   uint64 // events that do not adhere to the schema of their type, and were let through
	Refused  uint64 // and were not
}

type counters struct{ unlearnt, warned, refused atomic.Uint64 }

// Stats returns them.
func (c *Catalog) Stats() Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return Stats{len(c.learnt), c.stats.unlearnt.Load(), c.stats.warned.Load(), c.stats.refused.Load()}
}

// Open compiles the schemas and reads what was learnt earlier. The error of a schema names
// its file and the place in it. [Catalog.Close] ends what runs in the background.
func Open(ctx context.Context, config Config) (*Catalog, error) {
	c := &Catalog{
		exact:  make(map[string]*declaredType),
		learnt: make(map[place]*seen),
		room:   room{groups: make(map[string]*budget)},
		rules:  config.Alerts,
		log:    config.Logger,
		done:   make(chan struct{}),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, one := range config.Declared {
		d, err := compile(one)
		if err != nil {
			return nil, err
		}
		c.declare(d)
	}
	c.tick(time.Now())
	if err := c.store.open(ctx, config.State); err != nil {
		return nil, err
	}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go c.keep(ctx)
	return c, nil
}

func (c *Catalog) declare(d *declaredType) {
	if strings.Contains(d.Type, "*") {
		c.globs = append(c.globs, d)
	} else if c.exact[d.Type] == nil {
		c.exact[d.Type] = d
	}
}

// tick sets the clock, which is coarse so that learning needs not ask for the time.
func (c *Catalog) tick(now time.Time) { c.clock.Store(now.Truncate(time.Minute).Unix()) }

// declaredFor returns what the configuration says about a type, nil for nothing.
func (c *Catalog) declaredFor(name string) *declaredType {
	if d := c.exact[name]; d != nil {
		return d
	}
	for _, d := range c.globs {
		if d.glob.Match(name) {
			return d
		}
	}
	return nil
}

// Query selects types.
type Query struct {
	// Glob is what the names have to match; nil: everything.
	Glob *event.Glob
	// Origin is empty for every origin.
	Origin Origin
	// Sees says of a namespace whether what was learnt there may be shown.
	Sees func(namespace string) bool
	// Hides says of a type whether it must not be shown; nil: none.
	Hides func(name string) bool
	// After is the name behind which the answer begins, and Limit how many it has at most.
	After string
	Limit int
}

// List returns types in the order of their names, without examples and texts of schemas,
// and whether there are more.
func (c *Catalog) List(q Query) (types []Type, more bool) {
	seen := c.seenBy(q.Sees, func(name string) bool { return q.Glob == nil || q.Glob.Match(name) })
	names := make(map[string]bool)
	add := func(name string) {
		if name > q.After && (q.Glob == nil || q.Glob.Match(name)) {
			names[name] = true
		}
	}
	for name := range knownTypes {
		add(name)
	}
	for name := range c.exact {
		add(name)
	}
	for _, d := range c.globs {
		add(d.Type)
	}
	for name := range seen {
		add(name)
	}
	for name := range c.alerts() {
		add(name)
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		t := c.describe(name, seen[name])
		if q.Origin != "" && t.Origin != q.Origin || q.Hides != nil && q.Hides(name) {
			continue
		}
		if len(types) == q.Limit {
			return types, true
		}
		types = append(types, t)
	}
	return types, false
}

// Lookup returns everything about one type, or about a glob of the configuration. What was
// learnt counts where sees allows it.
func (c *Catalog) Lookup(name string, sees func(namespace string) bool) (Type, bool) {
	seen := c.seenBy(sees, func(n string) bool { return n == name })[name]
	isGlob := slices.ContainsFunc(c.globs, func(d *declaredType) bool { return d.Type == name })
	_, isAlert := c.alerts()[name]
	if knownTypes[name] == nil && c.exact[name] == nil && seen == nil && !isGlob && !isAlert {
		return Type{}, false
	}
	t := c.describe(name, seen)
	if d := c.declaredFor(name); d != nil && d.schema != nil {
		t.Schema.Text = d.schema.text
	}
	t.Example = t.makeExample()
	return t, true
}

// describe puts together what is known about a name that exists. seen may be nil.
func (c *Catalog) describe(name string, seen *sight) Type {
	t := Type{Name: name, Origin: Learnt, Metadata: []Key{}}
	d := c.declaredFor(name)
	switch known := knownTypes[name]; {
	case known != nil:
		t = *known
		t.Metadata = slices.Clone(known.Metadata)
	case c.exact[name] != nil || d != nil && d.Type == name:
		t.Origin = Configured
	default:
		if about, ok := c.alerts()[name]; ok {
			t = alertType(name, about)
		}
	}
	if d != nil {
		d.describe(&t)
	}
	if seen != nil {
		seen.describe(&t)
	}
	slices.SortFunc(t.Metadata, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return t
}

// key returns the key of that name, which is added if it is not there.
func (t *Type) key(name string) *Key {
	i := slices.IndexFunc(t.Metadata, func(k Key) bool { return k.Name == name })
	if i < 0 {
		i = len(t.Metadata)
		t.Metadata = append(t.Metadata, Key{Name: name})
	}
	return &t.Metadata[i]
}

// makeExample returns an example as a CloudEvent.
func (t *Type) makeExample() json.RawMessage {
	return event.AppendCloudEvent(nil, t.sample(), "")
}

// sample returns an example, which has placeholders for values, except of built-in types.
func (t *Type) sample() *event.Event {
	e := t.example
	if e == nil {
		e = &event.Event{ID: exampleID, Type: t.Name, Source: "SOURCE", Time: exampleTime, Metadata: event.Fields{}}
		for _, key := range t.Metadata {
			switch text, kind := placeholders["text"], firstOf(key.Kinds, "text"); {
			case key.Name == event.MetadataPath:
				e.Path = "PATH"
				e.Metadata.Set(key.Name, e.Path)
			case kind == "text":
				e.Metadata.Set(key.Name, text)
			default:
				e.Metadata.SetJSON(key.Name, placeholders[kind])
			}
		}
		if len(t.ContentTypes) > 0 {
			e.DataContentType = t.ContentTypes[0]
			e.Data = []byte(`"DATA"`)
		}
	}
	return e
}

// Samples returns an example of each type that is known, in the order of their names. They
// must not be changed.
func (c *Catalog) Samples() []*event.Event {
	types, _ := c.List(Query{Sees: func(string) bool { return true }, Limit: math.MaxInt})
	var list []*event.Event
	for i := range types {
		if !strings.Contains(types[i].Name, "*") {
			list = append(list, types[i].sample())
		}
	}
	return list
}

// Describe says what a built-in type means, "" for any other.
func Describe(name string) string {
	if t := knownTypes[name]; t != nil {
		return t.Description
	}
	return ""
}

// BuiltInSamples returns an example of each built-in type, in the order of their names. They
// must not be changed.
func BuiltInSamples() []*event.Event {
	list := make([]*event.Event, 0, len(knownTypes))
	for _, name := range slices.Sorted(maps.Keys(knownTypes)) {
		list = append(list, knownTypes[name].sample())
	}
	return list
}

var placeholders = map[string]string{
	"text": "TEXT", "number": "0", "boolean": "true", "object": `{}`, "array": `[]`, "null": "null",
}

func firstOf(list []string, otherwise string) string {
	if len(list) == 0 {
		return otherwise
	}
	return list[0]
}
