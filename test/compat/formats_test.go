package compat

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"testing"
	"time"

	"github.com/hashicorp/eventlogger"
	"github.com/hashicorp/eventlogger/formatter_filters/cloudevents"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/tocsin-events/tocsin/event"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// texts are values that encoders disagree about most easily.
var texts = []string{"", "a", "secret/data/foo", `quote " and \ backslash`, "<b>&amp;</b>", "line\nbreak\ttab\x00nul\x7f",
	"grüße 日本 🔔", "\u2028\u2029", "true", "[1,2]", "ns1/"}

func text(r *rand.Rand) string { return texts[r.IntN(len(texts))] }

// randomEvent returns one event in the form of Vault's SDK and in ours.
func randomEvent(t *testing.T, r *rand.Rand) (*logical.EventReceived, *event.Event) {
	t.Helper()
	id := fmt.Sprintf("id-%d", r.Uint32())
	theirs := &logical.EventReceived{Event: &logical.EventData{Id: id}, EventType: "kv-v2/data-write" + text(r)}
	ours := &event.Event{ID: id, Type: theirs.EventType, Source: "vault://node-1", Time: time.Unix(1700000000+r.Int64N(1e8), r.Int64N(1e9)).UTC()}
	if r.IntN(4) > 0 {
		values := map[string]any{}
		ours.Metadata = event.Fields{}
		for range r.IntN(5) {
			key := fmt.Sprintf("k%d%s", r.IntN(9), text(r))
			switch r.IntN(4) {
			case 0:
				value := []any{1.5, true, nil, "x<y", map[string]any{"n": -2.0}}[r.IntN(5)]
				values[key] = value
				if s, ok := value.(string); ok {
					ours.Metadata.Set(key, s)
					continue
				}
				b, err := json.Marshal(value)
				if err != nil {
					t.Fatal(err)
				}
				ours.Metadata.SetJSON(key, string(b))
			default:
				values[key] = text(r)
				ours.Metadata.Set(key, values[key].(string))
			}
		}
		var err error
		if theirs.Event.Metadata, err = structpb.NewStruct(values); err != nil {
			t.Fatal(err)
		}
	}
	if r.IntN(3) == 0 {
		theirs.Event.EntityIds = []string{"e1", text(r)}
		ours.EntityIDs = theirs.Event.EntityIds
	}
	theirs.Event.Note = text(r)
	ours.Note = theirs.Event.Note
	if r.IntN(2) == 0 {
		theirs.Namespace, ours.Namespace = "ns1/", "ns1/"
	}
	if r.IntN(4) > 0 {
		ours.Plugin = &event.PluginInfo{MountClass: text(r), MountAccessor: text(r), MountPath: text(r), Plugin: text(r),
			PluginVersion: text(r), Version: text(r), IsLocal: r.IntN(2) == 0}
		p := ours.Plugin
		theirs.PluginInfo = &logical.EventPluginInfo{MountClass: p.MountClass, MountAccessor: p.MountAccessor, MountPath: p.MountPath,
			Plugin: p.Plugin, PluginVersion: p.PluginVersion, Version: p.Version, IsLocal: p.IsLocal}
	}
	return theirs, ours
}

// TestVaultJSONIsByteForByteThatOfVault compares with the formatter that Vault
// itself uses for the JSON form.
func TestVaultJSONIsByteForByteThatOfVault(t *testing.T) {
	source, err := url.Parse("vault://node-1")
	if err != nil {
		t.Fatal(err)
	}
	formatter := &cloudevents.FormatterFilter{Source: source, Format: cloudevents.FormatJSON}
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		theirs, ours := randomEvent(t, r)
		e := &eventlogger.Event{Type: "*", CreatedAt: ours.Time, Payload: theirs, Formatted: map[string][]byte{}}
		if _, err := formatter.Process(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		want, _ := e.Format(string(cloudevents.FormatJSON))
		if got := event.AppendVaultJSON(nil, ours, ""); string(got) != string(want) {
			t.Fatalf("JSON differs\n got %s\nwant %s", got, want)
		}
	}
}

// TestVaultProtoIsReadAndWrittenByVaultsSDK decodes our binary form with the
// SDK's own message and compares the bytes with its deterministic encoding.
func TestVaultProtoIsReadAndWrittenByVaultsSDK(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		want, ours := randomEvent(t, r)
		b := event.AppendVaultProto(nil, ours)
		var got logical.EventReceived
		if err := proto.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, want) {
			t.Fatalf("message differs\n got %v\nwant %v", &got, want)
		}
		reference, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != string(reference) {
			t.Fatalf("bytes differ\n got %x\nwant %x", b, reference)
		}
		back, err := event.ParseVaultProto(reference)
		if err != nil {
			t.Fatal(err)
		}
		if back.ID != ours.ID || back.Type != ours.Type || back.Namespace != ours.Namespace || len(back.Metadata) != len(ours.Metadata) {
			t.Fatalf("decoded %+v\nwant %+v", back, ours)
		}
	}
}
