package telemetry

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// The wrong port is named as what it probably is.
func TestWrongPort(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	go g.Serve(listener)
	defer g.Stop()
	overHTTP := func(url string) Answer {
		e, err := NewHTTP(Connection{URL: url, Timeout: 5 * time.Second}, "/v1/logs", "application/json", ReadText)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		return e.Send(context.Background(), []byte("{}"), 1)
	}
	overGRPC := func(url string) Answer {
		e, err := NewGRPC(Connection{URL: url, Timeout: 5 * time.Second}, "/a.b/C")
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		return e.Send(context.Background(), nil, 1)
	}
	for name, test := range map[string]struct {
		got  Answer
		want string
	}{
		"HTTP to gRPC":     {overHTTP("http://" + listener.Addr().String()), "is it the port of gRPC?"},
		"TLS to HTTP":      {overHTTP(strings.Replace(plain.URL, "http:", "https:", 1)), "does not speak TLS; is it http://?"},
		"gRPC to HTTP":     {overGRPC(plain.URL), "is it the port of HTTP?"},
		"gRPC/TLS to HTTP": {overGRPC(strings.Replace(plain.URL, "http:", "https:", 1)), "does not speak TLS; is it http://?"},
	} {
		if test.got.Outcome != Retry || !strings.Contains(test.got.Reason, test.want) {
			t.Errorf("%s: %+v, want %s", name, test.got, test.want)
		}
	}
}
