package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Rules is the section "rules".
type Rules struct {
	Builtin     []RuleSet       `yaml:"builtin" oneof:"vault" doc:"Sets of rules that come with the program, read before the files. vault: what is odd in the audit log of a Vault or OpenBao server. Empty: none."`
	Files       []string        `yaml:"files" doc:"Files with rules, in the language of Falco, and directories, of which the .yaml and .yml files are read in the order of their names, but for tests of rules. Later files may append to and override what is in earlier ones. Without files and builtin there are no alerts."`
	Priority    RulePriority    `yaml:"priority" oneof:"emergency,alert,critical,error,warning,notice,informational,debug" doc:"Rules of a lower priority are not used."`
	Matching    RuleMatching    `yaml:"matching" oneof:"first,all" doc:"first: of the rules that fit an event, only the first raises an alert, as in Falco; all: every one does."`
	Select      []RuleSelection `yaml:"select" doc:"Which rules are enabled, beyond what the files say, in this order. Each has one of:"`
	StrictLists bool            `yaml:"strict_lists" doc:"true leaves the names of lists in quoted texts of conditions alone; Falco replaces them there, too."`
	TimeZone    string          `yaml:"time_zone" doc:"Time zone of fields such as evt.time and event.time.hour, and of working hours, for example Europe/Berlin. Empty: that of the machine."`
	From        From            `yaml:"from" oneof:"start,end" doc:"Where rules begin the first time: with the oldest event in the journal, or with what comes from then on. \"tocsin rules try\" shows what they would say about older ones."`
	Reload      Duration        `yaml:"reload" min:"500ms" max:"1h" zero:"never" doc:"How often the files are looked at. When they have changed, and stayed so from one look to the next, they are loaded. SIGHUP and \"tocsin rules reload\" load them at once."`
	Patience    Duration        `yaml:"patience" min:"1s" max:"24h" doc:"How long events wait for a plugin that has a field which a rule asks for, and does not run. Then they are judged without it, which is counted and told."`
}

// RuleSelection is one element of "rules.select".
type RuleSelection struct {
	Enable  RulePattern `yaml:"enable" doc:"These rules are used, even if their file disables them."`
	Disable RulePattern `yaml:"disable" doc:"These rules are not used."`
}

// RulePattern is the section "rules.select[].enable".
type RulePattern struct {
	Rule string `yaml:"rule" doc:"Names of rules; * stands for any text."`
	Tag  string `yaml:"tag" doc:"A tag that they have."`
}

// IsSet says whether the pattern is one.
func (p RulePattern) IsSet() bool { return p != RulePattern{} }

// Settings of rules.
type (
	RuleSet      string
	RulePriority string
	RuleMatching string
)

// The settings of rules.
const (
	RulesVault RuleSet      = "vault"
	RulesFirst RuleMatching = "first"
	RulesAll   RuleMatching = "all"
)

// Enabled says whether there are rules.
func (r Rules) Enabled() bool { return len(r.Builtin)+len(r.Files) > 0 }

// Location returns the time zone; nil for a name that is none.
func (r Rules) Location() *time.Location {
	if r.TimeZone == "" {
		return time.Local
	}
	l, err := time.LoadLocation(r.TimeZone)
	if err != nil {
		return nil
	}
	return l
}

func defaultRules() Rules {
	return Rules{Priority: "debug", Matching: RulesFirst, From: FromEnd, Reload: Duration(2 * time.Second), Patience: Duration(time.Minute)}
}

// Bounds of the section.
const (
	maxRuleFiles  = 1000
	maxRuleSelect = 1000
)

func (v *validator) alertRules(c Rules) {
	if len(c.Files) > maxRuleFiles {
		v.report("rules.files", "has %d elements, more than %d; name a directory", len(c.Files), maxRuleFiles)
	}
	seen := make(map[string]string)
	for i, file := range c.Files {
		key := fmt.Sprintf("rules.files[%d]", i)
		clean := filepath.Clean(file)
		switch other, twice := seen[clean]; {
		case file == "":
			v.report(key, "is empty; name a file or a directory")
		case strings.IndexByte(file, 0) >= 0:
			v.report(key, "has a NUL byte, which no path can have")
		case twice:
			v.report(key, "%q is %s already", shorten(file), other)
		default:
			seen[clean] = key
		}
	}
	sets := make(map[RuleSet]bool)
	for i, set := range c.Builtin {
		if sets[set] {
			v.report(fmt.Sprintf("rules.builtin[%d]", i), "%q is there already", shorten(string(set)))
		}
		sets[set] = true
	}
	if len(c.Select) > maxRuleSelect {
		v.report("rules.select", "has %d elements, more than %d", len(c.Select), maxRuleSelect)
	}
	for i, s := range c.Select {
		key := fmt.Sprintf("rules.select[%d]", i)
		switch {
		case s.Enable.IsSet() == s.Disable.IsSet():
			v.report(key, "must have either enable or disable, with rule or tag in it")
		case s.Enable.Rule != "" && s.Enable.Tag != "":
			v.report(key+".enable", "must have either rule or tag, not both")
		case s.Disable.Rule != "" && s.Disable.Tag != "":
			v.report(key+".disable", "must have either rule or tag, not both")
		}
	}
	if c.Location() == nil {
		v.report("rules.time_zone", "%q is no time zone that this machine knows; write for example Europe/Berlin or UTC", shorten(c.TimeZone))
	}
}
