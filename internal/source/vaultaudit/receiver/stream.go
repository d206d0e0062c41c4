package receiver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tocsin-events/tocsin/internal/systemd"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// handshakeTimeout bounds TLS handshakes.
const handshakeTimeout = 10 * time.Second

// Pauses after an accept that failed, for example because there are too many open files.
const (
	firstAcceptPause = 5 * time.Millisecond
	lastAcceptPause  = time.Second
)

// next returns the next connection that may send, or an error when the endpoint has
// stopped. Failures in between are tried again.
func (r *Receiver) next(e *endpoint) (*connection, error) {
	pause := firstAcceptPause
	for {
		conn, err := e.accept()
		if err == nil {
			r.accepted(nil)
			if !r.allowed(conn.RemoteAddr()) {
				r.counts.refusedAddress.Add(1)
				conn.Close()
				continue
			}
			return r.enter(conn), nil
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		r.counts.acceptErrors.Add(1)
		r.accepted(err)
		select {
		case <-time.After(pause):
		case <-r.binding.Done():
		}
		pause = min(2*pause, lastAcceptPause)
	}
}

// accepted notes whether accepting works.
func (r *Receiver) accepted(err error) {
	r.mu.Lock()
	before := r.trouble
	if r.trouble = err; err != nil {
		r.trouble = acceptError{err}
	}
	r.mu.Unlock()
	switch {
	case err != nil && before == nil:
		r.log.Warn("Connections cannot be accepted; trying again until it works.", "error", err)
	case err == nil && before != nil:
		r.log.Info("Connections are accepted again.")
	}
}

type acceptError struct{ error }

func (e acceptError) Unwrap() error { return e.error }
func (e acceptError) Error() string {
	text := "accept connections: " + e.error.Error()
	if errors.Is(e.error, syscall.EMFILE) || errors.Is(e.error, syscall.ENFILE) {
		text += "; raise LimitNOFILE= of the hub"
	}
	return text
}

// enter adds a connection to the table, and ends another one for it if need be.
func (r *Receiver) enter(conn net.Conn) *connection {
	c, out := r.table.enter(conn)
	r.counts.connections.Add(1)
	if out != nil {
		r.counts.evicted.Add(1)
		if u, ok := out.Conn.(*net.UnixConn); ok && r.config.Kind != HTTP {
			u.CloseRead() // what it wrote is still read
		} else {
			out.Close()
		}
	}
	return c
}

// accept serves connections with lines or messages until the endpoint stops.
func (r *Receiver) accept(e *endpoint) {
	for {
		c, err := r.next(e)
		if err != nil {
			return
		}
		r.reading.Go(func() { r.converse(c) })
	}
}

// converse reads one connection to its end.
func (r *Receiver) converse(c *connection) {
	defer c.Close()
	if r.config.TLS != nil {
		secure := tls.Server(c, r.config.TLS)
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		err := secure.HandshakeContext(ctx)
		cancel()
		if err != nil {
			r.counts.handshakes.Add(1)
			r.log.Debug("A TLS handshake has failed.", "from", c.RemoteAddr().String(), "error", err)
			return
		}
		c.proven.Store(len(secure.ConnectionState().VerifiedChains) > 0)
		r.read(c, secure)
		secure.Close() // says goodbye
		return
	}
	if c.stored() == "" {
		r.store(c)
	}
	r.read(c, c)
}

// store lets systemd hold a connection, so that a successor can go on with it.
func (r *Receiver) store(c *connection) {
	if r.config.Dir == "" || !r.systemd.HasStore() {
		return
	}
	name := r.storePrefix() + rand.Text()
	err := r.systemd.Store(name, c.Conn.(syscall.Conn))
	switch {
	case err == nil:
		c.name.Store(&name)
		r.storing.Store(true)
	case !errors.Is(err, systemd.ErrNoStore):
		r.log.Warn("A connection is not kept over a restart.", "error", err)
	}
}

// storePrefix is what the names of connections of this source begin with.
func (r *Receiver) storePrefix() string { return "audit." + r.config.Name + "." }

// unstore is called before a connection is closed for good.
func (r *Receiver) unstore(c *connection) {
	if c.stored() == "" {
		return
	}
	if err := r.systemd.Remove(c.stored()); err != nil {
		r.log.Warn("A connection that has ended stays in systemd's store.", "error", err)
	}
	c.name.Store(nil)
}

// stream cuts what is read into lines.
type stream interface {
	// next returns lines, which are valid until it is called again, and with the last of
	// them an error.
	next() ([]tail.Line, error)
	// rest returns what is not complete; ok is false when nobody could go on with it.
	rest() (rest remainder, ok bool)
	// memory is what is held for the line that is not complete.
	memory() int
}

// read hands over what comes from a connection until it ends.
func (r *Receiver) read(c *connection, from io.Reader) {
	var s stream
	if r.config.Kind == Syslog {
		s = newMessages(from, r.config.MaxLine, c.rest)
	} else {
		s = newLines(from, r.config.MaxLine, c.rest)
	}
	_, inet := c.Conn.(*net.TCPConn)
	begins := inet && c.rest == nil
	defer func() { c.rest = nil }()
	held := 0
	hold := func(n int) bool {
		if n <= freeMemory {
			n = 0
		}
		total := r.long.Add(int64(n - held))
		held = n
		return n == 0 || total <= r.mostLong()
	}
	defer func() { hold(0) }()
	for {
		lines, err := s.next()
		if begins && len(lines) > 0 {
			if begins = false; isWebRequest(lines[0].Data) {
				r.counts.webRequests.Add(1)
				r.warn("A connection was closed: it speaks HTTP, as a web page can make a browser do. An HTTP device needs a source of its type.", c)
				s.rest()
				r.unstore(c)
				return
			}
		}
		if len(lines) > 0 && !r.put(lines) {
			r.handOver(c, s, lines, true)
			return
		}
		switch {
		case err == nil:
			if !hold(s.memory()) {
				r.counts.refusedMemory.Add(1)
				r.warn("A connection was closed: too many long lines are not complete.", c)
				r.torn(s)
				r.unstore(c)
				return
			}
			c.listenOn()
		case errors.Is(err, os.ErrDeadlineExceeded):
			// It has been quiet at the end of the receiver.
			r.handOver(c, s, nil, c.stored() != "")
			return
		default: // closed by the sender, or by us
			r.torn(s)
			r.unstore(c)
			return
		}
	}
}

// warn logs what a sender can cause as often as it likes.
func (r *Receiver) warn(message string, c *connection) {
	if skipped, ok := r.warnings.Allow(); ok {
		r.log.Warn(message, "from", c.RemoteAddr().String(), "skipped", skipped)
	}
}

// isWebRequest says whether a line begins a request of HTTP. Its body could have lines that
// look like entries.
func isWebRequest(line []byte) bool {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	_, version, found := bytes.Cut(rest, []byte(" HTTP/"))
	return ok && found && len(version) <= 3 && len(method) > 0 && len(method) < 20 && len(bytes.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")) == 0
}

// Bounds of the memory for lines that are not complete.
const freeMemory = 512 << 10 // of one connection that is not counted

func (r *Receiver) mostLong() int64 { return 4*int64(r.config.MaxLine) + 64<<20 }

// torn counts a line whose end did not come. The sender repeats it as a whole on its next
// connection.
func (r *Receiver) torn(s stream) {
	if rest, _ := s.rest(); !rest.empty() {
		r.counts.torn.Add(1)
	}
}

// handOver leaves what was not put and what is not complete to a successor, and the
// connection, if it is stored.
func (r *Receiver) handOver(c *connection, s stream, lines []tail.Line, keep bool) {
	rest, ok := s.rest()
	keep = keep && ok && r.config.Dir != ""
	rest.Lines = wholeLines(rest.Lines, lines)
	if !keep || c.stored() == "" {
		if rest.unfinished() {
			r.counts.torn.Add(1)
		}
		rest.Rest, rest.Raw = tail.Rest{}, nil
	}
	if (c.stored() != "" && keep) || len(rest.Lines) > 0 {
		r.leaveOrCount(c.stored(), rest)
	}
	if !keep {
		r.unstore(c)
	}
}
