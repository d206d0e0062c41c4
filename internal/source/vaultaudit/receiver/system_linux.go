package receiver

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// withoutPermissions makes the file that a socket will be bound to one that nobody may
// connect to: Linux takes its permissions from the socket.
func withoutPermissions(raw syscall.RawConn) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0) })
	if err != nil {
		return err
	}
	return controlErr
}

// receiveBuffer is what is asked for for datagrams. Without CAP_NET_ADMIN the system
// gives at most net.core.rmem_max.
const receiveBuffer = 8 << 20

// enlarge gives a socket for datagrams a large buffer, and makes the system tell how
// many it has dropped.
func enlarge(c packetConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	})
}

// controlBytes is the room that drops needs.
var controlBytes = unix.CmsgSpace(4)

// drops returns how many datagrams the system has dropped since the socket was made, if
// the control messages tell it.
func drops(control []byte) (uint32, bool) {
	for len(control) >= unix.CmsgLen(0) {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		if header.Level == unix.SOL_SOCKET && header.Type == unix.SO_RXQ_OVFL && len(data) >= 4 {
			return binary.NativeEndian.Uint32(data), true
		}
		control = rest
	}
	return 0, false
}
