package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/rules"
)

const devRulesUsage = "raise alerts by the rules in this `file` or directory, or by builtin:vault; may be repeated"

// devRules are the values of --rules.
type devRules []string

// check refuses files that are not there, and sets that there are not.
func (d devRules) check() error {
	for _, name := range d {
		if strings.HasPrefix(name, rules.Prefix) {
			if _, ok := rules.Content(name); !ok {
				return fmt.Errorf("--rules %s: there is %s", visible(name), strings.Join(rules.Names(), ", "))
			}
			continue
		}
		if _, err := os.Stat(name); err != nil {
			return fmt.Errorf("--rules: %w", err)
		}
	}
	return nil
}

// configure has a hub judge by the rules, and print the alerts.
func (d devRules) configure(c *config.Config, demo bool) {
	r := &c.Rules
	if demo {
		r.Builtin = append(r.Builtin, config.RulesVault)
	}
	for _, name := range d {
		set, builtin := strings.CutPrefix(name, rules.Prefix)
		switch {
		case builtin:
			if !slices.Contains(r.Builtin, config.RuleSet(set)) {
				r.Builtin = append(r.Builtin, config.RuleSet(set))
			}
			continue
		case !slices.Contains(r.Files, name):
			if absolute, err := filepath.Abs(name); err == nil {
				name = absolute
			}
			r.Files = append(r.Files, name)
		}
	}
	if !r.Enabled() {
		return
	}
	r.From = config.FromStart
	s := config.DefaultSink()
	s.Name, s.Type, s.From = devAlerts, config.SinkTypeStdout, config.FromStart
	s.Stdout.Format = "pretty"
	s.Events.Types = []string{"alert/*"}
	c.Sinks = append(c.Sinks, s)
}

// devAlerts is the name of the sink that prints alerts.
const devAlerts = "alerts"

// describeRules says which rules there are, for the banner.
func describeRules(c config.Rules) string {
	var list []string
	for _, set := range c.Builtin {
		list = append(list, rules.Prefix+string(set))
	}
	return strings.Join(append(list, c.Files...), ", ")
}
