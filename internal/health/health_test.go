package health

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var journal, loop error
	r := &Registry{now: func() time.Time { return now }}
	r.Register("journal", Readiness, func() error { return journal })
	r.Register("loop", Liveness, func() error { return loop })

	get := func(h http.Handler) (int, Report) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		var report Report
		if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil {
			t.Fatalf("%v in %s", err, w.Body)
		}
		if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("header %v", w.Header())
		}
		return w.Code, report
	}
	step := func(status string, live, ready int) Report {
		t.Helper()
		now = now.Add(time.Minute)
		code, report := get(r.Handler())
		liveCode, _ := get(r.LiveHandler())
		readyCode, _ := get(r.ReadyHandler())
		all := http.StatusServiceUnavailable
		if status == "ok" {
			all = http.StatusOK
		}
		if report.Status != status || code != all || liveCode != live || readyCode != ready {
			t.Errorf("status %q, codes %d, live %d, ready %d; want %q, %d, %d", report.Status, code, liveCode, readyCode, status, live, ready)
		}
		return report
	}

	step("ok", 200, 200)
	journal = errors.New("no space left")
	report := step("unready", 200, 503)
	if c := report.Checks[0]; c.Name != "journal" || c.OK || c.Reason != "no space left" || !c.Since.Equal(now) {
		t.Errorf("journal check %+v", c)
	}
	broke := now
	journal = errors.New("still no space left")
	if c := step("unready", 200, 503).Checks[0]; !c.Since.Equal(broke) || c.Reason != "still no space left" {
		t.Errorf("journal check %+v, want since %v", c, broke)
	}
	journal = nil
	if c := step("ok", 200, 200).Checks[0]; !c.OK || c.Reason != "" || !c.Since.Equal(now) {
		t.Errorf("journal check %+v", c)
	}
	loop = errors.New("stuck")
	step("dead", 503, 503)
	loop = nil
	source := errors.New("no such file")
	r.Register("source", Degradation, func() error { return source })
	if c := step("degraded", 200, 200).Checks[2]; c.OK || c.Reason != "no such file" {
		t.Errorf("source check %+v", c)
	}
	source = nil
	step("ok", 200, 200)
	r.Register("buggy", Readiness, func() error { panic("nil map") })
	if c := step("unready", 200, 503).Checks[3]; c.Reason != "the check failed: nil map" {
		t.Errorf("buggy check %+v", c)
	}
}

func TestZeroRegistryIsHealthy(t *testing.T) {
	if report := new(Registry).Report(); !report.Live || !report.Ready || report.Checks == nil {
		t.Errorf("%+v", report)
	}
}

func TestRemove(t *testing.T) {
	var r Registry
	bad := func() error { return errors.New("bad") }
	r.Register("a", Degradation, func() error { return nil })
	remove := r.Register("b", Degradation, bad)
	r.Register("b", Degradation, func() error { return nil })
	if r.Report().OK() {
		t.Error("ok with a check that fails")
	}
	remove()
	remove()
	if report := r.Report(); !report.OK() || len(report.Checks) != 2 {
		t.Errorf("after it was removed: %+v", report)
	}
}
