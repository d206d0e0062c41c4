// Package fliptevent knows the audit events of Flipt as bytes: the versions 0.1 and 0.2, the
// form of the webhooks, and that of the log. What it decodes it encodes again byte for byte,
// and it translates to and from the events of the program. It sends and receives nothing.
//
// # Two forms
//
// Both forms are one JSON object with the same members. A webhook body is in the order
// version, type, action, metadata, payload, timestamp, status, and <, > and & are escaped
// in texts. A line of the log has the status behind the action, and nothing is escaped that
// need not be. Version 0.1 has no status, and its log is like its webhooks.
//
// # Ids
//
// Events of Flipt have no id, and their time is in whole seconds: two changes within one
// second can be the same bytes. [ID] derives an id from the event and from which occurrence
// of it this is. The same event has the same id whichever way it came, so one that was received
// by webhook is known again in the log file. Who receives counts the occurrences:
//
//   - The first request with an event is its first occurrence.
//   - Flipt sends one event at a time and repeats it, byte for byte, until it has the answer. A
//     request after one that was not answered, or whose answer could not be written, is
//     therefore the same occurrence.
//   - After an answer Flipt does not repeat. A request with the same bytes is then another
//     event, the next occurrence.
//   - Where it cannot be told whether there was an answer, as after a crash, the event is the
//     next occurrence and says so in its metadata ([MetadataRepeatOf]): a repeat too many can be
//     recognised, a missing event could not.
package fliptevent

import "time"

// Versions of events.
const (
	Version1 = "0.1" // to v1.43
	Version2 = "0.2" // from v1.44
)

// Values of [Event.Status].
const (
	StatusSuccess = "success"
	StatusDenied  = "denied"
)

// Event is one audit event of Flipt.
type Event struct {
	Version string
	Type    string // the noun: "flag", "segment", ...
	Action  string // "created", "updated", "deleted", "read"
	// Actor is who did it, nil when nobody is told.
	Actor *Actor
	// Metadata is the JSON of the member "metadata" as it was decoded. It is encoded as it
	// is; nil: it is made of Actor.
	Metadata []byte
	// Payload is JSON, verbatim as it was decoded; nil is null.
	Payload []byte
	// Timestamp is in RFC 3339, as it was written.
	Timestamp string
	// Status is "success" or "denied". Empty in an event of version 0.1, it is left out.
	Status string
	// Unknown are members that no version of Flipt has, in their order. They are encoded behind
	// the others.
	Unknown []Member
}

// Member is a member of a JSON object.
type Member struct {
	Name  string
	Value []byte // JSON, verbatim
}

// Actor is who did something.
type Actor struct {
	Authentication string // "none", or the method: "token", "oidc", ...
	IP             string
	Email          string
	Name           string
	Picture        string
	// More are the other texts of the flat map that early 0.1 events have, such as
	// io.flipt.auth.oidc.email, sorted by name.
	More []Text
}

// Text is a named text.
type Text struct{ Name, Value string }

// Time returns the timestamp, false when it is none.
func (e *Event) Time() (time.Time, bool) {
	t, err := time.Parse(time.RFC3339Nano, e.Timestamp)
	if err != nil || t.Year() < 0 || t.UTC().Year() < 0 || t.UTC().Year() > 9999 {
		return time.Time{}, false
	}
	return t, true
}

// Complete says what an event lacks, "" when it is valid: it needs a version, a type, an
// action and a timestamp.
func (e *Event) Complete() (missing string) {
	switch {
	case e.Version == "":
		return "version"
	case e.Type == "":
		return "type"
	case e.Action == "":
		return "action"
	case e.Timestamp == "":
		return "timestamp"
	}
	return ""
}

// hasStatus says whether the member status is there.
func (e *Event) hasStatus() bool { return e.Status != "" || e.Version != Version1 }
