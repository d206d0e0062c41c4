package delivertest

import (
	"net"
	"sync"
	"testing"
)

// Gate stands before a receiver that speaks over TCP, and makes it [Refuses], [Closes] or
// [Hangs]. In any other mode it lets everything through.
type Gate struct {
	address string // of the gate, the same whenever it listens
	backend string

	mu       sync.Mutex
	mode     Mode
	listener net.Listener               // nil: refuses
	conns    map[net.Conn]chan struct{} // closed when the connection is cut
	closed   bool
	running  sync.WaitGroup
}

// NewGate returns a gate before an address, which is closed at the end of the test.
func NewGate(t testing.TB, backend string) *Gate {
	t.Helper()
	g := &Gate{backend: backend, conns: make(map[net.Conn]chan struct{})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.address = listener.Addr().String()
	g.serve(listener)
	t.Cleanup(func() {
		g.mu.Lock()
		g.closed = true
		g.stop()
		g.cut()
		g.mu.Unlock()
		g.running.Wait()
	})
	return g
}

// Address returns where to connect to.
func (g *Gate) Address() string { return g.address }

// Set changes the mode. Connections that there are go on if they are let through as before,
// hang if the gate now [Hangs], and are ended by any other change.
func (g *Gate) Set(t testing.TB, m Mode) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.mode
	g.mode = m
	if m == Hangs && g.listener != nil || through(before) && through(m) {
		return
	}
	g.cut()
	if m == Refuses {
		g.stop()
		return
	}
	if g.listener == nil {
		listener, err := net.Listen("tcp", g.address)
		if err != nil {
			t.Errorf("listen again: %v", err)
			return
		}
		g.serve(listener)
	}
}

// through says whether a gate in this mode lets everything through.
func through(m Mode) bool { return m != Refuses && m != Closes && m != Hangs }

func (g *Gate) hangs() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mode == Hangs
}

// copy copies until an end, or, when the gate begins to hang, until the connection is cut.
func (g *Gate) copy(to, from net.Conn, cut chan struct{}) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if g.hangs() {
			<-cut
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// serve accepts connections from a listener until that is closed.
func (g *Gate) serve(listener net.Listener) {
	g.listener = listener
	g.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			g.running.Go(func() { g.pass(conn) })
		}
	})
}

func (g *Gate) stop() {
	if g.listener != nil {
		g.listener.Close()
		g.listener = nil
	}
}

// cut ends all connections.
func (g *Gate) cut() {
	for conn, cut := range g.conns {
		close(cut)
		conn.Close()
	}
	clear(g.conns)
}

// keep remembers a connection, and tells the mode, and when it is cut; nil: it must not be
// any more.
func (g *Gate) keep(conn net.Conn) (Mode, chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.mode == Refuses {
		conn.Close()
		return g.mode, nil
	}
	cut := make(chan struct{})
	g.conns[conn] = cut
	return g.mode, cut
}

func (g *Gate) forget(conn net.Conn) {
	conn.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, conn)
}

// pass is one connection.
func (g *Gate) pass(conn net.Conn) {
	defer g.forget(conn)
	mode, cut := g.keep(conn)
	switch {
	case cut == nil:
		return
	case mode == Hangs:
		<-cut
		return
	case mode == Closes:
		conn.Read(make([]byte, 1))
		return
	}
	backend, err := net.Dial("tcp", g.backend)
	if err != nil {
		return
	}
	defer g.forget(backend)
	if _, cut := g.keep(backend); cut == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.copy(backend, conn, cut)
		backend.(*net.TCPConn).CloseWrite()
	}()
	g.copy(conn, backend, cut)
	conn.Close()
	<-done
}
