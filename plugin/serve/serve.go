// Package serve makes a program of a source plugin that was written with package plugin:
//
//	func main() { serve.Main(plugin.New(info, newDice)) }
//
// The hub starts that program when "command" of an element of "plugins.sources" names it, and
// "tocsin plugin run" tries it without a hub.
package serve

import (
	"fmt"
	"os"

	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/plugin"
)

// Main serves the plugin to the hub that has started this process, until that wants it to end,
// and ends the process. What the program prints, on standard output too, is in the log of the hub.
func Main(p *plugin.Plugin) { os.Exit(run(p)) }

func run(p *plugin.Plugin) int {
	about, start, err := p.Host()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		return 1
	}
	return pluginwire.Main(pluginwire.Offer{Description: about, Init: start, Stuck: func(err error) {
		// Only the end of the process ends what hangs; the hub starts another one.
		fmt.Fprintln(os.Stderr, "Error: the plugin does not end its stream, and is ended:", err)
		os.Exit(1)
	}})
}
