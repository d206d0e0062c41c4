package event

import (
	"math/bits"
	"time"
	"unicode/utf8"
)

// The appenders here write what encoding/json writes with its default HTML
// escaping, so that a Vault client sees the bytes that it knows, but without
// reflection and without allocating.

const hexDigits = "0123456789abcdef"

// plain tells the bytes that stand for themselves in a JSON string: ASCII
// without control characters, quote, backslash, and the HTML characters <, >, &.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

// plainPrefix returns the length of the longest prefix of s that holds only
// plain bytes. It looks at eight bytes at a time.
func plainPrefix[T string | []byte](s T) int {
	const (
		ones = 0x0101010101010101
		high = 0x8080808080808080
	)
	i := 0
	for ; i+8 <= len(s); i += 8 {
		b := s[i : i+8]
		w := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		// A byte of x-ones&^x has its high bit set where x has a zero byte. The
		// borrow can mark a byte above a true hit as well, never one below it, so
		// the lowest mark is exact. Two characters that differ in one bit are
		// found with one comparison once that bit is set.
		quoteAmp := (w | 0x04*ones) ^ '&'*ones // 0x22 '"' and 0x26 '&'
		angle := (w | 0x02*ones) ^ '>'*ones    // 0x3c '<' and 0x3e '>'
		slash := w ^ '\\'*ones
		special := (w | // not ASCII
			(w-0x20*ones)&^w | // control characters
			(quoteAmp-ones)&^quoteAmp |
			(angle-ones)&^angle |
			(slash-ones)&^slash) & high
		if special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for i < len(s) && plain[s[i]] {
		i++
	}
	return i
}

// appendString appends s as a JSON string.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	for {
		n := plainPrefix(s)
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return append(dst, '"')
		}
		s = s[n:]
		n = 1
		switch c := s[0]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c == '\b':
			dst = append(dst, `\b`...)
		case c == '\f':
			dst = append(dst, `\f`...)
		case c < utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		default:
			var r rune
			r, n = utf8.DecodeRuneInString(string(s[:min(len(s), utf8.UTFMax)]))
			switch {
			case r == utf8.RuneError && n == 1:
				dst = append(dst, `\ufffd`...)
			case r == '\u2028' || r == '\u2029':
				dst = append(dst, '\\', 'u', '2', '0', '2', hexDigits[r&0xf])
			default:
				dst = append(dst, s[:n]...)
			}
		}
		s = s[n:]
	}
}

// appendHTMLSafe appends a valid JSON text with the characters escaped that
// [appendString] escapes for the sake of HTML. Outside of strings they do not
// occur.
func appendHTMLSafe(dst []byte, json string) []byte {
	start := 0
	for i := 0; i < len(json); i++ {
		switch c := json[i]; {
		case c == '<' || c == '>' || c == '&':
			dst = append(dst, json[start:i]...)
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
			start = i + 1
		case c == 0xe2 && i+2 < len(json) && json[i+1] == 0x80 && json[i+2]&^1 == 0xa8: // U+2028, U+2029
			dst = append(dst, json[start:i]...)
			dst = append(dst, '\\', 'u', '2', '0', '2', hexDigits[json[i+2]&0xf])
			i += 2
			start = i + 1
		}
	}
	return append(dst, json[start:]...)
}

var (
	minTime = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	maxTime = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
)

// appendTime appends t in RFC 3339 with as many digits of the nanoseconds as are
// needed, in the zone of t. What RFC 3339 cannot say is said differently: a zone
// that is not a whole number of minutes, or a day or more, from UTC becomes UTC
// (encoding/json would tell another instant), and a year outside 0 to 9999 the
// nearest time that can be said (encoding/json fails).
func appendTime(dst []byte, t time.Time) []byte {
	const day = 24 * 60 * 60
	if _, offset := t.Zone(); offset%60 != 0 || offset <= -day || offset >= day {
		t = t.UTC()
	}
	start := len(dst)
	dst = t.AppendFormat(dst, time.RFC3339Nano)
	if dst[start+len("9999")] == '-' {
		return dst
	}
	switch t = t.UTC(); {
	case t.Before(minTime):
		t = minTime
	case t.After(maxTime):
		t = maxTime
	}
	return t.AppendFormat(dst[:start], time.RFC3339Nano)
}

// AppendJSON appends f as a JSON object on one line, {} for nil, in the form that the
// CloudEvents of [AppendCloudEvent] have it. It is for fields that passed
// [Limits.Check].
func (f Fields) AppendJSON(dst []byte) []byte { return appendFields(dst, f, false) }

// appendFields appends f as a JSON object. Typed values are appended verbatim,
// or with HTML escapes when safe is set.
func appendFields(dst []byte, f Fields, safe bool) []byte {
	dst = append(dst, '{')
	for i := range f {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, f[i].Key), ':')
		switch {
		case !f[i].JSON:
			dst = appendString(dst, f[i].Value)
		case safe:
			dst = appendHTMLSafe(dst, f[i].Value)
		default:
			dst = append(dst, f[i].Value...)
		}
	}
	return append(dst, '}')
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s)
	}
	return append(dst, ']')
}

// appendPlugin appends p with Vault's member names, without empty members.
func appendPlugin(dst []byte, p *PluginInfo) []byte {
	start := len(dst)
	dst = appendMember(dst, `,"mount_class":`, p.MountClass)
	dst = appendMember(dst, `,"mount_accessor":`, p.MountAccessor)
	dst = appendMember(dst, `,"mount_path":`, p.MountPath)
	dst = appendMember(dst, `,"plugin":`, p.Plugin)
	dst = appendMember(dst, `,"plugin_version":`, p.PluginVersion)
	dst = appendMember(dst, `,"version":`, p.Version)
	if p.IsLocal {
		dst = append(dst, `,"is_local":true`...)
	}
	return closeObject(dst, start)
}

// closeObject makes an object of the members appended since start, each led by a
// comma.
func closeObject(dst []byte, start int) []byte {
	if len(dst) == start {
		return append(dst, "{}"...)
	}
	dst[start] = '{'
	return append(dst, '}')
}

// appendMember appends the member that lead names, a comma, the quoted name and
// a colon, unless its value is empty.
func appendMember(dst []byte, lead, value string) []byte {
	if value == "" {
		return dst
	}
	return appendString(append(dst, lead...), value)
}
