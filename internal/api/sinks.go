package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// sinksPath is the path on which somebody needs list to see all sinks, and, with the name
// behind it, what there is to do with one.
const sinksPath = "sys/sinks/"

// Bounds of requests about sinks.
const (
	maxSinkBody    = 1 << 20 // bytes
	maxLetterPage  = 1000
	letterPage     = 100 // if no limit is asked for
	maxReasonBytes = 500
)

// sinkCall is a request below /api/v1/sinks while it is served.
type sinkCall struct {
	a    *API
	w    http.ResponseWriter
	r    *http.Request
	ctx  context.Context // of changes: one that does not end with the request
	name string          // of the sink, "" for none
	id   access.Identity
}

// sinkRoute is what there is to do with one method on one path. It answers with a value that
// becomes JSON, and its status, 200 if 0.
type sinkRoute struct {
	needs   policy.Capabilities
	changes bool
	serve   func(*sinkCall) (answer any, status int, err error)
}

// sinkRoutes are the paths below /api/v1 that are about sinks, by method.
//
// Whoever may have a sink sent events gets past the policies of subscribers, so that
// everything but looking needs sudo; so do dead letters, which are events.
func sinkRoutes() map[string]map[string]sinkRoute {
	const (
		look   = policy.Read
		change = policy.Update | policy.Sudo
		peek   = policy.Read | policy.Sudo
		remove = policy.Delete | policy.Sudo
	)
	return map[string]map[string]sinkRoute{
		"/api/v1/sink-kinds":           {"GET": {0, false, (*sinkCall).kinds}},
		"/api/v1/sinks":                {"GET": {policy.List, false, (*sinkCall).list}},
		"/api/v1/sinks/{name}":         {"GET": {look, false, (*sinkCall).get}, "PUT": {change, true, (*sinkCall).put}, "DELETE": {remove, true, (*sinkCall).delete}},
		"/api/v1/sinks/{name}/test":    {"POST": {change, true, (*sinkCall).test}},
		"/api/v1/sinks/{name}/pause":   {"POST": {change, true, (*sinkCall).pause}},
		"/api/v1/sinks/{name}/disable": {"POST": {change, true, (*sinkCall).disable}},
		"/api/v1/sinks/{name}/resume":  {"POST": {change, true, (*sinkCall).resume}},
		"/api/v1/sinks/{name}/attempts": {
			"GET": {look, false, (*sinkCall).attempts},
		},
		"/api/v1/sinks/{name}/dead-letters":         {"GET": {peek, false, (*sinkCall).letters}, "DELETE": {remove, true, (*sinkCall).purge}},
		"/api/v1/sinks/{name}/dead-letters/{id}":    {"GET": {peek, false, (*sinkCall).letter}, "DELETE": {remove, true, (*sinkCall).purge}},
		"/api/v1/sinks/{name}/dead-letters/redrive": {"POST": {change, true, (*sinkCall).redrive}},
		"/api/v1/sinks/{name}/replay":               {"POST": {change, true, (*sinkCall).replay}},
		"/api/v1/sinks/{name}/replays":              {"GET": {look, false, (*sinkCall).replays}},
		"/api/v1/sinks/{name}/replays/{id}":         {"GET": {look, false, (*sinkCall).replayOf}, "DELETE": {change, true, (*sinkCall).cancelReplay}},
	}
}

// handleSinks adds the paths of sinks.
func (a *API) handleSinks() {
	for path, methods := range sinkRoutes() {
		a.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { a.serveSinks(w, r, methods) })
	}
}

