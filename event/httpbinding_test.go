package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// batchOf returns the JSON batch of events.
func batchOf(events ...*Event) []byte {
	b := []byte{'['}
	for i, e := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendCloudEvent(b, e, "")
	}
	return append(b, ']')
}

// TestBatchIsItsEvents: a batch is read as each of its events alone, and they keep
// nothing of the text.
func TestBatchIsItsEvents(t *testing.T) {
	g := newGenerator(20)
	for range 300 {
		events := make([]*Event, g.IntN(80))
		for i := range events {
			events[i] = g.event()
		}
		text := batchOf(events...)
		got, broken, err := ParseCloudEventBatch(text, len(events))
		if err != nil || len(broken) > 0 || len(got) != len(events) {
			t.Fatalf("%d events of %d, %v, %v", len(got), len(events), broken, err)
		}
		clear(text)
		for i, e := range got {
			want, err := ParseCloudEvent(AppendCloudEvent(nil, events[i], ""))
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(e, want); d != "" {
				t.Fatalf("event %d: %s", i, d)
			}
		}
		// What is appended to one must not run into the next.
		for _, e := range got {
			_ = append(e.Data, "overflow"...)
			_ = append(e.Metadata, Field{Key: "overflow"})
			_ = append(e.Extensions, Field{Key: "overflow"})
		}
		for i, e := range got {
			if want, _ := ParseCloudEvent(AppendCloudEvent(nil, events[i], "")); diff(e, want) != "" {
				t.Fatalf("event %d has changed", i)
			}
		}
	}
}

func TestBatchBroken(t *testing.T) {
	good := string(cloudEvent(""))
	deep := strings.Repeat("[", 500) + strings.Repeat("]", 500)
	text := `[` + good + `, {"id":"a\u0062","type":1,"id2":{}} ,` + good + `,{"type":"t","id":"` + strings.Repeat("é", 1000) + `"},` +
		`{"id":5},` + strings.Replace(good, `}`, `,"x":`+deep+`}`, 1) + `,{"id":"1","id":"2"},{"id":"\ud800"}]`
	events, broken, err := ParseCloudEventBatch([]byte(text), 8)
	if err != nil {
		t.Fatal(err)
	}
	var indices []int
	for _, b := range broken {
		indices = append(indices, b.Index)
		if !errors.Is(b.Err, ErrInvalid) || len(b.ID) > 260 {
			t.Errorf("%+v", b)
		}
	}
	if !slices.Equal(indices, []int{1, 3, 4, 5, 6, 7}) || len(events) != 8 || events[0] == nil || events[2] == nil || events[1] != nil {
		t.Errorf("broken %v, events %v", indices, events)
	}
	if broken[0].ID != "ab" || broken[1].ID[:2] != "é" || broken[2].ID != "" || broken[3].ID != "1" {
		t.Errorf("ids %+v", broken)
	}
	for _, text := range []string{``, `[`, `[` + good, `[` + good + `,`, `[` + good + `,]`, `[,` + good + `]`, `[` + good + `]x`, `[` + good + good + `]`, `{}`, `null`, `"x"`,
		`[` + good + `,{"id":nul}]`, `[` + good + `,{"id"}]`, "[\"\xff\"]", `[` + strings.Repeat("[", 1001) + strings.Repeat("]", 1001) + `]`} {
		events, broken, err := ParseCloudEventBatch([]byte(text), 10)
		if events != nil || broken != nil {
			t.Errorf("%.100s: %v, %v", text, events, broken)
		}
		wantInvalid(t, text, err, "batch")
	}
}

