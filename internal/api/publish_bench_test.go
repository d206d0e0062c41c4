package api

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// BenchmarkPublishBatch publishes 100 events of about 700 bytes per request, durable, on
// several goroutines; the figures are per request.
func BenchmarkPublishBatch(b *testing.B) {
	n := startNode(b, nil)
	events := make([]string, 100)
	for i := range events {
		events[i] = made(fmt.Sprintf("%036d", i), `,"time":"2026-03-04T05:06:07.89Z","subject":"orders/17","datacontenttype":"application/json","data":{"order":17,"note":"`+strings.Repeat("n", 560)+`"}`)
	}
	const requestAt = len(`"specversion":"1.0","id":"`) + 1 // in an event: where the id has the number of the request
	text := []byte("[" + strings.Join(events, ",") + "]")
	var requests atomic.Int64
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		text := bytes.Clone(text)
		for pb.Next() {
			number := fmt.Appendf(nil, "%030d", requests.Add(1))
			for i := range events {
				copy(text[1+i*(len(events[0])+1)+requestAt:], number)
			}
			r := httptest.NewRequest("POST", eventsPath, bytes.NewReader(text))
			r.Header.Set("X-Vault-Token", "root")
			r.Header.Set("Content-Type", batched)
			w := httptest.NewRecorder()
			if n.api.ServeHTTP(w, r); w.Code != 200 {
				b.Fatal(w.Code, w.Body)
			}
		}
	})
}
