package compat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// A plugin sends events while the hub is killed or stopped three times, and what was not
// answered is sent again. After that every event is in the journal, once.
// TOCSIN_FAULT_EVENTS says how many.
func TestHostedOverRestarts(t *testing.T) {
	total, chunk := 20_000, 2_000
	if text := os.Getenv("TOCSIN_FAULT_EVENTS"); text != "" {
		var err error
		if total, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
		chunk = max(1, total/50)
	}
	h := startHosted(t, `
    - {path: chatty, name: chatty, command: DIR/chatty}
`, "chatty")
	began, restarts := time.Now(), 0
	for first := 0; first < total; first += chunk {
		count := min(chunk, total-first)
		if quarter := total / 4; first/quarter != (first-chunk)/quarter && first > 0 && restarts < 3 {
			failed := make(chan error, 1)
			go func() { failed <- h.sendNumbered(first, count) }()
			time.Sleep(time.Duration(5+rand.IntN(100)) * time.Millisecond)
			if restarts == 1 {
				h.stop()
			} else {
				h.kill()
			}
			<-failed // or not, if it was quick
			h.start()
			restarts++
		}
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			err := h.sendNumbered(first, count)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d events in %v, %d restarts", total, time.Since(began).Round(time.Millisecond), restarts)
	if restarts != 3 {
		t.Errorf("the hub was restarted %d times", restarts)
	}
	h.stop()
	seen := h.numbered(total)
	lost, doubled := 0, 0
	for _, n := range seen {
		if n == 0 {
			lost++
		}
		if n > 1 {
			doubled++
		}
	}
	if lost+doubled > 0 {
		t.Errorf("of %d events %d are lost and %d doubled", total, lost, doubled)
	}
	h.start() // for the end of the test
}

// sendNumbered has the plugin send events whose ids are numbers.
func (h *hostedHub) sendNumbered(first, count int) error {
	c := h.client()
	c.SetClientTimeout(5 * time.Minute)
	secret, err := c.Logical().WriteWithContext(context.Background(), "chatty/send-many", map[string]any{"first": first, "count": count, "callers": 64})
	if err != nil {
		return err
	}
	if secret == nil {
		return errors.New("no answer")
	}
	if failed, _ := secret.Data["failed"].(json.Number).Int64(); failed > 0 {
		return fmt.Errorf("%d events failed: %v", failed, secret.Data["last"])
	}
	return nil
}

// kill ends the hub as kill -9 does.
func (h *hostedHub) kill() {
	h.process.Kill()
	<-h.exited
	h.eventually("no plugin is left", func() bool { return len(h.pids()) == 0 })
}

// numbered returns how often each of the numbered events is in the journal of a hub that
// has ended.
func (h *hostedHub) numbered(total int) []int {
	ctx := context.Background()
	j, err := journal.Open(ctx, journal.Config{Dir: filepath.Join(filepath.Dir(h.config), "data"), Logger: slog.New(slog.DiscardHandler)})
	must(h.t, err)
	defer j.Close(ctx)
	seen := make([]int, total)
	r := j.Read(journal.Position{})
	for at, end := (journal.Position{}), j.End(); at.Compare(end) < 0; {
		b, err := r.Next(ctx)
		must(h.t, err)
		for i := b.Start(); i < b.Len(); i++ {
			if e := b.Event(i); e.Type == "chatty/numbered" {
				n, err := strconv.Atoi(e.ID)
				if err != nil || n < 0 || n >= total {
					h.t.Fatalf("an event that nobody sent: %q", e.ID)
				}
				seen[n]++
			}
		}
		at = b.End()
	}
	return seen
}
