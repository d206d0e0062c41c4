package outbound

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// resolver answers every question for an IPv4 address with the next of its answers, the last
// one again and again. It is a real DNS server.
func resolver(t *testing.T, answers ...string) (*net.Resolver, *atomic.Int32) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Authoritative, m.RecursionAvailable, m.Additionals = true, true, true, nil
			q, text := m.Questions[0], answers[0]
			if q.Type == dnsmessage.TypeA {
				text = answers[min(int(asked.Add(1)), len(answers))-1]
			}
			switch a, err := netip.ParseAddr(text); {
			case text == "silence":
				continue
			case text == "nxdomain":
				m.RCode = dnsmessage.RCodeNameError
			case err != nil:
				m.RCode = dnsmessage.RCodeServerFailure
			case q.Type == dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type},
					Body:   &dnsmessage.AResource{A: a.As4()},
				}}
			}
			if packed, err := m.Pack(); err == nil {
				server.WriteTo(packed, from)
			}
		}
	})
	// The resolver leaves goroutines behind that wait for an answer.
	var mu sync.Mutex
	var open []net.Conn
	ended := false
	t.Cleanup(func() {
		server.Close()
		wg.Wait()
		mu.Lock()
		defer mu.Unlock()
		ended = true
		for _, c := range open {
			c.Close()
		}
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if ended {
			return nil, net.ErrClosed
		}
		c, err := new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
		if err == nil {
			open = append(open, c)
		}
		return c, err
	}}, &asked
}

// TestRebinding is about a name that is public when it is looked up first, and inside when it
// is connected to.
func TestRebinding(t *testing.T) {
	hit := atomic.Int32{}
	u := serve(t, func(http.ResponseWriter, *http.Request) { hit.Add(1) })
	for _, inside := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "100.64.0.1"} {
		t.Run(inside, func(t *testing.T) {
			r, asked := resolver(t, "93.184.216.34", inside)
			target := parseURL(t, "http://rebind.example.com.:"+u.Port()+"/hook")
			guard := new(Guard)
			// Whoever checks first, and connects then, is deceived:
			addresses, err := r.LookupNetIP(t.Context(), "ip4", "rebind.example.com.")
			if err != nil || guard.CheckURL(target) != nil || guard.checkConnection("rebind.example.com.", netip.AddrPortFrom(addresses[0], 80).String()) != nil {
				t.Fatalf("the first answer is not public: %v, %v", addresses, err)
			}
			c := client(t, Options{Guard: guard, Resolver: r})
			result := c.Send(t.Context(), &Request{URL: target})
			if result.Outcome != deliver.Retry || !strings.Contains(result.Reason, "is at "+inside) || !strings.Contains(result.Reason, "delivery.allow") {
				t.Errorf("%+v", result)
			}
			if asked.Load() < 2 || hit.Load() != 0 {
				t.Errorf("asked %d times, connected %d times", asked.Load(), hit.Load())
			}
		})
	}
}

// TestNamesAreAllowed is about receivers inside that were named.
func TestNamesAreAllowed(t *testing.T) {
	u := serve(t, func(http.ResponseWriter, *http.Request) {})
	r, _ := resolver(t, "127.0.0.1")
	target := parseURL(t, "http://alerts.corp.example.:"+u.Port()+"/hook")
	for allow, want := range map[string]deliver.Outcome{
		"alerts.corp.example": deliver.Delivered, "*.corp.example": deliver.Delivered, "127.0.0.1": deliver.Delivered, "127.0.0.0/8": deliver.Delivered,
		"corp.example": deliver.Retry, "other.corp.example": deliver.Retry, "10.0.0.0/8": deliver.Retry,
	} {
		guard, err := NewGuard(allow)
		if err != nil {
			t.Fatal(err)
		}
		if result := client(t, Options{Guard: guard, Resolver: r}).Send(t.Context(), &Request{URL: target}); result.Outcome != want {
			t.Errorf("%s: %+v, want %v", allow, result, want)
		}
	}
}

