package access

import (
	"fmt"
	"slices"

	"github.com/tocsin-events/tocsin/internal/policy"
)

// defaultPolicyName is the name of the policy that tokens have unless their creator
// did not want it.
const defaultPolicyName = "default"

// DefaultPolicy is the text of the policy "default" until somebody writes another
// one. It is for looking after the token itself and grants no events.
const DefaultPolicy = `# What every token may do unless it was made without the policy "default".
# It may be changed; events are granted by policies of your own.

path "auth/token/lookup-self" {
  comment      = "see one's own token"
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  comment      = "extend its life"
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  comment      = "end it"
  capabilities = ["update"]
}

path "sys/capabilities-self" {
  comment      = "find out what it may do"
  capabilities = ["update"]
}

path "sys/internal/ui/mounts/*" {
  comment      = "what clients ask before they use a path"
  capabilities = ["read"]
}
`

// implicitDefault is the policy "default" where none was written.
var implicitDefault = func() *stored {
	p, _, err := policy.Parse(defaultPolicyName, DefaultPolicy)
	if err != nil {
		panic(fmt.Sprintf("the policy %q: %v", defaultPolicyName, err))
	}
	return &stored{text: DefaultPolicy, policy: p}
}()

// cleanNames returns names as policies are stored under, sorted, without repeats and
// without those that no policy can have.
func cleanNames(names []string) []string {
	clean := make([]string, 0, len(names))
	for _, name := range names {
		if name, err := policy.CleanName(name); err == nil && name != policy.RootPolicy.Name {
			clean = append(clean, name)
		}
	}
	slices.Sort(clean)
	return slices.Compact(clean)
}
