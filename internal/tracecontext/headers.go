package tracecontext

import (
	"encoding/hex"
	"strings"
)

const (
	traceparentBytes = 2 + 1 + 32 + 1 + 16 + 1 + 2
	// maxTraceparent is how long a field of a later version may be.
	maxTraceparent = 512
	// Bounds of tracestate. W3C wants at least 512 characters to be passed on.
	maxStateMembers = 32
	maxStateBytes   = 512
)

// Traceparent is what the header field of that name says.
type Traceparent struct {
	TraceID TraceID
	Parent  SpanID
	Flags   Flags
}

// ParseTraceparent reads the header field (W3C Trace Context section 3.2). Fields of a later
// version than 00 are read as far as 00 goes, as the standard asks for.
func ParseTraceparent(s string) (p Traceparent, ok bool) {
	switch {
	case len(s) < traceparentBytes || len(s) > maxTraceparent:
		return p, false
	case s[2] != '-' || s[35] != '-' || s[52] != '-':
		return p, false
	}
	var version, flags [1]byte
	if !lowerHex(version[:], s[0:2]) || !lowerHex(p.TraceID[:], s[3:35]) || !lowerHex(p.Parent[:], s[36:52]) || !lowerHex(flags[:], s[53:55]) {
		return Traceparent{}, false
	}
	more := len(s) > traceparentBytes
	switch {
	case version[0] == 0xff, version[0] == 0 && more, more && s[traceparentBytes] != '-':
		return Traceparent{}, false
	case p.TraceID.IsZero() || p.Parent.IsZero():
		return Traceparent{}, false
	}
	p.Flags = Flags(flags[0]) & knownFlags
	return p, true
}

// lowerHex fills dst from hex digits without capitals.
func lowerHex(dst []byte, s string) bool {
	for i := range dst {
		high, low := hexDigit(s[2*i]), hexDigit(s[2*i+1])
		if high|low > 15 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

func hexDigit(b byte) byte {
	switch {
	case b >= '0' && b <= '9':
		return b - '0'
	case b >= 'a' && b <= 'f':
		return b - 'a' + 10
	}
	return 0xff
}

// AppendTraceparent appends the header field, version 00.
func AppendTraceparent(dst []byte, trace TraceID, parent SpanID, flags Flags) []byte {
	dst = append(dst, "00-"...)
	dst = hex.AppendEncode(dst, trace[:])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, parent[:])
	return hex.AppendEncode(append(dst, '-'), []byte{byte(flags)})
}

// ParseTracestate joins the header fields of this name and returns them without empty
// members and white space around members (section 3.3). It is false, and the text empty,
// when a member is malformed, a key occurs twice, or there are more than 32 members or 512
// bytes: what stands there is then to be ignored.
func ParseTracestate(fields ...string) (state string, ok bool) {
	var keys [maxStateMembers]string
	n, size := 0, 0
	for _, field := range fields {
		if size += len(field) + 1; size > 4*maxStateBytes {
			return "", false
		}
	}
	var b strings.Builder
	for _, field := range fields {
		for member := range strings.SplitSeq(field, ",") {
			member = strings.Trim(member, " \t")
			if member == "" {
				continue
			}
			key, value, found := strings.Cut(member, "=")
			if !found || n == maxStateMembers || !isStateKey(key) || !isStateValue(value) {
				return "", false
			}
			for _, earlier := range keys[:n] {
				if earlier == key {
					return "", false
				}
			}
			keys[n] = key
			if n++; n > 1 {
				b.WriteByte(',')
			}
			b.WriteString(member)
		}
	}
	if b.Len() > maxStateBytes {
		return "", false
	}
	return b.String(), true
}

// isStateKey follows level 2, which allows all that level 1 does.
func isStateKey(s string) bool {
	tenant, system, multi := strings.Cut(s, "@")
	if multi {
		return len(tenant) <= 241 && len(system) <= 14 && isKeyPart(tenant, true) && isKeyPart(system, false)
	}
	return len(s) <= 256 && isKeyPart(s, true)
}

func isKeyPart(s string, digitFirst bool) bool {
	for i, b := range []byte(s) {
		switch {
		case b >= 'a' && b <= 'z':
		case b >= '0' && b <= '9':
			if i == 0 && !digitFirst {
				return false
			}
		case b == '_' || b == '-' || b == '*' || b == '/':
			if i == 0 {
				return false
			}
		default:
			return false
		}
	}
	return s != ""
}

func isStateValue(s string) bool {
	for _, b := range []byte(s) {
		if b < ' ' || b > '~' || b == ',' || b == '=' {
			return false
		}
	}
	return s != "" && len(s) <= 256 && s[len(s)-1] != ' '
}
