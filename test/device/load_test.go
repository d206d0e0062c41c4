package device_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tocsin-events/tocsin/test/device"
)

// load are devices that send entries at a rate until they are stopped. Each entry has a
// number of its own.
type load struct {
	stopping chan struct{}
	running  sync.WaitGroup
	devices  []*loaded
	control  *loaded // writes to nobody: how long the machine itself holds up a writer

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
	count    atomic.Int64 // of writes
	accepted []bool       // by number from first on
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
	l.control = newControl(h.T)
	l.running.Go(func() { l.control.run(l.stopping, rate) })
	return l
}

// newControl returns a device whose entries are read by a process that does nothing with
// them.
func newControl(t *testing.T) *loaded {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	reader := exec.Command("cat")
	reader.Stdin = theirs
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	return &loaded{name: "none", failures: make(map[string]int),
		write: func(line []byte) error { _, err := ours.Write(line); return err },
		close: func() { ours.Close(); reader.Wait() },
	}
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
		d.count.Add(1)
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

// enough is how many writes of a device say something.
const enough = 100

// stop ends the load, once there is enough of it: a busy machine may have sent little.
func (l *load) stop(h *hub) {
	h.Helper()
	for _, d := range l.devices {
		h.await("enough writes of "+d.name, func() bool { return d.count.Load() >= enough })
	}
	close(l.stopping)
	l.running.Wait()
}

// quietMachine is the most that a machine which does little else holds up a writer.
const quietMachine = 10 * time.Millisecond

// expectation is what is required of a device.
type expectation struct {
	mayFail bool          // writes, while the hub is gone
	repeats bool          // the journal may have an entry twice, with the same id
	slowest time.Duration // outside of windows, on a machine that is quiet
	lost    int           // at most, of those accepted
}

// check compares with what is in the journal, and reports times.
func (l *load) check(t *testing.T, seen map[uint64]int, want map[string]expectation) {
	t.Helper()
	var control []time.Duration
	for _, w := range l.control.writes {
		control = append(control, w.took)
	}
	t.Logf("none %7d writes to a process that only reads: %s", len(control), describe(control))
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
		if doubled > 0 && !e.repeats {
			t.Errorf("%s: %d entries are in the journal more than once", d.name, doubled)
		}
		if failed > 0 && !e.mayFail {
			t.Errorf("%s: %d writes failed: %v", d.name, failed, d.failures)
		}
		// When the machine itself holds up writers, whose entries nobody but a process that
		// only reads takes, a bound for the slowest one says nothing about the hub.
		allowed, often := e.slowest, e.slowest
		if control[len(control)-1] > quietMachine {
			allowed = device.DefaultTimeout / 2
		}
		if control[len(control)*99/100] > quietMachine {
			often = allowed
		}
		if len(outside) > 0 {
			if slowest := outside[len(outside)-1]; slowest > allowed {
				t.Errorf("%s: a write took %v, at most %v is allowed%s", d.name, slowest, allowed, l.when(d, slowest))
			}
			if p99 := outside[len(outside)*99/100]; p99 > often {
				t.Errorf("%s: of 100 writes one took %v, at most %v is allowed", d.name, p99, often)
			}
		}
		for _, w := range append(inside, outside...) {
			if w >= device.DefaultTimeout {
				t.Errorf("%s: a write took %v, which is over its deadline", d.name, w)
				break
			}
		}
	}
}

// when tells how long after a restart a write was that took so long.
func (l *load) when(d *loaded, took time.Duration) string {
	for _, w := range d.writes {
		if w.took != took {
			continue
		}
		for _, x := range slices.Backward(l.windows) {
			if x.to.Before(w.begin) {
				return fmt.Sprintf(", %v after a restart", w.begin.Sub(x.to))
			}
		}
	}
	return ""
}

func describe(took []time.Duration) string {
	if len(took) == 0 {
		return "none"
	}
	slices.Sort(took)
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v", round(took[len(took)/2]), round(took[len(took)*99/100]), round(took[len(took)-1]))
}
