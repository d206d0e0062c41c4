package plugintest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// counterOptions are those for the plugin that counts.
var counterOptions = Options{
	Config: `{"step":1}`, BadConfigs: []string{`{"step":13}`, `{"steps":1}`},
	Params: "1000", BadParams: []string{"x", "-1"},
	Events: 1000,
	Check: func(t testing.TB, events []plugin.Event) {
		for i, e := range events {
			if want := fmt.Sprintf(`{"n":%d}`, i+1); i < 1000 && string(e.Data) != want {
				t.Errorf("event %d is %s", i+1, e.Data)
				return
			}
		}
	},
	Values: map[string][]string{"count.n": {"1", "2"}, "count.digit[0]": {"(1)"}, "count.digit[1]": {"<NA>"}},
	Feed:   []plugin.Event{{Data: []byte(`{"n":7}`), Time: time.Unix(1, 0)}},
}

// flaws are what is wrong with the plugin that counts.
type flaws struct {
	losesLast, tooMany, neverEnds, changes, shares, losesInterrupted, ignoresContext, leaks, closeFails bool
	resumesAt, resumesBehind, noPositions, ackResets, positionPanics                                    bool
	takesAnyConfig, takesAnyParams, listsBad, listsTwice, openHangs                                     bool
	foreignPanics, foreignFails, wrongType, severalValues, remembers, wrongValue                        bool
	emptyText, textDepends, metricName, metricShrinks, version, configResets, busyFails, progressPanics bool

	host func(*sourceplugin.Batch)
}

type counterConfig struct {
	Step uint64 `json:"step,omitempty"`
}

func (c *counterConfig) SetDefaults() { c.Step = 1 }

// newCounter returns a plugin that counts from 1 to its params.
func newCounter(f flaws) *plugin.Plugin {
	info := plugin.Info{
		Name: "counter", Version: "1.0.0", Description: "Counts", ID: 999, EventSource: "count",
		Resumes: true, Progress: true, BatchEvents: 37, BatchTime: 20 * time.Millisecond,
		Fields: []plugin.Field{
			{Name: "count.n", Type: plugin.Uint64, Description: "The number"},
			{Name: "count.digit", Type: plugin.Text, List: true, Description: "Its digits", Arg: plugin.Arg{Index: true}},
			{Name: "count.is", Type: plugin.Bool, Description: "Whether it is the argument", Arg: plugin.Arg{Key: true, Required: true}},
			{Name: "count.time", Type: plugin.AbsTime, Description: "When"},
		},
	}
	if f.version {
		info.Version = "one"
	}
	return plugin.New(info, func(_ context.Context, c counterConfig) (*counter, error) {
		k := &counter{flaws: f}
		return k, k.SetConfig(context.Background(), c)
	})
}

type counter struct {
	flaws
	step    atomic.Uint64
	sent    atomic.Uint64
	opened  atomic.Uint64
	configs atomic.Uint64
	common  atomic.Uint64 // of streams that share it
	before  atomic.Uint64 // the number that was extracted before
	busy    sync.Mutex
}

func (k *counter) SetConfig(_ context.Context, c counterConfig) error {
	if (c.Step == 0 || c.Step == 13) && !k.takesAnyConfig {
		return fmt.Errorf("the step must not be %d", c.Step)
	}
	k.step.Store(c.Step)
	k.configs.Add(1)
	return nil
}

func (k *counter) Open(ctx context.Context, params string, resume []byte) (plugin.Stream, error) {
	last, err := strconv.ParseUint(params, 10, 32)
	if err != nil && !k.takesAnyParams {
		return nil, fmt.Errorf("the params must be a number, not %q", params)
	}
	s := &counting{k: k, last: last, next: 1}
	if resume != nil {
		at, err := strconv.ParseUint(string(resume), 10, 32)
		switch {
		case err != nil && k.positionPanics:
			panic(err)
		case err != nil || at > last:
			return nil, errors.New("the resume position is not one of this plugin")
		}
		switch s.next = at + 1; {
		case k.resumesAt:
			s.next--
		case k.resumesBehind:
			s.next++
		}
	}
	switch {
	case k.losesLast:
		s.last--
	case k.tooMany:
		s.last++
	case k.openHangs && ctx.Err() != nil:
		time.Sleep(5 * time.Second)
	}
	s.number, s.configs = k.opened.Add(1), k.configs.Load()
	if k.leaks {
		go func() { time.Sleep(20 * time.Second) }()
	}
	return s, nil
}

