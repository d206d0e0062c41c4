package eventfields

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// none is what a field is that an event does not have.
const none = "<NA>"

// values returns fields of an event, as people write them.
func values(t *testing.T, r *Reader, texts ...string) (list []string) {
	t.Helper()
	for i := range texts {
		v := r.Values(i)
		if len(v) == 0 {
			list = append(list, none)
			continue
		}
		list = append(list, joined(shown(r.queries[i].field, v)))
	}
	return list
}

// check compares fields of an event: pairs of a request and what it is.
func check(t *testing.T, source string, o Options, e *event.Event, pairs ...string) {
	t.Helper()
	var texts []string
	for i := 0; i < len(pairs); i += 2 {
		texts = append(texts, pairs[i])
	}
	r := ask(t, source, o, texts...)
	r.Event(t.Context(), e)
	for i, got := range values(t, r, texts...) {
		if want := pairs[2*i+1]; got != want {
			t.Errorf("%s is %q instead of %q", texts[i], got, want)
		}
	}
	if m := r.Missing(); m != nil {
		t.Error(m)
	}
}

func TestGenericFields(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	origin := falcoevent.NewOrigin("k8s", "", "", &sourceplugin.Description{Name: "k8saudit", ID: 1, EventSource: "k8s_audit"})
	const nanos = 1704164645000000123 // 2024-01-02T03:04:05 UTC
	plugins := func(b []byte) *event.Event {
		e := new(event.Event)
		origin.Set(e, "id", scapevent.Event(b))
		return e
	}
	check(t, "k8s_audit", Options{Location: berlin, Hostname: "h"}, plugins(scapevent.Append(nil, 1, nanos, []byte(`{"a":1}`))),
		"evt.num", "1", "evt.time", "04:04:05.000000123", "evt.time.s", "04:04:05", "evt.time.iso8601", "2024-01-02T03:04:05.000000123+0000",
		"evt.datetime", "2024-01-02 04:04:05.000000123", "evt.datetime.s", "2024-01-02 04:04:05",
		"evt.rawtime", "2024-01-02T03:04:05.000000123Z", "evt.rawtime.s", "1970-01-01T00:00:01.704164645Z", "evt.rawtime.ns", "1970-01-01T00:00:00.000000123Z",
		"evt.reltime", "0", "evt.reltime.s", "0", "evt.reltime.ns", "0", "evt.pluginname", "k8saudit", "evt.plugininfo", `datalen=7 data={"a":1}`,
		"evt.source", "k8s_audit", "evt.is_async", "false", "evt.asynctype", none, "evt.hostname", "h",
		"event.time.hour", "4", "event.time.minute_of_day", "244", "event.time.weekday", "2", "event.time.date", "2024-01-02")
	check(t, "k8s_audit", Options{Summary: func(_ context.Context, e *event.Event) (string, bool) { return "said " + string(e.Data), true }},
		plugins(scapevent.AppendAsync(nil, 1, nanos, "a b", []byte("x"))),
		"evt.is_async", "true", "evt.asynctype", "a b", "evt.plugininfo", "said x")
	for data, want := range map[string]string{
		"":                               "datalen=0 data=",
		strings.Repeat("a", 51):          "datalen=51 data=" + strings.Repeat("a", 50) + "...",
		strings.Repeat("a", 50) + "\xff": "datalen=51 data=" + strings.Repeat("a", 50) + "...",
		"a\nb":                           "datalen=3 data=<binary>",
	} {
		check(t, "k8s_audit", Options{Summary: func(context.Context, *event.Event) (string, bool) { return "", false }},
			plugins(scapevent.Append(nil, 1, nanos, []byte(data))), "evt.plugininfo", want)
	}
	check(t, "tocsin", Options{}, &event.Event{Type: "kv-v2/data-write", Namespace: "team/", Path: "secret/a"},
		"evt.pluginname", "tocsin", "evt.plugininfo", "kv-v2/data-write team/secret/a", "evt.source", "tocsin", "evt.is_async", "false", "evt.asynctype", none)
}

