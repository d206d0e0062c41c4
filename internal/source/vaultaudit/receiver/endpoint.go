package receiver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// File is the file of a unix socket.
type File struct {
	Mode         uint32 // permissions; 0 means 0660
	Owner, Group string // names or numbers; empty: those of the process
}

// errConfig is wrapped by errors that only another configuration helps against.
var errConfig = errors.New("not possible")

// endpoint is what senders connect or send to: a listener, or a socket for datagrams.
type endpoint struct {
	listener net.Listener
	packets  packetConn
	held     bool        // by systemd, too
	file     string      // of a unix socket that is ours
	info     os.FileInfo // of the file when it was made
	stopped  atomic.Bool // no more than what is pending is accepted
	once     sync.Once
}

// packetConn is what *net.UDPConn and *net.UnixConn have.
type packetConn interface {
	net.PacketConn
	syscall.Conn
	SetReadBuffer(bytes int) error
}

func (e *endpoint) addr() net.Addr {
	if e.packets != nil {
		return e.packets.LocalAddr()
	}
	return e.listener.Addr()
}

func (e *endpoint) String() string { return e.addr().Network() + ":" + e.addr().String() }

// bind makes the endpoint.
func (r *Receiver) bind() (*endpoint, error) {
	c := r.config
	if held := r.systemd.Take(c.Network, c.Address); held != nil {
		e := &endpoint{held: true}
		var err error
		switch held.Network {
		case "unix", "tcp":
			e.listener, err = held.Listener()
		case "unixgram", "udp":
			if c.Kind == HTTP {
				err = fmt.Errorf("%w: the socket %s of systemd is for datagrams; use ListenStream= in its unit", errConfig, held)
				break
			}
			var packets net.PacketConn
			if packets, err = held.Packets(); err == nil {
				e.packets = packets.(packetConn)
				enlarge(e.packets)
			}
		default:
			err = fmt.Errorf("%w: the socket %s of systemd is of no kind that can be received from", errConfig, held)
		}
		if err != nil {
			return nil, fmt.Errorf("take over the socket of systemd: %w", err)
		}
		if c.openTo(e.addr()) {
			return nil, errors.Join(fmt.Errorf("%w: the socket %s of systemd can be reached from other machines, so anybody could send entries; "+
				"say in allow who may, or ask for client certificates, or, over HTTP, for a secret", errConfig, held), e.close())
		}
		return e, nil
	}
	switch c.Network {
	case "systemd":
		return nil, fmt.Errorf("systemd holds no socket named %q; set FileDescriptorName=%[1]s in its .socket unit, and start the hub as its service", c.Address)
	case "unix", "unixgram":
		return c.bindFile()
	}
	l := net.ListenConfig{}
	if c.Network == "udp" {
		packets, err := l.ListenPacket(context.Background(), c.Network, c.Address)
		if err != nil {
			return nil, explainBind(err)
		}
		e := &endpoint{packets: packets.(packetConn)}
		enlarge(e.packets)
		return e, nil
	}
	l.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 4}
	listener, err := l.Listen(context.Background(), c.Network, c.Address)
	if err != nil {
		return nil, explainBind(err)
	}
	return &endpoint{listener: listener}, nil
}

// openTo says whether somebody on another machine may send to an address without having
// been allowed to. Where the configuration names the address, that was found out before.
func (c Config) openTo(addr net.Addr) bool {
	switch addr.(type) {
	case *net.TCPAddr, *net.UDPAddr:
	default:
		return false
	}
	at, err := netip.ParseAddrPort(addr.String())
	loopback := err == nil && at.Addr().Unmap().IsLoopback()
	certificates := c.TLS != nil && c.TLS.ClientAuth == tls.RequireAndVerifyClientCert
	return !loopback && len(c.Allow) == 0 && c.Secret == nil && !certificates
}

// explainBind adds what to do.
func explainBind(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: %w", ErrInUse, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; this machine does not have the address", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w; the user of the hub may not do that", err)
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w; make the directory, for example with RuntimeDirectory= in the unit of the hub", err)
	}
	return err
}