type counting struct {
	k               *counter
	last, next      uint64
	number, configs uint64
	at, acked       atomic.Uint64
}

func (s *counting) NextBatch(ctx context.Context, b *plugin.Batch) error {
	k := s.k
	if s.next > s.last {
		if k.neverEnds {
			<-ctx.Done()
			return ctx.Err()
		}
		return io.EOF
	}
	if k.configResets && s.configs != k.configs.Load() {
		s.configs, s.next = k.configs.Load(), 1
	}
	if k.ackResets && s.acked.Swap(0) > 0 {
		s.next++
	}
	for ; s.next <= s.last && !b.Full(); s.next += k.step.Load() {
		n := s.next
		switch {
		case k.losesInterrupted && ctx.Err() != nil:
			s.next++
			return ctx.Err()
		case k.ignoresContext && n == 1:
			time.Sleep(2500 * time.Millisecond)
		case k.changes:
			n += s.number
		case k.shares:
			if n == 1 {
				k.common.Store(0)
			}
			n = k.common.Add(1)
		}
		e := plugin.Event{Time: time.Unix(int64(n), 0), Data: fmt.Appendf(nil, `{"n":%d}`, n)}
		if n%10 == 0 && !k.noPositions {
			e.Position = strconv.AppendUint(nil, n, 10)
		}
		b.Add(e)
		k.sent.Add(1)
	}
	s.at.Store(s.next - 1)
	return nil
}

func (s *counting) Progress() (float64, string) {
	if s.k.progressPanics {
		panic("oh no")
	}
	return float64(s.at.Load()) / float64(s.last), fmt.Sprintf("%d of %d", s.at.Load(), s.last)
}

func (s *counting) Acknowledge(context.Context, []byte) error {
	s.acked.Store(1)
	return nil
}

func (s *counting) Close() error {
	if s.k.closeFails {
		return errors.New("it does not want to")
	}
	return nil
}

func (k *counter) OpenParams(context.Context) ([]plugin.OpenParam[string], error) {
	list := []plugin.OpenParam[string]{{Params: "10", Description: "up to ten"}, {Params: "20"}}
	switch {
	case k.listsBad:
		list[1].Params = "none"
	case k.listsTwice:
		list[1].Params = "10"
	}
	return list, nil
}

func numberOf(e *plugin.Event) (uint64, bool) {
	var data struct{ N *uint64 }
	if json.Unmarshal(e.Data, &data) != nil || data.N == nil {
		return 0, false
	}
	return *data.N, true
}

func (k *counter) Extract(_ context.Context, e *plugin.Event, fields []plugin.Request) error {
	n, ok := numberOf(e)
	switch {
	case !ok && k.foreignPanics:
		panic("what is this")
	case !ok && k.foreignFails:
		return errors.New("what is this")
	case !ok:
		return nil
	case k.remembers:
		n += k.before.Swap(n)
	case k.wrongValue:
		n++
	}
	for i := range fields {
		switch f := &fields[i]; f.Name {
		case "count.n":
			f.SetUint64(n)
			if k.severalValues {
				f.SetUint64(n)
			}
		case "count.digit":
			if k.wrongType {
				f.SetUint64(n)
			}
			for j, digit := range strconv.FormatUint(n, 10) {
				if !f.HasArg || f.Index == uint64(j) {
					f.SetText(string(digit))
				}
			}
		case "count.is":
			f.SetBool(f.Arg == fmt.Sprint(n))
		case "count.time":
			f.SetTime(e.Time)
		}
	}
	return nil
}

func (k *counter) String(e *plugin.Event) (string, error) {
	if k.busyFails {
		if !k.busy.TryLock() {
			return "", errors.New("somebody else is here")
		}
		defer k.busy.Unlock()
		time.Sleep(100 * time.Microsecond)
	}
	n, ok := numberOf(e)
	switch {
	case !ok:
		return "no number", nil
	case k.emptyText:
		return "", nil
	case k.textDepends:
		return fmt.Sprint(k.before.Add(1)), nil
	}
	return fmt.Sprintf("number %d", n), nil
}

func (k *counter) Metrics() []plugin.Metric {
	m := plugin.Metric{Name: "sent", Value: float64(k.sent.Load()), Monotonic: true}
	switch {
	case k.metricName:
		m.Name = "sent events"
	case k.metricShrinks:
		m.Value = max(0, 10_000-m.Value)
	}
	return []plugin.Metric{m}
}
