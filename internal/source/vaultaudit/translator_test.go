package vaultaudit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/derivation"
)

// recordedLines returns a recorded audit log; see the tests of package auditlog for
// where the recordings come from.
func recordedLines(tb testing.TB, name string) [][]byte {
	tb.Helper()
	b, err := os.ReadFile("../../auditlog/testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
}

// rawEntries returns the recorded entries of a device with log_raw.
func rawEntries(tb testing.TB) [][]byte {
	tb.Helper()
	var out [][]byte
	for _, line := range recordedLines(tb, "openbao-option-variants.jsonl") {
		var v struct {
			Device string
			Entry  json.RawMessage
		}
		if err := json.Unmarshal(line, &v); err != nil {
			tb.Fatal(err)
		}
		if strings.Contains(v.Device, "raw") {
			out = append(out, v.Entry)
		}
	}
	if len(out) == 0 {
		tb.Fatal("no raw entries are recorded")
	}
	return out
}

func fixedClock() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func newTestTranslator() *Translator {
	return NewTranslator(TranslatorConfig{Name: "main", Salt: []byte("salt"), Now: fixedClock})
}

func TestTranslateRecorded(t *testing.T) {
	for _, name := range []string{"openbao-audit-small.jsonl", "kv025-audit-small.jsonl"} {
		lines := recordedLines(t, name)
		tr, derived := newTestTranslator(), derivation.New(derivation.Options{Source: "vault://main"})
		ids := make(map[string]bool)
		var p auditlog.Parser
		for i, line := range lines {
			events := tr.Translate(nil, append(bytes.Clone(line), '\n'))
			if len(events) == 0 {
				t.Fatalf("%s:%d: no event", name, i+1)
			}
			audit := events[0]
			e, err := p.Parse(line)
			if err != nil {
				t.Fatal(err)
			}
			want := TypeRequest
			if e.IsResponse {
				want = TypeResponse
			}
			if audit.Type != want || audit.Source != "vault://main" || audit.Path != "sys/audit/main" || !audit.Time.Equal(e.Time) ||
				!bytes.Equal(audit.Data, line) || audit.DataContentType != "application/json" || audit.Namespace != e.Request.NamespacePath {
				t.Errorf("%s:%d: audit event %+v", name, i+1, audit)
			}
			for key, value := range map[string]string{"path": "sys/audit/main", "operation": e.Request.Operation, "request_path": e.Request.Path,
				"request_id": e.Request.ID, "mount_point": e.MountPoint(), "mount_type": e.MountType(), "redacted": ""} {
				if got, ok := audit.Metadata.Text(key); got != value || ok != (value != "") {
					t.Errorf("%s:%d: metadata %s = %q, want %q", name, i+1, key, got, value)
				}
			}
			expect := derived.Apply(e)
			if len(expect) != len(events)-1 {
				t.Fatalf("%s:%d: %d derived events, want %d", name, i+1, len(events)-1, len(expect))
			}
			for k := range expect {
				if !reflect.DeepEqual(events[k+1], expect[k]) {
					t.Errorf("%s:%d: derived %+v, want %+v", name, i+1, events[k+1], expect[k])
				}
			}
			for _, ev := range events {
				if err := event.DefaultLimits.Check(ev); err != nil {
					t.Errorf("%s:%d: %v", name, i+1, err)
				}
				if ids[ev.ID] {
					t.Errorf("%s:%d: id %s of %s occurred before", name, i+1, ev.ID, ev.Type)
				}
				ids[ev.ID] = true
			}
		}
		again := newTestTranslator()
		for i, line := range lines {
			for _, ev := range again.Translate(nil, line) {
				if !ids[ev.ID] {
					t.Errorf("%s:%d: a replay has another id for %s", name, i+1, ev.Type)
				}
			}
		}
	}
}

// TestEventsKeepTheirContent: events stay what they were while others are made.
func TestEventsKeepTheirContent(t *testing.T) {
	tr := newTestTranslator()
	lines := recordedLines(t, "kv025-audit-small.jsonl")
	var all []*event.Event
	var texts []string
	for range 3 {
		for _, line := range lines {
			for _, ev := range tr.Translate(nil, line) {
				all, texts = append(all, ev), append(texts, fmt.Sprintf("%+v", *ev))
			}
		}
	}
	for i, ev := range all {
		if got := fmt.Sprintf("%+v", *ev); got != texts[i] {
			t.Fatalf("event %d changed:\n%s\n%s", i, texts[i], got)
		}
	}
}

func TestQuarantine(t *testing.T) {
	good := recordedLines(t, "openbao-audit-small.jsonl")[60]
	hash := "hmac-sha256:" + strings.Repeat("0a", 32)
	tests := []struct {
		name, line, reason string
		contentType        string
		redacted           bool
	}{
		{"garbage", "hello world", auditlog.ReasonNotJSON, "text/plain; charset=utf-8", false},
		{"empty", "", auditlog.ReasonEmpty, "text/plain; charset=utf-8", false},
		{"NUL bytes", "\x00\x00", auditlog.ReasonNotJSON, "text/plain; charset=utf-8", false},
		{"not UTF-8", "\xff\xfe", auditlog.ReasonNotJSON, "application/octet-stream", false},
		{"half an entry", string(good[:len(good)/2]), auditlog.ReasonTruncated, "text/plain; charset=utf-8", false},
		{"jsonx", `<json:object name="a"></json:object>`, auditlog.ReasonXML, "text/plain; charset=utf-8", false},
		{"nested", `{"type":"request","x":` + strings.Repeat("[", 10_000), auditlog.ReasonDepth, "text/plain; charset=utf-8", false},
		{"other JSON", `{"level":"info"}`, auditlog.ReasonSchema, "text/plain; charset=utf-8", false},
		{"half a raw entry", `{"type":"request","auth":{"client_token":"hvs.CAESIabcdefghijklmnop`, auditlog.ReasonTruncated, "text/plain", true},
		{"half a raw login", `{"type":"request","request":{"data":{"password":"hunter2`, auditlog.ReasonTruncated, "text/plain", true},
		{"plain token beside hashes", `{"auth":{"client_token":"hmmm"},"request":{"a":"` + hash + `"`, auditlog.ReasonTruncated, "text/plain", true},
		{"half a raw login, hashed header", `{"type":"request","request":{"headers":{"a":["` + hash + `"]},"data":{"password":"hunter2`, auditlog.ReasonTruncated, "text/plain", true},
		{"raw jsonx", `<json:object name="data"><json:string name="password">hunter2</json:string></json:object>`, auditlog.ReasonXML, "text/plain", true},
		{"plain token in jsonx", `<json:string name="a">` + hash + `</json:string><json:string name="client_token">hmmm</json:string>`, auditlog.ReasonXML, "text/plain", true},
		{"hashed jsonx", `<json:string name="client_token">` + hash + `</json:string>`, auditlog.ReasonXML, "text/plain; charset=utf-8", false},
		{"token in a text", `token is s.abcdefghijklmnopqrstuvwx, keep it`, auditlog.ReasonNotJSON, "text/plain", true},
		{"no token in a text", `https://example.com/vaults.html and b.txt`, auditlog.ReasonNotJSON, "text/plain; charset=utf-8", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events := newTestTranslator().Translate(nil, []byte(tt.line+"\n"))
			if len(events) != 1 {
				t.Fatalf("%d events", len(events))
			}
			ev := events[0]
			reason, _ := ev.Metadata.Text("reason")
			path, _ := ev.Metadata.Text("path")
			_, redacted := ev.Metadata.Text("redacted")
			if ev.Type != TypeQuarantined || reason != tt.reason || path != "sys/audit/main" || ev.Path != path || redacted != tt.redacted ||
				ev.DataContentType != tt.contentType || ev.Note == "" || !ev.Time.Equal(fixedClock()) {
				t.Errorf("event %+v", ev)
			}
			if !tt.redacted && string(ev.Data) != tt.line {
				t.Errorf("data %q, want the line", ev.Data)
			}
			if tt.redacted && !auditlog.IsHashed(string(ev.Data)) {
				t.Errorf("data %q, want a hash", ev.Data)
			}
			if err := event.DefaultLimits.Check(ev); err != nil {
				t.Error(err)
			}
			kept := NewTranslator(TranslatorConfig{Name: "main", KeepRaw: true}).Translate(nil, []byte(tt.line))
			if string(kept[0].Data) != tt.line || kept[0].ID != ev.ID {
				t.Errorf("with KeepRaw: data %q, id %s, want id %s", kept[0].Data, kept[0].ID, ev.ID)
			}
		})
	}
	t.Run("the stream goes on", func(t *testing.T) {
		tr := newTestTranslator()
		tr.Translate(nil, []byte("garbage"))
		if events := tr.Translate(nil, good); events[0].Type != TypeResponse && events[0].Type != TypeRequest {
			t.Errorf("event %+v", events[0])
		}
	})
}

