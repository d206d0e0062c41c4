package upstream

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
)

const (
	// maxPolicies and maxMetaBytes bound what is kept of a token.
	maxPolicies  = 1000
	maxMetaBytes = 64 << 10
	// clockSlack is by how much two clocks may differ to be called equal.
	clockSlack = 5 * time.Second
)

// answer is the data of the answer to auth/token/lookup-self, as far as it matters
// here. Members without which nothing can be decided are pointers, so that a
// missing one is not taken for its zero value.
type answer struct {
	ID               *string           `json:"id"`
	Type             *string           `json:"type"`
	Policies         *[]string         `json:"policies"`
	IdentityPolicies []string          `json:"identity_policies"`
	NumUses          *int64            `json:"num_uses"`
	TTL              *int64            `json:"ttl"`
	ExpireTime       *time.Time        `json:"expire_time"` // null: never
	BoundCIDRs       []json.RawMessage `json:"bound_cidrs"`
	NamespacePath    string            `json:"namespace_path"` // absent in the root namespace
	CreationTime     int64             `json:"creation_time"`  // seconds since 1970
	Accessor         string            `json:"accessor"`       // batch tokens have none
	DisplayName      string            `json:"display_name"`
	EntityID         string            `json:"entity_id"`
	Meta             map[string]string `json:"meta"`
	Renewable        bool              `json:"renewable"`
}

// decode decodes the body of an answer. Errors do not repeat what is in it, because
// the token is.
func decode(body []byte) (*answer, error) {
	var envelope struct {
		Data *answer `json:"data"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, fmt.Errorf("the member %q of the answer has a wrong type", wrong.Field)
		}
		return nil, errors.New("the answer is broken JSON")
	}
	a := envelope.Data
	if a == nil || a.ID == nil || a.Type == nil || a.Policies == nil || a.NumUses == nil || a.TTL == nil {
		return nil, errors.New("the answer lacks one of id, type, policies, num_uses and ttl")
	}
	return a, nil
}

// identity turns what the server says about a token into an identity.
func (p *Provider) identity(a *answer, value string, asked time.Time) (*access.External, error) {
	// A proxy can put a token of its own into every request (auto-auth). Everybody
	// would then be whoever the proxy is.
	if subtle.ConstantTimeCompare([]byte(*a.ID), []byte(value)) != 1 {
		return nil, p.nonsense(200, "the answer is about another token than the one asked about; is the address that of an agent or proxy with a token of its own?")
	}
	switch {
	case *a.Type != "service" && *a.Type != "batch":
		return nil, p.refuse(a, "it is neither a service nor a batch token")
	case *a.NumUses != 0:
		return nil, p.refuse(a, "it has a limited number of uses, and each look at it takes one")
	case len(a.BoundCIDRs) > 0:
		return nil, p.refuse(a, "it is bound to addresses, which cannot be checked here")
	case len(*a.Policies)+len(a.IdentityPolicies) > maxPolicies:
		return nil, p.refuse(a, fmt.Sprintf("it has more than %d policies", maxPolicies))
	case size(a.Meta) > maxMetaBytes:
		return nil, p.refuse(a, fmt.Sprintf("its metadata are larger than %d bytes", maxMetaBytes))
	}

	policies := slices.Concat(*a.Policies, a.IdentityPolicies)
	slices.Sort(policies)
	policies = slices.Compact(policies)
	namespace := event.CanonicalNamespace(a.NamespacePath)
	root := p.allowRoot && namespace == "" && slices.Contains(policies, "root")
	policies = slices.DeleteFunc(policies, func(name string) bool { return name == "" || name == "root" && !root })

	expires, ok := expiry(a, asked)
	if !ok {
		return nil, access.ErrDenied // it ends now
	}
	x := &access.External{
		Provider:    p.name,
		DisplayName: a.DisplayName,
		Accessor:    a.Accessor,
		Namespace:   namespace,
		Policies:    policies,
		Root:        root,
		Subject: policy.Subject{
			EntityID:      a.EntityID,
			TokenMetadata: a.Meta,
			DisplayName:   a.DisplayName,
		},
		Expires:   expires,
		Renewable: a.Renewable,
		Meta:      maps.Clone(a.Meta),
	}
	if a.CreationTime > 0 {
		x.Created = time.Unix(a.CreationTime, 0)
	}
	return x, nil
}

// expiry returns when a token ends by the clock of this machine; zero: never. It is
// not ok when that is now.
//
// The server says it twice. expire_time is exact, but by the clock of the server;
// ttl is in whole seconds, but right with any clock.
func expiry(a *answer, asked time.Time) (expires time.Time, ok bool) {
	if a.ExpireTime == nil {
		if *a.TTL <= 0 {
			return time.Time{}, true
		}
		return asked.Add(seconds(*a.TTL)), true
	}
	byTTL := asked.Add(seconds(*a.TTL))
	if difference := a.ExpireTime.Sub(byTTL); difference.Abs() <= clockSlack {
		return *a.ExpireTime, a.ExpireTime.After(asked)
	}
	return byTTL, *a.TTL > 0
}

// seconds bounds n to what a Duration can hold.
func seconds(n int64) time.Duration {
	const most = int64(100 * 365 * 24 * time.Hour / time.Second)
	return time.Duration(max(0, min(n, most))) * time.Second
}

func size(meta map[string]string) (n int) {
	for k, v := range meta {
		n += len(k) + len(v)
	}
	return n
}
