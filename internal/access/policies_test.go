package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

func TestPutPolicy(t *testing.T) {
	a := open(t)
	good := reads("a")
	for _, tt := range []struct {
		title, namespace, name, text string
		want                         string // name it is stored under; "" with an error
		stored                       string // text
		warning                      string
		err                          string
	}{
		{title: "plain", name: "p1", text: good, want: "p1", stored: good},
		{title: "base64", name: "p2", text: base64.StdEncoding.EncodeToString([]byte(good)), want: "p2", stored: good},
		{title: "JSON", name: "p3", text: `{"path":{"a":{"capabilities":["read"]}}}`, want: "p3", stored: `{"path":{"a":{"capabilities":["read"]}}}`},
		{title: "upper case", name: " P4 ", text: good, want: "p4", stored: good, warning: `"p4"`},
		{title: "namespace", namespace: "/ns1", name: "p5", text: good, want: "p5", stored: good},
		{title: "slashes", name: "team/p6", text: good, want: "team/p6", stored: good},
		{title: "default", name: "default", text: good, want: "default", stored: good},
		{title: "no rules", name: "p7", text: "# nothing", want: "p7", stored: "# nothing", warning: "line 1, column 1"},
		{title: "empty", name: "p8", text: "", err: "empty"},
		{title: "empty base64", name: "p8", text: base64.StdEncoding.EncodeToString([]byte(" \n")), err: "empty"},
		{title: "space", name: "p8", text: " \n", err: "empty"},
		{title: "root", name: "root", text: good, err: `"root"`},
		{title: "ROOT in a namespace", namespace: "ns1", name: "ROOT", text: good, err: `"root"`},
		{title: "no name", name: "", text: good, err: "name"},
		{title: "bad name", name: "a b", text: good, err: "name"},
		{title: "syntax", name: "p8", text: "path \"a\" {\n  capabilities = [\"fly\"]\n}", err: "line 2, column"},
		{title: "syntax in base64", name: "p8", text: base64.StdEncoding.EncodeToString([]byte("path {")), err: "line 1, column"},
		{title: "not UTF-8", name: "p8", text: "# \xff", err: "UTF-8"},
		{title: "too long", name: "p8", text: "#" + strings.Repeat("x", policy.MaxBytes), err: "KiB"},
		{title: "10 MB", name: "p8", text: strings.Repeat("x", 10<<20), err: "KiB"},
		{title: "long namespace", namespace: strings.Repeat("n", 2000), name: "p8", text: good, err: "too long"},
	} {
		t.Run(tt.title, func(t *testing.T) {
			warnings, err := a.PutPolicy(t.Context(), tt.namespace, tt.name, tt.text)
			if tt.err != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want an invalid request with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(warnings, "\n"); !strings.Contains(got, tt.warning) || (tt.warning == "") != (got == "") {
				t.Errorf("warnings %q, want %q", got, tt.warning)
			}
			text, err := a.Policy(tt.namespace, tt.name)
			if err != nil || text != tt.stored {
				t.Errorf("stored %q, %v; want %q", text, err, tt.stored)
			}
			if !slices.Contains(a.PolicyNames(tt.namespace), tt.want) {
				t.Errorf("%q is not among %q", tt.want, a.PolicyNames(tt.namespace))
			}
		})
	}
	if got, want := a.PolicyNames(""), []string{"default", "p1", "p2", "p3", "p4", "p7", "root", "team/p6"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if got, want := a.PolicyNames("ns1/"), []string{"default", "p5"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if _, err := a.Policy("", "p5"); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("policy of another namespace: %v", err)
	}
	if _, err := a.Policy("", "a b"); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("policy with a bad name: %v", err)
	}
	if text, err := a.Policy("", "root"); err != nil || text != "" {
		t.Errorf("root: %q, %v", text, err)
	}
	if _, err := a.Policy("ns1", "root"); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("root of a namespace: %v", err)
	}
	if err := a.Health(); err != nil {
		t.Errorf("health: %v", err)
	}
}

