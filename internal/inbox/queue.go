package inbox

import (
	"hash/crc32"
	"math"
	"sync"
	"time"
	"unsafe"
)

// queue is what waits in memory for the writer. It holds records that are ready but
// for their headers, so that it takes the memory that it counts: a line that it does
// not copy could pin the whole chunk that its receiver read. Only lines that are
// longer than a record are kept as they are; those have memory of their own.
type queue struct {
	items    []*item
	next     uint64 // number of the next line
	used     int64  // bytes of memory, those that the writer is writing included
	lines    uint64 // in items and being written
	bytes    uint64
	since    int64         // when the first of them came; 0 when there are none
	lost     int           // loss records among them
	dropping bool          // no lines are taken until there is some room
	freed    chan struct{} // closed when used becomes less; nil when nobody waits
}

// item is one record, or one line that takes several.
type item struct {
	record
	buf  *buffer // header and payload of lines; of others, while they are written
	line Line    // the long line
	lost Lost
	cost int64
	data int // bytes of lines
	sent int // how much of a long line was written
}

type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, recordHeader, recordHeader+maxPayload)} }}

// newBuffer returns memory for a record, with room for its header.
func newBuffer(payload int) *buffer {
	if payload < maxPayload {
		return &buffer{make([]byte, recordHeader, recordHeader+payload)}
	}
	b := buffers.Get().(*buffer)
	b.b = b.b[:recordHeader]
	return b
}

const itemCost = int64(unsafe.Sizeof(item{})) + 8

// costOf is how much memory lines will take, but for what is left of the last buffer.
func costOf(lines []Line) (cost int64) {
	for i := range lines {
		cost += int64(len(lines[i].Data)) + 2
	}
	return cost
}

// room reports whether lines of such a cost are taken. Once it said no it goes on to do
// so until a quarter is free, so that what is lost is lost in one piece.
func (q *queue) room(cost, limit int64) bool {
	switch {
	case q.used == 0, q.dropping && q.used <= limit/4*3 && q.used+cost <= limit, !q.dropping && q.used+cost <= limit:
		q.dropping = false
	default:
		q.dropping = true
	}
	return !q.dropping
}

func (q *queue) last() *item {
	if len(q.items) == 0 {
		return nil
	}
	return q.items[len(q.items)-1]
}

// add takes a line.
func (q *queue) add(l *Line, now int64, maxPayload int) {
	n := lineBytes(l)
	last := q.last()
	switch {
	case n > maxPayload:
		last = &item{record: record{kind: kindPart, first: q.next, time: now}, line: *l, cost: itemCost + int64(len(l.Data))}
		q.used += last.cost
		q.items = append(q.items, last)
	case last == nil || last.kind != kindLines || len(last.buf.b)+n > recordHeader+maxPayload:
		buf := newBuffer(maxPayload)
		last = &item{record: record{kind: kindLines, first: q.next, time: now}, buf: buf, cost: itemCost + int64(cap(buf.b))}
		q.used += last.cost
		q.items = append(q.items, last)
		fallthrough
	default:
		last.buf.b = appendLine(last.buf.b, l)
		last.lines++
	}
	if q.lines == 0 {
		q.since = now
	}
	last.data += len(l.Data)
	q.next++
	q.lines++
	q.bytes += uint64(len(l.Data))
}

// lose notes lines that were not taken. The bound of the memory does not count for it:
// there is one note for each time that the bound was reached.
func (q *queue) lose(l Lost) {
	n := uint32(max(l.Lines, 1))
	last := q.last()
	if last == nil || last.kind != kindLost || last.lost.Reason != l.Reason || l.Reason == Crash || last.lines > math.MaxUint32-n {
		last = &item{record: record{kind: kindLost, first: q.next, time: l.First.UnixNano()}, lost: l, cost: itemCost}
		q.used += last.cost
		q.items = append(q.items, last)
		q.lost++
	} else {
		last.lost.Lines += l.Lines
		last.lost.Bytes += l.Bytes
		last.lost.Last = l.Last
	}
	last.lines += n
	q.next += uint64(n)
}

// take hands everything to the writer.
func (q *queue) take(spare []*item) []*item {
	items := q.items
	q.items = spare[:0]
	return items
}

// done is told that an item is in a file.
func (q *queue) done(i *item) {
	q.used -= i.cost
	switch i.kind {
	case kindLost:
		q.lost--
	case kindPart:
		q.lines--
	default:
		q.lines -= uint64(i.lines)
	}
	q.bytes -= uint64(i.data)
	q.since = i.time // the next one came later
	if q.freed != nil {
		close(q.freed)
		q.freed = nil
	}
}

func (q *queue) waiting() (lines, bytes uint64) { return q.lines, q.bytes }
func (q *queue) losing() bool                   { return q.lost > 0 }

// recycle gives the memory of an item back.
func (i *item) recycle() {
	if i.buf != nil && cap(i.buf.b) == recordHeader+maxPayload {
		buffers.Put(i.buf)
	}
	i.buf = nil
}

// encode returns the next record of an item, with room for the header.
func (i *item) encode(maxPayload int) (record, []byte) {
	r := i.record
	var b []byte
	switch i.kind {
	case kindLines:
		b = i.buf.b
	case kindPart:
		b = i.buf.b[:recordHeader]
		to := min(len(i.line.Data), i.sent+maxPayload-partHeader)
		b = appendPart(b, &i.line, i.sent, to)
		r.lines = 0
		if to == len(i.line.Data) {
			r.lines = 1
		}
	case kindLost:
		b = appendLost(i.buf.b[:recordHeader], &i.lost)
	}
	r.length = len(b) - recordHeader
	r.sum = crc32.Checksum(b[recordHeader:], castagnoli)
	return r, b
}

// Reason says why lines are not there.
type Reason uint8

const (
	// Full: there was no room in memory and on the disk.
	Full Reason = iota
	// Damaged: files of the spool are damaged or gone. They are kept aside.
	Damaged
	// Crash: an earlier process ended without closing the inbox. Lines that it had
	// only in memory, those of a moment unless the disk did not work, are lost, if there were any.
	Crash
)

// String returns a word.
func (r Reason) String() string {
	switch r {
	case Full:
		return "full"
	case Damaged:
		return "damaged"
	case Crash:
		return "crash"
	}
	return "unknown"
}

// Lost tells of lines that are not there.
type Lost struct {
	Reason Reason
	// Lines and Bytes tell how many. They are exact when Full. Otherwise 0 means that
	// it is not known.
	Lines, Bytes uint64
	// First and Last are the times of the first and the last of them; of other reasons than
	// Full, when the loss was noticed.
	First, Last time.Time
}
