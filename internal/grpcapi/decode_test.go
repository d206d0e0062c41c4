package grpcapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// reference makes an event of the generated type, slowly and obviously.
func reference(m *tocsinv1.Event) (*event.Event, bool) {
	if len(m.ProtoReflect().GetUnknown()) > 0 || m.Time != nil && (len(m.Time.ProtoReflect().GetUnknown()) > 0 || m.Time.CheckValid() != nil) {
		return nil, false
	}
	e := &event.Event{ID: m.Id, Source: m.Source, Type: m.Type, Path: m.Subject, Namespace: m.Namespace, Data: m.Data,
		DataContentType: m.DataContentType, DataSchema: m.DataSchema, DataRef: m.DataRef}
	if m.Time != nil {
		e.Time = m.Time.AsTime()
	}
	if len(e.Data) == 0 {
		e.Data = nil
	}
	fields := func(f *event.Fields, texts, values map[string]string) bool {
		for _, key := range slices.Sorted(maps.Keys(texts)) {
			f.Set(key, texts[key])
		}
		for key, value := range values {
			if _, twice := texts[key]; twice || !json.Valid([]byte(value)) {
				return false
			}
			var text string
			if json.Unmarshal([]byte(value), &text) == nil && strings.TrimSpace(value) != "null" {
				f.Set(key, text)
				continue
			}
			var b bytes.Buffer
			json.Compact(&b, []byte(value))
			f.SetJSON(key, b.String())
		}
		return true
	}
	if !fields(&e.Metadata, m.Metadata, m.MetadataJson) || !fields(&e.Extensions, m.Extensions, m.ExtensionsJson) {
		return nil, false
	}
	if path, ok := e.Metadata.Text(event.MetadataPath); ok && e.Path == "" {
		e.Path = path
	}
	return e, true
}

// same compares what publishing makes of two events. JSON is compared as bytes.
func same(a, b *event.Event) bool {
	return a.ID == b.ID && a.Source == b.Source && a.Type == b.Type && a.Path == b.Path && a.Namespace == b.Namespace &&
		bytes.Equal(a.Data, b.Data) && (a.Data == nil) == (b.Data == nil) && a.DataContentType == b.DataContentType &&
		a.DataSchema == b.DataSchema && a.DataRef == b.DataRef && a.Time.Equal(b.Time) && a.Time.IsZero() == b.Time.IsZero() &&
		slices.Equal(a.Metadata, b.Metadata) && slices.Equal(a.Extensions, b.Extensions)
}

// samples are requests of every kind of field.
func samples() []*tocsinv1.PublishRequest {
	whole := &tocsinv1.Event{Id: "1", Source: "/s", Type: "a/b", Subject: "p", Time: &timestamppb.Timestamp{Seconds: 1e9, Nanos: 5}, Namespace: "ns/",
		Metadata: map[string]string{"b": "1", "a": "ü", "c": ""}, MetadataJson: map[string]string{"d": "[1, 2]", "e": `"x\n"`, "f": "null"},
		Extensions: map[string]string{"x": "y"}, ExtensionsJson: map[string]string{"z": "true"},
		Data: []byte("{}"), DataContentType: "application/json", DataSchema: "s", DataRef: "r"}
	return []*tocsinv1.PublishRequest{
		{}, {Partial: true}, {Events: []*tocsinv1.Event{whole, {}, whole}, Partial: true},
		{Events: []*tocsinv1.Event{{Metadata: map[string]string{"path": "p"}}}},
		{Events: []*tocsinv1.Event{{Id: "x", Time: &timestamppb.Timestamp{}}, {Time: &timestamppb.Timestamp{Seconds: math.MaxInt64}}, {Time: &timestamppb.Timestamp{Seconds: minSeconds - 1}},
			{Time: &timestamppb.Timestamp{Seconds: minSeconds}}, {Time: &timestamppb.Timestamp{Seconds: maxSeconds, Nanos: 999999999}}, {Time: &timestamppb.Timestamp{Nanos: 1e9}}, {Time: &timestamppb.Timestamp{Nanos: -1}}}},
		{Events: []*tocsinv1.Event{{Metadata: map[string]string{"a": "1"}, MetadataJson: map[string]string{"a": "1"}}, {ExtensionsJson: map[string]string{"a": "{"}}, {Id: "later"}}},
	}
}

