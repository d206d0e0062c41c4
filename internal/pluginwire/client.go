package pluginwire

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/child"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

// ClientOptions say whom a client speaks for.
type ClientOptions struct {
	// Name is that of the plugin in errors. Empty: what it calls itself.
	Name string
	// CallTimeout bounds each call; 0 means DefaultCallTimeout. OpenTimeout bounds Init, and Open
	// until the stream is open; 0 means DefaultOpenTimeout.
	CallTimeout, OpenTimeout time.Duration
	// Gone is called when the connection is gone. It returns how the process of the plugin has
	// ended, an error that wraps [sourceplugin.ErrExited], or nil if it still runs. Nil: nobody knows.
	Gone func() error
	// Close ends the plugin. Nil: closing does nothing.
	Close func(ctx context.Context) error
}

// Client is a plugin on the other side of a connection. It implements [sourceplugin.Plugin]; all
// but Describe needs that Init was called.
type Client struct {
	conn        grpc.ClientConnInterface
	service     pb.PluginServiceClient
	options     ClientOptions
	description *sourceplugin.Description
	streams     atomic.Uint64
}

var _ sourceplugin.Plugin = (*Client)(nil)

// Connect asks a plugin what it is. The connection should have been made with DialOptions. It
// stays the caller's.
func Connect(ctx context.Context, conn grpc.ClientConnInterface, o ClientOptions) (*Client, error) {
	if o.CallTimeout <= 0 {
		o.CallTimeout = DefaultCallTimeout
	}
	if o.OpenTimeout <= 0 {
		o.OpenTimeout = DefaultOpenTimeout
	}
	c := &Client{conn: conn, service: pb.NewPluginServiceClient(conn), options: o}
	calling, cancel := context.WithTimeout(ctx, o.CallTimeout)
	defer cancel()
	m, err := c.service.Describe(calling, &pb.DescribeRequest{}, grpc.MaxCallRecvMsgSize(maxDescription))
	if err != nil {
		return nil, c.failure(ctx, "Describe", err)
	}
	if c.description, err = description(m); err != nil {
		return nil, c.broken("%v", err)
	}
	if c.options.Name == "" {
		c.options.Name = c.description.Name
	}
	return c, nil
}

// Init gives the plugin its config. It is called once, unless it fails.
func (c *Client) Init(ctx context.Context, config string) error {
	calling, cancel := context.WithTimeout(ctx, c.options.OpenTimeout)
	defer cancel()
	_, err := c.service.Init(calling, &pb.InitRequest{Config: config})
	return c.failure(ctx, "Init", err)
}

// Describe implements [sourceplugin.Plugin].
func (c *Client) Describe() *sourceplugin.Description { return c.description }

// Close implements [sourceplugin.Plugin].
func (c *Client) Close(ctx context.Context) error {
	if c.options.Close == nil {
		return nil
	}
	return c.options.Close(ctx)
}

// errorf returns an error with the name of the plugin.
func (c *Client) errorf(format string, args ...any) error {
	return fmt.Errorf("plugin "+strings.ReplaceAll(c.options.Name, "%", "%%")+": "+format, args...)
}

// broken returns an error about what the plugin has sent.
func (c *Client) broken(format string, args ...any) error {
	return c.errorf("%w: "+format, append([]any{sourceplugin.ErrProtocol}, args...)...)
}

// failure says what the error of a call means. ctx is that of the caller.
func (c *Client) failure(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	switch {
	case s.Code() == codes.Unimplemented && method != "Describe" && method != "Init":
		return sourceplugin.ErrNotSupported
	case s.Code() == codes.NotFound && (method == "Acknowledge" || method == "Progress"): // the stream has ended
		return sourceplugin.ErrNotSupported
	case s.Code() == codes.Unavailable, s.Code() == codes.Canceled && ctx.Err() == nil: // the connection is closed
		if c.options.Gone != nil {
			if gone := c.options.Gone(); gone != nil {
				return c.errorf("%w", gone)
			}
		}
		return c.errorf("%s: %w: %s", method, sourceplugin.ErrTimeout, short(s.Message()))
	case ctx.Err() != nil:
		return ctx.Err()
	case s.Code() == codes.DeadlineExceeded:
		return c.errorf("%s: %w", method, sourceplugin.ErrTimeout)
	case s.Code() == codes.ResourceExhausted, s.Code() == codes.Internal, s.Code() == codes.Unimplemented:
		return c.broken("%s: %s", method, short(s.Message()))
	}
	text := short(s.Message())
	if text == "" {
		text = method + " has failed, and it does not say why"
	}
	if strings.HasPrefix(text, "plugin ") { // it says its name itself
		return errors.New(text)
	}
	return c.errorf("%s", text)
}

// short makes a text of a plugin harmless: it is on one line, and at most maxText long.
func short(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "..."
	}
	return strings.TrimSpace(child.Printable(strings.ReplaceAll(s, "\r", " ")))
}

