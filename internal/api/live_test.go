package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/tocsin-events/tocsin/event"
)

// stream is a subscription of a test.
type stream struct {
	t    testing.TB
	conn *websocket.Conn
	ctx  context.Context
}

// subscribe opens a subscription in Vault's JSON.
func (n *node) subscribe(token, typ, query string) *stream {
	n.t.Helper()
	namespace, typ, ok := strings.Cut(typ, ":")
	if !ok {
		namespace, typ = "", namespace
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	n.t.Cleanup(cancel)
	conn, res, err := websocket.Dial(ctx, "ws://"+n.addr+"/v1/"+namespace+subscribePath+typ+"?json=true&"+query,
		&websocket.DialOptions{HTTPHeader: http.Header{"X-Vault-Token": {token}}})
	if err != nil {
		n.t.Fatalf("%v %v", res, err)
	}
	n.t.Cleanup(func() { conn.CloseNow() })
	return &stream{n.t, conn, ctx}
}

// next returns the id of the next event.
func (s *stream) next() string {
	s.t.Helper()
	_, message, err := s.conn.Read(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	var e struct{ ID string }
	if err := json.Unmarshal(message, &e); err != nil {
		s.t.Fatal(err)
	}
	return e.ID
}

// rest returns the ids of all events until the end, and how the server ended it.
func (s *stream) rest() (ids []string, end websocket.CloseError, at time.Time) {
	s.t.Helper()
	for {
		_, message, err := s.conn.Read(s.ctx)
		if err != nil {
			if !errors.As(err, &end) {
				s.t.Fatal(err)
			}
			return ids, end, time.Now()
		}
		var e struct{ ID string }
		if err := json.Unmarshal(message, &e); err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
}

// at is an event with a path in a namespace.
func at(namespace, path, id string) *event.Event {
	e := kv(0)
	e.Namespace, e.Path, e.ID = namespace, path, id
	e.Metadata = nil
	e.Metadata.Set("path", path)
	return e
}

// sees is a policy for a subscriber of these paths.
func sees(paths ...string) string {
	text := `path "sys/events/subscribe/kv*" { capabilities = ["read"] }` + "\n"
	for _, p := range paths {
		text += fmt.Sprintf("path %q { capabilities = [\"subscribe\"]\n subscribe_event_types = [\"*\"] }\n", p)
	}
	return text
}

// flood appends events on a path until stop is called, which returns when the appending
// of each began. Their ids are "flood-N".
func (n *node) flood(namespace, path string) (stop func() []time.Time) {
	ctx, cancel := context.WithCancel(n.t.Context())
	var done sync.WaitGroup
	var began []time.Time
	done.Go(func() {
		for ctx.Err() == nil {
			began = append(began, time.Now())
			if _, err := n.journal.Append(n.t.Context(), at(namespace, path, fmt.Sprintf("flood-%d", len(began)-1))); err != nil {
				n.t.Error(err)
				return
			}
		}
	})
	return func() []time.Time {
		cancel()
		done.Wait()
		return began
	}
}

// TestEndsWhileStreaming: whatever ends the right to be connected closes the connection
// with its reason, while events flow, and nothing follows.
func TestEndsWhileStreaming(t *testing.T) {
	for _, tt := range []struct {
		name   string
		token  string // body of its creation
		end    func(n *node, token string)
		reason string
		grace  time.Duration // for how long after end has returned events may come
	}{
		{"revoked", `{"policies":["team"]}`, func(n *node, token string) {
			n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: fmt.Sprintf(`{"token":%q}`, token)})
		}, "token revoked", 0},
		{"revoked by itself", `{"policies":["team"]}`, func(n *node, token string) {
			n.must(ask{method: "PUT", path: "/v1/auth/token/revoke-self", token: token})
		}, "token revoked", 0},
		{"revoked with its parent", "", func(n *node, token string) {
			n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: `{"token":"parent"}`})
		}, "token revoked", 0},
		{"expired", `{"policies":["team"],"ttl":"1s"}`, func(n *node, token string) {
			for {
				if _, err := n.authority.Tokens().Lookup(token); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}, "token expired", 10 * revocationBound}, // nobody waits for an answer
		{"used up", `{"policies":["team"],"num_uses":1}`, func(n *node, token string) {
			n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: token})
		}, "token has no uses left", 0},
		{"policy without the right to connect", `{"policies":["team"]}`, func(n *node, token string) {
			n.putPolicy("", "team", `path "secret/*" { capabilities = ["subscribe"] subscribe_event_types = ["*"] }`)
		}, "permission denied: the policies of the token have changed", 0},
		{"policy deleted", `{"policies":["team"]}`, func(n *node, token string) {
			n.must(ask{method: "DELETE", path: "/v1/sys/policies/acl/team"})
		}, "permission denied: the policies of the token have changed", 0},
		{"root revoked", `{"policies":["root"]}`, func(n *node, token string) {
			n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: fmt.Sprintf(`{"token":%q}`, token)})
		}, "token revoked", 0},
		{"configured root token revoked", "root", func(n *node, token string) {
			n.must(ask{method: "PUT", path: "/v1/auth/token/revoke-self"})
		}, "token revoked", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, nil)
			n.putPolicy("", "team", sees("secret/*"))
			token := tt.token
			switch token {
			case "root":
			case "":
				n.putPolicy("", "parent", tokenManager+sees("secret/*"))
				n.newToken(`{"policies":["parent"],"id":"parent"}`)
				token = n.must(ask{method: "POST", path: "/v1/auth/token/create", token: "parent"}).auth()["client_token"].(string)
			default:
				token = n.newToken(token)
			}
			s := n.subscribe(token, "kv*", "")
			stop := n.flood("", "secret/data/app")
			type end struct {
				ids []string
				how websocket.CloseError
				at  time.Time
			}
			ended := make(chan end, 1)
			s.next()
			go func() {
				ids, how, at := s.rest()
				ended <- end{ids, how, at}
			}()
			tt.end(n, token)
			effective := time.Now()
			e := <-ended
			began := stop()
			if e.how.Code != websocket.StatusPolicyViolation || e.how.Reason != tt.reason {
				t.Errorf("ended with %v %q, want 1008 %q", e.how.Code, e.how.Reason, tt.reason)
			}
			for _, id := range e.ids {
				var number int
				if _, err := fmt.Sscanf(id, "flood-%d", &number); err != nil {
					t.Fatal(err)
				}
				if late := began[number].Sub(effective); late > tt.grace {
					t.Fatalf("an event came that was appended %v after the end was in effect", late)
				}
			}
			took := e.at.Sub(effective)
			t.Logf("%d events, closed %v after it was in effect", len(e.ids), took)
			if took > 10*revocationBound {
				t.Errorf("closed %v after it was in effect", took)
			}
			record := n.await("subscription-end", 1)
			if field(record, "reason") == "" || field(record, "delivered") == "0" {
				t.Errorf("recorded as %+v", record)
			}
		})
	}
}

