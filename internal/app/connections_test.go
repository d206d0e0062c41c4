package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/metrics"
)

// peerConn is a connection from an address.
type peerConn struct {
	net.Conn
	from string
}

func (p *peerConn) RemoteAddr() net.Addr { return textAddr(p.from) }

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (t textAddr) String() string { return string(t) }

func TestConnections(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := newConnections(config.Listen{MaxConnections: 6, MaxPerAddress: 2}, metrics.New(reg), reg, slog.New(slog.DiscardHandler))
	var open []net.Conn
	enter := func(from string, want bool) {
		t.Helper()
		c := &peerConn{from: from}
		if l.enter(c) != want {
			t.Errorf("%s with %d open: %v", from, l.count(), !want)
		}
		if want {
			open = append(open, c)
		}
	}
	enter("192.0.2.1:1", true)
	enter("192.0.2.1:2", true)
	enter("192.0.2.1:3", false)
	enter("[::ffff:192.0.2.1]:4", false)
	enter("192.0.2.2:1", true)
	enter("[2001:db8::1]:1", true)
	enter("[2001:db8::2]:1", true)
	enter("[2001:db8::3]:1", false) // the same network
	enter("[2001:db8:0:1::1]:1", true)
	enter("[2001:db8:0:2::1]:1", false) // too many altogether

	l.changed(open[0], http.StateActive)
	l.changed(open[0], http.StateIdle)
	enter("192.0.2.1:5", false)
	l.changed(open[0], http.StateClosed)
	l.changed(open[0], http.StateClosed)
	l.changed(&peerConn{from: "192.0.2.1:1"}, http.StateClosed) // never entered
	enter("192.0.2.1:6", true)
	enter("192.0.2.1:7", false)
	l.changed(open[1], http.StateHijacked)
	enter("192.0.2.1:8", true)
	for _, c := range open {
		l.changed(c, http.StateClosed)
	}
	if l.count() != 0 || len(l.from) != 0 {
		t.Errorf("%d connections of %d addresses are left", l.count(), len(l.from))
	}
	want := `
# HELP tocsin_http_connections Open connections that are not subscriptions.
# TYPE tocsin_http_connections gauge
tocsin_http_connections 0
# HELP tocsin_refused_total Items not accepted, by reason; the producer was told.
# TYPE tocsin_refused_total counter
tocsin_refused_total{component="listener",name="http",reason="connections"} 3
tocsin_refused_total{component="listener",name="http",reason="connections of an address"} 3
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// dial opens a connection that sends nothing.
func dial(t *testing.T, a *App) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ended waits until the other side has closed a connection, whatever it says before.
func ended(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, conn)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return err
	}
	return nil
}

func TestMaxConnections(t *testing.T) {
	const most = 16
	o := options(t)
	o.Config.Listen.MaxConnections, o.Config.Listen.MaxPerAddress = most, 0
	a, _ := start(t, o)
	// Subscriptions do not count, however many there are.
	for range most + 4 {
		subscribe(t, a, client.Options{}, "*")
	}
	http.DefaultClient.CloseIdleConnections()
	await(t, a.URL()+"/metrics", "tocsin_http_connections 1", fmt.Sprintf("tocsin_hub_subscriptions %d", most+4))

	var conns []net.Conn
	for range most - 1 { // and that of await
		conns = append(conns, dial(t, a))
	}
	await(t, a.URL()+"/metrics", fmt.Sprintf("tocsin_http_connections %d", most))
	if err := ended(dial(t, a)); err != nil {
		t.Errorf("one too many: %v", err)
	}
	// Those who were there before are served, and their end makes room.
	if _, err := conns[0].Write([]byte("GET /metrics HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := ended(conns[0]); err != nil {
		t.Errorf("the first: %v", err)
	}
	await(t, a.URL()+"/metrics", `tocsin_refused_total{component="listener",name="http",reason="connections"} 1`)
	again := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(time.Minute); ; {
		r, err := again.Get(a.URL() + "/metrics")
		if err == nil {
			r.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no room was made: %v", err)
		}
	}
}

// Clients that never finish their requests are cut, and keep nobody else from being
// served meanwhile.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	whole, file := auditLog(t)
	a, err := New(t.Context(), options(t, file))
	if err != nil {
		t.Fatal(err)
	}
	a.server.ReadHeaderTimeout, a.server.ReadTimeout = 500*time.Millisecond, time.Second // 10 s and 1 min are long for a test
	run(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begins := map[string]string{
		"nothing": "",
		"headers": "GET /v1/sys/events/subscribe/* HTTP/1.1\r\nHost: a\r\nX-A: ",
		"body":    "POST /v1/auth/token/create HTTP/1.1\r\nHost: a\r\nX-Vault-Token: " + root + "\r\nContent-Length: 1000000\r\n\r\n{",
	}
	slow := make(map[net.Conn]string)
	for name, begin := range begins {
		for range 20 {
			conn := dial(t, a)
			if _, err := conn.Write([]byte(begin)); err != nil {
				t.Fatal(err)
			}
			slow[conn] = name
			if name != "nothing" {
				go func() { // a byte now and then
					for ticker := time.NewTicker(50 * time.Millisecond); ; {
						select {
						case <-ticker.C:
							if _, err := conn.Write([]byte("a")); err != nil {
								return
							}
						case <-ctx.Done():
							return
						}
					}
				}()
			}
		}
	}
	s := subscribe(t, a, client.Options{}, "kv-v2/*")
	appendTo(t, file, whole)
	if _, got := next(t, s); got != "kv-v2/data-write secret/data/app/db" {
		t.Errorf("event %q", got)
	}
	for conn, name := range slow {
		if err := ended(conn); err != nil {
			t.Errorf("one that sends %s is not cut: %v", name, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	await(t, a.URL()+"/metrics", "tocsin_http_connections 1", "tocsin_hub_subscriptions 1")
}
