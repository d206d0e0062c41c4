package tail

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// BenchmarkTail reads a file in the page cache; the figure is the ceiling for
// whatever is done with the lines.
func BenchmarkTail(b *testing.B) {
	path := filepath.Join(b.TempDir(), "audit.log")
	const lines = 100_000
	text := bytes.Repeat(append(bytes.Repeat([]byte("x"), 1365), '\n'), lines)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		tl, err := New(Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		var batch Batch
		for n := 0; n < lines; n += len(batch.Lines) {
			if err := tl.Next(b.Context(), &batch); err != nil {
				b.Fatal(err)
			}
		}
		tl.Close()
	}
}

// BenchmarkIdle reports the share of one core that waiting for lines takes.
func BenchmarkIdle(b *testing.B) {
	path := filepath.Join(b.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("x\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	tl, err := New(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	defer tl.Close()
	const span = time.Second
	tl.idle = idleAfter
	before := cpuTime(b)
	n := 0
	for b.Loop() {
		n++
		ctx, cancel := context.WithTimeout(b.Context(), span)
		var batch Batch
		var err error
		for err == nil {
			err = tl.Next(ctx, &batch)
		}
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			b.Fatal(err)
		}
	}
	b.ReportMetric(100*float64(cpuTime(b)-before)/float64(n)/float64(span), "%core")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
