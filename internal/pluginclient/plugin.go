package pluginclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

// Plugin is a plugin in a process of its own. It implements [sourceplugin.Plugin].
type Plugin struct {
	*Process
	streams atomic.Uint64
}

// failure makes of the error of a call what the plugin has said.
func (p *Process) failure(ctx context.Context, err error) error {
	s, ok := status.FromError(err)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !ok:
		return err
	case s.Code() == codes.Unimplemented:
		return sourceplugin.ErrNotSupported
	case s.Code() == codes.Unavailable || p.client.Exited():
		p.log.settle(drainTime)
		if tail := p.log.tail(); tail != "" {
			return fmt.Errorf("plugin %s: %w; it wrote: %s", p.name, ErrEnded, tail)
		}
		return fmt.Errorf("plugin %s: %w", p.name, ErrEnded)
	}
	return errors.New(s.Message())
}

// OpenParams implements [sourceplugin.Plugin].
func (p *Plugin) OpenParams(ctx context.Context) (list []sourceplugin.OpenParam, err error) {
	r, err := p.service.OpenParams(ctx, &pb.OpenParamsRequest{})
	if err != nil {
		return nil, p.failure(ctx, err)
	}
	for _, o := range r.GetParams() {
		list = append(list, sourceplugin.OpenParam{Value: o.GetValue(), Description: o.GetDescription(), Separator: o.GetSeparator()})
	}
	return list, nil
}

// message makes events a message.
func message(events []sourceplugin.Event) *pb.Events {
	m := &pb.Events{Numbers: make([]uint64, len(events))}
	size, same := 0, true
	for i := range events {
		size += len(events[i].Event)
		same = same && events[i].Source == events[0].Source
	}
	m.Events = make([]byte, 0, size)
	for i := range events {
		m.Events = append(m.Events, events[i].Event...)
		m.Numbers[i] = events[i].Number
		if i == 0 || !same {
			m.Sources = append(m.Sources, events[i].Source)
		}
	}
	return m
}

// Strings implements [sourceplugin.Plugin].
func (p *Plugin) Strings(ctx context.Context, events []sourceplugin.Event) ([]string, error) {
	if len(events) == 0 {
		return nil, nil
	}
	r, err := p.service.Strings(ctx, &pb.StringsRequest{Events: message(events)})
	switch {
	case err != nil:
		return nil, p.failure(ctx, err)
	case len(r.GetStrings()) != len(events):
		return nil, fmt.Errorf("plugin %s: it has %d texts for %d events", p.name, len(r.GetStrings()), len(events))
	}
	return r.GetStrings(), nil
}

// Extract implements [sourceplugin.Plugin].
func (p *Plugin) Extract(ctx context.Context, events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (v sourceplugin.Values, err error) {
	if len(events) == 0 || len(fields) == 0 {
		return v, nil
	}
	r := &pb.ExtractRequest{Events: message(events)}
	for _, f := range fields {
		r.Fields = append(r.Fields, &pb.FieldRequest{Index: uint32(f.Index), Arg: f.Arg, ArgIndex: f.ArgIndex, ArgPresent: f.ArgPresent})
	}
	a, err := p.service.Extract(ctx, r)
	if err != nil {
		return v, p.failure(ctx, err)
	}
	v = sourceplugin.Values{Counts: a.GetCounts(), Lengths: a.GetLengths(), Bytes: a.GetValues(), Offsets: a.GetOffsets()}
	return v, p.checkValues(&v, len(events), fields)
}

// checkValues refuses values that cannot be what was asked for.
func (p *Process) checkValues(v *sourceplugin.Values, events int, fields []sourceplugin.FieldRequest) error {
	var elements, bytes uint64
	for i, n := range v.Counts {
		if n > 1 && !p.description.Fields[fields[i%len(fields)].Index].List {
			return fmt.Errorf("plugin %s: a field that is no list has %d values", p.name, n)
		}
		elements += uint64(n)
	}
	for _, n := range v.Lengths {
		bytes += uint64(n)
	}
	if len(v.Counts) != events*len(fields) || elements != uint64(len(v.Lengths)) || bytes != uint64(len(v.Bytes)) ||
		len(v.Offsets) != 0 && uint64(len(v.Offsets)) != 2*elements {
		return fmt.Errorf("plugin %s: the values that it extracted do not fit together", p.name)
	}
	return nil
}

// Metrics implements [sourceplugin.Plugin].
func (p *Plugin) Metrics(ctx context.Context) (list []sourceplugin.Metric, err error) {
	r, err := p.service.Metrics(ctx, &pb.MetricsRequest{})
	if err != nil {
		if err = p.failure(ctx, err); errors.Is(err, sourceplugin.ErrNotSupported) {
			err = nil
		}
		return nil, err
	}
	for _, m := range r.GetMetrics() {
		list = append(list, sourceplugin.Metric{Name: m.GetName(), Monotonic: m.GetMonotonic(), Value: m.GetValue()})
	}
	return list, nil
}

// SetConfig implements [sourceplugin.Plugin].
func (p *Plugin) SetConfig(ctx context.Context, config string) error {
	_, err := p.service.SetConfig(ctx, &pb.SetConfigRequest{Config: config})
	if err != nil {
		return p.failure(ctx, err)
	}
	return nil
}

// Open implements [sourceplugin.Plugin].
func (p *Plugin) Open(ctx context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	s := &Stream{p: p, number: p.streams.Add(1), cancel: cancel, batches: make(chan *pb.OpenResponse, 1), done: make(chan struct{})}
	r := &pb.OpenRequest{Params: o.Params, Resume: o.Resume, HasResume: o.Resume != nil, Stream: s.number, MaxEventBytes: uint64(max(0, o.MaxEventBytes))}
	answers, err := p.service.Open(life, r)
	if err == nil {
		_, err = answers.Recv() // the first has no events
	}
	if !stop() && err == nil { // ctx has ended
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Aborted, "plugin "+p.name+": the stream has ended before it was open")
		}
		return nil, p.failure(ctx, err)
	}
	go s.receive(life, answers)
	return s, nil
}

