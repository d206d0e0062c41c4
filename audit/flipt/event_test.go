package flipt

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// recorded are requests and log lines of real Flipt servers.
const recorded = "../../internal/fliptevent/testdata/"

type request struct {
	Method, Path, Body, Scenario, Flipt string
	Headers                             [][2]string
}

func (r *request) header(name string) string {
	for _, h := range r.Headers {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

func readLines(t testing.TB, name string) (all []string) {
	t.Helper()
	f, err := os.Open(recorded + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		all = append(all, s.Text())
	}
	if len(all) == 0 || s.Err() != nil {
		t.Fatal(name, s.Err())
	}
	return all
}

func webhooks(t testing.TB) (all []request) {
	t.Helper()
	for _, line := range readLines(t, "webhooks.jsonl") {
		var r request
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// bodies are those that were posted without a template.
func bodies(t testing.TB) (all []request) {
	for _, r := range webhooks(t) {
		if r.Method == "POST" && !strings.HasPrefix(r.Path, "/tmpl") {
			all = append(all, r)
		}
	}
	return all
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Behaviours 1, 26, 42: the JSON is that of Flipt, byte for byte, through the types of this
// package, whether it was read by this package or by encoding/json.
func TestRecordedEventsKeepTheirBytes(t *testing.T) {
	all := bodies(t)
	if len(all) != 208 {
		t.Errorf("%d bodies", len(all))
	}
	for _, r := range all {
		e, err := Decode([]byte(r.Body))
		if err != nil {
			t.Fatal(err)
		}
		if got := mustJSON(t, &e); got != r.Body {
			t.Fatalf(" got %s\nwant %s", got, r.Body)
		}
		var plain Event
		if err := json.Unmarshal([]byte(r.Body), &plain); err != nil {
			t.Fatal(err)
		}
		if got := mustJSON(t, plain); got != r.Body {
			t.Fatalf(" got %s\nwant %s", got, r.Body)
		}
		if !e.Valid() {
			t.Errorf("not valid: %s", r.Body)
		}
	}
	for _, line := range append(readLines(t, "log.jsonl"), readLines(t, "kafka-log.jsonl")...) {
		e, err := Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.AppendLogLine(nil)
		if err != nil || string(got) != line {
			t.Fatalf("%v\n got %s\nwant %s", err, got, line)
		}
	}
}

// Behaviours 1 to 6, 39.
func TestNewEvent(t *testing.T) {
	for _, c := range []struct {
		r                    Request
		typ, action, payload string
	}{
		{Request{Resource: ResourceFlag, Subject: SubjectVariant, Action: ActionCreate, Status: StatusSuccess}, "variant", "created", `{"a":1}`},
		{Request{Resource: ResourceFlag, Action: ActionUpdate, Status: StatusDenied}, "flag", "updated", `null`},
		{Request{Resource: ResourceAuthentication, Subject: SubjectToken, Action: ActionDelete}, "token", "deleted", `null`},
		{Request{Resource: ResourceAuthentication, Action: ActionRead}, "authentication", "read", `null`},
		{Request{Resource: "order", Action: "ship"}, "order", "read", `null`},
	} {
		var payload any
		if c.payload != "null" {
			payload = json.RawMessage(c.payload)
		}
		e := NewEvent(c.r, nil, payload)
		if e.Version != "0.2" || e.Type != c.typ || e.Action != c.action || e.Status != string(c.r.Status) || e.Pair() != c.typ+":"+c.action {
			t.Errorf("%+v", e)
		}
		at, err := time.Parse(time.RFC3339, e.Timestamp)
		if err != nil || time.Since(at) > time.Minute {
			t.Errorf("timestamp %q: %v", e.Timestamp, err)
		}
		want := `{"version":"0.2","type":"` + c.typ + `","action":"` + c.action + `","metadata":{},"payload":` + c.payload +
			`,"timestamp":"` + e.Timestamp + `","status":"` + string(c.r.Status) + `"}`
		if got := mustJSON(t, e); got != want {
			t.Errorf(" got %s\nwant %s", got, want)
		}
		if !e.Valid() {
			t.Error("not valid")
		}
	}
	e := NewEvent(Request{Resource: ResourceFlag, Action: ActionCreate}, &Actor{Authentication: "oidc", Email: "a@b"}, nil)
	if got := mustJSON(t, e.Metadata); got != `{"actor":{"authentication":"oidc","email":"a@b"}}` {
		t.Error(got)
	}
	if got := mustJSON(t, Metadata{Actor: new(Actor)}); got != `{"actor":{}}` {
		t.Error(got)
	}
}

func TestValid(t *testing.T) {
	good := Event{Version: "0.1", Type: "flag", Action: "created", Timestamp: "2026-11-27T06:00:00Z"}
	if !good.Valid() {
		t.Error("payload and status are not required")
	}
	for name, change := range map[string]func(e *Event){
		"version": func(e *Event) { e.Version = "" }, "type": func(e *Event) { e.Type = "" },
		"action": func(e *Event) { e.Action = "" }, "timestamp": func(e *Event) { e.Timestamp = "" },
	} {
		e := good
		change(&e)
		if e.Valid() {
			t.Errorf("valid without %s", name)
		}
	}
	if (*Event)(nil).Valid() {
		t.Error("nil is valid")
	}
}

func TestDecodeOldEvents(t *testing.T) {
	e, err := Decode([]byte(`{"version":"0.1","type":"flag","action":"created","metadata":{"actor":{"authentication":"oidc","io.flipt.auth.oidc.email":"a@b.c","ip":"10.0.0.1"}},"payload":{"key":"k"},"timestamp":"2023-06-01T00:00:00Z"}`))
	if err != nil {
		t.Fatal(err)
	}
	if a := e.Metadata.Actor; *a != (Actor{Authentication: "oidc", IP: "10.0.0.1", Email: "a@b.c"}) {
		t.Errorf("%+v", a)
	}
	if _, err := Decode([]byte(`{"version":"0.2","type":"flag"}`)); !errors.Is(err, ErrNotValid) {
		t.Error(err)
	}
}

func TestPayloadToMap(t *testing.T) {
	for _, c := range []struct {
		payload any
		want    map[string]any
		fails   bool
	}{
		{nil, map[string]any{}, false},
		{json.RawMessage("null"), map[string]any{}, false},
		{&Distribution{ID: "i", Rollout: 33.33}, map[string]any{"id": "i", "rollout": 33.33, "rule_id": "", "variant_id": ""}, false},
		{map[string]any{"n": 9007199254740993, "f": 1.5, "i": 7, "l": []int{1}}, map[string]any{"n": json.Number("9007199254740993"), "f": 1.5, "i": 7.0, "l": []any{1.0}}, false},
		{"text", nil, true},
		{[]int{1}, nil, true},
		{math.NaN(), nil, true},
	} {
		got, err := (&Event{Payload: c.payload}).PayloadToMap()
		if (err != nil) != c.fails || !c.fails && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %v %v", c.payload, got, err)
		}
	}
}

func TestCopyInto(t *testing.T) {
	e := Event{Version: "0.2", Metadata: Metadata{Actor: &Actor{IP: "1"}}, Payload: []int{1}}
	var out Event
	e.CopyInto(&out)
	if out.Metadata.Actor != e.Metadata.Actor || out.Version != "0.2" {
		t.Errorf("%+v", out)
	}
}

func TestGeneric(t *testing.T) {
	payload := &Segment{Key: "<s>"}
	e := Event{Payload: payload}
	g, err := e.Generic()
	if err != nil {
		t.Fatal(err)
	}
	payload.Key = "changed"
	if m := g.Payload.(map[string]any); m["key"] != "<s>" || len(m["constraints"].([]any)) != 0 {
		t.Errorf("%v", m)
	}
	if _, err := (&Event{Payload: func() {}}).Generic(); err == nil {
		t.Error("a function became a payload")
	}
	if _, err := DecodePayload([]byte(`{} {}`)); err == nil {
		t.Error("two payloads")
	}
}

// Behaviour 14, for slog.
func TestLogValue(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return a
	}}))
	e := &Event{Version: "0.2", Type: "flag", Action: "created", Status: "success", Timestamp: "t",
		Metadata: Metadata{Actor: &Actor{Authentication: "none"}}, Payload: &Namespace{Key: "k"}}
	log.Info("AUDIT", "event", e)
	want := `{"event":{"version":"0.2","type":"flag","action":"created","status":"success","metadata":{"actor":{"authentication":"none"}},"payload":{"description":"","key":"k","name":"","protected":false},"timestamp":"t"}}` + "\n"
	if b.String() != want {
		t.Errorf(" got %s\nwant %s", b.String(), want)
	}
	b.Reset()
	log.Info("", "event", &Event{Payload: math.Inf(1)}, "none", (*Event)(nil))
	if !strings.Contains(b.String(), `"payload":"!ERROR`) {
		t.Error(b.String())
	}
}

func FuzzDecode(f *testing.F) {
	for _, r := range bodies(f)[:20] {
		f.Add([]byte(r.Body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil {
			return
		}
		if !e.Valid() {
			t.Fatal("decoded, but not valid")
		}
		out, err := json.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(out)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v\n%+v", e, again)
		}
	})
}

// With log/slog an event is the same as a value and as a pointer, and text is as readable as JSON.
func TestLogValueAsText(t *testing.T) {
	e := Event{Version: "0.2", Type: "flag", Action: "created", Metadata: Metadata{Actor: &Actor{Name: "<Bob>"}}, Payload: &Token{Name: "ci"}, Timestamp: "2026-11-27T06:00:00Z"}
	for name, v := range map[string]any{"value": e, "pointer": &e} {
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "event", v)
		for _, want := range []string{
			` event.version=0.2 event.type=flag event.action=created event.status="" `,
			` event.metadata.actor="{\"name\":\"<Bob>\"}" event.payload="{\"io.flipt.auth.token.name\":\"ci\"}" `,
		} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: %s has no %s", name, b.String(), want)
			}
		}
	}
}
