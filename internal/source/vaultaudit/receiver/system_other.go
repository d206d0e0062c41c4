//go:build !linux

package receiver

import (
	"os"
	"syscall"
)

// withoutPermissions does nothing: on this system, the directory of the socket has to
// keep others away.
func withoutPermissions(syscall.RawConn) error { return nil }

// enlarge gives a socket for datagrams a larger buffer.
func enlarge(c packetConn) { c.SetReadBuffer(1 << 20) }

var controlBytes = 0

// drops is not told by this system.
func drops([]byte) (uint32, bool) { return 0, false }

func setMode(path string, mode os.FileMode) error { return os.Chmod(path, mode) }
