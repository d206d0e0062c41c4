package audit

import "context"

type contextKey uint8

const (
	actorKey contextKey = iota
	requestKey
	currentKey
)

// WithActor returns a context whose events were done by an actor. [Logger.Log] takes from it
// what the actor of an event leaves empty, and only IP and UserAgent if that is somebody else:
// with another ID or, where one has no ID, another name, e-mail address or token.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey, &a)
}

// ActorFrom returns the actor of a context, false when it has none.
func ActorFrom(ctx context.Context) (Actor, bool) {
	if a, ok := ctx.Value(actorKey).(*Actor); ok {
		return *a, true
	}
	return Actor{}, false
}

// Request is what events in the course of a request have in common.
type Request struct {
	ID          string
	Traceparent string // header field of W3C Trace Context
	Tracestate  string
}

// WithRequest returns a context whose events belong to a request. [Middleware] does that for
// requests of HTTP; it is for other kinds, and for middleware in front of it that knows better.
func WithRequest(ctx context.Context, r Request) context.Context {
	return context.WithValue(ctx, requestKey, &r)
}

// RequestFrom returns the request of a context, false when it has none.
func RequestFrom(ctx context.Context) (Request, bool) {
	if r, ok := ctx.Value(requestKey).(*Request); ok {
		return *r, true
	}
	return Request{}, false
}

// FillFrom takes what an event leaves empty from the actor and the request of a context, as
// [Logger.Log] does. It is for middleware of other kinds than [Middleware].
func (e *Event) FillFrom(ctx context.Context) {
	d, drafted := ctx.Value(currentKey).(*Draft)
	if a, ok := ctx.Value(actorKey).(*Actor); ok && (!drafted || a != d.first) {
		e.Actor.fill(a)
	}
	if drafted { // the handler may have found out
		d.fillActor(&e.Actor)
	}
	if r, ok := ctx.Value(requestKey).(*Request); ok {
		e.fillRequest(*r)
	}
}

func (e *Event) fillRequest(r Request) {
	take(&e.RequestID, r.ID)
	if e.Traceparent == "" {
		e.Traceparent, e.Tracestate = r.Traceparent, r.Tracestate
	}
}
