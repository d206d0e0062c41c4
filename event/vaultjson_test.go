package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

// observedJSON is what the formatter of Vault (hashicorp/eventlogger v0.2.10 over
// the messages of vault/sdk v0.25.1) writes for observedEvents, recorded with a
// fixed source and time. It is a fact and never updated from our output.
const observedJSON = `{"id":"a3be9fb1-b514-519f-5b25-b6f144a8c1ce","source":"vault://node-1","specversion":"1.0","type":"*","data":{"event":{"id":"a3be9fb1-b514-519f-5b25-b6f144a8c1ce","metadata":{"a":"b"}},"event_type":"kv-v2/data-write","plugin_info":{"mount_class":"secret","mount_accessor":"kv_5dc4d18e","mount_path":"secret/","plugin":"kv"}},"datacontentype":"application/cloudevents","time":"2025-01-02T03:04:05.123456789-07:00"}
{"id":"a3be9fb1-b514-519f-5b25-b6f144a8c1ce","source":"vault://node-1","specversion":"1.0","type":"*","data":{"event":{"id":"a3be9fb1-b514-519f-5b25-b6f144a8c1ce","metadata":{"a":"b"},"entity_ids":["e1","e2"],"note":"hello \u003cb\u003e\u0026"},"namespace":"ns1/","event_type":"t","plugin_info":{"mount_class":"secret","mount_accessor":"kv_5dc4d18e","mount_path":"secret/","plugin":"kv","plugin_version":"v0.1.0+builtin","version":"2","is_local":true}},"datacontentype":"application/cloudevents","time":"2025-01-02T03:04:05.123456789-07:00"}
{"id":"x","source":"vault://node-1","specversion":"1.0","type":"*","data":{"event":{"id":"x"},"event_type":"abc"},"datacontentype":"application/cloudevents","time":"2025-01-02T03:04:05.123456789-07:00"}
`

func TestAppendVaultJSONIsVaults(t *testing.T) {
	var got []byte
	for _, e := range observedEvents() {
		got = AppendVaultJSON(got, e, "")
	}
	if string(got) != observedJSON {
		t.Errorf("got:\n%swant:\n%s", got, observedJSON)
	}
	got = AppendVaultJSON([]byte("kept"), observedEvents()[2], "0<1")
	want := "kept" + strings.TrimSuffix(strings.SplitAfter(observedJSON, "\n")[2], "}\n") + `,"sequence":"0\u003c1"}` + "\n"
	if string(got) != want {
		t.Errorf("with sequence:\ngot  %swant %s", got, want)
	}
}

func TestAppendVaultJSONGolden(t *testing.T) {
	var got []byte
	for _, e := range sampleEvents() {
		got = AppendVaultJSON(got, e, "")
	}
	golden(t, "vault.jsonl", string(got))
}

// The structs of Vault's message as encoding/json would write them.
type (
	stdMessage struct {
		ID              string    `json:"id"`
		Source          string    `json:"source"`
		SpecVersion     string    `json:"specversion"`
		Type            string    `json:"type"`
		Data            stdData   `json:"data"`
		DataContentType string    `json:"datacontentype"`
		Time            time.Time `json:"time"`
		Sequence        string    `json:"sequence,omitempty"`
	}
	stdData struct {
		Event      *stdEvent  `json:"event,omitempty"`
		Namespace  string     `json:"namespace,omitempty"`
		EventType  string     `json:"event_type,omitempty"`
		PluginInfo *stdPlugin `json:"plugin_info,omitempty"`
	}
	stdEvent struct {
		ID        string          `json:"id,omitempty"`
		Metadata  *map[string]any `json:"metadata,omitempty"`
		EntityIDs []string        `json:"entity_ids,omitempty"`
		Note      string          `json:"note,omitempty"`
	}
	stdPlugin struct {
		MountClass    string `json:"mount_class,omitempty"`
		MountAccessor string `json:"mount_accessor,omitempty"`
		MountPath     string `json:"mount_path,omitempty"`
		Plugin        string `json:"plugin,omitempty"`
		PluginVersion string `json:"plugin_version,omitempty"`
		Version       string `json:"version,omitempty"`
		IsLocal       bool   `json:"is_local,omitempty"`
	}
)

