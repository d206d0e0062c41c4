// Package compat proves that foreign code and Tocsin understand each other: the
// encoders of Vault's own libraries produce the same bytes, the official Go clients of
// Vault and OpenBao manage tokens and policies of a running hub over TLS, and a plain
// WebSocket client reads its stream while rights change and hostile requests come in.
// When TOCSIN_TEST_VAULT_CLI names a vault or bao executable, the real command line
// tool is run as well, and its server, whose audit devices all write to a hub. Captures are read and written by sysdig,
// and source plugins are written in Python and, with Falco's SDK, in Rust. Package
// traces below it sends spans to a real Zipkin and a real OpenTelemetry Collector. It is a
// module of its own so that the hub does not depend on
// what it is tested with.
package compat
