package sinks

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/api"
)

// outlet is a sink with an endpoint that can be taken away.
type outlet struct {
	name string
	pull func() // the endpoint is away
	plug func() // and there again
	// has says whether all of these events have arrived.
	has func(ids []string) bool
	// history returns all that has arrived; the hub has ended.
	history func() history
}

// TestPlugPulled takes the endpoint of each sink away for a while, in which the sink is
// paused and resumed and the hub is started again. Meanwhile the other sinks get what is
// published, in less than a second; when the endpoint is back, all that was published arrives
// in order, and nothing has become a dead letter.
func TestPlugPulled(t *testing.T) {
	t.Parallel()
	hook, b := newReceiver(t, refusesNothing), newBroker(t)
	dir := t.TempDir()
	log, away := filepath.Join(dir, "log"), filepath.Join(dir, "away")
	path := filepath.Join(log, "events.jsonl")
	const common = "from: start, events: {types: [\"shop/*\"]}, timeout: 2s, batch: {delay: 5ms}, retry: {first: 5ms, most: 100ms}"
	h := newHub(t, "", fmt.Sprintf(`
delivery: {allow: [127.0.0.1], stop_timeout: 500ms}
sinks:
  - {name: hook, type: webhook, %[1]s, concurrency: 8, webhook: {url: %[2]q, format: cloudevents}}
  - {name: stream, type: nats, %[1]s, nats: {urls: [%[3]q]}}
  - {name: archive, type: file, %[1]s, file: {path: %[4]q, rotate_bytes: 64KiB}}
`, common, hook.url(), b.url(), path))
	lines := func() []arrival {
		before, _ := readFiles(t, filepath.Join(away, "events.jsonl"))
		after, _ := readFiles(t, path)
		return append(before, after...)
	}
	outlets := []outlet{{
		name: "hook", pull: hook.close, plug: hook.listen,
		has:     hook.hasAll,
		history: func() history { return history{arrivals: hook.arrivals()} },
	}, {
		name: "stream", pull: b.stop, plug: b.start,
		has:     func(ids []string) bool { return b.messages() >= uint64(len(ids)) },
		history: func() history { return history{arrivals: b.arrivals(), once: true} },
	}, {
		name: "archive",
		pull: func() { // its directory is moved away, and there cannot be another one
			if err := os.Rename(log, away); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(log, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		plug: func() {
			if err := os.Remove(log); err != nil {
				t.Fatal(err)
			}
		},
		has: func(ids []string) bool {
			found := make(map[string]bool)
			for _, a := range wholeLines(path, filepath.Join(away, "events.jsonl")) {
				found[a] = true
			}
			return !slices.ContainsFunc(ids, func(id string) bool { return !found[id] })
		},
		history: func() history { return history{arrivals: lines()} },
	}}
	h.start()
	p := publish(h, 0, 5, 7, 10*time.Millisecond)
	published := func() []string { return p.acks() }
	for i, o := range outlets {
		others := slices.Delete(slices.Clone(outlets), i, i+1)
		othersHave := func(when string) {
			t.Helper()
			ids := published()
			for _, other := range others {
				await(t, fmt.Sprintf("%s is away, %s: %s gets %d events", o.name, when, other.name, len(ids)), func() bool { return other.has(ids) }, func() string { return fmt.Sprintf("%+v", h.sink(other.name)) })
			}
		}
		more := func(events int) {
			t.Helper()
			want := len(published()) + events
			await(t, "more is published", func() bool { return len(published()) >= want }, func() string { return fmt.Sprint(len(published())) })
		}
		more(50)
		ids := published()
		await(t, "all is well", func() bool { return o.has(ids) }, func() string { return fmt.Sprintf("%s: %+v", o.name, h.sink(o.name)) })
		o.pull()
		h.awaitSink(o.name, "it fails", func(s api.Sink) bool { return s.Outage != nil && s.Outage.Attempts > 1 && s.Outage.Reason != "" })
		begun := time.Now()
		more(100)
		othersHave("begin")
		h.must("POST", "/"+o.name+"/pause", `{"reason":"the receiver is rebuilt"}`, nil)
		more(50)
		h.must("POST", "/"+o.name+"/resume", "", nil)
		othersHave("after pause and resume")
		h.must("POST", "/"+o.name+"/pause", "", nil)
		othersOutage := [2]time.Time{begun, time.Now()}
		if i%2 == 0 {
			h.kill()
		} else {
			h.stop()
		}
		h.start()
		more(50)
		if s := h.sink(o.name); s.State != "paused" || s.Counts.Delivered != 0 {
			t.Errorf("%s is %s after a restart, %+v", o.name, s.State, s.Counts)
		}
		othersHave("after a restart")
		h.must("POST", "/"+o.name+"/resume", "", nil)
		h.awaitSink(o.name, "it fails again", func(s api.Sink) bool { return s.Outage != nil && s.LagEvents > 50 })
		o.plug()
		ids = published()
		await(t, o.name+" is back", func() bool { return o.has(ids) }, func() string { return fmt.Sprintf("%+v", h.sink(o.name)) })
		if o.name != "hook" {
			typical, slowest := p.latencies(hook.arrivals(), othersOutage)
			t.Logf("%s was away: the webhook got events typically after %v, the slowest after %v", o.name, typical, slowest)
			if typical > 5*time.Second {
				t.Errorf("%s was away, and the webhook got events only after %v", o.name, typical)
			}
		}
		if t.Failed() {
			return
		}
	}
	all := p.stop()
	for _, o := range outlets {
		h.awaitSink(o.name, "all is sent", settled)
		if letters := h.letters(o.name); len(letters) > 0 {
			t.Errorf("%s: %d dead letters", o.name, len(letters))
		}
	}
	h.stop()
	for _, o := range outlets {
		got := o.history()
		got.refused = refusesNothing
		report(t, o.name, got, all)
	}
}

// latencies returns how long events that were published in a time took to arrive.
func (p *publisher) latencies(arrivals []arrival, in [2]time.Time) (typical, slowest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []time.Duration
	seen := make(map[string]bool)
	for _, a := range arrivals {
		sent := p.published[a.ID]
		if !seen[a.ID] && sent.After(in[0]) && sent.Before(in[1]) {
			all = append(all, a.at.Sub(sent))
		}
		seen[a.ID] = true
	}
	if len(all) == 0 {
		p.hub.Fatal("nothing was measured")
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}
