package alerting

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/severity"
)

func TestAlertsAreEvents(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("A rule!", `event.metadata[who] = me`, "tags: [mitre_persistence, T1098.001, x]"))
	a, _ := s.start()
	s.append(app(1, "app/a", "who", "me"), app(2, "app/b", "who", "you"), app(3, "app/c"))
	s.judged(a)
	alerts := s.alerts()
	if len(alerts) != 1 {
		t.Fatalf("%d alerts: %s", len(alerts), outputs(alerts))
	}
	e := alerts[0]
	if e.Type != "alert/a-rule" || e.Path != "sys/rules/a-rule" || e.Namespace != "team/" || e.Source != source || severity.Of(e) != severity.Warning {
		t.Errorf("got %+v", e)
	}
	for key, want := range map[string]string{
		"path": "sys/rules/a-rule", "priority": "Warning", "rule": "A rule!", "output": "A rule! app/a me", "tags": "T1098.001,mitre_persistence,x", "mitre_tactics": "persistence",
		"mitre_techniques": "T1098.001", "event_source": "tocsin", "event_id": "event-1", "event_type": "app/a", "event_path": "secret/x", "count": "1",
	} {
		if got, _ := e.Metadata.Text(key); got != want {
			t.Errorf("metadata %s is %q, not %q", key, got, want)
		}
	}
	if n, _ := e.Extensions.Get("severitynumber"); n.Value != "13" || !n.JSON {
		t.Errorf("severity number %+v", n)
	}
	var data map[string]any
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	if data["time"] != e.Time.UTC().Format("2006-01-02T15:04:05.000000000Z") {
		t.Errorf("time %v", data["time"])
	}
	delete(data, "time")
	got, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"count":1,"event_ids":["event-1"],"hostname":"here","output":"A rule! app/a me","output_fields":{"event.metadata[who]":"me","event.type":"app/a"},"priority":"Warning","rule":"A rule!","source":"tocsin","tags":["T1098.001","mitre_persistence","x"]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := a.Health(); err != nil {
		t.Error(err)
	}
	st := a.Status()
	if st.State != "judging" || len(st.Rules) != 1 || st.Rules[0].Alerts != 1 || st.Rules[0].State != "active" || st.Events < 3 {
		t.Errorf("got %+v", st)
	}
	if told := s.told("rules-loaded"); len(told) != 1 {
		t.Errorf("told %+v", told)
	}
}

func TestHeldBack(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("held", `event.type = "app/a"`, "throttle: {every: 200ms}"))
	a, _ := s.start()
	var events []*event.Event
	for i := range 50 {
		events = append(events, app(i, "app/a"))
	}
	s.append(events...)
	eventually(t, "what was held back is told", func() bool {
		all := s.alerts()
		n := len(all)
		for _, e := range all {
			text, _ := e.Metadata.Text(MetadataSuppressed)
			k := 0
			fmt.Sscan(text, &k)
			n += k
			if strings.Contains(outputs([]*event.Event{e}), "held back") {
				n-- // it stands for itself
			}
		}
		return n == 50
	})
	if st := a.Status(); st.Rules[0].Alerts >= 50 || st.Held == 0 {
		t.Errorf("got %+v", st)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("counted", `event.type = "app/a"`, "")+ruleText("off", `event.type exists`, "enabled: false"))
	reg := prometheus.NewPedanticRegistry()
	s.o.Registry = reg
	a, _ := s.start()
	s.append(app(1, "app/a"), app(2, "app/a"), app(3, "app/b"))
	s.judged(a)
	values := make(map[string]float64)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"tocsin_rules_alerts_total Warning counted": 2, "tocsin_rules_events_total tocsin": 3, "tocsin_rules_loaded active": 1, "tocsin_rules_loaded disabled": 1,
		"tocsin_rules_reloads_total loaded": 1, "tocsin_rules_reloads_total refused": 0, "tocsin_rules_refused": 0, "tocsin_rules_missing_values_total": 0,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v, not %v", name, got, want)
		}
	}
}
