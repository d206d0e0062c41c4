package app

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/alerting"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/trail"
	"github.com/tocsin-events/tocsin/rules"
)

// ruleJudge judges the events of the journal by rules.
type ruleJudge struct {
	alerting *alerting.Alerting // nil: there are no rules
	cancel   context.CancelFunc // nil before start
	running  sync.WaitGroup
}

// makeRules reads the rules of the configuration. It must come before anything is read: what is in
// the journal by then is not judged the first time, unless rules.from says so. Rules with mistakes
// keep nothing else from working; they have a health check.
func (a *App) makeRules(common *metrics.Metrics) error {
	c := a.config.Rules
	if !c.Enabled() {
		return nil
	}
	builtin, err := BuiltinRules(c.Builtin)
	if err != nil {
		return err
	}
	hostname := ruleHostname()
	o := alerting.Options{
		Journal: a.journal, Builtin: builtin, Paths: c.Files, Rules: RuleOptions(c),
		Fields: a.fields, Payload: a.payload, FromStart: c.From == config.FromStart,
		Reload: time.Duration(c.Reload), Patience: time.Duration(c.Patience),
		Source: trail.Source(nodeName(a.config.Node)), Hostname: hostname, Limits: a.config.Limits.Event(),
		Record: a.trail.Record, Metrics: common, Registry: a.registry, Logger: component(a.log, "rules"),
	}
	o.Rules.Hostname = hostname
	if c.Reload == 0 {
		o.Reload = -1
	}
	if a.rules.alerting, err = alerting.New(o); err != nil {
		return err
	}
	a.health.Register("rules", health.Degradation, a.rules.alerting.Health)
	return nil
}

// ruleHostname is the name of the machine in alerts.
func ruleHostname() string {
	if name := os.Getenv("FALCO_HOSTNAME"); name != "" {
		return name
	}
	name, _ := os.Hostname()
	return name
}

// BuiltinRules returns files of rules that come with the program.
func BuiltinRules(sets []config.RuleSet) (files []load.File, err error) {
	for _, set := range sets {
		name := rules.Prefix + string(set)
		content, ok := rules.Content(name)
		if !ok {
			return nil, fmt.Errorf("rules.builtin: there is no set of rules %q", set)
		}
		files = append(files, load.File{Name: name, Content: content})
	}
	return files, nil
}

// RuleOptions returns what the configuration says about how rules are compiled, but for the plugins.
func RuleOptions(c config.Rules) rule.Options {
	o := rule.Options{Matching: rule.Matching(c.Matching), StrictLists: c.StrictLists, Location: c.Location()}
	for p := severity.Emergency; p <= severity.Debug; p++ {
		if strings.EqualFold(p.String(), string(c.Priority)) {
			o.Minimum = &p
		}
	}
	for _, s := range c.Select {
		pattern, enable := s.Disable, false
		if s.Enable.IsSet() {
			pattern, enable = s.Enable, true
		}
		o.Selections = append(o.Selections, load.Selection{Enable: enable, Rule: pattern.Rule, Tag: pattern.Tag})
	}
	return o
}

func (j *ruleJudge) start(a *App) {
	if j.alerting == nil {
		return
	}
	var ctx context.Context
	ctx, j.cancel = context.WithCancel(context.Background())
	j.running.Go(func() {
		if err := j.alerting.Run(ctx); err != nil {
			component(a.log, "rules").Error("No events are judged any more.", "error", err)
		}
	})
}

// stop has the rules store how far they are. What is behind that is judged after the next start.
func (j *ruleJudge) stop(context.Context) error {
	if j.cancel != nil {
		j.cancel()
		j.running.Wait()
	}
	return nil
}

// reload reads the files of rules, for somebody who has sent a signal.
func (j *ruleJudge) reload(a *App) {
	if j.alerting == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	// What is wrong is logged, an event, and in the health.
	if _, err := j.alerting.Reload(ctx, alerting.ReasonSignal, trail.Who{}); err != nil {
		component(a.log, "rules").Debug("The rules were not reloaded.", "error", err)
	}
}

// alertTypes returns the types of alerts that there may be, and what they mean.
func (a *App) alertTypes() map[string]string {
	if a.rules.alerting == nil {
		return nil
	}
	types := make(map[string]string)
	for _, r := range slices.Backward(a.rules.alerting.Status().Rules) {
		types[severity.AlertTypes+r.Slug] = strings.TrimSpace(r.Description)
	}
	return types
}
