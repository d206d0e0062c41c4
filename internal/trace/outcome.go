package trace

// Outcome says how a request ended, in a few words that are the same for all servers and
// mounts.
type Outcome uint8

// The outcomes.
const (
	OK          Outcome = iota
	NotFound            // there is nothing at this path, or it was deleted
	Denied              // by a policy, because of a bad token, or a login that failed
	Rejected            // not possible as it was asked for
	RateLimited         // by a quota
	Failed              // by the server, or for a reason that is not known
	Unanswered          // no response was seen
	Outcomes            // how many there are
)

var outcomeNames = [Outcomes]string{"ok", "not_found", "denied", "rejected", "rate_limited", "error", "unanswered"}

// String returns for example "not_found"; of Failed, "error".
func (o Outcome) String() string { return outcomeNames[o] }

// Outcome returns how the request ended.
func (s *Span) Outcome() Outcome {
	if s.Kind == RequestOnly && !s.Expected {
		return Unanswered
	}
	if !s.Failed {
		return OK
	}
	o := Failed
	switch s.ErrorType {
	case "permission_denied":
		o = Denied
	case "rate_limited":
		o = RateLimited
	case "invalid_request", "unsupported_operation", "unsupported_path", "error_response":
		o = Rejected
	case "internal_error", "_OTHER":
	default: // a status that the plugin has set
		switch code := s.Status; {
		case code == 404:
			o = NotFound
		case code == 403 || code == 401:
			o = Denied
		case code == 429:
			o = RateLimited
		case code >= 400 && code < 500:
			o = Rejected
		}
	}
	if s.Request.IsLogin() && (o == Rejected || s.ErrorType == "_OTHER") {
		// Each auth method has its own words for a wrong password.
		return Denied
	}
	return o
}

// Counts is false for the request entry of a pair without id: the response entry is a span
// as well, so whoever counts requests passes over the first.
func (s *Span) Counts() bool {
	return s.Kind != RequestOnly || !s.Expected || s.Request.ID != ""
}
