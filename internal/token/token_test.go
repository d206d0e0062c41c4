package token

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/internal/policy"
)

func TestCreate(t *testing.T) {
	b := newFake()
	s := openFake(t, b)
	before := time.Now().UTC()
	value, e := s.create(Request{
		Namespace: "ns1/", Policies: []string{"b", "a", "b"}, DisplayName: "token-x", Meta: map[string]string{"k": "v"},
		Path: "auth/token/create", TTL: time.Hour, ExplicitMaxTTL: 2 * time.Hour, NumUses: 3,
		Subject: policy.Subject{EntityID: "e1"},
	})
	if !strings.HasPrefix(value, Prefix) || len(value) != len(Prefix)+32 || len(e.Accessor) != 24 {
		t.Errorf("value %q, accessor %q", value, e.Accessor)
	}
	if e.Created.Before(before) || e.Created.After(time.Now()) {
		t.Errorf("created %v", e.Created)
	}
	expected := &Entry{
		ID: s.hashes.id(value), Accessor: e.Accessor, Namespace: "ns1/", Policies: []string{"a", "b"}, DisplayName: "token-x",
		Meta: map[string]string{"k": "v"}, Path: "auth/token/create", Created: e.Created, TTL: time.Hour, Expires: e.Created.Add(time.Hour),
		ExplicitMaxTTL: 2 * time.Hour, NumUses: 3, Renewable: true, Subject: policy.Subject{EntityID: "e1"},
	}
	if !reflect.DeepEqual(e, expected) {
		t.Errorf("got  %+v\nwant %+v", e, expected)
	}
	for name, find := range map[string]func() (*Entry, error){
		"Lookup":     func() (*Entry, error) { return s.Lookup(value) },
		"ByID":       func() (*Entry, error) { return s.ByID(e.ID) },
		"ByAccessor": func() (*Entry, error) { return s.ByAccessor(e.Accessor) },
	} {
		if got, err := find(); err != nil || !reflect.DeepEqual(got, expected) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, unknown := range []string{"", "tcs.x", value + "x", value[:len(value)-1], strings.Repeat("a", 1<<20), e.Accessor, e.ID.String()} {
		if _, err := s.Lookup(unknown); !errors.Is(err, ErrNotFound) {
			t.Errorf("Lookup(%.50q): %v", unknown, err)
		}
	}
	want(t, "accessors of ns1/", fmt.Sprint(s.Accessors("ns1/")), fmt.Sprint([]string{e.Accessor}))
	root, _ := s.Lookup("root")
	want(t, "accessors of the root", fmt.Sprint(s.Accessors("")), fmt.Sprint([]string{root.Accessor}))
	want(t, "tokens", s.Stats().Tokens, 2)
	changes := s.log.take()
	if len(changes) != 1 || changes[0].Entry != e || changes[0].ID != e.ID || !changes[0].Local || changes[0].End != 0 || changes[0].Last != nil {
		t.Errorf("changes: %+v", changes)
	}

	reopened := openFake(t, b)
	if got, err := reopened.Lookup(value); err != nil || !reflect.DeepEqual(got, expected) {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	want(t, "changes told at start", len(reopened.log.take()), 0)
	other := openFake(t, b, func(c *Config) { c.Key = []byte(strings.Repeat("other", 8)) })
	if _, err := other.Lookup(value); !errors.Is(err, ErrNotFound) {
		t.Error("a token is found with another key:", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	s := openFake(t, newFake())
	many := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[fmt.Sprint(i)] = strings.Repeat("v", MaxMetaBytes)
		}
		return m
	}
	for name, r := range map[string]Request{
		"namespace":         {Namespace: "/ns1"},
		"policies":          {Policies: slices.Repeat([]string{"p"}, MaxPolicies+1)},
		"policy":            {Policies: []string{strings.Repeat("p", MaxPolicyBytes+1)}},
		"empty policy":      {Policies: []string{""}},
		"display name":      {DisplayName: strings.Repeat("n", MaxDisplayBytes+1)},
		"path":              {Path: strings.Repeat("p", MaxPathBytes+1)},
		"metadata":          {Meta: many(MaxMeta + 1)},
		"all metadata":      {Meta: many(MaxMeta)},
		"metadata key":      {Meta: map[string]string{strings.Repeat("k", MaxMetaKeyBytes+1): ""}},
		"empty key":         {Meta: map[string]string{"": "v"}},
		"metadata value":    {Meta: map[string]string{"k": strings.Repeat("v", MaxMetaBytes+1)}},
		"subject":           {Subject: policy.Subject{EntityName: strings.Repeat("n", maxStoredBytes)}},
		"ttl":               {TTL: -1},
		"period":            {Period: -1},
		"explicit max":      {ExplicitMaxTTL: -1},
		"uses":              {NumUses: -1},
		"value like ours":   {Value: "tcs.abcdefghijklmnopqrstuvwxyz012345"},
		"value like Vault":  {Value: "hvs.abcdefghijklmnopqrstuvwxyz"},
		"value like a JWT":  {Value: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."},
		"value with space":  {Value: "correct horse battery staple"},
		"value with break":  {Value: "correct-horse\nbattery-staple"},
		"value not ASCII":   {Value: "schlüsselschlüssel"},
		"value with zero":   {Value: "0123456789abcdef\x00"},
		"value of 513":      {Value: strings.Repeat("v", MaxValueBytes+1)},
		"value with delete": {Value: "0123456789abcdef\x7f"},
	} {
		value, e, _, err := s.Create(t.Context(), r)
		if !errors.Is(err, ErrInvalid) || value != "" || e != nil {
			t.Errorf("%s: %q, %v, %v", name, value, e, err)
		}
		if err != nil && r.Value != "" && strings.Contains(err.Error(), r.Value) {
			t.Errorf("%s: the error has the token: %v", name, err)
		}
	}
	_, _, _, err := s.Create(t.Context(), Request{Parent: ID{1}})
	wantErr(t, "unknown parent", err, ErrNotFound)
	want(t, "tokens", s.Stats().Tokens, 1)

	full := openFake(t, newFake(), func(c *Config) { c.MaxTokens = 2 })
	full.create(Request{})
	_, _, _, err = full.Create(t.Context(), Request{})
	wantErr(t, "one too many", err, ErrTooMany)
}

func TestOwnValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b)
		longest := strings.Repeat("~", MaxValueBytes)
		for _, value := range []string{"a", "my-token", "!#$%&'()*+,-/:;<=>?@[]^_`{|}~", longest} {
			got, e, warnings, err := s.Create(t.Context(), Request{Value: value})
			if err != nil || got != value {
				t.Fatalf("%.20q: %q, %v", value, got, err)
			}
			want(t, fmt.Sprintf("warned of %.20q", value), len(warnings) > 0, len(value) < 16)
			if found, err := s.Lookup(value); err != nil || found.ID != e.ID {
				t.Errorf("%.20q: %v, %v", value, found, err)
			}
			_, _, _, err = s.Create(t.Context(), Request{Value: value})
			wantErr(t, "the same again", err, ErrExists)
		}
		_, _, _, err := s.Create(t.Context(), Request{Value: "root"})
		wantErr(t, "the root token's", err, ErrExists)

		// A value may be used again as soon as its token has ended.
		first, _ := s.Lookup("my-token")
		wantErr(t, "revoke", s.Revoke(t.Context(), first.ID), nil)
		_, second := s.create(Request{Value: "my-token"})
		if second.Accessor == first.Accessor {
			t.Error("the new token has the accessor of the old one")
		}
		// Also one that expired while the bucket did not answer.
		_, short := s.create(Request{Value: "short-lived-one", TTL: 10 * time.Millisecond})
		b.setFault(func(call, _ string) error { return map[string]error{"remove": errFake}[call] })
		s.log.ends(t, short.ID)
		b.setFault(nil)
		s.create(Request{Value: "short-lived-one"})
	})
}

