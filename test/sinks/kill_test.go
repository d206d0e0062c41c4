package sinks

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/api"
)

// TestKillDuringDelivery kills the hub again and again while events come in and go out to a
// file, a stream of NATS, and two webhooks that refuse some events and deal badly with a
// part of the requests. In the end every event that was acknowledged is everywhere, or it is a
// dead letter of the webhook that refused it, and nothing else is one; and dead letters that
// are sent once more arrive.
func TestKillDuringDelivery(t *testing.T) {
	t.Parallel()
	rounds := faultRounds(t, 6)
	byPath := newReceiver(t, func(id string) bool { return number(id)%50 == 7 })
	inOrder := newReceiver(t, func(id string) bool { return number(id)%50 == 31 })
	b := newBroker(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "log", "events.jsonl")
	const common = "from: start, events: {types: [\"shop/*\"]}, timeout: 300ms, retry: {first: 2ms, most: 50ms}"
	h := newHub(t, "", fmt.Sprintf(`
journal: {max_bytes: 0}
delivery: {allow: [127.0.0.1], stop_timeout: 500ms}
sinks:
  - {name: by-path, type: webhook, %[1]s, concurrency: 8, order: path, webhook: {url: %[2]q, format: cloudevents}}
  - {name: in-order, type: webhook, %[1]s, order: all, batch: {events: 20, delay: 5ms}, webhook: {url: %[3]q, format: cloudevents, body: array}}
  - {name: stream, type: nats, %[1]s, batch: {delay: 5ms}, nats: {urls: [%[4]q]}}
  - {name: archive, type: file, %[1]s, batch: {delay: 5ms}, file: {path: %[5]q, rotate_bytes: 256KiB, gzip: true}}
`, common, byPath.url(), inOrder.url(), b.url(), path))
	webhooks := map[string]*receiver{"by-path": byPath, "in-order": inOrder}
	for _, r := range webhooks {
		r.hub = h
		r.set(func() { r.moods = 4 })
	}
	publishers := []*publisher{publish(h, 0, 10, 7, 15*time.Millisecond), publish(h, 1, 10, 7, 15*time.Millisecond)}

	h.start()
	for round := range rounds {
		if rand.IntN(3) == 0 { // dead letters that are still refused
			_, _, _ = h.ask("POST", "/by-path/dead-letters/redrive", `{"all":true}`, nil)
		}
		time.Sleep(time.Duration(20+rand.IntN(600)) * time.Millisecond)
		switch round % 5 {
		case 2:
			h.stop()
		case 4: // in the middle of a start
			h.kill()
			h.launch()
			time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
			h.kill()
		default:
			h.kill()
		}
		h.start()
		if t.Failed() {
			return
		}
	}
	var published []string
	for _, p := range publishers {
		published = append(published, p.stop()...)
	}
	for _, r := range webhooks {
		r.set(func() { r.moods = 0 })
	}
	for _, name := range []string{"by-path", "in-order", "stream", "archive"} {
		h.awaitSink(name, "all is sent", func(s api.Sink) bool { return settled(s) && !redrives(s) })
	}
	h.must("POST", "/by-path/dead-letters/redrive", `{"all":true}`, nil) // what is there twice becomes one
	h.awaitSink("by-path", "redriven", func(s api.Sink) bool { return !redrives(s) })

	for name, r := range webhooks {
		got := history{arrivals: r.arrivals(), letters: h.letters(name), refused: r.refuses, all: name == "in-order"}
		report(t, name, got, published)
		refused := len(got.letters)
		if refused == 0 {
			t.Errorf("%s: nothing was refused", name)
		}
		r.set(func() { r.refuses = refusesNothing })
		h.must("POST", "/"+name+"/dead-letters/redrive", `{"all":true}`, nil)
		h.awaitSink(name, "no dead letters any more", func(s api.Sink) bool { return s.Letters == 0 && !redrives(s) })
		if left := h.letters(name); len(left) != 0 {
			t.Errorf("%s: %d dead letters are listed after all were redriven", name, len(left))
		}
		if !r.hasAll(published) {
			t.Errorf("%s: what was redriven has not arrived", name)
		}
		for _, a := range r.arrivals()[len(got.arrivals):] {
			if !a.redriven {
				t.Errorf("%s: %s arrived again, and is not marked as redriven", name, a.ID)
			}
		}
	}
	for _, name := range []string{"stream", "archive"} {
		if n := len(h.letters(name)); n != 0 {
			t.Errorf("%s has %d dead letters", name, n)
		}
	}
	report(t, "stream", history{arrivals: b.arrivals(), refused: refusesNothing, once: true}, published)
	await(t, "all is compressed", func() bool { return len(plain(t, path)) == 0 }, func() string { return strings.Join(plain(t, path), " ") })
	h.stop()
	lines, compressed := readFiles(t, path)
	report(t, "archive", history{arrivals: lines, refused: refusesNothing}, published)
	if compressed == 0 {
		t.Error("no file was compressed")
	}
	t.Logf("%d starts, %d events, %d files were compressed", h.starts, len(published), compressed)
}

// redrives says whether a redrive is under way.
func redrives(s api.Sink) bool {
	return slices.ContainsFunc(s.Redrives, func(r api.SinkRedrive) bool { return r.State == "running" })
}

// plain returns the files that were moved away and are not compressed.
func plain(t *testing.T, path string) (names []string) {
	t.Helper()
	all, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if !strings.HasSuffix(name, ".gz") {
			names = append(names, name)
		}
	}
	return names
}

// mostRepeats is how much of what was delivered before a crash may be delivered again: what
// was on its way or behind something that was, which the window bounds, and what came since
// the place was stored.
const mostRepeats = 2000

// report tells what is wrong with a history.
func report(t *testing.T, name string, h history, published []string) {
	t.Helper()
	for _, problem := range h.check(published) {
		t.Errorf("%s: %s", name, problem)
	}
	all, most := h.repeats()
	t.Logf("%s: %d events, %d dead letters, %d came again, at most %d after one start", name, len(h.arrivals), len(h.letters), all, most)
	if most > mostRepeats && name != "archive" { // nobody knows after which start a line came
		t.Errorf("%s: %d events came again after one start, want at most %d", name, most, mostRepeats)
	}
}
