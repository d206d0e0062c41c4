package inbox

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// simulated runs a test with an inbox on a disk in memory, and a clock of its own.
func simulated(t *testing.T, o Options, f func(t *testing.T, x *Inbox, d *simDisk)) {
	o.Dir = t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := newSimDisk(rand.New(rand.NewPCG(1, 2)))
		o.disk = d
		x := open(t, o)
		f(t, x, d)
	})
}

func (d *simDisk) fail(writes, syncs error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes, d.syncs = writes, syncs
}

// Nothing is synced that is acknowledged in time, and everything that is not.
func TestSyncInterval(t *testing.T) {
	simulated(t, Options{SyncInterval: time.Second}, func(t *testing.T, x *Inbox, d *simDisk) {
		for range 100 { // the journal keeps up
			put(t, x, "line")
			_, after := read(t, x, 1)
			time.Sleep(100 * time.Millisecond)
			x.Acknowledge(after)
		}
		if s := x.Stats(); s.Syncs != 0 {
			t.Errorf("%d syncs for lines that are elsewhere", s.Syncs)
		}
		for range 100 { // it does not
			put(t, x, "line")
			time.Sleep(100 * time.Millisecond)
			if s := x.Stats(); s.UnsyncedBytes > 11*60 {
				t.Fatalf("%+v", s)
			}
		}
		if s := x.Stats(); s.Syncs < 9 || s.Syncs > 14 {
			t.Errorf("%d syncs in 10 s", s.Syncs)
		}
		time.Sleep(2 * time.Second)
		if s := x.Stats(); s.UnsyncedBytes != 0 || s.DiskLines != 100 || s.Oldest < 10*time.Second || s.Oldest > 13*time.Second {
			t.Errorf("%+v", s)
		}
	})
}

// One sync answers all who wait, and none is needed when the journal is fast.
func TestDurable(t *testing.T) {
	simulated(t, Options{}, func(t *testing.T, x *Inbox, d *simDisk) {
		var all sync.WaitGroup
		start := time.Now()
		for range 100 {
			all.Go(func() {
				if err := x.Durable(t.Context(), put(t, x, "line")); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if s := x.Stats(); s.Syncs != 1 || time.Since(start) > 10*time.Millisecond {
			t.Errorf("%d syncs, %v", s.Syncs, time.Since(start))
		}
		at := put(t, x, "one more")
		_, after := read(t, x, 101)
		time.AfterFunc(time.Millisecond, func() { x.Acknowledge(after) })
		if err := x.Durable(t.Context(), at); err != nil || x.Stats().Syncs != 1 {
			t.Errorf("%v, %d syncs", err, x.Stats().Syncs)
		}

		d.fail(nil, syscall.EIO)
		at = put(t, x, "cannot be synced")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := x.Durable(ctx, at); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("durable on a disk that cannot sync: %v", err)
		}
		if err := x.Health(); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "power cut") {
			t.Error(err)
		}
		// The kernel says that all is well from now on, which is not so for what it dropped.
		d.fail(nil, nil)
		if err := x.Durable(t.Context(), at); err != nil {
			t.Error(err)
		}
		y := open(t, Options{Dir: t.TempDir(), disk: d.cutPower()})
		if err := y.Seek(after); err != nil {
			t.Error(err)
		}
		if got, _ := read(t, y, 1); got[0] != "cannot be synced" {
			t.Errorf("%q", got)
		}
		// A waiter that gives up leaves nothing behind.
		if x.Health() != nil || len(x.waiters) > 0 {
			t.Error(x.Health(), len(x.waiters))
		}
	})
}

func TestBlock(t *testing.T) {
	simulated(t, Options{WhenFull: Block, MemoryBytes: 4 << 10, SegmentBytes: 4 << 10, MaxBytes: 8 << 10}, func(t *testing.T, x *Inbox, d *simDisk) {
		d.fail(syscall.EIO, nil)
		var ctx context.Context
		var cancel context.CancelFunc
		n := 0
		for ; ; n++ {
			ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
			_, err := x.Put(ctx, lines(strings.Repeat("x", 400)))
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if s := x.Stats(); s.State != Dropping || s.Blocked == 0 || s.DroppedLines != 0 || n < 5 || n > 10 {
			t.Errorf("%+v after %d lines", s, n)
		}
		if err := x.Health(); err == nil || !strings.Contains(err.Error(), "senders wait") {
			t.Error(err)
		}
		// What can never have room does not wait for it.
		if _, err := x.Put(t.Context(), lines(strings.Repeat("x", 7<<10))); !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		time.AfterFunc(time.Minute, func() { d.fail(nil, nil) })
		put(t, x, "waits until the disk works")
		if got, _ := read(t, x, n); len(got) != n {
			t.Error(len(got))
		}
		if lost, _ := readLost(t, x); lost.Lines != 1 || lost.Bytes != 7<<10 {
			t.Errorf("%+v", lost)
		}
		if got, _ := read(t, x, 1); got[0] != "waits until the disk works" {
			t.Errorf("%q", got)
		}

		d.fail(syscall.EIO, nil)
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := x.Put(ctx, lines(strings.Repeat("x", 400)))
			cancel()
			if err != nil {
				break
			}
		}
		closed := make(chan struct{})
		time.AfterFunc(time.Second, func() {
			defer close(closed)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if err := x.Close(ctx); err == nil || !strings.Contains(err.Error(), "are lost") {
				t.Error(err)
			}
		})
		if _, err := x.Put(t.Context(), lines(strings.Repeat("x", 400))); !errors.Is(err, ErrClosed) {
			t.Errorf("put while it is closed: %v", err)
		}
		<-closed
	})
}

// The memory that waits is what is counted, also when small lines are cut from large chunks.
func TestMemory(t *testing.T) {
	d := newSimDisk(rand.New(rand.NewPCG(1, 2)))
	x := open(t, Options{Dir: t.TempDir(), MemoryBytes: 8 << 20, disk: d})
	d.fail(syscall.EIO, nil)
	measure := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := measure()
	var taken int
	for range 3000 {
		chunk := bytes.Repeat([]byte("x"), 256<<10)
		if _, err := x.Put(t.Context(), []Line{{Data: chunk[1000:3000], Size: 2000}}); err == nil {
			taken++
		}
	}
	used := measure() - before
	if used > 9<<20 || taken < 3000 {
		t.Errorf("%d lines of 2,000 bytes take %d bytes", taken, used)
	}
	if s := x.Stats(); s.MemoryUsed > 7<<20 || s.MemoryUsed < 6_000_000 || s.MemoryLines != 3000 {
		t.Errorf("%+v", s)
	}
	d.fail(nil, nil)
	if err := x.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if s := x.Stats(); s.MemoryUsed != 0 || s.MemoryBytes != 0 {
		t.Errorf("%+v", s)
	}
	shut(t, x)
}

// Senders are not held up by a disk that does not answer.
func TestSlowDisk(t *testing.T) {
	d := newSimDisk(rand.New(rand.NewPCG(1, 2)))
	x := open(t, Options{Dir: t.TempDir(), disk: d, MemoryBytes: 1 << 20})
	put(t, x, "first")
	read(t, x, 1)
	d.mu.Lock() // every use of the disk waits now
	for range 1000 {
		if _, err := x.Put(t.Context(), lines(strings.Repeat("x", 2000))); err != nil && !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		_, _ = x.Stats(), x.Health()
	}
	d.mu.Unlock()
	if s := x.Stats(); s.DroppedLines == 0 {
		t.Errorf("%+v", s)
	}
	shut(t, x)
}
