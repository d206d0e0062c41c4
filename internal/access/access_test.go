package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const rootToken = "s3cret"

// quiet discards logs; what is wrong shows in the results.
var quiet = slog.New(slog.DiscardHandler)

func newJournal(t testing.TB) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), ReserveBytes: -1, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return j
}

// openOn opens an Authority on a journal; several are several nodes.
func openOn(t testing.TB, j *journal.Journal, configure ...func(*Config)) *Authority {
	t.Helper()
	c := Config{State: j.State, RootToken: rootToken, Logger: quiet}
	for _, f := range configure {
		f(&c)
	}
	a, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func open(t testing.TB, configure ...func(*Config)) *Authority {
	t.Helper()
	return openOn(t, newJournal(t), configure...)
}

func request(value string) *http.Request {
	r := httptest.NewRequest("GET", "/v1/sys/health", nil)
	r.Header.Set("X-Vault-Token", value)
	return r
}

func authenticate(t testing.TB, a *Authority, value string) Identity {
	t.Helper()
	id, err := a.Authenticate(request(value), "")
	if err != nil {
		t.Fatalf("authenticate: %v", err)
	}
	return id
}

func put(t testing.TB, a *Authority, namespace, name, text string) {
	t.Helper()
	if _, err := a.PutPolicy(t.Context(), namespace, name, text); err != nil {
		t.Fatalf("put policy %s: %v", name, err)
	}
}

// issue makes a token as root.
func issue(t testing.TB, a *Authority, r CreateRequest) (value string, e *token.Entry) {
	t.Helper()
	if r.Path == "" {
		r.Path = "auth/token/create"
	}
	value, e, _, err := a.CreateToken(t.Context(), authenticate(t, a, rootToken), r)
	if err != nil {
		t.Fatalf("create token: %v", err)
	}
	return value, e
}

// with is a token with some policies.
func with(names ...string) CreateRequest {
	return CreateRequest{Request: token.Request{Policies: names}}
}

// await waits until a condition holds, which depends on the network.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// told is what a follower was told.
type told struct {
	mu      sync.Mutex
	changes int
	ends    []Ended
}

func (w *told) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes++
}

func (w *told) ended(why Ended) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends = append(w.ends, why)
}

func (w *told) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%d %q", w.changes, w.ends)
}

func (w *told) want(t testing.TB, changes int, ends ...Ended) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changes != changes || !slices.Equal(w.ends, ends) {
		t.Errorf("told of %d changes and the ends %q, want %d and %q", w.changes, w.ends, changes, ends)
	}
}

// follow follows an identity for as long as the test runs.
func follow(t testing.TB, a *Authority, id Identity) *told {
	w := new(told)
	t.Cleanup(a.Follow(id, w.changed, w.ended))
	return w
}

func reads(path string) string {
	return fmt.Sprintf("path %q { capabilities = [\"read\"] }", path)
}

func sees(path, types string) string {
	return fmt.Sprintf("path %q { capabilities = [\"subscribe\"] subscribe_event_types = [%q] }", path, types)
}

func eventAt(namespace, path, typ string) *event.Event {
	return &event.Event{Namespace: namespace, Path: path, Type: typ}
}