// serveSinks serves a request about sinks. The answers are JSON with
//
//	200, 201, 202  what was done or asked for; 201: the sink is new, 202: it goes on
//	400  {"errors":[...]} says what is wrong with the definition or the request, and where
//	403  the token may not do it
//	404  there is no such sink, dead letter or replay
//	409  it is not possible as the sink is: it is defined in the file, does not run, ...
//	413  the body is too large
//	429  too many replays and redrives are under way
//	503  the journal stores nothing at the moment; with Retry-After
func (a *API) serveSinks(w http.ResponseWriter, r *http.Request, methods map[string]sinkRoute) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	route, ok := methods[method]
	if !ok {
		var allowed []string
		for _, m := range []string{"GET", "PUT", "POST", "DELETE"} {
			if _, ok := methods[m]; ok {
				allowed = append(allowed, m)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		fail(w, http.StatusMethodNotAllowed, "the method is "+strconv.Quote(clip(r.Method, 20))+", it must be "+strings.Join(allowed, " or "))
		return
	}
	c := &sinkCall{a: a, w: w, r: r, ctx: r.Context(), name: r.PathValue("name")}
	answer, status, err := c.do(route)
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		if status != 0 {
			w.WriteHeader(status)
		}
		answerJSON(w, answer)
		return
	}
	refused, problems := a.sinkRefusal(c, err)
	a.requests.Refused(refused.reason()).Inc()
	a.recordRefusal(attempt{what: "request-denied", path: sinksPath + clip(c.name, 100), operation: sinkOperation(r.Method), id: c.id, request: r}, refused)
	discard(r.Body, maxUnread)
	if problems == nil {
		refused.answer(w)
		return
	}
	fail(w, refused.status, problems...)
}

// sinkOperation is what a method is called in the trail.
func sinkOperation(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		return string(opRead)
	case http.MethodDelete:
		return string(opDelete)
	}
	return string(opUpdate)
}

// do admits and serves a request.
func (c *sinkCall) do(route sinkRoute) (any, int, error) {
	id, refused := c.a.authenticate(c.r, "")
	if refused == nil {
		c.id = id
		refused = c.a.use(c.r, id)
	}
	if refused != nil {
		return nil, 0, refused
	}
	needs := route.needs
	if c.r.Method == http.MethodPut {
		if _, err := c.a.sinks.Get(c.ctx, c.name); errors.Is(err, manager.ErrNoSink) {
			needs = policy.Create | policy.Sudo
		}
	}
	if needs != 0 && !id.Allows(needs, sinksPath+c.name, nil) {
		return nil, 0, permissionDenied()
	}
	if c.name != "" && !config.IsSinkName(c.name) {
		return nil, 0, badRequest("the name of a sink is 1 to 63 lower-case letters, digits, - and _, and begins with a letter or digit; %s is none", strconv.Quote(short(c.name)))
	}
	if route.changes {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), changeTimeout)
		defer cancel()
		c.ctx = ctx
	}
	return route.serve(c)
}

// sinkRefusal is the answer to a request that failed, or, for definitions, a list of what is
// wrong.
func (a *API) sinkRefusal(c *sinkCall, err error) (*refusal, []string) {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused, nil
	}
	if problems, ok := errors.AsType[config.Error](err); ok {
		var texts []string
		for i, p := range problems {
			if i == maxSinkProblems {
				texts = append(texts, fmt.Sprintf("and %d more problems", len(problems)-i))
				break
			}
			texts = append(texts, p.String())
		}
		return badRequest("%v", err), texts
	}
	var definition *manager.DefinitionError
	switch {
	case errors.As(err, &definition):
		return badRequest("the sink cannot be made as it is defined: %v", err), nil
	case errors.Is(err, manager.ErrNoSink), errors.Is(err, deliver.ErrNoLetter), errors.Is(err, deliver.ErrNoReplay):
		return &refusal{status: http.StatusNotFound, text: err.Error()}, nil
	case errors.Is(err, manager.ErrInFile), errors.Is(err, manager.ErrBroken), errors.Is(err, manager.ErrTooMany), errors.Is(err, manager.ErrConflict):
		return &refusal{status: http.StatusConflict, text: err.Error()}, nil
	case errors.Is(err, manager.ErrRange), errors.Is(err, manager.ErrNoSample), errors.Is(err, journal.ErrBadSince), errors.Is(err, journal.ErrNotFound):
		return badRequest("%v", err), nil
	case errors.Is(err, deliver.ErrBusy):
		return &refusal{status: http.StatusTooManyRequests, why: "busy", after: time.Minute, text: err.Error()}, nil
	case errors.Is(err, manager.ErrUnavailable), errors.Is(err, journal.ErrPushback), errors.Is(err, journal.ErrClosed),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		a.warn("a request about a sink cannot be served at the moment", "sink", c.name, "error", err)
		return &refusal{status: http.StatusServiceUnavailable, after: time.Second, text: "not possible at the moment, because the journal does not store or find it; look whether it was done, and try again"}, nil
	}
	a.log.Error("a request about a sink failed", "sink", c.name, "error", err)
	return &refusal{status: http.StatusInternalServerError, text: "internal error; the log of the server has more"}, nil
}

