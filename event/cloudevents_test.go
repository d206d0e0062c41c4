package event

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestAppendCloudEventGolden(t *testing.T) {
	var got []byte
	for _, e := range append(observedEvents(), sampleEvents()...) {
		got = append(AppendCloudEvent(got, e, ""), '\n')
	}
	golden(t, "cloudevents.jsonl", string(got))
}

// cloudEventView returns e with the differences that AppendCloudEvent documents.
func cloudEventView(e *Event) *Event {
	v := *e
	isJSON := v.DataContentType == "" || strings.Contains(v.DataContentType, "json")
	if v.Data != nil && isJSON && json.Valid(v.Data) && utf8.Valid(v.Data) {
		v.Data = bytes.Trim(v.Data, " \t\r\n")
		if bytes.ContainsAny(v.Data, "\r\n") {
			var b bytes.Buffer
			json.Compact(&b, v.Data)
			v.Data = b.Bytes()
		}
		if v.DataContentType == "" {
			v.DataContentType = "application/json"
		}
	}
	return &v
}

func TestCloudEventRoundTrip(t *testing.T) {
	g := newGenerator(10)
	for range 20_000 {
		e := g.event()
		if e.Data != nil && g.oneIn(4) { // as a pretty-printer leaves it
			var b bytes.Buffer
			if json.Indent(&b, e.Data, "", "\t") == nil {
				e.Data = append(b.Bytes(), '\n')
			}
		}
		sequence := g.pick("", "0123", g.word())
		want := cloudEventView(e)
		b := AppendCloudEvent([]byte("kept"), e, sequence)[len("kept"):]
		if bytes.ContainsAny(b, "\r\n") || !json.Valid(b) {
			t.Fatalf("not one line of JSON: %q", b)
		}
		got, err := ParseCloudEvent(b)
		if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if sequence != "" {
			want.Extensions = want.Extensions.Clone()
			want.Extensions.Set(ExtensionSequence, sequence)
		}
		if d := diff(got, want); d != "" {
			t.Fatalf("%s\n%s", b, d)
		}
		if err := noLimits.Check(got); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
	}
}

// TestCloudEventAttributes checks the output against the rules of the
// specification, not against our own parser.
func TestCloudEventAttributes(t *testing.T) {
	g := newGenerator(11)
	for range 5_000 {
		e := g.event()
		b := AppendCloudEvent(nil, e, "s")
		var members map[string]any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&members); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		for name, value := range members {
			if name == "data" || name == "data_base64" {
				continue
			}
			if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
				t.Errorf("attribute name %q", name)
			}
			switch value := value.(type) {
			case string:
				if value == "" {
					t.Errorf("%s is empty: %s", name, b)
				}
			case bool, json.Number:
			default:
				t.Errorf("%s is a %T", name, value)
			}
		}
		for name, want := range map[string]string{
			"specversion": "1.0", "id": e.ID, "source": e.Source, "type": e.Type, "subject": e.Path,
			"namespace": e.Namespace, "dataref": e.DataRef, "sequence": "s",
		} {
			if got, _ := members[name].(string); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if at, err := time.Parse(time.RFC3339Nano, members["time"].(string)); err != nil || !at.Equal(e.Time) {
			t.Errorf("time is %v, want %v", members["time"], e.Time)
		}
		_, data := members["data"]
		bin, base64Data := members["data_base64"].(string)
		if data && base64Data {
			t.Errorf("data and data_base64: %s", b)
		}
		if base64Data {
			if got, err := base64.StdEncoding.DecodeString(bin); err != nil || !bytes.Equal(got, e.Data) {
				t.Errorf("data_base64 is %q, want %q", got, e.Data)
			}
		}
		if got, ok := members["data"].(string); ok && strings.HasPrefix(e.DataContentType, "text/plain") && got != string(e.Data) {
			t.Errorf("data is %q, want %q", got, e.Data)
		}
	}
}

