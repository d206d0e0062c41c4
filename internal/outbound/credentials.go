package outbound

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// credentials are the secrets of one request.
type credentials struct {
	authorization string
	headers       []string // the values of Options.Headers
	values        []string // all of them, which no text may repeat
}

// credentials reads the secrets.
func (c *Client) credentials() (s credentials, err error) {
	o := &c.options
	switch {
	case o.Bearer != nil:
		token, err := reveal("bearer token", o.Bearer)
		if err != nil {
			return s, err
		}
		s.authorization, s.values = "Bearer "+token, append(s.values, token)
	case o.Username != "":
		password, err := o.Password() // is not a header itself
		if err != nil {
			return s, fmt.Errorf("password: %w", err)
		}
		text := base64.StdEncoding.EncodeToString([]byte(o.Username + ":" + password))
		s.authorization, s.values = "Basic "+text, append(s.values, text, password)
	}
	if len(o.Headers) == 0 {
		return s, nil
	}
	s.headers = make([]string, len(o.Headers))
	for i, h := range o.Headers {
		if s.headers[i], err = reveal("header "+h.Name, h.Value); err != nil {
			return s, err
		}
		if !h.fixed {
			s.values = append(s.values, s.headers[i])
		}
	}
	return s, nil
}

// all returns what no text about a request may repeat.
func (s *credentials) all(r *Request) []string {
	return slices.Concat(s.values, r.Secrets, urlSecrets(r.URL))
}

// errHeaderValue is why a value cannot be sent. It does not repeat it.
var errHeaderValue = errors.New("its value has characters that do not fit into a header")

func reveal(what string, secret Secret) (string, error) {
	value, err := secret()
	if err == nil && strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }) {
		err = errHeaderValue
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return value, nil
}
