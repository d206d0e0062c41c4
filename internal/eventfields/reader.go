package eventfields

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unsafe"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// EnvHostname is the variable of the environment that says what evt.hostname is.
const EnvHostname = "FALCO_HOSTNAME"

// Options configure a [Reader]. The zero value is for events whose payload is in them, without
// plugins.
type Options struct {
	// Location is the time zone of evt.time, evt.datetime, event.time.hour and the like; nil:
	// that of the machine.
	Location *time.Location
	// Hostname is evt.hostname; empty: what the environment says ([EnvHostname]), or else the
	// name of the machine.
	Hostname string
	// Payload returns a payload that is kept outside of its event, as for [fields.Options]. Nil:
	// fields of such payloads have no value.
	Payload func(ctx context.Context, ref string) ([]byte, error)
	// Plugins has the fields of plugins extracted. It may be nil if no request is for one.
	Plugins *fields.Registry
	// Summary returns what the plugin of an event says of it (evt.plugininfo). Nil: Plugins are
	// asked. Without ok it is a shortened payload.
	Summary func(ctx context.Context, e *event.Event) (text string, ok bool)
}

// Reader has the values of fields of events of one event source. It is a [field.Row] for one
// event at a time, and belongs to one goroutine.
//
// Texts share the memory of the events, which nobody may change, and of the Reader.
type Reader struct {
	o       Options
	source  string
	queries []query
	asked   []int // queries that have values of events of the record
	use     *fields.Use

	ctx     context.Context
	rec     fields.Record
	view    *fields.View
	e       *event.Event
	turn    uint64 // of the event
	missing *fields.Missing

	number uint64 // of the event, from 1 on
	first  int64  // when the first one was, in nanoseconds since 1970
	nanos  int64  // when the event was
	clock  clock

	payload struct {
		turn uint64 // of the event whose payload this is
		data string
		json uint64 // turn in which it was found to be JSON
		read uint64 // turn in which it was read by the picker

		fetched bool // one that is kept outside of its event, of the record
	}
	pick  picker
	audit auditNodes
	pairs *pairs // nil: nobody wants to know
	alone single
}

// Bounds of what a query keeps for other records.
const (
	maxKeptBytes    = 64 << 10
	maxKeptElements = 1 << 10
)

// query is a request, and its values for the event.
type query struct {
	field      *field.Field
	arg        string
	argPresent bool
	get        func(r *Reader, q *query) []field.Element

	node  int // in the picker
	of    int // in the use of plugins
	turn  uint64
	asked bool
	value []field.Element

	one  [1]field.Element
	list []field.Element
	buf  []byte
}

// NewReader returns a Reader for the events of an event source: [Reader.Values] gives values for
// these requests, by their numbers. [Reader.Close] ends it.
func NewReader(source string, requests []field.Request, o Options) (*Reader, error) {
	if o.Location == nil {
		o.Location = time.Local
	}
	if o.Hostname == "" {
		if o.Hostname = os.Getenv(EnvHostname); o.Hostname == "" {
			o.Hostname, _ = os.Hostname()
		}
	}
	if o.Summary == nil && o.Plugins != nil {
		o.Summary = o.Plugins.Summary
	}
	r := &Reader{o: o, source: source, queries: make([]query, len(requests)), pick: *newPicker()}
	known := make(map[string]*definition)
	list := definitions(source)
	for i := range list {
		known[list[i].Name] = &list[i]
	}
	var names []string
	for i := range requests {
		q := &r.queries[i]
		q.field, q.arg, q.argPresent = requests[i].Field, requests[i].Arg, requests[i].ArgPresent
		if q.field.Of != "" {
			q.of, q.get = len(names), ofPlugin
			names = append(names, requests[i].Text)
			continue
		}
		d := known[q.field.Name]
		if d == nil {
			return nil, fmt.Errorf("%w %q of events of %s", fieldtext.ErrUnknownField, q.field.Name, source)
		}
		d.bind(r, q)
	}
	if len(names) > 0 {
		if o.Plugins == nil {
			return nil, fmt.Errorf("the field %s is one of a plugin, and there are none", names[0])
		}
		use, err := o.Plugins.Use(names...)
		if err != nil {
			return nil, err
		}
		r.use = use
	}
	return r, nil
}

