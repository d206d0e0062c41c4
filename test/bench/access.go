package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// guardedHub is everything between a journal and its subscribers, with tokens and
// policies, wired as in the real program.
type guardedHub struct {
	journal   *journal.Journal
	authority *access.Authority
	root      access.Identity
	address   string
	close     func()
}

const subscribePath = "/v1/sys/events/subscribe/"

func startGuardedHub(ctx context.Context, dir string) (_ *guardedHub, err error) {
	j, closeJournal, err := openJournal(ctx, dir)
	if err != nil {
		return nil, err
	}
	stops := []func(){closeJournal}
	g := &guardedHub{journal: j, close: func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	h := hub.New(hub.Options{Journal: hub.FromJournal(j)})
	g.authority, err = access.Open(ctx, access.Config{State: j.State, RootToken: benchToken, Changed: h.Invalidate})
	if err != nil {
		return nil, err
	}
	stops = append(stops, func() { g.authority.Close(context.WithoutCancel(ctx)) })
	request, err := http.NewRequest(http.MethodGet, "/", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Vault-Token", benchToken)
	if g.root, err = g.authority.Authenticate(request, ""); err != nil {
		return nil, err
	}
	record := trail.New(trail.Options{Journal: j, Node: "bench"})
	stops = append(stops, func() { record.Close(context.WithoutCancel(ctx)) })
	edge := api.New(api.Options{Hub: h, Positions: j, Authority: g.authority, Trail: record})
	stops = append(stops, func() { edge.Shutdown(context.WithoutCancel(ctx)) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: edge}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(ln) })
	stops = append(stops, func() { server.Close(); serving.Wait() })
	g.address = ln.Addr().String()
	return g, nil
}

// policies stores n policies of rules rules each, all of which show the events of
// this benchmark, and returns their names.
func (g *guardedHub) policies(ctx context.Context, n, rules int) ([]string, error) {
	var names []string
	for i := range n {
		name := fmt.Sprintf("team-%02d", i)
		text := manyRules(name, rules) + `
path "sys/events/subscribe/*" { capabilities = ["read"] }
path "secret/data/app/*"      { capabilities = ["subscribe"] subscribe_event_types = ["kv-v2/*", "other/*"] }
`
		if _, err := g.authority.PutPolicy(ctx, "", name, text); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// token makes a token with one policy.
func (g *guardedHub) token(ctx context.Context, name string) (string, error) {
	r := access.CreateRequest{Orphan: true}
	r.Policies, r.TTL, r.Path = []string{name}, time.Hour, "auth/token/create"
	value, _, _, err := g.authority.CreateToken(ctx, g.root, r)
	return value, err
}

// manyRules is a policy of n rules, a third each exact, with a prefix, and with "+".
func manyRules(prefix string, n int) string {
	var b strings.Builder
	for i := range n {
		pattern := [...]string{"%s/data/app-%d/db", "%s/data/app-%d/*", "%s/+/app-%d/+/db"}[i%3]
		fmt.Fprintf(&b, "path %q {\n  capabilities = [\"read\", \"subscribe\"]\n  subscribe_event_types = [\"kv-v2/*\"]\n}\n", fmt.Sprintf(pattern, prefix, i))
	}
	return b.String()
}

// decide measures a decision that is not remembered, over paths that all rules
// compete for, beside the 2 µs that are allowed.
func decide(context.Context, settings) (ours, against float64, err error) {
	const rules, rounds = 1000, 2_000_000
	p, _, err := policy.Parse("bench", manyRules("secret", rules))
	if err != nil {
		return 0, 0, err
	}
	acl := policy.Compile([]policy.Bound{{Policy: p}}, nil)
	paths := make([]string, rules)
	for i := range paths {
		paths[i] = fmt.Sprintf([...]string{"secret/data/app-%d/db", "secret/data/app-%d/some/longer/key", "secret/metadata/app-%d/eu/db"}[i%3], i)
		if !acl.Decide("", paths[i], "kv-v2/data-write") {
			return 0, 0, fmt.Errorf("%s is not allowed", paths[i])
		}
	}
	start := time.Now()
	for i := range rounds {
		acl.Decide("", paths[i*7919%rules], "kv-v2/data-write")
	}
	return float64(time.Since(start).Nanoseconds()) / rounds / 1e3, 2, nil
}

// fanOutPolicySets publishes to 1,000 subscribers with 50 policy sets of 100 rules
// each, and to 1,000 with root tokens, in turns on one hub.
func fanOutPolicySets(ctx context.Context, s settings) (ours, against float64, err error) {
	const subscribers, sets = 1000, 50
	g, err := startGuardedHub(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer g.close()
	names, err := g.policies(ctx, sets, 100)
	if err != nil {
		return 0, 0, err
	}
	tokens := make([]string, sets)
	for i, name := range names {
		if tokens[i], err = g.token(ctx, name); err != nil {
			return 0, 0, err
		}
	}
	events := make([]*event.Event, 512)
	for i := range events {
		events[i] = notification(time.Now())
	}
	measure := func(token func(int) string) (float64, error) {
		f := newFan(subscribers, fanOutWindow)
		defer f.close()
		for i := range subscribers {
			if err := g.subscribe(f, i, token(i), "kv-v2/*"); err != nil {
				return 0, err
			}
		}
		if err := f.awaitReady(ctx); err != nil {
			return 0, err
		}
		next := 0
		return f.drive(ctx, s.window, func(k int) error {
			for range k {
				if _, err := g.journal.Submit(ctx, events[next%len(events)]); err != nil {
					return err
				}
				next++
			}
			return nil
		})
	}
	if against, err = measure(func(int) string { return benchToken }); err != nil {
		return 0, 0, err
	}
	ours, err = measure(func(i int) string { return tokens[i%sets] })
	return ours, against, err
}

// subscribe has reader i of f count the messages of one subscription.
func (g *guardedHub) subscribe(f *fan, i int, token, typ string) error {
	conn, r, err := dialWebSocket(g.address, subscribePath+typ+"?json=true", []string{"X-Vault-Token: " + token})
	if err != nil {
		return err
	}
	frames := frameReader{r}
	f.reader(i, conn, func(count func(int)) error {
		f.ready.Done()
		for {
			op, size, err := frames.header()
			if err != nil {
				return err
			}
			if _, err := frames.r.Discard(size); err != nil {
				return err
			}
			if op <= 2 {
				count(1)
			}
		}
	})
	return nil
}

// A guardedProcess is the real program with the policies of these measurements, which
// follows an audit log.
type guardedProcess struct {
	*process
	log *os.File
}

func startGuardedProcess(ctx context.Context, s settings) (_ *guardedProcess, err error) {
	f, err := os.CreateTemp(s.dir, "revoke-*.log")
	if err != nil {
		return nil, err
	}
	p, err := startProcess(ctx, s.dir, "--audit-file", f.Name())
	if err != nil {
		f.Close()
		return nil, err
	}
	g := &guardedProcess{p, f}
	for name, path := range map[string]string{"little": "secret/destroy/*", "all": "*"} {
		if err := p.vault(ctx, "sys/policies/acl/"+name, map[string]any{"policy": fmt.Sprintf(`
path "sys/events/subscribe/*" { capabilities = ["read"] }
path %q { capabilities = ["subscribe"] subscribe_event_types = ["kv-v2/*", "audit/*"] }`, path)}, nil); err != nil {
			g.close()
			return nil, err
		}
	}
	return g, nil
}

func (g *guardedProcess) close() {
	g.stop()
	g.log.Close()
	os.Remove(g.log.Name())
}

// stream writes lines of an audit log at a rate per second until ctx ends.
func (g *guardedProcess) stream(ctx context.Context, rate float64) error {
	audit, err := newAuditLog()
	if err != nil {
		return err
	}
	var lines [][]byte
	written := 0
	for start := time.Now(); ctx.Err() == nil; time.Sleep(time.Millisecond) {
		for due := int(time.Since(start).Seconds() * rate); written < due; written++ {
			if len(lines) == 0 {
				lines = bytes.SplitAfter(bytes.TrimSuffix(bytes.Clone(audit.next()), []byte("\n")), []byte("\n"))
			}
			if _, err := fmt.Fprintf(g.log, "%s\n", bytes.TrimSuffix(lines[0], []byte("\n"))); err != nil {
				return err
			}
			lines = lines[1:]
		}
	}
	return nil
}

// member is a token and its subscription.
type member struct {
	accessor string
	frames   frameReader
	conn     net.Conn
	ended    endOf
}

// join makes a token with a policy and subscribes with it.
func (g *guardedProcess) join(ctx context.Context, policy, typ string, buffer int) (*member, error) {
	var answer struct {
		Auth struct {
			ClientToken string `json:"client_token"`
			Accessor    string `json:"accessor"`
		} `json:"auth"`
	}
	if err := g.vault(ctx, "auth/token/create", map[string]any{"policies": []string{policy}, "ttl": "1h"}, &answer); err != nil {
		return nil, err
	}
	conn, r, err := dialWebSocketSize(g.address, subscribePath+typ+"?json=true", []string{"X-Vault-Token: " + answer.Auth.ClientToken}, buffer)
	return &member{accessor: answer.Auth.Accessor, frames: frameReader{r}, conn: conn}, err
}

func (g *guardedProcess) revoke(ctx context.Context, m *member) error {
	return g.vault(ctx, "auth/token/revoke-accessor", map[string]any{"accessor": m.accessor}, nil)
}

// endOf is when a subscription got its last event, and when it was closed.
type endOf struct{ event, closed time.Time }

// readUntilRevoked returns when the server has closed the subscription because its
// token was revoked, and an error when it ended in any other way.
func (m *member) readUntilRevoked() error {
	defer m.conn.Close()
	for {
		op, n, err := m.frames.header()
		if err != nil {
			return err
		}
		switch op {
		case 8:
			m.ended.closed = time.Now()
			payload, err := m.frames.r.Peek(n)
			if err == nil && !bytes.Contains(payload, []byte("token revoked")) {
				err = fmt.Errorf("closed with %q", payload)
			}
			return err
		case 1, 2:
			m.ended.event = time.Now()
		}
		if _, err := m.frames.r.Discard(n); err != nil {
			return err
		}
	}
}

// revocationBound revokes one by one the tokens of 300 subscribers who all get what
// follows from 1,000 lines of an audit log per second: the longest time from the
// answer to the last event or to the close frame, beside the 100 ms that are allowed.
func revocationBound(ctx context.Context, s settings) (ours, against float64, err error) {
	const subscribers, rate = 300, 1000
	g, err := startGuardedProcess(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer g.close()
	streamCtx, stop := context.WithCancel(ctx)
	defer stop()
	var failed atomic.Pointer[error]
	fail := func(err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
	}
	var running sync.WaitGroup
	members := make([]*member, subscribers)
	for i := range members {
		if members[i], err = g.join(ctx, "all", "*", 64<<10); err != nil {
			return 0, 0, err
		}
		running.Go(func() { fail(members[i].readUntilRevoked()) })
	}
	running.Go(func() { fail(g.stream(streamCtx, rate)) })
	time.Sleep(time.Second)
	answered := make([]time.Time, subscribers)
	for i, m := range members {
		if err := g.revoke(ctx, m); err != nil {
			return 0, 0, err
		}
		answered[i] = time.Now()
	}
	stop()
	running.Wait()
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	var worst time.Duration
	for i, m := range members {
		if m.ended.event.IsZero() {
			return 0, 0, fmt.Errorf("subscriber %d got no event", i)
		}
		worst = max(worst, m.ended.event.Sub(answered[i]), m.ended.closed.Sub(answered[i]))
	}
	return worst.Seconds() * 1e3, 100, nil
}

// revocationPause makes 10,000 tokens in the real program, opens a subscription with
// each, and revokes them one by one over HTTP, while 100 subscribers with other
// tokens get what follows from 1,000 lines of an audit log per second: the longest
// pause that one of those had, beside the second that is allowed.
func revocationPause(ctx context.Context, s settings) (ours, against float64, err error) {
	const leaving, staying, rate, clients = 10_000, 100, 1000, 8
	g, err := startGuardedProcess(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer g.close()
	var failed atomic.Pointer[error]
	fail := func(err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
	}
	var watching sync.WaitGroup
	members := make([]*member, leaving)
	if err := parallel(clients, leaving, func(i int) (err error) {
		// They see little, so that the others get their share of the machine.
		if members[i], err = g.join(ctx, "little", "kv-v2/*", 512); err != nil {
			return err
		}
		watching.Go(func() { fail(members[i].readUntilRevoked()) })
		return nil
	}); err != nil {
		return 0, 0, err
	}
	stay := newFan(staying, 1)
	defer stay.close()
	pauses := make([]time.Duration, staying)
	var measuring atomic.Bool
	for i := range staying {
		m, err := g.join(ctx, "all", "*", 64<<10)
		if err != nil {
			return 0, 0, err
		}
		stay.reader(i, m.conn, func(count func(int)) error {
			stay.ready.Done()
			last := time.Now()
			for {
				if _, err := m.frames.message(); err != nil {
					return err
				}
				now := time.Now()
				if measuring.Load() {
					pauses[i] = max(pauses[i], now.Sub(last))
				}
				last = now
				count(1)
			}
		})
	}
	streamCtx, stop := context.WithCancel(ctx)
	defer stop()
	var streaming sync.WaitGroup
	streaming.Go(func() { fail(g.stream(streamCtx, rate)) })
	time.Sleep(2 * time.Second)
	measuring.Store(true)
	if err := parallel(clients, leaving, func(i int) error { return g.revoke(ctx, members[i]) }); err != nil {
		return 0, 0, err
	}
	watching.Wait()
	measuring.Store(false)
	stop()
	streaming.Wait()
	stay.close()
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	return slices.Max(pauses).Seconds() * 1e3, 1000, nil
}

// vault makes a request of Vault's API with the root token.
func (p *process) vault(ctx context.Context, path string, body map[string]any, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+p.address+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", benchToken)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode >= 300:
		return fmt.Errorf("%s answered %s: %s", path, response.Status, content)
	case answer == nil:
		return nil
	}
	return json.Unmarshal(content, answer)
}

// parallel runs do for 0 to n-1 on some goroutines and returns the first error.
func parallel(workers, n int, do func(i int) error) error {
	var next atomic.Int64
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for first.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}
