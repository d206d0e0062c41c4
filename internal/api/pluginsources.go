package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/source/plugin"
)

// pluginSourcesPath is the path on which somebody needs list to see all source plugins, and, with
// the name behind it, read to see one.
const pluginSourcesPath = "sys/plugin-sources/"

// PluginSources tells how the source plugins of the hub are.
type PluginSources interface {
	Statuses() []plugin.Status
}

// PluginSource is how a source plugin is answered.
type PluginSource struct {
	Name string `json:"name"`
	// State is "idle", "starting", "running", "waiting" to be started again, "stuck", "ended",
	// "failed" or "stopped".
	State       string                `json:"state"`
	Since       time.Time             `json:"since"`
	Plugin      string                `json:"plugin,omitempty"`
	Version     string                `json:"plugin_version,omitempty"`
	ID          uint32                `json:"plugin_id,omitempty"`
	EventSource string                `json:"event_source,omitempty"`
	ExtractOnly bool                  `json:"extract_only,omitempty"`
	Resumable   bool                  `json:"resumable"`
	Events      uint64                `json:"events"`  // durable since the hub was started
	Dropped     uint64                `json:"dropped"` // since then
	LastEvent   *time.Time            `json:"last_event,omitempty"`
	Saved       *time.Time            `json:"position_saved,omitempty"`
	Progress    *PluginSourceProgress `json:"progress,omitempty"`
	Starts      uint64                `json:"starts"`
	Failures    int                   `json:"failures"` // since it has last run well
	LastError   *PluginSourceError    `json:"last_error,omitempty"`
	NextStart   *time.Time            `json:"next_start,omitempty"`
}

// PluginSourceProgress is how far the stream of a plugin is, as it says.
type PluginSourceProgress struct {
	Fraction float64 `json:"fraction"` // 0 to 1
	Text     string  `json:"text,omitempty"`
}

// PluginSourceError is why a plugin did not run.
type PluginSourceError struct {
	// Kind is "start", "failure", "timeout", "protocol", "refused" or "state".
	Kind   string    `json:"kind"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// PluginSourceList is the answer of the list.
type PluginSourceList struct {
	Sources []PluginSource `json:"sources"`
}

func (a *API) handlePluginSources() {
	a.mux.Handle("/api/v1/plugin-sources", getOnly(http.HandlerFunc(a.listPluginSources)))
	a.mux.Handle("/api/v1/plugin-sources/{name}", getOnly(http.HandlerFunc(a.getPluginSource)))
}

func (a *API) listPluginSources(w http.ResponseWriter, r *http.Request) {
	id, refused := a.pluginSourceReader(r, policy.List, "")
	if refused != nil {
		a.refusePluginSource(w, r, id, "", refused)
		return
	}
	answer := PluginSourceList{Sources: []PluginSource{}}
	for _, s := range a.pluginSources.Statuses() {
		if !id.Capabilities(pluginSourcesPath + s.Name).Has(policy.Deny) {
			answer.Sources = append(answer.Sources, pluginSourceAnswer(s))
		}
	}
	answerJSON(w, answer)
}

func (a *API) getPluginSource(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	id, refused := a.pluginSourceReader(r, policy.Read, name)
	if refused == nil {
		for _, s := range a.pluginSources.Statuses() {
			if s.Name == name {
				answerJSON(w, pluginSourceAnswer(s))
				return
			}
		}
		refused = &refusal{status: http.StatusNotFound, text: "no such source plugin: " + strconv.Quote(short(name))}
	}
	a.refusePluginSource(w, r, id, name, refused)
}

// pluginSourceReader returns who makes a request, if that one may.
func (a *API) pluginSourceReader(r *http.Request, needs policy.Capabilities, name string) (id access.Identity, refused *refusal) {
	id, refused = a.authenticate(r, "")
	if refused == nil {
		refused = a.use(r, id)
	}
	if refused == nil && !id.Allows(needs, pluginSourcesPath+name, nil) {
		refused = permissionDenied()
	}
	for parameter := range r.URL.Query() {
		if refused == nil {
			refused = badRequest("unknown parameter %s; there are none here", strconv.Quote(short(parameter)))
		}
	}
	return id, refused
}

func (a *API) refusePluginSource(w http.ResponseWriter, r *http.Request, id access.Identity, name string, refused *refusal) {
	operation := opRead
	if name == "" {
		operation = opList
	}
	a.recordRefusal(attempt{what: "request-denied", path: pluginSourcesPath + clip(name, 100), operation: string(operation), id: id, request: r}, refused)
	a.requests.Refused(refused.reason()).Inc()
	refused.answer(w)
}

func pluginSourceAnswer(s plugin.Status) PluginSource {
	moment := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC()
		return &t
	}
	p := PluginSource{
		Name: s.Name, State: string(s.State), Since: s.Since.UTC(), Plugin: s.Plugin, Version: s.Version, ID: s.ID, EventSource: s.EventSource,
		ExtractOnly: s.ExtractOnly, Resumable: s.Resumable, Events: s.Events, Dropped: s.Dropped, LastEvent: moment(s.LastEvent), Saved: moment(s.Saved),
		Starts: s.Starts, Failures: s.Failures, NextStart: moment(s.NextStart),
	}
	if s.Progress != nil {
		p.Progress = &PluginSourceProgress{s.Progress.Fraction, s.Progress.Text}
	}
	if s.LastError != "" {
		p.LastError = &PluginSourceError{string(s.LastErrorKind), s.LastError, s.LastErrorAt.UTC()}
	}
	return p
}
