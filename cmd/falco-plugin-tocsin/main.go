// Command falco-plugin-tocsin is the plugin for Falco that reads the events of a hub: see
// docs/falco-plugin.md. It is a shared library, built by "make falco-plugin".
package main

import (
	"github.com/tocsin-events/tocsin/internal/hubplugin"
	"github.com/tocsin-events/tocsin/plugin/native"
	_ "github.com/tocsin-events/tocsin/plugin/native/extract"
	_ "github.com/tocsin-events/tocsin/plugin/native/source"
)

// It asks for the oldest version of the API that has streams and fields, so that it loads wherever
// it can work. Hosts that know metrics ask for them nevertheless.
func init() { native.Register(hubplugin.New(), native.Options{API: "3.0.0"}) }

func main() {}