// Stream is an open stream. It implements [sourceplugin.Stream].
type Stream struct {
	p       *Plugin
	number  uint64
	cancel  context.CancelFunc
	batches chan *pb.OpenResponse
	done    chan struct{} // nothing is received any more
	err     error         // read after batches is closed

	closing sync.Once
}

// receive hands over what comes, one batch ahead.
func (s *Stream) receive(life context.Context, answers pb.PluginService_OpenClient) {
	defer close(s.done)
	defer close(s.batches)
	for {
		m, err := answers.Recv()
		if err != nil {
			if s.err = err; !errors.Is(err, io.EOF) {
				s.err = s.p.failure(life, err)
			}
			return
		}
		select {
		case s.batches <- m:
		case <-life.Done():
			s.err = life.Err()
			return
		}
	}
}

// Next implements [sourceplugin.Stream].
func (s *Stream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	b.Reset()
	var m *pb.OpenResponse
	select {
	case m = <-s.batches:
	case <-ctx.Done():
		return ctx.Err()
	}
	if m == nil {
		return s.err
	}
	n := 0
	for rest := m.GetEvents(); len(rest) > 0; n++ {
		e, behind, err := scapevent.Next(rest)
		switch {
		case err != nil:
			return fmt.Errorf("plugin %s: event %d of a batch: %w", s.p.name, n+1, err)
		case e.Nanos() == scapevent.NoTime:
			return fmt.Errorf("plugin %s: event %d of a batch has no time", s.p.name, n+1)
		case e.PluginID() != s.p.description.ID:
			return fmt.Errorf("plugin %s: event %d of a batch has the plugin id %d instead of %d", s.p.name, n+1, e.PluginID(), s.p.description.ID)
		}
		rest = behind
		b.Events, b.Count = m.Events[:len(m.Events)-len(rest)], n+1
	}
	if n != int(m.GetCount()) {
		return fmt.Errorf("plugin %s: a batch has %d events and says that it has %d", s.p.name, n, m.GetCount())
	}
	if m.GetHasPosition() {
		b.Position = append([]byte{}, m.GetPosition()...)
	}
	b.Dropped, b.DroppedReason = int(m.GetDropped()), m.GetDroppedReason()
	return nil
}

// Acknowledge implements [sourceplugin.Stream].
func (s *Stream) Acknowledge(ctx context.Context, position []byte) error {
	if _, err := s.p.service.Acknowledge(ctx, &pb.AcknowledgeRequest{Stream: s.number, Position: position}); err != nil {
		return s.p.failure(ctx, err)
	}
	return nil
}

// Progress implements [sourceplugin.Stream].
func (s *Stream) Progress(ctx context.Context) (sourceplugin.Progress, error) {
	r, err := s.p.service.Progress(ctx, &pb.ProgressRequest{Stream: s.number})
	if err != nil {
		return sourceplugin.Progress{}, s.p.failure(ctx, err)
	}
	return sourceplugin.Progress{Fraction: r.GetFraction(), Text: r.GetText()}, nil
}

// Close implements [sourceplugin.Stream].
func (s *Stream) Close(ctx context.Context) error {
	s.closing.Do(s.cancel)
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
