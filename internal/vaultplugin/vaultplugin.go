// Package vaultplugin runs unmodified secrets and auth plugins of Vault and OpenBao as
// child processes and speaks their wire protocol: [Launch] starts an executable,
// [Process.Open] makes a mount of it, and the [Backend] answers requests while storage,
// system view, events and observations are served to it.
//
// The messages are our own definitions with the field numbers and method names of
// HashiCorp's SDK 0.25.1 (proto/tocsin/vaultplugin/v1), so that a program may link both.
// Only plugin protocol 5 with automatic mutual TLS is spoken, as Vault does since 1.12;
// plugins that share one process among mounts ("multiplexed") and others both work.
//
// It has no mount table, no storage, and knows no HTTP; nor does it start a plugin again
// that ended. What a plugin sends is hostile input here: it can make calls fail, but it
// does not bring the host down, hang it, or make it hold more than Options allows.
package vaultplugin

import (
	"log/slog"
	"time"
)

// What Options means where a field is zero.
const (
	DefaultStartTimeout = time.Minute
	DefaultCallTimeout  = 90 * time.Second
	DefaultStopTimeout  = 5 * time.Second
	DefaultMaxMessage   = 64 << 20
	DefaultMaxEntry     = 8 << 20
	// DefaultVaultVersion is what plugins are told about the server that runs them; some
	// switch features on by it.
	DefaultVaultVersion = "1.21.0"
)

// Options say what to start, and bound it. Command is required.
type Options struct {
	// Name is the name of the plugin in logs and errors, for example "kv". It is the
	// last element of Command by default.
	Name string
	// Command is the path of the executable; it is not looked up in PATH.
	Command string
	Args    []string
	// Env has further variables, as "key=value". A plugin does not see the environment
	// of the hub, which may have secrets, but for those variables that programs need to
	// find their way (PATH, HOME, TMPDIR, TZ, LANG, proxies, certificates).
	Env []string
	// SHA256 is the checksum that the executable must have; nil does not check. On Linux
	// exactly the file that was checked is executed, also when another one is put in its
	// place meanwhile.
	SHA256 []byte
	// SocketDir is where the directory of the plugin's sockets is made; empty: where temporary
	// files are. A killed hub leaves it behind.
	SocketDir string
	// VaultVersion is told to the plugin.
	VaultVersion string
	// Logger receives what the plugin logs, with its levels, at a bounded rate. The
	// default discards.
	Logger *slog.Logger

	// StartTimeout bounds the time from the start of the process until its handshake.
	StartTimeout time.Duration
	// CallTimeout bounds each call of a Backend whose context has no earlier deadline.
	CallTimeout time.Duration
	// StopTimeout bounds how long [Process.Kill] and [Backend.Close] wait for a plugin to
	// clean up, before they go on without it.
	StopTimeout time.Duration
	// MaxMessage bounds a message to or from a Backend, in bytes.
	MaxMessage int
	// MaxEntry bounds what a plugin may send in one call of its own (a value to store, an
	// event), in bytes. Up to 128 such calls of a mount are served at the same time, so 128
	// times this is the most that a hostile plugin can make the hub hold for a mount.
	MaxEntry int
}

// Type is the kind of a plugin's backend.
type Type uint32

// The types of backends, with the numbers of the protocol.
const (
	TypeUnknown Type = 0
	TypeSecret  Type = 1 // logical backend
	TypeAuth    Type = 2 // credential backend
)

// String is the mount class of the type: "secret", "auth" or "unknown".
func (t Type) String() string {
	switch t {
	case TypeSecret:
		return "secret"
	case TypeAuth:
		return "auth"
	}
	return "unknown"
}
