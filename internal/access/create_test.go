package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

// creators are the tokens that make others in the tests.
type creators map[string]Identity

func newCreators(t *testing.T, a *Authority, p *elsewhere) creators {
	put(t, a, "", "dev", reads("dev"))
	put(t, a, "", "admin", `path "auth/token/create*" { capabilities = ["update", "sudo"] } path "+/auth/token/create" { capabilities = ["update", "sudo"] }`)
	put(t, a, "ns1", "lead", reads("x"))
	put(t, a, "ns1", "chief", `path "auth/token/create" { capabilities = ["update", "sudo"] }`)
	p.set("ext.dev", External{Policies: []string{"dev"}, Expires: time.Now().Add(time.Hour)})
	p.set("ext.admin", External{Policies: []string{"admin"}, Expires: time.Now().Add(time.Hour)})
	p.set("ext.forever", External{Policies: []string{"admin"}})
	p.set("ext.root", External{Root: true})
	subject := policy.Subject{EntityID: "e1", TokenMetadata: map[string]string{"team": "blue"}, DisplayName: "parent"}
	c := make(creators)
	for name, r := range map[string]token.Request{
		"dev":         {Policies: []string{"default", "dev", "other"}, Subject: subject},
		"bare":        {Policies: []string{"dev"}},
		"admin":       {Policies: []string{"admin", "default"}, Subject: subject},
		"used":        {Policies: []string{"admin"}, NumUses: 5},
		"lead":        {Policies: []string{"lead"}, Namespace: "ns1/"},
		"chief":       {Policies: []string{"chief"}, Namespace: "ns1/"},
		"mortal root": {Policies: []string{"root"}, TTL: time.Hour},
	} {
		_, e, _, err := a.tokens.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if c[name], err = a.Identify(e); err != nil {
			t.Fatal(err)
		}
	}
	c["root"] = authenticate(t, a, rootToken)
	for _, name := range []string{"dev", "admin", "forever", "root"} {
		c["ext "+name] = authenticate(t, a, "ext."+name)
	}
	c["nobody"] = Identity{}
	return c
}

