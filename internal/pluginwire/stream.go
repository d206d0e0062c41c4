package pluginwire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

// Stream is an open stream. It implements [sourceplugin.Stream].
type Stream struct {
	client   *Client
	number   uint64
	maxEvent int
	cancel   context.CancelFunc
	filled   chan *received
	free     chan *received
	done     chan struct{} // nothing is received any more
	err      error         // read after filled is closed
	failed   error         // of Next, for good
}

// Open implements [sourceplugin.Plugin].
func (c *Client) Open(ctx context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	if !c.description.Capabilities.Source {
		return nil, sourceplugin.ErrNotSupported
	}
	s := &Stream{
		client: c, number: c.streams.Add(1), maxEvent: o.MaxEventBytes,
		filled: make(chan *received, readAhead), free: make(chan *received, readAhead), done: make(chan struct{}),
	}
	if s.maxEvent <= 0 || s.maxEvent > MaxEvent {
		s.maxEvent = MaxEvent
	}
	for range cap(s.free) {
		s.free <- new(received)
	}
	var life context.Context
	life, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	opening, opened := context.WithTimeout(ctx, c.options.OpenTimeout)
	defer opened()
	stop := context.AfterFunc(opening, s.cancel)
	answers, err := c.open(life, s, &pb.OpenRequest{
		Params: o.Params, Resume: o.Resume, HasResume: o.Resume != nil, Stream: s.number, MaxEventBytes: uint64(s.maxEvent),
	})
	var first received
	if err == nil {
		err = answers.RecvMsg(&first) // it has no events
	}
	late := !stop()
	switch {
	case late && ctx.Err() != nil:
		err = ctx.Err()
	case late:
		err = c.errorf("Open: %w: its stream was not open within %v", sourceplugin.ErrTimeout, c.options.OpenTimeout)
	case errors.Is(err, io.EOF):
		err = c.broken("its stream has ended before it was open: the first answer of Open, without events, is missing")
	case err == nil && len(first.batch.Events) > 0:
		err = c.broken("the first answer of Open has events")
	case err != nil:
		err = c.failure(ctx, "Open", err)
	}
	if err != nil {
		s.cancel()
		return nil, err
	}
	go s.receive(life, answers)
	return s, nil
}

var openDesc = &pb.PluginService_ServiceDesc.Streams[0]

// open makes the call. It is not the generated code's, since batches are read by our codec.
func (c *Client) open(ctx context.Context, s *Stream, r *pb.OpenRequest) (grpc.ClientStream, error) {
	answers, err := c.conn.NewStream(ctx, openDesc, pb.PluginService_Open_FullMethodName,
		grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(s.maxEvent+maxBatch))
	if err != nil {
		return nil, err
	}
	if err := answers.SendMsg(r); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return answers, answers.CloseSend()
}

// readAhead is how many batches are received before somebody wants them.
const readAhead = 2

// receive hands over what comes.
func (s *Stream) receive(life context.Context, answers grpc.ClientStream) {
	defer close(s.done)
	defer close(s.filled)
	for {
		var m *received
		select {
		case m = <-s.free:
		case <-life.Done():
			s.err = life.Err()
			return
		}
		if err := answers.RecvMsg(m); err != nil {
			if s.err = err; !errors.Is(err, io.EOF) {
				s.err = s.client.failure(life, "its stream", err)
			}
			return
		}
		s.filled <- m // there is room for all
	}
}

// Next implements [sourceplugin.Stream].
func (s *Stream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	b.Reset()
	if s.failed != nil {
		return s.failed
	}
	var m *received
	select {
	case m = <-s.filled: // what is there already, also when ctx has ended
	default:
		select {
		case m = <-s.filled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if m == nil {
		return s.err
	}
	spare := b.Events[:0]
	if cap(spare) > keptBytes {
		spare = nil // one large event does not have the memory for good
	}
	*b, m.batch = m.batch, sourceplugin.Batch{Events: spare}
	count := m.count
	s.free <- m // there is room for all
	if s.failed = s.check(b, count); s.failed != nil {
		s.cancel()
	}
	return s.failed
}

// check sees to it that b is what a Batch promises. What it refuses is left out, with what is
// behind it.
func (s *Stream) check(b *sourceplugin.Batch, count uint64) error {
	id := s.client.description.ID
	all, kept := b.Events, 0
	b.Count = 0
	n := uint64(0)
	var now uint64
	cut := func(format string, args ...any) error {
		b.Events, b.Position = all[:kept], nil
		return s.client.broken("event %d of a batch: "+format, append([]any{n + 1}, args...)...)
	}
	for rest := all; len(rest) > 0; n++ {
		e, behind, err := scapevent.Next(rest)
		if err != nil {
			return cut("%w", err)
		}
		rest = behind
		if got := e.PluginID(); got != id {
			if got != 0 {
				return cut("it has the plugin id %d instead of %d", got, id)
			}
			e.SetPluginID(id)
		}
		if e.Type() == scapevent.Async && !slices.Contains(s.client.description.AsyncNames, e.Name()) {
			return cut("its name, %q, is none of those that the plugin has described", short(e.Name()))
		}
		if e.Nanos() == scapevent.NoTime {
			if now == 0 {
				now = uint64(time.Now().UnixNano())
			}
			e.SetNanos(now)
		}
		if len(e) > s.maxEvent {
			b.Dropped++
			b.DroppedReason = fmt.Sprintf("an event has %d bytes, and at most %d are wanted", len(e), s.maxEvent)
			continue
		}
		if at := len(all) - len(rest) - len(e); at != kept {
			copy(all[kept:], e)
		}
		kept += len(e)
		b.Count++
	}
	b.Events = all[:kept]
	if n != count {
		b.Position = nil
		return s.client.broken("a batch has %d events, and says that it has %d", n, count)
	}
	b.DroppedReason = short(b.DroppedReason)
	return nil
}

// Acknowledge implements [sourceplugin.Stream]. A stream that has ended at the plugin has nothing
// to forget.
func (s *Stream) Acknowledge(ctx context.Context, position []byte) error {
	if !s.client.description.Capabilities.Resume {
		return nil
	}
	_, err := ask(ctx, s.client, "Acknowledge", s.client.service.Acknowledge, &pb.AcknowledgeRequest{Stream: s.number, Position: position})
	if errors.Is(err, sourceplugin.ErrNotSupported) {
		return nil
	}
	return err
}

// Progress implements [sourceplugin.Stream].
func (s *Stream) Progress(ctx context.Context) (sourceplugin.Progress, error) {
	if !s.client.description.Capabilities.Progress {
		return sourceplugin.Progress{}, sourceplugin.ErrNotSupported
	}
	r, err := ask(ctx, s.client, "Progress", s.client.service.Progress, &pb.ProgressRequest{Stream: s.number})
	if err != nil {
		return sourceplugin.Progress{}, err
	}
	return progress(r), nil
}

// Close implements [sourceplugin.Stream].
func (s *Stream) Close(ctx context.Context) error {
	s.cancel()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