// maxSinkProblems is how many problems of a definition are answered.
const maxSinkProblems = 50

// readBody reads the body of a request.
func (c *sinkCall) readBody() ([]byte, error) {
	if encoding := c.r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, &refusal{status: http.StatusUnsupportedMediaType, text: "the body must not be compressed"}
	}
	body, err := io.ReadAll(io.LimitReader(c.r.Body, maxSinkBody+1))
	switch {
	case err != nil:
		return nil, badRequest("the body cannot be read: %v", err)
	case len(body) > maxSinkBody:
		return nil, &refusal{status: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("the body has more than %d bytes", maxSinkBody)}
	}
	return body, nil
}

// readJSON reads a body that may be left out, and has nothing but known members.
func (c *sinkCall) readJSON(into any, known string) error {
	body, err := c.readBody()
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err = d.Decode(into); err == nil && d.More() {
		err = errors.New("there is more behind it")
	}
	if err != nil {
		text := strings.TrimPrefix(err.Error(), "json: ")
		if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) && wrong.Field != "" {
			text = fmt.Sprintf("%s cannot be a %s", wrong.Field, wrong.Value)
		}
		return badRequest("the body is not the JSON that is wanted here, an object with %s: %s", known, short(text))
	}
	return nil
}

// query returns the parameters of the URL, of which there may only be these.
func (c *sinkCall) query(known ...string) (map[string]string, error) {
	q := make(map[string]string)
	for name, values := range c.r.URL.Query() {
		found := false
		for _, k := range known {
			found = found || k == name
		}
		switch {
		case !found && len(known) == 0:
			return nil, badRequest("unknown parameter %s; there are none here", strconv.Quote(short(name)))
		case !found:
			return nil, badRequest("unknown parameter %s; there are %s", strconv.Quote(short(name)), strings.Join(known, ", "))
		case len(values) > 1:
			return nil, badRequest("the parameter %s is there several times", strconv.Quote(short(name)))
		}
		q[name] = values[0]
	}
	return q, nil
}

// record is what is kept of a change.
func (c *sinkCall) record(what, operation string, fields ...string) trail.Record {
	r := trail.Record{What: what, Path: sinksPath + c.name, Operation: operation, Modified: true, Who: who(c.id, c.r)}
	r.Fields.Set("sink", c.name)
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i+1] != "" {
			r.Fields.Set(fields[i], fields[i+1])
		}
	}
	return r
}

// commit records a change that was made, before it is answered, however long that took.
func (c *sinkCall) commit(r trail.Record, done string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), changeTimeout)
	defer cancel()
	return c.a.commit(ctx, r, done+notRecorded)
}

func (c *sinkCall) kinds() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	common, kinds := config.SinkKinds()
	return SinkKinds{common, kinds}, 0, nil
}

func (c *sinkCall) list() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	all, err := c.a.sinks.List(c.ctx)
	answer := SinkList{Sinks: make([]Sink, 0, len(all))}
	for _, i := range all {
		if !c.id.Capabilities(sinksPath + i.Name).Has(policy.Deny) {
			answer.Sinks = append(answer.Sinks, sinkAnswer(i, false))
		}
	}
	return answer, 0, err
}

// sink answers the sink as it is now.
func (c *sinkCall) sink() (any, int, error) {
	i, err := c.a.sinks.Get(c.ctx, c.name)
	if err != nil {
		return nil, 0, err
	}
	return sinkAnswer(i, true), 0, nil
}

func (c *sinkCall) get() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	return c.sink()
}

