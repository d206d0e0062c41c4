package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// logged returns what becomes of an event.
func logged(t *testing.T, o Options, e Event) (Event, string, error) {
	t.Helper()
	s := newMemorySink()
	o.Outputs = []Output{quick("own", s)}
	l := newLogger(t, o)
	if err := l.Log(t.Context(), e); err != nil {
		return Event{}, "", err
	}
	flush(t, l)
	if len(s.events) != 1 {
		t.Fatalf("%d events", len(s.events))
	}
	text, err := s.events[0].MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if n := l.Stats().Truncated; (n > 0) != (len(s.events[0].Truncated) > 0) {
		t.Errorf("%d are counted as truncated: %+v", n, s.events[0].Truncated)
	}
	return s.events[0], string(text), nil
}

func truncatedPaths(e Event) string {
	var paths []string
	for _, t := range e.Truncated {
		paths = append(paths, fmt.Sprintf("%s %d", t.Path, t.Bytes))
	}
	return strings.Join(paths, ", ")
}

// What is too large is left out, the largest first, and that is said.
func TestTruncate(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	hostile := strings.Repeat("\x01", 5000)
	good := Event{Action: "create", Target: Target{Type: "order", ID: "7"}}
	for _, c := range []struct {
		name   string
		change func(*Event)
		want   string
	}{
		{"nothing", func(e *Event) {}, ""},
		{"payload", func(e *Event) { e.Payload = long(20_000) }, "/payload 20002"},
		{"the largest goes first", func(e *Event) { e.Payload, e.Before, e.After = long(10_000), long(1000), long(11_000) }, "/after 11002"},
		{"and then the next", func(e *Event) { e.Payload, e.Before, e.After = long(9000), long(9500), long(9900) }, "/after 9902, /before 9502"},
		{"changes, too", func(e *Event) {
			e.Changes = new(Changes)
			for i := range 200 {
				e.Changes.Added = append(e.Changes.Added, "/"+long(200)+fmt.Sprint(i))
			}
		}, "/changes 41301"},
		{"texts are cut", func(e *Event) { e.Actor.UserAgent, e.Reason = long(1025), long(3000) }, "/reason 3000, /actor/user_agent 1025"},
		{"what users of the service choose never keeps an event out", func(e *Event) {
			e.Target.ID, e.Target.Path, e.Target.Name, e.Reason, e.RequestID = hostile, hostile, hostile, hostile, hostile
			e.Actor = Actor{hostile, hostile, hostile, hostile, hostile, hostile, hostile, slices.Repeat([]string{hostile}, 100)}
			e.Payload = hostile
		}, "..."},
		{"metadata", func(e *Event) {
			e.Metadata = map[string]string{"a": long(3000), "b": "1", long(200): "2"}
		}, "/metadata/a 3000, /metadata 3204"},
		{"many metadata", func(e *Event) {
			e.Metadata = make(map[string]string)
			for i := range 100 {
				e.Metadata[fmt.Sprint("key", i)] = "x"
			}
		}, "/metadata 590"},
		{"roles", func(e *Event) { e.Actor.Roles = slices.Repeat([]string{"r"}, 33) }, "/actor/roles 33"},
		{"a namespace is whole or not there", func(e *Event) { e.Target.Namespace = long(600) }, "/target/namespace 600"},
		{"nor is what has spaces", func(e *Event) { e.Target.Namespace = "a b" }, "/target/namespace 3"},
		{"a malformed traceparent", func(e *Event) { e.Traceparent, e.Tracestate = "00-x", "a=b" }, "/traceparent 4, /tracestate 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := good
			c.change(&e)
			got, text, err := logged(t, Options{MaxEventBytes: MinEventBytes}, e)
			if err != nil {
				t.Fatal(err)
			}
			if paths := truncatedPaths(got); paths != c.want && (c.want != "..." || paths == "") {
				t.Errorf("truncated %s, want %s", paths, c.want)
			}
			if len(text) > MinEventBytes+64 {
				t.Errorf("%d bytes", len(text))
			}
			if _, _, err := logged(t, Options{MaxEventBytes: MinEventBytes, Oversize: Refuse}, e); (err != nil) != (c.want != "" && !strings.Contains(c.want, "namespace") && !strings.Contains(c.want, "trace")) {
				t.Errorf("when it is to be refused: %v", err)
			} else if err != nil && !errors.Is(err, ErrTooLarge) {
				t.Error(err)
			}
		})
	}
}