// Numbers and times count from the first event of a Reader.
func TestCounting(t *testing.T) {
	t.Parallel()
	texts := []string{"evt.num", "evt.reltime", "evt.reltime.s", "evt.reltime.ns"}
	r := ask(t, "tocsin", Options{}, texts...)
	at := time.Date(2026, 11, 27, 23, 59, 59, 500, time.UTC)
	var list []*event.Event
	for _, after := range []time.Duration{0, 1500 * time.Millisecond, -time.Second} {
		list = append(list, &event.Event{Type: "a/b", Time: at.Add(after)})
	}
	r.Record(t.Context(), recordOf(list...))
	for i, want := range []string{"1 0 0 0", "2 1500000000 1 500000000", "3 0 0 0"} {
		for range 2 { // looked at again
			r.At(i)
			if got := strings.Join(values(t, r, texts...), " "); got != want {
				t.Errorf("event %d: %s instead of %s", i, got, want)
			}
			r.Back()
		}
		r.At(i)
	}
}

// Days and hours are those of the time zone, where it has summer time, too.
func TestClock(t *testing.T) {
	t.Parallel()
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Skip(err)
	}
	texts := []string{"evt.datetime.s", "event.time.hour", "event.time.weekday", "event.time.minute_of_day", "event.time.date"}
	r := ask(t, "tocsin", Options{Location: zone}, texts...)
	for at := time.Date(2026, 3, 7, 0, 0, 0, 0, time.UTC); at.Day() < 10; at = at.Add(7*time.Minute + 13*time.Second) {
		r.Event(t.Context(), &event.Event{Type: "a/b", Time: at})
		l := at.In(zone)
		day := (int(l.Weekday())+6)%7 + 1
		want := l.Format("2006-01-02 15:04:05")
		got := values(t, r, texts...)
		if got[0] != want || r.Values(1)[0].Number != uint64(l.Hour()) || r.Values(2)[0].Number != uint64(day) ||
			r.Values(3)[0].Number != uint64(l.Hour()*60+l.Minute()) || got[4] != want[:10] {
			t.Fatalf("%v is %v", l, got)
		}
	}
	for _, tt := range []struct {
		at   time.Time
		want string
	}{
		{time.Time{}, "1969-12-31 19:00:00"}, {time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC), "2262-04-11 19:47:16"},
	} {
		r.Event(t.Context(), &event.Event{Type: "a/b", Time: tt.at})
		if got := values(t, r, texts...)[0]; got != tt.want {
			t.Errorf("%v is %s", tt.at, got)
		}
	}
}

func TestHostname(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	t.Setenv(EnvHostname, "")
	check(t, "tocsin", Options{}, &event.Event{}, "evt.hostname", name)
	t.Setenv(EnvHostname, "other")
	check(t, "tocsin", Options{}, &event.Event{}, "evt.hostname", "other")
}

