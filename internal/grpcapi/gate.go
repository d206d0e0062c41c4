package grpcapi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// smallMessage is the size up to which every call may have a message in memory.
	smallMessage = 64 << 10
	// memoryBytes are shared by the larger messages of all calls.
	memoryBytes = 64 << 20
	// messageTimeout is how long a message may take to arrive once it has begun.
	messageTimeout = time.Minute
)

// gate is the body of a call as grpc reads it. grpc's own handler reads ahead as much
// as the client sends; gate lets one message through for each call of next, so that
// what is not wanted yet stays in the flow control of the connection. Each message is
// a byte, four bytes of length, and so many bytes.
//
// Read is called by one goroutine; the others may be called by any.
type gate struct {
	body     io.ReadCloser
	largest  int
	memory   *semaphore.Weighted
	deadline func(time.Time)

	wanted chan struct{} // one message may pass
	ctx    context.Context
	cancel context.CancelFunc

	// Of Read.
	header [5]byte
	have   int // bytes of the header
	left   int // bytes of the message that have not passed
	paced  bool

	mu     sync.Mutex
	held   int64 // of memory
	closed bool
}

func newGate(body io.ReadCloser, largest int, memory *semaphore.Weighted, deadline func(time.Time)) *gate {
	g := &gate{body: body, largest: largest, memory: memory, deadline: deadline, wanted: make(chan struct{}, 1)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

var errGateClosed = errors.New("the call has ended")

// next lets another message through. The one before it is not in memory any more, or
// counted elsewhere.
func (g *gate) next() {
	g.release()
	select {
	case g.wanted <- struct{}{}:
	default:
	}
}

func (g *gate) release() {
	g.mu.Lock()
	held := g.held
	g.held = 0
	g.mu.Unlock()
	if held > 0 {
		g.memory.Release(held)
	}
}

// Close makes Read fail, also one that waits.
func (g *gate) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.release()
	return g.body.Close()
}

func (g *gate) Read(p []byte) (int, error) {
	if g.ctx.Err() != nil {
		return 0, errGateClosed
	}
	if g.left > 0 {
		n, err := g.body.Read(p[:min(len(p), g.left)])
		g.left -= n
		g.pace()
		return n, err
	}
	n, err := g.body.Read(p[:min(len(p), len(g.header)-g.have)])
	g.have += copy(g.header[g.have:], p[:n])
	if g.have < len(g.header) {
		return n, err
	}
	// The end of the header passes when the message may follow.
	g.have = 0
	if err := g.admit(); err != nil {
		return 0, err
	}
	g.pace()
	return n, err
}

// admit waits until the message whose header was read may pass.
func (g *gate) admit() error {
	select {
	case <-g.wanted:
	case <-g.ctx.Done():
		return errGateClosed
	}
	length := int64(binary.BigEndian.Uint32(g.header[1:]))
	if length > int64(g.largest) {
		return nil // grpc refuses it when it sees the header; what follows is taken for headers
	}
	g.left = int(length)
	if length <= smallMessage {
		return nil
	}
	if err := g.memory.Acquire(g.ctx, length); err != nil {
		return errGateClosed
	}
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.held = length
	}
	g.mu.Unlock()
	if closed {
		g.memory.Release(length)
		return errGateClosed
	}
	return nil
}

// pace limits how long a large message may take, because others may wait for the memory
// that it has. Small ones may take as long as their call.
func (g *gate) pace() {
	switch {
	case g.left > smallMessage && !g.paced:
		g.paced = true
		g.deadline(time.Now().Add(messageTimeout))
	case g.left == 0 && g.paced:
		g.paced = false
		g.deadline(time.Time{})
	}
}
