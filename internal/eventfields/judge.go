package eventfields

import (
	"math"
	"strings"

	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// auditNodes are the places that what is judged needs.
type auditNodes struct {
	err, answer, secret, dataError, status int // of failures
	entity, accessor, token, address       int // of the client
	path, mountPoint, namespace            int // of logins
}

func (n *auditNodes) wantFailures(p *picker) {
	n.err = p.want(0, "error")
	n.answer = p.want(0, "response", "data")
	n.secret = p.want(0, "response", "secret")
	n.dataError = p.want(0, "response", "data", "error")
	n.status = p.want(0, "response", "data", "http_status_code")
}

func (n *auditNodes) wantClient(p *picker) {
	n.entity = p.want(0, "auth", "entity_id")
	n.accessor = p.want(0, "auth", "accessor")
	n.token = p.want(0, "auth", "client_token")
	n.address = p.want(0, "request", "remote_address")
}

func (n *auditNodes) wantLogin(p *picker) {
	n.path = p.want(0, "request", "path")
	n.mountPoint = p.want(0, "request", "mount_point")
	n.namespace = p.want(0, "request", "namespace", "path")
}

// auditClient answers with what tells clients apart.
func auditClient(r *Reader, q *query) []field.Element {
	for _, node := range [...]int{r.audit.entity, r.audit.accessor, r.audit.token, r.audit.address} {
		if s := r.textAt(q, node); s != "" {
			return q.text(s)
		}
	}
	return nil
}

// auditLogin answers whether it is a login.
func auditLogin(r *Reader, q *query) []field.Element {
	if r.pick.only(r.audit.path) == "" {
		return nil
	}
	return q.truth(r.isLogin(q))
}

// isLogin says what [trace.Request.IsLogin] says, so that alerts and metrics mean the same.
func (r *Reader) isLogin(q *query) bool {
	q.buf = q.buf[:0]
	path, mountPoint := q.alsoText(r.pick.only(r.audit.path)), q.alsoText(r.pick.only(r.audit.mountPoint))
	return isLogin(path, strings.TrimPrefix(mountPoint, q.alsoText(r.pick.only(r.audit.namespace))))
}

// isLogin says whether it is one by the path and the mount, both without the namespace.
func isLogin(path, mountPoint string) bool {
	below, ok := "", false
	if mountPoint != "" {
		below, ok = strings.CutPrefix(path, mountPoint)
		ok = ok && strings.HasPrefix(mountPoint, "auth/")
	} else if below, ok = strings.CutPrefix(path, "auth/"); ok {
		_, below, ok = strings.Cut(below, "/")
	}
	return ok && (below == "login" || strings.HasPrefix(below, "login/") || below == "oidc/callback")
}

// The outcomes of requests, in the words of internal/trace.
const (
	outcomeOK          = "ok"
	outcomeNotFound    = "not_found"
	outcomeDenied      = "denied"
	outcomeRejected    = "rejected"
	outcomeRateLimited = "rate_limited"
	outcomeError       = "error"
)

// judged is a field that follows from how the request ended.
func judged(name string, t sourceplugin.FieldType, description string, answer func(outcome string, q *query) []field.Element) definition {
	d := plain(name, t, description, nil)
	d.bind = func(r *Reader, q *query) {
		r.audit.wantFailures(&r.pick)
		r.audit.wantLogin(&r.pick)
		q.get = func(r *Reader, q *query) []field.Element {
			if !r.audited(q) {
				return nil
			}
			o := r.outcome(q)
			if o == "" {
				return nil
			}
			return answer(o, q)
		}
	}
	return d
}

// outcome returns how the request of an entry ended, "" if it has not: what
// [auditlog.Entry.Outcome] makes of it, in the words of [trace.Span.Outcome].
func (r *Reader) outcome(q *query) string {
	n := &r.audit
	errorText, dataError, status := r.pick.only(n.err), r.pick.raw(n.dataError), r.pick.only(n.status)
	if errorText == `""` {
		errorText = ""
	}
	switch {
	case errorText != "":
	case r.e.Type != typeResponse:
		return ""
	case dataError == "" && status == "":
		return outcomeOK // nearly always
	}
	code, _ := numberOf(status)
	outcome, unknown := outcomeError, false
	switch failed := isErrorAnswer(r.pick.only(n.answer), r.pick.only(n.secret)); {
	case errorText != "":
		unknown = true
		text := r.textAt(q, n.err)
		for _, known := range errorKinds {
			if says(text, known.text) {
				outcome, unknown = known.outcome, false
				break
			}
		}
		if unknown && overQuota(text) {
			return outcomeRateLimited
		}
	case failed:
		outcome = outcomeRejected
	case code < 400 || code > math.MaxInt64:
		return outcomeOK
	case code > 599:
		unknown = true
	case code == 404:
		return outcomeNotFound
	case code == 401 || code == 403:
		return outcomeDenied
	case code == 429:
		return outcomeRateLimited
	case code < 500:
		outcome = outcomeRejected
	}
	if outcome == outcomeRejected || unknown {
		if r.isLogin(q) {
			return outcomeDenied // each auth method has its own words for a wrong password
		}
	}
	return outcome
}

// isErrorAnswer says whether the data of an answer are those of a failure: nothing but the member
// error, or error and data, and no secret beside them.
func isErrorAnswer(data, secret string) bool {
	if data == "" || data[0] != '{' || secret != "" && secret[0] == '{' {
		return false
	}
	count, hasError, hasData := 0, false, false
	for name := range members(data) {
		count++
		hasError = hasError || name == "error"
		hasData = hasData || name == "data"
		if count > 2 {
			return false
		}
	}
	return hasError && (count == 1 || count == 2 && hasData)
}

// errorKinds are the errors of the server that tell the outcome.
var errorKinds = []struct{ text, outcome string }{
	{"permission denied", outcomeDenied},
	{"unsupported operation", outcomeRejected},
	{"unsupported path", outcomeRejected},
	{"invalid request", outcomeRejected},
	{"internal error", outcomeError},
}

// says reports whether one of the errors of an entry is exactly this one of the server, as
// [auditlog.Entry.Says] does.
func says(errors, text string) bool {
	if !strings.Contains(errors, text) {
		return false
	}
	for line := range strings.SplitSeq(errors, "\n") {
		if strings.TrimPrefix(strings.TrimSpace(line), "* ") == text {
			return true
		}
	}
	return false
}

// overQuota reports whether an error is that of a quota, as [auditlog.Entry.OverQuota] does.
func overQuota(errors string) bool {
	errors = strings.TrimSpace(errors)
	return strings.HasSuffix(errors, "rate limit quota exceeded") || strings.HasSuffix(errors, "lease count quota exceeded")
}
