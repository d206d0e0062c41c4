package event

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// observedProto is the binary message that belongs to the first of
// observedEvents, written by the protobuf code of vault/sdk v0.25.1. It is a fact
// and never updated from our output.
const observedProto = `0a320a2461336265396662312d623531342d353139662d356232352d623666313434613863316365120a0a080a016112031a01621a106b762d76322f646174612d777269746522220a06736563726574120b6b765f35646334643138651a077365637265742f22026b76`

func TestAppendVaultProtoIsVaults(t *testing.T) {
	got := AppendVaultProto([]byte("kept"), observedEvents()[0])
	if want := "kept"; string(got[:4]) != want || hex.EncodeToString(got[4:]) != observedProto {
		t.Errorf("got  %x\nwant %s", got[4:], observedProto)
	}
}

func TestAppendVaultProtoGolden(t *testing.T) {
	var got strings.Builder
	for _, e := range sampleEvents() {
		got.WriteString(hex.EncodeToString(AppendVaultProto(nil, e)) + "\n")
	}
	golden(t, "vaultproto.hex", got.String())
}

// receivedDescriptor is the schema of EventReceived under a name of its own, so that it
// can be linked beside Vault's.
var receivedDescriptor = func() protoreflect.MessageDescriptor {
	field := func(name string, num int32, typ descriptorpb.FieldDescriptorProto_Type, message string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{
			Name: &name, Number: &num, Type: &typ, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
		if message != "" {
			f.TypeName = &message
		}
		return f
	}
	const (
		text    = descriptorpb.FieldDescriptorProto_TYPE_STRING
		message = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	)
	ids := field("entity_ids", 3, text, "")
	ids.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	// The library's reflective decoder panics on a map entry with a key of the wrong
	// wire type, its generated one does not. So Structs are taken as bytes here.
	metadata := field("metadata", 2, descriptorpb.FieldDescriptorProto_TYPE_BYTES, "")
	metadata.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("event_test.proto"), Package: proto.String("tocsin.test"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("EventPluginInfo"), Field: []*descriptorpb.FieldDescriptorProto{
				field("mount_class", 1, text, ""), field("mount_accessor", 2, text, ""), field("mount_path", 3, text, ""),
				field("plugin", 4, text, ""), field("plugin_version", 5, text, ""), field("version", 6, text, ""),
				field("is_local", 7, descriptorpb.FieldDescriptorProto_TYPE_BOOL, ""),
			}},
			{Name: proto.String("EventData"), Field: []*descriptorpb.FieldDescriptorProto{
				field("id", 1, text, ""), metadata, ids, field("note", 4, text, ""),
			}},
			{Name: proto.String("EventReceived"), Field: []*descriptorpb.FieldDescriptorProto{
				field("event", 1, message, ".tocsin.test.EventData"), field("namespace", 2, text, ""),
				field("event_type", 3, text, ""), field("plugin_info", 4, message, ".tocsin.test.EventPluginInfo"),
			}},
		},
	}, nil)
	if err != nil {
		panic(err)
	}
	return file.Messages().ByName("EventReceived")
}()

// received is an EventReceived message as the protobuf library understands it.
type received struct {
	protoreflect.Message
	metadata *structpb.Struct
}

