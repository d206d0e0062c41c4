package access

import (
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

// localProvider is the name of tokens issued here among those of providers.
const localProvider = "token"

// subscribePath is what goes before the event type in the path of a subscription.
const subscribePath = "sys/events/subscribe/"

// Identity is who makes a request. The zero Identity is nobody and may do nothing.
// An Identity is safe for concurrent use; what it answers follows the changes of its
// policies, not the end of its token (see [Authority.Follow]).
type Identity struct {
	grants  *grants
	entry   *token.Entry
	grant   *grant
	seen    uint64   // version of the grant, so that Follow knows what was missed
	session *session // nil for tokens issued here
}

// Key is equal for identities that get the same answer to every question, for ever.
// It is comparable.
func (id Identity) Key() any {
	if id.grant == nil {
		return nil
	}
	return id.grant
}

// acl returns what the identity may do now, nil for nobody.
func (id Identity) acl() *policy.ACL {
	g := id.grant
	if g == nil {
		return nil
	}
	if g.void.Load() {
		g = id.grants.get(id.entry.Namespace, id.entry.Policies, id.entry.Subject)
	}
	return g.acl.Load()
}

// Root says whether the identity may do everything.
func (id Identity) Root() bool {
	acl := id.acl()
	return acl != nil && acl.Root()
}

// Allows says whether an operation on a path, which begins with the namespace, is
// allowed; see [policy.ACL.Allows].
func (id Identity) Allows(op policy.Capabilities, path string, parameters map[string]any) bool {
	acl := id.acl()
	return acl != nil && acl.Allows(op, path, parameters)
}

// Capabilities returns what is allowed on a path, which begins with the namespace.
func (id Identity) Capabilities(path string) policy.Capabilities {
	acl := id.acl()
	if acl == nil {
		return 0
	}
	return acl.Capabilities(path)
}

// Touches says whether some policy grants something below a path that begins with the
// namespace and ends in "/"; see [policy.ACL.Touches].
func (id Identity) Touches(path string) bool {
	acl := id.acl()
	return acl != nil && acl.Touches(path)
}

// MayConnect says whether the identity may subscribe in a namespace to the event
// type glob typ, taken literally: whether it may read the path of the subscription,
// without parameters. Where parameters of the query matter, ask Allows as well. What
// it then sees is decided by MaySee.
func (id Identity) MayConnect(namespace, typ string) bool {
	return id.Allows(policy.Read, event.CanonicalNamespace(namespace)+subscribePath+typ, nil)
}

// MaySee says whether the identity may see e. Events without a path are for those who
// may do everything.
//
// It is the same for all identities with the same Key, so one may be asked for all.
// When policies come to depend on the subject, so that identities with the same Key
// would have to get different answers, it is false for all of them, and those who
// follow are told that they have ended.
func (id Identity) MaySee(e *event.Event) bool {
	if id.grant == nil {
		return false
	}
	acl := id.grant.acl.Load()
	if acl.Root() {
		return true
	}
	return e.Path != "" && acl.MaySee(e.Namespace, e.Path, e.Type)
}

// Entry is the token, nil for nobody, as it was when the identity was made. For
// somebody known elsewhere it is made up of what is known, with a zero ID.
func (id Identity) Entry() *token.Entry { return id.entry }

// Provider names who knows the identity: "token" for tokens issued here, "" for
// nobody.
func (id Identity) Provider() string {
	switch {
	case id.entry == nil:
		return ""
	case id.session == nil:
		return localProvider
	}
	return id.session.provider
}
