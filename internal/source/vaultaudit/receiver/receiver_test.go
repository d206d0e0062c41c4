package receiver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/tail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is an inbox that keeps everything.
type memory struct {
	mu      sync.Mutex
	changed chan struct{}
	lines   []tail.Line
	full    bool          // drops
	blocked chan struct{} // not nil: Put waits for it
	durable chan struct{} // not nil: Durable waits for it
	waiting atomic.Int32  // Puts
}

func newMemory() *memory { return &memory{changed: make(chan struct{})} }

func (m *memory) Put(ctx context.Context, lines []tail.Line) (inbox.Position, error) {
	m.mu.Lock()
	blocked, full := m.blocked, m.full
	m.mu.Unlock()
	if blocked != nil {
		m.waiting.Add(1)
		defer m.waiting.Add(-1)
		select {
		case <-blocked:
		case <-ctx.Done():
			return inbox.Position{}, ctx.Err()
		}
	}
	if full {
		return inbox.Position{}, fmt.Errorf("%w: test", inbox.ErrFull)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, lines...)
	close(m.changed)
	m.changed = make(chan struct{})
	return inbox.Position{}, nil
}

func (m *memory) Durable(ctx context.Context, _ inbox.Position) error {
	if m.durable == nil {
		return nil
	}
	select {
	case <-m.durable:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await waits until there are n lines and returns them.
func (m *memory) await(t testing.TB, n int) []string {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		m.mu.Lock()
		changed, lines := m.changed, m.lines
		m.mu.Unlock()
		if len(lines) >= n {
			return text(lines)
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%d lines, want %d: %.300q", len(lines), n, text(lines))
		}
	}
}

func (m *memory) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return text(m.lines)
}

func (m *memory) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = nil
}

func text(lines []tail.Line) (all []string) {
	for _, l := range lines {
		s := string(l.Data)
		if l.Kind == tail.TooLong {
			s = fmt.Sprintf("too long: %d", l.Size)
		}
		all = append(all, s)
	}
	return all
}

// shortDir is a directory whose path leaves room for the name of a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// unixConfig is a receiver on a unix socket.
func unixConfig(t testing.TB) Config {
	return Config{Name: "vault", Kind: Socket, Network: "unix", Address: filepath.Join(shortDir(t), "s")}
}

func tcpConfig() Config {
	return Config{Name: "vault", Kind: Socket, Network: "tcp", Address: "127.0.0.1:0"}
}

// open starts a receiver that the test stops, or that ends with it.
func open(t testing.TB, c Config, d Deps) *Receiver {
	t.Helper()
	r, err := Listen(c, d)
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() { stop(t, r) })
	return r
}

func stop(t testing.TB, r *Receiver) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func dial(t testing.TB, r *Receiver) net.Conn {
	t.Helper()
	conn, err := net.Dial(r.Addr().Network(), r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t testing.TB, conn io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func recorded(t testing.TB) (raw []byte, lines []string) {
	t.Helper()
	raw, err := os.ReadFile("testdata/openbao-socket-first20.raw")
	if err != nil {
		t.Fatal(err)
	}
	return raw, strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
}

// twoReads returns what it has in two reads.
type twoReads struct{ first, second []byte }

func (r *twoReads) Read(b []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(b, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	if len(r.second) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.second)
	r.second = r.second[n:]
	return n, nil
}

// What a server has sent is the same however it is cut into reads.
func TestRecordedSocketInTwoReads(t *testing.T) {
	raw, want := recorded(t)
	for i := range raw {
		l := newLines(&twoReads{raw[:i], raw[i:]}, tail.DefaultMaxLine, nil)
		var got []string
		for {
			batch, err := l.next()
			got = append(got, text(batch)...)
			if err != nil {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("cut at %d: %d lines, want %d", i, len(got), len(want))
		}
		if rest, _ := l.rest(); !rest.empty() {
			t.Fatalf("cut at %d: a rest of %d bytes", i, len(rest.Rest.Data))
		}
	}
}

// The same through sockets, each time over a new connection, among them one that ends in
// the middle of a line, which comes again as a whole.
func TestRecordedSocket(t *testing.T) {
	raw, want := recorded(t)
	for name, c := range map[string]Config{"unix": unixConfig(t), "tcp": tcpConfig()} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			r := open(t, c, Deps{Inbox: m})
			var torn, conns uint64
			for i := 1; i < len(raw); i += 41 {
				m.reset()
				begun := bytes.LastIndexByte(raw[:i], '\n') + 1
				conn := dial(t, r)
				send(t, conn, string(raw[:i]))
				conn.Close()
				if begun < i {
					torn++
				}
				conns += 2
				until(t, "the end of the connection", func() bool {
					s := r.Stats()
					return s.Connections == conns-1 && s.Open == 0
				})
				conn = dial(t, r)
				send(t, conn, string(raw[begun:]))
				if got := m.await(t, len(want)); !slices.Equal(got, want) {
					t.Fatalf("cut at %d: %d lines, want %d", i, len(got), len(want))
				}
				conn.Close()
				until(t, "the end of the connection", func() bool { return r.Stats().Open == 0 })
			}
			if s := r.Stats(); s.Torn != torn || torn == 0 {
				t.Errorf("%d torn lines, want %d", s.Torn, torn)
			}
		})
	}
}

