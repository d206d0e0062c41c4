package alerting

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// RulesPath begins the paths of alerts, and of what there is to do with rules: whoever may
// subscribe to it with the slug of a rule behind it sees the alerts of that rule, in the
// namespaces of the events that raised them.
const RulesPath = "sys/rules/"

// Metadata of alerts, beside those of package severity.
const (
	MetadataTags        = "tags"         // separated by commas
	MetadataEventSource = "event_source" // of the rule
	MetadataEventID     = "event_id"     // of the event that raised it
	MetadataEventType   = "event_type"
	MetadataEventPath   = "event_path"
	MetadataCount       = "count"            // of the events that it is about
	MetadataSuppressed  = "suppressed"       // alerts that were held back since the last
	MetadataTactics     = "mitre_tactics"    // separated by commas
	MetadataTechniques  = "mitre_techniques" // separated by commas
)

// maxSlug bounds what is behind "alert/" in the type of an alert, which fits the smallest limit of
// types then.
const maxSlug = 56

// slug is a name as a part of types and paths: its letters and digits of ASCII in lower case, all
// else a hyphen.
func slug(name string) string {
	var b strings.Builder
	gap := false
	for _, c := range []byte(name) {
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		default:
			gap = b.Len() > 0
			continue
		}
		if gap {
			b.WriteByte('-')
			gap = false
		}
		b.WriteByte(c)
	}
	s := b.String()
	if len(s) > maxSlug {
		s = strings.TrimRight(s[:maxSlug-9], "-") + "-" + digest(name)
	}
	if s == "" {
		s = "rule-" + digest(name)
	}
	return s
}

func digest(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:4])
}

// slugs returns the slug of each rule, by its name. Of several that would have the same, those
// defined later have a part that follows from their names; so has one that would be called as
// something else below RulesPath.
func slugs(rules []*load.Rule) map[string]string {
	of, taken := make(map[string]string, len(rules)), map[string]bool{"reload": true}
	for _, r := range rules {
		s := slug(r.Name)
		if taken[s] {
			s = strings.TrimRight(s[:min(len(s), maxSlug-9)], "-") + "-" + digest(r.Name)
		}
		of[r.Name], taken[s] = s, true
	}
	return of
}

// maker makes events of alerts.
type maker struct {
	source   string // of the events
	hostname string
	limits   event.Limits
}

// How much of a text is kept. The least is what is tried last when an event is too large; it has
// no lists.
var textBounds = []int{64 << 10, 4 << 10, 256, 32, leastText}

const leastText = 16

const maxOutputMetadata = 2 << 10 // of the output, in the metadata

// event makes the event of an alert. It satisfies the limits, whatever the alert holds: what is too
// long is cut.
func (m *maker) event(a *rule.Alert, slug string) (*event.Event, error) {
	var err error
	for _, most := range textBounds {
		e := m.build(a, slug, most)
		if err = m.limits.Check(e); err == nil {
			return e, nil
		}
	}
	return nil, fmt.Errorf("make the event of an alert: %w", err)
}

func (m *maker) build(a *rule.Alert, slug string, most int) *event.Event {
	e := &event.Event{
		ID: a.ID, Type: severity.AlertTypes + slug, Source: m.source, Time: a.Time, DataContentType: "application/json",
		Path: RulesPath + slug,
	}
	cause := a.Event
	if cause == nil {
		cause = new(event.Event)
	}
	e.Namespace = a.Namespace
	least := min(most, maxOutputMetadata)
	set := func(key, value string) { // in the order of importance
		if value != "" && len(e.Metadata) < m.limits.MaxMetadataKeys {
			e.Metadata.Set(key, cut(value, least))
		}
	}
	e.Metadata.Set(event.MetadataPath, e.Path)
	set(severity.MetadataPriority, a.Rule.Priority.String())
	set(severity.MetadataRule, a.Rule.Name)
	set(severity.MetadataOutput, a.Output)
	set(MetadataCount, strconv.Itoa(a.Count))
	if a.Suppressed > 0 {
		set(MetadataSuppressed, strconv.Itoa(a.Suppressed))
	}
	set(severity.MetadataKey, keyText(a.Key))
	set(MetadataEventID, cause.ID)
	set(MetadataEventType, cause.Type)
	set(MetadataEventPath, cause.Path)
	set(MetadataEventSource, a.Rule.Source)
	set(MetadataTags, joined(a.Rule.Tags, least))
	tactics, techniques := mitre(a.Rule.Tags)
	set(MetadataTactics, joined(tactics, least))
	set(MetadataTechniques, joined(techniques, least))
	number, _ := a.Rule.Priority.Number()
	e.Extensions.SetJSON("severitynumber", strconv.Itoa(number))
	e.Extensions.Set("severitytext", a.Rule.Priority.String())
	if parent, ok := cause.Extensions.Text("traceparent"); ok {
		if _, ok := tracecontext.ParseTraceparent(parent); ok {
			e.Extensions.Set("traceparent", parent)
		}
	}
	e.Data = m.data(a, most)
	return e
}

