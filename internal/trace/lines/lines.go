// Package lines writes spans as lines: for people, and as JSON for programs such as jq.
package lines

import (
	"encoding/hex"
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// AppendText appends a line for people: when the request began, how long it took, how it
// ended, where, what, which half is missing, by whom, and the trace id. How it ended is "?"
// if nobody knows. What is not printable is left out.
func AppendText(dst []byte, s *trace.Span) []byte {
	dst = s.Start.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	dst = append(dst, ' ')
	dst = pad(dst, duration(s.End.Sub(s.Start)), 9, true)
	dst = append(dst, ' ')
	outcome, missing := "ok", ""
	if s.Failed {
		outcome = "failed"
	}
	switch {
	case !s.Incomplete():
	case s.Kind == trace.RequestOnly:
		if missing = "no response"; !s.Failed {
			outcome = "?"
		}
	case s.Kind == trace.ResponseOnly:
		missing = "no request"
	}
	dst = pad(dst, outcome, 6, false)
	dst = append(dst, ' ')
	dst = append(dst, telemetry.Printable(telemetry.ServiceName(s.Source))...)
	dst = append(dst, "  "...)
	dst = append(dst, telemetry.Printable(s.Name)...)
	if missing != "" {
		dst = append(dst, "  ["...)
		dst = append(dst, missing...)
		dst = append(dst, ']')
	}
	if s.Message != "" {
		dst = append(dst, "  ("...)
		dst = append(dst, telemetry.Printable(s.Message)...)
		dst = append(dst, ')')
	}
	dst = appendWho(dst, s)
	dst = append(dst, "  trace="...)
	dst = hex.AppendEncode(dst, s.TraceID[:])
	return append(dst, '\n')
}

// appendWho appends who made the request and from where, as far as the span tells.
func appendWho(dst []byte, s *trace.Span) []byte {
	name, _ := s.Get("user.name")
	address, _ := s.Get("client.address")
	if name.Text != "" {
		dst = append(append(dst, "  by "...), telemetry.Printable(name.Text)...)
	}
	if address.Text != "" {
		dst = append(append(dst, "  from "...), telemetry.Printable(address.Text)...)
	}
	return dst
}

func pad(dst []byte, s string, width int, right bool) []byte {
	fill := func() {
		for n := len([]rune(s)); n < width; n++ {
			dst = append(dst, ' ')
		}
	}
	if right {
		fill()
	}
	dst = append(dst, s...)
	if !right {
		fill()
	}
	return dst
}

// duration writes a duration with three or four digits.
func duration(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return d.String()
	case d < time.Millisecond:
		return d.Round(10 * time.Nanosecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// AppendJSON appends a line with one JSON object.
func AppendJSON(dst []byte, s *trace.Span) []byte {
	dst = append(dst, `{"start":"`...)
	dst = s.Start.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","duration_ns":`...)
	dst = strconv.AppendInt(dst, int64(s.End.Sub(s.Start)), 10)
	dst = append(dst, `,"service":`...)
	dst = jsontext.AppendString(dst, telemetry.ServiceName(s.Source))
	dst = append(dst, `,"name":`...)
	dst = jsontext.AppendString(dst, s.Name)
	dst = append(dst, `,"trace_id":`...)
	dst = jsontext.AppendHex(dst, s.TraceID[:])
	dst = append(dst, `,"span_id":`...)
	dst = jsontext.AppendHex(dst, s.SpanID[:])
	if s.Parent != (trace.SpanID{}) {
		dst = append(dst, `,"parent_id":`...)
		dst = jsontext.AppendHex(dst, s.Parent[:])
	}
	switch {
	case !s.Incomplete():
	case s.Kind == trace.RequestOnly:
		dst = append(dst, `,"incomplete":"no response"`...)
	case s.Kind == trace.ResponseOnly:
		dst = append(dst, `,"incomplete":"no request"`...)
	}
	dst = append(dst, `,"failed":`...)
	dst = strconv.AppendBool(dst, s.Failed)
	if s.Message != "" {
		dst = append(dst, `,"message":`...)
		dst = jsontext.AppendString(dst, s.Message)
	}
	dst = append(dst, `,"attributes":{`...)
	for i := range s.Attributes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsontext.AppendString(dst, s.Attributes[i].Key)
		dst = append(dst, ':')
		dst = s.Attributes[i].Value.AppendJSON(dst)
	}
	return append(dst, "}}\n"...)
}
