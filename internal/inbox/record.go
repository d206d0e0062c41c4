package inbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	"github.com/tocsin-events/tocsin/internal/tail"
)

// Each record of a segment is a header, little-endian, and a payload:
//
//	0  nonce of the segment
//	8  number of its first line in the epoch
//	16 when the first line was received, Unix time in nanoseconds
//	24 how many lines it completes
//	28 length of the payload
//	32 CRC-32C of the payload
//	36 kind
//	37 three zeros
//	40 CRC-32C of the 40 bytes before
//
// The nonce is random, so neither what a recycled file still holds nor anything that a
// sender writes into a line is ever taken for a record.
const (
	recordHeader = 44
	// maxPayload is the longest payload. It keeps a record in the processor's cache
	// between the steps of its way.
	maxPayload = 64 << 10
)

type kind uint8

const (
	// kindLines has whole lines, each as a uvarint, perhaps a uvarint with the size,
	// and the data. The first is length<<3 | sized<<2 | kind of the line.
	kindLines kind = 1
	// kindPart has a piece of a line that does not fit into one record: length,
	// offset of the piece, size of the line, its kind, and the piece.
	kindPart kind = 2
	// kindLost tells of lines that were not kept: bytes, time of the first and the
	// last, reason. Their number is that of the lines of the record.
	kindLost kind = 3
)

const (
	partHeader  = 8 + 8 + 8 + 1
	lostPayload = 8 + 8 + 8 + 1
	sized       = 1 << 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is what a header says.
type record struct {
	first  uint64
	time   int64
	lines  uint32
	length int
	sum    uint32
	kind   kind
}

// next is the number of the line behind the record.
func (r *record) next() uint64 { return r.first + uint64(r.lines) }

// size is how many bytes of a segment it takes.
func (r *record) size() int64 { return recordHeader + int64(r.length) }

// put writes the header in front of a payload whose sum is known.
func (r *record) put(b []byte, nonce uint64) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], nonce)
	le.PutUint64(b[8:], r.first)
	le.PutUint64(b[16:], uint64(r.time))
	le.PutUint32(b[24:], r.lines)
	le.PutUint32(b[28:], uint32(r.length))
	le.PutUint32(b[32:], r.sum)
	le.PutUint32(b[36:], uint32(r.kind))
	le.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
}

var errNoRecord = errors.New("no good record begins there")

func parseRecord(b []byte, nonce uint64) (record, error) {
	le := binary.LittleEndian
	if len(b) < recordHeader || le.Uint64(b) != nonce || le.Uint32(b[40:]) != crc32.Checksum(b[:40], castagnoli) {
		return record{}, errNoRecord
	}
	r := record{
		first: le.Uint64(b[8:]),
		time:  int64(le.Uint64(b[16:])),
		lines: le.Uint32(b[24:]),
		sum:   le.Uint32(b[32:]),
		kind:  kind(b[36]),
	}
	length := le.Uint32(b[28:])
	if length > maxPayload || r.first > math.MaxInt64 {
		return record{}, errNoRecord
	}
	r.length = int(length)
	return r, nil
}

// appendLine adds a line to the payload of a record of lines.
func appendLine(dst []byte, l *Line) []byte {
	tag := uint64(len(l.Data))<<3 | uint64(l.Kind)&3
	if l.Size != int64(len(l.Data)) {
		tag |= sized
	}
	dst = binary.AppendUvarint(dst, tag)
	if tag&sized != 0 {
		dst = binary.AppendUvarint(dst, uint64(l.Size))
	}
	return append(dst, l.Data...)
}

// lineBytes is how many bytes appendLine adds at most.
func lineBytes(l *Line) int { return 2*binary.MaxVarintLen64 + len(l.Data) }

// cutLine takes the first line off a payload. The data is not copied.
func cutLine(b []byte) (l Line, rest []byte, ok bool) {
	tag, n := binary.Uvarint(b)
	if n <= 0 {
		return l, nil, false
	}
	b = b[n:]
	length := tag >> 3
	l.Kind, l.Size = tail.Kind(tag&3), int64(length)
	if tag&sized != 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > math.MaxInt64 {
			return l, nil, false
		}
		b = b[n:]
		l.Size = int64(size)
	}
	if length > uint64(len(b)) {
		return l, nil, false
	}
	l.Data = b[:length:length]
	return l, b[length:], true
}

// part is what the payload of a piece of a line says.
type part struct {
	length, offset, size int64
	kind                 tail.Kind
	data                 []byte
}

func appendPart(dst []byte, l *Line, from, to int) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(len(l.Data)))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(from))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(l.Size))
	dst = append(dst, byte(l.Kind))
	return append(dst, l.Data[from:to]...)
}

