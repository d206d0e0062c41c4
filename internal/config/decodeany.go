package config

import (
	"math"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// maxDepth is how deep maps and lists may be nested in what becomes JSON.
const maxDepth = 50

// textOrMap decodes what somebody else understands: a text, which an empty one is none of, or a
// map that is to become JSON.
func (d *decoder) textOrMap(key string, n *yaml.Node, v reflect.Value) {
	switch {
	case isNull(n):
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
		if n.Value != "" {
			v.Set(reflect.ValueOf(n.Value))
		}
	case n.Kind == yaml.MappingNode:
		if m, ok := d.json(key, n, 0); ok {
			v.Set(reflect.ValueOf(m))
		}
	default:
		d.report(key, n, "must be a text or a section with keys, but is %s; put it into quotes if it is meant as text", kindOf(n))
	}
}

// json returns what n is in JSON: a map[string]any, []any, string, bool, int64, uint64, float64,
// or nil. A whole number is an integer however it is written, so that it is read back as it was.
func (d *decoder) json(key string, n *yaml.Node, depth int) (v any, ok bool) {
	d.at[key] = position{n.Line, n.Column}
	if depth > maxDepth {
		d.report(key, n, "is nested more than %d levels deep", maxDepth)
		return nil, false
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		ok = true
		for name, value := range d.pairs(key, n) {
			if name.ShortTag() == "!!merge" {
				d.report(key, name, "merging with << is not supported; write the keys here")
				ok = false
				continue
			}
			one, good := d.json(join(key, name.Value), value, depth+1)
			m[name.Value], ok = one, ok && good
		}
		return m, ok
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		ok = true
		for i, item := range n.Content {
			one, good := d.json(key, item, depth+1)
			list[i], ok = one, ok && good
		}
		return list, ok
	case yaml.AliasNode:
		d.report(key, n, "anchors and aliases are not supported; write the value here")
		return nil, false
	}
	return d.jsonScalar(key, n)
}

func (d *decoder) jsonScalar(key string, n *yaml.Node) (any, bool) {
	const whole = 1 << 53 // up to which a float is exactly the integer
	switch n.ShortTag() {
	case "!!null":
		return nil, true
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err == nil
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i, true
		}
		var u uint64
		if n.Decode(&u) == nil {
			return u, true
		}
	case "!!float":
		var f float64
		if err := n.Decode(&f); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			if f == math.Trunc(f) && math.Abs(f) < whole {
				return int64(f), true
			}
			return f, true
		}
	default: // texts, and what only looks like a time
		return n.Value, true
	}
	d.report(key, n, "%s is no number of JSON; put it into quotes if it is meant as text", kindOf(n))
	return nil, false
}
