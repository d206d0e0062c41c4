//go:build linux && (amd64 || arm64)

package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
)

// fieldsPatience is how long the test waits for what takes seconds.
const fieldsPatience = 90 * time.Second

// TestFieldsWhileThePluginIsKilled has a native plugin extract fields for a sink and a subscription,
// and kills it meanwhile. Both get exactly the events that have these fields, in order, and the
// plugin is asked only for the fields that somebody uses.
func TestFieldsWhileThePluginIsKilled(t *testing.T) {
	t.Parallel()
	k := newKilled(t)
	library, asked := filepath.Join(k.dir, "plugin.so"), filepath.Join(k.dir, "asked")
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-o", library, "../../internal/falcoplugin/testdata/plugin.c", "-lpthread").CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			t.Skip("there is no C compiler")
		}
		t.Fatalf("%v\n%s", err, out)
	}
	config := fmt.Sprintf(`
data_dir: %[1]s/data
listen: {address: "127.0.0.1:0", failed_logins: {max: 0}}
plugins:
  sources:
    - name: testbed
      library: %[2]s
      open: slow;count=2000;batch=4;size=3
      env: {TESTBED_FIELDS: %[3]s}
      max_pause: 1s
sinks:
  - name: chosen
    type: file
    from: start
    events: {types: ["falco/*"], filter: 'field["t.str"] == "bbb" or field["t.str"] matches "^[xy]"'}
    file: {path: %[1]s/chosen.jsonl}
  - name: wrong
    type: file
    from: start
    events: {types: ["falco/*"], filter: 'field["t.sttr"] == "bbb"'}
    file: {path: %[1]s/wrong.jsonl}
`, k.dir, library, asked)
	if err := os.WriteFile(filepath.Join(k.dir, "tocsin.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	k.start()
	k.until("it is known which fields there are", func() bool { return strings.Contains(k.page("/api/v1/plugin-sources/testbed"), `"state":"running"`) })
	ctx, cancel := context.WithTimeout(t.Context(), 3*fieldsPatience)
	defer cancel()
	options := func(filter string) client.Options {
		return client.Options{Address: k.url, Token: root, Since: "oldest", Filter: filter, Format: client.FormatCloudEvents}
	}
	// Before, it is not known which fields there are.
	k.until("the plugin has run", func() bool { return k.events(t) > 0 })
	subscription, err := client.Subscribe(ctx, "falco/*", options(`event_type != "x" and (field["t.str"] == "ccc" or field["t.key[some_key]"] == "nothing")`))
	if err != nil {
		t.Fatal(err)
	}
	defer subscription.Close()

	for range 3 {
		before := k.events(t)
		k.until("events come", func() bool { return k.events(t) >= before+100 })
		k.killChild()
	}
	k.until("the stream ends", func() bool { return strings.Contains(k.page("/api/v1/plugin-sources/testbed"), `"state":"ended"`) })

	// Everything that there is, by which the others are judged.
	all := options("")
	all.NoFollow = true
	everything, err := client.Subscribe(ctx, "falco/*", all)
	if err != nil {
		t.Fatal(err)
	}
	defer everything.Close()
	var forSink, forSubscriber []string
	n, last := 0, ""
	for {
		m, err := everything.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
		last = string(m.Raw)
		switch payload := string(m.Event.Data); payload {
		case "bbb", "xxx", "yyy":
			forSink = append(forSink, m.Event.ID)
		case "ccc":
			forSubscriber = append(forSubscriber, m.Event.ID)
		}
	}
	if n < 2300 || len(forSink) < n/10 || len(forSubscriber) < n/30 {
		t.Fatalf("%d events, %d of them for the sink, %d for the subscriber; the last one is %s", n, len(forSink), len(forSubscriber), last)
	}
	for i, want := range forSubscriber {
		m, err := subscription.Next(ctx)
		if err != nil || m.Event.ID != want {
			t.Fatalf("event %d of %d of the subscription: %+v, %v", i, len(forSubscriber), m, err)
		}
	}
	k.until("the sink has everything", func() bool { return len(k.ids("chosen.jsonl")) >= len(forSink) })
	k.until("the sink is at the end", func() bool {
		return strings.Contains(k.page("/api/v1/sinks/chosen"), fmt.Sprintf(`"delivered":%d`, len(forSink)))
	})
	if got := k.ids("chosen.jsonl"); !slices.Equal(got, forSink) {
		t.Errorf("the sink has %d events, not the %d that it is to have", len(got), len(forSink))
	}
	if page := k.page("/api/v1/sinks/chosen"); strings.Contains(page, "cannot tell") || !strings.Contains(page, `"dead_letters":0`) && !strings.Contains(page, `"dead_letters":{"count":0`) {
		t.Errorf("the sink is %s", page)
	}

	// Only what somebody uses was asked for, and not an event at a time.
	text, err := os.ReadFile(asked)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(text)) {
		if name != "t.str" && name != "t.key" {
			t.Fatalf("the plugin was asked for %s", name)
		}
	}
	calls := k.metric(`tocsin_fields_extract_calls_total{outcome="answered",source="testbed"}`)
	events := k.metric(`tocsin_fields_extracted_events_total{source="testbed"}`)
	if calls == 0 || int(events) < n || calls > events/2 {
		t.Errorf("%v calls about %v events, of %d", calls, events, n)
	}

	// What cannot be right is refused, or waits where that was not known yet.
	for filter, want := range map[string]string{
		`field["t.sttr"] == "x"`:  `filter: unknown field "t.sttr"; did you mean "t.str"?`,
		`field["t.key"] == "x"`:   `filter: field t.key needs an argument`,
		`field["t.u64"] == "big"`: `filter: field t.u64 is a number from 0 on, so it is never "big"`,
		`field["t.str[1]"] == ""`: `filter: field t.str takes no argument`,
	} {
		_, err := client.Subscribe(ctx, "falco/*", options(filter))
		var status *client.StatusError
		if !errors.As(err, &status) || status.StatusCode != http.StatusBadRequest || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", filter, err)
		}
	}
	if page := k.page("/api/v1/sinks/wrong"); !strings.Contains(page, `"filter_problem":"cannot be told since `) || !strings.Contains(page, `unknown field \"t.sttr\"; did you mean \"t.str\"?`) || len(k.ids("wrong.jsonl")) != 0 {
		t.Errorf("the sink with a wrong filter is %s", page)
	}
}

