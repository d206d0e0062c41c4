package trial

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func ruleOf(name string, s severity.Severity) *load.Rule {
	return &load.Rule{Name: name, Source: "tocsin", Priority: s, Enabled: true}
}

func at(t time.Time) *event.Event { return &event.Event{ID: "e", Type: "app/x", Time: t} }

// The bins have what is counted by the obvious way, whatever the order of times and however far
// they are from each other.
func TestTimeLine(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules := []*load.Rule{ruleOf("a", severity.Error), ruleOf("b", severity.Notice)}
		tr := New(rules, 0)
		var times [2][]time.Time
		spread := time.Duration(1) << r.IntN(56)
		for range 1 + r.IntN(300) {
			when := noon.Add(time.Duration(r.Int64N(int64(spread) + 1)))
			if r.IntN(3) == 0 {
				when = noon.Add(-time.Duration(r.Int64N(int64(spread) + 1)))
			}
			tr.Event(at(when))
			if n := r.IntN(3); n < 2 {
				times[n] = append(times[n], when)
				tr.Alert(&rule.Alert{Rule: rules[n], Time: when, Count: 1})
			}
		}
		report := tr.Report()
		if len(report.Bins) > maxBins || len(report.Bins) != len(report.TimeLine) {
			t.Fatalf("seed %d: %d bins, %d", seed, len(report.Bins), len(report.TimeLine))
		}
		total := make([]uint64, len(report.Bins))
		for n := range times {
			want := make([]uint64, len(report.Bins))
			for _, when := range times[n] {
				i := int(when.Sub(report.Bins[0]) / (time.Duration(report.BinSeconds) * time.Second))
				want[i]++
				total[i]++
			}
			got := report.Rules[n].TimeLine
			if len(times[n]) == 0 {
				want = nil
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d: %v, want %v", seed, got, want)
			}
		}
		if fmt.Sprint(report.TimeLine) != fmt.Sprint(total) {
			t.Fatalf("seed %d: all: %v, want %v", seed, report.TimeLine, total)
		}
	}
}

// Widths are multiples of those before, or bins could not be put together.
func TestWidths(t *testing.T) {
	for w := widths[0]; w < 10_000*365*day; {
		next := wider(w)
		if next <= w || next%w != 0 {
			t.Fatalf("%v behind %v", next, w)
		}
		w = next
	}
}

// Times that nobody can mean are no reason to end.
func TestWildTimes(t *testing.T) {
	tr := New([]*load.Rule{ruleOf("a", severity.Error)}, 3)
	for _, when := range []time.Time{{}, noon, time.Unix(1<<60, 0), time.Unix(-1<<60, 0), time.Unix(0, 0)} {
		tr.Event(at(when))
		tr.Alert(&rule.Alert{Rule: tr.rules[0].rule, Time: when, Count: 1})
	}
	report := tr.Report()
	sum := uint64(0)
	for _, n := range report.TimeLine {
		sum += n
	}
	if sum != 5 || len(report.Bins) > maxBins {
		t.Errorf("%d in %d bins", sum, len(report.Bins))
	}
	if err := report.WriteText(&bytes.Buffer{}, time.UTC); err != nil {
		t.Error(err)
	}
}

// What is kept does not grow with what happens.
func TestBounded(t *testing.T) {
	tr := New([]*load.Rule{ruleOf("a", severity.Error)}, 2)
	for i := range 3 * maxLive {
		e := at(noon.Add(time.Duration(i) * time.Minute))
		e.Type = fmt.Sprintf("falco/source-%d", i)
		tr.Event(e)
		live := at(noon)
		live.Type = "alert/other"
		live.Metadata.Set(severity.MetadataRule, fmt.Sprintf("other %d", i))
		tr.Event(live)
		tr.Alert(&rule.Alert{Rule: tr.rules[0].rule, Time: e.Time, Event: e, Output: strings.Repeat("x", 10_000), Count: 1})
	}
	report := tr.Report()
	if len(report.Sources) > maxLive || len(report.Other) > maxLive || len(report.Bins) > maxBins || len(report.Rules[0].Samples) != 2 {
		t.Errorf("%d sources, %d others, %d bins, %d samples", len(report.Sources), len(report.Other), len(report.Bins), len(report.Rules[0].Samples))
	}
	if n := len(report.Rules[0].Samples[0].Output); n > maxSampleText+10 {
		t.Errorf("a sample has %d bytes", n)
	}
}

func example() *Report {
	rules := []*load.Rule{ruleOf("Root token used", severity.Critical), ruleOf("Denied \x1b[31mtimes", severity.Warning), ruleOf("Sealed", severity.Alert), ruleOf("Quiet", severity.Notice)}
	rules[0].Tags = []string{"mitre"}
	tr := New(rules, 2)
	for i := range 26 * 60 {
		when := noon.Add(time.Duration(i) * time.Minute)
		tr.Event(at(when))
		e := at(when)
		e.ID = fmt.Sprint("event-", i)
		if i%400 == 7 {
			tr.Alert(&rule.Alert{Rule: rules[0], Time: when, Event: e, Output: fmt.Sprint("root token used on path ", i), Count: 1})
		}
		if i > 600 && i < 900 && i%3 == 0 {
			tr.Alert(&rule.Alert{Rule: rules[1], Time: when, Event: e, Output: "denied", Count: 5, Suppressed: i % 2, Key: []rule.KeyValue{{Name: "audit.auth.entity_id", Value: "x"}}})
		}
	}
	tr.Alert(&rule.Alert{Rule: rules[1], Time: noon, Summary: true, Suppressed: 11, Count: 11})
	for i, name := range []string{"Root token used", "Root token used", "Sealed", "Elsewhere"} {
		live := at(noon.Add(time.Duration(i) * time.Hour))
		live.Type = "alert/x"
		live.Metadata.Set(severity.MetadataRule, name)
		tr.Event(live)
	}
	return tr.Report()
}

func TestReport(t *testing.T) {
	report := example()
	var text bytes.Buffer
	if err := report.WriteText(&text, time.UTC); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", text.Bytes())
	encoded, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", append(encoded, '\n'))

	text.Reset()
	if err := New(nil, 3).Report().WriteText(&text, time.UTC); err != nil || text.String() != "0 events: 0 alerts.\n" {
		t.Errorf("%v %q", err, text.String())
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update writes it):\n%s", name, got)
	}
}
