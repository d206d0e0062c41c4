package plugintest

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginlocal"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// A plugin without flaws passes, in both ways.
func TestGoodPlugin(t *testing.T) { Run(t, newCounter(flaws{}), counterOptions) }

// The part of a test that Run is called in may have a name that needs quoting.
func TestParts(t *testing.T) {
	t.Run("a part (of it), with + and more", func(t *testing.T) {
		Run(t, plugin.NewExtractor(plugin.Info{
			Name: "length", Version: "1.0.0", Description: "How long", ExtractSources: []string{"dice"},
			Fields: []plugin.Field{{Name: "length", Type: plugin.Uint64, Description: "How long the payload is"}},
		}, func(context.Context, string) (lengths, error) { return lengths{}, nil }), Options{
			Feed:   []plugin.Event{{Data: []byte("four")}, {Data: []byte("")}},
			Values: map[string][]string{"length": {"4", "0"}},
		})
	})
}

type lengths struct{}

func (lengths) Extract(_ context.Context, e *plugin.Event, fields []plugin.Request) error {
	for i := range fields {
		fields[i].SetUint64(uint64(len(e.Data)))
	}
	return nil
}

// A stream that does not end, and gives something else each time.
func TestEndless(t *testing.T) {
	Run(t, plugin.New(plugin.Info{Name: "clock", Version: "1.0.0", Description: "Ticks", ID: 999, EventSource: "clock"},
		func(context.Context, string) (clock, error) { return clock{}, nil }),
		Options{Endless: 20, Exclusive: true, Identity: func(plugin.Event) string { return "" }})
}

type clock struct{}

var clocks sync.Mutex

func (clock) Open(_ context.Context, _ string, _ []byte) (plugin.Stream, error) {
	if !clocks.TryLock() {
		return nil, fmt.Errorf("there is a stream already")
	}
	return &ticks{Stream: plugin.Push(func(ctx context.Context, emit func(plugin.Event) error) error {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				if err := emit(plugin.Event{Time: now, Data: []byte(now.String())}); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})}, nil
}

type ticks struct{ plugin.Stream }

func (s *ticks) Close() error {
	defer clocks.Unlock()
	return s.Stream.Close()
}

// A program that is no plugin is told as such, and one that misses options, too.
func TestMisuse(t *testing.T) {
	if _, err := (Program{Command: "/bin/true"}).launch(t.Context(), slog.New(slog.DiscardHandler), ""); err == nil || !strings.Contains(err.Error(), "before it was ready") && !strings.Contains(err.Error(), "docs/plugin-protocol.md") {
		t.Error(err)
	}
	about := sourceplugin.Description{Capabilities: sourceplugin.Capabilities{Source: true}}
	extractor := sourceplugin.Description{Capabilities: sourceplugin.Capabilities{Extract: true}}
	for _, tt := range []struct {
		o    Options
		d    *sourceplugin.Description
		want string
	}{
		{Options{}, &about, "set Options.Events"},
		{Options{Events: 1, Endless: 1}, &about, "set Options.Events"},
		{Options{Events: 1}, &extractor, "opens none"},
		{Options{}, &extractor, "set Options.Feed"},
		{Options{Events: 1, Values: map[string][]string{"a": nil}}, &about, "extracts none"},
		{Options{Events: 1}, &about, ""},
	} {
		err := tt.o.fit(tt.d)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.o, err, tt.want)
		}
	}
}

