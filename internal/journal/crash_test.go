package journal

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

	"github.com/tocsin-events/tocsin/event"
)

// The crash test runs this test binary as a child process that appends, reads and
// saves a cursor, and tells its parent over a pipe what it was promised:
//
//	ack <id> <position>     the event is durable there
//	read <position> <id>    the reader got it
//	cursor <position>       Save returned
//
// The parent kills it at a random moment, looks into the journal, and starts
// the next one.
const (
	crashChildEnv  = "TOCSIN_JOURNAL_CRASH_CHILD" // data directory
	crashRoundEnv  = "TOCSIN_JOURNAL_CRASH_ROUND"
	crashResumeEnv = "TOCSIN_JOURNAL_CRASH_RESUME" // where the reader goes on
	crashRoundsEnv = "TOCSIN_FAULT_ROUNDS"         // how often, in the parent

	crashProducers = 12
)

// crashChild never returns: it works until it is killed.
func crashChild() {
	fail := func(err error) {
		fmt.Println("error", err)
		os.Exit(1)
	}
	ctx := context.Background()
	round := os.Getenv(crashRoundEnv)
	j, err := Open(ctx, Config{Dir: os.Getenv(crashChildEnv), Logger: quiet()})
	if err != nil {
		fail(err)
	}
	resume, err := ParsePosition(os.Getenv(crashResumeEnv))
	if err != nil {
		fail(err)
	}
	var mu sync.Mutex
	tell := func(format string, args ...any) {
		line := fmt.Appendf(nil, format+"\n", args...)
		mu.Lock()
		defer mu.Unlock()
		_, _ = os.Stdout.Write(line)
	}
	for p := range crashProducers {
		go func() {
			r := rand.New(rand.NewPCG(uint64(p), uint64(time.Now().UnixNano())))
			receipts := make(chan func(), 64)
			go func() {
				for wait := range receipts {
					wait()
				}
			}()
			for n := 0; ; {
				var unit []*event.Event
				for range 1 + r.IntN(5)*r.IntN(2) {
					unit = append(unit, newCrashEvent(round, p, n, r))
					n++
				}
				acknowledge := func(at Position, err error) {
					if err != nil {
						fail(err)
					}
					for i, e := range unit {
						at := Position{Seq: at.Seq, Index: at.Index + uint32(i), Ordinal: at.Ordinal + uint64(i)}
						tell("ack %s %s", e.ID, at)
					}
				}
				if r.IntN(3) == 0 {
					acknowledge(j.Append(ctx, unit...))
					continue
				}
				receipt, err := j.Submit(ctx, unit...)
				if err != nil {
					fail(err)
				}
				receipts <- func() { acknowledge(receipt.Wait(ctx)) }
			}
		}()
	}
	go func() {
		for {
			p := j.End()
			if err := j.Cursor("crash").Save(ctx, p); err != nil {
				fail(err)
			}
			tell("cursor %s", p)
		}
	}()
	reader := j.Read(resume)
	for {
		b, err := reader.Next(ctx)
		if err != nil {
			fail(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			tell("read %s %s", b.Position(i), b.Event(i).ID)
		}
	}
}

func newCrashEvent(round string, producer, n int, r *rand.Rand) *event.Event {
	e := numbered(n)
	e.ID = fmt.Sprintf("%s/%d/%d", round, producer, n)
	e.Data = make([]byte, r.IntN(600))
	for i := range e.Data {
		e.Data[i] = byte(r.Uint32() & 0x1f)
	}
	return e
}

// promises is what the child said before it died.
type promises struct {
	acknowledged map[string]string // id to position
	read         [][2]string       // position and id, in order
	cursor       string
}

func (p *promises) add(line string) error {
	words := strings.Fields(line)
	switch {
	case len(words) == 3 && words[0] == "ack":
		p.acknowledged[words[1]] = words[2]
	case len(words) == 3 && words[0] == "read":
		p.read = append(p.read, [2]string{words[1], words[2]})
	case len(words) == 2 && words[0] == "cursor":
		p.cursor = words[1]
	case len(words) == 1 && words[0] == "cursor": // the zero position
	default:
		return fmt.Errorf("child said %q", line)
	}
	return nil
}

// crashOnce starts a child, kills it when it has lived so long, counted from its
// first acknowledgement or, early, from its start, and returns what it said.
func crashOnce(t *testing.T, dir string, round int, resume string, life time.Duration, early bool) *promises {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashChildEnv+"="+dir, crashRoundEnv+"="+strconv.Itoa(round), crashResumeEnv+"="+resume)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	p := &promises{acknowledged: make(map[string]string)}
	lines := bufio.NewReader(out)
	var killer *time.Timer
	kill := func() { killer = time.AfterFunc(life, func() { _ = child.Process.Kill() }) }
	if early {
		kill()
	}
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break // what follows the last newline was cut off by the kill
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := p.add(line); err != nil {
			t.Error(err)
		}
		if killer == nil && len(p.acknowledged) > 0 {
			kill()
		}
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child ended by itself: %v", err)
	}
	if killer != nil {
		killer.Stop()
	}
	return p
}