func TestBatchLimits(t *testing.T) {
	three := "[" + strings.Repeat(string(cloudEvent(""))+",", 2) + string(cloudEvent("")) + "]"
	if events, _, err := ParseCloudEventBatch([]byte(three), 3); err != nil || len(events) != 3 {
		t.Error(err)
	}
	if events, _, err := ParseCloudEventBatch([]byte(three), 2); !errors.Is(err, ErrTooLarge) || events != nil {
		t.Error(events, err)
	}
	// Many small things take many times their bytes in memory, and so are bounded.
	var names strings.Builder
	for i := range 1 << 16 {
		fmt.Fprintf(&names, `"%x":1,`, i)
	}
	fat := `{` + names.String() + `"specversion":"1.0","id":"1","source":"/s","type":"t"}`
	if events, _, err := ParseCloudEventBatch([]byte("["+strings.Repeat(fat+",", 6)+fat+"]"), 100); err != nil || len(events) != 7 {
		t.Error(err)
	}
	if _, _, err := ParseCloudEventBatch([]byte("["+strings.Repeat(fat+",", 8)+fat+"]"), 100); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	ids := cloudEvent(`,"tocsindetails":"{\"entity_ids\":[` + strings.Repeat(`\"\",`, maxFields) + `\"\"]}"`)
	if _, err := ParseCloudEvent(ids); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// TestBatchMemory: an event that is kept does not keep its batch.
func TestBatchMemory(t *testing.T) {
	events := make([]*Event, 5000)
	for i := range events {
		events[i] = benchEvents()["audit"]
	}
	text := batchOf(events...)
	events = nil
	kept := make([]*Event, 0, 20)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range cap(kept) {
		got, _, err := ParseCloudEventBatch(text, 5000)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, got[2500])
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / int64(len(kept)); each > 64<<10 {
		t.Errorf("an event keeps %d bytes of a batch of %d", each, len(text))
	}
	runtime.KeepAlive(kept)
}

func TestContentModeOf(t *testing.T) {
	for contentType, want := range map[string]ContentMode{
		"": BinaryMode, "application/json": BinaryMode, "application/cloud": BinaryMode, "text/plain; x=application/cloudevents+json": BinaryMode,
		"application/cloudevents+json": StructuredMode, " application/cloudevents+json ;charset=\"utf-8\"": StructuredMode, "APPLICATION/CLOUDEVENTS+JSON": StructuredMode,
		"application/cloudevents-batch+json": BatchMode, "application/CLOUDevents-BATCH+json; charset=us-ascii": BatchMode,
	} {
		if got, err := ContentModeOf(contentType); got != want || err != nil {
			t.Errorf("%q: %v, %v", contentType, got, err)
		}
	}
	for _, contentType := range []string{"application/cloudevents", "application/cloudevents+xml", "application/cloudevents-batch", "application/cloudevents-batches+json",
		"application/cloudevents+json+x", "application/cloudevents+json; charset=utf-16", "application/cloudevents" + strings.Repeat("x", 10_000)} {
		if _, err := ContentModeOf(contentType); !errors.Is(err, ErrEventFormat) || len(err.Error()) > 300 {
			t.Errorf("%.100q: %v", contentType, err)
		}
	}
}

// toHeaders writes e as the binary content mode has it, and returns false for events
// that it cannot say.
func toHeaders(e *Event) (http.Header, []byte, bool) {
	var members map[string]any
	d := json.NewDecoder(bytes.NewReader(AppendCloudEvent(nil, e, "")))
	d.UseNumber()
	_ = d.Decode(&members)
	h := http.Header{}
	for name, value := range members {
		switch name {
		case "data", "data_base64":
			continue
		case "datacontenttype":
			h.Set("Content-Type", e.DataContentType)
			continue
		}
		var b strings.Builder
		text := fmt.Sprint(value)
		for i := range len(text) {
			if c := text[i]; c <= ' ' || c == '"' || c == '%' || c > '~' {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
		h.Set("ce-"+name, b.String())
	}
	hasDetails := len(members) > 0 && e.Data == nil && e.DataContentType == "" && e.DataSchema == "" && e.DataRef == ""
	if hasDetails && e.hasDetails() {
		h.Set("Content-Type", "application/json")
		return h, appendDetails(nil, e), true
	}
	return h, e.Data, e.Data == nil || len(e.Data) > 0
}

func TestBinaryRoundTrip(t *testing.T) {
	g := newGenerator(21)
	for range 5_000 {
		e := g.event()
		h, body, ok := toHeaders(e)
		if !ok {
			continue
		}
		got, err := ParseBinaryCloudEvent(h, body)
		if err != nil {
			t.Fatalf("%v: %v", err, h)
		}
		want := *e
		want.Extensions = want.Extensions.Clone()
		for i := range want.Extensions {
			want.Extensions[i].JSON = false // in headers everything is a string
		}
		if d := diff(got, &want); d != "" {
			t.Fatalf("%s\n%v %q", d, h, body)
		}
		clear(body)
	}
}

func TestBinaryHeaders(t *testing.T) {
	minimal := func(change func(http.Header)) http.Header {
		h := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}}
		change(h)
		return h
	}
	for attribute, h := range map[string]http.Header{
		"id":              minimal(func(h http.Header) { h.Add("Ce-Id", "1") }),
		"source":          minimal(func(h http.Header) { h["ce-source"] = []string{"/s"} }),
		"datacontenttype": minimal(func(h http.Header) { h["Content-Type"] = []string{"text/plain", "text/plain"} }),
		"x":               minimal(func(h http.Header) { h["ce-X"], h["Ce-x"] = []string{"1"}, []string{"1"} }),
		"subject":         minimal(func(h http.Header) { h["Ce-Subject"] = []string{"\xff"} }),
		"header ce-" + strings.Repeat("x", 80) + "...": minimal(func(h http.Header) { h["Ce-"+strings.Repeat("x", 500)] = []string{"1"} }),
	} {
		_, err := ParseBinaryCloudEvent(h, nil)
		wantInvalid(t, fmt.Sprint(h), err, attribute)
	}
	e, err := ParseBinaryCloudEvent(minimal(func(h http.Header) {
		h["ce-SUBJECT"], h["content-type"], h["Ce-Empty"], h["Cex"] = []string{"Straße"}, []string{" text/plain "}, nil, []string{"y"}
		delete(h, "Ce-Empty")
	}), []byte("data"))
	if err != nil || e.Path != "Straße" || e.DataContentType != "text/plain" || string(e.Data) != "data" || e.Extensions != nil {
		t.Errorf("%+v, %v", e, err)
	}
}

// checkParsed holds what every parser promises of the events that it accepts.
func checkParsed(t *testing.T, e *Event) {
	t.Helper()
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
}

func FuzzParseCloudEventBatch(f *testing.F) {
	f.Add(batchOf(sampleEvents()...))
	f.Add([]byte(`[{"specversion":"1.0","id":"1","source":"/","type":"t","x":null},{"id":"\u0061"},5,[],{"x":{}}]`))
	for _, v := range []string{`[]`, `[,]`, `[{}`, `[{"id":"a","id":"b"}]`, ` [ { } , { "a" : [ ] } ] `} {
		f.Add([]byte(v))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const most = 20
		text := bytes.Clone(b)
		events, broken, err := ParseCloudEventBatch(b, most)
		var elements []json.RawMessage
		if err != nil {
			if events != nil || broken != nil || !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("got %v, %v with error %v", events, broken, err)
			}
			return
		}
		if json.Unmarshal(text, &elements) != nil || len(elements) != len(events) || len(events) > most {
			t.Fatalf("%d events in %q", len(events), text)
		}
		clear(b)
		at := 0
		for i, e := range events {
			alone, err := ParseCloudEvent(elements[i])
			if (e == nil) != (err != nil) {
				t.Fatalf("event %d: %v, alone %v", i, e, err)
			}
			if e == nil {
				if at == len(broken) || broken[at].Index != i || !errors.Is(broken[at].Err, ErrInvalid) || len(broken[at].Err.Error()) > 400 {
					t.Fatalf("broken %+v, want %d at %d", broken, i, at)
				}
				at++
				continue
			}
			if d := diff(e, alone); d != "" {
				t.Fatal(d)
			}
			checkParsed(t, e)
		}
		if at != len(broken) {
			t.Fatalf("%d are broken, %d are told", at, len(broken))
		}
	})
}

