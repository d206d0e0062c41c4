package kafka

import (
	"io"
	"net"
	"sync"
)

// gate passes connections on to an address. What comes from clients over the connections that
// there are when it is shut stays in it, as in a network, until it is opened, even if the client
// closes them; new connections pass.
type gate struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	pipes map[*pipe]bool
	wg    sync.WaitGroup
}

// pipe is one connection.
type pipe struct {
	client, server net.Conn

	mu   sync.Mutex
	cond *sync.Cond
	shut bool
	held []byte
	over bool // the client has ended its side
	dead bool // nothing is passed on any more
}

func newGate(to string) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{listener: l, to: to, pipes: make(map[*pipe]bool)}
	g.wg.Go(g.accept)
	return g, nil
}

func (g *gate) address() string { return g.listener.Addr().String() }

func (g *gate) accept() {
	for {
		client, err := g.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", g.to)
		if err != nil {
			client.Close()
			continue
		}
		p := &pipe{client: client, server: server}
		p.cond = sync.NewCond(&p.mu)
		g.mu.Lock()
		g.pipes[p] = true
		g.mu.Unlock()
		g.wg.Go(func() {
			io.Copy(client, server)
			client.Close()
		})
		g.wg.Go(p.read)
		g.wg.Go(func() {
			p.write()
			server.Close()
			client.Close()
			g.mu.Lock()
			delete(g.pipes, p)
			g.mu.Unlock()
		})
	}
}

func (p *pipe) read() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := p.client.Read(buffer)
		p.mu.Lock()
		p.held = append(p.held, buffer[:n]...)
		p.over = p.over || err != nil
		p.cond.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *pipe) write() {
	for {
		p.mu.Lock()
		for !p.dead && (p.shut || len(p.held) == 0 && !p.over) {
			p.cond.Wait()
		}
		b := p.held
		p.held = nil
		end := p.dead || len(b) == 0
		p.mu.Unlock()
		if end {
			return
		}
		if _, err := p.server.Write(b); err != nil {
			return
		}
	}
}

// set shuts or opens the connections that there are.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.pipes {
		p.mu.Lock()
		p.shut = shut
		p.cond.Broadcast()
		p.mu.Unlock()
	}
}

// held returns how many bytes wait.
func (g *gate) held() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.pipes {
		p.mu.Lock()
		n += len(p.held)
		p.mu.Unlock()
	}
	return n
}

func (g *gate) close() {
	g.listener.Close()
	g.mu.Lock()
	for p := range g.pipes {
		p.mu.Lock()
		p.dead = true
		p.cond.Broadcast()
		p.mu.Unlock()
		p.client.Close()
		p.server.Close()
	}
	g.mu.Unlock()
	g.wg.Wait()
}
