package alerting

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
)

func TestSlugs(t *testing.T) {
	long := strings.Repeat("A b", 100)
	var rules []*load.Rule
	for _, name := range []string{"Root token used", "root-token_used", "Écoute: 42 %", "日本", "reload", long, "--"} {
		rules = append(rules, &load.Rule{Name: name})
	}
	got := slugs(rules)
	for name, want := range map[string]string{
		"Root token used": "root-token-used", "root-token_used": "root-token-used-" + digest("root-token_used"), "Écoute: 42 %": "coute-42", "日本": "rule-" + digest("日本"),
		"reload": "reload-" + digest("reload"), "--": "rule-" + digest("--"),
	} {
		if got[name] != want {
			t.Errorf("%s is %s, not %s", name, got[name], want)
		}
	}
	if s := got[long]; len(s) > maxSlug || !strings.HasSuffix(s, digest(long)) {
		t.Errorf("got %s", s)
	}
	seen := make(map[string]bool)
	for _, s := range got {
		if seen[s] || event.CheckType(severity.AlertTypes+s) != nil {
			t.Errorf("%s is there twice, or is no part of a type", s)
		}
		seen[s] = true
	}
}

func TestMitre(t *testing.T) {
	tactics, techniques := mitre([]string{"T1078", "T1078.004", "t1001", "T107", "mitre_persistence", "mitre_", "x", "T1078.04"})
	if fmt.Sprint(tactics, techniques) != "[persistence] [T1078 T1078.004 T1001]" {
		t.Errorf("got %v %v", tactics, techniques)
	}
}

// hostile is an alert about an event that somebody has made who wants no alert.
func hostile(text string, n int) *rule.Alert {
	long := strings.Repeat(text, n)
	a := &rule.Alert{
		ID: "1", Rule: &load.Rule{Name: long, Description: long, Source: long, Priority: severity.Warning},
		Time: time.Unix(1, 0), Event: &event.Event{ID: long, Source: long, Type: long, Path: long, Namespace: "a/"}, Count: 1 << 40, Suppressed: 1 << 40, Output: long,
	}
	a.Event.Extensions.Set("traceparent", long)
	value, err := json.Marshal(long)
	if err != nil {
		panic(err)
	}
	for i := range 60 {
		a.Fields = append(a.Fields, rule.Field{Name: fmt.Sprint(text, i), JSON: value}, rule.Field{Name: fmt.Sprint("n", i), JSON: []byte("[1,2")})
		a.Rule.Tags = append(a.Rule.Tags, long)
		a.EventIDs = append(a.EventIDs, long)
		a.Key = append(a.Key, rule.KeyValue{Name: text, Value: long})
	}
	return a
}

// Whatever is in an alert, it becomes an event that is valid and within the limits.
func TestHostileAlerts(t *testing.T) {
	for _, limits := range []event.Limits{event.DefaultLimits, {MaxTypeBytes: 64, MaxMetadataKeys: 8, MaxMetadataBytes: 1 << 10, MaxEventBytes: 2 << 10}} {
		m := maker{source: source, hostname: "here", limits: limits}
		for _, text := range []string{"a", "\"\\\n", "\x00\xff", "\u2028é", "%"} {
			for _, n := range []int{0, 1, 1000, 5000} {
				e, err := m.event(hostile(text, n), "slug")
				if err != nil {
					t.Fatalf("%q %d times: %v", text, n, err)
				}
				if !json.Valid(e.Data) || !utf8.Valid(e.Data) {
					t.Errorf("%q %d times: the data is no JSON", text, n)
				}
				if _, err := event.ParseCloudEvent(event.AppendCloudEvent(nil, e, "")); err != nil {
					t.Errorf("%q %d times: %v", text, n, err)
				}
			}
		}
	}
}