func TestManyConnections(t *testing.T) {
	m := newMemory()
	r := open(t, unixConfig(t), Deps{Inbox: m})
	old := dial(t, r)
	send(t, old, "old\n")
	var sending sync.WaitGroup
	for i := range 50 {
		sending.Go(func() {
			conn, err := net.Dial("unix", r.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			w := bufio.NewWriterSize(conn, 100+i)
			for n := range 200 {
				fmt.Fprintf(w, "%d-%d %s\n", i, n, strings.Repeat("x", n))
			}
			w.Flush()
		})
	}
	sending.Wait()
	send(t, old, "old is still open\n")
	got := m.await(t, 50*200+2)
	slices.Sort(got)
	if n := len(slices.Compact(got)); n != 50*200+2 {
		t.Errorf("%d different lines", n)
	}
	if s := r.Stats(); s.Connections != 51 || s.Lines != 50*200+2 || s.Torn != 0 {
		t.Errorf("stats %+v", s)
	}
}

// When there are too many connections, the one that was silent longest is closed; what it
// wrote is not lost.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	c := unixConfig(t)
	c.MaxConnections = 3
	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	var conns []net.Conn
	for i := range 3 {
		conns = append(conns, dial(t, r))
		send(t, conns[i], fmt.Sprintf("hello %d\n", i))
		m.await(t, i+1)
	}
	send(t, conns[0], "again\n")
	m.await(t, 4)
	fourth := dial(t, r)
	send(t, fourth, "hello 3\n")
	m.await(t, 5)
	until(t, "the second connection is refused", func() bool {
		_, err := conns[1].Write([]byte("is it open?\n"))
		return err != nil
	})
	send(t, conns[0], "first\n")
	send(t, conns[2], "third\n")
	m.await(t, 7)
	if s := r.Stats(); s.Evicted != 1 || s.Open != 3 {
		t.Errorf("stats %+v", s)
	}
}

func TestLongLines(t *testing.T) {
	c := unixConfig(t)
	c.MaxLine = 1 << 20
	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	conn := dial(t, r)
	most := strings.Repeat("m", 1<<20)
	send(t, conn, "\r\n\n"+most+"\n"+most+"m\nshort\r\n")
	want := []string{most, fmt.Sprintf("too long: %d", 1<<20+1), "short"}
	if got := m.await(t, 3); !slices.Equal(got, want) {
		t.Errorf("got %.100q", got)
	}
	if s := r.Stats(); s.TooLong != 1 || s.Open != 1 || s.Lines != 3 {
		t.Errorf("stats %+v", s)
	}
}

// Lines that do not end take bounded memory, however many connections send them.
func TestLongLinesTogether(t *testing.T) {
	c := unixConfig(t)
	c.MaxLine = 2 << 20 // all together: 72 MiB
	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	piece := strings.Repeat("x", 2<<20)
	for i := range 60 {
		conn := dial(t, r)
		if _, err := io.WriteString(conn, piece); err != nil {
			break
		}
		if i == 59 {
			until(t, "a connection is refused", func() bool { return r.Stats().RefusedMemory > 0 })
		}
	}
	if s := r.Stats(); s.RefusedMemory == 0 || s.Torn == 0 {
		t.Errorf("stats %+v", s)
	}
	ok := dial(t, r)
	send(t, ok, "hello\n")
	m.await(t, 1)
}

func TestAllow(t *testing.T) {
	for _, test := range []struct {
		networks []string
		ok       bool
	}{{nil, true}, {[]string{"10.0.0.0/8"}, false}, {[]string{"10.0.0.0/8", "127.0.0.0/8"}, true}} {
		c := tcpConfig()
		c.Allow = prefixes(t, test.networks...)
		m := newMemory()
		r := open(t, c, Deps{Inbox: m})
		conn := dial(t, r)
		if test.ok {
			send(t, conn, "hello\n")
			m.await(t, 1)
			continue
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%v: not closed", test.networks)
		}
		if s := r.Stats(); s.RefusedAddress != 1 || s.Connections != 0 {
			t.Errorf("stats %+v", s)
		}
	}
}

// recordedDatagrams are as a server sent them.
func recordedDatagrams(t *testing.T) (all []string) {
	t.Helper()
	raw, err := os.ReadFile("testdata/openbao-udp-first3.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(raw) {
		var r struct{ Datagram string }
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r.Datagram)
	}
	return all
}

