package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/directory"
)

// A segment is a file. It begins with a block of segmentHeader bytes, little-endian:
//
//	0  fileMagic
//	16 number of its first entry
//	24 CRC-32C of the 24 bytes before
//
// Groups of entries follow, one behind the other:
//
//	0  groupMagic
//	4  length of the payload
//	8  number of entries
//	12 number of the first of them
//	20 when they were recorded, nanoseconds since 1970
//	28 CRC-32C of the payload
//	32 CRC-32C of the 32 bytes before
//	36 payload: each entry behind its length, a uvarint
//
// Behind the last group there are zeros: the space of a segment is taken when it is begun. A
// process never adds to a segment of another, so a group that a crash cut off is the last of
// its file.
const (
	fileMagic     = "tocsin queue 1\n\x00"
	segmentHeader = 64
	groupHeader   = 36

	// maxGroupBytes bounds the payload of a group, unless one entry is larger.
	maxGroupBytes   = 1 << 20
	maxPayloadBytes = MaxEntryBytes + binary.MaxVarintLen32

	lockFile      = "LOCK"
	segmentSuffix = ".queue"
	damagedSuffix = ".damaged"
)

var (
	groupMagic = [4]byte{0xf5, 'T', 'Q', 'G'} // 0xf5 occurs in no UTF-8
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// groupHead is what the header of a group says.
type groupHead struct {
	length, entries int
	first           uint64
	recorded        int64
	sum             uint32
}

func (h *groupHead) next() uint64 { return h.first + uint64(h.entries) }

// put writes a header in front of the payload of b, which has room for it.
func (h *groupHead) put(b []byte) {
	copy(b, groupMagic[:])
	binary.LittleEndian.PutUint32(b[4:], uint32(h.length))
	binary.LittleEndian.PutUint32(b[8:], uint32(h.entries))
	binary.LittleEndian.PutUint64(b[12:], h.first)
	binary.LittleEndian.PutUint64(b[20:], uint64(h.recorded))
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[groupHeader:], castagnoli))
	binary.LittleEndian.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
}

// parseGroup reads a header; false when none begins there.
func parseGroup(b []byte) (h groupHead, ok bool) {
	if len(b) < groupHeader || !bytes.Equal(b[:4], groupMagic[:]) ||
		binary.LittleEndian.Uint32(b[32:]) != crc32.Checksum(b[:32], castagnoli) {
		return h, false
	}
	length, entries := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	h.first, h.recorded = binary.LittleEndian.Uint64(b[12:]), int64(binary.LittleEndian.Uint64(b[20:]))
	if length > maxPayloadBytes || entries < 1 || entries > length || h.first+uint64(entries) < h.first {
		return h, false
	}
	h.length, h.entries, h.sum = int(length), int(entries), binary.LittleEndian.Uint32(b[28:])
	return h, true
}

// appendEntries appends the entries of a group to a chunk's data and ends. It is false when
// the payload is not what the header says.
func (h *groupHead) appendEntries(c *chunk, payload []byte) bool {
	if crc32.Checksum(payload, castagnoli) != h.sum {
		return false
	}
	data, ends := len(c.data), len(c.ends)
	for range h.entries {
		length, n := binary.Uvarint(payload)
		if n <= 0 || length == 0 || length > uint64(len(payload)-n) {
			c.data, c.ends = c.data[:data], c.ends[:ends]
			return false
		}
		c.add(payload[n : n+int(length)])
		payload = payload[n+int(length):]
	}
	if len(payload) > 0 {
		c.data, c.ends = c.data[:data], c.ends[:ends]
		return false
	}
	return true
}

// segment is one file. Its fields are guarded by the mutex of the queue, except those that
// do not change.
type segment struct {
	path   string
	number uint64
	file   *os.File
	first  uint64 // number of the first entry
	next   uint64 // number behind the last entry
	end    int64  // where the groups end
	size   int64  // of the disk
	zeroed int64  // up to where it was written before, with zeros or groups; of the writer
	marks  []mark // some of the groups, in order
	holes  []hole // what cannot be read
	bad    bool   // it is kept aside when nobody needs it
}

// mark says where a group is.
type mark struct {
	first    uint64
	offset   int64
	recorded int64
}

// hole is a part that cannot be read: entries from a number to another, in the bytes from
// an offset to another.
type hole struct {
	from, to   uint64
	begin, end int64
	why        string
}

// markEvery is how far marks are apart.
const markEvery = 64 << 10

func (g *segment) mark(h *groupHead, offset int64) {
	if n := len(g.marks); n == 0 || offset-g.marks[n-1].offset >= markEvery {
		g.marks = append(g.marks, mark{h.first, offset, h.recorded})
	}
}

// before returns the last mark at or before an entry.
func (g *segment) before(number uint64) (mark, bool) {
	i := sort.Search(len(g.marks), func(i int) bool { return g.marks[i].first > number })
	if i == 0 {
		return mark{first: g.first, offset: segmentHeader}, false
	}
	return g.marks[i-1], true
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", number, segmentSuffix))
}

// segmentNumber returns the number in the name of a segment.
func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	number, err := strconv.ParseUint(digits, 16, 64)
	return number, ok && err == nil && len(digits) == 16
}

