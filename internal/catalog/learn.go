package catalog

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// Bounds of what is learnt. Whoever may publish can make up types, so each of those who can
// may use up only a part: types count for the namespace below root that they are in (with
// all below it), and there for the part of their name before the first slash, which is what
// rights to publish are given for.
const (
	maxLearnt        = 10_000
	maxPerNamespace  = 2_000
	maxPerProducer   = 250
	maxGroupBytes    = 4 << 20  // of the names of a namespace's types and of what they have
	maxLearntBytes   = 16 << 20 // of all
	maxShardBytes    = 2 << 20  // of a part of the storage, for whose value there is a limit
	maxKeys          = 64       // of a type
	maxKeyBytes      = 128
	maxContentTypes  = 4
	maxNameBytes     = 256
	maxSourceBytes   = 256
	maxPlaceBytes    = 512 // of a namespace
	forgetAfter      = 90 * 24 * time.Hour
	overheadPerType  = 256
	mostNamespacesIn = 100 // that an answer has
)

// kinds is a set of kinds of values.
type kinds uint8

const text kinds = 1 << 0

// kindNames are the names of kinds by their bit.
var kindNames = [...]string{"text", "number", "boolean", "object", "array", "null"}

func kindOf(f *event.Field) kinds {
	if !f.JSON || f.Value == "" {
		return text
	}
	switch f.Value[0] {
	case 't', 'f':
		return 1 << 2
	case '{':
		return 1 << 3
	case '[':
		return 1 << 4
	case 'n':
		return 1 << 5
	}
	return 1 << 1
}

