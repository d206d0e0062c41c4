// Package health knows how the parts of the program are. Each part registers a
// check under its name, and whoever wants to know runs them: nothing is polled in
// the background.
//
// Liveness asks whether the process can do its work at all, so that a supervisor
// may restart it. Readiness asks whether it should be given work now. A failed
// liveness check makes the program unready, too. Whatever else is wrong makes it
// degraded: somebody should look, but neither a restart nor sending clients
// elsewhere would help.
package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Kind says what a failing check means.
type Kind int

const (
	// Readiness: no work should be given to the program until the check passes.
	Readiness Kind = iota
	// Liveness: a restart is the way out.
	Liveness
	// Degradation: the program does its work, but not all of it.
	Degradation
)

// Check returns nil if all is well, else what is wrong, for people, without
// secrets. It is called concurrently and must return at once.
type Check func() error

// Registry has the checks. The zero value is ready for use, and healthy. It is
// safe for concurrent use.
type Registry struct {
	mu     sync.Mutex
	checks []*entry
	now    func() time.Time // in tests
}

type entry struct {
	name  string
	kind  Kind
	check Check

	mu      sync.Mutex
	checked bool
	ok      bool
	since   time.Time
}

// Register adds a check. Checks are reported in the order of their registration;
// the same name may be used by several. What it returns removes the check.
func (r *Registry) Register(name string, kind Kind, check Check) (remove func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := &entry{name: name, kind: kind, check: check}
	r.checks = append(r.checks, e)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		// Reports that run have the old list.
		r.checks = slices.DeleteFunc(slices.Clone(r.checks), func(other *entry) bool { return other == e })
	}
}

// Report is what all checks together say.
type Report struct {
	// Status is "ok", "degraded", "unready" or "dead".
	Status string   `json:"status"`
	Live   bool     `json:"live"`
	Ready  bool     `json:"ready"`
	Checks []Result `json:"checks"`
}

// Result is what one check says.
type Result struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Reason is empty if OK.
	Reason string `json:"reason,omitempty"`
	// Since is when it was first seen to be so.
	Since time.Time `json:"since"`
}

// Report runs all checks.
func (r *Registry) Report() Report {
	r.mu.Lock()
	checks := r.checks[:len(r.checks):len(r.checks)]
	now := time.Now
	if r.now != nil {
		now = r.now
	}
	r.mu.Unlock()
	report := Report{Status: "ok", Live: true, Ready: true, Checks: []Result{}}
	for _, e := range checks {
		result := e.run(now())
		if !result.OK {
			report.Status = "degraded"
			report.Ready = report.Ready && e.kind == Degradation
			report.Live = report.Live && e.kind != Liveness
		}
		report.Checks = append(report.Checks, result)
	}
	switch {
	case !report.Live:
		report.Status = "dead"
	case !report.Ready:
		report.Status = "unready"
	}
	return report
}

func (e *entry) run(now time.Time) Result {
	err := e.safeCheck()
	e.mu.Lock()
	defer e.mu.Unlock()
	if ok := err == nil; !e.checked || ok != e.ok {
		e.checked, e.ok, e.since = true, ok, now
	}
	result := Result{Name: e.name, OK: err == nil, Since: e.since.UTC()}
	if err != nil {
		result.Reason = err.Error()
	}
	return result
}

// safeCheck takes a panic for what it is: not healthy.
func (e *entry) safeCheck() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the check failed: %v", p)
		}
	}()
	return e.check()
}

// OK says whether every check passes.
func (r Report) OK() bool { return r.Status == "ok" }

// Handler serves the whole report as JSON, with status 200 if every check passes
// and 503 if not: for monitoring.
func (r *Registry) Handler() http.Handler { return r.serve(Report.OK) }

// ReadyHandler serves the same report, with status 200 if the program is ready and
// 503 if not: for load balancers.
func (r *Registry) ReadyHandler() http.Handler {
	return r.serve(func(report Report) bool { return report.Ready })
}

// LiveHandler serves the whole report as JSON, with status 200 if the program is
// alive and 503 if not.
func (r *Registry) LiveHandler() http.Handler {
	return r.serve(func(report Report) bool { return report.Live })
}

func (r *Registry) serve(good func(Report) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		report := r.Report()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !good(report) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(report)
	})
}
