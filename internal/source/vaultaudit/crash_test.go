package vaultaudit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// childDir is the environment variable that makes the test binary a process which
// follows the log in a directory until it is killed.
const childDir = "TOCSIN_TEST_FOLLOW"

// faultRounds is the environment variable that says how often to kill.
const faultRounds = "TOCSIN_FAULT_ROUNDS"

func child(dir string) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	fail := func(err error) {
		if err != nil {
			log.Error("child", "error", err)
			os.Exit(1)
		}
	}
	j, err := journal.Open(context.Background(), journal.Config{Dir: filepath.Join(dir, "data"), Logger: log})
	fail(err)
	f, err := New(fileConfig(filepath.Join(dir, "audit.log")), Deps{Journal: j, Logger: log})
	fail(err)
	f.snapshotEvery = 300 * time.Millisecond
	fmt.Println("ready")
	fail(f.Run(context.Background()))
}

// TestKill kills a process that follows a growing, rotated log at random moments
// and shows that in the end every line is in the journal exactly once, in order,
// and that the state of the derivation was never bent.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	if text := os.Getenv(faultRounds); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	pause := 5 * time.Millisecond * time.Duration(max(rounds/4, 1)) // so that the log does not grow with the rounds
	stop := make(chan struct{})
	written := make(chan int, 1)
	go func() {
		n := 0
		defer func() { written <- n }()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		for err == nil {
			select {
			case <-stop:
				f.Close()
				return
			default:
			}
			next := n + 200
			_, err = f.WriteString(auditLines(n, next))
			n = next
			if n%20_000 == 0 && err == nil {
				f.Close()
				if err = os.Rename(path, fmt.Sprintf("%s-20261121%08d", path, n)); err == nil {
					f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				}
			}
			time.Sleep(pause)
		}
		t.Error(err)
	}()
	for range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		var said syncBuffer
		cmd.Stderr = &said
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Errorf("child said %q, %v:\n%s", line, err, &said)
		}
		time.Sleep(time.Duration(100+rand.IntN(900)) * time.Millisecond)
		cmd.Process.Kill()
		io.Copy(io.Discard, out)
		cmd.Wait()
		if t.Failed() {
			break
		}
	}
	close(stop)
	n := <-written
	if t.Failed() {
		return
	}

	s := &stand{T: t, dir: dir, path: path, config: fileConfig(path), journal: openJournal(t, dir, event.Limits{})}
	s.start()
	defer s.journal.Close(context.Background())
	s.waitLines(n)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	checkExactlyOnce(t, s.journal, n)
	t.Logf("%d lines; the last start recognised %d", n, s.file.Stats().Repeated)
}

// TestCrashWhileReplaying shows that the stored position and the stored state never
// part: a process that dies while it reads again what the one before it had made
// durable leaves them as they were.
func TestCrashWhileReplaying(t *testing.T) {
	s := newStand(t)
	run := func(lines int) {
		t.Helper()
		s.start()
		s.waitFor("all lines", func() bool { return s.file.Stats().Lines == uint64(lines) })
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	}
	s.write(auditLines(0, 2000))
	run(2000)
	position, state := s.stored()
	s.write(auditLines(2000, 6000))
	run(4000)
	checkExactlyOnce(t, s.journal, 6000)

	// The process died before it stored anything of the second run, and the next one
	// dies in the middle of the lines that it recognises.
	s.restore(position, state)
	if err := os.Truncate(s.path, int64(len(auditLines(0, 4000)))); err != nil {
		t.Fatal(err)
	}
	run(2000)
	if n := s.file.Stats().Repeated; n != 2000 {
		t.Errorf("%d lines recognised, want 2000", n)
	}
	position, _ = s.stored()
	s.restore(position, state)
	s.write(auditLines(4000, 20_000))
	s.start()
	s.waitLines(20_000)
	checkExactlyOnce(t, s.journal, 20_000)
}

// stored returns what is stored about the source.
func (s *stand) stored() (position, state []byte) {
	s.Helper()
	kv, err := s.journal.State(s.Context(), sourceBucket)
	if err != nil {
		s.Fatal(err)
	}
	if entry, err := kv.Get(s.Context(), recordKey("test")); err == nil {
		position = entry.Value()
	}
	if state, err = s.file.loadState(s.Context()); err != nil {
		s.Fatal(err)
	}
	return position, state
}

// restore puts back what was stored about the source.
func (s *stand) restore(position, state []byte) {
	s.Helper()
	kv, err := s.journal.State(s.Context(), sourceBucket)
	if err == nil {
		_, err = kv.Put(s.Context(), recordKey("test"), position)
	}
	store, err2 := s.journal.Objects(s.Context(), sourceBucket)
	if err2 == nil {
		_, err2 = store.PutBytes(s.Context(), recordKey("test"), state)
	}
	if err := errors.Join(err, err2); err != nil {
		s.Fatal(err)
	}
}
