package kafka

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// fakeRegistry takes one request for a schema, and nothing else.
func fakeRegistry(t *testing.T, answer http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return server
}

func TestRegistry(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(1, "audit", "kv.write", "kv.read"))
	for _, test := range []struct {
		encoding   Encoding
		topic      string
		registry   Registry
		path       string
		schemaType string
		prefix     string
	}{
		{Avro, "audit", Registry{}, "/base/subjects/audit-value/versions", "", "\x00\x00\x01\x02\x03"},
		{Protobuf, "audit", Registry{LookUp: true}, "/base/subjects/audit-value", "PROTOBUF", "\x00\x00\x01\x02\x03\x00"},
		{FliptAvro, "audit", Registry{Subject: "a/b ü"}, "/base/subjects/a%2Fb%20%C3%BC/versions", "", "\x00\x00\x01\x02\x03"},
		{FliptProtobuf, "audit", Registry{}, "/base/subjects/audit-value/versions", "PROTOBUF", "\x00\x00\x01\x02\x03\x02\x04"},
		{Avro, "{type}", Registry{}, "/base/subjects/kv.write-value/versions", "", "\x00\x00\x01\x02\x03"},
	} {
		t.Run(string(test.encoding)+" "+test.topic, func(t *testing.T) {
			var asked atomic.Int32
			server := fakeRegistry(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				user, pass, _ := r.BasicAuth()
				var body map[string]string
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
					t.Error(err)
				}
				e, _ := newEncoder(test.encoding)
				if r.Method != "POST" || r.URL.EscapedPath() != test.path || r.Header.Get("Content-Type") != "application/vnd.schemaregistry.v1+json" ||
					user != "alice" || pass != "hunter2" || body["schemaType"] != test.schemaType || body["schema"] != e.schema.text {
					t.Errorf("%s %s, header %v, body %v", r.Method, r.URL.EscapedPath(), r.Header, body)
				}
				fmt.Fprint(w, `{"id":66051,"version":1,"more":{}}`)
			})
			test.registry.URL = server.URL + "/base/"
			test.registry.Username, test.registry.Password = "alice", func() (string, error) { return "hunter2", nil }
			s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: test.topic, Encoding: test.encoding, Registry: test.registry})
			a := item("a")
			a.Event.Type = "kv/write"
			for range 3 { // an id is asked for once
				wantOutcomes(t, send(t, s, 5*time.Second, a), deliver.Delivered)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			if p := s.prefix(t.Context(), s.topic.of(a.Event)); p.err != nil || string(p.bytes) != test.prefix {
				t.Errorf("prefix %q, %v", p.bytes, p.err)
			}
		})
	}
}

func TestRegistrySaysNo(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(1, "audit"))
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"incompatible":     {answer(409, `{"error_code":409,"message":"field x\nis missing"}`), "not compatible with what is registered: \"field x\\nis missing\"; give the sink a topic or subject of its own"},
		"not registered":   {answer(404, `{"error_code":40403,"message":"Schema not found"}`), "is not registered"},
		"no such API":      {answer(404, `<html>`), "it has no such API (status 404); check the url"},
		"login":            {answer(401, `hunter2`), "does not let the sink in (status 401)"},
		"what it was told": {answer(403, `{"message":"hunter2 and YWxpY2U6aHVudGVyMg=="}`), `(status 403): "<secret> and <secret>"`},
		"fails":            {answer(500, `oops`), "answers with status 500"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		}, "redirects (status 302), which is not followed"},
		"no JSON":     {answer(200, `<html>`), "no JSON"},
		"no id":       {answer(200, `{"version":1}`), "no id"},
		"negative id": {answer(200, `{"id":-1}`), "no id"},
		"large id":    {answer(200, `{"id":4294967296}`), "no id"},
		"too much":    {answer(200, `{"id":1,"x":"`+strings.Repeat("x", 2<<20)+`"}`), "more than 1048576 bytes"},
		"ends early": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"id":1`)
		}, "ended early"},
		"silent": {func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}, "no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			server := fakeRegistry(t, test.answer)
			s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit", Encoding: Avro, Registry: Registry{
				URL: server.URL, Username: "alice", Password: func() (string, error) { return "hunter2", nil }}})
			timeout := 5 * time.Second
			if name == "silent" {
				timeout = 300 * time.Millisecond
			}
			reason := wantOutcomes(t, send(t, s, timeout, item("a")), deliver.Retry)
			if !strings.Contains(reason, test.want) || strings.Contains(reason, "hunter2") || strings.Contains(reason, "http://") && name != "redirects" {
				t.Errorf("reason %q, want %q", reason, test.want)
			}
		})
	}
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit", Encoding: Avro, Registry: Registry{URL: "http://" + closedPort(t)}})
	if reason := wantOutcomes(t, send(t, s, 5*time.Second, item("a")), deliver.Retry); !strings.Contains(reason, "connection refused") {
		t.Errorf("reason %q", reason)
	}
	if n := c.PartitionInfo("audit", 0).HighWatermark; n != 0 {
		t.Errorf("%d records were written without the id of their schema", n)
	}
}

// FuzzRegistryAnswer reads any answer of a registry.
func FuzzRegistryAnswer(f *testing.F) {
	for _, seed := range []string{`{"id":7}`, `{"id":-1}`, `{"error_code":40403,"message":"x"}`, `{"message":"` + strings.Repeat("\\u0000", 300) + `"}`, `[]`, ``} {
		f.Add(200, []byte(seed))
		f.Add(409, []byte(seed))
	}
	s := &Sink{o: Options{Encoding: Avro}, secrets: newSecretBox()}
	c := &schemas{sink: s}
	f.Fuzz(func(t *testing.T, status int, answer []byte) {
		id, err := c.read(status, answer)
		if (err == nil) != (status == 200 || status == 201) && err == nil {
			t.Fatalf("status %d gives id %d", status, id)
		}
		if err != nil {
			if clean := s.clean(err.Error()); len(clean) > deliver.MaxReasonBytes || strings.ContainsAny(clean, "\n\x00\x1b") {
				t.Fatalf("reason %q", clean)
			}
			return
		}
		var told struct{ ID uint32 }
		if json.Unmarshal(answer, &told) != nil || told.ID != id || binary.BigEndian.AppendUint32(nil, id)[0] > 127 {
			t.Fatalf("id %d of %s", id, answer)
		}
	})
}

// FuzzTopic makes names of topics of anything.
func FuzzTopic(f *testing.F) {
	f.Add("vault.{type}", "kv-v2/data-write", "vault://node-1")
	f.Add("{source}{type}", "../..", "é\x00")
	f.Add("{type}", "/", "")
	f.Add("a"+strings.Repeat("{type}", 41), strings.Repeat("t", 256), "x")
	f.Fuzz(func(t *testing.T, template, kind, source string) {
		parsed, err := parseTopic(template)
		if err != nil {
			return
		}
		e := item("p").Event
		e.Type, e.Source = kind, source
		name := parsed.of(e)
		if name == "" || name == "." || name == ".." || len(name) > maxTopicBytes || !topicText.MatchString(name) {
			t.Fatalf("%q of %q, %q: %q", template, kind, source, name)
		}
	})
}
