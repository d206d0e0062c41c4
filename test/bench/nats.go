package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startNATS runs an embedded nats-server and connects to it in process.
func startNATS(o *server.Options) (*nats.Conn, *server.Server, error) {
	o.NoSigs, o.NoLog = true, true
	s, err := server.NewServer(o)
	if err != nil {
		return nil, nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return nil, nil, errors.New("nats-server did not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		s.Shutdown()
		return nil, nil, err
	}
	return nc, s, nil
}

// jetStreamAppend publishes events one message each and counts those that were
// acknowledged. With sync, the server acknowledges after fsync; window is the
// number of publications that are outstanding.
func jetStreamAppend(ctx context.Context, dir string, sync bool, window int) (_ turn, done func(), err error) {
	store, err := os.MkdirTemp(dir, "jetstream")
	if err != nil {
		return nil, nil, err
	}
	nc, s, err := startNATS(&server.Options{JetStream: true, StoreDir: store, SyncAlways: sync, DontListen: true})
	if err != nil {
		return nil, nil, err
	}
	done = func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
		os.RemoveAll(store)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window))
	if err == nil {
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "BENCH", Subjects: []string{"bench"}, Storage: jetstream.FileStorage})
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	body := noise(eventBytes)
	work := func(d time.Duration) (n float64, err error) {
		for start := time.Now(); time.Since(start) < d; n++ {
			if _, err := js.PublishAsync("bench", body, jetstream.WithStallWait(30*time.Second)); err != nil {
				return 0, err
			}
		}
		select {
		case <-js.PublishAsyncComplete():
			return n, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return work, done, nil
}

// natsWebSocket measures nats-server's own WebSocket listener: deliveries per
// second to n subscribers in a closed loop with at most window messages in
// flight for each.
func natsWebSocket(ctx context.Context, n, window int, d time.Duration) (float64, error) {
	nc, s, err := startNATS(&server.Options{DontListen: true, MaxPending: 64 << 20,
		Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: true}})
	if err != nil {
		return 0, err
	}
	defer s.WaitForShutdown()
	defer s.Shutdown()
	defer nc.Close()
	url, _, _ := strings.Cut(strings.TrimPrefix(s.WebsocketURL(), "ws://"), "/")
	fan := newFan(n, window)
	defer fan.close()
	for i := range n {
		conn, r, err := dialWebSocket(url, "/", nil)
		if err != nil {
			return 0, err
		}
		if _, err := conn.Write(maskedText("CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB fan 1\r\nPING\r\n")); err != nil {
			return 0, err
		}
		fan.natsReader(i, conn, frameReader{r})
	}
	if err := fan.awaitReady(ctx); err != nil {
		return 0, err
	}
	body := noise(eventBytes)
	return fan.drive(ctx, d, func(k int) error {
		for range k {
			if err := nc.Publish("fan", body); err != nil {
				return err
			}
		}
		return nil // the connection flushes by itself
	})
}

// dialWebSocket opens a WebSocket connection by hand, so that reading costs no
// more than counting frames.
func dialWebSocket(addr, path string, header []string) (net.Conn, *bufio.Reader, error) {
	return dialWebSocketSize(addr, path, header, 64<<10)
}

// dialWebSocketSize is dialWebSocket with a buffer of this size.
func dialWebSocketSize(addr, path string, header []string, size int) (net.Conn, *bufio.Reader, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	request := "GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, h := range header {
		request += h + "\r\n"
	}
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		return nil, nil, err
	}
	r := bufio.NewReaderSize(conn, size)
	for first := true; ; first = false {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, nil, err
		}
		if first && !strings.Contains(line, " 101 ") {
			return nil, nil, fmt.Errorf("handshake answered %q", strings.TrimSpace(line))
		}
		if line == "\r\n" {
			return conn, r, nil
		}
	}
}

// maskedText builds one client text frame with a zero mask.
func maskedText(s string) []byte {
	return append([]byte{0x81, 0x80 | byte(len(s)), 0, 0, 0, 0}, s...)
}

// natsReader counts messages by the bytes of the protocol stream inside the
// frames: all messages have one length, and what precedes them ends in PONG.
func (f *fan) natsReader(i int, conn net.Conn, frames frameReader) {
	message := len(fmt.Sprintf("MSG fan 1 %d\r\n\r\n", eventBytes)) + eventBytes
	f.reader(i, conn, func(count func(int)) error {
		var tail []byte
		for !bytes.HasSuffix(tail, []byte("PONG\r\n")) {
			b, err := frames.message()
			if err != nil {
				return err
			}
			tail = append(tail, b...)
		}
		f.ready.Done()
		pending := 0
		for {
			op, n, err := frames.header()
			if err != nil {
				return err
			}
			if _, err := frames.r.Discard(n); err != nil {
				return err
			}
			if op <= 2 {
				pending += n
				count(pending / message)
				pending %= message
			}
		}
	})
}
