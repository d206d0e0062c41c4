package grpcapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// Status returns an error with a code and a text, and, if retry is positive, when
// trying again makes sense.
func Status(code codes.Code, text string, retry time.Duration) error {
	if retry <= 0 {
		return status.Error(code, text)
	}
	return retryStatus(code, text, retry)
}

func retryStatus(code codes.Code, text string, after time.Duration) error {
	return withDetails(status.New(code, text), &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

func withDetails(s *status.Status, details ...protoadapt.MessageV1) error {
	with, err := s.WithDetails(details...)
	if err != nil {
		return s.Err() // the details are of known types
	}
	return with.Err()
}

// Refuse answers a call that was not begun with the status of err, without reading what
// the client sends.
func Refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.ProtoMajor != 2 {
		http.Error(w, "gRPC requires HTTP/2", http.StatusHTTPVersionNotSupported)
		return
	}
	st := status.Convert(err)
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(int(st.Code())))
	h.Set("Grpc-Message", encodeMessage(st.Message()))
	if p := st.Proto(); len(p.GetDetails()) > 0 {
		if raw, err := proto.Marshal(p); err == nil {
			h.Set("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(raw))
		}
	}
	w.WriteHeader(http.StatusOK)
}

// encodeMessage writes a text as the gRPC protocol has it in a header.
func encodeMessage(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// publishStatus returns the status of an error of the intake, and whether it is one
// that is to be expected.
func publishStatus(err error) (_ error, known bool) {
	if refused, ok := errors.AsType[*publish.RefusedError](err); ok {
		return refusedStatus(refused.Refused), true
	}
	retry := time.Second
	if pushback, ok := errors.AsType[*journal.PushbackError](err); ok {
		retry = pushback.RetryAfter
	}
	switch {
	case errors.Is(err, journal.ErrBusy):
		return retryStatus(codes.ResourceExhausted, err.Error(), retry), true
	case errors.Is(err, journal.ErrPushback):
		return retryStatus(codes.Unavailable, err.Error(), retry), true
	case errors.Is(err, journal.ErrClosed):
		return errStopping, true
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the call was cancelled; the events may be stored"), true
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "there was no time left to wait; the events may be stored"), true
	case errors.Is(err, event.ErrTooLarge):
		return status.Error(codes.ResourceExhausted, err.Error()), true
	case errors.Is(err, event.ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error()), true
	}
	return errInternal, false
}

// reasonOf is the label of a status in counters.
func reasonOf(err error) string {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		return "busy"
	case codes.Unavailable:
		return "unavailable"
	case codes.DeadlineExceeded:
		return "timeout"
	case codes.PermissionDenied, codes.Unauthenticated:
		return "denied"
	case codes.Internal:
		return "error"
	}
	return "bad request"
}

// Bounds of what is told about one event, in bytes.
const (
	maxID     = 128
	maxReason = 256
)

// maxDetails bounds the refusals in the details of a status, which are sent as a header:
// some clients take no more than 8 KiB of those, and it is encoded as base64.
const maxDetails = 3 << 10

// refusedStatus is the status of a request of which nothing was stored.
func refusedStatus(refused []*publish.Refusal) error {
	details := &tocsinv1.Refusals{Total: uint32(len(refused))}
	size := 0
	for _, r := range refused {
		one := refusal(0, r)
		if size += proto.Size(one) + 3; size > maxDetails {
			break
		}
		details.Refused = append(details.Refused, one)
	}
	text := clip((&publish.RefusedError{Refused: refused}).Error(), 2*maxReason)
	return withDetails(status.New(refusedCode(refused), text), protoadapt.MessageV1Of(details))
}

// refusedCode is the code of a request whose events were refused.
func refusedCode(refused []*publish.Refusal) codes.Code {
	denied, large := true, true
	for _, r := range refused {
		denied = denied && (r.Code == publish.Denied || r.Code == publish.Reserved)
		large = large && r.Code == publish.TooLarge
	}
	switch {
	case denied:
		return codes.PermissionDenied
	case large:
		return codes.ResourceExhausted
	}
	return codes.InvalidArgument
}

func refusal(sequence uint64, r *publish.Refusal) *tocsinv1.Refusal {
	return &tocsinv1.Refusal{Sequence: sequence, Index: uint32(r.Index), Id: clip(r.ID, maxID), Code: code(r.Code), Reason: clip(r.Text, maxReason)}
}

func code(c publish.Code) tocsinv1.RefusalCode {
	switch c {
	case publish.Invalid:
		return tocsinv1.RefusalCode_REFUSAL_CODE_INVALID
	case publish.TooLarge:
		return tocsinv1.RefusalCode_REFUSAL_CODE_TOO_LARGE
	case publish.Denied:
		return tocsinv1.RefusalCode_REFUSAL_CODE_DENIED
	case publish.Reserved:
		return tocsinv1.RefusalCode_REFUSAL_CODE_RESERVED
	case publish.Secret:
		return tocsinv1.RefusalCode_REFUSAL_CODE_SECRET
	case publish.Schema:
		return tocsinv1.RefusalCode_REFUSAL_CODE_SCHEMA
	}
	return tocsinv1.RefusalCode_REFUSAL_CODE_UNSPECIFIED
}

func warning(sequence uint64, w publish.Warning) *tocsinv1.Warning {
	return &tocsinv1.Warning{Sequence: sequence, Index: uint32(w.Index), Message: clip(w.Text, maxReason)}
}

// clip returns at most about max bytes of a text, as UTF-8, which messages must be.
func clip(s string, max int) string {
	if len(s) > max {
		s = s[:max] + "..."
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}
