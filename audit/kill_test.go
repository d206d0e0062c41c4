package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The kill test runs this test binary as a child that logs events with a queue on disk and two
// files as sinks, one of which is slow, and prints the ids of those that Log took.
const killDirEnv = "TOCSIN_AUDIT_KILL_CHILD"

func killLogger(dir string) (*Logger, error) {
	return New(Options{
		Service: "shop", Dir: filepath.Join(dir, "queue"), MaxBytes: 16 << 20,
		Outputs: []Output{ToFile(filepath.Join(dir, "a.jsonl"), FileOptions{}), {
			Name: "slow", Batch: 3, batch: 3, make: ToFile(filepath.Join(dir, "b.jsonl"), FileOptions{}).make,
		}},
	})
}

// killChild works until it is killed.
func killChild() bool {
	dir := os.Getenv(killDirEnv)
	if dir == "" {
		return false
	}
	l, err := killLogger(dir)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv(killDirEnv+"_ROUND"), w, i)
				if err := l.Log(context.Background(), Event{ID: id, Action: "create", Target: Target{Type: "order"}, Payload: strings.Repeat("x", rand.IntN(500))}); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				fmt.Println(id)
			}
		}()
	}
	select {}
}

// Every event that Log took before the process was killed is delivered to every sink at least
// once, in the order of its caller.
func TestKill(t *testing.T) {
	rounds := 5
	if n, err := strconv.Atoi(os.Getenv("TOCSIN_FAULT_ROUNDS")); err == nil {
		rounds = n
	}
	dir := t.TempDir()
	acknowledged := make(map[string]bool)
	for round := range rounds {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), killDirEnv+"="+dir, fmt.Sprintf("%s_ROUND=%d", killDirEnv, round))
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var killer *time.Timer
		kill := func() {
			killer = time.AfterFunc(time.Duration(rand.Int64N(int64(250*time.Millisecond))), func() { _ = child.Process.Kill() })
		}
		if round%2 == 1 { // it may not have begun
			kill()
		}
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			if err == io.EOF {
				break
			}
			if err != nil || strings.HasPrefix(line, "error") {
				t.Fatal(line, err)
			}
			acknowledged[strings.TrimSpace(line)] = true
			if killer == nil {
				kill()
			}
		}
		if killer != nil {
			killer.Stop()
		}
		var exit *exec.ExitError
		if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child ended by itself: %v", err)
		}
	}
	l, err := killLogger(dir)
	if err != nil {
		t.Fatal(err)
	}
	flush(t, l)
	if st := l.Stats(); st.Queue.Damaged+st.Queue.Missing > 0 {
		t.Errorf("%+v", st.Queue)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(acknowledged) == 0 {
		t.Fatal("nothing was logged")
	}
	for _, name := range []string{"a.jsonl", "b.jsonl"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]uint64) // sequence by id
		next := make(map[string]int)    // by caller
		var last uint64
		repeats := 0
		for line := range strings.Lines(string(text)) {
			var e Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
			if sequence, ok := seen[e.ID]; ok {
				if sequence != e.Sequence {
					t.Fatalf("%s: %s has the sequences %d and %d", name, e.ID, sequence, e.Sequence)
				}
				repeats++
				continue
			}
			seen[e.ID] = e.Sequence
			if e.Sequence != last+1 {
				t.Fatalf("%s: the sequence %d is behind %d", name, e.Sequence, last)
			}
			last = e.Sequence
			i := strings.LastIndexByte(e.ID, '-')
			if n, err := strconv.Atoi(e.ID[i+1:]); err != nil || n != next[e.ID[:i]] {
				t.Fatalf("%s: %s, want %d of this caller", name, e.ID, next[e.ID[:i]])
			}
			next[e.ID[:i]]++
		}
		for id := range acknowledged {
			if _, ok := seen[id]; !ok {
				t.Fatalf("%s: %s was acknowledged and is not there", name, id)
			}
		}
		t.Logf("%s: %d acknowledged, %d delivered, %d of them more than once", name, len(acknowledged), len(seen), repeats)
	}
}
