package flipt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

var (
	_ Sink   = (*WebhookSink)(nil)
	_ Sink   = (*TemplateSink)(nil)
	_ Sink   = (*LogSink)(nil)
	_ Sender = (*Fanout)(nil)
)

func flagEvent(key string) Event {
	return Event{Version: Version, Type: "flag", Action: "created", Metadata: Metadata{&Actor{Authentication: "none"}},
		Payload: map[string]any{"key": key, "name": "<b>"}, Timestamp: "2026-11-27T06:00:00Z", Status: "success"}
}

const (
	flagJSON    = `{"version":"0.2","type":"flag","action":"created","metadata":{"actor":{"authentication":"none"}},"payload":{"key":"a","name":"\u003cb\u003e"},"timestamp":"2026-11-27T06:00:00Z","status":"success"}`
	flagLog     = `{"version":"0.2","type":"flag","action":"created","status":"success","metadata":{"actor":{"authentication":"none"}},"payload":{"key":"a","name":"<b>"},"timestamp":"2026-11-27T06:00:00Z"}`
	flagConsole = `{"version": "0.2", "type": "flag", "action": "created", "status": "success", "metadata": {"actor":{"authentication":"none"}}, "payload": {"key":"a","name":"<b>"}, "timestamp": "2026-11-27T06:00:00Z"}`
)

// Behaviour 27: the vectors, and every signature that was recorded.
func TestSign(t *testing.T) {
	for body, want := range map[string]string{
		`{"hello": "world"}`: "18140945e2c08976ed68adeb0bf80d2fa695d533957cb0e531812798de6b9fad",
		`{"version":"","type":"flag","action":"create","metadata":{},"payload":null,"timestamp":"","status":""}`: "6bc16d7434cbd746abfd25e3350a3f43fba04883b7f0b83f09bbc373116f84b0",
	} {
		if got := Sign("s3crET", []byte(body)); got != want || !Verify(want, []byte(body), "other", "s3crET") {
			t.Errorf("%s: %s", body, got)
		}
	}
	if got := mustJSON(t, Event{Type: "flag", Action: "create"}); got != `{"version":"","type":"flag","action":"create","metadata":{},"payload":null,"timestamp":"","status":""}` {
		t.Error(got)
	}
	n := 0
	for _, r := range webhooks(t) {
		if sign := r.header(SignatureHeader); sign != "" {
			n++
			if got := Sign("s3crET-recorded", []byte(r.Body)); got != sign || !Verify(sign, []byte(r.Body), "s3crET-recorded") || Verify(sign, []byte(r.Body), "other") {
				t.Errorf("%s of %s", got, r.Body)
			}
		}
	}
	if n != 99 {
		t.Errorf("%d signatures", n)
	}
	for _, bad := range []string{"", "00", "zz", strings.Repeat("0", 64), strings.Repeat("0", 1<<20)} {
		if Verify(bad, []byte("x"), "s") {
			t.Errorf("%.70q is a signature", bad)
		}
	}
	if Verify(Sign("", []byte("x")), []byte("x"), "") {
		t.Error("everybody can sign with an empty secret")
	}
	if Verify(Sign("", []byte("x")), []byte("x")) {
		t.Error("a signature without a secret")
	}
}

