package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of a namespace.
const (
	MaxNamespaceBytes    = 512
	MaxNamespaceSegments = 32
)

// CheckNamespace returns nil for a namespace in canonical form, empty or with a slash at
// its end, that can stand before the paths that policies are about: one that is not too
// long, and has nothing that is special in paths or patterns.
func CheckNamespace(namespace string) error {
	if namespace == "" {
		return nil
	}
	if len(namespace) > MaxNamespaceBytes || strings.Count(namespace, "/") > MaxNamespaceSegments {
		return fmt.Errorf("the namespace is too long; at most %d bytes and %d levels are allowed", MaxNamespaceBytes, MaxNamespaceSegments)
	}
	if !utf8.ValidString(namespace) {
		return fmt.Errorf("the namespace is not valid UTF-8")
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(namespace, "/"), "/") {
		switch {
		case segment == "", segment == ".", segment == "..":
			return fmt.Errorf("namespace %q: a segment is %q", namespace, segment)
		case segment == "sys", segment == "auth":
			// Rules for the API of the namespace above would be about all of this one.
			return fmt.Errorf("namespace %q: %q begins the paths of the API and cannot be part of a namespace", namespace, segment)
		case strings.ContainsFunc(segment, func(r rune) bool { return r <= ' ' || r == '*' || r == '+' || 0x7f <= r && r <= 0x9f }):
			return fmt.Errorf("namespace %q: spaces, control characters, * and + are not allowed", namespace)
		}
	}
	return nil
}
