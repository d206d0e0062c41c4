package trace

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// feed gives events to a tracer, each as a record of its own, a millisecond after the
// other, and returns the spans.
type feed struct {
	t   *testing.T
	tr  *Tracer
	at  position.Position
	now time.Time
}

func newFeed(t *testing.T, o Options) *feed {
	return &feed{t: t, tr: newTracer(t, o), now: noon}
}

func (f *feed) add(events ...*event.Event) []*Span {
	var spans []*Span
	f.at = position.Position{Seq: f.at.Seq + 1, Ordinal: f.at.Ordinal}
	f.now = f.now.Add(time.Millisecond)
	for _, e := range events {
		c := *e
		c.Recorded = f.now
		spans = f.tr.Add(spans, &c, f.at)
		f.at.Index++
		f.at.Ordinal++
	}
	return f.tr.Flush(spans)
}

func (f *feed) want(spans []*Span, outcomes ...string) {
	f.t.Helper()
	var got []string
	for _, s := range spans {
		text := fmt.Sprintf("%s %s", s.Kind, s.Duration())
		if s.Expected {
			text += " expected"
		}
		got = append(got, text)
	}
	if strings.Join(got, ", ") != strings.Join(outcomes, ", ") {
		f.t.Errorf("spans %q, want %q", got, outcomes)
	}
}

func TestDurationIsNeverNegative(t *testing.T) {
	f := newFeed(t, Options{})
	f.want(f.add(entryOf("s", "a", false, noon), entryOf("s", "a", true, noon.Add(-time.Hour))), "complete 0s")
	f.want(f.add(entryOf("s", "b", false, noon), entryOf("s", "b", true, noon)), "complete 0s")
	f.want(f.add(entryOf("s", "c", true, noon.Add(time.Second)), entryOf("s", "c", false, noon)), "complete 1s")
}

func TestSourcesAreNotPaired(t *testing.T) {
	f := newFeed(t, Options{})
	id := uuid.NewString()
	f.want(f.add(entryOf("s1", id, false, noon), entryOf("s2", id, true, noon)))
	f.want(f.add(entryOf("s2", id, false, noon)), "complete 0s")
	f.want(f.tr.Close(nil), "request_only 0s")
}

func TestIDsThatAreNotUnique(t *testing.T) {
	f := newFeed(t, Options{})
	// Two starts of a dev server, and in the first one the response was lost.
	f.want(f.add(entryOf("s", "dev-gen-root", false, noon)))
	f.want(f.add(entryOf("s", "dev-gen-root", false, noon.Add(time.Minute))), "request_only 0s")
	f.want(f.add(entryOf("s", "dev-gen-root", true, noon.Add(61*time.Second))), "complete 1s")
	f.want(f.add(entryOf("s", "dev-gen-root", false, noon.Add(2*time.Minute)), entryOf("s", "dev-gen-root", true, noon.Add(2*time.Minute))), "complete 0s")
	f.want(f.add(entryOf("s", "dev-gen-root", true, noon.Add(2*time.Minute)))) // a repeat
	// Without an id nothing can be paired.
	f.want(f.add(entryOf("s", "", false, noon), entryOf("s", "", true, noon)), "request_only 0s expected", "response_only 0s expected")
}

func TestClockJumps(t *testing.T) {
	f := newFeed(t, Options{})
	f.want(f.add(entryOf("s", "a", false, noon)))
	f.now = f.now.Add(-24 * time.Hour) // back: nothing expires, and nothing is stuck
	f.want(f.add(entryOf("s", "b", false, noon)))
	f.now = f.now.Add(2 * time.Minute)
	f.want(f.add(entryOf("s", "a", true, noon.Add(time.Second))), "complete 1s")
	f.now = f.now.Add(2 * time.Minute)
	f.want(f.add(entryOf("s", "x", true, noon)), "request_only 0s")
	f.now = f.now.Add(100 * 365 * 24 * time.Hour) // forth
	f.want(f.add(entryOf("s", "c", false, noon)), "response_only 0s")
	f.now = f.now.Add(time.Minute)
	f.want(f.add(entryOf("s", "c", true, noon)), "complete 0s")
}

