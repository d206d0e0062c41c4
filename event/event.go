// Package event holds the one model of everything that flows through Tocsin:
// audit entries, notifications derived from them, events of plugins and
// applications, alerts. It knows the encodings that the outside world speaks
// (Vault's JSON envelope and protobuf, CloudEvents JSON), the type globs that
// select events, and the limits that bound them. It does not store, route or
// authorise anything.
package event

import (
	"crypto/sha1"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Event is one thing that happened. The zero value is not valid: ID, Type,
// Source and Time are required (see [Event.Complete] and [Limits.Check]).
//
// An Event is a value: once handed to another package it must not be changed,
// because its strings and bytes are shared by every consumer.
type Event struct {
	// ID is unique together with Source (CloudEvents 1.0 section 3.1.1). The
	// same occurrence always has the same ID, so a repeat is recognisable.
	ID string
	// Type is what happened, as "<producer>/<what>", for example
	// "kv-v2/data-write". Subscriptions select it with a glob.
	Type string
	// Namespace is the namespace path with a trailing slash and no leading
	// one; empty for the root namespace.
	Namespace string
	// Source is the URI-reference of the context in which it happened.
	Source string
	// Path is the API path, relative to Namespace, on which a subscriber needs
	// the subscribe capability. Where Metadata has a text value under
	// [MetadataPath], it must be the same. Empty: only root tokens may see the
	// event. It is the subject of the CloudEvent.
	Path string
	// Metadata describes the event without secrets. Nil is no metadata at all,
	// which Vault's clients see as a missing member; empty is {}.
	Metadata Fields
	// EntityIDs and Note are carried for Vault's EventData message.
	EntityIDs []string
	Note      string
	// Plugin says which mount sent the event; nil when none did.
	Plugin *PluginInfo
	// Time is when it happened, as told by the producer.
	Time time.Time
	// Recorded is when the journal accepted it; zero before.
	Recorded time.Time
	// Data is the payload in the media type DataContentType, verbatim; nil for
	// events that Metadata tells completely.
	Data            []byte
	DataContentType string
	// DataSchema is the URI of the schema that Data adheres to, if any.
	DataSchema string
	// DataRef says where a payload too large for the event is kept (CloudEvents
	// claim check extension).
	DataRef string
	// Extensions are further CloudEvents attributes; names are lower-case
	// letters and digits, values are texts, true, false, or integers of 32 bits.
	Extensions Fields
}

// PluginInfo tells which mount of which plugin an event comes from. The fields
// are those of Vault's EventPluginInfo.
type PluginInfo struct {
	MountClass    string // "secret" or "auth"
	MountAccessor string // for example "kv_957bb7d8"
	MountPath     string // relative to the namespace, with a trailing slash
	Plugin        string // mount type, for example "kv"
	PluginVersion string // for example "v0.25.0+builtin"
	Version       string // the mount option "version", "2" for kv-v2
	IsLocal       bool   // local (unreplicated) mount
}

// Metadata keys that have a meaning to the program, with Vault's spelling.
const (
	MetadataPath      = "path"      // API path on which a subscriber needs a right
	MetadataDataPath  = "data_path" // API path from which the new data can be read
	MetadataOperation = "operation" // what was done
	MetadataModified  = "modified"  // "true" when stored data changed
)

// SourceVault returns the source of events that a Vault or OpenBao server
// named name caused.
func SourceVault(name string) string { return "vault://" + name }

// idSpace is the UUIDv5 name space of derived ids. It is part of the wire
// contract: a change would make every repeat look new.
var idSpace = uuid.MustParse("6f1c3f0a-7a52-5d0e-9d3c-0d5b7f4b8a11")

// DeriveID returns the id that belongs to parts for ever: a UUIDv5 (RFC 9562)
// over the parts, each ended by a NUL byte so that ("ab", "c") and ("a", "bc")
// differ.
func DeriveID(parts ...string) string {
	buf := make([]byte, 0, 256)
	buf = append(buf, idSpace[:]...)
	for _, p := range parts {
		buf = append(append(buf, p...), 0)
	}
	sum := sha1.Sum(buf)
	sum[6] = sum[6]&0x0f | 0x50
	sum[8] = sum[8]&0x3f | 0x80
	return formatID((*[16]byte)(sum[:16]))
}

// Complete fills what the producer may leave out: a missing ID becomes a
// UUIDv7, a missing Time becomes now, Namespace gets its trailing slash.
func (e *Event) Complete(now time.Time) {
	if e.ID == "" {
		e.ID = NewID()
	}
	if e.Time.IsZero() {
		e.Time = now
	}
	e.Namespace = CanonicalNamespace(e.Namespace)
}

// CanonicalNamespace returns ns in the form that [Event.Namespace] has: no
// leading slash, one trailing slash, and empty for root (also spelt "root").
func CanonicalNamespace(ns string) string {
	trimmed := strings.Trim(ns, "/")
	switch {
	case trimmed == "" || trimmed == "root":
		return ""
	case len(ns) == len(trimmed)+1 && ns[len(trimmed)] == '/':
		return ns // as it should be, the usual case
	}
	return trimmed + "/"
}

// ExtraValueAtEnd is the metadata key of the last of an odd number of texts given to
// [NewNotification], as in Vault's SDK.
const ExtraValueAtEnd = "EXTRA_VALUE_AT_END"

// NewNotification returns an event without a payload that metadata tells completely: pairs
// of key and value, of which the last counts if a key occurs twice. The value of an odd
// one at the end goes under [ExtraValueAtEnd]. Its ID is random, its Path is the value
// under [MetadataPath], and its Time is now. Source and Namespace are left to who sends
// it. The texts are taken as they are.
func NewNotification(eventType string, metadata ...string) *Event {
	// A few fields lie beside the event, in the same piece of memory.
	if len(metadata) <= 8 {
		both := new(struct {
			Event
			fields [4]Field
		})
		both.Metadata = both.fields[:0]
		both.SetNotification(eventType, metadata...)
		return &both.Event
	}
	e := new(Event)
	e.SetNotification(eventType, metadata...)
	return e
}

// SetNotification makes e what [NewNotification] returns, in the memory of its former
// Metadata if that is large enough. It is for those who use events again that nobody
// else keeps.
func (e *Event) SetNotification(eventType string, metadata ...string) {
	now := time.Now().UTC()
	fields := slices.Grow(e.Metadata[:0], (len(metadata)+1)/2)
	for i := 0; i+1 < len(metadata); i += 2 {
		fields.Set(metadata[i], metadata[i+1])
	}
	if n := len(metadata); n%2 == 1 {
		fields.Set(ExtraValueAtEnd, metadata[n-1])
	}
	if fields == nil {
		fields = Fields{}
	}
	*e = Event{ID: newID(now), Type: eventType, Time: now, Metadata: fields}
	e.Path, _ = fields.Text(MetadataPath)
}

// ErrNoEvents is returned by those who send events when there is nobody to take them. A
// program can go on without.
var ErrNoEvents = errors.New("no event system is there: the event was not sent")
