package app

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/metrics"
)

// connections bounds how many connections the HTTP server has, altogether and from
// one address, whatever they are doing: waiting for a handshake, for a request, for
// its answer, or for the next one. A connection that became a subscription is not
// the server's any more; the hub bounds those.
//
// Connections are passed on as they are, because the hub writes to a *net.TCPConn
// with one system call for many events. That one has ended is told by the server,
// see [connections.changed].
type connections struct {
	most, perAddress int // perAddress 0: no limit of its own
	refused          *metrics.Component
	log              *slog.Logger

	mu   sync.Mutex
	open map[net.Conn]netip.Prefix
	from map[netip.Prefix]int
	// logged is when refusals were logged last, skipped how many there were since.
	logged  time.Time
	skipped int
}

// refusalLogInterval is how often refused connections are logged at most.
const refusalLogInterval = time.Minute

func newConnections(c config.Listen, common *metrics.Metrics, reg prometheus.Registerer, log *slog.Logger) *connections {
	l := &connections{
		most: c.MaxConnections, perAddress: c.MaxPerAddress,
		refused: common.Component("listener", "http"), log: log,
		open: make(map[net.Conn]netip.Prefix), from: make(map[netip.Prefix]int),
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "tocsin", Name: "http_connections", Help: "Open connections that are not subscriptions.",
	}, func() float64 { return float64(l.count()) }))
	return l
}

func (l *connections) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// bound returns a listener that closes connections beyond the limits at once.
func (l *connections) bound(listener net.Listener) net.Listener { return boundListener{listener, l} }

type boundListener struct {
	net.Listener
	connections *connections
}

func (b boundListener) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil || b.connections.enter(conn) {
			return conn, err
		}
		conn.Close()
	}
}

// enter counts a connection, unless there are too many.
func (l *connections) enter(conn net.Conn) bool {
	from := peer(conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.open) >= l.most:
		l.refuseLocked("connections", "listen.max_connections", from)
		return false
	case l.perAddress > 0 && l.from[from] >= l.perAddress:
		l.refuseLocked("connections of an address", "listen.max_connections_per_address", from)
		return false
	}
	l.open[conn] = from
	l.from[from]++
	return true
}

func (l *connections) refuseLocked(reason, limit string, from netip.Prefix) {
	l.refused.Refused(reason).Inc()
	l.skipped++
	if now := time.Now(); now.Sub(l.logged) >= refusalLogInterval {
		l.log.Warn("Connections were closed because there were too many.", "limit", limit, "last_from", from.String(), "count", l.skipped)
		l.logged, l.skipped = now, 0
	}
}

// changed serves http.Server.ConnState. Closed and hijacked are the states after
// which the server knows nothing of a connection, and each comes at most once.
func (l *connections) changed(conn net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	from, ok := l.open[conn]
	if !ok {
		return
	}
	delete(l.open, conn)
	if l.from[from]--; l.from[from] == 0 {
		delete(l.from, from)
	}
}

// peer returns the address of the other side: of IPv6 the network of 64 bits, because
// whoever has one address of it has all.
func peer(conn net.Conn) netip.Prefix {
	address, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{} // all of these count as one
	}
	ip := address.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits) // cannot fail with these
	return p
}
