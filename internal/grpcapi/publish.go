package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// edge is what the intake counts these events under.
const edge = "grpc"

// publisherServer serves tocsin.v1.Publisher.
type publisherServer struct {
	tocsinv1.UnimplementedPublisherServer
	server *Server
}

// checkRequest says what is wrong with a request as a whole.
func checkRequest(m proto.Message, events int) error {
	switch {
	case len(m.ProtoReflect().GetUnknown()) > 0:
		return status.Error(codes.InvalidArgument, "the request has a field that this version does not know")
	case events > maxEvents:
		return status.Error(codes.InvalidArgument, fmt.Sprintf("the request has %d events, at most %d are allowed", events, maxEvents))
	}
	return nil
}

// Publish stores the events of one request.
func (p *publisherServer) Publish(ctx context.Context, m *tocsinv1.PublishRequest) (*tocsinv1.PublishResponse, error) {
	s, c := p.server, callOf(ctx)
	err := checkRequest(m, len(m.Events))
	if err == nil && len(m.Events) == 0 {
		err = status.Error(codes.InvalidArgument, "the request has no events")
	}
	if err != nil {
		s.refused.Refused("bad request").Inc()
		return nil, err
	}
	all := convertAll(m.Events)
	if len(all.refused) > 0 && !m.Partial {
		s.countUnconverted(&all.unconverted)
		return nil, refusedStatus(all.refused)
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	by := &asked{Publisher: c.caller.Publisher}
	result, err := s.intake.Publish(ctx, publish.Request{By: by, Edge: edge, Namespace: c.caller.Namespace, Events: all.events, Partial: m.Partial})
	if refused, ok := errors.AsType[*publish.RefusedError](err); ok {
		s.deny(c, refused.Refused, by.denied)
		return nil, refusedStatus(refused.Refused)
	}
	if err != nil {
		return nil, s.failed(err)
	}
	s.deny(c, result.Refused, by.denied)
	s.countUnconverted(&all.unconverted)
	all.complete(&result)
	response := &tocsinv1.PublishResponse{Accepted: uint64(result.Accepted), Duplicates: uint64(result.Duplicates)}
	for _, r := range result.Refused {
		response.Refused = append(response.Refused, refusal(0, r))
	}
	for _, w := range result.Warnings {
		response.Warnings = append(response.Warnings, warning(0, w))
	}
	return response, nil
}

// PublishStream stores the events of many requests.
func (p *publisherServer) PublishStream(rpc grpc.BidiStreamingServer[tocsinv1.PublishStreamRequest, tocsinv1.PublishStreamResponse]) error {
	return newStream(p.server, callOf(rpc.Context()), rpc).serve()
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
func (s *Server) deny(c *call, refused []*publish.Refusal, path string) {
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
