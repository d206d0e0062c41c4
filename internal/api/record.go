package api

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// The paths of records that stand for many: about addresses that failed too often, and
// about those that were denied, or logged in, so often that not each time was recorded.
const (
	limitPath  = "sys/failed-authentications"
	denialPath = "sys/denied-requests"
	loginsPath = "sys/logins"
)

// who describes an identity, or nobody, for the trail.
func who(id access.Identity, r *http.Request) trail.Who {
	w := trail.Who{Remote: remote(r)}
	if e := id.Entry(); e != nil {
		w.DisplayName, w.Accessor, w.EntityID, w.Policies, w.Provider =
			e.DisplayName, e.Accessor, e.Subject.EntityID, e.Policies, id.Provider()
	}
	return w
}

// attempt is something that was refused.
type attempt struct {
	what                       string
	namespace, path, operation string
	id                         access.Identity
	request                    *http.Request
	shown                      string // path that is not of Vault's API
	count                      int    // how many were refused together; 0: one
}

// beyond is why those are refused who ask for more than they may give away.
const beyond = "beyond own rights"

// loginRefused is why those are refused whom an auth plugin does not let in, whatever
// status it gives them.
const loginRefused = "login"

// wrongSignature is why a webhook is refused that has no signature or a wrong one, with a
// status that makes its sender try again.
const wrongSignature = "signature"

// recordRefusal records a denial, and nothing of refusals for other reasons. Of those of
// one address it records as many as may fail to authenticate, and counts the others: else
// everybody who has a token, even one without rights, could fill the journal until
// retention removes what others did.
func (a *API) recordRefusal(t attempt, refused *refusal) {
	switch {
	case refused.why == beyond, refused.why == loginRefused, refused.why == wrongSignature:
	case refused.why != "", refused.status != http.StatusForbidden:
		return
	}
	if !a.denials.take(source(t.request)) {
		return
	}
	r := trail.Record{What: t.what, Namespace: t.namespace, Path: t.path, Operation: t.operation, Who: who(t.id, t.request), Error: denial(refused.text)}
	if refused.why == loginRefused {
		r.Error = "the plugin refused the login" // its own text may have anything in it
	}
	// Whoever may see events of a path sees the record. So that nobody can have events
	// made on paths of others, those that are not of the API are no path of the record.
	if !strings.HasPrefix(t.path, "sys/") && !strings.HasPrefix(t.path, "auth/") {
		if t.shown == "" {
			t.shown = t.namespace + t.path
		}
		r.Namespace, r.Path = "", ""
		r.Fields.Set("request_path", t.shown)
	}
	if t.count > 1 {
		r.Fields.Set("count", strconv.Itoa(t.count))
	}
	a.trail.Record(r)
}

// denial is the text of a refusal in one line.
func denial(text string) string {
	_, list, ok := strings.Cut(text, "\n\t* ")
	if !ok {
		return text
	}
	return strings.ReplaceAll(strings.TrimSpace(list), "\n\t* ", "; ")
}

// recordLimited records how many requests of an address were refused unseen.
func (a *API) recordLimited(from netip.Prefix, refused int) {
	a.log.Debug("requests were refused because of failed authentications", "address", from.String(), "count", refused)
	a.recordMany(from, refused, trail.Record{What: "request-denied", Path: limitPath, Error: "too many failed authentications"})
}

// recordLogin records that somebody has presented a token to see whose it is, as clients do
// to log in. Like denials, those of one address are counted beyond a limit.
func (a *API) recordLogin(c *call) {
	if a.lookups.take(source(c.r)) {
		a.trail.Record(trail.Record{What: "login", Namespace: c.namespace, Path: c.path, Operation: string(c.operation), Who: who(c.id, c.r)})
	}
}

// recordLogins records how many logins of an address have no record of their own.
func (a *API) recordLogins(from netip.Prefix, count int) {
	a.recordMany(from, count, trail.Record{What: "login", Path: loginsPath})
}

// recordDenials records how many requests of an address were denied without a record of
// their own.
func (a *API) recordDenials(from netip.Prefix, denied int) {
	a.recordMany(from, denied, trail.Record{What: "request-denied", Path: denialPath, Error: "permission denied; too many to record each"})
}

func (a *API) recordMany(from netip.Prefix, count int, r trail.Record) {
	r.Operation = "limit"
	if from.IsValid() {
		r.Who.Remote = from.Addr().String()
		if !from.IsSingleIP() {
			r.Who.Remote = from.String()
		}
	}
	r.Fields.Set("count", strconv.Itoa(count))
	a.trail.Record(r)
}

// change is the record of what a request changes.
func (c *call) change(what string) trail.Record {
	return trail.Record{What: what, Namespace: c.namespace, Path: c.path, Operation: string(c.operation), Modified: true, Who: who(c.id, c.r)}
}

const notRecorded = ", but this could not be recorded in the journal"

// commit records a change that was made. If that fails, the error is the answer and
// has this text.
func (a *API) commit(ctx context.Context, r trail.Record, text string) error {
	err := a.trail.Commit(ctx, r)
	if err == nil {
		return nil
	}
	a.log.Error("a change was made but could not be recorded", "what", r.What, "namespace", r.Namespace, "path", r.Path,
		"accessor", r.Who.Accessor, "error", err)
	return &refusal{status: http.StatusServiceUnavailable, text: text}
}
