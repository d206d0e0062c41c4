package alerting

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/trail"
)

const (
	// idle is how long the journal is waited for at once.
	idle = time.Second
	// starvedPause is the time after which a plugin is asked again.
	starvedPause = 250 * time.Millisecond
	// maxOut bounds the alerts that are appended at once.
	maxOut = 256
	// maxRepeats bounds the ids of alerts that are remembered at the start. The progress is stored
	// before there are half as many.
	maxRepeats = 200_000
	// firstRetry and lastRetry bound the pause before something is tried again.
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// begin finds out where to go on, and stores where that is the first time: a position that is not
// stored would be another one after a restart.
func (a *Alerting) begin(ctx context.Context) error {
	var known bool
	err := a.retry(ctx, "read back how far the rules were", func(ctx context.Context) (err error) {
		a.at, a.restored, known, err = a.state.load(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if !known {
		if !a.o.FromStart {
			a.at = a.end
		}
		err := a.retry(ctx, "store where the rules begin", func(ctx context.Context) error {
			return a.state.save(ctx, a.at, nil)
		})
		if err != nil {
			return err
		}
	}
	a.savedAt, a.pauseFor = a.o.now(), saveLeast
	a.measure()
	if err := a.recall(ctx); err != nil {
		return err
	}
	return a.findRepeats(ctx)
}

// findRepeats finds the alerts that are in the journal behind the cursor: what is judged again will
// raise them again.
func (a *Alerting) findRepeats(ctx context.Context) error {
	end := a.o.Journal.End()
	if end.IsZero() || !a.at.IsZero() && a.at.Compare(end) >= 0 {
		return nil
	}
	a.repeats, a.scanned = make(map[string]bool), end
	return a.alertsBetween(ctx, a.at, end, func(id string) {
		if len(a.repeats) < maxRepeats {
			a.repeats[strings.Clone(id)] = true
		}
	})
}

// alertsBetween calls found with the ids of the alerts that are in the journal behind one place, up
// to another.
func (a *Alerting) alertsBetween(ctx context.Context, at, end journal.Position, found func(id string)) error {
	reader := a.o.Journal.Read(at)
	for at.IsZero() || at.Compare(end) < 0 {
		b, err := reader.Next(ctx)
		var gap *journal.GapError
		switch {
		case errors.As(err, &gap):
			if gap.Next.Compare(end) > 0 {
				return nil
			}
			continue
		case err != nil:
			return err
		}
		for i := b.Start(); i < b.Len(); i++ {
			if e := b.Event(i); e.Source == a.o.Source && strings.HasPrefix(e.Type, severity.AlertTypes) {
				found(e.ID)
			}
		}
		at = b.End()
	}
	return nil
}

// retry does what the journal's storage may not do at the moment, until it does.
func (a *Alerting) retry(ctx context.Context, what string, try func(context.Context) error) error {
	for n := 0; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, saveTimeout)
		err := try(attempt)
		cancel()
		a.noteSaving(what, err)
		if err == nil || errors.Is(err, errRecord) {
			return err
		}
		if err := sleep(ctx, min(firstRetry<<min(n, 20), lastRetry)); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// noteSaving keeps for Health whether the progress can be stored.
func (a *Alerting) noteSaving(what string, err error) {
	if err == nil {
		a.saving.Store(nil)
		return
	}
	text := fmt.Sprintf("cannot %s: %v", what, err)
	a.saving.Store(&text)
	if skipped, ok := a.warnings.save.Allow(); ok {
		a.log.Warn("The progress of the rules cannot be stored or read.", "error", err, "skipped", skipped)
	}
}

// judge reads the journal until ctx ends.
func (a *Alerting) judge(ctx context.Context) error {
	reader := a.o.Journal.Read(a.at)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.swap(ctx); err != nil {
			return err
		}
		if a.run == nil || a.mustWait() {
			a.waitForRules(ctx)
			continue
		}
		b, err := a.nextRecord(ctx, reader)
		var gap *journal.GapError
		switch {
		case err == nil:
			if err := a.take(ctx, b); err != nil {
				return err
			}
		case errors.As(err, &gap):
			if err := a.miss(ctx, gap); err != nil {
				return err
			}
		case ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		default:
			return err
		}
		if err := a.advance(ctx); err != nil {
			return err
		}
		a.measure()
		a.tellMissed(false)
		if a.dirty && (a.unsaved >= maxRepeats/2 && a.saving.Load() == nil || a.o.now().Sub(a.savedAt) >= a.pauseFor) {
			a.save(ctx)
		}
	}
}

// nextRecord waits a moment for the next record, or until there are other rules.
func (a *Alerting) nextRecord(ctx context.Context, reader *journal.Reader) (*journal.Batch, error) {
	waitCtx, cancel := context.WithTimeout(ctx, a.idleTime())
	defer cancel()
	if !a.pausing(cancel) {
		return nil, context.Canceled
	}
	defer a.resumed()
	return reader.Next(waitCtx)
}

// idleTime is how long nothing has to be done if no record comes.
func (a *Alerting) idleTime() time.Duration {
	wait := idle
	if due, ok := a.run.Due(); ok && a.caughtUp() {
		wait = min(wait, max(due.Sub(a.o.now()), time.Millisecond))
	}
	return wait
}

// pausing has cancel called when there is another set of rules. It returns false if there is one.
func (a *Alerting) pausing(cancel context.CancelFunc) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pause = cancel
	return a.next == nil
}

func (a *Alerting) resumed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pause = nil
}

// waitForRules waits a moment for another set of rules.
func (a *Alerting) waitForRules(ctx context.Context) {
	waitCtx, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	if a.pausing(cancel) {
		<-waitCtx.Done()
	}
	a.resumed()
	a.measure()
}

// take judges a record. It returns an error only when there is no going on.
func (a *Alerting) take(ctx context.Context, b *journal.Batch) error {
	for from := b.Start(); from < b.Len(); {
		a.run.Lenient(a.lenient)
		before := a.run.Stats().Missing
		a.midway = true
		next, err := a.run.Record(ctx, b, from, func(alert *rule.Alert) error { return a.emit(ctx, alert) })
		var missing *fields.Missing
		switch {
		case err == nil:
		case errors.As(err, &missing) && ctx.Err() == nil:
		default:
			return err
		}
		if err := a.flush(ctx); err != nil {
			return err
		}
		a.midway = false
		if next > from {
			a.passed(b.Position(next-1), b.Recorded())
		}
		from = next
		if missing == nil {
			told := a.run.Told
			if a.payload {
				told = a.run.Fetched
			}
			if a.lenient && told() && a.run.Stats().Missing == before {
				a.fed(true)
			} else if !a.lenient {
				a.fed(false)
			}
			continue
		}
		if err := a.starve(ctx, missing); err != nil {
			return err
		}
		if err := a.swap(ctx); err != nil { // perhaps the rules ask for something else by now
			return err
		}
	}
	return nil
}

// passed notes that all alerts up to a place are durable.
func (a *Alerting) passed(at journal.Position, recorded time.Time) {
	a.at, a.last, a.dirty = at, recorded, true
	if a.repeats != nil && at.Compare(a.scanned) >= 0 {
		a.repeats = nil
	}
	a.stats.judged(a.run.Stats(), a.run.EventsOf())
}

// starve waits a moment for a plugin. When it has been waited for long enough, the rules go on
// without.
func (a *Alerting) starve(ctx context.Context, missing *fields.Missing) error {
	now := a.o.now()
	a.payload = missing.Payload
	if a.starved.IsZero() {
		a.starved = now
		a.setStarving(missing.Error(), now)
	}
	if now.Sub(a.starved) >= a.o.Patience {
		a.lenient = true
		a.setBlind(missing.Error())
		a.log.Error("Events are judged without a field of a plugin.", "field", missing.Field, "reason", missing.Reason, "waited", a.o.Patience)
		r := trail.Record{What: "rules-blind", Path: RulesPath, Operation: "judge", Error: missing.Error()}
		a.o.Record(r)
		return nil
	}
	a.measure()
	return sleep(ctx, starvedPause)
}

// fed notes that plugins answer, or again.
func (a *Alerting) fed(again bool) {
	if a.starved.IsZero() {
		return
	}
	a.starved, a.lenient = time.Time{}, false
	a.setStarving("", time.Time{})
	if again {
		a.log.Info("All fields of plugins are there again.")
		a.o.Record(trail.Record{What: "rules-sighted", Path: RulesPath, Operation: "judge"})
	}
}

// emit makes the event of an alert, to be appended soon.
func (a *Alerting) emit(ctx context.Context, alert *rule.Alert) error {
	if a.repeats[alert.ID] {
		delete(a.repeats, alert.ID)
		a.stats.repeats.Add(1)
		return nil
	}
	e, err := a.maker.event(alert, a.active.slugs[alert.Rule.Name])
	if err != nil {
		a.stats.failed.Add(1)
		if skipped, ok := a.warnings.alert.Allow(); ok {
			a.log.Error("An alert cannot be kept.", "rule", alert.Rule.Name, "error", err, "skipped", skipped)
		}
		return nil
	}
	a.out, a.raised = append(a.out, e), append(a.raised, raised{alert.Rule.Name, alert.Suppressed})
	a.outBytes += e.Size()
	if len(a.out) >= maxOut || a.outBytes >= a.o.Journal.MaxUnitBytes()/4 {
		return a.flush(ctx)
	}
	return nil
}

// flush makes alerts durable. It returns an error only when ctx ends or the journal is closed.
//
// What may be stored or not is looked for before it is appended again. The message ids of the
// journal's storage would not tell: a record of it has the events of many, and a repeat is in
// another one.
func (a *Alerting) flush(ctx context.Context) error {
	if len(a.out) == 0 {
		return nil
	}
	before, unknown := a.o.Journal.End(), false
	for n := 0; ; n++ {
		var err error
		if unknown {
			var stored bool
			if stored, err = a.isStored(ctx, before); stored {
				a.stats.repeats.Add(uint64(len(a.out)))
				break
			}
		}
		if err == nil {
			_, err = a.o.Journal.Append(ctx, a.out...)
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil || errors.Is(err, journal.ErrClosed) {
			return cmp.Or(ctx.Err(), err)
		}
		if !errors.Is(err, journal.ErrPushback) {
			if len(a.out) > 1 {
				return a.flushEach(ctx) // so that it costs no other
			}
			a.stats.failed.Add(1)
			a.log.Error("An alert cannot be kept.", "rule", a.raised[0].rule, "error", err)
			a.forget()
			return nil
		}
		a.noteSaving("append alerts", err)
		wait := min(firstRetry<<min(n, 20), lastRetry)
		var pushback *journal.PushbackError
		if errors.As(err, &pushback) {
			wait = max(firstRetry, min(pushback.RetryAfter, lastRetry))
			unknown = unknown || pushback.Unknown
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
	a.saving.Store(nil)
	a.unsaved += len(a.out)
	now := a.o.now()
	for _, r := range a.raised {
		a.stats.raised(r, now)
	}
	a.forget()
	return nil
}

// errAsks is why alerts are not appended again yet.
var errAsks = fmt.Errorf("%w: it is not known yet whether the alerts are stored", journal.ErrPushback)

// isStored says whether the alerts that are to be appended, of which all were or none, are in the
// journal behind a place. The error wraps [journal.ErrPushback] as long as nobody knows.
func (a *Alerting) isStored(ctx context.Context, before journal.Position) (stored bool, err error) {
	if !a.o.Journal.Accepts() {
		return false, errAsks
	}
	end := a.o.Journal.End()
	if end.IsZero() {
		return false, nil
	}
	err = a.alertsBetween(ctx, before, end, func(id string) { stored = stored || id == a.out[0].ID })
	return stored, err
}

func (a *Alerting) flushEach(ctx context.Context) error {
	out, about := a.out, a.raised
	for i := range out {
		a.out, a.raised = out[i:i+1], about[i:i+1]
		if err := a.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a *Alerting) forget() {
	a.out, a.raised, a.outBytes = nil, nil, 0
}

// advance tells what throttles have held back, if it is time for that.
func (a *Alerting) advance(ctx context.Context) error {
	if !a.caughtUp() {
		return nil // the events that come tell what time it is
	}
	if due, ok := a.run.Due(); !ok || a.o.now().Before(due) {
		return nil
	}
	a.midway = true
	if err := a.run.Advance(a.o.now(), func(alert *rule.Alert) error { return a.emit(ctx, alert) }); err != nil {
		return err
	}
	if err := a.flush(ctx); err != nil {
		return err
	}
	a.midway, a.dirty = false, true
	return nil
}

// caughtUp says that everything was judged that the journal has.
func (a *Alerting) caughtUp() bool {
	end := a.o.Journal.End()
	return end.IsZero() || !a.at.IsZero() && a.at.Ordinal >= end.Ordinal
}

// miss notes that events are gone that were not judged. It returns an error only when ctx ends or
// the journal is closed.
func (a *Alerting) miss(ctx context.Context, gap *journal.GapError) error {
	a.stats.missed.Add(gap.Events)
	a.missed.gaps++
	a.missed.events += gap.Events
	a.missed.cause = gap.Cause
	a.tellMissed(false)
	if end := a.o.Journal.End(); a.at.Compare(end) > 0 && errors.Is(gap.Cause, journal.ErrNotFound) {
		// It is another journal, or a copy from before, and is read from its beginning.
		a.at, a.dirty = journal.Position{}, true
		return a.findRepeats(ctx)
	}
	return nil
}

// tellMissed tells of gaps that were not told yet: rules that are overtaken by retention meet one
// after the other. The last time is when no more are to come.
func (a *Alerting) tellMissed(last bool) {
	m := a.missed
	if m.gaps == 0 {
		return
	}
	if _, ok := a.warnings.gap.Allow(); !ok && !last {
		return
	}
	a.missed = missed{}
	a.log.Error("Events were removed from the journal before rules have judged them.", "events", m.events, "gaps", m.gaps, "error", m.cause)
	r := trail.Record{What: "rules-gap", Path: RulesPath, Operation: "judge", Error: "events were removed from the journal before rules have judged them"}
	r.Fields.Set("count", fmt.Sprint(m.events))
	a.o.Record(r)
}

// missed are gaps in what was judged.
type missed struct {
	gaps, events uint64
	cause        error // of the last one
}

// save stores the cursor with what windows and throttles know. It is no error for who judges when
// that does not work: it is tried again, and told by Health.
func (a *Alerting) save(ctx context.Context) {
	if a.run == nil || a.midway {
		return
	}
	begun := a.o.now()
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	err := a.state.save(ctx, a.at, a.memory())
	if err == nil && a.unkept {
		a.mu.Lock()
		k := a.kept
		a.mu.Unlock()
		if err = a.state.keep(ctx, k); err == nil {
			a.unkept = false
		}
	}
	a.noteSaving("store how far the rules are", err)
	a.savedAt = a.o.now()
	a.pauseFor = savePause(a.savedAt.Sub(begun))
	if err == nil {
		a.dirty, a.unsaved = false, 0
		if a.o.saved != nil {
			a.o.saved(a.at)
		}
	}
}

// measure notes how far behind the rules are.
func (a *Alerting) measure() {
	end, at := ordinal(a.o.Journal.End()), ordinal(a.at)
	lag := end - min(end, at)
	a.lag.LagEvents.Set(float64(lag))
	age := time.Duration(0)
	if lag > 0 && !a.last.IsZero() {
		age = max(0, a.o.now().Sub(a.last))
	}
	a.lag.LagSeconds.Set(age.Seconds())
	a.setLag(lag, age, a.at)
}

// ordinal is how many events there are up to a position.
func ordinal(p journal.Position) uint64 {
	if p.IsZero() {
		return 0
	}
	return p.Ordinal + 1
}