func FuzzParseBinaryCloudEvent(f *testing.F) {
	for _, e := range sampleEvents() {
		h, body, _ := toHeaders(e)
		var names strings.Builder
		for name, values := range h {
			fmt.Fprintf(&names, "%s: %s\n", name, values[0])
		}
		f.Add(names.String(), body)
	}
	f.Add("ce-id: \"a\\\"%20\"\nce-ID: 2\nce-x: %C0%A0\nContent-Type: a/b", []byte("x"))
	f.Fuzz(func(t *testing.T, headers string, body []byte) {
		h := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}}
		for line := range strings.SplitSeq(headers, "\n") {
			name, value, _ := strings.Cut(line, ":")
			h[http.CanonicalHeaderKey(name)] = []string{strings.TrimSpace(value)}
		}
		e, err := ParseBinaryCloudEvent(h, body)
		if err != nil {
			if e != nil || !errors.Is(err, ErrInvalid) || len(err.Error()) > 400 {
				t.Fatalf("got %v with error %v", e, err)
			}
			return
		}
		checkParsed(t, e)
	})
}

// TestHeaderEncoding: whatever can be an attribute comes back as it was.
func TestHeaderEncoding(t *testing.T) {
	g := newGenerator(22)
	for range 5000 {
		text := g.word()
		var plain, quoted strings.Builder
		quoted.WriteByte('"')
		for i := range len(text) {
			fmt.Fprintf(&plain, "%%%02x", text[i])
			switch {
			case text[i] == '%':
				quoted.WriteString("%25")
			case g.oneIn(3) || text[i] == '"' || text[i] == '\\':
				quoted.WriteString("\\" + text[i:i+1])
			default:
				quoted.WriteByte(text[i])
			}
		}
		quoted.WriteByte('"')
		for _, value := range []string{plain.String(), quoted.String()} {
			if got, err := decodeHeader(nil, value); err != nil || string(got) != text {
				t.Fatalf("%q is read as %q, %v; want %q", value, got, err, text)
			}
		}
	}
}

// TestManyHeaders: as many as fit into what servers take cost no more than their number.
func TestManyHeaders(t *testing.T) {
	header := map[string][]string{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/a"}, "ce-type": {"a/b"}}
	const many = 200_000
	for i := range many {
		header[fmt.Sprintf("ce-x%06d", i)] = []string{"1"}
	}
	begin := time.Now()
	e, err := ParseBinaryCloudEvent(header, nil)
	if err != nil || len(e.Extensions) != many {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("%d headers take %v", many, took)
	}
	header["CE-X000007"] = []string{"2"}
	if _, err := ParseBinaryCloudEvent(header, nil); err == nil || err.Error() != "x000007: occurs twice" {
		t.Errorf("twice: %v", err)
	}
}
