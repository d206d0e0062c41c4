package plugin

import (
	"context"
	"errors"
	"io"
	"sync"
)

// Pull makes a stream of a function that returns one event after the other. next waits for one
// until ctx ends, which it does often, and then returns its error; no event may be lost by that.
// io.EOF ends the stream. Data that it returns may be used again when it is called again.
//
// What blocks and cannot be interrupted, such as reading a file or a connection, is for [Push].
// Use a type of your own to close something with the stream.
func Pull(next func(ctx context.Context) (Event, error)) Stream { return pulled(next) }

type pulled func(ctx context.Context) (Event, error)

// NextBatch implements [Stream].
func (next pulled) NextBatch(ctx context.Context, b *Batch) error {
	for !b.Full() && ctx.Err() == nil { // also when all that it returns is left out
		e, err := next(ctx)
		if err != nil {
			return err
		}
		b.Add(e)
	}
	return nil
}

// Close implements [Stream].
func (pulled) Close() error { return nil }

// Push makes a stream of a function that runs as long as the stream, and hands events over with
// emit. What it emits is handed on at once, and in batches while the hub is busy; emit waits when
// a batch is full, and returns an error when the stream is closed, or when an event is not one
// that the plugin may give. It copies the event, and may be called by several goroutines.
//
// When run returns nil the stream has ended; an error is one of the stream. ctx ends when the
// stream is closed: run must return then.
func Push(run func(ctx context.Context, emit func(Event) error) error) Stream {
	ctx, cancel := context.WithCancel(context.Background())
	return &pushed{run: run, life: ctx, cancel: cancel, over: make(chan struct{}), some: make(chan struct{}, 1), room: make(chan struct{})}
}

type pushed struct {
	run    func(ctx context.Context, emit func(Event) error) error
	life   context.Context
	cancel context.CancelFunc
	start  sync.Once
	over   chan struct{} // closed when run has returned
	err    error         // of run, then

	some chan struct{} // there are events

	mu      sync.Mutex
	pending Batch
	room    chan struct{} // closed, and another one made, when pending is taken
}

// NextBatch implements [Stream].
func (s *pushed) NextBatch(ctx context.Context, b *Batch) error {
	s.start.Do(func() {
		s.pending = Batch{limits: b.limits, id: b.id, names: b.names, maxEvent: b.maxEvent, resumes: b.resumes}
		go func() {
			defer close(s.over)
			s.err = guard("the function of Push", func() error { return s.run(s.life, s.emit) })
		}()
	})
	for {
		over := false
		select {
		case <-s.some:
		case <-s.over:
			over = true
		case <-ctx.Done():
		}
		s.take(b)
		switch {
		case b.count > 0 || b.dropped > 0 || b.err != nil:
			return nil
		case over && s.err == nil:
			return io.EOF
		case over:
			return s.err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// take moves what is pending into b. A stream around this one may have added something before.
func (s *pushed) take(b *Batch) {
	if b.err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.pending
	if b.count == 0 {
		b.buf, p.buf = p.buf, b.buf[:0]
	} else {
		b.buf, p.buf = append(b.buf, p.buf...), p.buf[:0]
	}
	if p.positioned {
		b.position, p.position = p.position, b.position[:0]
	}
	if p.dropped > 0 {
		b.why = p.why
	}
	b.count += p.count
	b.dropped += p.dropped
	b.untimed = b.untimed || p.untimed
	b.positioned = b.positioned || p.positioned
	b.err = p.err
	p.count, p.untimed, p.positioned, p.dropped = 0, false, false, 0
	close(s.room)
	s.room = make(chan struct{})
}

func (s *pushed) emit(e Event) error {
	for {
		s.mu.Lock()
		switch {
		case s.life.Err() != nil:
			s.mu.Unlock()
			return s.life.Err()
		case s.pending.err != nil: // the stream has failed by it
			err := s.pending.err
			s.mu.Unlock()
			return err
		case !s.pending.Full():
			s.pending.Add(e)
			err := s.pending.err
			s.mu.Unlock()
			select {
			case s.some <- struct{}{}:
			default:
			}
			return err
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-s.life.Done():
			return s.life.Err()
		}
	}
}

// Close implements [Stream].
func (s *pushed) Close() error {
	s.cancel()
	started := true
	s.start.Do(func() { started = false })
	if !started {
		return nil
	}
	<-s.over
	if errors.Is(s.err, context.Canceled) {
		return nil
	}
	return s.err
}
