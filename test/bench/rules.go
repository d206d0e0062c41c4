package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/demo"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/rule/typical"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// judgeRate lets 50 typical rules judge the entries of the recorded audit log, none of which they
// are about: events per second of processor time.
func judgeRate(ctx context.Context, s settings) (ours, against float64, err error) {
	const wanted = 300_000
	j, err := newJudge(50)
	if err != nil {
		return 0, 0, err
	}
	defer j.run.Close()
	perEvent, err := j.measure(ctx, s.window)
	if err != nil {
		return 0, 0, err
	}
	return float64(time.Second) / perEvent, wanted, nil
}

// judgeMany compares the time that 1,000 rules take for an event with that of 50.
func judgeMany(ctx context.Context, s settings) (ours, against float64, err error) {
	few, err := newJudge(50)
	if err != nil {
		return 0, 0, err
	}
	defer few.run.Close()
	many, err := newJudge(1000)
	if err != nil {
		return 0, 0, err
	}
	defer many.run.Close()
	const turns = 3 // so that a moment in which the machine is slower concerns both
	for range turns {
		a, err := many.measure(ctx, s.window/turns)
		if err != nil {
			return 0, 0, err
		}
		b, err := few.measure(ctx, s.window/turns)
		if err != nil {
			return 0, 0, err
		}
		ours, against = ours+a/1e3/turns, against+b/1e3/turns
	}
	return ours, against, nil
}

// judge has rules and the entries of an audit log, in records as a journal has them.
type judge struct {
	run     *rule.Run
	records []entries
	events  int
}

type entries []*event.Event

func (e entries) Len() int                       { return len(e) }
func (e entries) Event(i int) *event.Event       { return e[i] }
func (e entries) Position(int) position.Position { return position.Position{} }

func newJudge(rules int) (*judge, error) {
	text, err := demo.Recording()
	if err != nil {
		return nil, err
	}
	translator := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "bench"})
	const perRecord = 64
	j := &judge{}
	for line := range bytes.Lines(text) {
		for _, e := range translator.Translate(nil, bytes.TrimSpace(line)) {
			if e.Type != vaultaudit.TypeRequest && e.Type != vaultaudit.TypeResponse {
				continue
			}
			if j.events%perRecord == 0 {
				j.records = append(j.records, nil)
			}
			last := &j.records[len(j.records)-1]
			*last = append(*last, e)
			j.events++
		}
	}
	set, report := rule.Compile([]load.File{{Name: "typical.yaml", Content: []byte(typical.Rules(rules))}}, rule.Options{})
	if set == nil {
		return nil, fmt.Errorf("the rules do not load: %s", report.Files[0].Errors[0].Message)
	}
	if len(set.Loaded()) != rules {
		return nil, fmt.Errorf("%d rules were loaded", len(set.Loaded()))
	}
	j.run, err = set.NewRun(rule.RunOptions{})
	return j, err
}

// measure returns the processor time for each event, in nanoseconds. More than one allocation for
// an event is an error.
func (j *judge) measure(ctx context.Context, window time.Duration) (float64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	from, start, n := processorTime(), time.Now(), 0
	for time.Since(start) < window {
		for _, rec := range j.records {
			if _, err := j.run.Record(ctx, rec, 0, func(*rule.Alert) error { return errors.New("a rule fits, but none should") }); err != nil {
				return 0, err
			}
		}
		n += j.events
	}
	used := processorTime() - from
	runtime.ReadMemStats(&after)
	if allocations := after.Mallocs - before.Mallocs; allocations > uint64(n) {
		return 0, fmt.Errorf("%d allocations for %d events that no rule fits", allocations, n)
	}
	return float64(used) / float64(n), nil
}

// processorTime is how long this process has used processors.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
