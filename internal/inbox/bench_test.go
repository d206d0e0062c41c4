//go:build unix

package inbox

import (
	"bytes"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is what this process has used; others do not disturb it as they do the clock.
func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkThrough takes lines of 1.3 KB the whole way: Put in pieces as a receiver has
// them, files, Read, Release.
func BenchmarkThrough(b *testing.B) {
	x := open(b, Options{Dir: b.TempDir(), ReserveBytes: 64 << 20, WhenFull: Block})
	const n, size = 64, 1300
	chunk := make([]Line, n)
	for i := range chunk {
		chunk[i] = Line{Data: bytes.Repeat([]byte{byte('a' + i%26)}, size), Size: size}
	}
	b.SetBytes(n * size)
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var batch Batch
		for lines := 0; lines < b.N*n; lines += len(batch.Lines) {
			if err := x.Read(b.Context(), &batch); err != nil || batch.Lost != nil {
				b.Error(err, batch.Lost)
				return
			}
			x.Release(batch.After())
		}
	}()
	for range b.N {
		for {
			if _, err := x.Put(b.Context(), chunk); err == nil {
				break
			}
			runtime.Gosched()
		}
	}
	<-done
	b.StopTimer()
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N*n), "cpu-ns/line")
}

// BenchmarkPut is what a sender waits for.
func BenchmarkPut(b *testing.B) {
	x := open(b, Options{Dir: b.TempDir(), ReserveBytes: 64 << 20, WhenFull: Block})
	line := []Line{{Data: make([]byte, 1300), Size: 1300}}
	go func() {
		var batch Batch
		for x.Read(b.Context(), &batch) == nil {
			x.Release(batch.After())
		}
	}()
	b.SetBytes(1300)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.Put(b.Context(), line); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkThroughChannel is what the way through files is compared with: the same pieces
// through a bounded queue in memory, copied once, as a receiver that reuses its buffer needs.
func BenchmarkThroughChannel(b *testing.B) {
	const n, size = 64, 1300
	chunk := make([]Line, n)
	for i := range chunk {
		chunk[i] = Line{Data: bytes.Repeat([]byte{byte('a' + i%26)}, size), Size: size}
	}
	queue := make(chan []Line, 128)
	b.SetBytes(n * size)
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range b.N {
			<-queue
		}
	}()
	for range b.N {
		memory := make([]byte, 0, n*size)
		lines := make([]Line, 0, n)
		for _, l := range chunk {
			start := len(memory)
			memory = append(memory, l.Data...)
			l.Data = memory[start:]
			lines = append(lines, l)
		}
		queue <- lines
	}
	<-done
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N*n), "cpu-ns/line")
}

// BenchmarkOpen is with 256 MiB of lines that an earlier process has left, in many small
// records.
func BenchmarkOpen(b *testing.B) {
	o := Options{Dir: b.TempDir(), WhenFull: Block}
	x := open(b, o)
	line := []Line{{Data: make([]byte, 1300), Size: 1300}}
	for range (256 << 20) / 1350 {
		if _, err := x.Put(b.Context(), line); err != nil {
			b.Fatal(err)
		}
	}
	shut(b, x)
	for b.Loop() {
		x := open(b, o)
		if s := x.Stats(); s.DiskLines != (256<<20)/1350 {
			b.Fatalf("%+v", s)
		}
		shut(b, x)
	}
}

// BenchmarkPaced is 20,000 lines of 1.3 KB per second, one by one, as a busy server sends
// them: how long a sender waits, and after which time a line was written and read.
func BenchmarkPaced(b *testing.B) {
	x := open(b, Options{Dir: b.TempDir(), ReserveBytes: 64 << 20})
	line := []Line{{Data: make([]byte, 1300), Size: 1300}}
	const every = 50 * time.Microsecond
	through := make([]time.Duration, 0, b.N)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var batch Batch
		for len(through) < b.N {
			if err := x.Read(b.Context(), &batch); err != nil || batch.Lost != nil {
				b.Error(err, batch.Lost)
				return
			}
			for range batch.Lines { // the time of the oldest of them
				through = append(through, time.Since(batch.Received))
			}
			x.Release(batch.After())
		}
	}()
	puts := make([]time.Duration, 0, b.N)
	start := time.Now()
	for i := range b.N {
		for time.Since(start) < time.Duration(i)*every {
			time.Sleep(every)
		}
		before := time.Now()
		if _, err := x.Put(b.Context(), line); err != nil {
			b.Fatal(err)
		}
		puts = append(puts, time.Since(before))
	}
	<-done
	slices.Sort(puts)
	slices.Sort(through)
	for name, all := range map[string][]time.Duration{"put": puts, "through": through} {
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), name+"-p99-µs")
		b.ReportMetric(float64(all[len(all)-1].Microseconds()), name+"-max-µs")
	}
}
