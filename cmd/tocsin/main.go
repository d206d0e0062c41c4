// Command tocsin is event notifications and audit for infrastructure: see
// "tocsin help".
package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	_ "time/tzdata" // for rules.time_zone, where the system has no zones

	"github.com/tocsin-events/tocsin/internal/cli"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as it is under nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	// A closed standard output is an error of the write that meets it, so that a
	// hub in "tocsin dev | head" cleans up like any other.
	signal.Ignore(syscall.SIGPIPE)
	var hangups hangups
	go func() {
		for stopping := false; ; {
			switch s := <-signals; {
			case s == syscall.SIGHUP && hangups.wanted():
			case stopping:
				os.Exit(128 + int(s.(syscall.Signal))) // the second at once
			default:
				stopping = true
				cancel() // the first signal stops in good order
			}
		}
	}()
	os.Exit(cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Hangups: hangups.take}))
}

// hangups is where SIGHUP goes when a command wants it, as servers do; else it ends the
// program.
type hangups struct {
	mu    sync.Mutex
	taken chan struct{}
}

func (h *hangups) take() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taken = make(chan struct{}, 1)
	return h.taken
}

// wanted passes one on. One that was not looked at yet stands for all.
func (h *hangups) wanted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken == nil {
		return false
	}
	select {
	case h.taken <- struct{}{}:
	default:
	}
	return true
}
