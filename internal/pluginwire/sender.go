package pluginwire

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// beatTime is how often a stream without events tells that it is alive.
const beatTime = 2 * time.Second

// sender sends the batches of a stream, in messages of a good size.
type sender struct {
	to       grpc.ServerStream
	maxEvent int
	said     time.Time // when it last sent something
	spare    spare
}

// send sends b. The memory of its events belongs to the connection then. A batch without anything
// is sent once in a while, if the stream goes on, so that the hub knows that it is not stuck.
func (s *sender) send(b *sourceplugin.Batch, goesOn bool) error {
	if b.Count == 0 && b.Dropped == 0 && b.Position == nil {
		s.spare.give(b.Events)
		if !goesOn || time.Since(s.said) < beatTime {
			return nil
		}
		s.said = time.Now()
		return s.to.SendMsg(&sent{})
	}
	s.said = time.Now()
	if len(b.Position) > maxPosition {
		return status.Errorf(codes.Aborted, "a resume position has %d bytes, and at most %d are allowed", len(b.Position), maxPosition)
	}
	if len(b.Events) <= min(batchBytes, s.maxEvent) {
		if b.Count == 0 || len(b.Events) == 0 {
			s.spare.give(b.Events)
			return s.to.SendMsg(&sent{batch: b})
		}
		return s.to.SendMsg(&sent{events: s.spare.buffer(b.Events), count: b.Count, batch: b})
	}
	return s.cut(b)
}

// cut sends a large batch in several messages, and leaves out events that are too large.
func (s *sender) cut(b *sourceplugin.Batch) error {
	all := s.spare.buffer(b.Events)
	defer all.Free()
	from, at, count := 0, 0, 0 // of the message to come
	flush := func(last *sourceplugin.Batch) error {
		if count == 0 && last == nil {
			return nil
		}
		m := &sent{count: count, batch: last}
		if count > 0 {
			m.events = all.Slice(from, at)
		}
		count = 0
		return s.to.SendMsg(m)
	}
	for rest := b.Events; len(rest) > 0; {
		e, behind, err := scapevent.Next(rest)
		if err != nil {
			return status.Errorf(codes.Aborted, "a batch of the plugin: %v", err)
		}
		rest = behind
		if len(e) > s.maxEvent {
			if err := flush(nil); err != nil {
				return err
			}
			at += len(e)
			from = at
			b.Dropped++
			b.DroppedReason = fmt.Sprintf("an event has %d bytes, and at most %d are wanted", len(e), s.maxEvent)
			continue
		}
		if count > 0 && at+len(e)-from > batchBytes {
			if err := flush(nil); err != nil {
				return err
			}
			from = at
		}
		at += len(e)
		count++
	}
	return flush(b)
}

// spare is memory for batches, which comes back when they are written. It implements
// [mem.BufferPool] for that.
type spare struct{ free chan []byte }

// keptBatches is how many are kept, and keptBytes how large they may be for that.
const (
	keptBatches = 4
	keptBytes   = 8 << 20
)

func (s *spare) take() []byte {
	if s.free == nil {
		s.free = make(chan []byte, keptBatches)
	}
	select {
	case b := <-s.free:
		return b
	default:
		return nil
	}
}

func (s *spare) give(b []byte) {
	if cap(b) == 0 || cap(b) > keptBytes {
		return
	}
	select {
	case s.free <- b[:0]:
	default:
	}
}

func (s *spare) buffer(b []byte) mem.Buffer { return mem.NewBuffer(&b, s) }

// Get implements [mem.BufferPool].
func (s *spare) Get(length int) *[]byte {
	b := make([]byte, length)
	return &b
}

// Put implements [mem.BufferPool].
func (s *spare) Put(b *[]byte) { s.give(*b) }