func TestAppendCloudEventSequenceReplaces(t *testing.T) {
	e := observedEvents()[2]
	e.Extensions = Fields{{Key: "sequence", Value: "1"}, {Key: "sequencetype", Value: "Integer"}, {Key: "zone", Value: "z"}}
	for sequence, want := range map[string]Fields{"": e.Extensions, "9": {{Key: "sequence", Value: "9"}, {Key: "zone", Value: "z"}}} {
		got, err := ParseCloudEvent(AppendCloudEvent(nil, e, sequence))
		if err != nil || !reflect.DeepEqual(got.Extensions, want) {
			t.Errorf("sequence %q: got %v, %v", sequence, got, err)
		}
	}
}

// cloudEvent returns the minimal event with further members.
func cloudEvent(members string) []byte {
	return []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t"` + members + `}`)
}

func TestParseCloudEvent(t *testing.T) {
	at := time.Date(2018, 4, 5, 17, 31, 0, 0, time.UTC)
	base := func(change func(*Event)) *Event {
		e := &Event{ID: "1", Source: "/s", Type: "t"}
		change(e)
		return e
	}
	tests := []struct {
		members string
		want    *Event
	}{
		{``, base(func(e *Event) {})},
		{`,"subject":null,"time":null,"unset":null,"recordedtime":null,"data_base64":null`, base(func(e *Event) {})},
		{`,"subject":"a/b","time":"2018-04-05T17:31:00Z"`, base(func(e *Event) { e.Path, e.Time = "a/b", at })},
		{`,"comexampleothervalue":5,"comexampleextension1":"value","b":false`, base(func(e *Event) {
			e.Extensions = Fields{{"b", "false", true}, {"comexampleextension1", "value", false}, {"comexampleothervalue", "5", true}}
		})},
		{`,"data":null`, base(func(e *Event) { e.Data, e.DataContentType = []byte("null"), "application/json" })},
		{`,"data":"I'm just a string"`, base(func(e *Event) { e.Data, e.DataContentType = []byte(`"I'm just a string"`), "application/json" })},
		{`,"data": { "a" : 1.50 } ,"datacontenttype":"application/json"`, base(func(e *Event) {
			e.Data, e.DataContentType = []byte(`{ "a" : 1.50 }`), "application/json"
		})},
		{`,"datacontenttype":"application/xml","data":"<much wow=\"xml\"/>"`, base(func(e *Event) {
			e.Data, e.DataContentType = []byte(`<much wow="xml"/>`), "application/xml"
		})},
		{`,"datacontenttype":"text/plain","data":""`, base(func(e *Event) { e.Data, e.DataContentType = []byte{}, "text/plain" })},
		{`,"data_base64":"AP8="`, base(func(e *Event) { e.Data = []byte{0, 0xff} })},
		{`,"data_base64":""`, base(func(e *Event) { e.Data = []byte{} })},
		{`,"namespace":"ns1"`, base(func(e *Event) { e.Namespace = "ns1/" })},
		{`,"namespace":"root"`, base(func(e *Event) {})},
		{`,"dataref":"x:y"`, base(func(e *Event) { e.DataRef = "x:y" })},
		{`,"dataschema":"` + NotificationSchema + `"`, base(func(e *Event) {})},
		{`,"dataschema":"` + NotificationSchema + `","data":{"metadata":{"path":"p","n":[ 1 ]},"entity_ids":null,"plugin_info":null}`, base(func(e *Event) {
			e.Path, e.Metadata = "p", Fields{{"n", "[1]", true}, {"path", "p", false}}
		})},
		{`,"dataschema":"` + NotificationSchema + `","data_base64":"eyJub3RlIjoibiJ9"`, base(func(e *Event) { e.Note = "n" })},
		{`,"tocsindetails":"{\"metadata\":{}}","data_base64":"AA=="`, base(func(e *Event) { e.Metadata, e.Data = Fields{}, []byte{0} })},
	}
	for _, tt := range tests {
		got, err := ParseCloudEvent(cloudEvent(tt.members))
		if err != nil {
			t.Errorf("%s: %v", tt.members, err)
		} else if d := diff(got, tt.want); d != "" {
			t.Errorf("%s:\n%s", tt.members, d)
		}
	}
}