func TestAuthenticate(t *testing.T) {
	a := open(t)
	dev, _ := issue(t, a, with("dev"))
	for _, tt := range []struct {
		name   string
		url    string
		header http.Header
		want   error
	}{
		{"vault header", "/", http.Header{"X-Vault-Token": {"s3cret"}}, nil},
		{"bearer", "/", http.Header{"Authorization": {"Bearer s3cret"}}, nil},
		{"first bearer counts", "/", http.Header{"Authorization": {"Basic x", "Bearer s3cret", "Bearer other"}}, nil},
		{"vault header wins", "/", http.Header{"X-Vault-Token": {"s3cret"}, "Authorization": {"Bearer wrong"}}, nil},
		{"wrong vault header wins", "/", http.Header{"X-Vault-Token": {"wrong"}, "Authorization": {"Bearer s3cret"}}, ErrDenied},
		{"empty vault header", "/", http.Header{"X-Vault-Token": {""}, "Authorization": {"Bearer s3cret"}}, nil},
		{"none", "/", nil, ErrDenied},
		{"wrong", "/", http.Header{"X-Vault-Token": {"s3cres"}}, ErrDenied},
		{"prefix", "/", http.Header{"X-Vault-Token": {"s3cre"}}, ErrDenied},
		{"longer", "/", http.Header{"X-Vault-Token": {"s3cret "}}, ErrDenied},
		{"bearer in lower case", "/", http.Header{"Authorization": {"bearer s3cret"}}, ErrDenied},
		{"basic", "/", http.Header{"Authorization": {"Basic s3cret"}}, ErrDenied},
		{"in the URL", "/?token=s3cret", nil, ErrTokenInURL},
		{"in the URL too", "/?Access_Token=x", http.Header{"X-Vault-Token": {"s3cret"}}, ErrTokenInURL},
		{"other query", "/?tokens=1", http.Header{"X-Vault-Token": {"s3cret"}}, nil},
		{"issued", "/", http.Header{"X-Vault-Token": {dev}}, nil},
		{"issued, cut", "/", http.Header{"X-Vault-Token": {dev[:len(dev)-1]}}, ErrDenied},
		{"not UTF-8", "/", http.Header{"X-Vault-Token": {"\xff\xfe"}}, ErrDenied},
		{"NUL", "/", http.Header{"X-Vault-Token": {"s3cret\x00"}}, ErrDenied},
		{"huge", "/", http.Header{"X-Vault-Token": {strings.Repeat("x", 1<<20)}}, ErrDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", tt.url, nil)
			r.Header = tt.header
			id, err := a.Authenticate(r, "")
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error has the token: %v", err)
			}
			if (id.Entry() != nil) != (tt.want == nil) || (id.Provider() == "token") != (tt.want == nil) {
				t.Errorf("identity of %q for error %v", id.Provider(), err)
			}
		})
	}
}

func TestIdentities(t *testing.T) {
	a := open(t)
	put(t, a, "", "kv", reads("sys/events/subscribe/kv*")+sees("secret/*", "kv-v2/*"))
	value, entry := issue(t, a, with("kv"))
	kv, root, nobody := authenticate(t, a, value), authenticate(t, a, rootToken), Identity{}

	write := eventAt("", "secret/data/a", "kv-v2/data-write")
	for _, tt := range []struct {
		what             string
		ask              func(Identity) bool
		kv, root, nobody bool
	}{
		{"root", Identity.Root, false, true, false},
		{"connect", func(id Identity) bool { return id.MayConnect("", "kv*") }, true, true, false},
		{"connect narrower", func(id Identity) bool { return id.MayConnect("", "kv-v2/*") }, true, true, false},
		{"connect wider", func(id Identity) bool { return id.MayConnect("", "*") }, false, true, false},
		{"connect in a namespace", func(id Identity) bool { return id.MayConnect("ns1", "kv*") }, false, true, false},
		{"see", func(id Identity) bool { return id.MaySee(write) }, true, true, false},
		{"see another type", func(id Identity) bool { return id.MaySee(eventAt("", "secret/data/a", "database/creds")) }, false, true, false},
		{"see another path", func(id Identity) bool { return id.MaySee(eventAt("", "other/data/a", "kv-v2/data-write")) }, false, true, false},
		{"see in a namespace", func(id Identity) bool { return id.MaySee(eventAt("ns1/", "secret/data/a", "kv-v2/data-write")) }, false, true, false},
		{"see without path", func(id Identity) bool { return id.MaySee(eventAt("", "", "kv-v2/data-write")) }, false, true, false},
		{"read an event's path", func(id Identity) bool { return id.Allows(policy.Read, "secret/data/a", nil) }, false, true, false},
		{"look up oneself", func(id Identity) bool { return id.Allows(policy.Read, "auth/token/lookup-self", nil) }, true, true, false},
		{"subscribe capability", func(id Identity) bool { return id.Capabilities("secret/x").Has(policy.Subscribe) }, true, false, false},
		{"root capability", func(id Identity) bool { return id.Capabilities("secret/x").Has(policy.Root) }, false, true, false},
		{"any capability", func(id Identity) bool { return id.Capabilities("other") != 0 }, false, true, false},
	} {
		for name, c := range map[string]struct {
			id   Identity
			want bool
		}{"kv": {kv, tt.kv}, "root": {root, tt.root}, "nobody": {nobody, tt.nobody}} {
			if tt.ask(c.id) != c.want {
				t.Errorf("%s, %s: not %v", name, tt.what, c.want)
			}
		}
	}
	if kv.Key() == root.Key() || kv.Key() == nobody.Key() || root.Key() == nobody.Key() {
		t.Error("the keys of different rights are equal")
	}
	if kv.Entry().ID != entry.ID || nobody.Entry() != nil || nobody.Provider() != "" {
		t.Error("the entries are not those of the tokens")
	}
	again, err := a.Identify(entry)
	if err != nil || again.Key() != kv.Key() {
		t.Errorf("identify: %v", err)
	}
	if err := a.RevokeSelf(t.Context(), kv); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Identify(entry); !errors.Is(err, token.ErrNotFound) {
		t.Errorf("identify a revoked token: %v", err)
	}
	if err := a.RevokeSelf(t.Context(), nobody); !errors.Is(err, ErrDenied) {
		t.Errorf("nobody's token was revoked: %v", err)
	}
}

