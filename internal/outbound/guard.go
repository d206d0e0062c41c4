package outbound

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Guard decides where sinks may connect to: to public addresses, and to those that were
// named. The zero Guard names none. It is immutable.
//
// What counts is the address of the connection, at the moment in which it is made, so it
// does not matter what a name was resolved to before, or how an address is written.
type Guard struct {
	networks []netip.Prefix
	names    []string // in lower case; with a dot in front: what is below it
	setting  string   // where exceptions are written; empty: delivery.allow
}

// In returns the guard for errors that name another setting than delivery.allow as the place for
// exceptions.
func (g *Guard) In(setting string) *Guard {
	named := *g
	named.setting = setting
	return &named
}

// NewGuard returns a guard with exceptions, each of which is
//
//	10.1.2.3, fd00::5       an address
//	10.1.2.0/24, fd00::/8   a network, of IPv4 not larger than a /8, of IPv6 than a /7
//	alerts.internal         a host, wherever on networks of your own it is found
//	*.corp.example          all hosts below a domain
//
// A host does not allow the addresses at which clouds hand out secrets (link-local ones),
// nor those that belong to nobody: whoever can answer for a name must not be able to choose
// these. They have to be named as an address or a network; as an address, if they lie in a
// network that is used for other things, as fd00:ec2::254 does.
func NewGuard(allow ...string) (*Guard, error) { return new(Guard).With(allow...) }

// With returns a guard that has further exceptions.
func (g *Guard) With(allow ...string) (*Guard, error) {
	with := &Guard{}
	if g != nil {
		with.setting = g.setting
		with.networks, with.names = slices.Clone(g.networks), slices.Clone(g.names)
	}
	for _, text := range allow {
		if err := with.add(text); err != nil {
			return nil, err
		}
	}
	return with, nil
}

func (g *Guard) add(text string) error {
	if address, err := netip.ParseAddr(text); err == nil {
		if address.Zone() != "" {
			return fmt.Errorf("%q has a zone, which is not supported; write the address without it", clip(text))
		}
		address = address.Unmap()
		g.networks = append(g.networks, netip.PrefixFrom(address, address.BitLen()))
		return nil
	}
	if strings.Contains(text, "/") {
		network, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return fmt.Errorf("%q is not a network; write for example 10.1.2.0/24", clip(text))
		case network != network.Masked():
			return fmt.Errorf("%q has bits after its prefix; write %s", clip(text), network.Masked())
		case network.Addr().Is4In6():
			return fmt.Errorf("%q is an IPv4 network in the form of IPv6; write it as IPv4", clip(text))
		case network.Addr().Is4() && network.Bits() < 8, network.Addr().Is6() && network.Bits() < 7:
			return fmt.Errorf("%q is nearly everything; name the networks that are yours, such as 10.0.0.0/8 or fd00::/8", clip(text))
		}
		g.networks = append(g.networks, network)
		return nil
	}
	name, below := strings.CutPrefix(text, "*.")
	name = canonicalName(name)
	if err := checkName(name); err != nil {
		return fmt.Errorf("%q is no host, address or network: %w", clip(text), err)
	}
	if below {
		name = "." + name
	}
	g.names = append(g.names, name)
	return nil
}

// Denied is the error for an address or a host that a [Guard] does not allow.
type Denied struct {
	// Host is what was to be connected to, as it was written.
	Host string
	// Address is where that is; not valid if the host was enough to tell.
	Address netip.Addr
	// Why is what kind of an address or a host it is.
	Why string
	// hint is what has to be allowed, and setting where; empty: delivery.allow.
	hint, setting string
}

// Error says why it is denied, and how to allow it.
func (d *Denied) Error() string {
	what := d.Host
	if d.Address.IsValid() && d.Host != d.Address.String() {
		what += " is at " + d.Address.String() + ", which"
	}
	return fmt.Sprintf("%s is %s, where sinks do not send to; if it is meant, add %q to %s", what, d.Why, d.hint, cmp.Or(d.setting, "delivery.allow"))
}

// in is the setting of a guard, which may be nil.
func (g *Guard) in() string {
	if g == nil {
		return ""
	}
	return g.setting
}

