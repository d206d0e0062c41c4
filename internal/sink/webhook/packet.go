package webhook

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
)

// packet is the body of one request. Its memory is used again.
type packet struct {
	plain   []byte
	packed  bytes.Buffer
	gzip    *gzip.Writer
	items   []int // of the batch, that are in it
	text    []byte
	release func() // gives it back
}

var packets sync.Pool // of *packet

func newPacket() *packet {
	if p, _ := packets.Get().(*packet); p != nil {
		return p
	}
	p := new(packet)
	p.release = func() {
		if cap(p.plain) <= maxKept && p.packed.Cap() <= maxKept {
			packets.Put(p)
		}
	}
	return p
}

// maxKept bounds the memory of a packet that is kept for others.
const maxKept = 1 << 20

// fill encodes as many events from item from on as belong into one request, and returns the
// item after them. What cannot be sent is decided and left out.
func (s *Sink) fill(p *packet, b *deliver.Batch, from int) (next int) {
	p.plain, p.items = p.plain[:0], p.items[:0]
	array := s.body == Array || s.body == CloudEventsBatch
	if array {
		p.plain = append(p.plain, '[')
	}
	for next = from; next < len(b.Items); next++ {
		start := len(p.plain)
		if array && len(p.items) > 0 {
			p.plain = append(p.plain, ',')
		}
		var err error
		if p.plain, err = s.append(p.plain, b.Items[next]); err != nil {
			p.plain = p.plain[:start]
			b.Decide(next, deliver.Result{Outcome: deliver.Impossible, Reason: err.Error()})
			continue
		}
		size := len(p.plain)
		switch {
		case s.body == Lines:
			p.plain = append(p.plain, '\n')
			size++
		case array:
			size++ // for what ends it
		}
		if size > s.max {
			p.plain = p.plain[:start]
			if len(p.items) > 0 {
				break // goes into another request
			}
			b.Decide(next, deliver.Result{Outcome: deliver.Impossible, Reason: fmt.Sprintf("takes %d bytes, and the largest body is %d", size, s.max)})
			continue
		}
		if p.items = append(p.items, next); s.body == One {
			return next + 1
		}
	}
	if array {
		p.plain = append(p.plain, ']')
	}
	return next
}

// append appends one event.
func (s *Sink) append(dst []byte, item deliver.Item) ([]byte, error) {
	switch {
	case s.format == Standard:
		return appendStandard(dst, item), nil
	case s.body == One:
		return s.format.Append(dst, item)
	case s.body == Lines:
		return s.format.AppendLine(dst, item)
	}
	return s.format.AppendValue(dst, item)
}

// compress returns the packet compressed.
func (p *packet) compress() []byte {
	p.packed.Reset()
	if p.gzip == nil {
		p.gzip, _ = gzip.NewWriterLevel(&p.packed, gzip.BestSpeed) // the level exists
	} else {
		p.gzip.Reset(&p.packed)
	}
	p.gzip.Write(p.plain) // a buffer takes everything
	p.gzip.Close()
	return p.packed.Bytes()
}

// id returns what receivers tell requests apart by. It is the same on every attempt, of a
// single event also in replays.
func (p *packet) id(b *deliver.Batch) string {
	if len(p.items) == 1 {
		return outbound.EventID(b.Items[p.items[0]].Event)
	}
	parts := make([]string, 0, 1+2*len(p.items))
	parts = append(parts, "webhook batch")
	for _, i := range p.items {
		parts = append(parts, b.Items[i].Event.Source, b.Items[i].Event.ID)
	}
	return event.DeriveID(parts...)
}
