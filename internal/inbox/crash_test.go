package inbox

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
)

// The kill test runs this test binary as a child process that puts numbered lines, reads
// and releases them, and tells its parent over a pipe what it knows:
//
//	written <n>   lines before this one are in a file
//	durable <n>   lines before this one are synced, or were acknowledged
//	read <position> <n>   the reader has the lines before n, and goes on from there
//	released <position>
const (
	killDirEnv    = "TOCSIN_INBOX_KILL_CHILD"
	killFirstEnv  = "TOCSIN_INBOX_KILL_FIRST"  // number of the first line
	killResumeEnv = "TOCSIN_INBOX_KILL_RESUME" // where the reader goes on
)

func killOptions(dir string) Options {
	return Options{Dir: dir, SegmentBytes: 256 << 10, MaxBytes: 64 << 20, ReserveBytes: 1 << 20, WhenFull: Block, SyncInterval: 20 * time.Millisecond}
}

func killLine(n int) string {
	size := 20 + n%997
	if n%5003 == 0 {
		size = 300_000
	}
	return fmt.Sprintf("%d %s", n, strings.Repeat("x", size))
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
	ctx := context.Background()
	x, err := Open(killOptions(dir))
	if err != nil {
		fail(err)
	}
	var resume Position
	if _, err := fmt.Sscanf(os.Getenv(killResumeEnv), "%d/%d", &resume.Epoch, &resume.Line); err != nil {
		fail(err)
	}
	first, err := strconv.Atoi(os.Getenv(killFirstEnv))
	if err != nil {
		fail(err)
	}
	if err := x.Seek(resume); err != nil {
		fail(err)
	}
	var mu sync.Mutex
	tell := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	x.mu.Lock()
	base := first - int(x.queue.next) // what a line has more than its position
	x.mu.Unlock()
	go func() { // some lines wait to be durable
		for {
			x.mu.Lock()
			at := x.end()
			x.mu.Unlock()
			if err := x.Durable(ctx, at); err != nil {
				fail(err)
			}
			tell("durable %d", base+int(at.Line))
		}
	}()
	go func() {
		for {
			x.mu.Lock()
			written := x.writtenTo
			x.mu.Unlock()
			tell("written %d", base+int(written.Line))
			time.Sleep(100 * time.Microsecond)
		}
	}()
	go func() {
		var b Batch
		for {
			if err := x.Read(ctx, &b); err != nil {
				fail(err)
			}
			if b.Lost != nil && b.Lost.Reason != Crash {
				fail(fmt.Errorf("lost %+v", b.Lost))
			}
			if rand.IntN(4) == 0 { // so that some lines stay behind
				time.Sleep(time.Millisecond)
			}
			p := b.After()
			n := -1
			if len(b.Lines) > 0 {
				if _, err := fmt.Sscan(string(b.Lines[len(b.Lines)-1].Data[:12]), &n); err != nil {
					fail(err)
				}
			}
			tell("read %d/%d %d", p.Epoch, p.Line, n+1)
			x.Release(p)
		}
	}()
	for n := first; ; {
		var all []Line
		for range 1 + rand.IntN(20) {
			text := killLine(n)
			all = append(all, Line{Data: []byte(text), Size: int64(len(text))})
			n++
		}
		if _, err := x.Put(ctx, all); err != nil {
			fail(err)
		}
		if rand.IntN(3) == 0 {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

type killed struct {
	written, durable, read int
	at                     Position
}

// killOnce starts a child and kills it when it has lived so long, counted from its start, if
// early, or else from when it has written something.
func killOnce(t *testing.T, dir string, first int, resume Position, life time.Duration, early bool) *killed {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), killDirEnv+"="+dir, killFirstEnv+"="+strconv.Itoa(first), fmt.Sprintf("%s=%d/%d", killResumeEnv, resume.Epoch, resume.Line))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var killer *time.Timer
	kill := func() { killer = time.AfterFunc(life, func() { _ = child.Process.Kill() }) }
	if early {
		kill()
	}
	k := &killed{at: resume}
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break // what follows the last line feed was cut off
		}
		if err != nil {
			t.Fatal(err)
		}
		var p Position
		var n int
		switch {
		case scan1(line, "written %d", &n):
			k.written = max(k.written, n)
		case scan1(line, "durable %d", &n):
			k.durable = max(k.durable, n)
		case scan1(line, "read %d/%d %d", &p.Epoch, &p.Line, &n):
			k.at, k.read = p, max(k.read, n)
		default:
			t.Fatalf("the child said %q", line)
		}
		if killer == nil && k.written > first {
			kill()
		}
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return k
}

func scan1(line, format string, args ...any) bool {
	n, err := fmt.Sscanf(line, format, args...)
	return err == nil && n == len(args)
}

// Whatever was in a file when the process was killed is read afterwards, in order, once.
func TestInboxKill(t *testing.T) {
	rounds := 6
	if n, err := strconv.Atoi(os.Getenv("TOCSIN_FAULT_ROUNDS")); err == nil {
		rounds = n
	}
	dir := t.TempDir()
	var resume Position
	first := 0
	total := 0
	for round := range rounds {
		early, longest := round%3 == 0, 150*time.Millisecond
		if early {
			longest = 30 * time.Millisecond // while it opens, or soon after
		}
		life := time.Duration(rand.Int64N(int64(longest)))
		k := killOnce(t, dir, first, resume, life, early)
		x := open(t, killOptions(dir))
		if err := x.Seek(k.at); err != nil {
			t.Fatal(err)
		}
		put(t, x, "end")
		next := max(first, k.read)
		var b Batch
		for done := false; !done; {
			if err := x.Read(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			if b.Lost != nil && b.Lost.Reason != Crash {
				t.Fatalf("round %d: %+v", round, b.Lost)
			}
			for _, l := range b.Lines {
				switch text := string(l.Data); {
				case text == "end":
					done = true
				case text != killLine(next):
					t.Fatalf("round %d: %.30q, want line %d", round, text, next)
				default:
					next++
				}
			}
		}
		if next < k.written || next < k.durable {
			t.Fatalf("round %d: %d lines are there, %d were written, %d durable", round, next, k.written, k.durable)
		}
		if testing.Verbose() && (round < 6 || round%50 == 49) {
			t.Logf("round %d: killed after %v: %d lines, written %d, durable %d, read %d", round, life.Round(time.Millisecond), next-first, k.written-first, k.durable-first, k.read-first)
		}
		total += next - first
		first = next
		resume = b.After()
		x.Release(resume)
		shut(t, x)
	}
	if total == 0 {
		t.Error("no child has written anything")
	}
}
