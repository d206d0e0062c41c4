package device_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/test/device"
)

// load are devices that send entries at a rate until they are stopped. Each entry has a
// number of its own.
type load struct {
	stopping chan struct{}
	running  sync.WaitGroup
	devices  []*loaded

	mu      sync.Mutex
	windows []window // in which the hub was gone
}

type window struct{ from, to time.Time }

// loaded is one device and what became of its entries.
type loaded struct {
	name     string
	first    uint64
	write    func([]byte) error
	close    func()
	accepted []bool // by number from first on
	writes   []write
	failures map[string]int
}

type write struct {
	begin time.Time
	took  time.Duration
}

// startLoad starts the devices of a hub: unix, tcp, http or all.
func startLoad(h *hub, rate int, names ...string) *load {
	l := &load{stopping: make(chan struct{})}
	for i, name := range names {
		d := &loaded{name: name, first: uint64(i+1) << 32, failures: make(map[string]int)}
		switch name {
		case "http":
			w := &device.HTTP{URL: "http://" + h.sockets["http"] + "/audit"}
			d.write = func(line []byte) error { return w.Write(context.Background(), line) }
			d.close = func() { w.Client.CloseIdleConnections() }
		default:
			s := &device.Socket{Network: name, Address: h.sockets[name]}
			d.write, d.close = s.Write, s.Close
		}
		l.devices = append(l.devices, d)
		l.running.Go(func() { d.run(l.stopping, rate) })
	}
	return l
}

// run writes entries, one at a time, each when it is due.
func (d *loaded) run(stopping <-chan struct{}, rate int) {
	defer d.close()
	begin := time.Now()
	for n := 0; ; n++ {
		select {
		case <-stopping:
			return
		default:
		}
		if due := begin.Add(time.Duration(n) * time.Second / time.Duration(rate)); time.Until(due) > time.Millisecond {
			time.Sleep(time.Until(due))
		}
		size := 1000
		if n%997 == 0 {
			size = 200_000
		}
		line := device.Entry(d.first+uint64(n), size)
		at := time.Now()
		err := d.write(line)
		d.writes = append(d.writes, write{at, time.Since(at)})
		d.accepted = append(d.accepted, err == nil)
		if err != nil {
			d.failures[fmt.Sprintf("%.60v", err)]++
		}
	}
}

// gone marks the time that do takes as one in which the hub is not there.
func (l *load) gone(do func()) {
	from := time.Now()
	do()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.windows = append(l.windows, window{from, time.Now()})
}

// stop ends the load.
func (l *load) stop() {
	close(l.stopping)
	l.running.Wait()
}

// expectation is what is required of a device.
type expectation struct {
	mayFail bool          // writes, while the hub is gone
	slowest time.Duration // outside of windows
	lost    int           // at most, of those accepted
}

// check compares with what is in the journal, and reports times.
func (l *load) check(t *testing.T, seen map[uint64]int, want map[string]expectation) {
	t.Helper()
	for _, d := range l.devices {
		e := want[d.name]
		var outside, inside []time.Duration
		for _, w := range d.writes {
			if slices.ContainsFunc(l.windows, func(x window) bool {
				return w.begin.Add(w.took).After(x.from) && w.begin.Before(x.to.Add(50*time.Millisecond))
			}) {
				inside = append(inside, w.took)
			} else {
				outside = append(outside, w.took)
			}
		}
		lost, doubled, failed := 0, 0, 0
		for i, ok := range d.accepted {
			n := seen[d.first+uint64(i)]
			switch {
			case !ok:
				failed++
			case n == 0:
				lost++
			}
			if n > 1 {
				doubled++
			}
		}
		t.Logf("%-4s %7d writes, %d failed %v, %d lost, %d twice; outside of restarts %s; during restarts %s",
			d.name, len(d.writes), failed, d.failures, lost, doubled, describe(outside), describe(inside))
		if lost > e.lost {
			t.Errorf("%s: %d accepted entries are not in the journal, at most %d may be", d.name, lost, e.lost)
		}
		if doubled > 0 {
			t.Errorf("%s: %d entries are in the journal more than once", d.name, doubled)
		}
		if failed > 0 && !e.mayFail {
			t.Errorf("%s: %d writes failed: %v", d.name, failed, d.failures)
		}
		if len(outside) > 0 && slices.Max(outside) > e.slowest {
			t.Errorf("%s: a write took %v, at most %v is allowed", d.name, slices.Max(outside), e.slowest)
		}
		for _, w := range append(inside, outside...) {
			if w >= device.DefaultTimeout {
				t.Errorf("%s: a write took %v, which is over its deadline", d.name, w)
				break
			}
		}
		if len(d.writes) < 100 {
			t.Errorf("%s: %d writes prove nothing", d.name, len(d.writes))
		}
	}
}

func describe(took []time.Duration) string {
	if len(took) == 0 {
		return "none"
	}
	slices.Sort(took)
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v", round(took[len(took)/2]), round(took[len(took)*99/100]), round(took[len(took)-1]))
}
