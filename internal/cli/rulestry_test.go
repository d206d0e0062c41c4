package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/rule/trial"
)

const tryRules = `
- rule: Order
  desc: somebody ordered
  condition: event.type = app/order
  output: "order %event.data[/n] of %event.path"
  priority: NOTICE
  source: tocsin
  tags: [shop]
- rule: Large order
  desc: somebody ordered much
  condition: event.type = app/order and event.data[/n] in (7, 8)
  output: "large order %event.data[/n]"
  priority: ERROR
  source: tocsin
- rule: Never
  desc: nobody
  condition: event.type = app/nothing
  output: "nothing"
  priority: INFO
  source: tocsin
`

// save writes a file for a test.
func save(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// orders are events, a minute after each other.
func orders(from time.Time, n int) (list []*event.Event) {
	for i := range n {
		list = append(list, &event.Event{
			ID: fmt.Sprint("order-", i), Type: "app/order", Source: "/shop", Path: "orders/1", Time: from.Add(time.Duration(i) * time.Minute),
			DataContentType: "application/json", Data: fmt.Appendf(nil, `{"n":"%d"}`, i),
		})
	}
	return list
}

func cloudEvents(list []*event.Event) string {
	var b []byte
	for _, e := range list {
		b = append(event.AppendCloudEvent(b, e, ""), '\n')
	}
	return string(b)
}

func tried(t *testing.T, stdout string) trial.Report {
	t.Helper()
	var r trial.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	return r
}

func alertsOf(r trial.Report) string {
	var list []string
	for _, rule := range r.Rules {
		list = append(list, fmt.Sprint(rule.Rule, " ", rule.Alerts))
	}
	return strings.Join(list, ", ")
}

func TestRulesTryFiles(t *testing.T) {
	t.Parallel()
	rules := save(t, "rules.yaml", tryRules)
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	events := save(t, "events.jsonl", cloudEvents(orders(noon, 9)))
	for args, want := range map[string]string{
		"":                                     "Order 9, Large order 0, Never 0",
		"--all":                                "Order 9, Large order 2, Never 0",
		"--disable O*":                         "Large order 2, Never 0",
		"--disable * --enable *arge*":          "Large order 2",
		"--disable * --enable-tag shop":        "Order 9",
		"--priority error":                     "Large order 2",
		"--since 2026-11-20T12:08:00Z --all":   "Order 1, Large order 1, Never 0",
		"--until 2026-11-20T12:01:00Z":         "Order 1, Large order 0, Never 0",
		"--since 2026-11-21T00:00:00Z":         "Order 0, Large order 0, Never 0",
		"--samples 1 --disable-tag shop --all": "Large order 2, Never 0",
	} {
		code, stdout, stderr := run(t, append([]string{"rules", "try", rules, "-o", "json", "--events", events}, strings.Fields(args)...)...)
		if code != exitOK || stderr != "" {
			t.Errorf("%s: exit %d: %s", args, code, stderr)
			continue
		}
		if got := alertsOf(tried(t, stdout)); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
	code, stdout, stderr := run(t, "rules", "try", rules, "--events", events, "--all", "--samples", "1", "--time-zone", "UTC")
	want := `9 events, from 2026-11-20 12:00:00 to 2026-11-20 12:08:00: 11 alerts.

ALERTS  PRIORITY  RULE         LAST                 TIME LINE
9       Notice    Order        2026-11-20 12:08:00  █.█.█.█.█.█.█.█.█
2       Error     Large order  2026-11-20 12:08:00  ..............█.█

Alerts in each 30 seconds from
2026-11-20 12:00:00  1  ████████████████████
2026-11-20 12:00:30  0
2026-11-20 12:01:00  1  ████████████████████
2026-11-20 12:01:30  0
2026-11-20 12:02:00  1  ████████████████████
2026-11-20 12:02:30  0
2026-11-20 12:03:00  1  ████████████████████
2026-11-20 12:03:30  0
2026-11-20 12:04:00  1  ████████████████████
2026-11-20 12:04:30  0
2026-11-20 12:05:00  1  ████████████████████
2026-11-20 12:05:30  0
2026-11-20 12:06:00  1  ████████████████████
2026-11-20 12:06:30  0
2026-11-20 12:07:00  2  ████████████████████████████████████████
2026-11-20 12:07:30  0
2026-11-20 12:08:00  2  ████████████████████████████████████████

No alert by 1 rule:
  Never

Order (Notice)
  2026-11-20 12:00:00  order 0 of orders/1
  and 8 more

Large order (Error)
  2026-11-20 12:07:00  large order 7
  and 1 more
`
	if code != exitOK || stderr != "" || stdout != want {
		t.Errorf("exit %d: %s%s", code, stderr, stdout)
	}
}

// The directory of a hub that does not run is read, and nothing is added to it.
func TestRulesTryDirectory(t *testing.T) {
	t.Parallel()
	rules, dir := save(t, "rules.yaml", tryRules), filepath.Join(t.TempDir(), "data")
	code, _, stderr := run(t, "rules", "try", rules, "--data-dir", dir)
	if _, err := os.Stat(dir); code != exitError || !strings.Contains(stderr, "is no data directory of a hub") || err == nil {
		t.Errorf("exit %d: %s", code, stderr)
	}
	open := func() *journal.Journal {
		j, err := journal.Open(t.Context(), journal.Config{Dir: dir, ReserveBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	for _, e := range orders(time.Now(), 9) {
		if _, err := j.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	end := j.End()
	code, _, stderr = run(t, "rules", "try", rules, "--data-dir", dir)
	if code != exitError || !strings.Contains(stderr, "A hub uses it") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if err := j.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"":                        "Order 9, Large order 2, Never 0",
		"--since oldest":          "Order 9, Large order 2, Never 0",
		"--since order-6":         "Order 2, Large order 2, Never 0",
		"--type app/*":            "Order 9, Large order 2, Never 0",
		"--type a/* --type b":     "Order 0, Large order 0, Never 0",
		"--since 0s":              "Order 0, Large order 0, Never 0",
		"--since 2h --until 1h":   "Order 0, Large order 0, Never 0",
		"--since " + end.String(): "Order 0, Large order 0, Never 0",
	} {
		code, stdout, stderr := run(t, append([]string{"rules", "try", rules, "-o", "json", "--all", "--data-dir", dir}, strings.Fields(args)...)...)
		if code != exitOK {
			t.Errorf("%s: exit %d: %s", args, code, stderr)
			continue
		}
		if got := alertsOf(tried(t, stdout)); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
	j = open()
	defer j.Close(context.Background())
	if j.End() != end {
		t.Errorf("the journal ends at %v, not at %v", j.End(), end)
	}
}

func TestRulesInputs(t *testing.T) {
	t.Parallel()
	rules := save(t, "rules.yaml", tryRules)
	bad := save(t, "bad.yaml", "- rule: X\n  desc: x\n  condition: event.typ = a\n  output: x\n  priority: INFO\n  source: tocsin\n")
	events := save(t, "events.jsonl", cloudEvents(orders(time.Unix(1e9, 0), 3))+"nonsense\n")
	scap := "../capture/testdata/falco-real.scap"
	truncated := func() string {
		content, err := os.ReadFile(scap)
		if err != nil {
			t.Fatal(err)
		}
		return save(t, "cut.scap", string(content[:len(content)/2]))
	}()
	for _, tc := range []struct {
		args string
		code int
		want string // on standard error
	}{
		{"rules run", exitUsage, "the FILES are missing"},
		{"rules run RULES", exitUsage, "there are no events to judge: give --plugin, --audit, --events or --capture"},
		{"rules run RULES --config x --events EVENTS", exitUsage, "must be behind the --plugin that it is for"},
		{"rules run RULES --events EVENTS --priority erorr", exitUsage, `there is no priority "erorr"; did you mean "error"?`},
		{"rules run - --events -", exitUsage, "'-' is standard input, which can be read once"},
		{"rules run RULES --audit x --kv-version secret=3", exitUsage, "the version must be 1 or 2"},
		{"rules run RULES --events EVENTS -o xml", exitUsage, "must be json or text"},
		{"rules run nowhere.yaml --events EVENTS", exitError, "the file of rules nowhere.yaml does not exist"},
		{"rules run RULES --events nowhere.jsonl", exitError, "nowhere.jsonl"},
		{"rules run RULES --audit nowhere.log", exitError, "audit log nowhere.log does not exist"},
		{"rules run RULES --capture nowhere.scap", exitError, "nowhere.scap"},
		{"rules run RULES --capture EVENTS", exitError, "it is no capture"},
		{"rules run RULES --capture CUT", exitIncomplete, "CUT"},
		{"rules run BAD --events EVENTS", exitError, "the rules are not valid: 1 error"},
		{"rules run RULES --events EVENTS", exitIncomplete, "1 lines of EVENTS are no CloudEvents."},
		{"rules run RULES --events EVENTS", exitIncomplete, "EVENTS, line 4: "},
		{"rules run RULES --events EVENTS -n 2", exitOK, "Events read: 2\nEvents detected: 2\nRule counts by severity:\n   NOTICE: 2\nTriggered rules by rule name:\n   Order: 2\n"},
		{"rules run RULES --events EVENTS -n 2 --summary json", exitOK, `{"events":2,"sources":{"tocsin":2},"alerts":2,"suppressed":0,"severities":{"Notice":2},"rules":{"Order":2},"from":"2001-09-09T01:46:40Z","to":"2001-09-09T01:47:40Z"}` + "\n"},
		{"rules run RULES --events EVENTS -n 2 --summary none", exitOK, ""},
		{"rules try RULES --since 1h --until 2h", exitUsage, "--since 1h is not before --until 2h"},
		{"rules try RULES --events EVENTS --since order-1", exitUsage, "--since, of files"},
		{"rules try RULES --events EVENTS --data-dir x", exitUsage, "not from both"},
		{"rules try RULES --address http://127.0.0.1:1 --data-dir x", exitUsage, "not from both"},
		{"rules try RULES --address http://127.0.0.1:1", exitError, "Is the hub running?"},
		{"rules try RULES --samples -1 --events EVENTS", exitUsage, "--samples -1: it must be between 0 and 1000"},
		{"rules try RULES --events EVENTS", exitIncomplete, "1 lines of EVENTS are no CloudEvents."},
	} {
		names := strings.NewReplacer("RULES", rules, "BAD", bad, "EVENTS", events, "CUT", truncated)
		code, _, stderr := run(t, strings.Fields(names.Replace(tc.args))...)
		if want := names.Replace(tc.want); code != tc.code || !strings.Contains(stderr, want) || want == "" && stderr != "" {
			t.Errorf("%s: exit %d, want %d: %s", tc.args, code, tc.code, stderr)
		}
	}
}

// Ctrl-C ends both with what there is so far.
func TestRulesInterrupted(t *testing.T) {
	t.Parallel()
	rules := save(t, "rules.yaml", tryRules)
	for _, tc := range []struct {
		command string
		code    int
		out     string
		err     string
	}{
		{"run", exitOK, `"rule":"Order"`, "Events read: 3\n"},
		{"try", exitIncomplete, "3 events, from ", "Stopped before the end."},
	} {
		ctx, stop := context.WithCancel(t.Context())
		in, input := io.Pipe()
		var out, errs strings.Builder
		done := make(chan int)
		go func() {
			done <- Run(ctx, []string{"rules", tc.command, rules, "--events", "-"}, Streams{In: in, Out: &out, Err: &errs})
		}()
		// When the second part is taken the first was judged.
		for _, part := range []string{cloudEvents(orders(time.Unix(1e9, 0), 3)), "{"} {
			if _, err := input.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if code := <-done; code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(errs.String(), tc.err) {
			t.Errorf("%s: exit %d\n%s%s", tc.command, code, out.String(), errs.String())
		}
		input.Close()
	}
}
