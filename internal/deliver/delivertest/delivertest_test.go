package delivertest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// TestGoodSink: a sink without flaws passes.
func TestGoodSink(t *testing.T) { Run(t, flaws{}.harness()) }

// TestBadSinks: a sink with a flaw does not, and for the reason that it should not. Those that
// leave goroutines behind come first, because what others do would be found as well.
func TestBadSinks(t *testing.T) {
	check := func(t *testing.T, r *recorder, want string) {
		t.Helper()
		if !strings.Contains(strings.Join(r.failures, "\n"), want) {
			t.Errorf("the check says %.500q, want %q", r.failures, want)
		}
	}
	hurried := func(f flaws) Harness {
		h := f.harness()
		h.attempt, h.soon, h.patient = 250*time.Millisecond, 250*time.Millisecond, time.Second
		return h
	}
	for name, want := range map[string]string{"in order": "goroutines are left behind", "outages leave nothing behind": "goroutines after"} {
		t.Run("leaks goroutines/"+name, func(t *testing.T) {
			r := &recorder{TB: t, ctx: t.Context()}
			r.try(func() {
				runEach(r, map[string]Harness{"": hurried(flaws{leaks: true})}, func(part string, f func(testing.TB)) {
					if part == name {
						r.try(func() { f(r) })
					}
				})
			})
			check(t, r, want)
		})
	}
	const later = "want retry"
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, 4)
	for name, tt := range map[string]struct {
		flaws  flaws
		checks map[string]string // name of one that must fail, and what it must say
	}{
		"loses one":            {flaws{loses: true}, map[string]string{"in order": "want 123 in this order; number", "exactly once": "arrived 0 times"}},
		"reorders":             {flaws{reorders: true}, map[string]string{"in order": "in this order; number", "exactly once": "which the same sender sent earlier"}},
		"sends twice":          {flaws{twice: true}, map[string]string{"in order": "in this order; number", "exactly once": "arrived 2 times", "sent again": "20 events arrived, want 10"}},
		"mangles data":         {flaws{mangles: true}, map[string]string{"hostile events": "arrived as"}},
		"secret in a reason":   {flaws{leaksReason: true}, map[string]string{"receiver fails": "has a secret", "receiver hangs": "has a secret"}},
		"secret in the log":    {flaws{leaksLog: true}, map[string]string{"in order": "a log has a secret"}},
		"secret when printed":  {flaws{leaksPrint: true}, map[string]string{"secrets": "the printed sink has a secret"}},
		"secret in errors":     {flaws{leaksOf: true}, map[string]string{"secrets": "an error of New has a secret"}},
		"secret in options":    {flaws{leaksOf: true}, map[string]string{"secrets": "a printed struct { Key string } has a secret"}},
		"ignores the context":  {flaws{ignoresContext: true}, map[string]string{"cancel": "has not returned after", "receiver hangs": "has not returned after"}},
		"ignores Close":        {flaws{ignoresClose: true}, map[string]string{"close while it hangs": "whose sink is closed, has not returned"}},
		"lies":                 {flaws{lies: true}, map[string]string{"receiver fails": later, "receiver refuses": later, "receiver hangs": later, "one is refused": "is delivered"}},
		"blames another":       {flaws{blames: true}, map[string]string{"one is refused": "(the bad one: false) is refused", "too large": "(the bad one: false) is impossible"}},
		"blames all":           {flaws{blamesAll: true}, map[string]string{"one is refused": "(the bad one: false) is refused", "too large": "(the bad one: false) is impossible"}},
		"says refused is fine": {flaws{forgives: true}, map[string]string{"one is refused": "(the bad one: true) is delivered", "too large": "(the bad one: true) is delivered"}},
		"gives up":             {flaws{gives: true}, map[string]string{"receiver fails": "is refused", "receiver hangs": "is refused"}},
		"panics":               {flaws{panics: true}, map[string]string{"close": "Close panicked"}},
		"changes events":       {flaws{changes: true}, map[string]string{"events are shared": "was changed from"}},
		"gives no reason":      {flaws{silent: true}, map[string]string{"receiver fails": "retry has no reason"}},
		"two lines of reason":  {flaws{lines: true}, map[string]string{"receiver fails": "not one printable line"}},
		"sends after Close":    {flaws{sendsAfterClose: true}, map[string]string{"close": "after Close, event"}},
		"does not come back":   {flaws{staysDown: true}, map[string]string{"receiver fails": "cannot be delivered although the receiver works"}},
		"loses when synced":    {flaws{syncLoses: true}, map[string]string{"sync and reopen": "events arrived, want"}},
	} {
		for name2, want := range tt.checks {
			slots <- struct{}{}
			running.Go(func() {
				defer func() { <-slots }()
				t.Run(name+"/"+name2, func(t *testing.T) {
					r := &recorder{TB: t, ctx: t.Context()}
					r.try(func() { checkNamed(t, name2).try(r, hurried(tt.flaws)) })
					check(t, r, want)
				})
			})
		}
	}
}

