package cli

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// On a terminal the progress is shown in one line, which events replace.
func TestProgressIsShown(t *testing.T) {
	keyboard, screen := openTerminal(t)
	p := scripted(io.EOF, batchOf(1, "a"))
	p.description.Capabilities.Progress = true
	asked := make(chan struct{}, 1)
	p.progress = func() (sourceplugin.Progress, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		return sourceplugin.Progress{Fraction: 0.25, Text: "a quarter"}, nil
	}
	shown := make(chan string, 1)
	next := p.next
	p.next = func(ctx context.Context, call int, b *sourceplugin.Batch) error {
		<-asked
		buf := make([]byte, 4096)
		n, err := keyboard.Read(buf)
		if err != nil {
			t.Error(err)
		}
		shown <- string(buf[:n])
		return next(ctx, call, b)
	}
	if _, _, err := p.run(t, t.Context(), func(r *streamRun) { r.progress = screen }); err != nil {
		t.Fatal(err)
	}
	if got := <-shown; !strings.Contains(got, "25.0 % · a quarter") {
		t.Errorf("%q", got)
	}
	buf := make([]byte, 4096)
	n, err := keyboard.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), eraseLine) {
		t.Errorf("%q %v", buf[:n], err)
	}
}

// On a terminal "capture write" shows how far it is, in one line that the end replaces.
func TestCaptureWriteProgress(t *testing.T) {
	keyboard, screen := openTerminal(t)
	seen := make(chan struct{})
	address := subscriptions(t, func(ctx context.Context, _ int, c *websocket.Conn) {
		sendEvent(ctx, t, c, 1)
		sendEvent(ctx, t, c, 2)
		select {
		case <-seen:
		case <-ctx.Done():
		}
		c.Close(websocket.StatusNormalClosure, "complete")
	})
	var out strings.Builder
	done := make(chan int)
	go func() {
		done <- Run(t.Context(), []string{"capture", "write", "--address", address, "--since", "oldest", filepath.Join(t.TempDir(), "c.scap")}, Streams{Out: &out, Err: screen})
	}()
	for shown := ""; !strings.Contains(shown, "2 events, up to 1970-01-01T00:00:02Z"); {
		buf := make([]byte, 4096)
		n, err := keyboard.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		shown += string(buf[:n])
	}
	close(seen)
	if code := <-done; code != exitOK || !strings.HasSuffix(out.String(), ": 2 events.\n") {
		t.Errorf("exit %d\n%s", code, out.String())
	}
	buf := make([]byte, 4096)
	if n, err := keyboard.Read(buf); err != nil || !strings.Contains(string(buf[:n]), eraseLine) {
		t.Errorf("%q %v", buf[:n], err)
	}
}
