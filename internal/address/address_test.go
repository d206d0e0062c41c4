package address_test

import (
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/address"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"http://127.0.0.1:8280":      "http://127.0.0.1:8280",
		"127.0.0.1:8280":             "http://127.0.0.1:8280",
		"hub":                        "http://hub:80",
		"https://Hub.Example":        "https://hub.example:443",
		"https://hub.example:443/":   "https://hub.example:443",
		"https://hub.example/a b//":  "https://hub.example:443/a%20b",
		"HTTPS://[::1]:8280/prefix/": "https://[::1]:8280/prefix",
		"localhost:8280":             "http://localhost:8280",
	} {
		u, err := address.Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := address.Canonical(u); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{"", "ftp://hub", "http://", "http://:8280", "http://a b", "unix:///run/x", "://", "http://hub:port", "http://hub\n"} {
		if u, err := address.Parse(text); err == nil {
			t.Errorf("%q is taken for %v", text, u)
		}
	}
}

func TestParseDoesNotRepeatSecrets(t *testing.T) {
	for _, text := range []string{"https://user:s3cret@hub", "http://hub?token=s3cret", "http://hub#s3cret", "s3cret@hub", "http://hub:8280token=s3cret", "hub&token=s3cret"} {
		if _, err := address.Parse(text); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v", err)
		}
	}
}
