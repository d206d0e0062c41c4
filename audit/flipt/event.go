package flipt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/fliptevent"
)

// Version is the version of the events that [NewEvent] makes.
const Version = fliptevent.Version2

// ErrNotValid says that an event lacks what every event has; see [Event.Valid].
var ErrNotValid = errors.New("event not valid")

// Event is an audit event. Its JSON form, by encoding/json, is that of Flipt's webhooks, with
// exactly these members.
type Event struct {
	Version  string   `json:"version"`
	Type     string   `json:"type"`   // the noun, such as "flag"
	Action   string   `json:"action"` // the verb: "created", "updated", "deleted", "read"
	Metadata Metadata `json:"metadata"`
	// Payload is what it was done to, anything that encoding/json can encode. It may be nil,
	// as that of a denied operation.
	Payload   any    `json:"payload"`
	Timestamp string `json:"timestamp"` // RFC 3339
	Status    string `json:"status"`    // "success", "denied" or "" (not told)
}

// Metadata is what is known around an event.
type Metadata struct {
	Actor *Actor `json:"actor,omitempty"`
}

// Actor is who did something.
type Actor struct {
	Authentication string `json:"authentication,omitempty"` // "none", or the method
	IP             string `json:"ip,omitempty"`
	Email          string `json:"email,omitempty"`
	Name           string `json:"name,omitempty"`
	Picture        string `json:"picture,omitempty"`
}

// NewEvent returns an event for a request that has ended as its Status says. The type is
// the subject of the request, or its resource. Actor and payload may be nil.
//
// The timestamp is now, in UTC and with nanoseconds. Flipt's is in the zone of the process and
// in whole seconds, by which two changes within a second could not be told apart.
func NewEvent(r Request, actor *Actor, payload any) *Event {
	noun := string(r.Subject)
	if noun == "" {
		noun = string(r.Resource)
	}
	return &Event{
		Version:   Version,
		Type:      noun,
		Action:    r.Action.Verb(),
		Metadata:  Metadata{Actor: actor},
		Payload:   payload,
		Timestamp: time.Now().UTC().Format(time.RFC3339Nano),
		Status:    string(r.Status),
	}
}

// Valid reports whether e has a version, a type, an action and a timestamp.
func (e *Event) Valid() bool {
	return e != nil && e.Version != "" && e.Action != "" && e.Type != "" && e.Timestamp != ""
}

// Pair returns "type:action", what an [EventPairChecker] is asked for.
func (e *Event) Pair() string { return e.Type + ":" + e.Action }

// CopyInto copies e into out. What the fields point to is shared.
func (e *Event) CopyInto(out *Event) { *out = *e }

// PayloadToMap returns the payload as a map of its JSON form: empty when there is none. The
// error is that of encoding/json, also for a payload that is no JSON object. Numbers are float64, but
// for integers that float64 cannot hold, which are [json.Number].
func (e *Event) PayloadToMap() (map[string]any, error) {
	if e.Payload == nil {
		return map[string]any{}, nil
	}
	b, err := json.Marshal(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("encode the payload: %w", err)
	}
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("read the payload as an object: %w", err)
	}
	if m == nil { // null
		return map[string]any{}, nil
	}
	return generic(m).(map[string]any), nil
}

// Generic returns e with its payload as what encoding/json makes of its JSON form: maps,
// slices, texts and numbers as [Event.PayloadToMap] says. So events are when they reach a sink, wherever they
// come from: their payload has its members in the order of their names, and templates find
// them under the names that they have in JSON.
func (e *Event) Generic() (Event, error) {
	g := *e
	if e.Payload == nil || isGeneric(e.Payload) {
		return g, nil
	}
	b, err := json.Marshal(e.Payload)
	if err != nil {
		return g, fmt.Errorf("encode the payload: %w", err)
	}
	g.Payload, err = DecodePayload(b)
	return g, err
}

// DecodePayload reads the JSON of a payload as [Event.Generic] does.
func DecodePayload(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read the payload: %w", err)
	}
	if len(bytes.TrimSpace(b[d.InputOffset():])) > 0 {
		return nil, errors.New("read the payload: something stands behind it")
	}
	return generic(v), nil
}

