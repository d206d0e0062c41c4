package manager

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/trail"
)

func TestPolicy(t *testing.T) {
	d := config.Default().Delivery
	for name, test := range map[string]struct {
		change func(*config.Sink)
		check  func(deliver.Policy) bool
	}{
		"file": {func(c *config.Sink) { c.Type = config.SinkTypeFile }, func(p deliver.Policy) bool {
			return p.Concurrency == 1 && p.MaxEvents == 500 && p.MaxBytes == 1<<20 && p.MaxDelay == 100*time.Millisecond && p.Order == deliver.ByPath
		}},
		"webhook": {func(c *config.Sink) { c.Type = config.SinkTypeWebhook }, func(p deliver.Policy) bool {
			return p.Concurrency == 4 && p.MaxEvents == 1 && p.MaxDelay == 0
		}},
		"webhook with arrays": {func(c *config.Sink) { c.Type, c.Webhook.Body = config.SinkTypeWebhook, "array" }, func(p deliver.Policy) bool { return p.MaxEvents == 500 }},
		"template":            {func(c *config.Sink) { c.Type = config.SinkTypeTemplate }, func(p deliver.Policy) bool { return p.MaxEvents == 1 && p.Concurrency == 4 }},
		"kafka":               {func(c *config.Sink) { c.Type = config.SinkTypeKafka }, func(p deliver.Policy) bool { return p.MaxEvents == 500 && p.Concurrency == 2 }},
		"all in order":        {func(c *config.Sink) { c.Type, c.Order = config.SinkTypeNATS, "all" }, func(p deliver.Policy) bool { return p.Order == deliver.All && p.Concurrency == 1 }},
		"no order": {func(c *config.Sink) { c.Type, c.Order, c.Concurrency = config.SinkTypeOTLPLogs, "none", 7 }, func(p deliver.Policy) bool {
			return p.Order == deliver.None && p.Concurrency == 7
		}},
		"retries": {func(c *config.Sink) {
			c.Retry = config.SinkRetry{First: config.Duration(time.Second), Most: config.Duration(time.Hour), Attempts: 3, GiveUp: config.Duration(time.Minute), MaxAge: config.Duration(2 * time.Hour)}
			c.Rate = config.SinkRate{Events: 5, Per: config.Duration(time.Minute)}
			c.Timeout = config.Duration(9 * time.Second)
		}, func(p deliver.Policy) bool {
			return p.Backoff == deliver.Backoff{First: time.Second, Most: time.Hour} && p.Attempts == 3 && p.GiveUp == time.Minute && p.MaxAge == 2*time.Hour &&
				p.Rate == deliver.Rate{Events: 5, Per: time.Minute} && p.Timeout == 9*time.Second && p.StopTimeout == 3*time.Second
		}},
	} {
		c := config.DefaultSink()
		test.change(&c)
		if p := policyOf(&c, &d); !test.check(p) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	_, kinds := config.SinkKinds()
	for _, k := range kinds {
		if requests[k.Type] == 0 {
			t.Errorf("the type %s has no number of requests", k.Type)
		}
	}
}

func TestCheckPath(t *testing.T) {
	dir := t.TempDir()
	below, data, outside := filepath.Join(dir, "files"), filepath.Join(dir, "files", "data"), filepath.Join(dir, "outside")
	for _, d := range []string{below, data, outside, filepath.Join(below, "sub")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"out": outside, "in": filepath.Join(below, "sub"), "file": filepath.Join(outside, "x"), "nowhere": filepath.Join(outside, "none", "x"), "data-link": data,
	} {
		if err := os.Symlink(target, filepath.Join(below, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(below, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := &Manager{o: Options{DataDir: data}}
	if err := m.checkPath(filepath.Join(below, "a")); err == nil || !strings.Contains(err.Error(), "set delivery.files_below") {
		t.Errorf("without files_below: %v", err)
	}
	m.o.Delivery.FilesBelow = below
	for path, want := range map[string]string{
		"a":               "",
		"sub/b/c/events":  "",
		"in/a":            "",
		"plain":           "",
		"../outside/a":    "without . and ..",
		"sub/../../a":     "without . and ..",
		"sub//a":          "without . and ..",
		"":                "is not below",
		"out/a":           "is not below",
		"out":             "is not below",
		"file":            "leads nowhere",
		"nowhere":         "leads nowhere",
		"plain/a":         "not a directory",
		"data/sinks.key":  "is in the data directory",
		"data-link/a":     "is in the data directory",
		"../files-else/a": "without . and ..",
	} {
		err := m.checkPath(below + "/" + path)
		if path == "" {
			err = m.checkPath(below)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}
	for _, path := range []string{"a", dir + "/files-else/a", outside + "/a", "/etc/passwd", ""} {
		if err := m.checkPath(path); err == nil || !config.IsProblem(err) {
			t.Errorf("%q: %v", path, err)
		}
	}
	m.o.Delivery.FilesBelow = filepath.Join(below, "in") // a link itself
	if err := m.checkPath(filepath.Join(below, "in", "a")); err != nil {
		t.Errorf("below a link: %v", err)
	}
}

// A sink that fails and recovers all the time makes few records, the last of which says
// what is so, and for how many it stands.
func TestReportsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var kept []trail.Record
		m := &Manager{o: Options{Record: func(r trail.Record) { mu.Lock(); defer mu.Unlock(); kept = append(kept, r) }}, log: quiet()}
		take := func() []trail.Record { // what was recorded since it was called last
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			records := kept
			kept = nil
			return records
		}
		r := newReporter(m, &sink{name: "a", config: config.Sink{Type: config.SinkTypeWebhook}})
		begun := time.Now()
		outage := deliver.Outage{Since: begun, Attempts: 3, Reason: "no connection", Status: 503}
		for range 500 {
			r.changed(deliver.Change{Kind: deliver.ChangeFailing, At: time.Now(), Outage: outage})
			time.Sleep(time.Second)
			r.changed(deliver.Change{Kind: deliver.ChangeRecovered, At: time.Now(), Outage: outage})
			time.Sleep(time.Second)
		}
		records := take()
		if n := len(records); n < reportBurst || n > reportBurst+4 {
			t.Errorf("%d records of 1000 changes in %v", n, time.Since(begun))
		}
		time.Sleep(reportEvery)
		records = append(records, take()...)
		last := records[len(records)-1]
		if last.What != "sink-recovered" || last.Path != "sys/sinks/a" {
			t.Errorf("the last record is %+v", last)
		}
		total := 0
		for _, r := range records {
			n := 1
			if text, ok := r.Fields.Text("count"); ok {
				n = atoi(t, text)
			}
			total += n
		}
		if total != 1000 {
			t.Errorf("the records stand for %d changes", total)
		}
		// After some quiet there is room again, and gaps add up.
		time.Sleep(reportBurst * reportEvery)
		for range reportBurst + 3 {
			r.changed(deliver.Change{Kind: deliver.ChangeGap, At: time.Now(), Missed: 10, Reason: "retention"})
		}
		r.close()
		missed := 0
		records = take()
		for _, r := range records {
			text, _ := r.Fields.Text("missed")
			missed += atoi(t, text)
		}
		if missed != 10*(reportBurst+3) || len(records) != reportBurst+1 {
			t.Errorf("%d records of %d missed events", len(records), missed)
		}
		// What somebody has asked for is in the record of that.
		for _, c := range []deliver.Change{
			{Kind: deliver.ChangeHeld, Held: deliver.Held{By: deliver.HeldPaused}}, {Kind: deliver.ChangeResumed}, {Kind: deliver.ChangeReplayed, ID: "x"},
			{Kind: deliver.ChangeHeld, Held: deliver.Held{By: deliver.HeldDisabled, Reason: "410", ByEndpoint: true}}, {Kind: deliver.ChangeLettersFull},
		} {
			r.changed(c)
		}
		if records = take(); len(records) != 2 || records[0].What != "sink-disabled" || records[1].What != "sink-full" {
			t.Errorf("records: %+v", records)
		}
	})
}

func TestMetrics(t *testing.T) {
	b := newBench(t)
	b.o.Sinks = []config.Sink{fileSink("a", nil)}
	b.open()
	b.awaitCondition("a", deliver.Running)
	if err := b.m.store(t.Context(), "bad", record{Version: 1, Definition: "type: none"}); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	b.awaitCondition("a", deliver.Running)
	b.append("1", "2")
	b.awaitGot("a", "1", "2")
	b.receiver.say("a", deliver.Result{Outcome: deliver.Refused, Reason: "no"})
	b.append("3")
	await(t, "a dead letter", func() bool { return b.info("a").Status.DeadLetters == 1 })
	if problems, err := testutil.GatherAndLint(b.registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	want := `
# HELP tocsin_sink_events_total Events by what became of them: delivered, refused (a dead letter: the endpoint said no), failed (a dead letter: given up), filtered (not for this sink).
# TYPE tocsin_sink_events_total counter
tocsin_sink_events_total{outcome="delivered",sink="a"} 2
tocsin_sink_events_total{outcome="failed",sink="a"} 0
tocsin_sink_events_total{outcome="filtered",sink="a"} 0
tocsin_sink_events_total{outcome="refused",sink="a"} 1
# HELP tocsin_sink_dead_letters Dead letters that there are.
# TYPE tocsin_sink_dead_letters gauge
tocsin_sink_dead_letters{sink="a"} 1
# HELP tocsin_sink_info What the sink is; always 1.
# TYPE tocsin_sink_info gauge
tocsin_sink_info{origin="api",sink="bad",type=""} 1
tocsin_sink_info{origin="file",sink="a",type="webhook"} 1
`
	if err := testutil.GatherAndCompare(b.registry, strings.NewReader(want), "tocsin_sink_events_total", "tocsin_sink_dead_letters", "tocsin_sink_info"); err != nil {
		t.Error(err)
	}
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	states := make(map[string]string)
	for _, f := range families {
		names = append(names, f.GetName())
		for _, metric := range f.GetMetric() {
			if f.GetName() == "tocsin_sink_state" && metric.GetGauge().GetValue() == 1 {
				states[metric.GetLabel()[0].GetValue()] += metric.GetLabel()[1].GetValue()
			}
		}
	}
	if states["a"] != "running" || states["bad"] != "broken" {
		t.Errorf("states: %v", states)
	}
	for _, name := range []string{"tocsin_sink_lag_seconds", "tocsin_sink_failing_seconds", "tocsin_sink_attempts_total", "tocsin_sink_missed_events_total", "tocsin_sink_replays"} {
		if !slices.Contains(names, name) {
			t.Errorf("there is no %s in %v", name, names)
		}
	}
}

// What happens to a sink is recorded.
func TestRecorded(t *testing.T) {
	b := newBench(t).open()
	b.put("a", hook)
	b.awaitCondition("a", deliver.Running)
	b.receiver.say("a", deliver.Result{Outcome: deliver.Gone, Status: 410, Reason: "gone"})
	b.append("1")
	b.awaitCondition("a", deliver.Disabled)
	await(t, "a record", func() bool { return slices.Contains(b.recorded(), "sink-disabled") })
}

// What is paused fails nobody, nor does what nothing waits for: an alert would never end.
func TestFailingSeconds(t *testing.T) {
	b := newBench(t).open()
	b.put("a", hook)
	b.awaitCondition("a", deliver.Running)
	failing := func() (seconds float64) {
		families, err := b.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "tocsin_sink_failing_seconds" {
				seconds = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return seconds
	}
	b.receiver.say("a", deliver.Result{Outcome: deliver.Retry, Status: 503, Reason: "later"})
	b.append("1")
	await(t, "a failure", func() bool { return failing() > 0 })
	if err := b.m.Pause(t.Context(), "a", "repair"); err != nil {
		t.Fatal(err)
	}
	if got := failing(); got != 0 {
		t.Errorf("failing for %v s while paused", got)
	}
}
