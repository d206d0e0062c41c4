package plugin

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Event is an event of a plugin: one that its stream gives, or that it is asked about.
type Event struct {
	// Time is when it happened. The zero value of one that a stream gives stands for now. It is
	// kept in nanoseconds since 1970.
	Time time.Time
	// Data is the payload.
	Data []byte
	// Name is that of an asynchronous event, one of Info.AsyncNames: something that happens beside
	// the stream itself, such as a note that a connection was lost. It is empty for all others.
	Name string
	// Position, if not nil, is what lets [Opener].Open resume behind this event. Not every event
	// needs one: what is behind the last that is durable comes again. At most 64 KiB.
	Position []byte

	// Number is the number of the event in its stream, from 1, and Source its event source. They
	// are there when a plugin is asked about an event, and known; a stream leaves them alone.
	Number uint64
	Source string
}

// limits are those of a batch.
type limits struct {
	events, bytes int
	wait          time.Duration
}

func (l *limits) setDefaults() {
	if l.events <= 0 {
		l.events = 4096
	}
	if l.bytes <= 0 {
		l.bytes = 256 << 10
	}
	if l.wait <= 0 {
		l.wait = 100 * time.Millisecond
	}
}

const (
	maxBatchBytes    = 64 << 20 // beside one event
	maxPositionBytes = 64 << 10
)

// Batch is what [Stream.NextBatch] fills. It is only valid until that returns.
type Batch struct {
	limits
	id       uint32
	names    []string // of asynchronous events
	maxEvent int
	resumes  bool

	buf        []byte
	count      int
	untimed    bool // some have no time
	positioned bool
	position   []byte // if positioned
	dropped    int
	why        string
	err        error
}

// Add adds a copy of e. One that is larger than the hub wants is left out, counted, and told in
// the hub's log. One that is not what the plugin may give is an error of the stream; nothing that
// comes behind it is in the batch, and no resume position either.
func (b *Batch) Add(e Event) {
	if !b.admits(len(e.Data), e.Name) {
		if e.Position != nil {
			b.SetPosition(e.Position)
		}
		return
	}
	if e.Name == "" {
		b.buf = scapevent.Append(b.buf, b.id, b.nanos(e.Time), e.Data)
	} else {
		b.buf = scapevent.AppendAsync(b.buf, b.id, b.nanos(e.Time), e.Name, e.Data)
	}
	b.count++
	if e.Position != nil {
		b.SetPosition(e.Position)
	}
}

// Append adds an event whose payload is what write returns: usually it appends to data, which is
// empty, and nothing is copied then. write must not keep data.
func (b *Batch) Append(at time.Time, write func(data []byte) []byte) {
	if !b.admits(0, "") {
		return
	}
	start, count := len(b.buf), b.count
	large := 0
	grown := scapevent.AppendFunc(b.buf, b.id, b.nanos(at), func(dst []byte) []byte {
		// It sees nothing of the batch, so it can spoil nothing of it.
		data := dst[len(dst):]
		written := write(data)
		switch {
		case uint64(len(written)) > scapevent.MaxDataBytes:
			large = len(written)
		case len(written) > 0 && cap(data) > 0 && &written[0] == &data[:1][0]:
			return dst[:len(dst)+len(written)] // it is there already
		default:
			return append(dst, written...)
		}
		return dst
	})
	switch size := len(grown) - start + large; {
	case b.count != count || len(b.buf) != start:
		b.buf, b.count = b.buf[:start], count
		b.fail("events were added by the function that writes the payload of another one")
		return
	case large > 0, b.maxEvent > 0 && size > b.maxEvent:
		b.drop(size)
		return
	}
	b.buf = grown
	b.count++
}

// SetPosition sets the resume position: [Opener].Open can resume behind what the batch has now. It
// is copied.
func (b *Batch) SetPosition(position []byte) {
	switch {
	case b.err != nil:
		// What was refused is not in the batch: a position behind it would lose it.
	case !b.resumes:
		b.fail("a resume position was given, but Info.Resumes is false")
	case len(position) > maxPositionBytes:
		b.fail("a resume position has %d bytes, and at most %d are allowed", len(position), maxPositionBytes)
	default:
		b.position, b.positioned = append(b.position[:0], position...), true
	}
}

// Full says whether it should be handed over: it has as much as Info says, or what was added was
// an error of the stream. More can be added, up to 64 MiB.
func (b *Batch) Full() bool { return b.count >= b.events || len(b.buf) >= b.bytes || b.err != nil }

// Len returns how many events it has.
func (b *Batch) Len() int { return b.count }

// admits says whether an event may be added.
func (b *Batch) admits(size int, name string) bool {
	if b.err != nil {
		return false
	}
	whole := scapevent.PayloadOffset + size
	if name != "" {
		whole += 4 + len(name) + 1
		if !slices.Contains(b.names, name) {
			b.fail("the event name %q is not in Info.AsyncNames", name)
			return false
		}
	}
	switch {
	case b.maxEvent > 0 && whole > b.maxEvent, size > scapevent.MaxDataBytes:
		b.drop(whole)
		return false
	case len(b.buf) >= maxBatchBytes:
		b.fail("a batch has more than %d MiB; return from NextBatch when it is Full", maxBatchBytes>>20)
		return false
	}
	return true
}

func (b *Batch) drop(size int) {
	b.dropped++
	most := uint64(scapevent.MaxDataBytes)
	if b.maxEvent > 0 {
		most = uint64(b.maxEvent)
	}
	b.why = fmt.Sprintf("an event has %d bytes, and at most %d are wanted", size, most)
}

func (b *Batch) fail(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
}

func (b *Batch) nanos(t time.Time) uint64 {
	if t.IsZero() {
		b.untimed = true
		return scapevent.NoTime
	}
	return nanos(t)
}

// nanos returns a time as an event has it. Times before 1970 and after 2262 become the nearest
// that there is.
func nanos(t time.Time) uint64 {
	switch sec := t.Unix(); {
	case sec < 0:
		return 0
	case sec > math.MaxInt64/1_000_000_000-1:
		return math.MaxInt64
	}
	return uint64(t.UnixNano())
}

// stamp gives events without a time that of now.
func (b *Batch) stamp(now uint64) {
	if !b.untimed {
		return
	}
	for rest := b.buf; len(rest) > 0; {
		e, behind, err := scapevent.Next(rest)
		if err != nil {
			b.fail("the bytes of the batch were changed behind its back: %v", err)
			return
		}
		if rest = behind; e.Nanos() == scapevent.NoTime {
			e.SetNanos(now)
		}
	}
}

// view makes of what the hub knows of an event what the plugin sees, without a copy.
func view(e *sourceplugin.Event) Event {
	return Event{Time: e.Time(), Data: e.Data(), Name: e.Name(), Number: e.Number, Source: e.Source}
}
