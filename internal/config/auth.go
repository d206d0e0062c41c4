package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Auth is the section "auth".
type Auth struct {
	RootToken  Secret   `yaml:"root_token" doc:"The token that may do everything, also at the first start. Secrets are not written into this file; say where to find them: {env: NAME} or {file: PATH}. {} means that there is none, once there are other tokens."`
	DefaultTTL Duration `yaml:"default_ttl" min:"1s" max:"36500d" doc:"How long tokens issued here live that do not say."`
	MaxTTL     Duration `yaml:"max_ttl" min:"1s" max:"36500d" doc:"How long they may live at most, with renewals; tokens with a period excepted."`
	Upstream   Upstream `yaml:"upstream" doc:"A Vault or OpenBao server whose tokens are accepted here as well. It is asked with the token itself, needs no configuration, and the names of the token's policies there select policies that are stored here. Used when address is set."`
	JWT        []JWT    `yaml:"jwt" doc:"Issuers whose JWTs are accepted as tokens, and for login at auth/NAME/login: OpenID Connect providers, Kubernetes clusters. Each has these fields:"`
}

// Upstream is the section "auth.upstream".
type Upstream struct {
	Address           string   `yaml:"address" doc:"URL of the server, without /v1. Example: https://vault.example.com:8200."`
	InsecureAllowHTTP bool     `yaml:"insecure_allow_http" doc:"true accepts an http address that is not on loopback: tokens can then be read on the way."`
	Namespace         string   `yaml:"namespace" doc:"Where tokens are looked up. Empty: in the namespace of the request, then in those above it."`
	CAFile            string   `yaml:"ca_file" doc:"PEM file with the authorities of the server's certificate. Empty: those of the system."`
	ServerName        string   `yaml:"server_name" doc:"Name in the server's certificate. Empty: the host of the address."`
	CertFile          string   `yaml:"cert_file" doc:"PEM file with a client certificate, for a server that asks for one."`
	KeyFile           string   `yaml:"key_file" doc:"PEM file with its private key."`
	ProxyURL          string   `yaml:"proxy_url" doc:"HTTP proxy for the connections. Empty: none, whatever the environment says."`
	Timeout           Duration `yaml:"timeout" min:"100ms" max:"1m" doc:"How long a request here waits for the server at most."`
	Recheck           Duration `yaml:"recheck" min:"1s" max:"1h" doc:"How often a token in use is looked up again: a revocation there is noticed here after this time at most."`
	Patience          Duration `yaml:"patience" min:"1s" max:"1d" zero:"not at all" doc:"How long a token in use stays valid while the server does not answer."`
	AllowRoot         bool     `yaml:"allow_root" doc:"true lets root tokens of the server do everything here too."`
}

// Enabled reports whether there is such a server.
func (u Upstream) Enabled() bool { return u.Address != "" }

