// Package spool keeps batches of events on the disk of a producer until they are
// delivered. What [Spool.Append] took is there after a crash of the process or of the
// machine, comes back in the order in which it went in, and is removed when it is done.
//
// It does not know what events look like, nor where they go.
package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tocsin-events/tocsin/internal/directory"
)

var (
	// ErrLocked means that another process uses the directory.
	ErrLocked = directory.ErrLocked
	// ErrClosed means that the spool was closed.
	ErrClosed = errors.New("the spool is closed")
)

// MaxPayloadBytes is the largest payload of a record.
const MaxPayloadBytes = 128 << 20

const (
	lockFile      = "LOCK"
	segmentSuffix = ".spool"
	damagedSuffix = ".damaged"
)

// Options say where a spool is. Dir is required.
type Options struct {
	// Dir is a directory that belongs to the spool alone. It is made if it does not
	// exist, readable by this user only.
	Dir string
	// SegmentBytes is how large a file becomes before another is begun; 0 means
	// 8 MiB. Space is freed one file at a time.
	SegmentBytes int64
}

// Spool is a queue of records on a disk. Append is called by one goroutine at a time;
// the other methods are safe for concurrent use, also with it.
type Spool struct {
	options Options
	lock    *os.File

	mu       sync.Mutex
	segments []*segment // oldest first
	active   *segment   // the last of them, if it may grow
	writing  bool       // an Append is at work on active
	next     uint64     // number of the next segment
	closed   bool

	bytes, waiting atomic.Int64 // of all segments, and events that were not taken
}

// segment is one file.
type segment struct {
	path    string
	file    *os.File
	size    int64 // where the records end
	read    int64 // where the first record begins that was not taken
	events  int   // in records that were not taken
	untaken int   // records that were not taken
	undone  int   // records that are not done
	bad     bool  // has records that cannot be read: is kept
}

// Damage tells of events that were in a spool and cannot be read.
type Damage struct {
	Path   string // where the file is kept
	Events int    // 0 when it cannot be told
	Err    error
}

func (d *Damage) Error() string {
	count := "events"
	if d.Events > 0 {
		count = strconv.Itoa(d.Events) + " events"
	}
	return fmt.Sprintf("%s in the spool cannot be read (%v); the file is kept as %s", count, d.Err, d.Path)
}

// Unwrap returns why.
func (d *Damage) Unwrap() error { return d.Err }

// Open locks the directory and finds what is left in it. Damage that it finds is
// returned beside the spool, which works all the same. An incomplete record at the end of a
// file is none: it is the Append that a crash interrupted.
func Open(o Options) (*Spool, []*Damage, error) {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 8 << 20
	}
	if err := directory.Make(o.Dir); err != nil {
		return nil, nil, fmt.Errorf("create the spool directory: %w", err)
	}
	lock, err := directory.Lock(filepath.Join(o.Dir, lockFile))
	if err != nil {
		return nil, nil, err
	}
	s := &Spool{options: o, lock: lock, next: 1}
	damage, err := s.load()
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return s, damage, nil
}

