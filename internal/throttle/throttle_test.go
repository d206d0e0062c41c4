package throttle

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		for _, tt := range []struct {
			after   time.Duration
			skipped uint64
			ok      bool
		}{
			{0, 0, true},
			{0, 0, false},
			{Every - 1, 0, false},
			{1, 2, true},
			{Every, 0, true},
		} {
			time.Sleep(tt.after)
			if skipped, ok := th.Allow(); skipped != tt.skipped || ok != tt.ok {
				t.Errorf("got %d %v, want %+v", skipped, ok, tt)
			}
		}
	})
}
