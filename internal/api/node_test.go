package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/grpcapi"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/publish"
	"github.com/tocsin-events/tocsin/internal/token"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// node is a server with everything that a request can reach, none of it fake.
type node struct {
	t         testing.TB
	journal   *journal.Journal
	trailed   *gate // journal of the trail
	published *gate // journal of what is published
	intake    *publish.Intake
	calls     *grpcapi.Server
	authority *access.Authority
	hub       *hub.Hub
	api       *API
	addr      string
	health    *health.Registry
}

// gate is the journal of the trail, or of the intake, which can be made to fail.
type gate struct {
	*journal.Journal
	mu    sync.Mutex
	err   error
	block chan struct{} // Submit waits until it is closed
}

func (g *gate) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *gate) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *gate) Append(ctx context.Context, events ...*event.Event) (journal.Position, error) {
	if err := g.failed(); err != nil {
		return journal.Position{}, err
	}
	return g.Journal.Append(ctx, events...)
}

func (g *gate) Submit(ctx context.Context, events ...*event.Event) (*journal.Receipt, error) {
	g.mu.Lock()
	err, block := g.err, g.block
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return g.Journal.Submit(ctx, events...)
}

func (g *gate) Health() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return errors.Join(g.err, g.Journal.Health())
}

// startNode starts a node whose root token is "root". change may change what the API
// is made with; providers are asked about tokens that were not issued here.
func startNode(t testing.TB, change func(*Options), providers ...access.Provider) *node {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, journal: j, trailed: &gate{Journal: j}, published: &gate{Journal: j}, health: new(health.Registry)}
	n.intake = publish.New(publish.Options{Journal: n.published, Logger: log})
	n.calls = grpcapi.New(grpcapi.Options{Intake: n.intake, Health: n.health, Logger: log})
	record := trail.New(trail.Options{Journal: n.trailed, Node: "test", Logger: log})
	n.hub = hub.New(hub.Options{Journal: hub.FromJournal(j), Logger: log})
	var ready sync.WaitGroup // the hub may be another one
	ready.Add(1)
	n.authority, err = access.Open(t.Context(), access.Config{
		State: j.State, RootToken: "root", Providers: providers, Logger: log,
		Changed: func(key any) { ready.Wait(); n.hub.Invalidate(key) },
		Ended: func(e *token.Entry, why access.Ended) {
			if why == access.EndedExpired {
				record.Record(trail.Record{What: "token-expire", Namespace: e.Namespace, Path: e.Path})
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Hub: n.hub, Positions: j, Authority: n.authority, Trail: record, Payloads: payloads{}, Health: n.health,
		Intake: n.intake, GRPC: n.calls,
		Version: "1.2.3", Logger: log,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "tocsin_up 1\n") })}
	if change != nil {
		change(&o)
	}
	n.hub = o.Hub
	ready.Done()
	if o.Intake != nil && o.Intake != n.intake {
		t.Cleanup(func() { _ = o.Intake.Close(context.Background()) })
	}
	n.api = New(o)
	server := NewServer(n.api, log)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		n.trailed.fail(nil)
		if err := errors.Join(n.calls.Shutdown(ctx), n.api.Shutdown(ctx), server.Close(), n.intake.Close(ctx), n.authority.Close(ctx), record.Close(ctx), j.Close(ctx)); err != nil {
			t.Error(err)
		}
		<-served
	})
	return n
}

// ask is one request of a test.
type ask struct {
	method, path string
	token        string // "" is "root", "-" is none
	body         string
	header       map[string]string
}

// body is a JSON answer.
type body map[string]any

// do makes a request with an ordinary client.
func (n *node) do(q ask) (int, body) {
	n.t.Helper()
	status, raw, _ := n.try(q)
	var b body
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &b); err != nil {
			n.t.Fatalf("%s %s: the answer %q is not JSON: %v", q.method, q.path, raw, err)
		}
	}
	return status, b
}

func (n *node) try(q ask) (int, []byte, http.Header) {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), q.method, "http://"+n.addr+q.path, strings.NewReader(q.body))
	if err != nil {
		n.t.Fatal(err)
	}
	switch q.token {
	case "":
		r.Header.Set("X-Vault-Token", "root")
	case "-":
	default:
		r.Header.Set("X-Vault-Token", q.token)
	}
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return res.StatusCode, raw, res.Header
}

// must makes a request that has to succeed.
func (n *node) must(q ask) body {
	n.t.Helper()
	status, b := n.do(q)
	if status < 200 || status > 299 {
		n.t.Fatalf("%s %s %s: %d %v", q.method, q.path, q.body, status, b)
	}
	return b
}

// newToken makes a token as body says and returns its value.
func (n *node) newToken(body string) string {
	n.t.Helper()
	return n.must(ask{method: "POST", path: "/v1/auth/token/create", body: body}).auth()["client_token"].(string)
}

// putPolicy writes a policy; namespace is empty or ends with a slash.
func (n *node) putPolicy(namespace, name, text string) {
	n.t.Helper()
	raw, err := json.Marshal(map[string]string{"policy": text})
	if err != nil {
		n.t.Fatal(err)
	}
	n.must(ask{method: "PUT", path: "/v1/" + namespace + "sys/policies/acl/" + name, body: string(raw)})
}

func (b body) object(name string) map[string]any { o, _ := b[name].(map[string]any); return o }
func (b body) data() map[string]any              { return b.object("data") }
func (b body) auth() map[string]any              { return b.object("auth") }

func (b body) errors() []string { return texts(b["errors"]) }

func (b body) warnings() []string { return texts(b["warnings"]) }

func texts(v any) []string {
	list, _ := v.([]any)
	out := make([]string, 0, len(list))
	for _, one := range list {
		s, _ := one.(string)
		out = append(out, s)
	}
	return out
}

// trail returns the events of the hub about itself so far, without those that it
// makes in the background later than what the caller has seen.
func (n *node) trail(what string) []*event.Event {
	n.t.Helper()
	var found []*event.Event
	r := n.journal.Read(journal.Position{})
	end := n.journal.End()
	for at := (journal.Position{}); at.Compare(end) < 0; {
		b, err := r.Next(n.t.Context())
		if err != nil {
			n.t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			if e := b.Event(i); e.Type == "tocsin/"+what {
				found = append(found, e)
			}
			at = b.Position(i)
		}
	}
	return found
}

// await waits for the count-th event of the hub about itself and returns it.
func (n *node) await(what string, count int) *event.Event {
	n.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		if found := n.trail(what); len(found) >= count {
			return found[count-1]
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("no event %d of type tocsin/%s", count, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func field(e *event.Event, key string) string { s, _ := e.Metadata.Text(key); return s }
