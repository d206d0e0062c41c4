// Package zipkin encodes spans in the JSON of Zipkin's API, version 2 (POST
// /api/v2/spans). It sends nothing.
//
// Sources: Zipkin's API description zipkin2-api.yaml, and for what Zipkin has no field
// of its own the OpenTelemetry specification, "OpenTelemetry to Zipkin Transformation".
package zipkin

import (
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// AppendJSON appends the spans as a list. Zipkin counts in microseconds: what was
// shorter than one is one long, because 0 means unknown there.
func AppendJSON(dst []byte, spans []*trace.Span) []byte {
	dst = append(dst, '[')
	for i, s := range spans {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendSpan(dst, s)
	}
	return append(dst, ']')
}

func appendSpan(dst []byte, s *trace.Span) []byte {
	dst = append(dst, `{"traceId":`...)
	dst = jsontext.AppendHex(dst, s.TraceID[:])
	dst = append(dst, `,"id":`...)
	dst = jsontext.AppendHex(dst, s.SpanID[:])
	if s.Parent != (trace.SpanID{}) {
		dst = append(dst, `,"parentId":`...)
		dst = jsontext.AppendHex(dst, s.Parent[:])
	}
	dst = append(dst, `,"kind":"SERVER","name":`...)
	dst = jsontext.AppendString(dst, s.Name)
	if !s.Start.IsZero() && s.Start.Unix() >= 0 {
		dst = append(dst, `,"timestamp":`...)
		dst = strconv.AppendInt(dst, max(s.Start.UnixMicro(), 1), 10)
	}
	dst = append(dst, `,"duration":`...)
	dst = strconv.AppendInt(dst, max(int64(s.End.Sub(s.Start)/time.Microsecond), 1), 10)
	dst = append(dst, `,"localEndpoint":{"serviceName":`...)
	dst = jsontext.AppendString(dst, telemetry.ServiceName(s.Source))
	dst = append(dst, '}')
	dst = appendRemote(dst, s)
	dst = append(dst, `,"tags":{`...)
	begin := len(dst)
	tag := func(key string) {
		if len(dst) > begin {
			dst = append(dst, ',')
		}
		dst = jsontext.AppendString(dst, key)
		dst = append(dst, ':')
	}
	for i := range s.Attributes {
		a := &s.Attributes[i]
		if a.Key == "error" && s.Failed {
			continue // Zipkin's own meaning wins
		}
		tag(a.Key)
		dst = appendText(dst, &a.Value)
	}
	if s.Failed {
		tag("error")
		message := s.Message
		if message == "" {
			message = "true"
		}
		dst = jsontext.AppendString(dst, message)
		tag("otel.status_code")
		dst = append(dst, `"ERROR"`...)
	}
	return append(dst, `}}`...)
}

// appendText appends a value as a string, the only type of tags.
func appendText(dst []byte, v *trace.Value) []byte {
	switch v.Kind {
	case trace.Text:
		return jsontext.AppendString(dst, v.Text)
	case trace.Texts:
		return jsontext.AppendString(dst, string(jsontext.AppendStrings(nil, v.Texts)))
	case trace.Float:
		if f := math.Float64frombits(v.Num); math.IsNaN(f) || math.IsInf(f, 0) {
			return jsontext.AppendFloat(dst, f) // is a string already
		}
	}
	dst = append(dst, '"')
	dst = v.AppendJSON(dst)
	return append(dst, '"')
}

// appendRemote appends the endpoint of the client, if its address is known.
func appendRemote(dst []byte, s *trace.Span) []byte {
	var addr netip.Addr
	var port uint64
	for i := range s.Attributes {
		switch a := &s.Attributes[i]; {
		case a.Key == "client.address" && a.Value.Kind == trace.Text,
			a.Key == "network.peer.address" && a.Value.Kind == trace.Text && !addr.IsValid():
			if parsed, err := netip.ParseAddr(a.Value.Text); err == nil {
				addr = parsed.Unmap().WithZone("")
			}
		case (a.Key == "client.port" || a.Key == "network.peer.port" && port == 0) && a.Value.Kind == trace.Int && a.Value.Num <= 65535:
			port = a.Value.Num
		}
	}
	if !addr.IsValid() {
		return dst
	}
	if addr.Is4() {
		dst = append(dst, `,"remoteEndpoint":{"ipv4":"`...)
	} else {
		dst = append(dst, `,"remoteEndpoint":{"ipv6":"`...)
	}
	dst = addr.AppendTo(dst)
	dst = append(dst, '"')
	if port != 0 {
		dst = append(dst, `,"port":`...)
		dst = strconv.AppendUint(dst, port, 10)
	}
	return append(dst, '}')
}
