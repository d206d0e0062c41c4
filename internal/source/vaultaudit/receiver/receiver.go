// Package receiver takes what the audit devices of Vault and OpenBao send: over
// sockets (unix and tcp, with TLS if something in front of the device speaks it, udp and
// unixgram), as syslog messages, and over HTTP.
//
// A server stops serving when an audit device blocks. So whatever comes in is read at
// once, cut into lines and put into an inbox, which takes no time; nothing here waits
// for a disk or a journal, except HTTP, whose sender is told that a line is durable, in
// bounded time. It knows lines, not what they say.
//
// A [Receiver] may end without losing a line that a sender got rid of: see
// [Receiver.Stop].
package receiver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/systemd"
	"github.com/tocsin-events/tocsin/internal/tail"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

// Kind is what is received.
type Kind string

// The kinds of receivers.
const (
	Socket Kind = "socket" // lines, in streams or datagrams
	Syslog Kind = "syslog" // syslog messages, in streams or datagrams
	HTTP   Kind = "http"   // lines in the bodies of requests
)

// Inbox is where lines go, which [*inbox.Inbox] has.
type Inbox interface {
	// Put takes lines without waiting for a disk. The error wraps [inbox.ErrFull] when
	// they were not kept, which the inbox counts.
	Put(ctx context.Context, lines []tail.Line) (inbox.Position, error)
	// Durable waits until everything before a position is durable.
	Durable(ctx context.Context, p inbox.Position) error
}

// Config says what is received and where. Name, Kind, Network and Address are required.
type Config struct {
	// Name of the source.
	Name string
	Kind Kind
	// Network is "unix", "unixgram", "tcp", "udp", or "systemd" for the socket that the
	// service manager holds under the name in Address.
	Network, Address string
	// File is the file of a unix socket.
	File File
	// TLS of a stream; nil: none.
	TLS *tls.Config
	// Allow are the networks that may send; empty: all.
	Allow []netip.Prefix
	// Secret is what requests must have, in SecretHeader, or as bearer token when that
	// is empty; nil: nothing. It is asked for with each request.
	Secret       func() (string, error)
	SecretHeader string
	// MaxConnections is how many may be open; default 1,000. When there are more, the
	// one that was silent longest is closed.
	MaxConnections int
	// MaxLine is the longest line; default [tail.DefaultMaxLine].
	MaxLine int
	// Dir is where the beginnings of lines are kept that a successor goes on with;
	// empty: they are not.
	Dir string
}

// Deps are what a Receiver works with.
type Deps struct {
	Inbox   Inbox            // nil: it comes later, with [Receiver.Use]
	Systemd *systemd.Service // default: none
	Logger  *slog.Logger     // default: none
}

// ErrInUse says that another process listens on the address.
var ErrInUse = errors.New("another process listens there")

// Receiver listens on one address. Make it with [Listen], then call Start once, then
// Stop. Its other methods are safe for concurrent use.
type Receiver struct {
	config  Config
	target  target
	systemd *systemd.Service
	log     *slog.Logger
	table   table
	long    atomic.Int64 // memory of lines that are not complete and long
	counts  counts

	warnings throttle.Throttle // of senders

	// waiting ends when lines no longer wait for the inbox, hard when nothing goes on.
	waiting     context.Context
	stopWaiting context.CancelFunc
	stopping    atomic.Bool
	storing     atomic.Bool     // connections were stored
	binding     context.Context // of attempts to bind; ends with Stop
	stopBinding context.CancelFunc
	running     sync.WaitGroup // the listener
	reading     sync.WaitGroup // connections

	mu       sync.Mutex
	endpoint *endpoint // nil while there is none
	taken    []*connection
	trouble  error // of the listener
	http     *web
}

// Listen takes over the socket that systemd holds, or binds the address; senders can
// connect from then on, and are served from Start on. The error wraps [ErrInUse] when
// another process listens there. What may go away by itself, such as a directory that
// is missing, is no error: it is tried again after Start, and Health tells it.
func Listen(config Config, deps Deps) (*Receiver, error) {
	config.MaxConnections = cmp.Or(config.MaxConnections, 1000)
	config.MaxLine = cmp.Or(config.MaxLine, tail.DefaultMaxLine)
	r := &Receiver{
		config: config, target: newTarget(),
		systemd: cmp.Or(deps.Systemd, new(systemd.Service)),
		log:     cmp.Or(deps.Logger, slog.New(slog.DiscardHandler)).With("source", config.Name),
	}
	r.table.most = config.MaxConnections
	r.waiting, r.stopWaiting = context.WithCancel(context.Background())
	r.binding, r.stopBinding = context.WithCancel(context.Background())
	if config.Kind == HTTP {
		r.http = newWeb(r)
	}
	if deps.Inbox != nil {
		r.Use(deps.Inbox)
	}
	e, err := r.bind()
	switch {
	case errors.Is(err, ErrInUse), errors.Is(err, errConfig):
		return nil, err
	case err != nil:
		r.failed(err)
	default:
		r.endpoint = e
	}
	return r, nil
}

// Start serves senders until Stop.
func (r *Receiver) Start() {
	r.takeOver()
	r.running.Go(func() {
		e := r.bound()
		if e == nil {
			if e = r.tryToBind(); e == nil {
				return
			}
		}
		switch {
		case e.packets != nil:
			r.receive(e.packets)
		case r.config.Kind == HTTP:
			r.http.serve(e)
		default:
			r.accept(e)
		}
	})
}

func (r *Receiver) bound() *endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.endpoint
}

// Pauses between attempts to bind the address.
const (
	firstBindPause = 500 * time.Millisecond
	lastBindPause  = 30 * time.Second
)

