package receiver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tocsin-events/tocsin/internal/systemd"
	"github.com/tocsin-events/tocsin/internal/systemd/systemdtest"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// streams makes a stream of each kind.
var streams = map[string]func(io.Reader) stream{
	"lines":  func(from io.Reader) stream { return newLines(from, tail.DefaultMaxLine, nil) },
	"syslog": func(from io.Reader) stream { return newMessages(from, tail.DefaultMaxLine, nil) },
}

// silentAfter is a sender that says hardly any more after some text.
type silentAfter struct {
	text    *bytes.Reader
	reached bool
}

func (s *silentAfter) Read(b []byte) (int, error) {
	if s.text.Len() == 0 {
		s.reached = true
		return copy(b, "b\n"), nil
	}
	return s.text.Read(b)
}

// TestManyShortLines shows that a stream does not hold on to memory for as many lines as
// it had at once: there may be a thousand connections.
func TestManyShortLines(t *testing.T) {
	const connections = 4
	text := bytes.Repeat([]byte("a\n"), 1<<20)
	for name, open := range streams {
		t.Run(name, func(t *testing.T) {
			before := heap()
			var all []stream
			for range connections {
				from := &silentAfter{text: bytes.NewReader(text)}
				s := open(from)
				for begin := time.Now(); !from.reached; {
					if _, err := s.next(); err != nil {
						t.Fatal(err)
					}
					if time.Since(begin) > time.Minute {
						t.Fatal("2 MiB of short lines take more than a minute")
					}
				}
				all = append(all, s)
			}
			if each := (heap() - before) / connections; each > 2<<20 {
				t.Errorf("a silent connection holds %d bytes", each)
			}
			for _, s := range all {
				s.rest()
			}
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestBodyOfShortLines shows that the memory for lines counts, not only that for bytes.
func TestBodyOfShortLines(t *testing.T) {
	c := httpConfig()
	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	conn := dial(t, r)
	text := strings.Repeat("a\n", maxBodyLines+1)
	send(t, conn, fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(text), text))
	if response := answer(t, bufio.NewReader(conn)); response.StatusCode != 413 {
		t.Errorf("answer %s", response.Status)
	}
	if n := len(m.all()); n > 0 {
		t.Errorf("%d lines were taken", n)
	}
	until(t, "the memory is given back", func() bool { return r.http.bodies.Load() == 0 })
}

// TestEarlyShortLines shows the same for what comes before there is an inbox.
func TestEarlyShortLines(t *testing.T) {
	r, err := Listen(unixConfig(t), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	lines := make([]tail.Line, 10_000)
	for i := range lines {
		lines[i] = tail.Line{Data: []byte("a"), Size: 1}
	}
	ctx, cancel := context.WithCancel(t.Context())
	for range 100 {
		if r.target.bytes >= earlyBytes {
			break
		}
		if err := r.target.put(ctx, lines); err != nil {
			t.Fatal(err)
		}
	}
	if size := int64(len(r.target.early)) * lineMemory; size > 2*earlyBytes {
		t.Errorf("%d bytes of memory are taken", size)
	}
	cancel()
	if err := r.target.put(ctx, lines); err == nil {
		t.Error("more lines are taken")
	}
	r.target.early = nil
	stop(t, r)
}

// TestPassedFiles shows that a sender cannot make the hub run out of file descriptors by
// passing files on.
func TestPassedFiles(t *testing.T) {
	c := unixConfig(t)
	c.Network = "unixgram"
	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	conn := dial(t, r).(*net.UnixConn)
	passed, err := os.Open(filepath.Join("testdata", "."))
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	const times = 50
	for i := range times {
		raw.Write(func(fd uintptr) bool {
			err = unix.Sendmsg(int(fd), []byte("hello"), unix.UnixRights(int(passed.Fd())), nil, 0)
			return err != unix.EAGAIN
		})
		if err != nil {
			t.Fatal(err)
		}
		m.await(t, i+1)
	}
	if after := openFiles(t); after > before+times/2 {
		t.Errorf("%d files are open, before %d datagrams it were %d", after, times, before)
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

// TestWebPages shows that no page makes the browser of this machine send entries, to
// whatever it can connect to.
func TestWebPages(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://attacker.example\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\n{\"a\":1}\n"
	for _, kind := range []Kind{Socket, Syslog, HTTP} {
		t.Run(string(kind), func(t *testing.T) {
			c := tcpConfig()
			c.Kind = kind
			m := newMemory()
			r := open(t, c, Deps{Inbox: m})
			conn := dial(t, r)
			send(t, conn, post)
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			if kind == HTTP {
				if response := answer(t, bufio.NewReader(conn)); response.StatusCode != 403 {
					t.Errorf("answer %s", response.Status)
				}
			} else {
				// Reset, as not all was read.
				if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
					t.Errorf("read: %v", err)
				}
				until(t, "it is counted", func() bool { return r.Stats().WebRequests == 1 })
			}
			if got := m.all(); len(got) > 0 {
				t.Errorf("got %q", got)
			}
			// The entry of a server that looks a little like it comes in.
			if kind != HTTP {
				server := dial(t, r)
				want := `{"request":"POST / HTTP/1.1"}`
				send(t, server, want+"\n")
				if got := m.await(t, 1); !slices.Equal(got, []string{want}) {
					t.Errorf("got %q", got)
				}
			}
		})
	}
}

// TestStrangersDoNotPushOut shows that whoever does not know the secret cannot make the
// hub close the connections of those who do: the device would count that as a failure.
func TestStrangersDoNotPushOut(t *testing.T) {
	c := httpConfig()
	secret("", "hush")(&c, nil)
	c.MaxConnections = 3
	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	server := dial(t, r)
	answers := bufio.NewReader(server)
	request := "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hush\r\nContent-Length: 3\r\n\r\none"
	send(t, server, request)
	if response := answer(t, answers); response.StatusCode != 204 {
		t.Fatalf("answer %s", response.Status)
	}
	for i := range 10 {
		send(t, dial(t, r), "POST / HTTP/1.1\r\n")
		until(t, "it is accepted", func() bool { return r.Stats().Connections == uint64(i+2) })
	}
	send(t, server, request)
	if response := answer(t, answers); response.StatusCode != 204 {
		t.Errorf("answer %s", response.Status)
	}
	if s := r.Stats(); s.Evicted != 8 {
		t.Errorf("stats %+v", s)
	}
}

// TestSystemdSocketForEverybody shows that a socket of systemd, whose address stands in no
// configuration, is not open to other machines by mistake.
func TestSystemdSocketForEverybody(t *testing.T) {
	for name, test := range map[string]struct {
		address string
		change  func(*Config)
		ok      bool
	}{
		"loopback":            {"127.0.0.1:0", func(*Config) {}, true},
		"everywhere":          {"0.0.0.0:0", func(*Config) {}, false},
		"everywhere, IPv6":    {"[::]:0", func(*Config) {}, false},
		"some may":            {"0.0.0.0:0", func(c *Config) { c.Allow = prefixes(t, "10.0.0.0/8") }, true},
		"with certificates":   {"0.0.0.0:0", func(c *Config) { c.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert} }, true},
		"HTTP with a secret":  {"0.0.0.0:0", func(c *Config) { secret("", "hush")(c, nil); c.Kind = HTTP }, true},
		"HTTP without secret": {"0.0.0.0:0", func(c *Config) { c.Kind = HTTP }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", test.address)
			if err != nil {
				t.Skip(err)
			}
			m := systemdtest.New(t, 0)
			m.Hold("audit", l.(fileListener))
			l.Close()
			const first = 700
			s, err := systemd.FromVariables(m.Variables(first), first)
			if err != nil {
				t.Fatal(err)
			}
			c := Config{Name: "vault", Kind: Socket, Network: "systemd", Address: "audit"}
			test.change(&c)
			r, err := Listen(c, Deps{Inbox: newMemory(), Systemd: s})
			if (err == nil) != test.ok {
				t.Fatalf("Listen: %v", err)
			}
			if err == nil {
				r.Start()
				stop(t, r)
			}
		})
	}
}

// TestModeOfALink shows that the permissions of a socket are not given to the file that
// somebody put in its place.
func TestModeOfALink(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no system call for it")
	}
	dir := shortDir(t)
	victim, link := filepath.Join(dir, "victim"), filepath.Join(dir, "s")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, victim} {
		if err := setMode(path, 0o666); err == nil {
			t.Errorf("%s got permissions", path)
		}
	}
	if info, err := os.Stat(victim); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
