package jwt

import (
	"log/slog"
	"time"
)

// Defaults for what a [Config] leaves zero.
const (
	DefaultTimeout     = 5 * time.Second
	DefaultLeeway      = 30 * time.Second
	DefaultMaxLifetime = 24 * time.Hour
	DefaultKeyRefresh  = 5 * time.Minute
	DefaultPatience    = time.Hour
	DefaultUserClaim   = "sub"
)

// Config says whose tokens are accepted and what they may do. Name, Issuer and
// Audiences are required, and Rules or DefaultPolicies.
//
// A claim is named by its plain name, or, when it begins with a slash, by a JSON
// pointer (RFC 6901) into the claims: "/kubernetes.io/namespace".
type Config struct {
	// Name is what the issuer is called in identities, logs and errors: lower-case
	// letters, digits, - and _.
	Name string
	// Issuer is the claim "iss" of its tokens, compared byte by byte.
	Issuer string

	// Where the keys come from: at most one of the four. None: the discovery
	// document of the issuer.

	// DiscoveryURL is the URL of the OpenID Connect discovery document, or that to
	// which "/.well-known/openid-configuration" is added. It is for issuers that
	// are reached by another name than the one in their tokens.
	DiscoveryURL string
	// JWKSURL is the URL of the key set (RFC 7517).
	JWKSURL string
	// JWKSFile is a file with the key set.
	JWKSFile string
	// PublicKeyFiles are PEM files with public keys or certificates (of which only
	// the key is used).
	PublicKeyFiles []string

	// CAFile has the PEM certificates of the authorities that the certificate of
	// DiscoveryURL or JWKSURL is checked against. "": those of the system.
	CAFile string
	// BearerTokenFile has a token that is sent to DiscoveryURL or JWKSURL, and not to
	// another host that the discovery document names. A Kubernetes API server asks for
	// one: /var/run/secrets/kubernetes.io/serviceaccount/token.
	BearerTokenFile string
	// InsecureAllowHTTP permits http URLs of other hosts: whoever is on the network
	// can then put their own keys in. http on loopback needs no permission.
	InsecureAllowHTTP bool
	// ProxyURL is a proxy for the connections: http://host:port. "": none; the
	// environment is never asked.
	ProxyURL string
	// Timeout bounds one fetch of the keys. 0: [DefaultTimeout].
	Timeout time.Duration
	// KeyRefresh is how old keys get before they are fetched again. It is also how
	// often a token in use is checked again, so a key that its issuer has removed
	// is accepted for at most twice this time. 0: [DefaultKeyRefresh].
	KeyRefresh time.Duration
	// Patience is how old keys get that cannot be fetched again. 0:
	// [DefaultPatience]; at least KeyRefresh.
	Patience time.Duration

	// Audiences are the values of which one must be in the claim "aud".
	Audiences []string
	// Algorithms are the accepted signature algorithms, of RS256, RS384, RS512,
	// PS256, PS384, PS512, ES256, ES384, ES512 and EdDSA. Empty: all of these.
	Algorithms []string
	// Leeway is by how much clocks may differ. 0: [DefaultLeeway]; negative: not at
	// all; at most 5 minutes.
	Leeway time.Duration
	// MaxLifetime is how long after its claim "iat" a token is accepted at most,
	// whatever its "exp" is. One without "iat" is accepted when its "exp" is not
	// further away. 0: [DefaultMaxLifetime]; negative: no limit.
	MaxLifetime time.Duration

	// UserClaim is the claim with the name of the user: a text or a number. "":
	// [DefaultUserClaim].
	UserClaim string
	// GroupsClaim is the claim with the names of groups: a text or a list of texts.
	// "": there are none.
	GroupsClaim string
	// Metadata are claims to be known under other names: claim to name.
	Metadata map[string]string
	// Namespace is where the policies are stored.
	Namespace string
	// Rules give policies to tokens with certain claims.
	Rules []Rule
	// DefaultPolicies are given to every valid token of the issuer. Without them, a
	// token to which no rule applies is refused. Every accepted token has the policy
	// "default" as well.
	DefaultPolicies []string
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

// Rule gives policies to the tokens whose claims match.
type Rule struct {
	// When maps claims to patterns, in which "*" stands for any run of characters
	// (see event.Glob). All must match; at least one is required. A text, number or
	// boolean matches as it is written, a list if one of its elements does. A claim
	// that is missing, null or an object matches nothing.
	When map[string]string
	// Policies are the names of policies; at least one.
	Policies []string
}
