package template

import (
	_ "embed"
	"fmt"
)

// Preset is a body that is ready for a service.
type Preset string

// The presets.
const (
	NoPreset     Preset = ""
	Slack        Preset = "slack"
	PagerDuty    Preset = "pagerduty"
	Alertmanager Preset = "alertmanager"
)

// preset is what a preset has.
type preset struct {
	body     string
	url      string // where to if nothing else is said
	path     string // of URLs without one
	needsKey bool
}

var (
	//go:embed presets/slack.tmpl
	slackBody string
	//go:embed presets/pagerduty.tmpl
	pagerDutyBody string
	//go:embed presets/alertmanager.tmpl
	alertmanagerBody string
)

func (p Preset) find() (preset, error) {
	switch p {
	case NoPreset:
		return preset{}, nil
	case Slack:
		return preset{body: slackBody}, nil
	case PagerDuty:
		return preset{body: pagerDutyBody, url: "https://events.pagerduty.com/v2/enqueue", path: "/v2/enqueue", needsKey: true}, nil
	case Alertmanager:
		return preset{body: alertmanagerBody, path: "/api/v2/alerts"}, nil
	}
	return preset{}, fmt.Errorf("unknown preset %.40q; there are slack, pagerduty, alertmanager", string(p))
}
