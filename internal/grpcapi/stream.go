package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// Bounds of a stream.
const (
	// maxUnacknowledged requests of at most unacknowledgedBytes, or one more, are not
	// acknowledged before the server reads on.
	maxUnacknowledged   = 1024
	unacknowledgedBytes = 8 << 20
	// eventCost is what an event costs beside its bytes until it is acknowledged; most of
	// it is why it was refused.
	eventCost = 256
	// maxParts are the refusals and warnings in one response.
	maxParts = 1000
	// responseTimeout is how long a client may not read a response.
	responseTimeout = time.Minute
	// endGrace is how long a stream that has to end may acknowledge what is on its way.
	endGrace = time.Second
)

// stream is one PublishStream. One goroutine reads requests and hands their events over,
// one waits for them to be durable, in order, and that of the handler sends what both
// have found out meanwhile as one response.
type stream struct {
	server *Server
	call   *call
	rpc    grpc.ServerStream

	ctx     context.Context // of everything
	cancel  context.CancelCauseFunc
	reading context.Context // ends before, when nothing more may be stored
	stop    context.CancelCauseFunc

	submitted chan submission
	unread    error         // why nothing more is read, when submitted is closed; nil: that was all
	room      chan struct{} // something was acknowledged
	news      chan struct{} // something is to be sent

	handing sync.Mutex // while events are being handed over

	mu       sync.Mutex
	requests int // that are not acknowledged
	bytes    int
	answer   *answer
	last     uint64 // request that is acknowledged by the next response
	over     bool   // nothing more will be to be sent
	result   error  // of the stream, when it is over
}

// submission is a request whose events are on their way.
type submission struct {
	sequence    uint64
	unconverted unconverted
	receipt     *publish.Receipt // nil: there were no events to store
	cost        int
}

// answer is what is to be sent.
type answer struct {
	accepted, duplicates int
	refused              []*tocsinv1.Refusal
	warnings             []*tocsinv1.Warning
	requests, cost       int
}

func newStream(s *Server, c *call, rpc grpc.ServerStream) *stream {
	t := &stream{server: s, call: c, rpc: rpc,
		submitted: make(chan submission, maxUnacknowledged),
		room:      make(chan struct{}, 1),
		news:      make(chan struct{}, 1),
	}
	t.ctx, t.cancel = context.WithCancelCause(rpc.Context())
	t.reading, t.stop = context.WithCancelCause(t.ctx)
	return t
}

// serve returns the status of the stream.
func (t *stream) serve() error {
	t.call.readBy(time.Time{}) // a stream may be idle
	t.call.writeBy(time.Time{})
	defer context.AfterFunc(t.call.ended, t.end)()
	if follow := t.call.caller.Follow; follow != nil {
		defer follow(func(reason string) { t.call.end(status.Error(codes.Unauthenticated, reason)) })()
	}
	// A Recv that waits ends after the handler: grpc sends a status of its own as soon as
	// one fails.
	if !t.call.start(func() { t.guard(t.read) }, func() { t.guard(t.await) }) {
		return status.Error(codes.Canceled, "the call was cancelled")
	}
	err := t.send()
	t.cancel(err)
	return err
}

// guard keeps a panic from ending the process.
func (t *stream) guard(run func()) {
	var err error
	defer func() {
		if err != nil {
			t.finish(err)
			t.cancel(err)
		}
	}()
	defer t.server.recovered("PublishStream", &err)
	run()
}

// end ends the stream for another reason than its client: nothing more is read, what is
// on its way is acknowledged if it does not take long.
func (t *stream) end() {
	why := context.Cause(t.call.ended)
	t.stop(why)
	t.call.lastWrite(time.Now().Add(endGrace))
	timer := time.AfterFunc(endGrace, func() { t.cancel(why) })
	context.AfterFunc(t.ctx, func() { timer.Stop() })
}

