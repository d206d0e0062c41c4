package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// serve starts a server with the middleware and returns its address, and the sink.
func serve(t *testing.T, o MiddlewareOptions, h http.HandlerFunc) (string, *memorySink, *Logger) {
	t.Helper()
	s := newMemorySink()
	l := newLogger(t, Options{Outputs: []Output{quick("own", s)}})
	server := httptest.NewUnstartedServer(Middleware(l, o)(h))
	server.Config.ErrorLog = discardLog()
	server.Start()
	t.Cleanup(server.Close)
	return server.URL, s, l
}

func request(t *testing.T, method, url string, header http.Header) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		return nil
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	return response
}

func TestMiddlewareOutcomes(t *testing.T) {
	url, s, l := serve(t, MiddlewareOptions{}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/nothing":
		case "/panic":
			panic("secret")
		case "/half":
			_, _ = w.Write([]byte("x"))
			panic(http.ErrAbortHandler)
		case "/hints":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNotFound)
		case "/twice":
			w.WriteHeader(http.StatusForbidden)
			w.WriteHeader(http.StatusOK)
		default:
			var status int
			if _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); err == nil {
				w.WriteHeader(status)
			}
		}
	})
	for i, c := range []struct {
		path, status string
		outcome      Outcome
	}{
		{"/200", "200", Success}, {"/204", "204", Success}, {"/302", "302", Success}, {"/304", "304", Success},
		{"/400", "400", Failure}, {"/401", "401", Denied}, {"/403", "403", Denied}, {"/404", "404", Failure}, {"/429", "429", Failure},
		{"/500", "500", Error}, {"/503", "503", Error}, {"/nothing", "200", Success}, {"/panic", "", Error}, {"/half", "200", Error},
		{"/hints", "404", Failure}, {"/twice", "403", Denied},
	} {
		request(t, "GET", url+c.path, nil)
		until(t, "the event is there", func() bool { flush(t, l); return len(s.ids()) == i+1 })
		e := s.events[i]
		if e.Outcome != c.outcome || e.Metadata["http_status"] != c.status || e.Target.ID != c.path || strings.Contains(fmt.Sprintf("%+v", e), "secret") {
			t.Errorf("%s: %+v", c.path, e)
		}
	}
}

func TestMiddlewareEvent(t *testing.T) {
	mux := http.NewServeMux()
	var l *Logger
	mux.HandleFunc("PUT /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		d := Current(r.Context())
		d.SetTarget(Target{Type: "order", ID: r.PathValue("id")})
		d.SetAction("ship")
		d.SetActor(Actor{ID: "u1", Roles: []string{"clerk"}})
		d.SetStates(map[string]int{"n": 1}, map[string]int{"n": 2})
		d.SetPayload("p")
		d.SetMetadata("carrier", "x")
		d.SetReason("asked for")
		if err := l.Log(r.Context(), Event{ID: "inner", Action: "print", Target: Target{Type: "label"}}); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	o := MiddlewareOptions{
		Identify: func(r *http.Request) Actor { return Actor{Method: "token", TokenID: r.Header.Get("X-Token-Id")} },
		Describe: func(r *http.Request, e *Event) { e.Metadata["described"] = r.Host },
		Proxies:  Proxies{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}},
	}
	url, s, logger := serve(t, o, mux.ServeHTTP)
	l = logger
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	request(t, "PUT", url+"/orders/7?token=hunter2", http.Header{
		"X-Forwarded-For": {"198.51.100.7"}, "User-Agent": {"curl/8"}, "X-Request-Id": {"r-1"}, "Traceparent": {trace}, "Tracestate": {"a=1", "b=2"}, "X-Token-Id": {"t9"},
	})
	until(t, "both events are there", func() bool { flush(t, l); return len(s.ids()) == 2 })
	inner, e := s.events[0], s.events[1]
	if e.Type() != "shop/order/ship" || e.Target.ID != "7" || e.Actor.ID != "u1" || e.Actor.IP != "198.51.100.7" || e.Actor.UserAgent != "curl/8" || e.Actor.Method != "token" ||
		e.Actor.TokenID != "t9" || e.RequestID != "r-1" || e.Traceparent != trace || e.Tracestate != "a=1,b=2" || e.Outcome != Success || e.Reason != "asked for" ||
		e.Changes.Changed[0] != "/n" || e.Metadata["carrier"] != "x" || e.Metadata["http_route"] != "PUT /orders/{id}" || e.Metadata["http_status"] != "202" ||
		e.Metadata["http_method"] != "PUT" || e.Metadata["described"] == "" || strings.Contains(fmt.Sprintf("%+v", e), "hunter2") {
		t.Errorf("%+v", e)
	}
	if inner.Actor.ID != "u1" || inner.Actor.IP != "198.51.100.7" || inner.RequestID != "r-1" || inner.Traceparent != trace {
		t.Errorf("an event logged by the handler: %+v", inner)
	}
}

