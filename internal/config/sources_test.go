package config

import (
	"net/netip"
	"testing"
)

func TestParseNetwork(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.2.3":            "10.1.2.3/32",
		"10.1.2.3/8":          "10.0.0.0/8",
		"::ffff:10.1.2.3":     "10.1.2.3/32",
		"::ffff:10.1.2.3/104": "10.0.0.0/8",
		"2001:db8::1/32":      "2001:db8::/32",
		"fe80::1":             "fe80::1/128",
		"0.0.0.0/0":           "0.0.0.0/0",
		"localhost":           "",
		"10.0.0.0/33":         "",
		"fe80::1%eth0":        "",
		"fe80::1%eth0/64":     "",
		"10.0.0.0-10.0.0.255": "",
		" 10.0.0.1":           "",
	} {
		got, err := ParseNetwork(text)
		if (err == nil) != (want != "") || err == nil && got != netip.MustParsePrefix(want) {
			t.Errorf("%q: got %v, %v, want %q", text, got, err, want)
		}
	}
}
