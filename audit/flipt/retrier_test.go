package flipt

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is a transport that answers as told, in the order of the list, whose last element
// repeats.
type script struct {
	mu      sync.Mutex
	answers []func(*http.Request) (*http.Response, error)
	begin   time.Time
	at      []time.Duration // when requests came
	bodies  []string
	signs   []string
	types   [][]string
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	if s.begin.IsZero() {
		s.begin = time.Now()
	}
	n := min(len(s.at), len(s.answers)-1)
	s.at = append(s.at, time.Since(s.begin))
	b, _ := io.ReadAll(r.Body)
	s.bodies = append(s.bodies, string(b))
	s.signs = append(s.signs, r.Header.Get(SignatureHeader))
	s.types = append(s.types, r.Header.Values("Content-Type"))
	answer := s.answers[n]
	s.mu.Unlock()
	return answer(r)
}

func status(code int, header ...string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader("no")), Request: r}, nil
	}
}

func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func refused(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func posting(ctx context.Context, body []byte) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodPost, "https://user:hidden@example.com/secret/path?token=hidden", strings.NewReader(string(body)))
}

func tried(t *testing.T, ctx context.Context, b Budget, answers ...func(*http.Request) (*http.Response, error)) (*script, error) {
	t.Helper()
	s := &script{answers: answers}
	err := NewRetrier(&http.Client{Transport: s}, b).RequestRetry(ctx, []byte("body"), posting)
	return s, err
}

// Behaviour 29, as in 1.44: a budget of time.
func TestElapsed(t *testing.T) {
	for range 20 { // the intervals vary
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			s, err := tried(t, t.Context(), Budget{}, status(500))
			if err == nil || err.Error() != "failed to send event to webhook" {
				t.Fatal(err)
			}
			took := time.Since(begin)
			if took > 15*time.Second || took < 4*time.Second {
				t.Errorf("took %s", took)
			}
			if s.at[0] != 0 || len(s.at) < 5 || len(s.at) > 11 {
				t.Errorf("attempts at %v", s.at)
			}
			interval := 500 * time.Millisecond
			for i := 1; i < len(s.at); i++ {
				if d := s.at[i] - s.at[i-1]; d < interval/2 || d > interval*3/2 {
					t.Errorf("attempt %d came %s after the one before, not about %s", i, d, interval)
				}
				interval = interval * 3 / 2
			}
			failed, _ := errors.AsType[*GiveUpError](err)
			if failed.Attempts != len(s.at) || failed.Status != 500 || !failed.Temporary || failed.Cause.Error() != "the answer was 500 Internal Server Error" {
				t.Errorf("%+v", failed)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		// An attempt takes at most 5 s, and the interval runs from its begin.
		s, err := tried(t, t.Context(), Elapsed(3*time.Second), hang)
		if err == nil || len(s.at) != 1 || time.Since(s.begin) != 5*time.Second {
			t.Errorf("%v %v %s", err, s.at, time.Since(s.begin))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// A budget of 0 never ends, the context does.
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		s, err := tried(t, ctx, Elapsed(0), refused)
		if !errors.Is(err, context.DeadlineExceeded) || len(s.at) < 50 || time.Since(s.begin) != time.Hour {
			t.Errorf("%v after %d attempts and %s", err, len(s.at), time.Since(s.begin))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		for _, code := range []int{200, 201, 202, 204} {
			if s, err := tried(t, t.Context(), Budget{}, status(code)); err != nil || len(s.at) != 1 {
				t.Errorf("%d: %v %v", code, err, s.at)
			}
		}
		s, err := tried(t, t.Context(), Budget{}, status(404), refused, status(302), status(200))
		if err != nil || len(s.at) != 4 {
			t.Errorf("%v %v", err, s.at)
		}
	})
}

// Behaviour 29, as from 1.45: a number of attempts.
func TestAttempts(t *testing.T) {
	seconds := func(all []time.Duration) (out []float64) {
		for _, d := range all {
			out = append(out, d.Seconds())
		}
		return out
	}
	for _, c := range []struct {
		name      string
		b         Budget
		answers   []func(*http.Request) (*http.Response, error)
		at        []float64
		err       string
		temporary bool
	}{
		{"500", Attempts(0), []func(*http.Request) (*http.Response, error){status(500)}, []float64{0, 1, 3, 7, 15}, "giving up after 5 attempt(s)", true},
		{"500, short waits", Attempts(3 * time.Second), []func(*http.Request) (*http.Response, error){status(500)}, []float64{0, 1, 3, 6, 9}, "giving up after 5 attempt(s)", true},
		{"429", Attempts(3 * time.Second), []func(*http.Request) (*http.Response, error){status(429, "Retry-After", "1")}, []float64{0, 1, 2, 3, 4}, "giving up after 5 attempt(s)", true},
		{"503, once", Attempts(0), []func(*http.Request) (*http.Response, error){status(503, "Retry-After", "7"), status(200)}, []float64{0, 7}, "", false},
		{"connection", Attempts(0), []func(*http.Request) (*http.Response, error){refused, refused, status(202)}, []float64{0, 1, 3}, "", false},
		{"400", Attempts(0), []func(*http.Request) (*http.Response, error){status(400)}, []float64{0}, "giving up after 1 attempt(s)", false},
		{"501", Attempts(0), []func(*http.Request) (*http.Response, error){status(501)}, []float64{0}, "giving up after 1 attempt(s)", false},
		{"302", Attempts(0), []func(*http.Request) (*http.Response, error){status(302, "Location", "https://example.com/other")}, []float64{0}, "giving up after 1 attempt(s)", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, err := tried(t, t.Context(), c.b, c.answers...)
			if got := seconds(s.at); len(got) != len(c.at) {
				t.Fatalf("%s: attempts at %v, want %v", c.name, got, c.at)
			} else {
				for i := range got {
					if got[i] != c.at[i] {
						t.Errorf("%s: attempts at %v, want %v", c.name, got, c.at)
					}
				}
			}
			if c.err == "" {
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				return
			}
			if want := "failed to send event to webhook: POST https://example.com " + c.err; err == nil || err.Error() != want {
				t.Errorf("%s: %v, want %s", c.name, err, want)
			}
			if failed, _ := errors.AsType[*GiveUpError](err); failed.Temporary != c.temporary {
				t.Errorf("%s: %+v", c.name, failed)
			}
			for _, b := range s.bodies {
				if b != "body" {
					t.Errorf("%s: an attempt sent %q", c.name, b)
				}
			}
		})
	}
}

func TestRetryEndsWithTheContext(t *testing.T) {
	for _, b := range []Budget{Elapsed(time.Minute), Attempts(time.Minute)} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(1500*time.Millisecond, cancel)
			s, err := tried(t, ctx, b, status(500))
			if !errors.Is(err, context.Canceled) || time.Since(s.begin) != 1500*time.Millisecond {
				t.Errorf("%v after %s", err, time.Since(s.begin))
			}
			if failed, ok := errors.AsType[*GiveUpError](err); !ok || !failed.Temporary {
				t.Errorf("%+v", failed)
			}
		})
	}
}

