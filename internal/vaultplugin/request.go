package vaultplugin

import (
	"crypto/tls"
	"time"
)

// Operation is what a request asks a backend to do.
type Operation string

// The operations of the protocol.
const (
	CreateOperation         Operation = "create"
	ReadOperation           Operation = "read"
	UpdateOperation         Operation = "update"
	PatchOperation          Operation = "patch"
	DeleteOperation         Operation = "delete"
	ListOperation           Operation = "list"
	HelpOperation           Operation = "help"
	AliasLookaheadOperation Operation = "alias-lookahead"
	ResolveRoleOperation    Operation = "resolve-role"
	HeaderOperation         Operation = "header"
	RecoverOperation        Operation = "recover"
	RevokeOperation         Operation = "revoke"
	RenewOperation          Operation = "renew"
	RollbackOperation       Operation = "rollback"
	RotateOperation         Operation = "rotate"
)

// Request is a request to a backend.
type Request struct {
	// ID is unique per request.
	ID        string
	Operation Operation
	// Path is relative to the mount, without leading slash.
	Path string
	// Data are the parameters. Values are what encoding/json marshals; a json.Number
	// arrives with all its digits.
	Data map[string]any
	// Secret is that which a renew or revoke is about; Auth that which a renew is about.
	Secret *Secret
	Auth   *Auth
	// Headers are those that the mount is configured to pass on.
	Headers map[string][]string

	// ClientToken identifies the token of the caller to the plugin. It must never be the
	// token itself: Vault hands a salted hash to plugins, different per mount.
	ClientToken              string
	ClientTokenAccessor      string
	ClientTokenRemainingUses int
	DisplayName              string
	EntityID                 string

	// MountPoint is the path of the mount with its trailing slash, MountType the name of
	// the plugin, MountAccessor the identifier of the mount.
	MountPoint    string
	MountType     string
	MountAccessor string

	// Unauthenticated says that the caller had no token.
	Unauthenticated bool
	// Connection is for auth plugins; nil for others.
	Connection *Connection
}

// Connection is what an auth plugin may know of the connection of a request.
type Connection struct {
	RemoteAddr string // without port
	RemotePort int
	TLS        *tls.ConnectionState // nil without TLS
}

// Response is the answer of a backend.
type Response struct {
	// Data is what the caller sees, nil if there is nothing. Numbers in it are
	// json.Number. A raw HTTP answer is under [RawBody] as base64 text.
	Data     map[string]any
	Warnings []string
	Redirect string
	// Auth is the answer of an auth plugin to a login; Secret that of a secrets plugin
	// that leases.
	Auth   *Auth
	Secret *Secret
	// Headers are for the HTTP answer.
	Headers   map[string][]string
	MountType string
	// Wrap is set when the plugin asks to have the response wrapped.
	Wrap *WrapInfo
}

// Keys of [Response.Data] of a plugin that writes an HTTP answer itself.
const (
	RawContentType = "http_content_type" // text
	RawBody        = "http_raw_body"     // base64 of the body
	RawStatusCode  = "http_status_code"  // json.Number
)

// ErrorText returns the text of a response that denotes an error, which an HTTP front
// end answers with status 400, and whether it is one.
func (r *Response) ErrorText() (string, bool) {
	if r == nil {
		return "", false
	}
	text, ok := r.Data["error"].(string)
	switch {
	case !ok:
		return "", false
	case len(r.Data) == 1, len(r.Data) == 2 && r.Data["data"] != nil:
		return text, true
	}
	return "", false
}

// Lease is how long a secret or a login is good for.
type Lease struct {
	TTL       time.Duration
	MaxTTL    time.Duration
	Increment time.Duration // asked for by a renewal
	IssueTime time.Time
	Renewable bool
}

// Secret says that a response is leased.
type Secret struct {
	Lease
	// InternalData is for the plugin alone; a renew or revoke brings it back.
	InternalData map[string]any
	LeaseID      string
}

// TokenType is the kind of token that an [Auth] asks for.
type TokenType uint32

// The types of tokens, with the numbers of the protocol.
const (
	TokenDefault        TokenType = 0
	TokenService        TokenType = 1
	TokenBatch          TokenType = 2
	TokenDefaultService TokenType = 3
	TokenDefaultBatch   TokenType = 4
)

// Auth is a successful login.
type Auth struct {
	Lease
	// InternalData is for the plugin alone; a renewal brings it back.
	InternalData     map[string]any
	DisplayName      string
	Policies         []string
	TokenPolicies    []string
	IdentityPolicies []string
	NoDefaultPolicy  bool
	Metadata         map[string]string
	ClientToken      string // filled in by the host
	Accessor         string // filled in by the host
	Period           time.Duration
	ExplicitMaxTTL   time.Duration
	NumUses          int
	EntityID         string
	Alias            *Alias
	GroupAliases     []*Alias
	BoundCIDRs       []string
	TokenType        TokenType
}

// Alias is who logged in, in the words of the auth plugin.
type Alias struct {
	ID             string
	Name           string
	MountType      string
	MountAccessor  string
	Metadata       map[string]string
	CustomMetadata map[string]string
	NamespaceID    string
	Local          bool
	ExternalID     string
	Issuer         string
}

// WrapInfo says how to wrap a response.
type WrapInfo struct {
	TTL    time.Duration
	Format string
}

// Paths are the special paths of a backend. An entry that ends in "*" is a prefix, a "+"
// as an element stands for one element.
type Paths struct {
	Root                  []string // need a root token
	Unauthenticated       []string // need no token
	LocalStorage          []string
	SealWrapStorage       []string
	WriteForwardedStorage []string
	Binary                []string // have bodies that are not JSON
	Limited               []string
	AllowSnapshotRead     []string
}