// Behaviours 26 to 28 and 30.
func TestWebhookSink(t *testing.T) {
	var got []*http.Request
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, bodies = append(got, r), append(bodies, string(b))
	}))
	defer server.Close()
	for _, secret := range []string{"", "s3crET"} {
		got, bodies = nil, nil
		s, err := NewWebhookSink(WebhookOptions{URL: server.URL + "/x", SigningSecret: secret, Header: http.Header{"x-more": {"1"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SendAudits(t.Context(), []Event{flagEvent("a"), flagEvent("b")}); err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || bodies[0] != flagJSON || got[0].Method != "POST" || got[0].Header.Get("Content-Type") != "application/json" || got[0].Header.Get("X-More") != "1" {
			t.Fatalf("%d requests: %v", len(got), bodies)
		}
		_, signed := got[0].Header[SignatureHeader]
		if signed != (secret != "") || signed && got[1].Header.Get(SignatureHeader) != Sign(secret, []byte(bodies[1])) {
			t.Errorf("secret %q: header %v", secret, got[0].Header)
		}
		if s.String() != "webhook" || s.Close() != nil || s.Close() != nil {
			t.Error("close")
		}
	}
	for _, url := range []string{"", "x", "ftp://x", "http://", "://"} {
		if _, err := NewWebhookSink(WebhookOptions{URL: url}); err == nil {
			t.Errorf("%q is a URL", url)
		}
	}
}

func TestWebhookSinkGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: []func(*http.Request) (*http.Response, error){status(400), status(500), status(500), status(500), status(500), status(500), status(200)}}
		sink, err := NewWebhookSink(WebhookOptions{URL: "http://example.com", SigningSecret: "k", Budget: Attempts(0), Client: &http.Client{Transport: s}})
		if err != nil {
			t.Fatal(err)
		}
		broken := flagEvent("x")
		broken.Payload = func() {}
		err = sink.SendAudits(t.Context(), []Event{flagEvent("a"), broken, flagEvent("b"), flagEvent("c")})
		failed, ok := errors.AsType[*DeliveryError](err)
		if !ok || len(failed.Failures) != 3 || failed.Sink != "webhook" {
			t.Fatal(err)
		}
		for i, want := range []Failure{{Index: 0}, {Index: 1}, {Index: 2, Temporary: true}} {
			if f := failed.Failures[i]; f.Index != want.Index || f.Temporary != want.Temporary || f.Err == nil {
				t.Errorf("%+v", f)
			}
		}
		if !strings.Contains(err.Error(), "failed to send event to webhook") || !strings.Contains(err.Error(), "(and 2 more)") {
			t.Error(err)
		}
		if len(s.bodies) != 7 || !strings.Contains(s.bodies[6], `"c"`) {
			t.Errorf("%v", s.bodies)
		}
		for i := 2; i < 6; i++ { // of one event
			if s.bodies[i] != s.bodies[1] || s.signs[i] != s.signs[1] || s.signs[i] == "" {
				t.Error("an attempt differs from the one before")
			}
		}
	})
	// Once the context has ended, nothing more is tried.
	sink, _ := NewWebhookSink(WebhookOptions{URL: "http://127.0.0.1:1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	failed, ok := errors.AsType[*DeliveryError](sink.SendAudits(ctx, []Event{flagEvent("a"), flagEvent("b")}))
	if !ok || len(failed.Failures) != 2 || !failed.Failures[1].Temporary {
		t.Error(failed)
	}
}

// recordedTemplates are those with which the requests were recorded.
var recordedTemplates = []WebhookTemplate{
	{"http://example.com/a", `{
  "event": "{{.Type}} {{.Action}}",
  "v": "{{.Version}}", "ts": "{{.Timestamp}}", "status": "{{.Status}}",
  "who": {{toJson .Metadata.Actor}},
  "auth": "{{.Metadata.Actor.Authentication}}",
  "payload": {{toJson .Payload}}
}
`, map[string]string{"Authorization": "Bearer t0ken", "X-Custom": "abc"}},
	{"http://example.com/b?x={{.Type}}", `{"t":"{{if eq .Type "flag"}}F{{else}}other{{end}}","len":{{len .Type}},"key":"{{.Payload.key}}"}`, map[string]string{"Content-Type": "text/plain"}},
	{"http://example.com/c", `{"name":"{{.Payload.name}}"}`, map[string]string{"Content-Type": "application/json; charset=utf-8"}},
}

// Behaviours 32 to 34: what real servers sent, from the same templates, is sent.
func TestTemplatesAsRecorded(t *testing.T) {
	for _, verbatim := range []bool{false, true} {
		s := &script{answers: []func(*http.Request) (*http.Response, error){status(200)}}
		sink, err := NewTemplateSink(TemplateOptions{Templates: recordedTemplates, Verbatim: verbatim, Client: &http.Client{Transport: s}})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		var events []Event
		for _, r := range webhooks(t) {
			if r.Scenario != "templates" || r.Flipt != "v1.44.0" {
				continue
			}
			want = append(want, r.Body)
			if r.Path != "/tmpl-a" {
				continue
			}
			var made struct {
				V, TS, Status, Event string
				Who                  Actor
				Payload              map[string]any
			}
			if err := json.Unmarshal([]byte(r.Body), &made); err != nil {
				t.Fatal(err)
			}
			noun, verb, _ := strings.Cut(made.Event, " ")
			events = append(events, Event{made.V, noun, verb, Metadata{&made.Who}, made.Payload, made.TS, made.Status})
		}
		if len(events) != 5 || len(want) != 14 {
			t.Fatal(len(events), len(want))
		}
		err = sink.SendAudits(t.Context(), events)
		got := s.bodies
		if !verbatim { // the name with quotes is sent, which Flipt lost
			if err != nil {
				t.Fatal(err)
			}
			if got[5] != `{"name":"has \"quotes\""}` {
				t.Errorf("%q", got[5])
			}
			got = append(append([]string{}, got[:5]...), got[6:]...)
		} else {
			failed, _ := errors.AsType[*DeliveryError](err)
			if failed == nil || len(failed.Failures) != 1 || failed.Failures[0].Err.Error() != `invalid JSON: {"name":"has "quotes""}` || failed.Failures[0].Temporary {
				t.Fatal(err)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d bodies, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("verbatim %v, %d:\n got %s\nwant %s", verbatim, i, got[i], want[i])
			}
		}
		for i, want := range []string{"application/json", "text/plain", "application/json; charset=utf-8"} {
			if types := s.types[i]; len(types) != 1 || types[0] != want {
				t.Errorf("content types %v, want %s", types, want)
			}
		}
		if sink.String() != "templates" || sink.Close() != nil || sink.Close() != nil {
			t.Error("close")
		}
	}
}

func TestTemplateErrors(t *testing.T) {
	for body, want := range map[string]string{
		`{{`:                         "template: :1: unclosed action",
		`{{nothing}}`:                `template: :1: function "nothing" not defined`,
		`{"a":"{{if .Type}}"{{end}}`: "a text begins or ends only in one branch",
		`{"a":"\{{.Type}}"}`:         "a value stands behind a backslash",
		`{"a":"`:                     "it ends within a text",
		`{{define "x"}}1{{end}}{"a":"{{template "x"}}"}`: "a template stands within a text",
	} {
		_, err := NewTemplateSink(TemplateOptions{Templates: []WebhookTemplate{{URL: "http://x", Body: body}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", body, err)
		}
	}
	if _, err := NewTemplateSink(TemplateOptions{}); err == nil {
		t.Error("no templates")
	}
	if _, err := NewTemplateSink(TemplateOptions{Templates: []WebhookTemplate{{Body: "{}"}}}); err == nil {
		t.Error("no URL")
	}
	// One that fails does not stop the next.
	s := &script{answers: []func(*http.Request) (*http.Response, error){status(200)}}
	sink, err := NewTemplateSink(TemplateOptions{SigningSecret: "k", Client: &http.Client{Transport: s}, Templates: []WebhookTemplate{
		{URL: "http://x", Body: `{"a": {{index .Payload "key" "no"}}}`}, {URL: "http://x", Body: `not JSON`}, {URL: "http://x", Body: `{"a": 1}`}}})
	if err != nil {
		t.Fatal(err)
	}
	err = sink.SendAudits(t.Context(), []Event{flagEvent("a"), flagEvent("b")})
	if failed, ok := errors.AsType[*DeliveryError](err); !ok || len(failed.Failures) != 2 || !strings.Contains(err.Error(), "invalid JSON: not JSON") {
		t.Error(err)
	}
	if len(s.bodies) != 2 || s.signs[0] != Sign("k", []byte(`{"a": 1}`)) {
		t.Errorf("%v %v", s.bodies, s.signs)
	}
}

// Values cannot break out of where they stand.
func TestTemplatesEscape(t *testing.T) {
	nasty := `x","admin":true,"y":"\` + "\n<&>\u2028\x00é"
	for body, want := range map[string]any{
		`{"a":"{{.Payload.key}}"}`:                                        nasty,
		`{"a":{{.Payload.key}}}`:                                          nasty,
		`{"a":"-{{.Payload.key}}-{{len .Type}}"}`:                         "-" + nasty + "-4",
		`{"a":{{toJson .Payload}}}`:                                       map[string]any{"key": nasty, "n": 12.5},
		`{"a":"{{toJson .Payload.n}}"}`:                                   "12.5",
		`{"a":{{.Payload.n}}}`:                                            12.5,
		`{"a":"{{.Payload.n}}"}`:                                          "12.5",
		`{"a":{{.Payload.missing}}}`:                                      nil,
		`{"a":"{{.Payload.missing}}"}`:                                    "<no value>",
		`{"a":{{.Payload}}}`:                                              map[string]any{"key": nasty, "n": 12.5},
		`{"a":{{.Metadata.Actor}}}`:                                       map[string]any{"authentication": "none"},
		`{"a":"{{.Metadata.Actor.Name}}"}`:                                "",
		`{{$x := .Payload.key}}{"a":"{{$x}}"}`:                            nasty,
		`{"a":[{{range $i, $e := .Payload}}{{$e}},{{end}}0]}`:             []any{nasty, 12.5, 0.0},
		`{"a":"\"{{with .Payload.key}}{{.}}{{end}}"}`:                     `"` + nasty,
		`{{define "v"}}"{{.}}"{{end}}{"a":{{template "v" .Payload.key}}}`: nasty,
		`{"a":{{if true}}"{{.Type}}"{{else}}1{{end}}}`:                    "flag",
		`{"a":"{{printf "%s|%d" .Payload.key 7}}"}`:                       nasty + "|7",
	} {
		s := &script{answers: []func(*http.Request) (*http.Response, error){status(200)}}
		sink, err := NewTemplateSink(TemplateOptions{Client: &http.Client{Transport: s}, Templates: []WebhookTemplate{{URL: "http://x", Body: body}}})
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		e := flagEvent("")
		e.Payload = map[string]any{"key": nasty, "n": 12.5}
		if err := sink.SendAudits(t.Context(), []Event{e}); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(s.bodies[0]), &got); err != nil {
			t.Fatalf("%s: %v: %s", body, err, s.bodies[0])
		}
		if len(got) != 1 || mustJSON(t, got["a"]) != mustJSON(t, want) {
			t.Errorf("%s: %s", body, s.bodies[0])
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, t := range recordedTemplates {
		f.Add(t.Body, "key\"")
	}
	f.Add(`{"a":"{{.Payload.key}}","b":{{.Payload.key}}}`, `","x":1`)
	f.Add(`{{with .Payload}}"{{.key}}"{{else}}0{{end}}`, "\\\"\x00\xff")
	fixed, err := NewTemplateSink(TemplateOptions{Templates: []WebhookTemplate{{URL: "http://x", Body: `{"a":"x{{.Payload.key}}y","b":{{.Payload.key}},"c":{{toJson .Payload.key}},"d":"{{toJson .Payload.key}}"}`}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body, value string) {
		e := flagEvent("")
		e.Payload = map[string]any{"key": value}
		made, err := fixed.each[0].execute(&e)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		if err := json.Unmarshal(made, &got); err != nil || len(got) != 4 {
			t.Fatalf("%v: %s", err, made)
		}
		if value = jsonText(t, value); got["a"] != "x"+value+"y" || got["b"] != value || got["c"] != value || jsonText(t, json.RawMessage(got["d"])) != value {
			t.Fatalf("%q became %s", value, made)
		}
		for _, word := range []string{"range", "printf", "template", "define", "block"} { // they make as much as one wants
			if strings.Contains(body, word) {
				return
			}
		}
		sink, err := NewTemplateSink(TemplateOptions{Templates: []WebhookTemplate{{URL: "http://x", Body: body}}})
		if err != nil {
			return
		}
		if made, err := sink.each[0].execute(&e); err == nil && !json.Valid(made) {
			t.Fatalf("not JSON: %s", made)
		}
	})
}

// jsonText returns v as the text that encoding/json makes of it.
func jsonText(t *testing.T, v any) (s string) {
	t.Helper()
	if err := json.Unmarshal([]byte(mustJSON(t, v)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// Behaviours 23 to 25.
func TestLogSink(t *testing.T) {
	dir := t.TempDir()
	const stamp = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)`
	q := regexp.QuoteMeta
	for name, c := range map[string]struct {
		o    LogOptions
		want string
	}{
		"file, json":             {LogOptions{File: filepath.Join(dir, "1", "2", "a.log"), Encoding: "json"}, q(flagLog)},
		"file, console":          {LogOptions{File: filepath.Join(dir, "b.log"), Encoding: "console", ServerEncoding: "json"}, q(flagConsole)},
		"file, that of server":   {LogOptions{File: filepath.Join(dir, "c.log"), ServerEncoding: "json"}, q(flagLog)},
		"file, none":             {LogOptions{File: filepath.Join(dir, "d.log")}, q(flagConsole)},
		"file, synced":           {LogOptions{File: filepath.Join(dir, "e.log"), Encoding: "json", Sync: true}, q(flagLog)},
		"output, json":           {LogOptions{Encoding: "json"}, `\{"T":"` + stamp + `","M":"AUDIT",` + q(flagLog[1:])},
		"output, console":        {LogOptions{Encoding: "console"}, stamp + "\tAUDIT\t" + q(flagConsole)},
		"output, that of server": {LogOptions{ServerEncoding: "console"}, stamp + "\tAUDIT\t" + q(flagConsole)},
	} {
		var out bytes.Buffer
		c.o.Output = &out
		for range 2 { // it is appended to
			s, err := NewLogSink(c.o)
			if err != nil {
				t.Fatal(name, err)
			}
			if err := s.SendAudits(t.Context(), []Event{flagEvent("a")}); err != nil {
				t.Fatal(name, err)
			}
			if s.String() != "log" || s.Close() != nil || s.Close() != nil {
				t.Error(name, "close")
			}
			if err := s.SendAudits(t.Context(), []Event{flagEvent("a")}); err == nil {
				t.Error(name, "a closed log takes events")
			}
			if s.Reopen() == nil {
				t.Error(name, "a closed log was opened again")
			}
		}
		text := out.String()
		if c.o.File != "" {
			b, err := os.ReadFile(c.o.File)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if !regexp.MustCompile("^(" + c.want + "\n){2}$").MatchString(text) {
			t.Errorf("%s: %s", name, text)
		}
		for line := range strings.Lines(text) {
			if e, err := Decode([]byte(line)); err != nil || e.Type != "flag" {
				t.Errorf("%s: cannot be read back: %v", name, err)
			}
		}
	}
	if _, err := NewLogSink(LogOptions{Encoding: "xml"}); err == nil {
		t.Error("xml")
	}
	if _, err := NewLogSink(LogOptions{File: dir}); err == nil {
		t.Error("a directory")
	}
	if _, err := NewLogSink(LogOptions{File: filepath.Join(dir, "b.log", "x")}); err == nil {
		t.Error("below a file")
	}
}

func TestLogSinkIsReopened(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.log")
	s, err := NewLogSink(LogOptions{File: file, Encoding: "json"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	send := func() {
		if err := s.SendAudits(t.Context(), []Event{flagEvent("a")}); err != nil {
			t.Fatal(err)
		}
	}
	send()
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	send()
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	send()
	for name, want := range map[string]int{file: 1, file + ".1": 2} {
		if b, _ := os.ReadFile(name); bytes.Count(b, []byte("\n")) != want {
			t.Errorf("%s: %s", name, b)
		}
	}
}

// tearing is a writer that fails within the first line.
type tearing struct {
	bytes.Buffer
	failed bool
}

func (w *tearing) Write(b []byte) (int, error) {
	if !w.failed {
		w.failed = true
		n, _ := w.Buffer.Write(b[:10])
		return n, errors.New("disk full")
	}
	return w.Buffer.Write(b)
}

// Errors of writing are returned, and a torn line does not spoil the next.
func TestLogSinkTellsErrors(t *testing.T) {
	w := new(tearing)
	s, err := NewLogSink(LogOptions{Output: w, Encoding: "json"})
	if err != nil {
		t.Fatal(err)
	}
	err = s.SendAudits(t.Context(), []Event{flagEvent("a"), flagEvent("b")})
	failed, ok := errors.AsType[*DeliveryError](err)
	if !ok || len(failed.Failures) != 1 || !failed.Failures[0].Temporary || !strings.Contains(err.Error(), "disk full") {
		t.Fatal(err)
	}
	lines := strings.Split(w.String(), "\n")
	if e, err := Decode([]byte(lines[1])); err != nil || e.Payload.(map[string]any)["key"] != "b" {
		t.Errorf("%v %q", err, w.String())
	}
}

// Behaviour 19 for all of them: Close may run beside SendAudits.
func TestCloseWhileSending(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	hook, err := NewWebhookSink(WebhookOptions{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := NewTemplateSink(TemplateOptions{Templates: []WebhookTemplate{{URL: server.URL, Body: "{}"}}})
	if err != nil {
		t.Fatal(err)
	}
	log, err := NewLogSink(LogOptions{File: filepath.Join(t.TempDir(), "a")})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Sink{hook, tmpl, log} {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() { _ = s.SendAudits(t.Context(), []Event{flagEvent("a"), flagEvent("b")}) })
			all.Go(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}
