package template

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

func loopback(t testing.TB) outbound.Options {
	t.Helper()
	guard, err := outbound.NewGuard("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return outbound.Options{Guard: guard, UserAgent: "tocsin/test", Timeout: 5 * time.Second}
}

func fixed(s string) outbound.Secret { return func() (string, error) { return s, nil } }

// received is a request as it arrived.
type received struct {
	method, url string
	header      http.Header
	body        []byte
}

type server struct {
	*httptest.Server
	mu       sync.Mutex
	status   int
	answer   string
	requests []received
}

func newServer(t testing.TB) *server {
	s := &server{status: 200}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, received{r.Method, r.URL.String(), r.Header, body})
		w.WriteHeader(s.status)
		io.WriteString(w, s.answer)
	}))
	t.Cleanup(s.Close)
	return s
}

func sampleEvent() *event.Event {
	e := &event.Event{
		ID: "0190a1b2-0000-7000-8000-000000000001", Type: "kv-v2/data-write", Source: "vault://prod", Path: "secret/data/app/db", Namespace: "team-a/",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Metadata: event.Fields{},
		Data: []byte(`{"a":[1,2.50,12345678901234567890],"b":null}`), DataContentType: "application/json",
	}
	e.Metadata.Set("path", e.Path)
	e.Metadata.Set("operation", "data-write")
	e.Metadata.Set("display_name", `userpass-"bob"`)
	e.Metadata.SetJSON("count", "3")
	return e
}

func batch(events ...*event.Event) *deliver.Batch {
	b := &deliver.Batch{Attempt: 2, Replay: "r1"}
	for _, e := range events {
		b.Items = append(b.Items, deliver.Item{Event: e})
	}
	return b
}

