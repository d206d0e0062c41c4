package compat

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/vault/api"
)

// dialTLS connects without HTTP.
func (h *hub) dialTLS() *tls.Conn {
	h.t.Helper()
	pem, err := os.ReadFile(h.ca)
	if err != nil {
		h.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(h.address, "https://"), &tls.Config{RootCAs: pool})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	return conn
}

// raw sends bytes and returns the status and the body of the answer; status 0 means
// that the connection was closed without one.
func (h *hub) raw(request string) (status int, body string) {
	h.t.Helper()
	conn := h.dialTLS()
	conn.SetDeadline(time.Now().Add(patience))
	// The hub may answer and close before it has read everything.
	go io.WriteString(conn, request)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return response.StatusCode, err.Error()
	}
	return response.StatusCode, string(b)
}

// healthy checks that the hub still serves, and promptly.
func (h *hub) healthy() {
	h.t.Helper()
	start := time.Now()
	if _, err := h.root().Auth().Token().LookupSelf(); err != nil {
		h.t.Errorf("afterwards: %v", err)
	}
	if took := time.Since(start); took > prompt {
		h.t.Errorf("afterwards a request took %v", took)
	}
}

func post(path, headers, body string) string {
	return fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: h\r\nX-Vault-Token: %s\r\n%sContent-Length: %d\r\n\r\n%s", path, rootToken, headers, len(body), body)
}

func get(path, headers string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: h\r\n" + headers + "\r\n"
}

// What comes over the wire is refused for what it is, and the hub goes on.
func TestHostileRequests(t *testing.T) {
	h := startSecureHub(t)
	quoted := func(policy string) string { return `{"policy":"` + policy + `"}` }
	const lookup, write, create = "/v1/auth/token/lookup-self", "/v1/sys/policies/acl/x", "/v1/auth/token/create"
	for _, c := range []struct {
		name, request string
		status        []int // 0: closed
	}{
		{"10 MB policy", post(write, "", quoted(strings.Repeat("#", 10<<20))), []int{400, 413}},
		{"10 MB policy of rules", post(write, "", quoted(strings.Repeat(`path \"a\" {}\n`, 10<<20/13))), []int{400, 413}},
		{"endless policy", "PUT " + write + " HTTP/1.1\r\nHost: h\r\nX-Vault-Token: " + rootToken + "\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("10000\r\n"+strings.Repeat("x", 0x10000)+"\r\n", 200), []int{400, 413}},
		{"deep HCL", post(write, "", quoted(strings.Repeat("a {", 50_000))), []int{400}},
		{"deep lists in HCL", post(write, "", quoted("a = "+strings.Repeat("[", 100_000))), []int{400}},
		{"deep JSON policy", post(write, "", quoted(strings.Repeat(`{\"a\":`, 20_000))), []int{400}},
		{"policy of zeros", post(write, "", quoted(strings.Repeat(`\u0000`, 1000))), []int{400}},
		{"policy that is not UTF-8", post(write, "", "{\"policy\":\"path \\\"\xff\xfe\\\" {}\"}"), []int{200, 400}},
		{"deep JSON body", post(create, "", strings.Repeat(`{"a":`, 100_000)), []int{400}},
		{"JSON of another kind", post(create, "", `["policies"]`), []int{400}},
		{"policies of another kind", post(create, "", `{"policies":{"a":1}}`), []int{400}},
		{"metadata of another kind", post(create, "", `{"meta":{"a":{"b":1}}}`), []int{400}},
		{"10 MB of metadata", post(create, "", `{"meta":{"a":"`+strings.Repeat("x", 10<<20)+`"}}`), []int{400, 413}},
		{"100,000 policies", post(create, "", `{"policies":[`+strings.TrimSuffix(strings.Repeat(`"a",`, 100_000), ",")+`]}`), []int{200, 400, 413}},
		{"endless TTL", post(create, "", `{"ttl":"9999999999999999h"}`), []int{400}},
		{"negative TTL", post(create, "", `{"ttl":"-1h"}`), []int{400}},
		{"number of uses", post(create, "", `{"num_uses":-5}`), []int{400}},
		{"truncated body", "PUT " + create + " HTTP/1.1\r\nHost: h\r\nX-Vault-Token: " + rootToken + "\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{\"a\":", []int{400}},
		{"policy name with dots", post("/v1/sys/policies/acl/..%2f..%2froot", "", quoted("path")), []int{301, 307, 400, 404}},
		{"policy name with zero", post("/v1/sys/policies/acl/a%00b", "", quoted("# none")), []int{400}},
		{"endless policy name", post("/v1/sys/policies/acl/"+strings.Repeat("a", 20_000), "", quoted("# none")), []int{400, 414, 431}},
		{"token that is not UTF-8", get(lookup, "X-Vault-Token: \xff\xfe\x80\r\n"), []int{400, 403}},
		{"token with control characters", get(lookup, "X-Vault-Token: a\x01b\r\n"), []int{400, 403}},
		{"token of 60 KB", get(lookup, "X-Vault-Token: "+strings.Repeat("t", 60_000)+"\r\n"), []int{400, 403, 431}},
		{"two tokens", get(lookup, "X-Vault-Token: nonsense\r\nX-Vault-Token: "+rootToken+"\r\n"), []int{400, 403}},
		{"token in the URL", get(lookup+"?token="+rootToken, ""), []int{400}},
		{"1 MB of headers", get(lookup, strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 1000)), []int{0, 431}},
		{"100,000 headers", get(lookup, strings.Repeat("A: b\r\n", 100_000)), []int{0, 431}},
		{"1 MB of a header", get(lookup, "X-A: "+strings.Repeat("a", 1<<20)+"\r\n"), []int{0, 431}},
		{"namespace with dots", get(lookup, "X-Vault-Token: "+rootToken+"\r\nX-Vault-Namespace: a/../../b\r\n"), []int{200, 400, 403, 404}},
		{"endless namespace", get(lookup, "X-Vault-Token: "+rootToken+"\r\nX-Vault-Namespace: "+strings.Repeat("n/", 20_000)+"\r\n"), []int{400, 403, 404, 431}},
		{"endless path", get("/v1/"+strings.Repeat("a/", 20_000), ""), []int{400, 403, 404, 414, 431}},
		{"no HTTP", strings.Repeat("\x00\xff", 100) + "\r\n\r\n", []int{0, 400}},
		{"another method", "BREW " + lookup + " HTTP/1.1\r\nHost: h\r\nX-Vault-Token: " + rootToken + "\r\n\r\n", []int{400, 404, 405}},
		{"smuggled", "POST " + create + " HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET " + lookup + " HTTP/1.1\r\n\r\n", []int{400, 403}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			status, body := h.raw(c.request)
			ok := false
			for _, want := range c.status {
				ok = ok || status == want
			}
			if !ok || strings.Contains(body, rootToken) || len(body) > 10_000 {
				t.Errorf("answered %d %.500s, want one of %d", status, body, c.status)
			}
			h.healthy()
		})
	}
}