func TestExpireWhenIdle(t *testing.T) {
	f := newFeed(t, Options{})
	f.want(f.add(entryOf("s", "a", false, noon)))
	f.now = f.now.Add(time.Minute)
	f.want(f.add(entryOf("s", "b", false, noon)))
	f.want(f.tr.Expire(nil, f.now.Add(2*time.Minute-2*time.Millisecond)))
	before := f.tr.Progress()
	spans := f.tr.Expire(nil, f.now.Add(2*time.Minute))
	f.want(spans, "request_only 0s")
	after := f.tr.Progress()
	if before.Has(spans[0]) || !after.Has(spans[0]) || after.Closed != before.Closed {
		t.Errorf("progress before: %+v, after: %+v", before, after)
	}
	// A restart from before gives it out again, one from after does not.
	for _, c := range []struct {
		p     Progress
		spans []string
	}{
		{before, []string{"request_only 0s", "request_only 0s"}},
		{after, []string{"request_only 0s"}},
	} {
		g := newFeed(t, Options{Resume: c.p})
		for i, id := range []string{"a", "b"} {
			if at := (position.Position{Seq: uint64(i + 1), Ordinal: uint64(i)}); at.Compare(c.p.Read) > 0 {
				e := entryOf("s", id, false, noon)
				e.Recorded = noon.Add(time.Duration(i) * time.Minute)
				g.want(g.tr.Flush(g.tr.Add(nil, e, at)))
			}
		}
		g.want(g.tr.Expire(nil, noon.Add(time.Hour)), c.spans...)
	}
}

func TestExpireWhileOthersPublish(t *testing.T) {
	f := newFeed(t, Options{})
	f.want(f.add(entryOf("s", "a", false, noon)))
	other := &event.Event{ID: "1", Type: "app/x", Source: "/app", Time: noon}
	f.now = f.now.Add(2 * time.Minute)
	f.want(f.add(entryOf("s", "b", false, noon), entryOf("s", "b", true, noon.Add(time.Second)), other), "complete 1s")
	f.now = f.now.Add(time.Minute)
	spans := f.add(other)
	f.want(spans, "request_only 0s")
	if len(spans) == 1 && spans[0].Closed.Seq != f.at.Seq {
		t.Errorf("closed at %v", spans[0].Closed)
	}
}

func TestImported(t *testing.T) {
	f := newFeed(t, Options{})
	old := func(e *event.Event) *event.Event {
		e.Metadata.Set(metadataImported, "true")
		return e
	}
	for _, c := range []struct {
		events []*event.Event
		want   bool
	}{
		{[]*event.Event{old(entryOf("s", "a", false, noon)), old(entryOf("s", "a", true, noon))}, true},
		{[]*event.Event{old(entryOf("s", "b", true, noon)), old(entryOf("s", "b", false, noon))}, true},
		{[]*event.Event{old(entryOf("s", "", false, noon))}, true},
		{[]*event.Event{old(entryOf("s", "c", false, noon)), entryOf("s", "c", true, noon)}, false},
		{[]*event.Event{entryOf("s", "d", false, noon), entryOf("s", "d", true, noon)}, false},
	} {
		for _, s := range f.add(c.events...) {
			v, has := s.Get(attrImported)
			if s.Imported != c.want || has != c.want || has && !v.Bool() {
				t.Errorf("%s: imported %t, attribute %t", s.Request.ID, s.Imported, has)
			}
		}
	}
	f.add(old(entryOf("s", "e", false, noon)))
	if spans := f.tr.Close(nil); len(spans) != 1 || !spans[0].Imported {
		t.Errorf("%+v", spans)
	}
}

// A request entry without a mount may be of a path that somebody has made up.
func TestNameOfUnansweredRequest(t *testing.T) {
	f := newFeed(t, Options{})
	for path, want := range map[string]string{"made-up/x": "read …", "auth/made-up/login": "read auth/…", "sys/mounts": "read sys/mounts"} {
		e := entryOf("s", uuid.NewString(), false, noon)
		e.Data = fmt.Appendf(nil, `{"time":"2026-01-02T12:00:00Z","type":"request","request":{"id":"x","operation":"read","path":%q}}`, path)
		f.add(e)
		if spans := f.tr.Close(nil); len(spans) != 1 || spans[0].Name != want {
			t.Errorf("%s: %+v", path, spans[0].Name)
		}
	}
}