// Without a root token nobody is root: no text is the empty one.
func TestNoRootToken(t *testing.T) {
	a := open(t, func(c *Config) { c.RootToken = "" })
	for _, value := range []string{"", "root", " ", "s3cret"} {
		if _, err := a.Authenticate(request(value), ""); !errors.Is(err, ErrDenied) {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestUse(t *testing.T) {
	a := open(t)
	value, _ := issue(t, a, CreateRequest{Request: token.Request{Policies: []string{"x"}, NumUses: 2}})
	id := authenticate(t, a, value)
	w := follow(t, a, id)
	for range 2 {
		w.want(t, 0)
		if err := a.Use(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	w.want(t, 0, EndedUsedUp)
	if err := a.Use(t.Context(), id); !errors.Is(err, ErrDenied) {
		t.Errorf("a third use of two: %v", err)
	}
	if err := a.Use(t.Context(), authenticate(t, a, rootToken)); err != nil {
		t.Errorf("use without limit: %v", err)
	}
	if err := a.Use(t.Context(), Identity{}); !errors.Is(err, ErrDenied) {
		t.Errorf("use by nobody: %v", err)
	}
}

// Tokens and policies outlast a restart, which needs the same key.
func TestReopen(t *testing.T) {
	j := newJournal(t)
	a, err := Open(t.Context(), Config{State: j.State, RootToken: rootToken, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	put(t, a, "ns1", "p", reads("x"))
	put(t, a, "", "default", reads("mine"))
	value, _ := issue(t, a, with("a"))
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := openOn(t, j)
	id := authenticate(t, b, value)
	if !id.Allows(policy.Read, "mine", nil) {
		t.Error("the changed default policy was replaced")
	}
	if text, err := b.Policy("ns1/", "p"); err != nil || text != reads("x") {
		t.Errorf("policy: %q, %v", text, err)
	}
}

func TestOneKeyForAllNodes(t *testing.T) {
	j := newJournal(t)
	keys := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = tokenKey(t.Context(), j.State); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, key := range keys {
		if len(key) != signingKeyBytes || !slices.Equal(key, keys[0]) {
			t.Errorf("key %x, want %x", key, keys[0])
		}
	}
	kv, err := j.State(t.Context(), secretBucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), signingKey, []byte("short")); err != nil {
		t.Fatal(err)
	}
	if _, err := tokenKey(t.Context(), j.State); err == nil {
		t.Error("a key that can be guessed was accepted")
	}
}

func TestOpenFails(t *testing.T) {
	j := newJournal(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a, err := Open(ctx, Config{State: j.State, Logger: quiet}); err == nil {
		a.Close(t.Context())
		t.Error("opened although there was no time")
	}
}
