// Package native makes a native Falco plugin, a shared library (.so), of a plugin that is written
// with package plugin. It loads in Falco, and in the hub. Nothing of it is in C:
//
//	package main
//
//	import (
//		"github.com/tocsin-events/tocsin/plugin"
//		"github.com/tocsin-events/tocsin/plugin/native"
//		_ "github.com/tocsin-events/tocsin/plugin/native/extract" // it has fields
//		_ "github.com/tocsin-events/tocsin/plugin/native/source"  // it opens streams
//	)
//
//	func init() { native.Register(plugin.New(info, newDice), native.Options{}) }
//
//	func main() {}
//
// The library is built with a C compiler at hand:
//
//	go build -buildmode=c-shared -o libdice.so .
//
// What a native plugin can do, Falco tells by the functions that the library has. So they are in
// several packages, which are imported for nothing else:
//
//	source     it opens streams: plugin.New
//	extract    it has fields: Info.Fields
//	async      it has asynchronous events: Info.AsyncNames
//	progress   its streams tell how far they are: Info.Progress
//	setconfig  it takes another config while it runs: plugin.Configurer
//
// A library that has one too few or too many says so when it is initialised, and on standard error
// when it is loaded. What else a plugin can have (plugin.Stringer, plugin.ParamLister,
// plugin.Measurer) needs no import: to have nothing to say there is the same as not to have it.
//
// # What is different in a native plugin
//
//   - The host may make the plugin several times in one process and open several streams at once;
//     Falco makes it once for each event source that it fits. What is global is shared by all.
//   - Resume positions are not asked for: Falco knows none.
//   - NextBatch waits for 30 ms, or Info.BatchTime if that is shorter: Falco does nothing else
//     meanwhile.
//   - A network is only its address: there is no place for its length.
//   - A text ends at a NUL: those in values are replaced by U+FFFD.
//   - A panic is an error with its text, but for one in a goroutine of the plugin, which ends
//     the process of the host, as does running out of memory.
package native

// Options say how the library appears to the host.
type Options struct {
	// API is the version of Falco's plugin API that the plugin requires: older hosts refuse it.
	// Empty: the lowest that has what the plugin declares, 3.0.0 for streams and fields, 3.4.0 for
	// [plugin.Configurer], and 3.6.0 for [plugin.Measurer]. With a lower one, hosts that do not know
	// these just do not ask.
	//
	// From 3.3.0 on what the plugin logs with the default logger of log/slog goes to the log of the
	// host, and not to standard error. From 3.11.0 on it is told where in an event a value is
	// ([plugin.Request.At]). Hosts below would not have the place for it.
	API string
}
