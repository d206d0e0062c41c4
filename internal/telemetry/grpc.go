package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// GRPC calls one method of a service of OTLP. It is safe for concurrent use.
type GRPC struct {
	connection Connection
	method     string
	conn       *grpc.ClientConn
	options    []grpc.CallOption
}

// NewGRPC returns what calls a method, which is its full name, at the host and port of a
// URL: http:// is a connection without TLS. A URL without a port gets the usual one, 4317.
// It does not connect yet.
func NewGRPC(c Connection, method string) (*GRPC, error) {
	u, err := ParseURL(c.URL)
	if err != nil {
		return nil, err
	}
	if u.Path != "" && u.Path != "/" {
		return nil, errors.New("has a path, which gRPC does not have; leave it out, or choose the type otlp_http")
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "4317")
	}
	transport := insecure.NewCredentials()
	if u.Scheme == "https" {
		transport = credentials.NewTLS(c.TLS)
	}
	target, dial := "dns:///"+host, []grpc.DialOption(nil)
	if c.Dial != nil { // which looks names up itself
		target = "passthrough:///" + host
		dial = append(dial, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.Dial(ctx, "tcp", address) }))
	}
	conn, err := grpc.NewClient(target, append(dial,
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent(c.UserAgent),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithMaxHeaderListSize(64<<10),
		// Whoever calls waits between calls. The connection is there soon after the receiver is.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 250 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: c.Timeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 20 * time.Second}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("gRPC: %w", err)
	}
	e := &GRPC{connection: c, method: method, conn: conn, options: []grpc.CallOption{
		grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(MaxAnswer), grpc.MaxCallSendMsgSize(1 << 30),
	}}
	if c.Gzip {
		e.options = append(e.options, grpc.UseCompressor(gzip.Name))
	}
	return e, nil
}

// raw takes messages that are encoded already, and leaves answers as they are.
type raw struct{}

func (raw) Name() string { return "proto" } // of what the bytes are

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// Send sends a message, and says what became of it, as [HTTP.Send] does.
func (e *GRPC) Send(ctx context.Context, message []byte, items int) Answer {
	c := &e.connection
	secrets, err := values(c.Headers)
	if err != nil {
		return Answer{Outcome: Retry, Reason: reason(nil, "%v", err)}
	}
	attempt, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	for i, h := range c.Headers {
		attempt = metadata.AppendToOutgoingContext(attempt, strings.ToLower(h.Name), secrets[i])
	}
	var body []byte
	if err := e.conn.Invoke(attempt, e.method, &message, &body, e.options...); err != nil {
		if ctx.Err() != nil {
			return failed(ctx, c.Timeout, secrets, ctx.Err())
		}
		return judgeStatus(status.Convert(err), secrets, c)
	}
	partial, _ := ParsePartial(body)
	a := Answer{Outcome: Delivered, Rejected: int(min(partial.Rejected, int64(items)))}
	if partial.Message != "" {
		a.Reason = reason(secrets, "%s", hide(secrets, partial.Message))
	}
	return a
}

// isTooLarge says whether a server does not take messages of this size. There is no code for
// that, only the words of the implementations of gRPC: those of Go, C++ and JavaScript, Java,
// .NET, and Rust.
func isTooLarge(message string) bool {
	for _, words := range [...]string{
		"larger than max", "exceeds maximum size", "exceeds the maximum configured message size", "message length too large",
	} {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

// judgeStatus says what a status means.
func judgeStatus(s *status.Status, secrets []string, c *Connection) Answer {
	a := Answer{Outcome: Retry}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			a.After = min(max(info.GetRetryDelay().AsDuration(), 0), MaxRetryAfter)
		}
	}
	text := fmt.Sprintf("gRPC %v: %s", s.Code(), s.Message())
	switch s.Code() {
	case codes.Unavailable:
		switch {
		case strings.Contains(s.Message(), "looked like an HTTP/1.1 header"):
			text = "it does not speak gRPC; is it the port of HTTP? (" + text + ")"
		case strings.Contains(s.Message(), "first record does not look like a TLS handshake"):
			text = "it does not speak TLS; is it http://? (" + text + ")"
		}
	case codes.InvalidArgument:
		a.Outcome = Never
	case codes.ResourceExhausted:
		if isTooLarge(s.Message()) {
			a.Outcome = TooLarge
		}
	case codes.OutOfRange:
		a.Outcome = Doubtful
		if isTooLarge(s.Message()) {
			a.Outcome = TooLarge
		}
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.AlreadyExists, codes.FailedPrecondition:
		a.Outcome = Doubtful
	case codes.DeadlineExceeded:
		text = fmt.Sprintf("no answer within %v", c.Timeout)
	case codes.Unauthenticated, codes.PermissionDenied:
		text = "check the headers of the " + c.sender() + " (" + text + ")"
	case codes.Unimplemented, codes.NotFound:
		text = "check the url and the type of the " + c.sender() + " (" + text + ")"
	}
	a.Reason = reason(secrets, "%s", text)
	return a
}

// Close releases the connection.
func (e *GRPC) Close() { e.conn.Close() }
