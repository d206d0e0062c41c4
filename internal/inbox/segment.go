package inbox

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// segment is a file that holds lines. What it has is changed with Inbox.mu held, except for
// what only the writer has to do with.
type segment struct {
	name string
	size int64
	header
	content
	f          file   // while it is written or to be synced
	syncedEnd  int64  // what is before is durable
	syncedNext uint64 // and so are the lines before this one
	inherited  bool   // an earlier process wrote it and may have synced it
	sealed     bool   // nothing is written to it any more
	suspect    bool   // a sync failed: what it seems to hold may not be on the disk
	replaced   bool   // its lines were written again to another segment
	released   bool   // it does not belong to the inbox any more
	damaged    bool   // has records that cannot be read
}

// take returns the open file, which the caller closes when the mutex is not held, because
// closing may use the disk.
func (g *segment) take() file {
	f := g.f
	g.f = nil
	return f
}

func closeFile(f file) {
	if f != nil {
		f.Close()
	}
}

// firstPosition and neededTo are where it begins, and where it may go.
func (g *segment) firstPosition() Position { return Position{g.epoch, g.first} }
func (g *segment) neededTo() Position      { return Position{g.epoch, g.needed} }

// dirty reports whether a sync would make anything durable.
func (g *segment) dirty() bool { return g.syncedEnd < g.end && !g.replaced }

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func segmentNumber(name string) (uint64, bool) {
	text, ok := strings.CutSuffix(name, segmentSuffix)
	number, err := strconv.ParseUint(text, 16, 64)
	return number, ok && err == nil
}

// load finds what is in the directory, and begins an epoch.
func (x *Inbox) load() error {
	names, err := x.disk.list()
	if err != nil {
		return fmt.Errorf("read the directory of the inbox: %w", err)
	}
	if x.epochFile, err = openEpochFile(x.disk, slices.Contains(names, epochName)); err != nil {
		return err
	}
	known := x.epochFile.last
	var damaged int
	for _, name := range names {
		if strings.HasSuffix(name, damagedSuffix) {
			x.counts.KeptFiles++
		}
		if number, ok := segmentNumber(strings.TrimSuffix(name, damagedSuffix)); ok {
			x.number = max(x.number, number)
		}
		if _, ok := segmentNumber(name); !ok {
			continue
		}
		g, err := x.loadSegment(name)
		var read *readError
		switch {
		case err != nil && !errors.As(err, &read):
			x.epochFile.close()
			return fmt.Errorf("open a file of the inbox: %w", err)
		case err != nil:
			damaged++
			x.keep(name, err)
		case g == nil: // it is free
		default:
			x.segments = append(x.segments, g)
			x.epoch = max(x.epoch, g.epoch)
			x.generation = max(x.generation, g.generation)
		}
	}
	sort.SliceStable(x.segments, func(i, j int) bool { return before(x.segments[i], x.segments[j]) })
	crashed := known > 0 && !x.epochFile.clean || known == 0 && x.epoch > 0
	x.before = max(x.epoch, known)
	x.epoch = max(x.before+1, uint64(time.Now().UnixMilli()))
	if x.epochFile.damaged {
		x.epoch += 1 << 20 // behind every epoch that can have been, however the clock went
	}
	if err := x.epochFile.write(x.epoch, false); err != nil {
		x.epochFile.close()
		return fmt.Errorf("write the epoch of the inbox: %w", err)
	}
	if err := x.epochFile.f.Sync(); err != nil {
		x.epochFile.close()
		return fmt.Errorf("sync the epoch of the inbox: %w", err)
	}
	x.writtenTo = Position{Epoch: x.epoch}
	x.unnamed = true // an earlier process may have made files and ended before the sync
	now := time.Now()
	if crashed {
		x.log.Warn("the last process did not close the spool; lines that it had only in memory are lost, if there were any")
		x.queue.lose(Lost{Reason: Crash, First: now, Last: now})
	}
	if damaged > 0 {
		x.queue.lose(Lost{Reason: Damaged, First: now, Last: now})
	}
	if crashed || damaged > 0 {
		x.wakeWriter()
	}
	for _, g := range x.segments {
		x.marks.add(g.firstPosition(), g.time)
	}
	x.fillReserve()
	return nil
}

// before is the order in which segments are read.
func before(a, b *segment) bool {
	return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.place, b.place), cmp.Compare(a.generation, b.generation)) < 0
}

// readError means that what is in a file cannot be read.
type readError struct{ error }

func (e *readError) Unwrap() error { return e.error }

var errHeader = errors.New("it does not begin like a file of a spool")

// loadSegment looks at a file. It returns nil when nothing is in it.
func (x *Inbox) loadSegment(name string) (*segment, error) {
	f, err := x.disk.open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return nil, err
	}
	defer f.Close()
	g := &segment{name: name, size: size, sealed: true, inherited: true}
	b := make([]byte, segmentHeader)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return nil, &readError{err}
	}
	h, ok := parseHeader(b[:n])
	if !ok {
		// A power cut leaves zeros, or, before the whole header was on the disk, a part of one.
		if len(bytes.TrimLeft(b[:n], "\x00")) > 0 && n == segmentHeader {
			return nil, &readError{errHeader}
		}
		x.setFree(name, size)
		return nil, nil
	}
	g.header = h
	if g.content, ok = parseContent(b[headerBlock:n], &h, size); !ok {
		if g.content, err = scan(f, size, &h); err != nil {
			return nil, &readError{err}
		}
	}
	if g.end == segmentHeader {
		x.setFree(name, size)
		return nil, nil
	}
	g.suspect = string(b[2*headerBlock:][:len(suspectMark)]) == suspectMark
	// That it is durable is known of nothing that an earlier process wrote.
	g.syncedEnd, g.syncedNext = segmentHeader, g.first
	x.total += size
	return g, nil
}

