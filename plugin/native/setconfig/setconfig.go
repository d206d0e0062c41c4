// Package setconfig gives a native plugin the function of plugins that take another config while
// they run: see package native.
package setconfig
