package match

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
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

// parseConstant reads a constant that is compared with values of a type.
func parseConstant(text string, op condition.Op, typ sourceplugin.FieldType) (c constant, err error) {
	if strings.IndexByte(text, 0) >= 0 {
		return c, errors.New("filter error: unexpected NUL byte in a value")
	}
	switch typ {
	case sourceplugin.String:
		if len(text) > maxConstant {
			return c, errors.New("filter parameter too long:" + text)
		}
		c.text = text
		if op == condition.Regex {
			c.regex, err = compileRegex(text)
		}
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

// inNetwork says whether the address of a value, which is address or address/bits, is in a
// network of the same family.
func inNetwork(value string, network netip.Prefix) bool {
	if i := strings.IndexByte(value, '/'); i >= 0 {
		value = value[:i]
	}
	a, err := netip.ParseAddr(value)
	return err == nil && network.Contains(a)
}
