package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
)

// publishTo runs "events publish" with a hub that answers as a function says, and
// returns what it was sent.
func publishTo(t *testing.T, stdin string, answer func(n int, w http.ResponseWriter, events []json.RawMessage), args ...string) (code int, stdout, stderr string, requests int) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var mu sync.Mutex
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		text, err := io.ReadAll(r.Body)
		var events []json.RawMessage
		if err != nil || json.Unmarshal(text, &events) != nil {
			t.Errorf("the body is %q: %v", text, err)
		}
		requests++
		answer(requests-1, w, events)
	}))
	defer hub.Close()
	var out, errs strings.Builder
	code = Run(t.Context(), append([]string{"events", "publish", "--address", hub.URL}, args...), Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	mu.Lock()
	defer mu.Unlock()
	return code, out.String(), errs.String(), requests
}

func accept(w http.ResponseWriter, events []json.RawMessage) {
	fmt.Fprintf(w, `{"accepted":%d,"duplicates":0}`, len(events))
}

func TestPublishBusy(t *testing.T) {
	// Busy at first, which is waited for without being asked.
	code, stdout, stderr, requests := publishTo(t, "", func(n int, w http.ResponseWriter, events []json.RawMessage) {
		if n == 0 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		accept(w, events)
	}, "app/x")
	if code != exitOK || requests != 2 || !strings.Contains(stdout, "is stored") || !strings.Contains(stderr, "Trying for 10s") {
		t.Errorf("exit %d after %d requests\n%s%s", code, requests, stdout, stderr)
	}
}

func TestPublishGivesUp(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		args   []string
		want   string
	}{
		"token": {http.StatusForbidden, []string{"--wait", "1m"}, "Give a token"},
		"other": {http.StatusNotFound, []string{"--wait", "1m"}, "Is http://"},
		"moved": {http.StatusFound, nil, "may not have been stored"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(tokenEnv, "")
			code, stdout, stderr, requests := publishTo(t, "", func(_ int, w http.ResponseWriter, _ []json.RawMessage) {
				w.WriteHeader(tc.status)
			}, append(tc.args, "--format", "json", "app/x")...)
			var summary publishSummary
			if err := json.Unmarshal([]byte(stdout), &summary); err != nil {
				t.Fatal(err)
			}
			if code != exitError || requests != 1 || summary.Unknown != 1 || summary.Error == "" || !strings.Contains(stderr, tc.want) {
				t.Errorf("exit %d after %d requests\n%s%s", code, requests, stdout, stderr)
			}
		})
	}
}

func TestPublishPayloadTooLarge(t *testing.T) {
	code, _, stderr, requests := publishTo(t, strings.Repeat("x", maxDataBytes+1), nil, "--data", "-", "app/x")
	if code != exitError || requests != 0 || !strings.Contains(stderr, "standard input has more than") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	code, _, stderr, _ = publishTo(t, "", nil, "--data", "@"+filepath.Join(t.TempDir(), "missing"), "app/x")
	if code != exitError || !strings.Contains(stderr, "--data: open") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// Refusals of the hub and of the parser have the number of their line, however requests
// are cut.
func TestPublishLines(t *testing.T) {
	var in strings.Builder
	var want []int
	for line := 1; line <= 3000; line++ {
		switch {
		case line%7 == 0:
			in.WriteString("\n")
		case line%11 == 0:
			in.WriteString("{}\n")
			want = append(want, line)
		default:
			fmt.Fprintf(&in, `{"specversion":"1.0","id":"%d","source":"/x","type":"app/x"}`+"\n", line)
			if line%13 == 0 {
				want = append(want, line)
			}
		}
	}
	stored := 0
	code, stdout, stderr, _ := publishTo(t, strings.TrimSuffix(in.String(), "\n"), func(_ int, w http.ResponseWriter, events []json.RawMessage) {
		var refused []string
		for i, text := range events {
			var e struct {
				ID int `json:"id,string"`
			}
			if err := json.Unmarshal(text, &e); err != nil {
				t.Error(err)
			}
			if e.ID%13 == 0 {
				refused = append(refused, fmt.Sprintf(`{"index":%d,"id":"%d","code":"schema","message":"no \u001b[31m"}`, i, e.ID))
			}
		}
		w.WriteHeader(http.StatusMultiStatus)
		stored += len(events) - len(refused)
		fmt.Fprintf(w, `{"accepted":%d,"duplicates":0,"refused":[%s],"warnings":[{"index":0,"message":"odd"}]}`, len(events)-len(refused), strings.Join(refused, ","))
	}, "--cloudevents")
	var got []int
	for line := range strings.Lines(stderr) {
		var n int
		if _, err := fmt.Sscanf(line, "Line %d:", &n); err == nil {
			got = append(got, n)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("refused were lines %v, want %v", got, want)
	}
	if summary := fmt.Sprintf("Stored: %d events; refused: %d.\n", stored, len(want)); code != exitIncomplete || stdout != summary {
		t.Errorf("exit %d, %q, want %q", code, stdout, summary)
	}
	if !strings.Contains(stderr, "Warning: odd\n") || strings.Contains(stderr, "\x1b") {
		t.Errorf("said was %.300q", stderr)
	}
}

func TestLineNumbers(t *testing.T) {
	var l lineNumbers
	if l.of(0) != 0 {
		t.Error("a line of nothing")
	}
	want := []int{1, 2, 5, 6, 9}
	for i, line := range want {
		if line == 9 {
			l.note(i, 8) // was not queued
		}
		l.note(i, line)
	}
	for i, line := range want {
		if got := l.of(i); got != line {
			t.Errorf("event %d is on line %d, want %d", i, got, line)
		}
	}
	if len(l) != 3 {
		t.Errorf("%v", l)
	}
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", maxLineBytes+1)
	r := bufio.NewReader(strings.NewReader("a\n\n" + long + "\nb\n" + strings.Repeat("c", 5000) + "\nend"))
	for _, want := range []string{"a\n", "\n", "", "b\n", strings.Repeat("c", 5000) + "\n", "end"} {
		line, err := readLine(r)
		if string(line) != want || want == "" != errors.Is(err, errLineTooLong) || want == "end" != errors.Is(err, io.EOF) {
			t.Errorf("%.20q (%d bytes), %v, want %.20q", line, len(line), err, want)
		}
	}
}

func TestProgressLine(t *testing.T) {
	before, now := client.Stats{Acknowledged: 10}, client.Stats{Acknowledged: 1210, Refused: 3, Waiting: 7}
	if got := progressLine(before, now, 2*time.Second); got != "600 events/s · 1210 stored · 3 refused · 7 waiting" {
		t.Error(got)
	}
}
