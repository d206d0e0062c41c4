package match

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// maxConstant is how long a string may be that a field is compared with.
const maxConstant = 255

// constant is what a field is compared with. Which member has it depends on the type of the field
// and on the operator.
type constant struct {
	text    string // a string; the bytes of an address
	number  uint64
	network netip.Prefix
	regex   *regexp.Regexp
}

// parseConstant reads a constant that is compared with values of a type. A pattern is only a string.
func parseConstant(text string, typ sourceplugin.FieldType) (c constant, err error) {
	if strings.IndexByte(text, 0) >= 0 {
		return c, errors.New("filter error: unexpected NUL byte in a value")
	}
	switch typ {
	case sourceplugin.String:
		if len(text) > maxConstant {
			return c, errors.New("filter parameter too long:" + text)
		}
		c.text = text
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		c.number, err = parseNumber(text)
	case sourceplugin.Bool:
		switch text {
		case "true":
			c.number = 1
		case "false":
		default:
			err = errors.New("filter error: unrecognized boolean value " + text)
		}
	case sourceplugin.IPAddr:
		c.text, err = parseAddress(text)
	case sourceplugin.IPNet:
		c.network, err = parseNetwork(text)
	default:
		err = fmt.Errorf("wrong parameter type %d", typ)
	}
	return c, err
}

// parseNumber reads a decimal number as sscanf does: blanks before it and a sign are fine, a
// negative one is counted from 2^64 downwards, and one that is too large is the largest.
func parseNumber(text string) (uint64, error) {
	digits := strings.TrimLeft(text, " \t\n\v\f\r")
	negative := strings.HasPrefix(digits, "-")
	if negative || strings.HasPrefix(digits, "+") {
		digits = digits[1:]
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return n, nil
	case err != nil:
		return 0, errors.New(text + " is not a valid number")
	case negative:
		n = -n
	}
	return n, nil
}

func parseAddress(text string) (string, error) {
	if strings.Contains(text, ".") {
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is4() {
			return "", errors.New("unrecognized IPv4 address " + text)
		}
		return string(a.AsSlice()), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is6() || a.Zone() != "" {
		return "", errors.New("unrecognized IPv6 address " + text)
	}
	return string(a.AsSlice()), nil
}

func parseNetwork(text string) (netip.Prefix, error) {
	address, bits, isNet := strings.Cut(text, "/")
	v4 := strings.Contains(text, ".")
	switch {
	case !isNet && v4:
		return netip.Prefix{}, errors.New("unrecognized IP network " + text)
	case !isNet:
		return netip.Prefix{}, errors.New("invalid v6 netmask: " + text)
	}
	a, err := netip.ParseAddr(address)
	switch {
	case v4 && (err != nil || !a.Is4()):
		return netip.Prefix{}, errors.New("unrecognized IP address " + text)
	case !v4 && (err != nil || !a.Is6() || a.Zone() != ""):
		return netip.Prefix{}, errors.New("unrecognized IPv6 address " + text)
	}
	n, err := parseNumber(bits)
	switch {
	case err != nil:
		return netip.Prefix{}, err
	case v4 && n > 32:
		return netip.Prefix{}, errors.New("invalid netmask " + bits)
	case !v4 && (n == 0 || n > 128):
		return netip.Prefix{}, errors.New("invalid v6 netmask " + bits)
	}
	return netip.PrefixFrom(a, int(n)).Masked(), nil
}

// networks are networks of addresses, found by the lengths of their prefixes.
type networks struct {
	all  map[netip.Prefix]struct{}
	bits []networkBits // that there are
}

type networkBits struct {
	v6   bool
	bits int
}

func newNetworks(constants []constant) *networks {
	n := &networks{all: make(map[netip.Prefix]struct{}, len(constants))}
	for _, c := range constants {
		n.all[c.network] = struct{}{}
		if b := (networkBits{c.network.Addr().Is6(), c.network.Bits()}); !slices.Contains(n.bits, b) {
			n.bits = append(n.bits, b)
		}
	}
	return n
}

// have says whether the address of a value, which is address or address/bits, is in a network of
// the same family.
func (n *networks) have(value string) bool {
	a, ok := addressOf(value)
	if !ok || a.Zone() != "" {
		return false
	}
	for _, b := range n.bits {
		if b.v6 != a.Is6() {
			continue
		}
		if p, err := a.Prefix(b.bits); err == nil {
			if _, ok := n.all[p]; ok {
				return true
			}
		}
	}
	return false
}

// inNetwork is that for one network.
func inNetwork(value string, network netip.Prefix) bool {
	a, ok := addressOf(value)
	return ok && network.Contains(a)
}

func addressOf(value string) (netip.Addr, bool) {
	if i := strings.IndexByte(value, '/'); i >= 0 {
		value = value[:i]
	}
	a, err := netip.ParseAddr(value)
	return a, err == nil
}
