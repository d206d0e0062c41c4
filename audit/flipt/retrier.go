package flipt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// RequestCreator makes the request of one attempt.
type RequestCreator func(ctx context.Context, body []byte) (*http.Request, error)

// Budget is how often a [Retrier] tries. The zero value is [Elapsed] with the default of Flipt.
type Budget struct {
	elapsed  *time.Duration
	attempts int
	maxWait  time.Duration
	timeout  time.Duration
}

// Defaults of budgets, as in Flipt.
const (
	DefaultMaxBackoff     = 15 * time.Second
	DefaultAttempts       = 5
	DefaultAttemptTimeout = 5 * time.Second

	firstInterval = 500 * time.Millisecond
	lastInterval  = time.Minute
	maxRetryAfter = 5 * time.Minute
	maxResponse   = 64 << 10 // bytes of an answer that are read so that the connection can be used again
)

// Elapsed is the budget of Flipt up to v1.44: attempts begin at 0 s, then in intervals of
// 500 ms that grow by half each time, to at most a minute, and vary by half; none begins later
// than most after the first. Every answer but a success is tried again. An attempt takes at
// most [DefaultAttemptTimeout]. A most of 0 means that it goes on until the context ends.
func Elapsed(most time.Duration) Budget {
	return Budget{elapsed: &most, timeout: DefaultAttemptTimeout}
}

// Attempts is the budget of Flipt from v1.45: up to [DefaultAttempts] attempts with waits of 1,
// 2, 4 and 8 seconds between them, none longer than maxWait (0: [DefaultMaxBackoff]). A
// Retry-After of an answer 429 or 503 is heeded instead, up to 5 minutes. Failures of the
// connection and answers 408, 425, 429 and 5xx but 501 are tried again; others are final. An
// attempt takes at most 30 seconds.
func Attempts(maxWait time.Duration) Budget {
	if maxWait <= 0 {
		maxWait = DefaultMaxBackoff
	}
	return Budget{attempts: DefaultAttempts, maxWait: maxWait, timeout: 30 * time.Second}
}

// WithTimeout returns the budget with another time for one attempt. Zero and less change
// nothing.
func (b Budget) WithTimeout(t time.Duration) Budget {
	if t <= 0 {
		return b
	}
	if b.elapsed == nil && b.attempts == 0 {
		b = Elapsed(DefaultMaxBackoff)
	}
	b.timeout = t
	return b
}

// Retrier sends a request until it is accepted or a budget is used up. It is safe for concurrent use.
type Retrier struct {
	client *http.Client
	budget Budget
}

// NewRetrier returns a retrier. A nil client means one with a transport of its own. Redirects are not
// followed, whatever the client does: a followed one can lose the body.
func NewRetrier(client *http.Client, b Budget) *Retrier {
	var c http.Client
	if client != nil {
		c = *client
	} else {
		c.Transport = http.DefaultTransport.(*http.Transport).Clone()
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if b.elapsed == nil && b.attempts == 0 {
		b = Elapsed(DefaultMaxBackoff)
	}
	return &Retrier{client: &c, budget: b}
}

// GiveUpError says that a request was not accepted.
type GiveUpError struct {
	Attempts int
	Status   int // of the last answer; 0: there was none
	// Cause is the error of the last attempt. It has neither user, path nor query of the URL.
	Cause error
	// Temporary: sending it again later can help.
	Temporary bool

	counted string
}

// Error returns the text of Flipt: "failed to send event to webhook", and with the budget
// [Attempts] how many there were. Cause says why.
func (e *GiveUpError) Error() string { return "failed to send event to webhook" + e.counted }

// Unwrap returns Cause.
func (e *GiveUpError) Unwrap() error { return e.Cause }

// StatusError is the cause when the answer was no success.
type StatusError struct{ Status int }

// Error tells the status.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the answer was %d %s", e.Status, http.StatusText(e.Status))
}

// RequestRetry sends what create makes of body, for each attempt anew, until the answer is a
// success (2xx). The error of one that was sent in vain is a [*GiveUpError]; that of create
// is returned as it is. It returns soon after ctx has ended.
func (r *Retrier) RequestRetry(ctx context.Context, body []byte, create RequestCreator) error {
	begin := time.Now()
	interval := firstInterval
	for attempt := 1; ; attempt++ {
		started := time.Now()
		answer, err := r.once(ctx, body, create)
		if err == nil {
			return nil
		}
		if _, sent := errors.AsType[*creatorError](err); sent {
			return errors.Unwrap(err)
		}
		failed := &GiveUpError{Attempts: attempt, Status: answer.status, Cause: err, Temporary: answer.temporary()}
		var wait time.Duration
		if r.budget.attempts > 0 {
			failed.counted = fmt.Sprintf(": POST %s giving up after %d attempt(s)", answer.host, attempt)
			if attempt == r.budget.attempts || !failed.Temporary {
				return failed
			}
			wait = min(time.Second<<(attempt-1), r.budget.maxWait)
			if answer.after > 0 {
				wait = min(answer.after, maxRetryAfter)
			}
		} else {
			if answer.broken {
				return failed
			}
			// From the beginning of the attempt before.
			next := started.Add(time.Duration(float64(interval) * (0.5 + rand.Float64())))
			interval = min(interval*3/2, lastInterval)
			if most := *r.budget.elapsed; most > 0 && next.Sub(begin) > most {
				return failed
			}
			wait = time.Until(next)
			if most := *r.budget.elapsed; most > 0 && time.Since(begin)+max(wait, 0) > most {
				return failed
			}
		}
		if err := sleep(ctx, wait); err != nil {
			failed.Cause = errors.Join(err, failed.Cause)
			failed.Temporary = true
			return failed
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answer is what an attempt gave.
type answer struct {
	host   string // scheme and host of the URL
	status int
	after  time.Duration
	broken bool // it can never be sent
}

func (a *answer) temporary() bool {
	switch a.status {
	case 0:
		return !a.broken
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented:
		return false
	}
	return a.status >= 500
}

type creatorError struct{ error }

func (e *creatorError) Unwrap() error { return e.error }

// once makes one attempt.
func (r *Retrier) once(ctx context.Context, body []byte, create RequestCreator) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.budget.timeout)
	defer cancel()
	request, err := create(ctx, body)
	if err != nil {
		return a, &creatorError{err}
	}
	a.host = request.URL.Scheme + "://" + request.URL.Host
	response, err := r.client.Do(request)
	if err != nil {
		a.broken = request.URL.Host == "" || request.URL.Scheme != "http" && request.URL.Scheme != "https"
		if of, ok := errors.AsType[*url.Error](err); ok {
			err = of.Err // without the URL
		}
		return a, err
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxResponse)
	a.status = response.StatusCode
	if a.status >= 200 && a.status < 300 {
		return a, nil
	}
	if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
		a.after = retryAfter(response.Header.Get("Retry-After"))
	}
	return a, &StatusError{a.status}
}

// retryAfter reads the header, 0 when it says nothing.
func retryAfter(text string) time.Duration {
	text = strings.TrimSpace(text)
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
