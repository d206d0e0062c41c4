package fliptevent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// testdata has what real Flipt servers (1.44.0 and 1.61.0) wrote to their log and posted.

func lines(t testing.TB, name string) (all [][]byte) {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		all = append(all, bytes.Clone(s.Bytes()))
	}
	if s.Err() != nil || len(all) == 0 {
		t.Fatal(name, s.Err(), len(all))
	}
	return all
}

// webhookBodies returns the bodies that were posted without a template.
func webhookBodies(t testing.TB) (all [][]byte) {
	t.Helper()
	for _, line := range lines(t, "webhooks.jsonl") {
		var r struct{ Method, Path, Body string }
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if r.Method == "POST" && !strings.HasPrefix(r.Path, "/tmpl") {
			all = append(all, []byte(r.Body))
		}
	}
	return all
}

func logLines(t testing.TB) [][]byte {
	return append(lines(t, "log.jsonl"), lines(t, "kafka-log.jsonl")...)
}

// Item 42 of the behaviours: every recorded event is encoded as it was.
func TestRecordedAreEncodedAsTheyWere(t *testing.T) {
	check := func(form string, all [][]byte, want int, encode func([]byte, *Event) []byte) {
		if len(all) != want {
			t.Errorf("%d events of the form %s, want %d", len(all), form, want)
		}
		for _, b := range all {
			e, err := Decode(b)
			if err != nil {
				t.Fatalf("%v\n%s", err, b)
			}
			if got := encode(nil, e); !bytes.Equal(got, b) {
				t.Fatalf("%s:\n got %s\nwant %s", form, got, b)
			}
			if len(e.Unknown) > 0 {
				t.Errorf("unknown members in %s", b)
			}
			// And without the metadata as it was.
			e.Metadata = nil
			if got := encode(nil, e); !bytes.Equal(got, b) {
				t.Fatalf("%s:\n got %s\nwant %s", form, got, b)
			}
		}
	}
	check("log", logLines(t), 56+32, AppendLogLine)
	check("webhook", webhookBodies(t), 208, AppendWebhook)
}

// The log and the webhook of one run have the same events: each form can be made of the
// other.
func TestFormsAreMadeOfEachOther(t *testing.T) {
	inLog := make(map[string]bool)
	for _, b := range lines(t, "log.jsonl") {
		inLog[string(b)] = true
	}
	found := 0
	for _, b := range webhookBodies(t) {
		e, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		line := AppendLogLine(nil, e)
		if inLog[string(line)] {
			found++
		}
		back, err := Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendWebhook(nil, back); !bytes.Equal(got, b) {
			t.Fatalf(" got %s\nwant %s", got, b)
		}
		if ID("f", e, 0) != ID("f", back, 0) {
			t.Errorf("the id depends on the form: %s", b)
		}
	}
	if found < 49 {
		t.Errorf("only %d of the webhooks are in the log", found)
	}
}

