package trace

import "testing"

func TestOutcomes(t *testing.T) {
	login := Request{Path: "auth/ldap/login/ann", MountPoint: "auth/ldap/"}
	for _, test := range []struct {
		span Span
		want Outcome
	}{
		{Span{}, OK},
		{Span{Kind: RequestOnly}, Unanswered},
		{Span{Kind: RequestOnly, Failed: true, ErrorType: "permission_denied"}, Unanswered},
		{Span{Kind: RequestOnly, Expected: true}, OK},
		{Span{Kind: RequestOnly, Expected: true, Failed: true, ErrorType: "rate_limited"}, RateLimited},
		{Span{Failed: true, ErrorType: "permission_denied"}, Denied},
		{Span{Failed: true, ErrorType: "404", Status: 404}, NotFound},
		{Span{Failed: true, ErrorType: "403", Status: 403}, Denied},
		{Span{Failed: true, ErrorType: "429", Status: 429}, RateLimited},
		{Span{Failed: true, ErrorType: "412", Status: 412}, Rejected},
		{Span{Failed: true, ErrorType: "503", Status: 503}, Failed},
		{Span{Failed: true, ErrorType: "error_response"}, Rejected},
		{Span{Failed: true, ErrorType: "internal_error", Status: 500}, Failed},
		{Span{Failed: true, ErrorType: "_OTHER"}, Failed},
		{Span{Failed: true, ErrorType: "_OTHER", Request: login}, Denied},
		{Span{Failed: true, ErrorType: "error_response", Request: login}, Denied},
		{Span{Failed: true, ErrorType: "internal_error", Request: login}, Failed},
		{Span{Request: login}, OK},
	} {
		if got := test.span.Outcome(); got != test.want {
			t.Errorf("%+v: %v, want %v", test.span, got, test.want)
		}
	}
}

func TestIsLogin(t *testing.T) {
	for path, want := range map[string]struct {
		mount string
		login bool
	}{
		"auth/userpass/login/ann": {"auth/userpass/", true},
		"auth/approle/login":      {"auth/approle/", true},
		"auth/a/b/login/x":        {"auth/a/b/", true},
		"auth/oidc/oidc/callback": {"auth/oidc/", true},
		"auth/ldap/login/bob":     {"", true}, // as old servers write it
		"auth/token/create":       {"auth/token/", false},
		"auth/x/role/login":       {"auth/x/", false},
		"secret/data/login/x":     {"secret/", false},
		"login/x":                 {"", false},
		"auth/login":              {"auth/login/", false},
		"auth/":                   {"", false},
	} {
		r := Request{Path: path, MountPoint: want.mount}
		if got := r.IsLogin(); got != want.login {
			t.Errorf("%s on %q: %t", path, want.mount, got)
		}
	}
}
