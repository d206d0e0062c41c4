// Package fliptaudit joins package flipt and package audit: Flipt's events get the queue on
// disk and the retries of an [audit.Logger], and the events of one go to the sinks of package
// flipt.
//
// A program that makes Flipt's events and must lose none gives them to a [Sender]; the logger
// behind it brings them to [Output] for each sink:
//
//	logger, err := audit.New(audit.Options{
//		Service: "flags",
//		Dir:     "/var/lib/flags/audit",
//		Outputs: []audit.Output{fliptaudit.Output("webhook", webhook)},
//	})
//	...
//	events := flipt.NewLogger(checker, fliptaudit.NewSender(logger))
//	err = events.Log(ctx, flipt.NewEvent(request, actor, payload))
//
// The logger hides what looks like a secret before it is kept, by value and by name. The names in
// Flipt's events of tokens (io.flipt.auth.token.name) look like that, too: audit.Redaction.Off
// keeps them.
package fliptaudit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/audit"
	"github.com/tocsin-events/tocsin/audit/flipt"
)

// Metadata of [audit.Event] under which is kept what only Flipt's events have.
const (
	metaVersion   = "flipt_version"
	metaTimestamp = "flipt_timestamp" // if it is not written as we write it
	metaStatus    = "flipt_status"    // if it is no outcome
	metaAction    = "flipt_action"    // if it is no verb of Flipt
	metaType      = "flipt_type"      // if package audit has another name for it
	metaActor     = "flipt_actor"     // "none": there is no actor
	metaPicture   = "flipt_picture"
	metaMethod    = "authentication" // "none", which is no method
)

// actions are the verbs of package audit for Flipt's.
var actions = map[string]string{"created": "create", "updated": "update", "deleted": "delete", "read": "read"}

// FromFlipt returns a Flipt event as one of package audit. [ToFlipt] makes the same event of
// it again.
func FromFlipt(e *flipt.Event) (audit.Event, error) {
	if !e.Valid() {
		return audit.Event{}, flipt.ErrNotValid
	}
	out := audit.Event{
		Action:   e.Action,
		Target:   audit.Target{Type: e.Type},
		Outcome:  audit.Success,
		Metadata: map[string]string{metaVersion: e.Version},
	}
	if verb, ok := actions[e.Action]; ok {
		out.Action = verb
	} else {
		out.Action = name(e.Action)
		out.Metadata[metaAction] = e.Action
	}
	if out.Target.Type = name(e.Type); out.Target.Type != e.Type {
		out.Metadata[metaType] = e.Type
	}
	at, err := time.Parse(time.RFC3339Nano, e.Timestamp)
	if err == nil {
		out.Time = at
	}
	if err != nil || format(at) != e.Timestamp {
		out.Metadata[metaTimestamp] = e.Timestamp
	}
	switch e.Status {
	case string(flipt.StatusSuccess):
	case string(flipt.StatusDenied):
		out.Outcome = audit.Denied
	default:
		out.Metadata[metaStatus] = e.Status
	}
	if a := e.Metadata.Actor; a == nil {
		out.Metadata[metaActor] = "none"
	} else {
		out.Actor = audit.Actor{Name: a.Name, Email: a.Email, IP: a.IP, Method: a.Authentication}
		if a.Picture != "" {
			out.Metadata[metaPicture] = a.Picture
		}
		if a.Authentication == "none" {
			out.Actor.Method, out.Metadata[metaMethod] = "", "none"
		}
	}
	if e.Payload == nil {
		return out, nil
	}
	payload, err := json.Marshal(e.Payload)
	if err != nil {
		return out, fmt.Errorf("encode the payload: %w", err)
	}
	out.Payload = json.RawMessage(payload)
	var named struct{ Key, ID, Name any }
	if json.Unmarshal(payload, &named) == nil {
		out.Target.ID, _ = named.Key.(string)
		if out.Target.ID == "" {
			out.Target.ID, _ = named.ID.(string)
		}
		out.Target.Name, _ = named.Name.(string)
	}
	return out, nil
}

