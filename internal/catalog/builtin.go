package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/derivation"
)

// builtIn is a type that the program knows from the beginning.
type builtIn struct {
	name        string
	description string
	// vault is the version of Vault since which it has an event of this name and meaning;
	// empty if it has none.
	vault string
	// path and keys are an example of its path, and its metadata, separated by spaces.
	// Types that package derivation has in its table of rules have theirs from there.
	path, keys string
}

// since is the version of Tocsin that brought the built-in types.
const since = "0.1.0"

const (
	change       = "path operation modified" // what every event about a request has
	kv           = change + " current_version oldest_version"
	kvData       = kv + " data_path"
	kvConfig     = change + " data_path"
	named        = change + " name"
	audit        = "path operation request_path request_id mount_point mount_type redacted device imported"
	trail        = change + " outcome error accessor display_name entity_id policies provider remote_address shown_namespace shown_path"
	target       = trail + " target_accessor target_display_name target_policies target_namespace target_expires"
	story        = trail + " subscription_id event_type namespaces filter format"
	denied       = trail + " request_path count"
	mounted      = trail + " plugin mount_class mount_path mount_accessor"
	hosted       = mounted + " sha256"
	sink         = trail + " sink"
	pluginSource = trail + " plugin_source plugin plugin_version"
	outage       = sink + " sink_type reason since attempts response_status count"
	audited      = change + " action entity_type flipt_version status key id flag_key segment_key namespace_key authentication remote_address display_name email repeat_of imported"
)

