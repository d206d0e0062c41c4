package receiver

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tocsin-events/tocsin/internal/syslog"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// Largest datagrams. Those of unix sockets are bounded by the buffer of the sender, which
// is 208 KiB unless somebody raised it.
const (
	maxUDP      = 64 << 10
	maxUnixgram = 4 << 20
)

// readPause is how long reading waits after an error.
const readPause = 100 * time.Millisecond

// receive reads datagrams until the endpoint stops.
func (r *Receiver) receive(c packetConn) {
	size := maxUDP
	if _, ok := c.(*net.UnixConn); ok {
		size = maxUnixgram
	}
	buf := make([]byte, size)
	var control []byte
	if _, ok := c.(*net.UDPConn); ok {
		// Not of a unix socket, whose senders could pass files on, which would then stay open.
		control = make([]byte, controlBytes)
	}
	var dropped uint32
	var batch []tail.Line
	for {
		n, controlled, flags, from, err := readPacket(c, buf, control)
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded) && r.stopping.Load():
			return
		case r.stopping.Load():
			return
		default:
			r.counts.acceptErrors.Add(1)
			time.Sleep(readPause)
			continue
		}
		if n == 0 && r.stopping.Load() {
			return // a unix socket that takes no more
		}
		if d, ok := drops(control[:controlled]); ok && d != dropped {
			r.counts.kernelDrops.Add(uint64(d - dropped))
			dropped = d
		}
		if from.IsValid() && !r.allowedIP(from) {
			r.counts.refusedAddress.Add(1)
			continue
		}
		if flags&unix.MSG_TRUNC != 0 {
			r.counts.cut.Add(1) // passed on: it is seen not to be whole
		}
		batch = r.unpack(batch[:0], buf[:n])
		if len(batch) > 0 && !r.put(batch) {
			r.leaveLines(batch)
		}
		clear(batch)
	}
}

// readPacket reads one datagram. The address is not valid for unix sockets.
func readPacket(c packetConn, buf, control []byte) (n, controlled, flags int, from netip.Addr, err error) {
	switch c := c.(type) {
	case *net.UDPConn:
		var addr netip.AddrPort
		n, controlled, flags, addr, err = c.ReadMsgUDPAddrPort(buf, control)
		return n, controlled, flags, addr.Addr(), err
	case *net.UnixConn:
		n, controlled, flags, _, err = c.ReadMsgUnix(buf, control)
		return n, controlled, flags, netip.Addr{}, err
	}
	n, _, err = c.ReadFrom(buf)
	return n, 0, 0, netip.Addr{}, err
}

// unpack appends the lines of a datagram, as copies: usually one. A syslog message is one,
// too.
func (r *Receiver) unpack(lines []tail.Line, datagram []byte) []tail.Line {
	if r.config.Kind == Syslog {
		body := syslog.Body(datagram)
		return append(lines, r.line(bytes.Clone(body)))
	}
	return r.cutBody(lines, bytes.Clone(datagram))
}

// cutBody appends the lines of a text, which they share. The last one need not end in a
// line feed.
func (r *Receiver) cutBody(lines []tail.Line, text []byte) []tail.Line {
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if line = bytes.TrimSuffix(line, []byte("\r")); len(line) > 0 {
			lines = append(lines, r.line(line[:len(line):len(line)]))
		}
	}
	return lines
}

func (r *Receiver) line(data []byte) tail.Line {
	l := tail.Line{Data: data, Size: int64(len(data)), Kind: tail.Whole}
	if len(data) > r.config.MaxLine {
		l.Data, l.Kind = bytes.Clone(data[:min(tail.PrefixBytes, r.config.MaxLine)]), tail.TooLong
	}
	return l
}