func TestParseCloudEventRefuses(t *testing.T) {
	notification := `,"dataschema":"` + NotificationSchema + `"`
	tests := []struct{ text, attribute string }{
		{``, "event"},
		{`null`, "event"},
		{`[]`, "event"},
		{`{}`, "specversion"},
		{string(cloudEvent("")) + "{}", "event"},
		{"\ufeff" + string(cloudEvent("")), "event"},
		{`{"specversion":"1.0","source":"/s","type":"t"}`, "id"},
		{`{"specversion":"1.0","id":null,"source":"/s","type":"t"}`, "id"},
		{`{"specversion":"1.0","id":"","source":"/s","type":"t"}`, "id"},
		{`{"specversion":"1.0","id":7,"source":"/s","type":"t"}`, "id"},
		{`{"specversion":"1.0","id":"1","type":"t"}`, "source"},
		{`{"specversion":"1.0","id":"1","source":"/s"}`, "type"},
		{`{"specversion":"1.0","id":"1","source":"/s","type":"t*"}`, "type"},
		{`{"specversion":"1.0","id":"1","source":"/s\n","type":"t"}`, "source"},
		{`{"specversion":"0.3","id":"1","source":"/s","type":"t"}`, "specversion"},
		{`{"specversion":1.0,"id":"1","source":"/s","type":"t"}`, "specversion"},
		{string(cloudEvent(`,"id":"1"`)), "id"},
		{string(cloudEvent(`,"\u0069d":"1"`)), "id"},
		{string(cloudEvent(`,"x":null,"x":null`)), "x"},
		{string(cloudEvent(`,"Subject":"s"`)), `"Subject"`},
		{string(cloudEvent(`,"my-ext":"s"`)), `"my-ext"`},
		{string(cloudEvent(`,"":null`)), `""`},
		{string(cloudEvent(`,"` + strings.Repeat("a", 65) + `":1`)), `"` + strings.Repeat("a", 65) + `"`},
		{string(cloudEvent(`,"subject":""`)), "subject"},
		{string(cloudEvent(`,"subject":5`)), "subject"},
		{string(cloudEvent(`,"subject":"\ud800"`)), "subject"},
		{string(cloudEvent(`,"time":"now"`)), "time"},
		{string(cloudEvent(`,"time":5`)), "time"},
		{string(cloudEvent(`,"time":"0000-01-01T00:00:00+01:00"`)), "time"},
		{string(cloudEvent(`,"recordedtime":""`)), "recordedtime"},
		{string(cloudEvent(`,"datacontenttype":"json"`)), "datacontenttype"},
		{string(cloudEvent(`,"x":1.5`)), "extension x"},
		{string(cloudEvent(`,"x":1e3`)), "extension x"},
		{string(cloudEvent(`,"x":-0`)), "extension x"},
		{string(cloudEvent(`,"x":2147483648`)), "extension x"},
		{string(cloudEvent(`,"x":{}`)), "extension x"},
		{string(cloudEvent(`,"x":"a\u0000b"`)), "extension x"},
		{string(cloudEvent(`,"x":nul`)), "x"},
		{string(cloudEvent(`,"data":1,"data_base64":"AA=="`)), "data_base64"},
		{string(cloudEvent(`,"data_base64":"AA"`)), "data_base64"},
		{string(cloudEvent(`,"data_base64":"AA\n=="`)), "data_base64"},
		{string(cloudEvent(`,"data_base64":"AB=="`)), "data_base64"},
		{string(cloudEvent(`,"data_base64":[]`)), "data_base64"},
		{string(cloudEvent(`,"data_base64":5`)), "data_base64"},
		{string(cloudEvent(`,"datacontenttype":"text/plain","data":{}`)), "data"},
		{string(cloudEvent(`,"data":` + strings.Repeat("[", maxDataDepth+1) + strings.Repeat("]", maxDataDepth+1))), "data"},
		{string(cloudEvent(`,"data":tru`)), "data"},
		{string(cloudEvent(notification + `,"data":5`)), "data"},
		{string(cloudEvent(notification + `,"data":{"event":{}}`)), "data.event"},
		{string(cloudEvent(notification + `,"data":{"id":"1"}`)), "data.id"},
		{string(cloudEvent(notification + `,"data":{"plugin_info":{"x":1}}`)), "data.plugin_info.x"},
		{string(cloudEvent(notification + `,"data_base64":"AA=="`)), "data"},
		{string(cloudEvent(notification + `,"datacontenttype":"text/plain","data":"{}"`)), "datacontenttype"},
		{string(cloudEvent(notification + `,"tocsindetails":"{}"`)), "tocsindetails"},
		{string(cloudEvent(notification + `,"subject":"a","data":{"metadata":{"path":"b"}}`)), "path"},
		{string(cloudEvent(`,"tocsindetails":"x"`)), "tocsindetails"},
		{string(cloudEvent(`,"tocsindetails":"{} {}"`)), "tocsindetails"},
		{string(cloudEvent(`,"tocsindetails":{}`)), "tocsindetails"},
		{"{\"specversion\":\"1.0\",\"id\":\"\xff\",\"source\":\"/s\",\"type\":\"t\"}", "event"},
	}
	for _, tt := range tests {
		_, err := ParseCloudEvent([]byte(tt.text))
		wantInvalid(t, tt.text, err, tt.attribute)
	}
}