// CheckHost says what can be said about a host without looking it up: whether it is an
// address that is not allowed, is written as an address in a form that is none, or is a
// name that always is local.
func (g *Guard) CheckHost(host string) error {
	if address, err := netip.ParseAddr(host); err == nil {
		return g.checkAddress(host, address)
	}
	name := canonicalName(host)
	if err := checkName(name); err != nil {
		return err
	}
	if g.allowsName(name) {
		return nil
	}
	for _, local := range localNames {
		if name == local.name || strings.HasSuffix(name, "."+local.name) {
			return &Denied{Host: host, Why: local.why, hint: name, setting: g.in()}
		}
	}
	return nil
}

// CheckURL is [Guard.CheckHost] of the host of a URL, and checks its port.
func (g *Guard) CheckURL(u *url.URL) error {
	if err := g.CheckHost(u.Hostname()); err != nil {
		return err
	}
	if u.Port() == "" {
		return nil
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("port %s does not exist", clip(u.Port()))
	}
	if what, other := otherPorts[uint16(port)]; other && !g.named(u.Hostname()) {
		return fmt.Errorf("port %d is that of %s, to which no webhooks are sent", port, what)
	}
	return nil
}

// named reports whether a host was named as an exception.
func (g *Guard) named(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return g.allowsAddress(address.Unmap())
	}
	return g.allowsName(canonicalName(host))
}

// checkConnection is asked right before a connection is made, with the host as it was
// written and the address and port as the system gets them.
func (g *Guard) checkConnection(host, address string) error {
	place, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%s cannot be checked: it is no address with a port", clip(address))
	}
	return g.checkAddress(host, place.Addr())
}

// DialContext connects to an address, unless the place where that is is not allowed. It is for sinks
// that do not send with a [Client].
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host := hostOf(address)
	d := net.Dialer{KeepAlive: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		return g.checkConnection(host, address)
	}}
	return d.DialContext(ctx, network, address)
}

func (g *Guard) checkAddress(host string, address netip.Addr) error {
	if inside := address.Unmap(); inside != address {
		// Nobody writes one like this who means no harm, but one that was named may be.
		if g.allowsAddress(inside) {
			return nil
		}
		return &Denied{Host: host, Address: address, Why: "an IPv4 address in the form of IPv6", hint: inside.WithZone("").String(), setting: g.in()}
	}
	why, own, alone := classify(address)
	if why == "" {
		return nil
	}
	allowed := g.allowsAddress(address.WithZone("")) && address.Zone() == ""
	if alone && !own {
		// It lies in a network that many use, and who named that did not mean this one.
		allowed = g.allowsExactly(address)
	}
	if !allowed && own && address.Zone() == "" {
		allowed = g.allowsName(canonicalName(host))
	}
	inside := embedded(address)
	switch {
	case !allowed:
		return &Denied{Host: host, Address: address, Why: why, hint: address.WithZone("").String(), setting: g.in()}
	case inside.IsValid():
		// A translator that may be used is not thereby a way to all that it translates to.
		return g.checkAddress(host, inside)
	}
	return nil
}

func (g *Guard) allowsAddress(address netip.Addr) bool {
	return g != nil && slices.ContainsFunc(g.networks, func(p netip.Prefix) bool { return p.Contains(address) })
}

// allowsExactly reports whether an address was named itself.
func (g *Guard) allowsExactly(address netip.Addr) bool {
	return g != nil && slices.Contains(g.networks, netip.PrefixFrom(address, address.BitLen()))
}

func (g *Guard) allowsName(name string) bool {
	return g != nil && slices.ContainsFunc(g.names, func(allowed string) bool {
		return name == allowed || allowed[0] == '.' && strings.HasSuffix(name, allowed)
	})
}

// special is a network that is not public. Own are those that somebody may well have
// receivers in.
type special struct {
	network netip.Prefix
	own     bool
	why     string
}

