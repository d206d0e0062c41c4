package audit

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

// Nobody keeps a request out of the trail by what they send, whatever the logger does with
// events that are too large.
func TestMiddlewareCannotBeEvaded(t *testing.T) {
	for name, oversize := range map[string]Oversize{"truncate": Truncate, "refuse": Refuse} {
		t.Run(name, func(t *testing.T) {
			s := newMemorySink()
			l := newLogger(t, Options{Outputs: []Output{quick("own", s)}, Oversize: oversize})
			var served atomic.Int32
			server := httptest.NewUnstartedServer(Middleware(l, MiddlewareOptions{OnError: func(r *http.Request, err error) { t.Errorf("%.60q: %v", r.URL.Path, err) }})(
				http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) })))
			server.Config.ErrorLog = discardLog()
			server.Start()
			defer server.Close()
			long := strings.Repeat("a", 200_000)
			requests := []string{
				"GET /" + long + " HTTP/1.1\r\nHost: a\r\n",
				"GET /%00%ff%0a%1b%e2%80%ae HTTP/1.1\r\nHost: a\r\n",
				"GET /" + strings.Repeat("%00", 60_000) + " HTTP/1.1\r\nHost: a\r\n",
				long + " / HTTP/1.1\r\nHost: a\r\n",
				"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: " + long + "\r\n",
				"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: \xff\xfe\x01\r\n",
				"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: " + long + "\r\n",
				"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: " + long + "\r\n",
				"GET / HTTP/1.1\r\nHost: a\r\nTraceparent: 00-" + long + "\r\nTracestate: " + long + "\r\n",
				"GET / HTTP/1.1\r\nHost: a\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTracestate: " + strings.Repeat("a=b,", 500) + "\r\n",
				"OPTIONS * HTTP/1.1\r\nHost: a\r\n",
				"GET http://x/%2e%2e//../a HTTP/1.1\r\nHost: a\r\n",
			}
			for _, text := range requests {
				conn, err := net.Dial("tcp", server.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(conn, text, "Connection: close\r\n\r\n")
				if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
					response.Body.Close()
				}
				conn.Close()
			}
			if served.Load() == 0 {
				t.Fatal("nothing was served")
			}
			until(t, "all events are there", func() bool { flush(t, l); return len(s.ids()) == int(served.Load()) })
			for _, e := range s.events {
				m := message("audit://a", &e, []byte("{}"))
				if err := event.DefaultLimits.Check(m); err != nil {
					t.Errorf("a hub does not take %.200q: %v", e.Target.ID, err)
				}
			}
		})
	}
}