// TestLives checks lives against what Vault 1.21 answered to the same requests.
func TestLives(t *testing.T) {
	const h = time.Hour
	for _, tt := range []struct {
		name      string
		r         Request
		ttl       time.Duration
		warnings  int
		renewable bool
	}{
		{"default", Request{}, 768 * h, 0, true},
		{"ttl", Request{TTL: h}, h, 0, true},
		{"ttl above the maximum", Request{TTL: 9000 * h}, 768 * h, 1, true},
		{"explicit maximum", Request{ExplicitMaxTTL: h}, h, 1, true},
		{"ttl above explicit maximum", Request{TTL: 3 * h, ExplicitMaxTTL: h}, h, 1, true},
		{"ttl below explicit maximum", Request{TTL: h, ExplicitMaxTTL: 3 * h}, h, 0, true},
		{"period", Request{Period: 2 * h}, 2 * h, 0, true},
		{"period and ttl", Request{Period: 2 * h, TTL: 5 * h}, 2 * h, 0, true},
		{"period above the maximum", Request{Period: 20000 * h}, 768 * h, 1, true},
		{"period above explicit maximum", Request{Period: 2 * h, ExplicitMaxTTL: h}, h, 1, true},
		{"not renewable", Request{TTL: h, NotRenewable: true}, h, 0, false},
		{"root", Request{Policies: []string{"root"}}, 0, 0, false},
		{"root with ttl", Request{Policies: []string{"root"}, TTL: 9000 * h}, 768 * h, 1, true},
		{"root with period", Request{Policies: []string{"root"}, Period: 2 * h}, 2 * h, 0, true},
		{"root with explicit maximum", Request{Policies: []string{"root"}, ExplicitMaxTTL: 9000 * h}, 9000 * h, 0, true},
		{"enormous", Request{TTL: 1<<63 - 1, ExplicitMaxTTL: 1<<63 - 1}, 768 * h, 1, true},
		{"enormous root", Request{Policies: []string{"root"}, ExplicitMaxTTL: 1<<63 - 1}, 1<<63 - 1, 0, true},
	} {
		s := openFake(t, newFake())
		_, e, warnings, err := s.Create(t.Context(), tt.r)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		expires := time.Time{}
		if tt.ttl > 0 {
			expires = e.Created.Add(tt.ttl)
		}
		if e.TTL != tt.ttl || !e.Expires.Equal(expires) || len(warnings) != tt.warnings || e.Renewable != tt.renewable {
			t.Errorf("%s: ttl %v until %v, renewable %t, warnings %q", tt.name, e.TTL, e.Expires, e.Renewable, warnings)
		}
		_ = s.Close()
	}
}

