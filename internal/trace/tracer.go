package trace

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/list"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// Types of events and keys of their metadata and extensions, as packages vaultaudit and
// derivation write them.
const (
	typeRequest  = "audit/request"
	typeResponse = "audit/response"

	metadataMountPoint  = "mount_point"
	metadataMountType   = "mount_type"
	metadataRequestID   = "request_id"
	metadataRequestPath = "request_path"
	metadataImported    = "imported"

	extTraceparent = "traceparent"
	extRequestID   = "requestid"
)

// Tracer makes spans of the audit entries of any number of sources. It pairs the two
// entries of a request by source and request id, in either order, as long as the second
// one comes within the window. It is not safe for concurrent use.
//
// A Tracer that goes on from a Progress gives out the spans that come behind it, each once,
// as if there had been no restart. There are three exceptions, in which a span may come a
// second time, or a request once as incomplete and once whole; the ids tell. One is a change
// of Window or MaxBytes. Another is [Tracer.Expire], when its clock goes otherwise than that
// of the journal. The third is an entry that repeats one from before the restart.
type Tracer struct {
	o       Options
	seed    maphash.Seed
	parser  auditlog.Parser
	given   *auditlog.Entry // by AddEntry, and the event made of it
	event   event.Event
	fields  event.Fields
	flat    *flattener
	names   *namer
	packer  *packer
	sources map[string]string // texts that do not hold on to a batch

	open      map[requestKey]*openRequest
	live      list.List[openRequest] // whose spans are still to be given out, in the order in which they were opened
	repeated  list.List[openRequest] // all before them, whose spans were given out before a restart
	alone     int                    // responses in live
	recent    recent
	fresh     []*openRequest // opened since the last Flush
	last      position.Position
	recorded  time.Time     // of the last event
	clock     time.Duration // time of the stream, which never goes back
	mixed     position.Position
	marks     []mark
	spans     []Span // slab
	slabs     int    // how many batches the slabs have seen
	current   current
	stats     Stats
	source    string // of the last event, and its hash
	sourceSum uint64
}

// mark is a place in the journal, and the time of the stream there.
type mark struct {
	clock time.Duration
	at    position.Position
}

// current is the request of the last audit entry, which the derived events that follow
// belong to.
type current struct {
	span      *Span
	open      *openRequest
	spanID    SpanID
	requestID string
	source    string
	ids       []string // of derived events
}

// maxDerived bounds how many events derived from one request are noted.
const maxDerived = 16