func checkNamed(t *testing.T, name string) check {
	for _, c := range checks() {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("there is no check %q", name)
	return check{}
}

// TestModesAreAccountedFor: a mode cannot be forgotten.
func TestModesAreAccountedFor(t *testing.T) {
	for _, tt := range []struct {
		change func(*Harness)
		want   string
	}{
		{func(h *Harness) {}, ""},
		{func(h *Harness) { h.Modes = h.Modes[1:] }, `the mode "fails" is neither in Modes nor in Without`},
		{func(h *Harness) { h.Modes, h.Without = h.Modes[1:], map[Mode]string{Fails: ""} }, `the mode "fails" is neither`},
		{func(h *Harness) { h.Modes, h.Without = h.Modes[1:], map[Mode]string{Fails: "a pipe cannot"} }, ""},
		{func(h *Harness) { h.Without = map[Mode]string{Slow: "?"} }, `the mode "slow" is among`},
	} {
		h := flaws{}.harness()
		tt.change(&h)
		_, err := h.modes()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

// TestHostileEventsAreValid: what the suite sends may be in a journal.
func TestHostileEventsAreValid(t *testing.T) {
	limits := event.DefaultLimits
	limits.MaxEventBytes = 16 << 20
	seen := make(map[string]bool)
	items := append(Hostile(), Events(0, 30)...)
	for _, n := range []int{1000, 1 << 20} {
		items = append(items, largeEvent(0, n, true), largeEvent(1, n, false))
	}
	for _, s := range items {
		if err := limits.Check(s.Event); err != nil {
			t.Errorf("event %.80q: %v", s.Event.ID, err)
		}
		if seen[s.Event.ID] {
			t.Errorf("event %.80q is there twice", s.Event.ID)
		}
		seen[s.Event.ID] = true
		if b := asRead(s); !strings.HasPrefix(string(b), "{") {
			t.Errorf("event %.80q is read as %.80q", s.Event.ID, b)
		}
	}
	if n := len(largeEvent(0, 12345, true).Event.Data); n != 12345 {
		t.Errorf("%d bytes of data", n)
	}
}

// recorder is a test whose failing is no failure.
type recorder struct {
	testing.TB
	ctx context.Context

	mu       sync.Mutex
	failures []string
	skipped  bool
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

func (r *recorder) Error(args ...any)                 { r.add(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.add(fmt.Sprintf(format, args...)) }
func (r *recorder) Fail()                             { r.add("failed") }
func (r *recorder) FailNow()                          { r.add("failed"); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }
func (r *recorder) Skip(args ...any)                  { r.SkipNow() }
func (r *recorder) Skipf(string, ...any)              { r.SkipNow() }
func (r *recorder) SkipNow()                          { r.skipped = true; runtime.Goexit() }
