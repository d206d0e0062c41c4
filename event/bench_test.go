package event

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

// benchEvents are a notification and an audit event of usual sizes.
func benchEvents() map[string]*Event {
	samples := sampleEvents()
	audit := samples[4]
	line, err := json.Marshal(map[string]any{
		"type": "request", "time": "2026-03-04T05:06:07.89Z",
		"auth":    map[string]any{"accessor": "hmac-sha256:" + string(bytes.Repeat([]byte{'a'}, 64)), "policies": []string{"default", "app"}},
		"request": map[string]any{"id": "r", "path": "secret/data/foo", "operation": "update", "data": string(bytes.Repeat([]byte{'b'}, 400))},
	})
	if err != nil {
		panic(err)
	}
	audit.Data = line
	return map[string]*Event{"notification": samples[2], "audit": audit}
}

func benchmarkAppend(b *testing.B, encode func(dst []byte, e *Event) []byte) {
	for name, e := range benchEvents() {
		b.Run(name, func(b *testing.B) {
			buf := encode(nil, e)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				buf = encode(buf[:0], e)
			}
		})
	}
}

func BenchmarkAppendVaultJSON(b *testing.B) {
	benchmarkAppend(b, func(dst []byte, e *Event) []byte { return AppendVaultJSON(dst, e, "") })
}

func BenchmarkAppendVaultProto(b *testing.B) { benchmarkAppend(b, AppendVaultProto) }

func BenchmarkAppendCloudEvent(b *testing.B) {
	benchmarkAppend(b, func(dst []byte, e *Event) []byte { return AppendCloudEvent(dst, e, "") })
}

func benchmarkParse(b *testing.B, encode func(*Event) []byte, parse func([]byte) (*Event, error)) {
	for name, e := range benchEvents() {
		b.Run(name, func(b *testing.B) {
			text := encode(e)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parse(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseVaultJSON(b *testing.B) {
	benchmarkParse(b, func(e *Event) []byte { return AppendVaultJSON(nil, e, "") }, ParseVaultJSON)
}

func BenchmarkParseVaultProto(b *testing.B) {
	benchmarkParse(b, func(e *Event) []byte { return AppendVaultProto(nil, e) }, ParseVaultProto)
}

func BenchmarkParseCloudEvent(b *testing.B) {
	benchmarkParse(b, func(e *Event) []byte { return AppendCloudEvent(nil, e, "") }, ParseCloudEvent)
}

func BenchmarkCheck(b *testing.B) {
	for name, e := range benchEvents() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := DefaultLimits.Check(e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestAppendersDoNotAllocate(t *testing.T) {
	for name, e := range benchEvents() {
		buf := make([]byte, 0, 1<<16)
		for encoding, encode := range map[string]func(){
			"Vault JSON":  func() { AppendVaultJSON(buf, e, "0123") },
			"Vault proto": func() { AppendVaultProto(buf, e) },
			"CloudEvent":  func() { AppendCloudEvent(buf, e, "0123") },
		} {
			if n := testing.AllocsPerRun(100, encode); n != 0 {
				t.Errorf("%s as %s allocates %v times", name, encoding, n)
			}
		}
	}
}

func BenchmarkNewNotification(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		kept = NewNotification("app/order-placed", "path", "orders/4711", "operation", "place", "customer", "17")
	}
}

var kept *Event

// BenchmarkParseCloudEventBatch reads 100 events of 700 bytes with a JSON payload; the
// figures are per batch.
func BenchmarkParseCloudEventBatch(b *testing.B) {
	events := make([]*Event, 100)
	for i := range events {
		e := &Event{ID: NewID(), Type: "shop/order-made", Source: "https://shop.example/1", Path: "orders/17", Time: time.Now(), DataContentType: "application/json"}
		e.Extensions.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		e.Data = []byte(`{"order":17,"lines":[{"article":"a-1","count":2},{"article":"b-2","count":1}],"note":"`)
		e.Data = append(e.Data, bytes.Repeat([]byte{'n'}, 698-e.Size())...)
		e.Data = append(e.Data, `"}`...)
		events[i] = e
	}
	text := batchOf(events...)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, broken, err := ParseCloudEventBatch(text, 100); err != nil || len(broken) > 0 {
			b.Fatal(err, broken)
		}
	}
}

func BenchmarkCheckNotification(b *testing.B) {
	e := NewNotification("app/order-placed", "path", "orders/4711", "operation", "place", "customer", "17")
	e.Source = "tocsin-client://host/program"
	for b.Loop() {
		if err := DefaultLimits.Check(e); err != nil {
			b.Fatal(err)
		}
	}
}