// specials are the networks of the special-purpose registries of IANA (RFC 6890) that are
// not the public Internet, and a few addresses of clouds that are not in them. The first
// that matches counts.
var specials = []special{
	{netip.MustParsePrefix("127.0.0.0/8"), true, "an address of this machine (loopback)"},
	{netip.MustParsePrefix("10.0.0.0/8"), true, "a private address (RFC 1918)"},
	{netip.MustParsePrefix("172.16.0.0/12"), true, "a private address (RFC 1918)"},
	{netip.MustParsePrefix("192.168.0.0/16"), true, "a private address (RFC 1918)"},
	{netip.MustParsePrefix("169.254.0.0/16"), false, "a link-local address, as those at which clouds hand out secrets"},
	{netip.MustParsePrefix("100.100.100.200/32"), false, "an address at which a cloud hands out secrets"},
	{netip.MustParsePrefix("100.64.0.0/10"), true, "an address behind the NAT of a provider (RFC 6598)"},
	{netip.MustParsePrefix("168.63.129.16/32"), false, "an address at which a cloud serves its machines"},
	{netip.MustParsePrefix("0.0.0.0/8"), false, "an unspecified address, which is this machine"},
	{netip.MustParsePrefix("192.0.0.0/24"), false, "a reserved address (RFC 6890)"},
	{netip.MustParsePrefix("192.0.2.0/24"), false, "an address of examples (RFC 5737)"},
	{netip.MustParsePrefix("198.51.100.0/24"), false, "an address of examples (RFC 5737)"},
	{netip.MustParsePrefix("203.0.113.0/24"), false, "an address of examples (RFC 5737)"},
	{netip.MustParsePrefix("192.31.196.0/24"), false, "a reserved address (RFC 7535)"},
	{netip.MustParsePrefix("192.52.193.0/24"), false, "a reserved address (RFC 7450)"},
	{netip.MustParsePrefix("192.88.99.0/24"), false, "a reserved address (RFC 7526)"},
	{netip.MustParsePrefix("192.175.48.0/24"), false, "a reserved address (RFC 7534)"},
	{netip.MustParsePrefix("198.18.0.0/15"), false, "an address of benchmarks (RFC 2544)"},
	{netip.MustParsePrefix("224.0.0.0/4"), false, "a multicast address"},
	{netip.MustParsePrefix("255.255.255.255/32"), false, "the broadcast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), false, "a reserved address (RFC 1112)"},

	{netip.MustParsePrefix("::1/128"), true, "an address of this machine (loopback)"},
	{netip.MustParsePrefix("::/128"), false, "an unspecified address, which is this machine"},
	{netip.MustParsePrefix("::/96"), false, "an IPv4 address in a form of IPv6 that is not in use any more"},
	{netip.MustParsePrefix("64:ff9b::/96"), false, "translated to IPv4 (NAT64)"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), false, "translated to IPv4 (NAT64)"},
	{netip.MustParsePrefix("2001::/32"), false, "tunnelled to IPv4 (Teredo)"},
	{netip.MustParsePrefix("2001::/23"), false, "a reserved address (RFC 2928)"},
	{netip.MustParsePrefix("2001:db8::/32"), false, "an address of examples (RFC 3849)"},
	{netip.MustParsePrefix("2002::/16"), false, "tunnelled to IPv4 (6to4)"},
	{netip.MustParsePrefix("2620:4f:8000::/48"), false, "a reserved address (RFC 7534)"},
	{netip.MustParsePrefix("3fff::/20"), false, "an address of examples (RFC 9637)"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), false, "an address at which a cloud hands out secrets"},
	{netip.MustParsePrefix("fd20:ce::254/128"), false, "an address at which a cloud hands out secrets"},
	{netip.MustParsePrefix("fc00::/7"), true, "a private address (RFC 4193)"},
	{netip.MustParsePrefix("fe80::/10"), false, "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), false, "a private address of a form that is not in use any more"},
	{netip.MustParsePrefix("ff00::/8"), false, "a multicast address"},
}

// publicIPv6 is all of IPv6 that is given out for the public Internet.
var publicIPv6 = netip.MustParsePrefix("2000::/3")

