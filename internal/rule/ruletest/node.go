package ruletest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/spelling"
)

// Error says what is wrong with a file of tests, and where.
type Error struct {
	File string
	Line int
	Err  error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

func (f *file) errorf(line int, format string, args ...any) error {
	return &Error{f.name, line, fmt.Errorf(format, args...)}
}

// entry is a value of a map, with its key.
type entry struct {
	key   string
	value *yaml.Node
}

// entries returns those of a map whose keys are among allowed.
func (f *file) entries(n *yaml.Node, what string, allowed ...string) ([]entry, error) {
	if n = resolved(n); n.Kind != yaml.MappingNode {
		return nil, f.errorf(n.Line, "%s must be a map of %s", what, strings.Join(allowed, ", "))
	}
	var es []entry
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		known := false
		for _, a := range allowed {
			known = known || a == k.Value
		}
		switch {
		case !known:
			return nil, f.errorf(k.Line, "%s has no key %q%s; it has %s", what, k.Value, hint(k.Value, allowed), strings.Join(allowed, ", "))
		case seen[k.Value]:
			return nil, f.errorf(k.Line, "%q is there twice", k.Value)
		}
		seen[k.Value] = true
		es = append(es, entry{k.Value, resolved(n.Content[i+1])})
	}
	return es, nil
}

// hint says what somebody may have meant.
func hint(text string, candidates []string) string {
	if near := spelling.Nearest(text, candidates); near != "" {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return ""
}

func resolved(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func (f *file) text(e entry) (string, error) {
	if e.value.Kind != yaml.ScalarNode || e.value.Tag == "!!null" {
		return "", f.errorf(e.value.Line, "%s must be a text", e.key)
	}
	return e.value.Value, nil
}

// texts reads one text or a list of them.
func (f *file) texts(e entry) ([]string, error) {
	if e.value.Kind != yaml.SequenceNode {
		t, err := f.text(e)
		return []string{t}, err
	}
	list := []string{}
	for _, n := range e.value.Content {
		t, err := f.text(entry{e.key, resolved(n)})
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

func (f *file) number(e entry, least, most int) (int, error) {
	var n int
	if err := e.value.Decode(&n); err != nil || n < least || n > most {
		return 0, f.errorf(e.value.Line, "%s must be a number from %d to %d", e.key, least, most)
	}
	return n, nil
}

func (f *file) truth(e entry) (bool, error) {
	var b bool
	if err := e.value.Decode(&b); err != nil {
		return false, f.errorf(e.value.Line, "%s must be true or false", e.key)
	}
	return b, nil
}

// maxWait bounds a step of time.
const maxWait = 10 * 366 * 24 * time.Hour

func (f *file) duration(e entry) (time.Duration, error) {
	t, err := f.text(e)
	if err != nil {
		return 0, err
	}
	var d time.Duration
	if days, ok := strings.CutSuffix(t, "d"); ok {
		d, err = time.ParseDuration(days + "h")
		d *= 24
	} else {
		d, err = time.ParseDuration(t)
	}
	if err != nil || d < 0 || d > maxWait {
		return 0, f.errorf(e.value.Line, "%s must be a time such as 500ms, 30s, 10m, 12h or 30d", e.key)
	}
	return d, nil
}

func (f *file) time(e entry) (time.Time, error) {
	t, err := f.text(e)
	if err != nil {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339Nano, t)
	if err != nil || at.Year() < 1971 || at.Year() > 2100 {
		return time.Time{}, f.errorf(e.value.Line, "%s must be a time such as 2026-01-07T10:00:00Z", e.key)
	}
	return at, nil
}

// errAliases is for documents that are small and become large.
var errAliases = errors.New("it has too many aliases")

// check refuses what would be too large or endless when aliases are followed.
func check(n *yaml.Node, depth int, budget *int) error {
	if *budget--; *budget < 0 || depth > 100 {
		return errAliases
	}
	if n.Kind == yaml.AliasNode {
		return check(n.Alias, depth+1, budget)
	}
	for _, c := range n.Content {
		if err := check(c, depth+1, budget); err != nil {
			return err
		}
	}
	return nil
}
