package plugin_test

import (
	"context"
	"fmt"
	"io"

	"github.com/tocsin-events/tocsin/plugin"
)

// greeter opens streams of one event.
type greeter struct{}

func (greeter) Open(_ context.Context, name string, _ []byte) (plugin.Stream, error) {
	done := false
	return plugin.Pull(func(context.Context) (plugin.Event, error) {
		if done {
			return plugin.Event{}, io.EOF
		}
		done = true
		return plugin.Event{Data: []byte("hello " + name)}, nil
	}), nil
}

// What is wrong with a declaration is told with the name of what is wrong.
func ExamplePlugin_Check() {
	start := func(context.Context, struct{}) (greeter, error) { return greeter{}, nil }
	good := plugin.Info{Name: "greeter", Version: "1.0.0", ID: 999, EventSource: "greetings"}
	fmt.Println(plugin.New(good, start).Check())

	bad := good
	bad.EventSource, bad.BatchBytes = "", -1
	fmt.Println(plugin.New(bad, start).Check())
	// Output:
	// <nil>
	// Info.BatchBytes is -1, BatchEvents 0 and BatchTime 0s: they must not be negative, and BatchBytes at most 67108864
	// Info.ID is 999 and Info.EventSource "": both are needed, or neither
}
