package outbound

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// TestTable compares with the table of the documentation.
func TestTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/sink-webhook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| answer | outcome |")
	table, _, _ = strings.Cut(table, "\n\n")
	row := regexp.MustCompile("^\\| ([0-9x, ]+) \\| `([a-z]+)` \\|")
	seen := make(map[string]string)
	for line := range strings.Lines(table) {
		if m := row.FindStringSubmatch(line); m != nil {
			for status := range strings.SplitSeq(m[1], ",") {
				seen[strings.TrimSpace(status)] = m[2]
			}
		}
	}
	for status := 200; status < 600; status++ {
		text := http.StatusText(status)
		want, ok := seen[strconv.Itoa(status)]
		if !ok {
			want, ok = seen[strconv.Itoa(status/100)+"xx"]
		}
		if got := judge(status).outcome.String(); !ok || got != want {
			t.Errorf("%d %s: %s, and the table says %q", status, text, got, want)
		}
	}
	for status := range verdicts {
		if seen[strconv.Itoa(status)] == "" {
			t.Errorf("%d is not in the table", status)
		}
	}
}

func TestClassify(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	header := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	tests := []struct {
		name   string
		answer Answer
		want   deliver.Result
	}{
		{"yes", Answer{Status: 204}, deliver.Result{Status: 204}},
		{"yes, with words", Answer{Status: 200, Header: header("Retry-After", "5"), Body: []byte("ok")}, deliver.Result{Status: 200}},
		{"no", Answer{Status: 400, Header: header("Retry-After", "5"), Body: []byte("bad\nfield")},
			deliver.Result{Outcome: deliver.Refused, Status: 400, Reason: `HTTP 400 Bad Request: "bad field"`}},
		{"gone", Answer{Status: 410}, deliver.Result{Outcome: deliver.Gone, Status: 410, Reason: "HTTP 410 Gone"}},
		{"busy", Answer{Status: 503, Header: header("Retry-After", "5")},
			deliver.Result{Outcome: deliver.Retry, Status: 503, After: 5 * time.Second, Reason: "HTTP 503 Service Unavailable"}},
		{"busy until", Answer{Status: 429, Header: header("Retry-After", "Wed, 04 Mar 2026 05:06:17 GMT")},
			deliver.Result{Outcome: deliver.Retry, Status: 429, After: 10 * time.Second, Reason: "HTTP 429 Too Many Requests"}},
		{"broken", Answer{Status: 500, Header: header("Retry-After", "99999999")},
			deliver.Result{Outcome: deliver.Doubtful, Status: 500, After: MaxRetryAfter, Reason: "HTTP 500 Internal Server Error"}},
		{"key", Answer{Status: 401, Body: []byte(" \n ")},
			deliver.Result{Outcome: deliver.Retry, Status: 401, Reason: "HTTP 401 Unauthorized; check the credentials or signing keys of the sink"}},
		{"unknown", Answer{Status: 599}, deliver.Result{Outcome: deliver.Doubtful, Status: 599, Reason: "HTTP 599"}},
		{"no status at all", Answer{Status: 999}, deliver.Result{Outcome: deliver.Retry, Status: 999, Reason: "HTTP 999; check the url of the sink"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Classify(&tt.answer, now); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "-1": 0, "5": 5 * time.Second, " 5 ": 5 * time.Second, "1.5": 1500 * time.Millisecond, "3600": time.Hour, "3601": time.Hour,
		"99999999999999999999999999": time.Hour, "1e300": time.Hour, "NaN": 0, "Inf": time.Hour, "soon": 0, strings.Repeat("9", 65): 0,
		"Wed, 04 Mar 2026 05:06:08 GMT":     time.Second,
		"Wed, 04 Mar 2026 05:06:06 GMT":     0,
		"Wed, 04 Mar 2099 05:06:06 GMT":     time.Hour,
		"Wednesday, 04-Mar-26 05:06:08 GMT": time.Second,
		"Wed Mar  4 05:06:08 2026":          time.Second,
		"2026-03-04T05:06:08Z":              0,
	} {
		if got := ParseRetryAfter(value, now); got != want {
			t.Errorf("%.40q: %v, want %v", value, got, want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(429, "5", "", "slow down s3cret", "")
	f.Add(302, "Wed, 04 Mar 2026 05:06:08 GMT", "http://169.254.169.254/s3cret", "", "gzip")
	f.Add(500, "", "", "\x1b[31m\u202e\xff", "")
	f.Add(500, "", "", "s3\x00cr\u202eet", "")
	f.Fuzz(func(t *testing.T, status int, after, location, body, encoding string) {
		a := &Answer{
			Status: status, Body: []byte(body), secrets: []string{"s3cret"},
			Header: http.Header{"Retry-After": {after}, "Location": {location}, "Content-Encoding": {encoding}},
		}
		r := Classify(a, time.Now())
		if r.After < 0 || r.After > MaxRetryAfter || len(r.Reason) > deliver.MaxReasonBytes || printable(r.Reason) != r.Reason {
			t.Fatalf("%+v", r)
		}
		if strings.Contains(r.Reason, "s3cret") && !strings.Contains(location, "//") {
			t.Fatalf("%q has the secret", r.Reason)
		}
	})
}

func TestHide(t *testing.T) {
	for _, tt := range []struct {
		secrets    []string
		text, want string
	}{
		{[]string{"Bearer abcdef"}, "Bearer abcdef, abcdef and Bearer", "<secret>, <secret> and Bearer"},
		{[]string{"abc"}, "abc", "abc"},
		{[]string{""}, "x", "x"},
		{[]string{"wxyz", "abcd"}, "abcdwxyz", "<secret><secret>"},
	} {
		if got := hide(tt.secrets, tt.text); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestFailedWithoutRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if r := Failed(ctx, &Failure{err: errClosed}); r.Outcome != deliver.Retry || r.Reason != "the sink was closed" {
		t.Errorf("%+v", r)
	}
	cancel()
	if r := Failed(ctx, &Failure{err: errClosed}); r.Reason != "interrupted" {
		t.Errorf("%+v", r)
	}
}
