package receiver

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// connection is one of a sender.
type connection struct {
	net.Conn                           // *net.TCPConn or *net.UnixConn
	table    *table                    // that it is in
	heard    atomic.Int64              // when it was made or sent something last, in Unix nanoseconds
	name     atomic.Pointer[string]    // in systemd's store; nil: it is not there
	rest     *remainder                // of the predecessor's reading
	ending   atomic.Pointer[time.Time] // until when it is read, once it ends
	proven   atomic.Bool               // the sender has shown that it may send
	closed   sync.Once
}

// stored is the name in systemd's store, or empty.
func (c *connection) stored() string {
	if name := c.name.Load(); name != nil {
		return *name
	}
	return ""
}

func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// Close takes the connection out of the table.
func (c *connection) Close() (err error) {
	c.closed.Do(func() {
		c.table.leave(c)
		err = c.Conn.Close()
	})
	return err
}

// end makes the sender's next write fail, if that is possible without loss, and else
// makes reading end when the sender is quiet.
func (c *connection) end() {
	if u, ok := c.Conn.(*net.UnixConn); ok {
		u.CloseRead()
		return
	}
	until := time.Now().Add(quietAtMost)
	c.ending.Store(&until)
	c.listenOn()
}

// listenOn gives a connection that ends a last moment to be heard.
func (c *connection) listenOn() {
	until := c.ending.Load()
	if until == nil {
		return
	}
	patience := quiet
	if c.stored() != "" {
		patience = storedQuiet
	}
	at := time.Now().Add(patience)
	if at.After(*until) {
		at = *until
	}
	c.Conn.SetReadDeadline(at)
}

// table has the open connections and bounds their number. Old silent ones are normal: a
// server opens a new one when it is unsealed or becomes the leader and leaves the old one
// open.
type table struct {
	most int

	mu   sync.Mutex
	open map[*connection]struct{}
}

// enter adds a connection. When there are too many, it takes out the one that was
// silent longest and returns it for the caller to end: one of those that have not shown
// that they may send, if there is one, so that nobody can push the others out.
func (t *table) enter(conn net.Conn) (c, out *connection) {
	c = &connection{Conn: conn, table: t}
	c.heard.Store(time.Now().UnixNano())
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[*connection]struct{})
	}
	if len(t.open) >= t.most {
		for other := range t.open {
			if out == nil || other.before(out) {
				out = other
			}
		}
		delete(t.open, out)
	}
	t.open[c] = struct{}{}
	return c, out
}

// before says whether a connection has to make room before another one.
func (c *connection) before(other *connection) bool {
	if mine, its := c.proven.Load(), other.proven.Load(); mine != its {
		return its
	}
	return c.heard.Load() < other.heard.Load()
}

func (t *table) leave(c *connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
}

func (t *table) all() (all []*connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.open {
		all = append(all, c)
	}
	return all
}

func (t *table) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

func (t *table) closeAll() {
	for _, c := range t.all() {
		c.Close()
	}
}