func TestWarnings(t *testing.T) {
	s := openFake(t, newFake())
	_, _, warnings, _ := s.Create(t.Context(), Request{ExplicitMaxTTL: 90 * time.Minute})
	want(t, "warning", fmt.Sprint(warnings), "[the TTL of 768h is longer than the maximum, of which 1h30m are left, and was shortened to that]")
	_, _, warnings, _ = s.Create(t.Context(), Request{Period: 1000*time.Hour + time.Second})
	want(t, "warning", fmt.Sprint(warnings), "[the period of 1000h0m1s is longer than the maximum of 768h and was shortened to it]")
}

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const h = time.Hour
		s := openFake(t, newFake(), func(c *Config) { c.MaxTTL = 10 * h })
		renew := func(id ID, increment, ttl time.Duration, warned bool) {
			t.Helper()
			before, _ := s.ByID(id)
			e, warnings, err := s.Renew(t.Context(), id, increment)
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			if got := e.Expires.Sub(now); got != ttl || !e.LastRenewal.Equal(now) || len(warnings) > 0 != warned || e.TTL != before.TTL {
				t.Errorf("renewed by %v: expires in %v, want %v, warnings %q, ttl %v, last renewal %v", increment, got, ttl, warnings, e.TTL, e.LastRenewal)
			}
			if found, err := s.ByID(id); found != e {
				t.Error("another entry is found", err)
			}
		}
		_, e := s.create(Request{TTL: h})
		time.Sleep(30 * time.Minute)
		renew(e.ID, 0, h, false)
		renew(e.ID, 10*time.Minute, 10*time.Minute, false)
		renew(e.ID, 0, 10*time.Minute, false) // what it was given last
		renew(e.ID, -5, 10*time.Minute, false)
		renew(e.ID, 2*h, 2*h, false) // also longer than at first
		renew(e.ID, 768*h, 10*h-30*time.Minute, true)
		_, e = s.create(Request{TTL: h, ExplicitMaxTTL: 2 * h})
		time.Sleep(59 * time.Minute)
		renew(e.ID, 0, h, false)
		time.Sleep(59 * time.Minute)
		renew(e.ID, 0, 2*time.Minute, true)
		_, e = s.create(Request{Period: h})
		for range 12 { // beyond every maximum
			time.Sleep(h - 1)
			if _, _, err := s.Renew(t.Context(), e.ID, 5*h); err != nil {
				t.Fatal(err)
			}
		}
		renew(e.ID, time.Second, h, false)
		_, e = s.create(Request{Period: h, ExplicitMaxTTL: 90 * time.Minute})
		time.Sleep(45 * time.Minute)
		renew(e.ID, 0, 45*time.Minute, true)
		time.Sleep(45*time.Minute - 1)
		renew(e.ID, 0, 1, true)
		time.Sleep(time.Nanosecond)
		_, _, err := s.Renew(t.Context(), e.ID, 0)
		wantErr(t, "an expired token", err, ErrNotFound)

		root, _ := s.Lookup("root")
		_, _, err = s.Renew(t.Context(), root.ID, 0)
		wantErr(t, "the root token", err, ErrNotRenewable)
		_, e = s.create(Request{Policies: []string{"root"}})
		_, _, err = s.Renew(t.Context(), e.ID, h)
		wantErr(t, "a token that does not expire", err, ErrNotRenewable)
		_, e = s.create(Request{TTL: h, NotRenewable: true})
		_, _, err = s.Renew(t.Context(), e.ID, h)
		wantErr(t, "a token that is not renewable", err, ErrNotRenewable)
		_, _, err = s.Renew(t.Context(), ID{1}, h)
		wantErr(t, "an unknown token", err, ErrNotFound)

		// A maximum that was lowered.
		_, e = s.create(Request{TTL: 7 * h})
		time.Sleep(6 * h)
		s.config.MaxTTL = 5 * h
		_, _, err = s.Renew(t.Context(), e.ID, h)
		wantErr(t, "a token that is too old", err, ErrNotRenewable)
	})
}

func TestUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		one, two := openFake(t, b), openFake(t, b)
		_, e := one.create(Request{NumUses: 50})
		_, child := one.create(Request{Parent: e.ID})
		eventually(t, "the other store has it", func() bool { return two.alive(child.ID) })
		var mu sync.Mutex
		results := make(map[string]int)
		var wg sync.WaitGroup
		for i := range 80 {
			wg.Go(func() {
				err := []*testStore{one, two}[i%2].Use(t.Context(), e.ID)
				mu.Lock()
				defer mu.Unlock()
				results[fmt.Sprint(err)]++
			})
		}
		wg.Wait()
		want(t, "results", fmt.Sprint(results), fmt.Sprint(map[string]int{"<nil>": 50, ErrNotFound.Error(): 30}))
		local := 0
		for _, s := range []*testStore{one, two} {
			ends := s.log.ends(t, e.ID, child.ID)
			if ends[e.ID].End != UsedUp || ends[child.ID].End != Revoked || ends[e.ID].Last.NumUses != 1 {
				t.Errorf("ends: %v", ends)
			}
			if ends[e.ID].Local {
				local++
			}
		}
		want(t, "stores that report it", local, 1)
		eventually(t, "the bucket is empty", func() bool { return len(b.values()) == 0 })

		_, unlimited := one.create(Request{})
		before := b.called("update")
		wantErr(t, "a token without limit", one.Use(t.Context(), unlimited.ID), nil)
		root, _ := one.Lookup("root")
		wantErr(t, "the root token", one.Use(t.Context(), root.ID), nil)
		want(t, "writes for them", b.called("update"), before)
		wantErr(t, "unknown", one.Use(t.Context(), ID{1}), ErrNotFound)
	})
}

func TestRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s, other := openFake(t, b), openFake(t, b)
		_, a := s.create(Request{})
		_, a1 := s.create(Request{Parent: a.ID})
		_, a11 := s.create(Request{Parent: a1.ID})
		_, a2 := s.create(Request{Parent: a.ID})
		_, z := s.create(Request{})
		eventually(t, "the other store has all", func() bool { return other.alive(z.ID) })
		s.log.take()
		wantErr(t, "revoke", s.Revoke(t.Context(), a.ID), nil)
		for _, e := range []*Entry{a, a1, a11, a2} {
			if s.alive(e.ID) {
				t.Error("a token is alive after the revocation returned")
			}
			_, err := s.ByAccessor(e.Accessor)
			wantErr(t, "by accessor", err, ErrNotFound)
		}
		changes := s.log.take() // told before Revoke returned
		if len(changes) != 4 || changes[0].ID != a.ID || changes[0].Last != a {
			t.Errorf("changes: %v", describe(changes))
		}
		position := make(map[ID]int)
		for i, c := range changes {
			position[c.ID] = i
			if c.End != Revoked || !c.Local || c.Entry != nil {
				t.Errorf("change %+v", c)
			}
		}
		if position[a11.ID] < position[a1.ID] {
			t.Error("a child was told before its parent")
		}
		for id, c := range other.log.ends(t, a.ID, a1.ID, a11.ID, a2.ID) {
			if c.End != Revoked || c.Local {
				t.Errorf("on the other node: %.4s %+v", id, c)
			}
		}
		if !s.alive(z.ID) || !other.alive(z.ID) {
			t.Error("another token ended as well")
		}
		wantErr(t, "again", s.Revoke(t.Context(), a.ID), ErrNotFound)
		eventually(t, "only one key is left", func() bool { return len(b.values()) == 1 })
		eventually(t, "nothing is to be removed", func() bool { return s.Stats().Removing == 0 })
		eventually(t, "the other store knows", func() bool { return other.Stats() == Stats{Tokens: 2} })
	})
}

func TestRevokeOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s, other := openFake(t, b), openFake(t, b)
		_, a := s.create(Request{})
		_, a1 := s.create(Request{Parent: a.ID, Meta: map[string]string{"k": "v"}})
		_, a11 := s.create(Request{Parent: a1.ID})
		eventually(t, "the other store has all", func() bool { return other.alive(a11.ID) })
		s.log.take()
		synctest.Wait()
		other.log.take()
		wantErr(t, "revoke", s.RevokeOrphan(t.Context(), a.ID), nil)
		check := func(s *testStore) {
			t.Helper()
			e, err := s.ByID(a1.ID)
			if err != nil || !e.Orphan() || e.Accessor != a1.Accessor || e.Meta["k"] != "v" {
				t.Fatalf("child: %+v, %v", e, err)
			}
			if e, err := s.ByID(a11.ID); err != nil || e.Parent != a1.ID {
				t.Errorf("grandchild: %+v, %v", e, err)
			}
			if s.alive(a.ID) {
				t.Error("the token itself is alive")
			}
		}
		check(s)
		expected := fmt.Sprintf("[%.4s is, local true %.4s revoked, local true]", a1.ID, a.ID)
		want(t, "changes", fmt.Sprint(describe(s.log.take())), expected)
		other.log.ends(t, a.ID)
		check(other)
		want(t, "changes there", fmt.Sprint(describe(other.log.take())), strings.ReplaceAll(expected, "true", "false"))
		eventually(t, "the bucket has no trace of the parent", func() bool {
			for key, value := range b.values() {
				if key == a.ID.String() || strings.Contains(value, a.ID.String()) {
					return false
				}
			}
			return true
		})
		want(t, "changes by writing the children", len(s.log.take()), 0)
		check(openFake(t, b))
		wantErr(t, "revoke the child", other.Revoke(t.Context(), a1.ID), nil)
		s.log.ends(t, a1.ID, a11.ID)
	})
}

