package queue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/position"
)

// The kill test runs this test binary as a child that appends entries from several
// goroutines and prints those that were acknowledged, reads them, and passes some.
const killDirEnv = "TOCSIN_QUEUE_KILL_CHILD"

func killOptions(dir string) Options {
	o := options(dir)
	o.MaxBytes = 16 << 20
	o.Readers = []string{"a", "b"}
	return o
}

// killChild works until it is killed.
func killChild() bool {
	dir := os.Getenv(killDirEnv)
	if dir == "" {
		return false
	}
	fail := func(err error) {
		fmt.Println("error", err)
		os.Exit(1)
	}
	round := os.Getenv(killDirEnv + "_ROUND")
	q, err := Open(killOptions(dir))
	if err != nil {
		fail(err)
	}
	var mu sync.Mutex
	tell := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	ctx := context.Background()
	begin, err := position.Parse(os.Getenv(killDirEnv + "_AT"))
	if err != nil {
		fail(err)
	}
	q.Passed("a", begin)
	q.Passed("b", begin)
	for _, name := range []string{"a", "b"} {
		go func() {
			r := q.Read(begin)
			for {
				rec, err := r.Next(ctx)
				if err != nil {
					fail(err)
				}
				if name == "a" { // what the parent does not know of may have to be read again
					for i := rec.Start(); i < rec.Len(); i++ {
						tell("read %s %s", rec.Position(i), killKey(rec.Event(i).Note))
					}
				}
				q.Passed(name, rec.End())
			}
		}()
	}
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%s/%d/%d", round, w, i)
				if err := q.Append(ctx, []byte(key+" "+strings.Repeat("x", rand.IntN(2000)))); err != nil {
					fail(err)
				}
				tell("acknowledged %s", key)
			}
		}()
	}
	select {}
}

func killKey(entry string) string {
	key, _, _ := strings.Cut(entry, " ")
	return key
}

// Every entry that was acknowledged before the process was killed is read, by it or by the
// next, in the order of its writer.
func TestKill(t *testing.T) {
	rounds := 8
	if n, err := strconv.Atoi(os.Getenv("TOCSIN_FAULT_ROUNDS")); err == nil {
		rounds = n
	}
	dir := t.TempDir()
	var at position.Position
	total := 0
	for round := range rounds {
		acknowledged, read := make(map[string]bool), make(map[string]bool)
		next := make(map[string]int) // by writer
		see := func(p position.Position, key string) {
			if p.Compare(at) <= 0 {
				t.Fatalf("round %d: %s is at %v, behind %v", round, key, p, at)
			}
			at = p
			read[key] = true
			i := strings.LastIndexByte(key, '/')
			n, err := strconv.Atoi(key[i+1:])
			if err != nil || next[key[:i]] != n {
				t.Fatalf("round %d: read %s, want %d of this writer", round, key, next[key[:i]])
			}
			next[key[:i]]++
		}
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), killDirEnv+"="+dir, fmt.Sprintf("%s_ROUND=%d", killDirEnv, round), killDirEnv+"_AT="+at.String())
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		life := time.Duration(rand.Int64N(int64(200 * time.Millisecond)))
		var killer *time.Timer
		kill := func() { killer = time.AfterFunc(life, func() { _ = child.Process.Kill() }) }
		if round%2 == 1 { // it may not have begun
			kill()
		}
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			if err == io.EOF {
				break // what follows the last line feed was cut off
			}
			if err != nil {
				t.Fatal(err)
			}
			var key, p string
			if n, _ := fmt.Sscanf(line, "acknowledged %s", &key); n == 1 {
				acknowledged[key] = true
			} else if n, _ := fmt.Sscanf(line, "read %s %s", &p, &key); n == 2 {
				parsed, err := position.Parse(p)
				if err != nil {
					t.Fatal(err)
				}
				see(parsed, key)
			} else {
				t.Fatalf("the child said %q", line)
			}
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

		q := open(t, killOptions(dir))
		// What was read, but not told to us, may be gone: there was no need for it.
		for _, i := range readAll(t, q, q.Read(at), at) {
			if i.gap > 0 {
				t.Fatalf("round %d: %d entries are missing", round, i.gap)
			}
			see(i.at, killKey(i.text))
		}
		for key := range acknowledged {
			if !read[key] {
				t.Fatalf("round %d: %s was acknowledged and is not there", round, key)
			}
		}
		if s := q.Stats(); s.Damaged+s.Missing > 0 {
			t.Errorf("round %d: %+v", round, s)
		}
		q.Passed("a", at)
		q.Passed("b", at)
		shut(t, q)
		if testing.Verbose() {
			t.Logf("round %d: killed after %v, %d acknowledged, %d read", round, life.Round(time.Millisecond), len(acknowledged), len(read))
		}
		total += len(acknowledged)
	}
	if total == 0 {
		t.Error("no child has acknowledged anything")
	}
}
