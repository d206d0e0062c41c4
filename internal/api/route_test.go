package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/token"
)

func TestLocate(t *testing.T) {
	for _, tt := range []struct {
		path, header    string
		namespace, rest string
		err             string // contained
	}{
		{"sys/mounts", "", "", "sys/mounts", ""},
		{"auth/token/lookup-self", "", "", "auth/token/lookup-self", ""},
		{"ns1/sys/mounts", "", "ns1/", "sys/mounts", ""},
		{"ns1/ns2/auth/token/create", "", "ns1/ns2/", "auth/token/create", ""},
		{"ns2/sys/mounts", "ns1", "ns1/ns2/", "sys/mounts", ""},
		{"ns2/sys/mounts", "/ns1/", "ns1/ns2/", "sys/mounts", ""},
		{"sys/mounts", "root", "", "sys/mounts", ""},
		{"root/sys/mounts", "", "", "sys/mounts", ""},
		{"sys/events/subscribe/a/sys/b", "", "", "sys/events/subscribe/a/sys/b", ""},
		{"ns1/sys/events/subscribe/kv*", "", "ns1/", "sys/events/subscribe/kv*", ""},
		{"system/sys/mounts", "", "system/", "sys/mounts", ""},
		{"auth/sys/mounts", "", "", "auth/sys/mounts", ""}, // a namespace cannot have this name
		{"secret/data/app", "ns1", "ns1/", "secret/data/app", ""},
		{"secret/data/sys", "", "", "secret/data/sys", ""},
		{"", "", "", "", ""},
		{"sys", "", "", "sys", ""},
		{"ns1/sys", "", "", "ns1/sys", ""},
		{"n\u00e4mespace/sys/mounts", "", "n\u00e4mespace/", "sys/mounts", ""},

		{"*/sys/mounts", "", "", "", "* and + are not allowed"},
		{"ns*/sys/mounts", "", "", "", "* and + are not allowed"},
		{"+/sys/mounts", "", "", "", "* and + are not allowed"},
		{"sys/mounts", "ns1/+", "", "", "* and + are not allowed"},
		{"sys/mounts", "auth", "", "", `"auth" begins the paths of the API`},
		{"sys/mounts", "ns1/sys/ns2", "", "", `"sys" begins the paths of the API`},
		{"sys/mounts", "ns1//ns2", "", "", `a segment is ""`},
		{"sys/mounts", "ns1/../ns2", "", "", `a segment is ".."`},
		{"sys/mounts", "./ns2", "", "", `a segment is "."`},
		{"../sys/mounts", "ns1", "", "", `a segment is ".."`},
		{"a//sys/mounts", "", "", "", "empty segment"},
		{"/sys/mounts", "", "", "", "empty segment"},
		{"a b/sys/mounts", "", "", "", "spaces"},
		{"a\x7fb/sys/mounts", "", "", "", "control characters"},
		{"a\u0085b/sys/mounts", "", "", "", "control characters"},
		{"\xff/sys/mounts", "", "", "", "not valid UTF-8"},
		{"sys/policies/acl/\xff", "", "", "", "not valid UTF-8"},
		{"sys/mounts", "\xff", "", "", "not valid UTF-8"},
		{"secret/x", "ns1/*", "", "", "* and + are not allowed"},
		{strings.Repeat("x", 512) + "/sys/mounts", "", "", "", "too long"},
		{strings.Repeat("x/", 33) + "sys/mounts", "", "", "", "too long"},
		{"sys/mounts", strings.Repeat("x", 512), "", "", "too long"},
		{strings.Repeat("x", 300) + "/sys/mounts", strings.Repeat("x", 300), "", "", "too long"},
	} {
		r := &http.Request{URL: &url.URL{Path: "/v1/" + tt.path}, Header: http.Header{}}
		if tt.header != "" {
			r.Header.Set("X-Vault-Namespace", tt.header)
		}
		namespace, rest, refused := locate(r)
		text := ""
		if refused != nil {
			text = refused.text
		}
		if refused != nil {
			namespace, rest = "", ""
		}
		if namespace != tt.namespace || rest != tt.rest || !strings.Contains(text, tt.err) || (tt.err == "") != (refused == nil) {
			t.Errorf("%.40q in %.40q: %q %q %q", tt.path, tt.header, namespace, rest, text)
		}
	}
}

func TestRefusalOf(t *testing.T) {
	a := &API{log: slog.New(slog.DiscardHandler)}
	c := &call{path: "auth/token/create"}
	for _, tt := range []struct {
		err    error
		status int
		text   string
	}{
		{badRequest("x"), 400, "x"},
		{fmt.Errorf("wrapped: %w", nothing()), 404, ""},
		{access.ErrDenied, 403, deniedText},
		{fmt.Errorf("%w: needs sudo", access.ErrDenied), 403, "1 error occurred:\n\t* permission denied: needs sudo\n\n"},
		{fmt.Errorf("%w: a ttl is needed", access.ErrInvalid), 400, "a ttl is needed"},
		{access.ErrNoPolicy, 404, ""},
		{fmt.Errorf("%w: secret/address: no route to host", access.ErrUnavailable), 503, "temporarily unavailable; try again"},
		{fmt.Errorf("%w: %w", access.ErrUnavailable, token.ErrTooMany), 503, token.ErrTooMany.Error()},
		{fmt.Errorf("append: %w", journal.ErrFull), 503, "temporarily unavailable; try again"},
		{context.DeadlineExceeded, 503, "temporarily unavailable; try again"},
		{errors.New("nil map"), 500, "internal error; the log of the server has more"},
	} {
		got := a.refusalOf(c, tt.err)
		if got.status != tt.status || got.text != tt.text {
			t.Errorf("%v: %d %q, want %d %q", tt.err, got.status, got.text, tt.status, tt.text)
		}
	}
}
