package trace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

const hashed = "hmac-sha256:a1a11d8fcc7ea86937a93ad677d6207c27ea49c4d9ecab9b1c5c30c050641f08"

// spanOfLine makes the span of one response entry, without its request.
func spanOfLine(t testing.TB, o Options, line string) *Span {
	t.Helper()
	tr := newTracer(t, o)
	events := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "v", KeepRaw: true}).Translate(nil, []byte(line))
	spans := tr.Close(tr.Add(nil, events[0], position.Position{}))
	if len(spans) != 1 {
		t.Fatalf("%d spans of %s", len(spans), line)
	}
	return spans[0]
}

// attributesOf returns the attributes as text, without those that every span has.
func attributesOf(s *Span) string {
	var b strings.Builder
	for _, a := range s.Attributes {
		if !strings.HasPrefix(a.Key, "tocsin.") && a.Key != "request.id" {
			fmt.Fprintf(&b, "%s=%s ", a.Key, a.Value.AppendText(nil))
		}
	}
	return strings.TrimSpace(b.String())
}

func response(members string) string {
	return `{"time":"2026-01-01T00:00:00Z","type":"response","request":{"id":"520854b6-9454-49f7-3334-8aba186064a1"},` + members + `}`
}

func TestAttributes(t *testing.T) {
	for _, c := range []struct {
		name    string
		o       Options
		members string
		want    string
	}{
		{"types", Options{}, `"auth":{"a":1,"b":-2.5,"c":true,"d":"x","e":["y","z"],"f":1e400,"g":9223372036854775808}`,
			"auth.a=1 auth.b=-2.5 auth.c=true auth.d=x auth.e=y,z auth.f=1e400 auth.g=9.223372036854776e+18"},
		{"nothing", Options{}, `"error":"","auth":null,"response":{"data":null,"headers":{},"warnings":[],"x":"","y":{"z":{}}}`, ""},
		{"other lists", Options{}, `"auth":{"a":[1,2],"b":[{"c":"d"}],"e":["f",1]}`, `auth.a=[1,2] auth.b=[{"c":"d"}] auth.e=["f",1]`},
		{"data is left out", Options{}, `"response":{"data":{"secret":"x"},"mount_type":"kv"}`, "response.mount_type=kv"},
		{"data is allowed", Options{Attributes: AttributeOptions{Allow: []string{"*"}}}, `"response":{"data":{"secret":"x","in":{"a":1}}}`,
			"response.data.secret=x response.data.in.a=1"},
		{"one name of data is allowed", Options{Attributes: AttributeOptions{Allow: []string{"response.data.version", "auth.*"}}},
			`"response":{"data":{"secret":"x","version":3},"mount_type":"kv"},"auth":{"a":1}`, "response.data.version=3 auth.a=1"},
		{"a name of data anywhere is allowed", Options{Attributes: AttributeOptions{Allow: []string{"*.version"}}},
			`"response":{"data":{"in":{"version":3}},"version":4,"x":5}`, "response.data.in.version=3 response.version=4"},
		{"a deep name of data is allowed", Options{Attributes: AttributeOptions{Allow: []string{"response.data.metadata.version"}}},
			`"response":{"data":{"metadata":{"version":3},"metadat":{"version":4}}}`, "response.data.metadata.version=3"},
		{"deny", Options{Attributes: AttributeOptions{Deny: []string{"auth.*", "client.*"}, Allow: []string{"*"}}},
			`"auth":{"a":1,"b":{"c":1}},"response":{"data":{"x":1}}`, "response.data.x=1"},
		{"conventions can be denied", Options{Attributes: AttributeOptions{Deny: []string{"user.name"}}}, `"auth":{"display_name":"bob","entity_id":"e"}`,
			"user.id=e auth.display_name=bob auth.entity_id=e"},
		{"the one who logs in", Options{}, `"response":{"auth":{"display_name":"bob"}}`, "user.name=bob response.auth.display_name=bob"},
		{"hashes are kept", Options{}, `"auth":{"accessor":"` + hashed + `"}`, "auth.accessor=" + hashed},
		{"hashes are left out", Options{Attributes: AttributeOptions{OmitHashed: true}}, `"auth":{"accessor":"` + hashed + `","l":["` + hashed + `","a"]}`, "auth.l=a"},
		{"tokens in clear never", Options{Attributes: AttributeOptions{Allow: []string{"*"}}},
			`"auth":{"client_token":"hvs.secret","accessor":"plain"},"response":{"auth":{"client_token":"hvs.x"},"wrap_info":{"token":"hvs.y","ttl":60}}`,
			"auth.accessor=plain response.wrap_info.ttl=60"},
		{"secrets in headers never", Options{Attributes: AttributeOptions{Allow: []string{"*"}}},
			`"response":{"headers":{"Set-Cookie":["a=b"],"location":["/x"],"authorization":["` + hashed + `"],"x-vault-token":"hvs.x"}}`,
			"response.headers.location=/x response.headers.authorization=" + hashed},
		{"a name twice", Options{}, `"auth":{"x":1,"x":2,"y":{"z":1},"y.z":2}`, "auth.x=1 auth.y.z=1"},
		{"elide", Options{Attributes: AttributeOptions{MaxText: 5, MaxElements: 2}}, `"auth":{"a":"äöüß","b":["12345678","b","c","d"],"c":[1,2,3,4]}`,
			"auth.a=äö… auth.b=12345…,… auth.c=[1,2,…"},
		{"redact", Options{Redactions: []Redaction{{Key: "request.path", Pattern: regexp.MustCompile(`\d+`), Replace: "N"}, {Key: "*", Pattern: regexp.MustCompile(`geheim`), Replace: "***"}}},
			`"auth":{"a":"geheim 12","l":["geheim"]}`, "auth.a=*** 12 auth.l=***"},
		{"depth", Options{}, `"auth":{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":1}}}}}}}}`, `auth.a.b.c.d.e.f.g={"h":1}`},
		{"a long name", Options{}, `"auth":{"` + strings.Repeat("x", 300) + `":1,"b":2}`, "auth.b=2"},
		{"escapes", Options{}, `"auth":{"a\"\u00e4":"<\u003c\n."}`, "auth.a\"ä=<<\n."},
	} {
		s := spanOfLine(t, c.o, response(c.members))
		if got := attributesOf(s); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestAttributesAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&b, `,"k%d":{"x":%d}`, i, i)
	}
	line := response(`"auth":{"a":1` + b.String() + `}`)
	tr := newTracer(t, Options{})
	for range 2 {
		events := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "v"}).Translate(nil, []byte(line))
		spans := tr.Close(tr.Add(nil, events[0], position.Position{}))
		if s := spans[0]; len(s.Attributes) != DefaultMaxAttributes || s.Dropped < 19_000 {
			t.Fatalf("%d attributes, %d dropped", len(s.Attributes), s.Dropped)
		}
		line = strings.Replace(line, "520854b6", "620854b6", 1)
	}
	if n := len(tr.flat.keys); n > maxKeys+DefaultMaxAttributes {
		t.Errorf("%d names are remembered", n)
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct{ members, code, kind, message string }{
		{`"response":{"data":{"a":1}}`, "", "", ""},
		{`"error":"1 error occurred:\n\t* permission denied\n\n"`, "403", "permission_denied", "1 error occurred:\n\t* permission denied"},
		{`"error":"request path \"x\": rate limit quota exceeded"`, "429", "rate_limited", `request path "x": rate limit quota exceeded`},
		{`"error":"unsupported operation"`, "405", "unsupported_operation", "unsupported operation"},
		{`"error":"unsupported path"`, "404", "unsupported_path", "unsupported path"},
		{`"error":"1 error occurred:\n\t* invalid request\n\n"`, "400", "invalid_request", "1 error occurred:\n\t* invalid request"},
		{`"error":"internal error"`, "500", "internal_error", "internal error"},
		{`"error":"something else"`, "", "_OTHER", "something else"},
		{`"error":"2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"`, "403", "permission_denied", "2 errors occurred:\n\t* permission denied\n\t* invalid token"},
		{`"error":"1 error occurred:\n\t* failed to create user: ERROR: permission denied for table pg_roles (SQLSTATE 42501)\n\n"`, "", "_OTHER",
			"1 error occurred:\n\t* failed to create user: ERROR: permission denied for table pg_roles (SQLSTATE 42501)"},
		{`"error":"dial unix /run/ldap.sock: connect: permission denied"`, "", "_OTHER", "dial unix /run/ldap.sock: connect: permission denied"},
		{`"error":"googleapi: quota exceeded for quota metric"`, "", "_OTHER", "googleapi: quota exceeded for quota metric"},
		{`"error":"an internal error of the backend"`, "", "_OTHER", "an internal error of the backend"},
		{`"response":{"data":{"error":"` + hashed + `"}}`, "400", "error_response", ""},
		{`"response":{"data":{"error":"in clear"}}`, "400", "error_response", ""},
		{`"response":{"secret":{},"data":{"error":"a field of a secret"}}`, "", "", ""},
		{`"response":{"data":{"http_status_code":404,"x":1}}`, "404", "404", "HTTP status 404"},
		{`"response":{"data":{"http_status_code":200}}`, "200", "", ""},
		{`"response":{"data":{"http_status_code":99999}}`, "", "_OTHER", ""},
	} {
		s := spanOfLine(t, Options{}, response(c.members))
		code, _ := s.Get(attrStatusCode)
		text := ""
		if code.Kind == Int {
			text = fmt.Sprint(code.Int())
		}
		kind, _ := s.Get(attrErrorType)
		if text != c.code || kind.Text != c.kind || s.Failed != (c.kind != "") || s.Message != c.message {
			t.Errorf("%s: %q %q %t %q", c.members, text, kind.Text, s.Failed, s.Message)
		}
	}
	s := spanOfLine(t, Options{Redactions: []Redaction{{Key: "error", Pattern: regexp.MustCompile(`"[^"]*"`), Replace: `"..."`}}, Attributes: AttributeOptions{MaxText: 20}},
		response(`"error":"field \"geheim\" is not known to anybody"`))
	if v, _ := s.Get("error"); s.Message != `field "..." is not k…` || v.Text != s.Message {
		t.Errorf("%q, %q", s.Message, v.Text)
	}
}

