package ruletest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// player plays the steps of a test.
type player struct {
	ctx         context.Context
	run         *rule.Run
	plugins     []*sourceplugin.Description // whose captures are known
	now         time.Time                   // zero until the first event or step of time, if the test has no start
	translators map[string]*vaultaudit.Translator
	requests    int
	ids         int
	events      int
	batch       record // events that were not judged yet
	seq         uint64
	alerts      []*rule.Alert // that were not looked at yet
}

// maxBatch bounds a record.
const maxBatch = 256

// record is some events, as if they had been stored together.
type record struct {
	seq    uint64
	events []*event.Event
}

func (r *record) Len() int                 { return len(r.events) }
func (r *record) Event(i int) *event.Event { return r.events[i] }
func (r *record) Position(i int) position.Position {
	return position.Position{Seq: r.seq, Index: uint32(i)}
}

// time returns what time it is.
func (p *player) time() time.Time {
	if p.now.IsZero() {
		p.now = DefaultStart
	}
	return p.now
}

// add takes an event. It is stored when it happens, or now if it is late.
func (p *player) add(e *event.Event) error {
	if p.events++; p.events > maxEvents {
		return fmt.Errorf("a test has at most %d events", maxEvents)
	}
	if e.Time.After(p.now) {
		p.now = e.Time
	}
	e.Recorded = p.now
	p.batch.events = append(p.batch.events, e)
	if len(p.batch.events) >= maxBatch {
		return p.judge()
	}
	return nil
}

// judge has the rules look at the events since the last time.
func (p *player) judge() error {
	if len(p.batch.events) == 0 {
		return nil
	}
	p.seq++
	rec := &record{p.seq, p.batch.events}
	p.batch.events = nil
	_, err := p.run.Record(p.ctx, rec, 0, p.raised)
	return err
}

var errManyAlerts = errors.New("a test raises too many alerts")

func (p *player) raised(a *rule.Alert) error {
	if len(p.alerts) >= maxAlerts {
		return errManyAlerts
	}
	p.alerts = append(p.alerts, a)
	return nil
}

// pass has time pass, as if nothing happened in it.
func (p *player) pass(to time.Time) error {
	if err := p.judge(); err != nil {
		return err
	}
	p.now = to
	return p.run.Advance(to, p.raised)
}

// run runs a test. The error is about what cannot be run.
func (t *test) run(ctx context.Context, f *file, set *rule.Set, o Options) (TestResult, error) {
	res := TestResult{Name: t.name, Line: t.at, Passed: true, raised: map[string]bool{}}
	run, err := set.NewRun(o.Run)
	if err != nil {
		return res, f.errorf(t.at, "%w", err)
	}
	defer run.Close()
	p := &player{ctx: ctx, run: run, plugins: o.Compile.Plugins, now: t.start, translators: map[string]*vaultaudit.Translator{}}
	for i := range t.steps {
		s := &t.steps[i]
		if err := t.step(p, s, &res, f); err != nil {
			if ctx.Err() != nil {
				return res, ctx.Err()
			}
			res.Passed = false
			res.Failures = append(res.Failures, Failure{Line: s.at, Message: err.Error()})
			break
		}
	}
	res.Events = p.events
	return res, nil
}

func (t *test) step(p *player, s *step, res *TestResult, f *file) error {
	if s.after > 0 {
		if err := p.pass(p.time().Add(s.after)); err != nil {
			return err
		}
	}
	if !s.time.IsZero() {
		if !p.now.IsZero() && s.time.Before(p.now) {
			return fmt.Errorf("at: it is %s already", p.now.UTC().Format(time.RFC3339Nano))
		}
		if err := p.pass(s.time); err != nil {
			return err
		}
	}
	if s.input != nil {
		for n := range s.times {
			if n > 0 && s.every > 0 {
				if err := p.pass(p.time().Add(s.every)); err != nil {
					return err
				}
			}
			if err := s.input(p, n+1); err != nil {
				return err
			}
			if err := p.ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	}
	if s.expect == nil {
		return nil
	}
	if err := p.judge(); err != nil {
		return err
	}
	res.Alerts += len(p.alerts)
	failures := s.expect.judge(p.alerts, p.run.Set(), f.location)
	if len(failures) > 0 {
		res.Passed = false
		res.Failures = append(res.Failures, failures...)
	}
	for _, x := range s.expect.alerts {
		if x.count > 0 {
			res.raised[x.rule] = true
		}
	}
	p.alerts = nil
	return nil
}