// put adds or replaces a sink. The body is its definition, YAML or JSON.
func (c *sinkCall) put() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	text, err := c.readBody()
	if err != nil {
		return nil, 0, err
	}
	i, created, err := c.a.sinks.Put(c.ctx, c.name, text)
	if err != nil {
		return nil, 0, err
	}
	what, operation, status := "sink-update", "update", http.StatusOK
	if created {
		what, operation, status = "sink-create", "create", http.StatusCreated
	}
	if err := c.commit(c.record(what, operation, "sink_type", string(i.Definition.Type)), "the sink was written"); err != nil {
		return nil, 0, err
	}
	return sinkAnswer(i, true), status, nil
}

// delete removes a sink. With state=drop in the query its place in the journal and its dead
// letters are dropped, else they are kept.
func (c *sinkCall) delete() (any, int, error) {
	q, err := c.query("state")
	if err != nil {
		return nil, 0, err
	}
	keep := true
	switch q["state"] {
	case "", "keep":
	case "drop":
		keep = false
	default:
		return nil, 0, badRequest("the parameter state is %s, it must be keep, or drop to remove the place in the journal and the dead letters as well", strconv.Quote(short(q["state"])))
	}
	d, err := c.a.sinks.Delete(c.ctx, c.name, keep)
	if err != nil {
		return nil, 0, err
	}
	if err := c.commit(c.record("sink-delete", "delete", "kept", strconv.FormatBool(d.Kept), "dead_letters", strconv.FormatUint(d.DeadLetters, 10)), "the sink was removed"); err != nil {
		return nil, 0, err
	}
	return SinkDeleted{Kept: d.Kept, Letters: d.DeadLetters, Bytes: d.DeadLetterBytes}, 0, nil
}

func (c *sinkCall) test() (any, int, error) {
	var body SinkTest
	if err := c.readJSON(&body, "type"); err != nil {
		return nil, 0, err
	}
	begun := time.Now()
	result, e, err := c.a.sinks.Test(c.ctx, c.name, body.Type)
	if err != nil {
		return nil, 0, err
	}
	answer := SinkTested{Outcome: result.Outcome.String(), Status: result.Status, Reason: result.Reason, EventID: e.ID, Type: e.Type, Took: time.Since(begun).Seconds()}
	r := c.record("sink-test", "test", "result", answer.Outcome, "event_type", e.Type)
	r.Modified = false
	if err := c.commit(r, "the test event was handed to the sink"); err != nil {
		return nil, 0, err
	}
	return answer, 0, nil
}

func (c *sinkCall) pause() (any, int, error) {
	return c.hold("sink-paused", "pause", "the sink is paused", c.a.sinks.Pause)
}

func (c *sinkCall) disable() (any, int, error) {
	return c.hold("sink-disabled", "disable", "the sink is disabled", c.a.sinks.Disable)
}

func (c *sinkCall) hold(what, operation, done string, hold func(ctx context.Context, name, reason string) error) (any, int, error) {
	var body SinkReason
	if err := c.readJSON(&body, "reason"); err != nil {
		return nil, 0, err
	}
	if len(body.Reason) > maxReasonBytes {
		return nil, 0, badRequest("the reason is longer than %d bytes", maxReasonBytes)
	}
	reason := strings.Join(strings.Fields(body.Reason), " ")
	if err := hold(c.ctx, c.name, reason); err != nil {
		return nil, 0, err
	}
	if err := c.commit(c.record(what, operation, "reason", reason), done); err != nil {
		return nil, 0, err
	}
	return c.sink()
}

func (c *sinkCall) resume() (any, int, error) {
	if err := c.readJSON(&struct{}{}, "nothing"); err != nil {
		return nil, 0, err
	}
	if err := c.a.sinks.Resume(c.ctx, c.name); err != nil {
		return nil, 0, err
	}
	if err := c.commit(c.record("sink-resumed", "resume"), "the sink is sent events again"); err != nil {
		return nil, 0, err
	}
	return c.sink()
}

func (c *sinkCall) attempts() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	list, err := c.a.sinks.Attempts(c.name)
	if err != nil {
		return nil, 0, err
	}
	answer := SinkAttempts{Attempts: make([]SinkAttempt, 0, len(list))}
	for i := range list {
		answer.Attempts = append(answer.Attempts, attemptAnswer(&list[i]))
	}
	return answer, 0, nil
}
