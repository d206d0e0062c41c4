package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/jsontext"
)

// SchemaVersion is the version of the JSON form of an [Event]. A reader of version 1 can
// read every later form that says 1: members are added, never changed.
const SchemaVersion = "1"

// Schema is what the data of audit events in a hub adhere to.
const Schema = "https://github.com/tocsin-events/tocsin/schemas/audit/v1"

// wire is the JSON form. docs/audit-library.md describes it.
type wire struct {
	Version     string            `json:"version"`
	Sequence    uint64            `json:"sequence,omitempty"`
	ID          string            `json:"id"`
	Time        time.Time         `json:"time"`
	Service     string            `json:"service"`
	Action      string            `json:"action"`
	Outcome     Outcome           `json:"outcome"`
	Reason      string            `json:"reason"`
	Target      wireTarget        `json:"target"`
	Actor       wireActor         `json:"actor"`
	RequestID   string            `json:"request_id"`
	Traceparent string            `json:"traceparent"`
	Tracestate  string            `json:"tracestate"`
	Metadata    map[string]string `json:"metadata"`
	Changes     *Changes          `json:"changes"`
	Before      json.RawMessage   `json:"before"`
	After       json.RawMessage   `json:"after"`
	Payload     json.RawMessage   `json:"payload"`
	Truncated   []Truncation      `json:"truncated"`
	Dropped     *Dropped          `json:"dropped"`
}