func TestCreateToken(t *testing.T) {
	p := &elsewhere{recheck: time.Hour}
	a := open(t, func(c *Config) { c.Providers = []Provider{p} })
	by := newCreators(t, a, p)
	const hour = time.Hour
	for _, tt := range []struct {
		name     string
		by       string
		path     string // auth/token/create if empty
		request  token.Request
		none     bool // no default policy
		orphan   bool
		policies string // of the token
		check    func(*token.Entry) bool
		warning  string
		err      error
		text     string // in the error
	}{
		// Whose child.
		{name: "child", by: "dev", policies: "default dev other", check: func(e *token.Entry) bool { return e.Parent == by["dev"].Entry().ID }},
		{name: "child of root", by: "root", request: token.Request{Policies: []string{"dev"}}, policies: "default dev",
			check: func(e *token.Entry) bool { return e.Parent == by["root"].Entry().ID }},
		{name: "orphan", by: "dev", orphan: true, err: ErrInvalid, text: "sudo on auth/token/create"},
		{name: "orphan with sudo", by: "admin", orphan: true, policies: "admin default", check: (*token.Entry).Orphan},
		{name: "orphan by root", by: "root", orphan: true, request: token.Request{Policies: []string{"dev"}}, policies: "default dev", check: (*token.Entry).Orphan},
		{name: "create-orphan", by: "dev", path: "auth/token/create-orphan", policies: "default dev other", check: (*token.Entry).Orphan},
		{name: "nobody", by: "nobody", err: ErrDenied},
		{name: "limited uses", by: "used", err: ErrInvalid, text: "limited uses"},
		{name: "the parent is not a choice", by: "dev", request: token.Request{Parent: by["admin"].Entry().ID}, policies: "default dev other",
			check: func(e *token.Entry) bool { return e.Parent == by["dev"].Entry().ID }},

		// Policies.
		{name: "subset", by: "dev", request: token.Request{Policies: []string{"dev"}}, policies: "default dev"},
		{name: "names are cleaned", by: "dev", request: token.Request{Policies: []string{" DEV", "dev", ""}}, policies: "default dev"},
		{name: "empty list", by: "dev", request: token.Request{Policies: []string{}}, policies: "default dev other"},
		{name: "subset without default", by: "dev", none: true, request: token.Request{Policies: []string{"dev"}}, policies: "dev"},
		{name: "all without default", by: "dev", none: true, policies: "dev other"},
		{name: "default, but not", by: "dev", none: true, request: token.Request{Policies: []string{"default"}}, policies: ""},
		{name: "creator without default", by: "bare", policies: "dev"},
		{name: "creator without default names it", by: "bare", request: token.Request{Policies: []string{"default"}}, err: ErrInvalid, text: `"default"`},
		{name: "creator without default, subset", by: "bare", request: token.Request{Policies: []string{"dev"}}, policies: "dev"},
		{name: "more", by: "dev", request: token.Request{Policies: []string{"dev", "admin"}}, err: ErrInvalid, text: `"admin"`},
		{name: "more with sudo", by: "admin", request: token.Request{Policies: []string{"dev"}}, policies: "default dev"},
		{name: "more with sudo, without default", by: "admin", none: true, request: token.Request{Policies: []string{"dev"}}, policies: "dev"},
		{name: "missing policy", by: "root", request: token.Request{Policies: []string{"missing"}}, policies: "default missing", warning: `"missing" does not exist`},
		{name: "bad name", by: "root", request: token.Request{Policies: []string{"a b"}}, err: ErrInvalid, text: "name"},

		// Root.
		{name: "root by root", by: "root", policies: "root", check: func(e *token.Entry) bool { return e.Expires.IsZero() }},
		{name: "root by root, named", by: "root", request: token.Request{Policies: []string{"Root"}}, policies: "root"},
		{name: "root without default", by: "root", none: true, policies: "root"},
		{name: "root and others", by: "root", request: token.Request{Policies: []string{"root", "dev"}}, err: ErrInvalid, text: "together"},
		{name: "root by sudo", by: "admin", request: token.Request{Policies: []string{"root"}}, err: ErrInvalid, text: `"root"`},
		{name: "root by others", by: "dev", request: token.Request{Policies: []string{"root"}}, err: ErrInvalid, text: `"root"`},
		{name: "root in a namespace", by: "root", request: token.Request{Policies: []string{"root"}, Namespace: "ns1/"}, err: ErrInvalid, text: "namespace"},
		{name: "immortal root by mortal root", by: "mortal root", err: ErrInvalid, text: "ttl"},
		{name: "mortal root by mortal root", by: "mortal root", request: token.Request{TTL: time.Minute}, policies: "root", check: func(e *token.Entry) bool { return e.TTL == time.Minute }},

		// Namespaces.
		{name: "below, by root", by: "root", request: token.Request{Namespace: "ns1"}, policies: "default", check: func(e *token.Entry) bool { return e.Namespace == "ns1/" }},
		{name: "below, with sudo there", by: "admin", request: token.Request{Namespace: "ns1/", Policies: []string{"lead"}}, policies: "default lead"},
		{name: "below, with sudo there, without default", by: "admin", none: true, request: token.Request{Namespace: "ns1/"}, policies: ""},
		{name: "below, without sudo", by: "dev", request: token.Request{Namespace: "ns1/"}, err: ErrInvalid, text: "sudo on ns1/auth/token/create"},
		{name: "below below, without sudo", by: "chief", request: token.Request{Namespace: "ns1/ns2/"}, err: ErrInvalid, text: "sudo on ns1/ns2/"},
		{name: "own", by: "lead", request: token.Request{Namespace: "ns1/"}, policies: "lead"},
		{name: "own, with sudo", by: "chief", request: token.Request{Namespace: "ns1/", Policies: []string{"lead"}}, policies: "default lead"},
		{name: "above", by: "chief", err: ErrDenied},
		{name: "beside", by: "chief", request: token.Request{Namespace: "ns2/"}, err: ErrDenied},
		{name: "beside, similar name", by: "chief", request: token.Request{Namespace: "ns10/"}, err: ErrDenied},

		// What needs sudo, and what makes no sense.
		{name: "id", by: "dev", request: token.Request{Value: "my-own-token-id1"}, err: ErrInvalid, text: "sudo"},
		{name: "id with sudo", by: "admin", request: token.Request{Value: "my-own-token-id2"}, policies: "admin default"},
		{name: "id again", by: "admin", request: token.Request{Value: "my-own-token-id2"}, err: ErrInvalid, text: "exists"},
		{name: "bad id", by: "admin", request: token.Request{Value: "a.b"}, err: ErrInvalid},
		{name: "id in a namespace", by: "root", request: token.Request{Value: "my-own-token-id3", Namespace: "ns1/"}, err: ErrInvalid, text: "root namespace"},
		{name: "period", by: "dev", request: token.Request{Period: hour}, err: ErrInvalid, text: "sudo"},
		{name: "period with sudo", by: "admin", request: token.Request{Period: hour}, policies: "admin default", check: func(e *token.Entry) bool { return e.Period == hour }},
		{name: "uses", by: "dev", request: token.Request{NumUses: 3}, policies: "default dev other", check: func(e *token.Entry) bool { return e.NumUses == 3 }},
		{name: "negative uses", by: "dev", request: token.Request{NumUses: -1}, err: ErrInvalid, text: "num_uses"},
		{name: "negative ttl", by: "root", request: token.Request{TTL: -1}, err: ErrInvalid, text: "negative"},
		{name: "negative period", by: "root", request: token.Request{Period: -1}, err: ErrInvalid, text: "negative"},
		{name: "negative maximum", by: "root", request: token.Request{ExplicitMaxTTL: -1}, err: ErrInvalid, text: "negative"},

		// Names and subjects.
		{name: "no name", by: "dev", policies: "default dev other", check: func(e *token.Entry) bool { return e.DisplayName == "token" }},
		{name: "name", by: "dev", request: token.Request{DisplayName: "CI / build!"}, policies: "default dev other",
			check: func(e *token.Entry) bool { return e.DisplayName == "token-CI---build" }},
		{name: "metadata is not for templates", by: "dev", request: token.Request{DisplayName: "x", Meta: map[string]string{"team": "red"}}, policies: "default dev other",
			check: func(e *token.Entry) bool {
				return e.Meta["team"] == "red" && e.Subject.TokenMetadata["team"] == "blue" && e.Subject.EntityID == "e1" && e.Subject.DisplayName == "parent"
			}},
		{name: "nor that of orphans", by: "dev", path: "auth/token/create-orphan", request: token.Request{Meta: map[string]string{"team": "red"}}, policies: "default dev other",
			check: func(e *token.Entry) bool {
				return e.Meta["team"] == "red" && e.Subject.TokenMetadata["team"] == "blue" && e.Subject.EntityID == "e1"
			}},
		{name: "nor what the request says", by: "dev", request: token.Request{Subject: policy.Subject{EntityID: "e2"}}, policies: "default dev other",
			check: func(e *token.Entry) bool { return e.Subject.EntityID == "e1" }},
		{name: "metadata with sudo", by: "admin", request: token.Request{DisplayName: "x", Meta: map[string]string{"team": "red"}}, policies: "admin default",
			check: func(e *token.Entry) bool {
				return e.Subject.TokenMetadata["team"] == "red" && e.Subject.EntityID == "e1" && e.Subject.DisplayName == "token-x"
			}},
		{name: "orphans with sudo are nobody", by: "admin", orphan: true, request: token.Request{Meta: map[string]string{"team": "red"}}, policies: "admin default",
			check: func(e *token.Entry) bool {
				return e.Subject.TokenMetadata["team"] == "red" && e.Subject.EntityID == ""
			}},

		// Tokens of elsewhere.
		{name: "elsewhere", by: "ext dev", err: ErrDenied, text: "sudo on auth/token/create"},
		{name: "elsewhere, create-orphan", by: "ext dev", path: "auth/token/create-orphan", err: ErrDenied, text: "sudo"},
		{name: "elsewhere with sudo", by: "ext admin", request: token.Request{Policies: []string{"dev"}}, policies: "default dev", warning: "orphan",
			check: func(e *token.Entry) bool {
				return e.Orphan() && !e.Expires.After(by["ext admin"].Entry().Expires.Add(time.Minute)) && e.ExplicitMaxTTL > 0
			}},
		{name: "elsewhere with sudo, longer", by: "ext admin", orphan: true, request: token.Request{TTL: 2 * hour}, policies: "admin", warning: "not later",
			check: func(e *token.Entry) bool { return e.TTL <= hour && e.ExplicitMaxTTL <= hour }},
		{name: "elsewhere with sudo, shorter", by: "ext admin", orphan: true, request: token.Request{TTL: time.Minute, ExplicitMaxTTL: 2 * time.Minute}, policies: "admin",
			check: func(e *token.Entry) bool { return e.TTL == time.Minute && e.ExplicitMaxTTL == 2*time.Minute }},
		{name: "elsewhere with sudo, periodic", by: "ext admin", orphan: true, request: token.Request{Period: time.Minute}, err: ErrInvalid, text: "periodic"},
		{name: "elsewhere without end", by: "ext forever", orphan: true, request: token.Request{Period: time.Minute}, policies: "admin",
			check: func(e *token.Entry) bool { return e.Period == time.Minute && e.ExplicitMaxTTL == 0 }},
		{name: "root of elsewhere", by: "ext root", orphan: true, policies: "root"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := CreateRequest{Request: tt.request, NoDefaultPolicy: tt.none, Orphan: tt.orphan}
			if r.Path = tt.path; r.Path == "" {
				r.Path = "auth/token/create"
			}
			policies := slices.Clone(r.Policies)
			value, e, warnings, err := a.CreateToken(t.Context(), by[tt.by], r)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if !slices.Equal(policies, r.Policies) {
				t.Errorf("the request was changed: %q", r.Policies)
			}
			if err != nil {
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("the error %q does not have %q", err, tt.text)
				}
				if value != "" || e != nil {
					t.Error("there is a token in spite of the error")
				}
				return
			}
			if got := strings.Join(e.Policies, " "); got != tt.policies {
				t.Errorf("policies %q, want %q", got, tt.policies)
			}
			if tt.check != nil && !tt.check(e) {
				t.Errorf("not as it should be: %+v", e)
			}
			if got := strings.Join(warnings, "\n"); !strings.Contains(got, tt.warning) {
				t.Errorf("warnings %q, want %q", got, tt.warning)
			}
			if _, err := a.Authenticate(request(value), ""); err != nil {
				t.Errorf("the token is not known: %v", err)
			}
		})
	}
}

