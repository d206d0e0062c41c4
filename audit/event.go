package audit

import (
	"log/slog"
	"time"
)

// Event is one thing that somebody did, or tried to do. Action and Target.Type are
// required, the rest is filled where it is known: from the context, by the logger, or not at
// all.
//
// An Event that is logged may be changed afterwards: [Logger.Log] keeps nothing of it.
type Event struct {
	// ID is unique. The logger makes one (a UUIDv7) when it is empty. An event that is
	// delivered twice has the same ID both times.
	ID string
	// Sequence counts the events of a logger from 1, also across restarts where its queue
	// is durable. It is set when the event is taken, so it is there in a [Sink], and
	// ignored by [Logger.Log]. Where a number is missing, an event is missing.
	Sequence uint64
	// Time is when it happened, and now if it is zero. It is kept in UTC with nanoseconds.
	Time time.Time
	// Service is who tells, set by the logger.
	Service string

	// Action is what was done: a verb, such as "create" or "login". 1 to 64 letters,
	// digits, "-", "_" and ".".
	Action string
	// Target is what it was done to.
	Target Target
	// Outcome is what became of it; empty means [Success].
	Outcome Outcome
	// Reason says why, for people. It is not needed for a success.
	Reason string

	// Actor is who did it. Fields that are empty are taken from the actor of the context
	// (see [WithActor]); where that is somebody else, only IP and UserAgent are.
	Actor Actor
	// RequestID is the id of the request in which it was done, Traceparent and Tracestate
	// are its place in a trace (W3C Trace Context). Those that are empty come from the
	// context.
	RequestID   string
	Traceparent string
	Tracestate  string

	// Before and After are the state of the target, anything that encoding/json can
	// encode; nil, also of a pointer, is no state. If both are there, Changes is computed; see
	// [Diff]. A [json.RawMessage] that is no JSON is kept as a text.
	Before, After any
	// Changes is how After differs from Before.
	Changes *Changes
	// Metadata are more facts, by which events can be selected in a hub. The names are yours. Those
	// of a hub's own metadata (actor, actor_id, operation, outcome, path, reason, remote_address,
	// request_id, service, target_id, target_type) select what these say.
	Metadata map[string]string
	// Payload is whatever else is to be kept, anything that encoding/json can encode.
	Payload any

	// Truncated lists what was left out or cut because it was too large. It is set by the
	// logger.
	Truncated []Truncation
	// Dropped is set in the event that stands where others were not taken, because there
	// was no room and the logger was told to [Drop].
	Dropped *Dropped
}

// Actor is who does something. All fields may be empty.
type Actor struct {
	ID    string // stable id of the user or service
	Name  string
	Email string
	// Method is how the actor was authenticated: "oidc", "token", "mtls", ...
	Method string
	// TokenID is the id of the credential that was used, never the credential.
	TokenID   string
	IP        string // address of the client, without port
	UserAgent string
	Roles     []string // at most [MaxRoles] are kept
}

// Target is what something is done to. Type is required.
type Target struct {
	// Type is a noun, such as "order". 1 to 64 letters, digits, "-", "_" and ".".
	Type string
	// ID tells it from others of its type.
	ID string
	// Path is what policies of a hub judge. Empty means Type, a slash, and ID.
	Path string
	Name string
	// Namespace is that of a hub, such as "team-a/"; empty is the root namespace.
	Namespace string
}

// Outcome is what became of an action.
type Outcome string

// The outcomes.
const (
	Success Outcome = "success"
	Denied  Outcome = "denied"  // the actor may not do that
	Failure Outcome = "failure" // it was not possible: what was asked for was wrong
	Error   Outcome = "error"   // the service failed
)

// Truncation says that a part of an event is not as it was given.
type Truncation struct {
	// Path is a JSON pointer (RFC 6901) into the JSON form of the event.
	Path string `json:"path"`
	// Bytes is how long it was.
	Bytes int `json:"bytes"`
}

