// Package auditgrpc makes an audit event of each call of a gRPC server: who asked, for what,
// from where, and what became of it. It is the counterpart of [audit.Middleware].
package auditgrpc

import (
	"context"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/audit"
)

// Options say what is logged. The zero value logs every call, with the address of who
// connects.
type Options struct {
	// Select says which calls are logged, by their full method ("/shop.v1.Orders/Create"); nil:
	// all.
	Select func(ctx context.Context, method string) bool
	// Identify says who asks, if that is known before the handler runs. A handler, or an
	// interceptor behind this one, may say it with [audit.Draft.SetActor], one in front of it
	// with [audit.WithActor]. IP and UserAgent are filled where they are empty.
	Identify func(ctx context.Context, method string) audit.Actor
	// Describe may change the event before the handler runs. It has the name of the method in
	// lower case as action, and the target {Type: "grpc", ID: full method}. The request is nil
	// for streams.
	Describe func(ctx context.Context, method string, request any, e *audit.Event)
	// Proxies are the proxies that may tell the address of a client, in the metadata of this
	// name.
	Proxies audit.Proxies
	// Timeout bounds how long a call waits at its end until its event is in the queue; 0
	// means 5 seconds. That the client has gone away does not end it.
	Timeout time.Duration
	// OnError is told about an event that could not be logged. Nil: the Log of the logger is.
	OnError func(method string, err error)
}

// Metadata of events.
const (
	metaMethod = "grpc_method"
	metaCode   = "grpc_code"

	requestIDKey = "x-request-id"
)

// UnaryServerInterceptor returns an interceptor of unary calls. A panic goes on as it came.
func UnaryServerInterceptor(l *audit.Logger, o Options) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if o.Select != nil && !o.Select(ctx, info.FullMethod) {
			return handler(ctx, request)
		}
		c := o.begin(ctx, l, info.FullMethod, request)
		defer c.end()
		response, err := handler(c.ctx, request)
		c.returned, c.err = true, err
		return response, err
	}
}

// StreamServerInterceptor returns an interceptor of streams: an event for each, when it
// ends. A panic goes on as it came.
func StreamServerInterceptor(l *audit.Logger, o Options) grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if o.Select != nil && !o.Select(stream.Context(), info.FullMethod) {
			return handler(server, stream)
		}
		c := o.begin(stream.Context(), l, info.FullMethod, nil)
		defer c.end()
		err := handler(server, &contextStream{stream, c.ctx})
		c.returned, c.err = true, err
		return err
	}
}

type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *contextStream) Context() context.Context { return s.ctx }

// call is a call under way.
type call struct {
	o        *Options
	logger   *audit.Logger
	method   string
	ctx      context.Context
	draft    *audit.Draft
	returned bool
	err      error
}

func (o *Options) begin(ctx context.Context, l *audit.Logger, method string, request any) *call {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	e := audit.Event{
		Action: actionOf(name), Target: audit.Target{Type: "grpc", ID: method, Name: service}, Metadata: map[string]string{metaMethod: method},
	}
	if o.Identify != nil {
		e.Actor = o.Identify(ctx, method)
	}
	e.FillFrom(ctx)
	header := headerOf(ctx)
	if e.Actor.IP == "" {
		remote := ""
		if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
			remote = p.Addr.String()
		}
		if addr := o.Proxies.ClientAddr(remote, header); addr.IsValid() {
			e.Actor.IP = addr.String()
		}
	}
	if e.Actor.UserAgent == "" {
		e.Actor.UserAgent = header.Get("User-Agent")
	}
	e.FillFrom(audit.WithRequest(context.Background(), audit.RequestOf(header, requestIDKey)))
	if o.Describe != nil {
		o.Describe(ctx, method, request, &e)
	}
	c := &call{o: o, logger: l, method: method}
	c.ctx, c.draft = audit.NewDraft(ctx, e)
	return c
}

// headerOf returns the metadata of a call as headers.
func headerOf(ctx context.Context) http.Header {
	md, _ := metadata.FromIncomingContext(ctx)
	h := make(http.Header, len(md))
	for k, values := range md {
		h[http.CanonicalHeaderKey(k)] = values
	}
	return h
}

func (c *call) end() {
	outcome, reason := audit.Error, "the handler has panicked"
	if c.returned {
		s := status.Convert(c.err)
		outcome, reason = OutcomeOf(s.Code()), s.Message()
		c.draft.SetMetadata(metaCode, s.Code().String())
	}
	var onError func(error)
	if c.o.OnError != nil {
		onError = func(err error) { c.o.OnError(c.method, err) }
	}
	c.draft.End(c.ctx, c.logger, outcome, reason, c.o.Timeout, onError)
}

// OutcomeOf returns what the code of a call says: [audit.Success] for OK, [audit.Denied] for
// Unauthenticated and PermissionDenied, [audit.Failure] where the caller is to blame
// (Canceled, InvalidArgument, NotFound, AlreadyExists, ResourceExhausted, FailedPrecondition,
// Aborted, OutOfRange), else [audit.Error].
func OutcomeOf(code codes.Code) audit.Outcome {
	switch code {
	case codes.OK:
		return audit.Success
	case codes.Unauthenticated, codes.PermissionDenied:
		return audit.Denied
	case codes.Canceled, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.ResourceExhausted,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange:
		return audit.Failure
	}
	return audit.Error
}

// actionOf is the action of a method.
func actionOf(name string) string {
	name = strings.ToLower(name)
	if len(name) > 64 || name == "" {
		return "call"
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return "call"
		}
	}
	return name
}
