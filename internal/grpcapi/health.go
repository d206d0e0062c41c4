package grpcapi

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// watchInterval is how soon a watcher is told a change.
const watchInterval = time.Second

// healthServer serves grpc.health.v1.Health for the server as a whole, "", and for
// tocsin.v1.Publisher. Both serve while the program is ready, as at
// /api/v1/health/ready.
type healthServer struct {
	healthpb.UnimplementedHealthServer
	server *Server
}

func (h *healthServer) status() healthpb.HealthCheckResponse_ServingStatus {
	s := h.server
	if s.stopping.Err() != nil || s.health != nil && !s.health.Report().Ready {
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	return healthpb.HealthCheckResponse_SERVING
}

func knownService(name string) bool {
	return name == "" || name == tocsinv1.Publisher_ServiceDesc.ServiceName
}

// Check tells how a service is.
func (h *healthServer) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if !knownService(r.GetService()) {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &healthpb.HealthCheckResponse{Status: h.status()}, nil
}

// List tells how all services are.
func (h *healthServer) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	now := &healthpb.HealthCheckResponse{Status: h.status()}
	return &healthpb.HealthListResponse{Statuses: map[string]*healthpb.HealthCheckResponse{
		"": now, tocsinv1.Publisher_ServiceDesc.ServiceName: now,
	}}, nil
}

// Watch tells how a service is, and again when that changes.
func (h *healthServer) Watch(r *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	c := callOf(stream.Context())
	c.readBy(time.Time{})
	c.writeBy(time.Time{})
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	told := healthpb.HealthCheckResponse_UNKNOWN
	for {
		ended := c.ended.Err() != nil // before the status, so that it is that of the end
		now := healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		if knownService(r.GetService()) {
			now = h.status()
		}
		if now != told {
			c.writeBy(time.Now().Add(responseTimeout))
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			c.writeBy(time.Time{})
			told = now
		}
		if ended {
			return context.Cause(c.ended)
		}
		select {
		case <-tick.C:
		case <-c.ended.Done():
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}