// JWT is one element of "auth.jwt".
type JWT struct {
	Name              string   `yaml:"name" doc:"Names the issuer in logs, events and the path of logins. Lower-case letters, digits, - and _."`
	Issuer            string   `yaml:"issuer" doc:"The claim iss of its tokens, exactly."`
	DiscoveryURL      string   `yaml:"discovery_url" doc:"Where the keys come from when the issuer is reached by another URL than its name: that of its OpenID Connect discovery. One of this and the next three, or none for the issuer itself."`
	JWKSURL           string   `yaml:"jwks_url" doc:"URL of the key set."`
	JWKSFile          string   `yaml:"jwks_file" doc:"File with the key set."`
	PublicKeyFiles    []string `yaml:"public_key_files" doc:"PEM files with public keys or certificates."`
	CAFile            string   `yaml:"ca_file" doc:"PEM file with the authorities of the certificates of these URLs. Empty: those of the system."`
	BearerTokenFile   string   `yaml:"bearer_token_file" doc:"File with a token to send to them, as Kubernetes wants it."`
	InsecureAllowHTTP bool     `yaml:"insecure_allow_http" doc:"true accepts http URLs that are not on loopback: whoever is on the way can then put in keys of their own."`
	ProxyURL          string   `yaml:"proxy_url" doc:"HTTP proxy for them. Empty: none, whatever the environment says."`
	Timeout           Duration `yaml:"timeout" min:"100ms" max:"1m" doc:"How long fetching the keys may take."`
	KeyRefresh        Duration `yaml:"key_refresh" min:"10s" max:"1d" doc:"How old keys get before they are fetched again. A key that was removed is refused after twice this time at most."`
	Patience          Duration `yaml:"patience" min:"10s" max:"30d" doc:"How old keys get that cannot be fetched again; at least key_refresh."`
	Audiences         []string `yaml:"audiences" doc:"What may be in the claim aud; one of them must."`
	Algorithms        []string `yaml:"algorithms" oneof:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA" doc:"Accepted signatures. Empty: RS, PS and ES of 256, 384 and 512 bits and EdDSA."`
	Leeway            Duration `yaml:"leeway" min:"1s" max:"5m" zero:"not at all" doc:"By how much clocks may differ."`
	MaxLifetime       Duration `yaml:"max_lifetime" min:"1m" max:"3650d" zero:"no limit" doc:"How long after iat a token is accepted at most, whatever its exp."`
	UserClaim         string   `yaml:"user_claim" doc:"The claim with the name of the user. Claims are plain names, or begin with / and are JSON pointers: /kubernetes.io/namespace."`
	GroupsClaim       string   `yaml:"groups_claim" doc:"The claim with the names of groups. Empty: none."`
	Metadata          Texts    `yaml:"metadata" doc:"Claims to keep with the token, for templates in policies: claim to name."`
	Namespace         string   `yaml:"namespace" doc:"Where the policies are stored. Empty: root."`
	Policies          []Rule   `yaml:"policies" doc:"Who gets which policies. All rules that match count. Each has:"`
	DefaultPolicies   []string `yaml:"default_policies" doc:"Policies of every token of the issuer. Without them, a token that no rule matches is refused."`
}

// Rule is one element of "auth.jwt[].policies".
type Rule struct {
	When     Texts    `yaml:"when" doc:"Claims and what they must be, all of them; * stands for any characters. Of a list, one element must be."`
	Policies []string `yaml:"policies" doc:"Names of policies."`
}

// Texts maps names to texts.
type Texts map[string]string

func defaultAuth() Auth {
	const month = Duration(32 * 24 * time.Hour)
	return Auth{
		RootToken:  SecretFromEnv("TOCSIN_ROOT_TOKEN"),
		DefaultTTL: month,
		MaxTTL:     month,
		Upstream: Upstream{
			Timeout:  Duration(5 * time.Second),
			Recheck:  Duration(15 * time.Second),
			Patience: Duration(5 * time.Minute),
		},
	}
}

// DefaultJWT returns what the fields of an issuer are when its element in the file
// does not mention them.
func DefaultJWT() JWT {
	return JWT{
		Timeout:     Duration(5 * time.Second),
		KeyRefresh:  Duration(5 * time.Minute),
		Patience:    Duration(time.Hour),
		Leeway:      Duration(30 * time.Second),
		MaxLifetime: Duration(24 * time.Hour),
		UserClaim:   "sub",
	}
}

func (v *validator) auth(a Auth) {
	if a.DefaultTTL > a.MaxTTL && !v.reported("auth.max_ttl") && !v.reported("auth.default_ttl") {
		v.report("auth.default_ttl", "%s is more than auth.max_ttl, which is %s", a.DefaultTTL, a.MaxTTL)
	}
	v.upstream(a.Upstream)
	names := make(map[string]int)
	for i, j := range a.JWT {
		key := fmt.Sprintf("auth.jwt[%d]", i)
		switch first, seen := names[j.Name]; {
		case j.Name == "":
			v.report(key, "has no name; add for example \"name: kubernetes\"")
		case !sourceName.MatchString(j.Name):
			v.report(key+".name", "%q must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit", shorten(j.Name))
		case slices.Contains(reservedNames, j.Name):
			v.report(key+".name", "%q is taken by the program; choose another one", j.Name)
		case seen:
			v.report(key+".name", "%q is already the name of auth.jwt[%d]", j.Name, first)
		default:
			names[j.Name] = i
		}
		v.jwt(key, j)
	}
}

// reservedNames are those of others who know tokens.
var reservedNames = []string{"token", "upstream", "root"}

