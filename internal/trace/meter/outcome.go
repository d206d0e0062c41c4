package meter

import "github.com/tocsin-events/tocsin/internal/trace"

// outcome says how a request ended.
type outcome uint8

const (
	ok          outcome = iota
	notFound            // there is nothing at this path, or it was deleted
	denied              // by a policy, because of a bad token, or a login that failed
	rejected            // not possible as it was asked for
	rateLimited         // by a quota
	failed              // by the server, or for a reason that is not known
	unanswered          // no response was seen
	outcomes            // how many there are
)

var outcomeNames = [outcomes]string{"ok", "not_found", "denied", "rejected", "rate_limited", "error", "unanswered"}

func (o outcome) String() string { return outcomeNames[o] }

func outcomeOf(s *trace.Span) outcome {
	if s.Kind == trace.RequestOnly && !s.Expected {
		return unanswered
	}
	if !s.Failed {
		return ok
	}
	o := failed
	switch s.ErrorType {
	case "permission_denied":
		o = denied
	case "rate_limited":
		o = rateLimited
	case "invalid_request", "unsupported_operation", "unsupported_path", "error_response":
		o = rejected
	case "internal_error", "_OTHER":
	default: // a status that the plugin has set
		switch code := s.Status; {
		case code == 404:
			o = notFound
		case code == 403 || code == 401:
			o = denied
		case code == 429:
			o = rateLimited
		case code >= 400 && code < 500:
			o = rejected
		}
	}
	if s.Request.IsLogin() && (o == rejected || s.ErrorType == "_OTHER") {
		// Each auth method has its own words for a wrong password.
		return denied
	}
	return o
}
