//go:build !(cgo && (linux || darwin) && (amd64 || arm64))

package native

import "github.com/tocsin-events/tocsin/plugin"

// Register does nothing in a build without cgo, or for another system, of which no library can be
// made.
func Register(*plugin.Plugin, Options) {}