// TestOtherForms hands forms of addresses to the dialer that a check of texts may not know.
func TestOtherForms(t *testing.T) {
	hit := atomic.Int32{}
	u := serve(t, func(http.ResponseWriter, *http.Request) { hit.Add(1) })
	c := client(t, Options{Guard: new(Guard)})
	for _, host := range []string{
		"127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]",
		"[::ffff:7f00:1]", "[::127.0.0.1]", "[0:0:0:0:0:0:0:1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "localhost", "localhost.",
	} {
		// Without the check of the text, too: with a dialer alone.
		conn, err := c.dial(t.Context(), "tcp", strings.Trim(host, "[]")+":"+u.Port())
		if strings.HasPrefix(host, "[") {
			conn, err = c.dial(t.Context(), "tcp", host+":"+u.Port())
		}
		if err == nil {
			conn.Close()
			t.Errorf("%s was connected to", host)
		}
		if result := c.Send(t.Context(), &Request{URL: &url.URL{Scheme: "http", Host: host + ":" + u.Port(), Path: "/"}}); result.Outcome != deliver.Retry {
			t.Errorf("%s: %+v", host, result)
		}
	}
	if hit.Load() != 0 {
		t.Errorf("%d requests came through", hit.Load())
	}
}

// TestRedirects is about an endpoint that sends somewhere else.
func TestRedirects(t *testing.T) {
	hit := atomic.Int32{}
	inside := serve(t, func(http.ResponseWriter, *http.Request) { hit.Add(1) })
	location := ""
	status := 0
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(status)
	})
	c := client(t, Options{Bearer: func() (string, error) { return "s3cret-token", nil }})
	for _, status = range []int{300, 301, 302, 303, 304, 307, 308} {
		for _, tt := range []struct{ to, want string }{
			{"http://169.254.169.254/latest/meta-data/iam/s3cret", "it redirects to 169.254.169.254, which is not followed"},
			{inside.String(), "it redirects to " + inside.Host + ","},
			{"/other/s3cret", "it redirects to another path"},
			{"http://[::1", "it redirects to another path"},
			{"http://user:s3cret@h.example/", "it redirects to h.example,"},
			{"gopher://h.example/s3cret", "it redirects to h.example,"},
			{"", "check the url"},
		} {
			location = tt.to
			result := c.Send(t.Context(), &Request{URL: u, Body: []byte("x")})
			if result.Outcome != deliver.Retry || result.Status != status || !strings.Contains(result.Reason, tt.want) || strings.Contains(result.Reason, "s3cret") {
				t.Errorf("%d to %s: %+v", status, tt.to, result)
			}
		}
	}
	if hit.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestDNS(t *testing.T) {
	for answer, want := range map[string]string{
		"nxdomain": "gone.example.com. is not known to DNS", "servfail": "DNS cannot say where gone.example.com. is", "silence": "gone.example.com",
	} {
		t.Run(answer, func(t *testing.T) {
			r, _ := resolver(t, answer)
			c := client(t, Options{Resolver: r, Timeout: 300 * time.Millisecond})
			result := c.Send(t.Context(), &Request{URL: parseURL(t, "https://gone.example.com./services/T0/s3cret-s3cret")})
			if result.Outcome != deliver.Retry || !strings.Contains(result.Reason, want) || strings.Contains(result.Reason, "s3cret") {
				t.Errorf("%+v", result)
			}
		})
	}
}

// TestProxy sends through a proxy, which is connected to whatever the guard says, and decides
// about names.
func TestProxy(t *testing.T) {
	var asked []string
	target := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "direct") })
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.RequestURI)
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(w, "by proxy")
	})
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	direct := client(t, Options{})
	if answer, err := direct.Do(t.Context(), &Request{URL: target}); err != nil || string(answer.Body) != "direct" {
		t.Errorf("%+v, %v: the environment counts", answer, err)
	}
	c := client(t, Options{Guard: new(Guard), Proxy: "http://" + proxy.Host})
	if answer, err := c.Do(t.Context(), &Request{URL: parseURL(t, "http://hooks.example.com/x")}); err != nil || string(answer.Body) != "by proxy" {
		t.Errorf("%+v, %v", answer, err)
	}
	if result := c.Send(t.Context(), &Request{URL: parseURL(t, "https://hooks.example.com/s3cret")}); result.Outcome != deliver.Retry ||
		result.Reason != "the proxy answered CONNECT with 403 for hooks.example.com" {
		t.Errorf("%+v", result)
	}
	if result := c.Send(t.Context(), &Request{URL: parseURL(t, "http://169.254.169.254/")}); !strings.Contains(result.Reason, "link-local") {
		t.Errorf("%+v", result)
	}
	if got := strings.Join(asked, ", "); got != "POST http://hooks.example.com/x, CONNECT hooks.example.com:443" {
		t.Errorf("the proxy was asked %s", got)
	}
}
