package grpcapi

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// edge is what the intake counts these events under.
const edge = "grpc"

// publisherService is tocsin.v1.Publisher as generated, but for requests, which are
// decoded as [request].
func (s *Server) publisherService() *grpc.ServiceDesc {
	d := tocsinv1.Publisher_ServiceDesc
	d.HandlerType = nil
	d.Methods = []grpc.MethodDesc{{
		MethodName: "Publish",
		Handler: func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			m := new(request)
			if err := decode(m); err != nil {
				return nil, err
			}
			info := &grpc.UnaryServerInfo{FullMethod: tocsinv1.Publisher_Publish_FullMethodName}
			return interceptor(ctx, m, info, func(ctx context.Context, _ any) (any, error) { return s.publish(ctx, m) })
		},
	}}
	d.Streams = []grpc.StreamDesc{{
		StreamName: "PublishStream", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, rpc grpc.ServerStream) error { return newStream(s, callOf(rpc.Context()), rpc).serve() },
	}}
	return &d
}

// publish stores the events of one request.
func (s *Server) publish(ctx context.Context, m *request) (*tocsinv1.PublishResponse, error) {
	c := callOf(ctx)
	if m.err == nil && len(m.events)+len(m.refused) == 0 {
		m.err = status.Error(codes.InvalidArgument, "the request has no events")
	}
	if m.err != nil {
		s.refused.Refused("bad request").Inc()
		return nil, m.err
	}
	if len(m.refused) > 0 && !m.partial {
		s.countUnconverted(&m.unconverted)
		return nil, refusedStatus(m.refused)
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	by := &asked{Publisher: c.caller.Publisher}
	result, err := s.intake.Publish(ctx, publish.Request{By: by, Edge: edge, Namespace: c.caller.Namespace, Events: m.events, Partial: m.partial})
	if refused, ok := errors.AsType[*publish.RefusedError](err); ok {
		c.deny(refused.Refused, by.denied)
		return nil, refusedStatus(refused.Refused)
	}
	if err != nil {
		return nil, s.failed(err)
	}
	c.deny(result.Refused, by.denied)
	s.countUnconverted(&m.unconverted)
	m.complete(&result)
	response := &tocsinv1.PublishResponse{Accepted: uint64(result.Accepted), Duplicates: uint64(result.Duplicates)}
	for _, r := range result.Refused {
		response.Refused = append(response.Refused, refusal(0, r))
	}
	for _, w := range result.Warnings {
		response.Warnings = append(response.Warnings, warning(0, w))
	}
	return response, nil
}

// asked is a publisher that remembers the first path on which a right was missing. It
// is for one request.
type asked struct {
	publish.Publisher
	denied string
}

func (a *asked) Allows(op policy.Capabilities, path string, parameters map[string]any) bool {
	allowed := a.Publisher.Allows(op, path, parameters)
	if !allowed && a.denied == "" {
		a.denied = path
	}
	return allowed
}

// deny tells the caller's side if events were denied.
func (c *call) deny(refused []*publish.Refusal, path string) {
	denied := func(r *publish.Refusal) bool { return r.Code == publish.Denied }
	if c.caller.Denied != nil && slices.ContainsFunc(refused, denied) {
		c.caller.Denied(path)
	}
}

// countUnconverted counts what the intake has not seen, as it does.
func (s *Server) countUnconverted(u *unconverted) {
	if n := float64(len(u.refused)); n > 0 {
		s.published.Received.Add(n)
		s.published.Refused(string(publish.Invalid)).Add(n)
	}
}