func readReceived(b []byte) (received, error) {
	m := received{Message: dynamicpb.NewMessage(receivedDescriptor)}
	if err := proto.Unmarshal(b, m.Interface()); err != nil {
		return m, err
	}
	if !m.has("event", "metadata") {
		return m, nil
	}
	m.metadata = new(structpb.Struct)
	list := m.get("event", "metadata").List()
	for i := range list.Len() {
		if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(list.Get(i).Bytes(), m.metadata); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m received) get(path ...protoreflect.Name) protoreflect.Value {
	v := protoreflect.ValueOfMessage(m)
	for _, name := range path {
		v = v.Message().Get(v.Message().Descriptor().Fields().ByName(name))
	}
	return v
}

func (m received) has(path ...protoreflect.Name) bool {
	last := len(path) - 1
	parent := m.get(path[:last]...).Message()
	return parent.Has(parent.Descriptor().Fields().ByName(path[last]))
}

// event returns what the message says. Numbers are those of encoding/json.
func (m received) event(t *testing.T) *Event {
	e := &Event{
		ID: m.get("event", "id").String(), Note: m.get("event", "note").String(),
		Namespace: m.get("namespace").String(), Type: m.get("event_type").String(),
	}
	ids := m.get("event", "entity_ids").List()
	for i := range ids.Len() {
		e.EntityIDs = append(e.EntityIDs, ids.Get(i).String())
	}
	if m.metadata != nil {
		e.Metadata = Fields{}
		for key, value := range m.metadata.AsMap() {
			if s, ok := value.(string); ok {
				e.Metadata.Set(key, s)
				continue
			}
			text, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			e.Metadata.SetJSON(key, string(text))
		}
	}
	if m.has("plugin_info") {
		text := func(name protoreflect.Name) string { return m.get("plugin_info", name).String() }
		e.Plugin = &PluginInfo{
			text("mount_class"), text("mount_accessor"), text("mount_path"), text("plugin"), text("plugin_version"), text("version"),
			m.get("plugin_info", "is_local").Bool(),
		}
	}
	e.Path, _ = e.Metadata.Text(MetadataPath)
	return e
}

// protoView returns what the protobuf message keeps of e.
func protoView(t *testing.T, e *Event) *Event {
	v := vaultView(e)
	v.Source, v.Time = "", (&Event{}).Time
	v.Metadata = v.Metadata.Clone()
	for i, f := range v.Metadata {
		if f.JSON {
			var value any
			if err := json.Unmarshal([]byte(f.Value), &value); err != nil {
				t.Fatal(err)
			}
			text, _ := json.Marshal(value)
			v.Metadata[i].Value = string(text)
		}
	}
	return v
}

func TestVaultProtoMatchesLibrary(t *testing.T) {
	g := newGenerator(9)
	for range 5_000 {
		e := g.event()
		if g.oneIn(4) { // lengths of several bytes
			e.Metadata.Set("long", strings.Repeat("x", 1<<g.IntN(18)))
		}
		b := AppendVaultProto(nil, e)
		m, err := readReceived(b)
		if err != nil {
			t.Fatalf("%v: %x", err, b)
		}
		want := protoView(t, e)
		if d := diff(m.event(t), want); d != "" {
			t.Fatalf("the library reads:\n%s", d)
		}
		got, err := ParseVaultProto(b)
		if err != nil {
			t.Fatalf("%v: %x", err, b)
		}
		if d := diff(got, want); d != "" {
			t.Fatalf("we read:\n%s", d)
		}
		// With another order of map entries, as other writers have it.
		if m.metadata == nil {
			continue
		}
		shuffled, err := proto.Marshal(m.metadata)
		if err != nil {
			t.Fatal(err)
		}
		got, err = ParseVaultProto(append(b, message(receivedEvent, message(dataMetadata, shuffled))...))
		if err != nil || diff(got, want) != "" {
			t.Fatalf("we read the library's bytes: %v\n%s", err, diff(got, want))
		}
	}
}

func TestAppendVaultProtoOddValues(t *testing.T) {
	e := &Event{ID: "\xff", Type: "t"}
	e.Metadata.SetJSON("big", "9007199254740993")
	e.Metadata.SetJSON("huge", "1e999")
	e.Metadata.SetJSON("half", `["\ud800"]`)
	e.Metadata.SetJSON("not json", `{"a":`)
	e.Metadata.Set("not utf8", "a\xffb")
	m, err := readReceived(AppendVaultProto(nil, e))
	if err != nil {
		t.Fatal(err)
	}
	want := Fields{}
	want.SetJSON("big", "9007199254740992")
	want.Set("huge", "1e999")
	want.SetJSON("half", `["`+"\ufffd"+`"]`)
	want.SetJSON("not json", `{"a":null}`)
	want.Set("not utf8", "a\ufffdb")
	if got := m.event(t); got.ID != "\ufffd" || !reflect.DeepEqual(got.Metadata, want) {
		t.Errorf("got  %q %+v\nwant %+v", got.ID, got.Metadata, want)
	}
}

func TestAppendNumberMatchesStdlib(t *testing.T) {
	g := newGenerator(12)
	for range 100_000 {
		number := math.Float64frombits(g.Uint64())
		got, err := appendNumber(nil, number)
		want, wantErr := json.Marshal(number)
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%v: got %s, %v; want %s", number, got, err, want)
		}
	}
}

// message returns the bytes of one nested message field.
func message(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), bytes.Join(parts, nil))
}

func number(bits uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(nil, valueNumber, protowire.Fixed64Type), bits)
}

// receivedWith returns an EventReceived with one metadata entry "k" of this value.
func receivedWith(value ...[]byte) []byte {
	entry := message(structFields, message(entryKey, []byte("k")), message(entryValue, value...))
	return append(message(receivedEvent, message(dataID, []byte("x")), message(dataMetadata, entry)), message(receivedType, []byte("t"))...)
}

func nestedLists(depth int) []byte {
	value := number(0)
	for range depth {
		value = message(valueList, message(listValues, value))
	}
	return value
}

