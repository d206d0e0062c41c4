package hub

import (
	"bufio"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/websocket"
)

// masses is the outcome of a measurement with many subscriptions that are revoked
// one by one while others get a steady stream.
type masses struct {
	revoking time.Duration // until the last Revoke has returned
	slowest  time.Duration // of them
	closing  time.Duration // until the last client has seen its connection closed
	pause    time.Duration // the longest between two events at one of the others
	latency  time.Duration // the longest from append to arrival at one of the others
}

// revokeMany revokes n subscriptions one by one from 8 goroutines, while others
// get 1,000 events a second. One in 500 of the revoked gets them, too.
func revokeMany(t testing.TB, n, others int) (m masses) {
	const rate, revokers = 1000, 8
	j, ln := newMemJournal(), listen(t)
	h := newTestHub(t, j, Options{PingInterval: time.Hour})
	start := time.Now()
	var sent [60 * rate]atomic.Int64 // when, since start
	var last atomic.Int64            // events, when there will be no more; 0: there will
	var mu sync.Mutex                // guards m
	var staying sync.WaitGroup
	for range others {
		s := subscribe(t, h, allJSON(j.End()))
		server, conn := tcpPair(t, ln)
		s.Serve(websocket.NewConn(server, 0))
		staying.Go(func() {
			defer conn.Close()
			var pause, latency time.Duration
			before, count := int64(0), 0
			countFrames(conn, func(k int) {
				now := int64(time.Since(start))
				latency = max(latency, time.Duration(now-sent[count].Load()))
				if count > 0 {
					pause = max(pause, time.Duration(now-before))
				}
				before = now
				if count += k; count == int(last.Load()) {
					conn.Close()
				}
			})
			mu.Lock()
			defer mu.Unlock()
			m.pause, m.latency = max(m.pause, pause), max(m.latency, latency)
		})
	}
	revoked := make([]*Subscription, n)
	var leaving sync.WaitGroup
	for i := range revoked {
		r := allJSON(j.End())
		r.AccessKey = "revoked"
		if i%500 != 0 {
			r.Type = "quiet"
		}
		revoked[i] = subscribe(t, h, r)
		server, conn := tcpPair(t, ln)
		revoked[i].Serve(websocket.NewConn(server, 0))
		leaving.Go(func() {
			defer conn.Close()
			c := &client{t, conn, bufio.NewReaderSize(conn, 512)}
			if code, reason := c.closed(); code != websocket.StatusPolicyViolation || reason != "token revoked" {
				t.Errorf("closed with %d %q", code, reason)
			}
			c.send(websocket.Close, []byte{0x03, 0xf0})
			c.wantEOF()
		})
	}

	stop := make(chan struct{})
	var producer sync.WaitGroup
	producer.Go(func() {
		begin, ticker := time.Now(), time.NewTicker(time.Second/rate)
		defer ticker.Stop()
		for n, over := int64(0), false; !over; {
			select {
			case <-stop:
				over = true
				last.Store(n + 1)
			case <-ticker.C:
			}
			for ; over || n < int64(time.Since(begin).Seconds()*rate); n++ {
				sent[n].Store(int64(time.Since(start)))
				j.append(testEvent(int(n)))
				if over {
					break
				}
			}
		}
	})
	time.Sleep(100 * time.Millisecond)
	begin := time.Now()
	var revokes sync.WaitGroup
	var slowest [revokers]time.Duration
	for k := range revokers {
		revokes.Go(func() {
			for i := k; i < n; i += revokers {
				before := time.Now()
				revoked[i].Revoke("token revoked")
				slowest[k] = max(slowest[k], time.Since(before))
			}
		})
	}
	revokes.Wait()
	revoking := time.Since(begin)
	leaving.Wait()
	closing := time.Since(begin)
	time.Sleep(100 * time.Millisecond)
	close(stop)
	producer.Wait()
	staying.Wait()
	waitEmpty(t, h)
	m.revoking, m.slowest, m.closing = revoking, slices.Max(slowest[:]), closing
	return m
}

// BenchmarkRevokeMany measures what 100 subscribers notice of 9,500 others that
// are revoked, beside what they notice without. (With 10,000, the test would need
// more files than the usual limit, because it is both ends.)
func BenchmarkRevokeMany(b *testing.B) {
	for _, n := range []int{0, 9_500} {
		b.Run(fmt.Sprintf("revoked=%d", n), func(b *testing.B) {
			for range b.N {
				m := revokeMany(b, n, 100)
				for name, d := range map[string]time.Duration{"revoking": m.revoking, "slowest": m.slowest, "closing": m.closing, "pause": m.pause, "latency": m.latency} {
					b.ReportMetric(float64(d.Microseconds())/1000, name+"-ms")
				}
			}
		})
	}
}
