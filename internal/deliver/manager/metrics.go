package manager

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// conditions are the values of the label state.
var conditions = []deliver.Condition{
	deliver.Starting, deliver.Running, deliver.Failing, deliver.Paused, deliver.Disabled, deliver.Ended, Broken,
}

// Broken is the state of a sink that cannot run as it is defined.
const Broken deliver.Condition = "broken"

// collector is the metrics of all sinks, asked for at every scrape.
type collector struct {
	m *Manager

	events, retried, attempts, missed, gaps           *prometheus.Desc
	letters, letterBytes                              *prometheus.Desc
	lagEvents, lagSeconds, waiting, inFlight, sending *prometheus.Desc
	failing, state, replays, redrives, info           *prometheus.Desc
	all                                               []*prometheus.Desc
}

func newCollector(m *Manager) *collector {
	c := &collector{m: m}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc("tocsin_sink_"+name, help, append([]string{"sink"}, labels...), nil)
		c.all = append(c.all, d)
		return d
	}
	c.events = desc("events_total", "Events by what became of them: delivered, refused (a dead letter: the endpoint said no), failed (a dead letter: given up), filtered (not for this sink).", "outcome")
	c.retried = desc("retried_events_total", "How often an event was handed to the sink once more.")
	c.attempts = desc("attempts_total", "Requests to the sink: ok, or failed for at least one event.", "outcome")
	c.missed = desc("missed_events_total", "Events that the journal had removed before they were sent.")
	c.gaps = desc("gaps_total", "Places where the journal had removed events before they were sent.")
	c.letters = desc("dead_letters", "Dead letters that there are.")
	c.letterBytes = desc("dead_letter_bytes", "What dead letters take of the disk.")
	c.lagEvents = desc("lag_events", "Events of the journal that come after the place up to which everything is decided.")
	c.lagSeconds = desc("lag_seconds", "Age of the oldest event that is not decided.")
	c.waiting = desc("waiting_events", "Events that were read and are not decided.")
	c.inFlight = desc("in_flight_events", "Events that are being sent.")
	c.sending = desc("in_flight_requests", "Requests that are on their way.")
	c.failing = desc("failing_seconds", "For how long nothing could be delivered although events wait; 0: the last attempt worked, none waits, or the sink is paused.")
	c.state = desc("state", "1 for the state in which the sink is, 0 for the others.", "state")
	c.replays = desc("replays", "Replays that are under way.")
	c.redrives = desc("redrives", "Redrives of dead letters that are under way.")
	c.info = desc("info", "What the sink is; always 1.", "type", "origin")
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.all {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.m.all() {
		c.collect(ch, s)
	}
}

func (c *collector) collect(ch chan<- prometheus.Metric, s *sink) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, value, append([]string{s.name}, labels...)...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		send(d, prometheus.CounterValue, float64(value), labels...)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		send(d, prometheus.GaugeValue, value, labels...)
	}
	var st deliver.Status
	state := Broken
	if s.delivery != nil {
		st = s.status()
		state = st.Condition
	}
	if s.trouble() != nil {
		state = Broken
	}
	gauge(c.info, 1, string(s.config.Type), string(s.origin))
	for _, one := range conditions {
		value := 0.0
		if one == state {
			value = 1
		}
		gauge(c.state, value, string(one))
	}
	if s.delivery == nil {
		return // nothing is known of it
	}
	counter(c.events, st.Delivered, "delivered")
	counter(c.events, st.Refused, "refused")
	counter(c.events, st.Failed, "failed")
	counter(c.events, st.Filtered, "filtered")
	counter(c.retried, st.Retried)
	counter(c.attempts, st.Attempts-min(st.FailedAttempts, st.Attempts), "ok")
	counter(c.attempts, st.FailedAttempts, "failed")
	counter(c.missed, st.Missed)
	counter(c.gaps, st.Gaps)
	gauge(c.letters, float64(st.DeadLetters))
	gauge(c.letterBytes, float64(st.DeadLetterBytes))
	gauge(c.lagEvents, float64(st.LagEvents))
	gauge(c.lagSeconds, st.Lag.Seconds())
	gauge(c.waiting, float64(st.Waiting))
	gauge(c.inFlight, float64(st.InFlight))
	gauge(c.sending, float64(st.Sending))
	failing := 0.0
	if st.Outage != nil && state == deliver.Failing && st.Waiting > 0 {
		failing = max(time.Since(st.Outage.Since).Seconds(), 0)
	}
	gauge(c.failing, failing)
	replays, redrives := 0, 0
	for _, r := range st.Replays {
		if !r.Done && !r.Cancelled {
			replays++
		}
	}
	for _, r := range st.Redrives {
		if !r.Done && !r.Cancelled {
			redrives++
		}
	}
	gauge(c.replays, float64(replays))
	gauge(c.redrives, float64(redrives))
}
