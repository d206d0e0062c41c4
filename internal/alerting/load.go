package alerting

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// Reason says why rules are loaded.
type Reason string

// The reasons.
const (
	reasonStart   Reason = "start"
	reasonFiles   Reason = "files"   // they have changed
	reasonPlugins Reason = "plugins" // other fields are known
	// ReasonSignal and ReasonRequest are for those who want it.
	ReasonSignal  Reason = "signal"
	ReasonRequest Reason = "request"
)

// ErrRefused is wrapped by the error of rules that have mistakes. Those from before stay.
var ErrRefused = errors.New("the rules are not loaded")

// Refusal is the error of rules that have mistakes. It wraps ErrRefused.
type Refusal struct {
	At time.Time
	// Problems are the mistakes: with file, line and column where they are in one.
	Problems []string
}

// maxProblems bounds Refusal.Problems.
const maxProblems = 20

func (r *Refusal) Error() string {
	text := ErrRefused.Error() + ": " + r.Problems[0]
	if n := len(r.Problems) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

// Unwrap returns ErrRefused.
func (r *Refusal) Unwrap() error { return ErrRefused }

// compiled is a set of rules with what belongs to it.
type compiled struct {
	set     *rule.Set
	slugs   map[string]string // by the names of rules
	print   [sha256.Size]byte // of the files
	files   int
	report  *load.Report
	plugins []*sourceplugin.Description
	silent  []string // sources whose plugins are not known
	reason  Reason
	who     trail.Who

	done chan struct{} // closed when it judges, or never will
	err  error         // why it never will; to be read when done is closed
}

// Loaded tells what a load has led to.
type Loaded struct {
	Files, Rules, Waiting, Warnings int
	// Unchanged says that neither files nor plugins are others than before.
	Unchanged bool
}

// Reload reads the files and has their rules judge from the next event on. It returns when they
// do, or when ctx ends, which does not take them back. The error is a [*Refusal] if the rules that
// were there before stay.
func (a *Alerting) Reload(ctx context.Context, reason Reason, who trail.Who) (Loaded, error) {
	a.loading.Lock()
	c, fresh, refused := a.loadFor(reason, who)
	a.loading.Unlock()
	if refused != nil {
		return Loaded{}, refused
	}
	result := Loaded{Files: c.files, Rules: len(c.set.Loaded()), Waiting: len(c.set.Waiting()), Warnings: c.report.Warnings(), Unchanged: !fresh}
	select {
	case <-c.done:
		return result, c.err
	case <-ctx.Done():
		return result, fmt.Errorf("the rules are compiled, but do not judge yet: %w", ctx.Err())
	}
}

// load is loadFor for nobody. The caller has the lock on loading.
func (a *Alerting) load(reason Reason) { a.loadFor(reason, trail.Who{}) }

// loadFor reads and compiles the files, and hands the rules to who judges. Without a change it
// returns the rules that are there. The caller has the lock on loading.
func (a *Alerting) loadFor(reason Reason, who trail.Who) (c *compiled, fresh bool, refused *Refusal) {
	files, err := readFiles(a.o.Paths)
	if err != nil {
		return nil, false, a.refuse(reason, who, []string{err.Error()})
	}
	files = append(a.o.Builtin[:len(a.o.Builtin):len(a.o.Builtin)], files...)
	known, silent := a.o.Fields.Plugins()
	if now := a.newest(); now != nil && now.print == fingerprint(files) && reflect.DeepEqual(now.plugins, known) && reflect.DeepEqual(now.silent, silent) {
		a.accept() // perhaps others were refused meanwhile
		return now, false, nil
	}
	o := a.o.Rules
	o.Plugins, o.Incomplete = known, len(silent) > 0
	set, report := rule.Compile(files, o)
	if !report.OK() {
		return nil, false, a.refuse(reason, who, problems(report))
	}
	c = &compiled{
		set: set, slugs: slugs(set.Rules()), print: fingerprint(files), files: len(files), report: report,
		plugins: known, silent: silent, reason: reason, who: who, done: make(chan struct{}),
	}
	a.hand(c)
	return c, true, nil
}

// problems returns the mistakes that a report tells.
func problems(report *load.Report) (list []string) {
	n := 0
	for _, f := range report.Files {
		for _, d := range f.Errors {
			if n++; n <= maxProblems {
				list = append(list, cut(d.Error(), 1<<10))
			}
		}
	}
	if n > maxProblems {
		list = append(list, fmt.Sprintf("and %d more", n-maxProblems))
	}
	return list
}

// refuse notes that rules are not loaded.
func (a *Alerting) refuse(reason Reason, who trail.Who, problems []string) *Refusal {
	r := &Refusal{At: a.o.now(), Problems: problems}
	a.mu.Lock()
	a.status.refused = r
	a.mu.Unlock()
	a.stats.refused.Add(1)
	a.log.Error("The rules are not loaded. Those from before stay.", "reason", string(reason), "problem", problems[0], "problems", len(problems))
	record := trail.Record{What: "rules-refused", Path: RulesPath, Operation: "update", Who: who, Error: problems[0]}
	record.Fields.Set("reason", string(reason))
	record.Fields.Set("problems", fmt.Sprint(len(problems)))
	a.o.Record(record)
	return r
}

// accept notes that nothing is refused any more.
func (a *Alerting) accept() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.refused = nil
}

