package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// Each round another process, which sends events to a hub that is there or not, is killed
// at a random moment. What it was told to be safe arrives once, in order.
func TestKillSpool(t *testing.T) {
	rounds := 6
	if n, err := strconv.Atoi(os.Getenv("TOCSIN_FAULT_ROUNDS")); err == nil {
		rounds = n
	}
	h := newPublishHub(t)
	dir := t.TempDir()
	var want []int // how many events of each round are safe
	for round := range rounds {
		if round%3 == 2 {
			unreliable(h)
		} else {
			h.setHook(func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				sorry(w, http.StatusServiceUnavailable, "down")
				return true
			})
		}
		cmd, out := child(t, "spool", "HUB="+h.URL, "SPOOL="+dir, fmt.Sprintf("ROUND=%03d", round))
		safe := 0
		for range 1 + rand.IntN(20) {
			line, err := out.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if safe, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(rand.N(3 * time.Millisecond)) // the moment
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		want = append(want, safe)
	}
	unreliable(h)
	p := h.publisher(t, PublisherOptions{Spool: &Spool{Dir: dir}})
	backlog := p.Stats().Taken
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := h.ids()
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("the events are not in order, or some are there twice")
	}
	total := 0
	for round, safe := range want {
		for n := range safe {
			id := fmt.Sprintf("%03d-id-%06d", round, n)
			if _, ok := slices.BinarySearch(got, id); !ok {
				t.Fatalf("%s was safe and is missing", id)
			}
		}
		total += safe
	}
	s := p.Stats()
	checkSums(t, s)
	t.Logf("%d safe events in %d rounds, %d stored, %d of them from the spool at the end", total, rounds, len(got), backlog)
	if s.Lost > 0 || s.Refused > 0 || backlog == 0 || s.Unsafe > 0 {
		t.Errorf("%+v", s)
	}
}

// down makes a hub unavailable until the returned function is called.
func down(h *publishHub) (up func()) {
	h.setHook(func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		sorry(w, http.StatusServiceUnavailable, "down")
		return true
	})
	return func() { h.setHook(nil) }
}

// What Close could not deliver is sent by the next publisher, before what it is given.
func TestSpoolAcrossRestart(t *testing.T) {
	h := newPublishHub(t)
	up := down(h)
	dir := t.TempDir()
	p := h.publisher(t, PublisherOptions{Spool: &Spool{Dir: dir}})
	for n := range 100 {
		if err := p.SendEvent(t.Context(), numbered(n)); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var left *UndeliveredError
	if err := p.Close(ended); !errors.As(err, &left) || left.Spooled != 100 || left.Lost != 0 || !strings.Contains(err.Error(), "events not delivered: 100 are in the spool, 0 are lost") {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "LOCK")); err != nil {
		t.Error(err)
	}
	h.refuse = func(e *event.Event) (string, string) {
		switch e.ID {
		case "id-000099", "id-000101":
			return "invalid", "no"
		}
		return "", ""
	}
	up()
	refused := make(chan *Refusal, 10)
	p = h.publisher(t, PublisherOptions{Spool: &Spool{Dir: dir}, Notify: func(n Notice) {
		if n.Kind == Refused {
			refused <- n.Refusal
		}
	}})
	var all *RefusedError
	if err := p.Publish(t.Context(), numbered(100), numbered(101), numbered(102)); !errors.As(err, &all) || len(all.Refused) != 1 || all.Refused[0].Index != 1 {
		t.Error(err)
	}
	if got := h.ids(); len(got) != 101 || !slices.IsSorted(got) {
		t.Errorf("%q", got)
	}
	if first, second := <-refused, <-refused; first.Index != -1 || second.Index != 1 {
		t.Errorf("%+v %+v", first, second)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v are left: %v", entries, err)
	}
}

func TestSpoolIsOfOne(t *testing.T) {
	h := newPublishHub(t)
	dir := t.TempDir()
	p := h.publisher(t, PublisherOptions{Spool: &Spool{Dir: dir}})
	if _, err := NewPublisher(PublisherOptions{Address: h.URL, Spool: &Spool{Dir: dir}}); err == nil || !strings.Contains(err.Error(), "another process has locked") {
		t.Error(err)
	}
	if err := p.Publish(t.Context(), numbered(1)); err != nil {
		t.Error(err)
	}
}