func TestForms(t *testing.T) {
	const (
		log     = `{"version":"0.2","type":"flag","action":"created","status":"success","metadata":{"actor":{"authentication":"none","name":"<i> \\u003c"}},"payload":{"key":"a&b","n":33.33},"timestamp":"2026-11-21T01:38:10Z"}`
		webhook = `{"version":"0.2","type":"flag","action":"created","metadata":{"actor":{"authentication":"none","name":"\u003ci\u003e \\u003c"}},"payload":{"key":"a\u0026b","n":33.33},"timestamp":"2026-11-21T01:38:10Z","status":"success"}`
		console = `{"version": "0.2", "type": "flag", "action": "created", "status": "success", "metadata": {"actor":{"authentication":"none","name":"<i> \\u003c"}}, "payload": {"key":"a&b","n":33.33}, "timestamp": "2026-11-21T01:38:10Z"}`
		old     = `{"version":"0.1","type":"flag","action":"created","metadata":{"actor":{"authentication":"oidc","io.flipt.auth.oidc.email":"a@b.c","io.flipt.auth.oidc.name":"A \u003cB\u003e","ip":"10.0.0.1"}},"payload":{"key":"k"},"timestamp":"2023-06-01T00:00:00Z"}`
		empty   = `{"version":"0.2","type":"flag","action":"created","metadata":{},"payload":null,"timestamp":"2026-11-21T01:38:10Z","status":""}`
	)
	for _, line := range []string{log, webhook, console,
		`{"T":"2026-11-21T01:38:10Z","M":"AUDIT",` + log[1:],
		"2026-11-21T01:38:10Z\tAUDIT\t" + console + "\r\n",
		strings.ReplaceAll(log, `,"`, ",\n \""),
	} {
		e, _, err := DecodeLine([]byte(line))
		if err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		if got := string(AppendLogLine(nil, e)); got != log {
			t.Errorf(" got %s\nwant %s", got, log)
		}
		if got := string(AppendWebhook(nil, e)); got != webhook {
			t.Errorf(" got %s\nwant %s", got, webhook)
		}
		if got := string(AppendConsole(nil, e)); got != console {
			t.Errorf(" got %s\nwant %s", got, console)
		}
		if e.Actor == nil || e.Actor.Name != `<i> \u003c` {
			t.Errorf("actor %+v", e.Actor)
		}
	}
	e, err := Decode([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(AppendLogLine(nil, e)); got != old {
		t.Errorf(" got %s\nwant %s", got, old)
	}
	e.Metadata = nil
	if got := string(AppendWebhook(nil, e)); got != old {
		t.Errorf(" got %s\nwant %s", got, old)
	}
	if e, err = Decode([]byte(empty)); err != nil {
		t.Fatal(err)
	}
	if got := string(AppendWebhook(nil, e)); got != empty {
		t.Errorf(" got %s\nwant %s", got, empty)
	}
	const later = `{"version":"0.3","type":"flag","action":"created","metadata":{"actor":null,"trace":"x"},"payload":[1],"timestamp":"t","status":"error","id":"7","more":{"a":[]}}`
	if e, err = Decode([]byte(later)); err != nil {
		t.Fatal(err)
	}
	if got := string(AppendWebhook(nil, e)); got != later || len(e.Unknown) != 2 {
		t.Errorf("what is unknown is not kept: %s", got)
	}
}

func TestNotAnEvent(t *testing.T) {
	const good = `{"version":"0.2","type":"flag","action":"created","metadata":{},"payload":null,"timestamp":"2026-11-21T01:38:10Z","status":""}`
	change := func(old, new string) string {
		s := strings.Replace(good, old, new, 1)
		if s == good {
			t.Fatalf("nothing was changed by %q", old)
		}
		return s
	}
	for name, b := range map[string]string{
		"nothing":          "",
		"no object":        `[]`,
		"half":             good[:40],
		"two":              good + good,
		"behind":           good + "x",
		"no version":       change(`"version":"0.2",`, ""),
		"empty type":       change(`"flag"`, `""`),
		"no action":        change(`"action":"created",`, ""),
		"no timestamp":     change(`"timestamp":"2026-11-21T01:38:10Z",`, ""),
		"no status in 0.2": change(`,"status":""`, ""),
		"twice":            change(`{"version"`, `{"type":"flag","version"`),
		"number as type":   change(`"flag"`, `1`),
		"null as version":  change(`"0.2"`, `null`),
		"metadata a text":  change(`"metadata":{}`, `"metadata":""`),
		"actor a list":     change(`"metadata":{}`, `"metadata":{"actor":[]}`),
		"actor twice":      change(`"metadata":{}`, `"metadata":{"actor":null,"actor":null}`),
		"ip a number":      change(`"metadata":{}`, `"metadata":{"actor":{"ip":1}}`),
		"ip twice":         change(`"metadata":{}`, `"metadata":{"actor":{"ip":"1","ip":"2"}}`),
		"T alone":          change(`{`, `{"T":"x",`),
		"not UTF-8":        change(`"flag"`, "\"fl\xffg\""),
		"nested":           change(`null`, strings.Repeat("[", 200)+strings.Repeat("]", 200)),
		"many unknown": change(`{`, `{`+func() (s string) {
			for i := range 65 {
				s += `"x` + strings.Repeat("y", i) + `":1,`
			}
			return s
		}()),
		"large":      change(`null`, `"`+strings.Repeat("x", MaxBytes)+`"`),
		"other case": change(`"version"`, `"Version"`),
	} {
		if _, err := Decode([]byte(b)); !errors.Is(err, ErrNotAnEvent) {
			t.Errorf("%s: %v", name, err)
		} else if len(err.Error()) > 200 {
			t.Errorf("%s: a long error", name)
		}
	}
	for _, line := range []string{"", "x", "time\tINFO\tstarted", "AUDIT\t" + good} {
		if _, _, err := DecodeLine([]byte(line)); !errors.Is(err, ErrNotAnEvent) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestToEvent(t *testing.T) {
	now := time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC)
	of := func(typ, action, payload string) string {
		return `{"version":"0.2","type":"` + typ + `","action":"` + action + `","metadata":{"actor":{"authentication":"oidc","ip":"10.0.0.1","email":"a@b.c"}},"payload":` + payload + `,"timestamp":"2026-11-21T03:38:10+02:00","status":"success"}`
	}
	for _, c := range []struct{ b, typ, path string }{
		{of("flag", "created", `{"key":"f","namespace_key":"n"}`), "flipt/flag/created", "flipt/prod/n/flag/f"},
		{of("segment", "deleted", `{"key":"s","namespace_key":"n"}`), "flipt/segment/deleted", "flipt/prod/n/segment/s"},
		{of("namespace", "updated", `{"key":"n"}`), "flipt/namespace/updated", "flipt/prod/n/namespace/n"},
		{of("variant", "created", `{"key":"v","id":"1","flag_key":"f","namespace_key":"n"}`), "flipt/variant/created", "flipt/prod/n/variant/f/1"},
		{of("rule", "created", `{"id":"1","flag_key":"f","segment_key":"s","namespace_key":"n"}`), "flipt/rule/created", "flipt/prod/n/rule/f/1"},
		{of("rule", "updated", `{"rule_ids":["1"],"flag_key":"f","namespace_key":"n"}`), "flipt/rule/updated", "flipt/prod/n/rule/f"},
		{of("constraint", "created", `{"id":"1","segment_key":"s","namespace_key":"n"}`), "flipt/constraint/created", "flipt/prod/n/constraint/s/1"},
		{of("distribution", "created", `{"id":"1","rule_id":"2","variant_id":"3","rollout":12.5}`), "flipt/distribution/created", "flipt/prod/~/distribution/1"},
		{of("token", "created", `{"io.flipt.auth.token.name":"ci/*","io.flipt.auth.token.namespace":"n"}`), "flipt/token/created", "flipt/prod/n/token/ci%2F%2A"},
		{of("flag", "created", `null`), "flipt/flag/created", "flipt/prod/~/flag"},
		{of("flag", "created", `{"key":"..","namespace_key":"~"}`), "flipt/flag/created", "flipt/prod/%7E/flag/%2E%2E"},
		{of("flag", "created", `{"key":7,"namespace_key":{}}`), "flipt/flag/created", "flipt/prod/~/flag"},
	} {
		e, err := Decode([]byte(c.b))
		if err != nil {
			t.Fatal(err)
		}
		ev, err := ToEvent([]byte(c.b), e, Origin{Server: "prod", Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type != c.typ || ev.Path != c.path || ev.Source != "flipt://prod" || string(ev.Data) != c.b {
			t.Errorf("%s %s %s\nof %s", ev.Type, ev.Path, ev.Source, c.b)
		}
		if want := time.Date(2026, 11, 21, 1, 38, 10, 0, time.UTC); !ev.Time.Equal(want) {
			t.Errorf("time %s", ev.Time)
		}
		if email, _ := ev.Metadata.Text(MetadataEmail); email != "a@b.c" {
			t.Errorf("metadata %v", ev.Metadata)
		}
		if err := event.DefaultLimits.Check(ev); err != nil {
			t.Error(err)
		}
		back, err := FromEvent(ev)
		if err != nil || string(AppendWebhook(nil, back)) != c.b {
			t.Errorf("back: %v", err)
		}
	}
	e := &Event{Version: Version2, Type: "a b", Action: "created", Timestamp: "never", Status: "success"}
	if _, err := ToEvent(nil, e, Origin{Server: "prod"}); !errors.Is(err, ErrNotAnEvent) {
		t.Error(err)
	}
	e.Type = "flag"
	ev, err := ToEvent(nil, e, Origin{Server: "prod", Now: now})
	if err != nil || !ev.Time.Equal(now) {
		t.Error(ev, err)
	}
	if ID("a", e, 0) == ID("b", e, 0) || ID("a", e, 0) == ID("a", e, 1) {
		t.Error("ids do not differ")
	}
}

func TestModified(t *testing.T) {
	for _, c := range []struct{ action, status, want string }{
		{"created", "success", "true"}, {"deleted", "", "true"}, {"updated", "denied", "false"}, {"read", "success", "false"},
	} {
		ev, err := ToEvent(nil, &Event{Version: "0.2", Type: "flag", Action: c.action, Status: c.status, Timestamp: "t"}, Origin{Server: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := ev.Metadata.Text(event.MetadataModified); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestQuarantined(t *testing.T) {
	for data, want := range map[string]string{`{"a":1}`: "application/json", "text": "text/plain; charset=utf-8", "\xff": "application/octet-stream"} {
		_, err := Decode([]byte(data))
		ev := Quarantined([]byte(data), err, Origin{Server: "prod", Now: time.Now()})
		if ev.DataContentType != want || ev.Type != TypeQuarantined || ev.Path != "flipt/prod" {
			t.Errorf("%q: %+v", data, ev)
		}
		if err := event.DefaultLimits.Check(ev); err != nil {
			t.Error(err)
		}
		if e, err := FromEvent(ev); err != nil || e.Type != "flipt/quarantined" {
			t.Errorf("%+v %v", e, err)
		}
	}
}

func TestFromOtherEvents(t *testing.T) {
	at := time.Date(2026, 11, 27, 6, 0, 0, 500e6, time.UTC)
	var kv, trail event.Event
	kv = event.Event{Type: "kv-v2/data-write", Time: at}
	kv.Metadata.Set("path", "secret/data/<a>")
	kv.Metadata.SetJSON("n", "7")
	trail = event.Event{Type: "tocsin/token-create", Time: at}
	trail.Metadata.Set("operation", "update")
	trail.Metadata.Set("outcome", "refused")
	trail.Metadata.Set("display_name", "root")
	trail.Metadata.Set("remote_address", "10.0.0.1")
	trail.Metadata.Set("provider", "token")
	audit := event.Event{Type: "audit/response", Time: at, DataContentType: "application/json",
		Data: []byte("{\"auth\":{\"display_name\":\"ldap-bob\",\"token_type\":\"service\"},\n\"request\":{\"remote_address\":\"10.0.0.2\"},\"error\":\"permission denied\"}")}
	audit.Metadata.Set("operation", "delete")
	for _, c := range []struct {
		ev   *event.Event
		want string
	}{
		{&kv, `{"version":"0.2","type":"kv-v2/data","action":"updated","metadata":{},"payload":{"n":7,"path":"secret/data/\u003ca\u003e"},"timestamp":"2026-11-27T06:00:00.5Z","status":"success"}`},
		{&trail, `{"version":"0.2","type":"tocsin/token","action":"created","metadata":{"actor":{"authentication":"token","ip":"10.0.0.1","name":"root"}},"payload":{"display_name":"root","operation":"update","outcome":"refused","provider":"token","remote_address":"10.0.0.1"},"timestamp":"2026-11-27T06:00:00.5Z","status":"denied"}`},
		{&audit, `{"version":"0.2","type":"audit/response","action":"deleted","metadata":{"actor":{"authentication":"token","ip":"10.0.0.2","name":"ldap-bob"}},"payload":{"auth":{"display_name":"ldap-bob","token_type":"service"},"request":{"remote_address":"10.0.0.2"},"error":"permission denied"},"timestamp":"2026-11-27T06:00:00.5Z","status":"denied"}`},
		{&event.Event{Type: "app", Time: at}, `{"version":"0.2","type":"app","action":"read","metadata":{},"payload":null,"timestamp":"2026-11-27T06:00:00.5Z","status":"success"}`},
	} {
		e, err := FromEvent(c.ev)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(AppendWebhook(nil, e)); got != c.want {
			t.Errorf(" got %s\nwant %s", got, c.want)
		}
	}
	if _, err := FromEvent(&event.Event{Type: "flipt/flag/created", Data: []byte("{}")}); !errors.Is(err, ErrNotAnEvent) {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range logLines(f)[:10] {
		f.Add(b)
	}
	for _, b := range webhookBodies(f)[:10] {
		f.Add(b)
	}
	f.Add([]byte(`{"version":"0.1","type":"flag","action":"created","metadata":{"actor":{"a":"b","ip":"c","é":"<"}},"payload":{"k":"\u003c\\u003c"},"timestamp":"t"}`))
	f.Add([]byte("t\tAUDIT\t{\"version\": \"0.2\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, object, err := DecodeLine(b)
		if err != nil {
			if !errors.Is(err, ErrNotAnEvent) {
				t.Fatal(err)
			}
			return
		}
		line := AppendLogLine(nil, e)
		if !json.Valid(line) || bytes.ContainsAny(line, "\n\r") {
			t.Fatalf("not a line of JSON: %q", line)
		}
		again, err := Decode(line)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if got := AppendLogLine(nil, again); !bytes.Equal(got, line) {
			t.Fatalf("the log form is not stable:\n%s\n%s", got, line)
		}
		body := AppendWebhook(nil, e)
		if again, err = Decode(body); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if got := AppendLogLine(nil, again); !bytes.Equal(got, line) {
			t.Fatalf("the forms differ:\n%s\n%s", got, line)
		}
		ev, err := ToEvent(object, e, Origin{Server: "x", Now: time.Unix(0, 0)})
		if err != nil {
			return
		}
		if err := event.DefaultLimits.Check(ev); err != nil && !errors.Is(err, event.ErrTooLarge) {
			t.Fatal(err)
		}
	})
}