// ask calls the plugin within the time for a call.
func ask[Q, A any](ctx context.Context, c *Client, method string, call func(context.Context, Q, ...grpc.CallOption) (A, error), q Q) (A, error) {
	calling, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	a, err := call(calling, q)
	return a, c.failure(ctx, method, err)
}

// OpenParams implements [sourceplugin.Plugin].
func (c *Client) OpenParams(ctx context.Context) (list []sourceplugin.OpenParam, err error) {
	if !c.description.Capabilities.OpenParams {
		return nil, sourceplugin.ErrNotSupported
	}
	r, err := ask(ctx, c, "OpenParams", c.service.OpenParams, &pb.OpenParamsRequest{})
	for _, o := range r.GetParams() {
		list = append(list, sourceplugin.OpenParam{Value: o.GetValue(), Description: o.GetDescription(), Separator: o.GetSeparator()})
	}
	return list, err
}

// message makes events a message.
func message(events []sourceplugin.Event) (*pb.Events, error) {
	size, numbers, same := 0, false, true
	for i := range events {
		size += len(events[i].Event)
		numbers = numbers || events[i].Number != 0
		same = same && events[i].Source == events[0].Source
	}
	if size > MaxEvent {
		return nil, fmt.Errorf("the plugin cannot be asked about %d MiB of events at once", size>>20)
	}
	m := &pb.Events{Events: make([]byte, 0, size)}
	if numbers {
		m.Numbers = make([]uint64, len(events))
	}
	for i := range events {
		m.Events = append(m.Events, events[i].Event...)
		if numbers {
			m.Numbers[i] = events[i].Number
		}
		if i == 0 || !same {
			m.Sources = append(m.Sources, events[i].Source)
		}
	}
	return m, nil
}

// Strings implements [sourceplugin.Plugin].
func (c *Client) Strings(ctx context.Context, events []sourceplugin.Event) ([]string, error) {
	if !c.description.Capabilities.Strings {
		return nil, sourceplugin.ErrNotSupported
	}
	if len(events) == 0 {
		return nil, nil
	}
	m, err := message(events)
	if err != nil {
		return nil, err
	}
	r, err := ask(ctx, c, "Strings", c.service.Strings, &pb.StringsRequest{Events: m})
	switch {
	case err != nil:
		return nil, err
	case len(r.GetStrings()) != len(events):
		return nil, c.broken("it has %d texts for %d events", len(r.GetStrings()), len(events))
	}
	return r.GetStrings(), nil
}

// Extract implements [sourceplugin.Plugin].
func (c *Client) Extract(ctx context.Context, events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (v sourceplugin.Values, err error) {
	if !c.description.Capabilities.Extract {
		return v, sourceplugin.ErrNotSupported
	}
	if len(events) == 0 || len(fields) == 0 {
		return v, nil
	}
	m, err := message(events)
	if err != nil {
		return v, err
	}
	r := &pb.ExtractRequest{Events: m, Fields: make([]*pb.FieldRequest, len(fields))}
	for i, f := range fields {
		if f.Index < 0 || f.Index >= len(c.description.Fields) {
			return v, c.errorf("it has no field number %d", f.Index)
		}
		r.Fields[i] = &pb.FieldRequest{Index: uint32(f.Index), Arg: f.Arg, ArgIndex: f.ArgIndex, ArgPresent: f.ArgPresent}
	}
	a, err := ask(ctx, c, "Extract", c.service.Extract, r)
	if err != nil {
		return v, err
	}
	v = sourceplugin.Values{Counts: a.GetCounts(), Lengths: a.GetLengths(), Bytes: a.GetValues(), Offsets: a.GetOffsets()}
	if err := checkValues(c.description, &v, events, fields); err != nil {
		return sourceplugin.Values{}, c.broken("the values of Extract: %v", err)
	}
	return v, nil
}

// Metrics implements [sourceplugin.Plugin]. Every plugin that is alive answers.
func (c *Client) Metrics(ctx context.Context) (list []sourceplugin.Metric, err error) {
	r, err := ask(ctx, c, "Metrics", c.service.Metrics, &pb.MetricsRequest{})
	if errors.Is(err, sourceplugin.ErrNotSupported) {
		return nil, nil
	}
	for _, m := range r.GetMetrics() {
		list = append(list, sourceplugin.Metric{Name: m.GetName(), Monotonic: m.GetMonotonic(), Value: m.GetValue()})
	}
	return list, err
}

// SetConfig implements [sourceplugin.Plugin].
func (c *Client) SetConfig(ctx context.Context, config string) error {
	if !c.description.Capabilities.SetConfig {
		return sourceplugin.ErrNotSupported
	}
	_, err := ask(ctx, c, "SetConfig", c.service.SetConfig, &pb.SetConfigRequest{Config: config})
	return err
}

// progress makes a message what it can mean.
func progress(m *pb.ProgressResponse) sourceplugin.Progress {
	fraction := m.GetFraction()
	if math.IsNaN(fraction) {
		fraction = 0
	}
	return sourceplugin.Progress{Fraction: min(max(fraction, 0), 1), Text: short(m.GetText())}
}