// data is the alert as Falco writes it, with some members more.
func (m *maker) data(a *rule.Alert, most int) []byte {
	text := func(dst []byte, s string) []byte { return jsontext.AppendString(dst, cut(s, most)) }
	dst := append(make([]byte, 0, 512), `{"hostname":`...)
	dst = text(dst, m.hostname)
	dst = append(dst, `,"output":`...)
	dst = text(dst, a.Output)
	dst = append(dst, `,"priority":`...)
	dst = text(dst, a.Rule.Priority.String())
	dst = append(dst, `,"rule":`...)
	dst = text(dst, a.Rule.Name)
	dst = append(dst, `,"source":`...)
	dst = text(dst, a.Rule.Source)
	dst = append(dst, `,"tags":[`...)
	tags, fields, key, ids := a.Rule.Tags, a.Fields, a.Key, a.EventIDs[:min(len(a.EventIDs), max(1, most/8))]
	if most == leastText {
		tags, fields, key, ids = nil, nil, nil, nil
	}
	for i, tag := range tags {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = text(dst, tag)
	}
	dst = append(dst, `],"time":"`...)
	dst = a.Time.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000000Z")
	dst = append(dst, `","output_fields":{`...)
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = text(dst, f.Name)
		dst = append(dst, ':')
		dst = appendValue(dst, f.JSON, most)
	}
	dst = append(dst, `},"count":`...)
	dst = strconv.AppendInt(dst, int64(a.Count), 10)
	if a.Suppressed > 0 {
		dst = append(dst, `,"suppressed":`...)
		dst = strconv.AppendInt(dst, int64(a.Suppressed), 10)
	}
	if len(key) > 0 {
		dst = append(dst, `,"key":{`...)
		for i, k := range key {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = text(dst, k.Name)
			dst = append(dst, ':')
			dst = text(dst, k.Value)
		}
		dst = append(dst, '}')
	}
	if a.Summary {
		dst = append(dst, `,"summary":true`...)
	}
	dst = append(dst, `,"event_ids":[`...)
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = text(dst, id)
	}
	return append(dst, ']', '}')
}

// appendValue appends the value of a field, cut if it is a text, and null if it is another one
// that is too long.
func appendValue(dst, value []byte, most int) []byte {
	if len(value) <= most && json.Valid(value) {
		return append(dst, value...)
	}
	var text string
	if len(value) > 0 && value[0] == '"' && json.Unmarshal(value, &text) == nil {
		return jsontext.AppendString(dst, cut(text, most))
	}
	return append(dst, "null"...)
}

// joined returns texts, separated by commas; little more than so many bytes.
func joined(list []string, most int) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		if b.WriteString(s[:min(len(s), most)]); b.Len() > most {
			break
		}
	}
	return b.String()
}

// keyText is a key for people.
func keyText(key []rule.KeyValue) string {
	var b strings.Builder
	for i, k := range key {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(k.Name + "=" + k.Value)
	}
	return b.String()
}

// cut returns valid UTF-8 of at most so many bytes, and an ellipsis if something is missing.
func cut(s string, most int) string {
	const ellipsis = "…"
	long := len(s) > most
	if long {
		s = s[:most]
	}
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	if !long && len(s) <= most {
		return s
	}
	end := min(len(s), max(0, most-len(ellipsis)))
	for end > 0 && end < len(s) && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

var technique = regexp.MustCompile(`^[Tt][0-9]{4}(\.[0-9]{3})?$`)

// mitre returns the tactics and techniques of MITRE ATT&CK that tags name, as Falco's rules do:
// mitre_TACTIC, and T1078 or T1078.004.
func mitre(tags []string) (tactics, techniques []string) {
	for _, tag := range tags {
		switch tactic, ok := strings.CutPrefix(tag, "mitre_"); {
		case ok && tactic != "":
			tactics = append(tactics, tactic)
		case technique.MatchString(tag):
			techniques = append(techniques, strings.ToUpper(tag))
		}
	}
	return tactics, techniques
}
