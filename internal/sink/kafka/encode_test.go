package kafka

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/position"
	kafkav1 "github.com/tocsin-events/tocsin/proto/tocsin/kafka/v1"
)

// full is an event that has everything.
func full() deliver.Item {
	return deliver.Item{
		At: position.Position{Seq: 3, Index: 1, Ordinal: 9},
		Event: &event.Event{
			ID: "id-1", Source: "vault://node-1", Type: "kv-v2/data-write", Namespace: "team-a/", Path: "secret/data/é",
			Metadata:  event.Fields{{Key: "a", Value: "text"}, {Key: "b", Value: "[1,2]", JSON: true}, {Key: "c", Value: ""}},
			EntityIDs: []string{"e1", ""}, Note: "note",
			Plugin:   &event.PluginInfo{MountClass: "secret", MountAccessor: "kv_1", MountPath: "secret/", Plugin: "kv", PluginVersion: "v1", Version: "2", IsLocal: true},
			Time:     time.Date(2026, 3, 4, 5, 6, 7, 891_234_567, time.UTC),
			Recorded: time.Date(2026, 3, 4, 5, 6, 8, 0, time.UTC),
			Data:     []byte("{\"x\":1}\n\x00"), DataContentType: "application/json", DataSchema: "https://example.com/s", DataRef: "/v1/audit/payload/1",
			Extensions: event.Fields{{Key: "n", Value: "3", JSON: true}, {Key: "t", Value: "x"}},
		},
	}
}

// least is an event that has only what every event has.
func least() deliver.Item {
	return deliver.Item{Event: &event.Event{ID: "id-2", Source: "s", Type: "t", Time: time.Unix(0, 0).UTC()}}
}

func TestEventProto(t *testing.T) {
	for _, it := range []deliver.Item{full(), least()} {
		e := it.Event
		texts := func(f event.Fields, json bool) map[string]string {
			var m map[string]string
			for _, x := range f {
				if x.JSON == json {
					if m == nil {
						m = make(map[string]string)
					}
					m[x.Key] = x.Value
				}
			}
			return m
		}
		want := &kafkav1.Event{
			Id: e.ID, Source: e.Source, Type: e.Type, Subject: e.Path, Time: timestamppb.New(e.Time), Namespace: e.Namespace,
			Metadata: texts(e.Metadata, false), MetadataJson: texts(e.Metadata, true),
			Extensions: texts(e.Extensions, false), ExtensionsJson: texts(e.Extensions, true),
			Data: e.Data, DataContentType: e.DataContentType, DataSchema: e.DataSchema, DataRef: e.DataRef,
			Sequence: it.At.String(), EntityIds: e.EntityIDs, Note: e.Note,
		}
		if !e.Recorded.IsZero() {
			want.Recorded = timestamppb.New(e.Recorded)
		}
		if p := e.Plugin; p != nil {
			want.Plugin = &kafkav1.Plugin{MountClass: p.MountClass, MountAccessor: p.MountAccessor, MountPath: p.MountPath, Plugin: p.Plugin, PluginVersion: p.PluginVersion, Version: p.Version, IsLocal: p.IsLocal}
		}
		got := appendEventProto([]byte("lead"), it)[4:]
		wantBytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, wantBytes) {
			t.Errorf("bytes\n%x, want\n%x", got, wantBytes)
		}
		back := new(kafkav1.Event)
		if err := proto.Unmarshal(got, back); err != nil || !proto.Equal(back, want) {
			t.Errorf("read back %v, %v", back, err)
		}
	}
}

// TestProtoSchema compares the schema that is registered with the code that was made of it.
func TestProtoSchema(t *testing.T) {
	if kafkav1.File_tocsin_kafka_v1_event_proto.Messages().Get(0).Name() != "Event" {
		t.Error("Event is not the first message of the schema")
	}
	if !strings.Contains(kafkav1.Schema, "message Event {") {
		t.Errorf("schema %.200s", kafkav1.Schema)
	}
}

// avroReader decodes what a schema says, for tests: as plain values, unions with one level less.
type avroReader struct {
	b     []byte
	named map[string]any
	order []string // keys of maps, in the order in which they came
}

func (r *avroReader) long() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		panic("a number ends early")
	}
	r.b = r.b[size:]
	return n
}