// A full spool refuses and counts, and has room again when the hub has taken something.
func TestSpoolFull(t *testing.T) {
	h := newPublishHub(t)
	up := down(h)
	const maxBytes = 1 << 20
	p := h.publisher(t, PublisherOptions{Spool: &Spool{Dir: t.TempDir(), MaxBytes: maxBytes}})
	large := func(n int) *event.Event {
		e := numbered(n)
		e.Data, e.DataContentType = make([]byte, 3000), "application/octet-stream"
		return e
	}
	taken := 0
	for ; taken < 1000; taken++ {
		if err := p.SendEvent(t.Context(), large(taken)); errors.Is(err, ErrQueueFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if taken%10 == 0 {
			if err := p.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s := p.Stats(); taken < 200 || taken == 1000 || s.Dropped != 1 || s.SpoolBytes > maxBytes {
		t.Fatalf("%d were taken: %+v", taken, s)
	}
	queued := make(chan error)
	go func() { queued <- p.Publish(t.Context(), large(taken)) }()
	up()
	if err := <-queued; err != nil || h.count() != taken+1 {
		t.Errorf("%d of %d: %v", h.count(), taken+1, err)
	}
	soon(t, "the space is free", func() bool { return p.Stats().SpoolBytes <= maxBytes/16+10_000 })
}

// While the disk fails, events go from memory to the hub; afterwards to the disk again.
// Nothing is lost, and the order is kept.
func TestSpoolDiskFails(t *testing.T) {
	h := newPublishHub(t)
	dir := filepath.Join(t.TempDir(), "spool")
	var mu sync.Mutex
	var kinds []NoticeKind
	p := h.publisher(t, PublisherOptions{Spool: &Spool{Dir: dir, MaxBytes: 1 << 20}, MaxBatchBytes: 70_000, Notify: func(n Notice) {
		mu.Lock()
		defer mu.Unlock()
		kinds = append(kinds, n.Kind)
	}})
	told := func(k NoticeKind) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Contains(kinds, k)
		}
	}
	large := func(n int) *event.Event { // each begins a new file, sooner or later
		e := numbered(n)
		e.Data, e.DataContentType = make([]byte, 40_000), "application/octet-stream"
		return e
	}
	n := 0
	send := func(events int) {
		for range events {
			if err := p.Queue(t.Context(), large(n)); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	up := down(h)
	send(5)
	if err := p.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	send(5)
	soon(t, "the disk fails", told(SpoolFailed))
	ended, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := p.Sync(ended); err == nil {
		t.Error("events are safe that are nowhere")
	}
	if s := p.Stats(); s.Unsafe == 0 || s.LastError == nil {
		t.Errorf("%+v", s)
	}
	up()
	if err := p.Sync(t.Context()); err != nil { // because the hub has them
		t.Fatal(err)
	}
	down(h)
	send(2)
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	send(3)
	if err := p.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	soon(t, "the disk works", told(SpoolWorks))
	up()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := h.ids(); len(got) != n || !slices.IsSorted(got) {
		t.Errorf("%d of %d: %q", len(got), n, got)
	}
	s := p.Stats()
	checkSums(t, s)
	if s.Unsafe != 0 || s.QueueBytes != 0 {
		t.Errorf("%+v", s)
	}
}

// Events that cannot be read from the spool are told, and hold nobody up.
func TestSpoolDamaged(t *testing.T) {
	h := newPublishHub(t)
	up := down(h)
	dir := t.TempDir()
	lost := make(chan error, 10)
	p := h.publisher(t, PublisherOptions{Spool: &Spool{Dir: dir}, Notify: func(n Notice) {
		if n.Kind == Lost {
			lost <- n.Err
		}
	}})
	// The first batch is on its way when the second is spoilt.
	if err := p.Queue(t.Context(), numbered(0)); err != nil {
		t.Fatal(err)
	}
	soon(t, "it is on its way", func() bool { return p.Stats().Retries > 0 })
	published := make(chan error)
	go func() { published <- p.Publish(t.Context(), numbered(1), numbered(2)) }()
	soon(t, "both are taken", func() bool { return p.Stats().Taken == 3 })
	if err := p.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Queue(t.Context(), numbered(3)); err != nil {
		t.Fatal(err)
	}
	if err := p.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	if err != nil || len(paths) != 1 {
		t.Fatal(paths, err)
	}
	content, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(paths[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("XX"), int64(strings.Index(string(content), "id-000001"))); err != nil {
		t.Fatal(err)
	}
	f.Close()
	up()
	var refused *RefusedError
	if err := <-published; !errors.As(err, &refused) || refused.Refused[0].Index != 0 || refused.Refused[0].Code != "lost" {
		t.Error(err)
	}
	if err := <-lost; !strings.Contains(err.Error(), "is kept as") {
		t.Error(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := h.ids()
	if !slices.Contains(got, "id-000000") || !slices.Contains(got, "id-000003") || slices.Contains(got, "id-000001") {
		t.Errorf("%q", got)
	}
	s := p.Stats()
	checkSums(t, s)
	if s.Lost == 0 {
		t.Errorf("%+v", s)
	}
}
