package outbound

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// MaxURLBytes bounds the URL of a receiver.
const MaxURLBytes = 8 << 10

// ParseURL reads the URL of a receiver: absolute, https or http, with a host, without user
// and fragment. It may have a query. What may be a secret is not repeated in the error.
// Whether the host may be sent to is the question for [Guard.CheckURL].
func ParseURL(text string) (*url.URL, error) {
	const example = "write one like https://hooks.example.com/tocsin"
	switch {
	case text == "":
		return nil, errors.New("is empty; " + example)
	case len(text) > MaxURLBytes:
		return nil, fmt.Errorf("is longer than %d bytes", MaxURLBytes)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }):
		return nil, errors.New("has a space, a control character or a backslash in it; " + example)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("is not a URL; " + example)
	case u.User != nil:
		return nil, errors.New("has a user name or password in it, which would be seen in logs; use username and password, or bearer_token")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("begins neither with https:// nor with http://; " + example)
	case u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("has no host; " + example)
	case u.Fragment != "":
		return nil, errors.New("has a fragment (#), which is not sent; leave it out")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// place returns where a URL leads, without what may be a secret.
func place(u *url.URL) string { return u.Host }
