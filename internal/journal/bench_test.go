package journal

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/tocsin-events/tocsin/event"
)

const benchEventBytes = 700

// incompressible returns n events of 700 bytes altogether, whose payload is random.
func incompressible(n int) []*event.Event {
	events := make([]*event.Event, n)
	for i := range events {
		e := &event.Event{
			ID: fmt.Sprintf("01890a5d-ac96-774b-bcce-%012d", i), Type: "bench/event", Source: "bench://source",
			Path: "bench/path", Time: time.Unix(1700000000, int64(i)), DataContentType: "application/octet-stream",
		}
		e.Data = make([]byte, benchEventBytes-e.Size())
		_, _ = rand.Read(e.Data)
		events[i] = e
	}
	return events
}

func openBench(b *testing.B) *Journal {
	b.Helper()
	j, err := Open(context.Background(), Config{Dir: b.TempDir(), Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = j.Close(context.Background()) })
	return j
}

// syncLoop is the limit: it writes 256 KiB and syncs, again and again.
type syncLoop struct {
	file  *os.File
	chunk []byte
	bytes int64
	took  time.Duration
}

func newSyncLoop(b *testing.B) *syncLoop {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "sync"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	l := &syncLoop{file: f, chunk: make([]byte, 256<<10)}
	_, _ = rand.Read(l.chunk)
	return l
}

func (l *syncLoop) write(b *testing.B, bytes int) {
	b.Helper()
	start := time.Now()
	for ; bytes > 0; bytes -= len(l.chunk) {
		if _, err := l.file.Write(l.chunk); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
			b.Fatal(err)
		}
		l.bytes += int64(len(l.chunk))
	}
	l.took += time.Since(start)
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rate is in bytes per second.
func (l *syncLoop) rate() float64 { return float64(l.bytes) / l.took.Seconds() }

// BenchmarkAppendPipelined is one producer that does not wait for each event. It
// takes turns with the sync loop, because what the disk does changes from second to
// second.
func BenchmarkAppendPipelined(b *testing.B) {
	j := openBench(b)
	ctx := context.Background()
	events := incompressible(1024)
	limit := newSyncLoop(b)
	b.SetBytes(benchEventBytes)
	const turn = 64 << 20 / benchEventBytes
	var cpu time.Duration
	b.ResetTimer()
	for done := 0; done < b.N; {
		n := min(b.N-done, turn)
		before := cpuTime()
		var last *Receipt
		var err error
		for i := range n {
			if last, err = j.Submit(ctx, events[i%len(events)]); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := last.Wait(ctx); err != nil {
			b.Fatal(err)
		}
		done += n
		b.StopTimer()
		cpu += cpuTime() - before
		limit.write(b, n*benchEventBytes)
		b.StartTimer()
	}
	b.StopTimer()
	rate := float64(b.N) * benchEventBytes / b.Elapsed().Seconds()
	b.ReportMetric(rate/limit.rate(), "of-sync-loop")
	b.ReportMetric(limit.rate()/1e6, "limit-MB/s")
	b.ReportMetric(cpu.Seconds()/(float64(b.N)*benchEventBytes/1e9), "cpu-s/GB")
	b.ReportMetric(float64(b.N)/float64(j.End().Seq), "events/record")
}

// BenchmarkAppend1000Waiting is 1,000 producers, each of which waits for every
// event.
func BenchmarkAppend1000Waiting(b *testing.B) {
	j := openBench(b)
	ctx := context.Background()
	events := incompressible(1024)
	b.SetBytes(benchEventBytes)
	var next atomic.Int64
	var producers sync.WaitGroup
	b.ResetTimer()
	for range 1000 {
		producers.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if _, err := j.Append(ctx, events[i%int64(len(events))]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	producers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(b.N)/float64(j.End().Seq), "events/record")
}

// BenchmarkOneMessagePerEvent is what the journal would be without batches: the
// same server with the same synced writes, a message per event, 1,024 under way.
func BenchmarkOneMessagePerEvent(b *testing.B) {
	j := openBench(b)
	events := incompressible(1024)
	js, err := jetstream.New(j.state, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchEventBytes)
	b.ResetTimer()
	for i := range b.N {
		if _, err := js.PublishAsync(streamSubject, events[i%len(events)].Data, jetstream.WithStallWait(time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkAppendPaced appends 1,000 single events a second, each from a producer of
// its own, and reports how long they wait.
func BenchmarkAppendPaced(b *testing.B) {
	j := openBench(b)
	ctx := context.Background()
	events := incompressible(1024)
	took := make([]time.Duration, b.N)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	var producers sync.WaitGroup
	b.ResetTimer()
	for i := range b.N {
		<-ticker.C
		producers.Go(func() {
			start := time.Now()
			if _, err := j.Append(ctx, events[i%len(events)]); err != nil {
				b.Error(err)
			}
			took[i] = time.Since(start)
		})
	}
	producers.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[b.N/2].Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds())/1e3, "p99-ms")
}

// BenchmarkRead reads records of about 256 KiB from the files, not from the
// cache.
func BenchmarkRead(b *testing.B) {
	j := openBench(b)
	ctx := context.Background()
	const perRecord = 256 << 10 / benchEventBytes
	events := incompressible(perRecord)
	const records = 256
	for range records {
		if _, err := j.Submit(ctx, events...); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := j.Append(ctx, events[0]); err != nil {
		b.Fatal(err)
	}
	end := j.End()
	b.SetBytes(int64(end.Ordinal) * benchEventBytes)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		j.records.expire(time.Now().Add(time.Hour))
		r := j.Read(Position{})
		for r.after != end {
			if _, err := r.Next(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
}