// What middleware in front has said goes first: authentication often is there.
func TestMiddlewareInFront(t *testing.T) {
	s := newMemorySink()
	l := newLogger(t, Options{Outputs: []Output{To("own", s)}})
	inner := Middleware(l, MiddlewareOptions{})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := l.Log(r.Context(), Event{Action: "inner", Target: Target{Type: "x"}}); err != nil {
			t.Error(err)
		}
		if err := l.Log(r.Context(), Event{Action: "clean", Target: Target{Type: "x"}, Actor: Actor{ID: "system"}}); err != nil {
			t.Error(err)
		}
		Current(r.Context()).SetActor(Actor{ID: "u2"})
		if err := l.Log(r.Context(), Event{Action: "later", Target: Target{Type: "x"}}); err != nil {
			t.Error(err)
		}
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Request-Id", "of-the-header")
	ctx := WithRequest(WithActor(r.Context(), Actor{ID: "u1", Name: "Ada", Roles: []string{"admin"}}), Request{ID: "in-front"})
	inner.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
	flush(t, l)
	if len(s.events) != 4 {
		t.Fatalf("%+v", s.events)
	}
	for i, want := range []Actor{
		{ID: "u1", Name: "Ada", IP: "192.0.2.1", Roles: []string{"admin"}},
		{ID: "system", IP: "192.0.2.1"}, // neither the name nor the roles of Ada
		{ID: "u2", IP: "192.0.2.1"},
		{ID: "u2", IP: "192.0.2.1"}, // of the request
	} {
		if e := s.events[i]; !reflect.DeepEqual(e.Actor, want) || e.RequestID != "in-front" {
			t.Errorf("event %d has the actor %+v and the request %s, want %+v", i, e.Actor, e.RequestID, want)
		}
	}
}

func TestMiddlewareOptions(t *testing.T) {
	failed := make(chan error, 1)
	o := MiddlewareOptions{
		Select:  func(r *http.Request) bool { return r.URL.Path != "/health" },
		OnError: func(_ *http.Request, err error) { failed <- err },
	}
	url, s, l := serve(t, o, func(w http.ResponseWriter, r *http.Request) {
		d := Current(r.Context())
		switch r.URL.Path {
		case "/health":
			if d != nil {
				t.Error("a request that is not selected has an event")
			}
			d.SetReason("does nothing")
		case "/skip":
			d.Skip()
		case "/denied":
			d.SetOutcome(Denied, "not yours")
			w.WriteHeader(http.StatusNotFound) // so that nobody learns that it exists
		case "/bad":
			d.SetAction("not a name")
		}
	})
	for _, path := range []string{"/health", "/skip", "/denied", "/bad"} {
		request(t, "PROPFIND", url+path, http.Header{"X-Request-Id": {"not valid"}, "Traceparent": {"x"}})
	}
	if err := <-failed; !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	flush(t, l)
	if len(s.events) != 1 {
		t.Fatalf("%+v", s.events)
	}
	if e := s.events[0]; e.Outcome != Denied || e.Reason != "not yours" || e.Action != "propfind" || len(e.RequestID) != 36 || e.Traceparent != "" || e.Metadata["http_status"] != "404" {
		t.Errorf("%+v", e)
	}
}

// What a handler can do with the writer of net/http, it can do with that of the middleware.
func TestMiddlewareWriter(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	url, s, l := serve(t, MiddlewareOptions{}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/flush":
			w.(http.Flusher).Flush()
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Error(err)
			}
		case "/file":
			f, err := os.Open(file)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if n, err := w.(io.ReaderFrom).ReadFrom(f); n != 7 || err != nil {
				t.Error(n, err)
			}
		case "/hijack":
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			conn.Close()
		}
	})
	for i, path := range []string{"/flush", "/file", "/hijack"} {
		request(t, "GET", url+path, nil)
		until(t, "the event is there", func() bool { flush(t, l); return len(s.ids()) == i+1 })
		if e := s.events[i]; e.Outcome != Success {
			t.Errorf("%+v", e)
		}
	}
	// A writer that can do less does not pretend.
	for _, c := range []struct {
		w                      http.ResponseWriter
		flush, hijack, readers bool
	}{
		{plainWriter{}, false, false, false},
		{struct {
			plainWriter
			http.Flusher
		}{}, true, false, false},
		{struct {
			plainWriter
			http.Hijacker
		}{}, false, true, false},
		{struct {
			plainWriter
			io.ReaderFrom
		}{}, false, false, true},
		{struct {
			plainWriter
			http.Flusher
			http.Hijacker
		}{}, true, true, false},
		{struct {
			plainWriter
			http.Flusher
			io.ReaderFrom
		}{}, true, false, true},
		{struct {
			plainWriter
			http.Hijacker
			io.ReaderFrom
		}{}, false, true, true},
	} {
		w := (&recorder{ResponseWriter: c.w}).wrapped()
		_, f := w.(http.Flusher)
		_, h := w.(http.Hijacker)
		_, r := w.(io.ReaderFrom)
		if f != c.flush || h != c.hijack || r != c.readers || w.(interface{ Unwrap() http.ResponseWriter }).Unwrap() != c.w {
			t.Errorf("%T: %v %v %v", c.w, f, h, r)
		}
	}
}

type plainWriter struct{}

func (plainWriter) Header() http.Header         { return http.Header{} }
func (plainWriter) Write(b []byte) (int, error) { return len(b), nil }
func (plainWriter) WriteHeader(int)             {}

// The panic of a handler goes on as it came, and a client that is gone does not keep the
// request out of the trail.
func TestMiddlewarePanicAndGoneClient(t *testing.T) {
	s := newMemorySink()
	l := newLogger(t, Options{Dir: t.TempDir(), Outputs: []Output{quick("own", s)}})
	ctx, gone := context.WithCancel(t.Context())
	h := Middleware(l, MiddlewareOptions{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		gone()
		panic("as it came")
	}))
	func() {
		defer func() {
			if p := recover(); p != "as it came" {
				t.Errorf("recovered %v", p)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "POST", "/x", nil))
	}()
	flush(t, l)
	if len(s.events) != 1 || s.events[0].Outcome != Error || s.events[0].Action != "create" {
		t.Errorf("%+v", s.events)
	}
}
