package severity

import (
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

func TestOf(t *testing.T) {
	for _, test := range []struct {
		eventType, key, value string
		want                  Severity
		resolved              bool
	}{
		{"kv-v2/data-write", "", "", Informational, false},
		{"request/denied", "", "", Warning, false},
		{"auth/login-failed", "", "", Warning, false},
		{"denied/x", "", "", Informational, false},
		{"tocsin/policy-write", "outcome", "refused", Warning, false},
		{"flipt/flag/created", "status", "denied", Warning, false},
		{"tocsin/sink-failing", "", "", Error, false},
		{"tocsin/sink-full", "", "", Error, false},
		{"tocsin/sink-resumed", "", "", Informational, true},
		{"tocsin/sink-recovered", "", "", Informational, true},
		{"tocsin/sink-create", "", "", Informational, false},
		{"alert/x", "", "", Warning, false},
		{"alert/x", "priority", "EMERGENCY", Emergency, false},
		{"alert/x", "priority", "Critical", Critical, false},
		{"alert/x", "priority", "info", Informational, false},
		{"alert/x", "priority", "Debug", Debug, false},
		{"alert/x", "state", "resolved", Warning, true},
		{"kv-v2/x", "state", "resolved", Informational, false},
	} {
		e := &event.Event{Type: test.eventType}
		if test.key != "" {
			e.Metadata.Set(test.key, test.value)
		}
		if got := Of(e); got != test.want || Resolved(e) != test.resolved {
			t.Errorf("%+v: %v, %v", test, got, Resolved(e))
		}
	}
}