// TestParseHostileSizes guards against time or memory that grows faster than the
// input.
func TestParseHostileSizes(t *testing.T) {
	var many strings.Builder
	for i := range 100_000 {
		// In falling order, the worst for insertion.
		many.WriteString(`,"x` + string(appendLetters(nil, 100_000-i)) + `":1`)
	}
	if e, err := ParseCloudEvent(cloudEvent(many.String())); err != nil || len(e.Extensions) != 100_000 {
		t.Errorf("many extensions: %v", err)
	}
	metadata := `,"dataschema":"` + NotificationSchema + `","data":{"metadata":{` + many.String()[1:] + `}}`
	if e, err := ParseCloudEvent(cloudEvent(metadata)); err != nil || len(e.Metadata) != 100_000 {
		t.Errorf("many metadata: %v", err)
	}
	long := strings.Repeat("é", 1<<20)
	for _, members := range []string{`,"` + long + `":1`, `,"time":"` + long + `"`, `,"datacontenttype":"` + long + `"`} {
		if _, err := ParseCloudEvent(cloudEvent(members)); err == nil || len(err.Error()) > 400 || !utf8.ValidString(err.Error()) {
			t.Error("an error is not short")
		}
	}
	deep := cloudEvent(`,"data":` + strings.Repeat(`[`, 8<<20))
	if _, err := ParseCloudEvent(deep); !errors.Is(err, ErrInvalid) {
		t.Errorf("deep: %v", err)
	}
}

// appendLetters appends n in lower-case letters.
func appendLetters(dst []byte, n int) []byte {
	for ; n > 0; n /= 26 {
		dst = append(dst, byte('a'+n%26))
	}
	return dst
}

func FuzzParseCloudEvent(f *testing.F) {
	for _, e := range append(observedEvents(), sampleEvents()...) {
		f.Add(AppendCloudEvent(nil, e, "1"))
	}
	f.Add(cloudEvent(`,"x":5,"y":null,"data":"a","subject":"é"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseCloudEvent(b)
		if err != nil {
			if e != nil || !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v with error %v", e, err)
			}
			return
		}
		complete := *e
		complete.Complete(time.Unix(0, 0))
		if err := noLimits.Check(&complete); err != nil {
			t.Fatalf("accepted, but not valid: %v", err)
		}
		line := AppendCloudEvent(nil, e, "")
		if !json.Valid(line) || bytes.ContainsAny(line, "\r\n") {
			t.Fatalf("not a line of JSON: %q", line)
		}
		again, err := ParseCloudEvent(line)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if d := diff(again, cloudEventView(e)); d != "" {
			t.Errorf("%s\n%s", line, d)
		}
	})
}
