package falcoplugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// BenchmarkTwoGoPlugins is what it costs to ask two plugins in Go, in one process, about fields of
// the same events: in turn for each event, as an engine does that evaluates a condition, or each
// about many events at once. Docs: decision 0011.
func BenchmarkTwoGoPlugins(b *testing.B) {
	var plugins [2]*Plugin
	for i, name := range []string{"left", "right"} {
		path := buildWith(b, "json "+name, func(out string) *exec.Cmd {
			cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags", "-X main.name="+name, "-o", out, ".")
			cmd.Dir = "../../test/bench/testdata/jsonfields"
			cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=")
			return cmd
		})
		l, err := Load(path)
		if err != nil {
			b.Fatal(err)
		}
		plugins[i] = initPlugin(b, l, "")
	}
	payload := fmt.Sprintf(`{"verb":"create","user":{"name":"alice"},"pad":%q}`, strings.Repeat("some text ", 64))
	const count = 256
	var events []sourceplugin.Event
	for i := range count {
		events = append(events, sourceplugin.Event{Event: scapevent.Append(nil, 1, uint64(i+1), []byte(payload)), Number: uint64(i + 1), Source: "bench"})
	}
	want := []sourceplugin.FieldRequest{{Arg: "verb", ArgPresent: true}, {Arg: "user/name", ArgPresent: true}}
	extract := func(b *testing.B, p *Plugin, events []sourceplugin.Event) {
		v, err := p.Extract(context.Background(), events, want) // in this goroutine: it cannot be cancelled
		if err != nil || len(v.Lengths) != 2*len(events) {
			b.Fatal(err, len(v.Lengths))
		}
	}
	rate := func(b *testing.B, n int) { b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s") }
	b.Run("one plugin, one event a call", func(b *testing.B) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		n := 0
		for b.Loop() {
			extract(b, plugins[0], events[n%count:n%count+1])
			n++
		}
		rate(b, n)
	})
	b.Run("in turn, on one thread", func(b *testing.B) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		n := 0
		for b.Loop() {
			for _, p := range plugins {
				extract(b, p, events[n%count:n%count+1])
			}
			n++
		}
		rate(b, n)
	})
	b.Run("in turn, each on a thread of its own", func(b *testing.B) {
		var asks [2]chan int
		var wg sync.WaitGroup
		done := make(chan struct{})
		for i := range asks {
			asks[i] = make(chan int)
			wg.Go(func() {
				runtime.LockOSThread()
				for at := range asks[i] {
					extract(b, plugins[i], events[at:at+1])
					done <- struct{}{}
				}
			})
		}
		n := 0
		for b.Loop() {
			for i := range asks {
				asks[i] <- n % count
				<-done
			}
			n++
		}
		rate(b, n)
		for i := range asks {
			close(asks[i])
		}
		wg.Wait()
	})
	b.Run("in turn, on any thread", func(b *testing.B) {
		n := 0
		for b.Loop() {
			for _, p := range plugins {
				extract(b, p, events[n%count:n%count+1])
			}
			n++
		}
		rate(b, n)
	})
	b.Run("256 events a call, on one thread", func(b *testing.B) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		n := 0
		for b.Loop() {
			for _, p := range plugins {
				extract(b, p, events)
			}
			n += count
		}
		rate(b, n)
	})
}