// Dropped says how many events are missing, and when the first and the last of them were
// logged.
type Dropped struct {
	Events uint64    `json:"events"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Action and type of events that a logger makes itself.
const (
	actionDropped = "dropped"
	actionTest    = "test"
	typeTrail     = "audit-trail"
)

// Type returns what the event is called outside: service, type of the target, and action,
// with slashes in between. The last two are what pairs "noun:verb" select.
func (e *Event) Type() string { return e.Service + "/" + e.Target.Type + "/" + e.Action }

// path is the path in a hub.
func (t *Target) path() string {
	switch {
	case t.Path != "":
		return t.Path
	case t.ID != "":
		return t.Type + "/" + t.ID
	}
	return t.Type
}

// LogValue shows who did what and what became of it, without Before, After and Payload.
func (e Event) LogValue() slog.Value {
	outcome := e.Outcome
	if outcome == "" {
		outcome = Success
	}
	attrs := []slog.Attr{slog.String("id", e.ID)}
	if e.Sequence > 0 {
		attrs = append(attrs, slog.Uint64("sequence", e.Sequence))
	}
	attrs = append(attrs, slog.Time("time", e.Time), slog.String("service", e.Service), slog.String("action", e.Action), slog.String("outcome", string(outcome)))
	attrs = appendText(attrs, "reason", e.Reason)
	attrs = append(attrs, slog.Any("target", e.Target), slog.Any("actor", e.Actor))
	attrs = appendText(attrs, "request_id", e.RequestID)
	attrs = appendText(attrs, "traceparent", e.Traceparent)
	return slog.GroupValue(attrs...)
}

// LogValue shows the fields that are not empty.
func (a Actor) LogValue() slog.Value {
	var attrs []slog.Attr
	attrs = appendText(attrs, "id", a.ID)
	attrs = appendText(attrs, "name", a.Name)
	attrs = appendText(attrs, "email", a.Email)
	attrs = appendText(attrs, "method", a.Method)
	attrs = appendText(attrs, "token_id", a.TokenID)
	attrs = appendText(attrs, "ip", a.IP)
	attrs = appendText(attrs, "user_agent", a.UserAgent)
	if len(a.Roles) > 0 {
		attrs = append(attrs, slog.Any("roles", a.Roles))
	}
	return slog.GroupValue(attrs...)
}

// LogValue shows the fields that are not empty.
func (t Target) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("type", t.Type)}
	attrs = appendText(attrs, "id", t.ID)
	attrs = appendText(attrs, "path", t.Path)
	attrs = appendText(attrs, "name", t.Name)
	attrs = appendText(attrs, "namespace", t.Namespace)
	return slog.GroupValue(attrs...)
}

func appendText(attrs []slog.Attr, key, text string) []slog.Attr {
	if text == "" {
		return attrs
	}
	return append(attrs, slog.String(key, text))
}

// fill takes what is empty in a from b. Of somebody else it takes only where the request came
// from: names and roles of two must not be mixed.
func (a *Actor) fill(b *Actor) {
	take(&a.IP, b.IP)
	take(&a.UserAgent, b.UserAgent)
	if a.differs(b) {
		return
	}
	take(&a.ID, b.ID)
	take(&a.Name, b.Name)
	take(&a.Email, b.Email)
	take(&a.Method, b.Method)
	take(&a.TokenID, b.TokenID)
	if a.Roles == nil {
		a.Roles = b.Roles
	}
}

// differs reports whether two actors cannot be the same.
func (a *Actor) differs(b *Actor) bool {
	other := func(x, y string) bool { return x != "" && y != "" && x != y }
	if a.ID != "" && b.ID != "" {
		return a.ID != b.ID
	}
	return other(a.Name, b.Name) || other(a.Email, b.Email) || other(a.TokenID, b.TokenID)
}

func take(dst *string, text string) {
	if *dst == "" {
		*dst = text
	}
}
