// Package subject makes subjects of NATS of a template and an event. Whatever an event
// says, a subject has no wildcard, no empty token, and a bounded length.
package subject

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// Bounds of what a placeholder becomes. NATS recommends at most 16 tokens and 256 characters
// for a subject.
const (
	maxTokens = 10
	maxBytes  = 128
	// maxTemplate bounds the template, so that subjects are shorter than 700 bytes.
	maxTemplate = 150
)

// none stands for an attribute that an event does not have.
const none = "_"

// Template is a subject with placeholders. Make it with [Parse].
type Template struct{ parts []part }

// part is a literal text or a placeholder.
type part struct {
	text string
	of   func(e *event.Event) string // nil: the text
}

// placeholders by their names.
var placeholders = map[string]func(*event.Event) string{
	"type":   func(e *event.Event) string { return e.Type },
	"path":   func(e *event.Event) string { return e.Path },
	"source": func(e *event.Event) string { return e.Source },
	"namespace": func(e *event.Event) string {
		if e.Namespace == "" {
			return "root"
		}
		return e.Namespace
	},
}

// Parse reads a template: a subject of NATS in which {type}, {namespace}, {path} and
// {source} stand for what the event has.
func Parse(text string) (*Template, error) {
	if text == "" {
		return nil, errors.New("is empty; write for example tocsin.{type}")
	}
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("has %d bytes, at most %d are allowed", len(text), maxTemplate)
	}
	t := new(Template)
	for rest := text; rest != ""; {
		literal, behind, found := strings.Cut(rest, "{")
		if literal != "" {
			t.parts = append(t.parts, part{text: literal})
		}
		if !found {
			break
		}
		name, after, ok := strings.Cut(behind, "}")
		of := placeholders[name]
		if !ok || of == nil {
			return nil, fmt.Errorf("has {%.20s, which is none of {type}, {namespace}, {path} and {source}", behind)
		}
		t.parts = append(t.parts, part{of: of})
		rest = after
	}
	// A placeholder becomes at least one character.
	shape := string(t.fill(nil, func(p *part) string { return "x" }))
	for i := 0; i < len(shape); i++ {
		if c := shape[i]; c <= ' ' || c >= 0x7f || c == '*' || c == '>' || c == '}' {
			return nil, fmt.Errorf("has the character %q, which is not allowed in subjects that are published to", c)
		}
	}
	for token := range strings.SplitSeq(shape, ".") {
		if token == "" {
			return nil, errors.New("has an empty token: a dot at the beginning or the end, or two in a row")
		}
	}
	if shape[0] == '$' || strings.HasPrefix(shape, "_INBOX.") {
		return nil, errors.New("begins as the subjects that belong to the server do")
	}
	return t, nil
}

// Append appends the subject for an event. The value of a placeholder is made of tokens by
// cutting it at /, of which the first may be ://. Characters other than ASCII letters,
// digits, - and _ become _. What the event does not have is _, and the root namespace is
// root. A value of more than 10 tokens or 128 characters is cut, and gets a hash of all of
// it.
func (t *Template) Append(dst []byte, e *event.Event) []byte {
	return t.fill(dst, func(p *part) string { return p.of(e) })
}

func (t *Template) fill(dst []byte, value func(*part) string) []byte {
	for i := range t.parts {
		p := &t.parts[i]
		if p.of == nil {
			dst = append(dst, p.text...)
			continue
		}
		dst = appendTokens(dst, value(p))
	}
	return dst
}

// appendTokens appends the tokens that a value becomes.
func appendTokens(dst []byte, value string) []byte {
	begin, tokens := len(dst), 0
	rest := value
	if scheme, after, ok := strings.Cut(value, "://"); ok && !strings.Contains(scheme, "/") {
		dst, tokens = appendToken(dst, scheme, begin), min(len(scheme), 1)
		rest = after
	}
	for rest != "" {
		var token string
		token, rest, _ = strings.Cut(rest, "/")
		if token == "" {
			continue
		}
		if tokens == maxTokens || len(dst)-begin+1+len(token) > maxBytes {
			return appendCut(dst, begin, token, value, tokens == maxTokens)
		}
		dst = appendToken(dst, token, begin)
		tokens++
	}
	if len(dst) == begin {
		return append(dst, none...)
	}
	if len(dst)-begin > maxBytes { // the scheme
		return appendCut(dst[:begin], begin, string(dst[begin:]), value, false)
	}
	return dst
}

// appendCut appends what fits of a token, and a hash of the whole value.
func appendCut(dst []byte, begin int, token, value string, full bool) []byte {
	const hash = len(".0123456789abcdef")
	if room := maxBytes - hash - (len(dst) - begin) - 1; !full && room > 0 {
		dst = appendToken(dst, token[:min(room, len(token))], begin)
	}
	if n := begin + maxBytes - hash; len(dst) > n {
		dst = dst[:n]
		if dst[n-1] == '.' {
			dst[n-1] = '_'
		}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(value))
	if len(dst) > begin {
		dst = append(dst, '.')
	}
	return fmt.Appendf(dst, "%016x", h.Sum64())
}

// appendToken appends one token, and a dot before it unless it is the first.
func appendToken(dst []byte, token string, begin int) []byte {
	if token == "" {
		return dst
	}
	if len(dst) > begin {
		dst = append(dst, '.')
	}
	for _, c := range token {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			dst = append(dst, byte(c))
		default:
			dst = append(dst, '_')
		}
	}
	return dst
}
