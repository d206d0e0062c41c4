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
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// childDir is the environment variable that makes the test binary a process which
// follows the log in a directory until it is killed.
const childDir = "TOCSIN_TEST_FOLLOW"

// childKind is the one that says what it follows.
const childKind = "TOCSIN_TEST_KIND"

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
	config := fileConfig(filepath.Join(dir, "audit.log"))
	if os.Getenv(childKind) == "devices" {
		x, err := inbox.Open(inbox.Options{Dir: filepath.Join(dir, "inbox")})
		fail(err)
		config = devices(dir, x)
		go func() { fail(send(dir, x)) }()
	}
	f, err := New(config, Deps{Journal: j, Logger: log})
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
		killChild(t, dir, "file", time.Duration(100+rand.IntN(900))*time.Millisecond)
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

// killChild runs the test binary as a process of a kind for a while, and kills it.
func killChild(t *testing.T, dir, kind string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childKind+"="+kind)
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
	time.Sleep(after)
	cmd.Process.Kill()
	io.Copy(io.Discard, out)
	cmd.Wait()
}

// TestCrashWhileReplaying shows that the stored position and the stored state never
// part: a process that dies while it reads again what the one before it had made
// durable leaves them as they were.
func TestCrashWhileReplaying(t *testing.T) {
	t.Parallel()
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

// sentFile is where the child that has an inbox notes how many lines were acknowledged to
// the sender in it.
const sentFile = "sent"

// devices is the configuration of a server whose log goes to a file, to files that match a
// pattern, and to an inbox.
func devices(dir string, x Inbox) Config {
	return Config{Name: "test", Inputs: []Input{
		{Name: "test", Paths: []string{filepath.Join(dir, "audit.log")}},
		{Name: "dated", Paths: []string{filepath.Join(dir, "dated-*.log")}},
		{Name: "socket", Inbox: x},
	}}
}

// TestKillWithDevices kills a process that gets the same entries over a file, over files
// that match a pattern, and from a sender, each with other losses. In the end each entry
// that came over any of them is in the journal once.
func TestKillWithDevices(t *testing.T) {
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
	stop := make(chan struct{})
	written := make(chan int, 1)
	go func() {
		n := 0
		defer func() { written <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			var first, dated strings.Builder
			next := n + 100
			for ; n < next; n++ {
				if n%5 != 0 {
					first.WriteString(deviceLine(0, n) + "\n")
				}
				if n%7 != 0 {
					dated.WriteString(deviceLine(1, n) + "\n")
				}
			}
			appendTo(t, filepath.Join(dir, "audit.log"), first.String())
			appendTo(t, filepath.Join(dir, fmt.Sprintf("dated-%03d.log", n/5000)), dated.String())
			time.Sleep(5 * time.Millisecond * time.Duration(max(rounds/4, 1)))
		}
	}()
	for range rounds {
		killChild(t, dir, "devices", time.Duration(200+rand.IntN(800))*time.Millisecond)
	}
	close(stop)
	n := <-written
	if t.Failed() {
		return
	}
	want := map[int]bool{}
	for line := range n {
		if line%5 != 0 || line%7 != 0 {
			want[line] = true
		}
	}
	for line := range sent(t, dir) {
		want[line] = true
	}
	x, err := inbox.Open(inbox.Options{Dir: filepath.Join(dir, "inbox")})
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{T: t, dir: dir, config: devices(dir, x), journal: openJournal(t, dir, event.Limits{})}
	s.start()
	defer s.journal.Close(context.Background())
	defer x.Close(context.Background())
	s.waitFor("the union", func() bool {
		got := map[string]bool{}
		for _, e := range lineEvents(t, s.journal) {
			got[entryKey(e)] = true
		}
		return len(got) >= len(want) && s.file.TailStats("test").Behind+s.file.TailStats("dated").Behind == 0
	})
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	// What was sent and not acknowledged may be there too, once.
	lines := map[string]int{}
	for line := range len(want) + 4000 {
		lines[lineKey(line)] = line
	}
	for _, e := range lineEvents(t, s.journal) {
		if device, _ := e.Metadata.Text(metadataDevice); device == "socket" && e.Type != TypeLost {
			if line, is := lines[entryKey(e)]; is {
				want[line] = true
			}
		}
	}
	got := map[string]int{}
	for _, e := range lineEvents(t, s.journal) {
		if e.Type != TypeLost {
			got[entryKey(e)]++
		}
	}
	for line := range want {
		if got[lineKey(line)] != 1 {
			t.Fatalf("line %d is there %d times", line, got[lineKey(line)])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	t.Logf("%d lines written, %d sent; the last start recognised %d", n, len(sent(t, dir)), s.file.Stats().Repeated)
}

// sent are the lines that were acknowledged to the sender.
func sent(t *testing.T, dir string) map[int]bool {
	b, err := os.ReadFile(filepath.Join(dir, sentFile))
	if err != nil {
		t.Fatal(err)
	}
	lines := map[int]bool{}
	for _, text := range strings.Fields(string(b)) {
		n, err := strconv.Atoi(text)
		if err != nil {
			continue // the process was killed while it wrote
		}
		lines[n] = true
	}
	return lines
}

// send is a sender which writes down what is acknowledged, and begins some lines before
// that when it is started again.
func send(dir string, x *inbox.Inbox) error {
	path := filepath.Join(dir, sentFile)
	b, _ := os.ReadFile(path)
	done := strings.Fields(string(b))
	n := 0
	if len(done) > 1 {
		n, _ = strconv.Atoi(done[len(done)-2])
	}
	n = max(0, n-50)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for ; ; n += 20 {
		var lines []inbox.Line
		for k := n; k < n+20; k++ {
			lines = append(lines, inbox.Line{Data: []byte(deviceLine(2, k)), Size: int64(len(deviceLine(2, k)))})
		}
		p, err := x.Put(context.Background(), lines)
		if err == nil {
			err = x.Durable(context.Background(), p)
		}
		if err != nil {
			return err
		}
		var text strings.Builder
		for k := n; k < n+20; k++ {
			fmt.Fprintf(&text, "%d ", k)
		}
		if _, err := f.WriteString(text.String()); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
