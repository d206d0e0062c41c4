package outbound

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// MaxRetryAfter bounds how long a receiver can make a sink wait.
const MaxRetryAfter = time.Hour

// verdict is what an answer means, and what can be done about it.
type verdict struct {
	outcome deliver.Outcome
	remedy  string
}

const (
	checkCredentials = "check the credentials or signing keys of the sink"
	checkURL         = "check the url of the sink"
	checkForm        = "check the body, format and headers of the sink"
)

// verdicts are those of statuses that do not have the one of their class. The question is
// always whether another event would be answered in another way: what is wrong with the
// endpoint, or with how the sink is set up, must not turn one event after the other into a
// dead letter, and what is wrong with one event must not keep all others waiting.
var verdicts = map[int]verdict{
	http.StatusBadRequest:            {deliver.Refused, ""},
	http.StatusConflict:              {deliver.Refused, ""},
	http.StatusRequestEntityTooLarge: {deliver.Refused, "the request is larger than the receiver allows"},
	http.StatusUnprocessableEntity:   {deliver.Refused, ""},

	http.StatusGone: {deliver.Gone, ""},

	http.StatusUnauthorized:                {deliver.Retry, checkCredentials},
	http.StatusPaymentRequired:             {deliver.Retry, ""},
	http.StatusNotFound:                    {deliver.Retry, checkURL},
	http.StatusMethodNotAllowed:            {deliver.Retry, checkURL},
	http.StatusProxyAuthRequired:           {deliver.Retry, "a proxy with credentials is not supported"},
	http.StatusRequestTimeout:              {deliver.Retry, ""},
	http.StatusLengthRequired:              {deliver.Retry, checkURL},
	http.StatusUnsupportedMediaType:        {deliver.Retry, checkForm},
	http.StatusMisdirectedRequest:          {deliver.Retry, checkURL},
	http.StatusLocked:                      {deliver.Retry, ""},
	http.StatusTooEarly:                    {deliver.Retry, ""},
	http.StatusUpgradeRequired:             {deliver.Retry, checkURL},
	http.StatusTooManyRequests:             {deliver.Retry, ""},
	http.StatusRequestHeaderFieldsTooLarge: {deliver.Retry, checkForm},

	http.StatusNotImplemented:                {deliver.Retry, checkURL},
	http.StatusBadGateway:                    {deliver.Retry, ""},
	http.StatusServiceUnavailable:            {deliver.Retry, ""},
	http.StatusGatewayTimeout:                {deliver.Retry, ""},
	http.StatusInsufficientStorage:           {deliver.Retry, ""},
	509:                                      {deliver.Retry, ""}, // bandwidth used up
	http.StatusNetworkAuthenticationRequired: {deliver.Retry, "something between here and the receiver wants a login"},
	521:                                      {deliver.Retry, ""}, // to 526, 530: Cloudflare does not reach the receiver
	522:                                      {deliver.Retry, ""},
	523:                                      {deliver.Retry, ""},
	524:                                      {deliver.Retry, ""},
	525:                                      {deliver.Retry, ""},
	526:                                      {deliver.Retry, ""},
	529:                                      {deliver.Retry, ""}, // overloaded
	530:                                      {deliver.Retry, ""},
}

func judge(status int) verdict {
	if v, ok := verdicts[status]; ok {
		return v
	}
	switch status / 100 {
	case 2:
		return verdict{deliver.Delivered, ""}
	case 4:
		// 403 and 406 among them: of an expired key, or of a firewall that does not like one event.
		if status == http.StatusForbidden {
			return verdict{deliver.Doubtful, checkCredentials}
		}
		return verdict{deliver.Doubtful, ""}
	case 5:
		return verdict{deliver.Doubtful, ""}
	}
	return verdict{deliver.Retry, checkURL}
}

// Classify says what an answer means for the events that were sent. docs/sink-webhook.md
// has the table.
func Classify(a *Answer, now time.Time) deliver.Result {
	v := judge(a.Status)
	result := deliver.Result{Outcome: v.outcome, Status: a.Status}
	if v.outcome == deliver.Delivered {
		return result
	}
	if v.outcome == deliver.Retry || v.outcome == deliver.Doubtful {
		result.After = ParseRetryAfter(a.Header.Get("Retry-After"), now)
	}
	var text strings.Builder
	text.WriteString("HTTP " + strconv.Itoa(a.Status))
	if name := http.StatusText(a.Status); name != "" {
		text.WriteString(" " + name)
	}
	if a.Status/100 == 3 {
		text.WriteString(redirect(a.Header.Get("Location")))
	}
	if said := quote(a.Body, a.Header.Get("Content-Encoding"), a.secrets); said != "" {
		text.WriteString(": " + said)
	}
	if v.remedy != "" {
		text.WriteString("; " + v.remedy)
	}
	result.Reason = reason(a.secrets, text.String())
	return result
}

// redirect says where an endpoint wants to send us: only the host, as the rest may have a
// secret.
func redirect(location string) string {
	const consequence = ", which is not followed; write the final URL into the configuration"
	u, err := url.Parse(location)
	switch {
	case location == "":
		return ""
	case err != nil || u.Host == "":
		return ": it redirects to another path" + consequence
	}
	return ": it redirects to " + clip(u.Host) + consequence
}

// ParseRetryAfter reads the header Retry-After (RFC 9110 section 10.2.3), seconds or a date.
// It is 0 if there is none that makes sense, and at most [MaxRetryAfter].
func ParseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" || len(value) > 64 {
		return 0
	}
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		switch {
		case math.IsNaN(seconds) || seconds <= 0:
			return 0
		case seconds >= MaxRetryAfter.Seconds():
			return MaxRetryAfter
		}
		return time.Duration(seconds * float64(time.Second))
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), MaxRetryAfter)
	}
	if strings.Trim(value, "0123456789") == "" { // more seconds than any number has
		return MaxRetryAfter
	}
	return 0
}
