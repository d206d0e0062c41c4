package trace

import "strings"

// vocabularies has the words of the API below a mount, by mount type. A word of a path that
// is not among them is somebody's name for something. Where a name equals a word, it stays
// in the name of the span, which does no harm: there are only so many words.
//
// authWords are those of all auth methods together, for methods that are not known.
var vocabularies, authWords = compileVocabularies()

func words(list string) map[string]struct{} {
	set := make(map[string]struct{})
	for w := range strings.FieldsSeq(list) {
		set[w] = struct{}{}
	}
	return set
}

func compileVocabularies() (byType map[string]map[string]struct{}, auth map[string]struct{}) {
	byType, auth = make(map[string]map[string]struct{}), make(map[string]struct{})
	for _, v := range []struct{ types, words string }{
		{"kv generic", `data metadata delete undelete destroy subkeys detailed-metadata config`},
		{"cubbyhole", ``},
		{"system ns_system", `
			activation-flags activity audit audit-hash auditing auth capabilities capabilities-accessor capabilities-self
			ciphers config cors control-group authorize request counters clients entities export monthly requests tokens
			decode decode-token encryption events experiments feature-flags force-restart generate-recovery-token
			generate-root attempt update ha-status health host-info in-flight-req init internal inspect router ui mounts
			namespaces resultant-acl openapi specs key-status leader leases count irrevocable-leases lookup renew revoke
			revoke-force revoke-prefix tidy license reload status loggers managed-keys metrics mfa method monitor
			tune options password generate password-policies plugins catalog builtins pins runtimes
			policies acl egp rgp policy pprof allocs block cmdline goroutine heap mutex profile symbol threadcreate trace
			quotas rate-limit lease-count raw rekey verify rekey-recovery-key backup recovery-key-backup remount
			replication dr performance primary secondary recover reindex enable demote promote disable disconnect
			request-headers rotate keyring root recovery seal seal-status seal-backend-status unseal state step-down
			storage raft bootstrap challenge answer autopilot configuration snapshot snapshot-force snapshot-auto
			join remove-peer sync destinations associations tools hash random utilization-report utilization use-case
			validate version-history workflows execute profiles wrapping unwrap rewrap wrap pubkey
			config-ui headers custom-messages authenticated group-policy-application default-auth-methods`},
		{"identity ns_identity", `
			entity entity-alias group group-alias id name lookup merge batch-delete persona alias oidc config key rotate
			role token introspect provider client scope assignment authorize userinfo .well-known openid-configuration keys
			mfa method totp duo okta pingid login-enforcement generate admin-generate admin-destroy`},
		{"token ns_token", `
			accessors create create-orphan lookup lookup-accessor lookup-self renew renew-accessor renew-self revoke
			revoke-accessor revoke-orphan revoke-self roles tidy`},
		{"userpass", `login users password policies mfa_config`},
		{"ldap openldap ad", `
			login config users groups duo access rotate-root rotate-role role static-role static-cred creds library
			check-out check-in manage status cred roles`},
		{"approle", `
			login role role-id secret-id secret-id-accessor custom-secret-id lookup destroy tidy policies bind-secret-id
			bound-cidr-list local-secret-ids period secret-id-bound-cidrs secret-id-num-uses secret-id-ttl
			token-bound-cidrs token-max-ttl token-num-uses token-ttl`},
		{"kubernetes", `login config role roles creds check`},
		{"jwt oidc", `login config role oidc auth_url callback poll`},
		{"cert", `login certs crls config`},
		{"github okta radius", `login config map teams users groups verify`},
		{"aws", `
			login config client certificate identity sts accountid tidy identity-accesslist identity-whitelist
			roletag-denylist roletag-blacklist tag root lease rotate-root rotate-role roles creds static-roles
			static-creds role`},
		{"azure", `login config role roles creds static-roles static-creds rotate-root rotate-role`},
		{"gcp alicloud", `
			login config role service-accounts labels roleset static-account impersonated-account key token rotate
			rotate-key rotate-root creds roles`},
		{"saml kerberos cf pcf oci scep spiffe", `login config role roles groups ldap keytab callback sso_service_url token`},
		{"database", `
			config creds roles role static-roles static-creds reset reload rotate-root rotate-role skip-import-rotation`},
		{"transit", `
			keys encrypt decrypt rewrap datakey plaintext wrapped sign verify hmac rotate config trim export backup restore
			random hash import import_version wrapping_key cache-config byok-export set-certificate csr
			encryption-key signing-key hmac-key public-key certificate-chain soft-delete soft-delete-restore
			derive-key cmac`},
		{"transform", `
			role roles transformation transformations template templates alphabet alphabets encode decode store stores
			schema tokenization masking fpe tokenized validate snapshot restore export-decoded import keys rotate trim`},
		{"pki", `
			acme directory new-nonce new-account new-order new-eab account order orders finalize cert certs challenge
			authorization revoke-cert key-change eab issue sign sign-verbatim sign-self-issued sign-intermediate sign-revocation-list
			issuer issuers issued roles role root generate internal exported existing kms rotate replace
			intermediate set-signed cross-sign delta crl pem der json ca ca_chain raw unified-crl unified-delta-crl
			unified-revocation resign-crls revoke revoke-with-key revoked keys key import bundle default config urls
			cluster auto-tidy tidy tidy-status tidy-cancel ocsp unified-ocsp est scep cmp cel revocation-queue
			external-policy metadata cert-metadata cert-count`},
		{"ssh", `
			config ca zeroaddress creds issue sign verify lookup roles public_key keys issuer issuers import default tidy
			dynamic-keys`},
		{"totp", `keys code`},
		{"consul nomad rabbitmq terraform mongodbatlas ns1", `config access lease connection creds roles role rotate-role root`},
		{"kmip keymgmt kmse", `
			config ca scope role credential generate lookup revoke key kms distribute keys rotate ca-generate
			ca-import roles scopes import export`},
	} {
		set := words(v.words)
		for t := range strings.FieldsSeq(v.types) {
			byType[t] = set
		}
		if _, login := set["login"]; login {
			for w := range set {
				auth[w] = struct{}{}
			}
		}
	}
	return byType, auth
}