// builtIns are all types that the program emits or that a plugin of Vault is known to
// send. Those of the rules of package derivation have no keys here.
var builtIns = []builtIn{
	// Audit entries, package source/vaultaudit.
	{"audit/request", "An audit entry of the type request, with its bytes as data.", "", "sys/audit/vault", audit},
	{"audit/response", "An audit entry of the type response, with its bytes as data.", "", "sys/audit/vault", audit},
	{"audit/quarantined", "A line of an audit log that is no audit entry, with its bytes as data.", "", "sys/audit/vault", "path reason redacted size torn device imported"},
	{"audit/lost", "Lines of an audit log that could not be kept, in their place.", "", "sys/audit/vault", "path reason lines bytes from to device"},

	// Key-value secrets: derived, or sent by the kv plugin.
	{"kv-v1/write", "A secret was written.", "1.13", "kv/app/db", kvConfig},
	{"kv-v1/delete", "A secret was deleted.", "1.13", "kv/app/db", change},
	{"kv-v2/data-write", "A new version of a secret was written.", "1.13", "secret/data/app/db", kvData},
	{"kv-v2/data-patch", "A new version of a secret was written by changing a part of the last one.", "1.13", "secret/data/app/db", kvData},
	{"kv-v2/data-delete", "The latest version of a secret was deleted; it can be undeleted.", "1.13", "secret/data/app/db", kv},
	{"kv-v2/delete", "Versions of a secret were deleted; they can be undeleted.", "1.13", "secret/delete/app/db", kv + " deleted_versions"},
	{"kv-v2/undelete", "Versions of a secret were undeleted.", "1.13", "secret/undelete/app/db", kvData + " undeleted_versions"},
	{"kv-v2/destroy", "Versions of a secret were removed for good.", "1.13", "secret/destroy/app/db", kv + " destroyed_versions"},
	{"kv-v2/metadata-write", "The settings of a secret were written.", "1.13", "secret/metadata/app/db", kvConfig},
	{"kv-v2/metadata-patch", "A part of the settings of a secret was changed.", "1.13", "secret/metadata/app/db", kvConfig},
	{"kv-v2/metadata-delete", "A secret was removed with all its versions and settings.", "1.13", "secret/metadata/app/db", change},
	{"kv-v2/config-write", "The settings of a mount were written.", "1.13", "secret/config", kvConfig},

	// Tokens, leases, policies.
	{"token/create", "A token was made.", "", "", ""},
	{"token/renew", "A token was renewed.", "", "", ""},
	{"token/revoke", "A token was revoked.", "", "", ""},
	{"token/role-write", "A token role was written.", "", "", ""},
	{"token/role-delete", "A token role was removed.", "", "", ""},
	{"token/tidy", "A clean-up of the token store was started.", "", "", ""},
	{"lease/issued", "A lease was issued, beside the event of the secret engine.", "2.0", "database/creds/app", ""},
	{"lease/renewed", "A lease was renewed.", "2.0", "", ""},
	{"lease/revoked", "A lease was revoked.", "2.0", "", ""},
	{"lease/expired", "A lease has expired. Only Vault itself says so: an audit log does not.", "2.0", "database/creds/app", change + " lease_id"},
	{"lease/revoke-prefix", "All leases below a prefix were revoked.", "", "", ""},
	{"lease/revoke-force", "All leases below a prefix were dropped, whatever the engine answered.", "", "", ""},
	{"policy/write", "A policy was written.", "", "", ""},
	{"policy/delete", "A policy was removed.", "", "", ""},

	// Mounts and the server.
	{"mount/enable", "A secret engine was mounted.", "", "", ""},
	{"mount/tune", "The settings of a mount were changed.", "", "", ""},
	{"mount/disable", "A secret engine was unmounted, with all it had.", "", "", ""},
	{"mount/move", "A mount was moved to another path.", "", "", ""},
	{"auth/enable", "An auth method was mounted.", "", "", ""},
	{"auth/tune", "The settings of an auth method's mount were changed.", "", "", ""},
	{"auth/disable", "An auth method was unmounted; its tokens are revoked.", "", "", ""},
	{"audit-device/enable", "An audit device was enabled.", "", "", ""},
	{"audit-device/disable", "An audit device was disabled.", "", "", ""},
	{"audit-device/header-write", "A request header is written to the audit log from now on.", "", "", ""},
	{"audit-device/header-delete", "A request header is no longer written to the audit log.", "", "", ""},
	{"plugin/register", "A plugin was registered in the catalogue of the server.", "", "", ""},
	{"plugin/deregister", "A plugin was removed from the catalogue of the server.", "", "", ""},
	{"plugin/reload", "Plugins were reloaded.", "", "", ""},
	{"namespace/write", "A namespace was made or changed.", "", "", ""},
	{"namespace/delete", "A namespace was removed.", "", "", ""},
	{"quota/write", "A quota was written.", "", "", ""},
	{"quota/delete", "A quota was removed.", "", "", ""},
	{"seal/seal", "The server was told to seal itself.", "", "", ""},
	{"seal/step-down", "The active node was told to step down.", "", "", ""},
	{"seal/rotate", "The encryption key of the storage was rotated.", "", "", ""},
	{"seal/rekey-start", "Making new unseal keys was begun.", "", "", ""},
	{"seal/rekey-cancel", "Making new unseal keys was given up.", "", "", ""},
	{"seal/rekey-progress", "An unseal key was given for making new ones.", "", "", ""},
	{"root-token/generate-start", "Making a root token was begun.", "", "", ""},
	{"root-token/generate-cancel", "Making a root token was given up.", "", "", ""},
	{"root-token/generate-progress", "An unseal key was given for making a root token.", "", "", ""},
	{"wrapping/unwrap-failed", "Unwrapping was refused: somebody else may have used the token before.", "", "", ""},
	{"request/denied", "A request was answered with \"permission denied\".", "", "secret/data/app/db", ""},
	{"request/rate-limited", "A request was refused by a quota.", "", "secret/data/app/db", ""},

	// Auth methods and identity.
	{"auth/login", "Somebody logged in.", "", "auth/userpass/login/bob", ""},
	{"auth/login-failed", "A login failed.", "", "", ""},
	{"auth/config-write", "The configuration of an auth method was written.", "", "", ""},
	{"auth/role-write", "A role of an auth method was written.", "", "", ""},
	{"auth/role-delete", "A role of an auth method was removed.", "", "", ""},
	{"auth/user-write", "A user of an auth method was written.", "", "", ""},
	{"auth/user-delete", "A user of an auth method was removed.", "", "", ""},
	{"auth/group-write", "A group of an auth method was written.", "", "", ""},
	{"auth/group-delete", "A group of an auth method was removed.", "", "", ""},
	{"userpass/user-write", "A user or the policies of one were written.", "", "", ""},
	{"userpass/user-delete", "A user was removed.", "", "", ""},
	{"userpass/password-write", "The password of a user was changed.", "", "", ""},
	{"approle/secret-id-create", "A secret id of a role was made.", "", "", ""},
	{"approle/secret-id-destroy", "A secret id of a role was removed.", "", "", ""},
	{"identity/entity-write", "An entity was written.", "", "", ""},
	{"identity/entity-merge", "Entities were merged.", "", "", ""},
	{"identity/entity-delete", "An entity was removed.", "", "", ""},
	{"identity/alias-write", "An alias of an entity was written.", "", "", ""},
	{"identity/alias-delete", "An alias of an entity was removed.", "", "", ""},
	{"identity/group-write", "A group was written.", "", "", ""},
	{"identity/group-delete", "A group was removed.", "", "", ""},
	{"identity/group-alias-write", "An alias of a group was written.", "", "", ""},
	{"identity/group-alias-delete", "An alias of a group was removed.", "", "", ""},

	// Databases. What only the plugin sends is known too, if one is hosted or read.
	{"database/config-write", "A connection was written.", "1.16", "", ""},
	{"database/config-delete", "A connection was removed.", "1.16", "", ""},
	{"database/reset", "A connection was closed and opened again.", "1.16", "", ""},
	{"database/reload", "All connections of a plugin were opened again.", "1.16", "", ""},
	{"database/reload-connection", "A connection was opened again with its plugin. Only the plugin says so.", "1.19", "database/reload/postgresql", named},
	{"database/reload-connection-fail", "A connection could not be opened again. Only the plugin says so.", "1.19", "database/reload/postgresql", named},
	{"database/role-create", "A role was made.", "1.16", "", ""},
	{"database/role-update", "A role was changed.", "1.16", "", ""},
	{"database/role-delete", "A role was removed.", "1.16", "", ""},
	{"database/static-role-create", "A static role was made.", "1.16", "", ""},
	{"database/static-role-update", "A static role was changed.", "1.16", "", ""},
	{"database/static-role-delete", "A static role was removed.", "1.16", "", ""},
	{"database/creds-create", "Credentials were made.", "1.16", "", ""},
	{"database/static-creds-create", "The credentials of a static role were set. Only the plugin says so.", "1.16", "database/static-creds/app", named},
	{"database/static-creds-create-fail", "The credentials of a static role could not be set. Only the plugin says so.", "1.16", "database/static-creds/app", named},
	{"database/root-rotate", "The password of a connection was rotated.", "1.16", "", ""},
	{"database/root-rotate-fail", "The password of a connection could not be rotated.", "1.16", "", ""},
	{"database/rotate", "The password of a static role was rotated.", "1.16", "", ""},
	{"database/rotate-fail", "The password of a static role could not be rotated.", "1.16", "", ""},

	// LDAP and Azure as secret engines.
	{"ldap/config-write", "The configuration was written.", "1.21", "", ""},
	{"ldap/config-delete", "The configuration was removed.", "1.21", "", ""},
	{"ldap/role-create", "A role was made.", "1.21", "", ""},
	{"ldap/role-update", "A role was changed.", "1.21", "", ""},
	{"ldap/role-delete", "A role was removed.", "1.21", "", ""},
	{"ldap/static-role-create", "A static role was made.", "1.21", "", ""},
	{"ldap/static-role-update", "A static role was changed.", "1.21", "", ""},
	{"ldap/static-role-delete", "A static role was removed.", "1.21", "", ""},
	{"ldap/creds-create", "Credentials were made.", "1.21", "", ""},
	{"ldap/creds-create-fail", "Credentials could not be made.", "1.21", "", ""},
	{"ldap/library-create", "A set of service accounts was made.", "1.21", "", ""},
	{"ldap/library-update", "A set of service accounts was changed.", "1.21", "", ""},
	{"ldap/library-delete", "A set of service accounts was removed.", "1.21", "", ""},
	{"ldap/library-check-out", "A service account was checked out.", "1.21", "", ""},
	{"ldap/library-check-in", "Service accounts were checked in.", "1.21", "", ""},
	{"ldap/root-rotate", "The password of the configured account was rotated.", "1.21", "", ""},
	{"ldap/root-rotate-fail", "The password of the configured account could not be rotated.", "1.21", "", ""},
	{"ldap/rotate", "The password of a static role was rotated.", "1.21", "", ""},
	{"ldap/rotate-fail", "The password of a static role could not be rotated.", "1.21", "", ""},
	{"azure/config-write", "The configuration was written.", "2.0", "", ""},
	{"azure/role-create", "A role was made.", "2.0", "", ""},
	{"azure/role-update", "A role was changed.", "2.0", "", ""},
	{"azure/static-role-update", "A static role was changed. Only the plugin says so.", "2.0", "azure/static-roles/app", named},
	{"azure/creds-create", "Credentials were made.", "2.0", "", ""},
	{"azure/creds-create-fail", "Credentials could not be made.", "2.0", "", ""},
	{"azure/rotate", "Credentials were rotated. Only the plugin says so.", "2.0", "azure/rotate-root", change},
	{"azure/rotate-fail", "Credentials could not be rotated. Only the plugin says so.", "2.0", "azure/rotate-root", change},

	// Transit, PKI, SSH.
	{"transit/key-write", "A key was made, or its settings written.", "", "", ""},
	{"transit/key-rotate", "A key got a new version.", "", "", ""},
	{"transit/key-config-write", "The settings of a key were changed.", "", "", ""},
	{"transit/key-trim", "Old versions of a key were removed.", "", "", ""},
	{"transit/key-import", "A key or a version of one was imported.", "", "", ""},
	{"transit/key-delete", "A key was removed.", "", "", ""},
	{"pki/issue", "A certificate and its key were made.", "", "", ""},
	{"pki/sign", "A certificate was signed.", "", "", ""},
	{"pki/revoke", "A certificate was revoked.", "", "", ""},
	{"pki/role-write", "A role was written.", "", "", ""},
	{"pki/role-delete", "A role was removed.", "", "", ""},
	{"pki/root-generate", "A root certificate was made.", "", "", ""},
	{"pki/root-delete", "The root key was removed.", "", "", ""},
	{"pki/intermediate-set", "A signed intermediate certificate was set.", "", "", ""},
	{"pki/issuer-write", "The settings of an issuer were written.", "", "", ""},
	{"pki/issuer-delete", "An issuer was removed.", "", "", ""},
	{"pki/config-write", "The configuration was written.", "", "", ""},
	{"ssh/sign", "A key was signed.", "", "", ""},
	{"ssh/role-write", "A role was written.", "", "", ""},
	{"ssh/role-delete", "A role was removed.", "", "", ""},

	// Audit events of Flipt servers, package source/fliptaudit.
	{"flipt/namespace/created", "A namespace of a Flipt server was made, or that was denied.", "", "flipt/prod/default/namespace/default", audited},
	{"flipt/namespace/updated", "A namespace of a Flipt server was changed, or that was denied.", "", "flipt/prod/default/namespace/default", audited},
	{"flipt/namespace/deleted", "A namespace of a Flipt server was removed, or that was denied.", "", "flipt/prod/default/namespace/default", audited},
	{"flipt/flag/created", "A flag of a Flipt server was made, or that was denied.", "", "flipt/prod/default/flag/new-checkout", audited},
	{"flipt/flag/updated", "A flag of a Flipt server was changed, or that was denied.", "", "flipt/prod/default/flag/new-checkout", audited},
	{"flipt/flag/deleted", "A flag of a Flipt server was removed, or that was denied.", "", "flipt/prod/default/flag/new-checkout", audited},
	{"flipt/variant/created", "A variant of a Flipt server was made, or that was denied.", "", "flipt/prod/default/variant/new-checkout/4198cd1b", audited},
	{"flipt/variant/updated", "A variant of a Flipt server was changed, or that was denied.", "", "flipt/prod/default/variant/new-checkout/4198cd1b", audited},
	{"flipt/variant/deleted", "A variant of a Flipt server was removed, or that was denied.", "", "flipt/prod/default/variant/new-checkout/4198cd1b", audited},
	{"flipt/segment/created", "A segment of a Flipt server was made, or that was denied.", "", "flipt/prod/default/segment/beta", audited},
	{"flipt/segment/updated", "A segment of a Flipt server was changed, or that was denied.", "", "flipt/prod/default/segment/beta", audited},
	{"flipt/segment/deleted", "A segment of a Flipt server was removed, or that was denied.", "", "flipt/prod/default/segment/beta", audited},
	{"flipt/constraint/created", "A constraint of a Flipt server was made, or that was denied.", "", "flipt/prod/default/constraint/beta/64df137c", audited},
	{"flipt/constraint/updated", "A constraint of a Flipt server was changed, or that was denied.", "", "flipt/prod/default/constraint/beta/64df137c", audited},
	{"flipt/constraint/deleted", "A constraint of a Flipt server was removed, or that was denied.", "", "flipt/prod/default/constraint/beta/64df137c", audited},
	{"flipt/rule/created", "A rule of a Flipt server was made, or that was denied.", "", "flipt/prod/default/rule/new-checkout/263ed890", audited},
	{"flipt/rule/updated", "A rule of a Flipt server was changed, or the order of those of a flag, or that was denied.", "", "flipt/prod/default/rule/new-checkout/263ed890", audited},
	{"flipt/rule/deleted", "A rule of a Flipt server was removed, or that was denied.", "", "flipt/prod/default/rule/new-checkout/263ed890", audited},
	{"flipt/distribution/created", "A distribution of a Flipt server was made, or that was denied.", "", "flipt/prod/~/distribution/6708a42c", audited},
	{"flipt/distribution/updated", "A distribution of a Flipt server was changed, or that was denied.", "", "flipt/prod/~/distribution/6708a42c", audited},
	{"flipt/distribution/deleted", "A distribution of a Flipt server was removed, or that was denied.", "", "flipt/prod/~/distribution/6708a42c", audited},
	{"flipt/rollout/created", "A rollout of a Flipt server was made, or that was denied.", "", "flipt/prod/default/rollout/new-checkout/e2f38c12", audited},
	{"flipt/rollout/updated", "A rollout of a Flipt server was changed, or the order of those of a flag, or that was denied.", "", "flipt/prod/default/rollout/new-checkout/e2f38c12", audited},
	{"flipt/rollout/deleted", "A rollout of a Flipt server was removed, or that was denied.", "", "flipt/prod/default/rollout/new-checkout/e2f38c12", audited},
	{"flipt/token/created", "A token of a Flipt server was made, or that was denied.", "", "flipt/prod/~/token/ci", audited},
	{"flipt/token/updated", "A token of a Flipt server was changed, or that was denied.", "", "flipt/prod/~/token/ci", audited},
	{"flipt/token/deleted", "A token of a Flipt server was removed, or that was denied.", "", "flipt/prod/~/token/ci", audited},
	{"flipt/quarantined", "What a Flipt server sent and is no audit event, with its bytes as data.", "", "flipt/prod", "path reason size sha256 imported"},

	// The hub itself, package trail.
	{"tocsin/token-create", "A token of the hub was made.", "", "auth/token/create", target},
	{"tocsin/token-renew", "A token of the hub was renewed.", "", "auth/token/renew-self", target},
	{"tocsin/token-revoke", "A token of the hub was revoked, or ended with its parent or after its last use.", "", "auth/token/revoke", target + " reason"},
	{"tocsin/token-expire", "The time of a token of the hub was up.", "", "auth/token/create", target},
	{"tocsin/policy-write", "A policy of the hub was written.", "", "sys/policies/acl/team-a", trail + " policy"},
	{"tocsin/policy-delete", "A policy of the hub was removed.", "", "sys/policies/acl/team-a", trail + " policy"},
	{"tocsin/login", "Somebody logged in to the hub, or looked the own token up.", "", "auth/kubernetes/login", target + " count"},
	{"tocsin/login-denied", "A login was refused.", "", "auth/kubernetes/login", denied},
	{"tocsin/request-denied", "A request was refused.", "", "sys/policies/acl/team-a", denied},
	{"tocsin/subscribe-denied", "A subscription was refused.", "", "sys/events/subscribe/kv*", denied},
	{"tocsin/publish-denied", "Events were not taken in because the publisher may not say such things.", "", "sys/events/publish/shop/order", denied},
	{"tocsin/mount", "A plugin was mounted.", "", "sys/mounts/secret", mounted},
	{"tocsin/mount-tune", "A mount was changed.", "", "sys/mounts/secret/tune", trail},
	{"tocsin/unmount", "A mount was removed with its storage.", "", "sys/mounts/secret", mounted},
	{"tocsin/plugin-register", "A plugin was put into the catalog of plugins, or changed there.", "", "sys/plugins/catalog/secret/kv", trail + " plugin plugin_version command sha256"},
	{"tocsin/plugin-deregister", "A plugin was taken out of the catalog of plugins.", "", "sys/plugins/catalog/secret/kv", trail + " plugin"},
	{"tocsin/plugin-reload", "A plugin was started anew, by a request or because its executable has changed.", "", "sys/mounts/secret", hosted + " mounts"},
	{"tocsin/plugin-crash", "The plugin of a mount has ended by itself.", "", "sys/mounts/secret", hosted + " reason"},
	{"tocsin/plugin-restart", "The plugin of a mount runs again.", "", "sys/mounts/secret", hosted},
	{"tocsin/plugin-source-failed", "A source plugin, or its stream, has failed, does not answer, or has sent what is not allowed. It is started again unless it is refused or is not to be.", "", "sys/plugin-sources/audit", pluginSource + " kind reason count since"},
	{"tocsin/plugin-source-recovered", "A source plugin that had failed runs well again.", "", "sys/plugin-sources/audit", pluginSource + " since"},
	{"tocsin/plugin-source-ended", "The stream of a source plugin has come to its end.", "", "sys/plugin-sources/audit", pluginSource},
	{"tocsin/subscription-start", "A subscription has begun.", "", "sys/events/subscribe/kv*", story},
	{"tocsin/subscription-end", "A subscription has ended.", "", "sys/events/subscribe/kv*", story + " delivered duration_seconds reason"},
	{"tocsin/sink-create", "A sink was added while the hub runs.", "", "sys/sinks/slack", sink + " sink_type"},
	{"tocsin/sink-update", "A sink was replaced while the hub runs.", "", "sys/sinks/slack", sink + " sink_type"},
	{"tocsin/sink-delete", "A sink that was added at run time was removed.", "", "sys/sinks/slack", sink + " kept dead_letters"},
	{"tocsin/sink-test", "A test event was handed to a sink.", "", "sys/sinks/slack", sink + " result event_type"},
	{"tocsin/sink-paused", "A sink is sent nothing until somebody resumes it.", "", "sys/sinks/slack", sink + " reason"},
	{"tocsin/sink-resumed", "A sink is sent events again.", "", "sys/sinks/slack", sink},
	{"tocsin/sink-disabled", "A sink is sent nothing any more: somebody wanted that, or its endpoint, which has answered 410.", "", "sys/sinks/slack", sink + " sink_type reason count"},
	{"tocsin/sink-failing", "Nothing can be delivered to a sink. It is tried again.", "", "sys/sinks/slack", outage},
	{"tocsin/sink-recovered", "A sink takes events again.", "", "sys/sinks/slack", outage + " duration_seconds"},
	{"tocsin/sink-gap", "The journal had removed events before they were sent to a sink.", "", "sys/sinks/slack", sink + " sink_type reason missed count"},
	{"tocsin/sink-full", "There is no room for more dead letters of a sink, which waits until some are redriven or removed.", "", "sys/sinks/slack", sink + " sink_type reason count"},
	{"tocsin/sink-letters-read", "Somebody has looked at dead letters.", "", "sys/sinks/slack", sink + " event_id"},
	{"tocsin/sink-redrive", "Dead letters are tried once more.", "", "sys/sinks/slack", sink + " dead_letters replay"},
	{"tocsin/sink-purge", "Dead letters were removed for good.", "", "sys/sinks/slack", sink + " dead_letters"},
	{"tocsin/sink-replay", "A part of the journal is sent to a sink once more.", "", "sys/sinks/slack", sink + " replay after until"},
	{"tocsin/sink-replay-cancel", "A replay or redrive was ended early.", "", "sys/sinks/slack", sink + " replay"},
	{"tocsin/rules-loaded", "Other rules judge events from now on: at the start, because their files have changed, or because somebody wanted it.", "", "sys/rules/", trail + " reason files rules waiting"},
	{"tocsin/rules-refused", "The files of rules have mistakes. The rules from before judge.", "", "sys/rules/", trail + " reason problems"},
	{"tocsin/rules-earlier", "The files of rules had mistakes when the hub was started. The last ones that were right judge, which it had kept.", "", "sys/rules/", trail + " loaded files rules waiting"},
	{"tocsin/rules-waiting", "Events are judged without rules that wait for a plugin which has not been started yet.", "", "sys/rules/", trail + " rules"},
	{"tocsin/rules-blind", "Events are judged without the field of a plugin that does not run, after they have waited for it.", "", "sys/rules/", trail},
	{"tocsin/rules-sighted", "All fields of plugins that rules ask for are there again.", "", "sys/rules/", trail},
	{"tocsin/rules-gap", "The journal had removed events before rules have judged them.", "", "sys/rules/", trail + " count"},
	{"tocsin/rules-memory-lost", "Something is lost of what windows and throttles of rules had remembered: it could not be read back, or throttles of rules that were gone at a start had held alerts back.", "", "sys/rules/", trail + " count"},
	{"tocsin/trail-lost", "Records of the hub about itself could not be kept.", "", "sys/trail", trail + " count since"},
}

