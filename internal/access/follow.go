package access

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/internal/token"
)

// Ended is why somebody who was allowed in is not any more. Its text is short enough
// for a close frame.
type Ended string

func (e Ended) Error() string { return string(e) }

// The reasons.
const (
	EndedRevoked     Ended = "token revoked"
	EndedExpired     Ended = "token expired"
	EndedUsedUp      Ended = "token has no uses left"
	EndedUnconfirmed Ended = "token could not be confirmed any more"
	EndedPolicies    Ended = "permission denied: the policies of the token have changed"
)

// follower is one who is told about an identity. Its functions run one at a time.
type follower struct {
	changed func()
	ended   func(Ended)

	telling sync.Mutex
	done    atomic.Bool
}

func (f *follower) tellChanged() {
	f.telling.Lock()
	defer f.telling.Unlock()
	if !f.done.Load() {
		f.changed()
	}
}

func (f *follower) tellEnded(why Ended) {
	f.telling.Lock()
	defer f.telling.Unlock()
	if !f.done.Swap(true) {
		f.ended(why)
	}
}

// Follow tells about an identity until stop is called: changed, when its rights may
// have changed (it can be asked again), and once ended, when it may do nothing any
// more, or, with [EndedPolicies], when it has to authenticate again to get its new
// rights. What has happened since the identity was returned by Authenticate is told
// before Follow returns.
//
// Both are called one at a time and must not block: whoever has revoked the token or
// changed the policy waits for them. They must not call PutPolicy or DeletePolicy,
// nor write to the token store.
//
// stop never waits, so it may be called from anywhere, also by the functions
// themselves. No call begins after it has returned; one that was beginning before
// may still be under way.
func (a *Authority) Follow(id Identity, changed func(), ended func(Ended)) (stop func()) {
	f := &follower{changed: changed, ended: ended}
	if id.entry == nil {
		f.tellEnded(EndedRevoked)
		return func() {}
	}
	// First be found by those who tell, then look at what they have told already.
	id.grant.follow(f)
	var why Ended
	if id.session != nil {
		why = a.externals.follow(id.session, f)
	} else {
		why = a.followToken(id.entry, f)
	}
	switch {
	case why != "":
		f.tellEnded(why)
	case id.grant.void.Load():
		f.tellEnded(EndedPolicies)
	case id.grant.version.Load() != id.seen:
		f.tellChanged()
	}
	return func() {
		f.done.Store(true)
		id.grant.unfollow(f)
		if id.session != nil {
			a.externals.unfollow(id.session, f)
		} else {
			a.unfollowToken(id.entry.ID, f)
		}
	}
}

// followToken adds a follower of a token issued here and returns why the token has
// ended already, if it has.
func (a *Authority) followToken(e *token.Entry, f *follower) Ended {
	a.followMu.Lock()
	all := a.following[e.ID]
	if all == nil {
		all = make(map[*follower]struct{}, 1)
		a.following[e.ID] = all
	}
	all[f] = struct{}{}
	a.followMu.Unlock()
	switch _, err := a.tokens.ByID(e.ID); {
	case !errors.Is(err, token.ErrNotFound): // valid, or not known to have ended
		return ""
	case !e.Expires.IsZero() && !time.Now().Before(e.Expires):
		return EndedExpired
	case e.NumUses > 0:
		return EndedUsedUp // or revoked, which it was soon after
	}
	return EndedRevoked
}

func (a *Authority) unfollowToken(id token.ID, f *follower) {
	a.followMu.Lock()
	defer a.followMu.Unlock()
	all := a.following[id]
	delete(all, f)
	if len(all) == 0 {
		delete(a.following, id)
	}
}

// tokensChanged is called by the store, one call at a time.
func (a *Authority) tokensChanged(changes []token.Change) {
	for _, c := range changes {
		if c.End == 0 {
			continue
		}
		a.followMu.Lock()
		followers := keys(a.following[c.ID])
		a.followMu.Unlock()
		for _, f := range followers {
			f.tellEnded(endedBy(c.End))
		}
	}
	if a.config.Ended == nil {
		return
	}
	ended := make(map[token.ID]bool) // a parent and its descendants end together
	for _, c := range changes {
		if c.End == 0 {
			continue
		}
		ended[c.ID] = true
		if c.Local && (c.End != token.Revoked || ended[c.Last.Parent]) {
			a.config.Ended(c.Last, endedBy(c.End))
		}
	}
}

func endedBy(end token.End) Ended {
	switch end {
	case token.Expired:
		return EndedExpired
	case token.UsedUp:
		return EndedUsedUp
	}
	return EndedRevoked
}

// policiesChanged is called after these grants have got new rights, one call at a
// time.
func (a *Authority) policiesChanged(changed []*grant) {
	// Whatever was decided by the old rights goes first, everywhere.
	if a.config.Changed != nil {
		for _, g := range changed {
			a.config.Changed(g)
		}
	}
	for _, g := range changed {
		void := g.void.Load()
		for _, f := range g.following() {
			if void {
				f.tellEnded(EndedPolicies)
			} else {
				f.tellChanged()
			}
		}
	}
}

func (g *grant) follow(f *follower) {
	g.followMu.Lock()
	defer g.followMu.Unlock()
	if g.followers == nil {
		g.followers = make(map[*follower]struct{})
	}
	g.followers[f] = struct{}{}
}

func (g *grant) unfollow(f *follower) {
	g.followMu.Lock()
	defer g.followMu.Unlock()
	delete(g.followers, f)
}

func (g *grant) following() []*follower {
	g.followMu.Lock()
	defer g.followMu.Unlock()
	return keys(g.followers)
}

func keys(followers map[*follower]struct{}) []*follower {
	if len(followers) == 0 {
		return nil
	}
	all := make([]*follower, 0, len(followers))
	for f := range followers {
		all = append(all, f)
	}
	return all
}
