package systemd

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Socket is one that the service manager held when it started the process.
type Socket struct {
	// Name is that of FileDescriptorName=, by default that of the socket unit, or the
	// one that it was stored under.
	Name string
	// Network is "unix", "unixgram", "tcp" or "udp", or empty for anything else.
	Network string
	// Address is what it is bound to: a path, an abstract name that begins with "@",
	// or host:port.
	Address string
	// Connected says that it is a connection: one that was stored.
	Connected bool

	file *os.File
}

// Listener returns the socket as a listener; the Socket must not be used after it.
func (s *Socket) Listener() (net.Listener, error) {
	l, err := net.FileListener(s.file)
	if l, ok := l.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(false) // the file is the service manager's
	}
	return l, cmp.Or(err, s.Close())
}

// Packets returns the socket as one for datagrams; the Socket must not be used after
// it.
func (s *Socket) Packets() (net.PacketConn, error) {
	c, err := net.FilePacketConn(s.file)
	return c, cmp.Or(err, s.Close())
}

// Conn returns the socket as a connection; the Socket must not be used after it.
func (s *Socket) Conn() (net.Conn, error) {
	c, err := net.FileConn(s.file)
	return c, cmp.Or(err, s.Close())
}

// Close gives up the socket. The service manager still holds it.
func (s *Socket) Close() error { return s.file.Close() }

func (s *Socket) String() string {
	return fmt.Sprintf("%s (%s)", cmp.Or(s.Name, "without a name"), strings.Trim(s.Network+":"+s.Address, ":"))
}

// maxDescriptors bounds what LISTEN_FDS may say.
const maxDescriptors = 1 << 17

// inherit takes over the descriptors.
func (s *Service) inherit(count, names string, first int) error {
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxDescriptors {
		return fmt.Errorf("LISTEN_FDS is %.20q: not a number of descriptors", count)
	}
	var name []string
	if names != "" {
		name = strings.Split(names, ":")
	}
	for i := range n {
		fd := first + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return fmt.Errorf("LISTEN_FDS is %d, but descriptor %d is not open: %w", n, fd, err)
		}
		unix.CloseOnExec(fd)
		socket := describe(fd)
		if i < len(name) {
			socket.Name = name[i]
		}
		socket.file = os.NewFile(uintptr(fd), "inherited "+socket.Name)
		s.sockets = append(s.sockets, socket)
		if socket.Connected {
			s.room = max(0, s.room-1) // it still is in the store
		}
	}
	return nil
}

// describe finds out what a descriptor is.
func describe(fd int) *Socket {
	s := &Socket{}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM && kind != unix.SOCK_DGRAM {
		return s
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return s
	}
	stream := kind == unix.SOCK_STREAM
	name := func(forStream, forPackets string) string {
		if stream {
			return forStream
		}
		return forPackets
	}
	switch a := local.(type) {
	case *unix.SockaddrUnix:
		s.Network, s.Address = name("unix", "unixgram"), a.Name
	case *unix.SockaddrInet4:
		s.Network, s.Address = name("tcp", "udp"), netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		s.Network, s.Address = name("tcp", "udp"), netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	}
	if stream {
		listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		s.Connected = err == nil && listening == 0
	}
	return s
}

// Take returns the socket that is held for an address, or nil when there is none. The
// network "systemd" takes the one of that name, whatever it is. Each is given away
// once.
func (s *Service) Take(network, address string) *Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.sockets, func(socket *Socket) bool {
		if socket.Connected {
			return false
		}
		if network == "systemd" {
			return socket.Name == address || socket.Name == address+".socket"
		}
		return socket.Network == network && sameAddress(network, socket.Address, address)
	})
	if i < 0 {
		return nil
	}
	socket := s.sockets[i]
	s.sockets = slices.Delete(s.sockets, i, i+1)
	return socket
}

// TakeStored returns the connections whose names begin so. They stay in the store
// until [Service.Remove].
func (s *Service) TakeStored(prefix string) (taken []*Socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sockets = slices.DeleteFunc(s.sockets, func(socket *Socket) bool {
		mine := socket.Connected && strings.HasPrefix(socket.Name, prefix)
		if mine {
			taken = append(taken, socket)
		}
		return mine
	})
	return taken
}

// CloseUnused closes what nobody has taken, removes connections among it from the
// store, and returns what it was.
func (s *Service) CloseUnused() (unused []string, err error) {
	s.mu.Lock()
	sockets := s.sockets
	s.sockets = nil
	s.mu.Unlock()
	for _, socket := range sockets {
		unused = append(unused, socket.String())
		if socket.Connected && socket.Name != "" {
			err = errors.Join(err, s.Remove(socket.Name))
		}
		err = errors.Join(err, socket.Close())
	}
	return unused, err
}

// sameAddress says whether a socket that is bound to one address is the one that is
// wanted.
func sameAddress(network, bound, wanted string) bool {
	if network == "unix" || network == "unixgram" {
		return bound == wanted
	}
	b, err := netip.ParseAddrPort(bound)
	if err != nil {
		return false
	}
	host, port, err := net.SplitHostPort(wanted)
	if err != nil || port == "0" || port != strconv.Itoa(int(b.Port())) {
		return false
	}
	address := b.Addr().Unmap()
	if host == "" {
		return address.IsUnspecified()
	}
	if strings.EqualFold(host, "localhost") {
		return address.IsLoopback()
	}
	w, err := netip.ParseAddr(host)
	return err == nil && (w.Unmap() == address || w.IsUnspecified() && address.IsUnspecified())
}