// finish sets the result of the stream, of which the first counts.
func (t *stream) finish(err error) {
	t.mu.Lock()
	if !t.over {
		t.over, t.result = true, err
	}
	t.mu.Unlock()
	signal(t.news)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// read hands over what the client sends.
func (t *stream) read() {
	defer close(t.submitted)
	t.unread = errInternal // if it panics
	t.unread = t.receive()
}

// why is the status of a context of the stream that has ended.
func (t *stream) why(ctx context.Context) error {
	switch err := context.Cause(ctx); {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the call was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the time of the call is over")
	default:
		return err
	}
}

func (t *stream) receive() error {
	var last uint64
	for {
		if !t.awaitRoom() {
			return t.why(t.reading)
		}
		m := &request{stream: true}
		err := t.rpc.RecvMsg(m)
		switch {
		case errors.Is(err, io.EOF):
			if n := t.call.gate.tooLarge.Load(); n > 0 {
				t.server.refused.Refused("too large").Inc()
				return status.Error(codes.ResourceExhausted, fmt.Sprintf("a message of %d bytes is larger than max, %d", n, t.server.maxMessage))
			}
			return nil
		case err != nil:
			return err
		}
		if err := t.take(m, last); err != nil {
			return err
		}
		last = m.sequence
		t.call.gate.next()
	}
}

// take hands over the events of a request behind another one.
func (t *stream) take(m *request, last uint64) error {
	t.call.gate.took(len(m.raw))
	release, err := t.server.decode(t.reading, m)
	if err != nil {
		return t.why(t.reading)
	}
	defer release()
	if m.err == nil && m.sequence <= last {
		m.err = status.Error(codes.InvalidArgument, fmt.Sprintf("the sequence of a request is %d, it must be greater than %d", m.sequence, last))
	}
	if m.err != nil {
		t.server.refused.Refused("bad request").Inc()
		return m.err
	}
	return t.submit(m)
}

// awaitRoom returns when there is not too much to acknowledge, or false when there is
// nothing more to read.
func (t *stream) awaitRoom() bool {
	for {
		t.mu.Lock()
		room := t.requests < maxUnacknowledged && t.bytes < unacknowledgedBytes
		t.mu.Unlock()
		if room && t.reading.Err() == nil {
			return true
		}
		select {
		case <-t.room:
		case <-t.reading.Done():
			return false
		}
	}
}

func (t *stream) submit(m *request) error {
	s := submission{sequence: m.sequence, unconverted: m.unconverted, cost: eventCost * (len(m.events) + len(m.refused))}
	for _, e := range m.events {
		s.cost += e.Size()
	}
	t.handing.Lock()
	defer t.handing.Unlock()
	switch {
	case t.call.ended.Err() != nil: // t.reading ends soon after
		return context.Cause(t.call.ended)
	case t.reading.Err() != nil:
		return t.why(t.reading)
	}
	if len(m.events) > 0 {
		var err error
		s.receipt, err = t.server.intake.Submit(t.reading, publish.Request{
			By: t.call.caller.Publisher, Edge: edge, Namespace: t.call.caller.Namespace, Events: m.events, Partial: true})
		switch {
		case err != nil && t.reading.Err() != nil:
			return t.why(t.reading)
		case err != nil:
			return t.server.failed(err)
		}
	}
	t.mu.Lock()
	t.requests++
	t.bytes += s.cost
	t.mu.Unlock()
	t.submitted <- s // has room for all that are not acknowledged
	return nil
}

// await waits for what was handed over, and finishes the stream.
func (t *stream) await() {
	for {
		var s submission
		ok := true
		select {
		case s, ok = <-t.submitted:
		default:
			select {
			case s, ok = <-t.submitted:
			case <-t.reading.Done():
				// Nothing is handed over any more, when what is being handed over was.
				over := false
				t.handing.Lock()
				select {
				case s, ok = <-t.submitted:
				default:
					over = true
				}
				t.handing.Unlock()
				if over {
					t.finish(t.why(t.reading))
					return
				}
			}
		}
		if !ok {
			t.finish(t.unread)
			return
		}
		var result publish.Result
		if s.receipt != nil {
			var err error
			if result, err = s.receipt.Wait(t.ctx); err != nil {
				if t.ctx.Err() != nil {
					err = t.why(t.ctx)
				} else {
					err = t.server.failed(err)
				}
				t.stop(err)
				t.finish(err)
				return
			}
		}
		t.acknowledge(s, result)
	}
}

// acknowledge adds a request to the next response.
func (t *stream) acknowledge(s submission, result publish.Result) {
	t.call.refused(result.Refused)
	t.server.countUnconverted(&s.unconverted)
	s.unconverted.complete(&result)
	t.mu.Lock()
	if t.answer == nil {
		t.answer = new(answer)
	}
	a := t.answer
	t.last = s.sequence
	a.accepted += result.Accepted
	a.duplicates += result.Duplicates
	a.requests++
	a.cost += s.cost
	for _, r := range result.Refused {
		a.refused = append(a.refused, refusal(s.sequence, r))
	}
	for _, w := range result.Warnings {
		a.warnings = append(a.warnings, warning(s.sequence, w))
	}
	t.mu.Unlock()
	signal(t.news)
}

// send sends what is known until the stream is over.
func (t *stream) send() error {
	for {
		select {
		case <-t.news:
		case <-t.ctx.Done():
			return t.why(t.ctx)
		}
		t.mu.Lock()
		a, last, over, result := t.answer, t.last, t.over, t.result
		t.answer = nil
		t.mu.Unlock()
		if a != nil {
			if err := t.respond(a, last); err != nil {
				return err
			}
			t.mu.Lock()
			t.requests -= a.requests
			t.bytes -= a.cost
			t.mu.Unlock()
			signal(t.room)
		}
		if over {
			return result
		}
	}
}

// respond sends one answer, in parts if it is long.
func (t *stream) respond(a *answer, last uint64) error {
	t.call.writeBy(time.Now().Add(responseTimeout))
	defer t.call.writeBy(time.Time{})
	for len(a.refused) > maxParts || len(a.warnings) > maxParts {
		part := new(tocsinv1.PublishStreamResponse)
		part.Refused, a.refused = cut(a.refused)
		part.Warnings, a.warnings = cut(a.warnings)
		if err := t.rpc.SendMsg(part); err != nil {
			return err
		}
	}
	return t.rpc.SendMsg(&tocsinv1.PublishStreamResponse{AcknowledgedSequence: last, Accepted: uint64(a.accepted),
		Duplicates: uint64(a.duplicates), Refused: a.refused, Warnings: a.warnings})
}

// cut takes maxParts elements from the front.
func cut[T any](all []T) (part, rest []T) {
	n := min(maxParts, len(all))
	return all[:n], all[n:]
}
