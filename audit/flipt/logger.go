package flipt

import "context"

// Sender takes events; a [Fanout] is one.
type Sender interface {
	SendAudits(ctx context.Context, events []Event) error
	Shutdown(ctx context.Context) error
}

// Logger gives the events that are wanted to a [Fanout], or to another [Sender]. It needs no span,
// so that no event depends on tracing. It is safe for concurrent use.
type Logger struct {
	checker EventPairChecker
	to      Sender
}

// NewLogger returns a logger. Without a checker every event is wanted.
func NewLogger(checker EventPairChecker, to Sender) *Logger { return &Logger{checker, to} }

// Log sends an event if it is wanted, and returns as [Fanout.SendAudits] does. The error of one that
// is not valid is [ErrNotValid].
func (l *Logger) Log(ctx context.Context, e *Event) error {
	if !e.Valid() {
		return ErrNotValid
	}
	if l.checker != nil && !l.checker.Check(e.Pair()) {
		return nil
	}
	return l.to.SendAudits(ctx, []Event{*e})
}

// Shutdown ends what the logger sends to; see [Fanout.Shutdown].
func (l *Logger) Shutdown(ctx context.Context) error { return l.to.Shutdown(ctx) }