// check decodes a message in both ways and compares.
func check(t *testing.T, b []byte) {
	t.Helper()
	var want tocsinv1.PublishRequest
	err := proto.Unmarshal(b, &want)
	var got request
	got.decode(b)
	if err != nil {
		// What makes one event unreadable refuses that one only.
		if got.err == nil && len(got.refused) == 0 {
			t.Fatalf("%x was decoded to %d events, the generated code says %v", b, len(got.events), err)
		}
		return
	}
	if len(want.ProtoReflect().GetUnknown()) > 0 || len(want.Events) > maxEvents {
		if got.err == nil {
			t.Fatalf("%x: an unknown field, or too many events, passed", b)
		}
		return
	}
	if got.err != nil {
		t.Fatalf("%x: %v", b, got.err)
	}
	if got.partial != want.Partial || len(got.events)+len(got.refused) != len(want.Events) {
		t.Fatalf("%x: partial %v, %d events and %d refused of %d", b, got.partial, len(got.events), len(got.refused), len(want.Events))
	}
	events, refused := got.events, got.refused
	for i, m := range want.Events {
		w, ok := reference(m)
		if len(refused) > 0 && refused[0].Index == i {
			// The generated code throws away what it does not know in an entry of a map.
			if ok && !strings.Contains(refused[0].Text, "does not know") {
				t.Fatalf("%x: event %d is refused: %s", b, i, refused[0].Text)
			}
			refused = refused[1:]
			continue
		}
		if !ok {
			t.Fatalf("%x: event %d passed", b, i)
		}
		if !same(events[0], w) {
			t.Fatalf("%x: event %d is\n%+v, want\n%+v", b, i, events[0], w)
		}
		events = events[1:]
	}
}

func TestDecode(t *testing.T) {
	for _, m := range samples() {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		check(t, b)
		check(t, append(b, b...)) // fields that are there twice
	}
}

// The parts of an event that is there in pieces, as protobuf allows.
func TestDecodeOddities(t *testing.T) {
	event := func(fields ...byte) []byte { return append([]byte{0x0a, byte(len(fields))}, fields...) }
	for name, b := range map[string][]byte{
		"the last of two ids":           event(0x0a, 1, 'a', 0x0a, 1, 'b'),
		"a time in two parts":           event(0x2a, 2, 0x08, 5, 0x2a, 2, 0x10, 7),
		"an empty time":                 event(0x2a, 0),
		"the last of two equal keys":    event(0x3a, 6, 0x0a, 1, 'k', 0x12, 1, '1', 0x3a, 6, 0x0a, 1, 'k', 0x12, 1, '2'),
		"an entry in another order":     event(0x3a, 6, 0x12, 1, '1', 0x0a, 1, 'k'),
		"an entry without key or value": event(0x3a, 0),
		"an entry with more":            event(0x3a, 2, 0x18, 1),
		"a number as id":                event(0x08, 1),
		"a number as events":            {0x08, 1},
		"a group":                       event(0x0b, 0x0c),
		"an open group":                 event(0x0b),
		"cut":                           {0x0a, 200},
		"a long partial":                {0x10, 0x80, 0x80, 0x01},
		"invalid UTF-8":                 event(0x0a, 1, 0xff),
		"invalid UTF-8 in a key":        event(0x3a, 3, 0x0a, 1, 0xff),
		"field 0":                       {0x00, 0x00},
		"a huge nanos":                  event(0x2a, 11, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
	} {
		t.Run(name, func(t *testing.T) { check(t, b) })
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		s, err := proto.Marshal(&tocsinv1.PublishStreamRequest{Sequence: 7, Events: m.Events})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check(t, b)
		stream := request{stream: true}
		stream.decode(b)
		var want tocsinv1.PublishStreamRequest
		if proto.Unmarshal(b, &want) == nil && stream.err == nil && (want.Sequence != stream.sequence || len(want.Events) != len(stream.events)+len(stream.refused)) {
			t.Fatalf("%x: sequence %d with %d events, want %d, %d", b, stream.sequence, len(stream.events)+len(stream.refused), want.Sequence, len(want.Events))
		}
		// What passes is what every other edge could have made.
		for _, e := range stream.events {
			e.Complete(time.Now())
			if event.DefaultLimits.Check(e) == nil {
				if _, err := event.ParseCloudEvent(event.AppendCloudEvent(nil, e, "")); err != nil {
					t.Fatalf("%x: the event cannot be read again: %v", b, err)
				}
			}
		}
	})
}

