package receiver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
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

// setMode sets the permissions of the file of a socket. It follows no link: who may write
// to the directory could have put one in its place, to any file of the hub's user.
func setMode(path string, mode os.FileMode) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if info.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s was replaced by something that is no socket", path)
	}
	err = os.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
	if errors.Is(err, os.ErrNotExist) { // there is no /proc
		return os.Chmod(path, mode)
	}
	return err
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
