// Package source gives a native plugin the functions of plugins that open streams: see package
// native.
package source
