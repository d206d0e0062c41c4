package kafka

import (
	"encoding/binary"
	"math"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// The parts of Avro's binary encoding (specification 1.12, "Binary encoding") that our schemas
// need. Numbers are zigzag varints, which [binary.AppendVarint] writes.

func avroLong(dst []byte, n int64) []byte { return binary.AppendVarint(dst, n) }

// avroString appends a text. Avro's are UTF-8; other bytes become U+FFFD.
func avroString(dst []byte, s string) []byte {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return append(avroLong(dst, int64(len(s))), s...)
}

func avroBytes(dst, b []byte) []byte { return append(avroLong(dst, int64(len(b))), b...) }

func avroBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func avroDouble(dst []byte, f float64) []byte {
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(f))
}

// avroBlock appends a map or array of n elements as one block with its size, so that readers
// can pass over it.
func avroBlock(dst []byte, n int, elements func(dst []byte) []byte) []byte {
	if n > 0 {
		dst = avroLong(dst, -int64(n))
		start := len(dst)
		dst = elements(dst)
		var size [binary.MaxVarintLen64]byte
		dst = insert(dst, start, avroLong(size[:0], int64(len(dst)-start)))
	}
	return avroLong(dst, 0)
}

// insert puts b into dst at a place.
func insert(dst []byte, at int, b []byte) []byte {
	dst = append(dst, b...)
	copy(dst[at+len(b):], dst[at:])
	copy(dst[at:], b)
	return dst
}

// avroFields appends those of fields that are texts, or those that are not, as a map.
func avroFields(dst []byte, fields event.Fields, json bool) []byte {
	n := 0
	for _, f := range fields {
		if f.JSON == json {
			n++
		}
	}
	return avroBlock(dst, n, func(dst []byte) []byte {
		for _, f := range fields {
			if f.JSON == json {
				dst = avroString(avroString(dst, f.Key), f.Value)
			}
		}
		return dst
	})
}

// appendEventAvro appends an event by schema/event.avsc.
func appendEventAvro(dst []byte, item deliver.Item) []byte {
	e := item.Event
	dst = avroString(dst, e.ID)
	dst = avroString(dst, e.Source)
	dst = avroString(dst, e.Type)
	dst = avroString(dst, e.Path)
	dst = avroLong(dst, e.Time.UnixMicro())
	dst = avroString(dst, e.Namespace)
	dst = avroFields(dst, e.Metadata, false)
	dst = avroFields(dst, e.Metadata, true)
	dst = avroFields(dst, e.Extensions, false)
	dst = avroFields(dst, e.Extensions, true)
	if e.Data == nil {
		dst = avroLong(dst, 0)
	} else {
		dst = avroBytes(avroLong(dst, 1), e.Data)
	}
	dst = avroString(dst, e.DataContentType)
	dst = avroString(dst, e.DataSchema)
	dst = avroString(dst, e.DataRef)
	dst = avroString(dst, item.At.String())
	dst = avroTime(dst, e.Recorded)
	dst = avroBlock(dst, len(e.EntityIDs), func(dst []byte) []byte {
		for _, id := range e.EntityIDs {
			dst = avroString(dst, id)
		}
		return dst
	})
	dst = avroString(dst, e.Note)
	p := e.Plugin
	if p == nil {
		return avroLong(dst, 0)
	}
	dst = avroLong(dst, 1)
	for _, s := range [...]string{p.MountClass, p.MountAccessor, p.MountPath, p.Plugin, p.PluginVersion, p.Version} {
		dst = avroString(dst, s)
	}
	return avroBool(dst, p.IsLocal)
}

// avroTime appends a time that may be missing.
func avroTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return avroLong(dst, 0)
	}
	return avroLong(avroLong(dst, 1), t.UnixMicro())
}
