package outbound

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// TestAddresses is the table of what may be connected to.
func TestAddresses(t *testing.T) {
	tests := []struct {
		address string
		why     string // part of it; empty: allowed
	}{
		{"1.1.1.1", ""},
		{"8.8.8.8", ""},
		{"100.63.255.255", ""},
		{"100.128.0.0", ""},
		{"172.15.255.255", ""},
		{"172.32.0.0", ""},
		{"192.0.1.0", ""},
		{"198.17.255.255", ""},
		{"198.20.0.0", ""},
		{"223.255.255.255", ""},
		{"2606:4700:4700::1111", ""},
		{"2a00:1450:4001::1", ""},
		{"2001:4860:4860::8888", ""},

		{"127.0.0.1", "loopback"},
		{"127.255.255.254", "loopback"},
		{"0.0.0.0", "unspecified"},
		{"0.1.2.3", "unspecified"},
		{"10.0.0.1", "RFC 1918"},
		{"172.16.0.1", "RFC 1918"},
		{"172.31.255.255", "RFC 1918"},
		{"192.168.1.1", "RFC 1918"},
		{"169.254.169.254", "link-local"},
		{"169.254.170.2", "link-local"},
		{"100.64.0.1", "RFC 6598"},
		{"100.127.255.255", "RFC 6598"},
		{"100.100.100.200", "secrets"},
		{"168.63.129.16", "cloud"},
		{"192.0.0.192", "reserved"},
		{"192.0.2.1", "examples"},
		{"198.51.100.7", "examples"},
		{"203.0.113.7", "examples"},
		{"192.88.99.1", "reserved"},
		{"198.18.0.1", "benchmarks"},
		{"198.19.255.255", "benchmarks"},
		{"224.0.0.1", "multicast"},
		{"239.255.255.255", "multicast"},
		{"240.0.0.1", "reserved"},
		{"255.255.255.255", "broadcast"},

		{"::", "unspecified"},
		{"::1", "loopback"},
		{"::127.0.0.1", "IPv4"},
		{"::8.8.8.8", "IPv4"},
		{"::ffff:127.0.0.1", "IPv4"},
		{"::ffff:8.8.8.8", "IPv4"},
		{"::ffff:169.254.169.254", "IPv4"},
		{"::ffff:0:127.0.0.1", "reserved"},
		{"64:ff9b::7f00:1", "NAT64"},
		{"64:ff9b::808:808", "NAT64"},
		{"64:ff9b:1::a9fe:a9fe", "NAT64"},
		{"100::1", "reserved"},
		{"2001::1", "Teredo"},
		{"2001:2::1", "reserved"},
		{"2001:db8::1", "examples"},
		{"2002:7f00:1::", "6to4"},
		{"2002:808:808::", "6to4"},
		{"3fff::1", "examples"},
		{"5f00::1", "reserved"},
		{"fc00::1", "RFC 4193"},
		{"fd12:3456::1", "RFC 4193"},
		{"fd00:ec2::254", "secrets"},
		{"fd20:ce::254", "secrets"},
		{"fe80::1", "link-local"},
		{"fe80::1%eth0", "zone"},
		{"2606:4700::1%eth0", "zone"},
		{"fec0::1", "private"},
		{"ff02::1", "multicast"},
		{"4000::1", "reserved"},
	}
	var nobody *Guard
	for _, tt := range tests {
		t.Run(tt.address, func(t *testing.T) {
			err := nobody.checkConnection("hooks.example.com", netip.AddrPortFrom(netip.MustParseAddr(tt.address), 443).String())
			if tt.why == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			denied := (*Denied)(nil)
			if !errors.As(err, &denied) || !strings.Contains(denied.Why, tt.why) {
				t.Fatalf("%v, want one about %q", err, tt.why)
			}
			if !strings.Contains(err.Error(), "hooks.example.com is at ") || !strings.Contains(err.Error(), "delivery.allow") {
				t.Errorf("%q does not say enough", err)
			}
		})
	}
}

