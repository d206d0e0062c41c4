package trace

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// target is what the name of a span is made from.
type target struct {
	operation  string
	path       string // without namespace
	mount      string // without namespace, with a trailing slash; empty: not known
	mountType  string
	mountClass string
	unsure     bool // whether there is such a path
}

func targetOf(e *auditlog.Entry) target {
	return target{
		operation:  e.Request.Operation,
		path:       e.Request.Path,
		mount:      strings.TrimPrefix(e.MountPoint(), e.Request.NamespacePath),
		mountType:  e.MountType(),
		mountClass: cmp.Or(e.Request.MountClass, e.Response.MountClass),
		unsure:     e.Outcome().Failed() || !e.IsResponse && e.MountType() == "",
	}
}

const (
	rest = "…" // what a name has for the parts of a path that are left out
	// Bounds of a name.
	maxNameBytes    = 200
	maxNameElements = 8 // behind the mount
	maxNameRests    = 3
	maxOperation    = 32
	maxRuleElements = 16
)

// namer names spans: by the rules of the user, then by what is known of the API of the
// mount. A name has the operation and a path in which everything that is not part of the
// API is replaced by an ellipsis, so that there are few.
type namer struct {
	rules []compiledRule
	max   int
	names map[string]string
	buf   []byte
	// unsure is how many names are of requests that were the first with it and failed. Anybody
	// can make such requests, to any path, so they get at most half of the names.
	unsure int
}

func newNamer(rules []NameRule, maxNames int) (*namer, error) {
	n := &namer{max: maxNames, names: make(map[string]string)}
	for _, r := range rules {
		c, err := compileRule(r)
		if err != nil {
			return nil, err
		}
		n.rules = append(n.rules, c)
	}
	return n, nil
}

// name returns the name of the span of a request.
func (n *namer) name(t target) string {
	operation := t.operation
	if !isOperation(operation) {
		operation = "unknown"
	}
	b := append(append(n.buf[:0], operation...), ' ')
	b = n.template(b, t)
	if len(b) > maxNameBytes {
		b = append([]byte(strings.ToValidUTF8(string(b[:maxNameBytes]), "")), rest...)
	}
	n.buf = b
	if name, ok := n.names[string(b)]; ok {
		return name
	}
	if len(n.names) >= n.max || t.unsure && n.unsure >= n.max/2 {
		return n.fallback(operation, t.mountType)
	}
	if t.unsure {
		n.unsure++
	}
	name := string(b)
	n.names[name] = name
	return name
}

// fallback is the name when there are too many.
func (n *namer) fallback(operation, mountType string) string {
	if _, known := vocabularies[mountType]; !known {
		return operation + " " + rest
	}
	return operation + " " + mountType + "/" + rest
}

// isOperation bounds what stands first in a name to words.
func isOperation(s string) bool {
	for _, b := range []byte(s) {
		if (b < 'a' || b > 'z') && b != '-' && b != '_' {
			return false
		}
	}
	return s != "" && len(s) <= maxOperation
}

func (n *namer) template(b []byte, t target) []byte {
	for i := range n.rules {
		if out, ok := n.rules[i].apply(b, t.path); ok {
			return out
		}
	}
	if t.mount == "" {
		return unmounted(b, t)
	}
	b = append(b, t.mount...)
	if len(t.path) <= len(t.mount) || !strings.HasPrefix(t.path, t.mount) {
		return b
	}
	return inMount(b, t.path[len(t.mount):], t.mountType, t.mountClass)
}

// unmounted is for entries that do not tell the mount: those of Vault before 1.14, and those
// of requests that failed before the server looked for one, whose path may be anything.
func unmounted(b []byte, t target) []byte {
	first, below, _ := strings.Cut(t.path, "/")
	switch first {
	case "sys":
		return inMount(append(b, "sys/"...), below, "system", "secret")
	case "identity", "cubbyhole":
		return inMount(append(append(b, first...), '/'), below, first, "secret")
	case "auth":
		method, below, _ := strings.Cut(below, "/")
		if method == "token" {
			return inMount(append(b, "auth/token/"...), below, "token", "auth")
		}
		if t.unsure || method == "" {
			return append(b, "auth/"+rest...)
		}
		return inMount(append(append(append(b, "auth/"...), method...), '/'), below, t.mountType, "auth")
	}
	if t.unsure || first == "" {
		return append(b, rest...)
	}
	return inMount(append(append(b, first...), '/'), below, t.mountType, t.mountClass)
}

