package api

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/policy"
)

// ruleFieldsPath is the path on which somebody needs read to see which fields rules may ask for.
const ruleFieldsPath = "sys/rule-fields"

// RuleFields is which fields rules may ask for.
type RuleFields struct {
	Fields []eventfields.Listed `json:"fields"`
	// Problems are why fields of plugins are not used.
	Problems []string `json:"problems,omitempty"`
	// NotStarted are source plugins that have not run yet, so that their fields are not known.
	NotStarted []string `json:"not_started,omitempty"`
}

// getRuleFields answers with the fields of an event source, or of all.
func (a *API) getRuleFields(w http.ResponseWriter, r *http.Request) {
	id, refused := a.authenticate(r, "")
	if refused == nil {
		refused = a.use(r, id)
	}
	if refused == nil && !id.Allows(policy.Read, ruleFieldsPath, nil) {
		refused = permissionDenied()
	}
	source := r.URL.Query().Get("source")
	for parameter := range r.URL.Query() {
		if refused == nil && parameter != "source" {
			refused = badRequest("unknown parameter %s; there is source", strconv.Quote(short(parameter)))
		}
	}
	if refused != nil {
		a.recordRefusal(attempt{what: "request-denied", path: ruleFieldsPath, operation: string(opRead), id: id, request: r}, refused)
		a.requests.Refused(refused.reason()).Inc()
		refused.answer(w)
		return
	}
	known, silent := a.fields.Plugins()
	var answer RuleFields
	answer.Fields, answer.Problems = eventfields.List(source, known...)
	answer.NotStarted = slices.Sorted(slices.Values(silent))
	answerJSON(w, answer)
}