func TestExceptions(t *testing.T) {
	tests := []struct {
		allow         string
		host, address string
		allowed       bool
	}{
		{"10.1.2.3", "x.example.com", "10.1.2.3", true},
		{"10.1.2.3", "x.example.com", "10.1.2.4", false},
		{"::ffff:10.1.2.3", "x.example.com", "10.1.2.3", true},
		{"10.1.2.3", "::ffff:10.1.2.3", "::ffff:10.1.2.3", true},
		{"10.1.2.0/24", "x.example.com", "10.1.2.4", true},
		{"10.1.2.0/24", "x.example.com", "10.1.3.4", false},
		{"fd00::/8", "x.example.com", "fd00::7", true},
		{"fe80::/10", "x.example.com", "fe80::7%eth0", false},
		{"169.254.169.254", "x.example.com", "169.254.169.254", true},
		{"127.0.0.0/8", "localhost", "127.0.0.1", true},

		{"alerts.internal", "alerts.internal", "10.1.2.3", true},
		{"alerts.internal", "Alerts.Internal.", "fd00::1", true},
		{"Alerts.internal.", "alerts.internal", "100.64.1.1", true},
		{"alerts.internal", "x.alerts.internal", "10.1.2.3", false},
		{"alerts.internal", "xalerts.internal", "10.1.2.3", false},
		{"*.internal", "a.b.internal", "10.1.2.3", true},
		{"*.internal", "internal", "10.1.2.3", false},
		{"*.internal", "xinternal", "10.1.2.3", false},
		{"localhost", "localhost", "127.0.0.1", true},
		// Who can answer for a name does not choose these.
		{"alerts.internal", "alerts.internal", "169.254.169.254", false},
		{"alerts.internal", "alerts.internal", "100.100.100.200", false},
		{"alerts.internal", "alerts.internal", "0.0.0.0", false},
		{"alerts.internal", "alerts.internal", "fd00:ec2::254", false},
		{"alerts.internal", "alerts.internal", "::ffff:10.0.0.1", false},

		// A translator is not a way to everything.
		{"64:ff9b::/96", "x.example.com", "64:ff9b::808:808", true},
		{"64:ff9b::/96", "x.example.com", "64:ff9b::7f00:1", false},
		{"64:ff9b::/96", "x.example.com", "64:ff9b::a9fe:a9fe", false},
		{"2002::/16", "x.example.com", "2002:a00:1::1", false},
		{"2002::/16", "x.example.com", "2002:808:808::1", true},
	}
	for _, tt := range tests {
		t.Run(tt.allow+" "+tt.host+" "+tt.address, func(t *testing.T) {
			g, err := NewGuard(tt.allow)
			if err != nil {
				t.Fatal(err)
			}
			err = g.checkConnection(tt.host, netip.AddrPortFrom(netip.MustParseAddr(tt.address), 443).String())
			if (err == nil) != tt.allowed {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestTheHintHelps adds what errors say should be added.
func TestTheHintHelps(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1", "192.0.2.1", "localhost", "metadata.google.internal", "a.localhost"} {
		g := &Guard{}
		err := g.CheckHost(host)
		for denied := (*Denied)(nil); errors.As(err, &denied); err = g.CheckHost(host) {
			if g, err = g.With(denied.hint); err != nil {
				t.Fatal(err)
			}
			if g.CheckHost(host) == nil {
				break
			}
			t.Fatalf("%s: adding %q does not help: %v", host, denied.hint, g.CheckHost(host))
		}
	}
}

func TestBadExceptions(t *testing.T) {
	for _, text := range []string{
		"", "*", "*.", ".", "0.0.0.0/0", "::/0", "10.0.0.0/7", "2000::/3", "10.1.2.3/24", "10.1.2.3:80", "http://x", "a b", "fe80::1%eth0", "x/y",
		"127.1", "::ffff:10.0.0.0/104", strings.Repeat("a", 64), strings.Repeat("a.", 130) + "a", "ex*mple.com", "1", "*.*.com",
	} {
		if g, err := NewGuard(text); err == nil {
			t.Errorf("%q is an exception: %+v", text, g)
		}
	}
}

// TestHosts is about what can be said without a connection.
func TestHosts(t *testing.T) {
	tests := []struct {
		url string
		err string // part of it; empty: allowed
	}{
		{"https://hooks.example.com", ""},
		{"https://hooks.example.com:8443/x", ""},
		{"https://1.1.1.1/", ""},
		{"https://[2606:4700:4700::1111]:443/", ""},
		{"https://xn--bcher-kva.example/", ""},
		{"https://a_b.example/", ""},
		{"https://0x.example/", ""},
		{"https://1.example/", ""},

		{"http://127.0.0.1/", "loopback"},
		{"http://[::1]/", "loopback"},
		{"http://[::ffff:127.0.0.1]/", "IPv4"},
		{"http://[::ffff:7f00:1]/", "IPv4"},
		{"http://[64:ff9b::a9fe:a9fe]/", "NAT64"},
		{"http://[fe80::1%25eth0]/", "zone"},
		{"http://169.254.169.254/latest/meta-data/", "link-local"},
		{"http://2130706433/", "neither a name nor an address"},
		{"http://0x7f000001/", "neither a name nor an address"},
		{"http://0x7F.1/", "neither a name nor an address"},
		{"http://0x7f.0.0.0x1/", "neither a name nor an address"},
		{"http://017700000001/", "neither a name nor an address"},
		{"http://0177.0.0.1/", "neither a name nor an address"},
		{"http://127.1/", "neither a name nor an address"},
		{"http://127.0.1/", "neither a name nor an address"},
		{"http://0/", "neither a name nor an address"},
		{"http://127.0.0.1./", "neither a name nor an address"},
		{"http://1.2.3.4.5/", "neither a name nor an address"},
		{"http://256.256.256.256/", "neither a name nor an address"},
		{"http://99999999999999999999999/", "neither a name nor an address"},
		{"http://１２７.０.０.１/", "characters"},
		{"http://①②⑦.0.0.1/", "characters"},
		{"http://localhost/", "this machine"},
		{"http://LOCALHOST./", "this machine"},
		{"http://a.localhost/", "this machine"},
		{"http://metadata.google.internal/computeMetadata/v1/", "secrets"},
		{"http://METADATA.google.internal./", "secrets"},
		{"http://metadata/", "secrets"},
		{"http://instance-data/latest", "secrets"},
		{"http://kubernetes.default.svc/", "API of a cluster"},
		{"http://a..b/", "empty"},
		{"http://.b/", "empty"},
		{"https://hooks.example.com:0/", "does not exist"},
		{"https://hooks.example.com:65536/", "does not exist"},
		{"https://hooks.example.com:25/", "mail"},
		{"https://hooks.example.com:6379/", "Redis"},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			u, err := ParseURL(tt.url)
			if err != nil {
				t.Fatal(err)
			}
			switch err := new(Guard).CheckURL(u); {
			case tt.err == "" && err != nil:
				t.Error(err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("%v, want one about %q", err, tt.err)
			}
		})
	}
}

func TestURLs(t *testing.T) {
	for text, part := range map[string]string{
		"":                           "empty",
		"hooks.example.com":          "begins neither",
		"ftp://hooks.example.com":    "begins neither",
		"file:///etc/passwd":         "begins neither",
		"gopher://x/":                "begins neither",
		"//hooks.example.com":        "begins neither",
		"https:hooks.example.com":    "no host",
		"https://":                   "no host",
		"https://:443/":              "no host",
		"https:///x":                 "no host",
		"https://s3cret@h.example":   "user name",
		"https://u:s3cret@h.example": "user name",
		"https://h.example/#s3cret":  "fragment",
		"https://h.example/a b":      "space",
		"https://h.example/\ns3cret": "control",
		"https://h.example\\@x/":     "backslash",
		"https://h.example/%zz":      "not a URL",
		"https://[::1/":              "not a URL",
		"https://h.example:port/":    "not a URL",
		"https://h.example/" + strings.Repeat("x", MaxURLBytes): "longer",
	} {
		u, err := ParseURL(text)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%.40q: %v, %v, want an error about %q", text, u, err, part)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q repeats what may be a secret", err)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{"https://hooks.example.com/x?y=z", "http://127.1", "http://[::ffff:127.0.0.1]:80", "http://0x7f000001", "https://u@h", "http://a.localhost."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURL(text)
		if err != nil {
			return
		}
		if u.User != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
			t.Fatalf("%q was accepted as %+v", text, u)
		}
		if new(Guard).CheckURL(u) != nil {
			return
		}
		host := u.Hostname()
		if address, err := netip.ParseAddr(host); err == nil {
			if why, _, _ := classify(address); why != "" || address.Is4In6() {
				t.Fatalf("%q is allowed", text)
			}
		} else if checkName(canonicalName(host)) != nil {
			t.Fatalf("%q is allowed with a host that is none", text)
		}
	})
}

func FuzzException(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8", "alerts.internal", "*.corp.example", "fd00::1", "::ffff:10.0.0.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := NewGuard(text)
		if err != nil {
			return
		}
		if g.checkConnection("hooks.example.com", "169.254.169.254:80") == nil && !strings.Contains(text, "169.254.") {
			t.Fatalf("%q allows the address of secrets", text)
		}
	})
}

// Who names a network of their own does not mean the address in it at which a cloud hands out
// secrets.
func TestGuardSecretsInNetworks(t *testing.T) {
	g, err := NewGuard("fd00::/8", "100.64.0.0/10", "168.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	exact, err := g.With("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"} {
		if err := g.CheckHost(host); err == nil {
			t.Errorf("%s is allowed by a network", host)
		}
		if err := exact.CheckHost(host); err != nil {
			t.Errorf("%s is not allowed by its name: %v", host, err)
		}
	}
	for _, host := range []string{"fd00:ec2::253", "fd20:ce::1", "100.100.100.201"} {
		if err := g.CheckHost(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}
