package audit

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"
)

// Draft is the event of a request that is being handled, see [Current]. Its methods are safe
// for concurrent use, and do nothing on a nil Draft, so that handlers work without
// the middleware, too.
type Draft struct {
	mu    sync.Mutex
	event Event
	said  bool // the outcome was set
	skip  bool
	over  bool
	first *Actor // that of the context
}

// Current returns the event of the request that is being handled, to add to it what only the
// handler knows. It is nil when there is none.
func Current(ctx context.Context) *Draft {
	d, _ := ctx.Value(currentKey).(*Draft)
	return d
}

func (d *Draft) change(f func(e *Event)) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.over {
		f(&d.event)
	}
}

// SetAction says what was done.
func (d *Draft) SetAction(action string) { d.change(func(e *Event) { e.Action = action }) }

// SetTarget says what it was done to.
func (d *Draft) SetTarget(t Target) { d.change(func(e *Event) { e.Target = t }) }

// SetActor says who did it. What it leaves empty is kept: of somebody else than before the
// address and the user agent, see [WithActor].
func (d *Draft) SetActor(a Actor) {
	d.change(func(e *Event) {
		a.fill(&e.Actor)
		e.Actor = a
	})
}

// fillActor takes what is empty from the actor of the event.
func (d *Draft) fillActor(a *Actor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a.fill(&d.event.Actor)
}

// SetOutcome says what became of it, instead of what the status of the response says.
func (d *Draft) SetOutcome(o Outcome, reason string) {
	d.change(func(e *Event) { e.Outcome, e.Reason, d.said = o, reason, true })
}

// SetReason says why, and leaves the outcome to the status of the response.
func (d *Draft) SetReason(reason string) { d.change(func(e *Event) { e.Reason = reason }) }

// SetStates says how the target was before and how it is now. Nil is no state. They are
// encoded when the request is over, and must not be changed before.
func (d *Draft) SetStates(before, after any) {
	d.change(func(e *Event) { e.Before, e.After = before, after })
}

// SetPayload adds whatever else is to be kept. It is encoded when the request is over, and must
// not be changed before.
func (d *Draft) SetPayload(payload any) { d.change(func(e *Event) { e.Payload = payload }) }

// SetMetadata adds an entry to the metadata.
func (d *Draft) SetMetadata(key, value string) {
	d.change(func(e *Event) {
		if e.Metadata == nil {
			e.Metadata = make(map[string]string)
		}
		e.Metadata[key] = value
	})
}

// Skip makes that there is no event for this request.
func (d *Draft) Skip() { d.change(func(*Event) { d.skip = true }) }

// finish returns the event, which nobody changes any more, and false when it is not wanted.
func (d *Draft) finish() (e Event, said, wanted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	e = d.event
	e.Metadata = maps.Clone(e.Metadata)
	return e, d.said, !d.skip
}

// NewDraft returns a context with an event that handlers add to with [Current]. It is for
// middleware of other kinds than [Middleware]: [Draft.End] logs it when the request is over. Other
// events that are logged with the context have the same actor and request.
func NewDraft(ctx context.Context, e Event) (context.Context, *Draft) {
	d := &Draft{event: e, first: &e.Actor}
	d.event.Metadata = maps.Clone(e.Metadata)
	ctx = WithRequest(ctx, Request{e.RequestID, e.Traceparent, e.Tracestate})
	return context.WithValue(context.WithValue(ctx, actorKey, d.first), currentKey, d), d
}

// DefaultEndTimeout is how long [Draft.End], and so a request, waits at most until its event is in
// the queue.
const DefaultEndTimeout = 5 * time.Second

// End is Log for middleware, which has nobody to return an error to: onError is told, or, if
// it is nil, the Log of the logger. The event is logged though ctx may have ended, because the
// client has gone away; how long End waits is bounded by timeout, 0 means [DefaultEndTimeout].
func (d *Draft) End(ctx context.Context, l *Logger, outcome Outcome, reason string, timeout time.Duration, onError func(error)) {
	if timeout <= 0 {
		timeout = DefaultEndTimeout
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), timeout, fmt.Errorf("it took longer than %v", timeout))
	defer cancel()
	err := d.Log(ctx, l, outcome, reason)
	switch {
	case err == nil:
	case onError != nil:
		onError(err)
	default:
		l.log.Error("a request is not in the audit trail", "error", err)
	}
}

// Log logs the event of a request that is over, unless Skip was called. It is truncated where it
// is too large, whatever [Oversize] says. The outcome and
// reason are those that the handler said, or else these.
func (d *Draft) Log(ctx context.Context, l *Logger, outcome Outcome, reason string) error {
	e, said, wanted := d.finish()
	if !wanted {
		return nil
	}
	if !said {
		e.Outcome = outcome
		take(&e.Reason, reason)
	}
	c := l.encoder
	c.refuse = false
	return l.logWith(ctx, e, &c)
}
