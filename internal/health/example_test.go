package health_test

import (
	"errors"
	"fmt"

	"github.com/tocsin-events/tocsin/internal/health"
)

func Example() {
	var r health.Registry
	r.Register("journal", health.Readiness, func() error { return errors.New("no space left on /var/lib/tocsin") })
	report := r.Report()
	fmt.Println(report.Status, report.Live, report.Checks[0].Reason)
	// Output: unready true no space left on /var/lib/tocsin
}
