// Package address reads the addresses of servers that users write. It resolves and
// connects to nothing.
package address

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Parse reads the URL of a server. A host and port alone mean http; a path is kept as
// a prefix, without a slash at its end. Addresses with a user, query or fragment are
// refused, and so are those with the marks of a query whose "?" was forgotten, because
// secrets stand there: the error does not repeat them.
func Parse(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("no address of a server is given")
	}
	if strings.ContainsAny(text, "@?#=&") {
		return nil, errors.New("the address of a server has no user, query or fragment; a token does not belong into a URL")
	}
	full := text
	if !strings.Contains(text, "://") {
		full = "http://" + text
	}
	u, err := url.Parse(full)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("%q is not the address of a server: write for example http://127.0.0.1:8280", text)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

// Canonical returns one spelling for all that [Parse] understands as the same: the
// scheme, the host in lower case, always a port, and the prefix.
func Canonical(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port) + u.EscapedPath()
}