func TestDatagrams(t *testing.T) {
	for name, c := range map[string]Config{
		"udp":      {Name: "vault", Kind: Socket, Network: "udp", Address: "127.0.0.1:0"},
		"unixgram": {Name: "vault", Kind: Socket, Network: "unixgram", Address: filepath.Join(shortDir(t), "s")},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			r := open(t, c, Deps{Inbox: m})
			conn := dial(t, r)
			want := 0
			for _, d := range recordedDatagrams(t) {
				for i := 1; i <= len(d); i += 3 { // as a sender that cuts it
					m.reset()
					send(t, conn, d[:i])
					if got := m.await(t, 1); got[0] != strings.TrimSuffix(d[:i], "\n") {
						t.Fatalf("%d bytes came as %q", i, got)
					}
					want++
				}
			}
			m.reset()
			send(t, conn, "one\ntwo\n")
			if got := m.await(t, 2); !slices.Equal(got, []string{"one", "two"}) {
				t.Errorf("two lines came as %q", got)
			}
			if s := r.Stats(); s.Lines != uint64(want+2) || s.Cut != 0 || s.KernelDrops != 0 {
				t.Errorf("stats %+v, want %d lines", s, want+2)
			}
		})
	}
}

func TestSyslog(t *testing.T) {
	const message = `<38>Nov 21 01:49:29 openbao[29483]: {"type":"request"}`
	for name, test := range map[string]struct {
		network, sent string
		want          int
	}{
		"udp":                 {"udp", message + "\n", 1},
		"unixgram":            {"unixgram", message, 1},
		"tcp, line feeds":     {"tcp", message + "\n" + message + "\n", 2},
		"unix, octet-counted": {"unix", strings.Repeat(fmt.Sprintf("%d %s", len(message), message), 2), 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Name: "vault", Kind: Syslog, Network: test.network, Address: "127.0.0.1:0"}
			if strings.HasPrefix(test.network, "unix") {
				c.Address = filepath.Join(shortDir(t), "s")
			}
			m := newMemory()
			r := open(t, c, Deps{Inbox: m})
			conn := dial(t, r)
			send(t, conn, test.sent)
			for _, got := range m.await(t, test.want) {
				if got != `{"type":"request"}` {
					t.Errorf("got %q", got)
				}
			}
		})
	}
}

func TestUnixFile(t *testing.T) {
	c := unixConfig(t)
	c.File = File{Mode: 0o640, Owner: fmt.Sprint(os.Getuid()), Group: fmt.Sprint(os.Getgid())}
	// A socket that nobody listens on.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.Address, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()

	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	if info, err := os.Lstat(c.Address); err != nil || info.Mode() != os.ModeSocket|0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(c, Deps{Inbox: m}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second receiver on a live socket: %v", err)
	}
	send(t, dial(t, r), "still alive\n")
	m.await(t, 1)
	if err := r.Health(); err != nil {
		t.Error(err)
	}
	os.Rename(c.Address, c.Address+".old")
	if err := r.Health(); err == nil || !strings.Contains(err.Error(), "removed or replaced") {
		t.Errorf("without its file: %v", err)
	}
	os.Rename(c.Address+".old", c.Address)
	stop(t, r)
	if _, err := os.Lstat(c.Address); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// Nobody may connect to the file before it has its permissions.
func TestUnixFileHasNoWindow(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "s")
	l := net.ListenConfig{Control: controlOf(func() {})}
	raw, err := l.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0 {
		t.Errorf("right after bind the permissions are %v (%v)", info.Mode(), err)
	}
}

func TestFileOfASuccessorStays(t *testing.T) {
	c := unixConfig(t)
	first := open(t, c, Deps{Inbox: newMemory()})
	os.Remove(c.Address) // somebody has cleaned up
	open(t, c, Deps{Inbox: newMemory()})
	stop(t, first)
	if _, err := os.Lstat(c.Address); err != nil {
		t.Errorf("the file of the second receiver was removed: %v", err)
	}
}

func TestWrongPlaces(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, c := range map[string]Config{
		"a file":        {Network: "unix", Address: file},
		"unknown owner": {Network: "unix", Address: filepath.Join(dir, "s"), File: File{Owner: "nobody-has-this-name"}},
		"in use":        {Network: "tcp", Address: l.Addr().String()},
	} {
		c.Name, c.Kind = "vault", Socket
		if _, err := Listen(c, Deps{Inbox: newMemory()}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if text, err := os.ReadFile(file); string(text) != "precious" {
		t.Errorf("the file was changed: %q, %v", text, err)
	}
}

// What may go away by itself is tried again.
func TestDirectoryIsMissing(t *testing.T) {
	c := unixConfig(t)
	dir := filepath.Join(filepath.Dir(c.Address), "later")
	c.Address = filepath.Join(dir, "s")
	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	if err := r.Health(); err == nil || !strings.Contains(err.Error(), "RuntimeDirectory=") {
		t.Errorf("health: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	until(t, "the receiver listens", func() bool { return r.Health() == nil })
	send(t, dial(t, r), "hello\n")
	m.await(t, 1)

	c.Address = filepath.Join(dir, "never", "s")
	stop(t, open(t, c, Deps{Inbox: m})) // while it is trying
}
