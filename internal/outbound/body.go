package outbound

import (
	"errors"
	"io"
	"sync/atomic"
)

// body is the bytes of a request, which the transport may read more than once, and still
// after it has returned. release is called when nobody does any more.
type body struct {
	bytes   []byte
	release func()
	holders atomic.Int32
	opened  atomic.Int32
	ended   atomic.Bool // somebody has read all of it
}

var errReplays = errors.New("the connection was closed again and again")

func (b *body) hold() { b.holders.Add(1) }

func (b *body) drop() {
	if b.holders.Add(-1) == 0 && b.release != nil {
		b.release()
	}
}

// open returns a reader of it all.
func (b *body) open() io.ReadCloser {
	b.hold()
	b.opened.Add(1)
	return &bodyReader{body: b, rest: b.bytes}
}

// again is what the transport calls to send the request over another connection.
func (b *body) again() (io.ReadCloser, error) {
	if b.opened.Load() > replays {
		return nil, errReplays
	}
	return b.open(), nil
}

// sent says whether all of it went to a connection at least once.
func (b *body) sent() bool { return b.ended.Load() || len(b.bytes) == 0 }

type bodyReader struct {
	body   *body
	rest   []byte
	closed atomic.Bool
}

func (r *bodyReader) Read(p []byte) (int, error) {
	if r.closed.Load() {
		return 0, errors.New("read of a body that is closed")
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if len(r.rest) == 0 {
		r.body.ended.Store(true)
		return n, io.EOF
	}
	return n, nil
}

func (r *bodyReader) Close() error {
	if !r.closed.Swap(true) {
		r.body.drop()
	}
	return nil
}
