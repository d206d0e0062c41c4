package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/alerting"
	"github.com/tocsin-events/tocsin/internal/policy"
)

// rulesReload is what is behind the path of rules in that on which somebody needs update to load
// the files of rules.
const rulesReload = "reload"

// Rule is how a rule is answered.
type Rule struct {
	Name string `json:"rule"`
	// Slug is what is behind "alert/" in the types of its alerts, and behind "sys/rules/" in
	// policies.
	Slug        string   `json:"slug"`
	Description string   `json:"desc,omitempty"`
	Source      string   `json:"source"`
	Priority    string   `json:"priority"`
	Tags        []string `json:"tags"`
	// State is "active", "disabled" or "waiting" for a plugin that is not known yet.
	State string `json:"state"`
	// Alerts and Suppressed count since the hub was started.
	Alerts     uint64     `json:"alerts"`
	Suppressed uint64     `json:"suppressed,omitempty"`
	LastAlert  *time.Time `json:"last_alert,omitempty"`
	File       string     `json:"file"`
	Line       int        `json:"line"`
	// What follows is only there when one rule is asked for.
	Condition string        `json:"condition,omitempty"`
	Output    string        `json:"output,omitempty"`
	Window    *RuleWindow   `json:"window,omitempty"`
	Throttle  *RuleThrottle `json:"throttle,omitempty"`
}

// RuleWindow is the window of a rule.
type RuleWindow struct {
	Within   string   `json:"within"`
	By       []string `json:"by,omitempty"`
	Count    int      `json:"count,omitempty"`
	Distinct string   `json:"distinct,omitempty"`
	Then     int      `json:"then,omitempty"` // how many conditions
	New      []string `json:"new,omitempty"`
}

// RuleThrottle is the throttle of a rule.
type RuleThrottle struct {
	Every string   `json:"every"`
	By    []string `json:"by,omitempty"`
}

// RuleList is the answer of the list.
type RuleList struct {
	// State is "loading" as long as no rules judge, "judging", "waiting" for plugins, "blind" if
	// events are judged without what a plugin would say, "stopped", or "off" without rules.
	State   string     `json:"state"`
	Since   *time.Time `json:"since,omitempty"` // the rules judge
	Problem string     `json:"problem,omitempty"`
	// Refused are the mistakes of files that are not loaded; those from before judge.
	Refused []string `json:"refused,omitempty"`
	// Earlier is when the rules that judge were loaded, if that was before the start, because there
	// were mistakes in the files at it.
	Earlier  *time.Time `json:"earlier,omitempty"`
	Warnings []string   `json:"warnings,omitempty"`
	Files    int        `json:"files"`
	// Position is behind the last event that was judged, Lag how many are behind that.
	Position string `json:"position,omitempty"`
	Lag      uint64 `json:"lag_events"`
	Events   uint64 `json:"events"` // that were judged since the hub was started
	// Missing are those of them that were judged without the value of a field of a plugin, Missed
	// those that the journal had removed before.
	Missing uint64 `json:"missing_values"`
	Missed  uint64 `json:"missed_events"`
	Evicted uint64 `json:"evicted"`
	Keys    int    `json:"keys"`
	Rules   []Rule `json:"rules"`
}

// RulesReloaded is the answer of a reload.
type RulesReloaded struct {
	Files     int  `json:"files"`
	Rules     int  `json:"rules"`
	Waiting   int  `json:"waiting"`
	Warnings  int  `json:"warnings"`
	Unchanged bool `json:"unchanged"`
}

func (a *API) handleRules() {
	a.mux.Handle("/api/v1/rules", getOnly(http.HandlerFunc(a.listRules)))
	a.mux.Handle("/api/v1/rules/{slug}", getOnly(http.HandlerFunc(a.getRule)))
	a.mux.HandleFunc("/api/v1/rules/reload", a.reloadRules)
}

func (a *API) listRules(w http.ResponseWriter, r *http.Request) {
	id, refused := a.ruleReader(r, policy.List, "")
	if refused != nil {
		a.refuseRules(w, r, id, "", opList, refused)
		return
	}
	answer := RuleList{State: "off", Rules: []Rule{}}
	if a.rules != nil {
		s := a.rules.Status()
		answer = RuleList{
			State: s.State, Problem: s.Problem, Warnings: s.Warnings, Files: s.Files, Lag: s.Lag,
			Events: s.Events, Missing: s.Missing, Missed: s.Missed, Evicted: s.Evicted, Keys: s.Keys, Rules: []Rule{},
		}
		if !s.Since.IsZero() {
			since := s.Since.UTC()
			answer.Since = &since
		}
		if !s.Earlier.IsZero() {
			earlier := s.Earlier.UTC()
			answer.Earlier = &earlier
		}
		if s.Refused != nil {
			answer.Refused = s.Refused.Problems
		}
		if !s.At.IsZero() {
			answer.Position = s.At.String()
		}
		for _, one := range s.Rules {
			if !id.Capabilities(alerting.RulesPath + one.Slug).Has(policy.Deny) {
				answer.Rules = append(answer.Rules, ruleAnswer(one))
			}
		}
	}
	answerJSON(w, answer)
}