// setFree takes a file that holds nothing into the reserve, or removes it.
func (x *Inbox) setFree(name string, size int64) {
	if size == x.o.SegmentBytes && x.total+size <= x.o.MaxBytes {
		x.free = append(x.free, name)
		x.total += size
		return
	}
	if err := x.disk.remove(name); err != nil {
		x.log.Warn("could not remove a file of the spool that is not needed", "file", name, "error", err)
	}
}

// keep puts a file aside that cannot be read.
func (x *Inbox) keep(name string, why error) {
	x.log.Error("a file of the spool is damaged, it is kept aside", "file", name+damagedSuffix, "error", why)
	if err := x.disk.rename(name, name+damagedSuffix); err != nil {
		x.log.Error("could not rename the damaged file of the spool", "file", name, "error", err)
		return
	}
	x.counts.KeptFiles++
}

// scan finds the records of a segment that was not sealed. The last good record is its end:
// what follows is what a crash cut off, or is of an earlier use of the file.
func scan(f io.ReaderAt, size int64, h *header) (c content, err error) {
	c = content{end: segmentHeader, next: h.first, needed: h.first}
	s := scanner{f: f, at: segmentHeader, end: size, nonce: h.nonce}
	for {
		r, payload, err := s.next()
		switch {
		case err == io.EOF:
			return c, nil
		case err != nil:
			return c, err
		}
		if r.first < c.next && r.next() > c.next {
			continue // cannot be
		}
		c.end = s.at - r.size()
		c.add(&r, dataBytes(&r, payload))
	}
}

// dataBytes is how many bytes of lines are in a record, roughly.
func dataBytes(r *record, payload []byte) int {
	switch r.kind {
	case kindLines:
		return max(len(payload)-2*int(r.lines), 0)
	case kindPart:
		return max(len(payload)-partHeader, 0)
	}
	return 0
}

const readChunk = 256 << 10

// scanner goes through the records of a segment. What lies between good records is
// skipped.
type scanner struct {
	f       io.ReaderAt
	at, end int64 // where the next record begins, and where there are no more
	nonce   uint64
	buf     []byte // what was read of the file and not looked at, from at on
	memory  []byte // of buf
	lent    bool   // the memory was given away, a new one is needed
	skipped bool   // something was no record
}

// next returns the next good record, and io.EOF behind the last.
func (s *scanner) next() (r record, payload []byte, err error) {
	for {
		if len(s.buf) < recordHeader {
			if err := s.fill(); err != nil {
				return r, nil, err
			}
			if len(s.buf) < recordHeader {
				s.skipped = s.skipped || len(s.buf) > 0
				return r, nil, io.EOF
			}
		}
		r, err = parseRecord(s.buf, s.nonce)
		if err != nil {
			s.skipped = true
			s.search()
			continue
		}
		if r.size() > int64(len(s.buf)) {
			if err := s.fill(); err != nil {
				return r, nil, err
			}
			if r.size() > int64(len(s.buf)) { // it was cut off
				s.skipped = true
				s.step(recordHeader)
				continue
			}
		}
		payload = s.buf[recordHeader:r.size():r.size()]
		if crc32.Checksum(payload, castagnoli) != r.sum {
			s.skipped = true
			s.step(recordHeader) // its length may be what is wrong with it
			continue
		}
		s.step(r.size())
		return r, payload, nil
	}
}

// buffered reports whether next would return a record without reading.
func (s *scanner) buffered() bool {
	r, err := parseRecord(s.buf, s.nonce)
	return err == nil && r.size() <= int64(len(s.buf))
}

func (s *scanner) step(n int64) {
	s.at += n
	s.buf = s.buf[n:]
}

// search goes on to where the nonce is found, or to the end of what was read.
func (s *scanner) search() {
	var nonce [8]byte
	binary.LittleEndian.PutUint64(nonce[:], s.nonce)
	i := bytes.Index(s.buf[1:], nonce[:])
	if i < 0 {
		i = max(len(s.buf)-len(nonce), 0) // it may begin in the last bytes
	}
	s.step(int64(i) + 1)
}

// fill reads from at on.
func (s *scanner) fill() error {
	n := min(s.end-s.at, readChunk)
	if n <= 0 {
		s.buf = nil
		return nil
	}
	if int64(len(s.buf)) >= n {
		return nil
	}
	if s.lent || int64(len(s.memory)) < n {
		s.memory, s.lent = make([]byte, n), false
	}
	got, err := s.f.ReadAt(s.memory[:n], s.at)
	if err != nil && err != io.EOF {
		return err
	}
	s.buf = s.memory[:got]
	return nil
}

func newNonce() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}