func TestSingleEntries(t *testing.T) {
	line := func(auth, request, err string) *event.Event {
		text := fmt.Sprintf(`{"time":"2026-01-01T00:00:00Z","type":"request","auth":{%s},"request":{"id":%q,%s}%s}`, auth, uuid.NewString(), request, err)
		events := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "v"}).Translate(nil, []byte(text))
		if events[0].Type != vaultaudit.TypeRequest {
			t.Fatalf("%s: %s", text, events[0].Note)
		}
		return events[0]
	}
	const token = `"client_token":"` + hashed + `"`
	for _, c := range []struct {
		name   string
		e      *event.Event
		single bool
	}{
		{"probe of a device", line(``, `"operation":"update","path":"sys/audit/test"`, ``), true},
		{"a device called test", line(token, `"operation":"update","path":"sys/audit/test"`, ``), false},
		{"seal", line(token, `"operation":"update","path":"sys/seal"`, ``), true},
		{"seal, denied", line(token, `"operation":"update","path":"sys/seal"`, `,"error":"permission denied"`), false},
		{"step down", line(token, `"operation":"update","path":"sys/step-down"`, ``), true},
		{"unwrap, failed", line(token, `"operation":"update","path":"sys/wrapping/unwrap"`, `,"error":"wrapping token is not valid or does not exist"`), true},
		{"unwrap", line(token, `"operation":"update","path":"sys/wrapping/unwrap"`, ``), false},
		{"rate limit", line(``, `"operation":"update","path":"kv/a"`, `,"error":"request path \"kv/a\": rate limit quota exceeded"`), true},
		{"denied", line(token, `"operation":"update","path":"kv/a"`, `,"error":"permission denied"`), false},
		{"a field called error", line(token, `"operation":"update","path":"kv/a","data":{"error":"quota exceeded"}`, ``), false},
	} {
		f := newFeed(t, Options{})
		want := []string{"request_only 0s expected"}
		if !c.single {
			want = nil
		}
		f.want(f.add(c.e), want...)
		if t.Failed() {
			t.Fatal(c.name)
		}
	}
}

func TestLateResponse(t *testing.T) {
	f := newFeed(t, Options{})
	id := uuid.NewString()
	f.want(f.add(entryOf("s", id, false, noon)))
	f.now = f.now.Add(4 * time.Minute)
	first := f.add(entryOf("s", id, true, noon.Add(4*time.Minute)))
	f.want(first, "request_only 0s")
	second := f.tr.Close(nil)
	f.want(second, "response_only 0s")
	if a, b := first[0], second[0]; a.TraceID != b.TraceID || a.SpanID == b.SpanID {
		t.Errorf("%s %s, %s %s: one trace, two spans", a.TraceID, a.SpanID, b.TraceID, b.SpanID)
	}
}

func TestEvictOldestFirst(t *testing.T) {
	f := newFeed(t, Options{MaxBytes: 20 * (openMemory + 300)})
	closed := 0
	for i := range 200 {
		for _, s := range f.add(entryOf("s", fmt.Sprintf("id-%03d", i), false, noon)) {
			id, _ := s.Get("request.id")
			if want := fmt.Sprintf("id-%03d", closed); id.Text != want || !s.Incomplete() {
				t.Fatalf("%s was closed, want %s", id.Text, want)
			}
			closed++
		}
	}
	stats := f.tr.Stats()
	if stats.OpenBytes > 20*(openMemory+300) || stats.Open < 15 || int(stats.Evicted) != closed || closed+stats.Open != 200 {
		t.Errorf("%+v", stats)
	}
	f.tr.Close(nil)
	if stats := f.tr.Stats(); stats.OpenBytes != 0 || stats.Open != 0 {
		t.Errorf("%+v", stats)
	}
}

