package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/tocsin-events/tocsin/internal/directory"
)

// A segment begins with fileMagic. Each record is a header, little-endian, and the
// payload:
//
//	0  recordMagic
//	4  length of the payload
//	8  number of events
//	12 CRC-32C of the payload
//	16 CRC-32C of the 16 bytes before
//	20 stateDone when it is done, else anything else; not covered by a checksum
//	21 three zeros
//
// A process never appends to a segment of another, so a record that a crash cut off is
// the last of its file.
const (
	fileMagic   = "tocsin spool 1\n\x00"
	headerBytes = 24
	stateOffset = 20
	stateWaits  = 'w'
	stateDone   = 'D'
)

var (
	recordMagic = [4]byte{0xf5, 'T', 'S', 'R'} // 0xf5 occurs in no UTF-8
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// recordBytes is how long a record with such a payload is.
func recordBytes(payload int) int64 { return headerBytes + int64(payload) }

// record is what a header says.
type record struct {
	length, events int
	sum            uint32
	done           bool
}

func appendHeader(dst []byte, events int, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, recordMagic[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(events))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(payload, castagnoli))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return append(dst, stateWaits, 0, 0, 0)
}

var errNoRecord = errors.New("no record begins there")

func parseHeader(b []byte) (record, error) {
	if len(b) < headerBytes || !bytes.Equal(b[:4], recordMagic[:]) ||
		binary.LittleEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) {
		return record{}, errNoRecord
	}
	length, events := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	if length > MaxPayloadBytes || events < 1 || events > length {
		return record{}, errNoRecord
	}
	return record{
		length: int(length),
		events: int(events),
		sum:    binary.LittleEndian.Uint32(b[12:]),
		done:   b[stateOffset] == stateDone,
	}, nil
}

// openSegment opens a file of an earlier process.
func openSegment(path string) (*segment, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open a spool file: %w", err)
	}
	return &segment{path: path, file: f}, nil
}

// createSegment makes a file that exists after a crash.
func createSegment(path string) (*segment, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteString(fileMagic); err == nil {
		err = directory.Sync(filepath.Dir(path)) // the content is synced with the first record
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return &segment{path: path, file: f, size: int64(len(fileMagic)), read: int64(len(fileMagic))}, nil
}

func (g *segment) keptPath() string { return g.path + damagedSuffix }

// write puts a record behind the good ones and syncs.
func (g *segment) write(events int, payload []byte) error {
	head := appendHeader(make([]byte, 0, headerBytes), events, payload)
	if _, err := g.file.WriteAt(head, g.size); err != nil {
		return err
	}
	if _, err := g.file.WriteAt(payload, g.size+headerBytes); err != nil {
		return err
	}
	return g.file.Sync()
}

func (g *segment) header(offset int64) (record, error) {
	var b [headerBytes]byte
	if _, err := g.file.ReadAt(b[:], offset); err != nil {
		return record{}, err
	}
	return parseHeader(b[:])
}

var errChecksum = errors.New("the checksum is wrong")

// payload appends the payload of the record at an offset.
func (g *segment) payload(dst []byte, offset int64, r record) ([]byte, error) {
	return readPayload(dst, g.file, offset, r)
}

func readPayload(dst []byte, f io.ReaderAt, offset int64, r record) ([]byte, error) {
	start := len(dst)
	dst = append(dst, make([]byte, r.length)...)
	if _, err := f.ReadAt(dst[start:], offset+headerBytes); err != nil {
		return dst, err
	}
	if crc32.Checksum(dst[start:], castagnoli) != r.sum {
		return dst, errChecksum
	}
	return dst, nil
}

func (g *segment) markDone(offset int64) error {
	_, err := g.file.WriteAt([]byte{stateDone}, offset+stateOffset)
	return err
}

// scan finds the records of a file of an earlier process.
func (g *segment) scan() *Damage {
	info, err := g.file.Stat()
	if err != nil {
		return &Damage{Err: err}
	}
	found, err := scan(g.file, info.Size())
	g.read, g.size, g.events, g.untaken, g.undone = found.begin, found.end, found.events, found.records, found.records
	if err != nil {
		return &Damage{Err: err}
	}
	return nil
}

// scanned is what is in a file: from begin to end records with a good header.
type scanned struct {
	begin, end      int64
	records, events int // those that are not done
}

// scan goes through a file from header to header. An error tells that something follows
// behind the end that is no record; an incomplete record there is no error. Of the
// payloads only the last is looked at.
func scan(f io.ReaderAt, size int64) (s scanned, err error) {
	head := make([]byte, len(fileMagic))
	if n, err := f.ReadAt(head, 0); n < len(head) {
		if err == io.EOF && bytes.HasPrefix([]byte(fileMagic), head[:n]) {
			return s, nil // a crash came before the first record
		}
		return s, fmt.Errorf("read the beginning: %w", err)
	}
	if string(head) != fileMagic {
		if isZero(f, 0, size) {
			return s, nil
		}
		return s, errors.New("it does not begin like a spool file")
	}
	at := int64(len(head))
	s.begin, s.end = at, at
	for at < size {
		var b [headerBytes]byte
		if n, err := f.ReadAt(b[:], at); n < headerBytes {
			if err == io.EOF {
				return s, nil // torn
			}
			return s, fmt.Errorf("read at %d: %w", at, err)
		}
		r, err := parseHeader(b[:])
		if err != nil {
			if isZero(f, at, size) {
				return s, nil
			}
			return s, fmt.Errorf("at %d of %d: %w", at, size, err)
		}
		next := at + recordBytes(r.length)
		if next > size {
			return s, nil // torn
		}
		if next == size {
			if _, err := readPayload(nil, f, at, r); err == errChecksum {
				return s, nil // torn: the file had its size before it had its content
			}
		}
		if !r.done {
			s.records++
			s.events += r.events
		}
		at = next
		s.end = at
	}
	return s, nil
}

// isZero reports whether there are only zeros from an offset on, as a file system may
// leave them where a crash came between allocating and writing.
func isZero(f io.ReaderAt, from, size int64) bool {
	r := io.NewSectionReader(f, from, min(size, math.MaxInt64)-from)
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.TrimLeft(buf[:n], "\x00")) > 0 {
			return false
		}
		if err != nil {
			return err == io.EOF
		}
	}
}
