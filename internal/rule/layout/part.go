package layout

import "go.yaml.in/yaml/v3"

// part is what a value of a file is, as far as it matters where conditions are.
type part uint8

const (
	other   part = iota
	root         // the list of items
	item         // of root
	text         // a condition, or what should be one
	window       // of an item
	follows      // the list of conditions of a window, or the only one
)

// isCondition tells whether a value is the text of a condition.
func (p part) isCondition(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && (p == text || p == follows)
}

// element returns what the elements of a list are.
func (p part) element() part {
	switch p {
	case root:
		return item
	case follows:
		return text
	}
	return other
}

// member returns what the value of a key is.
func (p part) member(n *yaml.Node, key string) part {
	switch {
	case p == item && key == "condition" && (has(n, "rule") || has(n, "macro")):
		return text
	case p == item && key == "window" && has(n, "rule"):
		return window
	case p == window && key == "then":
		return follows
	}
	return other
}

// has tells whether a map has a key.
func has(n *yaml.Node, key string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}
