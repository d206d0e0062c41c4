// Package extract gives a native plugin the functions of plugins that have fields: see package
// native.
package extract
