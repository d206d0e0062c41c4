// Package everything is a plugin for tests that has all that a plugin can have.
package everything

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/plugin"
)

// Info is what the plugin says of itself.
var Info = plugin.Info{
	Name: "everything", Version: "1.2.3-rc1", Description: "Has everything", Contact: "nobody", ID: 1073742100, EventSource: "everything",
	AsyncNames: []string{"note"}, Progress: true, BatchEvents: 100,
	Fields: []plugin.Field{
		{Name: "e.n", Type: plugin.Uint64, Description: "The number"},
		{Name: "e.text", Type: plugin.Text, Description: "The payload", Display: "Text", Output: true},
		{Name: "e.even", Type: plugin.Bool, Description: "Whether the number is even"},
		{Name: "e.time", Type: plugin.AbsTime, Description: "When"},
		{Name: "e.since", Type: plugin.RelTime, Description: "So many seconds"},
		{Name: "e.addr", Type: plugin.IPAddr, Description: "An address"},
		{Name: "e.net", Type: plugin.IPNet, Description: "A network of one address"},
		{Name: "e.digits", Type: plugin.Text, List: true, Description: "The digits", Arg: plugin.Arg{Index: true}},
		{Name: "e.divides", Type: plugin.Bool, List: true, Description: "Whether the argument, or each of 1 to 3, divides it", Arg: plugin.Arg{Key: true, Index: true}},
		{Name: "e.addrs", Type: plugin.IPAddr, List: true, Description: "Addresses of both kinds"},
		{Name: "e.numbers", Type: plugin.Uint64, List: true, Description: "As many as the number, at most 2000"},
		{Name: "e.nul", Type: plugin.Text, Description: "A text with a NUL in it"},
		{Name: "e.none", Type: plugin.Text, Description: "Never there"},
		{Name: "e.of", Type: plugin.Text, Description: "The name and the event source of an event"},
		{Name: "e.bad", Type: plugin.Text, Description: "The argument; but a panic for \"panic\" and an error for \"error\"", Arg: plugin.Arg{Key: true, Required: true}},
	},
}

// Config is the config.
type Config struct {
	Prefix string `json:"prefix,omitempty"`
	Fail   string `json:"fail,omitempty"` // "init", "panic", "close", "destroy"
}

// Params are the params of a stream.
type Params struct {
	Count uint64 `json:"count"`
	Size  int    `json:"size,omitempty"`
	Note  uint64 `json:"note,omitempty"` // every so many there is an asynchronous event
	End   string `json:"end,omitempty"`  // "fail", "panic", "stay", "hang"
}

// New returns the plugin.
func New() *plugin.Plugin {
	return plugin.New(Info, func(_ context.Context, c Config) (*everything, error) {
		switch c.Fail {
		case "init":
			return nil, errors.New("told to fail: " + strings.Repeat("ä", 1000))
		case "panic":
			panic("told to panic")
		}
		p := &everything{fail: c.Fail}
		p.prefix.Store(&c.Prefix)
		return p, nil
	})
}

type everything struct {
	fail          string
	prefix        atomic.Pointer[string]
	given, opened atomic.Uint64
}

func (p *everything) Open(_ context.Context, params Params, _ []byte) (plugin.Stream, error) {
	if params.Count > 1e12 {
		return nil, errors.New("so many there are not")
	}
	slog.Info("A stream is opened.", "count", params.Count)
	p.opened.Add(1)
	return &stream{plugin: p, params: params}, nil
}

func (p *everything) OpenParams(context.Context) ([]plugin.OpenParam[Params], error) {
	return []plugin.OpenParam[Params]{{Params: Params{Count: 3}, Description: "three"}}, nil
}

func (p *everything) SetConfig(_ context.Context, c Config) error {
	if c.Fail != "" {
		return errors.New("that cannot be set")
	}
	p.prefix.Store(&c.Prefix)
	return nil
}

