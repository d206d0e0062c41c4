package fliptaudit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/audit"
	"github.com/tocsin-events/tocsin/audit/flipt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ flipt.Sender = (*Sender)(nil)

func recorded(t *testing.T) (lines []string) {
	t.Helper()
	f, err := os.Open("../../../internal/fliptevent/testdata/log.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

// Every event is the same on the other side, also odd ones.
func TestThereAndBack(t *testing.T) {
	lines := append(recorded(t),
		`{"version":"0.2","type":"order","action":"ship","status":"","metadata":{},"payload":[1,2],"timestamp":"2026-11-21T03:38:10+02:00"}`,
		`{"version":"0.2","type":"my order/é","action":"was shipped","status":"success","metadata":{},"payload":null,"timestamp":"2026-11-21T03:38:10Z"}`,
		`{"version":"0.3","type":"flag","action":"read","status":"odd","metadata":{"actor":{}},"payload":"text","timestamp":"never"}`,
		`{"version":"0.2","type":"flag","action":"create","status":"denied","metadata":{"actor":{"authentication":"none","ip":"::1","email":"a@b","name":"n","picture":"p"}},"payload":null,"timestamp":"2026-11-21T01:38:10.5Z"}`,
	)
	for _, line := range lines {
		e, err := flipt.Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		mid, err := FromFlipt(&e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(mid); err != nil {
			t.Errorf("package audit does not take it: %v", err)
		}
		back := ToFlipt(&mid)
		got, err := back.AppendLogLine(nil)
		if err != nil || string(got) != line {
			t.Errorf("%v\n got %s\nwant %s", err, got, line)
		}
	}
	if _, err := FromFlipt(new(flipt.Event)); !errors.Is(err, flipt.ErrNotValid) {
		t.Error(err)
	}
}

func TestToFlipt(t *testing.T) {
	at := time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		e    audit.Event
		want string
	}{
		{audit.Event{Time: at, Action: "create", Outcome: audit.Success, Target: audit.Target{Type: "order", ID: "7", Namespace: "team-a/"}, Actor: audit.Actor{Name: "bob", Method: "oidc", IP: "::1"}},
			`{"version":"0.2","type":"order","action":"created","metadata":{"actor":{"authentication":"oidc","ip":"::1","name":"bob"}},"payload":{"key":"7","namespace_key":"team-a"},"timestamp":"2026-11-27T06:00:00Z","status":"success"}`},
		{audit.Event{Time: at, Action: "login", Outcome: audit.Failure, Target: audit.Target{Type: "session"}, Before: map[string]int{"b": 1}},
			`{"version":"0.2","type":"session","action":"login","metadata":{"actor":{"authentication":"none"}},"payload":{"b":1},"timestamp":"2026-11-27T06:00:00Z","status":"failure"}`},
		{audit.Event{Time: at, Action: "delete", Outcome: audit.Denied, Target: audit.Target{Type: "order"}, Before: map[string]int{"b": 1}, After: map[string]int{"a": 1}},
			`{"version":"0.2","type":"order","action":"deleted","metadata":{"actor":{"authentication":"none"}},"payload":{"a":1},"timestamp":"2026-11-27T06:00:00Z","status":"denied"}`},
	} {
		out := ToFlipt(&c.e)
		if got, _ := json.Marshal(&out); string(got) != c.want {
			t.Errorf(" got %s\nwant %s", got, c.want)
		}
	}
}

// receiver is a webhook that answers as it is told.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	status map[string]int // by what is in the body
	down   bool
	got    []string
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{status: make(map[string]int)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var e flipt.Event
		err := json.NewDecoder(q.Body).Decode(&e)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil || r.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for part, status := range r.status {
			if b, _ := json.Marshal(e.Payload); strings.Contains(string(b), part) {
				w.WriteHeader(status)
				return
			}
		}
		line, _ := e.AppendLogLine(nil)
		r.got = append(r.got, string(line))
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.got...)
}

func open(t *testing.T, dir string, r *receiver) (*flipt.Logger, *audit.Logger) {
	t.Helper()
	hook, err := flipt.NewWebhookSink(flipt.WebhookOptions{URL: r.URL, Budget: flipt.Elapsed(time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	out := Output("webhook", hook)
	out.FirstRetry, out.MaxRetry = time.Millisecond, 10*time.Millisecond
	l, err := audit.New(audit.Options{Service: "flags", Dir: dir, Outputs: []audit.Output{out}, Redact: audit.Redaction{Off: true}})
	if err != nil {
		t.Fatal(err)
	}
	return flipt.NewLogger(nil, NewSender(l)), l
}

// What a queue on disk took is delivered by the next process, byte for byte, and what is
// refused becomes a dead letter.
func TestDurable(t *testing.T) {
	r := newReceiver(t)
	r.down = true
	dir := filepath.Join(t.TempDir(), "queue")
	log, _ := open(t, dir, r)
	want := recorded(t)
	for _, line := range want {
		e, err := flipt.Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Log(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := log.Shutdown(ctx); err == nil || len(r.lines()) > 0 {
		t.Error("nothing is left, though the receiver is down")
	}
	r.mu.Lock()
	r.down = false
	r.status[`"rec-seg2"`] = 400
	r.mu.Unlock()
	log, logger := open(t, dir, r)
	refused := 0
	var expected []string
	for _, line := range want {
		if strings.Contains(line, `"rec-seg2"`) {
			refused++
			continue
		}
		expected = append(expected, line)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		letters, err := logger.DeadLetters(t.Context(), "webhook", 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(letters) == refused && len(r.lines()) >= len(expected) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d dead letters, want %d; %d delivered, want %d", len(letters), refused, len(r.lines()), len(expected))
		}
	}
	if err := log.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	got := make(map[string]int)
	for _, line := range r.lines() {
		got[line]++
	}
	for _, line := range expected {
		if got[line] == 0 {
			t.Errorf("missing: %s", line)
		}
	}
	if err := log.Log(t.Context(), flipt.NewEvent(flipt.Request{Resource: "x"}, nil, nil)); !errors.Is(err, audit.ErrClosed) {
		t.Error(err)
	}
}
