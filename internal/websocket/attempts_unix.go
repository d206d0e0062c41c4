//go:build darwin || linux

package websocket

import (
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxBuffers is how many buffers writev takes.
const maxBuffers = 1024

// WriteAttempts writes bytes of complete frames that lie in several places, with
// one system call where the connection can, and tells a of each attempt to hand
// bytes to the kernel. An attempt never waits: what waits for the peer is between
// two attempts. So a can stop a write although nobody knows how long it takes, and
// knows as soon as no attempt is under way that nothing more is sent. The buffers
// are used up. The error is [ErrStopped] or as that of Write.
//
// The connection must be [Conn.Interruptible].
func (c *Conn) WriteAttempts(v [][]byte, a Attempts) (int, error) {
	raw, err := c.rawConn()
	if err != nil {
		return 0, err
	}
	w := gathers.Get().(*gather)
	defer gathers.Put(w)
	w.left, w.attempts = v, a
	err = raw.Write(w.next)
	n := w.n
	if w.failed != nil {
		err = w.failed
	}
	*w = gather{next: w.next}
	return n, err
}

// rawConn returns what the connection makes attempts with.
func (c *Conn) rawConn() (syscall.RawConn, error) {
	if c.raw == nil {
		raw, err := c.conn.(syscall.Conn).SyscallConn()
		if err != nil {
			return nil, err
		}
		c.raw = raw
	}
	return c.raw, nil
}

// A gather is a write of several buffers.
type gather struct {
	left     [][]byte
	attempts Attempts
	n        int
	failed   error
	next     func(fd uintptr) bool // attempt, made once
}

var gathers = sync.Pool{New: func() any {
	w := new(gather)
	w.next = w.attempt
	return w
}}

// attempt makes attempts until nothing is left, or returns false to wait for the
// peer.
func (w *gather) attempt(fd uintptr) bool {
	for len(w.left) > 0 {
		if !w.attempts.Begin() {
			w.failed = ErrStopped
			break
		}
		n, err := writev(int(fd), w.left)
		w.attempts.End()
		if n > 0 {
			w.n += n
			w.left = behind(w.left, n)
		}
		switch {
		case err == unix.EAGAIN:
			return false
		case err == unix.EINTR, err == nil && n > 0:
			continue
		case err == nil:
			w.failed = io.ErrUnexpectedEOF
		default:
			w.failed = os.NewSyscallError("write", err)
		}
		break
	}
	return true
}

// writev hands bytes to the kernel, as many as it takes.
func writev(fd int, v [][]byte) (int, error) {
	if len(v) == 1 {
		return unix.Write(fd, v[0])
	}
	return unix.Writev(fd, v[:min(len(v), maxBuffers)])
}

// behind is what is left of the buffers without the first n bytes.
func behind(v [][]byte, n int) [][]byte {
	for len(v) > 0 && n >= len(v[0]) {
		n -= len(v[0])
		v[0] = nil
		v = v[1:]
	}
	if n > 0 {
		v[0] = v[0][n:]
	}
	return v
}
