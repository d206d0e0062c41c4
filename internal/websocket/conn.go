package websocket

import (
	"io"
	"net"
	"syscall"
	"time"
)

// Conn is a connection after a successful handshake. Reading is for one
// goroutine, writing for another one; the other methods may be called by
// anybody at any time.
//
// Frames that were built by [AppendFrame], [EndFrame] and [AppendClose] are
// written as they are. A write that fails after some bytes has cut a frame, so
// that only its rest may follow.
type Conn struct {
	conn   net.Conn
	raw    syscall.RawConn // of conn, once it is needed; for writing
	reader Reader
}

// lingerBytes bounds what is read after the last frame was written.
const lingerBytes = 1 << 20

// NewConn returns a Conn over an established connection whose handshake was done
// elsewhere.
func NewConn(c net.Conn, maxMessage int) *Conn { return newConn(c, nil, maxMessage) }

func newConn(c net.Conn, early []byte, maxMessage int) *Conn {
	conn := &Conn{conn: c}
	conn.reader.reset(c, early, maxMessage)
	return conn
}

// Next reads the next message or control frame; see [Reader.Next].
func (c *Conn) Next() (Opcode, []byte, error) { return c.reader.Next() }

// Write writes bytes of complete frames, or the rest of a cut one.
func (c *Conn) Write(p []byte) (int, error) { return c.conn.Write(p) }

// SetWriteDeadline is that of [net.Conn]: it also ends a Write that is under way.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// SetReadDeadline is that of [net.Conn]: it also ends a Next that is under way.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// Interruptible says whether a Write that was ended by its deadline can be
// continued with the rest of the bytes. A TLS connection is broken afterwards.
func (c *Conn) Interruptible() bool {
	switch c.conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// RemoteAddr is the address of the peer.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Close ends the connection at once, also under a Read or Write.
func (c *Conn) Close() error { return c.conn.Close() }

// Linger ends the connection after a close frame was written: it tells the peer
// that nothing follows, then reads and forgets what the peer still sends until it
// closes its end or the time is over, so that unread data does not make the
// kernel reset the connection before the peer has read the close frame. No other
// goroutine may be reading.
func (c *Conn) Linger(timeout time.Duration) {
	defer c.conn.Close()
	if c.conn.SetReadDeadline(time.Now().Add(timeout)) != nil {
		return
	}
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	var trash [512]byte
	io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c.conn, lingerBytes), trash[:])
}
