package telemetry

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestPartial(t *testing.T) {
	partial := protowire.AppendTag(nil, 1, protowire.VarintType)
	partial = protowire.AppendVarint(partial, 7)
	partial = protowire.AppendTag(partial, 2, protowire.BytesType)
	partial = protowire.AppendString(partial, "too\nold \x1b[31m")
	binary := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial)
	want := Partial{7, "too old [31m"}
	if p, err := ParsePartial(binary); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
	for _, text := range []string{`{"partialSuccess":{"rejectedLogRecords":"7","errorMessage":"too\nold \u001b[31m"}}`, `{"partialSuccess":{"rejectedSpans":"7","errorMessage":"too\nold \u001b[31m"}}`,
		`{"partialSuccess":{"rejectedSpans":7,"errorMessage":"too\nold \u001b[31m"},"other":1}`} {
		if p, err := ParsePartialJSON([]byte(text)); err != nil || p != want {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
	}
	if p, err := ParsePartialJSON([]byte(`{"partialSuccess":{"rejectedSpans":null,"errorMessage":"old"}}`)); err != nil || p.Message != "old" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, empty := range []string{"", "{}", `{"partialSuccess":{}}`, `{"partialSuccess":null}`} {
		if p, err := ParsePartialJSON([]byte(empty)); err != nil || p != (Partial{}) {
			t.Errorf("%s: %+v, %v", empty, p, err)
		}
	}
	if _, err := ParsePartial(binary[:len(binary)-1]); err == nil {
		t.Error("a cut answer is one")
	}
	if _, err := ParsePartialJSON([]byte("<html>")); err == nil {
		t.Error("a page is an answer")
	}
}

func TestFailure(t *testing.T) {
	field := func(b []byte, n protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), content)
	}
	number := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	status := func(delay []byte) []byte {
		detail := field(field(nil, 1, []byte(retryInfo)), 2, field(nil, 1, delay))
		return field(field(number(nil, 1, 8), 2, []byte("slow down")), 3, detail)
	}
	for _, test := range []struct {
		body []byte
		json string
		want Failure
	}{
		{status(number(number(nil, 1, 3), 2, 500_000_000)), `{"code":8,"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"3.5s"}]}`,
			Failure{"slow down", 3500 * time.Millisecond, true}},
		{status(nil), `{"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"0s"}]}`, Failure{"slow down", 0, true}},
		{status(number(nil, 1, 1<<62)), `{"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"99999999999999999999s"}]}`, Failure{"slow down", MaxRetryAfter, true}},
		{status(number(nil, 1, 1<<64-1)), `{"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"-1s"}]}`, Failure{"slow down", 0, true}},
		{field(nil, 2, []byte("no")), `{"message":"no","details":[{"@type":"other"}]}`, Failure{Message: "no"}},
	} {
		if f, err := ParseFailure(test.body); err != nil || f != test.want {
			t.Errorf("%x: %+v, %v", test.body, f, err)
		}
		if f, err := ParseFailureJSON([]byte(test.json)); err != nil || f != test.want {
			t.Errorf("%s: %+v, %v", test.json, f, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": -1, "0": 0, "5": 5 * time.Second, " 120 ": 2 * time.Minute, "-1": -1, "soon": -1, "999999999999": MaxRetryAfter, "1e3": -1,
		"Sat, 14 Mar 2026 15:10:26 GMT": time.Minute, "Sat, 14 Mar 2026 15:00:00 GMT": 0, strings.Repeat("1", 1000): -1,
	} {
		got, ok := ParseRetryAfter(value, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"partialSuccess":{"rejectedSpans":"7","errorMessage":"too old"}}`))
	f.Add([]byte(`{"message":"slow down","details":[{"@type":"` + retryInfo + `","retryDelay":"3.5s"}]}`))
	f.Add([]byte{0x0a, 0x04, 0x08, 0x07, 0x12, 0x00})
	f.Add([]byte("120"))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(text string, delay time.Duration) {
			if len(text) > MaxText+3 || strings.ContainsAny(text, "\n\x1b") || delay < 0 || delay > MaxRetryAfter {
				t.Errorf("%q, %v", text, delay)
			}
		}
		for _, parse := range []func([]byte) (Partial, error){ParsePartial, ParsePartialJSON} {
			if p, err := parse(b); err == nil && p.Rejected < 0 {
				t.Error("less than none")
			} else {
				check(p.Message, 0)
			}
		}
		for _, parse := range []func([]byte) (Failure, error){ParseFailure, ParseFailureJSON} {
			f, _ := parse(b)
			check(f.Message, f.RetryAfter)
		}
		delay, _ := ParseRetryAfter(string(b), time.Unix(1_800_000_000, 0))
		check(Printable(string(b)), delay)
	})
}
