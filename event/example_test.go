package event_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// A producer makes an event and has it checked before it enters the program. The
// same event can then be written for every kind of client.
func Example() {
	e := &event.Event{
		ID:     event.DeriveID("example", "1"),
		Type:   "kv-v2/data-write",
		Source: event.SourceVault("node-1"),
		Path:   "secret/data/app",
		Time:   time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	e.Metadata.Set(event.MetadataPath, e.Path)
	e.Metadata.Set(event.MetadataModified, "true")
	if err := event.DefaultLimits.Check(e); err != nil {
		fmt.Println(err)
	}

	fmt.Print(string(event.AppendVaultJSON(nil, e, "")))
	fmt.Println(string(event.AppendCloudEvent(nil, e, "")))
	fmt.Println(len(event.AppendVaultProto(nil, e)), "bytes of protobuf")
	// Output:
	// {"id":"f53dfb7d-3dfc-5293-b6a3-f524d6e76e55","source":"vault://node-1","specversion":"1.0","type":"*","data":{"event":{"id":"f53dfb7d-3dfc-5293-b6a3-f524d6e76e55","metadata":{"modified":"true","path":"secret/data/app"}},"event_type":"kv-v2/data-write"},"datacontentype":"application/cloudevents","time":"2026-01-02T03:04:05Z"}
	// {"specversion":"1.0","id":"f53dfb7d-3dfc-5293-b6a3-f524d6e76e55","source":"vault://node-1","type":"kv-v2/data-write","subject":"secret/data/app","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","dataschema":"https://github.com/tocsin-events/tocsin/schemas/notification/v1","data":{"metadata":{"modified":"true","path":"secret/data/app"}}}
	// 107 bytes of protobuf
}

func ExampleParseCloudEvent() {
	e, err := event.ParseCloudEvent([]byte(`{"specversion":"1.0","id":"1","source":"/shop","type":"order/paid","data":{"total":12}}`))
	fmt.Println(e.ID, e.Type, string(e.Data), err)

	_, err = event.ParseCloudEvent([]byte(`{"specversion":"1.0","id":"1","type":"order/paid"}`))
	var invalid *event.InvalidError
	if errors.As(err, &invalid) {
		fmt.Println(invalid.Attribute, invalid.Reason)
	}
	// Output:
	// 1 order/paid {"total":12} <nil>
	// source is missing
}

func ExampleGlob() {
	glob := event.CompileGlob("kv-v2/*")
	fmt.Println(glob.Match("kv-v2/data-write"), glob.Match("kv-v1/write"))
	// Output: true false
}