// load scans all files.
func (s *Spool) load() (all []*Damage, err error) {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return nil, fmt.Errorf("read the spool directory: %w", err)
	}
	for _, entry := range entries { // in the order of their numbers, which have leading zeros
		name, isSegment := strings.CutSuffix(entry.Name(), segmentSuffix)
		number, err := strconv.ParseUint(name, 16, 64)
		if !isSegment || err != nil || !entry.Type().IsRegular() {
			continue
		}
		s.next = max(s.next, number+1)
		g, err := openSegment(filepath.Join(s.options.Dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		damage := g.scan()
		if damage != nil {
			g.bad = true
			damage.Path = g.keptPath()
			all = append(all, damage)
		}
		s.segments = append(s.segments, g)
		s.bytes.Add(g.size)
		s.waiting.Add(int64(g.events))
		if g.undone == 0 {
			if err := s.remove(g); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// Waiting returns how many events were not taken.
func (s *Spool) Waiting() int { return int(s.waiting.Load()) }

// Bytes returns how much of the disk is used.
func (s *Spool) Bytes() int64 { return s.bytes.Load() }

// Append adds a record of so many events and returns when it is durable. After an
// error the record is not in the spool (or, if the disk does not tell the truth, comes
// back only after a restart), and the next Append begins a new file.
func (s *Spool) Append(events int, payload []byte) error {
	if events < 1 || len(payload) < events || len(payload) > MaxPayloadBytes {
		return fmt.Errorf("a record of %d events in %d bytes cannot be spooled", events, len(payload))
	}
	g, err := s.beginAppend()
	if err != nil {
		return err
	}
	err = g.write(events, payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
	if err != nil {
		_ = g.file.Truncate(g.size) // what follows the good records is ignored anyway
		s.active = nil
		if g.undone == 0 {
			_ = s.remove(g)
		}
		return fmt.Errorf("write to the spool: %w", err)
	}
	grown := recordBytes(len(payload))
	g.size += grown
	g.events += events
	g.untaken++
	g.undone++
	s.bytes.Add(grown)
	s.waiting.Add(int64(events))
	if g.size >= s.options.SegmentBytes {
		s.active = nil
	}
	return nil
}

// beginAppend returns the segment to append to, which nobody removes until writing is
// false again.
func (s *Spool) beginAppend() (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if s.active == nil {
		g, err := createSegment(filepath.Join(s.options.Dir, fmt.Sprintf("%016x%s", s.next, segmentSuffix)))
		if err != nil {
			return nil, fmt.Errorf("begin a spool file: %w", err)
		}
		s.next++
		s.segments = append(s.segments, g)
		s.bytes.Add(g.size)
		s.active = g
	}
	s.writing = true
	return s.active, nil
}

// Batch is what was taken from a spool to be delivered.
type Batch struct {
	// Payload has the payloads of one or more records with a comma in between.
	Payload []byte
	// Events is how many events are in it.
	Events int

	records []taken
}

type taken struct {
	segment *segment
	offset  int64
}

// Take returns the oldest records that were not taken, as many as fit into maxBytes and
// maxEvents but at least one, appended to buf; nil when there are none. Records that
// cannot be read are left out, which the [*Damage] tells; it comes alone. Take is called by one
// goroutine at a time.
func (s *Spool) Take(buf []byte, maxBytes, maxEvents int) (*Batch, *Damage) {
	b := &Batch{Payload: buf}
	for {
		g, from, to := s.unread()
		if g == nil {
			break
		}
		// Nobody removes g, because it has records that were not taken.
		found, err := b.read(g, from, to, len(buf)+maxBytes, maxEvents)
		if d := s.took(g, found, err, b.Events == 0); d != nil {
			return nil, d
		}
		if err != nil || found.full {
			break // what cannot be read is found again by the next call
		}
	}
	if b.Events == 0 {
		return nil, nil
	}
	return b, nil
}

// unread returns the oldest segment with records that were not taken, and from where to
// where they are.
func (s *Spool) unread() (g *segment, from, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, 0
	}
	for _, g := range s.segments {
		if g.read < g.size {
			return g, g.read, g.size
		}
	}
	return nil, 0, 0
}

// reading is what was read of a segment.
type reading struct {
	to              int64
	records, events int
	full            bool   // the next record does not fit
	bad             record // that cannot be read; zero when it is not known where it ends
}

// read adds records of g to a batch.
func (b *Batch) read(g *segment, from, to int64, maxBytes, maxEvents int) (found reading, err error) {
	found.to = from
	for found.to < to {
		r, err := g.header(found.to)
		if err != nil {
			return found, err
		}
		next := found.to + recordBytes(r.length)
		switch {
		case next > to:
			return found, errNoRecord
		case r.done:
			found.to = next
			continue
		case b.Events > 0 && (len(b.Payload)+1+r.length > maxBytes || b.Events+r.events > maxEvents):
			found.full = true
			return found, nil
		}
		end := len(b.Payload)
		if b.Events > 0 {
			b.Payload = append(b.Payload, ',')
		}
		if b.Payload, err = g.payload(b.Payload, found.to, r); err != nil {
			b.Payload = b.Payload[:end]
			found.bad = r
			return found, err
		}
		b.records = append(b.records, taken{g, found.to})
		b.Events += r.events
		found.records++
		found.events += r.events
		found.to = next
	}
	return found, nil
}

// took notes what was read. If nothing was, because of err, the records that cannot be
// read are left out.
func (s *Spool) took(g *segment, found reading, err error, nothing bool) *Damage {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.read = found.to
	g.events -= found.events
	g.untaken -= found.records
	s.waiting.Add(-int64(found.events))
	if err == nil || !nothing || s.closed {
		return nil
	}
	g.bad = true
	d := &Damage{Path: g.keptPath(), Events: g.events, Err: err}
	records := g.untaken
	if found.bad.length > 0 {
		d.Events, records = found.bad.events, 1
		g.read += recordBytes(found.bad.length)
	} else {
		g.read = g.size
	}
	g.events -= d.Events
	g.untaken -= records
	g.undone -= records
	s.waiting.Add(-int64(d.Events))
	if s.active == g && !s.writing {
		s.active = nil
	}
	_ = s.removeIfDone(g) // or it is found again by the next Open
	return d
}

// Done removes what was taken. It is not synced: after a power cut the records may come
// back.
func (s *Spool) Done(b *Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	var failed error
	for _, r := range b.records {
		if err := r.segment.markDone(r.offset); err != nil {
			failed = fmt.Errorf("mark events in the spool as delivered: %w", err)
		}
		r.segment.undone--
		if err := s.removeIfDone(r.segment); err != nil {
			failed = err
		}
	}
	return failed
}

// removeIfDone removes a segment that nobody needs, unless it may grow and is small.
func (s *Spool) removeIfDone(g *segment) error {
	if g.undone > 0 || g.read < g.size || !slices.Contains(s.segments, g) {
		return nil
	}
	if s.active == g {
		if s.writing || g.size < s.options.SegmentBytes/4 {
			return nil
		}
		s.active = nil
	}
	return s.remove(g)
}

func (s *Spool) remove(g *segment) error {
	s.bytes.Add(-g.size)
	s.segments = slices.DeleteFunc(s.segments, func(other *segment) bool { return other == g })
	g.file.Close()
	err := error(nil)
	if g.bad {
		err = os.Rename(g.path, g.keptPath())
	} else {
		err = os.Remove(g.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a spool file that is done: %w", err)
	}
	return nil
}

// Close gives the directory free. What was not done is there for the next Open.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, g := range s.segments {
		g.file.Close()
		if g.undone == 0 && !g.bad {
			os.Remove(g.path)
		}
	}
	return s.lock.Close()
}
