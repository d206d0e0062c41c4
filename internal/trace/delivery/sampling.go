package delivery

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// Sampling says which spans are exported. What is decided by the trace id is the same for
// all spans of a trace, in every exporter and for everybody else who decides as
// OpenTelemetry's consistent probability sampling does: by the last 56 bits of the id,
// or the value that the caller's tracestate has instead. Those of a random UUID (version 4)
// are all random; its fixed bits are in front of them.
type Sampling struct {
	// Ratio of the traces, from 0 to 1. The zero value takes none.
	Ratio float64
	// Errors are exported whatever their trace id: requests that failed, and those of
	// which an entry is missing.
	Errors bool
	// Slow requests, which took at least so long, are exported whatever their trace id. 0:
	// it does not matter how long they took.
	Slow time.Duration
	// Caller decides about requests that are part of the caller's trace: they are exported
	// if the caller said that it records the trace.
	Caller bool
}

// threshold is the least randomness that is taken.
func (s *Sampling) threshold() uint64 {
	ratio := min(max(s.Ratio, 0), 1)
	if math.IsNaN(s.Ratio) {
		ratio = 1
	}
	return uint64(math.Round((1 - ratio) * (1 << 56)))
}

// Takes says whether a span is exported.
func (s *Sampling) Takes(span *trace.Span) bool {
	switch {
	case s.Errors && (span.Failed || span.Incomplete()):
		return true
	case s.Slow > 0 && span.Duration() >= s.Slow:
		return true
	case s.Caller && span.Parent != (trace.SpanID{}):
		return span.Flags&tracecontext.Sampled != 0
	}
	return randomness(span) >= s.threshold()
}

// randomness is the 56 bits that decide about a trace.
func randomness(span *trace.Span) uint64 {
	if span.TraceState != "" {
		if value, ok := explicitRandomness(span.TraceState); ok {
			return value
		}
	}
	return binary.BigEndian.Uint64(span.TraceID[8:]) & (1<<56 - 1)
}

// explicitRandomness reads the field rv of OpenTelemetry's member of a tracestate, which
// callers set whose trace ids are not random.
func explicitRandomness(state string) (uint64, bool) {
	for member := range strings.SplitSeq(state, ",") {
		fields, ok := strings.CutPrefix(member, "ot=")
		if !ok {
			continue
		}
		for field := range strings.SplitSeq(fields, ";") {
			digits, ok := strings.CutPrefix(field, "rv:")
			if !ok || len(digits) != 14 || strings.Trim(digits, "0123456789abcdef") != "" {
				continue
			}
			value, err := strconv.ParseUint(digits, 16, 56)
			return value, err == nil
		}
		return 0, false
	}
	return 0, false
}