// TestCrashWhileRevoking stops a store after each number of writes to the bucket
// that a revocation takes. The next one finds nothing alive, and ends the work.
func TestCrashWhileRevoking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, orphans := range []bool{false, true} {
			for writes := range 9 {
				b := newFake()
				s := openFake(t, b)
				ids := s.tree(3)
				_, grandchild := s.create(Request{Parent: ids[1]})
				var mu sync.Mutex
				left := writes
				b.setFault(func(call, _ string) error {
					mu.Lock()
					defer mu.Unlock()
					if call != "update" && call != "remove" {
						return nil
					}
					if left--; left < 0 {
						return errFake
					}
					return nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				var err error
				if orphans {
					err = s.RevokeOrphan(ctx, ids[0])
				} else {
					err = s.Revoke(ctx, ids[0])
				}
				cancel()
				wantErr(t, "revoke", err, map[bool]error{true: ErrUnavailable}[writes == 0])
				eventually(t, "the writes are used up", func() bool {
					mu.Lock()
					defer mu.Unlock()
					return left < 0 || s.Stats().Removing == 0
				})
				_ = s.Close()
				b.setFault(nil)

				next := openFake(t, b)
				revoked := writes > 0
				for i, id := range append(ids, grandchild.ID) {
					want(t, fmt.Sprintf("token %d alive after %d writes (orphans %t)", i, writes, orphans), next.alive(id), !revoked || orphans && i > 0)
				}
				alive := next.Stats().Tokens - 1
				eventually(t, "the bucket has what is alive", func() bool { return len(b.values()) == alive && next.Stats().Removing == 0 })
				want(t, "changes told", len(next.log.take()), 0)
				_ = next.Close()
				if orphans && revoked {
					if last := openFake(t, b); !last.alive(ids[1]) || !last.alive(grandchild.ID) {
						t.Error("an orphan did not survive")
					}
				}
			}
		}
	})
}

func TestChildOfEndedParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s, other := openFake(t, b), openFake(t, b)
		_, p := s.create(Request{})
		eventually(t, "the other store has it", func() bool { return other.alive(p.ID) })
		// The parent ends while the child is on its way to the bucket.
		b.setFault(func(call, key string) error {
			if call == "create" {
				b.setFault(nil)
				return other.Revoke(t.Context(), p.ID)
			}
			return nil
		})
		_, _, _, err := s.Create(t.Context(), Request{Parent: p.ID})
		wantErr(t, "create", err, ErrNotFound)
		eventually(t, "the bucket is empty", func() bool { return len(b.values()) == 0 })
		for _, s := range []*testStore{s, other} {
			want(t, "tokens", s.Stats().Tokens, 1)
			for _, c := range s.log.take() {
				if c.ID != p.ID {
					t.Errorf("the child was told: %v", describe([]Change{c}))
				}
			}
		}
	})
}