func (k kinds) names() []string {
	var names []string
	for i, name := range kindNames {
		if k&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// place is a type in a namespace.
type place struct{ namespace, name string }

// group is the namespace for which a place counts: the first below root, with its slash.
func (p place) group() string {
	first, _, _ := strings.Cut(p.namespace, "/")
	return first
}

// producer is what stands before the first slash of the name.
func (p place) producer() string {
	first, _, _ := strings.Cut(p.name, "/")
	return first
}

// shard is the part of the storage in which a place is kept.
func (p place) shard() int {
	h := fnv.New32a()
	h.Write([]byte(p.namespace))
	h.Write([]byte{0})
	h.Write([]byte(p.name))
	return int(h.Sum32() % shards)
}

// budget is what a group has used.
type budget struct {
	types, bytes int
	producers    map[string]int
}

// room is what all have used.
type room struct {
	groups map[string]*budget
	shards [shards]int // bytes
	bytes  int
}

// has says whether there are that many bytes for a place.
func (r *room) has(p place, bytes int) bool {
	b := r.groups[p.group()]
	return r.bytes+bytes <= maxLearntBytes && r.shards[p.shard()]+bytes <= maxShardBytes && (b == nil || b.bytes+bytes <= maxGroupBytes)
}

// admits says whether there is room for a new place.
func (r *room) admits(p place, bytes int) bool {
	b := r.groups[p.group()]
	return r.has(p, bytes) && (b == nil || b.types < maxPerNamespace && b.producers[p.producer()] < maxPerProducer)
}

// take uses room for a place, or, with negative numbers, gives it back.
func (r *room) take(p place, types, bytes int) {
	b := r.groups[p.group()]
	if b == nil {
		b = &budget{producers: make(map[string]int)}
		r.groups[p.group()] = b
	}
	r.bytes += bytes
	r.shards[p.shard()] += bytes
	b.bytes += bytes
	b.types += types
	if b.producers[p.producer()] += types; b.producers[p.producer()] == 0 {
		delete(b.producers, p.producer())
	}
	if b.types == 0 {
		delete(r.groups, p.group())
	}
}

// seen is what was learnt about a place. What changes with every event is atomic; the rest
// is changed under Catalog.mu.
type seen struct {
	place
	source string // of the first event
	first  int64  // Unix seconds
	last   atomic.Int64
	events atomic.Uint64
	beyond atomic.Uint64
	shape  atomic.Pointer[shape]
	// stored is how many events the storage knows, as far as is known here.
	stored uint64
}

// shape is what the events of a type look like. It is not changed, but replaced.
type shape struct {
	keys         []shapeKey // by name
	contentTypes []string
	noData       bool
	full         bool // there is no room for more, for the moment
}

type shapeKey struct {
	name  string
	kinds kinds
}

// covers says whether an event has nothing that the shape has not, and whether it has keys
// beyond the bounds.
func (s *shape) covers(e *event.Event) (all, beyond bool) {
	j := 0
	for i := range e.Metadata { // both are sorted
		f := &e.Metadata[i]
		for j < len(s.keys) && s.keys[j].name != f.Key && s.keys[j].name < f.Key {
			j++
		}
		switch {
		case j < len(s.keys) && s.keys[j].name == f.Key:
			if s.keys[j].kinds&kindOf(f) == 0 {
				return false, false
			}
			j++
		case !s.full && len(s.keys) < maxKeys && mayKeep(f.Key, maxKeyBytes):
			return false, false
		default:
			beyond = true
		}
	}
	if e.Data == nil {
		return s.noData, beyond
	}
	return s.full || len(s.contentTypes) == maxContentTypes || slices.Contains(s.contentTypes, contentType(e)), beyond
}

// with returns the shape with what an event has.
func (s *shape) with(e *event.Event) *shape {
	n := &shape{keys: slices.Clone(s.keys), contentTypes: slices.Clone(s.contentTypes), noData: s.noData || e.Data == nil, full: s.full}
	for i := range e.Metadata {
		f := &e.Metadata[i]
		n.add(shapeKey{f.Key, kindOf(f)})
	}
	if e.Data != nil {
		n.addContentType(contentType(e))
	}
	return n
}

// add adds a key that may be kept, if there is room.
func (s *shape) add(k shapeKey) {
	i, ok := slices.BinarySearchFunc(s.keys, k.name, func(a shapeKey, name string) int { return strings.Compare(a.name, name) })
	switch {
	case ok:
		s.keys[i].kinds |= k.kinds
	case !s.full && len(s.keys) < maxKeys && mayKeep(k.name, maxKeyBytes):
		k.name = strings.Clone(k.name)
		s.keys = slices.Insert(s.keys, i, k)
	}
}

func (s *shape) addContentType(name string) {
	if !s.full && len(s.contentTypes) < maxContentTypes && !slices.Contains(s.contentTypes, name) {
		s.contentTypes = append(s.contentTypes, strings.Clone(name))
	}
}

func (s *shape) bytes() (n int) {
	for i := range s.keys {
		n += len(s.keys[i].name) + 32
	}
	for _, t := range s.contentTypes {
		n += len(t) + 16
	}
	return n
}

// contentType is that of an event's data, without parameters.
func contentType(e *event.Event) string {
	name, _, _ := strings.Cut(e.DataContentType, ";")
	name = strings.TrimRight(name, " \t")
	switch {
	case name == "":
		return "application/json"
	case len(name) > maxKeyBytes:
		return "other"
	}
	return name
}

// mayKeep says whether a name can be shown and stored as it is.
func mayKeep(name string, most int) bool {
	if len(name) > most {
		return false
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f {
			return false
		}
	}
	return true
}

// Learn takes notice of an event that was accepted. It costs about 100 ns when there is
// nothing new, and keeps nothing of the event.
func (c *Catalog) Learn(e *event.Event) {
	c.mu.RLock()
	s := c.learnt[place{e.Namespace, e.Type}]
	c.mu.RUnlock()
	if s == nil {
		if s = c.meet(e); s == nil {
			c.stats.unlearnt.Add(1)
			return
		}
	}
	s.events.Add(1)
	if now := c.clock.Load(); s.last.Load() < now {
		s.last.Store(now)
	}
	all, beyond := s.shape.Load().covers(e)
	if !all {
		c.extend(s, e)
		_, beyond = s.shape.Load().covers(e)
	}
	if beyond {
		s.beyond.Add(1)
	}
}

// meet makes the entry for the type of an event, nil if there is no room.
func (c *Catalog) meet(e *event.Event) *seen {
	p := place{e.Namespace, e.Type}
	now := c.clock.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.add(p, e.Source, now)
	if s == nil {
		return nil
	}
	c.store.touch(p.shard())
	return s
}

// add returns the entry of a place, new if need be, or nil if there is no room. c.mu is
// held.
func (c *Catalog) add(p place, source string, first int64) *seen {
	if s := c.learnt[p]; s != nil {
		return s
	}
	if !mayKeep(p.name, maxNameBytes) || !mayKeep(p.namespace, maxPlaceBytes) {
		return nil
	}
	if !mayKeep(source, maxSourceBytes) {
		source = ""
	}
	size := overheadPerType + len(p.name) + len(p.namespace) + len(source)
	if len(c.learnt) >= maxLearnt || !c.room.admits(p, size) {
		return nil
	}
	p = place{strings.Clone(p.namespace), strings.Clone(p.name)} // the rest of the request is not kept with it
	c.room.take(p, 1, size)
	s := &seen{place: p, source: strings.Clone(source), first: first}
	s.last.Store(first)
	s.shape.Store(new(shape))
	c.learnt[p] = s
	return s
}

// bytes is what the entry takes of the room.
func (s *seen) bytes() int {
	return overheadPerType + len(s.name) + len(s.namespace) + len(s.source) + s.shape.Load().bytes()
}

// extend adds what an event has to the shape of its type, if there is room.
func (c *Catalog) extend(s *seen, e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reshape(s, s.shape.Load().with(e)) {
		c.store.touch(s.shard())
	}
}

// reshape replaces a shape by a larger one. If there is no room for it, the shape is marked
// as full. c.mu is held.
func (c *Catalog) reshape(s *seen, larger *shape) bool {
	old := s.shape.Load()
	more := larger.bytes() - old.bytes()
	switch {
	case c.learnt[s.place] != s:
		return false // just forgotten
	case !c.room.has(s.place, more):
		marked := *old
		marked.full, marked.noData = true, larger.noData
		s.shape.Store(&marked)
		return false
	}
	c.room.take(s.place, 0, more)
	s.shape.Store(larger)
	return true
}

// forget removes what was not seen for long.
func (c *Catalog) forget(now time.Time) {
	oldest := now.Add(-forgetAfter).Unix()
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, s := range c.learnt {
		if of := s.shape.Load(); of.full { // perhaps there is room again
			open := *of
			open.full = false
			s.shape.Store(&open)
		}
		if s.last.Load() < oldest {
			delete(c.learnt, p)
			c.room.take(p, -1, -s.bytes())
			c.store.touch(p.shard())
		}
	}
}

// sight is what was seen of a type in several namespaces.
type sight struct {
	Seen
	shape shape
}

// seenBy returns what was seen in the namespaces that may be shown, by name.
func (c *Catalog) seenBy(sees func(namespace string) bool, wanted func(name string) bool) map[string]*sight {
	type entry struct {
		*seen
		first  int64 // as it is now
		source string
	}
	may := make(map[string]bool)
	all := make(map[string]*sight)
	var entries []entry
	c.mu.RLock()
	for p, s := range c.learnt {
		if wanted(p.name) {
			entries = append(entries, entry{s, s.first, s.source})
		}
	}
	c.mu.RUnlock()
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.first, b.first), strings.Compare(a.namespace, b.namespace))
	})
	for _, s := range entries {
		allowed, asked := may[s.namespace]
		if !asked {
			allowed = sees(s.namespace)
			may[s.namespace] = allowed
		}
		if allowed {
			if all[s.name] == nil {
				all[s.name] = &sight{Seen: Seen{First: time.Unix(s.first, 0).UTC(), Source: s.source}}
			}
			all[s.name].add(s.seen)
		}
	}
	return all
}

func (t *sight) add(s *seen) {
	t.Events += s.events.Load()
	t.Beyond += s.beyond.Load()
	if last := time.Unix(s.last.Load(), 0).UTC(); last.After(t.Last) {
		t.Last = last
	}
	if len(t.In) < mostNamespacesIn {
		t.In = append(t.In, s.namespace)
	}
	of := s.shape.Load()
	t.NoData = t.NoData || of.noData
	for _, k := range of.keys {
		t.shape.add(k)
	}
	for _, name := range of.contentTypes {
		t.shape.addContentType(name)
	}
}

// describe adds what was seen to what is known otherwise.
func (t *sight) describe(to *Type) {
	to.Seen = &t.Seen
	slices.Sort(t.In)
	for _, k := range t.shape.keys {
		key := to.key(k.name)
		for _, name := range k.kinds.names() {
			if !slices.Contains(key.Kinds, name) {
				key.Kinds = append(key.Kinds[:len(key.Kinds):len(key.Kinds)], name)
			}
		}
	}
	for _, name := range t.shape.contentTypes {
		if !slices.Contains(to.ContentTypes, name) {
			to.ContentTypes = append(to.ContentTypes[:len(to.ContentTypes):len(to.ContentTypes)], name)
		}
	}
}
