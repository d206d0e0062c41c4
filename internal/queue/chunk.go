package queue

import (
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
)

// Memory is taken in chunks of so many bytes. A larger entry has a chunk of its own.
const (
	chunkBytes   = 64 << 10
	chunkEntries = 512
)

// chunk is some entries that follow each other. Entries are added at its end; those that
// are there do not change.
type chunk struct {
	first    uint64 // number of the first entry
	data     []byte
	ends     []int32 // where entries end in data
	recorded time.Time
}

func newChunk(first uint64, size int, now time.Time) *chunk {
	c := &chunk{first: first, recorded: now}
	if size > chunkBytes {
		c.data = make([]byte, 0, size)
		c.ends = make([]int32, 0, 1)
	} else {
		c.data = make([]byte, 0, chunkBytes)
		c.ends = make([]int32, 0, chunkEntries)
	}
	return c
}

func (c *chunk) fits(size int) bool {
	return len(c.data)+size <= cap(c.data) && len(c.ends) < cap(c.ends)
}

func (c *chunk) add(entry []byte) {
	c.data = append(c.data, entry...)
	c.ends = append(c.ends, int32(len(c.data)))
}

func (c *chunk) next() uint64 { return c.first + uint64(len(c.ends)) }

// memory is about how many bytes of memory the chunk takes.
func (c *chunk) memory() int64 { return int64(cap(c.data)+4*cap(c.ends)) + 96 }

// chunkMemory is the memory of a new chunk for an entry.
func chunkMemory(size int) int64 { return int64(max(size, chunkBytes)) + 4*chunkEntries + 96 }

// entry returns entry i of the chunk.
func (c *chunk) entry(i int) []byte {
	from := int32(0)
	if i > 0 {
		from = c.ends[i-1]
	}
	return c.data[from:c.ends[i]:c.ends[i]]
}

// addToMemory adds an entry to a queue in memory. q.mu is held.
func (q *Queue) addToMemory(entry []byte) {
	var last *chunk
	if n := len(q.chunks); n > 0 {
		last = q.chunks[n-1]
	}
	if last == nil || !last.fits(len(entry)) {
		last = newChunk(q.next, len(entry), time.Now())
		q.chunks = append(q.chunks, last)
		q.bytes += last.memory()
	}
	last.add(entry)
	q.next++
	q.stats.Appended++
	q.published()
}

// view is what a reader gets of a chunk. It is a [deliver.Record].
type view struct {
	chunk   // a copy: the chunk may grow meanwhile
	start   int
	size    int
	events  []*event.Event // those that could be decoded
	numbers []uint64
}

func (v *view) Len() int                         { return len(v.events) }
func (v *view) Start() int                       { return v.start }
func (v *view) Event(i int) *event.Event         { return v.events[i] }
func (v *view) Position(i int) position.Position { return positionOf(v.numbers[i]) }
func (v *view) End() position.Position           { return positionBefore(v.next()) }
func (v *view) Recorded() time.Time              { return v.recorded }
func (v *view) Size() int                        { return v.size }

// decodedChunks is how many chunks are remembered with their events, so that readers that
// are at about the same place share them.
const decodedChunks = 8

// decodedChunk are the events of a chunk, nil for those that could not be decoded.
type decodedChunk struct {
	of *chunk

	mu     sync.Mutex
	events []*event.Event
}

// decodedOf returns what is remembered of a chunk. q.mu is held.
func (q *Queue) decodedOf(c *chunk) *decodedChunk {
	for _, d := range q.decoded {
		if d != nil && d.of == c {
			return d
		}
	}
	d := &decodedChunk{of: c}
	q.decoded[q.turn] = d
	q.turn = (q.turn + 1) % decodedChunks
	return d
}

// view makes what a reader gets: the entries of c from a number on. c is a copy of d.of, which
// may have grown.
func (q *Queue) view(d *decodedChunk, c chunk, from uint64) *view {
	d.mu.Lock()
	for i := len(d.events); i < len(c.ends); i++ {
		number := c.first + uint64(i)
		e, err := q.o.Decode(number, c.entry(i))
		if err != nil {
			e = nil
			q.log.Error("an entry of the queue cannot be read; it is left out", "number", number+1, "error", err)
			q.mu.Lock()
			q.stats.Missing++
			q.mu.Unlock()
		}
		d.events = append(d.events, e)
	}
	events := d.events[:len(c.ends):len(c.ends)]
	d.mu.Unlock()
	v := &view{chunk: c, size: 2*len(c.data) + 512*len(c.ends)}
	skip := int(max(from, c.first) - c.first)
	complete := true
	for _, e := range events {
		complete = complete && e != nil
	}
	if complete {
		v.events, v.start = events, skip
		v.numbers = make([]uint64, len(events))
		for i := range events {
			v.numbers[i] = c.first + uint64(i)
		}
		return v
	}
	for i, e := range events {
		if e != nil && i >= skip {
			v.events = append(v.events, e)
			v.numbers = append(v.numbers, c.first+uint64(i))
		}
	}
	return v
}
