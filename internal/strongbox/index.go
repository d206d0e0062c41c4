package strongbox

import (
	"slices"
	"strings"
)

// index is an ordered set of names. The zero value is empty. It is not safe for
// concurrent use.
type index struct{ names []string }

func newIndex(names []string) index {
	slices.Sort(names)
	return index{slices.Compact(names)}
}

func (x *index) len() int { return len(x.names) }

func (x *index) has(name string) bool {
	_, ok := slices.BinarySearch(x.names, name)
	return ok
}

func (x *index) add(name string) {
	if i, ok := slices.BinarySearch(x.names, name); !ok {
		x.names = slices.Insert(x.names, i, name)
	}
}

func (x *index) remove(name string) {
	if i, ok := slices.BinarySearch(x.names, name); ok {
		x.names = slices.Delete(x.names, i, i+1)
	}
}

// children returns what follows prefix in the names that begin with it, each up to and
// with the first "/", in order and once. It takes as many steps as there are children.
func (x *index) children(prefix string) []string {
	children := []string{}
	i, _ := slices.BinarySearch(x.names, prefix)
	for i < len(x.names) && strings.HasPrefix(x.names[i], prefix) {
		rest := x.names[i][len(prefix):]
		slash := strings.IndexByte(rest, '/')
		if slash < 0 {
			if rest != "" {
				children = append(children, rest)
			}
			i++
			continue
		}
		children = append(children, rest[:slash+1])
		// "0" is the byte behind "/", so this is behind all in the folder.
		next, _ := slices.BinarySearch(x.names[i:], prefix+rest[:slash]+"0")
		i += next
	}
	return children
}