func (r *avroReader) take(n int64) []byte {
	if n < 0 || n > int64(len(r.b)) {
		panic("a text ends early")
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *avroReader) blocks(element func()) {
	for {
		n := r.long()
		if n == 0 {
			return
		}
		size := int64(-1)
		if n < 0 {
			n, size = -n, r.long()
		}
		before := len(r.b)
		for range n {
			element()
		}
		if size >= 0 && int64(before-len(r.b)) != size {
			panic("a block is not as large as it says")
		}
	}
}

func (r *avroReader) value(schema any) any {
	switch s := schema.(type) {
	case string:
		switch s {
		case "null":
			return nil
		case "string":
			return string(r.take(r.long()))
		case "bytes":
			return bytes.Clone(r.take(r.long()))
		case "boolean":
			return r.take(1)[0] == 1
		case "int", "long":
			return r.long()
		case "double":
			return math.Float64frombits(binary.LittleEndian.Uint64(r.take(8)))
		}
		return r.value(r.named[s])
	case []any:
		return r.value(s[r.long()])
	case map[string]any:
		switch s["type"] {
		case "record":
			r.named[s["name"].(string)] = s
			m := make(map[string]any)
			for _, f := range s["fields"].([]any) {
				field := f.(map[string]any)
				m[field["name"].(string)] = r.value(field["type"])
			}
			return m
		case "map":
			m := make(map[string]any)
			r.blocks(func() {
				k := string(r.take(r.long()))
				r.order = append(r.order, k)
				m[k] = r.value(s["values"])
			})
			return m
		case "array":
			list := []any{}
			r.blocks(func() { list = append(list, r.value(s["items"])) })
			return list
		}
		return r.value(s["type"])
	}
	panic(fmt.Sprintf("schema %v", schema))
}

// readAvro decodes b, all of it.
func readAvro(t *testing.T, schema string, b []byte) (map[string]any, []string) {
	t.Helper()
	var s any
	if err := json.Unmarshal([]byte(schema), &s); err != nil {
		t.Fatal(err)
	}
	r := &avroReader{b: b, named: make(map[string]any)}
	v := r.value(s)
	if len(r.b) != 0 {
		t.Fatalf("%d bytes are left", len(r.b))
	}
	return v.(map[string]any), r.order
}

func TestEventAvro(t *testing.T) {
	got, _ := readAvro(t, avroSchema, appendEventAvro(nil, full()))
	want := map[string]any{
		"id": "id-1", "source": "vault://node-1", "type": "kv-v2/data-write", "subject": "secret/data/é", "namespace": "team-a/",
		"time": int64(1772600767891234), "recorded": int64(1772600768000000),
		"metadata": map[string]any{"a": "text", "c": ""}, "metadata_json": map[string]any{"b": "[1,2]"},
		"extensions": map[string]any{"t": "x"}, "extensions_json": map[string]any{"n": "3"},
		"data": []byte("{\"x\":1}\n\x00"), "data_content_type": "application/json", "data_schema": "https://example.com/s", "data_ref": "/v1/audit/payload/1",
		"sequence": full().At.String(), "entity_ids": []any{"e1", ""}, "note": "note",
		"plugin": map[string]any{"mount_class": "secret", "mount_accessor": "kv_1", "mount_path": "secret/", "plugin": "kv", "plugin_version": "v1", "version": "2", "is_local": true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	got, _ = readAvro(t, avroSchema, appendEventAvro(nil, least()))
	if got["data"] != nil || got["plugin"] != nil || got["recorded"] != nil || len(got["metadata"].(map[string]any)) != 0 || got["id"] != "id-2" {
		t.Errorf("got %v", got)
	}
	broken := least()
	broken.Event.Note = "a\xffb"
	if got, _ = readAvro(t, avroSchema, appendEventAvro(nil, broken)); got["note"] != "a\uFFFDb" {
		t.Errorf("note %q", got["note"])
	}
}

// recording is a record that a Flipt server wrote, and the line of its log for the same event.
type recording struct {
	Topic string          `json:"topic"`
	Key   string          `json:"key"`
	Value string          `json:"value_hex"`
	Line  json.RawMessage `json:"log_sink_line"`
}

func recordings(t *testing.T) (list []recording) {
	t.Helper()
	b, err := os.ReadFile("testdata/flipt-recorded-kafka.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var r recording
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	if len(list) != 32 {
		t.Fatalf("%d recordings", len(list))
	}
	return list
}

// sorted returns the payload of an event with its members in another order.
func sorted(t *testing.T, e *fliptevent.Event, order []string) *fliptevent.Event {
	t.Helper()
	members, err := payloadOf(e)
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, name := range order {
		for _, m := range members {
			if m.name == name {
				parts = append(parts, fmt.Sprintf("%q:%s", name, m.value))
			}
		}
	}
	if len(parts) != len(members) {
		t.Fatalf("members %v, recorded %v", members, order)
	}
	c := *e
	c.Payload = []byte("{" + strings.Join(parts, ",") + "}")
	return &c
}

// TestFliptRecorded reads every value that Flipt's own sink wrote with our schemas, and makes the
// same of the event: the same content, and the same bytes when the members of the payload, which
// Flipt writes in random order, are put into that order.
func TestFliptRecorded(t *testing.T) {
	for i, r := range recordings(t) {
		value, err := hex.DecodeString(r.Value)
		if err != nil {
			t.Fatal(err)
		}
		e, err := fliptevent.Decode(r.Line)
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != r.Key {
			t.Errorf("%d: key %s of type %s", i, r.Key, e.Type)
		}
		if strings.HasSuffix(r.Topic, "-sr") { // without the indexes of the message
			if !bytes.Equal(value[:5], []byte{0, 0, 0, 0, 7}) {
				t.Errorf("%d: header %x", i, value[:5])
			}
			value = value[5:]
		}
		if strings.HasPrefix(r.Topic, "audit-avro") {
			want, order := readAvro(t, fliptAvroSchema, value)
			b, err := appendFliptAvro(nil, e)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := readAvro(t, fliptAvroSchema, b); !reflect.DeepEqual(got, want) {
				t.Errorf("%d: got %v\nwant %v", i, got, want)
			}
			if b, _ = appendFliptAvro(nil, sorted(t, e, order)); !bytes.Equal(b, value) {
				t.Errorf("%d: bytes\n%x, want\n%x", i, b, value)
			}
			continue
		}
		want, order := readFliptProto(t, value)
		b, err := appendFliptProto(nil, e, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := readFliptProto(t, b); !reflect.DeepEqual(got, want) {
			t.Errorf("%d: got %v\nwant %v", i, got, want)
		}
		if b, _ = appendFliptProto(nil, sorted(t, e, order), time.Time{}); len(b) != len(value) {
			t.Errorf("%d: %d bytes, want %d", i, len(b), len(value))
		} else if flat := !bytes.Contains(e.Payload, []byte("[")) && bytes.Count(e.Payload, []byte("{")) == 1; flat && !bytes.Equal(b, value) {
			t.Errorf("%d: bytes\n%x, want\n%x", i, b, value)
		}
	}
}

// readFliptProto reads a message field by field, and the payload with the official types.
func readFliptProto(t *testing.T, b []byte) (fields map[string]any, order []string) {
	t.Helper()
	fields = make(map[string]any)
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 || typ != protowire.BytesType {
			t.Fatalf("tag %d of type %d", n, typ)
		}
		v, more := protowire.ConsumeBytes(b[size:])
		if more < 0 {
			t.Fatal("a field ends early")
		}
		b = b[size+more:]
		switch n {
		case 5:
			var s structpb.Struct
			if err := proto.Unmarshal(v, &s); err != nil {
				t.Fatal(err)
			}
			fields["payload"] = s.AsMap()
			for len(v) > 0 {
				entry, size := protowire.ConsumeBytes(v[1:])
				name, _ := protowire.ConsumeString(entry[1:])
				order = append(order, name)
				v = v[1+size:]
			}
		case 6:
			var at timestamppb.Timestamp
			if err := proto.Unmarshal(v, &at); err != nil {
				t.Fatal(err)
			}
			fields["timestamp"] = at.AsTime()
		default:
			fields[fmt.Sprint(n)] = string(v)
		}
	}
	return fields, order
}

func TestFliptEdges(t *testing.T) {
	deep := strings.Repeat(`{"a":[`, 40) + "1" + strings.Repeat("]}", 40)
	for _, test := range []struct{ payload, avro, proto string }{
		{`null`, `map[]`, `{}`},
		{``, `map[]`, `{}`},
		{`{}`, `map[]`, `{}`},
		{`[1,{"a":2}]`, `map[payload:[1,{"a":2}]]`, `{"payload":[1,{"a":2}]}`},
		{`"x"`, `map[payload:x]`, `{"payload":"x"}`},
		{`{"n":null,"t":true,"f":false,"i":-3,"d":1e3,"big":1e999,"s":"é\u0000","o":{ "b" : [ ] },"l":[1, 2]}`,
			`map[big:1e999 d:1000 f:false i:-3 l:[1,2] n:<nil> o:{"b":[]} s:é` + "\x00" + ` t:true]`,
			`{"n":null,"t":true,"f":false,"i":-3,"d":1000,"big":"1e999","s":"é\u0000","o":{"b":[]},"l":[1,2]}`},
		{deep, "map[a:" + deep[5:len(deep)-1] + "]", ""},
	} {
		e := &fliptevent.Event{Version: "0.2", Type: "flag", Action: "created", Payload: []byte(test.payload), Timestamp: "nonsense", Status: "denied"}
		b, err := appendFliptAvro(nil, e)
		if err != nil {
			t.Errorf("%s: %v", test.payload, err)
			continue
		}
		got, _ := readAvro(t, fliptAvroSchema, b)
		if s := fmt.Sprint(got["payload"]); s != test.avro {
			t.Errorf("%s: avro %s, want %s", test.payload, s, test.avro)
		}
		if got["metadata"].(map[string]any)["actor"] != nil {
			t.Errorf("actor %v", got["metadata"])
		}
		at := time.Unix(12, 0).UTC()
		b, err = appendFliptProto(nil, e, at)
		if err != nil {
			t.Errorf("%s: %v", test.payload, err)
			continue
		}
		fields, _ := readFliptProto(t, b)
		if fields["timestamp"] != at {
			t.Errorf("timestamp %v", fields["timestamp"])
		}
		s, err := structpb.NewStruct(fields["payload"].(map[string]any))
		if err != nil {
			t.Fatal(err)
		}
		text, err := protojson.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var a, w any
		if test.proto == "" {
			if !strings.Contains(string(text), `"[{\"a\":[`) {
				t.Errorf("what is deep is not text: %s", text)
			}
			continue
		}
		if json.Unmarshal(text, &a) != nil || json.Unmarshal([]byte(test.proto), &w) != nil || !reflect.DeepEqual(a, w) {
			t.Errorf("%s: proto %s, want %s", test.payload, text, test.proto)
		}
	}
	for _, wrong := range []string{`{`, `{"a"`, `{"a":}`, `x`, `[1`, `{"a":1,}`} {
		e := &fliptevent.Event{Version: "0.2", Type: "flag", Action: "created", Payload: []byte(wrong)}
		if _, err := appendFliptAvro(nil, e); err == nil {
			t.Errorf("avro of payload %s", wrong)
		}
		if _, err := appendFliptProto(nil, e, time.Time{}); err == nil {
			t.Errorf("protobuf of payload %s", wrong)
		}
	}
}

// FuzzFlipt encodes any payload and reads it back.
func FuzzFlipt(f *testing.F) {
	for _, seed := range []string{`null`, `{"a":1}`, `{"a":{"b":[1,"x",null]},"a":true}`, `[1,2]`, `"x"`, `{"a":1e999}`, ` {"a" : 1 } `, `{"":"\ud800"}`, `{`} {
		f.Add([]byte(seed), "flag", "2026-03-04T05:06:07Z")
	}
	f.Fuzz(func(t *testing.T, payload []byte, kind, at string) {
		e := &fliptevent.Event{Version: "0.2", Type: kind, Action: "created", Payload: payload, Timestamp: at, Actor: &fliptevent.Actor{Name: kind}}
		a, errAvro := appendFliptAvro(nil, e)
		p, errProto := appendFliptProto(nil, e, time.Time{})
		if (errAvro == nil) != (errProto == nil) {
			t.Fatalf("avro %v, protobuf %v", errAvro, errProto)
		}
		if errAvro != nil {
			return
		}
		if !json.Valid(payload) && len(bytes.Trim(payload, " \t\r\n")) > 0 {
			t.Fatalf("%q is no JSON", payload)
		}
		readAvro(t, fliptAvroSchema, a)
		readFliptProto(t, p)
	})
}
