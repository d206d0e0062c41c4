package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/app"
)

// eraseLine puts the cursor of a terminal at the beginning of its line and clears
// the line.
const eraseLine = "\r\x1b[K"

// fit cuts what is written into one line of a terminal, which could not be erased if it
// took two.
func fit(text string, width int) string {
	if runes := []rune(text); len(runes) >= width {
		return string(runes[:max(0, width-1)])
	}
	return text
}

// statusErasing replaces the status line by what is written; the next status
// appears below.
type statusErasing struct{ w io.Writer }

func (e statusErasing) Write(p []byte) (int, error) {
	n, err := e.w.Write(append([]byte(eraseLine), p...))
	return max(0, n-len(eraseLine)), err
}

// startStatus writes once a second what flows through the hub, into the same line
// of a terminal. The returned function ends that and leaves the last line.
func startStatus(w io.Writer, a *app.App) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		before, at := a.Stats(), time.Now()
		for {
			select {
			case <-done:
				fmt.Fprintln(w)
				return
			case now := <-ticker.C:
				stats := a.Stats()
				fmt.Fprintf(w, "%s%s", eraseLine, fit(statusLine(before, stats, now.Sub(at)), outputWidth(w)))
				before, at = stats, now
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// statusLine says what happened between two moments. It fits into 80 columns.
func statusLine(before, now app.Stats, elapsed time.Duration) string {
	rate := func(a, b uint64) string {
		return fmt.Sprintf("%.0f/s", float64(b-a)/elapsed.Seconds())
	}
	parts := []string{
		rate(before.Lines, now.Lines) + " lines",
		rate(before.Events, now.Events) + " events",
		fmt.Sprintf("%d in all", now.Events),
		fmt.Sprintf("%d subscribers", now.Subscribers),
		rate(before.Delivered, now.Delivered) + " delivered",
	}
	if now.Quarantined > 0 {
		parts = append(parts, fmt.Sprintf("%d not understood", now.Quarantined))
	}
	if !now.Healthy {
		parts = append(parts, "NOT HEALTHY")
	}
	return strings.Join(parts, " · ")
}
