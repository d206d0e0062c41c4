package safetemplate

import "strings"

// advanceURL passes a literal part of a URL.
func (c context) advanceURL(s string) (after context, offset int, reason string) {
	for i := 0; i < len(s); i++ {
		b := s[i]
		switch {
		case b <= ' ' || b == 0x7f || b == '"' || b == '<' || b == '>' || b == '\\':
			return c, i, "is no character of a URL"
		case b == '#':
			return c, i, "has a fragment, which is not sent; leave it out"
		case b == '?' && c.place != inQuery:
			if c.place == inHost && !hostEnded(c.host+s[:i]) {
				return c, i, urlExample
			}
			c.place = inQuery
		case b == '/' && c.place == inHost && hostEnded(c.host+s[:i]):
			c.place = inPath
		}
	}
	if c.place == inHost {
		c.host += s
	} else {
		c.host = ""
	}
	return c, 0, ""
}

const urlExample = "does not begin with https:// or http:// and a host"

// hostEnded says whether s is a scheme and a host.
func hostEnded(s string) bool {
	scheme, host, found := strings.Cut(s, "://")
	return found && (strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http")) && host != ""
}