func TestSend(t *testing.T) {
	s := newServer(t)
	private, public := standardwebhooks.NewKeyPair()
	sink, err := New(Options{
		URL: s.URL + "/hooks/{{.Type}}?path={{.Path}}", Connection: loopback(t),
		Method:  `{{if eq .Metadata.operation "data-write"}}PUT{{else}}POST{{end}}`,
		Headers: []Header{{"x-type", "{{.Type}}; n={{.Metadata.count}}"}},
		Body: `{"what": {{.Type}}, "who": "by {{.Metadata.display_name}}", "n": {{.Metadata.count}}, "data": {{.Data}}, "attempt": {{.Attempt}}, "replay": {{.Replay}},
			"first": {{index .Data.a 0}}, "text": {{.DataText}}, "time": {{.Time}}, "event": {{.}}, "recorded": {{.Recorded | default "no"}}, "plugin": {{if .Plugin}}1{{else}}0{{end}} }`,
		SigningKeys: []outbound.Secret{fixed(private)}, Samples: []*event.Event{sampleEvent()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if r := sink.Send(t.Context(), batch(sampleEvent(), sampleEvent())); r.Outcome != deliver.Delivered {
		t.Fatal(r)
	}
	if len(s.requests) != 2 {
		t.Fatal(len(s.requests))
	}
	r := s.requests[0]
	if r.method != "PUT" || r.url != "/hooks/kv-v2%2Fdata-write?path=secret%2Fdata%2Fapp%2Fdb" || r.header.Get("X-Type") != "kv-v2/data-write; n=3" || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("%+v", r)
	}
	want := `{"what": "kv-v2/data-write", "who": "by userpass-\"bob\"", "n": 3, "data": {"a":[1,2.5,12345678901234567890],"b":null}, "attempt": 2, "replay": "r1",
			"first": 1, "text": "{\"a\":[1,2.50,12345678901234567890],\"b\":null}", "time": "2026-01-02T03:04:05Z", "event": ` + string(event.AppendCloudEvent(nil, sampleEvent(), "")) + `, "recorded": "no", "plugin": 0 }`
	if string(r.body) != want {
		t.Errorf("got  %s\nwant %s", r.body, want)
	}
	key, err := standardwebhooks.ParseKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := standardwebhooks.Verify([]standardwebhooks.Key{key}, r.header, r.body, time.Now(), 0); err != nil {
		t.Error(err)
	}
	if r.header.Get("Webhook-Id") != sampleEvent().ID || r.header.Get("Tocsin-Attempt") != "2" || r.header.Get("Tocsin-Replay") != "r1" {
		t.Error(r.header)
	}
}

// TestOutcomes: of several events each has its result.
func TestOutcomes(t *testing.T) {
	s := newServer(t)
	sink, err := New(Options{URL: s.URL, Connection: loopback(t), Body: `{"a": {{.Metadata.a}}}`})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	good, bad := sampleEvent(), sampleEvent()
	good.Metadata.Set("a", "x")
	r := sink.Send(t.Context(), batch(bad))
	if want := "body, line 1, column 7, at {{.Metadata.a}}: the value is missing; write {{default \"\" ...}} to have something else then"; r.Outcome != deliver.Impossible || r.Reason != want {
		t.Errorf("%+v", r)
	}
	if r := sink.Send(t.Context(), batch(good, bad, good)); r.Outcome != deliver.Delivered || len(s.requests) != 2 {
		t.Errorf("%+v, %d requests", r, len(s.requests))
	}
	s.status, s.answer = 503, "later"
	if r := sink.Send(t.Context(), batch(good, good)); r.Outcome != deliver.Retry || len(s.requests) != 3 {
		t.Errorf("%+v, %d requests", r, len(s.requests))
	}
	s.status, s.answer = 400, "invalid_payload"
	if r := sink.Send(t.Context(), batch(good)); r.Outcome != deliver.Refused || !strings.Contains(r.Reason, "invalid_payload") {
		t.Errorf("%+v", r)
	}
}

func TestRefusedOptions(t *testing.T) {
	missing := func() (string, error) { return "", fmt.Errorf("read secret: no such file") }
	for name, c := range map[string]struct {
		options Options
		want    string
	}{
		"no url":         {Options{Body: "1"}, "has no url; write where events go"},
		"both urls":      {Options{URL: "https://example.com", SecretURL: fixed("https://example.com"), Body: "1"}, "leave one out"},
		"host":           {Options{URL: "https://{{.Type}}/", Body: "1"}, "the host of a URL must not depend on an event"},
		"inside":         {Options{URL: "http://10.0.0.1/{{.Type}}", Body: "1"}, "10.0.0.1"},
		"inside, fixed":  {Options{URL: "http://169.254.169.254/", Body: "1"}, "169.254.169.254"},
		"dots":           {Options{URL: "https://example.com/a/../b", Body: "1"}, "has a . or .. in its path"},
		"dots of values": {Options{URL: `https://example.com/{{print "." "."}}/b`, Body: "1"}, "has a . or .. in its path"},
		"no body":        {Options{URL: "https://example.com"}, "has no body; write one"},
		"broken body":    {Options{URL: "https://example.com", Body: `{"a": {{.Type}`}, "body, line 1: bad character"},
		"wrong field":    {Options{URL: "https://example.com", Body: `{{.Nothing}}`}, "can't evaluate field Nothing"},
		"not JSON":       {Options{URL: "https://example.com", Body: `[{{.Type}},]`}, "kv-v2/data-write: body: what it makes cannot be sent: it is not valid JSON"},
		"two keys":       {Options{URL: "https://example.com", Body: `{"a": 1, "a": 2}`}, "two members with the same key"},
		"method":         {Options{URL: "https://example.com", Body: `1`, Method: "{{.Type}}"}, "does not make a method of HTTP"},
		"connect":        {Options{URL: "https://example.com", Body: `1`, Method: "CONNECT"}, "does not make a method of HTTP"},
		"header name":    {Options{URL: "https://example.com", Body: `1`, Headers: []Header{{"a b", "x"}}}, "is no name of a header"},
		"header twice":   {Options{URL: "https://example.com", Body: `1`, Headers: []Header{{"A", "x"}, {"a", "y"}}}, "is there twice"},
		"own header":     {Options{URL: "https://example.com", Body: `1`, Headers: []Header{{"webhook-id", "x"}}}, "is set by the sink itself"},
		"header value":   {Options{URL: "https://example.com", Body: `1`, Headers: []Header{{"A", "{{.Type}}\n{{.Path}}"}}}, "what no header can have"},
		"long header":    {Options{URL: "https://example.com", Body: `1`, Headers: []Header{{"A", "{{range 10000}}a{{end}}"}}}, "more than 4 KiB"},
		"preset":         {Options{URL: "https://example.com", Preset: "teams"}, `unknown preset "teams"`},
		"routing key":    {Options{Preset: PagerDuty}, "needs a routing_key"},
		"no routing key": {Options{Preset: PagerDuty, RoutingKey: missing}, "routing_key: read secret: no such file"},
		"no secret url":  {Options{Preset: Slack, SecretURL: missing}, "secret_url: read secret: no such file"},
		"text":           {Options{Preset: Slack, Text: true, URL: "https://example.com"}, "does not go with the preset"},
		"part":           {Options{Preset: Slack, URL: "https://example.com", Body: `{{define "titel"}}x{{end}}`}, "the parts are color, fields, footer, text, title"},
		"signing key":    {Options{URL: "https://example.com", Body: `1`, SigningKeys: []outbound.Secret{fixed("whsec_secretsecret")}}, "signing key 1"},
		"missing":        {Options{URL: "https://example.com", Body: `{"x": {{.Metadata.x}}}`}, "the templates do not work for events of the sink. Change them, or select other events under events: kv-v2/data-write: body, line 1, column 7"},
	} {
		c.options.Samples = []*event.Event{sampleEvent()}
		sink, err := New(c.options)
		if err == nil {
			sink.Close()
			t.Errorf("%s: accepted", name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n got %v\nwant %s", name, err, c.want)
		}
		if strings.Contains(err.Error(), "secretsecret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSecretURL: no result tells it, not even when the endpoint says it.
func TestSecretURL(t *testing.T) {
	s := newServer(t)
	const secret = "T000/B000/xoxb-very-secret"
	sink, err := New(Options{SecretURL: fixed(s.URL + "/services/" + secret + "?token=also-secret"), Connection: loopback(t), Preset: Slack, Samples: []*event.Event{sampleEvent()}})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	s.status, s.answer = 400, "no such hook /services/"+secret+" also-secret"
	check := func(r deliver.Result) {
		t.Helper()
		for _, part := range []string{"xoxb", "also-secret", "B000/"} {
			if strings.Contains(r.Reason, part) {
				t.Errorf("%s", r.Reason)
			}
		}
	}
	r := sink.Send(t.Context(), batch(sampleEvent()))
	if r.Outcome != deliver.Refused || r.Reason == "" {
		t.Error(r)
	}
	check(r)
	if got := s.requests[0].url; got != "/services/"+secret+"?token=also-secret" {
		t.Error(got)
	}
	s.Close()
	r = sink.Send(t.Context(), batch(sampleEvent()))
	if r.Outcome != deliver.Retry && r.Outcome != deliver.Doubtful {
		t.Error(r)
	}
	check(r)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	check(sink.Send(ended, batch(sampleEvent())))
}

// all are examples of all types, with some that have more than those.
func all() []*event.Event {
	list := catalog.BuiltInSamples()
	list = append(list, sampleEvent())
	for _, text := range []string{"flipt/flag/created", "alert/root-token-used", "alert/x"} {
		e := &event.Event{ID: "1", Type: text, Source: "x", Time: time.Unix(1, 0), Metadata: event.Fields{}}
		list = append(list, Sample(e))
	}
	resolved := *list[len(list)-1]
	resolved.Metadata = resolved.Metadata.Clone()
	resolved.Metadata.Set("state", "resolved")
	list = append(list, &resolved)
	hostile := sampleEvent()
	long := strings.Repeat("<&>\"\\\u2028é*`", 2000)
	hostile.Path = long
	for i := range 100 {
		hostile.Metadata.Set(fmt.Sprintf("k%d%s", i, long[:100]), long[:500])
	}
	hostile.Metadata.Set("display_name", long)
	hostile.Metadata.Set("error", "<!channel> <@U1> <https://evil|click>")
	return append(list, hostile)
}

func bodies(t *testing.T, o Options) map[*event.Event]map[string]any {
	t.Helper()
	o.Connection, o.Describe, o.Samples = loopback(t), catalog.Describe, all()
	sink, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	list := make(map[*event.Event]map[string]any)
	for _, e := range o.Samples {
		item := deliver.Item{Event: e}
		r, fail := sink.request(item, batch(e))
		if fail != nil {
			t.Fatalf("%s: %v", e.Type, fail.err)
		}
		var v any
		if err := json.Unmarshal(r.Body, &v); err != nil {
			t.Fatal(err)
		}
		if a, ok := v.([]any); ok {
			if len(a) != 1 {
				t.Fatalf("%s", r.Body)
			}
			v = a[0]
		}
		list[e] = v.(map[string]any)
	}
	return list
}

// TestSlack checks what api.slack.com documents about messages, attachments and blocks.
func TestSlack(t *testing.T) {
	control := regexp.MustCompile(`<(?:!date\^\d+\^[^|>]*\|[^>]*)>`)
	for e, body := range bodies(t, Options{Preset: Slack, URL: "https://hooks.slack.com/services/x"}) {
		text := func(v any, most int) string {
			s, _ := v.(string)
			if s == "" || utf8.RuneCountInString(s) > most {
				t.Errorf("%s: a text of %d characters, want 1 to %d", e.Type, utf8.RuneCountInString(s), most)
			}
			if rest := control.ReplaceAllString(s, ""); strings.ContainsAny(rest, "<>") {
				t.Errorf("%s: control characters in %q", e.Type, rest)
			}
			return s
		}
		object := func(v any, most int) string {
			o := v.(map[string]any)
			if o["type"] != "mrkdwn" || o["verbatim"] != true || len(o) != 3 {
				t.Errorf("%v", o)
			}
			return text(o["text"], most)
		}
		if text(body["text"], 4000); len(body) != 4 {
			t.Errorf("%v", body)
		}
		attachment := body["attachments"].([]any)[0].(map[string]any)
		if len(attachment) != 2 {
			t.Errorf("%v", attachment)
		}
		if !regexp.MustCompile(`^#[0-9a-f]{6}$`).MatchString(attachment["color"].(string)) {
			t.Error(attachment["color"])
		}
		for _, b := range attachment["blocks"].([]any) {
			block := b.(map[string]any)
			switch block["type"] {
			case "section":
				if fields, ok := block["fields"]; ok {
					if n := len(fields.([]any)); n < 1 || n > 10 {
						t.Errorf("%s: %d fields", e.Type, n)
					}
					for _, f := range fields.([]any) {
						object(f, 2000)
					}
					break
				}
				object(block["text"], 3000)
			case "context":
				if n := len(block["elements"].([]any)); n != 1 {
					t.Errorf("%d elements", n)
				}
				object(block["elements"].([]any)[0], 3000)
			default:
				t.Errorf("%v", block)
			}
		}
	}
}

// TestPagerDuty checks what PagerDuty documents about events of the Events API v2.
func TestPagerDuty(t *testing.T) {
	keys := make(map[string]string)
	for e, body := range bodies(t, Options{Preset: PagerDuty, RoutingKey: fixed("0123456789abcdef0123456789abcdef")}) {
		payload := body["payload"].(map[string]any)
		summary, _ := payload["summary"].(string)
		if n := utf8.RuneCountInString(summary); n < 1 || n > 1024 {
			t.Errorf("%s: summary of %d", e.Type, n)
		}
		if s := payload["source"].(string); s == "" {
			t.Errorf("%s: no source", e.Type)
		}
		switch payload["severity"] {
		case "critical", "error", "warning", "info":
		default:
			t.Errorf("%s: %v", e.Type, payload["severity"])
		}
		if _, err := time.Parse(time.RFC3339, payload["timestamp"].(string)); err != nil {
			t.Error(err)
		}
		want := "trigger"
		if e.Type == "tocsin/sink-recovered" || e.Type == "tocsin/sink-resumed" {
			want = "resolve"
		}
		if state, _ := e.Metadata.Text("state"); state == "resolved" {
			want = "resolve"
		}
		if body["event_action"] != want || body["routing_key"] != "0123456789abcdef0123456789abcdef" {
			t.Errorf("%s: %v", e.Type, body)
		}
		key := body["dedup_key"].(string)
		if key == "" || len(key) > 255 {
			t.Errorf("%s: %q", e.Type, key)
		}
		keys[e.Type+want] = key
	}
	for what, pair := range map[string][2]string{
		"an alert":       {keys["alert/xtrigger"], keys["alert/xresolve"]},
		"a failing sink": {keys["tocsin/sink-failingtrigger"], keys["tocsin/sink-recoveredresolve"]},
	} {
		if pair[0] == "" || pair[0] != pair[1] {
			t.Errorf("%s: %q", what, pair)
		}
	}
	if keys["tocsin/sink-createtrigger"] == keys["tocsin/sink-failingtrigger"] || keys["alert/xtrigger"] == keys["alert/root-token-usedtrigger"] {
		t.Error("two things have one key")
	}
}

// TestAlertmanager checks what the OpenAPI document of Alertmanager's API v2 asks for.
func TestAlertmanager(t *testing.T) {
	name := regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	labels := make(map[string]string)
	for e, body := range bodies(t, Options{Preset: Alertmanager, URL: "http://127.0.0.1:9093", Body: `{{define "labels"}}, "team": "a"{{end}}`}) {
		for _, part := range []string{"labels", "annotations"} {
			for k, v := range body[part].(map[string]any) {
				if _, ok := v.(string); !ok || !name.MatchString(k) {
					t.Errorf("%s: %s %s: %v", e.Type, part, k, v)
				}
				if part == "labels" && v == "" {
					t.Errorf("%s: label %s is empty", e.Type, k)
				}
			}
		}
		l := body["labels"].(map[string]any)
		if l["alertname"] == "" || l["team"] != "a" {
			t.Errorf("%v", l)
		}
		_, starts := body["startsAt"]
		_, ends := body["endsAt"]
		if starts == ends || len(body) != 3 {
			t.Errorf("%v", body)
		}
		text, _ := json.Marshal(l)
		labels[fmt.Sprint(e.Type, ends)] = string(text)
	}
	if labels["alert/xfalse"] == "" || labels["alert/xfalse"] != labels["alert/xtrue"] {
		t.Errorf("%v", labels)
	}
}

// TestFliptTemplates runs templates of Flipt's documentation as docs/sink-template.md says
// that they are to be changed.
func TestFliptTemplates(t *testing.T) {
	sample := Sample(&event.Event{ID: "1", Type: "flipt/flag/created", Source: "flipt://flipt", Time: time.Unix(1, 0), Metadata: event.Fields{}})
	f, err := fliptevent.Decode(sample.Data)
	if err != nil {
		t.Fatal(err)
	}
	for template, want := range map[string]string{
		`{{with .Flipt}}{"type": "{{.Type}}", "action": "{{.Action}}", "actor": "{{.Metadata.Actor.Authentication}}", "key": "{{.Payload.key}}", "at": "{{.Timestamp}}"}{{end}}`: `{"type": "flag", "action": "created", "actor": "token", "key": "app", "at": "2026-01-01T00:00:00Z"}`,
		`{"event": {{toJson .Flipt}}}`: `{"event": ` + string(fliptevent.AppendWebhook(nil, f)) + `}`,
		`{"p": {{toJson .Flipt.Payload}}, "m": {{toJson .Flipt.Metadata}}, "a": {{toJson .Flipt.Metadata.Actor}}}`: `{"p": {"description":"","enabled":true,"key":"app","name":"App","namespace_key":"default"}, "m": {"actor":{"authentication":"token","ip":"192.0.2.1"}}, "a": {"authentication":"token","ip":"192.0.2.1"}}`,
	} {
		sink, err := New(Options{URL: "https://example.com", Body: template, Samples: []*event.Event{sample}})
		if err != nil {
			t.Errorf("%s: %v", template, err)
			continue
		}
		r, fail := sink.request(deliver.Item{Event: sample}, batch(sample))
		if fail != nil || string(r.Body) != want {
			t.Errorf("%s\n got %s\nwant %s", template, r.Body, want)
		}
		sink.Close()
	}
	// Of an event that is none of Flipt it is missing.
	sink, err := New(Options{URL: "https://example.com", Body: `{"x": {{.Flipt.Payload.key | default "none"}}, "y": {{if .Flipt}}1{{else}}0{{end}}}`})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if r, fail := sink.request(deliver.Item{Event: sampleEvent()}, batch(sampleEvent())); fail != nil || string(r.Body) != `{"x": "none", "y": 0}` {
		t.Error(string(r.Body))
	}
}
