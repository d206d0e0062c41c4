package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const eventBytes = 700

// noise returns n printable bytes that no compressor shrinks by more than the
// quarter that base64-like text always gives.
func noise(n int) []byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[rand.IntN(len(alphabet))]
	}
	return b
}

// A turn works for about d and returns how much it did.
type turn func(d time.Duration) (amount float64, err error)

// alternate gives a and b turns of a third of a second, until each has had d,
// because what a shared disk or core does changes from second to second. It
// returns the rates per second.
func alternate(d time.Duration, a, b turn) (rateA, rateB float64, err error) {
	const slice = time.Second / 3
	var amount [2]float64
	var took [2]time.Duration
	for took[0] < d || took[1] < d {
		for i, t := range []turn{a, b} {
			start := time.Now()
			n, err := t(slice)
			if err != nil {
				return 0, 0, err
			}
			amount[i] += n
			took[i] += time.Since(start)
		}
	}
	return amount[0] / took[0].Seconds(), amount[1] / took[1].Seconds(), nil
}

// bareSync writes blocks of 256 KiB and waits for each to be on the disk; it
// counts bytes.
func bareSync(dir string) (_ turn, done func(), err error) {
	f, err := os.CreateTemp(dir, "sync")
	if err != nil {
		return nil, nil, err
	}
	block := noise(256 << 10)
	work := func(d time.Duration) (written float64, err error) {
		for start := time.Now(); time.Since(start) < d; written += float64(len(block)) {
			if _, err := f.Write(block); err != nil {
				return 0, err
			}
			if err := syscall.Fdatasync(int(f.Fd())); err != nil {
				return 0, err
			}
		}
		return written, nil
	}
	return work, func() { f.Close(); os.Remove(f.Name()) }, nil
}

// bareFrames writes 64 ready-made text frames per call to n loopback
// connections whose readers throw the bytes away: frames per second.
func bareFrames(n int, d time.Duration) (float64, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	frame := append([]byte{0x81, 126, eventBytes >> 8, eventBytes & 0xff}, noise(eventBytes)...)
	block := bytes.Repeat(frame, 64)
	var frames atomic.Int64
	var readers, writers sync.WaitGroup
	conns := make([]net.Conn, 0, 2*n)
	for range n {
		out, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return 0, err
		}
		in, err := ln.Accept()
		if err != nil {
			return 0, err
		}
		conns = append(conns, in, out)
		readers.Go(func() {
			b := make([]byte, 64<<10)
			for {
				if _, err := out.Read(b); err != nil {
					return
				}
			}
		})
	}
	start := time.Now()
	for i := 0; i < len(conns); i += 2 {
		writers.Go(func() {
			for time.Since(start) < d {
				if _, err := conns[i].Write(block); err != nil {
					return
				}
				frames.Add(64)
			}
		})
	}
	writers.Wait()
	rate := float64(frames.Load()) / time.Since(start).Seconds()
	for _, c := range conns {
		c.Close()
	}
	readers.Wait()
	return rate, nil
}

// jsonMap decodes lines into map[string]any with encoding/json on one
// goroutine: bytes per second.
func jsonMap(lines [][]byte, d time.Duration) (float64, error) {
	start, n := time.Now(), 0
	for time.Since(start) < d {
		for _, line := range lines {
			var m map[string]any
			if err := json.Unmarshal(line, &m); err != nil {
				return 0, err
			}
			n += len(line) + 1
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// frameReader reads server-to-client WebSocket frames with as little work as
// can be, so that the readers do not become what is measured.
type frameReader struct{ r *bufio.Reader }

// header returns opcode and payload length of the next frame.
func (f frameReader) header() (op byte, n int, err error) {
	h, err := f.r.Peek(2)
	if err != nil {
		return 0, 0, err
	}
	op, n = h[0]&0x0f, int(h[1]&0x7f)
	size := 2
	switch n {
	case 126:
		if h, err = f.r.Peek(4); err != nil {
			return 0, 0, err
		}
		n, size = int(binary.BigEndian.Uint16(h[2:])), 4
	case 127:
		if h, err = f.r.Peek(10); err != nil {
			return 0, 0, err
		}
		n, size = int(binary.BigEndian.Uint64(h[2:])), 10
	}
	_, err = f.r.Discard(size)
	return op, n, err
}

// message returns the payload of the next data message, valid until the next
// call.
func (f frameReader) message() ([]byte, error) {
	for {
		op, n, err := f.header()
		if err != nil {
			return nil, err
		}
		b, err := f.r.Peek(n)
		if err != nil {
			return nil, err
		}
		f.r.Discard(n)
		switch op {
		case 1, 2:
			return b, nil
		case 8:
			return nil, fmt.Errorf("closed by the server: %q", b[min(2, n):])
		}
	}
}