func TestEventFields(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 27, 12, 0, 0, 5, time.UTC)
	e := &event.Event{
		ID: "id", Type: "kv-v2/data-write", Namespace: "team/", Source: "vault://prod", Path: "secret/data/a", EntityIDs: []string{"e1", "e2"}, Note: "n",
		Plugin: &event.PluginInfo{MountClass: "secret", MountAccessor: "kv_1", MountPath: "secret/", Plugin: "kv", PluginVersion: "v0.25", Version: "2", IsLocal: true},
		Time:   at, Recorded: at.Add(time.Second), Data: []byte(`{"a":{"b":"c"},"n":null,"x":1,"x":2}`), DataContentType: "application/json", DataSchema: "s", DataRef: "r",
	}
	e.Metadata.Set("operation", "create")
	e.Metadata.SetJSON("n", "5")
	e.Extensions.Set("certainty", "assumed")
	check(t, "tocsin", Options{}, e,
		"event.id", "id", "event.type", "kv-v2/data-write", "event.source", "vault://prod", "event.namespace", "team/", "event.path", "secret/data/a",
		"event.subject", "secret/data/a", "event.metadata[operation]", "create", "event.metadata[n]", "5", "event.metadata[other]", none,
		"event.extension[certainty]", "assumed", "event.extension[x]", none, "event.time", "2026-11-27T12:00:00.000000005Z", "event.recorded", "2026-11-27T12:00:01.000000005Z",
		"event.severity", "Informational", "event.data", string(e.Data), "event.data[/a/b]", "c", "event.data[a]", `{"b":"c"}`, "event.data[/n]", none, "event.data[/x]", none,
		"event.data[/a/b/c]", none, "event.datacontenttype", "application/json", "event.dataschema", "s", "event.dataref", "r", "event.note", "n", "event.entity_ids", "e1|e2",
		"event.plugin.mount_class", "secret", "event.plugin.mount_accessor", "kv_1", "event.plugin.mount_path", "secret/", "event.plugin.name", "kv",
		"event.plugin.version", "v0.25", "event.plugin.mount_version", "2", "event.plugin.is_local", "true",
		"audit.type", none, "audit.request.path", none, "audit.outcome", none, "audit.duration", none)
	var texts, want []string
	for _, f := range Fields("tocsin") {
		switch {
		case strings.HasPrefix(f.Name, "evt."), strings.HasPrefix(f.Name, "event.time"), f.Name == "event.severity", f.Name == "event.namespace":
			continue
		case f.Arg.Key:
			texts = append(texts, f.Name+"[a]")
		default:
			texts = append(texts, f.Name)
		}
		want = append(want, texts[len(texts)-1], none)
	}
	if len(texts) < 60 {
		t.Fatal(texts)
	}
	check(t, "tocsin", Options{}, &event.Event{}, want...)
}

// What the real engine says of the payload with the plugin json, and what that plugin does.
func TestJSONFields(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 1704164645123456000)
	with := func(data string) *event.Event {
		return &event.Event{Type: "falco/k8s_audit", Time: at, Data: []byte(data)}
	}
	data := `{"verb":"create","user":{"username":"Alice","groups":["system:authenticated","devs"]},"responseStatus":{"metadata":{},"code":201},` +
		`"annotations":{"authorization.k8s.io/decision":"allow","til~de":"\u00e4"}, "list" : [ 1 , {"a": [true, null]} ], "null":null,"":{"":"empty"},"twice":1,"twice":2,"0":"zero"}`
	for _, prefix := range []string{"json", "jevt"} {
		check(t, "k8s_audit", Options{}, with(data),
			prefix+".value[/user/username]", "Alice", prefix+".value[user/username]", "Alice", prefix+".value[/user/nope]", none,
			prefix+".value[/responseStatus/code]", "201", prefix+".value[/user/groups/1]", "devs", prefix+".value[/user/groups/2]", none, prefix+".value[/user/groups/-1]", none,
			prefix+".value[/annotations/authorization.k8s.io~1decision]", "allow", prefix+".value[/annotations/til~0de]", "ä",
			prefix+".value[user]", `{"username":"Alice","groups":["system:authenticated","devs"]}`, prefix+".value[/responseStatus/metadata]", "{}",
			prefix+".value[/list]", `[1,{"a":[true,null]}]`, prefix+".value[/list/1/a/0]", "true", prefix+".value[/list/1/a/1]", "null", prefix+".value[/null]", "null",
			prefix+".value[/]", `{"":"empty"}`, prefix+`.value[""]`, none, prefix+".value[//]", "empty", prefix+".value[/twice]", "1", prefix+".value[0]", "zero", prefix+".rawtime", "1704164645123456000")
		check(t, "k8s_audit", Options{}, with(`[{"a": 1},2]`), prefix+".value[/0/a]", "1", prefix+".value[1]", "2", prefix+".obj", "[\n  {\n    \"a\": 1\n  },\n  2\n]")
		for _, data := range []string{"", "5", `"a"`, `{"a":1`, `{"a":1}}`, `{"a":tru}`, "\x00{}", `{a:1}`, `{"a":1,}`} {
			check(t, "k8s_audit", Options{}, with(data), prefix+".value[a]", none, prefix+".obj", none, prefix+".rawtime", none, "event.data[a]", none)
		}
	}
}

