package eventfields

import (
	"strings"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// auditNodes are the places that what is judged needs.
type auditNodes struct {
	err, dataError, status           int // of failures
	entity, accessor, token, address int // of the client
	path, mountPoint                 int // of logins
}

func (n *auditNodes) wantFailures(p *picker) {
	n.err = p.want(0, "error")
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

// auditLogin answers as [trace.Request.IsLogin] does, so that alerts and metrics mean the same.
func auditLogin(r *Reader, q *query) []field.Element {
	raw, mountPoint := r.pick.only(r.audit.path), r.pick.only(r.audit.mountPoint)
	if raw == "" || raw[0] != '"' {
		return nil
	}
	if mountPoint == "" || mountPoint[0] != '"' {
		mountPoint = `""`
	}
	q.buf = q.buf[:0]
	return q.truth(isLogin(q.also(raw), q.also(mountPoint)))
}

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
		q.get = func(r *Reader, q *query) []field.Element {
			if !r.audited(q) {
				return nil
			}
			n := &r.audit
			if r.pick.raw(n.err) == "" && r.pick.raw(n.dataError) == "" && r.pick.raw(n.status) == "" {
				if r.e.Type != typeResponse {
					return nil
				}
				return answer(outcomeOK, q) // nearly always
			}
			e := r.parsed()
			if e == nil {
				return nil
			}
			o := outcomeOf(e)
			if o == "" {
				return nil
			}
			return answer(o, q)
		}
	}
	return d
}

// parsed returns the entry; nil if it is none.
func (r *Reader) parsed() *auditlog.Entry {
	p := &r.entry
	if p.turn != r.turn {
		p.turn, p.entry = r.turn, nil
		data := r.payload.data
		if e, err := p.parser.Parse(unsafe.Slice(unsafe.StringData(data), len(data))); err == nil {
			p.entry = e
		}
	}
	return p.entry
}

// errorKinds are the errors of the server that tell the outcome.
var errorKinds = []struct{ text, outcome string }{
	{"permission denied", outcomeDenied},
	{"unsupported operation", outcomeRejected},
	{"unsupported path", outcomeRejected},
	{"invalid request", outcomeRejected},
	{"internal error", outcomeError},
}

// outcomeOf returns how a request ended, "" if it has not: what [trace.Span.Outcome] says.
func outcomeOf(e *auditlog.Entry) string {
	outcome, unknown := outcomeError, false
	switch e.Outcome() {
	case auditlog.Succeeded:
		return outcomeOK
	case auditlog.Unanswered:
		return ""
	case auditlog.FailedStatus:
		switch code, ok := e.Response.Data.Get("http_status_code").Int(); {
		case !ok || code < 100 || code > 599:
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
	case auditlog.FailedResponse:
		outcome = outcomeRejected
	case auditlog.FailedError:
		unknown = true
		for _, known := range errorKinds {
			if e.Says(known.text) {
				outcome, unknown = known.outcome, false
				break
			}
		}
		if unknown && e.OverQuota() {
			return outcomeRateLimited
		}
	}
	if (outcome == outcomeRejected || unknown) && isLogin(e.Request.Path, e.Request.MountPoint) {
		return outcomeDenied // each auth method has its own words for a wrong password
	}
	return outcome
}