// Follow has the Reader go on where another one ends, of the same event source: it counts on, and
// knows which requests have begun. The other one must not look at events any more.
func (r *Reader) Follow(before *Reader) {
	r.number, r.first = before.number, before.first
	if r.pairs != nil && before.pairs != nil {
		r.pairs.begun = before.pairs.begun
	}
}

// Close says that the fields are not wanted any more. The Reader must not be used after it.
func (r *Reader) Close() {
	if r.use != nil {
		r.use.Release()
	}
}

// Record has the Reader look at a record, for the calls of [Reader.At] that follow. Plugins are
// asked, and payloads fetched, until ctx ends.
func (r *Reader) Record(ctx context.Context, rec fields.Record) {
	r.release()
	r.ctx, r.rec, r.view, r.payload.fetched = ctx, rec, nil, false
	if r.use != nil {
		r.view = r.use.View(ctx, rec)
	}
}

// release lets go of what belongs to the record before, so that a value of a field that is seldom
// asked for does not keep a record in memory.
func (r *Reader) release() {
	for _, i := range r.asked {
		q := &r.queries[i]
		q.asked, q.value, q.one[0].Text = false, nil, ""
		clear(q.list[:cap(q.list)])
		if q.list = q.list[:0]; cap(q.list) > maxKeptElements {
			q.list = nil
		}
		if q.buf = q.buf[:0]; cap(q.buf) > maxKeptBytes {
			q.buf = nil
		}
	}
	r.asked = r.asked[:0]
	r.payload.data = ""
}

// At has the Reader look at an event of the record, which is of its event source. It counts the
// events, and must be called once for each, in order, for evt.num, evt.reltime and audit.duration
// to be right; events of other sources are passed over.
func (r *Reader) At(i int) {
	if r.view != nil {
		r.view.At(i)
	}
	e := r.rec.Event(i)
	r.e = e
	r.turn++
	r.missing = nil
	r.nanos = nanosOf(e.Time)
	if r.number++; r.number == 1 {
		r.first = r.nanos
	}
	if r.pairs != nil && e.Type == typeRequest {
		r.noteRequest()
	}
}

// Back has the Reader forget that it has counted the event of the last call of At, which will be
// looked at again.
func (r *Reader) Back() { r.number-- }

// Event has the Reader look at an event that is in no record.
func (r *Reader) Event(ctx context.Context, e *event.Event) {
	r.alone.event = e
	r.Record(ctx, &r.alone)
	r.At(0)
}

// single is a record of one event.
type single struct{ event *event.Event }

func (s *single) Len() int                       { return 1 }
func (s *single) Event(int) *event.Event         { return s.event }
func (s *single) Position(int) position.Position { return position.Position{} }

// Values implements [field.Row].
func (r *Reader) Values(request int) []field.Element {
	q := &r.queries[request]
	if q.turn != r.turn {
		q.turn = r.turn
		q.value = q.get(r, q)
		if !q.asked {
			q.asked = true
			r.asked = append(r.asked, request)
		}
	}
	return q.value
}

// Missing returns why a value that was asked for since At could not be had, although the event may
// have it: such a field has no value, and what was decided with it may be wrong. Nil: all could be.
func (r *Reader) Missing() *fields.Missing {
	if r.missing == nil && r.view != nil {
		return r.view.Missing()
	}
	return r.missing
}

// Told says whether a plugin has answered about an event of the record.
func (r *Reader) Told() bool { return r.view != nil && len(r.view.Told()) > 0 }

// Fetched says whether a payload that is kept outside of its event was read, of the record.
func (r *Reader) Fetched() bool { return r.payload.fetched }

// ofPlugin answers a query for a field of a plugin.
func ofPlugin(r *Reader, q *query) []field.Element {
	v, err := r.view.Value(q.of)
	if err != nil || v.Len() == 0 {
		return nil
	}
	if v.Type() != q.field.Type || v.List() != q.field.List {
		r.miss(q.field.Name, fmt.Sprintf("it is of the type %s now; load the rules anew", fieldtext.TypeName(v.Field())), true)
		return nil
	}
	q.list = q.list[:0]
	for i := range v.Len() {
		q.list = append(q.list, element(v, i))
	}
	return q.list
}

