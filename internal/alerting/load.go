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
	"github.com/tocsin-events/tocsin/internal/rule/window"
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
	reasonRefused Reason = "refused" // the files have mistakes, and others are found for them
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
	run     *rule.Run         // that is to judge by it
	slugs   map[string]string // by the names of rules
	files   []load.File
	print   [sha256.Size]byte // of the files
	report  *load.Report
	plugins plugins // for which it was compiled
	reason  Reason
	who     trail.Who
	// insteadOf says that these are not the files as they are, which have mistakes. earlier is when
	// the files were loaded, if that was before the start.
	insteadOf bool
	earlier   time.Time

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
	result := Loaded{Files: len(c.files), Rules: len(c.set.Loaded()), Waiting: len(c.set.Waiting()), Warnings: c.report.Warnings(), Unchanged: !fresh}
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
	known := a.plugins()
	files, err := ReadFiles(a.o.Paths)
	if err != nil {
		refused = a.refuse(reason, who, []string{err.Error()})
		a.fallBack(known, nil)
		return nil, false, refused
	}
	files = append(a.o.Builtin[:len(a.o.Builtin):len(a.o.Builtin)], files...)
	print := fingerprint(files)
	if now := a.newest(); now != nil && now.earlier.IsZero() && now.print == print && reflect.DeepEqual(now.plugins, known) {
		a.accept() // perhaps others were refused meanwhile
		return now, false, nil
	}
	c, mistakes := a.compile(files, known)
	if c == nil {
		refused = a.refuse(reason, who, mistakes)
		a.fallBack(known, &print)
		return nil, false, refused
	}
	c.reason, c.who = reason, who
	a.hand(c)
	return c, true, nil
}

// compile compiles files for what is known of plugins. Without a result there are mistakes.
func (a *Alerting) compile(files []load.File, known plugins) (c *compiled, mistakes []string) {
	o := a.o.Rules
	o.Plugins, o.Incomplete = known.known, len(known.silent) > 0
	set, report := rule.Compile(files, o)
	if !report.OK() {
		return nil, problems(report)
	}
	run, err := set.NewRun(rule.RunOptions{Fields: a.o.Fields, Payload: a.o.Payload})
	if err != nil {
		return nil, []string{err.Error()}
	}
	return &compiled{
		set: set, run: run, slugs: slugs(set.Rules()), files: files, print: fingerprint(files), report: report, plugins: known, done: make(chan struct{}),
	}, nil
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
	a.next, a.status.newest, a.status.useless = c, c, ""
	if !c.insteadOf {
		a.status.refused = nil
	}
	pause := a.pause
	ended := a.status.over
	a.mu.Unlock()
	if before != nil {
		before.never(errors.New("other rules were loaded before these could judge"))
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
		c.never(why)
	}
}

// never says that a set of rules will not judge.
func (c *compiled) never(why error) {
	c.run.Close()
	c.err = why
	close(c.done)
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
	if err := a.handOver(ctx, c.run); err != nil {
		c.never(errEnded)
		return err
	}
	defer close(c.done)
	a.active, a.run, a.dirty = c, c.run, true
	a.starved, a.lenient = time.Time{}, false
	if len(c.set.Waiting()) == 0 {
		a.waiting = time.Time{}
	} else if a.waiting.IsZero() {
		a.waiting = a.o.now()
	}
	a.nowActive(c)
	a.keep()
	a.stats.loaded.Add(1)
	record := trail.Record{What: "rules-loaded", Path: RulesPath, Operation: "update", Modified: true, Who: c.who}
	record.Fields.Set("reason", string(c.reason))
	if !c.earlier.IsZero() {
		loaded := c.earlier.UTC().Format(time.RFC3339)
		a.log.Error("The files of rules have mistakes. The rules from before the start judge.", "loaded", loaded, "files", len(c.files), "rules", len(c.set.Loaded()), "waiting", len(c.set.Waiting()))
		record = trail.Record{What: "rules-earlier", Path: RulesPath, Operation: "update", Modified: true, Error: "the files of rules have mistakes"}
		record.Fields.Set("loaded", loaded)
	} else {
		a.log.Info("Rules are loaded.", "reason", string(c.reason), "files", len(c.files), "rules", len(c.set.Loaded()), "waiting", len(c.set.Waiting()), "warnings", c.report.Warnings())
	}
	record.Fields.Set("files", fmt.Sprint(len(c.files)))
	record.Fields.Set("rules", fmt.Sprint(len(c.set.Loaded())))
	record.Fields.Set("waiting", fmt.Sprint(len(c.set.Waiting())))
	a.o.Record(record)
	return nil
}