func TestRawIsRedacted(t *testing.T) {
	tr, keep := newTestTranslator(), NewTranslator(TranslatorConfig{Name: "main", KeepRaw: true})
	var secrets []string
	kv := 0
	for _, line := range rawEntries(t) {
		var v any
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		entry := v.(map[string]any)
		for _, part := range []string{"auth", "request", "response"} {
			m, _ := entry[part].(map[string]any)
			for _, name := range []string{"client_token", "client_token_accessor", "accessor"} {
				if s, ok := m[name].(string); ok && s != "root" { // also the name of a policy
					secrets = append(secrets, s)
				}
			}
			secrets = append(secrets, longTexts(m["data"])...)
		}
		events := tr.Translate(nil, line)
		for _, ev := range events {
			all := fmt.Sprintf("%+v %s", *ev, ev.Data)
			for _, s := range secrets {
				if strings.Contains(all, s) {
					t.Fatalf("%q shows in %s", s, all)
				}
			}
			if strings.HasPrefix(ev.Type, "kv-") {
				kv++
			}
		}
		if redacted, _ := events[0].Metadata.Text("redacted"); redacted != "true" {
			t.Errorf("not marked as redacted: %+v", events[0].Metadata)
		}
		if kept := keep.Translate(nil, line); !bytes.Equal(kept[0].Data, line) {
			t.Errorf("changed although raw entries are kept: %s", kept[0].Data)
		}
	}
	if kv == 0 {
		t.Error("nothing was derived from raw entries")
	}
}

