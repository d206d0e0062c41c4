package auditgrpc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink keeps what it is sent.
type sink struct {
	mu     sync.Mutex
	events []audit.Event
}

func (s *sink) Send(_ context.Context, events []audit.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, events...)
	return nil
}

// server answers with the code that the name of the service says.
type server struct {
	grpc_health_v1.UnimplementedHealthServer
	logger *audit.Logger
}

func answer(ctx context.Context, name string) error {
	d := audit.Current(ctx)
	switch name {
	case "panic":
		panic("secret")
	case "described":
		d.SetTarget(audit.Target{Type: "service", ID: name})
		d.SetActor(audit.Actor{ID: "u1"})
		return nil
	}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		if c.String() == name && c != codes.OK {
			return status.Error(c, "because")
		}
	}
	return nil
}

func (s *server) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return &grpc_health_v1.HealthCheckResponse{}, answer(ctx, r.Service)
}

func (s *server) Watch(r *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	if err := s.logger.Log(stream.Context(), audit.Event{Action: "watch", Target: audit.Target{Type: "inner"}}); err != nil {
		return err
	}
	return answer(stream.Context(), r.Service)
}

// start returns a client of a server with the interceptors, and the sink.
func start(t *testing.T, o Options) (grpc_health_v1.HealthClient, *sink, *audit.Logger) {
	t.Helper()
	s := new(sink)
	l, err := audit.New(audit.Options{Service: "shop", Outputs: []audit.Output{audit.To("own", s)}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	recovers := func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (_ any, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = status.Error(codes.Internal, "recovered")
			}
		}()
		return h(ctx, r)
	}
	g := grpc.NewServer(grpc.ChainUnaryInterceptor(recovers, UnaryServerInterceptor(l, o)), grpc.StreamInterceptor(StreamServerInterceptor(l, o)))
	grpc_health_v1.RegisterHealthServer(g, &server{logger: l})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener)
	}()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("test/1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		<-done
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return grpc_health_v1.NewHealthClient(conn), s, l
}

func (s *sink) wait(t *testing.T, l *audit.Logger, n int) []audit.Event {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		events := s.events
		s.mu.Unlock()
		if len(events) >= n {
			return events
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events, want %d", len(events), n)
		}
	}
}

func TestOutcomes(t *testing.T) {
	client, s, l := start(t, Options{})
	want := map[codes.Code]audit.Outcome{
		codes.OK: audit.Success, codes.PermissionDenied: audit.Denied, codes.Unauthenticated: audit.Denied,
		codes.NotFound: audit.Failure, codes.InvalidArgument: audit.Failure, codes.Canceled: audit.Failure, codes.AlreadyExists: audit.Failure,
		codes.FailedPrecondition: audit.Failure, codes.Aborted: audit.Failure, codes.OutOfRange: audit.Failure, codes.ResourceExhausted: audit.Failure,
		codes.Internal: audit.Error, codes.Unknown: audit.Error, codes.Unavailable: audit.Error, codes.DeadlineExceeded: audit.Error,
		codes.DataLoss: audit.Error, codes.Unimplemented: audit.Error,
	}
	n := 0
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: c.String()})
		if status.Code(err) != c {
			t.Fatalf("%v: %v", c, err)
		}
		n++
		e := s.wait(t, l, n)[n-1]
		if e.Outcome != want[c] || e.Metadata["grpc_code"] != c.String() || e.Action != "check" || e.Target.ID != "/grpc.health.v1.Health/Check" || c != codes.OK && e.Reason != "because" {
			t.Errorf("%v: %+v", c, e)
		}
	}
	if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "panic"}); status.Code(err) != codes.Internal {
		t.Error(err)
	}
	if e := s.wait(t, l, n+1)[n]; e.Outcome != audit.Error || e.Reason != "the handler has panicked" {
		t.Errorf("%+v", e)
	}
}

// An event that cannot be logged is told to somebody in any case.
func TestNotLogged(t *testing.T) {
	var log bytes.Buffer
	l, err := audit.New(audit.Options{Service: "shop", Outputs: []audit.Output{audit.To("own", new(sink))}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(t.Context())
	ctx := audit.WithActor(t.Context(), audit.Actor{ID: "u1"})
	call := func(o Options) {
		_, err := UnaryServerInterceptor(l, o)(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"}, func(ctx context.Context, _ any) (any, error) {
			if a, _ := audit.ActorFrom(ctx); a.ID != "u1" {
				t.Errorf("the actor of the interceptor in front is gone: %+v", a)
			}
			audit.Current(ctx).SetAction("not a name")
			return nil, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	call(Options{})
	if !strings.Contains(log.String(), "not in the audit trail") || !strings.Contains(log.String(), "letters") {
		t.Errorf("the log has %q", log.String())
	}
	var told error
	call(Options{OnError: func(_ string, err error) { told = err }})
	if !errors.Is(told, audit.ErrInvalid) {
		t.Error(told)
	}
}

func TestEvent(t *testing.T) {
	client, s, l := start(t, Options{
		Select:   func(ctx context.Context, method string) bool { return !strings.HasSuffix(method, "/List") },
		Identify: func(ctx context.Context, method string) audit.Actor { return audit.Actor{Method: "mtls"} },
		Describe: func(ctx context.Context, method string, request any, e *audit.Event) {
			if r, ok := request.(*grpc_health_v1.HealthCheckRequest); ok {
				e.Metadata["service_asked"] = r.Service
			}
		},
		Proxies: audit.Proxies{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	})
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", "203.0.113.9, 198.51.100.7", "x-request-id", "r-1", "traceparent", trace)
	if _, err := client.List(ctx, nil); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
	if _, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "described"}); err != nil {
		t.Fatal(err)
	}
	e := s.wait(t, l, 1)[0]
	if e.Type() != "shop/service/check" || e.Target.ID != "described" || e.Actor.ID != "u1" || e.Actor.Method != "mtls" || e.Actor.IP != "198.51.100.7" ||
		!strings.HasPrefix(e.Actor.UserAgent, "test/1") || e.RequestID != "r-1" || e.Traceparent != trace || e.Metadata["service_asked"] != "described" || e.Outcome != audit.Success {
		t.Errorf("%+v", e)
	}
	stream, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: "PermissionDenied"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	events := s.wait(t, l, 3)
	if inner := events[1]; inner.Actor.IP != "198.51.100.7" || inner.RequestID != "r-1" {
		t.Errorf("an event logged by the handler: %+v", inner)
	}
	if e := events[2]; e.Outcome != audit.Denied || e.Action != "watch" || e.Reason != "because" {
		t.Errorf("%+v", e)
	}
}