// newest returns the rules that judge, or are to do so next.
func (a *Alerting) newest() *compiled {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status.newest
}

// hand gives rules to the goroutine that judges.
func (a *Alerting) hand(c *compiled) {
	a.mu.Lock()
	before := a.next
	a.next, a.status.newest, a.status.refused = c, c, nil
	pause := a.pause
	ended := a.status.over
	a.mu.Unlock()
	if before != nil {
		before.err = errors.New("other rules were loaded before these could judge")
		close(before.done)
	}
	if ended {
		a.swapFailed(errEnded)
	}
	if pause != nil {
		pause()
	}
}

// swapFailed says to those who wait for rules to judge that they never will.
func (a *Alerting) swapFailed(why error) {
	a.mu.Lock()
	c := a.next
	a.next = nil
	a.mu.Unlock()
	if c != nil {
		c.err = why
		close(c.done)
	}
}

// swap has the newest rules judge from now on, if there are others than before. It is called
// between two events. It returns an error only when ctx ends or the journal is closed.
func (a *Alerting) swap(ctx context.Context) error {
	a.mu.Lock()
	c := a.next
	a.next = nil
	a.mu.Unlock()
	if c == nil {
		return nil
	}
	defer close(c.done)
	run, err := c.set.NewRun(rule.RunOptions{Fields: a.o.Fields, Payload: a.o.Payload})
	if err != nil {
		c.err = a.refuse(c.reason, c.who, []string{err.Error()})
		a.mu.Lock()
		a.status.newest = a.active
		a.mu.Unlock()
		return nil
	}
	if err := a.handOver(ctx, run); err != nil {
		run.Close()
		c.err = errEnded
		return err
	}
	a.active, a.run, a.dirty = c, run, true
	a.starved, a.lenient = time.Time{}, false
	if len(c.set.Waiting()) == 0 {
		a.waiting = time.Time{}
	} else if a.waiting.IsZero() {
		a.waiting = a.o.now()
	}
	a.nowActive(c)
	a.stats.loaded.Add(1)
	a.log.Info("Rules are loaded.", "reason", string(c.reason), "files", c.files, "rules", len(c.set.Loaded()), "waiting", len(c.set.Waiting()), "warnings", c.report.Warnings())
	record := trail.Record{What: "rules-loaded", Path: RulesPath, Operation: "update", Modified: true, Who: c.who}
	record.Fields.Set("reason", string(c.reason))
	record.Fields.Set("files", fmt.Sprint(c.files))
	record.Fields.Set("rules", fmt.Sprint(len(c.set.Loaded())))
	record.Fields.Set("waiting", fmt.Sprint(len(c.set.Waiting())))
	a.o.Record(record)
	return nil
}

