package trace

import (
	"encoding/hex"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// This file makes the spans of requests that are closed.

// pair closes a request with its second entry.
func (t *Tracer) pair(dst []*Span, o *openRequest, e *event.Event, data []byte, at position.Position) []*Span {
	t.drop(o)
	if o.unique {
		t.recent.add(o.key, sawRequest|sawResponse, t.clock, t.o.Window)
	} else {
		saw := [2]uint8{sawRequest, sawResponse}
		if o.response {
			saw[0], saw[1] = saw[1], saw[0]
		}
		t.recent.add(entryKey(o.key, false, o.at), saw[0], t.clock, t.o.Window)
		t.recent.add(entryKey(o.key, false, e.Time), saw[1], t.clock, t.o.Window)
	}
	if o.response {
		t.mixed = at
	}
	if t.o.Resume.has(o.opened, at) {
		t.stats.Repeated++
		t.current = current{ids: t.current.ids[:0]}
		return dst
	}
	s := t.newSpan()
	s.Kind, s.Source, s.Opened, s.Closed = Complete, o.source, o.opened, at
	s.Imported = o.imported && isImported(e)
	var entry *auditlog.Entry
	if o.response {
		s.Start, s.End = e.Time, o.at
		entry = t.openEntry(o)
	} else {
		s.Start, s.End = o.at, e.Time
		entry = t.parse(e, data)
	}
	if s.End.Before(s.Start) {
		s.End = s.Start
	}
	ids := [2]string{o.auditID, e.ID}
	if o.response {
		ids = [2]string{e.ID, o.auditID}
	}
	t.fill(s, entry, ids[:])
	t.current = current{span: s, spanID: s.SpanID, requestID: entry.Request.ID, source: s.Source, ids: append(t.current.ids[:0], o.derived...)}
	t.count(s)
	return dst
}

// lone closes a request that has one entry only, or none that could be found.
func (t *Tracer) lone(dst []*Span, e *event.Event, data []byte, at position.Position, key requestKey) []*Span {
	saw := uint8(sawRequest)
	s := Span{Kind: RequestOnly, Expected: true, Source: t.intern(e.Source), Start: e.Time, End: e.Time, Opened: at, Closed: at, Imported: isImported(e)}
	if e.Type == typeResponse {
		saw, s.Kind = sawResponse, ResponseOnly
	}
	if key != (requestKey{}) {
		t.recent.add(key, saw, t.clock, t.o.Window)
	}
	if t.o.Resume.has(at, at) {
		t.stats.Repeated++
		t.current = current{ids: t.current.ids[:0]}
		return dst
	}
	to := t.newSpan()
	*to = s
	entry := t.parse(e, data)
	t.fill(to, entry, []string{e.ID})
	t.current = current{span: to, spanID: to.SpanID, requestID: entry.Request.ID, source: to.Source, ids: t.current.ids[:0]}
	t.count(to)
	return dst
}

// giveUp closes a request whose second entry did not come.
func (t *Tracer) giveUp(dst []*Span, o *openRequest, at position.Position) []*Span {
	t.drop(o)
	s := Span{Kind: RequestOnly, Source: o.source, Start: o.at, End: o.at, Opened: o.opened, Closed: at, Imported: o.imported}
	saw := uint8(sawRequest)
	if o.response {
		saw, s.Kind = sawResponse, ResponseOnly
	}
	t.recent.add(entryKey(o.key, o.unique, o.at), saw, t.clock, t.o.Window)
	if o.repeated || t.o.Resume.has(s.Opened, s.Closed) {
		t.stats.Repeated++
		return dst
	}
	to := t.newSpan()
	*to = s
	t.fill(to, t.openEntry(o), []string{o.auditID})
	t.seal(to, o.derived)
	t.count(to)
	return append(dst, to)
}

func (t *Tracer) count(s *Span) {
	switch {
	case s.Kind == Complete:
		t.stats.Complete++
	case s.Expected:
		t.stats.Expected++
	case s.Kind == RequestOnly:
		t.stats.RequestOnly++
	default:
		t.stats.ResponseOnly++
	}
	if s.Failed {
		t.stats.Failed++
	}
}

// slabSpans is how many spans are allocated at once.
const slabSpans = 32

// slabBatches is after how many batches new slabs are begun: the slabs in use keep the entries
// of all spans in them in memory, and so the batches.
const slabBatches = 8

func (t *Tracer) newSpan() *Span {
	if len(t.spans) == 0 {
		t.spans = make([]Span, slabSpans)
	}
	s := &t.spans[0]
	t.spans = t.spans[1:]
	return s
}

// openEntry returns the entry of an open request.
func (t *Tracer) openEntry(o *openRequest) *auditlog.Entry {
	switch {
	case o.event != nil:
		return t.parse(o.event, t.data(o.event))
	case o.raw != nil:
		return t.parse(o.remains(), o.raw)
	}
	data, err := t.packer.unpack(o.packed)
	if err != nil {
		data = nil
	}
	return t.parse(o.remains(), data)
}

// remains is what is known of the event of an open request without its data.
func (o *openRequest) remains() *event.Event {
	e := &event.Event{Type: typeRequest, Time: o.at}
	if o.response {
		e.Type = typeResponse
	}
	id := hex.EncodeToString(o.key.id[:])
	if o.unique {
		id = uuid.UUID(o.key.id).String()
	}
	e.Metadata.Set(metadataRequestID, id)
	return e
}

// parse reads an entry. Where that is not possible, the entry has what the event tells.
func (t *Tracer) parse(e *event.Event, data []byte) *auditlog.Entry {
	if data != nil {
		entry, err := t.parseData(data)
		if err == nil {
			return entry
		}
		t.stats.Unreadable++
	}
	entry := new(auditlog.Entry)
	entry.IsResponse = e.Type == typeResponse
	entry.TimeText = e.Time.Format(time.RFC3339Nano)
	r := &entry.Request
	r.ID, _ = e.Metadata.Text(metadataRequestID)
	r.Operation, _ = e.Metadata.Text(event.MetadataOperation)
	r.Path, _ = e.Metadata.Text(metadataRequestPath)
	r.MountPoint, _ = e.Metadata.Text(metadataMountPoint)
	r.MountType, _ = e.Metadata.Text(metadataMountType)
	r.NamespacePath = e.Namespace
	return entry
}

// context returns the trace context of the request of an event.
func (t *Tracer) context(e *event.Event, data []byte) tracecontext.Context {
	return tracecontext.FromEntry(e.Source, t.parse(e, data))
}

// fill completes a span from its entry. Attributes can be added until seal is called.
func (t *Tracer) fill(s *Span, e *auditlog.Entry, auditIDs []string) {
	c := tracecontext.FromEntry(s.Source, e)
	s.large = len(e.Line()) >= largeLine
	s.valid = len(e.Line()) > 0 && areUTF8(auditIDs) // the parser takes nothing else
	s.TraceID, s.SpanID, s.Parent, s.Flags, s.TraceState = c.TraceID, c.SpanID, c.Parent, c.Flags, c.State
	target := targetOf(e)
	s.Name = t.names.name(target)
	s.Request = requestOf(e, target.mount)
	if s.Failed = e.Outcome().Failed(); s.Failed {
		s.Message = t.message(e)
	}
	code, kind := status(e)
	s.Status, s.ErrorType = int(code), kind
	if t.o.Bare {
		return
	}
	f := t.flat
	f.begin()
	f.conventions(e)
	if auditIDs[0] != "" {
		f.putTexts(attrAuditIDs, auditIDs)
	}
	if s.Incomplete() {
		f.putText(attrIncomplete, s.Kind.String())
	}
	if s.Imported {
		f.put(attrImported, BoolValue(true))
	}
	if len(e.Line()) > 0 {
		f.entry(e)
	} else {
		f.putText("request.id", e.Request.ID)
		f.putText("request.operation", e.Request.Operation)
		f.putText("request.path", e.Request.Path)
		f.putText("request.mount_point", e.Request.MountPoint)
		f.putText("request.mount_type", e.Request.MountType)
		f.putText("request.namespace.path", e.Request.NamespacePath)
	}
}

func areUTF8(texts []string) bool {
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return false
		}
	}
	return true
}

