package policy_test

import (
	"fmt"

	"github.com/tocsin-events/tocsin/internal/policy"
)

func Example() {
	text := `
path "sys/events/subscribe/*" {
  capabilities = ["read"]
}
path "secret/data/{{token.metadata.team}}/*" {
  capabilities          = ["list", "subscribe"]
  subscribe_event_types = ["kv-v2/data-*"]
}
path "secret/data/+/keys" {
  capabilities = ["deny"]
}
`
	p, warnings, err := policy.Parse("team", text)
	if err != nil {
		fmt.Println(err) // every problem with its line and column
		return
	}
	fmt.Println(len(warnings), "warnings")

	subject := &policy.Subject{TokenMetadata: map[string]string{"team": "red"}}
	acl := policy.Compile([]policy.Bound{{Policy: p}}, subject)
	fmt.Println(acl.Allows(policy.Read, "sys/events/subscribe/kv*", nil))
	fmt.Println(acl.MaySee("", "secret/data/red/db", "kv-v2/data-write"))

	x := acl.Explain(policy.Query{Path: "secret/data/blue/keys", Operation: policy.Subscribe, EventType: "kv-v2/data-write"})
	fmt.Printf("%v: %s (%s, %s of policy %s)\n", x.Allowed, x.Reason, x.Winner.Pattern, x.Winner.Sources[0].Rule.Position, x.Winner.Sources[0].Policy)
	// Output:
	// 0 warnings
	// true
	// true
	// false: the rule denies (secret/data/+/keys, line 9, column 6 of policy team)
}

func ExampleParse() {
	_, _, err := policy.Parse("team", `{"path": {"secret/*": {"capabilities": ["reed"], "comments": ""}}}`)
	fmt.Println(err)
	// Output:
	// line 1, column 41: unknown capability "reed"; did you mean "read"?
	// line 1, column 50: unknown key "comments" in the rule for path "secret/*"; did you mean "comment"?
}