// inMount appends the template of a path below its mount: words of the API stay, runs of
// anything else are one ellipsis.
func inMount(b []byte, path, mountType, mountClass string) []byte {
	if mountType == "" {
		mountType = typeOf(string(b))
	}
	words, known := vocabularies[mountType]
	if !known && mountClass == "auth" {
		words = authWords
	}
	kv := mountType == "kv" || mountType == "generic"
	free, rests, elements := false, 0, 0
	for path != "" {
		var element string
		element, path, _ = strings.Cut(path, "/")
		if element == "" {
			continue
		}
		_, word := words[element]
		if kv && elements > 0 {
			word = false
		}
		if elements++; !word && free {
			continue
		}
		if elements > 1 && b[len(b)-1] != '/' {
			b = append(b, '/')
		}
		if free = !word; free {
			b = append(b, rest...)
			if rests++; rests == maxNameRests {
				return b
			}
		} else {
			b = append(b, element...)
		}
		if elements == maxNameElements && path != "" {
			if !free {
				b = append(b, "/"+rest...)
			}
			return b
		}
	}
	return b
}

// typeOf tells the type of a mount that is part of every server, of which some entries do not
// tell it. It is given the name so far.
func typeOf(name string) string {
	_, mount, _ := strings.Cut(name, " ")
	switch mount {
	case "sys/":
		return "system"
	case "auth/token/":
		return "token"
	case "identity/", "cubbyhole/":
		return mount[:len(mount)-1]
	}
	return ""
}

// compiledRule is a [NameRule] that is ready to be matched.
type compiledRule struct {
	elements []pathElement
	parts    []namePart
}

type pathElement struct {
	capture string // name, if it is one
	all     bool   // what follows too
	glob    string // otherwise
}

type namePart struct {
	text    string
	capture int // of the element, if text is empty
}

func compileRule(r NameRule) (compiledRule, error) {
	var c compiledRule
	wrong := func(format string, args ...any) (compiledRule, error) {
		return compiledRule{}, fmt.Errorf("name rule for %q: %s", r.Path, fmt.Sprintf(format, args...))
	}
	path := strings.Trim(r.Path, "/")
	if path == "" || r.Name == "" {
		return wrong("path and name must not be empty")
	}
	elements := strings.Split(path, "/")
	if len(elements) > maxRuleElements {
		return wrong("the path has more than %d elements", maxRuleElements)
	}
	for i, text := range elements {
		el := pathElement{glob: text}
		if inner, ok := strings.CutPrefix(text, "{"); ok {
			if inner, ok = strings.CutSuffix(inner, "}"); !ok {
				return wrong("%q is not closed", text)
			}
			inner, el.all = strings.CutSuffix(inner, "...")
			el.capture = inner
			switch {
			case inner == "" || strings.ContainsAny(inner, "{}"):
				return wrong("%q has no name", text)
			case el.all && i < len(elements)-1:
				return wrong("%q must be the last element", text)
			case slices.ContainsFunc(c.elements, func(e pathElement) bool { return e.capture == inner }):
				return wrong("%q occurs twice", inner)
			}
		}
		c.elements = append(c.elements, el)
	}
	for name := r.Name; name != ""; {
		text, behind, found := strings.Cut(name, "{")
		if text != "" {
			c.parts = append(c.parts, namePart{text: text})
		}
		if !found {
			break
		}
		key, after, closed := strings.Cut(behind, "}")
		at := slices.IndexFunc(c.elements, func(e pathElement) bool { return e.capture == key && key != "" })
		if !closed || at < 0 {
			return wrong("the name refers to {%s}, which the path does not have", key)
		}
		c.parts = append(c.parts, namePart{capture: at})
		name = after
	}
	return c, nil
}

// apply appends the name if the path matches.
func (c *compiledRule) apply(b []byte, path string) ([]byte, bool) {
	path = strings.TrimSuffix(path, "/")
	var found [maxRuleElements]string
	values := found[:0]
	for i, el := range c.elements {
		if el.all {
			if path == "" {
				return b, false
			}
			values, path = append(values, path), ""
			break
		}
		var element string
		var more bool
		element, path, more = strings.Cut(path, "/")
		if element == "" || el.capture == "" && !globMatch(el.glob, element) || more == (i == len(c.elements)-1) {
			return b, false
		}
		values = append(values, element)
	}
	for _, p := range c.parts {
		if p.text != "" {
			b = append(b, p.text...)
		} else {
			b = append(b, values[p.capture]...)
		}
	}
	return b, true
}

// globMatch compares s with a pattern in which * stands for any text. It takes time
// proportional to the product of both at worst, and no memory.
func globMatch(pattern, s string) bool {
	star, back := -1, 0
	i, k := 0, 0
	for k < len(s) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			star, back = i, k
			i++
		case i < len(pattern) && pattern[i] == s[k]:
			i++
			k++
		case star >= 0:
			back++
			i, k = star+1, back
		default:
			return false
		}
	}
	for i < len(pattern) && pattern[i] == '*' {
		i++
	}
	return i == len(pattern)
}
