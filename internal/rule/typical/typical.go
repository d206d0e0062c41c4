// Package typical writes rules as people have them, as many as wanted, for benchmarks: each is
// about a team, so that no two ask the same, and most ask some things that many ask.
package typical

import (
	"fmt"
	"strings"
)

// conditions of the rules of a team, whose name is put in for TEAM and whose number for N.
var conditions = []string{
	`is_write and audit.request.path startswith sys/policies/acl/TEAM and not audit.auth.display_name in (administrators)`,
	`is_read and audit.mount_type = kv and audit.request.path startswith secret/data/TEAM/ and not audit.auth.display_name startswith TEAM`,
	`audit.denied = true and audit.auth.display_name = TEAM-ci`,
	`audit.auth.is_root = true and audit.remote_address in (10.1.N.1, 10.1.N.2, 10.1.N.3)`,
	`audit.request.operation = update and audit.request.path glob "pki-TEAM/issue/*" and not audit.remote_address = 10.2.N.1`,
	`answered and audit.error contains "TEAM: no such role"`,
	`audit.auth.policies intersects (TEAM-admin, TEAM-owner) and not audit.request.path startswith sys/internal/`,
	`audit.request.operation = delete and audit.mount_type = kv and audit.request.path contains /TEAM-prod/`,
	`audit.type = response and audit.request.path regex "auth/TEAM-(oidc|jwt)/login/.*" and audit.failed = true`,
	`answered and audit.response.auth.token_ttl > 86400 and audit.response.auth.policies intersects (TEAM)`,
	`tolower(audit.auth.display_name) startswith TEAM-svc and is_write and not audit.request.path startswith auth/token/`,
	`audit.auth.metadata[username] = TEAM-bob and not audit.remote_address in (10.3.N.1, 10.3.N.2)`,
	`audit.request.namespace = TEAM/ and audit.request.path startswith sys/ and is_write`,
	`audit.request.operation = delete and audit.request.path pmatch (/transit/keys/TEAM, /totp/keys/TEAM)`,
	`is_write and audit.request.path endswith /TEAM/config`,
	`audit.request.path = auth/token/create/TEAM and audit.request.data[/ttl] exists and not from_inside`,
	`event.type = audit/response and audit.response.mount_type = TEAM-plugin and audit.outcome in (error, rejected)`,
	`audit.auth.entity_id in (0e0c6f52-TEAM, 5b0b6f10-TEAM) and not is_read`,
	`(audit.request.path startswith auth/TEAM/ or audit.request.path startswith identity/TEAM/) and is_write and not audit.auth.is_root = true`,
	`audit.is_login = true and audit.failed = true and audit.request.mount_point = auth/TEAM/`,
	`audit.request.path icontains /TEAM-SECRET/ and audit.request.operation in (read, list)`,
	`audit.auth.token_type = batch and audit.request.mount_point in (kv-TEAM/, database-TEAM/)`,
	`audit.request.operation = list and audit.mount_point startswith TEAM/ and not from_inside`,
	`concat(audit.auth.display_name, "@", audit.request.namespace) = "TEAM-root@TEAM/"`,
	`audit.request.header[user-agent] contains TEAM-scanner or audit.request.header[x-team] = TEAM`,
}

// before are the macros and lists that the conditions use.
const before = `
- list: administrators
  items: [alice-admin, bob-admin, carol-admin, dora-admin, break-glass, terraform, root-automation]
- list: write_operations
  items: [create, update, patch, delete]
- macro: answered
  condition: audit.type = response
- macro: is_read
  condition: (answered and audit.request.operation in (read, list))
- macro: is_write
  condition: (answered and audit.request.operation in (write_operations) and not audit.error exists)
- macro: from_inside
  condition: (audit.remote_address in (127.0.0.1, 10.0.0.1, 10.0.0.2, "::1"))
`

// Rules returns a file with n rules about audit entries. None is about an entry of the recording
// in internal/demo.
func Rules(n int) string {
	var b strings.Builder
	b.WriteString(before)
	for i := range n {
		team, number := fmt.Sprintf("team-%03d", i/len(conditions)), fmt.Sprint(i/len(conditions)%250)
		condition := strings.ReplaceAll(strings.ReplaceAll(conditions[i%len(conditions)], "TEAM", team), ".N.", "."+number+".")
		fmt.Fprintf(&b, `
- rule: Rule %d of %s
  desc: An example
  condition: >
    %s
  output: "by %%audit.auth.display_name from %%audit.remote_address at %%audit.request.path (%%audit.request.operation, request=%%audit.request.id)"
  priority: WARNING
  source: tocsin
  tags: [%s, mitre_credential_access]
`, i%len(conditions)+1, team, condition, team)
	}
	return b.String()
}