// The bytes of a client that was built from the proto of the first version; they must be
// understood for ever.
func TestDecodeFirstVersion(t *testing.T) {
	b, err := os.ReadFile("testdata/request-v1.bin")
	if err != nil {
		t.Fatal(err)
	}
	var m request
	if m.decode(b); m.err != nil || len(m.events) != 1 || len(m.refused) != 0 {
		t.Fatalf("%v, %d events, %v", m.err, len(m.events), m.refused)
	}
	want := &event.Event{ID: "1", Source: "/s", Type: "a/b", Path: "p", Time: time.Unix(1e9, 5), Namespace: "ns/", Data: []byte("{}"),
		DataContentType: "application/json", DataSchema: "s", DataRef: "r"}
	want.Metadata.Set("a", "ü")
	want.Metadata.SetJSON("d", "[1,2]")
	want.Extensions.Set("x", "y")
	want.Extensions.SetJSON("z", "true")
	if !same(m.events[0], want) {
		t.Errorf("decoded to %+v", m.events[0])
	}
}

func TestHalfPair(t *testing.T) {
	for text, want := range map[string]bool{
		`""`: false, `"a"`: false, `"\ud800"`: true, `"\udc00"`: true, `"\ud83d\ude00"`: false, `"\ud83d\ude00\ude00"`: true, `"\\ud800"`: false,
		`"\\\ud800"`: true, `"\ufffd\n"`: false, `"\ud800\n\udc00"`: true, `"\ud83d\ud83d\ude00"`: true, `"\ud83d\ude0"`: true,
	} {
		if got := halfPair([]byte(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// Entries of maps take next to nothing in a message and much in memory.
func TestManyFields(t *testing.T) {
	entry := protowire.AppendBytes(protowire.AppendTag(nil, fieldMetadata, protowire.BytesType), nil)
	heavy := bytes.Repeat(entry, 2<<20) // 4 MiB
	good := protowire.AppendString(protowire.AppendTag(nil, fieldID, protowire.BytesType), "good")
	var m request
	message := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), heavy)
	message = protowire.AppendBytes(protowire.AppendTag(message, 1, protowire.BytesType), good)
	before := allocated()
	m.decode(message)
	if took := allocated() - before; took > 8<<20 {
		t.Errorf("%d bytes for a message of %d", took, len(message))
	}
	if m.err != nil || len(m.events) != 1 || m.events[0].ID != "good" || len(m.refused) != 1 || m.refused[0].Code != publish.TooLarge {
		t.Errorf("%+v", m)
	}
	// Many events with some each.
	var some []byte
	for i := range 1000 {
		pair := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), fmt.Sprint(i))
		some = protowire.AppendBytes(protowire.AppendTag(some, fieldExtensions, protowire.BytesType), pair)
	}
	m, message = request{}, nil
	for range maxFields/1000 + 1 {
		message = protowire.AppendBytes(protowire.AppendTag(message, 1, protowire.BytesType), some)
	}
	if m.decode(message); status.Code(m.err) != codes.ResourceExhausted || m.events != nil {
		t.Errorf("%v, %d events", m.err, len(m.events))
	}
}

func allocated() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.TotalAlloc
}

// What events take in memory before they are decoded is never more than was reserved for it.
func TestCost(t *testing.T) {
	tiny := protowire.AppendString(protowire.AppendTag(nil, fieldSource, protowire.BytesType), "s")
	tiny = protowire.AppendString(protowire.AppendTag(tiny, fieldType, protowire.BytesType), "t")
	var some []byte
	for i := range 1000 {
		pair := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), fmt.Sprint(i))
		some = protowire.AppendBytes(protowire.AppendTag(some, fieldMetadata, protowire.BytesType), pair)
	}
	for name, tt := range map[string]struct {
		event []byte
		count int
	}{"tiny": {tiny, maxEvents}, "fields": {some, maxFields / 1000}, "few": {tiny, 10}} {
		var m request
		for range tt.count {
			m.raw = protowire.AppendBytes(protowire.AppendTag(m.raw, 1, protowire.BytesType), tt.event)
		}
		cost := m.cost()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m.decode(m.raw)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if took := int64(after.HeapAlloc) - int64(before.HeapAlloc); len(m.events) != tt.count || took > cost+2*int64(len(m.raw))+64<<10 {
			t.Errorf("%s: %d events take %d bytes, %d were reserved for %d", name, len(m.events), took, cost, len(m.raw))
		}
		runtime.KeepAlive(m)
	}
}