// revocationBound is what is promised on one node. Tests on machines that do other
// things allow ten times as much.
const revocationBound = 100 * time.Millisecond

// TestRevocationTime measures from the request that revokes to the close frame.
func TestRevocationTime(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "team", sees("secret/*"))
	stop := n.flood("", "secret/data/app")
	defer stop()
	const rounds = 30
	var answered, closed []time.Duration
	for range rounds {
		token := n.newToken(`{"policies":["team"]}`)
		s := n.subscribe(token, "kv*", "")
		s.next()
		end := make(chan time.Time, 1)
		go func() {
			_, _, at := s.rest()
			end <- at
		}()
		begin := time.Now()
		n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: fmt.Sprintf(`{"token":%q}`, token)})
		answered = append(answered, time.Since(begin))
		closed = append(closed, (<-end).Sub(begin))
	}
	slices.Sort(answered)
	slices.Sort(closed)
	t.Logf("from the request: answered p50 %v, max %v; closed p50 %v, max %v (%d rounds)",
		answered[rounds/2], answered[rounds-1], closed[rounds/2], closed[rounds-1], rounds)
	if closed[rounds/2] > 10*revocationBound {
		t.Errorf("half of the connections were closed later than %v after the request", closed[rounds/2])
	}
}

// TestPoliciesChangeWhileStreaming: a policy that is narrowed or widened holds for
// connections that exist, from the answer on.
func TestPoliciesChangeWhileStreaming(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "team", sees("secret/a"))
	token := n.newToken(`{"policies":["team"]}`)
	s := n.subscribe(token, "kv*", "")
	want := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			if got := s.next(); got != id {
				t.Fatalf("got %s, want %s", got, id)
			}
		}
	}
	n.append(at("", "secret/a", "1"), at("", "secret/b", "2"), at("", "secret/a", "3"))
	want("1", "3")
	n.putPolicy("", "team", sees("secret/a", "secret/b")) // wider
	n.append(at("", "secret/a", "4"), at("", "secret/b", "5"), at("", "secret/c", "6"))
	want("4", "5")
	n.putPolicy("", "team", sees("secret/b")) // narrower
	n.append(at("", "secret/a", "7"), at("", "secret/b", "8"))
	want("8")
	n.putPolicy("", "team", sees("secret/*")+`path "secret/b" { capabilities = ["deny"] }`)
	n.append(at("", "secret/b", "9"), at("", "secret/x", "10"))
	want("10")
	n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: token})
	if open := n.hub.Subscriptions(); open != 1 {
		t.Errorf("%d subscriptions are open", open)
	}
}

