// Command tocsin is event notifications and audit for infrastructure: see
// "tocsin help".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

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
	go func() {
		<-signals
		cancel() // the first signal stops in good order
		s := <-signals
		os.Exit(128 + int(s.(syscall.Signal))) // the second at once
	}()
	os.Exit(cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