func (p *everything) Metrics() []plugin.Metric {
	return []plugin.Metric{{Name: "given", Value: float64(p.given.Load()), Monotonic: true}, {Name: "opened", Value: float64(p.opened.Load())}}
}

func (p *everything) String(e *plugin.Event) (string, error) {
	return fmt.Sprintf("%s%s of %d bytes", *p.prefix.Load(), e.Name, len(e.Data)), nil
}

func (p *everything) Close() error {
	switch p.fail {
	case "close":
		return errors.New("told to fail")
	case "destroy":
		panic("told to panic")
	}
	return nil
}

type stream struct {
	plugin *everything
	params Params
	at     atomic.Uint64
	extra  bool
}

func (s *stream) NextBatch(ctx context.Context, b *plugin.Batch) error {
	p := &s.params
	for !b.Full() {
		n := s.at.Load()
		if p.Note > 0 && n > 0 && n%p.Note == 0 && !s.extra {
			s.extra = true
			b.Add(plugin.Event{Time: time.Unix(int64(n), 0), Name: "note", Data: strconv.AppendUint(nil, n, 10)})
			continue
		}
		if n == p.Count {
			break
		}
		s.extra = false
		n++
		b.Append(time.Unix(int64(n), 5), func(data []byte) []byte {
			data = strconv.AppendUint(data, n, 10)
			for len(data) < p.Size {
				data = append(data, ' ')
			}
			return data
		})
		s.at.Store(n)
		s.plugin.given.Add(1)
	}
	if b.Len() > 0 || s.at.Load() < p.Count {
		return nil
	}
	switch p.End {
	case "fail":
		return errors.New("the stream broke")
	case "panic":
		panic("told to panic")
	case "stay":
		<-ctx.Done()
		return ctx.Err()
	case "hang":
		time.Sleep(30 * time.Second)
	}
	return io.EOF
}

func (s *stream) Progress() (float64, string) {
	at := s.at.Load()
	if s.params.Count == 0 {
		return 1, ""
	}
	return float64(at) / float64(s.params.Count), fmt.Sprintf("%d of %d", at, s.params.Count)
}

func (s *stream) Close() error { return nil }

func (p *everything) Extract(_ context.Context, e *plugin.Event, fields []plugin.Request) error {
	digits := strings.TrimSpace(string(e.Data))
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return nil
	}
	v4 := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
	v6 := netip.AddrFrom16([16]byte{0xfd, 15: byte(n)})
	for i := range fields {
		switch f := &fields[i]; f.Name {
		case "e.n":
			f.SetUint64(n)
			f.At(0, len(digits))
		case "e.text":
			f.SetText(string(e.Data))
		case "e.even":
			f.SetBool(n%2 == 0)
		case "e.time":
			f.SetTime(e.Time)
		case "e.since":
			f.SetDuration(time.Duration(n) * time.Second)
		case "e.addr":
			f.SetAddr(v4)
		case "e.net":
			f.SetPrefix(netip.PrefixFrom(v6, 128))
		case "e.digits":
			if !f.HasArg {
				f.SetText(strings.Split(digits, "")...)
			} else if f.Index < uint64(len(digits)) {
				f.SetText(digits[f.Index : f.Index+1])
			}
		case "e.divides":
			if !f.HasArg {
				f.SetBool(true, n%2 == 0, n%3 == 0)
			} else if d, err := strconv.ParseUint(f.Arg, 10, 64); err == nil && d > 0 {
				f.SetBool(n%d == 0)
			}
		case "e.addrs":
			f.SetAddr(v6, v4, v6)
		case "e.numbers":
			for k := range min(n, 2000) {
				f.SetUint64(k)
			}
		case "e.nul":
			f.SetText("a\x00" + digits)
		case "e.of":
			f.SetText(e.Name + "@" + e.Source)
		case "e.bad":
			switch f.Arg {
			case "panic":
				panic("told to panic")
			case "error":
				return errors.New("told to fail")
			}
			f.SetText(f.Arg)
		}
	}
	return nil
}
