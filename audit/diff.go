package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// MaxChanges is how many paths [Changes] has; MaxDiffDepth is how deep values are compared.
// What is nested more deeply is compared as a whole.
const (
	MaxChanges   = 256
	MaxDiffDepth = 64
)

// Changes tells where two values differ, by JSON pointers (RFC 6901). It has no values, so
// it says that a password was changed without saying to what. Together the lists have at
// most [MaxChanges] paths.
type Changes struct {
	Added   []string `json:"added,omitempty"`   // only the second has it
	Removed []string `json:"removed,omitempty"` // only the first has it
	Changed []string `json:"changed,omitempty"` // both have it, differently
	// More is how many others there are.
	More int `json:"more,omitempty"`
}

// Empty reports whether the values were equal.
func (c *Changes) Empty() bool {
	return len(c.Added)+len(c.Removed)+len(c.Changed)+c.More == 0
}

// Diff compares the JSON forms of two values. Objects are compared by their members,
// arrays place by place: the elements that one has more than the other were added, or
// removed, at the end. Where one has an object and the other something else, that is one
// change. Numbers are equal when they are written in the same way. The pointer "" is the
// whole value. Paths are in the order of their names.
//
// The error is that of encoding/json.
func Diff(before, after any) (Changes, error) {
	a, err := tree(before)
	if err != nil {
		return Changes{}, fmt.Errorf("encode the state before: %w", err)
	}
	b, err := tree(after)
	if err != nil {
		return Changes{}, fmt.Errorf("encode the state after: %w", err)
	}
	return diffTrees(a, b), nil
}

// tree returns the JSON form of a value as maps, slices, texts, numbers, and the like.
func tree(v any) (any, error) {
	raw, err := encode(v)
	if err != nil {
		return nil, err
	}
	return decodeTree(raw)
}

func decodeTree(raw []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

func diffTrees(a, b any) Changes {
	d := differ{}
	d.compare(a, b)
	return d.changes
}

type differ struct {
	changes Changes
	path    []byte
	depth   int
}

func (d *differ) compare(a, b any) {
	if d.depth == MaxDiffDepth {
		if !equalTrees(a, b) {
			d.add(&d.changes.Changed)
		}
		return
	}
	d.depth++
	defer func() { d.depth-- }()
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			d.compareObjects(a, b)
			return
		}
	case []any:
		if b, ok := b.([]any); ok {
			d.compareArrays(a, b)
			return
		}
	default:
		if isScalar(b) && a == b {
			return
		}
	}
	d.add(&d.changes.Changed)
}

func (d *differ) compareObjects(a, b map[string]any) {
	names := slices.Collect(maps.Keys(a))
	for name := range b {
		if _, both := a[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		length := len(d.path)
		d.path = appendPointer(d.path, name)
		before, had := a[name]
		after, has := b[name]
		switch {
		case !has:
			d.add(&d.changes.Removed)
		case !had:
			d.add(&d.changes.Added)
		default:
			d.compare(before, after)
		}
		d.path = d.path[:length]
	}
}

func (d *differ) compareArrays(a, b []any) {
	for i := range max(len(a), len(b)) {
		length := len(d.path)
		d.path = strconv.AppendInt(append(d.path, '/'), int64(i), 10)
		switch {
		case i >= len(b):
			d.add(&d.changes.Removed)
		case i >= len(a):
			d.add(&d.changes.Added)
		default:
			d.compare(a[i], b[i])
		}
		d.path = d.path[:length]
	}
}

// maxPointerBytes bounds one path: names of members may be anything.
const maxPointerBytes = 512

func (d *differ) add(list *[]string) {
	c := &d.changes
	if len(c.Added)+len(c.Removed)+len(c.Changed) == MaxChanges || len(d.path) > maxPointerBytes {
		c.More++
		return
	}
	*list = append(*list, string(d.path))
}

// appendPointer appends a name to a JSON pointer.
func appendPointer(dst []byte, name string) []byte {
	dst = append(dst, '/')
	if !strings.ContainsAny(name, "~/") {
		return append(dst, name...)
	}
	for i := range len(name) {
		switch name[i] {
		case '~':
			dst = append(dst, "~0"...)
		case '/':
			dst = append(dst, "~1"...)
		default:
			dst = append(dst, name[i])
		}
	}
	return dst
}

func isScalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

func equalTrees(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, equalTrees)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equalTrees)
	}
	return isScalar(b) && a == b
}
