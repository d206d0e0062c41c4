// Package compat proves that foreign code and Tocsin understand each other: the
// encoders of Vault's own libraries produce the same bytes, and the official Go
// client with a plain WebSocket client reads the stream of a running hub. It is
// a module of its own so that the hub does not depend on what it is tested with.
package compat
