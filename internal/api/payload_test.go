package api

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"
)

// endless is a payload without end.
type endless struct{ closed chan struct{} }

func (p endless) Open(context.Context, string) (*Payload, error) {
	return &Payload{Body: p, Size: -1}, nil
}

func (p endless) Read(b []byte) (int, error) { return len(b), nil }

func (p endless) Close() error { close(p.closed); return nil }

// stuck is a payload that does not come.
type stuck struct{ opened chan struct{} }

func (p stuck) Open(ctx context.Context, _ string) (*Payload, error) {
	close(p.opened)
	<-ctx.Done()
	return nil, ctx.Err()
}

// Whoever has begun to read a payload gets no more of it when the token ends.
func TestPayloadEndsWithToken(t *testing.T) {
	body := endless{make(chan struct{})}
	n := startNode(t, func(o *Options) { o.Payloads = body })
	token := n.newToken(`{"policies":["root"],"ttl":"1h"}`)
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+n.addr+"/api/v1/payloads/audit/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", token)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	n.must(ask{method: "POST", path: "/v1/auth/token/revoke", body: `{"token":"` + token + `"}`})
	select {
	case <-body.closed:
	case <-time.After(time.Minute): // also when the client does not read
		t.Fatal("it is still being sent")
	}
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("the client was told that it has all")
	}
}

func TestPayloadIsNotOpenedForEver(t *testing.T) {
	payload := stuck{make(chan struct{})}
	n := startNode(t, func(o *Options) { o.Payloads = payload })
	token := n.newToken(`{"policies":["root"],"ttl":"1h"}`)
	answered := make(chan error, 1)
	go func() {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+n.addr+"/api/v1/payloads/audit/1", nil)
		if err == nil {
			r.Header.Set("X-Vault-Token", token)
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			var res *http.Response
			if res, err = client.Do(r); err == nil {
				res.Body.Close()
			}
		}
		answered <- err
	}()
	<-payload.opened
	n.must(ask{method: "POST", path: "/v1/auth/token/revoke", body: `{"token":"` + token + `"}`})
	select {
	case <-answered:
	case <-time.After(time.Minute):
		t.Fatal("it is still waited for")
	}
}

// The connection serves other requests after a payload was sent.
func TestPayloadLeavesConnection(t *testing.T) {
	n := startNode(t, nil)
	token := n.newToken(`{"policies":["root"],"ttl":"1h"}`)
	client := http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	for range 3 {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+n.addr+"/api/v1/payloads/audit/1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Vault-Token", token)
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(raw) != `{"type":"response"}` {
			t.Fatalf("%q %v", raw, err)
		}
	}
	n.must(ask{method: "POST", path: "/v1/auth/token/revoke", body: `{"token":"` + token + `"}`})
}