// TestRawStream looks for what a raw stream has beside tokens and data, in entries
// that have no token by which they could be recognised.
func TestRawStream(t *testing.T) {
	const head = `{"time":"2026-01-01T00:00:00Z","type":"response","request":{"id":"b","path":"x"`
	token := head + `,"client_token":"hvs.x"}}`
	for _, line := range []string{
		head + `,"headers":{"authorization":["hunter2"]}}}`,
		head + `},"auth":{"accessor":"hunter2"}}`,
		head + `},"error":"bad input hunter2"}`,
		head + `},"response":{"data":["hunter2"]}}`,
		head + `},"response":{"data":"hunter2"}}`,
		head + `},"response":{"supplemental_audit_data":{"a":"hunter2"}}}`,
	} {
		tr := newTestTranslator()
		tr.Translate(nil, []byte(token))
		ev := tr.Translate(nil, []byte(line))[0]
		if redacted, _ := ev.Metadata.Text("redacted"); redacted != "true" || bytes.Contains(ev.Data, []byte("hunter2")) {
			t.Errorf("stored: %s", ev.Data)
		}
	}

	// An entry in which nothing is to be hidden does not end what was learnt.
	first, learnt := newTestTranslator(), newTestTranslator()
	for _, line := range []string{token, head + `}}`} {
		ev := first.Translate(nil, []byte(line))[0]
		if _, redacted := ev.Metadata.Text("redacted"); redacted != (line == token) {
			t.Errorf("redacted %v: %s", redacted, ev.Data)
		}
		learnt.Learn(ev)
	}
	if ev := learnt.Translate(nil, []byte(`torn hunter2"}}`))[0]; bytes.Contains(ev.Data, []byte("hunter2")) {
		t.Errorf("stored after a restart: %s", ev.Data)
	}
}

// longTexts returns the texts in a JSON value that cannot occur elsewhere by chance.
func longTexts(v any) (out []string) {
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			out = append(out, longTexts(x)...)
		}
	case []any:
		for _, x := range v {
			out = append(out, longTexts(x)...)
		}
	case string:
		if _, err := time.Parse(time.RFC3339Nano, v); err != nil && len(v) > 12 && !strings.Contains(v, "+builtin") {
			out = append(out, v)
		}
	}
	return out
}