// TestDataElsewhere: entries that are too large for an event have their data in the object
// store.
func TestDataElsewhere(t *testing.T) {
	id := uuid.NewString()
	events := []*event.Event{entryOf("s", id, false, noon), entryOf("s", id, true, noon.Add(time.Second))}
	stored := map[string][]byte{}
	for i, e := range events {
		e.DataRef = fmt.Sprintf("payload-%d", i)
		stored[e.DataRef], e.Data = e.Data, nil
	}
	fetch := func(e *event.Event) ([]byte, error) {
		if b, ok := stored[e.DataRef]; ok {
			return b, nil
		}
		return nil, errors.New("is gone")
	}
	f := newFeed(t, Options{Fetch: fetch})
	spans := f.add(events...)
	f.want(spans, "complete 1s")
	if v, _ := spans[0].Get("user.name"); v.Text != "token" || spans[0].Name != "read kv/…" {
		t.Errorf("%s", describe(spans[0]))
	}
	f.want(f.add(entryOf("s", "x", true, noon)))
	f.want(f.add(&event.Event{ID: "1", Type: typeRequest, Source: "s", Time: noon, DataRef: "payload-0", Metadata: event.Fields{{Key: metadataRequestID, Value: "y"}}}))
	delete(stored, "payload-1")
	f = newFeed(t, Options{Fetch: fetch})
	spans = f.add(events...)
	f.want(spans, "complete 1s")
	if v, _ := spans[0].Get("request.path"); v.Text != "kv/a" || spans[0].TraceID.String() != strings.ReplaceAll(id, "-", "") {
		t.Errorf("%s", describe(spans[0]))
	}
	if f.tr.Stats().Unreadable == 0 {
		t.Error("what could not be read was not counted")
	}
	f = newFeed(t, Options{}) // nobody can fetch
	f.want(f.add(events[:1]...))
	spans = f.tr.Close(nil)
	f.want(spans, "request_only 0s")
	if v, _ := spans[0].Get("request.id"); v.Text != id {
		t.Errorf("%s", describe(spans[0]))
	}
}

// TestForeignBytes: whatever stands in the data of an event, there is a span.
func TestForeignBytes(t *testing.T) {
	for _, data := range []string{"", "{", "null", "\x01\x02", `{"error"`, strings.Repeat("[", 5000)} {
		f := newFeed(t, Options{})
		id := uuid.NewString()
		for _, kind := range []string{typeRequest, typeResponse} {
			e := &event.Event{ID: "e", Type: kind, Source: "s", Time: noon, Data: []byte(data), Metadata: event.Fields{{Key: metadataRequestID, Value: id}}}
			f.add(e)
			e.Source = "other"
			if kind == typeRequest {
				f.add(e)
			}
		}
		for _, s := range f.tr.Close(nil) {
			if s.TraceID.String() != strings.ReplaceAll(id, "-", "") {
				t.Errorf("%.20q: %s", data, describe(s))
			}
		}
		if s := f.tr.Stats(); s.Complete != 1 || s.RequestOnly != 1 {
			t.Errorf("%.20q: %+v", data, s)
		}
	}
}

// TestAddEntry: whoever gives parsed entries gets the same spans as whoever gives events,
// but for the ids of events.
func TestAddEntry(t *testing.T) {
	o := Options{Attributes: AttributeOptions{Deny: []string{attrAuditIDs, attrEventIDs}}}
	lines := recorded(t, "openbao-audit-small.jsonl")
	want := run(newTracer(t, o), translated(lines, 1000))
	tr := newTracer(t, o)
	var p auditlog.Parser
	var got []*Span
	for _, line := range lines {
		e, err := p.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		got = tr.AddEntry(got, "vault://vault", e)
	}
	got = tr.Close(got)
	if len(got) != len(want) {
		t.Fatalf("%d spans, want %d", len(got), len(want))
	}
	for i := range got {
		if g, w := describe(got[i]), describe(want[i]); g != w {
			t.Fatalf("got  %s\nwant %s", g, w)
		}
	}
	if s := run(newTracer(t, Options{}), nil); len(s) != 0 {
		t.Errorf("%d spans of nothing", len(s))
	}
	tr = newTracer(t, Options{})
	for _, line := range lines {
		e, err := p.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range tr.AddEntry(nil, "vault://vault", e) {
			if v, ok := s.Get(attrAuditIDs); ok {
				t.Fatalf("ids of events that there are not: %q", v.Texts)
			}
		}
	}
}