// createSegment makes a file that exists after a crash, with its space.
func createSegment(dir string, number, first uint64, size int64) (*segment, error) {
	path := segmentPath(dir, number)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	head := make([]byte, segmentHeader)
	copy(head, fileMagic)
	binary.LittleEndian.PutUint64(head[16:], first)
	binary.LittleEndian.PutUint32(head[24:], crc32.Checksum(head[:24], castagnoli))
	err = directory.Allocate(f, size)
	if err == nil {
		_, err = f.WriteAt(head, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = directory.Sync(dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &segment{path: path, number: number, file: f, first: first, next: first, end: segmentHeader, size: size}, nil
}

// zeroAhead is how many zeros are written at once in front of the groups. File systems note where
// allocated space was written for the first time, so that each sync would wait for their
// journal; with this, one in many does.
const zeroAhead = 1 << 20

var zeros [zeroAhead]byte

// prepare writes zeros where the next groups go, if that has to be done. They are synced with a
// group.
func (g *segment) prepare(length int) error {
	from := max(g.zeroed, g.end)
	if g.end+int64(length) <= g.zeroed || from >= g.size {
		return nil
	}
	n, err := g.file.WriteAt(zeros[:min(zeroAhead, g.size-from)], from)
	g.zeroed = from + int64(n)
	return err
}

// scanned is what is in a file.
type scanned struct {
	first, next uint64
	begun       bool // it has a header
	end         int64
	marks       []mark
	holes       []hole
	torn        bool // something that is no group follows
}

var errNoSegment = errors.New("it does not begin like a file of a queue")

// scan reads a file of a former process. What is damaged is passed over: it goes on with
// the next group that is whole.
func scan(f io.ReaderAt, size int64) (s scanned, err error) {
	head := make([]byte, segmentHeader)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return s, err
	}
	if n < segmentHeader || string(head[:16]) != fileMagic || binary.LittleEndian.Uint32(head[24:]) != crc32.Checksum(head[:24], castagnoli) {
		if len(bytes.Trim(head[:n], "\x00")) == 0 {
			return s, nil // a crash came before it was begun
		}
		return s, errNoSegment
	}
	s.begun = true
	s.first = binary.LittleEndian.Uint64(head[16:])
	s.next, s.end = s.first, segmentHeader
	r := blockReader{f: f, size: size}
	for at := int64(segmentHeader); at < size; {
		h, ok, err := r.group(at, s.next)
		if err != nil {
			return s, err
		}
		if ok {
			g := segment{marks: s.marks}
			g.mark(&h, at)
			s.marks = g.marks
			at += groupHeader + int64(h.length)
			s.next, s.end = h.next(), at
			continue
		}
		found, h, err := r.findGroup(at+1, s.next)
		if err != nil {
			return s, err
		}
		if found < 0 {
			s.torn, err = r.anything(at)
			return s, err
		}
		s.holes = append(s.holes, hole{from: s.next, to: h.first, begin: at, end: found, why: "it is damaged"})
		s.next, at = h.first, found
	}
	return s, nil
}

// blockReader reads a file in large blocks.
type blockReader struct {
	f     io.ReaderAt
	size  int64
	block []byte
	at    int64 // where the block is
}

const blockBytes = 256 << 10

// bytes returns n bytes, fewer at the end of the file.
func (r *blockReader) bytes(at int64, n int) ([]byte, error) {
	n = int(min(int64(n), r.size-at))
	if n <= 0 {
		return nil, nil
	}
	if at < r.at || at+int64(n) > r.at+int64(len(r.block)) {
		want := int(min(int64(max(n, blockBytes)), r.size-at))
		if cap(r.block) < want {
			r.block = make([]byte, want)
		}
		r.block, r.at = r.block[:want], at
		if got, err := r.f.ReadAt(r.block, at); got < want {
			r.block = r.block[:0]
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return r.block[at-r.at:][:n], nil
}

// group reads the header of a whole group that has entries from a number on.
func (r *blockReader) group(at int64, from uint64) (h groupHead, ok bool, err error) {
	b, err := r.bytes(at, groupHeader)
	if err != nil {
		return h, false, err
	}
	if h, ok = parseGroup(b); !ok || h.first < from || at+groupHeader+int64(h.length) > r.size {
		return h, false, nil
	}
	b, err = r.bytes(at+groupHeader, h.length)
	if err != nil {
		return h, false, err
	}
	return h, crc32.Checksum(b, castagnoli) == h.sum, nil
}

// findGroup looks for a whole group from an offset on, -1 for none.
func (r *blockReader) findGroup(at int64, from uint64) (int64, groupHead, error) {
	for at < r.size {
		b, err := r.bytes(at, blockBytes)
		if err != nil {
			return -1, groupHead{}, err
		}
		i := bytes.Index(b, groupMagic[:])
		if i < 0 {
			if len(b) < len(groupMagic) || at+int64(len(b)) == r.size {
				return -1, groupHead{}, nil
			}
			at += int64(len(b) - len(groupMagic) + 1)
			continue
		}
		at += int64(i)
		if h, ok, err := r.group(at, from); ok || err != nil {
			return at, h, err
		}
		at++
	}
	return -1, groupHead{}, nil
}

// anything reports whether there is more than zeros behind an offset.
func (r *blockReader) anything(at int64) (bool, error) {
	for at < r.size {
		b, err := r.bytes(at, blockBytes)
		if err != nil {
			return false, err
		}
		if len(bytes.Trim(b, "\x00")) > 0 {
			return true, nil
		}
		at += int64(len(b))
	}
	return false, nil
}

func nanos(t int64) time.Time { return time.Unix(0, t).UTC() }