// TestNoSecretLeaves plants random secrets in raw entries, whole and torn, and
// looks for them in everything that comes out.
func TestNoSecretLeaves(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		tr := newTestTranslator()
		var secrets []string
		secret := func(prefix string) string {
			s := fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64())
			secrets = append(secrets, s)
			return prefix + s
		}
		for range 12 {
			request := map[string]any{"id": fmt.Sprintf("%08x-0000-4000-8000-000000000000", rnd.Uint32()), "mount_type": "kv", "mount_point": "kv/",
				"operation": []string{"create", "update", "patch", "delete", "read"}[rnd.IntN(5)],
				"path":      "kv/" + []string{"data/a", "metadata/a", "delete/a", "config"}[rnd.IntN(4)],
				"data": map[string]any{"versions": []any{secret(""), 1}, "options": map[string]any{"cas": secret("")}, "max_versions": secret(""),
					"data": map[string]any{"password": secret("")}, "version": secret("")}}
			e := map[string]any{"time": "2026-01-01T00:00:00Z", "type": "response", "request": request,
				"response": map[string]any{"data": map[string]any{"version": 3, "deletion_time": secret(""), "error": secret(""), "keys": []any{secret("")}}}}
			switch rnd.IntN(3) {
			case 0: // a login: no token in the entry
				request["mount_type"], request["path"] = "userpass", "auth/userpass/login/bob"
			case 1:
				request["client_token"] = secret("hvs.")
				e["auth"] = map[string]any{"client_token": secret("hvs."), "accessor": secret(""), "display_name": "bob"}
			default:
				request["client_token"] = secret("s.")
				e["error"] = "1 error occurred: " + secret("")
			}
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			if rnd.IntN(4) == 0 {
				line = line[rnd.IntN(len(line)/2):]
			} else if rnd.IntN(4) == 0 {
				line = line[:len(line)/2+rnd.IntN(len(line)/2)]
			}
			for _, ev := range tr.Translate(nil, line) {
				all := fmt.Sprintf("%+v %s", *ev, ev.Data)
				for _, s := range secrets {
					if strings.Contains(all, s) {
						t.Fatalf("seed %d: %q of %s shows in %s", seed, s, line, all)
					}
				}
			}
		}
	}
}

// TestLearn rebuilds the state from the audit events and expects the same as from
// the lines.
func TestLearn(t *testing.T) {
	for _, name := range []string{"openbao-audit-small.jsonl", "kv025-audit-small.jsonl"} {
		lines := recordedLines(t, name)
		whole, learnt := newTestTranslator(), newTestTranslator()
		for i, line := range lines {
			events := whole.Translate(nil, line)
			if i < len(lines)/2 {
				for _, ev := range events {
					learnt.Learn(ev)
				}
				continue
			}
			if got := learnt.Translate(nil, line); !reflect.DeepEqual(got, events) {
				t.Fatalf("%s:%d: after Learn %+v, want %+v", name, i+1, got, events)
			}
		}
		a, err1 := whole.Snapshot()
		b, err2 := learnt.Snapshot()
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: the learnt state differs (%v, %v)", name, err1, err2)
		}
	}
	tr := newTestTranslator()
	tr.Learn(&event.Event{Type: TypeRequest}) // without data
	tr.Learn(&event.Event{Type: "kv-v2/data-write", Data: []byte("x")})
	for _, line := range rawEntries(t) {
		for _, ev := range newTestTranslator().Translate(nil, line) {
			tr.Learn(ev)
		}
	}
	if !tr.raw[""] {
		t.Error("a redacted stream is not learnt to be raw")
	}
}