func (a *API) getRule(w http.ResponseWriter, r *http.Request) {
	slug := r.PathValue("slug")
	id, refused := a.ruleReader(r, policy.Read, slug)
	if refused == nil && a.rules != nil {
		for _, one := range a.rules.Status().Rules {
			if one.Slug == slug {
				answerJSON(w, wholeRule(one))
				return
			}
		}
	}
	if refused == nil {
		refused = &refusal{status: http.StatusNotFound, text: "no such rule: " + strconv.Quote(short(slug))}
	}
	a.refuseRules(w, r, id, slug, opRead, refused)
}

// reloadRules loads the files of rules. The answers are JSON with
//
//	200  what judges from now on
//	400  {"errors":[...]}: the mistakes in the files; the rules from before judge
//	403  the token may not do it
//	404  the hub has no rules
//	503  the rules are compiled, and judge as soon as that is possible
func (a *API) reloadRules(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		w.Header().Set("Allow", "POST, PUT")
		fail(w, http.StatusMethodNotAllowed, "the method is "+strconv.Quote(clip(r.Method, 20))+", it must be POST")
		return
	}
	id, refused := a.ruleReader(r, policy.Update, rulesReload)
	discard(r.Body, maxUnread)
	if refused == nil && a.rules == nil {
		refused = &refusal{status: http.StatusNotFound, text: "this hub has no rules; they are listed in the configuration, under rules"}
	}
	if refused != nil {
		a.refuseRules(w, r, id, rulesReload, opUpdate, refused)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), changeTimeout)
	defer cancel()
	loaded, err := a.rules.Reload(ctx, alerting.ReasonRequest, who(id, r))
	var mistakes *alerting.Refusal
	switch {
	case errors.As(err, &mistakes):
		fail(w, http.StatusBadRequest, mistakes.Problems...)
	case err != nil:
		(&refusal{status: http.StatusServiceUnavailable, after: time.Second, text: err.Error()}).answer(w)
	default:
		answerJSON(w, RulesReloaded(loaded))
	}
}

// ruleReader returns who makes a request, if that one may.
func (a *API) ruleReader(r *http.Request, needs policy.Capabilities, slug string) (id access.Identity, refused *refusal) {
	id, refused = a.authenticate(r, "")
	if refused == nil {
		refused = a.use(r, id)
	}
	if refused == nil && !id.Allows(needs, alerting.RulesPath+slug, nil) {
		refused = permissionDenied()
	}
	for parameter := range r.URL.Query() {
		if refused == nil {
			refused = badRequest("unknown parameter %s; there are none here", strconv.Quote(short(parameter)))
		}
	}
	return id, refused
}

func (a *API) refuseRules(w http.ResponseWriter, r *http.Request, id access.Identity, slug string, o operation, refused *refusal) {
	a.recordRefusal(attempt{what: "request-denied", path: alerting.RulesPath + clip(slug, 100), operation: string(o), id: id, request: r}, refused)
	a.requests.Refused(refused.reason()).Inc()
	refused.answer(w)
}

func ruleAnswer(s alerting.RuleStatus) Rule {
	r := Rule{
		Name: s.Name, Slug: s.Slug, Description: s.Description, Source: s.Source, Priority: s.Priority.String(), Tags: s.Tags, State: s.State,
		Alerts: s.Alerts, Suppressed: s.Suppressed, File: s.At.File, Line: s.At.Line,
	}
	if r.Tags == nil {
		r.Tags = []string{}
	}
	if !s.Last.IsZero() {
		last := s.Last.UTC()
		r.LastAlert = &last
	}
	return r
}

func wholeRule(s alerting.RuleStatus) Rule {
	r := ruleAnswer(s)
	r.Condition, r.Output = s.ConditionText, s.Output
	if w := s.Window; w != nil {
		r.Window = &RuleWindow{w.Within.String(), w.By, w.Count, w.Distinct, len(w.Then), w.New}
	}
	if t := s.Throttle; t != nil {
		r.Throttle = &RuleThrottle{t.Every.String(), t.By}
	}
	return r
}
