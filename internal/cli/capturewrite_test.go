package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
)

// subscriptions serves connections of subscribers, the first with 0.
func subscriptions(t *testing.T, serve func(ctx context.Context, n int, c *websocket.Conn)) (address string) {
	t.Helper()
	cleanEnvironment(t)
	var connections atomic.Int32
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		serve(c.CloseRead(r.Context()), int(connections.Add(1))-1, c)
	}))
	t.Cleanup(hub.Close)
	return hub.URL
}

// sendEvent sends an event that was recorded at a second.
func sendEvent(ctx context.Context, t *testing.T, c *websocket.Conn, n int) {
	e := &event.Event{ID: fmt.Sprint(n), Type: "app/x", Source: "/app", Time: time.Unix(int64(n), 0), Recorded: time.Unix(int64(n), 0)}
	if err := c.Write(ctx, websocket.MessageText, event.AppendCloudEvent(nil, e, fmt.Sprintf("pos%d", n))); err != nil && ctx.Err() == nil {
		t.Error(err)
	}
}

// numbers returns the ids of the events in a capture.
func numbers(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return numbersIn(t, f)
}

func numbersIn(t *testing.T, in io.Reader) string {
	t.Helper()
	r, err := capture.NewReader(in, capture.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for {
		e, err := r.Next()
		if err == io.EOF {
			return strings.Join(ids, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		own, err := event.ParseCloudEvent(e.Data())
		if err != nil || len(own.Extensions) > 0 {
			t.Fatalf("%s: %v", e.Data(), err)
		}
		ids = append(ids, own.ID)
	}
}

// What Ctrl-C interrupts is a whole capture, and where to go on is said.
func TestCaptureWriteStopped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	name := filepath.Join(t.TempDir(), "c.scap.gz")
	address := subscriptions(t, func(ctx context.Context, _ int, c *websocket.Conn) {
		sendEvent(ctx, t, c, 1)
		sendEvent(ctx, t, c, 2)
		<-ctx.Done()
	})
	go func() {
		for ctx.Err() == nil {
			if b, err := os.ReadFile(name); err == nil && len(b) > 0 {
				stop() // it was completed while it grows
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	var out, errs strings.Builder
	code := Run(ctx, []string{"capture", "write", "--address", address, "--since", "oldest", name}, Streams{Out: &out, Err: &errs})
	if code != exitOK || out.String() != "Written to "+name+": 2 events.\n" || !strings.Contains(errs.String(), "Stopped before the end.\n--since pos2 goes on there") {
		t.Errorf("exit %d\n%s%s", code, out.String(), errs.String())
	}
	if got := numbers(t, name); got != "1 2" {
		t.Error(got)
	}
}

// A part of the journal, over a connection that breaks and a gap.
func TestCaptureWriteParts(t *testing.T) {
	serve := func(gap bool) func(ctx context.Context, n int, c *websocket.Conn) {
		return func(ctx context.Context, n int, c *websocket.Conn) {
			switch {
			case n == 0:
				sendEvent(ctx, t, c, 1)
				if gap {
					c.Close(4410, "gap: 3 events removed by retention")
				}
			default:
				sendEvent(ctx, t, c, 5)
				sendEvent(ctx, t, c, 6)
				c.Close(websocket.StatusNormalClosure, "complete")
			}
		}
	}
	for name, tc := range map[string]struct {
		gap  bool
		args []string
		code int
		want string
		said string
	}{
		"broken": {false, nil, exitOK, "1 5 6", "Connection lost"},
		"gap":    {true, nil, exitIncomplete, "1 5 6", "Events were missing"},
		"until":  {false, []string{"--until", time.Unix(6, 0).UTC().Format(time.RFC3339)}, exitOK, "1 5", ""},
	} {
		t.Run(name, func(t *testing.T) {
			address := subscriptions(t, serve(tc.gap))
			file := filepath.Join(t.TempDir(), "c.scap")
			code, stdout, stderr := run(t, append([]string{"capture", "write", "--format", "json", "--address", address, "--since", "oldest", file}, tc.args...)...)
			var answer captureWritten
			if err := json.Unmarshal([]byte(stdout), &answer); err != nil || code != tc.code || !strings.Contains(stderr, tc.said) || answer.File != file {
				t.Errorf("exit %d, %v\n%s%s", code, err, stdout, stderr)
			}
			if got := numbers(t, file); got != tc.want || answer.Events != uint64(len(strings.Fields(got))) || answer.Position != "pos"+got[len(got)-1:] {
				t.Errorf("%s: %+v", got, answer)
			}
			// And through a pipe.
			var out bytes.Buffer
			var errs strings.Builder
			address = subscriptions(t, serve(tc.gap))
			code = Run(t.Context(), append([]string{"capture", "write", "--address", address, "--since", "oldest", "-"}, tc.args...), Streams{Out: &out, Err: &errs})
			if code != tc.code || !strings.Contains(errs.String(), "Written: ") {
				t.Errorf("exit %d\n%s", code, errs.String())
			}
			if got := numbersIn(t, &out); got != tc.want {
				t.Error(got)
			}
		})
	}
}
