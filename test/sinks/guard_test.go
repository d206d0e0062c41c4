package sinks

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tocsin-events/tocsin/internal/api"
)

// TestForbiddenAddresses: a sink that is to send to an address that is not allowed, however
// that is written or reached, is refused, or sends nothing and says why. The events wait,
// and no secret is told.
func TestForbiddenAddresses(t *testing.T) {
	t.Parallel()
	var connections, requests atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	forbidden := &http.Server{
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				connections.Add(1)
			}
		},
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	}
	go forbidden.Serve(l)
	t.Cleanup(func() { forbidden.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// It is allowed, and sends whoever comes elsewhere.
	entrance, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skipf("needs 127.0.0.2: %v", err)
	}
	redirecting := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		to := "http://169.254.169.254/latest/meta-data/"
		if strings.HasPrefix(r.URL.Path, "/inside") {
			to = "http://" + l.Addr().String() + "/"
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	})}
	go redirecting.Serve(entrance)
	t.Cleanup(func() { redirecting.Close() })
	h := newHub(t, "", "delivery: {allow: [127.0.0.2]}\n")
	h.start()

	const secret = "s3cret-of-the-url"
	where := map[string]string{
		"address":    "http://127.0.0.1:" + port,
		"name":       "http://localhost:" + port,
		"name-dot":   "http://localhost.:" + port,
		"hex":        "http://0x7f000001:" + port,
		"decimal":    "http://2130706433:" + port,
		"octal":      "http://0177.0.0.1:" + port,
		"short":      "http://127.1:" + port,
		"any":        "http://0.0.0.0:" + port,
		"mapped":     "http://[::ffff:127.0.0.1]:" + port,
		"mapped-hex": "http://[::ffff:7f00:1]:" + port,
		"metadata":   "http://169.254.169.254",
		"unknown":    "http://nowhere.invalid:" + port,
		"redirect":   "http://" + entrance.Addr().String() + "/metadata",
		"inside":     "http://" + entrance.Addr().String() + "/inside",
	}
	// A name of which only the resolver knows that it is this machine.
	if name, err := os.Hostname(); err == nil {
		if addresses, err := net.LookupHost(name); err == nil && !slices.ContainsFunc(addresses, func(a string) bool { return !net.ParseIP(a).IsLoopback() }) {
			where["resolved"] = "http://" + name + ":" + port
		}
	}
	made := make(map[string]bool)
	for name, address := range where {
		body := fmt.Sprintf(`{"type":"webhook","events":{"types":["shop/*"]},"timeout":"2s","retry":{"first":"5ms","most":"20ms"},"webhook":{"url":"%s/%s?key=%s","signing_keys":[{"value":"whsec_GMK4mTUOq+Cl4PV2VFF6k59Nz5EgBn4fS0LRc8imfk0="}]}}`, address, secret, secret)
		status, text, err := h.ask("PUT", "/"+name, body, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case status == http.StatusCreated:
			made[name] = true
		case status == http.StatusBadRequest:
			t.Logf("%-10s is refused: %.200s", name, text)
			if strings.Contains(text, secret) {
				t.Errorf("%s: the URL is told: %s", name, text)
			}
		default:
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	for _, name := range []string{"unknown", "redirect", "inside"} {
		if !made[name] {
			t.Errorf("%s was not tested", name)
		}
	}
	p := publisher{hub: h}
	if err := p.post([]byte(`[{"specversion":"1.0","id":"0-1","source":"/shop","type":"shop/sold","subject":"shop/1"}]`)); err != nil {
		t.Fatal(err)
	}
	for name := range made {
		s := h.awaitSink(name, "it tries several times", func(s api.Sink) bool { return s.Counts.Attempts >= 3 && s.Outage != nil })
		reason := s.Outage.Reason
		t.Logf("%-10s fails: %s", name, reason)
		if reason == "" { // health has it after 30 seconds
			t.Errorf("%s does not say why", name)
		}
		if s.Letters != 0 || s.Counts.Delivered != 0 || s.LagEvents == 0 || s.State != "failing" {
			t.Errorf("%s: %+v", name, s)
		}
		for _, path := range []string{"/attempts", "/dead-letters"} {
			_, text, err := h.ask("GET", "/"+name+path, "", nil)
			if err != nil || strings.Contains(text, secret) || strings.Contains(text, "whsec_") {
				t.Errorf("%s%s: %v %s", name, path, err, text)
			}
		}
		if said := reason + s.Health; strings.Contains(said, secret) || strings.Contains(said, "whsec_") {
			t.Errorf("%s: a secret is told: %s", name, said)
		}
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections were made to where they must not", n)
	}
	if requests.Load() == 0 {
		t.Error("no redirect was tested")
	}
	h.stop()
	if said := h.said.String(); strings.Contains(said, secret) || strings.Contains(said, "whsec_") {
		t.Error("a secret is in the log")
	}
}