// classify says what an address that is not public is, whether it may be on a network of
// one's own, and whether it stands alone, among others that are something else. It returns ""
// for a public one.
func classify(address netip.Addr) (why string, own, alone bool) {
	if address.Zone() != "" {
		return "an address with a zone", false, false
	}
	for i := range specials {
		if s := &specials[i]; s.network.Contains(address) {
			return s.why, s.own, s.network.IsSingleIP()
		}
	}
	if address.Is6() && !publicIPv6.Contains(address) {
		return "a reserved address", false, false
	}
	return "", false, false
}

// embedded returns the IPv4 address to which traffic to an IPv6 address goes, if it says so.
func embedded(address netip.Addr) netip.Addr {
	b := address.As16()
	switch {
	case nat64.Contains(address), compatible.Contains(address) && address != netip.IPv6Unspecified() && address != netip.IPv6Loopback():
		return netip.AddrFrom4([4]byte(b[12:]))
	case sixToFour.Contains(address):
		return netip.AddrFrom4([4]byte(b[2:]))
	}
	return netip.Addr{}
}

var (
	compatible = netip.MustParsePrefix("::/96")
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
)

// localNames are names, with all below them, that never lead to somebody else.
var localNames = []struct{ name, why string }{
	{"localhost", "this machine"},
	{"localhost.localdomain", "this machine"},
	{"metadata.google.internal", "where a cloud hands out secrets"},
	{"metadata.goog", "where a cloud hands out secrets"},
	{"metadata", "where a cloud hands out secrets"},
	{"instance-data", "where a cloud hands out secrets"},
	{"instance-data.ec2.internal", "where a cloud hands out secrets"},
	{"metadata.azure.internal", "where a cloud hands out secrets"},
	{"metadata.tencentyun.com", "where a cloud hands out secrets"},
	{"metadata.platformequinix.com", "where a cloud hands out secrets"},
	{"kubernetes.default.svc", "the API of a cluster"},
	{"kubernetes.default.svc.cluster.local", "the API of a cluster"},
}

// otherPorts are those of well-known protocols that are not HTTP, and in which a request
// could be taken for commands.
var otherPorts = map[uint16]string{
	7: "echo", 9: "discard", 13: "daytime", 19: "chargen", 20: "FTP", 21: "FTP", 22: "SSH", 23: "telnet", 25: "mail", 37: "time",
	42: "WINS", 43: "whois", 53: "DNS", 69: "TFTP", 79: "finger", 109: "mail", 110: "mail", 111: "RPC", 113: "ident", 119: "news",
	123: "NTP", 135: "RPC", 137: "NetBIOS", 138: "NetBIOS", 139: "NetBIOS", 143: "mail", 161: "SNMP", 162: "SNMP", 179: "BGP",
	389: "LDAP", 445: "SMB", 465: "mail", 512: "rexec", 513: "rlogin", 514: "rsh and syslog", 515: "printers", 543: "klogin", 544: "kshell",
	548: "AFP", 554: "RTSP", 587: "mail", 636: "LDAP", 873: "rsync", 989: "FTP", 990: "FTP", 992: "telnet", 993: "mail", 995: "mail",
	1433: "a database", 2049: "NFS", 3306: "a database", 3389: "remote desktops", 5060: "SIP", 5061: "SIP", 5432: "a database",
	6379: "Redis", 11211: "memcached",
}

// canonicalName returns the form of a host name in which names are compared.
func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// checkName reports why name, in its canonical form, is not the name of a host.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the host is empty")
	case len(name) > 253:
		return errors.New("the host is longer than names are")
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "" || len(label) > 63:
			return fmt.Errorf("host %q has a part that is empty or longer than 63 characters", clip(name))
		case strings.ContainsFunc(label, func(r rune) bool {
			return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_')
		}):
			return fmt.Errorf("host %q has characters that host names do not have; one with other letters is written with xn-- in front", clip(name))
		}
		last = label
	}
	// What ends in a number is read as an IPv4 address by some: 127.1, 0177.0.0.1,
	// 2130706433, 0x7f000001.
	if _, err := strconv.ParseUint(last, 0, 64); err == nil || strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return fmt.Errorf("host %q is neither a name nor an address; addresses are four decimal numbers: 192.0.2.1", clip(name))
	}
	return nil
}

// clip bounds what errors repeat.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}

// hostOf returns the host of a host and port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
