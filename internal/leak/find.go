package leak

import (
	"encoding/json"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// pairs is a set of two bytes that follow each other.
type pairs [1 << 16 / 64]uint64

func (p *pairs) add(a, b byte) { p[int(a)<<2|int(b)>>6] |= 1 << (b & 63) }

func (p *pairs) has(a, b byte) bool { return p[int(a)<<2|int(b)>>6]&(1<<(b&63)) != 0 }

// text returns the detector that finds something in a text, nil for none. It reads the
// text once: a form can begin only at the beginning of a word or at a byte that is in no
// word, and hardly any two bytes begin one.
func (r *Rules) text(s string) *rule {
	if len(s) >= shortest {
		inWord := false
		for i := 0; i < len(s); i++ {
			c := s[i]
			if alphanumeric[c] {
				if inWord {
					continue
				}
				inWord = true
			} else {
				inWord = false
			}
			if i+1 == len(s) || !r.pairs.has(c, s[i+1]) {
				continue
			}
			for j := range r.starts[c] {
				f := &r.starts[c][j]
				if strings.HasPrefix(s[i:], f.start) && f.rest(s, i+len(f.start)) {
					return f.rule
				}
			}
		}
	}
	if s != "" {
		for i := range r.own {
			if r.own[i].pattern.MatchString(s) {
				return r.own[i].rule
			}
		}
	}
	return nil
}

// field looks at the value of a field, and at what its name says about it.
func (r *Rules) field(f *event.Field) *rule {
	if f.JSON {
		return r.json(f.Key, f.Value)
	}
	return r.value(f.Key, f.Value)
}

func (r *Rules) value(name, value string) *rule {
	if found := r.text(value); found != nil {
		return found
	}
	if r.named == nil {
		return nil
	}
	if secretName(name) && !harmless(value) {
		return r.named
	}
	return r.json(name, value) // a text may be JSON itself, as bodies of requests are
}

// json looks at the texts in a JSON value, each under the name of the member that is nearest
// before it. What is no JSON has none.
func (r *Rules) json(name, value string) *rule {
	if value == "" || value[0] != '{' && value[0] != '[' {
		return nil // a number, true, false or null
	}
	for i := 0; i < len(value); i++ {
		if value[i] != '"' {
			continue
		}
		begin := i
		escaped := false
		for i++; i < len(value) && value[i] != '"'; i++ {
			if value[i] == '\\' {
				escaped = true
				i++
			}
		}
		if i >= len(value) {
			return nil // not JSON
		}
		text := value[begin+1 : i]
		if escaped {
			if json.Unmarshal([]byte(value[begin:i+1]), &text) != nil {
				return nil
			}
		}
		found := (*rule)(nil)
		if strings.HasPrefix(strings.TrimLeft(value[i+1:], " \t\r\n"), ":") {
			name = text
			found = r.text(text)
		} else {
			found = r.value(name, text)
		}
		if found != nil {
			return found
		}
	}
	return nil
}

// SecretWords are the words of a name that say that its value is a secret, as they follow
// one another in it.
var SecretWords = []string{
	"password", "passwd", "pwd", "passphrase", "passcode",
	"secret", "token", "credential", "credentials", "authorization", "cookie",
	"api key", "access key", "private key", "signing key", "encryption key", "auth key", "master key", "unseal key",
	"apikey", "accesskey", "privatekey", "secretkey", "clientsecret", "accesstoken", "authtoken", "refreshtoken",
	"sessiontoken", "connection string", "connectionstring",
}

// HarmlessLast are words that, at the end of a name, say that the value is about a secret
// and none itself, as in token_type. So do words that end in "ed", as in password_changed.
var HarmlessLast = []string{
	"accessor", "age", "algorithm", "arn", "at", "audience", "class", "count", "created", "date", "digest", "duration",
	"enabled", "endpoint", "engine", "expiration", "expires", "expiry", "file", "fingerprint", "format", "hash", "hmac", "issuer", "kind",
	"lease", "length", "limit", "manager", "max", "min", "mount", "name", "namespace", "owner", "path", "period",
	"policies", "policy", "prefix", "provider", "ref", "reference", "role", "rotation", "scope", "scopes", "size", "state", "status",
	"store", "time", "ttl", "type", "uri", "url", "uses", "version", "versions",
}

var (
	secretSequences = sequences(SecretWords)
	harmlessLast    = words(HarmlessLast)
	// A name without the first word of a sequence in it, as most are, needs no second look.
	rootPairs, secretRoots = roots(secretSequences)
)

func sequences(list []string) [][]string {
	var all [][]string
	for _, s := range list {
		all = append(all, strings.Fields(s))
	}
	return all
}

func words(list []string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, w := range list {
		m[w] = true
	}
	return m
}

// roots returns the first words by their first letter, and what they begin with, of either
// case.
func roots(list [][]string) (begin *pairs, all [256][]string) {
	begin = new(pairs)
	for _, sequence := range list {
		first := sequence[0]
		a, b := first[0], first[1]
		begin.add(a, b)
		begin.add(a-'a'+'A', b)
		begin.add(a, b-'a'+'A')
		begin.add(a-'a'+'A', b-'a'+'A')
		all[a] = append(all[a], first)
		all[a-'a'+'A'] = all[a]
	}
	return begin, all
}

// mostWords bounds the words of a name that are looked at: the last ones.
const mostWords = 16

// secretName says whether the value under a name is a secret, if it is not harmless:
// whether the words of the name have one of [SecretWords], and the last word is none of
// [HarmlessLast]. Words are separated by what is neither a letter nor a digit, by the
// change from lower to upper case, and behind an acronym: before the last of several capitals
// that a lower-case letter follows. Digits at their ends do not count.
func secretName(name string) bool {
	if !hasRoot(name) {
		return false
	}
	var memory [mostWords]string
	parts := splitWords(name, memory[:0])
	if len(parts) == 0 || isHarmlessLast(parts[len(parts)-1]) {
		return false
	}
	for i := range parts {
		for _, sequence := range secretSequences {
			if beginWith(parts[i:], sequence) {
				return true
			}
		}
	}
	return false
}

// hasRoot is the short cut of secretName.
func hasRoot(name string) bool {
	for i := 0; i+1 < len(name); i++ {
		if !rootPairs.has(name[i], name[i+1]) {
			continue
		}
		for _, root := range secretRoots[name[i]] {
			if len(name)-i >= len(root) && strings.EqualFold(name[i:i+len(root)], root) {
				return true
			}
		}
	}
	return false
}

func splitWords(name string, into []string) []string {
	add := func(word string) {
		if word = strings.TrimRight(word, digits); word == "" {
			return
		}
		if len(into) == mostWords {
			copy(into, into[1:])
			into = into[:mostWords-1]
		}
		into = append(into, word)
	}
	begin := 0
	for i := range len(name) {
		switch c := name[i]; {
		case !alphanumeric[c]:
			add(name[begin:i])
			begin = i + 1
		case isUpper(c) && i > begin && (!isUpper(name[i-1]) || i+1 < len(name) && isLower(name[i+1])):
			add(name[begin:i])
			begin = i
		}
	}
	add(name[begin:])
	return into
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isLower(c byte) bool { return 'a' <= c && c <= 'z' }

func beginWith(parts, sequence []string) bool {
	if len(parts) < len(sequence) {
		return false
	}
	for i, word := range sequence {
		if !strings.EqualFold(parts[i], word) {
			return false
		}
	}
	return true
}

func isHarmlessLast(word string) bool {
	const longest = 16
	if len(word) > longest {
		return false
	}
	var memory [longest]byte
	lowered := memory[:len(word)]
	for i := range len(word) {
		lowered[i] = word[i]
		if isUpper(word[i]) {
			lowered[i] += 'a' - 'A'
		}
	}
	return harmlessLast[string(lowered)] || len(word) > 3 && string(lowered[len(word)-2:]) == "ed"
}

// longestShort is the length up to which a value is too short for a secret.
const longestShort = 3

// harmlessValues are values that say something about a secret.
var harmlessValues = words([]string{
	"true", "false", "null", "none", "nil", "unset", "unknown", "empty", "default", "service", "batch", "recovery", "redacted", "yes", "no",
})

// harmless says whether a value is no secret, whatever its name.
func harmless(value string) bool {
	if len(value) <= longestShort || harmlessValues[value] || number(value) || placeholder(value) {
		return true
	}
	hash, ok := strings.CutPrefix(value, "hmac-sha256:") // as audit devices write it
	return ok && len(hash) == 64 && run(hash, 0, len(hash), lowerHex) == len(hash)
}

func number(value string) bool {
	for i := range len(value) {
		if c := value[i]; (c < '0' || c > '9') && c != '.' && (c != '-' || i > 0) {
			return false
		}
	}
	return true
}

// placeholder says whether a text stands for something that is not there: ****, xxxxx,
// <password>, ${PASSWORD}, {{ password }}.
func placeholder(value string) bool {
	for _, c := range [...]string{"*", "x", "X", "."} {
		if strings.Trim(value, c) == "" {
			return true
		}
	}
	for _, p := range [...][2]string{{"<", ">"}, {"${", "}"}, {"{{", "}}"}} {
		if strings.HasPrefix(value, p[0]) && strings.HasSuffix(value, p[1]) && len(value) >= len(p[0])+len(p[1]) {
			inside := value[len(p[0]) : len(value)-len(p[1])]
			return run(inside, 0, len(inside), inPlaceholder) == len(inside)
		}
	}
	return false
}

var inPlaceholder = set(lower + upper + digits + "_-.: ")