// name makes of a noun or a verb of other vocabularies what package audit takes.
func name(word string) string {
	const most = 64
	var b strings.Builder
	for _, c := range word {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			c = '_'
		}
		if b.WriteRune(c); b.Len() == most {
			break
		}
	}
	return b.String()
}

func format(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// ToFlipt returns an event of package audit as one of Flipt: the type is that of the target,
// create, update and delete become created, updated and deleted, other actions stay. The payload is that
// of the event, or else the state of the target afterwards, or before, or what is known of the
// target. The status is the outcome: besides success and denied also failure and error.
func ToFlipt(e *audit.Event) flipt.Event {
	out := flipt.Event{
		Version:   flipt.Version,
		Type:      e.Target.Type,
		Action:    e.Action,
		Timestamp: format(e.Time),
		Status:    string(e.Outcome),
	}
	for verb, action := range actions {
		if e.Action == action {
			out.Action = verb
		}
	}
	own := e.Metadata
	version, of := own[metaVersion]
	if of {
		out.Version = version
	}
	take := func(field *string, key string) {
		if v, ok := own[key]; ok && of {
			*field = v
		}
	}
	take(&out.Timestamp, metaTimestamp)
	take(&out.Status, metaStatus)
	take(&out.Action, metaAction)
	take(&out.Type, metaType)
	if !of || own[metaActor] != "none" {
		a := flipt.Actor{Authentication: e.Actor.Method, IP: e.Actor.IP, Email: e.Actor.Email, Name: e.Actor.Name}
		take(&a.Picture, metaPicture)
		take(&a.Authentication, metaMethod)
		if !of && a.Authentication == "" {
			a.Authentication = "none"
		}
		out.Metadata.Actor = &a
	}
	switch {
	case e.Payload != nil:
		out.Payload = e.Payload
	case of:
	case e.After != nil:
		out.Payload = e.After
	case e.Before != nil:
		out.Payload = e.Before
	default:
		out.Payload = &target{e.Target.ID, e.Target.Name, strings.Trim(e.Target.Namespace, "/")}
	}
	if generic, err := out.Generic(); err == nil {
		out = generic
	}
	return out
}

// target is the payload of an event that has none.
type target struct {
	Key          string `json:"key,omitempty"`
	Name         string `json:"name,omitempty"`
	NamespaceKey string `json:"namespace_key,omitempty"`
}

// Sender gives Flipt's events to an [audit.Logger]. It is a [flipt.Sender].
type Sender struct{ logger *audit.Logger }

// NewSender returns a sender. The logger's queue decides what it costs: one on disk takes an event
// when it is synced.
func NewSender(l *audit.Logger) *Sender { return &Sender{l} }

// SendAudits logs the events, all of them, and returns the errors together.
func (s *Sender) SendAudits(ctx context.Context, events []flipt.Event) error {
	var errs []error
	for i := range events {
		e, err := FromFlipt(&events[i])
		if err == nil {
			err = s.logger.Log(ctx, e)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("event %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// Shutdown closes the logger.
func (s *Sender) Shutdown(ctx context.Context) error { return s.logger.Close(ctx) }

// Output brings the events of an [audit.Logger] to a sink of package flipt. What the sink says
// cannot help to be tried again becomes a dead letter of the logger; the error of a sink that does
// not say which events failed means all of them.
func Output(name string, s flipt.Sink) audit.Output { return audit.To(name, sink{s}) }

type sink struct{ flipt.Sink }

// Send implements [audit.Sink].
func (s sink) Send(ctx context.Context, events []audit.Event) error {
	all := make([]flipt.Event, len(events))
	for i := range events {
		all[i] = ToFlipt(&events[i])
	}
	err := s.SendAudits(ctx, all)
	failed, ok := errors.AsType[*flipt.DeliveryError](err)
	if !ok {
		return err
	}
	// All that are not named count as delivered, so a mixture is sent again: alone, each of
	// them says what it is.
	out := &audit.SendError{Err: failed, Refused: true}
	for _, f := range failed.Failures {
		out.Refused = out.Refused && !f.Temporary
		out.Events = append(out.Events, f.Index)
	}
	return out
}
