package api

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestServerLimits holds a client that is slow or sends too much to the limits of
// NewServer, shortened so that the test need not wait for them.
func TestServerLimits(t *testing.T) {
	n := startNode(t, nil)
	server := NewServer(n.api, n.api.log)
	if server.ReadHeaderTimeout != readHeaderTimeout || server.ReadTimeout != readTimeout || server.IdleTimeout != idleTimeout ||
		server.WriteTimeout != writeTimeout || server.MaxHeaderBytes != maxHeaderBytes {
		t.Fatalf("limits %+v", server)
	}
	server.ReadHeaderTimeout, server.ReadTimeout = 100*time.Millisecond, 200*time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() { server.Close(); <-served })

	// drip sends the bytes one by one and returns the status that comes, 0 for none.
	drip := func(text string) int {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		go func() {
			for i := range len(text) {
				if _, err := conn.Write([]byte{text[i]}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the server waits")
		}
		if err != nil {
			return 0
		}
		return res.StatusCode
	}
	begin := time.Now()
	if status := drip(request("GET", "/v1/sys/health", "X-Slow: "+strings.Repeat("x", 1000))); status != 0 && status != 400 && status != 408 {
		t.Errorf("slow header: status %d", status)
	}
	if status := drip("POST /v1/auth/token/lookup HTTP/1.1\r\nHost: x\r\n"); status != 0 && status != 400 && status != 408 {
		t.Errorf("half a header: status %d", status)
	}
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request("POST", "/v1/auth/token/lookup", "Content-Length: 1000")+`{"token":`)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 400 {
		t.Errorf("slow body: %v %v", res, err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the server waited for %v in all", took)
	}
}

func TestHugeHeaders(t *testing.T) {
	n := startNode(t, nil)
	for name, r := range map[string]string{
		"one header":   request("GET", "/v1/sys/health", "X-Huge: "+strings.Repeat("x", 100<<10)),
		"many headers": request("GET", "/v1/sys/health", strings.Repeat("X-Many: x\r\n", 10_000)),
		"token":        request("GET", "/v1/auth/token/lookup-self", "X-Vault-Token: "+strings.Repeat("x", 100<<10)),
		"path":         request("GET", "/v1/sys/"+strings.Repeat("x", 100<<10)),
	} {
		if a := n.raw(r); a.StatusCode != 431 {
			t.Errorf("%s: status %d", name, a.StatusCode)
		}
	}
	if a := n.raw(request("GET", "/v1/"+strings.Repeat("ns/", 10_000)+"sys/mounts")); a.StatusCode != 400 || !strings.Contains(a.body, "too long") {
		t.Errorf("long namespace: %d %q", a.StatusCode, a.body)
	}
}
