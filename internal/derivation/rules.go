package derivation

import (
	"slices"
	"strings"
)

// When says which entry of a request gives the event of a [Rule].
type When uint8

// The moments of a request.
const (
	OnSuccess When = iota // the response of a request that succeeded
	OnFailure             // the response of a request that failed
	OnRequest             // the request entry of a request that gets no response
	OnRefusal             // the request entry, with an error, of a request that gets no response
)

// Rule is one line of the table of events beside kv.
type Rule struct {
	Mounts     string // mount types, separated by spaces; "*" any
	Class      string // mount class, "secret" or "auth"; empty any
	Path       string // below the mount; {name} is one element, {name...} several; {_} is not named in the metadata
	Operations string // separated by spaces; "write" is create, update and patch
	When       When
	Type       string
	Unmodified bool   // metadata "modified" is "false"
	Extra      string // further metadata, separated by spaces: see extraMetadata
}

// Metadata returns the keys of the event's metadata beside path, operation and modified,
// in the order of the path and of Extra. Those that the stream does not tell are left out
// of an event.
func (r Rule) Metadata() []string {
	var keys []string
	add := func(key string) {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for element := range strings.SplitSeq(r.Path, "/") {
		if name := strings.Trim(element, "{.}"); element != "" && element[0] == '{' && name != "_" {
			add(name)
		}
	}
	for extra := range strings.FieldsSeq(r.Extra) {
		switch extra { // see extraMetadata
		case "issued":
			for _, key := range []string{"display_name", "entity_id", "policies", "token_type"} {
				add(key)
			}
		case "lease":
			add("lease_id")
		default:
			add(extra)
		}
	}
	return keys
}

const (
	system = "system ns_system"
	token  = "token ns_token"
	ldap   = "ldap openldap"
)

// Rules is the table: the first rule that fits a request gives its event. Metadata
// are path, operation (what stands behind the slash of the type), modified, the
// names in the path, and those under Extra. Names that Vault has (database, ldap,
// azure, lease) mean what they mean there, and have its metadata as far as the
// stream tells. docs/event-types.md is made from it.
//
// Only writes and failures that call for action have an event, never the reading
// of a secret, except where reading makes one.
var Rules = []Rule{
	// The token store.
	{token, "", "create", "write", OnSuccess, "token/create", false, "issued"},
	{token, "", "create-orphan", "write", OnSuccess, "token/create", false, "issued"},
	{token, "", "create/{role}", "write", OnSuccess, "token/create", false, "issued"},
	{token, "", "renew", "write", OnSuccess, "token/renew", false, "issued"},
	{token, "", "renew-self", "write", OnSuccess, "token/renew", false, "issued"},
	{token, "", "renew-accessor", "write", OnSuccess, "token/renew", false, "issued"},
	{token, "", "revoke", "write", OnSuccess, "token/revoke", false, ""},
	{token, "", "revoke-self", "write", OnSuccess, "token/revoke", false, ""},
	{token, "", "revoke-accessor", "write", OnSuccess, "token/revoke", false, ""},
	{token, "", "revoke-orphan", "write", OnSuccess, "token/revoke", false, ""},
	{token, "", "roles/{name}", "write", OnSuccess, "token/role-write", false, ""},
	{token, "", "roles/{name}", "delete", OnSuccess, "token/role-delete", false, ""},
	{token, "", "tidy", "write", OnSuccess, "token/tidy", false, ""},

	// Leases.
	{system, "", "leases/renew", "write", OnSuccess, "lease/renewed", false, "lease"},
	{system, "", "leases/renew/{lease_id...}", "write", OnSuccess, "lease/renewed", false, "lease"},
	{system, "", "renew", "write", OnSuccess, "lease/renewed", false, "lease"},
	{system, "", "renew/{lease_id...}", "write", OnSuccess, "lease/renewed", false, "lease"},
	{system, "", "leases/revoke", "write", OnSuccess, "lease/revoked", false, ""},
	{system, "", "leases/revoke/{lease_id...}", "write", OnSuccess, "lease/revoked", false, ""},
	{system, "", "revoke", "write", OnSuccess, "lease/revoked", false, ""},
	{system, "", "revoke/{lease_id...}", "write", OnSuccess, "lease/revoked", false, ""},
	{system, "", "leases/revoke-prefix/{prefix...}", "write", OnSuccess, "lease/revoke-prefix", false, ""},
	{system, "", "leases/revoke-force/{prefix...}", "write", OnSuccess, "lease/revoke-force", false, ""},
	{system, "", "revoke-prefix/{prefix...}", "write", OnSuccess, "lease/revoke-prefix", false, ""},
	{system, "", "revoke-force/{prefix...}", "write", OnSuccess, "lease/revoke-force", false, ""},

	// Policies.
	{system, "", "policies/acl/{name...}", "write", OnSuccess, "policy/write", false, ""},
	{system, "", "policies/acl/{name...}", "delete", OnSuccess, "policy/delete", false, ""},
	{system, "", "policy/{name...}", "write", OnSuccess, "policy/write", false, ""},
	{system, "", "policy/{name...}", "delete", OnSuccess, "policy/delete", false, ""},
	{system, "", "policies/{kind}/{name...}", "write", OnSuccess, "policy/write", false, ""},
	{system, "", "policies/{kind}/{name...}", "delete", OnSuccess, "policy/delete", false, ""},

	// Mounts, auth methods, audit devices, plugins, namespaces, quotas.
	{system, "", "mounts/{mount...}/tune", "write", OnSuccess, "mount/tune", false, ""},
	{system, "", "mounts/{mount...}", "write", OnSuccess, "mount/enable", false, ""},
	{system, "", "mounts/{mount...}", "delete", OnSuccess, "mount/disable", false, ""},
	{system, "", "remount", "write", OnSuccess, "mount/move", false, ""},
	{system, "", "auth/{mount...}/tune", "write", OnSuccess, "auth/tune", false, ""},
	{system, "", "auth/{mount...}", "write", OnSuccess, "auth/enable", false, ""},
	{system, "", "auth/{mount...}", "delete", OnSuccess, "auth/disable", false, ""},
	{system, "", "audit/{device...}", "write", OnSuccess, "audit-device/enable", false, ""},
	{system, "", "audit/{device...}", "delete", OnSuccess, "audit-device/disable", false, ""},
	{system, "", "config/auditing/request-headers/{header}", "write", OnSuccess, "audit-device/header-write", false, ""},
	{system, "", "config/auditing/request-headers/{header}", "delete", OnSuccess, "audit-device/header-delete", false, ""},
	{system, "", "plugins/catalog/{kind}/{name}", "write", OnSuccess, "plugin/register", false, ""},
	{system, "", "plugins/catalog/{kind}/{name}", "delete", OnSuccess, "plugin/deregister", false, ""},
	{system, "", "plugins/reload/{_...}", "write", OnSuccess, "plugin/reload", false, ""},
	{system, "", "namespaces/{name...}", "write", OnSuccess, "namespace/write", false, ""},
	{system, "", "namespaces/{name...}", "delete", OnSuccess, "namespace/delete", false, ""},
	{system, "", "quotas/{kind}/{name}", "write", OnSuccess, "quota/write", false, ""},
	{system, "", "quotas/{kind}/{name}", "delete", OnSuccess, "quota/delete", false, ""},

	// The server itself.
	{system, "", "seal", "write", OnRequest, "seal/seal", false, ""},
	{system, "", "step-down", "write", OnRequest, "seal/step-down", false, ""},
	{system, "", "rotate", "write", OnSuccess, "seal/rotate", false, ""},
	{system, "", "generate-root/attempt", "write", OnSuccess, "root-token/generate-start", false, ""},
	{system, "", "generate-root/attempt", "delete", OnSuccess, "root-token/generate-cancel", false, ""},
	{system, "", "generate-root/update", "write", OnSuccess, "root-token/generate-progress", false, ""},
	{system, "", "rekey/init", "write", OnSuccess, "seal/rekey-start", false, ""},
	{system, "", "rekey/init", "delete", OnSuccess, "seal/rekey-cancel", false, ""},
	{system, "", "rekey/update", "write", OnSuccess, "seal/rekey-progress", false, ""},
	{system, "", "wrapping/unwrap", "write", OnRefusal, "wrapping/unwrap-failed", true, ""},

	// Auth methods. Logins of every method are found by the token that the response
	// has; see applyRules.
	{"*", "auth", "login", "write", OnFailure, "auth/login-failed", true, "method"},
	{"*", "auth", "login/{name...}", "write", OnFailure, "auth/login-failed", true, "method"},
	{"userpass", "auth", "users/{name}/password", "write", OnSuccess, "userpass/password-write", false, ""},
	{"userpass", "auth", "users/{name}/policies", "write", OnSuccess, "userpass/user-write", false, ""},
	{"userpass", "auth", "users/{name}", "write", OnSuccess, "userpass/user-write", false, ""},
	{"userpass", "auth", "users/{name}", "delete", OnSuccess, "userpass/user-delete", false, ""},
	{"approle", "auth", "role/{name}/secret-id", "write", OnSuccess, "approle/secret-id-create", false, ""},
	{"approle", "auth", "role/{name}/custom-secret-id", "write", OnSuccess, "approle/secret-id-create", false, ""},
	{"approle", "auth", "role/{name}/secret-id/destroy", "write delete", OnSuccess, "approle/secret-id-destroy", false, ""},
	{"approle", "auth", "role/{name}/secret-id-accessor/destroy", "write delete", OnSuccess, "approle/secret-id-destroy", false, ""},
	{"approle kubernetes jwt oidc aws azure gcp cert", "auth", "role/{name}", "write", OnSuccess, "auth/role-write", false, "method"},
	{"approle kubernetes jwt oidc aws azure gcp cert", "auth", "role/{name}", "delete", OnSuccess, "auth/role-delete", false, "method"},
	{"cert", "auth", "certs/{name}", "write", OnSuccess, "auth/role-write", false, "method"},
	{"cert", "auth", "certs/{name}", "delete", OnSuccess, "auth/role-delete", false, "method"},
	{"ldap okta github radius", "auth", "users/{name}", "write", OnSuccess, "auth/user-write", false, "method"},
	{"ldap okta github radius", "auth", "users/{name}", "delete", OnSuccess, "auth/user-delete", false, "method"},
	{"ldap okta", "auth", "groups/{name}", "write", OnSuccess, "auth/group-write", false, "method"},
	{"ldap okta", "auth", "groups/{name}", "delete", OnSuccess, "auth/group-delete", false, "method"},
	{"*", "auth", "config", "write", OnSuccess, "auth/config-write", false, "method"},

	// Identity.
	{"identity ns_identity", "", "entity", "write", OnSuccess, "identity/entity-write", false, ""},
	{"identity ns_identity", "", "entity/merge", "write", OnSuccess, "identity/entity-merge", false, ""},
	{"identity ns_identity", "", "entity/{by}/{name}", "write", OnSuccess, "identity/entity-write", false, ""},
	{"identity ns_identity", "", "entity/{by}/{name}", "delete", OnSuccess, "identity/entity-delete", false, ""},
	{"identity ns_identity", "", "entity-alias", "write", OnSuccess, "identity/alias-write", false, ""},
	{"identity ns_identity", "", "entity-alias/{by}/{name}", "write", OnSuccess, "identity/alias-write", false, ""},
	{"identity ns_identity", "", "entity-alias/{by}/{name}", "delete", OnSuccess, "identity/alias-delete", false, ""},
	{"identity ns_identity", "", "group", "write", OnSuccess, "identity/group-write", false, ""},
	{"identity ns_identity", "", "group/{by}/{name}", "write", OnSuccess, "identity/group-write", false, ""},
	{"identity ns_identity", "", "group/{by}/{name}", "delete", OnSuccess, "identity/group-delete", false, ""},
	{"identity ns_identity", "", "group-alias", "write", OnSuccess, "identity/group-alias-write", false, ""},
	{"identity ns_identity", "", "group-alias/{by}/{name}", "write", OnSuccess, "identity/group-alias-write", false, ""},
	{"identity ns_identity", "", "group-alias/{by}/{name}", "delete", OnSuccess, "identity/group-alias-delete", false, ""},

	// Databases.
	{"database", "secret", "config/{name}", "write", OnSuccess, "database/config-write", false, ""},
	{"database", "secret", "config/{name}", "delete", OnSuccess, "database/config-delete", false, ""},
	{"database", "secret", "reset/{name}", "write", OnSuccess, "database/reset", true, ""},
	{"database", "secret", "reload/{plugin_name}", "write", OnSuccess, "database/reload", false, ""},
	{"database", "secret", "roles/{name}", "create", OnSuccess, "database/role-create", false, ""},
	{"database", "secret", "roles/{name}", "update patch", OnSuccess, "database/role-update", false, ""},
	{"database", "secret", "roles/{name}", "delete", OnSuccess, "database/role-delete", false, ""},
	{"database", "secret", "static-roles/{name}", "create", OnSuccess, "database/static-role-create", false, ""},
	{"database", "secret", "static-roles/{name}", "update patch", OnSuccess, "database/static-role-update", false, ""},
	{"database", "secret", "static-roles/{name}", "delete", OnSuccess, "database/static-role-delete", false, ""},
	{"database", "secret", "creds/{name}", "read", OnSuccess, "database/creds-create", false, ""},
	{"database", "secret", "rotate-root/{name}", "write", OnSuccess, "database/root-rotate", false, ""},
	{"database", "secret", "rotate-root/{name}", "write", OnFailure, "database/root-rotate-fail", true, ""},
	{"database", "secret", "rotate-role/{name}", "write", OnSuccess, "database/rotate", false, ""},
	{"database", "secret", "rotate-role/{name}", "write", OnFailure, "database/rotate-fail", true, ""},

	// LDAP as a secret engine.
	{ldap, "secret", "config", "write", OnSuccess, "ldap/config-write", false, ""},
	{ldap, "secret", "config", "delete", OnSuccess, "ldap/config-delete", false, ""},
	{ldap, "secret", "role/{name}", "create", OnSuccess, "ldap/role-create", false, ""},
	{ldap, "secret", "role/{name}", "update patch", OnSuccess, "ldap/role-update", false, ""},
	{ldap, "secret", "role/{name}", "delete", OnSuccess, "ldap/role-delete", false, ""},
	{ldap, "secret", "static-role/{name}", "create", OnSuccess, "ldap/static-role-create", false, ""},
	{ldap, "secret", "static-role/{name}", "update patch", OnSuccess, "ldap/static-role-update", false, ""},
	{ldap, "secret", "static-role/{name}", "delete", OnSuccess, "ldap/static-role-delete", false, ""},
	{ldap, "secret", "creds/{name}", "read", OnSuccess, "ldap/creds-create", false, ""},
	{ldap, "secret", "creds/{name}", "read", OnFailure, "ldap/creds-create-fail", true, ""},
	{ldap, "secret", "library/{name}/check-out", "write", OnSuccess, "ldap/library-check-out", false, ""},
	{ldap, "secret", "library/{name}/check-in", "write", OnSuccess, "ldap/library-check-in", false, ""},
	{ldap, "secret", "library/manage/{name}/check-in", "write", OnSuccess, "ldap/library-check-in", false, ""},
	{ldap, "secret", "library/{name}", "create", OnSuccess, "ldap/library-create", false, ""},
	{ldap, "secret", "library/{name}", "update patch", OnSuccess, "ldap/library-update", false, ""},
	{ldap, "secret", "library/{name}", "delete", OnSuccess, "ldap/library-delete", false, ""},
	{ldap, "secret", "rotate-root", "write", OnSuccess, "ldap/root-rotate", false, ""},
	{ldap, "secret", "rotate-root", "write", OnFailure, "ldap/root-rotate-fail", true, ""},
	{ldap, "secret", "rotate-role/{name}", "write", OnSuccess, "ldap/rotate", false, ""},
	{ldap, "secret", "rotate-role/{name}", "write", OnFailure, "ldap/rotate-fail", true, ""},

	// Azure.
	{"azure", "secret", "config", "write", OnSuccess, "azure/config-write", false, ""},
	{"azure", "secret", "creds/{_}", "read", OnSuccess, "azure/creds-create", false, ""},
	{"azure", "secret", "creds/{_}", "read", OnFailure, "azure/creds-create-fail", true, ""},
	{"azure", "secret", "roles/{name}", "create", OnSuccess, "azure/role-create", false, ""},
	{"azure", "secret", "roles/{name}", "update patch", OnSuccess, "azure/role-update", false, ""},

	// Transit and PKI.
	{"transit", "secret", "keys/{name}/rotate", "write", OnSuccess, "transit/key-rotate", false, ""},
	{"transit", "secret", "keys/{name}/config", "write", OnSuccess, "transit/key-config-write", false, ""},
	{"transit", "secret", "keys/{name}/trim", "write", OnSuccess, "transit/key-trim", false, ""},
	{"transit", "secret", "keys/{name}/import", "write", OnSuccess, "transit/key-import", false, ""},
	{"transit", "secret", "keys/{name}/import_version", "write", OnSuccess, "transit/key-import", false, ""},
	{"transit", "secret", "keys/{name}", "write", OnSuccess, "transit/key-write", false, ""},
	{"transit", "secret", "keys/{name}", "delete", OnSuccess, "transit/key-delete", false, ""},
	{"pki", "secret", "issue/{role}", "write", OnSuccess, "pki/issue", false, ""},
	{"pki", "secret", "issuer/{issuer}/issue/{role}", "write", OnSuccess, "pki/issue", false, ""},
	{"pki", "secret", "sign/{role}", "write", OnSuccess, "pki/sign", false, ""},
	{"pki", "secret", "issuer/{issuer}/sign/{role}", "write", OnSuccess, "pki/sign", false, ""},
	{"pki", "secret", "revoke", "write", OnSuccess, "pki/revoke", false, ""},
	{"pki", "secret", "revoke-with-key", "write", OnSuccess, "pki/revoke", false, ""},
	{"pki", "secret", "roles/{name}", "write", OnSuccess, "pki/role-write", false, ""},
	{"pki", "secret", "roles/{name}", "delete", OnSuccess, "pki/role-delete", false, ""},
	{"pki", "secret", "root/generate/{kind}", "write", OnSuccess, "pki/root-generate", false, ""},
	{"pki", "secret", "root/rotate/{kind}", "write", OnSuccess, "pki/root-generate", false, ""},
	{"pki", "secret", "root", "delete", OnSuccess, "pki/root-delete", false, ""},
	{"pki", "secret", "intermediate/set-signed", "write", OnSuccess, "pki/intermediate-set", false, ""},
	{"pki", "secret", "issuer/{issuer}", "write", OnSuccess, "pki/issuer-write", false, ""},
	{"pki", "secret", "issuer/{issuer}", "delete", OnSuccess, "pki/issuer-delete", false, ""},
	{"pki", "secret", "config/{name}", "write", OnSuccess, "pki/config-write", false, ""},
	{"ssh", "secret", "sign/{role}", "write", OnSuccess, "ssh/sign", false, ""},
	{"ssh", "secret", "roles/{name}", "write", OnSuccess, "ssh/role-write", false, ""},
	{"ssh", "secret", "roles/{name}", "delete", OnSuccess, "ssh/role-delete", false, ""},
}

// GeneralRule is an event that no path decides. Under Extra is what metadata it has beside
// path, operation and modified, for people.
type GeneralRule struct{ When, Type, Extra string }

// Metadata returns the keys of the event's metadata beside path, operation and modified.
func (g GeneralRule) Metadata() []string {
	keys := strings.Split(g.Extra, ", ")
	for i, key := range keys {
		keys[i], _, _ = strings.Cut(key, " ") // without the remark behind it
	}
	return keys
}

// GeneralRules describes the events that are found without the table.
var GeneralRules = []GeneralRule{
	{"a response of an auth method, other than the token store, issues a token", "auth/login", "method, display_name, entity_id, policies, token_type"},
	{"a response issues a lease; sent beside the event of the secret engine", "lease/issued", "lease_id"},
	{"a request was answered with `permission denied`, and the table has no event for that", "request/denied", "request_operation, reason (policy or token)"},
	{"a request was refused by a quota", "request/rate-limited", "request_operation"},
}