// What is kept outside of the event is fetched once, and only if somebody asks.
func TestPayloadOutside(t *testing.T) {
	t.Parallel()
	calls := 0
	var fail error
	texts := []string{"event.type", "json.value[a]", "event.data[a]", "event.data"}
	r := ask(t, "tocsin", Options{Payload: func(_ context.Context, ref string) ([]byte, error) {
		calls++
		return []byte(`{"a":"` + ref + `"}`), fail
	}}, texts...)
	look := func() { r.Event(t.Context(), &event.Event{Type: "a/b", DataRef: "ref"}) }
	look()
	if r.Values(0); calls != 0 {
		t.Error("it was fetched although nobody had asked")
	}
	if got := joined(values(t, r, texts...)); got != `a/b|ref|ref|{"a":"ref"}` || calls != 1 || r.Missing() != nil {
		t.Error(got, calls, r.Missing())
	}
	fail = fs.ErrNotExist
	look()
	if got := joined(values(t, r, texts...)); got != "a/b|<NA>|<NA>|<NA>" || calls != 2 || r.Missing() == nil || !r.Missing().Final {
		t.Error(got, calls, r.Missing())
	}
	fail = errors.New("no")
	look()
	if values(t, r, texts...); r.Missing() == nil || r.Missing().Final || r.Missing().Error() != "field json.value: the payload of the event cannot be read" {
		t.Error(r.Missing())
	}
	if look(); r.Missing() != nil {
		t.Error("it is missing before somebody has asked")
	}
}

func TestPlugins(t *testing.T) {
	t.Parallel()
	plugin := fieldstest.New()
	registry := fields.New(fields.Options{})
	source := fieldstest.NewSource("fake", plugin)
	registry.Add(source)
	known, silent := registry.Plugins()
	list, problems := Combine(fieldstest.EventSource, known...)
	if len(problems) > 0 || len(silent) > 0 || len(list) != len(Fields(fieldstest.EventSource))+len(plugin.About.Fields) {
		t.Fatal(problems, silent)
	}
	q := field.NewRequests(list)
	texts := []string{"fake.text", "json.value[/text]", "fake.number", "fake.list", "fake.addr", "fake.ok", "fake.time", "fake.took", "fake.net", "fake.value[text]", "evt.pluginname"}
	for _, text := range texts {
		add(t, q, text)
	}
	if _, err := NewReader(fieldstest.EventSource, q.List(), Options{}); err == nil || !strings.Contains(err.Error(), "fake.text") {
		t.Error("without plugins:", err)
	}
	r, err := NewReader(fieldstest.EventSource, q.List(), Options{Plugins: registry})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rec := recordOf(
		fieldstest.Event(`{"text":"x","number":7,"list":["a","b"],"addr":"10.0.0.1","ok":true,"time":5,"took":6,"net":"10.0.0.0/8"}`),
		fieldstest.Event(`{"addr":"::1"}`),
	)
	rec.seq = 1
	r.Record(t.Context(), rec)
	for i, want := range []string{"x|x|7|a|b|10.0.0.1|true|1970-01-01T00:00:00.000000005Z|6|10.0.0.0/8|x|fake", "<NA>|<NA>|<NA>|<NA>|::1|<NA>|<NA>|<NA>|<NA>|<NA>|fake"} {
		r.At(i)
		if got := joined(values(t, r, texts...)); got != want || r.Missing() != nil {
			t.Errorf("%s instead of %s, %v", got, want, r.Missing())
		}
	}
	if calls := plugin.Calls(); len(calls) != 1 || calls[0].Events != 2 {
		t.Errorf("%+v", calls)
	}
	// Nobody knows, for now.
	source.Set(nil)
	rec = recordOf(fieldstest.Event(`{"text":"x"}`))
	rec.seq = 2
	r.Record(t.Context(), rec)
	r.At(0)
	if r.Values(1); r.Missing() != nil {
		t.Error(r.Missing())
	}
	if v := r.Values(0); v != nil || r.Missing() == nil || r.Missing().Final || !strings.Contains(r.Missing().Error(), "does not run") {
		t.Error(v, r.Missing())
	}
	// Another version of the plugin has the field with another type.
	other := fieldstest.New()
	other.About.Fields[0].Type = sourceplugin.Uint64
	source.Set(other)
	rec.seq = 3
	r.Record(t.Context(), rec)
	r.At(0)
	if v := r.Values(0); v != nil || r.Missing() == nil || !r.Missing().Final || !strings.Contains(r.Missing().Error(), "uint64") {
		t.Error(v, r.Missing())
	}
}

