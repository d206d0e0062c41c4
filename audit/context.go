package audit

import "context"

type contextKey uint8

const (
	actorKey contextKey = iota
	requestKey
	currentKey
)

// WithActor returns a context whose events were done by an actor. [Logger.Log] takes from it
// what the actor of an event leaves empty.
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
// requests of HTTP; it is for other kinds.
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

// fromContext fills what an event leaves empty.
func (e *Event) fromContext(ctx context.Context) {
	if a, ok := ctx.Value(actorKey).(*Actor); ok {
		e.Actor.fill(a)
	}
	if d, ok := ctx.Value(currentKey).(*Draft); ok { // the handler may have found out
		d.fillActor(&e.Actor)
	}
	if r, ok := ctx.Value(requestKey).(*Request); ok {
		take(&e.RequestID, r.ID)
		if e.Traceparent == "" {
			e.Traceparent, e.Tracestate = r.Traceparent, r.Tracestate
		}
	}
}
