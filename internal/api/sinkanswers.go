package api

import (
	"encoding/json"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
)

// Sink is how a sink is answered.
type Sink struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
	// Origin is "file", "api", or "removed": what a sink that was removed has left.
	Origin string `json:"origin"`
	// State is "starting", "running", "failing", "paused", "disabled", "ended", or "broken": it
	// cannot run as it is defined; of what was removed it is "removed".
	State string `json:"state"`
	// Health says what is wrong, "" if nothing is.
	Health string `json:"health,omitempty"`
	// Definition has the keys of the configuration file, and "<secret>" in the place of
	// secrets. It is left out in lists.
	Definition json.RawMessage `json:"definition,omitempty"`
	Created    *time.Time      `json:"created,omitempty"`
	Updated    *time.Time      `json:"updated,omitempty"`
	SinkStatus
}

// SinkStatus is how far a sink is.
type SinkStatus struct {
	// Position is the place in the journal up to which every event is decided, as since of a
	// subscription takes it.
	Position   string  `json:"position"`
	LagEvents  uint64  `json:"lag_events"`
	LagSeconds float64 `json:"lag_seconds"`
	Waiting    int     `json:"waiting_events"`
	InFlight   int     `json:"in_flight_events"`
	Requests   int     `json:"in_flight_requests"`

	Held    *SinkHeld   `json:"held,omitempty"`
	Outage  *SinkOutage `json:"outage,omitempty"`
	Problem string      `json:"storage_problem,omitempty"`
	// Filter is why it cannot be told which events are for the sink.
	Filter   string        `json:"filter_problem,omitempty"`
	Counts   SinkCounts    `json:"counts"` // since the hub was started
	Letters  uint64        `json:"dead_letters"`
	Bytes    uint64        `json:"dead_letter_bytes"`
	Replays  []SinkReplay  `json:"replays,omitempty"`
	Redrives []SinkRedrive `json:"redrives,omitempty"`
}

// SinkHeld is why nothing is sent.
type SinkHeld struct {
	By         string    `json:"by"` // "paused" or "disabled"
	Reason     string    `json:"reason,omitempty"`
	Since      time.Time `json:"since"`
	ByEndpoint bool      `json:"by_endpoint,omitempty"`
}

// SinkOutage is since when nothing can be delivered.
type SinkOutage struct {
	Since    time.Time  `json:"since"`
	Attempts int        `json:"attempts"`
	Reason   string     `json:"reason,omitempty"`
	Status   int        `json:"status,omitempty"`
	Next     *time.Time `json:"next,omitempty"`
}

// SinkCounts are the counters of a sink.
type SinkCounts struct {
	Delivered      uint64 `json:"delivered"`
	Retried        uint64 `json:"retried"`
	Refused        uint64 `json:"refused"`
	Failed         uint64 `json:"failed"`
	Expired        uint64 `json:"expired"`
	Filtered       uint64 `json:"filtered"`
	Gaps           uint64 `json:"gaps"`
	Missed         uint64 `json:"missed"`
	Attempts       uint64 `json:"attempts"`
	FailedAttempts uint64 `json:"failed_attempts"`
}

// SinkReplay is a part of the journal that is sent once more.
type SinkReplay struct {
	ID       string     `json:"id"`
	State    string     `json:"state"` // "running", "done" or "cancelled"
	Begun    time.Time  `json:"begun"`
	Ended    *time.Time `json:"ended,omitempty"`
	Position string     `json:"position"` // up to which it was sent
	Until    string     `json:"until"`
	Sent     uint64     `json:"sent"`
	SetAside uint64     `json:"set_aside"` // became dead letters
	Missed   uint64     `json:"missed,omitempty"`
}

// SinkRedrive is dead letters that are tried once more.
type SinkRedrive struct {
	ID      string     `json:"id"`
	State   string     `json:"state"` // as of replays
	Begun   time.Time  `json:"begun"`
	Ended   *time.Time `json:"ended,omitempty"`
	Next    uint64     `json:"next"`
	Last    uint64     `json:"last"`
	Sent    uint64     `json:"sent"`
	Refused uint64     `json:"refused"`
}

