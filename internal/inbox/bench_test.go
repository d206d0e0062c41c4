package inbox

import (
	"bytes"
	"runtime"
	"testing"
)

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
	s := x.Stats()
	b.ReportMetric(float64(s.Syncs), "syncs")
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