func TestParseVaultProto(t *testing.T) {
	text := message(valueString, []byte("v"))
	for name, tt := range map[string]struct {
		value []byte
		want  Field
	}{
		"text":       {text, Field{"k", "v", false}},
		"empty text": {message(valueString), Field{"k", "", false}},
		"small":      {number(math.Float64bits(1e-7)), Field{"k", "1e-7", true}},
		"large":      {number(math.Float64bits(1e21)), Field{"k", "1e+21", true}},
		"tiny":       {number(math.Float64bits(1e-106)), Field{"k", "1e-106", true}},
		"smallest":   {number(1), Field{"k", "5e-324", true}},
		"minus zero": {number(1 << 63), Field{"k", "-0", true}},
		"null":       {[]byte{valueNull << 3, 0}, Field{"k", "null", true}},
		"list":       {message(valueList), Field{"k", "[]", true}},
		"deepest":    {nestedLists(maxValueDepth), Field{"k", strings.Repeat("[", 100) + "0" + strings.Repeat("]", 100), true}},
		"names twice": {message(valueStruct,
			message(structFields, message(entryKey, []byte("b")), message(entryValue, text)),
			message(structFields, message(entryKey, []byte("a")), message(entryValue, text)),
			message(structFields, message(entryKey, []byte("b")), message(entryValue, number(0))),
		), Field{"k", `{"a":"v","b":0}`, true}},
		"unknown fields": {append(message(99, []byte("?")), text...), Field{"k", "v", false}},
	} {
		e, err := ParseVaultProto(receivedWith(tt.value))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(e.Metadata) != 1 || e.Metadata[0] != tt.want {
			t.Errorf("%s: got %+v, want %+v", name, e.Metadata, tt.want)
		}
	}

	// Messages that occur twice are merged, as protobuf has it.
	twice := append(receivedWith(text), message(receivedEvent, message(dataNote, []byte("n")),
		message(dataMetadata, message(structFields, message(entryKey, []byte("k")), message(entryValue, number(0)))))...)
	e, err := ParseVaultProto(twice)
	if err != nil || e.ID != "x" || e.Note != "n" || len(e.Metadata) != 1 || e.Metadata[0].Value != "0" {
		t.Errorf("merged: %+v, %v", e, err)
	}
}

func TestParseVaultProtoRefuses(t *testing.T) {
	ok := receivedWith(message(valueString, []byte("v")))
	tests := []struct {
		name      string
		b         []byte
		attribute string
	}{
		{"empty", nil, "id"},
		{"no type", message(receivedEvent, message(dataID, []byte("x"))), "event_type"},
		{"no id", message(receivedType, []byte("t")), "id"},
		{"text", []byte("garbage"), "message"},
		{"cut off", ok[:len(ok)-1], "message"},
		{"end group", []byte{0x0c}, "message"},
		{"field number too large", append([]byte{0xe2, 0xe2, 0xe2, 0xe2, 0x30, 0}, ok...), "message"},
		{"dropped value too deep", receivedWith(message(valueStruct,
			message(structFields, message(entryValue, nestedLists(maxValueDepth))), message(structFields, message(entryValue, number(0))))), "event.metadata"},
		{"cut off inside", message(receivedEvent, []byte{0x0a}), "event"},
		{"id not UTF-8", message(receivedEvent, message(dataID, []byte{0xff})), "event.id"},
		{"text not UTF-8", receivedWith(message(valueString, []byte{0xff})), "event.metadata"},
		{"nested text not UTF-8", receivedWith(message(valueList, message(listValues, message(valueString, []byte{0xff})))), "event.metadata"},
		{"no kind", receivedWith(), "event.metadata"},
		{"two kinds", receivedWith(number(0), number(0)), "event.metadata"},
		{"NaN", receivedWith(number(math.Float64bits(math.NaN()))), "event.metadata"},
		{"infinity", receivedWith(number(math.Float64bits(math.Inf(-1)))), "event.metadata"},
		{"too deep", receivedWith(nestedLists(maxValueDepth + 1)), "event.metadata"},
		{"plugin not UTF-8", append(ok, message(receivedPlugin, message(pluginMountPath, []byte{0xff}))...), "plugin_info"},
	}
	for _, tt := range tests {
		_, err := ParseVaultProto(tt.b)
		wantInvalid(t, tt.name, err, tt.attribute)
	}
}

// FuzzParseVaultProto checks that what we accept the library accepts too, and
// understands the same.
func FuzzParseVaultProto(f *testing.F) {
	for _, e := range append(observedEvents(), sampleEvents()...) {
		f.Add(AppendVaultProto(nil, e))
	}
	f.Add(receivedWith(nestedLists(maxValueDepth)))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseVaultProto(b)
		m, libraryErr := readReceived(b)
		if err != nil {
			if e != nil || !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v with error %v", e, err)
			}
			return
		}
		if libraryErr != nil {
			t.Fatalf("accepted, but the library says %v", libraryErr)
		}
		want := m.event(t)
		want.Namespace = CanonicalNamespace(want.Namespace)
		if d := diff(protoView(t, e), protoView(t, want)); d != "" {
			t.Fatalf("%s", d)
		}
		again, err := ParseVaultProto(AppendVaultProto(nil, e))
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(again, e); d != "" {
			t.Errorf("not stable:\n%s", d)
		}
	})
}
