package nats

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Bounds of what a server may say. Acknowledgements have some hundred bytes, and what it says
// about itself some for each of its cluster.
const (
	maxLine    = 256 << 10
	maxMessage = 1 << 20
)

var (
	errTooMuch = fmt.Errorf("the server says more than %d bytes at once, which no server of NATS does", maxMessage)
	errBefore  = errors.New("the server, or who is between, has sent something before the connection was encrypted")
)

// conn is a connection through which no more comes than a client of NATS can bear: the
// library makes room for as much as a server says that a message has, whatever that is. It
// also is what encrypts the connection, because what comes must be readable here.
type conn struct {
	net.Conn // TCP, or TLS over it
	in       *bufio.Reader
	begun    bool // the first line, which is not encrypted, was read
	limit    limiter
	failed   error // why nothing comes any more
	refused  error // why nothing goes any more
}

func newConn(raw net.Conn) *conn { return &conn{Conn: raw, in: bufio.NewReaderSize(raw, 32<<10)} }

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	if c.failed != nil {
		return 0, c.failed
	}
	if _, err := c.in.Peek(1); err != nil {
		return 0, err
	}
	b, _ := c.in.Peek(min(c.in.Buffered(), len(p)))
	if !c.begun {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b, c.begun = b[:i+1], true
		}
	}
	if c.failed = c.limit.pass(b); c.failed != nil {
		return 0, c.failed
	}
	n := copy(p, b)
	_, _ = c.in.Discard(n)
	return n, nil
}

// Write implements [net.Conn].
func (c *conn) Write(p []byte) (int, error) {
	if c.refused != nil {
		return 0, c.refused
	}
	return c.Conn.Write(p)
}

// refuse makes that the connection is of no use.
func (c *conn) refuse(err error) { c.failed, c.refused = err, err }

// secure encrypts the connection.
func (c *conn) secure(ctx context.Context, config *tls.Config) error {
	if c.in.Buffered() > 0 {
		return errBefore
	}
	secured := tls.Client(c.Conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return err
	}
	c.Conn = secured
	c.in.Reset(secured)
	return nil
}

// limiter follows the protocol as far as it is needed to know how large lines and messages
// are.
type limiter struct {
	line []byte // that has begun
	skip int    // bytes of a message that come
	rest bool   // what comes until the end of the line is skipped, too
}

// pass takes what comes next.
func (l *limiter) pass(b []byte) error {
	for len(b) > 0 {
		if l.skip > 0 {
			n := min(l.skip, len(b))
			l.skip -= n
			b = b[n:]
			continue
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if l.rest {
				return nil
			}
			if len(l.line)+len(b) > maxLine {
				return errTooMuch
			}
			l.line = append(l.line, b...)
			return nil
		}
		line := b[:i]
		b = b[i+1:]
		if l.rest {
			l.rest = false
			continue
		}
		if len(l.line)+len(line) > maxLine {
			return errTooMuch
		}
		if len(l.line) > 0 {
			line = append(l.line, line...)
			l.line = line[:0]
		}
		if size, message := messageSize(line); message {
			if size < 0 || size > maxMessage {
				return errTooMuch
			}
			// One byte behind it, whatever it is, belongs to it for the library.
			l.skip, l.rest = size+1, true
		}
	}
	return nil
}

// messageSize returns what a line says about how large the message is that follows it; -1
// for what is no number.
func messageSize(line []byte) (size int, message bool) {
	if len(line) == 0 || !bytes.ContainsRune([]byte("MmHh"), rune(line[0])) {
		return 0, false
	}
	fields := bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
	if len(fields) == 0 {
		return -1, true
	}
	n, err := strconv.ParseUint(string(fields[len(fields)-1]), 10, 31)
	if err != nil {
		return -1, true
	}
	return int(n), true
}
