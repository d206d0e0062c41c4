//go:build !linux

package websocket

import (
	"net"
	"sync/atomic"
)

// WriteAttempts writes bytes of complete frames that lie in several places. Here
// that is one attempt, which waits for the peer until it is interrupted.
func (c *Conn) WriteAttempts(buffers [][]byte, a Attempts, word *atomic.Uint64, bit uint64) (int, error) {
	if !a.Begin() {
		return 0, ErrStopped
	}
	v := net.Buffers(buffers)
	n, err := v.WriteTo(c.conn)
	a.End(word.And(^bit))
	return int(n), err
}
