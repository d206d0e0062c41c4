package access

import (
	"runtime"
	"testing"

	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

func (gs *grants) count() int {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return len(gs.known)
}

func TestSharedGrants(t *testing.T) {
	gs := newGrants()
	alice, bob := policy.Subject{EntityID: "alice"}, policy.Subject{EntityID: "bob"}
	one := gs.get("", []string{"a", "b"}, alice)
	for _, tt := range []struct {
		name  string
		other *grant
		same  bool
	}{
		{"same", gs.get("", []string{"a", "b"}, alice), true},
		{"another subject, without templates", gs.get("", []string{"a", "b"}, bob), true},
		{"another policy", gs.get("", []string{"a", "c"}, alice), false},
		{"fewer policies", gs.get("", []string{"a"}, alice), false},
		{"none", gs.get("", nil, alice), false},
		{"another namespace", gs.get("a/", []string{"a", "b"}, alice), false},
	} {
		if (tt.other == one) != tt.same {
			t.Errorf("%s: same %v, want %v", tt.name, !tt.same, tt.same)
		}
	}
	if gs.get("", []string{"root", "a"}, alice).acl.Load().Root() || gs.get("ns/", []string{"root"}, alice).acl.Load().Root() {
		t.Error("root together with others, or in a namespace, is root")
	}
	if !gs.get("", []string{"root"}, alice).acl.Load().Root() {
		t.Error("root is not root")
	}
}

// Grants that nobody has any more go, with what their ACLs remember.
func TestUnusedGrantsGo(t *testing.T) {
	gs := newGrants()
	kept := gs.get("", []string{"kept"}, policy.Subject{})
	for i := range 1000 {
		gs.get("", []string{"p", string(rune('a' + i))}, policy.Subject{})
	}
	await(t, "unused grants to go", func() bool {
		runtime.GC()
		return gs.count() == 1
	})
	if gs.get("", []string{"kept"}, policy.Subject{}) != kept {
		t.Error("a grant in use was replaced")
	}
	runtime.KeepAlive(kept)
}

const ownPath = `path "home/{{identity.entity.id}}" { capabilities = ["read", "subscribe"] subscribe_event_types = ["*"] }`

func withEntity(id string, names ...string) CreateRequest {
	return CreateRequest{Request: token.Request{Policies: names, Subject: policy.Subject{EntityID: id}}}
}

// identifyAs returns the identity of a token with a subject, which no request can
// choose.
func identifyAs(t *testing.T, a *Authority, entity string, names ...string) Identity {
	t.Helper()
	_, e, _, err := a.tokens.Create(t.Context(), withEntity(entity, names...).Request)
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Identify(e)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTemplatedPolicies(t *testing.T) {
	a := open(t)
	put(t, a, "", "own", ownPath)
	alice, alice2, bob := identifyAs(t, a, "alice", "own"), identifyAs(t, a, "alice", "own"), identifyAs(t, a, "bob", "own")
	if alice.Key() != alice2.Key() || alice.Key() == bob.Key() {
		t.Error("the keys are not those of the subjects")
	}
	if !alice.Allows(policy.Read, "home/alice", nil) || alice.Allows(policy.Read, "home/bob", nil) || !bob.Allows(policy.Read, "home/bob", nil) {
		t.Error("not the rights of the subjects")
	}
	w := follow(t, a, alice)
	put(t, a, "", "own", reads("home/*"))
	w.want(t, 1)
	if !alice.Allows(policy.Read, "home/bob", nil) {
		t.Error("the new text is not in effect")
	}
	if identifyAs(t, a, "carol", "own").Key() != identifyAs(t, a, "dave", "own").Key() {
		t.Error("without templates the subjects matter")
	}
}

// Those who shared a grant while the policies had no templates cannot any more.
func TestPolicyBecomesTemplated(t *testing.T) {
	a := open(t)
	put(t, a, "", "own", sees("home/*", "*"))
	alice, bob := identifyAs(t, a, "alice", "own"), identifyAs(t, a, "bob", "own")
	if alice.Key() != bob.Key() {
		t.Fatal("the keys differ")
	}
	followers := []*told{follow(t, a, alice), follow(t, a, bob)}
	put(t, a, "", "own", ownPath)
	for _, w := range followers {
		w.want(t, 0, EndedPolicies)
	}
	// Somebody who asks with the common key gets nothing, ...
	for _, id := range []Identity{alice, bob} {
		for _, path := range []string{"home/alice", "home/bob"} {
			if id.MaySee(eventAt("", path, "x")) {
				t.Errorf("%s is seen with a key that two have", path)
			}
		}
		follow(t, a, id).want(t, 0, EndedPolicies)
	}
	// ... while a request that is under way goes on with its own rights.
	if !alice.Allows(policy.Read, "home/alice", nil) || alice.Allows(policy.Read, "home/bob", nil) {
		t.Error("not the rights of alice")
	}
	again, err := a.Identify(alice.Entry())
	if err != nil || again.Key() == alice.Key() || !again.MaySee(eventAt("", "home/alice", "x")) || again.MaySee(eventAt("", "home/bob", "x")) {
		t.Errorf("a new identity has not the rights of alice: %v", err)
	}
	put(t, a, "", "own", reads("home/*"))
	if alice.MaySee(eventAt("", "home/alice", "x")) {
		t.Error("a key that had become void is not any more")
	}
}