// TestDerivedEventsPointToSpans: each notification of the recordings has the trace context
// of one span, and that span has its id.
func TestDerivedEventsPointToSpans(t *testing.T) {
	for _, name := range []string{"openbao-audit-small.jsonl", "kv025-audit-small.jsonl"} {
		events := translated(recorded(t, name), 9)
		type ids struct {
			TraceID
			SpanID
		}
		spans := map[ids]*Span{}
		for _, s := range run(newTracer(t, Options{}), events) {
			spans[ids{s.TraceID, s.SpanID}] = s
		}
		n := 0
		for _, e := range events {
			if e.Type == typeRequest || e.Type == typeResponse {
				continue
			}
			n++
			text, _ := e.Extensions.Text("traceparent")
			p, ok := tracecontext.ParseTraceparent(text)
			if !ok {
				t.Fatalf("%s has the traceparent %q", e.Type, text)
			}
			s := spans[ids{p.TraceID, p.Parent}]
			if s == nil {
				t.Fatalf("%s points to no span", e.Type)
			}
			if v, _ := s.Get(attrEventIDs); !bytes.Contains(v.AppendText(nil), []byte(e.ID)) {
				t.Errorf("%s %s is not in the span: %s", e.Type, e.ID, describe(s))
			}
		}
		if n < 100 {
			t.Errorf("%d derived events", n)
		}
	}
}

func TestPack(t *testing.T) {
	p := newPacker()
	lines := recorded(t, "openbao-audit-small.jsonl")
	lines = append(lines, recorded(t, "kv025-audit-small.jsonl")...)
	for _, s := range []string{"", "x", "\x01", "\x02abc", `"` + hashed, `"` + hashed + `"`, strings.ToUpper(`"` + hashed + `"`), `"520854B6-9454-49f7-3334-8aba186064a1"`,
		`"520854b6-9454-49f7-3334-8aba186064a1`, `"520854b6-9454-49f7-3334-8aba186064a1"`, strings.Repeat(`"`+hashed+`",`, 1000)} {
		lines = append(lines, []byte(s))
	}
	size, packed := 0, 0
	for _, line := range lines {
		b := p.pack(line)
		got, err := p.unpack(b)
		if err != nil || !bytes.Equal(got, line) {
			t.Fatalf("%q became %q (%v)", line, got, err)
		}
		size += len(line)
		packed += len(b)
	}
	if packed*3 > size {
		t.Errorf("%d bytes became %d", size, packed)
	}
}

func FuzzPack(f *testing.F) {
	p := newPacker()
	f.Add([]byte(`"` + hashed + `","520854b6-9454-49f7-3334-8aba186064a1"`))
	f.Add([]byte("\x01\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := p.unpack(p.pack(b)); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%q became %q (%v)", b, got, err)
		}
	})
}

func TestProgressText(t *testing.T) {
	p := Progress{Read: position.Position{Seq: 3, Ordinal: 8}, Back: position.Position{Seq: 3, Ordinal: 8}, Open: position.Position{Seq: 5, Index: 2, Ordinal: 20}, Closed: position.Position{Seq: 9, Ordinal: 90}, Waiting: true}
	for _, p := range []Progress{{}, p} {
		text, err := p.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var q Progress
		if err := q.UnmarshalText(text); err != nil || q != p {
			t.Errorf("%s: %+v, %v", text, q, err)
		}
	}
	for _, text := range []string{"", "2::::", "1:::", "1:x:::", "1::::x", "1:::::"} {
		var q Progress
		if err := q.UnmarshalText([]byte(text)); err == nil || q != (Progress{}) {
			t.Errorf("%q: %+v, %v", text, q, err)
		}
	}
}

// TestNamesOfEvents: package vaultaudit cannot be imported by this one.
func TestNamesOfEvents(t *testing.T) {
	if typeRequest != vaultaudit.TypeRequest || typeResponse != vaultaudit.TypeResponse {
		t.Error("the types of audit events have other names")
	}
}
