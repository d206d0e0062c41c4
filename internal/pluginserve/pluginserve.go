// Package pluginserve is the plugin's side of the plugin protocol (tocsin.plugin.v1): it serves
// a [sourceplugin.Plugin] to the hub that started this process.
package pluginserve

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

// Offer is a plugin that has not been given its config.
type Offer struct {
	Description *sourceplugin.Description
	// Init gives it its config. It is called once.
	Init func(ctx context.Context, config string) (sourceplugin.Plugin, error)
	// Stuck is called when a stream cannot be closed: only the end of the process ends it.
	Stuck func(error)
}

// beatTime is how often a stream without events tells that it is alive.
const beatTime = 2 * time.Second

// closeTime is how long closing a stream may take.
const closeTime = 10 * time.Second

// Server implements the service. Its methods are safe for concurrent use.
type Server struct {
	pb.UnimplementedPluginServiceServer
	offer Offer

	initMu sync.Mutex // one Init at a time

	mu      sync.Mutex
	plugin  sourceplugin.Plugin // nil before Init
	streams map[uint64]sourceplugin.Stream
}

// NewServer returns a server, to be registered with a gRPC server.
func NewServer(o Offer) *Server {
	return &Server{offer: o, streams: map[uint64]sourceplugin.Stream{}}
}

// Close closes the plugin.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	p := s.plugin
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	return p.Close(ctx)
}

// failure is an error of the plugin as a status whose text is the plugin's.
func failure(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sourceplugin.ErrNotSupported):
		return status.Error(codes.Unimplemented, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return status.Error(codes.Aborted, err.Error())
}

func (s *Server) ready() (sourceplugin.Plugin, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plugin == nil {
		return nil, status.Error(codes.FailedPrecondition, "Init must be called first")
	}
	return s.plugin, nil
}

// Describe implements the service.
func (s *Server) Describe(context.Context, *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	d := s.offer.Description
	c := d.Capabilities
	fields := make([]*pb.Field, len(d.Fields))
	for i, f := range d.Fields {
		fields[i] = &pb.Field{
			Name: f.Name, Display: f.Display, Description: f.Description,
			Type: pb.FieldType(f.Type), List: f.List,
			ArgRequired: f.Arg.Required, ArgIndex: f.Arg.Index, ArgKey: f.Arg.Key,
			Properties: f.Properties, AddOutput: f.AddOutput,
		}
	}
	return &pb.DescribeResponse{
		Name: d.Name, Version: d.Version, Description: d.Description, Contact: d.Contact,
		Id: d.ID, EventSource: d.EventSource, RequiredApi: d.RequiredAPI,
		ConfigSchema: d.ConfigSchema, ParamsSchema: d.ParamsSchema,
		Capabilities: &pb.Capabilities{
			Source: c.Source, Extract: c.Extract, Async: c.Async, OpenParams: c.OpenParams, Strings: c.Strings,
			Progress: c.Progress, Metrics: c.Metrics, SetConfig: c.SetConfig, Resume: c.Resume,
		},
		ExtractSources: d.ExtractSources, AsyncNames: d.AsyncNames, Fields: fields,
	}, nil
}

// Init implements the service.
func (s *Server) Init(ctx context.Context, r *pb.InitRequest) (*pb.InitResponse, error) {
	s.initMu.Lock()
	defer s.initMu.Unlock()
	if _, err := s.ready(); err == nil {
		return nil, status.Error(codes.FailedPrecondition, "Init was called before")
	}
	p, err := s.offer.Init(ctx, r.GetConfig())
	if err != nil {
		return nil, failure(err)
	}
	s.mu.Lock()
	s.plugin = p
	s.mu.Unlock()
	return &pb.InitResponse{}, nil
}

// OpenParams implements the service.
func (s *Server) OpenParams(ctx context.Context, _ *pb.OpenParamsRequest) (*pb.OpenParamsResponse, error) {
	p, err := s.ready()
	if err != nil {
		return nil, err
	}
	list, err := p.OpenParams(ctx)
	if err != nil {
		return nil, failure(err)
	}
	out := &pb.OpenParamsResponse{}
	for _, o := range list {
		out.Params = append(out.Params, &pb.OpenParam{Value: o.Value, Description: o.Description, Separator: o.Separator})
	}
	return out, nil
}