type wireTarget struct {
	Type      string `json:"type"`
	ID        string `json:"id"`
	Path      string `json:"path"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

type wireActor struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Email     string   `json:"email"`
	Method    string   `json:"method"`
	TokenID   string   `json:"token_id"`
	IP        string   `json:"ip"`
	UserAgent string   `json:"user_agent"`
	Roles     []string `json:"roles"`
}

// UnmarshalJSON reads the JSON form. Members that it does not know are left out. Before,
// After and Payload become [json.RawMessage]. The error of a text that is JSON, but no audit
// event, wraps [ErrInvalid].
func (e *Event) UnmarshalJSON(data []byte) error {
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if w.Version != SchemaVersion {
		return fmt.Errorf("%w: the version is %q, this package reads %q", ErrInvalid, cut(w.Version, 40), SchemaVersion)
	}
	read := Event{
		ID: w.ID, Sequence: w.Sequence, Time: w.Time, Service: w.Service,
		Action: w.Action, Target: Target(w.Target), Outcome: w.Outcome, Reason: w.Reason, Actor: Actor(w.Actor),
		RequestID: w.RequestID, Traceparent: w.Traceparent, Tracestate: w.Tracestate,
		Changes: w.Changes, Metadata: w.Metadata, Truncated: w.Truncated, Dropped: w.Dropped,
	}
	if w.Before != nil {
		read.Before = w.Before
	}
	if w.After != nil {
		read.After = w.After
	}
	if w.Payload != nil {
		read.Payload = w.Payload
	}
	if err := read.check(); err != nil {
		return err
	}
	*e = read
	return nil
}

// MarshalJSON writes the JSON form. The error of an event that [Logger.Log] would refuse
// wraps [ErrInvalid].
func (e Event) MarshalJSON() ([]byte, error) {
	if e.Outcome == "" {
		e.Outcome = Success
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	w := writer{limits: noLimits, truncated: e.Truncated}
	var err error
	if w.before, err = encodeMember("before", e.Before); err != nil {
		return nil, err
	}
	if w.after, err = encodeMember("after", e.After); err != nil {
		return nil, err
	}
	if w.payload, err = encodeMember("payload", e.Payload); err != nil {
		return nil, err
	}
	w.changes = e.Changes
	w.buf = append(w.buf, `{"version":"`+SchemaVersion+`",`...)
	if e.Sequence > 0 {
		w.buf = append(strconv.AppendUint(append(w.buf, `"sequence":`...), e.Sequence, 10), ',')
	}
	w.event(&e)
	return w.buf, nil
}

// completeBegin is what [complete] begins with.
const completeBegin = `{"version":"` + SchemaVersion + `","sequence":`

// complete returns the JSON form of an event whose members behind the sequence were
// written by a logger.
func complete(sequence uint64, members []byte) []byte {
	dst := make([]byte, 0, len(members)+48)
	dst = append(dst, completeBegin...)
	dst = append(strconv.AppendUint(dst, sequence, 10), ',')
	return append(dst, members...)
}

// encode returns the JSON form of a value on one line, in UTF-8. Of a [json.RawMessage] that is no
// JSON that is a text.
func encode(v any) ([]byte, error) {
	var raw []byte
	r, isRaw := v.(json.RawMessage)
	if isRaw && len(r) > 0 && !json.Valid(r) {
		v, isRaw = string(r), false // as it came from elsewhere, and with nothing missing
	}
	if isRaw && len(r) > 0 {
		var b bytes.Buffer
		if err := json.Compact(&b, r); err != nil {
			return nil, err
		}
		raw = b.Bytes()
	} else {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return nil, err
		}
		raw = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	}
	if !utf8.Valid(raw) { // which encoding/json lets pass
		raw = bytes.ToValidUTF8(raw, []byte("\uFFFD"))
	}
	return raw, nil
}

// encodeMember returns nil for what is not there, such as a nil pointer.
func encodeMember(name string, v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	raw, err := encode(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot be encoded as JSON: %w", ErrInvalid, name, err)
	}
	if string(raw) == "null" {
		return nil, nil
	}
	return raw, nil
}

// limits are how long the texts of an event may be.
type limits struct {
	text     int // names and ids
	reason   int
	value    int // one of the metadata
	metadata int // names and values together
	roles    int
}

// The limits of a logger.
const (
	MaxTextBytes     = 1024     // ids, names, paths, user agent, and the like
	MaxReasonBytes   = 2 << 10  // Reason
	MaxValueBytes    = 2 << 10  // one value of Metadata
	MaxMetadataBytes = 16 << 10 // all of Metadata
	MaxMetadata      = 64       // entries of Metadata
	MaxRoles         = 32

	maxNameBytes      = 64 // Service, Action, Target.Type
	maxKeyBytes       = 128
	maxNamespaceBytes = 512
	maxTracestate     = 512
)

var (
	usualLimits = limits{text: MaxTextBytes, reason: MaxReasonBytes, value: MaxValueBytes, metadata: MaxMetadataBytes, roles: MaxRoles}
	// tightLimits are for an event that is too large with the usual ones: characters may take
	// six bytes each as JSON.
	tightLimits = limits{text: 64, reason: 64, value: 0, metadata: 0, roles: 4}
	noLimits    = limits{text: 1 << 40, reason: 1 << 40, value: 1 << 40, metadata: 1 << 40, roles: 1 << 30}
)

// writer writes the members of an event behind its sequence.
type writer struct {
	limits                 limits
	buf                    []byte
	before, after, payload []byte // JSON, nil for none
	changes                *Changes
	truncated              []Truncation
	keys                   []string // of metadata
	source                 Event    // what is written, so that it takes no memory of its own
}

// event writes all that follows the sequence, and the end of the object.
func (w *writer) event(e *Event) {
	w.buf = append(w.buf, `"id":`...)
	w.buf = jsontext.AppendString(w.buf, e.ID)
	w.buf = append(w.buf, `,"time":"`...)
	w.buf = append(appendTime(w.buf, e.Time), '"')
	w.member(`,"service":`, e.Service)
	w.member(`,"action":`, e.Action)
	w.member(`,"outcome":`, string(e.Outcome))
	w.text("/reason", `,"reason":`, e.Reason, w.limits.reason)
	w.target(&e.Target)
	w.actor(&e.Actor)
	w.text("/request_id", `,"request_id":`, e.RequestID, w.limits.text)
	w.member(`,"traceparent":`, e.Traceparent)
	w.member(`,"tracestate":`, e.Tracestate)
	w.metadata(e.Metadata)
	if c := w.changes; c != nil {
		w.buf = append(w.buf, `,"changes":`...)
		w.buf = appendChanges(w.buf, c)
	}
	w.raw(`,"before":`, w.before)
	w.raw(`,"after":`, w.after)
	w.raw(`,"payload":`, w.payload)
	if d := e.Dropped; d != nil {
		w.buf = strconv.AppendUint(append(w.buf, `,"dropped":{"events":`...), d.Events, 10)
		w.buf = appendTime(append(w.buf, `,"first":"`...), d.First)
		w.buf = appendTime(append(w.buf, `","last":"`...), d.Last)
		w.buf = append(w.buf, `"}`...)
	}
	for i, t := range w.truncated {
		lead := `,{"path":`
		if i == 0 {
			lead = `,"truncated":[{"path":`
		}
		w.buf = jsontext.AppendString(append(w.buf, lead...), t.Path)
		w.buf = append(strconv.AppendInt(append(w.buf, `,"bytes":`...), int64(t.Bytes), 10), '}')
	}
	if len(w.truncated) > 0 {
		w.buf = append(w.buf, ']')
	}
	w.buf = append(w.buf, '}')
}

func (w *writer) target(t *Target) {
	w.buf = append(w.buf, `,"target":{"type":`...)
	w.buf = jsontext.AppendString(w.buf, t.Type)
	w.text("/target/id", `,"id":`, t.ID, w.limits.text)
	w.text("/target/path", `,"path":`, t.Path, w.limits.text)
	w.text("/target/name", `,"name":`, t.Name, w.limits.text)
	w.member(`,"namespace":`, t.Namespace)
	w.buf = append(w.buf, '}')
}

func (w *writer) actor(a *Actor) {
	start := len(w.buf)
	w.buf = append(w.buf, `,"actor":{`...)
	begin := len(w.buf)
	w.text("/actor/id", `,"id":`, a.ID, w.limits.text)
	w.text("/actor/name", `,"name":`, a.Name, w.limits.text)
	w.text("/actor/email", `,"email":`, a.Email, w.limits.text)
	w.text("/actor/method", `,"method":`, a.Method, w.limits.text)
	w.text("/actor/token_id", `,"token_id":`, a.TokenID, w.limits.text)
	w.text("/actor/ip", `,"ip":`, a.IP, w.limits.text)
	w.text("/actor/user_agent", `,"user_agent":`, a.UserAgent, w.limits.text)
	w.roles(a.Roles)
	if len(w.buf) == begin {
		w.buf = w.buf[:start]
		return
	}
	w.buf = append(w.buf[:begin], w.buf[begin+1:]...) // without the first comma
	w.buf = append(w.buf, '}')
}

func (w *writer) roles(roles []string) {
	if len(roles) == 0 {
		return
	}
	if len(roles) > w.limits.roles {
		bytes := 0
		for _, role := range roles {
			bytes += len(role)
		}
		w.truncate("/actor/roles", bytes)
		roles = roles[:w.limits.roles]
	}
	w.buf = append(w.buf, `,"roles":[`...)
	for i, role := range roles {
		if i > 0 {
			w.buf = append(w.buf, ',')
		}
		if len(role) > w.limits.text {
			w.truncate("/actor/roles/"+strconv.Itoa(i), len(role))
			role = cut(role, w.limits.text)
		}
		w.buf = jsontext.AppendString(w.buf, role)
	}
	w.buf = append(w.buf, ']')
}

// metadata writes the entries in the order of their names, as many as fit.
func (w *writer) metadata(m map[string]string) {
	if len(m) == 0 {
		return
	}
	if len(w.keys) != len(m) { // else they were collected before
		w.keys = slices.AppendSeq(w.keys[:0], maps.Keys(m))
	}
	slices.Sort(w.keys)
	start := len(w.buf)
	w.buf = append(w.buf, `,"metadata":{`...)
	used, written := 0, 0
	complete := true
	for _, k := range w.keys {
		v := m[k]
		bounded := min(len(v), w.limits.value)
		if len(k) > maxKeyBytes && w.limits != noLimits || used+len(k)+bounded > w.limits.metadata || written == MaxMetadata && w.limits != noLimits {
			complete = false
			continue
		}
		used += len(k) + bounded
		if written++; written > 1 {
			w.buf = append(w.buf, ',')
		}
		w.buf = append(jsontext.AppendString(w.buf, k), ':')
		if len(v) > w.limits.value {
			w.truncate(string(appendPointer([]byte("/metadata"), k)), len(v))
			v = cut(v, w.limits.value)
		}
		w.buf = jsontext.AppendString(w.buf, v)
	}
	clear(w.keys)
	w.keys = w.keys[:0]
	if !complete {
		size := 0
		for k, v := range m {
			size += len(k) + len(v)
		}
		w.truncate("/metadata", size)
	}
	if written == 0 {
		w.buf = w.buf[:start]
		return
	}
	w.buf = append(w.buf, '}')
}

// text writes a member unless it is empty, and cuts it if need be.
func (w *writer) text(path, lead, text string, most int) {
	if len(text) > most {
		w.truncate(path, len(text))
		text = cut(text, most)
	}
	w.member(lead, text)
}

func (w *writer) member(lead, text string) {
	if text == "" {
		return
	}
	w.buf = jsontext.AppendString(append(w.buf, lead...), text)
}

func (w *writer) raw(lead string, json []byte) {
	if json == nil {
		return
	}
	w.buf = append(append(w.buf, lead...), json...)
}

func (w *writer) truncate(path string, bytes int) {
	w.truncated = append(w.truncated, Truncation{path, bytes})
}

func appendChanges(dst []byte, c *Changes) []byte {
	start := len(dst)
	list := func(lead string, paths []string) {
		if len(paths) > 0 {
			dst = jsontext.AppendStrings(append(dst, lead...), paths)
		}
	}
	list(`,"added":`, c.Added)
	list(`,"removed":`, c.Removed)
	list(`,"changed":`, c.Changed)
	if c.More > 0 {
		dst = strconv.AppendInt(append(dst, `,"more":`...), int64(c.More), 10)
	}
	if len(dst) == start {
		return append(dst, "{}"...)
	}
	dst[start] = '{'
	return append(dst, '}')
}

// cut shortens a text to about that many bytes, and says so at its end.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}

// appendTime appends a time in UTC.
func appendTime(dst []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(dst, time.RFC3339Nano)
}

// ErrInvalid is wrapped by the errors about events that cannot be logged as they are.
var ErrInvalid = errors.New("invalid audit event")

// check returns nil for an event that may be logged. What users of the service may have
// chosen is no reason to refuse one, or they could avoid the trail: it is cut instead.
func (e *Event) check() error {
	switch {
	case e.Action == "":
		return fmt.Errorf("%w: it has no Action; say what was done, such as \"create\"", ErrInvalid)
	case e.Target.Type == "":
		return fmt.Errorf("%w: it has no Target.Type; say what it was done to, such as \"order\"", ErrInvalid)
	case !isName(e.Action):
		return fmt.Errorf("%w: the Action %q must be 1 to %d letters, digits, \"-\", \"_\" and \".\"", ErrInvalid, cut(e.Action, 80), maxNameBytes)
	case !isName(e.Target.Type):
		return fmt.Errorf("%w: the Target.Type %q must be 1 to %d letters, digits, \"-\", \"_\" and \".\"", ErrInvalid, cut(e.Target.Type, 80), maxNameBytes)
	case e.Service != "" && !isName(e.Service):
		return fmt.Errorf("%w: the Service %q must be 1 to %d letters, digits, \"-\", \"_\" and \".\"", ErrInvalid, cut(e.Service, 80), maxNameBytes)
	case len(e.ID) > 128 || !isVisible(e.ID):
		return fmt.Errorf("%w: the ID %q must be at most 128 visible ASCII characters; leave it out to have one made", ErrInvalid, cut(e.ID, 130))
	case e.Time.UTC().Year() < 0 || e.Time.UTC().Year() > 9999:
		return fmt.Errorf("%w: the Time is in the year %d, outside 0 to 9999", ErrInvalid, e.Time.UTC().Year())
	}
	switch e.Outcome {
	case Success, Denied, Failure, Error:
		return nil
	}
	return fmt.Errorf("%w: the Outcome %q is none of success, denied, failure and error", ErrInvalid, cut(string(e.Outcome), 80))
}

// isName reports whether a text may be a part of the type of an event.
func isName(s string) bool {
	if s == "" || len(s) > maxNameBytes {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
