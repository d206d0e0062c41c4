// Command native is the plugin everything as a native plugin.
package main

import (
	"github.com/tocsin-events/tocsin/plugin/native"
	_ "github.com/tocsin-events/tocsin/plugin/native/async"
	_ "github.com/tocsin-events/tocsin/plugin/native/extract"
	_ "github.com/tocsin-events/tocsin/plugin/native/progress"
	_ "github.com/tocsin-events/tocsin/plugin/native/setconfig"
	_ "github.com/tocsin-events/tocsin/plugin/native/source"
	"github.com/tocsin-events/tocsin/test/plugins/testdata/native/everything"
)

// api is set by the linker.
var api string

func init() { native.Register(everything.New(), native.Options{API: api}) }

func main() {}