func TestCombine(t *testing.T) {
	t.Parallel()
	own := describe("own", nil, "own.a")
	own.EventSource = "s"
	list, problems := Combine("s", own, nil, &sourceplugin.Description{Fields: own.Fields},
		describe("all", nil, "all.a", "json.value", "own.a"), describe("others", []string{"x"}, "others.a"), describe("these", []string{"x", "s"}, "these.a"))
	var of []string
	for _, f := range list {
		if f.Of != "" {
			of = append(of, f.Of+" "+f.Name)
		}
	}
	if joined(of) != "own own.a|all all.a|these these.a" || len(problems) != 2 ||
		problems[0].Error() != "the field json.value of the plugin all is not used: the hub has a field of this name" ||
		problems[1].Error() != "the field own.a of the plugin all is not used: the plugin own has a field of this name" {
		t.Error(of, problems)
	}
	if list, _ := Combine("x", own); len(list) != len(Fields("x")) {
		t.Error("it has fields of a plugin of another event source")
	}
	for _, f := range Fields("x") {
		if strings.HasPrefix(f.Name, "audit.") {
			t.Error(f.Name)
		}
	}
	if _, err := NewReader("x", []field.Request{{Field: &field.Field{Field: sourceplugin.Field{Name: "audit.type"}}}}, Options{}); !errors.Is(err, fieldtext.ErrUnknownField) {
		t.Error(err)
	}
}

// All fields of all events of a server are had without a single allocation.
func TestNothingIsAllocated(t *testing.T) {
	events := recordedEvents(t)
	var texts []string
	for _, text := range everyField(t, "tocsin") {
		if !strings.HasSuffix(text, ".obj") { // for people
			texts = append(texts, text)
		}
	}
	r := ask(t, "tocsin", Options{}, texts...)
	rec := recordOf(events...)
	look := func() {
		r.Record(context.Background(), rec)
		for i := range events {
			r.At(i)
			for k := range texts {
				r.Values(k)
			}
		}
	}
	look() // buffers have grown
	// The runtime's own are counted, too, of which there may be a few.
	if n := testing.AllocsPerRun(5, look); n > float64(len(events)/100) {
		t.Errorf("%v allocations for %d events", n, len(events))
	}
}

// A record does not stay in memory because of fields that are not asked for at the next one.
func TestReaderKeepsNothingOfRecords(t *testing.T) {
	t.Parallel()
	e := &event.Event{ID: "1", Type: "app/thing", Time: time.Unix(1, 0), Data: []byte(`{"a":"` + strings.Repeat("x", 1<<20) + `","b":"` + strings.Repeat(`\n`, 1<<20) + `"}`)}
	e.Metadata.Set("key", "value")
	texts := []string{"event.type", "event.metadata[key]", "event.data[/a]", "event.data[/b]", "event.data", "json.value[/a]"}
	r := ask(t, falcoevent.EventSource, Options{}, texts...)
	r.Event(t.Context(), e)
	for i, v := range values(t, r, texts...) {
		if v == none {
			t.Errorf("%s has no value", texts[i])
		}
	}
	r.Record(t.Context(), &r.alone)
	for i := range r.queries {
		q := &r.queries[i]
		kept := q.value != nil || q.one[0].Text != "" || cap(q.buf) > maxKeptBytes
		for _, v := range q.list[:cap(q.list)] {
			kept = kept || v.Text != ""
		}
		if kept {
			t.Errorf("%s is kept", texts[i])
		}
	}
	if r.payload.data != "" {
		t.Error("the payload is kept")
	}
}