func TestRedaction(t *testing.T) {
	e := Event{
		Action: "update", Target: Target{Type: "user", ID: "AKIAABCDEFGHIJKLMNOP"}, Reason: "Bearer abcdefghijklmnop1234567890",
		Metadata: map[string]string{"client_secret": "hunter22", "note": "ghp_abcdefghijklmnopqrstuvwxyz0123456789", "plan": "gold", "SSN": "078-05-1120"},
		Before:   json.RawMessage(`{"password":"old one","list":[{"api_key":"k3y-k3y-k3y"},"x\u0041"],"ssn":{"a":1},"n":1.50,"AKIAABCDEFGHIJKLMNOP":true}`),
		After:    map[string]any{"password": "new one", "ssn": []int{1}, "n": 2, "token_count": 5, "url": "https://u:p4ss@h/"},
	}
	_, text, err := logged(t, Options{Redact: Redaction{Names: []string{"ssn"}}}, e)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"AKIA", "hunter22", "ghp_", "078-05-", "old one", "new one", "k3y", "p4ss", "Bearer abc"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is there: %s", secret, text)
		}
	}
	for _, kept := range []string{`"plan":"gold"`, `"n":1.50`, `"token_count":5`, `x\u0041`, `"ssn":"<masked:name>"`, `"/password"`, `"list":[{"api_key":"<masked:secret-name>"}`} {
		if !strings.Contains(text, kept) {
			t.Errorf("%s is not there: %s", kept, text)
		}
	}
	_, text, err = logged(t, Options{Redact: Redaction{Names: []string{"ssn"}, Off: true}}, e)
	if err != nil || !strings.Contains(text, "hunter22") || !strings.Contains(text, "old one") || strings.Contains(text, "078-05-") {
		t.Errorf("%s, %v", text, err)
	}
	if e.Metadata["client_secret"] != "hunter22" {
		t.Error("the map of the caller was changed")
	}
	_, text, err = logged(t, Options{OnlyChanges: true}, e)
	if err != nil || strings.Contains(text, `"before"`) || strings.Contains(text, `"after"`) || !strings.Contains(text, `"changed":["/n","/password"`) {
		t.Errorf("%s, %v", text, err)
	}
}

// A namespace that cannot be kept does not make an event visible to those of the root namespace.
func TestMessage(t *testing.T) {
	e := Event{ID: "1", Service: "shop", Action: "a", Outcome: Success, Time: time.Now(), Target: Target{Type: "t", ID: "7", Namespace: "team-a"}}
	if m := message("x", &e, nil); m.Namespace != "team-a/" || m.Path != "t/7" || m.Type != "shop/t/a" {
		t.Errorf("%+v", m)
	}
	e.Target.Namespace, e.Truncated = "", []Truncation{{"/target/namespace", 600}}
	if m := message("x", &e, nil); m.Path != "" {
		t.Errorf("%+v", m)
	}
	// Whatever is in an event, the message is one that hubs take.
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		e := anyEvent(r)
		e.Target.Namespace = "ok"
		e.Metadata = map[string]string{anyText(r): anyText(r), "path": "mine", "operation": "mine", "modified": "x"}
		m := message("audit://x/y", &e, []byte("{}"))
		if err := messageLimits.Check(m); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if op, _ := m.Metadata.Text("operation"); op != "create" {
			t.Fatal("metadata of the user replaces that of the event")
		}
	}
}

