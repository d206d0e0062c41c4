package access

import (
	"encoding/json"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/tocsin-events/tocsin/internal/policy"
)

// nothing is for those who may do nothing.
var nothing = policy.Compile(nil, nil)

// grant is what all may do who have the same policies: the slot in which a change of
// a policy puts the new rights. It is there for as long as somebody points to it,
// and so are the decisions that its ACL remembers.
type grant struct {
	key      grantKey
	policies []policyID
	subject  *policy.Subject // nil: shared by all subjects

	compiling sync.Mutex
	acl       atomic.Pointer[policy.ACL] // nil until first compiled
	version   atomic.Uint64              // grows with every change of acl
	// void: policies have come to depend on the subject, so those who share this
	// grant have different rights now, each in a grant of its own. This one grants
	// nothing for ever.
	void atomic.Bool

	followMu  sync.Mutex
	followers map[*follower]struct{}
}

// grantKey is what makes two grants the same one. The texts are unambiguous.
type grantKey struct{ namespace, policies, subject string }

// grants finds the grant of everybody. It is safe for concurrent use.
type grants struct {
	policies atomic.Pointer[policySet]

	mu    sync.Mutex
	known map[grantKey]weak.Pointer[grant]
}

func newGrants() *grants {
	g := &grants{known: make(map[grantKey]weak.Pointer[grant])}
	g.policies.Store(new(policySet))
	return g
}

// get returns the grant for sorted policies of a namespace and a subject.
func (gs *grants) get(namespace string, names []string, subject policy.Subject) *grant {
	for {
		// The policies may become templated between these two steps; then the new
		// grant is void, and the next round makes another one.
		g := gs.slot(namespace, names, subject)
		if gs.compileFirst(g); !g.void.Load() {
			return g
		}
		gs.forget(g)
	}
}

// slot returns the grant as it is known, or a new one that is not compiled yet.
func (gs *grants) slot(namespace string, names []string, subject policy.Subject) *grant {
	ids := make([]policyID, len(names))
	for i, name := range names {
		ids[i] = policyID{namespace, name}
	}
	key := grantKey{namespace: namespace, policies: strings.Join(names, "\x00")}
	own := gs.policies.Load().templated(ids)
	if own {
		key.subject = subjectKey(subject)
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if g := gs.known[key].Value(); g != nil {
		return g
	}
	g := &grant{key: key, policies: ids}
	if own {
		g.subject = &subject
	}
	gs.known[key] = weak.Make(g)
	runtime.AddCleanup(g, gs.collected, key)
	return g
}

// collected removes a grant that nobody points to any more, unless there is a new
// one already.
func (gs *grants) collected(key grantKey) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if p, ok := gs.known[key]; ok && p.Value() == nil {
		delete(gs.known, key)
	}
}

// forget removes a void grant, so that it is not found any more.
func (gs *grants) forget(g *grant) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.known[g.key].Value() == g {
		delete(gs.known, g.key)
	}
}

// compileFirst makes sure that g is compiled. A change of the policies at the same
// time waits for it and compiles it again (see change).
func (gs *grants) compileFirst(g *grant) {
	if g.acl.Load() != nil {
		return
	}
	g.compiling.Lock()
	defer g.compiling.Unlock()
	if g.acl.Load() == nil {
		acl, void := gs.policies.Load().compile(g)
		g.void.Store(void)
		g.acl.Store(acl)
	}
}

// change makes set the policies by which everybody is judged, and returns the grants
// that have one of the changed ones, with their new rights. The old ones answer until
// all new ones are ready. Calls must not overlap.
func (gs *grants) change(set *policySet, changed map[policyID]struct{}) []*grant {
	gs.policies.Store(set) // before looking: grants that are not known yet use it
	gs.mu.Lock()
	var affected []*grant
	for _, p := range gs.known {
		if g := p.Value(); g != nil && g.hasAny(changed) {
			affected = append(affected, g)
		}
	}
	gs.mu.Unlock()
	ready := set.compileAll(affected)
	for i, g := range affected {
		if ready[i].void {
			g.void.Store(true)
			gs.forget(g)
		}
		g.acl.Store(ready[i].acl)
		g.version.Add(1)
	}
	return affected
}

func (g *grant) hasAny(changed map[policyID]struct{}) bool {
	return slices.ContainsFunc(g.policies, func(id policyID) bool {
		_, ok := changed[id]
		return ok
	})
}

// policySet is all policies at one time. It is immutable.
type policySet struct{ byID map[policyID]*stored }

// get returns the policy as it applies; nil when there is none.
func (s *policySet) get(id policyID) *stored {
	if p := s.byID[id]; p != nil {
		return p
	}
	if id.name == defaultPolicyName {
		return implicitDefault
	}
	return nil
}

// templated says whether what these policies allow depends on the subject.
func (s *policySet) templated(ids []policyID) bool {
	return slices.ContainsFunc(ids, func(id policyID) bool {
		p := s.get(id)
		return p != nil && p.policy != nil && p.policy.Templated()
	})
}

// compile returns what g allows by these policies, and whether it is void.
func (s *policySet) compile(g *grant) (acl *policy.ACL, void bool) {
	if g.void.Load() || g.subject == nil && s.templated(g.policies) {
		return nothing, true
	}
	if g.key.namespace == "" && len(g.policies) == 1 && g.policies[0].name == policy.RootPolicy.Name {
		return policy.Compile([]policy.Bound{{Policy: policy.RootPolicy}}, nil), false
	}
	bound := make([]policy.Bound, 0, len(g.policies))
	for _, id := range g.policies {
		switch p := s.get(id); {
		case p == nil: // grants nothing
		case p.policy == nil:
			// Nobody knows what it denies, so that the others cannot be trusted to
			// grant no more than was meant.
			return nothing, false
		default:
			bound = append(bound, policy.Bound{Policy: p.policy, Namespace: id.namespace})
		}
	}
	return policy.Compile(bound, g.subject), false
}

// rights are what a grant is about to get.
type rights struct {
	acl  *policy.ACL
	void bool
}

// compileAll compiles many grants on all processors.
func (s *policySet) compileAll(all []*grant) []rights {
	ready := make([]rights, len(all))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(all)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				g := all[i]
				g.compiling.Lock() // a first compilation with the old policies ends before
				ready[i].acl, ready[i].void = s.compile(g)
				g.compiling.Unlock()
			}
		})
	}
	workers.Wait()
	return ready
}

// with returns the set with other versions of some policies; nil removes one.
func (s *policySet) with(changes map[policyID]*stored) *policySet {
	next := &policySet{byID: make(map[policyID]*stored, len(s.byID)+len(changes))}
	maps.Copy(next.byID, s.byID)
	for id, p := range changes {
		if p == nil {
			delete(next.byID, id)
		} else {
			next.byID[id] = p
		}
	}
	return next
}

// subjectKey returns a text that is the same for the same subject.
func subjectKey(s policy.Subject) string {
	s.Groups = slices.Clone(s.Groups) // their order means nothing
	slices.SortFunc(s.Groups, func(a, b policy.Group) int {
		if c := strings.Compare(a.ID, b.ID); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	text, err := json.Marshal(s) // sorts maps
	if err != nil {
		panic(err) // there are only texts in it
	}
	return string(text)
}
