package receiver

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/systemd"
	"github.com/tocsin-events/tocsin/internal/systemd/systemdtest"
	"github.com/tocsin-events/tocsin/test/device"
)

// writers are devices that write numbered lines until they are told to stop.
type writers struct {
	t        testing.TB
	accepted []map[int]bool // by device: the lines whose write succeeded
	failed   atomic.Int64
	stop     chan struct{}
	running  sync.WaitGroup
	count    atomic.Int64
}

func startWriters(t testing.TB, network, address string, n int, pad func(int) int) *writers {
	w := &writers{t: t, stop: make(chan struct{})}
	for i := range n {
		accepted := make(map[int]bool)
		w.accepted = append(w.accepted, accepted)
		w.running.Go(func() {
			d := &device.Socket{Network: network, Address: address}
			defer d.Close()
			for line := 0; ; line++ {
				select {
				case <-w.stop:
					return
				default:
				}
				if err := d.Write(fmt.Appendf(nil, "%d-%d %s\n", i, line, bytes.Repeat([]byte("x"), pad(line)))); err != nil {
					w.failed.Add(1)
					time.Sleep(100 * time.Microsecond)
					continue
				}
				accepted[line] = true
				w.count.Add(1)
			}
		})
	}
	return w
}

func (w *writers) end() {
	close(w.stop)
	w.running.Wait()
}

// check looks whether every line that was accepted came.
func (w *writers) check(got []string) {
	w.t.Helper()
	seen := make(map[string]int)
	for _, line := range got {
		number, pad, ok := strings.Cut(line, " ")
		if !ok || strings.Trim(pad, "x") != "" {
			w.t.Errorf("not a line that was sent: %.100q", line)
		}
		seen[number]++
	}
	missing, total := 0, 0
	for i, accepted := range w.accepted {
		for line := range accepted {
			total++
			if seen[fmt.Sprintf("%d-%d", i, line)] == 0 {
				missing++
			}
		}
	}
	if missing > 0 {
		w.t.Errorf("%d of %d accepted lines are missing", missing, total)
	}
	if total == 0 {
		w.t.Error("nothing was accepted")
	}
}

// small and large lines: 100 bytes, and now and then 300 KB, which takes many reads and
// writes.
func mixed(line int) int {
	if line%50 == 49 {
		return 300_000
	}
	return 100
}

// Devices write while a receiver on a unix socket of its own ends: what they got rid of is
// there.
func TestEndOnUnixSocketLosesNothing(t *testing.T) {
	for range 10 {
		m := newMemory()
		c := unixConfig(t)
		r, err := Listen(c, Deps{Inbox: m})
		if err != nil {
			t.Fatal(err)
		}
		r.Start()
		w := startWriters(t, "unix", c.Address, 4, mixed)
		m.await(t, 500)
		stop(t, r)
		w.end()
		w.check(m.all())
	}
}

// generations are receivers that follow each other on a socket that systemd holds.
type generations struct {
	t       testing.TB
	m       *systemdtest.Manager
	c       Config
	inbox   *memory
	current *Receiver
	ended   []Stats
}

func newGenerations(t testing.TB, network string, store int) *generations {
	t.Helper()
	g := &generations{t: t, m: systemdtest.New(t, store), inbox: newMemory()}
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(shortDir(t), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if l, ok := l.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(false)
	}
	g.c = Config{Name: "vault", Kind: Socket, Network: network, Address: l.Addr().String(), Dir: t.TempDir()}
	g.m.Hold("audit", l.(fileListener))
	l.Close()
	t.Cleanup(func() {
		if g.current != nil {
			stop(t, g.current)
		}
	})
	return g
}

type fileListener interface {
	net.Listener
	systemdtest.Socket
}

func (g *generations) start() {
	g.t.Helper()
	const first = 700
	s, err := systemd.FromVariables(g.m.Variables(first), first)
	if err != nil {
		g.t.Fatal(err)
	}
	if g.current, err = Listen(g.c, Deps{Inbox: g.inbox, Systemd: s}); err != nil {
		g.t.Fatal(err)
	}
	g.current.Start()
	if unused, err := s.CloseUnused(); len(unused) > 0 || err != nil {
		g.t.Errorf("not used: %v, %v", unused, err)
	}
}

func (g *generations) stop() {
	g.t.Helper()
	stop(g.t, g.current)
	g.ended = append(g.ended, g.current.Stats())
	g.current = nil
}

// Devices write while one receiver follows another: no line that was accepted is lost, and
// with systemd's store no connection of tcp is closed and no write to it fails.
func TestSuccessors(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			g := newGenerations(t, network, 100)
			g.start()
			w := startWriters(t, network, g.c.Address, 4, mixed)
			for range 8 {
				before := w.count.Load()
				until(t, "the devices write", func() bool { return w.count.Load() > before+300 })
				g.stop()
				g.start()
			}
			before := w.count.Load()
			until(t, "the devices write", func() bool { return w.count.Load() > before+300 })
			w.end()
			until(t, "all is read", func() bool { return g.current.Stats().Open == 0 })
			g.stop()
			w.check(g.inbox.all())
			// On a unix socket a large line may meet two ends in a row; the device knows.
			if n := w.failed.Load(); n > 0 && network == "tcp" {
				t.Errorf("%d writes failed", n)
			}
			var all Stats
			for _, s := range g.ended {
				all.Torn += s.Torn
				all.TakenOver += s.TakenOver
				all.Connections += s.Connections
			}
			t.Logf("%d lines, %+v", w.count.Load(), all)
			if network == "tcp" && (all.Connections-all.TakenOver != 4 || all.TakenOver < 4*6 || all.Torn != 0) {
				t.Errorf("%d connections were taken over, %d lines torn", all.TakenOver, all.Torn)
			}
		})
	}
}

