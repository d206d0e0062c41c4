package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// pipe is both ends of a connection with small buffers.
func pipe(t *testing.T, network string) (server *Conn, client net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = t.TempDir() + "/socket"
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial(network, ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(16 << 10)
	client.(interface{ SetReadBuffer(int) error }).SetReadBuffer(16 << 10)
	t.Cleanup(func() { conn.Close(); client.Close() })
	return NewConn(conn, 0), client
}

// counted are attempts that are refused after some.
type counted struct {
	most, begun, ended int
	word               atomic.Uint64
}

const underWay = 4

func (c *counted) Begin() bool {
	if c.begun == c.most {
		return false
	}
	c.begun++
	c.word.Or(underWay)
	return true
}

func (c *counted) End(word uint64) {
	if c.ended++; c.ended != c.begun || word != 1|underWay || c.word.Load() != 1 {
		panic(fmt.Sprintf("end %d of %d, %b, then %b", c.ended, c.begun, word, c.word.Load()))
	}
}

func (c *counted) write(conn *Conn, buffers [][]byte) (int, error) {
	c.word.Store(1) // of no concern
	return conn.WriteAttempts(buffers, c, &c.word, underWay)
}

// parts are n buffers of different contents and lengths, the first empty.
func parts(n int) (v [][]byte) {
	for i := range n {
		v = append(v, bytes.Repeat([]byte{byte(i)}, i*37%5000))
	}
	return v
}

func TestWriteAttempts(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, n := range []int{1, 2, 64, 500, 3000} { // beyond what the kernel takes at once
			server, client := pipe(t, network)
			want := bytes.Join(parts(n), nil)
			got := make(chan []byte, 1)
			go func() {
				b := make([]byte, len(want))
				io.ReadFull(client, b)
				got <- b
			}()
			a := &counted{most: 1 << 30}
			if k, err := a.write(server, parts(n)); k != len(want) || err != nil {
				t.Fatalf("%s, %d buffers: %d of %d bytes, %v", network, n, k, len(want), err)
			}
			if !bytes.Equal(<-got, want) {
				t.Errorf("%s, %d buffers: the bytes differ", network, n)
			}
			if (a.begun == 0) != (len(want) == 0) || a.begun != a.ended {
				t.Errorf("%s, %d buffers: %d attempts were begun and %d ended", network, n, a.begun, a.ended)
			}
		}
	}
}

// TestWriteAttemptsStopped: a write that is stopped or interrupted says how much
// was sent, and nothing more is.
func TestWriteAttemptsStopped(t *testing.T) {
	const total = 4 << 20
	for _, tt := range []struct {
		name string
		most int
		want error
	}{
		{"at once", 0, ErrStopped},
		{"after the first attempt", 1, ErrStopped},
		{"by its deadline", 1 << 30, os.ErrDeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, client := pipe(t, "tcp")
			if tt.most > 1 {
				server.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			}
			a := &counted{most: tt.most}
			n, err := a.write(server, [][]byte{make([]byte, total)})
			if !errors.Is(err, tt.want) || n >= total || (n == 0) != (tt.most == 0) || a.begun != a.ended {
				t.Errorf("%d bytes, %v, %d attempts begun and %d ended", n, err, a.begun, a.ended)
			}
			server.Close()
			if rest, err := io.ReadAll(client); len(rest) != n || err != nil {
				t.Errorf("%d bytes came, %d were sent: %v", len(rest), n, err)
			}
		})
	}
}

func TestWriteAttemptsFails(t *testing.T) {
	server, client := pipe(t, "tcp")
	client.Close()
	for range 100 {
		a := &counted{most: 1 << 30}
		if _, err := a.write(server, [][]byte{make([]byte, 100)}); err != nil {
			if a.begun != a.ended || errors.Is(err, ErrStopped) {
				t.Errorf("%v after %d attempts begun and %d ended", err, a.begun, a.ended)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("writing to a peer that is gone never fails")
}
