package journal

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrPushback is wrapped by every error that means "not now": nothing is
	// wrong with the events, and the same call may succeed later.
	ErrPushback = errors.New("journal does not accept events now")
	// ErrFull is ErrPushback because there is no space left for the journal.
	ErrFull = fmt.Errorf("%w: no space left", ErrPushback)
	// ErrUnavailable is ErrPushback because the storage failed for another
	// reason and is being recovered.
	ErrUnavailable = fmt.Errorf("%w: storage unavailable", ErrPushback)
	// ErrBusy is ErrPushback because producers are faster than the disk and the
	// caller did not want to wait any longer.
	ErrBusy = fmt.Errorf("%w: too many events are waiting", ErrPushback)
	// ErrClosed means that the journal was closed.
	ErrClosed = errors.New("journal is closed")
	// ErrNotFound means that a position or event id is not in the journal.
	ErrNotFound = errors.New("not in the journal")
	// ErrBadSince means that a text is none of the forms that Since accepts.
	ErrBadSince = errors.New("invalid since")
	// ErrLocked means that another process uses the data directory.
	ErrLocked = errors.New("data directory is in use")
	// ErrVersion means that another version of the program wrote the data
	// directory, in a form that this one does not read.
	ErrVersion = errors.New("data directory is of another version")
	// ErrLost means that acknowledged events are missing after a recovery.
	ErrLost = errors.New("acknowledged events are missing")
)

// PushbackError is the error of events that were not accepted or whose fate is not
// known. It wraps ErrPushback, and the more specific ErrFull, ErrUnavailable or
// ErrBusy where one applies.
type PushbackError struct {
	// Reason says in a sentence what happened, for people.
	Reason string
	// RetryAfter is when trying again makes sense; always positive.
	RetryAfter time.Duration
	// Unknown is set when the events may have been stored all the same, so that
	// a repeat may store them twice (with the same ids). Otherwise they are
	// certainly not stored.
	Unknown bool

	kind  error // ErrFull, ErrUnavailable, ErrBusy
	cause error // may be nil
}

func (e *PushbackError) Error() string {
	text := e.kind.Error()
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	if e.Unknown {
		text += " (the events may be stored)"
	}
	return text
}

// Unwrap returns the kind and, if known, the cause, for example the error of the
// caller's context.
func (e *PushbackError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

// GapError tells a reader that events which it was due are no longer there. The
// reader goes on behind the gap.
type GapError struct {
	// After is the last position before the gap, Next the first behind it.
	After, Next Position
	// Events and Records are how many are missing: exactly, when retention removed
	// them. Events is 0 when Cause leaves it unknown.
	Events, Records uint64
	// Cause is nil when retention removed the events, otherwise why they cannot
	// be read; it wraps ErrNotFound when After is not a position of this journal.
	Cause error
}

func (e *GapError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%d events in %d records after position %q cannot be read: %v", e.Events, e.Records, e.After, e.Cause)
	}
	return fmt.Sprintf("%d events in %d records after position %q were removed by retention", e.Events, e.Records, e.After)
}

// Unwrap returns Cause.
func (e *GapError) Unwrap() error { return e.Cause }
