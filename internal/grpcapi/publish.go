package grpcapi

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	c.gate.took(len(m.raw))
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	release, err := s.decode(ctx, m)
	if err != nil {
		return nil, s.failed(err)
	}
	defer release()
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
	result, err := s.intake.Publish(ctx, publish.Request{By: c.caller.Publisher, Edge: edge, Namespace: c.caller.Namespace, Events: m.events, Partial: m.partial})
	if refused, ok := errors.AsType[*publish.RefusedError](err); ok {
		c.refused(refused.Refused)
		return nil, refusedStatus(refused.Refused)
	}
	if err != nil {
		return nil, s.failed(err)
	}
	c.refused(result.Refused)
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

// refused tells the caller's side what the intake refused.
func (c *call) refused(all []*publish.Refusal) {
	if c.caller.Refused != nil && len(all) > 0 {
		c.caller.Refused(all)
	}
}

// countUnconverted counts what the intake has not seen, as it does.
func (s *Server) countUnconverted(u *unconverted) {
	for _, r := range u.refused {
		s.published.Received.Inc()
		s.published.Refused(string(r.Code)).Inc()
	}
}
