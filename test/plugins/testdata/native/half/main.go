// Command half is the plugin everything as a native plugin that lacks some of the functions that
// it needs.
package main

import (
	"github.com/tocsin-events/tocsin/plugin/native"
	_ "github.com/tocsin-events/tocsin/plugin/native/extract"
	_ "github.com/tocsin-events/tocsin/plugin/native/source"
	"github.com/tocsin-events/tocsin/test/plugins/testdata/native/everything"
)

func init() { native.Register(everything.New(), native.Options{API: "3"}) }

func main() {}
