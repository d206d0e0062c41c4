package grpcapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"
)

// message is one of a length as it is sent.
func message(n int) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(n)), bytes.Repeat([]byte{'x'}, n)...)
}

// reader reads all that a gate lets through.
type reader struct {
	n   int
	err error
}

func (r *reader) run(g *gate, piece int) {
	b := make([]byte, piece)
	for r.err == nil {
		var n int
		n, r.err = g.Read(b)
		r.n += n
	}
}

func TestGateLetsOneMessageThrough(t *testing.T) {
	for _, piece := range []int{1, 3, 5, 7, 16384} {
		synctest.Test(t, func(t *testing.T) {
			sent := bytes.Join([][]byte{message(10), message(0), message(0), message(20)}, nil)
			g := newGate(io.NopCloser(bytes.NewReader(sent)), false, 100, semaphore.NewWeighted(1), func(time.Time) { t.Error("small messages have no limit") })
			var r reader
			go r.run(g, piece)
			for i, want := range []int{0, 15, 20, 25, 50} {
				synctest.Wait()
				if r.n != want {
					t.Fatalf("pieces of %d: %d bytes have passed after %d calls of next, want %d", piece, r.n, i, want)
				}
				g.next()
			}
			synctest.Wait()
			if r.err != io.EOF {
				t.Errorf("ended with %v", r.err)
			}
			g.Close()
		})
	}
}

func TestGateSharesMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := semaphore.NewWeighted(200 << 10)
		var limits []time.Time
		open := func() (*gate, *reader) {
			g := newGate(io.NopCloser(bytes.NewReader(append(message(150<<10), message(100)...))), false, 1<<20, memory, func(t time.Time) { limits = append(limits, t) })
			g.next()
			return g, new(reader)
		}
		a, read := open()
		go read.run(a, 4096)
		synctest.Wait()
		b, waiting := open()
		go waiting.run(b, 4096)
		synctest.Wait()
		if read.n != 150<<10+5 || waiting.n != 0 {
			t.Fatalf("%d and %d bytes have passed", read.n, waiting.n)
		}
		if len(limits) != 2 || limits[0].IsZero() || !limits[1].IsZero() {
			t.Errorf("the limits of time were %v", limits)
		}
		a.next() // the first message is done
		synctest.Wait()
		if waiting.n != 150<<10+5 {
			t.Errorf("%d bytes have passed after memory was free", waiting.n)
		}
		c, closed := open()
		go closed.run(c, 4096)
		synctest.Wait()
		c.Close() // while it waits for memory
		a.Close()
		b.Close() // while it has memory
		synctest.Wait()
		if closed.n != 0 || !errors.Is(closed.err, errGateClosed) {
			t.Errorf("closed with %d bytes and %v", closed.n, closed.err)
		}
		if !memory.TryAcquire(200 << 10) {
			t.Error("memory is still held")
		}
	})
}

// A compressed message counts as the largest that it may be inside, until it is known, and
// has as much time as a large one.
func TestGateCountsCompressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const largest = 1 << 20
		memory := semaphore.NewWeighted(largest + largest/2)
		var limits []time.Time
		open := func() (*gate, *reader) {
			sent := message(100)
			sent[0] = 1
			g := newGate(io.NopCloser(bytes.NewReader(append(sent, sent...))), false, largest, memory, func(t time.Time) { limits = append(limits, t) })
			g.next()
			return g, new(reader)
		}
		a, read := open()
		go read.run(a, 50)
		synctest.Wait()
		b, waiting := open()
		go waiting.run(b, 50)
		synctest.Wait()
		if read.n != 105 || waiting.n != 0 {
			t.Fatalf("%d and %d bytes have passed", read.n, waiting.n)
		}
		if len(limits) != 2 || limits[0].IsZero() || !limits[1].IsZero() {
			t.Errorf("the limits of time were %v", limits)
		}
		a.took(400 << 10)
		synctest.Wait()
		if waiting.n != 105 {
			t.Errorf("%d bytes have passed after memory was free", waiting.n)
		}
		b.took(100)
		if !memory.TryAcquire(largest+largest/2-400<<10) || memory.TryAcquire(1) {
			t.Error("what is held is not what the messages have")
		}
		a.Close()
		b.Close()
		if !memory.TryAcquire(400 << 10) {
			t.Error("memory is still held")
		}
	})
}

// pipe is a body that waits.
type pipe struct {
	*io.PipeReader
	*io.PipeWriter
}

func (p pipe) Close() error { return errors.Join(p.PipeReader.Close(), p.PipeWriter.Close()) }

func TestGateEnds(t *testing.T) {
	const largest = 1000
	for name, tt := range map[string]struct {
		single bool
		sent   []byte
		closes bool // the gate is closed; else the client
		n      int
		err    error
	}{
		"nothing":                   {false, nil, false, 0, io.EOF},
		"half a header":             {false, message(1)[:3], false, 0, io.ErrUnexpectedEOF},
		"half a message":            {false, message(10)[:9], false, 9, io.ErrUnexpectedEOF},
		"a header":                  {false, message(10)[:5], false, 5, io.ErrUnexpectedEOF},
		"too large":                 {false, message(largest + 1), false, 0, io.EOF},
		"too large and single":      {true, message(largest + 1), false, 5, nil},
		"two that should be one":    {true, append(message(3), message(3)...), false, 8, io.ErrUnexpectedEOF},
		"closed before":             {false, nil, true, 0, io.ErrClosedPipe},
		"closed in a header":        {false, message(1)[:3], true, 0, io.ErrClosedPipe},
		"closed in a message":       {false, message(10)[:9], true, 9, io.ErrClosedPipe},
		"closed behind one message": {false, append(message(3), message(3)...), true, 8, errGateClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in, out := io.Pipe()
				g := newGate(pipe{in, out}, tt.single, largest, semaphore.NewWeighted(largest), func(time.Time) {})
				g.next()
				var r reader
				go func() {
					b := make([]byte, 16)
					for r.err == nil {
						var n int
						n, r.err = g.Read(b)
						if r.n += n; name == "too large and single" {
							return // grpc reads no further
						}
					}
				}()
				go out.Write(tt.sent)
				synctest.Wait()
				if tt.closes {
					g.Close()
				} else {
					out.Close()
				}
				synctest.Wait()
				if r.n != tt.n || !errors.Is(r.err, tt.err) {
					t.Errorf("%d bytes, %v; want %d, %v", r.n, r.err, tt.n, tt.err)
				}
				if name == "too large" && g.tooLarge.Load() != largest+1 {
					t.Errorf("told that %d is too large", g.tooLarge.Load())
				}
				g.Close()
			})
		})
	}
}