func stdVaultJSON(t *testing.T, e *Event, sequence string) []byte {
	m := stdMessage{
		ID: e.ID, Source: e.Source, SpecVersion: "1.0", Type: "*",
		Data:            stdData{Event: &stdEvent{ID: e.ID, EntityIDs: e.EntityIDs, Note: e.Note}, Namespace: e.Namespace, EventType: e.Type},
		DataContentType: "application/cloudevents", Time: e.Time, Sequence: sequence,
	}
	if e.Metadata != nil {
		values := map[string]any{}
		for f := range e.Metadata.All() {
			if values[f.Key] = any(f.Value); f.JSON {
				values[f.Key] = json.RawMessage(f.Value)
			}
		}
		m.Data.Event.Metadata = &values
	}
	if e.Plugin != nil {
		p := stdPlugin(*e.Plugin)
		m.Data.PluginInfo = &p
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(m); err != nil {
		t.Fatalf("%v: %+v", err, e)
	}
	return b.Bytes()
}

func TestAppendVaultJSONMatchesStdlib(t *testing.T) {
	g := newGenerator(6)
	for range 20_000 {
		e, sequence := g.event(), g.text()
		got, want := AppendVaultJSON(nil, e, sequence), stdVaultJSON(t, e, sequence)
		if !bytes.Equal(got, want) {
			t.Fatalf("got  %swant %s", got, want)
		}
	}
}

func TestAppendStringEveryByteEverywhere(t *testing.T) {
	for c := range 256 {
		for i := range 20 {
			b := bytes.Repeat([]byte{'x'}, 20)
			b[i] = byte(c)
			want, _ := json.Marshal(string(b))
			if got := appendString(nil, b); !bytes.Equal(got, want) {
				t.Fatalf("byte %#x at %d: got %s, want %s", c, i, got, want)
			}
		}
	}
}

func FuzzVaultJSONMatchesStdlib(f *testing.F) {
	f.Add("id", "vault://n", "t", "note", "key", "<value>", `[1,"\u003c"]`, int64(1_700_000_000), int64(5), 60)
	f.Add("\xff", "\u2028", "\x00", "\\", "\"", "&", "{}", int64(-1), int64(999_999_999), -720)
	f.Add("", "", "", "", "", "", `null`, int64(0), int64(0), 0)
	f.Fuzz(func(t *testing.T, id, source, typ, note, key, value, typed string, sec, nsec int64, minutes int) {
		e := &Event{
			ID: id, Source: source, Type: typ, Note: note, EntityIDs: []string{value, key}, Namespace: value,
			Metadata: Fields{}, Plugin: &PluginInfo{MountPath: note},
			Time: time.Unix(sec%2e11, nsec).In(time.FixedZone("", minutes%(24*60)*60)),
		}
		if year := e.Time.Year(); year < 0 || year > 9999 {
			t.Skip()
		}
		e.Metadata.Set(key, value)
		if checkValue(typed) == nil {
			e.Metadata.SetJSON("typed", typed)
		}
		if got, want := AppendVaultJSON(nil, e, id), stdVaultJSON(t, e, id); !bytes.Equal(got, want) {
			t.Errorf("got  %swant %s", got, want)
		}
	})
}

func TestAppendTime(t *testing.T) {
	zone := func(seconds int) *time.Location { return time.FixedZone("", seconds) }
	tests := []struct {
		name string
		t    time.Time
		want string
	}{
		{"zero", time.Time{}, "0001-01-01T00:00:00Z"},
		{"seconds", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "2026-01-02T03:04:05Z"},
		{"trailing zeros", time.Date(2026, 1, 2, 3, 4, 5, 120_000_000, zone(-5400)), "2026-01-02T03:04:05.12-01:30"},
		{"largest zone", time.Date(2026, 1, 2, 3, 4, 5, 0, zone(86340)), "2026-01-02T03:04:05+23:59"},
		{"a day off", time.Date(2026, 1, 2, 3, 4, 5, 0, zone(86400)), "2026-01-01T03:04:05Z"},
		{"a zone with seconds", time.Date(1880, 1, 1, 0, 19, 32, 0, zone(19*60+32)), "1880-01-01T00:00:00Z"},
		{"year 10000 only here", time.Date(10000, 1, 1, 0, 30, 0, 0, zone(3600)), "9999-12-31T23:30:00Z"},
		{"year 10000", time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), "9999-12-31T23:59:59.999999999Z"},
		{"year -1", time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), "0000-01-01T00:00:00Z"},
		{"far future", time.Unix(math.MaxInt64/2, 0).UTC(), "9999-12-31T23:59:59.999999999Z"},
		{"far past", time.Unix(math.MinInt64/2, 0).UTC(), "0000-01-01T00:00:00Z"},
	}
	for _, tt := range tests {
		if got := string(appendTime([]byte("x"), tt.t)); got != "x"+tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got[1:], tt.want)
		}
	}
}

// vaultView returns what Vault's message keeps of e.
func vaultView(e *Event) *Event {
	v := &Event{
		ID: e.ID, Source: e.Source, Type: e.Type, Namespace: e.Namespace, Time: e.Time,
		Metadata: e.Metadata, EntityIDs: e.EntityIDs, Note: e.Note, Plugin: e.Plugin,
	}
	v.Path, _ = e.Metadata.Text(MetadataPath)
	return v
}

func TestVaultJSONRoundTrip(t *testing.T) {
	g := newGenerator(8)
	for range 10_000 {
		e := vaultView(g.event())
		for i := range e.Metadata { // escapes of typed values stay as they come
			e.Metadata[i].Value = strings.Map(func(r rune) rune {
				if e.Metadata[i].JSON && strings.ContainsRune("<>&\u2028\u2029", r) {
					return '-'
				}
				return r
			}, e.Metadata[i].Value)
		}
		line := AppendVaultJSON(nil, e, "")
		if bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("not one line: %q", line)
		}
		got, err := ParseVaultJSON(line)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if d := diff(got, e); d != "" {
			t.Fatalf("%s\n%s", line, d)
		}
	}
}