// generic replaces numbers within v, which belongs to the caller.
func generic(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			v[name] = generic(value)
		}
	case []any:
		for i, value := range v {
			v[i] = generic(value)
		}
	case json.Number:
		f, err := v.Float64()
		if err != nil || inexact(string(v), f) {
			return v
		}
		return f
	}
	return v
}

// inexact reports whether text is an integer that f does not hold.
func inexact(text string, f float64) bool {
	if len(text) < 16 || strings.ContainsAny(text, ".eE") {
		return false
	}
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return true
	}
	held, _ := big.NewFloat(f).Int(nil)
	return held.Cmp(n) != 0
}

// isGeneric reports whether v consists of what encoding/json makes of JSON.
func isGeneric(v any) bool {
	switch v := v.(type) {
	case nil, string, bool, float64, json.Number:
		return true
	case map[string]any:
		for _, value := range v {
			if !isGeneric(value) {
				return false
			}
		}
		return true
	case []any:
		return v != nil && !slices.ContainsFunc(v, func(v any) bool { return !isGeneric(v) })
	}
	return false
}

// Decode reads the JSON of one event, in the form of a webhook or of a line of the log, of
// version 0.1 or 0.2, strictly: no member is there twice, nothing is missing. From the flat
// actor of early 0.1 events it takes what an [Actor] has.
func Decode(b []byte) (Event, error) {
	read, _, err := fliptevent.DecodeLine(b)
	if err != nil {
		return Event{}, fmt.Errorf("%w: %w", ErrNotValid, err)
	}
	e := Event{Version: read.Version, Type: read.Type, Action: read.Action, Timestamp: read.Timestamp, Status: read.Status}
	if a := read.Actor; a != nil {
		e.Metadata.Actor = &Actor{
			Authentication: a.Authentication, IP: a.IP,
			Email: a.About("email"), Name: a.About("name"), Picture: a.About("picture"),
		}
	}
	if read.Payload != nil {
		if e.Payload, err = DecodePayload(read.Payload); err != nil {
			return Event{}, err
		}
	}
	return e, nil
}

// AppendLogLine appends e in the form of Flipt's log file, without a newline: other than in
// the form of encoding/json, the status stands behind the action, and <, > and & are not
// escaped.
func (e *Event) AppendLogLine(dst []byte) ([]byte, error) {
	w, err := e.wire()
	if err != nil {
		return dst, err
	}
	return fliptevent.AppendLogLine(dst, w), nil
}

// AppendConsole appends e as Flipt's log has it in the encoding console.
func (e *Event) AppendConsole(dst []byte) ([]byte, error) {
	w, err := e.wire()
	if err != nil {
		return dst, err
	}
	return fliptevent.AppendConsole(dst, w), nil
}

// wire returns e as bytes know it.
func (e *Event) wire() (*fliptevent.Event, error) {
	w := &fliptevent.Event{Version: e.Version, Type: e.Type, Action: e.Action, Timestamp: e.Timestamp, Status: e.Status}
	if a := e.Metadata.Actor; a != nil {
		w.Actor = &fliptevent.Actor{Authentication: a.Authentication, IP: a.IP, Email: a.Email, Name: a.Name, Picture: a.Picture}
	}
	var err error
	if e.Payload != nil {
		if w.Payload, err = json.Marshal(e.Payload); err != nil {
			return nil, fmt.Errorf("encode the payload: %w", err)
		}
	}
	return w, nil
}

// LogValue makes an event a group for log/slog, in the order of the log: version, type,
// action, status, metadata, payload, timestamp. Metadata and payload are JSON also with a handler
// that writes text. A payload that cannot be encoded is told as the error.
func (e Event) LogValue() slog.Value {
	metadata := slog.Any("metadata", e.Metadata)
	if a := e.Metadata.Actor; a != nil {
		metadata = slog.Group("metadata", asJSON("actor", a))
	}
	payload := slog.Any("payload", nil)
	if e.Payload != nil {
		payload = asJSON("payload", e.Payload)
	}
	return slog.GroupValue(
		slog.String("version", e.Version),
		slog.String("type", e.Type),
		slog.String("action", e.Action),
		slog.String("status", e.Status),
		metadata,
		payload,
		slog.String("timestamp", e.Timestamp),
	)
}

func asJSON(key string, v any) slog.Attr {
	text, err := jsonAsValue(v)
	if err != nil {
		return slog.String(key, "!ERROR: "+err.Error())
	}
	return slog.Any(key, json.RawMessage(text))
}
