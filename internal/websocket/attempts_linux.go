package websocket

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	// attemptBytes and attemptPieces bound an attempt, which keeps its processor.
	attemptBytes  = 256 << 10
	attemptPieces = 64
)

// WriteAttempts writes bytes of complete frames that lie in several places, in
// attempts to hand some to the kernel, about which a decides. An attempt never
// waits: what waits for the peer is between two attempts. So a write can be stopped
// although nobody knows how long it takes, and nothing more is sent as soon as
// bit of word is clear. That does not wait for anybody either: it is cleared before
// the goroutine could lose its processor to another one.
//
// The buffers are used up. The error is [ErrStopped] or as that of Write. The
// connection must be [Conn.Interruptible].
func (c *Conn) WriteAttempts(buffers [][]byte, a Attempts, word *atomic.Uint64, bit uint64) (int, error) {
	if c.raw == nil {
		raw, err := c.conn.(syscall.Conn).SyscallConn()
		if err != nil {
			return 0, err
		}
		c.raw = raw
	}
	g := gathers.Get().(*gather)
	g.left, g.attempts, g.word, g.bit = buffers, a, word, bit
	err := c.raw.Write(g.write)
	n := g.n
	if g.err != nil {
		err = g.err
	}
	*g = gather{write: g.write}
	gathers.Put(g)
	return n, err
}

// A gather is a write of several buffers.
type gather struct {
	left     [][]byte
	attempts Attempts
	word     *atomic.Uint64
	bit      uint64
	pieces   [attemptPieces]syscall.Iovec
	n        int
	err      error

	write func(fd uintptr) bool // makeAttempts, once for all
}

var gathers = sync.Pool{New: func() any {
	g := new(gather)
	g.write = g.makeAttempts
	return g
}}

// makeAttempts makes attempts until the write is over. It returns false if the
// peer has to be waited for.
func (g *gather) makeAttempts(fd uintptr) bool {
	for {
		count := g.layOut()
		if count == 0 {
			return true
		}
		if !g.attempts.Begin() {
			g.err = ErrStopped
			return true
		}
		// Neither the system call nor the clearing gives the runtime a chance to
		// have another goroutine run, as a usual system call would.
		r, _, errno := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&g.pieces)), count)
		before := g.word.And(^g.bit)
		g.attempts.End(before)
		switch {
		case errno == syscall.EAGAIN:
			return false
		case errno == syscall.EINTR:
		case errno != 0:
			g.err = os.NewSyscallError("writev", errno)
			return true
		case r == 0:
			g.err = io.ErrUnexpectedEOF
			return true
		default:
			g.wrote(int(r))
		}
	}
}

// layOut lays out the next attempt and returns how many pieces it has.
func (g *gather) layOut() (count uintptr) {
	room := attemptBytes
	for _, b := range g.left {
		if room == 0 || count == attemptPieces {
			break
		}
		if len(b) == 0 {
			continue
		}
		b = b[:min(len(b), room)]
		room -= len(b)
		g.pieces[count].Base = unsafe.SliceData(b)
		g.pieces[count].SetLen(len(b))
		count++
	}
	return count
}

// wrote goes on behind n bytes.
func (g *gather) wrote(n int) {
	g.n += n
	for len(g.left) > 0 && n >= len(g.left[0]) {
		n -= len(g.left[0])
		g.left[0] = nil
		g.left = g.left[1:]
	}
	if n > 0 {
		g.left[0] = g.left[0][n:]
	}
}