// until waits for a condition.
func (k *killed) until(what string, is func() bool) {
	k.Helper()
	for deadline := time.Now().Add(fieldsPatience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			page := k.page("/api/v1/health")
			sinks := k.page("/api/v1/sinks")
			k.kill() // so that what it said can be read
			k.Fatalf("not in time: %s\n%s\n%s\n%s", what, page, sinks, k.said)
		}
	}
}

// page returns a page of the API.
func (k *killed) page(path string) string {
	k.Helper()
	r, _ := http.NewRequest(http.MethodGet, k.url+path, nil)
	r.Header.Set("X-Vault-Token", root)
	answer, err := k.client.Do(r)
	if err != nil {
		k.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		k.Fatal(err)
	}
	return string(text)
}

// metric returns the value of a metric with its labels, 0 if there is none.
func (k *killed) metric(name string) float64 {
	k.Helper()
	for line := range strings.Lines(k.page("/metrics")) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				k.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// events is how many events of the plugin are durable.
func (k *killed) events(t *testing.T) int {
	t.Helper()
	var status struct{ Events int }
	if err := json.Unmarshal([]byte(k.page("/api/v1/plugin-sources/testbed")), &status); err != nil {
		t.Fatal(err)
	}
	return status.Events
}

// killChild kills the only child of the hub, which is the plugin.
func (k *killed) killChild() {
	k.Helper()
	var children []byte
	k.until("the plugin runs", func() bool {
		hub := k.process.Process.Pid
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", hub))
		children = nil
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			children = append(children, text...)
		}
		return len(bytes.Fields(children)) == 1
	})
	pid, err := strconv.Atoi(string(bytes.TrimSpace(children)))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		k.Fatal(err)
	}
}

// ids returns the ids of the events in a file of a sink.
func (k *killed) ids(file string) (ids []string) {
	k.Helper()
	text, err := os.ReadFile(filepath.Join(k.dir, file))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		k.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e struct{ ID string }
		if json.Unmarshal([]byte(line), &e) != nil {
			break // it is being written
		}
		ids = append(ids, e.ID)
	}
	return ids
}
