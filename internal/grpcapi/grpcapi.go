// Package grpcapi is the gRPC edge: tocsin.v1.Publisher (proto/tocsin/v1), and the
// health and reflection services that tools expect. It is served by the HTTP server,
// as requests of the type application/grpc, and so under the limits of that: who may
// connect, how often somebody may fail to authenticate. Package api says who makes a
// call; what may be published is decided by package publish.
//
// What a client can make the server keep is bounded: the calls at once, the messages
// that are being read (see gate), their events until the intake has them, and what a stream
// has not acknowledged.
package grpcapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // what clients may compress with
	protocodec "google.golang.org/grpc/encoding/proto"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// Bounds.
const (
	// maxCalls are the calls of publishers at once.
	maxCalls = 1000
	// maxOpenCalls are the calls at once that need no token and are answered at once, and
	// maxOpenStreams those that last.
	maxOpenCalls   = 1000
	maxOpenStreams = 100
	// maxOpenBytes is what a call without a token may send.
	maxOpenBytes = 64 << 10
	// maxEvents are the events of one message.
	maxEvents = 5000
	// minMessageBytes is how large messages may be at least, the default of clients.
	minMessageBytes = 4 << 20
	// messageSlack is what the largest event has around it.
	messageSlack = 64 << 10
	// storeTimeout is how long a unary call waits to be stored.
	storeTimeout = 30 * time.Second
)

// Publisher takes events in; *[publish.Intake] is one.
type Publisher interface {
	Publish(ctx context.Context, r publish.Request) (publish.Result, error)
	Submit(ctx context.Context, r publish.Request) (*publish.Receipt, error)
}

// Options configure a Server. Intake is required.
type Options struct {
	Intake Publisher
	// Limits are those of the journal; the zero value means event.DefaultLimits.
	Limits event.Limits
	// Health is what the health service tells; nil: always serving.
	Health *health.Registry
	// Metrics counts what is refused; nil keeps the counters private.
	Metrics *metrics.Metrics
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

// Caller is who makes a call.
type Caller struct {
	Publisher publish.Publisher
	Namespace string // of the call, in canonical form
	// Follow calls ended, once and without waiting, when the caller may do nothing any
	// more, until stop is called. It may be nil.
	Follow func(ended func(reason string)) (stop func())
	// Refused is called once for a request of which events were refused by the intake, with
	// all of these. It may be nil.
	Refused func(all []*publish.Refusal)
}

// Server serves calls. It is safe for concurrent use.
type Server struct {
	intake     Publisher
	health     *health.Registry
	refused    *metrics.Component // calls
	published  *metrics.Component // events, beside what the intake counts
	log        *slog.Logger
	grpc       *grpc.Server
	maxMessage int
	memory     *semaphore.Weighted // for large messages
	decoded    *semaphore.Weighted // for what they are decoded to

	stopping context.Context // ended with errStopping by Shutdown
	stop     context.CancelCauseFunc

	mu    sync.Mutex
	calls [kinds]int    // that are served
	idle  chan struct{} // closed when there are none; nil while nobody waits
}

// kind is one of those kinds of calls that have limits of their own, so that who has no
// token can keep neither publishers out nor those who ask for the health.
type kind int

const (
	published kind = iota
	asking         // for the health, once; without a token
	lasting        // without a token
	kinds
)

func (k kind) most() int { return [kinds]int{maxCalls, maxOpenCalls, maxOpenStreams}[k] }

func kindOf(path string) kind {
	switch {
	case NeedsCaller(path):
		return published
	case path == healthpb.Health_Check_FullMethodName, path == healthpb.Health_List_FullMethodName:
		return asking
	}
	return lasting
}

var errStopping = status.Error(codes.Unavailable, "the server stops; connect again")

// New returns a server. [Server.Shutdown] ends it.
func New(o Options) *Server {
	if o.Limits == (event.Limits{}) {
		o.Limits = event.DefaultLimits
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Server{
		intake: o.Intake, health: o.Health, log: o.Logger,
		refused:    o.Metrics.Component("api", "grpc"),
		published:  o.Metrics.Component("publish", edge),
		maxMessage: max(minMessageBytes, o.Limits.MaxEventBytes+messageSlack),
		memory:     semaphore.NewWeighted(memoryBytes),
		decoded:    semaphore.NewWeighted(decodedBytes),
	}
	s.stopping, s.stop = context.WithCancelCause(context.Background())
	s.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(protocodec.Name)}),
		grpc.MaxRecvMsgSize(s.maxMessage),
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.streaming),
	)
	s.grpc.RegisterService(s.publisherService(), nil)
	healthpb.RegisterHealthServer(s.grpc, &healthServer{server: s})
	reflection.Register(s.grpc)
	return s
}

// Is says whether a request is a gRPC call of protobuf messages.
func Is(r *http.Request) bool {
	content, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	switch strings.TrimSpace(content) {
	case "application/grpc", "application/grpc+proto":
		return true
	}
	return false
}

