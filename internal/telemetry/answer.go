package telemetry

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// MaxAnswer is how much of an answer is looked at.
	MaxAnswer = 64 << 10
	// MaxText bounds what is repeated of the text of an answer.
	MaxText = 300
	// MaxRetryAfter bounds how long a receiver can make its senders wait.
	MaxRetryAfter = 10 * time.Minute
)

// Partial is what a receiver says about a request that it took.
type Partial struct {
	// Rejected spans, or log records, will never be taken. With 0 and a Message, the message is a
	// warning.
	Rejected int64
	Message  string
}

// Failure is what a receiver says about a request that it did not take.
type Failure struct {
	Message    string
	RetryAfter time.Duration // of RetryInfo; 0: it does not say
	// HasRetry is set when there was a RetryInfo, also one of 0.
	HasRetry bool
}

var errAnswer = errors.New("the answer is not one of OTLP")

// ParsePartial reads an ExportTraceServiceResponse, or that of another signal, in its
// binary form. An empty body means that everything was taken.
func ParsePartial(body []byte) (p Partial, err error) {
	err = fields(body, func(field protowire.Number, wire protowire.Type, value []byte, _ uint64) error {
		if field != 1 || wire != protowire.BytesType {
			return nil
		}
		return fields(value, func(field protowire.Number, wire protowire.Type, value []byte, number uint64) error {
			switch {
			case field == 1 && wire == protowire.VarintType:
				p.Rejected = max(int64(number), 0)
			case field == 2 && wire == protowire.BytesType:
				p.Message = Printable(string(value))
			}
			return nil
		})
	})
	return p, err
}

// ParsePartialJSON reads an ExportTraceServiceResponse or ExportLogsServiceResponse in its
// JSON form.
func ParsePartialJSON(body []byte) (Partial, error) {
	var answer struct {
		PartialSuccess struct {
			RejectedSpans      number
			RejectedLogRecords number
			ErrorMessage       string
		}
	}
	if len(body) == 0 {
		return Partial{}, nil
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Partial{}, errAnswer
	}
	p := answer.PartialSuccess
	return Partial{Rejected: max(int64(p.RejectedSpans), int64(p.RejectedLogRecords), 0), Message: Printable(p.ErrorMessage)}, nil
}

// number is a number of 64 bits, which may be a string in the JSON of protobuf.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err != nil {
		return errAnswer
	}
	*n = number(v)
	return nil
}

// retryInfo is the type of a detail that says when to try again.
const retryInfo = "type.googleapis.com/google.rpc.RetryInfo"

// ParseFailure reads a google.rpc.Status in its binary form.
func ParseFailure(body []byte) (f Failure, err error) {
	err = fields(body, func(field protowire.Number, wire protowire.Type, value []byte, _ uint64) error {
		switch {
		case field == 2 && wire == protowire.BytesType:
			f.Message = Printable(string(value))
		case field == 3 && wire == protowire.BytesType:
			return f.detail(value)
		}
		return nil
	})
	return f, err
}

// detail reads a google.protobuf.Any.
func (f *Failure) detail(b []byte) error {
	var kind string
	var content []byte
	err := fields(b, func(field protowire.Number, wire protowire.Type, value []byte, _ uint64) error {
		switch {
		case field == 1 && wire == protowire.BytesType:
			kind = string(value)
		case field == 2 && wire == protowire.BytesType:
			content = value
		}
		return nil
	})
	if err != nil || kind != retryInfo {
		return err
	}
	var seconds, nanos int64
	err = fields(content, func(field protowire.Number, wire protowire.Type, value []byte, _ uint64) error {
		if field != 1 || wire != protowire.BytesType {
			return nil
		}
		return fields(value, func(field protowire.Number, wire protowire.Type, _ []byte, number uint64) error {
			switch {
			case field == 1 && wire == protowire.VarintType:
				seconds = int64(number)
			case field == 2 && wire == protowire.VarintType:
				nanos = int64(number)
			}
			return nil
		})
	})
	if err == nil {
		f.HasRetry = true
		f.RetryAfter = boundDelay(float64(seconds) + float64(nanos)/1e9)
	}
	return err
}

// ParseFailureJSON reads a google.rpc.Status in its JSON form.
func ParseFailureJSON(body []byte) (f Failure, err error) {
	var status struct {
		Message string
		Details []struct {
			Type       string `json:"@type"`
			RetryDelay string
		}
	}
	if err := json.Unmarshal(body, &status); err != nil {
		return f, errAnswer
	}
	f.Message = Printable(status.Message)
	for _, d := range status.Details {
		if d.Type != retryInfo {
			continue
		}
		seconds, err := strconv.ParseFloat(strings.TrimSuffix(d.RetryDelay, "s"), 64)
		if err != nil {
			return f, errAnswer
		}
		f.HasRetry, f.RetryAfter = true, boundDelay(seconds)
	}
	return f, nil
}

// fields calls each with the fields of a message, one after the other. Of a field with a
// number, value is nil; of one with bytes, number is 0.
func fields(b []byte, each func(field protowire.Number, wire protowire.Type, value []byte, number uint64) error) error {
	for len(b) > 0 {
		field, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errAnswer
		}
		b = b[n:]
		var value []byte
		var number uint64
		switch wire {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(field, wire, b)
		}
		if n < 0 {
			return errAnswer
		}
		if err := each(field, wire, value, number); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// ParseRetryAfter reads the header Retry-After (RFC 9110 section 10.2.3): seconds, or a
// date. It returns false if there is none that makes sense.
func ParseRetryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if value == "" || len(value) > 64 {
		return 0, false
	}
	if seconds, err := strconv.ParseUint(value, 10, 63); err == nil {
		return boundDelay(float64(seconds)), true
	}
	if at, err := http.ParseTime(value); err == nil {
		return boundDelay(at.Sub(now).Seconds()), true
	}
	return 0, false
}

func boundDelay(seconds float64) time.Duration {
	switch {
	case math.IsNaN(seconds) || seconds <= 0:
		return 0
	case seconds >= MaxRetryAfter.Seconds():
		return MaxRetryAfter
	}
	return time.Duration(seconds * float64(time.Second))
}

// Printable returns the beginning of a text from outside in a form that fits into a log:
// on one line, without what is not printable.
func Printable(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), 4*MaxText)], "")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= MaxText {
		return s
	}
	return fmt.Sprintf("%s...", strings.ToValidUTF8(s[:MaxText], ""))
}
