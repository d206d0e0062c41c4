package vaultaudit

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// writeRecording writes about size bytes of recorded entries to path, each repetition
// with request ids of its own, and returns how many lines and bytes they are.
func writeRecording(tb testing.TB, path string, size int) (lines, written int) {
	tb.Helper()
	recorded := recordedLines(tb, "openbao-audit-small.jsonl")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	const mark = `"request":{"id":"`
	for k := 0; written < size; k++ {
		for _, l := range recorded {
			if i := bytes.Index(l, []byte(mark)); i >= 0 && len(l) > i+len(mark)+8 {
				l = bytes.Clone(l)
				copy(l[i+len(mark):], fmt.Sprintf("%08x", k))
			}
			w.Write(l)
			w.WriteByte('\n')
			lines++
			written += len(l) + 1
		}
	}
	if err := w.Flush(); err != nil {
		tb.Fatal(err)
	}
	return lines, written
}

// BenchmarkIngest follows a file of recorded entries into a journal on disk, until
// the last event is durable.
func BenchmarkIngest(b *testing.B) {
	path := filepath.Join(b.TempDir(), "audit.log")
	lines, size := writeRecording(b, path, 200<<20)
	b.SetBytes(int64(size))
	var cpu time.Duration
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		j := openJournal(b, dir, event.Limits{})
		f, err := New(Config{Name: "bench", Inputs: []Input{{Name: "bench", Paths: []string{path}}}}, Deps{Journal: j})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		cpu -= cpuTime(b)
		b.StartTimer()
		go func() { done <- f.Run(ctx) }()
		for f.Stats().Lines < uint64(lines) {
			time.Sleep(time.Millisecond)
		}
		cancel() // Run returns when all of them are durable
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		cpu += cpuTime(b)
		if st := f.Stats(); st.Events < uint64(lines) || st.Lines != uint64(lines) {
			b.Fatalf("stats %+v", st)
		}
		if err := j.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		os.RemoveAll(dir)
		b.StartTimer()
	}
	b.ReportMetric(float64(lines)*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
	// Of both cores together, and whatever else the machine does meanwhile.
	b.ReportMetric(cpu.Seconds()*1e9/float64(size*b.N), "cpu-s/GB")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