// NewTracer returns a Tracer. It fails when an option cannot be understood.
func NewTracer(o Options) (*Tracer, error) {
	if o.Window <= 0 {
		o.Window = DefaultWindow
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxNames <= 0 {
		o.MaxNames = DefaultMaxNames
	}
	a := &o.Attributes
	if a.MaxText <= 0 {
		a.MaxText = DefaultMaxText
	}
	if a.MaxElements <= 0 {
		a.MaxElements = DefaultMaxElements
	}
	if a.MaxAttributes <= 0 {
		a.MaxAttributes = DefaultMaxAttributes
	}
	for _, glob := range slices.Concat(a.Allow, a.Deny) {
		if err := checkGlob(glob); err != nil {
			return nil, err
		}
	}
	for _, r := range o.Redactions {
		if err := checkGlob(r.Key); err != nil {
			return nil, err
		}
		if r.Pattern == nil {
			return nil, fmt.Errorf("redaction of %q has no pattern", r.Key)
		}
	}
	names, err := newNamer(o.Names, o.MaxNames)
	if err != nil {
		return nil, err
	}
	// The first mark stands for all that is not read.
	marks := []mark{{0, o.Resume.Back}}
	if !o.Resume.Waiting {
		marks = append(marks, mark{0, o.Resume.Read})
	}
	return &Tracer{
		o:       o,
		seed:    maphash.MakeSeed(),
		flat:    newFlattener(o.Attributes, o.Redactions),
		names:   names,
		packer:  newPacker(),
		sources: make(map[string]string),
		open:    make(map[requestKey]*openRequest),
		last:    o.Resume.Read,
		marks:   marks,
	}, nil
}

// Add takes the next event of the journal and appends the spans that are complete to dst.
// Events that are no audit entries are asked only whether they were derived from the
// request before them. A position of zero is for events that do not come from a journal.
func (t *Tracer) Add(dst []*Span, e *event.Event, at position.Position) []*Span {
	t.tick(e)
	t.last = at
	if !IsEntry(e) {
		t.derived(e)
		if t.overdue() {
			dst = t.expire(t.finish(dst), t.clock, at)
		}
		return dst
	}
	dst = t.finish(dst)
	dst = t.evict(t.expire(dst, t.clock, at), at)
	return t.entry(dst, e, at)
}

// AddEntry is [Tracer.Add] for those who have parsed an entry themselves and have no journal:
// it is not parsed again. Its line must not be written again. The spans have no ids of
// events.
func (t *Tracer) AddEntry(dst []*Span, source string, e *auditlog.Entry) []*Span {
	t.given = e
	t.event = event.Event{Type: typeRequest, Source: source, Time: e.Time, Data: e.Line()}
	if e.IsResponse {
		t.event.Type = typeResponse
	}
	t.fields = t.fields[:0]
	for _, f := range [...]event.Field{
		{Key: event.MetadataOperation, Value: e.Request.Operation}, {Key: metadataRequestID, Value: e.Request.ID}, {Key: metadataRequestPath, Value: e.Request.Path},
	} { // in the order of the keys
		if f.Value != "" {
			t.fields = append(t.fields, f)
		}
	}
	t.event.Metadata = t.fields
	dst = t.Add(dst, &t.event, position.Position{})
	t.given = nil
	return dst
}

// parseData parses an entry, unless it is the one that was given as such.
func (t *Tracer) parseData(data []byte) (*auditlog.Entry, error) {
	if e := t.given; e != nil && len(data) == len(e.Line()) && unsafe.SliceData(data) == unsafe.SliceData(e.Line()) {
		return e, nil
	}
	return t.parser.Parse(data)
}

// IsEntry reports whether an event is an audit entry, of which spans are made.
func IsEntry(e *event.Event) bool { return e.Type == typeRequest || e.Type == typeResponse }

// Settle appends the span of the last request. It may be called in the middle of a batch, if
// the next event is an audit entry, and then [Tracer.Progress] may, too.
func (t *Tracer) Settle(dst []*Span) []*Span { return t.finish(dst) }

// Flush must be called behind the last event of each batch of the journal. It appends the
// span of the last request, which waits for the events derived from it, and lets go of the
// batch's memory.
func (t *Tracer) Flush(dst []*Span) []*Span {
	dst = t.finish(dst)
	for i, o := range t.fresh {
		if o.listed && o.raw != nil {
			o.packed, o.raw = t.packer.pack(o.raw), nil
			t.charge(o, int64(cap(o.packed)))
		}
		t.fresh[i] = nil
	}
	t.fresh = t.fresh[:0]
	if t.slabs++; t.slabs == slabBatches {
		t.slabs = 0
		t.spans = nil
		t.flat.newSlabs()
	}
	dst = t.evict(dst, t.last)
	if t.clock-t.marks[len(t.marks)-1].clock >= t.o.Window/16 {
		t.marks = append(t.marks, mark{t.clock, t.last})
	}
	oldest := t.clock
	if o := t.live.First(); o != nil {
		oldest = o.clock
	}
	for len(t.marks) > 1 && t.marks[1].clock <= oldest-t.o.Window {
		t.marks = t.marks[1:]
	}
	return dst
}

// Expire closes the requests that have waited for too long, the oldest first. It is for
// the time in which no events come: it must be called between batches only, and only when
// all that the journal has was read.
func (t *Tracer) Expire(dst []*Span, now time.Time) []*Span {
	idle := max(0, now.Sub(t.recorded))
	if t.recorded.IsZero() {
		idle = 0
	}
	return t.expire(dst, t.clock+min(idle, 2*t.o.Window), t.behind())
}

// Close closes all requests that are open, as at the end of a file.
func (t *Tracer) Close(dst []*Span) []*Span {
	dst = t.Flush(dst)
	return t.expire(dst, t.clock+2*t.o.Window, t.behind())
}

// behind is a position behind the last event and before the next.
func (t *Tracer) behind() position.Position {
	if t.last.IsZero() {
		return t.last
	}
	return position.Position{Seq: t.last.Seq, Index: position.BetweenRecords, Ordinal: t.last.Ordinal}
}

// Progress returns how far the Tracer has come. It may be called between batches, and behind
// [Tracer.Settle]. It
// belongs to all spans that were given out so far: once these are delivered, it may be
// stored and a restart go on from it.
func (t *Tracer) Progress() Progress {
	was := t.o.Resume
	if t.last.Compare(was.Closed) < 0 {
		return was // it is still reading what it has read before
	}
	p := Progress{Open: t.last, Closed: t.last}
	if o := t.live.First(); o != nil {
		p.Open = before(o.opened)
	}
	p.Read, p.Back = p.Open, t.marks[0].at
	if t.alone > 0 || p.Open.Compare(t.mixed) < 0 {
		p.Waiting = true
		p.Read = p.Back
	}
	return p
}

// before is the position directly in front of an event.
func before(p position.Position) position.Position {
	switch {
	case p.Ordinal == 0:
		return position.Position{}
	case p.Index == 0:
		return position.Position{Seq: p.Seq - 1, Index: position.BetweenRecords, Ordinal: p.Ordinal - 1}
	}
	return position.Position{Seq: p.Seq, Index: p.Index - 1, Ordinal: p.Ordinal - 1}
}

// Stats returns the counters.
func (t *Tracer) Stats() Stats {
	s := t.stats
	s.Open = len(t.open)
	return s
}

// tick moves the time of the stream. It goes by the times at which events were recorded,
// of which only differences count, so that a clock that is set back stops nothing. Events
// that were not recorded have only the time of their entry, which is not in order.
func (t *Tracer) tick(e *event.Event) {
	now := e.Recorded
	if now.IsZero() {
		if now = e.Time; !now.After(t.recorded) {
			return
		}
	}
	if !t.recorded.IsZero() {
		t.clock += min(max(0, now.Sub(t.recorded)), 2*t.o.Window)
	}
	t.recorded = now
}

// entry takes an audit entry.
func (t *Tracer) entry(dst []*Span, e *event.Event, at position.Position) []*Span {
	response := e.Type == typeResponse
	id, hasID := e.Metadata.Text(metadataRequestID)
	data := t.data(e)
	if !hasID && data != nil {
		// There is none, or it is too long for metadata.
		if entry, err := t.parseData(data); err == nil {
			id = entry.Request.ID
		}
	}
	if id == "" {
		return t.lone(dst, e, data, at, requestKey{})
	}
	key, unique := t.key(e.Source, id)
	saw := uint8(sawRequest)
	if response {
		saw = sawResponse
	}
	o := t.open[key]
	if o != nil && o.response == response && !unique && !o.at.Equal(e.Time) {
		dst = t.giveUp(dst, o, at) // another request has the same id
		o = nil
	}
	if t.recent.get(entryKey(key, unique, e.Time))&saw != 0 || o != nil && o.response == response {
		t.duplicate(at)
		return dst
	}
	if o != nil {
		if !o.repeated || at.Compare(t.o.Resume.Closed) <= 0 {
			return t.pair(dst, o, e, data, at)
		}
		// Its span was given out before the restart, and had only one entry.
		t.drop(o)
	}
	switch {
	case !response && t.isSingle(e, data):
		return t.lone(dst, e, data, at, entryKey(key, unique, e.Time))
	case response && !t.o.Resume.Waiting && at.Compare(t.o.Resume.Closed) <= 0 && !at.IsZero():
		// The request stands before what is read again.
		t.stats.Repeated++
		t.recent.add(entryKey(key, unique, e.Time), saw, t.clock, t.o.Window)
		return dst
	}
	t.wait(key, unique, e, data, id, at)
	return dst
}

// duplicate passes over an entry that was there before.
func (t *Tracer) duplicate(at position.Position) {
	t.stats.Duplicates++
	t.mixed = at
	t.current = current{ids: t.current.ids[:0]}
}

// data returns the entry of an event, nil when it cannot be had.
func (t *Tracer) data(e *event.Event) []byte {
	data := e.Data
	if data == nil && e.DataRef != "" && t.o.Fetch != nil {
		data, _ = t.o.Fetch(e)
	}
	if data == nil {
		t.stats.Unreadable++
	}
	return data
}

// key returns what the request is known by, and whether no other request is.
func (t *Tracer) key(source, id string) (k requestKey, unique bool) {
	if source != t.source || t.source == "" {
		t.source, t.sourceSum = t.intern(source), maphash.String(t.seed, source)
	}
	k.source = t.sourceSum
	if k.id, unique = auditlog.ParseUUID(id); !unique {
		sum := sha256.Sum256([]byte(id))
		k.id = [16]byte(sum[:16])
		k.source ^= 1 // not that of a UUID
	}
	return k, unique
}

// entryKey is what an entry is recognised by when it comes again. Where the request id is
// not unique, its time is needed too.
func entryKey(k requestKey, unique bool, at time.Time) requestKey {
	if !unique {
		k.source ^= uint64(at.Unix())<<32 | uint64(at.Nanosecond())
	}
	return k
}

// maxSources bounds how many texts are kept once for all.
const maxSources = 1000

// intern returns a text that does not share the memory of a batch.
func (t *Tracer) intern(s string) string {
	if kept, ok := t.sources[s]; ok {
		return kept
	}
	if len(t.sources) >= maxSources {
		clear(t.sources)
	}
	s = strings.Clone(s)
	t.sources[s] = s
	return s
}

// isSingle is true for the requests that get no response entry, ever.
func (t *Tracer) isSingle(e *event.Event, data []byte) bool {
	path, _ := e.Metadata.Text(metadataRequestPath)
	operation, _ := e.Metadata.Text(event.MetadataOperation)
	if path == "sys/audit/test" || path == "sys/seal" || path == "sys/step-down" {
		if operation != "update" {
			return false
		}
	} else if !bytes.Contains(data, []byte(`"error"`)) {
		return false
	}
	entry, err := t.parseData(data)
	if err != nil {
		return false
	}
	switch path {
	case "sys/audit/test": // the probe of a new device, which nobody has asked for
		return entry.Request.ClientToken == "" && entry.Auth.ClientToken == ""
	case "sys/seal", "sys/step-down":
		return entry.Error == ""
	}
	return entry.OverQuota() ||
		strings.HasPrefix(path, "sys/wrapping/") && strings.Contains(entry.Error, "wrapping token")
}

// wait opens a request.
func (t *Tracer) wait(key requestKey, unique bool, e *event.Event, data []byte, id string, at position.Position) {
	o := &openRequest{
		key: key, unique: unique, opened: at, clock: t.clock, at: e.Time, source: t.intern(e.Source), auditID: strings.Clone(e.ID),
		response: e.Type == typeResponse, imported: isImported(e), listed: true, raw: data,
	}
	if data == nil || e.Data == nil {
		o.raw = nil
		o.event = outline(e)
		t.charge(o, int64(o.event.Size()))
	}
	resume := t.o.Resume
	if o.repeated = !resume.Closed.IsZero() && at.Compare(resume.Open) <= 0; o.repeated {
		t.repeated.PushBack(o, &o.place)
	} else {
		t.live.PushBack(o, &o.place)
		if o.response {
			t.alone++
		}
	}
	t.open[key] = o
	t.charge(o, openMemory)
	t.fresh = append(t.fresh, o)
	t.current = current{open: o, requestID: id, source: o.source, ids: t.current.ids[:0]}
	if o.response {
		t.current.spanID = t.context(e, data).SpanID
	}
}

// isImported is true for an entry of an old log.
func isImported(e *event.Event) bool {
	_, imported := e.Metadata.Text(metadataImported)
	return imported
}

// outline is a copy of an event of which the data is not at hand.
func outline(e *event.Event) *event.Event {
	c := &event.Event{
		ID: strings.Clone(e.ID), Type: strings.Clone(e.Type), Source: strings.Clone(e.Source), Namespace: strings.Clone(e.Namespace),
		Path: strings.Clone(e.Path), Time: e.Time, Recorded: e.Recorded, DataRef: strings.Clone(e.DataRef), DataContentType: strings.Clone(e.DataContentType),
	}
	for f := range e.Metadata.All() {
		c.Metadata = append(c.Metadata, event.Field{Key: strings.Clone(f.Key), Value: strings.Clone(f.Value), JSON: f.JSON})
	}
	return c
}

func (t *Tracer) charge(o *openRequest, n int64) {
	o.memory += n
	t.stats.OpenBytes += n
}

// drop takes a request out of those that are open.
func (t *Tracer) drop(o *openRequest) {
	delete(t.open, o.key)
	o.listed = false
	t.stats.OpenBytes -= o.memory
	if o.repeated {
		t.repeated.Remove(&o.place)
		return
	}
	t.live.Remove(&o.place)
	if o.response {
		t.alone--
	}
}

// derived notes an event that was derived from the current request.
func (t *Tracer) derived(e *event.Event) {
	c := &t.current
	if c.span == nil && c.open == nil || e.Source != c.source || len(c.ids) == maxDerived {
		return
	}
	if text, ok := e.Extensions.Text(extTraceparent); ok {
		if p, ok := tracecontext.ParseTraceparent(text); !ok || p.Parent != c.spanID {
			return
		}
	} else if id, ok := e.Extensions.Text(extRequestID); !ok || id == "" || id != c.requestID {
		return
	}
	c.ids = append(c.ids, e.ID)
}

// finish closes the book on the current request.
func (t *Tracer) finish(dst []*Span) []*Span {
	c := &t.current
	switch {
	case c.span != nil:
		t.seal(c.span, c.ids)
		dst = append(dst, c.span)
	case c.open != nil && c.open.listed:
		for _, id := range c.ids {
			c.open.derived = append(c.open.derived, strings.Clone(id))
			t.charge(c.open, int64(len(id))+16)
		}
	}
	*c = current{ids: c.ids[:0]}
	return dst
}

// overdue says that a request has waited for too long.
func (t *Tracer) overdue() bool {
	for _, l := range [...]*list.List[openRequest]{&t.repeated, &t.live} {
		if o := l.First(); o != nil && t.clock-o.clock >= t.o.Window {
			return true
		}
	}
	return false
}

// expire closes the requests that were opened a window before now, or earlier.
func (t *Tracer) expire(dst []*Span, now time.Duration, at position.Position) []*Span {
	for _, l := range [...]*list.List[openRequest]{&t.repeated, &t.live} {
		for o := l.First(); o != nil && now-o.clock >= t.o.Window; o = l.First() {
			dst = t.giveUp(dst, o, at)
		}
	}
	return dst
}

// evict closes requests, the oldest first, until there is enough memory.
func (t *Tracer) evict(dst []*Span, at position.Position) []*Span {
	for t.stats.OpenBytes > t.o.MaxBytes {
		o := t.repeated.First()
		if o == nil {
			o = t.live.First()
		}
		if !o.repeated {
			t.stats.Evicted++
		}
		dst = t.giveUp(dst, o, at)
	}
	return dst
}
