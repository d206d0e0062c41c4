// Package progress gives a native plugin the function of plugins whose streams tell how far they
// are: see package native.
package progress