// knownTypes are the built-in types by name.
var knownTypes = makeBuiltIns()

func makeBuiltIns() map[string]*Type {
	rules := make(map[string]derived)
	for i := range derivation.Rules {
		r := &derivation.Rules[i]
		d := rules[r.Type]
		d.keys = append(d.keys, r.Metadata()...)
		d.path = cmp.Or(d.path, examplePath(r))
		rules[r.Type] = d
	}
	for _, g := range derivation.GeneralRules {
		rules[g.Type] = derived{keys: g.Metadata()}
	}
	all := make(map[string]*Type, len(builtIns))
	for _, b := range builtIns {
		keys := strings.Fields(b.keys)
		path := b.path
		if b.keys == "" {
			d := rules[b.name]
			keys = append(strings.Fields(change), d.keys...)
			path = cmp.Or(path, d.path)
		}
		t := &Type{Name: b.name, Origin: BuiltIn, Description: b.description, Since: since, VaultSince: b.vault}
		slices.Sort(keys)
		for _, key := range slices.Compact(keys) {
			t.Metadata = append(t.Metadata, Key{Name: key, Meaning: meanings[key].meaning, Kinds: []string{kindNames[0]}})
		}
		if strings.HasPrefix(b.name, "audit/") {
			t.ContentTypes = []string{"application/json"}
		}
		t.example = exampleOf(t, path)
		all[b.name] = t
	}
	return all
}