// A line that one receiver has read half of is completed by the next one, at every byte.
func TestLineOverTwoReceivers(t *testing.T) {
	g := newGenerations(t, "tcp", 100)
	line := "a line\n"
	g.start()
	conn, err := net.Dial("tcp", g.c.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := 0
	for i := range line {
		send(t, conn, "whole\n"+line[:i])
		want++
		g.inbox.await(t, want)
		g.stop()
		g.start()
		send(t, conn, line[i:])
		want++
		g.inbox.await(t, want)
	}
	for i, got := range g.inbox.all() {
		if got != []string{"whole", "a line"}[i%2] {
			t.Errorf("line %d is %q", i, got)
		}
	}
	if names := g.m.Stored(); len(names) != 1 {
		t.Errorf("stored: %v", names)
	}
	conn.Close()
	until(t, "the store is empty", func() bool { return len(g.m.Stored()) == 0 })
}

// Without the store, a tcp connection is read until it is quiet.
func TestEndOnTCP(t *testing.T) {
	m := newMemory()
	r := open(t, tcpConfig(), Deps{Inbox: m})
	conn := dial(t, r)
	const n = 5000
	send(t, conn, strings.Repeat("a line that was sent before the end\n", n)+"and the beginning of one")
	stop(t, r)
	if got := len(m.all()); got != n {
		t.Errorf("%d lines, want %d", got, n)
	}
	if s := r.Stats(); s.Torn != 1 {
		t.Errorf("stats %+v", s)
	}
}

// What the inbox does not take before the end is there for the successor.
func TestEndWhileTheInboxIsFull(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			g := newGenerations(t, network, 100)
			g.inbox.blocked = make(chan struct{})
			g.start()
			conn, err := net.Dial(network, g.c.Address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			send(t, conn, "one\ntwo\nthr")
			until(t, "the line was read", func() bool { return g.current.Stats().Connections == 1 })
			time.Sleep(10 * time.Millisecond) // it may be read or not: both must work
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			g.current.Stop(ctx)
			g.current = nil
			g.inbox.mu.Lock()
			g.inbox.blocked = nil
			g.inbox.mu.Unlock()
			g.start()
			want := []string{"one", "two"}
			if network == "tcp" {
				send(t, conn, "ee\n")
				want = append(want, "three")
			}
			if got := g.inbox.await(t, len(want)); !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// A connection that is stored, but may not send any more, is closed.
func TestStoredConnectionOfOthers(t *testing.T) {
	g := newGenerations(t, "tcp", 100)
	g.start()
	conn, err := net.Dial("tcp", g.c.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send(t, conn, "hello\n")
	g.inbox.await(t, 1)
	g.stop()
	g.c.Allow = prefixes(t, "10.0.0.0/8")
	g.start()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("not closed: %v", err)
	}
	until(t, "the store is empty", func() bool { return len(g.m.Stored()) == 0 })
}

// Datagrams that come while nobody reads wait for the successor.
func TestDatagramsOverTwoReceivers(t *testing.T) {
	g := &generations{t: t, m: systemdtest.New(t, 0), inbox: newMemory()}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.c = Config{Name: "vault", Kind: Socket, Network: "systemd", Address: "audit"}
	g.m.Hold("audit", c.(*net.UDPConn))
	address := c.LocalAddr().String()
	c.Close()
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 5 {
		g.start()
		send(t, conn, "while it reads\n")
		g.inbox.await(t, 2*i+1)
		g.stop()
		send(t, conn, "while nobody reads\n")
	}
	g.start()
	g.inbox.await(t, 10)
	g.stop()
}

// A receiver of datagrams ends although its inbox is full and makes senders wait, and what
// it has read is there for the successor, once.
func TestEndOfDatagramsWhileTheInboxIsFull(t *testing.T) {
	dir := t.TempDir()
	m := newMemory()
	m.blocked = make(chan struct{})
	c := Config{Name: "vault", Kind: Socket, Network: "udp", Address: "127.0.0.1:0", Dir: dir}
	r := open(t, c, Deps{Inbox: m})
	conn := dial(t, r)
	send(t, conn, "one\n\ntwo\n")
	until(t, "it waits", func() bool { return m.waiting.Load() > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ended := make(chan struct{})
	go func() { r.Stop(ctx); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		close(m.blocked)
		t.Fatal("it does not end")
	}
	m.blocked = nil
	next := open(t, c, Deps{Inbox: m})
	m.await(t, 2)
	stop(t, next)
	if got := m.all(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %q", got)
	}
}
