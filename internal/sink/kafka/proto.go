package kafka

import (
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// protoText appends a text unless it is empty. Bytes that are not UTF-8 become U+FFFD: whoever
// reads would refuse the message.
func protoText(dst []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protoMust(dst, n, s)
}

// protoMust appends a text also if it is empty.
func protoMust(dst []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, n, protowire.BytesType), strings.ToValidUTF8(s, "\uFFFD"))
}

// protoMessage appends a message, also if it is empty.
func protoMessage(dst []byte, n protowire.Number, fields func(dst []byte) []byte) []byte {
	dst = protowire.AppendTag(dst, n, protowire.BytesType)
	start := len(dst)
	dst = fields(dst)
	var size [10]byte
	return insert(dst, start, protowire.AppendVarint(size[:0], uint64(len(dst)-start)))
}

// protoTime appends a google.protobuf.Timestamp.
func protoTime(dst []byte, n protowire.Number, t time.Time) []byte {
	return protoMessage(dst, n, func(dst []byte) []byte {
		if s := t.Unix(); s != 0 {
			dst = protowire.AppendVarint(protowire.AppendTag(dst, 1, protowire.VarintType), uint64(s))
		}
		if ns := t.Nanosecond(); ns != 0 {
			dst = protowire.AppendVarint(protowire.AppendTag(dst, 2, protowire.VarintType), uint64(ns))
		}
		return dst
	})
}

// protoFields appends those of fields that are texts, or those that are not, as a map.
func protoFields(dst []byte, n protowire.Number, fields event.Fields, json bool) []byte {
	for _, f := range fields {
		if f.JSON == json {
			dst = protoMessage(dst, n, func(dst []byte) []byte { return protoMust(protoMust(dst, 1, f.Key), 2, f.Value) })
		}
	}
	return dst
}

// appendEventProto appends an event as the message tocsin.kafka.v1.Event: fields in the order of
// their numbers, maps in the order of their keys.
func appendEventProto(dst []byte, item deliver.Item) []byte {
	e := item.Event
	dst = protoText(dst, 1, e.ID)
	dst = protoText(dst, 2, e.Source)
	dst = protoText(dst, 3, e.Type)
	dst = protoText(dst, 4, e.Path)
	dst = protoTime(dst, 5, e.Time)
	dst = protoText(dst, 6, e.Namespace)
	dst = protoFields(dst, 7, e.Metadata, false)
	dst = protoFields(dst, 8, e.Metadata, true)
	dst = protoFields(dst, 9, e.Extensions, false)
	dst = protoFields(dst, 10, e.Extensions, true)
	if len(e.Data) > 0 {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 11, protowire.BytesType), e.Data)
	}
	dst = protoText(dst, 12, e.DataContentType)
	dst = protoText(dst, 13, e.DataSchema)
	dst = protoText(dst, 14, e.DataRef)
	dst = protoText(dst, 15, item.At.String())
	if !e.Recorded.IsZero() {
		dst = protoTime(dst, 16, e.Recorded)
	}
	for _, id := range e.EntityIDs {
		dst = protoMust(dst, 17, id)
	}
	dst = protoText(dst, 18, e.Note)
	if p := e.Plugin; p != nil {
		dst = protoMessage(dst, 19, func(dst []byte) []byte {
			for i, s := range [...]string{p.MountClass, p.MountAccessor, p.MountPath, p.Plugin, p.PluginVersion, p.Version} {
				dst = protoText(dst, protowire.Number(i+1), s)
			}
			if p.IsLocal {
				dst = protowire.AppendVarint(protowire.AppendTag(dst, 7, protowire.VarintType), 1)
			}
			return dst
		})
	}
	return dst
}
