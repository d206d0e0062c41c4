package strongbox

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// A process that is killed while it writes loses nothing that it has said to be written.

const (
	childDir = "TOCSIN_TEST_STRONGBOX_DIR"
	childKey = "TOCSIN_TEST_STRONGBOX_KEY"
)

// childMain is the process that is killed: it writes and says after each write what it has
// written.
func childMain() bool {
	dir := os.Getenv(childDir)
	if dir == "" {
		return false
	}
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	j, err := journal.Open(ctx, journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	keys, err := ParseKeys(os.Getenv(childKey))
	check(err)
	b, err := Open(ctx, Config{State: j.State, Remove: j.RemoveState, Keys: keys})
	check(err)
	c, err := b.Compartment(ctx, "a")
	check(err)
	fmt.Println("ready")
	for i := 0; ; i++ {
		key := "k/" + strconv.Itoa(i%37)
		if i%5 == 4 {
			check(c.Delete(ctx, key))
			fmt.Println("-", key)
			continue
		}
		check(c.Put(ctx, Entry{Key: key, Value: []byte(strconv.Itoa(i))}))
		fmt.Println(i, key)
	}
}

func TestKill(t *testing.T) {
	rounds := 3
	if n, err := strconv.Atoi(os.Getenv("TOCSIN_FAULT_ROUNDS")); err == nil {
		rounds = n
	}
	dir, key := t.TempDir(), NewKey()
	model := make(map[string]string)
	for round := range rounds {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childDir+"="+dir, childKey+"="+key.Encode())
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatal("the child does not start")
		}
		for range 20 + 13*round%50 {
			if !lines.Scan() {
				t.Fatal("the child has ended")
			}
			note(model, lines.Text())
		}
		child.Process.Kill()
		for lines.Scan() { // what it has said before it was killed
			note(model, lines.Text())
		}
		if err := lines.Err(); err != nil && err != io.EOF {
			t.Log(err)
		}
		child.Wait()

		j, err := journal.Open(t.Context(), journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c := compartment(t, openBox(t, j, key), "a")
		// The one write that was not answered may have been done or not.
		different := 0
		for k := range model {
			want := model[k]
			if got := get(t, c, k); got != want {
				different++
				model[k] = got
				n, _ := strconv.Atoi(got)
				last, _ := strconv.Atoi(want)
				if got != "(none)" && want != "(none)" && n < last {
					t.Errorf("round %d: %s has the older value %s, want %s", round, k, got, want)
				}
			}
		}
		if different > 1 {
			t.Errorf("round %d: %d keys are not as they were said to be", round, different)
		}
		j.Close(context.Background())
	}
}

func note(model map[string]string, line string) {
	what, key, ok := strings.Cut(line, " ")
	if !ok {
		return // cut by the kill
	}
	if what == "-" {
		what = "(none)"
	}
	model[key] = what
}
