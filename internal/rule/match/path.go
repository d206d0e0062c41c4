package match

import "strings"

// paths are search paths of pmatch: each is the components of a path, without empty ones.
type paths [][]string

func newPaths(texts []string) paths {
	var all paths
	for _, text := range texts {
		var components []string
		for c := range strings.SplitSeq(text, "/") {
			if c != "" {
				components = append(components, c)
			}
		}
		all = append(all, components)
	}
	return all
}

// match says whether one of the search paths is the beginning of a path, component by component.
// Those with *, ? or [ in them are patterns.
func (p paths) match(path string) bool {
	for _, search := range p {
		if matchPath(search, path) {
			return true
		}
	}
	return false
}

func matchPath(search []string, path string) bool {
	for _, want := range search {
		path = strings.TrimLeft(path, "/")
		if path == "" {
			return false
		}
		var component string
		component, path, _ = strings.Cut(path, "/")
		if strings.ContainsAny(want, "?*[") {
			if !glob(want, component, false) {
				return false
			}
		} else if want != component {
			return false
		}
	}
	return true
}