// handOver gives what windows and throttles remember to another run.
func (a *Alerting) handOver(ctx context.Context, run *rule.Run) error {
	memory := a.memory()
	if len(memory) > 0 {
		lost, err := run.Restore(memory)
		if err != nil {
			a.log.Error("What windows and throttles of rules have remembered is lost.", "error", err)
			record := trail.Record{What: "rules-memory-lost", Path: RulesPath, Operation: "update", Error: err.Error()}
			a.o.Record(record)
		}
		if a.run != nil && len(lost) > 0 {
			if err := a.run.Abandon(lost, func(alert *rule.Alert) error { return a.emit(ctx, alert) }); err != nil {
				return err
			}
			if err := a.flush(ctx); err != nil {
				return err
			}
		}
	}
	if len(run.Set().Waiting()) == 0 {
		a.restored = nil
	}
	if a.run != nil {
		a.stats.closed(a.run.Stats(), a.run.EventsOf())
		a.run.Close()
	}
	return nil
}

// memory returns what windows and throttles remember. As long as nothing was judged since the start
// that is what was stored, with the memory of the rules that wait for plugins.
func (a *Alerting) memory() []byte {
	if a.restored != nil || a.run == nil {
		return a.restored
	}
	return a.run.Snapshot()
}

// mustWait says whether events are held back, because rules wait for plugins that are not known
// yet: otherwise the events of these plugins that are in the journal would pass them by.
func (a *Alerting) mustWait() bool {
	if a.waiting.IsZero() || a.gaveUp {
		return false
	}
	if a.o.now().Sub(a.waiting) < a.o.Patience {
		return true
	}
	a.gaveUp = true
	names := ruleNames(a.active.set.Waiting())
	a.log.Error("Events are judged without rules that wait for plugins.", "rules", names, "plugins", strings.Join(a.active.silent, ", "))
	record := trail.Record{What: "rules-waiting", Path: RulesPath, Operation: "judge", Error: "the plugin of the source " + strings.Join(a.active.silent, ", ") + " has not been started yet"}
	record.Fields.Set("rules", names)
	a.o.Record(record)
	return false
}

// ruleNames are the names of some rules, for people.
func ruleNames(rules []*load.Rule) string {
	const most = 10
	var list []string
	for i, r := range rules {
		if i == most {
			list = append(list, fmt.Sprintf("and %d more", len(rules)-most))
			break
		}
		list = append(list, cut(r.Name, 100))
	}
	return strings.Join(list, ", ")
}

// lookAtPlugins is how often it is looked whether other fields of plugins are known.
const lookAtPlugins = 250 * time.Millisecond

// watch loads rules when files have changed, or what is known of plugins.
func (a *Alerting) watch(ctx context.Context) {
	ticker := time.NewTicker(lookAtPlugins)
	defer ticker.Stop()
	loaded, last := a.looked, a.looked
	nextLook := time.Now()
	var tried plugins
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			a.loadForPlugins(ctx, &tried)
			if a.o.Reload < 0 || now.Before(nextLook) {
				continue
			}
			nextLook = now.Add(a.o.Reload)
			// Who writes a file in several steps is waited for.
			is := look(a.o.Paths)
			if is != loaded && is == last {
				loaded = is
				a.loadUnless(ctx, reasonFiles)
			}
			last = is
		}
	}
}

// plugins are what is known of plugins, and the sources whose plugins are not known.
type plugins struct {
	known  []*sourceplugin.Description
	silent []string
}

// loadForPlugins loads rules when other plugins are known than those that the newest rules were
// compiled for. It tries that once: files with mistakes do not become better by themselves.
func (a *Alerting) loadForPlugins(ctx context.Context, tried *plugins) {
	var now plugins
	now.known, now.silent = a.o.Fields.Plugins()
	c := a.newest()
	if c == nil || reflect.DeepEqual(now, *tried) {
		return
	}
	*tried = now
	if !reflect.DeepEqual(now, plugins{c.plugins, c.silent}) {
		a.loadUnless(ctx, reasonPlugins)
	}
}

func (a *Alerting) loadUnless(ctx context.Context, reason Reason) {
	a.loading.Lock()
	defer a.loading.Unlock()
	if ctx.Err() == nil {
		a.load(reason)
	}
}

var _ Journal = (*journal.Journal)(nil)
