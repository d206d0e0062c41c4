package audit

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies say which proxies in front of the service may tell for whom they ask. The zero
// value trusts none: the client is who connects.
type Proxies struct {
	// Trusted are the networks of proxies that are trusted. A request from elsewhere is
	// taken for what it is, whatever its headers say.
	Trusted []netip.Prefix
	// Header is the one that the proxies set: "X-Forwarded-For", "Forwarded" (RFC 7239), or
	// another that has one address, such as "X-Real-IP". Empty means X-Forwarded-For. No other header is looked
	// at: proxies pass on what they do not know, so a client could choose it.
	Header string
	// Sockets trusts what comes over a Unix domain socket.
	Sockets bool
}

// Bounds of what is read of a header.
const (
	maxForwardedBytes = 8 << 10
	maxForwardedHops  = 64
)

// ClientAddr returns the address of the client of a request that came from remote ("host:port",
// or of a Unix domain socket), with the headers. It goes through the header from right to
// left, that is from the nearest proxy outwards, as long as what told it is trusted. So a
// client cannot choose its address: what it wrote itself is further left. What is not an
// address ends the search with the last trusted proxy. The result is not valid when there
// is no address.
//
// IPv4 addresses written as IPv6 become IPv4, and zones are left out.
func (p *Proxies) ClientAddr(remote string, header http.Header) netip.Addr {
	addr, ok := remoteAddr(remote)
	if ok && !p.trusts(addr) || !ok && !p.Sockets {
		return addr
	}
	name := p.Header
	if name == "" {
		name = "X-Forwarded-For"
	}
	values := header.Values(name)
	forwarded := http.CanonicalHeaderKey(name) == "Forwarded"
	hops := 0
	for i := len(values) - 1; i >= 0; i-- {
		rest := values[i]
		if len(rest) > maxForwardedBytes {
			rest = rest[len(rest)-maxForwardedBytes:]
			if comma := strings.IndexByte(rest, ','); comma >= 0 {
				rest = rest[comma:]
			} else {
				return addr
			}
		}
		for more := true; more; {
			var element string
			element, rest, more = lastElement(rest, forwarded)
			if hops++; hops > maxForwardedHops {
				return addr
			}
			hop, ok := hopAddr(element, forwarded)
			if !ok {
				return addr
			}
			addr = hop
			if !p.trusts(addr) {
				return addr
			}
		}
	}
	return addr
}

func (p *Proxies) trusts(addr netip.Addr) bool {
	for _, prefix := range p.Trusted {
		if prefix.Contains(addr) {
			return true
		}
		// A prefix may be written as IPv6 for IPv4.
		if prefix.Addr().Is4In6() && addr.Is4() && prefix.Bits() >= 96 && netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96).Contains(addr) {
			return true
		}
	}
	return false
}

// remoteAddr reads the address of a connection.
func remoteAddr(remote string) (netip.Addr, bool) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return netip.Addr{}, false
	}
	return addr.Unmap().WithZone(""), true
}

// lastElement cuts off the last element of a list.
func lastElement(list string, quoted bool) (element, rest string, more bool) {
	if quoted {
		inside := false // of a quoted-string; a backslash escapes what is behind it
		last := -1
		for i := 0; i < len(list); i++ {
			switch {
			case inside && list[i] == '\\':
				i++
			case list[i] == '"':
				inside = !inside
			case list[i] == ',' && !inside:
				last = i
			}
		}
		if inside { // malformed: nothing in it can be believed
			return "", "", false
		}
		if last < 0 {
			return list, "", false
		}
		return list[last+1:], list[:last], true
	}
	if last := strings.LastIndexByte(list, ','); last >= 0 {
		return list[last+1:], list[:last], true
	}
	return list, "", false
}

// hopAddr reads the address in an element.
func hopAddr(element string, forwarded bool) (netip.Addr, bool) {
	text := strings.Trim(element, " \t")
	if forwarded {
		node, ok := forNode(text)
		if !ok {
			return netip.Addr{}, false
		}
		text = node
	}
	return nodeAddr(text)
}

// forNode returns the node of the parameter "for" of an element of Forwarded, RFC 7239
// section 4.
func forNode(element string) (string, bool) {
	node, found := "", false
	for element != "" {
		name, rest, ok := strings.Cut(element, "=")
		if !ok {
			return "", false
		}
		value := rest
		if strings.HasPrefix(rest, `"`) {
			end := 1
			var b strings.Builder
			for ; end < len(rest) && rest[end] != '"'; end++ {
				if rest[end] == '\\' {
					end++
				}
				if end < len(rest) {
					b.WriteByte(rest[end])
				}
			}
			if end >= len(rest) {
				return "", false
			}
			value, rest = b.String(), rest[end+1:]
		} else {
			end := strings.IndexByte(rest, ';')
			if end < 0 {
				end = len(rest)
			}
			value, rest = strings.Trim(rest[:end], " \t"), rest[end:]
		}
		if strings.EqualFold(strings.Trim(name, " \t"), "for") {
			if found { // at most once
				return "", false
			}
			node, found = value, true
		}
		rest = strings.TrimLeft(rest, " \t")
		if rest != "" {
			if rest[0] != ';' {
				return "", false
			}
			rest = rest[1:]
		}
		element = strings.TrimLeft(rest, " \t")
	}
	return node, found
}

// nodeAddr reads an address with or without a port.
func nodeAddr(text string) (netip.Addr, bool) {
	if len(text) > 64 {
		return netip.Addr{}, false
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Unmap(), addr.Zone() == ""
	}
	if inside, ok := strings.CutPrefix(text, "["); ok {
		host, port, found := strings.Cut(inside, "]")
		addr, err := netip.ParseAddr(host)
		if !found || err != nil || addr.Is4() || addr.Zone() != "" || port != "" && !isPort(port) {
			return netip.Addr{}, false
		}
		return addr.Unmap(), true
	}
	if host, port, ok := strings.Cut(text, ":"); ok && isPort(":"+port) {
		if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// isPort reports whether a text is a colon and a port, or an obfuscated one (RFC 7239 section
// 6.3).
func isPort(s string) bool {
	if len(s) < 2 || s[0] != ':' {
		return false
	}
	for i := 1; i < len(s); i++ {
		c := s[i]
		if (c < '0' || c > '9') && s[1] != '_' {
			return false
		}
		if s[1] == '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}