// bindFile makes a unix socket. Nobody can connect before its file has the owner and
// the permissions that it is to have.
func (c Config) bindFile() (*endpoint, error) {
	uid, gid, err := c.File.ids()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	if err := removeStale(c.Network, c.Address); err != nil {
		return nil, err
	}
	e := &endpoint{file: c.Address}
	l := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return withoutPermissions(raw) }}
	var bound interface{ Close() error }
	if c.Network == "unixgram" {
		packets, err := l.ListenPacket(context.Background(), c.Network, c.Address)
		if err != nil {
			return nil, explainBind(err)
		}
		e.packets, bound = packets.(packetConn), packets
		enlarge(e.packets)
	} else {
		listener, err := l.Listen(context.Background(), c.Network, c.Address)
		if err != nil {
			return nil, explainBind(err)
		}
		listener.(*net.UnixListener).SetUnlinkOnClose(false) // see close
		e.listener, bound = listener, listener
	}
	mode := os.FileMode(c.File.Mode)
	if mode == 0 {
		mode = 0o660
	}
	if uid >= 0 || gid >= 0 {
		err = os.Lchown(c.Address, uid, gid)
	}
	if err == nil {
		err = setMode(c.Address, mode)
	}
	if err == nil {
		e.info, err = os.Lstat(c.Address)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("give %s its owner and permissions: %w", c.Address, err), bound.Close(), remove(c.Address))
	}
	return e, nil
}

// removeStale removes the file of a socket that nobody listens on any more.
func removeStale(network, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return explainBind(err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%w: %s is there and is no socket; remove it, or use another address", errConfig, path)
	}
	conn, err := net.DialTimeout(network, path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%w: %s", ErrInUse, path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
		// Of another type, full, or not ours to connect to: somebody has it.
		return fmt.Errorf("%w: %s (%w)", ErrInUse, path, err)
	}
	return remove(path)
}

// ids returns the numbers of owner and group, -1 for those that stay as they are.
func (f File) ids() (uid, gid int, err error) {
	uid, gid = -1, -1
	if f.Owner != "" {
		if uid, err = strconv.Atoi(f.Owner); err != nil {
			u, err := user.Lookup(f.Owner)
			if err != nil {
				return 0, 0, fmt.Errorf("owner of the socket: %w", err)
			}
			uid, _ = strconv.Atoi(u.Uid)
		}
	}
	if f.Group != "" {
		if gid, err = strconv.Atoi(f.Group); err != nil {
			g, err := user.LookupGroup(f.Group)
			if err != nil {
				return 0, 0, fmt.Errorf("group of the socket: %w", err)
			}
			gid, _ = strconv.Atoi(g.Gid)
		}
	}
	return uid, gid, nil
}

// replaced returns an error when the file of the socket is not the one that was made:
// senders do not reach it then.
func (e *endpoint) replaced() error {
	if e.file == "" {
		return nil
	}
	info, err := os.Lstat(e.file)
	if err == nil && os.SameFile(info, e.info) {
		return nil
	}
	return fmt.Errorf("the file %s was removed or replaced, so no new connection comes in; restart the hub", filepath.Clean(e.file))
}

// accept returns the next connection. Once the endpoint is stopped, it returns what is
// pending and then [net.ErrClosed].
func (e *endpoint) accept() (net.Conn, error) {
	if !e.stopped.Load() {
		conn, err := e.listener.Accept()
		if err == nil || !e.stopped.Load() {
			return conn, err
		}
	}
	if e.held {
		return nil, net.ErrClosed // the rest is the successor's
	}
	return acceptPending(e.listener.(syscall.Conn))
}

// acceptPending accepts a connection that is there already.
func acceptPending(listener syscall.Conn) (net.Conn, error) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	controlErr := raw.Control(func(l uintptr) {
		for {
			if fd, _, err = unix.Accept(int(l)); !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED) {
				return
			}
		}
	})
	if controlErr != nil || err != nil {
		return nil, net.ErrClosed
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "pending connection")
	defer f.Close()
	return net.FileConn(f)
}

// stop makes accept end. Nobody can connect to a unix socket of ours any more.
func (e *endpoint) stop() {
	e.stopped.Store(true)
	if !e.held && e.file != "" {
		if info, err := os.Lstat(e.file); err == nil && os.SameFile(info, e.info) {
			remove(e.file)
		}
		e.shutdown()
	}
	if e.listener != nil {
		e.listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Unix(1, 0))
	} else {
		e.packets.SetReadDeadline(time.Now().Add(quiet))
	}
}

// shutdown refuses further connections or datagrams to a unix socket; what is pending
// stays.
func (e *endpoint) shutdown() {
	var socket any = e.listener
	if e.packets != nil {
		socket = e.packets
	}
	if raw, err := socket.(syscall.Conn).SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) })
	}
}

func (e *endpoint) close() (err error) {
	e.once.Do(func() {
		if e.listener != nil {
			err = e.listener.Close()
		} else {
			err = e.packets.Close()
		}
		if e.file != "" && e.info != nil {
			if info, statErr := os.Lstat(e.file); statErr == nil && os.SameFile(info, e.info) {
				err = errors.Join(err, remove(e.file))
			}
		}
	})
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
