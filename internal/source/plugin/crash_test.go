package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	crashVariable = "TOCSIN_TEST_PLUGIN_SOURCE"
	crashEvents   = 150_000
)

// crashChild is the program that [TestKill] kills: a journal and a source. It returns false when
// this is not that program.
func crashChild() bool {
	dir := os.Getenv(crashVariable)
	if dir == "" {
		return false
	}
	t := new(testing.B) // for its errors only
	j := openJournal(t, filepath.Join(dir, "data"))
	// The plugin makes other batches at each start.
	f := newFake(numbered(50+rand.N(400), crashEvents, strings.Repeat("some text ", 10)))
	s := New(config(), Deps{Launch: launches(f), Journal: j, Logger: slog.New(slog.DiscardHandler)})
	fmt.Println("ready")
	_ = s.Run(context.Background())
	if err := j.Close(context.Background()); err != nil || s.Status().State != Ended {
		fmt.Fprintln(os.Stderr, err, s.Status())
		os.Exit(1)
	}
	return true
}

// However often, and whenever, the hub is killed: every event of a plugin with resume positions
// is in the journal, and those that are there several times have one id.
func TestKill(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	dir := t.TempDir()
	kills, finished := 0, false
	for deadline := time.Now().Add(time.Minute); !finished; {
		if time.Now().After(deadline) {
			t.Fatal("the stream does not come to its end")
		}
		ctx, cancel := context.WithCancel(t.Context())
		command := exec.CommandContext(ctx, os.Args[0])
		command.Env = append(os.Environ(), crashVariable+"="+dir)
		var stderr strings.Builder
		command.Stderr = &stderr
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		var word string
		if _, err := fmt.Fscan(out, &word); err != nil {
			t.Fatalf("the program does not start: %v: %s", err, &stderr)
		}
		var kill *time.Timer
		if kills < 10 {
			kill = time.AfterFunc(rand.N(100*time.Millisecond), cancel)
		}
		err = command.Wait()
		if kill != nil && !kill.Stop() && err != nil {
			kills++
		} else if err != nil {
			t.Fatalf("%v: %s", err, &stderr)
		} else {
			finished = true
		}
		cancel()
	}
	if kills == 0 {
		t.Error("it was over before it could be killed")
	}
	j := openJournal(t, filepath.Join(dir, "data"))
	defer j.Close(context.Background())
	ids, numbers := make(map[int]string), 0
	for _, e := range events(t, j) {
		var payload struct{ N int }
		if err := json.Unmarshal(e.Data, &payload); err != nil {
			t.Fatal(err)
		}
		if id, ok := ids[payload.N]; ok && id != e.ID {
			t.Errorf("event %d is there with two ids", payload.N)
		}
		ids[payload.N] = e.ID
		numbers++
	}
	for n := 1; n <= crashEvents; n++ {
		if ids[n] == "" {
			t.Fatalf("event %d is missing, of %d", n, numbers)
		}
	}
	different := make(map[string]bool)
	for _, id := range ids {
		different[id] = true
	}
	if len(different) != crashEvents {
		t.Errorf("%d ids", len(different))
	}
	t.Logf("%d kills, %d events, %d of them repeats", kills, numbers, numbers-crashEvents)
}