// TestDeepTree has a chain that would overflow a recursion, and a wide tree.
func TestDeepTree(t *testing.T) {
	const depth = 100_000
	b := newFake()
	h := hasher{key: testKey}
	parent := ID{}
	var first, last ID
	now := time.Now().UTC()
	for i := range depth {
		v := content{by: "somebody", entry: &Entry{ID: h.id(fmt.Sprint(i)), Accessor: fmt.Sprint("accessor", i), Created: now, Parent: parent},
			lineage: lineage{accessor: fmt.Sprint("accessor", i-1)}}
		raw, err := v.encode(now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.create(t.Context(), v.entry.ID.String(), raw); err != nil {
			t.Fatal(err)
		}
		parent = v.entry.ID
		if i == 0 {
			first = parent
		}
		last = parent
	}
	begin := time.Now()
	s := openFake(t, b)
	loaded := time.Since(begin)
	want(t, "tokens", s.Stats().Tokens, depth+1)
	if !s.alive(last) {
		t.Fatal("the last is not alive")
	}
	begin = time.Now()
	wantErr(t, "revoke", s.Revoke(t.Context(), first), nil)
	t.Logf("loaded %d in %v, revoked in %v", depth, loaded, time.Since(begin))
	want(t, "tokens", s.Stats().Tokens, 1)
	want(t, "changes", len(s.log.take()), depth)
	for range 10 { // ctx of the test allows no more
		if s.Stats().Removing == 0 {
			break
		}
		time.Sleep(time.Second)
	}
	want(t, "left in the bucket", len(b.values()), 0)
}

func TestRootToken(t *testing.T) {
	b := newFake()
	s := openFake(t, b)
	root, err := s.Lookup("root")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "policies", fmt.Sprint(root.Policies), "[root]")
	want(t, "path", root.Path, "auth/token/root")
	want(t, "display name", root.DisplayName, "root")
	if root.Renewable || !root.Expires.IsZero() || root.TTL != 0 || !root.Orphan() || len(root.Accessor) != 24 {
		t.Errorf("%+v", root)
	}
	want(t, "values in the bucket", len(b.values()), 0)
	_, child := s.create(Request{Parent: root.ID})
	_, grandchild := s.create(Request{Parent: child.ID})

	same := openFake(t, b)
	again, _ := same.Lookup("root")
	want(t, "accessor after a restart", again.Accessor, root.Accessor)
	changed := openFake(t, b, func(c *Config) { c.RootToken = "another" })
	if _, err := changed.Lookup("root"); !errors.Is(err, ErrNotFound) {
		t.Error("the old root token is known:", err)
	}
	another, err := changed.Lookup("another")
	if err != nil || another.Accessor == root.Accessor {
		t.Errorf("%+v, %v", another, err)
	}
	if !changed.alive(child.ID) || !changed.alive(grandchild.ID) {
		t.Error("children of the old root token ended with the configuration")
	}
	none := openFake(t, b, func(c *Config) { c.RootToken = "" })
	if _, err := none.Lookup(""); !errors.Is(err, ErrNotFound) {
		t.Error("no token is the root token:", err)
	}

	wantErr(t, "revoke", s.Revoke(t.Context(), root.ID), nil)
	wantErr(t, "revoke again", s.Revoke(t.Context(), root.ID), ErrNotFound)
	for _, s := range []*testStore{s, same, changed, none} {
		s.log.ends(t, child.ID, grandchild.ID)
		if _, err := s.Lookup("root"); !errors.Is(err, ErrNotFound) {
			t.Error("the revoked root token is known:", err)
		}
	}
	same.log.ends(t, root.ID)
	if !changed.alive(another.ID) {
		t.Error("another root token ended as well")
	}
	_, _, _, err = s.Create(t.Context(), Request{Value: "root"})
	wantErr(t, "a token of the same value", err, ErrExists)

	restarted := openFake(t, b)
	if _, err := restarted.Lookup("root"); !errors.Is(err, ErrNotFound) {
		t.Error("after a restart the revoked root token is known:", err)
	}
	if restarted.alive(child.ID) {
		t.Error("after a restart its child is alive")
	}
	eventually(t, "the bucket has the root token's tombstone only", func() bool { return len(b.values()) == 1 })

	s = openFake(t, b, func(c *Config) { c.RootToken = "third" })
	root, _ = s.Lookup("third")
	_, child = s.create(Request{Parent: root.ID})
	wantErr(t, "revoke orphan", s.RevokeOrphan(t.Context(), root.ID), nil)
	if e, err := s.ByID(child.ID); err != nil || !e.Orphan() {
		t.Errorf("child: %+v, %v", e, err)
	}
	if next := openFake(t, b, func(c *Config) { c.RootToken = "third" }); !next.alive(child.ID) || next.alive(root.ID) {
		t.Error("after a restart it is not the same")
	}
}