// TestStatusOfRealServer compares with the answers that the client got.
func TestStatusOfRealServer(t *testing.T) {
	text, err := os.ReadFile("../derivation/testdata/openbao-ops-small.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	answers := make(map[string]int64) // by the header that the requests were marked with
	for line := range bytes.Lines(text) {
		var op struct {
			Seq    int
			Client string
			Status int64
		}
		if err := json.Unmarshal(line, &op); err != nil {
			t.Fatal(err)
		}
		if op.Client == "http" { // others make several requests
			answers[strconv.Itoa(op.Seq)] = op.Status
		}
	}
	failed := 0
	for _, s := range run(newTracer(t, Options{}), translated(recorded(t, "openbao-audit-small.jsonl"), 50)) {
		mark, _ := s.Get("request.headers.x-op-seq")
		if len(mark.Texts) != 1 || answers[mark.Texts[0]] == 0 {
			continue
		}
		want := answers[mark.Texts[0]]
		if s.Status != 0 && int64(s.Status) != want {
			t.Errorf("%s: status %d, the client got %d", s.Name, s.Status, want)
		}
		// The log has nothing about a read of what never was.
		if s.Failed != (want >= 400) && (want != 404 || s.Request.Operation != "read") {
			t.Errorf("%s: failed %t, the client got %d", s.Name, s.Failed, want)
		}
		if s.Failed {
			failed++
		}
	}
	if failed < 35 {
		t.Errorf("%d requests failed", failed)
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	for _, o := range []Options{
		{Attributes: AttributeOptions{Allow: []string{""}}},
		{Attributes: AttributeOptions{Deny: []string{"*********"}}},
		{Redactions: []Redaction{{Key: "error"}}},
		{Redactions: []Redaction{{Pattern: regexp.MustCompile("x")}}},
		{Names: []NameRule{{}}},
	} {
		if _, err := NewTracer(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// FuzzSpan gives entries of any shape to a tracer and checks what every span keeps.
func FuzzSpan(f *testing.F) {
	for _, line := range recorded(f, "openbao-audit-small.jsonl")[:40] {
		f.Add(string(line))
	}
	f.Add(response(`"auth":{"a":[1,"x",{"b":null}],"c":{"d":{"e":[]}}}`))
	f.Add(response(`"auth":{"a":"\ud83d\ude00","a.b":1,"a":{"b":2}},"response":{"data":{"x":"y"}}`))
	tr := newTracer(f, Options{Attributes: AttributeOptions{Allow: []string{"*"}, MaxText: 50, MaxElements: 3, MaxAttributes: 40}})
	f.Fuzz(func(t *testing.T, line string) {
		var p auditlog.Parser
		entry, err := p.Parse([]byte(line))
		if err != nil {
			return
		}
		e := &event.Event{ID: "x", Type: typeResponse, Source: "vault://f", Time: entry.Time, Data: []byte(line)}
		spans := tr.Close(tr.Add(nil, e, position.Position{}))
		for _, s := range spans {
			seen := map[string]bool{}
			for _, a := range s.Attributes {
				text := string(a.Value.AppendText(nil))
				if seen[a.Key] || a.Key == "" || !utf8.ValidString(a.Key) || !utf8.ValidString(text) {
					t.Errorf("attribute %q twice or not a text: %q", a.Key, text)
				}
				seen[a.Key] = true
				if len(text) > 3*(50+len(rest)+1) || len(a.Key) > maxKeyBytes {
					t.Errorf("%q has %d bytes", a.Key, len(text))
				}
			}
			if !s.IsUTF8() || !utf8.ValidString(s.Name) || !utf8.ValidString(s.Message) || !utf8.ValidString(s.TraceState) {
				t.Errorf("not UTF-8: %q %q %q", s.Name, s.Message, s.TraceState)
			}
			if len(s.Attributes) > 40 || s.End.Before(s.Start) || s.Name == "" || s.TraceID.IsZero() || s.SpanID.IsZero() {
				t.Errorf("%s", describe(s))
			}
		}
	})
}

// A span may have more attributes than names are remembered by default. New names must not
// cost a search through all of them then.
func TestManyNamesOfManyAttributes(t *testing.T) {
	var b strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&b, `,"x-%d":["a"]`, i)
	}
	line := `{"time":"2026-01-01T00:00:00Z","type":"response","request":{"headers":{` + b.String()[1:] + `}}}`
	begin := time.Now()
	s := spanOfLine(t, Options{Attributes: AttributeOptions{MaxAttributes: 10_000}}, line)
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if len(s.Attributes) != 10_000 {
		t.Errorf("%d attributes", len(s.Attributes))
	}
}