func parsePart(b []byte) (p part, ok bool) {
	if len(b) <= partHeader {
		return p, false
	}
	le := binary.LittleEndian
	p.length, p.offset, p.size = int64(le.Uint64(b)), int64(le.Uint64(b[8:])), int64(le.Uint64(b[16:]))
	p.kind, p.data = tail.Kind(b[24]), b[partHeader:]
	return p, p.offset >= 0 && p.size >= 0 && p.length >= 0 && p.offset <= p.length-int64(len(p.data))
}

func appendLost(dst []byte, l *Lost) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, l.Bytes)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(l.First.UnixNano()))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(l.Last.UnixNano()))
	return append(dst, byte(l.Reason))
}

func parseLost(b []byte, lines uint32) (l Lost, ok bool) {
	if len(b) != lostPayload {
		return l, false
	}
	le := binary.LittleEndian
	l.Lines, l.Bytes = uint64(lines), le.Uint64(b)
	l.First, l.Last = time.Unix(0, int64(le.Uint64(b[8:]))), time.Unix(0, int64(le.Uint64(b[16:])))
	l.Reason = Reason(b[24])
	if l.Reason != Full {
		l.Lines = 0 // how many is not known
	}
	return l, true
}

// A segment begins with three blocks of headerBlock bytes: what it is, and, when no more
// is written to it, what is in it:
//
//	0  magic        0  nonce
//	8  nonce        8  where the records end
//	16 epoch        16 number of the line behind the last
//	24 first line   24 until which line it is needed
//	32 time of it   32 lines that it completes
//	40 place        40 bytes of lines
//	48 generation   48 zeros
//	60 CRC-32C      60 CRC-32C
//
// The third begins with suspectMark when a sync has failed. It is meant for a process that
// comes while the page cache has what the disk has not, and would be told that all is
// synced.
const (
	segmentMagic  = "tocsinI1"
	headerBlock   = 64
	segmentHeader = 3 * headerBlock
	suspectMark   = "suspect!"
)

type header struct {
	nonce, epoch, first uint64
	time                int64
	// generation is counted up with each segment, whatever file it is in. It is also
	// its place among the others, unless it repeats what is in one that could not be
	// synced: then it has the place of that.
	place, generation uint64
}

func (h *header) encode() []byte {
	b := make([]byte, segmentHeader) // the other blocks are empty
	copy(b, segmentMagic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], h.nonce)
	le.PutUint64(b[16:], h.epoch)
	le.PutUint64(b[24:], h.first)
	le.PutUint64(b[32:], uint64(h.time))
	le.PutUint64(b[40:], h.place)
	le.PutUint64(b[48:], h.generation)
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func parseHeader(b []byte) (h header, ok bool) {
	le := binary.LittleEndian
	if len(b) < headerBlock || !bytes.Equal(b[:len(segmentMagic)], []byte(segmentMagic)) ||
		le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return h, false
	}
	h = header{
		nonce: le.Uint64(b[8:]), epoch: le.Uint64(b[16:]), first: le.Uint64(b[24:]), time: int64(le.Uint64(b[32:])),
		place: le.Uint64(b[40:]), generation: le.Uint64(b[48:]),
	}
	return h, h.first <= math.MaxInt64 && h.epoch > 0
}

// content is what is in a segment.
type content struct {
	end          int64  // where its records end
	next         uint64 // number of the line behind the last that it completes
	needed       uint64 // it may go when all lines before this one may: next, or one more when it ends with a part
	lines, bytes uint64
}

func (c *content) encode(nonce uint64) []byte {
	b := make([]byte, headerBlock)
	le := binary.LittleEndian
	le.PutUint64(b, nonce)
	le.PutUint64(b[8:], uint64(c.end))
	le.PutUint64(b[16:], c.next)
	le.PutUint64(b[24:], c.needed)
	le.PutUint64(b[32:], c.lines)
	le.PutUint64(b[40:], c.bytes)
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func parseContent(b []byte, h *header, size int64) (c content, ok bool) {
	le := binary.LittleEndian
	if len(b) < headerBlock || le.Uint64(b) != h.nonce || le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return c, false
	}
	c = content{end: int64(le.Uint64(b[8:])), next: le.Uint64(b[16:]), needed: le.Uint64(b[24:]), lines: le.Uint64(b[32:]), bytes: le.Uint64(b[40:])}
	return c, c.end >= segmentHeader && c.end <= size && c.next >= h.first && c.next <= math.MaxInt64 &&
		(c.needed == c.next || c.needed == c.next+1)
}

// add notes that a record was added.
func (c *content) add(r *record, bytes int) {
	c.end += r.size()
	if r.next() > c.next {
		c.next = r.next()
	}
	c.needed = c.next
	if r.kind == kindPart && r.lines == 0 {
		c.needed = max(c.needed, r.first+1)
	}
	if r.kind != kindLost {
		c.lines += uint64(r.lines)
	}
	c.bytes += uint64(bytes)
}
