//go:build !darwin && !linux

package websocket

import "net"

// WriteAttempts writes bytes of complete frames that lie in several places. Here
// it is one attempt, which waits for the peer until it is interrupted.
func (c *Conn) WriteAttempts(v [][]byte, a Attempts) (n int, err error) {
	if !a.Begin() {
		return 0, ErrStopped
	}
	defer a.End()
	bufs := net.Buffers(v)
	k, err := bufs.WriteTo(c.conn)
	return int(k), err
}
