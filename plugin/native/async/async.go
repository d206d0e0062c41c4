// Package async gives a native plugin the functions of plugins that have asynchronous events: see
// package native.
package async
