// Package device sends lines as the audit devices of Vault and OpenBao do, for tests and
// benchmarks of what receives them.
package device

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// DefaultTimeout is the write_timeout of a socket device.
const DefaultTimeout = 2 * time.Second

// Socket is a device of type "socket": it connects when it writes first, writes each line
// with one call and a deadline, and when that fails it connects once more and writes the
// whole line again. A line for which that fails, too, has failed. One line at a time;
// callers queue up, as the requests of a server do. It is safe for concurrent use.
type Socket struct {
	Network, Address string
	Timeout          time.Duration // default: DefaultTimeout

	mu     sync.Mutex
	conn   net.Conn
	dials  int
	abrupt int // writes that had to be repeated
}

// Write writes a line, which ends in a line feed. It returns when the line is written or
// has failed.
func (s *Socket) Write(line []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.write(line)
	if err == nil {
		return nil
	}
	s.abrupt++
	s.reset()
	return s.write(line)
}

func (s *Socket) write(line []byte) error {
	timeout := cmp.Or(s.Timeout, DefaultTimeout)
	if s.conn == nil {
		conn, err := net.DialTimeout(s.Network, s.Address, timeout)
		if err != nil {
			return err
		}
		s.dials++
		s.conn = conn
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(line)
	return err
}

// reset closes the connection.
func (s *Socket) reset() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// Forget leaves the connection open and silent, as a server does that is sealed or no
// longer the leader, and returns it.
func (s *Socket) Forget() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := s.conn
	s.conn = nil
	return conn
}

// Dials is how often it has connected, Repeated how many lines it wrote twice.
func (s *Socket) Dials() (dials, repeated int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials, s.abrupt
}

// Close closes the connection.
func (s *Socket) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset()
}

// HTTP is a device of type "http": it posts each line and knows no second attempt. Any
// status below 300 is success. It is safe for concurrent use.
type HTTP struct {
	URL    string
	Header http.Header
	Client *http.Client // default: one of its own
	once   sync.Once
}

// Write posts a line.
func (h *HTTP) Write(ctx context.Context, line []byte) error {
	h.once.Do(func() {
		if h.Client == nil {
			h.Client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2}}
		}
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(line))
	if err != nil {
		return err
	}
	for name, values := range h.Header {
		request.Header[name] = values
	}
	response, err := h.Client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() // unread, as the device leaves it
	if response.StatusCode >= 300 {
		return fmt.Errorf("status %d: %s", response.StatusCode, response.Header.Get("Tocsin-Reason"))
	}
	return nil
}

// Entry makes the line of an audit entry whose request has the number n, which is in its
// id, of about so many bytes.
func Entry(n uint64, size int) []byte {
	line := fmt.Appendf(nil, `{"time":%q,"type":"request","auth":{"token_type":"service"},"request":{"id":"%s","operation":"read","mount_type":"system",`+
		`"namespace":{"id":"root"},"path":"sys/load/%d","data":{"pad":"`, time.Now().UTC().Format(time.RFC3339Nano), ID(n), n)
	for len(line) < size-6 {
		line = append(line, 'x')
	}
	return append(line, `"}}}`+"\n"...)
}

// ID is the request id of an entry.
func ID(n uint64) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", n>>48, n&(1<<48-1)) }

// Number is the number of the entry with a request id.
func Number(id string) (n uint64, ok bool) {
	var high, low uint64
	if _, err := fmt.Sscanf(id, "%08x-0000-4000-8000-%012x", &high, &low); err != nil {
		return 0, false
	}
	return high<<48 | low, true
}