func TestParseVaultJSON(t *testing.T) {
	line := strings.SplitAfter(observedJSON, "\n")[1]
	want := observedEvents()[1]
	for name, text := range map[string]string{
		"as observed":     line,
		"right spelling":  strings.Replace(line, "datacontentype", "datacontenttype", 1),
		"both spellings":  strings.Replace(line, `"datacontentype"`, `"datacontenttype":"application/json","datacontentype"`, 1),
		"unknown members": strings.Replace(line, `"event":{`, `"x":[{}],"event":{"timestamp":{"a":null},`, 1),
		"nulls":           strings.Replace(line, `"type":"*"`, `"type":null,"sequence":null`, 1),
		"white space":     " \r\n" + strings.ReplaceAll(line, `,"`, " ,\n\t\""),
		"no id in data":   strings.Replace(line, `"event":{"id":"`+want.ID+`",`, `"event":{`, 1),
		"no id around":    strings.Replace(line, `{"id":"`+want.ID+`","source"`, `{"source"`, 1),
		"bare namespace":  strings.Replace(line, `"ns1/"`, `"/ns1"`, 1),
	} {
		got, err := ParseVaultJSON([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if d := diff(got, want); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
	e, err := ParseVaultJSON(AppendVaultJSON(nil, want, "0123"))
	if err != nil {
		t.Fatal(err)
	}
	if seq, _ := e.Extensions.Text(ExtensionSequence); seq != "0123" {
		t.Errorf("sequence is %q", seq)
	}
}

func TestParseVaultJSONRefuses(t *testing.T) {
	tests := []struct{ text, attribute string }{
		{``, "message"},
		{`{`, "message"},
		{`[]`, "message"},
		{`{}`, "id"},
		{`{"id":"x"} x`, "message"},
		{`{"id":"x"}`, "event_type"},
		{`{"id":"x","data":{"event_type":""}}`, "event_type"},
		{`{"id":5}`, "id"},
		{`{"id":"x","id":"x"}`, "id"},
		{`{"id":"x","data":{"event_type":"t","event":{"id":"y"}}}`, "data.event.id"},
		{`{"id":"x","data":{"event_type":"t","event":[]}}`, "data.event"},
		{`{"id":"x","data":{"event_type":"t","event":{"metadata":5}}}`, "data.event.metadata"},
		{`{"id":"x","data":{"event_type":"t","event":{"metadata":{"a":1,"a":1}}}}`, "data.event.metadata.a"},
		{`{"id":"x","data":{"event_type":"t","event":{"metadata":{"a":"\ud800"}}}}`, "data.event.metadata.a"},
		{`{"id":"x","data":{"event_type":"t","event":{"entity_ids":[1]}}}`, "data.event.entity_ids"},
		{`{"id":"x","data":{"event_type":"t","event":{"entity_ids":"e"}}}`, "data.event.entity_ids"},
		{`{"id":"x","data":{"event_type":"t","plugin_info":"kv"}}`, "data.plugin_info"},
		{`{"id":"x","data":{"event_type":"t","plugin_info":{"is_local":"true"}}}`, "data.plugin_info.is_local"},
		{`{"id":"x","data":{"event_type":"t","plugin_info":{"plugin":1}}}`, "data.plugin_info.plugin"},
		{`{"id":"x","time":"yesterday"}`, "time"},
		{`{"id":"x","time":"2026-01-01T1:00:00Z"}`, "time"},
		{"{\"id\":\"\xff\"}", "message"},
		{`{"x":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}`, "message"},
	}
	for _, tt := range tests {
		_, err := ParseVaultJSON([]byte(tt.text))
		wantInvalid(t, tt.text, err, tt.attribute)
	}
}

// wantInvalid checks that err is about attribute.
func wantInvalid(t *testing.T, input string, err error, attribute string) {
	t.Helper()
	var invalid *InvalidError
	if !errors.As(err, &invalid) || !errors.Is(err, ErrInvalid) || invalid.Attribute != attribute {
		if len(input) > 200 {
			input = input[:200] + "..."
		}
		t.Errorf("%s: got error %v, want one about %q", strconv.QuoteToASCII(input), err, attribute)
	}
}

func FuzzParseVaultJSON(f *testing.F) {
	for line := range strings.SplitAfterSeq(observedJSON, "\n") {
		f.Add([]byte(line))
	}
	for _, e := range sampleEvents() {
		f.Add(AppendVaultJSON(nil, e, "1"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseVaultJSON(b)
		if err != nil {
			if e != nil || !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v with error %v", e, err)
			}
			return
		}
		sequence, _ := e.Extensions.Text(ExtensionSequence)
		line := AppendVaultJSON(nil, e, sequence)
		again, err := ParseVaultJSON(line)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if once := AppendVaultJSON(nil, again, sequence); !bytes.Equal(once, line) {
			t.Errorf("not stable:\n%s%s", line, once)
		}
	})
}
