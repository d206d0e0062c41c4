package eventinput

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Stream is a stream of a plugin that is to be opened.
type Stream struct {
	Plugin sourceplugin.Plugin
	Params string
}

// streamEndTime is how long the closing of a stream may take.
const streamEndTime = 10 * time.Second

// batch is what a stream has given.
type batch struct {
	stream   int
	events   []*event.Event
	position []byte
	err      error // why it has ended, behind the events; io.EOF
	open     sourceplugin.Stream
	dropped  int
	reason   string
}

// Streams opens streams and reads them all, to their ends. Events are in the order of their stream;
// what is there is handed on before more is waited for. The end of one is told to ended, with the
// reason if it is a failure, and the others go on. dropped is told about events that were left out,
// and why. The error is that of ctx or of emit. When Streams returns all streams are closed.
func Streams(ctx context.Context, list []Stream, to *Collector, ended func(Stream, error), dropped func(s Stream, n int, reason string)) error {
	reading, stop := context.WithCancel(ctx)
	batches := make(chan batch, 4)
	var all sync.WaitGroup
	for i, s := range list {
		all.Go(func() { s.read(reading, i, batches) })
	}
	go func() {
		all.Wait()
		close(batches)
	}()
	defer func() {
		stop()
		for range batches { // until the streams are closed
		}
	}()
	c := combination{list: list, to: to, acknowledge: make([]acknowledgement, len(list)), ended: ended, dropped: dropped}
	for {
		select {
		case b, more := <-batches:
			if !more {
				return errors.Join(c.flush(ctx), ctx.Err())
			}
			if err := c.add(b); err != nil {
				return err
			}
			continue
		default:
		}
		if err := c.flush(ctx); err != nil {
			return err
		}
		b, more := <-batches
		if !more {
			return ctx.Err()
		}
		if err := c.add(b); err != nil {
			return err
		}
	}
}

// acknowledgement is what a stream is to be told when its events are judged.
type acknowledgement struct {
	open     sourceplugin.Stream
	position []byte
}

// combination puts together what the streams give.
type combination struct {
	list        []Stream
	to          *Collector
	acknowledge []acknowledgement
	ended       func(Stream, error)
	dropped     func(Stream, int, string)
}

func (c *combination) add(b batch) error {
	s := c.list[b.stream]
	for _, e := range b.events {
		if err := c.to.Add(e); err != nil {
			return err
		}
	}
	if b.position != nil {
		c.acknowledge[b.stream] = acknowledgement{b.open, b.position}
	}
	if b.dropped > 0 {
		c.dropped(s, b.dropped, b.reason)
	}
	switch {
	case errors.Is(b.err, io.EOF):
		c.acknowledge[b.stream] = acknowledgement{}
		c.ended(s, nil)
	case b.err != nil:
		c.acknowledge[b.stream] = acknowledgement{}
		c.ended(s, b.err)
	}
	return nil
}

// flush hands on what is there, and tells the streams. One that does not take it has a failure of
// its own, which its end tells.
func (c *combination) flush(ctx context.Context) error {
	if err := c.to.Flush(); err != nil {
		return err
	}
	for i, a := range c.acknowledge {
		if a.position == nil {
			continue
		}
		c.acknowledge[i] = acknowledgement{}
		_ = a.open.Acknowledge(ctx, a.position)
	}
	return nil
}

// read reads one stream to its end, which is told unless it is that of ctx.
func (s Stream) read(ctx context.Context, index int, batches chan<- batch) {
	send := func(b batch) bool {
		b.stream = index
		select {
		case batches <- b:
			return true
		case <-ctx.Done():
			return false
		}
	}
	stream, err := s.Plugin.Open(ctx, sourceplugin.Open{Params: s.Params})
	if err != nil {
		if ctx.Err() == nil {
			send(batch{err: fmt.Errorf("open the stream: %w", err)})
		}
		return
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), streamEndTime)
		defer cancel()
		_ = stream.Close(ending)
	}()
	d := s.Plugin.Describe()
	origins := map[uint32]*falcoevent.Origin{d.ID: falcoevent.NewOrigin(d.Name, "", "", d)}
	var b sourceplugin.Batch
	for number := uint64(0); ; {
		b.Reset()
		next := stream.Next(ctx, &b)
		out := batch{open: stream, position: b.Position, dropped: b.Dropped, reason: b.DroppedReason, err: next}
		var broken error
		if out.events, broken = s.events(b.Events, d, origins, &number); broken != nil {
			out.err = broken
		}
		if ctx.Err() != nil {
			return
		}
		if len(out.events) > 0 || out.position != nil || out.dropped > 0 || out.err != nil {
			if !send(out) {
				return
			}
		}
		if out.err != nil {
			return
		}
	}
}

// events makes events of those of a batch, whose memory they do not share.
func (s Stream) events(bytes []byte, d *sourceplugin.Description, origins map[uint32]*falcoevent.Origin, number *uint64) (list []*event.Event, err error) {
	rest := append([]byte(nil), bytes...)
	for len(rest) > 0 {
		var e scapevent.Event
		if e, rest, err = scapevent.Next(rest); err != nil {
			return list, fmt.Errorf("plugin %s: %w", d.Name, err)
		}
		*number++
		origin := origins[e.PluginID()]
		if origin == nil {
			return list, fmt.Errorf("plugin %s: it gave an event of the plugin %d", d.Name, e.PluginID())
		}
		if own, err := falcoevent.Parse(e); err == nil { // of the plugin that reads a hub
			list = append(list, own)
			continue
		}
		out := new(event.Event)
		origin.Set(out, event.DeriveID("stream", d.Name, strconv.FormatUint(*number, 10)), e)
		list = append(list, out)
	}
	return list, nil
}
