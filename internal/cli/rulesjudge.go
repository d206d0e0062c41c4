package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
)

// ruleFlags say how rules are loaded and which of them count, as the configuration of a hub does.
type ruleFlags struct {
	priority    string
	selections  []load.Selection
	all         bool
	strictLists bool
	hostname    string
	zone        string
}

func (f *ruleFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.priority, "priority", "", "load only rules of at least this `priority`: emergency, alert, critical, error, warning, notice, informational or debug")
	flags.Var(selectionFlag{&f.selections, false, false}, "disable", "do not use the rules with this `name`, in which * stands for any text; repeatable, in the order of all four")
	flags.Var(selectionFlag{&f.selections, true, false}, "enable", "use the rules with this `name`; repeatable")
	flags.Var(selectionFlag{&f.selections, false, true}, "disable-tag", "do not use the rules with this `tag`; repeatable")
	flags.Var(selectionFlag{&f.selections, true, true}, "enable-tag", "use the rules with this `tag`; repeatable")
	flags.BoolVar(&f.all, "all", false, "raise an alert for every rule that fits an event, not only for the first")
	flags.BoolVar(&f.strictLists, "strict-lists", false, "leave names of lists in quoted texts alone, where Falco replaces them")
	flags.StringVar(&f.hostname, "hostname", "", "`name` of the machine in alerts and of evt.hostname (default $"+eventfields.EnvHostname+", or that of this machine)")
	flags.StringVar(&f.zone, "time-zone", "", "time `zone` of clock times such as evt.time and event.time.hour, for example UTC (default: that of this machine)")
}

// selectionFlag adds a selection for each use of a flag.
type selectionFlag struct {
	list        *[]load.Selection
	enable, tag bool
}

func (f selectionFlag) String() string { return "" }
func (f selectionFlag) Type() string   { return "text" }
func (f selectionFlag) Set(v string) error {
	if v == "" {
		return errors.New("must not be empty")
	}
	s := load.Selection{Enable: f.enable}
	if f.tag {
		s.Tag = v
	} else {
		s.Rule = v
	}
	*f.list = append(*f.list, s)
	return nil
}

// location is that of clock times.
func (f *ruleFlags) location() *time.Location {
	if f.zone == "" {
		return time.Local
	}
	l, err := time.LoadLocation(f.zone)
	if err != nil {
		return time.Local // which options refuses
	}
	return l
}

// host is the name of the machine.
func (f *ruleFlags) host() string {
	if f.hostname != "" {
		return f.hostname
	}
	if name := os.Getenv(eventfields.EnvHostname); name != "" {
		return name
	}
	name, _ := os.Hostname()
	return name
}

// options returns how rules are compiled.
func (f *ruleFlags) options(cmd *cobra.Command, p *startedPlugins) (rule.Options, error) {
	o := rule.Options{
		Plugins: p.descriptions(), Selections: f.selections, StrictLists: f.strictLists,
		Location: f.location(), Hostname: f.host(),
	}
	if _, err := time.LoadLocation(f.zone); err != nil {
		return o, usagef(cmd, "--time-zone: %q is no time zone that this machine knows; write for example Europe/Berlin or UTC", f.zone)
	}
	if f.all {
		o.Matching = rule.All
	}
	if f.priority != "" {
		s, err := priorityNamed(f.priority)
		if err != nil {
			return o, usagef(cmd, "--priority: %w", err)
		}
		o.Minimum = &s
	}
	return o, nil
}

// priorityNamed returns the priority of a name.
func priorityNamed(name string) (severity.Severity, error) {
	var names []string
	for s := severity.Emergency; s <= severity.Debug; s++ {
		if strings.EqualFold(name, s.String()) || s == severity.Informational && strings.EqualFold(name, "info") {
			return s, nil
		}
		names = append(names, strings.ToLower(s.String()))
	}
	if near := config.Nearest(strings.ToLower(name), names); near != "" {
		return 0, fmt.Errorf("there is no priority %q; did you mean %q?", name, near)
	}
	return 0, fmt.Errorf("there is no priority %q; there are %s", name, strings.Join(names, ", "))
}

// compileRules reads files of rules and compiles them. What is wrong with them is printed.
func compileRules(s *Streams, names []string, o rule.Options) (*rule.Set, error) {
	files, err := readRuleFiles(s.In, names)
	if err != nil {
		return nil, err
	}
	set, report := rule.Compile(files, o)
	errs, warnings := report.Final()
	p := diagnosticPrinter{w: s.Err, colours: colours(s.Err)}
	p.print(errs, warnings)
	switch {
	case p.err != nil:
		return nil, p.err
	case set == nil || len(errs) > 0:
		return nil, fmt.Errorf("the rules are not valid: %s", countOf(len(errs), "error"))
	case len(set.Loaded()) == 0:
		return nil, &adviceError{errors.New("there is no rule to judge events by"), "All of them are turned off, of too low a priority, or about event sources that there are not."}
	}
	return set, nil
}

// ruleJudge judges records, for one goroutine.
type ruleJudge struct {
	run     *rule.Run
	plugins *startedPlugins
	notes   *notes
	alert   func(*rule.Alert) error
	lenient bool // somebody was told that values are missing
}

// Patience with plugins that cannot tell the value of a field.
const (
	extractPatience = 20 * time.Second
	extractPause    = 100 * time.Millisecond
)

// record judges a record. A plugin that cannot tell the value of a field is asked again for a
// while; then events are judged without, which is said once.
func (j *ruleJudge) record(ctx context.Context, rec fields.Record) error {
	for from, since := 0, time.Now(); ; {
		next, err := j.run.Record(ctx, rec, from, j.alert)
		if err == nil {
			return nil
		}
		missing, ok := errors.AsType[*fields.Missing](err)
		if !ok {
			return err
		}
		if next > from {
			from, since = next, time.Now()
		}
		if ended := j.plugins.ended(); ended != nil {
			return fmt.Errorf("%w; %w", ended, missing)
		}
		if time.Since(since) > extractPatience {
			if !j.lenient {
				j.lenient = true
				j.notes.say("Warning: %s. Events are judged without it.", visible(missing.Error()))
			}
			j.run.Lenient(true)
			continue
		}
		timer := time.NewTimer(extractPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// end tells what throttles hold back when no event follows. Nothing can be judged then.
func (j *ruleJudge) end() error {
	var names []string
	for _, r := range j.run.Set().Loaded() {
		names = append(names, r.Name)
	}
	return j.run.Abandon(names, j.alert)
}

// ruleTicker shows once a second, on a terminal, how far something is.
func ruleTicker(n *notes, terminal bool, text func() string) (stop func()) {
	if !terminal {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				n.show(text())
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		n.show("")
	}
}