// derived is what the rules of package derivation say about a type.
type derived struct {
	keys []string
	path string
}

// examplePath is a path to which a rule applies.
func examplePath(r *derivation.Rule) string {
	kind, _, _ := strings.Cut(r.Mounts, " ")
	mount := kind + "/"
	switch {
	case kind == "system":
		mount = "sys/"
	case kind == "token":
		mount = "auth/token/"
	case kind == "*":
		mount = "auth/userpass/"
	case r.Class == "auth":
		mount = "auth/" + mount
	}
	var path []string
	for element := range strings.SplitSeq(r.Path, "/") {
		if strings.HasPrefix(element, "{") {
			element = cmp.Or(meanings[strings.Trim(element, "{.}")].example, "app")
		}
		path = append(path, element)
	}
	return mount + strings.Join(path, "/")
}

// exampleOf makes an example of the event of a built-in type.
func exampleOf(t *Type, path string) *event.Event {
	_, what, _ := strings.Cut(t.Name, "/")
	producer := "vault://vault"
	if strings.HasPrefix(t.Name, "tocsin/") {
		producer = "tocsin://hub-1"
	}
	e := &event.Event{ID: exampleID, Type: t.Name, Source: producer, Path: path, Time: exampleTime, Metadata: event.Fields{}}
	for _, key := range t.Metadata {
		value := meanings[key.Name].example
		switch key.Name {
		case event.MetadataPath, event.MetadataDataPath:
			value = path
		case event.MetadataOperation:
			value = what
			if strings.HasPrefix(t.Name, "audit/") {
				value = "update" // that of the request
			}
		case event.MetadataModified:
			value = "true"
			if strings.Contains(what, "fail") || strings.Contains(what, "denied") {
				value = "false"
			}
		case "error", "shown_namespace", "shown_path", "redacted", "size", "torn", "count", "imported", "lines", "bytes", "from", "to":
			continue // of some events only
		}
		e.Metadata.Set(key.Name, value)
	}
	if len(t.ContentTypes) > 0 {
		e.Data, e.DataContentType = []byte(fmt.Sprintf(`{"type":%q}`, what)), t.ContentTypes[0]
	}
	return e
}