func (v *validator) upstream(u Upstream) {
	const key = "auth.upstream"
	if !u.Enabled() {
		if u.CAFile != "" || u.ServerName != "" || u.CertFile != "" || u.KeyFile != "" || u.Namespace != "" || u.ProxyURL != "" || u.AllowRoot || u.InsecureAllowHTTP {
			v.report(key, "has no address, so the rest of it has no effect; add for example \"address: https://vault.example.com:8200\"")
		}
		return
	}
	if err := checkURL(u.Address, u.InsecureAllowHTTP); err != nil {
		v.report(key+".address", "%v", err)
	}
	if err := checkProxy(u.ProxyURL); err != nil {
		v.report(key+".proxy_url", "%v", err)
	}
	if (u.CertFile == "") != (u.KeyFile == "") {
		v.report(key, "cert_file and key_file belong together; set both, or none")
	}
}

func (v *validator) jwt(key string, j JWT) {
	if j.Issuer == "" {
		v.report(key, "has no issuer; add \"issuer:\" with the claim iss of its tokens")
	}
	if len(j.Audiences) == 0 {
		v.report(key, "has no audiences; add \"audiences: [NAME]\", so that tokens made for others are not accepted")
	}
	v.keySource(key, j)
	if err := checkProxy(j.ProxyURL); err != nil {
		v.report(key+".proxy_url", "%v", err)
	}
	if j.Patience < j.KeyRefresh && !v.reported(key+".key_refresh") {
		v.report(key+".patience", "%s is less than key_refresh, which is %s", j.Patience, j.KeyRefresh)
	}
	if j.UserClaim == "" {
		v.report(key+".user_claim", "is empty; name a claim, usually sub")
	}
	if len(j.Policies) == 0 && len(j.DefaultPolicies) == 0 {
		v.report(key, "has neither policies nor default_policies, so its tokens could do nothing; add \"policies: [{when: {sub: NAME}, policies: [NAME]}]\"")
	}
	for i, rule := range j.Policies {
		ruleKey := fmt.Sprintf("%s.policies[%d]", key, i)
		if len(rule.When) == 0 {
			v.report(ruleKey, "has no when, so it would match every token; use default_policies for that")
		}
		if len(rule.Policies) == 0 {
			v.report(ruleKey, "has no policies; add \"policies: [NAME]\"")
		}
	}
}

// keySource checks where the keys of an issuer come from.
func (v *validator) keySource(key string, j JWT) {
	var set []string
	for _, source := range []struct {
		name  string
		isSet bool
		url   string
	}{
		{"discovery_url", j.DiscoveryURL != "", j.DiscoveryURL},
		{"jwks_url", j.JWKSURL != "", j.JWKSURL},
		{"jwks_file", j.JWKSFile != "", ""},
		{"public_key_files", len(j.PublicKeyFiles) > 0, ""},
	} {
		if source.isSet {
			set = append(set, source.name)
		}
		if source.url != "" {
			if err := checkURL(source.url, j.InsecureAllowHTTP); err != nil {
				v.report(key+"."+source.name, "%v", err)
			}
		}
	}
	switch {
	case len(set) > 1:
		v.report(key, "%s are set; keep one", strings.Join(set, " and "))
	case len(set) == 0 && j.Issuer != "":
		if err := checkURL(j.Issuer, j.InsecureAllowHTTP); err != nil {
			v.report(key+".issuer", "%v; its keys are looked for there, so set discovery_url, jwks_url, jwks_file or public_key_files if they are elsewhere", err)
		}
	}
}

// checkURL returns nil when text is an https URL to which secrets or trust can be
// given, or, if insecure or on loopback, an http one.
func checkURL(text string, insecure bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil: // not repeated: there may be a password in it
		return errors.New("is not a URL; write one like https://vault.example.com:8200")
	case u.User != nil:
		return errors.New("has a user in it; leave that out")
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return fmt.Errorf("%q has no https:// or no host; write it like https://vault.example.com:8200", shorten(text))
	case u.Scheme == "http" && !insecure && !IsLoopback(u.Hostname()+":0") && !IsLoopback("["+u.Hostname()+"]:0"):
		return fmt.Errorf("%q is not encrypted; use https, or set insecure_allow_http if the network is yours alone", shorten(text))
	}
	return nil
}

func checkProxy(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("is not a URL; write one like http://proxy.example.com:3128")
	case u.User != nil:
		return errors.New("has a user in it; secrets are not written into the configuration")
	}
	return nil
}
