package fliptevent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
)

// TypePrefix begins the types of events that came from Flipt: flipt/<type>/<action>.
const TypePrefix = "flipt/"

// TypeQuarantined is the type of what Flipt sent and is no event of it.
const TypeQuarantined = TypePrefix + "quarantined"

// Metadata keys of events that came from Flipt, besides those of package event.
const (
	MetadataAction         = "action"         // "created", "updated", "deleted", "read"
	MetadataAuthentication = "authentication" // the method of the actor, or "none"
	MetadataDisplayName    = "display_name"   // name of the actor, or else the address of mail
	MetadataEmail          = "email"
	MetadataRemoteAddress  = "remote_address" // as Flipt believed it
	MetadataEntity         = "entity_type"    // the noun: "flag", "segment", ...
	MetadataKey            = "key"            // of the entity
	MetadataID             = "id"             // of a variant, rule, constraint, ...
	MetadataFlag           = "flag_key"       // the flag that the entity belongs to
	MetadataSegment        = "segment_key"    // the segment that the entity belongs to
	MetadataNamespaceKey   = "namespace_key"  // the namespace of Flipt
	MetadataStatus         = "status"         // "success" or "denied"
	MetadataVersion        = "flipt_version"  // of the event: "0.1" or "0.2"
	MetadataRepeatOf       = "repeat_of"      // the id of an event that this one may be a repeat of
	MetadataImported       = "imported"       // "true": from a log file
	MetadataReason         = "reason"         // why something was quarantined
)

// unknownPart stands in a path for a namespace that an event does not tell. No key of
// Flipt has it.
const unknownPart = "~"

// The largest texts that are taken over into paths and metadata, in bytes.
const (
	maxPart = 256
	maxText = 1 << 10
	maxNoun = 64
)

// Origin is where an event came from.
type Origin struct {
	// Server is the name of the source: the events are of flipt://SERVER.
	Server string
	// Occurrence counts equal events, from 0; see [ID].
	Occurrence int
	// Imported says that it was read from a log file.
	Imported bool
	// Now is the time of an event that does not tell a usable one.
	Now time.Time
}

// Source returns the source of the events of a Flipt server.
func Source(server string) string { return "flipt://" + url.PathEscape(server) }

// ID returns the id of the nth occurrence of e at a server, from 0. It does not depend on the
// form in which e came.
func ID(server string, e *Event, occurrence int) string {
	return idOf(server, AppendLogLine(nil, e), occurrence)
}

func idOf(server string, line []byte, occurrence int) string {
	return event.DeriveID("flipt", server, string(line), strconv.Itoa(occurrence))
}

// entity is what the payload of an event says about the thing that it is about.
type entity struct {
	Key          string `json:"key"`
	ID           string `json:"id"`
	FlagKey      string `json:"flag_key"`
	SegmentKey   string `json:"segment_key"`
	NamespaceKey string `json:"namespace_key"`
	TokenName    string `json:"io.flipt.auth.token.name"`
	TokenSpace   string `json:"io.flipt.auth.token.namespace"`
}

// entityOf reads as much of a payload as there is.
func entityOf(payload []byte) (found entity) {
	var all map[string]json.RawMessage
	if json.Unmarshal(payload, &all) != nil {
		return found
	}
	for name, field := range map[string]*string{
		"key": &found.Key, "id": &found.ID, "flag_key": &found.FlagKey, "segment_key": &found.SegmentKey, "namespace_key": &found.NamespaceKey,
		"io.flipt.auth.token.name": &found.TokenName, "io.flipt.auth.token.namespace": &found.TokenSpace,
	} {
		if value, ok := all[name]; ok && json.Unmarshal(value, field) != nil {
			*field = ""
		}
	}
	return found
}

// ToEvent makes the event of the program that stands for e, whose bytes were data: they become
// its payload, and are not copied. The error wraps [ErrNotAnEvent] when type or action of e cannot be
// those of an event.
//
// The type is flipt/<type>/<action>, the source flipt://<server>. The path is
//
//	flipt/<server>/<namespace>/<type>/<key>
//
// for flags, segments, namespaces and tokens, and ends in <flag or segment>/<id> for what belongs to
// one. What an event does not tell is left out at the end; in place of a namespace stands "~", which
// is so for operations that were denied. Parts are percent-encoded where they have a slash.
func ToEvent(data []byte, e *Event, o Origin) (*event.Event, error) {
	if !isWord(e.Type) || !isWord(e.Action) {
		return nil, notAnEvent("type and action are %q and %q; they must be letters, digits, - and _", clip(e.Type), clip(e.Action))
	}
	at, ok := e.Time()
	if !ok {
		at = o.Now
	}
	found := entityOf(e.Payload)
	path := path(o.Server, e.Type, found)
	ev := &event.Event{
		ID:              ID(o.Server, e, o.Occurrence),
		Type:            TypePrefix + e.Type + "/" + e.Action,
		Source:          Source(o.Server),
		Path:            path,
		Time:            at.UTC(),
		Data:            data,
		DataContentType: "application/json",
	}
	set := func(key, value string) {
		if value != "" {
			ev.Metadata.Set(key, clean(value, maxText))
		}
	}
	set(event.MetadataPath, path)
	operation := Operation(e.Action)
	set(event.MetadataOperation, operation)
	modified := operation != "read" && e.Status != StatusDenied
	set(event.MetadataModified, strconv.FormatBool(modified))
	set(MetadataAction, e.Action)
	set(MetadataEntity, e.Type)
	set(MetadataVersion, e.Version)
	set(MetadataStatus, e.Status)
	set(MetadataKey, found.Key)
	if e.Type == "token" {
		set(MetadataKey, found.TokenName)
	}
	set(MetadataID, found.ID)
	set(MetadataFlag, found.FlagKey)
	set(MetadataSegment, found.SegmentKey)
	set(MetadataNamespaceKey, found.namespace(e.Type))
	if a := e.Actor; a != nil {
		set(MetadataAuthentication, a.Authentication)
		set(MetadataRemoteAddress, a.IP)
		set(MetadataEmail, a.About("email"))
		name := a.About("name")
		if name == "" {
			name = a.About("email")
		}
		set(MetadataDisplayName, name)
	}
	if o.Imported {
		set(MetadataImported, "true")
	}
	return ev, nil
}