func TestUnreadable(t *testing.T) {
	b := newFake()
	s := openFake(t, b)
	ids := s.tree(1)
	_, healthy := s.create(Request{})
	b.put(t.Context(), ids[0].String(), []byte(`{"v":2,"entry":"of the future"}`))
	b.put(t.Context(), "garbage", []byte("garbage"))
	b.put(t.Context(), healthy.ID.String()[1:]+"A", nil)
	for id, c := range s.log.ends(t, ids...) {
		if c.End != Forgotten {
			t.Errorf("%.4s ended as %v", id, c.End)
		}
	}
	eventually(t, "all are counted", func() bool { return s.Stats() == Stats{Tokens: 2, Unreadable: 4} })
	_, _, _, err := s.Create(t.Context(), Request{Parent: ids[0]})
	wantErr(t, "a child of it", err, ErrNotFound)
	next := openFake(t, b)
	want(t, "after a restart", next.Stats(), Stats{Tokens: 2, Unreadable: 4})
	if !next.alive(healthy.ID) || next.alive(ids[0]) || next.alive(ids[1]) {
		t.Error("the wrong ones are alive")
	}
	want(t, "values in the bucket", len(b.values()), 5) // nothing was removed
	_ = s.Close()
	b.put(t.Context(), ids[0].String(), nil)
	_, err = b.write("garbage", nil, 1, func(*fakeEntry) bool { return true })
	wantErr(t, "remove", err, nil)
	eventually(t, "one less", func() bool { return next.Stats().Unreadable == 3 })
}

func TestFamilyRing(t *testing.T) {
	b := newFake()
	h := hasher{key: testKey}
	x, y := h.id("x"), h.id("y")
	now := time.Now()
	for id, parent := range map[ID]ID{x: y, y: x} {
		v := content{entry: &Entry{ID: id, Accessor: id.String(), Created: now, Parent: parent}, lineage: lineage{accessor: parent.String()}}
		raw, _ := v.encode(now)
		b.put(t.Context(), id.String(), raw)
	}
	s := openFake(t, b)
	if s.alive(x) || s.alive(y) {
		t.Error("tokens that are each other's ancestors are alive")
	}
	eventually(t, "they are removed", func() bool { return len(b.values()) == 0 })
}

func TestConfig(t *testing.T) {
	good := Config{Key: testKey, Changed: func([]Change) {}}
	for name, spoil := range map[string]func(*Config){
		"short key":  func(c *Config) { c.Key = testKey[1:] },
		"no Changed": func(c *Config) { c.Changed = nil },
		"negative":   func(c *Config) { c.MaxTTL = -1 },
		"long root":  func(c *Config) { c.RootToken = strings.Repeat("r", MaxValueBytes+1) },
	} {
		c := good
		spoil(&c)
		if _, err := open(t.Context(), c, newFake(), time.Now); err == nil {
			t.Error(name, "is accepted")
		}
	}
	if _, err := Open(t.Context(), good); err == nil {
		t.Error("no bucket is accepted")
	}
	b := newFake()
	b.setFault(func(call, _ string) error { return map[string]error{"watch": errFake}[call] })
	_, err := open(t.Context(), good, b, time.Now)
	wantErr(t, "a bucket that fails", err, errFake)
}

func TestClosed(t *testing.T) {
	s := openFake(t, newFake())
	_, e := s.create(Request{})
	want(t, "close", s.Close(), nil)
	want(t, "close again", s.Close(), nil)
	_, _, _, err := s.Create(t.Context(), Request{})
	wantErr(t, "create", err, ErrUnavailable)
	wantErr(t, "revoke", s.Revoke(t.Context(), e.ID), ErrUnavailable)
	if s.Health() == nil {
		t.Error("a closed store is healthy")
	}
}

// TestRandomText has every character in every place sooner or later.
func TestRandomText(t *testing.T) {
	seen := make(map[[2]int]bool)
	texts := make(map[string]bool)
	for range 5000 {
		text := randomText(valueChars)
		if texts[text] || len(text) != valueChars {
			t.Fatalf("%q", text)
		}
		texts[text] = true
		for i, c := range text {
			seen[[2]int{i, int(c)}] = true
		}
	}
	want(t, "characters seen in their places", len(seen), valueChars*len(base62))
}