// requestOf returns what an entry says about its request.
func requestOf(e *auditlog.Entry, mount string) Request {
	caller := callerOf(e)
	r := Request{
		ID: e.Request.ID, Operation: e.Request.Operation, Path: e.Request.Path, Namespace: e.Request.NamespacePath,
		MountPoint: mount, MountType: e.MountType(),
		DisplayName: caller.DisplayName, EntityID: caller.EntityID, RemoteAddress: e.Request.RemoteAddress,
	}
	for policy := range e.Auth.Policies.Elements() {
		if policy.Raw() == `"root"` {
			r.Root = true
		}
	}
	return r
}

// message is why a request failed, as far as the entry tells in clear.
func (t *Tracer) message(e *auditlog.Entry) string {
	if e.Error != "" {
		return t.flat.message(e.Error)
	}
	if code, _ := status(e); code >= 400 && e.Outcome() == auditlog.FailedStatus {
		return "HTTP status " + e.Response.Data.Get("http_status_code").Raw()
	}
	return ""
}

// seal ends the attributes of a span, the last of which are the events derived from it.
func (t *Tracer) seal(s *Span, derived []string) {
	if !t.o.Bare {
		s.valid = s.valid && areUTF8(derived)
		t.flat.putTexts(attrEventIDs, derived)
		s.Attributes, s.Dropped = t.flat.end()
	}
	if s.large {
		s.letGo()
	}
}