func TestKill(t *testing.T) {
	rounds := 5
	if text := os.Getenv(crashRoundsEnv); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	after, childRead := Position{}, ""
	childNext := uint64(0)
	total := 0
	for round := range rounds {
		// Every third dies while it opens the journal or soon after.
		early, longest := round%3 == 0, 250*time.Millisecond
		if early {
			longest = 50 * time.Millisecond
		}
		life := time.Duration(rand.Int64N(int64(longest)))
		p := crashOnce(t, dir, round, childRead, life, early)
		j := open(t, Config{Dir: dir})
		stored := make(map[string]string)
		at := make(map[string]string)
		next := make([]int, crashProducers)
		for _, text := range readTo(t, j, after, j.End()) {
			id, position, _ := strings.Cut(text, "@")
			if at[position] != "" || stored[id] != "" {
				t.Fatalf("round %d: %s at %s is there twice", round, id, position)
			}
			stored[id], at[position] = position, id
			here, err := ParsePosition(position)
			if err != nil || here.Ordinal != after.NextOrdinal() {
				t.Fatalf("round %d: %s at %v, after %v", round, id, here, after)
			}
			after = here
			var r, producer, n int
			if _, err := fmt.Sscanf(id, "%d/%d/%d", &r, &producer, &n); err != nil || r != round || n != next[producer] {
				t.Fatalf("round %d: found %s, want event %d of that producer", round, id, next[producer])
			}
			next[producer]++
		}
		for id, position := range p.acknowledged {
			if stored[id] != position {
				t.Fatalf("round %d: %s was acknowledged at %s, it is at %q", round, id, position, stored[id])
			}
		}
		// The child's reader went on where the last child's stopped.
		for _, r := range p.read {
			here, err := ParsePosition(r[0])
			if err != nil || here.Ordinal != childNext {
				t.Fatalf("round %d: child read %s at %v, want ordinal %d", round, r[1], here, childNext)
			}
			if id, ok := at[r[0]]; ok && id != r[1] {
				t.Fatalf("round %d: child read %s at %s, where %s is", round, r[1], r[0], id)
			}
			childRead, childNext = r[0], here.Ordinal+1
		}
		cursor, err := j.Cursor("crash").Load(t.Context())
		if err != nil || cursor.String() < p.cursor {
			t.Fatalf("round %d: cursor %q, %v; saved was %q", round, cursor, err, p.cursor)
		}
		if cursor.Compare(j.End()) > 0 {
			t.Fatalf("round %d: cursor %v behind the end %v", round, cursor, j.End())
		}
		total += len(p.acknowledged)
		shut(t, j)
		if testing.Verbose() && (round < 5 || round%50 == 49) {
			t.Logf("round %d: killed after %v, %d acknowledged, %d stored, %d read", round, life.Round(time.Millisecond), len(p.acknowledged), len(stored), len(p.read))
		}
	}
	if total == 0 {
		t.Fatal("nothing was acknowledged in any round")
	}
	j := open(t, Config{Dir: dir})
	if got := readTo(t, j, Position{}, j.End()); uint64(len(got)) != j.End().Ordinal+1 {
		t.Errorf("%d events from the beginning, %d were appended", len(got), j.End().Ordinal+1)
	}
}
