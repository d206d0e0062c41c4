package eventfields

import (
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// Alerts mean the same by how a request ended as spans and metrics do, and by how long it took.
func TestOutcomesAreThoseOfTraces(t *testing.T) {
	t.Parallel()
	tracer, err := trace.NewTracer(trace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	type request struct {
		outcome, login string
		took           time.Duration
	}
	want := make(map[string]request)
	events := recordedEvents(t)
	var spans []*trace.Span
	for _, e := range events {
		spans = tracer.Add(spans, e, journal.Position{})
	}
	for _, s := range tracer.Close(spans) {
		if s.Kind == trace.RequestOnly && !s.Failed { // it has not ended
			continue
		}
		login := "false"
		if s.Request.IsLogin() {
			login = "true"
		}
		want[s.Request.ID] = request{s.Outcome().String(), login, s.Duration()}
	}
	texts := []string{"audit.request.id", "audit.outcome", "audit.is_login", "audit.duration", "audit.duration.ms", "audit.denied", "audit.failed"}
	r := ask(t, "tocsin", Options{}, texts...)
	counts := make(map[string]int)
	r.Record(t.Context(), recordOf(events...))
	for i, e := range events {
		r.At(i)
		if e.Type != typeResponse || len(r.Values(0)) == 0 {
			continue
		}
		id := r.Values(0)[0].Text
		w, ok := want[id]
		if !ok {
			t.Errorf("no span of %s", id)
			continue
		}
		outcome := r.Values(1)[0].Text
		counts[outcome]++
		login := "false"
		if r.Values(2)[0].Number == 1 {
			login = "true"
		}
		if outcome != w.outcome || login != w.login {
			t.Errorf("%s, login %s, but the span of it is %s, %s", outcome, login, w.outcome, w.login)
		}
		if took := r.Values(3); len(took) == 1 && (took[0].Number != uint64(w.took) || r.Values(4)[0].Number != uint64(w.took.Milliseconds())) {
			t.Errorf("%d and %d ms instead of %d", took[0].Number, r.Values(4)[0].Number, w.took)
		} else if len(took) == 0 && w.took > 0 {
			t.Errorf("the duration of %s is not known", id)
		}
		if denied, failed := r.Values(5)[0].Number == 1, r.Values(6)[0].Number == 1; denied != (outcome == "denied") || failed != (outcome != "ok") {
			t.Errorf("denied %v, failed %v with the outcome %s", denied, failed, outcome)
		}
	}
	for _, outcome := range []string{"ok", "denied", "rejected", "not_found"} {
		if counts[outcome] == 0 {
			t.Errorf("no request with the outcome %s", outcome)
		}
	}
}

// What decides how a request ended.
func TestOutcome(t *testing.T) {
	t.Parallel()
	r := ask(t, "tocsin", Options{}, "audit.outcome", "audit.failed", "audit.denied", "audit.is_login")
	for line, want := range map[string]string{
		`{"type":"response"}`:              "ok",
		`{"type":"request"}`:               "",
		`{"type":"request","error":"x"}`:   "error",
		`{"type":"response","error":""}`:   "ok",
		`{"type":"response","error":null}`: "ok",
		`{"type":"response","error":"1 error occurred:\n\t* permission denied\n\n"}`: "denied",
		`{"type":"request","error":"permission denied"}`:                             "denied",
		`{"type":"response","error":"no permission denied"}`:                         "error",
		`{"type":"response","error":"invalid request"}`:                              "rejected",
		`{"type":"response","error":"internal error"}`:                               "error",
		`{"type":"response","error":"x: rate limit quota exceeded\n"}`:               "rate_limited",
		`{"type":"response","response":{"data":{"error":"wrong password"}}}`:         "rejected",
		`{"type":"response","request":{"path":"auth/userpass/login/x","mount_point":"auth/userpass/"},"response":{"data":{"error":"wrong password"}}}`: "denied",
		`{"type":"response","request":{"path":"auth/userpass/login/x"},"error":"anything"}`:                                                            "denied",
		`{"type":"response","request":{"path":"auth/userpass/login/x"},"error":"internal error"}`:                                                      "error",
		`{"type":"response","response":{"data":{"error":"x","data":{}}}}`:                                                                              "rejected",
		`{"type":"response","response":{"data":{"error":"x","other":{}}}}`:                                                                             "ok",
		`{"type":"response","response":{"secret":{},"data":{"error":"x"}}}`:                                                                            "ok",
		`{"type":"response","response":{"data":{"http_status_code":404}}}`:                                                                             "not_found",
		`{"type":"response","response":{"data":{"http_status_code":403,"http_raw_body":""}}}`:                                                          "denied",
		`{"type":"response","response":{"data":{"http_status_code":429}}}`:                                                                             "rate_limited",
		`{"type":"response","response":{"data":{"http_status_code":409}}}`:                                                                             "rejected",
		`{"type":"response","response":{"data":{"http_status_code":500}}}`:                                                                             "error",
		`{"type":"response","response":{"data":{"http_status_code":200}}}`:                                                                             "ok",
		`{"type":"response","response":{"data":{"http_status_code":1000}}}`:                                                                            "error",
	} {
		var p auditlog.Parser
		entry, err := p.Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		e := &event.Event{Type: typeRequest, Data: []byte(line)}
		if entry.IsResponse {
			e.Type = typeResponse
		}
		r.Event(t.Context(), e)
		got := ""
		if v := r.Values(0); len(v) > 0 {
			got = v[0].Text
		}
		failed := len(r.Values(1)) > 0 && r.Values(1)[0].Number == 1
		if got != want || failed != entry.Outcome().Failed() {
			t.Errorf("%s: %q instead of %q, failed: %v", line, got, want, failed)
		}
	}
}

// A login in a namespace is one: the mount has the namespace before it, and the path has not.
func TestLogins(t *testing.T) {
	t.Parallel()
	r := ask(t, "tocsin", Options{}, "audit.is_login", "audit.denied")
	for request, want := range map[string]bool{
		`{"path":"auth/userpass/login/x","mount_point":"auth/userpass/","namespace":{"id":"root"}}`:                           true,
		`{"path":"auth/userpass/login/x","mount_point":"team-a/auth/userpass/","namespace":{"id":"n1","path":"team-a/"}}`:     true,
		`{"path":"auth/oidc/oidc/callback","mount_point":"team-a/b/auth/oidc/","namespace":{"id":"n2","path":"team-a/b/"}}`:   true,
		`{"path":"auth/approle/login","mount_point":"auth/auth/approle/","namespace":{"id":"n3","path":"auth/"}}`:             true,
		`{"path":"auth/userpass/login/x","namespace":{"id":"n1","path":"team-a/"}}`:                                           true,
		`{"path":"auth/userpass/users/login","mount_point":"team-a/auth/userpass/","namespace":{"id":"n1","path":"team-a/"}}`: false,
		`{"path":"secret/login/x","mount_point":"team-a/secret/","namespace":{"id":"n1","path":"team-a/"}}`:                   false,
		`{"path":"auth/userpass/login/x","mount_point":"team-b/auth/userpass/","namespace":{"id":"n1","path":"team-a/"}}`:     false,
		`{"path":"kv/auth/userpass/login/x","mount_point":"auth/team-a/kv/","namespace":{"id":"n4","path":"auth/team-a/"}}`:   false,
	} {
		line := `{"type":"response","request":` + request + `,"response":{"data":{"error":"hmac-sha256:1"}}}`
		r.Event(t.Context(), &event.Event{Type: typeResponse, Data: []byte(line)})
		if login := r.Values(0)[0].Number == 1; login != want {
			t.Errorf("%s: login %v", request, login)
		}
		if denied := r.Values(1)[0].Number == 1; denied != want {
			t.Errorf("%s: denied %v", request, denied)
		}
	}
}

// What was begun too long ago is forgotten, and no more memory is taken.
func TestPairsAreBounded(t *testing.T) {
	r := ask(t, "tocsin", Options{}, "audit.duration")
	at := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	entry := func(eventType, source, id string, after time.Duration) *event.Event {
		e := &event.Event{Type: eventType, Source: source, Time: at.Add(after), Data: []byte("{}")}
		e.Metadata.Set("request_id", id)
		return e
	}
	took := func(source, id string, after time.Duration) string {
		r.Event(t.Context(), entry(typeResponse, source, id, after))
		return joined(shown(r.queries[0].field, r.Values(0)))
	}
	r.Event(t.Context(), entry(typeRequest, "vault://a", "1", 0))
	r.Event(t.Context(), entry(typeRequest, "vault://b", "1", time.Second))
	for range 2 { // asking again is no harm
		if a, b, c := took("vault://a", "1", 3*time.Second), took("vault://b", "1", 3*time.Second), took("vault://c", "1", 3*time.Second); a != "3000000000" || b != "2000000000" || c != "" {
			t.Fatal(a, b, c)
		}
	}
	if d := took("vault://a", "1", -time.Second); d != "" {
		t.Errorf("before it began: %s", d)
	}
	ids := make([]string, 200_000)
	for i := range ids {
		ids[i] = event.NewID()
	}
	e := entry(typeRequest, "vault://a", "", 10*time.Second)
	r.Event(t.Context(), e)
	n := 0
	if allocs := testing.AllocsPerRun(len(ids)-10, func() {
		e.Metadata[0].Value = ids[n]
		n++
		r.Event(t.Context(), e)
		r.Values(0)
	}); allocs != 0 {
		t.Errorf("%v allocations for each", allocs)
	}
	if d := took("vault://a", "1", 11*time.Second); d != "" {
		t.Errorf("after %d others: %s", n, d)
	}
	if d := took("vault://a", ids[n-1], 11*time.Second); d != "1000000000" {
		t.Errorf("of the last one: %s", d)
	}
}
