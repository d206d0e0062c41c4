package app

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
)

// TestTemplateSink makes sinks of type template from their definitions: templates are tried
// on the types that the sink selects.
func TestTemplateSink(t *testing.T) {
	bodies := make(chan string, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- r.Method + " " + r.URL.Path + " " + r.Header.Get("X-Type") + " " + string(body)
	}))
	defer receiver.Close()
	a, err := New(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()

	for name, test := range map[string]struct{ text, want string }{
		"works":    {`events: {types: [kv-v2/*]}, template: {url: "URL/{{.Type}}", headers: [{name: X-Type, value: "{{.Type}}"}], allow: [127.0.0.1], body: '{"v": {{.Metadata.operation}}}'}`, ""},
		"missing":  {`events: {types: [kv-v2/*]}, template: {url: "URL", allow: [127.0.0.1], body: '{"v": {{.Metadata.current_version}}}'}`, "kv-v2/config-write: body, line 1, column 7, at {{.Metadata.current_version}}: the value is missing"},
		"one type": {`events: {types: [kv-v2/data-write]}, template: {url: "URL", allow: [127.0.0.1], body: '{"v": {{.Metadata.current_version}}}'}`, ""},
		"filter":   {`events: {types: [kv-v2/*], filter: 'operation == "data-patch"'}, template: {url: "URL", allow: [127.0.0.1], body: '{"v": {{.Metadata.current_version}}}'}`, ""},
		"all":      {`template: {url: "URL", allow: [127.0.0.1], preset: slack}`, ""},
		"inside":   {`template: {url: "URL", preset: slack}`, "127.0.0.1"},
	} {
		c, err := config.Parse("t.yaml", []byte("sinks: [{name: a, type: template, "+strings.ReplaceAll(test.text, "URL", receiver.URL)+"}]\n"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sink, err := a.makeSink(c.Sinks[0], manager.File)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s\n got %v\nwant %s", name, err, test.want)
		}
		if err != nil {
			continue
		}
		if name == "works" {
			e := &event.Event{ID: "1", Type: "kv-v2/data-write", Source: "s", Metadata: event.Fields{{Key: "operation", Value: `a"b`}}}
			if r := sink.Send(t.Context(), &deliver.Batch{Attempt: 1, Items: []deliver.Item{{Event: e}}}); r.Outcome != deliver.Delivered {
				t.Errorf("%+v", r)
			} else if got, want := <-bodies, `POST /kv-v2/data-write kv-v2/data-write {"v": "a\"b"}`; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		sink.Close()
	}
}

// TestOTLPLogsSink makes sinks of type otlp_logs from their definitions.
func TestOTLPLogsSink(t *testing.T) {
	contentTypes := make(chan string, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		contentTypes <- r.URL.Path + " " + r.Header.Get("Content-Type") + " " + r.Header.Get("Content-Encoding") + " " + r.Header.Get("X-Key")
	}))
	defer receiver.Close()
	a := &App{version: "1"}
	for text, want := range map[string]string{
		`url: "URL"`: "/v1/logs application/x-protobuf gzip ",
		`url: "URL/x", encoding: json, compression: none, headers: [{name: X-Key, value: v}]`: "/x application/json  v",
	} {
		c, err := config.Parse("t.yaml", []byte("sinks: [{name: a, type: otlp_logs, otlp_logs: {"+strings.ReplaceAll(text, "URL", receiver.URL)+"}}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		sink, err := a.makeSink(c.Sinks[0], manager.File)
		if err != nil {
			t.Fatal(err)
		}
		e := &event.Event{ID: "1", Type: "kv-v2/data-write", Source: "s"}
		if r := sink.Send(t.Context(), &deliver.Batch{Attempt: 1, Items: []deliver.Item{{Event: e}}}); r.Outcome != deliver.Delivered {
			t.Errorf("%+v", r)
		} else if got := <-contentTypes; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		sink.Close()
	}
}
