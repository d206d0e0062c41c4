package cli

import (
	"context"
	"io"
	"strings"
	"testing"

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
