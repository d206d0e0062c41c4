package journal

import (
	"testing"
	"time"
)

// The clock of records does not go back, unless it would stand still for long.
func TestClockOfRecords(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	w := new(writer)
	for i, step := range []struct{ now, want time.Duration }{
		{0, 0}, {time.Second, time.Second}, {0, time.Second}, // a little back
		{48 * time.Hour, 48 * time.Hour},                                   // far ahead
		{48*time.Hour - maxStandstill, 48 * time.Hour},                     // the most that it stands still
		{2 * time.Second, 2 * time.Second}, {time.Second, 2 * time.Second}, // set right
	} {
		if got := w.tick(start.Add(step.now)).Sub(start); got != step.want {
			t.Errorf("step %d: at %v it is %v, not %v", i, step.now, got, step.want)
		}
	}
}