// Open implements the service.
func (s *Server) Open(r *pb.OpenRequest, to pb.PluginService_OpenServer) error {
	p, err := s.ready()
	if err != nil {
		return err
	}
	ctx := to.Context()
	o := sourceplugin.Open{Params: r.GetParams(), MaxEventBytes: int(min(r.GetMaxEventBytes(), 1<<31-1))}
	if r.GetHasResume() {
		o.Resume = append([]byte{}, r.GetResume()...)
	}
	stream, err := p.Open(ctx, o)
	if err != nil {
		return failure(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer cancel()
		if err := stream.Close(closing); err != nil && closing.Err() != nil && s.offer.Stuck != nil {
			s.offer.Stuck(err)
		}
	}()
	s.mu.Lock()
	_, taken := s.streams[r.GetStream()]
	if !taken {
		s.streams[r.GetStream()] = stream
	}
	s.mu.Unlock()
	if taken {
		return status.Errorf(codes.AlreadyExists, "there is a stream %d", r.GetStream())
	}
	defer func() {
		s.mu.Lock()
		delete(s.streams, r.GetStream())
		s.mu.Unlock()
	}()
	if err := to.Send(&pb.OpenResponse{}); err != nil {
		return err
	}
	var b sourceplugin.Batch
	said := time.Now()
	for {
		ended := stream.Next(ctx, &b)
		// Once in a while the hub is told that there is nothing, so that it knows that the plugin
		// is not stuck.
		if b.Count > 0 || b.Dropped > 0 || b.Position != nil || ended == nil && time.Since(said) >= beatTime {
			said = time.Now()
			// Send has encoded the message when it returns, so the memory can be used again.
			if err := to.Send(&pb.OpenResponse{
				Events: b.Events, Count: uint32(b.Count),
				Position: b.Position, HasPosition: b.Position != nil,
				Dropped: uint32(b.Dropped), DroppedReason: b.DroppedReason,
			}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(ended, io.EOF):
			return nil
		case ended != nil:
			return failure(ended)
		}
	}
}

func (s *Server) stream(number uint64) (sourceplugin.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stream := s.streams[number]
	if stream == nil {
		return nil, status.Errorf(codes.NotFound, "no stream %d is open", number)
	}
	return stream, nil
}

// Acknowledge implements the service.
func (s *Server) Acknowledge(ctx context.Context, r *pb.AcknowledgeRequest) (*pb.AcknowledgeResponse, error) {
	stream, err := s.stream(r.GetStream())
	if err != nil {
		return nil, err
	}
	if err := stream.Acknowledge(ctx, r.GetPosition()); err != nil {
		return nil, failure(err)
	}
	return &pb.AcknowledgeResponse{}, nil
}

// Progress implements the service.
func (s *Server) Progress(ctx context.Context, r *pb.ProgressRequest) (*pb.ProgressResponse, error) {
	stream, err := s.stream(r.GetStream())
	if err != nil {
		return nil, err
	}
	progress, err := stream.Progress(ctx)
	if err != nil {
		return nil, failure(err)
	}
	return &pb.ProgressResponse{Fraction: progress.Fraction, Text: progress.Text}, nil
}

// cut cuts the events of a request.
func cut(r *pb.Events) ([]sourceplugin.Event, error) {
	var events []sourceplugin.Event
	numbers, sources := r.GetNumbers(), r.GetSources()
	for rest := r.GetEvents(); len(rest) > 0; {
		e, behind, err := scapevent.Next(rest)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "event %d: %v", len(events)+1, err)
		}
		rest = behind
		events = append(events, sourceplugin.Event{Event: e})
	}
	if len(numbers) > 0 && len(numbers) != len(events) {
		return nil, status.Errorf(codes.InvalidArgument, "%d numbers for %d events", len(numbers), len(events))
	}
	if len(sources) > 1 && len(sources) != len(events) {
		return nil, status.Errorf(codes.InvalidArgument, "%d sources for %d events", len(sources), len(events))
	}
	for i := range events {
		if len(numbers) > 0 {
			events[i].Number = numbers[i]
		}
		switch len(sources) {
		case 0:
		case 1:
			events[i].Source = sources[0]
		default:
			events[i].Source = sources[i]
		}
	}
	return events, nil
}

// Strings implements the service.
func (s *Server) Strings(ctx context.Context, r *pb.StringsRequest) (*pb.StringsResponse, error) {
	p, err := s.ready()
	if err != nil {
		return nil, err
	}
	events, err := cut(r.GetEvents())
	if err != nil {
		return nil, err
	}
	texts, err := p.Strings(ctx, events)
	if err != nil {
		return nil, failure(err)
	}
	return &pb.StringsResponse{Strings: texts}, nil
}

// Extract implements the service.
func (s *Server) Extract(ctx context.Context, r *pb.ExtractRequest) (*pb.ExtractResponse, error) {
	p, err := s.ready()
	if err != nil {
		return nil, err
	}
	events, err := cut(r.GetEvents())
	if err != nil {
		return nil, err
	}
	fields := make([]sourceplugin.FieldRequest, len(r.GetFields()))
	for i, f := range r.GetFields() {
		fields[i] = sourceplugin.FieldRequest{Index: int(f.GetIndex()), Arg: f.GetArg(), ArgIndex: f.GetArgIndex(), ArgPresent: f.GetArgPresent()}
	}
	v, err := p.Extract(ctx, events, fields)
	if err != nil {
		return nil, failure(err)
	}
	return &pb.ExtractResponse{Counts: v.Counts, Lengths: v.Lengths, Values: v.Bytes, Offsets: v.Offsets}, nil
}

// Metrics implements the service.
func (s *Server) Metrics(ctx context.Context, _ *pb.MetricsRequest) (*pb.MetricsResponse, error) {
	p, err := s.ready()
	if err != nil {
		return nil, err
	}
	list, err := p.Metrics(ctx)
	if err != nil {
		return nil, failure(err)
	}
	out := &pb.MetricsResponse{}
	for _, m := range list {
		out.Metrics = append(out.Metrics, &pb.Metric{Name: m.Name, Monotonic: m.Monotonic, Value: m.Value})
	}
	return out, nil
}

// SetConfig implements the service.
func (s *Server) SetConfig(ctx context.Context, r *pb.SetConfigRequest) (*pb.SetConfigResponse, error) {
	p, err := s.ready()
	if err != nil {
		return nil, err
	}
	if err := p.SetConfig(ctx, r.GetConfig()); err != nil {
		return nil, failure(err)
	}
	return &pb.SetConfigResponse{}, nil
}
