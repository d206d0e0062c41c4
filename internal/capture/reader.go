package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// readBytes is how much is read at once.
const readBytes = 256 << 10

// ReaderOptions bound a [Reader]. The zero value is good.
type ReaderOptions struct {
	// MaxBlockBytes bounds a block with an event, and so the memory of the reader; 0 is
	// DefaultMaxBlockBytes.
	MaxBlockBytes int
}

// Reader reads the events of plugins in a capture. Its methods are called by one goroutine at a
// time.
type Reader struct {
	in    io.Reader
	max   int
	gzip  bool
	buf   []byte // read, but not used
	mem   []byte // buf is a part of it
	at    int64  // of the first byte of buf, uncompressed
	inErr error  // of in, behind buf
	err   error  // of Next, for good

	machine Machine
	stats   Stats
	record  Record
	scratch []byte
}

// Stats count what a [Reader] has read.
type Stats struct {
	Bytes    int64  // uncompressed
	Sections int    // more than one in concatenated captures
	Events   uint64 // returned
	Hidden   uint64 // events that are there for the state of a program only
	Foreign  uint64 // events of no plugin: of system calls, or of an unknown type
	Blocks   uint64 // others than sections and events
}

// Record is an event in its place. It is valid until the next call of the reader.
type Record struct {
	scapevent.Event
	// Number counts the events of the capture from 1, hidden ones included.
	Number uint64
	// Offset is where its block begins in the uncompressed bytes.
	Offset int64
	CPU    uint16
	// Machine is that of the section.
	Machine *Machine
}

// NewReader returns a reader of a capture that begins where in is. Whether it is compressed its
// first bytes tell. The error is an *Error for what is no capture.
func NewReader(in io.Reader, o ReaderOptions) (*Reader, error) {
	r := &Reader{in: in, max: o.MaxBlockBytes}
	if r.max <= 0 {
		r.max = DefaultMaxBlockBytes
	}
	head := bufio.NewReaderSize(in, 64<<10)
	if magic, _ := head.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(head)
		if err != nil {
			return nil, r.fail(compressed(err))
		}
		r.in, r.gzip = z, true
	} else {
		// What was peeked at is read first, and the rest without another buffer.
		begin, err := head.Peek(head.Buffered())
		if err != nil {
			return nil, r.fail(err)
		}
		r.in = io.MultiReader(bytes.NewReader(begin), in)
	}
	header, err := r.need(blockHeaderBytes)
	switch {
	case errors.Is(err, io.EOF) && len(r.buf) == 0:
		return nil, r.fail(fmt.Errorf("%w: it is empty", ErrMalformed))
	case errors.Is(err, io.EOF) && bytes.HasPrefix(sectionMagic, r.buf[:min(len(r.buf), len(sectionMagic))]):
		return nil, r.fail(fmt.Errorf("%w: it ends within its first block", ErrTruncated))
	case errors.Is(err, io.EOF):
		return nil, r.fail(fmt.Errorf("%w: it is no capture", ErrMalformed))
	case err != nil:
		return nil, r.fail(err)
	case binary.LittleEndian.Uint32(header) != blockSection:
		return nil, r.fail(fmt.Errorf("%w: it is no capture: it begins with %x", ErrMalformed, header[:4]))
	}
	if err := r.section(binary.LittleEndian.Uint32(header[4:])); err != nil {
		return nil, r.fail(err)
	}
	return r, nil
}

// sectionMagic begins every capture.
var sectionMagic = binary.LittleEndian.AppendUint32(nil, blockSection)

// Gzip reports whether the capture is compressed.
func (r *Reader) Gzip() bool { return r.gzip }

// Stats returns what was read.
func (r *Reader) Stats() Stats {
	r.stats.Bytes = r.at
	return r.stats
}

// Machine returns the machine of the section, as far as it was read.
func (r *Reader) Machine() Machine { return r.machine }

// Next returns the next event of a plugin. The error is io.EOF at the end, else an *Error; it
// is the same from then on. An event that says less than it should (no payload, no id) has an
// empty one, or 0.
func (r *Reader) Next() (*Record, error) {
	if r.err != nil {
		return nil, r.err
	}
	for {
		ok, err := r.block()
		switch {
		case errors.Is(err, io.EOF):
			r.err = io.EOF
			return nil, r.err
		case err != nil:
			return nil, r.fail(err)
		case ok:
			r.stats.Events++
			return &r.record, nil
		}
	}
}

// fail remembers err, and where it is.
func (r *Reader) fail(err error) error {
	r.err = &Error{Offset: r.at, Err: err}
	return r.err
}

