package hubplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// feeder serves events of 700 bytes, without end.
func feeder(b *testing.B) string {
	e := numbered(1)
	e.Data = nil
	const digits = "0000000000000000000000"
	e.Metadata.Set("filler", "")
	e.Metadata.Set("filler", strings.Repeat("x", 700-len(event.AppendCloudEvent(nil, e, digits))-1))
	var frames []byte
	for range 128 {
		start := len(frames)
		frames = websocket.BeginFrame(frames)
		frames = append(event.AppendCloudEvent(frames, e, digits), '\n')
		frames = websocket.EndFrame(frames, start, websocket.Text)
	}
	size := len(frames) / 128
	at := strings.Index(string(frames), digits)
	return fakeHub(b, func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
		feed(c, frames, size, at, len(digits))
	})
}

func feed(c net.Conn, frames []byte, size, at, digits int) {
	for n := 1; ; {
		for i := at; i < len(frames); i += size {
			for d, rest := digits-1, n; rest > 0; d, rest = d-1, rest/10 {
				frames[i+d] = '0' + byte(rest%10)
			}
			n++
		}
		if _, err := c.Write(frames); err != nil {
			return
		}
	}
}

func BenchmarkStream(b *testing.B) {
	p := launch(b, Config{Address: feeder(b), Token: token})
	s := open(b, p, "")
	defer s.Close(context.Background())
	var batch sourceplugin.Batch
	b.SetBytes(700)
	b.ReportAllocs()
	for n := 0; n < b.N; n += batch.Count {
		if err := s.Next(b.Context(), &batch); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			b.Fatal(err)
		}
	}
	b.StopTimer()
}

func BenchmarkExtract(b *testing.B) {
	p := launch(b, Config{})
	e := numbered(7)
	raw, err := json.Marshal(map[string]any{"specversion": "1.0", "id": "x", "source": "s", "type": "audit/response", "time": time.Now(), "datacontenttype": "application/json",
		"data": map[string]any{"type": "response", "request": map[string]any{"operation": "update", "path": "secret/data/x"}, "auth": map[string]any{"policies": []string{"a", "b"}}}})
	if err != nil {
		b.Fatal(err)
	}
	_ = e
	asked := eventsOf(raw, event.AppendCloudEvent(nil, e, ""))
	list := requestsOf(b, p, "event.type", "audit.request.operation", "audit.auth.policies")
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprint(n, " fields"), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				for f := range n {
					if _, err := p.Extract(b.Context(), asked[i%2:i%2+1], list[f:f+1]); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
