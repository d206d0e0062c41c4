package hub

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// tcpPair is both ends of a connection over the loopback interface.
func tcpPair(t testing.TB, ln net.Listener) (server, client net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return server, client
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// countFrames reads frames, looking at their headers only, and calls each after
// every read with the number of frames that have begun.
func countFrames(r io.Reader, each func(n int)) {
	buf := make([]byte, 64<<10)
	skip, have := 0, 0 // bytes of the current frame still to come; bytes in buf
	for {
		n, err := r.Read(buf[have:])
		if err != nil {
			return
		}
		have += n
		frames, at := 0, 0
		for {
			if step := min(skip, have-at); step > 0 {
				at, skip = at+step, skip-step
			}
			b := buf[at:have]
			if skip > 0 || len(b) < 2 {
				break
			}
			header, length := 2, int(b[1])
			if length == 126 {
				if header = 4; len(b) < header {
					break
				}
				length = int(binary.BigEndian.Uint16(b[2:]))
			}
			skip = header + length
			frames++
		}
		have = copy(buf, buf[at:have])
		if frames > 0 {
			each(frames)
		}
	}
}

// cpuTime is what this process, both ends of its connections, has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBareWrites is the limit of the machine: ready frames of 700 bytes, 64
// per write, to as many connections; the readers throw the bytes away.
func BenchmarkBareWrites(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			ln := listen(b)
			frame := websocket.AppendFrame(nil, websocket.Text, bytes.Repeat([]byte("x"), 700))
			block := bytes.Repeat(frame, 64)
			var readers, writers sync.WaitGroup
			servers := make([]net.Conn, n)
			for i := range servers {
				server, client := tcpPair(b, ln)
				servers[i] = server
				readers.Go(func() {
					defer client.Close()
					io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{client}, make([]byte, 64<<10))
				})
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			cpu := cpuTime()
			b.ResetTimer()
			for _, c := range servers {
				writers.Go(func() {
					for left.Add(-64) > -64 {
						if _, err := c.Write(block); err != nil {
							return
						}
					}
				})
			}
			writers.Wait()
			b.StopTimer()
			b.ReportMetric((cpuTime()-cpu).Seconds()/float64(b.N)*1e6, "cpu-s/M")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
			for _, c := range servers {
				c.Close()
			}
			readers.Wait()
		})
	}
}

// BenchmarkFanOut has the journal ahead of the subscribers, as after a burst: each
// gets events as fast as its connection takes them. One operation is one delivery.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			ln := listen(b)
			j := newRealJournal(b)
			h := newTestHub(b, j, Options{})
			start := j.End()
			events := make([]*event.Event, 370)
			for i := range events {
				events[i] = testEvent(i)
			}
			for range max(2, b.N/n/len(events)+1) {
				j.append(events...)
			}
			perClient := max(1, b.N/n)
			var done sync.WaitGroup
			clients := make([]net.Conn, n)
			subs := make([]*Subscription, n)
			servers := make([]net.Conn, n)
			for i := range clients {
				s, err := h.Subscribe(allJSON(start))
				if err != nil {
					b.Fatal(err)
				}
				subs[i] = s
				servers[i], clients[i] = tcpPair(b, ln)
				done.Add(1)
				go func() {
					left, finished := perClient, false
					countFrames(clients[i], func(k int) {
						if left -= k; left <= 0 && !finished {
							finished = true
							done.Done()
						}
					})
				}()
			}
			cpu := cpuTime()
			b.ResetTimer()
			for i, s := range subs {
				s.Serve(websocket.NewConn(servers[i], 0))
			}
			done.Wait()
			b.StopTimer()
			b.ReportMetric((cpuTime()-cpu).Seconds()/float64(perClient*n)*1e6, "cpu-s/M")
			b.ReportMetric(float64(perClient*n)/b.Elapsed().Seconds(), "deliveries/s")
			for _, c := range clients {
				c.Close()
			}
			waitEmpty(b, h)
		})
	}
}

func waitEmpty(t testing.TB, h *Hub) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		n := h.Subscriptions()
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d subscriptions are left", n)
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkLatency appends 1,000 events a second, each alone, for 100 subscribers
// and reports the time from append to when a client has the message: once through
// a journal in memory, which is the hub's own part, and once through the real one,
// beside the time until the event is durable, which is part of it.
func BenchmarkLatency(b *testing.B) {
	b.Run("memory", func(b *testing.B) {
		for range b.N {
			j := newMemJournal()
			latency(b, j, func(e *event.Event, _ func()) { j.append(e) })
		}
	})
	b.Run("journal", func(b *testing.B) {
		for range b.N {
			j := newRealJournal(b)
			latency(b, j, func(e *event.Event, durable func()) {
				receipt, err := j.j.Submit(context.Background(), e)
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					<-receipt.Done()
					durable()
				}()
			})
		}
	})
}

func latency(b *testing.B, j Journal, submit func(e *event.Event, durable func())) {
	const subscribers, rate, count = 100, 1000, 2000
	ln := listen(b)
	h := newTestHub(b, j, Options{})
	var sent, acked [count]atomic.Int64
	taken := make([][]time.Duration, subscribers)
	var done sync.WaitGroup
	for i := range subscribers {
		s, err := h.Subscribe(allJSON(j.End()))
		if err != nil {
			b.Fatal(err)
		}
		server, client := tcpPair(b, ln)
		s.Serve(websocket.NewConn(server, 0))
		done.Go(func() {
			countFrames(client, func(k int) {
				now := time.Now().UnixNano()
				for range k {
					taken[i] = append(taken[i], time.Duration(now-sent[len(taken[i])].Load()))
				}
				if len(taken[i]) == count {
					client.Close()
				}
			})
		})
	}
	begin, cpu := time.Now(), cpuTime()
	for i := range count {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / rate)))
		e := testEvent(i)
		sent[i].Store(time.Now().UnixNano())
		submit(e, func() { acked[i].Store(time.Now().UnixNano()) })
	}
	done.Wait()
	b.ReportMetric((cpuTime()-cpu).Seconds()/(count*subscribers)*1e6, "cpu-s/M")
	waitEmpty(b, h)
	report := func(name string, all []time.Duration) {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name+"p50-ms")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, name+"p99-ms")
	}
	report("", slices.Concat(taken...))
	var durable []time.Duration
	for i := range acked {
		if at := acked[i].Load(); at != 0 {
			durable = append(durable, time.Duration(at-sent[i].Load()))
		}
	}
	if durable != nil {
		report("durable-", durable)
	}
}
