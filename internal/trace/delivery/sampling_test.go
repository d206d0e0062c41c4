package delivery

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

func id(randomness uint64) (t trace.TraceID) {
	rand.Read(t[:])
	t[8] = 0xbf // whatever is in front does not matter
	high := t[8]
	binary.BigEndian.PutUint64(t[8:], randomness)
	t[8] = high
	return t
}

// TestThreshold: the randomness of a trace is compared with a threshold of 56 bits, as
// OpenTelemetry's specification of consistent probability sampling has it.
func TestThreshold(t *testing.T) {
	for _, test := range []struct {
		ratio      float64
		randomness uint64
		want       bool
	}{
		{1, 0, true}, {1, 1<<56 - 1, true}, {0, 1<<56 - 1, false}, {0, 0, false},
		{0.5, 0x80000000000000, true}, {0.5, 0x7fffffffffffff, false},
		{0.25, 0xc0000000000000, true}, {0.25, 0xbfffffffffffff, false},
		{-1, 1<<56 - 1, false}, {7, 0, true}, {math.NaN(), 0, true},
	} {
		s := Sampling{Ratio: test.ratio}
		if got := s.Takes(&trace.Span{TraceID: id(test.randomness)}); got != test.want {
			t.Errorf("%v of %x: %v", test.ratio, test.randomness, got)
		}
	}
}

// TestUUIDs: the fixed bits of UUIDs do not bias the sample, and a smaller sample is part
// of a larger one.
func TestUUIDs(t *testing.T) {
	const n = 100_000
	small, large := Sampling{Ratio: 0.1}, Sampling{Ratio: 0.3}
	taken := 0
	for range n {
		span := &trace.Span{TraceID: trace.TraceID(uuid.New())}
		if small.Takes(span) {
			taken++
			if !large.Takes(span) {
				t.Fatal("a trace in 10 % is not in 30 %")
			}
		}
	}
	if deviation := math.Abs(float64(taken)/n - 0.1); deviation > 0.006 { // more than six sigma
		t.Errorf("%d of %d", taken, n)
	}
}

func TestAlways(t *testing.T) {
	caller := trace.SpanID{1}
	for name, test := range map[string]struct {
		sampling Sampling
		span     trace.Span
		want     bool
	}{
		"fine":                {Sampling{Errors: true, Slow: time.Second}, trace.Span{}, false},
		"failed":              {Sampling{Errors: true}, trace.Span{Failed: true}, true},
		"failed, not wanted":  {Sampling{}, trace.Span{Failed: true}, false},
		"incomplete":          {Sampling{Errors: true}, trace.Span{Kind: trace.RequestOnly}, true},
		"one entry only":      {Sampling{Errors: true}, trace.Span{Kind: trace.RequestOnly, Expected: true}, false},
		"slow":                {Sampling{Slow: time.Second}, trace.Span{End: time.Time{}.Add(time.Second)}, true},
		"nearly slow":         {Sampling{Slow: time.Second}, trace.Span{End: time.Time{}.Add(time.Second - 1)}, false},
		"the caller does":     {Sampling{Caller: true}, trace.Span{Parent: caller, Flags: tracecontext.Sampled}, true},
		"the caller does not": {Sampling{Caller: true, Ratio: 1}, trace.Span{Parent: caller, Flags: tracecontext.Random}, false},
		"no caller":           {Sampling{Caller: true, Ratio: 1}, trace.Span{}, true},
		"a failed one of it":  {Sampling{Caller: true, Errors: true}, trace.Span{Parent: caller, Failed: true}, true},
	} {
		if got := test.sampling.Takes(&test.span); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestExplicitRandomness(t *testing.T) {
	half := Sampling{Ratio: 0.5}
	low, high := trace.TraceID{15: 1}, trace.TraceID{9: 0xff, 15: 1} // which half takes only the second of
	for _, c := range []struct {
		id    trace.TraceID
		state string
		want  bool
	}{
		{low, "", false}, {high, "", true},
		{low, "ot=rv:80000000000000", true}, {high, "ot=rv:7fffffffffffff", false},
		{low, "vendor=x,ot=th:8;rv:ffffffffffffff;x:y", true},
		{high, "other=rv:00000000000000", true},
		{high, "ot=rv:0000", true}, {high, "ot=rv:0000000000000G", true}, {high, "ot=rv:", true}, {high, "ot=", true}, {high, "ot=rv:-0000000000000", true},
	} {
		if got := half.Takes(&trace.Span{TraceID: c.id, TraceState: c.state}); got != c.want {
			t.Errorf("%s %q: %t", c.id, c.state, got)
		}
	}
}