// block reads one block and reports whether it is an event to return. The error is io.EOF at
// the end of the capture.
func (r *Reader) block() (bool, error) {
	header, err := r.need(blockHeaderBytes)
	switch {
	case errors.Is(err, io.EOF) && len(r.buf) == 0:
		return false, io.EOF
	case errors.Is(err, io.EOF):
		return false, fmt.Errorf("%w: it ends within the head of a block", ErrTruncated)
	case err != nil:
		return false, err
	}
	blockType, total := binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint32(header[4:])
	if total < blockHeaderBytes+blockTrailerBytes {
		return false, fmt.Errorf("%w: a block of the type %#x has the length %d", ErrMalformed, blockType, total)
	}
	switch blockType {
	case blockSection:
		r.machine = Machine{}
		return false, r.section(total)
	case blockEvent, blockEventLarge:
		return r.event(blockType, total, cpuBytes)
	case blockEventFlags, blockEventLargeFlag:
		return r.event(blockType, total, cpuBytes+flagBytes)
	case blockEventOld, blockEventOldFlags, blockEventOldUnofficial:
		return false, fmt.Errorf("%w: an event in a block of the old type %#x, which no event of a plugin is in; sysdig can convert the capture: \"sysdig -r OLD -w NEW\"", ErrUnsupported, blockType)
	case blockMachine, blockMachineUnofficial:
		r.stats.Blocks++
		if total >= blockHeaderBytes+machineBytes+blockTrailerBytes && total <= readBytes {
			b, err := r.whole(total)
			if err != nil {
				return false, err
			}
			r.machine.parse(b[blockHeaderBytes:])
		}
	default:
		r.stats.Blocks++
	}
	return false, r.skip(blockType, total)
}

// section reads the header of a section.
func (r *Reader) section(total uint32) error {
	if total < sectionBytes || total > readBytes {
		if total == sectionBytes<<24 {
			return errBigEndian
		}
		return fmt.Errorf("%w: the header of a section has the length %d", ErrMalformed, total)
	}
	b, err := r.whole(total)
	if err != nil {
		return err
	}
	magic, major := binary.LittleEndian.Uint32(b[blockHeaderBytes:]), binary.LittleEndian.Uint16(b[blockHeaderBytes+4:])
	switch {
	case magic == 0x4D3C2B1A:
		return errBigEndian
	case magic != byteOrderMagic:
		return fmt.Errorf("%w: it is no capture: the byte-order magic is %#x", ErrMalformed, magic)
	case major > majorVersion:
		return fmt.Errorf("%w: the version %d.%d of the format is not known, up to %d.x is", ErrUnsupported, major, binary.LittleEndian.Uint16(b[blockHeaderBytes+6:]), majorVersion)
	}
	r.stats.Sections++
	return r.skip(blockSection, total)
}

var errBigEndian = fmt.Errorf("%w: it was made on a big-endian machine", ErrUnsupported)

// whole returns a block, which it does not consume.
func (r *Reader) whole(total uint32) ([]byte, error) {
	b, err := r.need(int(total))
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends %d bytes into a block of %d", ErrTruncated, len(r.buf), total)
	}
	return b, err
}

// skip passes over a block that is no event, whatever its length, and checks its end.
func (r *Reader) skip(blockType, total uint32) error {
	start := r.at
	rest := int64(total) - blockTrailerBytes
	for rest > 0 {
		n := min(rest, int64(len(r.buf)))
		r.consume(int(n))
		rest -= n
		if rest > 0 {
			if _, err := r.need(1); err != nil {
				return r.within(start, total, err)
			}
		}
	}
	b, err := r.need(blockTrailerBytes)
	if err != nil {
		return r.within(start, total, err)
	}
	if again := binary.LittleEndian.Uint32(b); again != total {
		r.at = start
		return fmt.Errorf("%w: the lengths before and behind a block of the type %#x differ: %d and %d", ErrMalformed, blockType, total, again)
	}
	r.consume(blockTrailerBytes)
	return nil
}

// within is the error of a block that begins at start and cannot be read.
func (r *Reader) within(start int64, total uint32, err error) error {
	got := r.at + int64(len(r.buf)) - start
	r.at = start
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends %d bytes into a block of %d", ErrTruncated, got, total)
	}
	return err
}

