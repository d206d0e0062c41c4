package grpcapi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// smallMessage is the size up to which every call may have a message in memory.
	smallMessage = 64 << 10
	// memoryBytes are shared by the larger messages of all calls.
	memoryBytes = 64 << 20
	// messageTimeout is how long a message that has some of these may take to arrive once
	// it has begun.
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
	single   bool // the client sends one message only
	largest  int
	memory   *semaphore.Weighted
	deadline func(time.Time)

	wanted   chan struct{} // one message may pass
	tooLarge atomic.Int64  // length of the message that ended a stream
	ctx      context.Context
	cancel   context.CancelFunc

	// Of Read.
	header   [5]byte
	have     int    // bytes of the header
	out      []byte // of the header, to be passed on
	left     int    // bytes of the message that have not passed
	messages int    // that have passed
	heavy    bool   // the message is passing in shared memory
	paced    bool

	mu     sync.Mutex
	held   int64 // of memory
	closed bool
}

func newGate(body io.ReadCloser, single bool, largest int, memory *semaphore.Weighted, deadline func(time.Time)) *gate {
	g := &gate{body: body, single: single, largest: largest, memory: memory, deadline: deadline, wanted: make(chan struct{}, 1)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

var errGateClosed = errors.New("the call has ended")

// next lets another message through. The one before it is not in memory any more.
func (g *gate) next() {
	g.release()
	signal(g.wanted)
}

// took says how many bytes a message has that was decompressed: if it was counted as
// larger, memory becomes free.
func (g *gate) took(n int) {
	keep := int64(n)
	if keep <= smallMessage {
		keep = 0
	}
	g.mu.Lock()
	more := g.held - keep
	if more > 0 {
		g.held = keep
	}
	g.mu.Unlock()
	if more > 0 {
		g.memory.Release(more)
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
	for len(g.out) == 0 && g.left == 0 {
		if g.ctx.Err() != nil {
			return 0, errGateClosed
		}
		n, err := g.body.Read(g.header[g.have:])
		g.have += n
		switch {
		case g.have == len(g.header):
			if err := g.admit(); err != nil {
				return 0, err
			}
			g.have, g.out = 0, g.header[:]
		case err == io.EOF && g.have > 0:
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		}
	}
	passed := copy(p, g.out)
	g.out = g.out[passed:]
	if g.left == 0 || passed == len(p) {
		return passed, nil
	}
	g.pace()
	p = p[passed:]
	n, err := g.body.Read(p[:min(len(p), g.left)])
	g.left -= n
	g.pace()
	if err == io.EOF {
		if g.left == 0 {
			err = nil // it will be said again
		} else {
			err = io.ErrUnexpectedEOF
		}
	}
	return passed + n, err
}

// admit waits until the message whose header was read may pass.
func (g *gate) admit() error {
	if g.single && g.messages > 0 {
		return io.ErrUnexpectedEOF
	}
	select {
	case <-g.wanted:
	case <-g.ctx.Done():
		return errGateClosed
	}
	g.messages++
	length := int64(binary.BigEndian.Uint32(g.header[1:]))
	if length > int64(g.largest) {
		if g.single {
			return nil // grpc refuses it when it sees the header
		}
		// On a stream what was sent before is to be acknowledged first.
		g.tooLarge.Store(length)
		return io.EOF
	}
	memory := length
	if g.header[0] != 0 { // compressed: how large it is inside is seen too late
		memory = int64(g.largest)
	}
	if g.heavy = memory > smallMessage; g.heavy {
		if err := g.acquire(memory); err != nil {
			return err
		}
	}
	g.left = int(length)
	return nil
}

func (g *gate) acquire(n int64) error {
	if err := g.memory.Acquire(g.ctx, n); err != nil {
		return errGateClosed
	}
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.held = n
	}
	g.mu.Unlock()
	if closed {
		g.memory.Release(n)
		return errGateClosed
	}
	return nil
}

// pace limits how long a message may take that has memory for which others may wait. The
// others may take as long as their call.
func (g *gate) pace() {
	switch {
	case g.heavy && g.left > 0 && !g.paced:
		g.paced = true
		g.deadline(time.Now().Add(messageTimeout))
	case g.left == 0 && g.paced:
		g.paced = false
		g.deadline(time.Time{})
	}
}