func TestCreateByRevoked(t *testing.T) {
	a := open(t)
	value, e := issue(t, a, with("p"))
	id := authenticate(t, a, value)
	if err := a.Tokens().Revoke(t.Context(), e.ID); err != nil {
		t.Fatal(err)
	}
	r := CreateRequest{}
	r.Path = "auth/token/create"
	if _, _, _, err := a.CreateToken(t.Context(), id, r); !errors.Is(err, ErrDenied) {
		t.Errorf("child of a revoked token: %v", err)
	}
	r.Path = "auth/token/create-orphan"
	if _, _, _, err := a.CreateToken(t.Context(), id, r); !errors.Is(err, ErrDenied) {
		t.Errorf("orphan by a revoked token: %v", err)
	}
}

func TestLogin(t *testing.T) {
	a := open(t)
	put(t, a, "ns1", "own", ownPath)
	ann := &External{
		Provider: "jwt", DisplayName: "ann", Namespace: "ns1/", Policies: []string{"own", "ROOT", "x"}, Subject: policy.Subject{EntityID: "ann"},
		Expires: time.Now().Add(time.Hour), Meta: map[string]string{"a": "b"},
	}
	value, e, err := a.Login(t.Context(), ann, "auth/jwt/login")
	if err != nil {
		t.Fatal(err)
	}
	if e.Namespace != "ns1/" || strings.Join(e.Policies, " ") != "default own x" || e.DisplayName != "ann" || e.Path != "auth/jwt/login" || e.Meta["a"] != "b" || !e.Orphan() {
		t.Errorf("entry %+v", e)
	}
	if e.Expires.After(ann.Expires.Add(time.Millisecond)) || e.ExplicitMaxTTL > time.Hour || e.ExplicitMaxTTL == 0 {
		t.Errorf("lives until %s and for %s, longer than until %s", e.Expires, e.ExplicitMaxTTL, ann.Expires)
	}
	id := authenticate(t, a, value)
	if !id.Allows(policy.Read, "ns1/home/ann", nil) || id.Allows(policy.Read, "ns1/home/bob", nil) {
		t.Error("not the rights of the subject")
	}
	if renewed, _, err := a.RenewSelf(t.Context(), id, 24*time.Hour); err == nil && renewed.Expires.After(ann.Expires.Add(time.Second)) {
		t.Error("renewed beyond the end of what it was made for")
	}
	for _, tt := range []struct {
		name    string
		x       External
		err     error
		pattern string
	}{
		{"root", External{Root: true, Policies: []string{"x"}, Namespace: "ns1/", Expires: time.Now().Add(time.Hour)}, nil, "root"},
		{"no policies", External{Expires: time.Now().Add(time.Hour)}, nil, "default"},
		{"expired", External{Expires: time.Now().Add(-time.Second)}, ErrDenied, ""},
		{"without end", External{}, ErrInvalid, ""},
	} {
		value, e, err := a.Login(t.Context(), &tt.x, "auth/jwt/login")
		if !errors.Is(err, tt.err) || (err == nil) != (value != "") {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		} else if err == nil && (strings.Join(e.Policies, " ") != tt.pattern || e.Expires.IsZero()) {
			t.Errorf("%s: %+v", tt.name, e)
		}
	}
}

func TestTooManyPolicies(t *testing.T) {
	names := make([]string, token.MaxPolicies+1)
	for i := range names {
		names[i] = fmt.Sprintf("p%d", i)
	}
	if _, err := checkNames(names[1:]); err != nil {
		t.Error(err)
	}
	if _, err := checkNames(names); !errors.Is(err, ErrInvalid) {
		t.Errorf("%d policies: %v", len(names), err)
	}
}