func TestDeletePolicy(t *testing.T) {
	a := open(t)
	put(t, a, "ns1", "p", reads("a"))
	for range 2 {
		if err := a.DeletePolicy(t.Context(), "ns1", "P"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Policy("ns1", "p"); !errors.Is(err, ErrNoPolicy) {
			t.Errorf("a deleted policy: %v", err)
		}
	}
	put(t, a, "ns1", "p", reads("b"))
	if text, err := a.Policy("ns1", "p"); err != nil || text != reads("b") {
		t.Errorf("policy that is there again: %q, %v", text, err)
	}
	for _, name := range []string{"root", "default", "Default", ""} {
		if err := a.DeletePolicy(t.Context(), "ns1", name); !errors.Is(err, ErrInvalid) {
			t.Errorf("delete %q: %v", name, err)
		}
	}
}

func TestDefaultPolicy(t *testing.T) {
	p, problems, err := policy.Parse("default", DefaultPolicy)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	if formatted, err := policy.Format(DefaultPolicy); err != nil || formatted != DefaultPolicy {
		t.Errorf("not in the canonical layout: %v\n%s", err, formatted)
	}
	for _, rule := range p.Rules {
		if rule.Capabilities&(policy.Subscribe|policy.Sudo) != 0 || len(rule.EventTypes) > 0 {
			t.Errorf("%s grants %s of %q", rule.Pattern, rule.Capabilities, rule.EventTypes)
		}
	}
	a := open(t)
	for _, namespace := range []string{"", "ns1/"} {
		if text, err := a.Policy(namespace, "default"); err != nil || text != DefaultPolicy {
			t.Errorf("namespace %q: %q, %v", namespace, text, err)
		}
		value, _ := issue(t, a, CreateRequest{Request: token.Request{Namespace: namespace, Policies: []string{"default"}}})
		id := authenticate(t, a, value)
		w := follow(t, a, id)
		if !id.Allows(policy.Read, namespace+"auth/token/lookup-self", nil) || id.MayConnect(namespace, "*") {
			t.Errorf("namespace %q: not the rights of the default policy", namespace)
		}
		put(t, a, namespace, "default", reads("x"))
		w.want(t, 1)
		if id.Allows(policy.Read, namespace+"auth/token/lookup-self", nil) || !id.Allows(policy.Read, namespace+"x", nil) {
			t.Errorf("namespace %q: not the rights of the changed default policy", namespace)
		}
	}
}

// Policies that this program cannot read close what they were part of: they may have
// denied something.
func TestUnreadablePolicies(t *testing.T) {
	j := newJournal(t)
	a := openOn(t, j)
	put(t, a, "", "wide", reads("*"))
	put(t, a, "", "narrow", `path "secret/*" { capabilities = ["deny"] }`)
	value, _ := issue(t, a, with("wide", "narrow"))
	id := authenticate(t, a, value)
	if !id.Allows(policy.Read, "x", nil) || id.Allows(policy.Read, "secret/x", nil) {
		t.Fatal("not the rights of the policies")
	}
	kv, err := j.State(t.Context(), policyBucket)
	if err != nil {
		t.Fatal(err)
	}
	key := policyID{name: "narrow"}.key()
	for _, text := range []string{
		`{"name":"narrow","text":"path \"secret/*\" { capabilities = [\"teleport\"] }"}`,
		`{"name":"narrow","text":"path \"secret/*\" {"}`,
		`{"name":"narrow"`,
		`["narrow"]`,
		"",
	} {
		w := follow(t, a, authenticate(t, a, value))
		if _, err := kv.Put(t.Context(), key, []byte(text)); err != nil {
			t.Fatal(err)
		}
		await(t, "change", func() bool { return w.String() != (&told{}).String() })
		for _, path := range []string{"x", "secret/x", "auth/token/lookup-self"} {
			if id.Allows(policy.Read, path, nil) {
				t.Errorf("%s may be read with the unreadable policy %s", path, text)
			}
		}
		if err := a.Health(); err == nil || !strings.Contains(err.Error(), `"narrow"`) {
			t.Errorf("health with the unreadable policy %s: %v", text, err)
		}
		put(t, a, "", "narrow", `path "secret/*" { capabilities = ["deny"] }`)
		if !id.Allows(policy.Read, "x", nil) || id.Allows(policy.Read, "secret/x", nil) || a.Health() != nil {
			t.Error("the policy was written again, but is not in effect")
		}
	}
	// What is none at all is ignored: it belongs to nobody.
	for _, key := range []string{"x", "n.proot", "nns1.pp", "n=2", "n.p=zz"} {
		if _, err := kv.Put(t.Context(), key, []byte(`{"text":"path \"*\" {capabilities=[\"sudo\"]}"}`)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, a, "", "last", reads("x"))
	b := openOn(t, j)
	if got, want := b.PolicyNames(""), []string{"default", "last", "narrow", "root", "wide"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if err := b.Health(); err != nil {
		t.Error(err)
	}
}

func TestPolicyKeys(t *testing.T) {
	seen := make(map[string]policyID)
	for _, id := range []policyID{
		{"", "a"}, {"a", ""}, {"a/", "a"}, {"", "a/a"}, {"", "a.pa"}, {".p", "a"}, {"", "n"}, {"n.p", "p"},
		{"", "=2e"}, {"", "."}, {"", "ä"}, {"", "\x00"}, {"", " "}, {"", "*"}, {"", ">"}, {"n1/n2/", "a.b"}, {"", ""},
	} {
		key := id.key()
		if other, ok := seen[key]; ok {
			t.Errorf("%v and %v have the key %q", id, other, key)
		}
		seen[key] = id
		if back, ok := parsePolicyKey(key); !ok || back != id {
			t.Errorf("%v became %q became %v", id, key, back)
		}
		if strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_/=.") != "" {
			t.Errorf("%v has the key %q, which JetStream does not allow", id, key)
		}
	}
}

func FuzzPolicyKey(f *testing.F) {
	f.Add("n.pdefault")
	f.Add("nns1/.p=20x")
	f.Add("n=")
	f.Fuzz(func(t *testing.T, key string) {
		if id, ok := parsePolicyKey(key); ok && id.key() != key {
			t.Errorf("%q is %v, which has the key %q", key, id, id.key())
		}
		if back, ok := parsePolicyKey(policyID{key, key}.key()); !ok || back != (policyID{key, key}) {
			t.Errorf("%q became %v", key, back)
		}
	})
}

// What one node does, the other one sees.
func TestTwoNodes(t *testing.T) {
	j := newJournal(t)
	var changed atomic.Int32
	a, b := openOn(t, j), openOn(t, j, func(c *Config) { c.Changed = func(any) { changed.Add(1) } })
	put(t, a, "", "p", reads("x"))
	value, _ := issue(t, a, with("p"))
	await(t, "token on the other node", func() bool {
		_, err := b.Authenticate(request(value), "")
		return err == nil
	})
	await(t, "policy on the other node", func() bool { _, err := b.Policy("", "p"); return err == nil })
	id := authenticate(t, b, value)
	w := follow(t, b, id)
	for _, text := range []string{reads("y"), reads("z"), ""} {
		before := changed.Load()
		if text == "" {
			if err := a.DeletePolicy(t.Context(), "", "p"); err != nil {
				t.Fatal(err)
			}
		} else {
			put(t, a, "", "p", text)
		}
		await(t, "change on the other node", func() bool { return changed.Load() > before })
		for _, path := range []string{"x", "y", "z"} {
			if id.Allows(policy.Read, path, nil) != (text == reads(path)) {
				t.Errorf("after the policy %q: not the right to read %s", text, path)
			}
		}
	}
	if err := a.RevokeSelf(t.Context(), authenticate(t, a, value)); err != nil {
		t.Fatal(err)
	}
	await(t, "revocation on the other node", func() bool { return strings.Contains(w.String(), string(EndedRevoked)) })
	w.want(t, 3, EndedRevoked)
}

// Two nodes that write the same policies at the same time agree in the end.
func TestNodesAgree(t *testing.T) {
	j := newJournal(t)
	nodes := []*Authority{openOn(t, j), openOn(t, j)}
	names := []string{"p1", "p2", "p3"}
	var wg sync.WaitGroup
	for n, a := range nodes {
		wg.Go(func() {
			for i := range 60 {
				name := names[rand.N(len(names))]
				if rand.N(3) == 0 {
					if err := a.DeletePolicy(t.Context(), "", name); err != nil {
						t.Error(err)
					}
				} else {
					put(t, a, "", name, fmt.Sprintf("# %d of node %d", i, n))
				}
			}
		})
	}
	wg.Wait()
	texts := func(a *Authority) (all [3]string) {
		for i, name := range names {
			all[i], _ = a.Policy("", name)
		}
		return all
	}
	kv, err := j.State(t.Context(), policyBucket)
	if err != nil {
		t.Fatal(err)
	}
	var want [3]string
	fresh := openOn(t, j)
	want = texts(fresh)
	for i, a := range nodes {
		await(t, fmt.Sprintf("node %d to have %q", i, want), func() bool { return texts(a) == want })
	}
	for i, name := range names {
		if _, err := kv.Get(t.Context(), policyID{name: name}.key()); errors.Is(err, jetstream.ErrKeyNotFound) != (want[i] == "") {
			t.Errorf("%s is %q, but the bucket says %v", name, want[i], err)
		}
	}
}

// After every change everybody is judged as if everything had been compiled anew.
func TestRightsFollowPolicies(t *testing.T) {
	a := open(t)
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"p0", "p1", "p2", "p3"}
	namespaces := []string{"", "ns1/"}
	paths := []string{"a", "a/b", "a/b/c", "d"}
	patterns := []string{"a", "a/*", "a/+/c", "*", "{{identity.entity.id}}", "a/{{identity.entity.id}}"}
	subjects := []policy.Subject{{}, {EntityID: "b"}, {EntityID: "d"}}
	texts := make(map[policyID]string)

	type somebody struct {
		id        Identity
		namespace string
		names     []string
		subject   policy.Subject
	}
	var all []somebody
	for range 40 {
		s := somebody{namespace: namespaces[random.IntN(2)], subject: subjects[random.IntN(3)]}
		for _, name := range names {
			if random.IntN(2) == 0 {
				s.names = append(s.names, name)
			}
		}
		all = append(all, s)
	}
	identify := func(s *somebody) {
		e, g := a.admit(&External{Namespace: s.namespace, Policies: s.names, Subject: s.subject})
		s.id = a.identity(e, g, &session{})
	}
	for i := range all {
		identify(&all[i])
	}
	compile := func(s somebody) *policy.ACL {
		var bound []policy.Bound
		for _, name := range s.names {
			if text, ok := texts[policyID{s.namespace, name}]; ok {
				p, _, err := policy.Parse(name, text)
				if err != nil {
					t.Fatal(err)
				}
				bound = append(bound, policy.Bound{Policy: p, Namespace: s.namespace})
			}
		}
		return policy.Compile(bound, &s.subject)
	}
	for range 150 {
		id := policyID{namespaces[random.IntN(2)], names[random.IntN(len(names))]}
		if random.IntN(4) == 0 {
			delete(texts, id)
			if err := a.DeletePolicy(t.Context(), id.namespace, id.name); err != nil {
				t.Fatal(err)
			}
		} else {
			capability := []string{"read", "list", "deny", "subscribe"}[random.IntN(4)]
			text := fmt.Sprintf("path %q { capabilities = [%q] subscribe_event_types = [\"t*\"] }", patterns[random.IntN(len(patterns))], capability)
			texts[id] = text
			put(t, a, id.namespace, id.name, text)
		}
		for i := range all {
			s := &all[i]
			acl := compile(*s)
			void := s.id.grant.void.Load()
			for _, namespace := range namespaces {
				for _, path := range paths {
					if got, want := s.id.Capabilities(namespace+path), acl.Capabilities(namespace+path); got != want {
						t.Fatalf("%s%s by %v: %s, want %s; policies %v", namespace, path, s, got, want, texts)
					}
					want := acl.MaySee(namespace, path, "type") && !void
					if got := s.id.MaySee(eventAt(namespace, path, "type")); got != want {
						t.Fatalf("%s%s by %v: seen: %v, want %v; policies %v", namespace, path, s, got, want, texts)
					}
				}
			}
			if void {
				identify(s) // as a client that connects again
				if s.id.grant.void.Load() {
					t.Fatal("a void grant was found")
				}
			}
		}
		// Equal keys mean equal rights.
		for i := range all {
			for k := range i {
				if all[i].id.Key() != all[k].id.Key() {
					continue
				}
				one, other := compile(all[i]), compile(all[k])
				for _, path := range paths {
					if path = all[i].namespace + path; one.Capabilities(path) != other.Capabilities(path) {
						t.Fatalf("%v and %v have the same key but not the same rights", all[i], all[k])
					}
				}
			}
		}
	}
}

// faultyBucket is a bucket whose watches break, or fall silent.
type faultyBucket struct {
	jetstream.KeyValue
	mu      sync.Mutex
	cancel  []context.CancelFunc
	refuse  bool // new watches fail
	watches int
}

func (b *faultyBucket) WatchAll(ctx context.Context, opts ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse {
		return nil, errors.New("refused by test")
	}
	ctx, cancel := context.WithCancel(ctx)
	b.cancel = append(b.cancel, cancel)
	b.watches++
	return b.KeyValue.WatchAll(ctx, opts...)
}

func (b *faultyBucket) breakWatches(refuse bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = refuse
	for _, cancel := range b.cancel {
		cancel()
	}
	b.cancel = nil
}

// When the watch breaks, what happened meanwhile is found out, and what this node
// does itself takes effect at once.
func TestBrokenWatch(t *testing.T) {
	j := newJournal(t)
	kv, err := j.State(t.Context(), policyBucket)
	if err != nil {
		t.Fatal(err)
	}
	bucket := &faultyBucket{KeyValue: kv}
	a := openOn(t, j)
	b := openOn(t, j, func(c *Config) {
		c.State = func(ctx context.Context, name string) (jetstream.KeyValue, error) {
			if name == policyBucket {
				return bucket, nil
			}
			return j.State(ctx, name)
		}
	})
	for _, name := range []string{"stays", "changes", "goes", "gone"} {
		put(t, b, "", name, reads("old"))
	}
	value, _ := issue(t, b, with("stays", "changes", "goes"))
	w := follow(t, b, authenticate(t, b, value))

	bucket.breakWatches(true)
	await(t, "health to notice", func() bool { return b.Health() != nil })
	await(t, "the other node", func() bool { return len(a.PolicyNames("")) == 6 })
	put(t, a, "", "changes", reads("new"))
	for _, name := range []string{"goes", "gone"} {
		if err := a.DeletePolicy(t.Context(), "", name); err != nil {
			t.Fatal(err)
		}
	}
	// Not even a delete marker is left.
	if err := kv.PurgeDeletes(t.Context(), jetstream.DeleteMarkersOlderThan(-1)); err != nil {
		t.Fatal(err)
	}
	put(t, b, "", "own", reads("own"))
	if _, err := b.Policy("", "own"); err != nil {
		t.Errorf("what this node wrote is not in effect: %v", err)
	}
	if err := b.DeletePolicy(t.Context(), "", "gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Policy("", "gone"); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("what this node deleted after another one is in effect: %v", err)
	}
	w.want(t, 0)
	bucket.breakWatches(false)
	await(t, "the changes", func() bool { return b.Health() == nil })
	for name, want := range map[string]string{"stays": reads("old"), "changes": reads("new"), "own": reads("own"), "goes": ""} {
		if text, _ := b.Policy("", name); text != want {
			t.Errorf("%s is %q, want %q", name, text, want)
		}
	}
	if w.String() == (&told{}).String() {
		t.Error("the follower was not told")
	}
}

// stuckWatch has its bucket's changes only up to a point, like a consumer that the
// server lost.
type stuckWatch struct {
	jetstream.KeyWatcher
	updates chan jetstream.KeyValueEntry
}

func (w *stuckWatch) Updates() <-chan jetstream.KeyValueEntry { return w.updates }

type stuckBucket struct {
	jetstream.KeyValue
	watches atomic.Int32
	stuck   atomic.Bool
	running sync.WaitGroup
}

func (b *stuckBucket) WatchAll(ctx context.Context, opts ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	watch, err := b.KeyValue.WatchAll(ctx, opts...)
	if err != nil {
		return nil, err
	}
	first := b.watches.Add(1) == 1
	w := &stuckWatch{watch, make(chan jetstream.KeyValueEntry)}
	b.running.Go(func() {
		defer close(w.updates)
		for entry := range watch.Updates() {
			if first && b.stuck.Load() {
				continue
			}
			select {
			case w.updates <- entry:
			case <-ctx.Done():
			}
		}
	})
	return w, nil
}

func TestSilentWatch(t *testing.T) {
	j := newJournal(t)
	kv, err := j.State(t.Context(), policyBucket)
	if err != nil {
		t.Fatal(err)
	}
	bucket := &stuckBucket{KeyValue: kv}
	t.Cleanup(bucket.running.Wait)
	g := newGrants()
	p, err := openPolicies(t.Context(), bucket, g, func([]*grant) {}, 20*time.Millisecond, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.close(context.Background()) })
	bucket.stuck.Store(true)
	if _, err := kv.Put(t.Context(), "n.pmissed", []byte(`{"text":"# x"}`)); err != nil {
		t.Fatal(err)
	}
	await(t, "what was missed", func() bool { return g.policies.Load().get(policyID{name: "missed"}) != nil })
}