// Answers and requests of the paths below /api/v1/sinks.
type (
	// SinkList answers GET /api/v1/sinks.
	SinkList struct {
		Sinks []Sink `json:"sinks"`
	}
	// SinkDeleted answers DELETE of a sink.
	SinkDeleted struct {
		Kept    bool   `json:"kept"` // the place in the journal, and the dead letters
		Letters uint64 `json:"dead_letters"`
		Bytes   uint64 `json:"dead_letter_bytes"`
	}
	// SinkReason is the body of pause and disable.
	SinkReason struct {
		Reason string `json:"reason"`
	}
	// SinkTest is the body of test.
	SinkTest struct {
		// Type chooses the event type of which an example is sent; "": a test event.
		Type string `json:"type"`
	}
	// SinkTested answers test.
	SinkTested struct {
		Outcome string  `json:"outcome"` // "delivered", "retry", "doubtful", "refused", "impossible", "gone"
		Status  int     `json:"status,omitempty"`
		Reason  string  `json:"reason,omitempty"`
		EventID string  `json:"event_id"`
		Type    string  `json:"event_type"`
		Took    float64 `json:"took_seconds"`
	}
	// SinkAttempts answers attempts.
	SinkAttempts struct {
		Attempts []SinkAttempt `json:"attempts"`
	}
	// DeadLetterList answers GET dead-letters.
	DeadLetterList struct {
		Letters []DeadLetter `json:"dead_letters"`
		Total   uint64       `json:"total"`
		Bytes   uint64       `json:"bytes"`
		// Next is what after has to be to get those that come next; 0: there are no more.
		Next uint64 `json:"next,omitempty"`
	}
	// SinkRedriveRequest is the body of dead-letters/redrive: one of IDs, From and To
	// (either may be left out), or All.
	SinkRedriveRequest struct {
		IDs  []uint64 `json:"ids,omitempty"`
		From uint64   `json:"from,omitempty"`
		To   uint64   `json:"to,omitempty"`
		All  bool     `json:"all,omitempty"`
	}
	// SinkRedriven answers it. The ID is that of [SinkRedrive], "" when there are none.
	SinkRedriven struct {
		ID      string `json:"id,omitempty"`
		Letters uint64 `json:"dead_letters"`
	}
	// SinkPurged answers DELETE dead-letters.
	SinkPurged struct {
		Removed uint64 `json:"removed"`
		Letters uint64 `json:"dead_letters"` // that are left
	}
	// SinkReplayRequest is the body of POST replay; see [journal.Journal.Since].
	SinkReplayRequest struct {
		Since string `json:"since"`
		Until string `json:"until"`
	}
	// SinkReplayed answers it. After and Until are positions.
	SinkReplayed struct {
		ID    string `json:"id"`
		After string `json:"after"`
		Until string `json:"until"`
	}
	// SinkReplays answers GET replays.
	SinkReplays struct {
		Replays  []SinkReplay  `json:"replays"`
		Redrives []SinkRedrive `json:"redrives"`
	}
	// SinkKinds answers GET /api/v1/sink-kinds.
	SinkKinds struct {
		Common []config.Field    `json:"common"`
		Kinds  []config.SinkKind `json:"kinds"`
	}
)

// SinkAttempt is one request to a sink.
type SinkAttempt struct {
	At         time.Time `json:"at"`
	Took       float64   `json:"took_seconds"`
	Events     int       `json:"events"`
	FirstEvent string    `json:"first_event"` // id
	Type       string    `json:"first_event_type"`
	Number     int       `json:"attempt"` // how often these events were tried
	Replay     string    `json:"replay,omitempty"`
	Redriven   bool      `json:"redriven,omitempty"`
	Test       bool      `json:"test,omitempty"`
	Outcome    string    `json:"outcome"`
	Status     int       `json:"status,omitempty"`
	Reason     string    `json:"reason,omitempty"`
}

// DeadLetter is an event that was given up. Unreadable is why one cannot be shown; then there
// is nothing else but the ID.
type DeadLetter struct {
	ID         uint64 `json:"id"`
	Unreadable string `json:"unreadable,omitempty"`

	EventID   string     `json:"event_id,omitempty"`
	Type      string     `json:"event_type,omitempty"`
	Source    string     `json:"source,omitempty"`
	Namespace string     `json:"namespace,omitempty"`
	Path      string     `json:"path,omitempty"`
	Time      *time.Time `json:"event_time,omitempty"`
	Position  string     `json:"position,omitempty"`

	// Cause is "refused" (the endpoint said no) or "failed" (the system could not).
	Cause    string     `json:"cause,omitempty"`
	Outcome  string     `json:"outcome,omitempty"` // of the last attempt
	Attempts int        `json:"attempts,omitempty"`
	First    *time.Time `json:"first_attempt,omitempty"`
	Last     *time.Time `json:"last_attempt,omitempty"`
	Status   int        `json:"status,omitempty"`
	Reason   string     `json:"reason,omitempty"`

	// Event is the CloudEvent. It is left out in lists.
	Event json.RawMessage `json:"event,omitempty"`
}