// A plugin with a flaw does not pass, and for the reason that it should not.
func TestBadPlugins(t *testing.T) {
	for name, tt := range map[string]struct {
		flaws flaws
		check string // that must fail
		want  string // and what it must say
	}{
		"loses the last":            {flaws{losesLast: true}, "events", "has 999 events, and Options.Events is 1000"},
		"too many":                  {flaws{tooMany: true}, "events", "has 1001 events"},
		"never ends":                {flaws{neverEnds: true}, "events", "the stream has not ended"},
		"changes":                   {flaws{changes: true}, "the same again", "number 1 is"},
		"shares streams":            {flaws{shares: true}, "two streams", "one of two streams"},
		"loses when interrupted":    {flaws{losesInterrupted: true}, "interrupted", "gives up and comes back"},
		"ignores its context":       {flaws{ignoresContext: true}, "interrupted", "although its context ended at once"},
		"leaks goroutines":          {flaws{leaks: true}, "events", "goroutines are left behind"},
		"Close fails":               {flaws{closeFails: true}, "close", "Close of a stream: it does not want to"},
		"resumes at":                {flaws{resumesAt: true}, "resume", "a stream that was resumed behind"},
		"resumes behind":            {flaws{resumesBehind: true}, "resume", "a stream that was resumed behind"},
		"gives no positions":        {flaws{noPositions: true}, "resume", "has no resume position"},
		"forgets the acknowledged":  {flaws{ackResets: true}, "acknowledgements", "stopped and resumed again and again"},
		"panics at positions":       {flaws{positionPanics: true}, "foreign positions", "panic in Open"},
		"takes bad configs":         {flaws{takesAnyConfig: true}, "configs", `the config "{\"step\":13}" is accepted`},
		"takes bad params":          {flaws{takesAnyParams: true}, "params", `a stream with the params "x" is accepted`},
		"lists bad params":          {flaws{listsBad: true}, "listed params", `the listed params "none"`},
		"lists params twice":        {flaws{listsTwice: true}, "listed params", "are listed twice"},
		"panics at foreign events":  {flaws{foreignPanics: true}, "foreign events", "panic in Extract"},
		"fails at foreign events":   {flaws{foreignFails: true}, "foreign events", "event 1: what is this"},
		"wrong type":                {flaws{wrongType: true}, "fields", "was set to one of type uint64"},
		"several values":            {flaws{severalValues: true}, "fields", "is no list"},
		"values of another event":   {flaws{remembers: true}, "fields", "alone, and"},
		"wrong value":               {flaws{wrongValue: true}, "fields", `the field count.n of event 1 is "2", want "1"`},
		"empty text":                {flaws{emptyText: true}, "texts", `event 1 has the text ""`},
		"text depends":              {flaws{textDepends: true}, "texts", "and among others"},
		"name of a metric":          {flaws{metricName: true}, "metrics", "letters, digits and _"},
		"metric shrinks":            {flaws{metricShrinks: true}, "metrics", "declared to grow only"},
		"version":                   {flaws{version: true}, "description", "MAJOR.MINOR.PATCH"},
		"config breaks streams":     {flaws{configResets: true}, "another config", "config was set to what it was"},
		"races":                     {flaws{busyFails: true}, "all at once", "somebody else is here"},
		"hangs when it is opened":   {flaws{openHangs: true}, "close without reading", "has not returned"},
		"panics at progress":        {flaws{progressPanics: true}, "progress", "panic in Progress"},
		"batches of another plugin": {flaws{host: func(b *sourceplugin.Batch) { b.Events[26+8]++ }}, "events", "has the plugin id"},
		"malformed batches":         {flaws{host: func(b *sourceplugin.Batch) { b.Events[20]++ }}, "events", "malformed event"},
		"wrong counts":              {flaws{host: func(b *sourceplugin.Batch) { b.Count++ }}, "events", "says that it has"},
		"events without a time":     {flaws{host: func(b *sourceplugin.Batch) { copy(b.Events, "\xff\xff\xff\xff\xff\xff\xff\xff") }}, "events", "has no time"},
		"drops without a reason":    {flaws{host: func(b *sourceplugin.Batch) { b.Dropped++ }}, "events", "the reason for events that are left out has no text"},
		"too long positions":        {flaws{host: func(b *sourceplugin.Batch) { b.Position = make([]byte, 1<<17) }}, "events", "a resume position has 131072 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			launch := func(ctx context.Context, _ *slog.Logger, config string) (sourceplugin.Plugin, error) {
				p, err := pluginlocal.Launch(ctx, newCounter(tt.flaws), config)
				if err == nil && tt.flaws.host != nil {
					p = tampered{p, tt.flaws.host}
				}
				return p, err
			}
			o := counterOptions
			o.Patience, o.Prompt = 6*time.Second, time.Second
			for _, c := range checks() {
				if c.name != tt.check {
					continue
				}
				r := &recorder{TB: t, ctx: t.Context()}
				r.try(func() { c.try(r, o, launch) })
				if said := strings.Join(r.failures, "\n"); !strings.Contains(said, tt.want) {
					t.Errorf("the check %q says %.2000q, want %q", c.name, said, tt.want)
				}
				return
			}
			t.Fatalf("there is no check %q", tt.check)
		})
	}
}

// tampered is a plugin whose batches are changed on their way.
type tampered struct {
	sourceplugin.Plugin
	change func(*sourceplugin.Batch)
}

func (p tampered) Open(ctx context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	s, err := p.Plugin.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return tamperedStream{s, p.change}, nil
}

type tamperedStream struct {
	sourceplugin.Stream
	change func(*sourceplugin.Batch)
}

func (s tamperedStream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	err := s.Stream.Next(ctx, b)
	if b.Count > 0 {
		s.change(b)
	}
	return err
}

// recorder is a test whose failing is no failure.
type recorder struct {
	testing.TB
	ctx context.Context

	mu       sync.Mutex
	failures []string
	cleanups []func()
}

// try runs f as a test is run.
func (r *recorder) try(f func()) {
	guarded := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					r.Errorf("panic: %v", p)
				}
			}()
			f()
		}()
		<-done
	}
	guarded(f)
	for len(r.cleanups) > 0 {
		last := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		guarded(last)
	}
}

func (r *recorder) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Helper()                  {}

func (r *recorder) add(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, text)
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Log(...any)                        {}
func (r *recorder) Logf(string, ...any)               {}
func (r *recorder) Error(args ...any)                 { r.add(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.add(fmt.Sprintf(format, args...)) }
func (r *recorder) Fail()                             { r.add("failed") }
func (r *recorder) FailNow()                          { r.add("failed"); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))          // stacks of the panics of bad plugins
	if err := flag.Set("test.parallel", "12"); err != nil { // they wait most of the time
		panic(err)
	}
	os.Exit(m.Run())
}
