package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/leak"
)

// Redaction says what is hidden in events before they are kept anywhere: in Before, After,
// Payload, Metadata, Reason and the id and path of the target. A value that is hidden is
// replaced by "<masked:NAME>", where NAME says what was found.
//
// Texts that look like secrets (tokens of well-known services, private keys, URLs with
// passwords) and texts under names that say so (password, client_secret, api_key) are always
// hidden unless Off is set. It is a net, not a proof.
type Redaction struct {
	// Names are further names whose values are hidden, whatever they are, also objects and
	// arrays. Case does not matter.
	Names []string
	// Off hides nothing but the values under Names.
	Off bool
}

// maskByName replaces what Names say.
const maskByName = "<masked:name>"

// redactor hides what a [Redaction] says. It is safe for concurrent use.
type redactor struct {
	rules *leak.Rules // nil: nothing is looked for
	names map[string]bool
}

// maxRedactNames bounds Redaction.Names.
const maxRedactNames = 1000

func newRedactor(o Redaction) (*redactor, error) {
	r := &redactor{names: make(map[string]bool)}
	if len(o.Names) > maxRedactNames {
		return nil, fmt.Errorf("there are %d names to redact, at most %d are possible", len(o.Names), maxRedactNames)
	}
	for _, name := range o.Names {
		if name == "" {
			return nil, errors.New("a name to redact is empty")
		}
		r.names[strings.ToLower(name)] = true
	}
	if !o.Off {
		rules, err := leak.New(leak.Options{Action: leak.Mask})
		if err != nil {
			return nil, err
		}
		r.rules = rules
	}
	return r, nil
}

// text returns a text without a name, or what stands for it.
func (r *redactor) text(s string) string {
	if r.rules == nil || s == "" {
		return s
	}
	return r.rules.Masked(s)
}

// value returns the text under a name, or what stands for it.
func (r *redactor) value(name, s string) string {
	switch {
	case r.named(name):
		return maskByName
	case r.rules == nil || s == "":
		return s
	}
	return r.rules.MaskedValue(name, s)
}

func (r *redactor) named(name string) bool {
	return len(r.names) > 0 && r.names[strings.ToLower(name)]
}

// json returns valid, compact JSON, with what is to be hidden replaced. It returns raw itself
// where there is nothing.
func (r *redactor) json(raw []byte) []byte {
	if raw == nil || r.rules == nil && len(r.names) == 0 {
		return raw
	}
	w := rewriter{redactor: r, in: raw}
	w.value("")
	if w.out == nil {
		return raw
	}
	return append(w.out, raw[w.copied:]...)
}

// rewriter goes through JSON. It copies what is before each replacement.
type rewriter struct {
	*redactor
	in     []byte
	at     int
	out    []byte // nil until something is replaced
	copied int    // how much of in is in out
}

// replace puts a text instead of what is between from and at.
func (w *rewriter) replace(from int, text string) {
	w.out = append(w.out, w.in[w.copied:from]...)
	w.out = jsontext.AppendString(w.out, text)
	w.copied = w.at
}

// value goes behind the value at w.at, which stands under a name.
func (w *rewriter) value(name string) {
	from := w.at
	switch w.in[w.at] {
	case '"':
		text := w.string()
		if masked := w.redactor.value(name, text); masked != text {
			w.replace(from, masked)
		}
	case '{':
		for w.at++; w.in[w.at] != '}'; {
			if w.in[w.at] == ',' {
				w.at++
			}
			keyFrom := w.at
			key := w.string()
			if masked := w.text(key); masked != key {
				w.replace(keyFrom, masked)
			}
			w.at++ // the colon
			if w.named(key) {
				valueFrom := w.at
				w.skip()
				w.replace(valueFrom, maskByName)
				continue
			}
			w.value(key)
		}
		w.at++
	case '[':
		for w.at++; w.in[w.at] != ']'; {
			if w.in[w.at] == ',' {
				w.at++
			}
			w.value(name)
		}
		w.at++
	default:
		w.skip()
	}
}

// string goes behind the string at w.at and returns it.
func (w *rewriter) string() string {
	from := w.at
	escaped := false
	for w.at++; w.in[w.at] != '"'; w.at++ {
		if w.in[w.at] == '\\' {
			escaped = true
			w.at++
		}
	}
	w.at++
	if !escaped {
		return string(w.in[from+1 : w.at-1])
	}
	var s string
	_ = json.Unmarshal(w.in[from:w.at], &s) // it is valid
	return s
}

// skip goes behind the value at w.at.
func (w *rewriter) skip() {
	depth := 0
	for w.at < len(w.in) {
		switch c := w.in[w.at]; c {
		case '"':
			w.string()
			if depth == 0 {
				return
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return // behind a number
			}
			depth--
			if depth == 0 {
				w.at++
				return
			}
		case ',':
			if depth == 0 {
				return
			}
		}
		w.at++
	}
}

// changes hides names that are secrets themselves.
func (r *redactor) changes(c *Changes) {
	if r.rules == nil {
		return
	}
	for _, list := range [...][]string{c.Added, c.Removed, c.Changed} {
		for i, path := range list {
			list[i] = r.rules.Masked(path)
		}
	}
}