func element(v fields.Value, i int) field.Element {
	switch v.Type() {
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		n, _ := v.Number(i)
		return field.Element{Number: n}
	case sourceplugin.Bool:
		if b, _ := v.Bool(i); b {
			return field.Element{Number: 1}
		}
		return field.Element{}
	}
	return field.Element{Text: v.Raw(i)}
}

// miss notes why a value is missing, if nothing is yet.
func (r *Reader) miss(name, why string, final bool) {
	if r.missing == nil {
		r.missing = &fields.Missing{Field: name, Reason: why, Final: final}
	}
}

// data returns the payload of the event.
func (r *Reader) data(q *query) string {
	p := &r.payload
	if p.turn == r.turn {
		return p.data
	}
	p.turn = r.turn
	data := r.e.Data
	if r.e.DataRef != "" && len(data) == 0 && r.o.Payload != nil {
		var err error
		if data, err = r.o.Payload(r.ctx, r.e.DataRef); err != nil {
			data = nil
			if errors.Is(err, fs.ErrNotExist) {
				r.miss(q.field.Name, "the payload of the event was removed", true)
			} else {
				r.miss(q.field.Name, "the payload of the event cannot be read", false)
				r.missing.Payload = true
			}
		} else {
			p.fetched = true
		}
	}
	p.data = unsafe.String(unsafe.SliceData(data), len(data))
	return p.data
}

// read has the picker read the payload, and returns false if that is no JSON object or array.
func (r *Reader) read(q *query) bool {
	p := &r.payload
	if p.read == r.turn {
		return p.json == r.turn
	}
	p.read = r.turn
	data := r.data(q)
	if i := space(data, 0); i == len(data) || data[i] != '{' && data[i] != '[' {
		r.pick.forget()
		return false
	}
	// Entries of audit logs were checked when they came in.
	if r.e.Type != typeRequest && r.e.Type != typeResponse && !jsontext.Valid(unsafe.Slice(unsafe.StringData(data), len(data))) {
		r.pick.forget()
		return false
	}
	if r.pick.read(data) {
		p.json = r.turn
	}
	return p.json == r.turn
}

// json answers with a JSON value: a text without its quotes, what is no text as JSON without white
// space.
func (q *query) json(raw string) []field.Element {
	switch {
	case raw == "":
		return nil
	case raw[0] == '"':
		return q.text(q.unquoted(raw))
	case raw[0] == '{' || raw[0] == '[':
		return q.text(q.compact(raw))
	}
	return q.text(raw)
}

// unquoted returns the text that a JSON string stands for.
func (q *query) unquoted(raw string) string {
	inner := raw[1 : len(raw)-1]
	if strings.IndexByte(inner, '\\') < 0 {
		return inner
	}
	q.buf = jsontext.AppendUnescaped(q.buf[:0], inner)
	return unsafe.String(unsafe.SliceData(q.buf), len(q.buf))
}

// compact returns JSON without white space outside of strings.
func (q *query) compact(raw string) string {
	if isCompact(raw) {
		return raw
	}
	q.buf = appendCompact(q.buf[:0], raw)
	return unsafe.String(unsafe.SliceData(q.buf), len(q.buf))
}

// text answers with a text.
func (q *query) text(s string) []field.Element {
	q.one[0].Text = s
	return q.one[:]
}

// filled answers with a text unless that is empty.
func (q *query) filled(s string) []field.Element {
	if s == "" {
		return nil
	}
	return q.text(s)
}

// bytes answers with the text in the buffer.
func (q *query) bytes() []field.Element {
	return q.text(unsafe.String(unsafe.SliceData(q.buf), len(q.buf)))
}

// number answers with a number.
func (q *query) number(n uint64) []field.Element {
	q.one[0].Number = n
	return q.one[:]
}

// truth answers with a bool.
func (q *query) truth(b bool) []field.Element {
	if b {
		return q.number(1)
	}
	return q.number(0)
}