func TestSnapshot(t *testing.T) {
	lines := recordedLines(t, "kv025-audit-small.jsonl")
	whole, parts := newTestTranslator(), newTestTranslator()
	for i, line := range lines {
		if got, want := parts.Translate(nil, line), whole.Translate(nil, line); !reflect.DeepEqual(got, want) {
			t.Fatalf("line %d: got %+v, want %+v", i+1, got, want)
		}
		if i%50 == 0 {
			b, err := parts.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			parts = newTestTranslator()
			if err := parts.Restore(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	b, _ := whole.Snapshot()
	for name, bad := range map[string][]byte{"nothing": nil, "short": b[:5], "other version": append([]byte{9}, b[1:]...), "cut": b[:len(b)-9]} {
		if err := parts.Restore(bad); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	tr := newTestTranslator()
	tr.Translate(nil, rawEntries(t)[0])
	b, _ = tr.Snapshot()
	again := newTestTranslator()
	if err := again.Restore(b); err != nil || !again.raw[""] || !again.last.Equal(tr.last) {
		t.Errorf("restored: %v, raw %v, last %v", err, again.raw, again.last)
	}
}

func TestEntryWithoutTime(t *testing.T) {
	tr := newTestTranslator()
	line := []byte(`{"type":"request","request":{"path":"a/b"}}`)
	if ev := tr.Translate(nil, line)[0]; !ev.Time.Equal(fixedClock()) {
		t.Errorf("time %v", ev.Time)
	}
	tr.Translate(nil, []byte(`{"time":"2026-05-05T00:00:00Z","type":"request"}`))
	if ev := tr.Translate(nil, line)[0]; ev.Time.Month() != time.May {
		t.Errorf("time %v", ev.Time)
	}
}

// TestLongPath: a path that does not fit into the metadata makes neither the audit
// event invalid nor the stream stop.
func TestLongPath(t *testing.T) {
	tr := newTestTranslator()
	line := fmt.Sprintf(`{"time":"2026-01-01T00:00:00Z","type":"response","request":{"id":"x","operation":"update","mount_type":"kv","mount_point":"kv/","path":"kv/data/%s"},"response":{"data":{"version":1}}}`, strings.Repeat("k", 200_000))
	events := tr.Translate(nil, []byte(line))
	if len(events) != 1 || tr.Stats().TooLarge != 1 {
		t.Fatalf("%d events, stats %+v", len(events), tr.Stats())
	}
	if err := event.DefaultLimits.Check(events[0]); err != nil {
		t.Error(err)
	}
}

func TestTranslateLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("needs 300 MB of memory")
	}
	const size = 64 << 20
	tr := newTestTranslator()
	for name, line := range map[string][]byte{
		"garbage": bytes.Repeat([]byte("x"), size),
		"NUL":     make([]byte, size),
		"open":    append([]byte(`{"type":"request","x":"`), bytes.Repeat([]byte("s."), size/2)...),
		"entry":   []byte(`{"type":"request","request":{"data":{"a":"` + strings.Repeat("b", size) + `"}}}`),
	} {
		begin := time.Now()
		if events := tr.Translate(nil, line); len(events) != 1 {
			t.Errorf("%s: %d events", name, len(events))
		}
		if d := time.Since(begin); d > time.Minute {
			t.Errorf("%s: took %v", name, d)
		}
	}
}

func TestTranslateAllocations(t *testing.T) {
	lines := recordedLines(t, "openbao-audit-small.jsonl")
	tr := newTestTranslator()
	var events []*event.Event
	perRun := testing.AllocsPerRun(20, func() {
		for _, line := range lines {
			events = tr.Translate(events[:0], line)
		}
	})
	if perLine := perRun / float64(len(lines)); perLine > 6 {
		t.Errorf("%.1f allocations per line", perLine)
	}
}

func FuzzTranslate(f *testing.F) {
	for _, name := range []string{"openbao-audit-small.jsonl", "kv025-audit-small.jsonl"} {
		for i, line := range recordedLines(f, name) {
			if i%40 == 0 {
				f.Add(line)
			}
		}
	}
	for _, line := range rawEntries(f) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		tr := newTestTranslator()
		first := tr.Translate(nil, line)
		if len(first) == 0 {
			t.Fatal("a line without event")
		}
		for _, ev := range append(first, tr.Translate(nil, line)...) {
			if err := event.DefaultLimits.Check(ev); err != nil && !errors.Is(err, event.ErrTooLarge) {
				t.Fatalf("%v: %+v", err, ev)
			}
		}
		if first[0].Type != TypeQuarantined && !json.Valid(first[0].Data) {
			t.Fatalf("data of an audit event is not JSON: %q", first[0].Data)
		}
		b, err := tr.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if err := newTestTranslator().Restore(b); err != nil {
			t.Fatal(err)
		}
		newTestTranslator().Learn(first[0])
	})
}

func BenchmarkTranslate(b *testing.B) {
	for _, name := range []string{"openbao-audit-small.jsonl", "kv025-audit-small.jsonl"} {
		lines := recordedLines(b, name)
		size := 0
		for _, l := range lines {
			size += len(l)
		}
		b.Run(name, func(b *testing.B) {
			t := NewTranslator(TranslatorConfig{Name: "bench"})
			var events []*event.Event
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for _, l := range lines {
					events = t.Translate(events[:0], l)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(lines)), "ns/line")
		})
		b.Run(name+"/encoding-json-map", func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				for _, l := range lines {
					var m map[string]any
					if err := json.Unmarshal(l, &m); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
