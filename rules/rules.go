// Package rules has the files of rules that the program ships, so that it needs none beside it.
// docs/rules-vault.md is about what is in them.
package rules

import (
	"embed"
	"slices"
	"strings"
)

// Prefix begins the names of files that are built in, where names of files can be given.
const Prefix = "builtin:"

//go:embed vault.yaml
var files embed.FS

// Names returns the names of the files, each with [Prefix].
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // they are in the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, Prefix+strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// Content returns a file by its name, such as "builtin:vault". ok is false if there is none. The
// bytes are the caller's.
func Content(name string) (content []byte, ok bool) {
	if !slices.Contains(Names(), name) {
		return nil, false
	}
	content, err := files.ReadFile(strings.TrimPrefix(name, Prefix) + ".yaml")
	return content, err == nil
}
