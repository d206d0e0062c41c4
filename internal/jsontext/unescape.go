package jsontext

import (
	"strings"
	"unicode/utf8"
)

// AppendUnescaped appends the text that the inside of a JSON string stands for, which must have
// been found to be valid (of what is not, some text becomes of it). A lone surrogate becomes
// U+FFFD, as in encoding/json.
func AppendUnescaped(dst []byte, s string) []byte {
	for {
		n := strings.IndexByte(s, '\\')
		if n < 0 || n+1 >= len(s) {
			return append(dst, s...)
		}
		dst = append(dst, s[:n]...)
		ch := s[n+1]
		s = s[n+2:]
		switch ch {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			if len(s) < 4 {
				return dst
			}
			r := hex4(s)
			s = s[4:]
			if r >= 0xd800 && r < 0xdc00 && len(s) >= 6 && s[0] == '\\' && s[1] == 'u' {
				if low := hex4(s[2:]); low >= 0xdc00 && low < 0xe000 {
					r = (r-0xd800)<<10 | (low - 0xdc00) + 0x10000
					s = s[6:]
				}
			}
			dst = utf8.AppendRune(dst, r)
		default: // a quote, a backslash or a slash
			dst = append(dst, ch)
		}
	}
}

// hex4 reads four hexadecimal digits.
func hex4(s string) (r rune) {
	for _, h := range []byte(s[:4]) {
		r <<= 4
		if h <= '9' {
			r |= rune(h-'0') & 15
		} else {
			r |= rune(h|0x20-'a'+10) & 15
		}
	}
	return r
}