func TestRetrierWithoutARequest(t *testing.T) {
	want := errors.New("no request")
	err := NewRetrier(nil, Budget{}).RequestRetry(t.Context(), nil, func(context.Context, []byte) (*http.Request, error) { return nil, want })
	if err != want {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) {
		err := NewRetrier(nil, Budget{}).RequestRetry(t.Context(), nil, func(ctx context.Context, _ []byte) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodPost, "gopher://example.com", nil)
		})
		if failed, ok := errors.AsType[*GiveUpError](err); !ok || failed.Attempts != 1 || failed.Temporary {
			t.Error(err)
		}
	})
}

// No error has what a URL may hide.
func TestErrorsHideTheURL(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	for _, b := range []Budget{Elapsed(time.Millisecond), Attempts(time.Nanosecond)} {
		err := NewRetrier(nil, b.WithTimeout(time.Second)).RequestRetry(t.Context(), nil, func(ctx context.Context, _ []byte) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodPost, strings.Replace(server.URL, "://", "://user:hidden@", 1)+"/hidden?hidden", nil)
		})
		failed, ok := errors.AsType[*GiveUpError](err)
		if !ok || strings.Contains(err.Error()+failed.Cause.Error(), "hidden") {
			t.Errorf("%v: %v", err, failed)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]time.Duration{
			"": 0, "3": 3 * time.Second, " 0 ": 0, "-1": 0, "x": 0, "99999999999": 0,
			time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat): 2 * time.Second,
			"Mon, 01 Jan 1990 15:04:05 GMT":                               0,
		} {
			if got := retryAfter(text); got != want && !(want > 0 && got > want-time.Second && got <= want) {
				t.Errorf("%q: %s, want %s", text, got, want)
			}
		}
		s, err := tried(t, t.Context(), Attempts(0), status(503, "Retry-After", "86400"), status(200))
		if err != nil || s.at[1] != 5*time.Minute {
			t.Errorf("%v %v", err, s.at)
		}
	})
}
