package pluginwire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Field numbers of pb.OpenResponse.
const (
	fieldEvents        = 1
	fieldCount         = 2
	fieldPosition      = 3
	fieldHasPosition   = 4
	fieldDropped       = 5
	fieldDroppedReason = 6
)

// codec is that of protobuf, but that it reads and writes a batch without copies of its events.
type codec struct{}

var protobuf = encoding.GetCodecV2(grpcproto.Name)

func (codec) Name() string { return grpcproto.Name }

// sent is an answer of Open on its way out. The memory of the events is given back through
// their buffer, when they are written.
type sent struct {
	events mem.Buffer // nil: none; freed by whoever sends it
	count  int
	batch  *sourceplugin.Batch // has everything else; nil: nothing
}

// received is an answer of Open that has come in. Its memory is used again.
type received struct {
	batch sourceplugin.Batch
	count uint64 // as it says
}

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*sent)
	if !ok {
		return protobuf.Marshal(v)
	}
	head := make([]byte, 0, 64)
	head = protowire.AppendTag(head, fieldCount, protowire.VarintType)
	head = protowire.AppendVarint(head, uint64(m.count))
	if m.batch != nil {
		head = appendRest(head, m.batch)
	}
	n := 0
	if m.events != nil {
		n = m.events.Len()
	}
	head = protowire.AppendTag(head, fieldEvents, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(n))
	out := mem.BufferSlice{mem.SliceBuffer(head)}
	if n > 0 {
		out = append(out, m.events)
	}
	return out, nil
}

func appendRest(b []byte, batch *sourceplugin.Batch) []byte {
	if batch.Position != nil {
		b = protowire.AppendTag(b, fieldPosition, protowire.BytesType)
		b = protowire.AppendBytes(b, batch.Position)
		b = protowire.AppendTag(b, fieldHasPosition, protowire.VarintType)
		b = protowire.AppendVarint(b, 1)
	}
	if batch.Dropped > 0 {
		b = protowire.AppendTag(b, fieldDropped, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(uint32(min(batch.Dropped, 1<<31-1))))
	}
	if batch.DroppedReason != "" {
		b = protowire.AppendTag(b, fieldDroppedReason, protowire.BytesType)
		b = protowire.AppendString(b, short(batch.DroppedReason))
	}
	return b
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*received)
	if !ok {
		return protobuf.Unmarshal(data, v)
	}
	r := data.Reader()
	defer r.Close()
	return m.read(r)
}

// source is what a message is read from.
type source interface {
	io.Reader
	io.ByteReader
	Remaining() int
}

// read reads a message. The events are copied once, into the memory of m.
func (m *received) read(r source) error {
	spare := m.batch.Events[:0]
	m.batch = sourceplugin.Batch{Events: spare}
	m.count = 0
	var position []byte
	hasPosition := false
	for r.Remaining() > 0 {
		tag, err := binary.ReadUvarint(r)
		if err != nil {
			return errTruncated
		}
		number, kind := protowire.DecodeTag(tag)
		var value uint64
		switch {
		case number < 1:
			return errors.New("a field has no number")
		case kind == protowire.VarintType, kind == protowire.BytesType:
			if value, err = binary.ReadUvarint(r); err != nil {
				return errTruncated
			}
		case kind == protowire.Fixed32Type:
			value = 4
		case kind == protowire.Fixed64Type:
			value = 8
		default:
			return fmt.Errorf("field %d has the kind %d", number, kind)
		}
		if kind != protowire.VarintType && value > uint64(r.Remaining()) {
			return errTruncated
		}
		switch {
		case kind == protowire.BytesType && number == fieldEvents:
			m.batch.Events, err = readInto(m.batch.Events[:0], r, int(value))
		case kind == protowire.BytesType && number == fieldPosition:
			if value > maxPosition {
				return fmt.Errorf("a position has %d bytes, and at most %d are allowed", value, maxPosition)
			}
			position, err = readInto(nil, r, int(value))
		case kind == protowire.BytesType && number == fieldDroppedReason:
			var text []byte
			if text, err = readInto(nil, r, int(min(value, 4*maxText))); err == nil {
				m.batch.DroppedReason = string(text)
				err = skip(r, value-uint64(len(text)))
			}
		case kind == protowire.VarintType && number == fieldCount:
			m.count = value
		case kind == protowire.VarintType && number == fieldHasPosition:
			hasPosition = value != 0
		case kind == protowire.VarintType && number == fieldDropped:
			m.batch.Dropped = int(uint32(value))
		case kind == protowire.VarintType:
		default:
			err = skip(r, value)
		}
		if err != nil {
			return errTruncated
		}
	}
	if hasPosition {
		m.batch.Position = append([]byte{}, position...)
	}
	if !utf8.ValidString(m.batch.DroppedReason) {
		m.batch.DroppedReason = "" // cut, or no text at all
	}
	return nil
}

var errTruncated = errors.New("the message is truncated")

// readInto reads n bytes, of which r has as many, into the memory of b.
func readInto(b []byte, r io.Reader, n int) ([]byte, error) {
	b = slices.Grow(b[:0], n)[:n]
	_, err := io.ReadFull(r, b)
	return b, err
}

func skip(r io.Reader, n uint64) error {
	_, err := io.CopyN(io.Discard, r, int64(n))
	return err
}
