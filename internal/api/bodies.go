package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// minBodyBytes is the smallest piece of memory for a body. A body gets the next
	// larger one, twice as large, only when it has filled the one before, so that those
	// who send slowly take little.
	minBodyBytes = 16 << 10

	// maxDecoders bounds the bodies that are decompressed at once, because a decoder may
	// need as much as its window besides what it gives out; the others wait.
	maxDecoders     = 4
	maxDecodeWindow = 8 << 20 // bytes, what RFC 8878 recommends to support
)

var (
	errBodyTooLarge  = errors.New("the body is too large")
	errBodiesTooMany = errors.New("too many bodies are being received")
)

// bodies is the memory in which the bodies of requests are held, whose sum is bounded. It
// is safe for concurrent use.
type bodies struct {
	most     int64 // bytes
	used     atomic.Int64
	spare    [16]sync.Pool // of *[]byte, by the power of two of their size over minBodyBytes
	decoders chan *decoder // nil: not made yet
}

func newBodies(most int64) *bodies {
	b := &bodies{most: most, decoders: make(chan *decoder, min(runtime.GOMAXPROCS(0), maxDecoders))}
	for range cap(b.decoders) {
		b.decoders <- nil
	}
	return b
}

// take reserves n bytes, unless too many are.
func (b *bodies) take(n int64) error {
	if b.used.Add(n) > b.most {
		b.used.Add(-n)
		return errBodiesTooMany
	}
	return nil
}

// content is what was read of one body. [content.free] gives its memory back.
type content struct {
	from   *bodies
	bytes  []byte
	memory *[]byte // what bytes is in
	more   int64   // reserved besides
}

func (b *bodies) new() *content { return &content{from: b} }

// grow gives the body memory of twice the size.
func (m *content) grow() error {
	size := max(minBodyBytes, 2*cap(m.bytes))
	if err := m.from.take(int64(size)); err != nil {
		return err
	}
	memory, _ := m.from.class(size).Get().(*[]byte)
	if memory == nil {
		fresh := make([]byte, size)
		memory = &fresh
	}
	read := append((*memory)[:0], m.bytes...)
	m.drop()
	m.bytes, m.memory = read, memory
	return nil
}

// class is where memory of size bytes is kept for reuse.
func (b *bodies) class(size int) *sync.Pool {
	return &b.spare[bits.Len(uint(size/minBodyBytes))-1]
}

// drop gives the memory of the bytes back, which must not be used any more.
func (m *content) drop() {
	if m.memory != nil {
		size := len(*m.memory)
		m.from.class(size).Put(m.memory)
		m.from.used.Add(-int64(size))
	}
	m.bytes, m.memory = nil, nil
}

// reserve reserves n bytes more for what is made of the body.
func (m *content) reserve(n int) error {
	if err := m.from.take(int64(n)); err != nil {
		return err
	}
	m.more += int64(n)
	return nil
}

// free gives everything back.
func (m *content) free() {
	m.drop()
	m.from.used.Add(-m.more)
	m.more = 0
}

// fill reads all of r, at most most bytes. Its errors are errBodyTooLarge,
// errBodiesTooMany, and those of r.
func (m *content) fill(r io.Reader, most int) error {
	for {
		if len(m.bytes) == most {
			return ended(r)
		}
		if len(m.bytes) == cap(m.bytes) {
			if err := m.grow(); err != nil {
				return err
			}
		}
		n, err := r.Read(m.bytes[len(m.bytes):min(cap(m.bytes), most)])
		m.bytes = m.bytes[:len(m.bytes)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ended returns nil when r has nothing more.
func ended(r io.Reader) error {
	var one [1]byte
	switch _, err := io.ReadFull(r, one[:]); err {
	case nil:
		return errBodyTooLarge
	case io.EOF:
		return nil
	default:
		return err
	}
}

// The content encodings that are understood, besides none.
const (
	encodingGzip = "gzip"
	encodingZstd = "zstd"
	encodings    = encodingGzip + ", " + encodingZstd // for Accept-Encoding
)

// encodingError says that a body is not what its encoding says.
type encodingError struct {
	encoding string
	err      error
}

func (e *encodingError) Error() string {
	return fmt.Sprintf("the body is not %s: %v", e.encoding, e.err)
}

// decoder decompresses one body after the other.
type decoder struct {
	gzip gzip.Reader
	zstd *zstd.Decoder
	src  bytes.Reader
}

// decode replaces the bytes by what they are compressed from, at most most bytes. Its
// errors are those of fill, an [*encodingError], and that of ctx.
func (m *content) decode(ctx context.Context, encoding string, most int) error {
	var d *decoder
	select {
	case d = <-m.from.decoders:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { m.from.decoders <- d }()
	if d == nil {
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxDecodeWindow))
		if err != nil {
			return fmt.Errorf("make a decoder: %w", err)
		}
		d = &decoder{zstd: z}
	}
	out := m.from.new()
	if err := d.decode(encoding, m.bytes, out, most); err != nil {
		out.free()
		return err
	}
	m.drop()
	m.bytes, m.memory = out.bytes, out.memory
	return nil
}

func (d *decoder) decode(encoding string, in []byte, out *content, most int) (err error) {
	d.src.Reset(in)
	defer d.src.Reset(nil)
	var r io.Reader
	if encoding == encodingZstd {
		err, r = d.zstd.Reset(&d.src), d.zstd
		defer d.zstd.Reset(nil)
	} else {
		err, r = d.gzip.Reset(&d.src), &d.gzip
	}
	if err == nil {
		err = out.fill(r, most)
	}
	switch {
	case err == nil, errors.Is(err, errBodyTooLarge), errors.Is(err, errBodiesTooMany):
		return err
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return &encodingError{encoding, fmt.Errorf("its window is larger than %d MiB", maxDecodeWindow>>20)}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &encodingError{encoding, errors.New("it ends too early")}
	}
	return &encodingError{encoding, err}
}