// What examples have where it does not matter.
const exampleID = "00000000-0000-0000-0000-000000000000"

var exampleTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// meanings are the metadata keys of the built-in types: what they mean, and an example.
var meanings = map[string]struct{ meaning, example string }{
	"path":      {"API path of what happened; whoever may subscribe to it sees the event", ""},
	"data_path": {"API path from which the new data can be read", ""},
	"operation": {"what was done: mostly what stands behind the / of the type", ""},
	"modified":  {"true when stored data changed, else false", ""},

	"current_version":    {"number of the latest version after the change", "2"},
	"oldest_version":     {"number of the oldest version that is kept; 0 while none was removed", "0"},
	"deleted_versions":   {"numbers of the deleted versions, a JSON array", "[1]"},
	"undeleted_versions": {"numbers of the undeleted versions, a JSON array", "[1]"},
	"destroyed_versions": {"numbers of the destroyed versions, a JSON array", "[1]"},

	"name":        {"name of the object: role, user, policy, key, ...", "app"},
	"kind":        {"kind of the object, as in the path; of the failure of a source plugin: start, failure, timeout, protocol, refused or state", "rate-limit"},
	"by":          {"id or name: by what the object is named", "id"},
	"mount":       {"path of the mount, without a slash at its end", "secret"},
	"device":      {"the audit device: its path; of an entry, the source over which it came, if that is not called like the server", "file"},
	"header":      {"name of the request header", "X-Request-Id"},
	"prefix":      {"prefix of the lease ids", "database/creds/app"},
	"plugin_name": {"name of the plugin", "postgresql"},
	"issuer":      {"name or id of the issuer", "default"},
	"role":        {"name of the role", "app"},
	"lease_id":    {"id of the lease", "database/creds/app/0001"},
	"method":      {"type of the auth method", "userpass"},
	"token_type":  {"service or batch", "service"},

	"display_name": {"display name of the token", "userpass-bob"},
	"entity_id":    {"id of the entity of the token", exampleID},
	"policies":     {"policies of the token: names with commas between them, or (tocsin/...) a JSON array", "default,app"},

	"request_operation": {"operation of the request", "read"},
	"reason":            {"why", "policy"},

	"request_path": {"path of the request, also where it is no path of the API", "secret/data/app/db"},
	"request_id":   {"id of the request", exampleID},
	"mount_point":  {"path of the mount", "secret/"},
	"mount_type":   {"type of the mount", "kv"},
	"imported":     {"true for what came from an old log that was imported", "true"},
	"lines":        {"how many lines are missing; left out when that is not known", "120"},
	"bytes":        {"how many bytes the missing lines had; left out when that is not known", "96000"},
	"from":         {"when the first of them came", "2026-11-21T06:00:00Z"},
	"to":           {"when the last of them came", "2026-11-21T06:00:02Z"},
	"redacted":     {"true when values in the data were hashed by Tocsin", "false"},
	"size":         {"bytes of the whole, when the data is only its beginning, or is elsewhere", "70000000"},
	"torn":         {"true for a line whose end was never written", "true"},

	"action":         {"what was done: created, updated, deleted", "created"},
	"entity_type":    {"the kind of thing: flag, segment, rule, ...", "flag"},
	"flipt_version":  {"version of the audit event", "0.2"},
	"status":         {"success or denied", "success"},
	"key":            {"key of the thing, or the name of a token", "new-checkout"},
	"id":             {"id of the thing", exampleID},
	"flag_key":       {"the flag that it belongs to", "new-checkout"},
	"segment_key":    {"the segment that it belongs to", "beta"},
	"namespace_key":  {"namespace of the Flipt server", "default"},
	"authentication": {"how the actor was authenticated: none, or the method", "oidc"},
	"email":          {"address of mail of the actor", "bob@example.com"},
	"repeat_of":      {"id of an event that this one may be a repeat of", exampleID},

	"outcome":             {"done or refused", "done"},
	"error":               {"why it was refused", ""},
	"accessor":            {"accessor of the token that did it", "AbCdEfGhIjKl"},
	"provider":            {"who knows the token: token, upstream, or the name of a JWT issuer", "token"},
	"remote_address":      {"address from which it was done", "192.0.2.1"},
	"shown_namespace":     {"namespace, where it cannot be that of the event", ""},
	"shown_path":          {"path, where it cannot be that of the event", ""},
	"target_accessor":     {"accessor of the token to which it was done", "MnOpQrStUvWx"},
	"target_display_name": {"its display name", "token-app"},
	"target_policies":     {"its policies, a JSON array", `["app","default"]`},
	"target_namespace":    {"its namespace; missing for root", "ns1/"},
	"target_expires":      {"when it ends; missing for never", "2026-01-01T01:00:00Z"},
	"policy":              {"name of the policy", "team-a"},
	"plugin":              {"name of the plugin: in the catalog, or what a source plugin calls itself", "kv"},
	"plugin_version":      {"version of the plugin, as it was registered, or as a source plugin says", "v0.25.0"},
	"plugin_source":       {"name of the source that the plugin is", "audit"},
	"mount_class":         {"secret or auth", "secret"},
	"mount_path":          {"where the plugin is mounted, with a slash at the end", "secret/"},
	"mount_accessor":      {"name of the mount that stays the same for its life", "kv_957bb7d8"},
	"mounts":              {"the mounts that were started anew, separated by spaces", "secret/"},
	"command":             {"executable of the plugin, below the directory of plugins", "vault-plugin-secrets-kv"},
	"sha256":              {"checksum of the executable, or of the bytes, in hexadecimal digits", "3931d990d9c2d71694dcfd86fae911eb1b11aa4039ab5093a517bcb68d00089e"},
	"files":               {"how many files of rules", "2"},
	"loaded":              {"when the rules that judge were loaded", "2026-11-27T20:10:11Z"},
	"rules":               {"how many rules judge, or their names", "21"},
	"waiting":             {"how many rules wait for a plugin", "0"},
	"problems":            {"how many mistakes", "1"},
	"count":               {"how many this event stands for", ""},
	"since":               {"time of the first of them", "2026-01-01T00:00:00Z"},
	"subscription_id":     {"id of the subscription, the same at its end", exampleID},
	"event_type":          {"types that were asked for", "kv*"},
	"namespaces":          {"namespaces that were asked for", ""},
	"filter":              {"filter that was asked for", ""},
	"format":              {"format of the events", "vault"},
	"sink":                {"name of the sink", "slack"},
	"sink_type":           {"type of the sink", "webhook"},
	"kept":                {"true when its place in the journal and its dead letters stay", "true"},
	"dead_letters":        {"how many dead letters are concerned", "12"},
	"result":              {"what became of the test event", "delivered"},
	"event_id":            {"id of the event; missing for a list", exampleID},
	"missed":              {"how many events are missing; 0 when that is not known", "120"},
	"attempts":            {"how many attempts have failed", "7"},
	"response_status":     {"status of the last response, if there was one", "503"},
	"replay":              {"id of the replay or redrive", "1"},
	"after":               {"position after which it begins; missing for the beginning of the journal", ""},
	"until":               {"position of the last event", ""},
	"delivered":           {"events that were sent", "17"},
	"duration_seconds":    {"how long it lasted", "3600.000"},
}
