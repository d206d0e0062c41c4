package trail

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
)

const typePrefix = "tocsin/"

// The largest texts of an event, in bytes. Smaller limits of the journal make them
// smaller.
const (
	maxWhat      = 64
	maxNode      = 64
	maxNamespace = 512
	maxPath      = 4 << 10
	maxKey       = 64
	maxText      = 1 << 10
	maxPolicies  = 4 << 10
	maxFields    = 64
)

// taken are the metadata keys that no field can have.
var taken = []string{
	event.MetadataPath, event.MetadataOperation, event.MetadataModified, "outcome", "error",
	"accessor", "remote_address", "display_name", "entity_id", "provider", "policies", "shown_namespace", "shown_path",
}

// maker makes events of records. What it makes satisfies its limits, whatever the
// record holds, as long as they are not below those that the configuration allows.
type maker struct {
	limits event.Limits
	source string
}

func newMaker(node string, limits event.Limits) maker {
	return maker{limits: limits, source: Source(node)}
}

// Source returns the source of the events of a hub with a name.
func Source(node string) string { return "tocsin://" + url.PathEscape(clean(node, maxNode)) }

// event makes the event of a record. The error is that of [event.Limits.Check].
func (m *maker) event(r Record, now time.Time) (*event.Event, error) {
	e := &event.Event{ID: event.NewID(), Type: m.eventType(r.What), Source: m.source, Time: now}
	all := m.limits.MaxEventBytes - e.Size()
	left := room{keys: m.limits.MaxMetadataKeys, bytes: min(m.limits.MaxMetadataBytes, all)}

	namespace := event.CanonicalNamespace(r.Namespace)
	// Both may take a part of the room, so that the rest has some too: the path is
	// there twice.
	if isClean(namespace, min(maxNamespace, left.bytes/8)) && utf8.ValidString(r.Path) && len(r.Path) <= min(maxPath, left.bytes/4) {
		e.Namespace, e.Path = namespace, r.Path
		left.bytes = min(left.bytes, all-len(namespace)-len(r.Path))
		left.set(&e.Metadata, event.MetadataPath, r.Path, maxPath)
	}
	outcome := "done"
	if r.Error != "" {
		outcome = "refused"
	}
	// In the order of importance, in case not all fits.
	left.set(&e.Metadata, event.MetadataOperation, r.Operation, maxKey)
	left.set(&e.Metadata, event.MetadataModified, strconv.FormatBool(r.Modified), maxKey)
	left.set(&e.Metadata, "outcome", outcome, maxKey)
	left.setPresent(&e.Metadata, "accessor", r.Who.Accessor, maxText)
	left.setPresent(&e.Metadata, "remote_address", r.Who.Remote, maxText)
	left.setPresent(&e.Metadata, "display_name", r.Who.DisplayName, maxText)
	left.setPresent(&e.Metadata, "error", r.Error, maxText)
	if _, ok := e.Metadata.Get(event.MetadataPath); !ok {
		left.setPresent(&e.Metadata, "shown_namespace", namespace, maxNamespace)
		left.setPresent(&e.Metadata, "shown_path", r.Path, maxText)
	}
	left.setPresent(&e.Metadata, "entity_id", r.Who.EntityID, maxText)
	left.setPresent(&e.Metadata, "provider", r.Who.Provider, maxText)
	left.setPresent(&e.Metadata, "policies", policiesJSON(r.Who.Policies, min(maxPolicies, left.bytes-len("policies"))), maxPolicies)
	for i, f := range r.Fields {
		if i == maxFields {
			break
		}
		if key := clean(f.Key, maxKey); !slices.Contains(taken, key) {
			left.setPresent(&e.Metadata, key, f.Value, maxText)
		}
	}
	if err := m.limits.Check(e); err != nil {
		return nil, fmt.Errorf("make event: %w", err)
	}
	return e, nil
}

// eventType returns the type of events of what, which is a constant of the program:
// what would not be allowed in a type becomes "-".
func (m *maker) eventType(what string) string {
	what = strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || r == '*' {
			return '-'
		}
		return r
	}, clean(what, maxWhat))
	t := typePrefix + what
	return t[:max(0, min(len(t), m.limits.MaxTypeBytes))]
}

// room is what metadata may still take.
type room struct{ keys, bytes int }

// set puts a text of at most max bytes under a key that is not there yet, shortened
// to what there is room for, if there is any.
func (l *room) set(f *event.Fields, key, value string, most int) {
	if _, taken := f.Get(key); taken || l.keys < 1 || l.bytes < len(key) {
		return
	}
	value = clean(value, min(most, l.bytes-len(key)))
	f.Set(key, value)
	l.keys--
	l.bytes -= len(key) + len(value)
}

// setPresent is set for texts that are left out when they are empty.
func (l *room) setPresent(f *event.Fields, key, value string, most int) {
	if key != "" && value != "" {
		l.set(f, key, value, most)
	}
}

// policiesJSON returns the names as a JSON array of at most max bytes, "" when there
// are none or none fits. What does not fit is counted in the last element.
func policiesJSON(names []string, most int) string {
	const tail = len(`,"... and 1234567890 more"]`)
	var b []byte
	for i, name := range names {
		one, err := json.Marshal(clean(name, maxText))
		if err != nil {
			continue // texts can always be encoded
		}
		if len(b)+1+len(one)+tail > most {
			if len(b) == 0 {
				return ""
			}
			return string(b) + `,"... and ` + strconv.Itoa(len(names)-i) + ` more"]`
		}
		separator := byte(',')
		if len(b) == 0 {
			separator = '['
		}
		b = append(append(b, separator), one...)
	}
	if len(b) == 0 {
		return ""
	}
	return string(append(b, ']'))
}

// isClean reports whether s can be an attribute as it is.
func isClean(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || 0x7f <= r && r <= 0x9f })
}

// clean returns s as UTF-8 of at most max bytes. A text that was cut ends in "...".
func clean(s string, most int) string {
	const cutMark = "..."
	if len(s) <= most && utf8.ValidString(s) {
		return s
	}
	cut := len(s) > most
	if cut {
		s = s[:max(0, most)]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if cut || len(s) > most {
		if most < len(cutMark) {
			return ""
		}
		s = strings.ToValidUTF8(s[:min(len(s), most-len(cutMark))], "") + cutMark
	}
	return s
}
