package event

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"
	"unicode/utf8"
)

// vector is an element of the files that testdata/conformance/README.md describes.
type vector struct {
	Name         string
	Event, Batch json.RawMessage
	Header       map[string]string
	Body         string
	Means        any
	Refused      any
}

func vectors(t *testing.T, file string) []vector {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "conformance", file))
	if err != nil {
		t.Fatal(err)
	}
	var list []vector
	if err := json.Unmarshal(b, &list); err != nil || len(list) == 0 {
		t.Fatalf("%d vectors: %v", len(list), err)
	}
	return list
}

// meaning is what an event is, in the words of the vectors.
func meaning(e *Event) map[string]any {
	m := map[string]any{"id": e.ID, "type": e.Type, "source": e.Source}
	for name, text := range map[string]string{"subject": e.Path, "datacontenttype": e.DataContentType, "dataschema": e.DataSchema} {
		if text != "" {
			m[name] = text
		}
	}
	if !e.Time.IsZero() {
		m["time"] = e.Time.UTC().Format(time.RFC3339Nano)
	}
	for x := range e.Extensions.All() {
		m[x.Key] = x.Value
		if x.JSON {
			var v any
			_ = json.Unmarshal([]byte(x.Value), &v)
			m[x.Key] = v
		}
	}
	switch {
	case e.Data == nil:
	case utf8.Valid(e.Data) && payloadKind(e.DataContentType) != payloadBinary || e.DataContentType == "application/xml":
		m["data"] = string(e.Data)
	default:
		m["data_base64"] = base64.StdEncoding.EncodeToString(e.Data)
	}
	return m
}

// judge compares what became of a vector with what should.
func judge(t *testing.T, v vector, means any, err error) {
	t.Helper()
	if v.Refused == nil {
		if err != nil {
			t.Errorf("%s: refused: %v", v.Name, err)
		} else if !reflect.DeepEqual(means, v.Means) {
			t.Errorf("%s: means %v, want %v", v.Name, means, v.Means)
		}
		return
	}
	attribute, ok := v.Refused.(string)
	if !ok {
		t.Fatalf("%s: refused is %v", v.Name, v.Refused)
	}
	if attribute == "format" {
		if !errors.Is(err, ErrEventFormat) {
			t.Errorf("%s: got %v, %v", v.Name, means, err)
		}
		return
	}
	wantInvalid(t, v.Name, err, attribute)
}

// judgeBatch is judge for batches, whose events are refused one by one.
func judgeBatch(t *testing.T, v vector, text []byte) {
	t.Helper()
	events, broken, err := ParseCloudEventBatch(text, 100)
	means := []any{}
	for _, e := range events {
		if e != nil {
			means = append(means, meaning(e))
		}
	}
	refused, ok := v.Refused.(map[string]any)
	if !ok {
		if err == nil && len(broken) > 0 {
			err = broken[0].Err
		}
		judge(t, v, means, err)
		return
	}
	if err != nil || len(broken) != len(refused) || len(means) != len(events)-len(broken) {
		t.Errorf("%s: %d events, broken %v, %v", v.Name, len(events), broken, err)
		return
	}
	for _, b := range broken {
		wantInvalid(t, v.Name, b.Err, refused[strconv.Itoa(b.Index)].(string))
		if events[b.Index] != nil {
			t.Errorf("%s: event %d is there although it is broken", v.Name, b.Index)
		}
	}
}

func TestConformance(t *testing.T) {
	for _, v := range vectors(t, "events.json") {
		e, err := ParseCloudEvent(v.Event)
		var means any
		if err == nil {
			means = meaning(e)
		}
		judge(t, v, means, err)
		// One event in a batch is the same.
		one := v
		one.Name = "batch of " + v.Name
		if v.Refused == nil {
			one.Means = []any{v.Means}
		} else {
			one.Refused = map[string]any{"0": v.Refused}
		}
		judgeBatch(t, one, append(append([]byte("["), v.Event...), ']'))
	}
	for _, v := range vectors(t, "batches.json") {
		judgeBatch(t, v, v.Batch)
	}
	for _, v := range vectors(t, "http.json") {
		header := http.Header{}
		for name, value := range v.Header {
			header.Set(name, value)
		}
		mode, err := ContentModeOf(header.Get("Content-Type"))
		var e *Event
		switch {
		case err != nil:
			judge(t, v, nil, err)
			continue
		case mode == BatchMode:
			judgeBatch(t, v, []byte(v.Body))
			continue
		case mode == StructuredMode:
			e, err = ParseCloudEvent([]byte(v.Body))
		default:
			e, err = ParseBinaryCloudEvent(header, []byte(v.Body))
		}
		var means any
		if err == nil {
			means = meaning(e)
		}
		judge(t, v, means, err)
	}
}
