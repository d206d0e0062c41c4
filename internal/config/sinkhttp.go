package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/outbound"
)

// sinkHTTP is what the sections of sinks that send over HTTP have in common.
type sinkHTTP struct {
	url         string // empty: it is checked elsewhere
	headers     []SinkHeader
	bearer      Secret
	username    string
	password    Secret
	tls         SinkTLS
	allow       []string
	allowHTTP   bool
	otherSecret bool // that is sent, besides those of the fields above
}

// sinkReservedHeaders are set by the sinks themselves, or belong to the connection.
var sinkReservedHeaders = []string{
	"content-encoding", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "upgrade",
	"expect", "idempotency-key", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature", "x-flipt-webhook-signature",
}

// sinkHTTP checks what holds between the fields of the section at key. Names in reserved
// are headers that the sink sets.
func (v *validator) sinkHTTP(key string, c sinkHTTP, reserved ...string) {
	v.sinkHeaders(key, c, reserved)
	if (c.username == "") != !c.password.IsSet() {
		v.report(key, "username and password belong together; set both, or none")
	}
	if c.username != "" && c.bearer.IsSet() {
		v.report(key, "has both bearer_token and username; only one can be sent")
	}
	if strings.Contains(c.username, ":") {
		v.report(key+".username", "has a colon, which basic authentication does not allow")
	}
	if c.tls.Cert.IsSet() != c.tls.Key.IsSet() {
		v.report(key+".tls", "cert and key belong together; set both, or none")
	}
	v.allowed(key+".allow", c.allow)
	if c.url == "" {
		return
	}
	u, err := outbound.ParseURL(c.url)
	switch {
	case err != nil:
		v.report(key+".url", "%v", err)
	case u.Scheme == "http" && c.tls != SinkTLS{}:
		v.report(key+".tls", "has no effect on an http:// url; write https://")
	case u.Scheme == "http" && !c.allowHTTP && c.secret() && !loopbackURL("http://"+u.Host):
		v.report(key+".url", "http:// would send the credentials of the sink in clear to another machine; use https://, or set insecure_allow_http if the network is yours alone")
	}
}

// secret says whether requests have something that nobody may see. Signatures are none: the
// key is not sent.
func (c *sinkHTTP) secret() bool {
	return c.otherSecret || c.bearer.IsSet() || c.password.IsSet() || slices.ContainsFunc(c.headers, func(h SinkHeader) bool { return h.Secret.IsSet() })
}

func (v *validator) sinkHeaders(key string, c sinkHTTP, reserved []string) {
	seen := make(map[string]bool)
	for i, h := range c.headers {
		key := fmt.Sprintf("%s.headers[%d]", key, i)
		name := strings.ToLower(h.Name)
		switch {
		case h.Name == "":
			v.report(key, "has no name")
		case !headerName.MatchString(h.Name):
			v.report(key+".name", "%q is no name of a header that can be set here", shorten(h.Name))
		case slices.Contains(sinkReservedHeaders, name), slices.Contains(reserved, name), strings.HasPrefix(name, "tocsin-"):
			v.report(key+".name", "%q is set by the sink", h.Name)
		case name == "authorization" && (c.bearer.IsSet() || c.username != ""):
			v.report(key+".name", "%q is what bearer_token, or username and password, are sent as", h.Name)
		case seen[name]:
			v.report(key+".name", "%q is there twice", h.Name)
		}
		seen[name] = true
		if (h.Value != "") == h.Secret.IsSet() {
			v.report(key, "needs either value or secret")
		}
		if strings.ContainsFunc(h.Value, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
			v.report(key+".value", "must be printable ASCII characters")
		}
		if h.Value != "" && slices.ContainsFunc(secretHeaderParts, func(part string) bool { return strings.Contains(name, part) }) {
			v.report(key+".value", "secrets are not written into the configuration; write secret: {env: NAME} or {file: PATH}")
		}
	}
}

// allowed checks exceptions of what may be connected to.
func (v *validator) allowed(key string, allow []string) {
	for i, text := range allow {
		if _, err := outbound.NewGuard(text); err != nil {
			v.report(fmt.Sprintf("%s[%d]", key, i), "%v", err)
		}
	}
}

// outbound checks what the section "delivery" says about where sinks send to.
func (v *validator) outbound(d Delivery) {
	v.allowed("delivery.allow", d.Allow)
	if d.ProxyURL == "" {
		return
	}
	const example = "write one like http://proxy.example.com:3128"
	u, err := url.Parse(d.ProxyURL)
	switch {
	case err != nil:
		v.report("delivery.proxy_url", "is not a URL; %s", example)
	case u.User != nil:
		v.report("delivery.proxy_url", "has a user or password in it, which is not supported; %s", example)
	case u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		v.report("delivery.proxy_url", "must be http:// with a host and a port, and nothing else; %s", example)
	}
}