// event reads the block of an event, which has prefix bytes before it.
func (r *Reader) event(blockType, total uint32, prefix int) (bool, error) {
	if uint64(total) > uint64(r.max) {
		return false, fmt.Errorf("%w: its block has %d bytes, more than %d", ErrTooLarge, total, r.max)
	}
	if total < uint32(blockHeaderBytes+prefix+scapevent.HeaderSize+blockTrailerBytes) {
		return false, fmt.Errorf("%w: a block of the type %#x has the length %d, too little for an event", ErrMalformed, blockType, total)
	}
	b, err := r.whole(total)
	if err != nil {
		return false, err
	}
	// The length behind it is not looked at, as nobody does; the padding may be missing.
	body := b[blockHeaderBytes : total-blockTrailerBytes]
	var flags uint32
	if prefix > cpuBytes {
		flags = binary.LittleEndian.Uint32(body[cpuBytes:])
	}
	raw := body[prefix:]
	length := binary.LittleEndian.Uint32(raw[16:])
	if length < scapevent.HeaderSize || uint64(length) > uint64(len(raw)) {
		return false, fmt.Errorf("%w: an event has the length %d in a block with room for %d", ErrMalformed, length, len(raw))
	}
	raw = raw[:length:length]
	eventType := binary.LittleEndian.Uint16(raw[20:])
	if eventType != scapevent.Plugin && eventType != scapevent.Async {
		r.stats.Foreign++
		if eventType < newestEventType {
			r.record.Number++
		}
		r.consume(int(total))
		return false, nil
	}
	e, _, err := scapevent.Next(raw)
	if err != nil {
		if e, err = r.repair(raw); err != nil {
			return false, err
		}
	}
	r.record.Number++
	r.record.Event, r.record.Offset, r.record.CPU, r.record.Machine = e, r.at, binary.LittleEndian.Uint16(body), &r.machine
	r.consume(int(total))
	if flags&stateOnly != 0 {
		r.stats.Hidden++
		return false, nil
	}
	return true, nil
}

// repair returns the event that raw is if it has other parameters than it should: those that
// are missing are empty, and what is behind them is left out. Parameters that do not fit are
// an error.
func (r *Reader) repair(raw []byte) (scapevent.Event, error) {
	eventType, count := binary.LittleEndian.Uint16(raw[20:]), binary.LittleEndian.Uint32(raw[22:])
	at := uint64(scapevent.HeaderSize) + 4*uint64(count)
	if at > uint64(len(raw)) {
		return nil, fmt.Errorf("%w: an event of %d bytes claims to have %d parameters", ErrMalformed, len(raw), count)
	}
	var params [3][]byte
	for i := range int(count) {
		n := uint64(binary.LittleEndian.Uint32(raw[scapevent.HeaderSize+4*i:]))
		if n > uint64(len(raw))-at {
			return nil, fmt.Errorf("%w: parameter %d of an event has %d bytes, but %d are left", ErrMalformed, i+1, n, uint64(len(raw))-at)
		}
		if i < len(params) {
			params[i] = raw[at : at+n]
		}
		at += n
	}
	var id uint32
	switch len(params[0]) {
	case 0:
	case 4:
		id = binary.LittleEndian.Uint32(params[0])
	default:
		return nil, fmt.Errorf("%w: the id of the plugin has %d bytes", ErrMalformed, len(params[0]))
	}
	nanos := binary.LittleEndian.Uint64(raw)
	if eventType == scapevent.Async {
		name, _, _ := bytes.Cut(params[1], []byte{0})
		r.scratch = scapevent.AppendAsync(r.scratch[:0], id, nanos, string(name), params[2])
	} else {
		r.scratch = scapevent.Append(r.scratch[:0], id, nanos, params[1])
	}
	e := scapevent.Event(r.scratch)
	e.SetThread(binary.LittleEndian.Uint64(raw[8:]))
	return e, nil
}

// need returns the next n bytes without consuming them. The error is io.EOF if there are fewer.
// Memory grows with what is read, not with what a length promises.
func (r *Reader) need(n int) ([]byte, error) {
	for len(r.buf) < n {
		if r.inErr != nil {
			return nil, r.inErr
		}
		r.fill(n)
	}
	return r.buf[:n], nil
}

func (r *Reader) consume(n int) {
	r.buf = r.buf[n:]
	r.at += int64(n)
}

// fill reads more behind buf, of which n bytes are needed. What is in buf is moved once for each
// need at most, and when the memory grows.
func (r *Reader) fill(n int) {
	switch used := len(r.buf); {
	case used == len(r.mem):
		mem := make([]byte, max(readBytes, min(n, 2*used)))
		copy(mem, r.buf)
		r.mem, r.buf = mem, mem[:used]
	case n > cap(r.buf) && cap(r.buf) < len(r.mem):
		if n <= readBytes && len(r.mem) > readBytes {
			r.mem = make([]byte, readBytes) // a large event was there
		}
		copy(r.mem, r.buf)
		r.buf = r.mem[:used]
	}
	got, err := 0, error(nil)
	for tries := 0; got == 0 && err == nil; tries++ {
		if tries == 100 {
			err = io.ErrNoProgress
			break
		}
		got, err = r.in.Read(r.buf[len(r.buf):cap(r.buf)])
	}
	r.buf = r.buf[:len(r.buf)+got]
	if err != nil && !errors.Is(err, io.EOF) && r.gzip {
		err = compressed(err)
	}
	r.inErr = err
}

// compressed says what is wrong with the compression.
func compressed(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: its compressed form ends early", ErrTruncated)
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt {
		return fmt.Errorf("%w: its compressed form is damaged: %v", ErrMalformed, err)
	}
	return err
}
