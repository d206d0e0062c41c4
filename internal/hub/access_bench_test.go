package hub

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// decisions is what an access control list with a cache costs: a lookup under a
// lock for each event.
type decisions struct {
	mu    sync.RWMutex
	known map[decision]bool
}

type decision struct{ namespace, path, typ string }

func (d *decisions) allow(e *event.Event) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.known[decision{e.Namespace, e.Path, e.Type}]
}

// BenchmarkAccessKeys has 1,000 subscribers who select the same and are allowed to
// see the same, or nearly so, with one set of rights for all or 50 different ones.
// The events are of 370 paths. One operation is one delivery.
func BenchmarkAccessKeys(b *testing.B) {
	const subscribers, paths = 1000, 370
	for _, bb := range []struct {
		name string
		keys int
		sees func(key, path int, rng *rand.Rand) bool
	}{
		{"keys=1", 1, func(int, int, *rand.Rand) bool { return true }},
		{"keys=50/all", 50, func(int, int, *rand.Rand) bool { return true }},
		{"keys=50/all-but-one-in-50", 50, func(key, path int, _ *rand.Rand) bool { return path%50 != key }},
		{"keys=50/random-9-of-10", 50, func(_, _ int, rng *rand.Rand) bool { return rng.IntN(10) > 0 }},
		{"keys=50/random-half", 50, func(_, _ int, rng *rand.Rand) bool { return rng.IntN(2) > 0 }},
		{"keys=50/random-tenth", 50, func(_, _ int, rng *rand.Rand) bool { return rng.IntN(10) == 0 }},
		{"keys=50/one-in-50", 50, func(key, path int, _ *rand.Rand) bool { return path%50 == key }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			rights := make([]decisions, bb.keys)
			seen := make([]int, bb.keys) // of each record, by key
			all := 0
			events := make([]*event.Event, paths)
			for p := range events {
				events[p] = testEvent(p)
				events[p].Path = fmt.Sprintf("secret/data/app-%d", p)
				events[p].Metadata.Set(event.MetadataPath, events[p].Path)
			}
			for k := range rights {
				rights[k].known = make(map[decision]bool)
				for p, e := range events {
					sees := bb.sees(k, p, rng)
					rights[k].known[decision{e.Namespace, e.Path, e.Type}] = sees
					if sees {
						seen[k]++
						all++
					}
				}
			}
			records := max(4, b.N*bb.keys/(all*subscribers)+1)
			ln := listen(b)
			j := newRealJournal(b)
			h := newTestHub(b, j, Options{})
			start := j.End()
			for range records {
				j.append(events...)
			}
			var done sync.WaitGroup
			clients := make([]net.Conn, subscribers)
			servers := make([]net.Conn, subscribers)
			subs := make([]*Subscription, subscribers)
			total := 0
			for i := range clients {
				key := i % bb.keys
				r := allJSON(start)
				r.AccessKey, r.Allow = key, rights[key].allow
				s, err := h.Subscribe(r)
				if err != nil {
					b.Fatal(err)
				}
				subs[i] = s
				servers[i], clients[i] = tcpPair(b, ln)
				left := records * seen[key]
				total += left
				done.Add(1)
				go func() {
					countFrames(clients[i], func(k int) {
						if left -= k; left == 0 {
							done.Done()
						}
					})
				}()
			}
			cpu := cpuTime()
			reads := testutil.ToFloat64(h.metrics.journalReads)
			b.ResetTimer()
			for i, s := range subs {
				s.Serve(websocket.NewConn(servers[i], 0))
			}
			done.Wait()
			b.StopTimer()
			b.ReportMetric((cpuTime()-cpu).Seconds()/float64(total)*1e6, "cpu-s/M")
			b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "deliveries/s")
			b.ReportMetric((testutil.ToFloat64(h.metrics.journalReads)-reads)/float64(records), "reads/batch")

			for _, c := range clients {
				c.Close()
			}
			waitEmpty(b, h)
		})
	}
}