// tryToBind tries until it works or Stop.
func (r *Receiver) tryToBind() *endpoint {
	for pause := firstBindPause; ; pause = min(2*pause, lastBindPause) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-r.binding.Done():
			timer.Stop()
			return nil
		}
		e, err := r.bind()
		if err != nil {
			r.failed(err)
			continue
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.binding.Err() != nil {
			e.close()
			return nil
		}
		r.endpoint, r.trouble = e, nil
		r.log.Info("Listening.", "address", e.String())
		return e
	}
}

// failed notes what stands against the listener, and logs it when it is new.
func (r *Receiver) failed(err error) {
	r.mu.Lock()
	before := r.trouble
	r.trouble = err
	r.mu.Unlock()
	if before == nil {
		r.log.Warn("Nothing can be received; trying again until it works.", "error", err)
	}
}

// Addr returns the address that is listened on, or nil.
func (r *Receiver) Addr() net.Addr {
	if e := r.bound(); e != nil {
		return e.addr()
	}
	return nil
}

// Health returns nil when senders can connect, else what stands against it and what
// to do.
func (r *Receiver) Health() error {
	r.mu.Lock()
	err, e := r.trouble, r.endpoint
	r.mu.Unlock()
	if err == nil && e != nil && !r.stopping.Load() {
		err = e.replaced()
	}
	if err == nil && r.http != nil {
		err = r.http.health()
	}
	if err != nil {
		return fmt.Errorf("receiver %s: %w", r.config.Name, err)
	}
	return nil
}

// allowed says whether a peer may send.
func (r *Receiver) allowed(peer net.Addr) bool {
	if len(r.config.Allow) == 0 {
		return true
	}
	var ip netip.Addr
	switch a := peer.(type) {
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	case *net.UDPAddr:
		ip = a.AddrPort().Addr()
	default:
		return true // of this machine, through the permissions of a file
	}
	return r.allowedIP(ip)
}

func (r *Receiver) allowedIP(ip netip.Addr) bool {
	if len(r.config.Allow) == 0 {
		return true
	}
	ip = ip.Unmap().WithZone("")
	for _, network := range r.config.Allow {
		if network.Contains(ip) {
			return true
		}
	}
	return false
}

// put hands lines over. It returns false when they have to wait for a successor.
func (r *Receiver) put(lines []tail.Line) bool {
	kept := lines
	if slices.ContainsFunc(lines, blank) {
		kept = slices.DeleteFunc(slices.Clone(lines), blank) // the caller needs its own if they are not taken
	}
	var size uint64
	for _, l := range kept {
		if l.Kind == tail.TooLong {
			r.counts.tooLong.Add(1)
		}
		size += uint64(l.Size) + 1
	}
	if len(kept) == 0 {
		return true
	}
	err := r.target.put(r.waiting, kept)
	if err != nil && !errors.Is(err, inbox.ErrFull) {
		return false // closed, or it does not take any before the end
	}
	r.counts.lines.Add(uint64(len(kept)))
	r.counts.bytes.Add(size)
	return true
}

func blank(l tail.Line) bool { return l.Kind != tail.TooLong && len(l.Data) == 0 }

// Stop ends the receiver within ctx. What a sender got rid of is kept:
//
//   - A unix socket refuses further writes while what was written can still be read, so
//     it is read to its end. The write that is refused is repeated by the sender on a new
//     connection: to a socket that systemd holds, for the successor.
//   - A tcp connection that is in systemd's store stays open, and the successor goes on in
//     the middle of a line if need be.
//   - Other tcp connections are read until they are quiet for a moment, then closed; what
//     is on the way then is lost.
//   - HTTP requests are answered, and connections are closed between two of them.
//   - Datagrams wait in the socket that systemd holds; without it, what comes is lost.
func (r *Receiver) Stop(ctx context.Context) error {
	defer r.stopWaiting()
	r.stopping.Store(true)
	r.stopBinding()
	e := r.bound()
	if e != nil {
		e.stop()
	}
	var err error
	if r.http != nil {
		err = r.http.stop(ctx)
	}
	// What still waits for the inbox then is kept in a file.
	stop := context.AfterFunc(ctx, r.stopWaiting)
	defer stop()
	timer := time.AfterFunc(putPatience, r.stopWaiting)
	defer timer.Stop()
	r.running.Wait() // it has accepted what was pending
	for _, c := range r.table.all() {
		c.end()
	}
	waited := make(chan struct{})
	go func() { r.reading.Wait(); close(waited) }()
	select {
	case <-waited:
	case <-ctx.Done():
		err = errors.Join(err, context.Cause(ctx))
		r.table.closeAll()
		<-waited
	}
	if e != nil {
		err = errors.Join(err, e.close())
	}
	err = errors.Join(err, r.leaveEarly())
	if r.storing.Load() {
		barrier, cancel := context.WithTimeout(ctx, barrierTimeout)
		defer cancel()
		err = errors.Join(err, r.systemd.Barrier(barrier))
	}
	if err != nil {
		return fmt.Errorf("receiver %s: %w", r.config.Name, err)
	}
	return nil
}

// Bounds of parts of the end.
const (
	// putPatience is how long lines wait for an inbox that is full and not to drop any.
	putPatience = time.Second
	// barrierTimeout is how long the end waits for systemd.
	barrierTimeout = time.Second
	// storedQuiet and quiet are how long a connection has to be silent to be given to a
	// successor or closed; quietAtMost bounds that.
	storedQuiet = 5 * time.Millisecond
	quiet       = 100 * time.Millisecond
	quietAtMost = time.Second
)

// remove removes a file that may be missing.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
