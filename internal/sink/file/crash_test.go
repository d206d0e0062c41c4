//go:build unix

package file

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

const (
	childEnv = "TOCSIN_TEST_FILE_SINK" // path of the file that a child writes to
	firstEnv = "TOCSIN_TEST_FILE_FIRST"
)

// child writes batches for ever, and says of each when it is delivered and synced.
func child(path string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s, err := New(Options{Path: path, Format: format.CloudEvents, RotateBytes: 256 << 10, Gzip: true})
	if err != nil {
		fail(err)
	}
	next, err := strconv.Atoi(os.Getenv(firstEnv))
	if err != nil {
		fail(err)
	}
	const each = 100
	for ; ; next += each {
		r := s.Send(context.Background(), &deliver.Batch{Items: delivertest.Events(next, each)})
		if r.Outcome != deliver.Delivered {
			fail(errors.New(r.Reason))
		}
		if err := s.Sync(context.Background()); err != nil {
			fail(err)
		}
		fmt.Println(next + each)
	}
}

// TestKill kills a process that writes, moves away and compresses, again and again. The next
// one goes on with the first event that was not said to be delivered, as a delivery does:
// every event is there, no line is broken, and what is there twice comes of one batch.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := 8
	if n, err := strconv.Atoi(os.Getenv("TOCSIN_FAULT_ROUNDS")); err == nil {
		rounds = n
	}
	path := filepath.Join(t.TempDir(), "logs", "f.jsonl")
	delivered := 0
	for round := range rounds {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childEnv+"="+path, fmt.Sprintf("%s=%d", firstEnv, delivered))
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		// Every other one is killed wherever it is, the others when they have done something.
		stop := time.AfterFunc(time.Hour, func() { _ = c.Process.Kill() })
		soon := func() { stop.Reset(50*time.Millisecond + rand.N(100*time.Millisecond)) }
		if round%2 == 1 {
			soon()
		}
		first := true
		for s := bufio.NewScanner(out); s.Scan(); first = false {
			if first && round%2 == 0 {
				soon()
			}
			n, err := strconv.Atoi(strings.TrimSpace(s.Text()))
			if err != nil {
				t.Fatalf("the child says %q", s.Text())
			}
			delivered = n
		}
		if err := c.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the child has ended: %v", err)
		}
		stop.Stop()
	}
	// The last one repairs what was left.
	s := open(t, Options{Path: path, RotateBytes: 256 << 10, Gzip: true})
	send(t, s, delivered, 1)
	_ = s.Close()
	lines, whole := readAll(t, path)
	if !whole {
		t.Error("the file does not end with a newline")
	}
	seen := make(map[string]bool)
	for i, line := range lines {
		e, err := event.ParseCloudEvent(line)
		if err != nil {
			t.Fatalf("line %d is broken: %v: %.200q", i, err, line)
		}
		seen[e.ID] = true
	}
	for i, item := range delivertest.Events(0, delivered+1) {
		if !seen[item.Event.ID] {
			t.Fatalf("event %d of %d is missing", i, delivered)
		}
	}
	if extra := len(lines) - len(seen); extra > 100*rounds {
		t.Errorf("%d events are there more than once, at most %d may", extra, 100*rounds)
	}
	t.Logf("%d events in %d rounds, %d more than once", delivered, rounds, len(lines)-len(seen))
}