func TestDiff(t *testing.T) {
	type state struct {
		A int            `json:"a"`
		B []string       `json:"b,omitempty"`
		C map[string]any `json:"c~/d,omitempty"`
	}
	for _, c := range []struct {
		before, after           any
		added, removed, changed string
	}{
		{nil, nil, "", "", ""},
		{1, 2, "", "", "."},
		{state{A: 1}, state{A: 1}, "", "", ""},
		{state{A: 1, B: []string{"x", "y"}}, state{A: 2, B: []string{"x", "z", "w"}}, "/b/2", "", "/a /b/1"},
		{state{B: []string{"x", "y"}}, state{B: []string{"x"}}, "", "/b/1", ""},
		{state{C: map[string]any{"x": 1, "y": nil}}, state{C: map[string]any{"y": nil, "z": 1}}, "/c~0~1d/z", "/c~0~1d/x", ""},
		{map[string]any{"a": map[string]any{}}, map[string]any{"a": []any{}}, "", "", "/a"},
		{map[string]any{"a": []any{}}, map[string]any{"a": 1}, "", "", "/a"},
		{map[string]any{"a": 1}, map[string]any{"a": map[string]any{"b": 1}}, "", "", "/a"},
		{nil, state{}, "", "", "."},
		{json.RawMessage(`{"a":12345678901234567890}`), json.RawMessage(`{"a":12345678901234567891}`), "", "", "/a"},
	} {
		got, err := Diff(c.before, c.after)
		if err != nil {
			t.Fatal(err)
		}
		show := func(paths []string) string {
			s := strings.Join(paths, " ")
			if len(paths) == 1 && s == "" {
				s = "."
			}
			return s
		}
		if show(got.Added) != c.added || show(got.Removed) != c.removed || show(got.Changed) != c.changed || got.Empty() != (c.added+c.removed+c.changed == "") {
			t.Errorf("%+v and %+v: %+v", c.before, c.after, got)
		}
	}
	many := make(map[string]int)
	for i := range MaxChanges + 7 {
		many[fmt.Sprint(i)] = i
	}
	if got, err := Diff(map[string]int{}, many); err != nil || len(got.Added) != MaxChanges || got.More != 7 {
		t.Errorf("%d, %d more, %v", len(got.Added), got.More, err)
	}
	deep := func(n int, v any) (x any) {
		for x = v; n > 0; n-- {
			x = []any{x}
		}
		return x
	}
	if got, err := Diff(deep(500, 1), deep(500, 2)); err != nil || len(got.Changed) != 1 || strings.Count(got.Changed[0], "/") != MaxDiffDepth {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Diff(make(chan int), 1); err == nil {
		t.Error("a channel is compared")
	}
}

// FuzzDiff: what is told is what differs.
func FuzzDiff(f *testing.F) {
	f.Add(`{"a":[1,{"b":null}]}`, `{"a":[2,{"c":"x"}],"":1}`)
	f.Add(`[]`, `{}`)
	f.Fuzz(func(t *testing.T, a, b string) {
		before, err1 := decodeTree([]byte(a))
		after, err2 := decodeTree([]byte(b))
		if err1 != nil || err2 != nil {
			return
		}
		d := diffTrees(before, after)
		if d.Empty() != reflect.DeepEqual(before, after) {
			t.Errorf("%s and %s: %+v", a, b, d)
		}
		back := diffTrees(after, before)
		if !slices.Equal(d.Added, back.Removed) || !slices.Equal(d.Removed, back.Added) || !slices.Equal(d.Changed, back.Changed) {
			t.Errorf("%s and %s: %+v, the other way round %+v", a, b, d, back)
		}
	})
}

// FuzzRedact: what is left is valid, and has the same shape.
func FuzzRedact(f *testing.F) {
	r, err := newRedactor(Redaction{Names: []string{"ssn"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"password":"hunter22","ssn":{"a":[1]},"x":["AKIAABCDEFGHIJKLMNOP",{"a\"b":-1.5e3}],"y":{},"z":[]}`)
	f.Add(`"hvs.abcdefghijklmnopqrstuvwxyz"`)
	f.Add(`{"ssn":12,"a":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) {
			return
		}
		raw, err := encode(json.RawMessage(text))
		if err != nil {
			t.Fatal(err)
		}
		once := r.json(raw)
		if !json.Valid(once) {
			t.Fatalf("%s became %s", raw, once)
		}
		if twice := r.json(once); string(twice) != string(once) {
			t.Errorf("%s became %s, and that %s", raw, once, twice)
		}
	})
}
