package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/policy"
)

// typesPath is the path on which somebody needs read to list the event types of a
// namespace, and, with a slash and the type behind it, to see one.
const typesPath = "sys/event-types"

const maxEventTypes = 1000 // of one answer

// eventTypes lists the catalogue: what is known to everybody, and what was learnt in the
// namespace of the request and in those below it in which the token may do the same.
func (a *API) eventTypes(w http.ResponseWriter, r *http.Request) {
	namespace, id, refused := a.typesReader(r, typesPath)
	var q catalog.Query
	if refused == nil {
		q, refused = typesQuery(r)
	}
	if refused != nil {
		a.refuseTypes(w, r, namespace, typesPath, id, refused)
		return
	}
	q.Sees = typesSeen(id, namespace, typesPath)
	q.Hides = func(name string) bool {
		return id.Capabilities(namespace + typesPath + "/" + name).Has(policy.Deny)
	}
	types, more := a.types.List(q)
	answerJSON(w, struct {
		Types []catalog.Type `json:"types"`
		More  bool           `json:"more,omitempty"`
	}{append([]catalog.Type{}, types...), more})
}

// eventType answers everything about one type.
func (a *API) eventType(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("type")
	path := typesPath + "/" + name
	namespace, id, refused := a.typesReader(r, path)
	if refused == nil {
		if t, ok := a.types.Lookup(name, typesSeen(id, namespace, path)); ok {
			answerJSON(w, t)
			return
		}
		refused = &refusal{status: http.StatusNotFound, text: fmt.Sprintf("the event type %s is not known here", strconv.Quote(short(name)))}
	}
	a.refuseTypes(w, r, namespace, path, id, refused)
}

// typesReader returns in which namespace a request is made, and by whom, if that one may
// read the path there.
func (a *API) typesReader(r *http.Request, path string) (namespace string, id access.Identity, refused *refusal) {
	if namespace, refused = headerNamespace(r); refused == nil {
		namespace, refused = joinNamespace(namespace, "")
	}
	if refused == nil {
		id, refused = a.authenticate(r, namespace)
	}
	if refused == nil {
		refused = a.use(r, id)
	}
	if refused == nil && !id.Allows(policy.Read, namespace+path, nil) {
		refused = permissionDenied()
	}
	return namespace, id, refused
}

// typesSeen says of which namespaces an identity sees what was learnt, when it asks in one.
func typesSeen(id access.Identity, namespace, path string) func(string) bool {
	return func(in string) bool {
		return in == namespace || strings.HasPrefix(in, namespace) && id.Allows(policy.Read, in+path, nil)
	}
}

func (a *API) refuseTypes(w http.ResponseWriter, r *http.Request, namespace, path string, id access.Identity, refused *refusal) {
	a.recordRefusal(attempt{what: "request-denied", namespace: namespace, path: path, operation: string(opRead), id: id, request: r}, refused)
	a.requests.Refused(refused.reason()).Inc()
	refused.answer(w)
}

// typesQuery reads the parameters: type (a glob), origin, limit, and after, the last type of
// the answer before.
func typesQuery(r *http.Request) (q catalog.Query, refused *refusal) {
	q.Limit = maxEventTypes
	for name, values := range r.URL.Query() {
		if len(values) > 1 {
			return q, badRequest("the parameter %s is there several times", strconv.Quote(short(name)))
		}
		switch value := values[0]; name {
		case "type":
			glob := event.CompileGlob(value)
			q.Glob = &glob
		case "origin":
			q.Origin = catalog.Origin(value)
			if value != "" && !slices.Contains(catalog.Origins, q.Origin) {
				return q, badRequest("the origin %s is none of built-in, configured, learnt", strconv.Quote(short(value)))
			}
		case "after":
			q.After = value
		case "limit":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxEventTypes {
				return q, badRequest("the limit must be a number from 1 to %d", maxEventTypes)
			}
			q.Limit = n
		default:
			return q, badRequest("unknown parameter %s; there are type, origin, after and limit", strconv.Quote(short(name)))
		}
	}
	return q, nil
}

// short keeps an error readable, whatever a client sends.
func short(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // schemas and meanings are to be read
	_ = e.Encode(v)
}
