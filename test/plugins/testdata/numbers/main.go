// Command numbers is a source plugin for tests, made with package plugin: its stream counts from
// 1, or from behind its resume position, to the number that its params are.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/plugin"
	"github.com/tocsin-events/tocsin/plugin/serve"
)

func main() {
	serve.Main(plugin.New(plugin.Info{
		Name: "numbers", Version: "0.1.0", Description: "Counts", ID: 1_073_741_900, EventSource: "numbers",
		Resumes: true, Progress: true,
		BatchEvents: 20 + rand.N(200), // others at each start
	}, func(_ context.Context, config string) (*numbers, error) {
		if config == "bad" {
			return nil, errors.New("the config is bad")
		}
		return &numbers{}, nil
	}))
}

type numbers struct{ sent atomic.Uint64 }

func (n *numbers) Metrics() []plugin.Metric {
	return []plugin.Metric{{Name: "numbers", Monotonic: true, Value: float64(n.sent.Load())}}
}

func (n *numbers) Open(_ context.Context, params string, resume []byte) (plugin.Stream, error) {
	last, err := strconv.ParseUint(params, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("the params must be a number, not %q", params)
	}
	s := &stream{n: n, last: last}
	if resume != nil {
		s.at.Store(binary.BigEndian.Uint64(resume))
	}
	return s, nil
}

type stream struct {
	n    *numbers
	at   atomic.Uint64
	last uint64
}

var pad = strings.Repeat("some text ", 20)

func (s *stream) NextBatch(_ context.Context, b *plugin.Batch) error {
	at := s.at.Load()
	for ; !b.Full() && at < s.last; at++ {
		b.Append(time.Time{}, func(data []byte) []byte { return fmt.Appendf(data, `{"n":%d,"pad":"%s"}`, at+1, pad) })
	}
	if b.Len() == 0 {
		return io.EOF
	}
	b.SetPosition(binary.BigEndian.AppendUint64(nil, at))
	s.at.Store(at)
	s.n.sent.Add(uint64(b.Len()))
	return nil
}

func (s *stream) Progress() (float64, string) {
	at := s.at.Load()
	return float64(at) / float64(s.last), fmt.Sprintf("%d of %d", at, s.last)
}

func (s *stream) Close() error { return nil }
