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

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/cli"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/source/plugin"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// pluginHost is the argument with which this program is the process of a native plugin.
const pluginHost = "plugin-host"

// hostPlugin is that process.
func hostPlugin() int {
	return cli.Run(context.Background(), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}

// noisePlugin is the source of a plugin with many events.
const noisePlugin = "test/bench/testdata/noise.c"

// nativePlugin compiles a plugin in C and starts it in a process of its own.
func nativePlugin(ctx context.Context, s settings, source string) (p sourceplugin.Plugin, stop func() error, err error) {
	library := filepath.Join(s.dir, "bench.so")
	if out, err := exec.CommandContext(ctx, "gcc", "-shared", "-fPIC", "-O2", "-o", library, source, "-lpthread").CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("compile the plugin: %w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	process, err := pluginprocess.Launch(ctx, pluginprocess.Options{Name: "bench", Command: self, Args: []string{pluginHost, library}, Logger: slog.New(slog.DiscardHandler)}, "")
	if err != nil {
		return nil, nil, err
	}
	return process, func() error { return process.Close(context.WithoutCancel(ctx)) }, nil
}

// streamed opens a stream without end and counts its events for a while.
func streamed(ctx context.Context, p sourceplugin.Plugin, d time.Duration, params string) (events int, took time.Duration, err error) {
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
		events += b.Count
	}
	return events, time.Since(start), nil
}

// nativeCounted measures how many events of 16 bytes per second a native plugin hands to the hub.
func nativeCounted(ctx context.Context, s settings) (ours, against float64, err error) {
	p, stop, err := nativePlugin(ctx, s, noisePlugin)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	n, took, err := streamed(ctx, p, s.window, "1000000000000 16")
	return float64(n) / took.Seconds(), 1_000_000, err
}

// staying is a plugin that a source cannot end.
type staying struct{ sourceplugin.Plugin }

func (staying) Close(context.Context) error { return nil }

// nativeDurable compares how many events with a payload of 700 bytes per second a source makes
// durable that a native plugin gives, with what the journal takes of the same events from one
// producer.
func nativeDurable(ctx context.Context, s settings) (ours, against float64, err error) {
	p, stop, err := nativePlugin(ctx, s, noisePlugin)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	j, done, err := openJournal(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	const payload = eventBytes
	const count = 250_000 // half a second or so
	origin := falcoevent.NewOrigin("bench", "", "", p.Describe())
	now := uint64(time.Now().UnixNano())
	same := func() *event.Event {
		var e event.Event
		origin.Set(&e, event.NewID(), scapevent.Append(nil, p.Describe().ID, now, noise(payload)))
		return &e
	}
	return alternate(s.window, func(time.Duration) (float64, error) {
		source := plugin.New(plugin.Config{
			Name: "bench", Params: fmt.Sprint(count, " ", payload), Restart: plugin.Never, MaxPause: time.Minute, MaxEvent: 20 << 20,
			StartTimeout: time.Minute, CallTimeout: time.Minute, StopTimeout: time.Minute, Limits: event.DefaultLimits,
		}, plugin.Deps{
			Launch:  func(context.Context) (sourceplugin.Plugin, error) { return staying{p}, nil },
			Journal: j, Logger: slog.New(slog.DiscardHandler),
		})
		if err := source.Run(ctx); err != nil {
			return 0, err
		}
		if status := source.Status(); status.Events != count {
			return 0, fmt.Errorf("%d events are durable instead of %d: %s", status.Events, count, status.LastError)
		}
		return count, nil
	}, pipelined(ctx, j, same))
}

// nativeExtract measures of how many events per second ten fields that are strings are extracted,
// a thousand events at a time.
func nativeExtract(ctx context.Context, s settings) (ours, against float64, err error) {
	p, stop, err := nativePlugin(ctx, s, "internal/falcoplugin/testdata/plugin.c")
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
