package match

import "strings"

// paths are search paths of pmatch: each is the components of a path, without empty ones.
type paths struct {
	list [][]string
	tree pathNode
}

// pathNode is what search paths that begin alike go on with. Components with *, ? or [ in them are
// patterns.
type pathNode struct {
	end      bool // of a search path
	next     map[string]*pathNode
	patterns map[string]*pathNode
}

func newPaths(texts []string) paths {
	var all paths
	for _, text := range texts {
		var components []string
		for c := range strings.SplitSeq(text, "/") {
			if c != "" {
				components = append(components, c)
			}
		}
		all.list = append(all.list, components)
		node := &all.tree
		for _, c := range components {
			node = node.child(c)
		}
		node.end = true
	}
	return all
}

func isPattern(component string) bool { return strings.ContainsAny(component, "?*[") }

// child returns the node behind a component.
func (n *pathNode) child(component string) *pathNode {
	to := &n.next
	if isPattern(component) {
		to = &n.patterns
	}
	if *to == nil {
		*to = make(map[string]*pathNode)
	}
	if (*to)[component] == nil {
		(*to)[component] = &pathNode{}
	}
	return (*to)[component]
}

// match says whether one of the search paths is the beginning of a path, component by component.
func (p *paths) match(path string) bool { return p.tree.match(path) }

func (n *pathNode) match(path string) bool {
	if n.end {
		return true
	}
	if path = strings.TrimLeft(path, "/"); path == "" {
		return false
	}
	component, rest, _ := strings.Cut(path, "/")
	if next := n.next[component]; next != nil && next.match(rest) {
		return true
	}
	for pattern, next := range n.patterns {
		if glob(pattern, component, false) && next.match(rest) {
			return true
		}
	}
	return false
}
