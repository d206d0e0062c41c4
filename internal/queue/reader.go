package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
)

// reader reads a queue on. It is a [deliver.Reader].
type reader struct {
	q    *Queue
	next uint64 // number of the next entry

	// Where the next entry is, when it was read from a file.
	segment  *segment
	offset   int64
	failures int // to read at that place
}

// Read returns a reader of what comes after a position. It is for one goroutine.
func (q *Queue) Read(after position.Position) deliver.Reader {
	return &reader{q: q, next: after.NextOrdinal()}
}

// Next returns the next entries as events. It returns [ErrClosed] when the queue is closed.
func (r *reader) Next(ctx context.Context) (deliver.Record, error) {
	q := r.q
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return nil, ErrClosed
		}
		if r.next >= q.readable() {
			if q.news == nil {
				q.news = make(chan struct{})
			}
			news := q.news
			q.mu.Unlock()
			select {
			case <-news:
			case <-ctx.Done():
			}
			continue
		}
		if c := q.inMemory(r.next); c != nil {
			d, now := q.decodedOf(c), *c
			q.mu.Unlock()
			if v := r.give(d, now); v != nil {
				return v, nil
			}
			continue
		}
		s := q.onDisk(r.next)
		if s == nil {
			gap := r.removed()
			q.mu.Unlock()
			return nil, gap
		}
		c, err := r.load(s) // which unlocks
		switch {
		case err != nil:
			return nil, err
		case c != nil:
			if v := r.give(&decodedChunk{of: c}, *c); v != nil {
				return v, nil
			}
		}
	}
}

// give returns what a reader gets of a chunk, nil when that is nothing.
func (r *reader) give(d *decodedChunk, c chunk) deliver.Record {
	v := r.q.view(d, c, r.next)
	r.next = c.next()
	if v.start >= v.Len() {
		return nil
	}
	return v
}

// inMemory returns the chunk that has an entry, nil when none has. q.mu is held.
func (q *Queue) inMemory(number uint64) *chunk {
	i := sort.Search(len(q.chunks), func(i int) bool { return q.chunks[i].next() > number })
	if i == len(q.chunks) || q.chunks[i].first > number {
		return nil
	}
	return q.chunks[i]
}

// onDisk returns the segment that has an entry, nil when none has. q.mu is held.
func (q *Queue) onDisk(number uint64) *segment {
	if q.disk == nil {
		return nil
	}
	if s := q.disk.find(number); s != nil && s.first <= number {
		return s
	}
	return nil
}

// removed goes to the oldest entry that there is. q.mu is held.
func (r *reader) removed() *deliver.Gap {
	q := r.q
	to := q.readable()
	if q.disk != nil {
		if s := q.disk.find(r.next); s != nil {
			to = s.first
		}
	} else if i := sort.Search(len(q.chunks), func(i int) bool { return q.chunks[i].first > r.next }); i < len(q.chunks) {
		to = q.chunks[i].first
	}
	return r.gap(to, errors.New("they were removed from the queue"))
}

// gap goes on at a number.
func (r *reader) gap(to uint64, why error) *deliver.Gap {
	missing := to - r.next
	r.next = to
	return &deliver.Gap{Next: positionBefore(to), Events: missing, Err: fmt.Errorf("%d events are missing in the queue: %w", missing, why)}
}

// maxFailures is how often reading is tried again at one place.
const maxFailures = 3

// load reads entries from a file: a chunk that has the next one, or nil when the caller has
// to look again. q.mu is held, and released.
func (r *reader) load(s *segment) (*chunk, error) {
	q := r.q
	if r.segment != s {
		m, _ := s.before(r.next)
		r.segment, r.offset, r.failures = s, m.offset, 0
	}
	end := s.end
	for _, h := range s.holes {
		if h.begin == r.offset {
			if h.to <= r.next { // it is behind us
				r.offset = h.end
				q.mu.Unlock()
				return nil, nil
			}
			q.mu.Unlock()
			r.offset = h.end
			return nil, r.gap(h.to, errors.New(h.why))
		}
		if h.begin > r.offset {
			end = min(end, h.begin)
			break
		}
	}
	q.mu.Unlock()
	file := blockReader{f: s.file, size: end}
	var c *chunk
	for r.offset < end {
		if c != nil && (len(c.data) >= chunkBytes || len(c.ends) >= chunkEntries) {
			break
		}
		b, err := file.bytes(r.offset, groupHeader)
		var h groupHead
		ok := false
		if err == nil {
			h, ok = parseGroup(b)
		}
		from := r.next
		if c != nil {
			from = c.next()
		}
		if ok && h.next() <= from { // before what is wanted
			r.offset += groupHeader + int64(h.length)
			continue
		}
		if ok {
			b, err = file.bytes(r.offset+groupHeader, h.length)
			ok = err == nil && len(b) == h.length
		}
		if ok {
			if c == nil {
				c = &chunk{first: h.first, recorded: nanos(h.recorded)}
			} else if c.next() != h.first {
				break
			}
			if ok = h.appendEntries(c, b); ok {
				r.offset += groupHeader + int64(h.length)
				r.failures = 0
				continue
			}
		}
		if c != nil && len(c.ends) > 0 {
			break // what comes next is found out by the next call
		}
		return nil, r.cannotRead(s, end, err)
	}
	if c == nil || len(c.ends) == 0 {
		if r.offset >= end {
			return nil, r.endOf(s)
		}
		return nil, nil
	}
	return c, nil
}

// endOf is called when a segment has no more groups. It is an error only where it should.
func (r *reader) endOf(s *segment) error {
	q := r.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.next >= s.next || r.offset < s.end || slices.ContainsFunc(s.holes, func(h hole) bool { return h.begin == r.offset && h.to > r.next }) {
		return nil
	}
	return r.gap(s.next, errors.New("the file has fewer than it should"))
}

// cannotRead notes that a part of a file cannot be read, after some attempts.
func (r *reader) cannotRead(s *segment, end int64, err error) error {
	q := r.q
	if errors.Is(err, os.ErrClosed) {
		r.segment = nil
		return nil
	}
	if r.failures++; err != nil && r.failures < maxFailures {
		time.Sleep(50 * time.Millisecond)
		return nil
	}
	q.mu.Lock()
	first, next := s.first, s.next
	q.mu.Unlock()
	h := hole{from: max(r.next, first), to: next, begin: r.offset, end: end, why: "it is damaged"}
	if err != nil {
		h.why = err.Error()
	} else {
		file := blockReader{f: s.file, size: end}
		at, found, findErr := file.findGroup(r.offset+1, r.next)
		if findErr == nil && at >= 0 {
			h.to, h.end = found.first, at
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.ContainsFunc(s.holes, func(other hole) bool { return other.begin == h.begin }) {
		i := sort.Search(len(s.holes), func(i int) bool { return s.holes[i].begin > h.begin })
		s.holes = slices.Insert(s.holes, i, h)
		s.bad = true
		q.stats.Damaged++
		q.stats.Missing += h.to - h.from
		q.log.Error("a part of a file of the queue cannot be read; the file is kept aside", "file", s.path, "events", h.to-h.from, "error", h.why)
	}
	return nil
}
