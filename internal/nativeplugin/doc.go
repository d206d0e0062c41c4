// Package nativeplugin makes a native Falco plugin, a shared library, of a plugin that is written
// with package plugin. It has what the functions of the library do; package plugin/native and those
// below it export them.
//
// A library has one plugin. The host may initialise it and open streams as often as it likes, and
// from all threads. What it gets to know them by are numbers, which are never used again. What a
// function returns stays as it is until the same function is called again with the same number,
// or that is closed. A function never panics: what goes wrong is told as an error, with a text.
//
// Pointers into memory of the host are unsafe.Pointer, because each package has C types of its
// own.
package nativeplugin