// handOver gives what windows and throttles remember to another run. What those of rules that go
// have held back is told.
func (a *Alerting) handOver(ctx context.Context, run *rule.Run) error {
	a.midway = true // the memory of a.run is of no use from here on
	memory := a.memory()
	if len(memory) > 0 {
		lost, err := run.Restore(memory)
		if err != nil {
			a.forgotten(err.Error(), 0)
		}
		if a.run == nil {
			a.tellLost(lost)
		} else if err := a.abandon(ctx, lost); err != nil {
			return err
		}
	}
	if a.run != nil {
		run.Follow(a.run)
		a.stats.closed(a.run.Stats(), a.run.EventsOf())
		a.run.Close()
	}
	a.restored, a.midway = nil, false
	return nil
}

// abandon raises alerts about what the throttles of some rules have held back.
func (a *Alerting) abandon(ctx context.Context, lost []window.Lost) error {
	if len(lost) == 0 {
		return nil
	}
	var names []string
	for _, l := range lost {
		names = append(names, l.Name)
	}
	if err := a.run.Abandon(names, func(alert *rule.Alert) error { return a.emit(ctx, alert) }); err != nil {
		return err
	}
	return a.flush(ctx)
}

// tellLost tells of rules that have gone while the hub was not running, whose throttles had held
// alerts back: there is no rule any more that could say so.
func (a *Alerting) tellLost(lost []window.Lost) {
	held := 0
	var names []string
	for _, l := range lost {
		if l.Held > 0 {
			held += l.Held
			names = append(names, l.Name)
		}
	}
	if held > 0 {
		a.forgotten("alerts were held back by throttles of rules that are gone, or have another throttle or window now: "+list(names), held)
	}
}

// forgotten tells that something is lost of what windows and throttles have remembered.
func (a *Alerting) forgotten(why string, held int) {
	a.log.Error("What windows and throttles of rules have remembered is lost.", "error", why, "held", held)
	record := trail.Record{What: "rules-memory-lost", Path: RulesPath, Operation: "update", Error: why}
	if held > 0 {
		record.Fields.Set("count", fmt.Sprint(held))
	}
	a.o.Record(record)
}

// memory returns what windows and throttles remember.
func (a *Alerting) memory() []byte {
	if a.run == nil {
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
	a.keep()
	names := ruleNames(a.active.set.Waiting())
	a.log.Error("Events are judged without rules that wait for plugins.", "rules", names, "plugins", strings.Join(a.active.plugins.silent, ", "))
	record := trail.Record{What: "rules-waiting", Path: RulesPath, Operation: "judge", Error: "the plugin of the source " + strings.Join(a.active.plugins.silent, ", ") + " has not been started yet"}
	record.Fields.Set("rules", names)
	a.o.Record(record)
	return false
}

// ruleNames are the names of some rules, for people.
func ruleNames(rules []*load.Rule) string {
	names := make([]string, len(rules))
	for i, r := range rules {
		names[i] = r.Name
	}
	return list(names)
}

// list returns names for people.
func list(names []string) string {
	const most = 10
	var shown []string
	for i, name := range names {
		if i == most {
			shown = append(shown, fmt.Sprintf("and %d more", len(names)-most))
			break
		}
		shown = append(shown, cut(name, 100))
	}
	return strings.Join(shown, ", ")
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

func (a *Alerting) plugins() (p plugins) {
	p.known, p.silent = a.o.Fields.Plugins()
	return p
}

// loadForPlugins loads rules when other plugins are known than those that the newest rules were
// compiled for. It tries that once: files with mistakes do not become better by themselves.
func (a *Alerting) loadForPlugins(ctx context.Context, tried *plugins) {
	now, c := a.plugins(), a.newest()
	if c == nil || reflect.DeepEqual(now, *tried) {
		return
	}
	*tried = now
	if !reflect.DeepEqual(now, c.plugins) {
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
