package upstream

import (
	"log/slog"
	"time"
)

// Defaults for what a [Config] leaves zero.
const (
	DefaultTimeout  = 5 * time.Second
	DefaultRecheck  = 15 * time.Second
	DefaultPatience = 5 * time.Minute
)

// Config says which server is asked, and how. Address is required.
type Config struct {
	// Name is what the server is called in identities, logs and errors: lower-case
	// letters, digits, - and _. "": upstream.
	Name string
	// Address is the URL of the server, without "/v1": https://vault.example.com:8200.
	// It may be that of a standby node that forwards requests, as they do by default;
	// redirects are not followed, so that no token goes where an answer says.
	Address string
	// InsecureAllowHTTP permits an http address of another host: every token is
	// then readable on the network. An http address on loopback needs no permission.
	InsecureAllowHTTP bool
	// Namespace is where tokens are looked up. "": in the namespace of the request,
	// then in those above it.
	Namespace string

	// CAFile has the PEM certificates of the authorities that the server's
	// certificate is checked against. "": those of the system.
	CAFile string
	// ServerName is the host name in the server's certificate. "": that of Address.
	ServerName string
	// CertFile and KeyFile are a client certificate and its key, in PEM. Both are
	// set, or none. All three files are read again when they change.
	CertFile, KeyFile string
	// ProxyURL is a proxy for the connections: http://host:port. "": none; the
	// environment is never asked.
	ProxyURL string

	// Timeout bounds one authentication altogether. 0: [DefaultTimeout].
	Timeout time.Duration
	// Recheck is how often a token in use is looked up again, and so the bound in
	// which its revocation is noticed. 0: [DefaultRecheck].
	Recheck time.Duration
	// Patience is how long a token in use stays valid while the server does not
	// answer. 0: [DefaultPatience]; negative: not at all.
	Patience time.Duration
	// AllowRoot lets tokens with the policy "root" of the server do everything here
	// as well. Otherwise this policy gives nothing here.
	AllowRoot bool
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}
