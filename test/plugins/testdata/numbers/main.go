// Command numbers is a source plugin for tests: a process that speaks the plugin protocol, whose
// stream counts from 1, or from behind its resume position, to the number that its params are.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const id = 1_073_741_900

func main() {
	os.Exit(pluginwire.Main(pluginwire.Offer{
		Description: &sourceplugin.Description{
			Name: "numbers", Version: "0.1.0", Description: "Counts", ID: id, EventSource: "numbers",
			Capabilities: sourceplugin.Capabilities{Source: true, Resume: true, Progress: true, Metrics: true},
		},
		Init: func(_ context.Context, config string) (sourceplugin.Plugin, error) {
			if config == "bad" {
				return nil, fmt.Errorf("the config is bad")
			}
			return &numbers{}, nil
		},
	}))
}

type numbers struct {
	mu   sync.Mutex
	sent int
}

func (*numbers) Describe() *sourceplugin.Description { return nil } // the offer has it
func (*numbers) OpenParams(context.Context) ([]sourceplugin.OpenParam, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (*numbers) Strings(context.Context, []sourceplugin.Event) ([]string, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (*numbers) Extract(context.Context, []sourceplugin.Event, []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
	return sourceplugin.Values{}, sourceplugin.ErrNotSupported
}
func (*numbers) SetConfig(context.Context, string) error { return sourceplugin.ErrNotSupported }
func (*numbers) Close(context.Context) error             { return nil }

func (n *numbers) Metrics(context.Context) ([]sourceplugin.Metric, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return []sourceplugin.Metric{{Name: "numbers", Monotonic: true, Value: float64(n.sent)}}, nil
}

func (n *numbers) Open(_ context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	last, err := strconv.Atoi(o.Params)
	if err != nil {
		return nil, fmt.Errorf("the params must be a number, not %q", o.Params)
	}
	s := &stream{n: n, last: last, size: 20 + rand.N(200)}
	if o.Resume != nil {
		s.at = int(binary.BigEndian.Uint64(o.Resume))
	}
	return s, nil
}

// stream makes batches of another size at each start.
type stream struct {
	n        *numbers
	size     int
	at, last int // guarded by n.mu
}

var pad = strings.Repeat("some text ", 20)

func (s *stream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	b.Reset()
	b.Position = nil
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	if s.at >= s.last {
		return io.EOF
	}
	for range min(s.size, s.last-s.at) {
		s.at++
		b.Events = scapevent.Append(b.Events, id, uint64(time.Now().UnixNano()), fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, s.at, pad))
		b.Count++
	}
	s.n.sent += b.Count
	b.Position = binary.BigEndian.AppendUint64(nil, uint64(s.at))
	return ctx.Err()
}

func (s *stream) Acknowledge(context.Context, []byte) error { return nil }
func (s *stream) Close(context.Context) error               { return nil }
func (s *stream) Progress(context.Context) (sourceplugin.Progress, error) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	return sourceplugin.Progress{Fraction: float64(s.at) / float64(s.last), Text: fmt.Sprintf("%d of %d", s.at, s.last)}, nil
}