// NeedsCaller says whether a call of a path has to have a caller.
func NeedsCaller(path string) bool {
	return strings.HasPrefix(path, "/"+tocsinv1.Publisher_ServiceDesc.ServiceName+"/")
}

// call is one that is served.
type call struct {
	caller *Caller
	gate   *gate
	// ended ends, with a status as the cause, when the call has to end before its client
	// wants that; end does it.
	ended context.Context
	end   context.CancelCauseFunc

	mu       sync.Mutex
	response *http.ResponseController // nil when the call was served: it must not be used then
	limit    time.Time                // of writing, whatever is set later
	running  sync.WaitGroup           // goroutines of a stream
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// Serve serves a call for which [Is] is true. The caller is nil where [NeedsCaller] is
// false.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, caller *Caller) {
	kind := kindOf(r.URL.Path)
	if kind == published && caller == nil {
		Refuse(w, r, status.Error(codes.Unauthenticated, "no token"))
		return
	}
	if err := s.begin(kind); err != nil {
		s.refused.Refused("calls").Inc()
		Refuse(w, r, err)
		return
	}
	defer s.done(kind)
	c := &call{caller: caller, response: http.NewResponseController(w)}
	c.ended, c.end = context.WithCancelCause(s.stopping)
	defer c.finish() // after the gate was closed
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	if kind != published {
		c.caller = nil
		r.Body = http.MaxBytesReader(w, r.Body, maxOpenBytes)
	} else {
		c.gate = newGate(r.Body, r.URL.Path != tocsinv1.Publisher_PublishStream_FullMethodName, s.maxMessage, s.memory, c.readBy)
		defer c.gate.Close()
		c.gate.next()
		r.Body = c.gate
	}
	s.grpc.ServeHTTP(w, r)
}

// finish ends what belongs to a call that was served.
func (c *call) finish() {
	c.end(nil)
	c.mu.Lock()
	c.response = nil
	c.mu.Unlock()
	c.running.Wait()
}

// start runs functions that end soon after the call, unless it has ended already.
func (c *call) start(run ...func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.response == nil {
		return false
	}
	for _, f := range run {
		c.running.Go(f)
	}
	return true
}

// readBy and writeBy set when reading and writing fail; the zero time is never.
func (c *call) readBy(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.response != nil {
		_ = c.response.SetReadDeadline(t)
	}
}

func (c *call) writeBy(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.limit.IsZero() {
		t = c.limit
	}
	if c.response != nil {
		_ = c.response.SetWriteDeadline(t)
	}
}

// lastWrite is a writeBy after which no later one counts.
func (c *call) lastWrite(t time.Time) {
	c.mu.Lock()
	c.limit = t
	c.mu.Unlock()
	c.writeBy(t)
}

func (s *Server) begin(k kind) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Err() != nil {
		return errStopping
	}
	if s.calls[k] >= k.most() {
		return retryStatus(codes.ResourceExhausted, "too many calls at once; try again later", time.Second)
	}
	s.calls[k]++
	return nil
}

func (s *Server) done(k kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[k]--
	if s.calls == [kinds]int{} && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// Shutdown refuses new calls, ends streams, which have acknowledged what is durable by
// then, and waits for the calls that are being served until ctx ends. Those that are left
// then are cut, and the error is that of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stop(errStopping)
	var idle chan struct{}
	if s.calls != [kinds]int{} {
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle = s.idle
	}
	s.mu.Unlock()
	var err error
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.grpc.Stop() // waits for handlers, whose calls are cut
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return err
}

// unary and streaming keep a panic in a handler from ending the process: grpc runs
// them in goroutines of its own.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, serve grpc.UnaryHandler) (_ any, err error) {
	defer s.recovered(info.FullMethod, &err)
	return serve(ctx, request)
}

func (s *Server) streaming(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, serve grpc.StreamHandler) (err error) {
	defer s.recovered(info.FullMethod, &err)
	if c := callOf(stream.Context()); c != nil && c.caller == nil {
		defer context.AfterFunc(c.ended, func() { c.readBy(time.Unix(1, 0)) })()
	}
	return serve(srv, stream)
}

func (s *Server) recovered(what string, err *error) {
	if p := recover(); p != nil {
		s.log.Error("a call failed", "method", what, "panic", p, "stack", string(debug.Stack()))
		*err = errInternal
	}
}

var errInternal = status.Error(codes.Internal, "internal error; the log of the server has more")

// failed is the status of an error of the intake that is no refusal.
func (s *Server) failed(err error) error {
	st, known := publishStatus(err)
	if !known {
		s.log.Error("events cannot be stored", "error", err)
	}
	if !errors.Is(err, context.Canceled) {
		s.refused.Refused(reasonOf(st)).Inc()
	}
	return st
}
