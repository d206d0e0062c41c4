package hubplugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/address"
)

// params are those of a stream: what is given goes before the config.
type params struct {
	Config
	// Follow is false for a stream that ends where the journal ends when it is opened.
	Follow *bool `json:"follow,omitempty"`
}

const paramForms = `write JSON such as {"address": "http://127.0.0.1:8280", "types": ["kv-v2/*"], "since": "1h"}, or an address such as http://127.0.0.1:8280?types=kv-v2/*&since=1h`

// parseParams reads what a stream is opened with: nothing, a JSON object, or the address of a hub
// with a query. Errors do not have values, of which one may be a secret.
func parseParams(text string, base Config) (c Config, follow bool, err error) {
	var p params
	switch text = strings.TrimSpace(text); {
	case text == "":
	case text[0] == '{':
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&p); err != nil {
			return c, false, fmt.Errorf("params: %w", explain(err))
		}
		if _, err := d.Token(); err != io.EOF {
			return c, false, errors.New("params: there is something behind the JSON object")
		}
	case strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://"):
		if p, err = parseURL(text); err != nil {
			return c, false, fmt.Errorf("params: %w", err)
		}
	default:
		return c, false, errors.New("params: " + paramForms)
	}
	c = p.over(base)
	return c, p.Follow == nil || *p.Follow, nil
}

func explain(err error) error {
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrong):
		return fmt.Errorf("%s must be a %v", wrong.Field, wrong.Type)
	case errors.As(err, &syntax):
		return fmt.Errorf("it is not JSON: byte %d: %w", syntax.Offset, syntax)
	}
	if unknown, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return errors.New("unknown field " + unknown)
	}
	return errors.New("it is not JSON: it ends too early")
}

// parseURL reads the address of a hub with a query.
func parseURL(text string) (p params, err error) {
	at, query, _ := strings.Cut(text, "?")
	p.Address = at
	values, err := url.ParseQuery(query)
	if err != nil {
		return p, errors.New("the query behind the address is not one")
	}
	list := func(all []string) (out []string) {
		for _, v := range all {
			for one := range strings.SplitSeq(v, ",") {
				if one = strings.TrimSpace(one); one != "" {
					out = append(out, one)
				}
			}
		}
		return out
	}
	for key, all := range values {
		value := all[len(all)-1]
		switch key {
		case "types", "type":
			p.Types = append(p.Types, list(all)...)
		case "namespaces":
			p.Namespaces = list(all)
		case "namespace":
			p.Namespace = value
		case "filter":
			p.Filter = value
		case "since":
			p.Since = value
		case "token_file":
			p.TokenFile = value
		case "position_file":
			p.PositionFile = value
		case "follow":
			follow, err := strconv.ParseBool(value)
			if err != nil {
				return p, errors.New("follow must be true or false")
			}
			p.Follow = &follow
		case "token":
			return p, errors.New("a token does not belong into a URL; write JSON, or name a token_file")
		default:
			return p, fmt.Errorf("unknown parameter %.40q; types, filter, since, follow, namespace, namespaces, token_file and position_file are known", key)
		}
	}
	return p, nil
}

// over returns the config that p makes of another one.
func (p *params) over(c Config) Config {
	set := func(to *string, from string) {
		if from != "" {
			*to = from
		}
	}
	if p.Token != "" || p.TokenFile != "" {
		c.Token, c.TokenFile = p.Token, p.TokenFile
	}
	set(&c.Address, p.Address)
	set(&c.Namespace, p.Namespace)
	set(&c.CACert, p.CACert)
	set(&c.ClientCert, p.ClientCert)
	set(&c.ClientKey, p.ClientKey)
	set(&c.TLSServerName, p.TLSServerName)
	set(&c.Filter, p.Filter)
	set(&c.Since, p.Since)
	set(&c.PositionFile, p.PositionFile)
	if len(p.Namespaces) > 0 {
		c.Namespaces = p.Namespaces
	}
	if len(p.Types) > 0 {
		c.Types = p.Types
	}
	if p.MaxEventBytes != 0 {
		c.MaxEventBytes = p.MaxEventBytes
	}
	return c
}

// Bounds of max_event_bytes, as in the schema of the config.
const (
	minMaxEvent = 1 << 10
	maxMaxEvent = 256 << 20
)

// subscription is what a client subscribes to.
type subscription struct {
	eventType string
	options   client.Options
}

// check says what is wrong with the config, as far as it alone tells.
func (c *Config) check() error {
	if c.Token != "" && c.TokenFile != "" {
		return errTokenTwice
	}
	if _, err := address.Parse(c.Address); err != nil {
		return err
	}
	if n := c.MaxEventBytes; n != 0 && (n < minMaxEvent || n > maxMaxEvent) {
		return fmt.Errorf("max_event_bytes is %d; it must be from %d to %d", n, minMaxEvent, maxMaxEvent)
	}
	_, _, err := selection(c.Types, c.Filter)
	return err
}

// subscription returns what the config asks for, with the token as it is now.
func (c *Config) subscription() (*subscription, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("the token has blanks or characters that no token has")
	}
	s := &subscription{options: client.Options{
		Address: c.Address, Token: token, Namespace: c.Namespace, Namespaces: c.Namespaces, Format: client.FormatCloudEvents, MaxMessageBytes: c.MaxEventBytes,
	}}
	s.eventType, s.options.Filter, err = selection(c.Types, c.Filter)
	return s, err
}

var typeForm = regexp.MustCompile(`^[!-~]{1,512}$`)

// selection returns the event type and the filter of a subscription to several types: a
// subscription has one, so others are a part of the filter.
func selection(types []string, filter string) (eventType, all string, err error) {
	for _, t := range types {
		if !typeForm.MatchString(t) || strings.ContainsAny(t, `"`+"`") {
			return "", "", errors.New("types must be types of events, or globs such as kv-v2/*")
		}
	}
	switch len(types) {
	case 0:
		return "*", filter, nil
	case 1:
		return types[0], filter, nil
	}
	var any bytes.Buffer
	for i, t := range types {
		if i > 0 {
			any.WriteString(" or ")
		}
		if strings.Contains(t, "*") {
			expression := "^" + strings.ReplaceAll(regexp.QuoteMeta(t), `\*`, ".*") + "$"
			fmt.Fprintf(&any, "event_type matches `%s`", expression)
			continue
		}
		fmt.Fprintf(&any, "event_type == %q", t)
	}
	if strings.TrimSpace(filter) != "" {
		return "*", fmt.Sprintf("(%s) and (%s)", filter, &any), nil
	}
	return "*", any.String(), nil
}