// TestNarrowedUnderLoad: nothing that was appended after the answer to a narrower policy
// is sent by the old one, however much flows.
func TestNarrowedUnderLoad(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "team", sees("secret/a", "secret/b"))
	s := n.subscribe(n.newToken(`{"policies":["team"]}`), "kv*", "")
	stop := n.flood("", "secret/a")
	for range 100 {
		s.next()
	}
	n.putPolicy("", "team", sees("secret/b"))
	effective := time.Now()
	n.append(at("", "secret/b", "marker"))
	last := ""
	for id := s.next(); id != "marker"; id = s.next() {
		last = id
	}
	n.append(at("", "secret/b", "marker"))
	if id := s.next(); id != "marker" {
		last = id
	}
	began := stop()
	var number int
	if _, err := fmt.Sscanf(last, "flood-%d", &number); err == nil && began[number].After(effective) {
		t.Errorf("an event came that was appended %v after the policy was in effect", began[number].Sub(effective))
	}
}

// TestNamespaces: who has rights in one namespace sees nothing of another.
func TestNamespaces(t *testing.T) {
	n := startNode(t, nil)
	for _, namespace := range []string{"", "ns1/", "ns2/"} {
		n.putPolicy(namespace, "team", sees("secret/*"))
	}
	token := func(namespace string) string {
		return n.must(ask{method: "POST", path: "/v1/" + namespace + "auth/token/create", body: `{"policies":["team"]}`}).auth()["client_token"].(string)
	}
	root, ns1, ns2 := token(""), token("ns1/"), token("ns2/")
	ofRoot := n.subscribe(root, "kv*", "namespaces=*")
	ofNS1, ofNS2 := n.subscribe(ns1, "ns1/:kv*", "namespaces=*"), n.subscribe(ns2, "ns2/:kv*", "")
	all := n.subscribe("root", "kv*", "namespaces=*")
	n.append(at("", "secret/a", "root"), at("ns1/", "secret/a", "1"), at("ns2/", "secret/a", "2"), at("ns1/sub/", "secret/a", "below"),
		at("", "secret/a", "end-root"), at("ns1/", "secret/a", "end-1"), at("ns2/", "secret/a", "end-2"))
	for name, tt := range map[string]struct {
		s    *stream
		want []string
	}{
		"root namespace": {ofRoot, []string{"root", "end-root"}},
		"ns1":            {ofNS1, []string{"1", "end-1"}},
		"ns2":            {ofNS2, []string{"2", "end-2"}},
		"root token":     {all, []string{"root", "1", "2", "below", "end-root", "end-1", "end-2"}},
	} {
		for i, want := range tt.want {
			if got := tt.s.next(); got != want {
				t.Errorf("%s: event %d is %s, want %s", name, i, got, want)
			}
		}
	}
	for _, q := range []ask{
		{path: "/v1/sys/events/subscribe/kv*", token: ns1},
		{path: "/v1/ns2/sys/events/subscribe/kv*", token: ns1},
		{path: "/v1/ns1/sys/events/subscribe/kv*", token: root},
		{path: "/v1/sys/events/subscribe/kv*", token: ns1, header: map[string]string{"X-Vault-Namespace": "ns2"}},
	} {
		q.method = "GET"
		if status, b := n.do(q); status != 403 {
			t.Errorf("%s: %d %v", q.path, status, b)
		}
	}
	n.putPolicy("ns1/", "team", sees("other/*"))
	n.append(at("ns1/", "secret/a", "gone"), at("ns2/", "secret/a", "still"), at("ns1/", "other/a", "new"))
	if got := ofNS2.next(); got != "still" {
		t.Errorf("ns2 got %s", got)
	}
	if got := ofNS1.next(); got != "new" {
		t.Errorf("ns1 got %s", got)
	}
}

// TestSubscribingIsNoUse: a subscription takes no use from a limited token.
func TestSubscribingIsNoUse(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "team", sees("secret/*"))
	token := n.newToken(`{"policies":["team"],"num_uses":1}`)
	for range 3 {
		s := n.subscribe(token, "kv*", "")
		n.append(at("", "secret/a", "1"))
		s.next()
		s.conn.CloseNow()
	}
}
