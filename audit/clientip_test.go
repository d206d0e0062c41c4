package audit

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestClientAddr(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("127.0.0.1/32")}
	for _, c := range []struct {
		name, remote, header string
		values               []string
		want                 string
	}{
		{"no proxy", "192.0.2.1:1234", "X-Forwarded-For", nil, "192.0.2.1"},
		{"IPv6", "[2001:db8::1]:1234", "X-Forwarded-For", nil, "2001:db8::1"},
		{"zone", "[fe80::1%eth0]:1234", "X-Forwarded-For", nil, "fe80::1"},
		{"mapped", "[::ffff:192.0.2.1]:1234", "X-Forwarded-For", nil, "192.0.2.1"},
		{"no port", "192.0.2.1", "X-Forwarded-For", nil, "192.0.2.1"},
		{"a client that is not trusted cannot choose", "192.0.2.1:1", "X-Forwarded-For", []string{"198.51.100.7"}, "192.0.2.1"},
		{"one proxy", "10.0.0.1:1", "X-Forwarded-For", []string{"198.51.100.7"}, "198.51.100.7"},
		{"what the client wrote is passed over", "10.0.0.1:1", "X-Forwarded-For", []string{"203.0.113.9, 198.51.100.7"}, "198.51.100.7"},
		{"also when it claims to be a proxy", "10.0.0.1:1", "X-Forwarded-For", []string{"203.0.113.9, 10.9.9.9, 198.51.100.7"}, "198.51.100.7"},
		{"two proxies", "10.0.0.1:1", "X-Forwarded-For", []string{"198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		{"two fields", "10.0.0.1:1", "X-Forwarded-For", []string{"203.0.113.9", "198.51.100.7", "10.0.0.2"}, "198.51.100.7"},
		{"all are proxies", "10.0.0.1:1", "X-Forwarded-For", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"a proxy without header", "10.0.0.1:1", "X-Forwarded-For", nil, "10.0.0.1"},
		{"malformed at the end", "10.0.0.1:1", "X-Forwarded-For", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		{"malformed behind a proxy", "10.0.0.1:1", "X-Forwarded-For", []string{"198.51.100.7, x, 10.0.0.2"}, "10.0.0.2"},
		{"empty", "10.0.0.1:1", "X-Forwarded-For", []string{""}, "10.0.0.1"},
		{"empty element", "10.0.0.1:1", "X-Forwarded-For", []string{"198.51.100.7,"}, "10.0.0.1"},
		{"with a port", "10.0.0.1:1", "X-Forwarded-For", []string{"198.51.100.7:443"}, "198.51.100.7"},
		{"IPv6 through IPv6", "[fd00::1]:1", "X-Forwarded-For", []string{"2001:db8::7"}, "2001:db8::7"},
		{"IPv6 in brackets", "[fd00::1]:1", "X-Forwarded-For", []string{"[2001:db8::7]:443"}, "2001:db8::7"},
		{"a zone in a header is malformed", "10.0.0.1:1", "X-Forwarded-For", []string{"fe80::1%eth0"}, "10.0.0.1"},
		{"mapped proxy", "[::ffff:10.0.0.1]:1", "X-Forwarded-For", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"hex and decimal are no addresses", "10.0.0.1:1", "X-Forwarded-For", []string{"0x7f000001"}, "10.0.0.1"},
		{"leading zeros are none either", "10.0.0.1:1", "X-Forwarded-For", []string{"198.051.100.007"}, "10.0.0.1"},
		{"a socket is not trusted", "@", "X-Forwarded-For", []string{"198.51.100.7"}, "invalid IP"},
		{"many hops end", "10.0.0.1:1", "X-Forwarded-For", []string{"198.51.100.7" + strings.Repeat(", 10.0.0.2", 100)}, "10.0.0.2"},
		{"a long header", "10.0.0.1:1", "X-Forwarded-For", []string{strings.Repeat("x", 100_000) + ", 198.51.100.7"}, "198.51.100.7"},
		{"a long element", "10.0.0.1:1", "X-Forwarded-For", []string{strings.Repeat("1", 100_000)}, "10.0.0.1"},
		{"one address", "10.0.0.1:1", "X-Real-Ip", []string{"198.51.100.7"}, "198.51.100.7"},

		{"RFC 7239", "10.0.0.1:1", "Forwarded", []string{"for=198.51.100.7"}, "198.51.100.7"},
		{"all parameters", "10.0.0.1:1", "forwarded", []string{`For="198.51.100.7:8080";proto=https;by=10.0.0.1;host="a,b;for=x"`}, "198.51.100.7"},
		{"IPv6 of RFC 7239", "10.0.0.1:1", "Forwarded", []string{`for="[2001:db8:cafe::17]:4711"`}, "2001:db8:cafe::17"},
		{"obfuscated port", "10.0.0.1:1", "Forwarded", []string{`for="198.51.100.7:_port"`}, "198.51.100.7"},
		{"two elements", "10.0.0.1:1", "Forwarded", []string{`for=203.0.113.9, for=198.51.100.7;by=_x , for=10.0.0.2`}, "198.51.100.7"},
		{"hidden", "10.0.0.1:1", "Forwarded", []string{`for=198.51.100.7, for=_hidden`}, "10.0.0.1"},
		{"unknown", "10.0.0.1:1", "Forwarded", []string{`for=unknown`}, "10.0.0.1"},
		{"a comma in quotes splits nothing", "10.0.0.1:1", "Forwarded", []string{`for=203.0.113.9;x="a, for=203.0.113.9", for=198.51.100.7`}, "198.51.100.7"},
		{"an open quote", "10.0.0.1:1", "Forwarded", []string{`for="203.0.113.9, for=198.51.100.7`}, "10.0.0.1"},
		{"twice", "10.0.0.1:1", "Forwarded", []string{`for=203.0.113.9;for=198.51.100.7`}, "10.0.0.1"},
		{"without for", "10.0.0.1:1", "Forwarded", []string{`proto=https`}, "10.0.0.1"},
		{"no parameter", "10.0.0.1:1", "Forwarded", []string{`198.51.100.7`}, "10.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := http.Header{http.CanonicalHeaderKey(c.header): c.values}
			// The other header is never looked at.
			if http.CanonicalHeaderKey(c.header) == "Forwarded" {
				h.Set("X-Forwarded-For", "203.0.113.66")
			} else {
				h.Set("Forwarded", "for=203.0.113.66")
			}
			p := Proxies{Trusted: trusted, Header: c.header}
			if got := p.ClientAddr(c.remote, h).String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	h := http.Header{"X-Forwarded-For": {"198.51.100.7"}}
	if got := (&Proxies{Sockets: true}).ClientAddr("@", h); got.String() != "198.51.100.7" {
		t.Errorf("over a socket: %v", got)
	}
	if got := (&Proxies{Trusted: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}}).ClientAddr("10.1.1.1:1", h); got.String() != "198.51.100.7" {
		t.Errorf("a prefix of mapped addresses: %v", got)
	}
	if got := (&Proxies{}).ClientAddr("127.0.0.1:1", h); got.String() != "127.0.0.1" {
		t.Errorf("by default: %v", got)
	}
}

// Whatever a client writes, it does not get beyond what an honest proxy has added.
func FuzzClientAddr(f *testing.F) {
	for _, s := range []string{"", "1.2.3.4", `for="[::1]:1"`, `"`, `\`, ",", "10.0.0.2", `for=a;for="b,c`, "fe80::1%a"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, forwarded bool) {
		p := Proxies{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		added := s + ", 198.51.100.7"
		if forwarded {
			p.Header = "Forwarded"
			added = s + ", for=198.51.100.7"
		}
		h := http.Header{}
		h.Set("Forwarded", added)
		h.Set("X-Forwarded-For", added)
		got := p.ClientAddr("10.0.0.1:1", h).String()
		if got != "198.51.100.7" && got != "10.0.0.1" || !forwarded && got != "198.51.100.7" {
			t.Errorf("%q: %s", added, got)
		}
		h.Set("Forwarded", s)
		h.Set("X-Forwarded-For", s)
		p.ClientAddr("10.0.0.1:1", h)
	})
}
