// Command jsonfields is a native plugin that extracts fields of events whose payload is JSON, as
// Falco's k8saudit and json do it: it parses the payload of an event once. Built twice, under two
// names, it makes two plugins in Go:
//
//	go build -buildmode=c-shared -ldflags '-X main.name=left' -o left.so .
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/plugin"
	"github.com/tocsin-events/tocsin/plugin/native"
	_ "github.com/tocsin-events/tocsin/plugin/native/extract"
)

// name is set by the linker. It is that of the plugin, and begins its fields.
var name = "json"

type config struct{}

type extractor struct{}

// Extract implements [plugin.Extractor].
func (*extractor) Extract(_ context.Context, e *plugin.Event, fields []plugin.Request) error {
	var doc map[string]any
	if err := json.Unmarshal(e.Data, &doc); err != nil {
		return nil // it has no fields
	}
	for i := range fields {
		f := &fields[i]
		var v any = doc
		for _, key := range strings.Split(f.Arg, "/") {
			m, _ := v.(map[string]any)
			v = m[key]
		}
		switch v := v.(type) {
		case nil:
		case string:
			f.SetText(v)
		default:
			f.SetText(fmt.Sprint(v))
		}
	}
	return nil
}

func init() {
	native.Register(plugin.NewExtractor(plugin.Info{
		Name: name, Version: "0.1.0", Description: "Fields of JSON", Contact: "nobody", ExtractSources: []string{"bench"},
		Fields: []plugin.Field{{Name: name + ".value", Type: plugin.Text, Description: "A value", Arg: plugin.Arg{Key: true, Required: true}}},
	}, func(context.Context, config) (*extractor, error) { return new(extractor), nil }), native.Options{})
}

func main() {}