// atTime is nil for no time.
func atTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func sinkAnswer(i manager.Info, whole bool) Sink {
	st := i.Status
	s := Sink{
		Name: i.Name, Type: string(i.Definition.Type), Origin: string(i.Origin), State: string(st.Condition),
		Created: atTime(i.Created), Updated: atTime(i.Updated),
		SinkStatus: SinkStatus{
			Position: st.Position.String(), LagEvents: st.LagEvents, LagSeconds: st.Lag.Seconds(),
			Waiting: st.Waiting, InFlight: st.InFlight, Requests: st.Sending, Problem: st.Problem, Filter: st.Undecided,
			Letters: st.DeadLetters, Bytes: st.DeadLetterBytes,
			Counts: SinkCounts{
				Delivered: st.Delivered, Retried: st.Retried, Refused: st.Refused, Failed: st.Failed, Expired: st.Expired,
				Filtered: st.Filtered, Gaps: st.Gaps, Missed: st.Missed, Attempts: st.Attempts, FailedAttempts: st.FailedAttempts,
			},
		},
	}
	switch {
	case i.Origin == manager.Removed:
		s.State = string(manager.Removed)
	case i.Problem != nil:
		s.State = string(manager.Broken)
	}
	if i.Health != nil {
		s.Health = i.Health.Error()
	}
	if whole && i.Definition.Type != "" {
		s.Definition = i.Definition.JSON()
	}
	if h := st.Held; h.By != "" {
		s.Held = &SinkHeld{By: h.By, Reason: h.Reason, Since: h.Since.UTC(), ByEndpoint: h.ByEndpoint}
	}
	if o := st.Outage; o != nil {
		s.Outage = &SinkOutage{Since: o.Since.UTC(), Attempts: o.Attempts, Reason: o.Reason, Status: o.Status, Next: atTime(o.Next)}
	}
	s.Replays, s.Redrives = replayAnswers(st)
	return s
}

func replayAnswers(st deliver.Status) (replays []SinkReplay, redrives []SinkRedrive) {
	state := func(done, cancelled bool) string {
		switch {
		case cancelled:
			return "cancelled"
		case done:
			return "done"
		}
		return "running"
	}
	for _, r := range st.Replays {
		replays = append(replays, SinkReplay{
			ID: r.ID, State: state(r.Done, r.Cancelled), Begun: r.Begun.UTC(), Ended: atTime(r.Ended),
			Position: r.Through.String(), Until: r.Until.String(), Sent: r.Sent, SetAside: r.SetAside, Missed: r.Missed,
		})
	}
	for _, r := range st.Redrives {
		redrives = append(redrives, SinkRedrive{
			ID: r.ID, State: state(r.Done, r.Cancelled), Begun: r.Begun.UTC(), Ended: atTime(r.Ended),
			Next: r.Next, Last: r.Last, Sent: r.Sent, Refused: r.Refused,
		})
	}
	return replays, redrives
}

func letterAnswer(l *deliver.DeadLetter, whole bool) DeadLetter {
	d := DeadLetter{
		ID: l.ID, EventID: l.Event.ID, Type: l.Event.Type, Source: l.Event.Source, Namespace: l.Event.Namespace, Path: l.Event.Path,
		Time: atTime(l.Event.Time), Position: l.At.String(), Cause: l.Cause, Outcome: l.Outcome.String(), Attempts: l.Attempts,
		First: atTime(l.First), Last: atTime(l.Last), Status: l.Status, Reason: l.Reason,
	}
	if whole {
		d.Event = event.AppendCloudEvent(nil, l.Event, d.Position)
	}
	return d
}

func attemptAnswer(t *deliver.Attempt) SinkAttempt {
	return SinkAttempt{
		At: t.At.UTC(), Took: t.Took.Seconds(), Events: t.Events, FirstEvent: t.First, Type: t.Type, Number: t.Number,
		Replay: t.Replay, Redriven: t.Redriven, Test: t.Test, Outcome: t.Outcome.String(), Status: t.Status, Reason: t.Reason,
	}
}
