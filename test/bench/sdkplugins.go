package main

import (
	"context"
	"errors"

	"github.com/tocsin-events/tocsin/internal/pluginlocal"
	"github.com/tocsin-events/tocsin/plugin"
)

// sdkCounted measures how many events of 16 bytes per second a plugin of our SDK hands to a host
// in the same process.
func sdkCounted(ctx context.Context, s settings) (ours, against float64, err error) {
	info := plugin.Info{Name: "noise", Version: "1.0.0", ID: 999, EventSource: "noise"}
	p, err := pluginlocal.Launch(ctx, plugin.New(info, func(context.Context, struct{}) (counted, error) { return counted{}, nil }), "")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, p.Close(ctx)) }()
	n, took, err := streamed(ctx, p, s.window, "")
	return float64(n) / took.Seconds(), 3_000_000, err
}

// counted is a plugin whose events say nothing.
type counted struct{}

func (counted) Open(context.Context, struct{}, []byte) (plugin.Stream, error) { return counted{}, nil }

func (counted) NextBatch(_ context.Context, b *plugin.Batch) error {
	for payload := []byte("0123456789abcdef"); !b.Full(); {
		b.Add(plugin.Event{Data: payload})
	}
	return nil
}

func (counted) Close() error { return nil }
