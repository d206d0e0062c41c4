package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/tocsin-events/tocsin/internal/cli"
	"github.com/tocsin-events/tocsin/internal/pluginclient"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// pluginHost is the argument with which this program is the process of a native plugin.
const pluginHost = "plugin-host"

// hostPlugin is that process.
func hostPlugin() int {
	return cli.Run(context.Background(), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}

// nativePlugin compiles a plugin in C and starts it in a process of its own.
func nativePlugin(ctx context.Context, s settings) (p sourceplugin.Plugin, stop func() error, err error) {
	library := filepath.Join(s.dir, "bench.so")
	if out, err := exec.CommandContext(ctx, "gcc", "-shared", "-fPIC", "-O2", "-o", library, "internal/falcoplugin/testdata/plugin.c", "-lpthread").CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("compile the plugin: %w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	process, err := pluginclient.Start(ctx, pluginclient.Options{Name: "bench", Command: self, Args: []string{pluginHost, library}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	if p, err = process.Init(ctx, ""); err != nil {
		return nil, nil, errors.Join(err, process.Close(ctx))
	}
	return p, func() error { return process.Close(context.WithoutCancel(ctx)) }, nil
}

// streamed opens a stream without end and hands over its batches for a while.
func streamed(ctx context.Context, p sourceplugin.Plugin, d time.Duration, params string, each func(*sourceplugin.Batch) error) (events int, took time.Duration, err error) {
	stream, err := p.Open(ctx, sourceplugin.Open{Params: params})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stream.Close(ctx)) }()
	var b sourceplugin.Batch
	start := time.Now()
	for time.Since(start) < d {
		if err := stream.Next(ctx, &b); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the stream has ended")
			}
			return 0, 0, err
		}
		if err := each(&b); err != nil {
			return 0, 0, err
		}
		events += b.Count
	}
	return events, time.Since(start), nil
}

// nativeCounted measures how many events of 16 bytes per second a native plugin hands to the hub.
func nativeCounted(ctx context.Context, s settings) (ours, against float64, err error) {
	p, stop, err := nativePlugin(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	n, took, err := streamed(ctx, p, s.window, "count;count=1000000000000;size=16;batch=128", func(*sourceplugin.Batch) error { return nil })
	return float64(n) / took.Seconds(), 1_000_000, err
}

// nativeExtract measures of how many events per second ten fields that are strings are extracted,
// a thousand events at a time.
func nativeExtract(ctx context.Context, s settings) (ours, against float64, err error) {
	p, stop, err := nativePlugin(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var fields []sourceplugin.FieldRequest
	for i, f := range p.Describe().Fields {
		if len(f.Name) == len("t.s0") && f.Name[:3] == "t.s" {
			fields = append(fields, sourceplugin.FieldRequest{Index: i})
		}
	}
	if len(fields) != 10 {
		return 0, 0, fmt.Errorf("the plugin has %d fields instead of 10", len(fields))
	}
	const count = 1000
	events := make([]sourceplugin.Event, count)
	for i := range events {
		e := scapevent.Append(nil, p.Describe().ID, uint64(i), noise(eventBytes))
		events[i] = sourceplugin.Event{Event: e, Number: uint64(i + 1), Source: p.Describe().EventSource}
	}
	n := 0
	start := time.Now()
	for time.Since(start) < s.window {
		v, err := p.Extract(ctx, events, fields)
		if err != nil {
			return 0, 0, err
		}
		if len(v.Lengths) != count*len(fields) {
			return 0, 0, fmt.Errorf("%d values instead of %d", len(v.Lengths), count*len(fields))
		}
		n += count
	}
	return float64(n) / time.Since(start).Seconds(), 150_000, nil
}