// Values that tokens bring along do not become parts of patterns.
func TestTemplateInjection(t *testing.T) {
	h := startSecureHub(t)
	if err := h.root().Sys().PutPolicy("own", `path "sys/events/subscribe/*" { capabilities = ["read"] }
path "secret/data/{{token.metadata.team}}/x" {
  capabilities = ["subscribe"]
  subscribe_event_types = ["*"]
}
path "secret/data/last" {
  capabilities = ["subscribe"]
  subscribe_event_types = ["*"]
}`); err != nil {
		t.Fatal(err)
	}
	good := h.subscribe(h.client(create(t, h.root(), &api.TokenCreateRequest{Policies: []string{"own"}, Metadata: map[string]string{"team": "a"}}).ClientToken, ""), "kv-v2/*", nil)
	var bad []*stream
	for _, team := range []string{"*", "+", "", "a/../b", "..", "b/x\n", "{{token.display_name}}", `"`, "+*", "\x00"} {
		auth := create(t, h.root(), &api.TokenCreateRequest{Policies: []string{"own"}, Metadata: map[string]string{"team": team}})
		bad = append(bad, h.subscribe(h.client(auth.ClientToken, ""), "kv-v2/*", nil))
	}
	h.write("", "b/x")
	h.write("", "a/x")
	h.write("", "c/x")
	h.write("", "last")
	good.want("secret/data/a/x", "secret/data/last")
	for _, s := range bad { // they see nothing before it
		s.want("secret/data/last")
	}
}

// Clients that do nothing, or next to nothing, do not keep others out, and are not
// kept for ever.
func TestSlowClients(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for time limits")
	}
	h := startSecureHub(t)
	var silent, slow []net.Conn
	for range 100 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.address, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn) // no TLS handshake
	}
	for range 50 {
		conn := h.dialTLS()
		io.WriteString(conn, "GET /v1/sys/health HTTP/1.1\r\nHost: h\r\n")
		slow = append(slow, conn)
	}
	h.healthy()
	stop := make(chan struct{})
	trickle := make(chan struct{})
	go func() { // a byte now and then does not help
		defer close(trickle)
		for {
			for _, conn := range slow {
				io.WriteString(conn, "X")
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	defer func() { close(stop); <-trickle }()
	for i, conn := range append(silent[:5:5], slow[:5]...) {
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		var b bytes.Buffer
		_, err := io.Copy(&b, conn)
		var timeout net.Error
		if e, ok := err.(net.Error); ok {
			timeout = e
		}
		if timeout != nil && timeout.Timeout() {
			t.Errorf("connection %d is still open after 30 s", i)
		}
		h.healthy()
	}
}

// A subscriber is not to send messages, and one that does is told so.
func TestSubscriberThatTalks(t *testing.T) {
	h := startSecureHub(t)
	for name, kind := range map[string]websocket.MessageType{"text": websocket.MessageText, "binary": websocket.MessageBinary} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, _, err := dial(ctx, h.root(), "*", url.Values{"json": {"true"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Write(ctx, kind, bytes.Repeat([]byte("x"), 100_000)); err != nil {
			t.Logf("%s: %v", name, err)
		}
		for err == nil {
			_, _, err = conn.Read(ctx)
		}
		if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Errorf("%s: ended with %v", name, err)
		}
		conn.CloseNow()
		cancel()
	}
	h.healthy()
}