// Quarantined returns the event that keeps what a Flipt server sent and is no event of it,
// with its bytes, which are not copied, and the reason. The same bytes have the same id.
func Quarantined(data []byte, reason error, o Origin) *event.Event {
	path := TypePrefix + part(o.Server)
	ev := &event.Event{
		ID:              event.DeriveID("flipt-quarantined", o.Server, string(data), strconv.Itoa(o.Occurrence)),
		Type:            TypeQuarantined,
		Source:          Source(o.Server),
		Path:            path,
		Time:            o.Now.UTC(),
		Data:            data,
		DataContentType: "application/octet-stream",
	}
	switch {
	case json.Valid(data) && utf8.Valid(data) && checkDepth(data) == nil:
		ev.DataContentType = "application/json"
	case utf8.Valid(data):
		ev.DataContentType = "text/plain; charset=utf-8"
	}
	ev.Metadata.Set(event.MetadataPath, path)
	ev.Metadata.Set(MetadataReason, clean(reason.Error(), maxText))
	if o.Imported {
		ev.Metadata.Set(MetadataImported, "true")
	}
	return ev
}

// Operation returns the verb of package event's metadata for an action.
func Operation(action string) string {
	switch action {
	case "created":
		return "create"
	case "updated":
		return "update"
	case "deleted":
		return "delete"
	}
	return action
}

func (found *entity) namespace(noun string) string {
	switch {
	case noun == "namespace":
		return found.Key
	case found.NamespaceKey == "":
		return found.TokenSpace
	}
	return found.NamespaceKey
}

func path(server, noun string, found entity) string {
	parts := []string{part(server), unknownPart, noun}
	if namespace := found.namespace(noun); namespace != "" {
		parts[1] = part(namespace)
	}
	switch noun {
	case "flag", "segment", "namespace":
		parts = append(parts, part(found.Key))
	case "token":
		parts = append(parts, part(found.TokenName))
	default:
		of := found.FlagKey
		if noun == "constraint" || of == "" {
			of = found.SegmentKey
		}
		id := found.ID
		if id == "" {
			id = found.Key
		}
		parts = append(parts, part(of), part(id))
	}
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(TypePrefix, "/"))
	for _, p := range parts {
		if p != "" {
			b.WriteByte('/')
			b.WriteString(p)
		}
	}
	return b.String()
}

// part returns s as one segment of a path.
func part(s string) string {
	s = url.PathEscape(clean(s, maxPart))
	if strings.Trim(s, ".") == "" {
		s = strings.ReplaceAll(s, ".", "%2E")
	}
	return strings.NewReplacer("*", "%2A", "+", "%2B", unknownPart, "%7E").Replace(s)
}

// isWord reports whether s can be a part of the type of an event.
func isWord(s string) bool {
	if s == "" || len(s) > maxNoun {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '/' && 0 < i && i < len(s)-1:
		default:
			return false
		}
	}
	return !strings.Contains(s, "..") && !strings.Contains(s, "//")
}

// clean returns s as UTF-8 of at most max bytes.
func clean(s string, most int) string {
	if len(s) > most {
		s = s[:most-len("...")]
		return strings.ToValidUTF8(s, "") + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// Repeats says in the metadata of ev that it may be a repeat of the event with an id.
func Repeats(ev *event.Event, id string) {
	ev.Metadata.Set(MetadataRepeatOf, id)
}

// Metadata keys of quarantined events whose bytes are elsewhere.
const (
	MetadataSize   = "size"   // in bytes
	MetadataSHA256 = "sha256" // in hexadecimal digits
)

// Oversized returns a quarantined event without its bytes, with their size and hash instead.
func Oversized(ev *event.Event) *event.Event {
	small := *ev
	sum := sha256.Sum256(ev.Data)
	small.Data, small.DataContentType = nil, ""
	small.Metadata = ev.Metadata.Clone()
	small.Metadata.Set(MetadataSize, strconv.Itoa(len(ev.Data)))
	small.Metadata.Set(MetadataSHA256, hex.EncodeToString(sum[:]))
	return &small
}
