package grpcapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// dialConn serves calls of a caller and returns a client's connection.
func dialConn(t testing.TB, s *Server, c *Caller) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !NeedsCaller(r.URL.Path) {
			s.Serve(w, r, nil)
			return
		}
		s.Serve(w, r, c)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), server.Close()); err != nil {
			t.Error(err)
		}
		<-served
	})
	return conn
}

func dial(t testing.TB, s *Server, c *Caller) tocsinv1.PublisherClient {
	t.Helper()
	return tocsinv1.NewPublisherClient(dialConn(t, s, c))
}

// intake does as told.
type intake struct {
	publish func(context.Context, publish.Request) (publish.Result, error)
	submit  func(context.Context, publish.Request) (*publish.Receipt, error)
}

func (i intake) Publish(ctx context.Context, r publish.Request) (publish.Result, error) {
	return i.publish(ctx, r)
}

func (i intake) Submit(ctx context.Context, r publish.Request) (*publish.Receipt, error) {
	return i.submit(ctx, r)
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func one() []*tocsinv1.Event { return []*tocsinv1.Event{{Id: "1", Source: "/s", Type: "a/b"}} }

// A panic, whoever is to blame, ends the call and nothing else.
func TestPanics(t *testing.T) {
	s := New(Options{Logger: quiet, Intake: intake{
		publish: func(context.Context, publish.Request) (publish.Result, error) { panic("publish") },
		submit:  func(context.Context, publish.Request) (*publish.Receipt, error) { panic("submit") },
	}})
	c := dial(t, s, &Caller{Publisher: publish.Host})
	for range 2 {
		if _, err := c.Publish(within(t), &tocsinv1.PublishRequest{Events: one()}); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "publish\"") {
			t.Errorf("unary: %v", err)
		}
		stream, err := c.PublishStream(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&tocsinv1.PublishStreamRequest{Sequence: 1, Events: one()}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.Internal {
			t.Errorf("stream: %v", err)
		}
	}
	follows := &Caller{Publisher: publish.Host, Follow: func(func(string)) func() { panic("follow") }}
	stream, err := dial(t, s, follows).PublishStream(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("follow: %v", err)
	}
}

func TestErrorsOfTheIntake(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		code codes.Code
	}{
		"full":      {journal.ErrFull, codes.Unavailable},
		"busy":      {journal.ErrBusy, codes.ResourceExhausted},
		"closed":    {journal.ErrClosed, codes.Unavailable},
		"cancelled": {context.Canceled, codes.Canceled},
		"too late":  {context.DeadlineExceeded, codes.DeadlineExceeded},
		"unknown":   {errors.New("password is hunter2"), codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Options{Logger: quiet, Intake: intake{
				publish: func(context.Context, publish.Request) (publish.Result, error) { return publish.Result{}, tt.err },
				submit:  func(context.Context, publish.Request) (*publish.Receipt, error) { return nil, tt.err },
			}})
			c := dial(t, s, &Caller{Publisher: publish.Host})
			_, err := c.Publish(within(t), &tocsinv1.PublishRequest{Events: one()})
			if status.Code(err) != tt.code || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("unary: %v, want %v", err, tt.code)
			}
			stream, err := c.PublishStream(within(t))
			if err != nil {
				t.Fatal(err)
			}
			stream.Send(&tocsinv1.PublishStreamRequest{Sequence: 1, Events: one()})
			if _, err := stream.Recv(); status.Code(err) != tt.code || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("stream: %v, want %v", err, tt.code)
			}
		})
	}
}

func TestTooManyCalls(t *testing.T) {
	s := New(Options{Logger: quiet, Intake: intake{publish: func(context.Context, publish.Request) (publish.Result, error) {
		return publish.Result{Accepted: 1}, nil
	}}})
	conn := dialConn(t, s, &Caller{Publisher: publish.Host})
	c, h := tocsinv1.NewPublisherClient(conn), healthpb.NewHealthClient(conn)
	set := func(calls [kinds]int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls = calls
	}
	watch := func() error {
		stream, err := h.Watch(within(t), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	check := func() error {
		_, err := h.Check(within(t), &healthpb.HealthCheckRequest{})
		return err
	}
	publish := func() error {
		_, err := c.Publish(within(t), &tocsinv1.PublishRequest{Events: one()})
		return err
	}
	for k, call := range [kinds]func() error{published: publish, asking: check, lasting: watch} {
		full := [kinds]int{published: maxCalls, asking: maxOpenCalls, lasting: maxOpenStreams}
		set(full)
		if err := call(); status.Code(err) != codes.ResourceExhausted || len(status.Convert(err).Details()) != 1 {
			t.Errorf("kind %d beyond the limit: %v", k, err)
		}
		full[k]--
		set(full)
		if err := call(); err != nil {
			t.Errorf("kind %d at the limit: %v", k, err)
		}
	}
	set([kinds]int{lasting: 1}) // the watch that goes on
}

// A call that needs a caller and has none is refused, whoever forgot it.
func TestNoCaller(t *testing.T) {
	s := New(Options{Logger: quiet, Intake: intake{}})
	_, err := dial(t, s, nil).Publish(within(t), &tocsinv1.PublishRequest{Events: one()})
	if status.Code(err) != codes.Unauthenticated {
		t.Error(err)
	}
}

// Shutdown does not wait for ever for a call that does not end.
func TestShutdownIsBounded(t *testing.T) {
	release := make(chan struct{})
	begun := make(chan struct{})
	s := New(Options{Logger: quiet, Intake: intake{publish: func(context.Context, publish.Request) (publish.Result, error) {
		close(begun)
		<-release
		return publish.Result{}, nil
	}}})
	c := dial(t, s, &Caller{Publisher: publish.Host})
	answered := make(chan error, 1)
	go func() {
		_, err := c.Publish(within(t), &tocsinv1.PublishRequest{Events: one()})
		answered <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shut down with %v", err)
	}
	close(release)
	if err := <-answered; err == nil {
		t.Error("a call that was cut succeeded")
	}
}

func TestStatusTexts(t *testing.T) {
	for in, want := range map[string]string{"a b~": "a b~", "50% \n": "50%25 %0A", "ü": "%C3%BC"} {
		if got := encodeMessage(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := clip("aü", 2); got != "a\uFFFD..." {
		t.Errorf("cut in a letter: %q", got)
	}
	if got := refusedCode([]*publish.Refusal{{Code: publish.Denied}, {Code: publish.Reserved}}); got != codes.PermissionDenied {
		t.Error(got)
	}
	if got := refusedCode([]*publish.Refusal{{Code: publish.Denied}, {Code: publish.TooLarge}}); got != codes.InvalidArgument {
		t.Error(got)
	}
}
