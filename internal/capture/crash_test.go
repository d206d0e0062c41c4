package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// childEnv names the file that a child process writes until it is killed.
const childEnv = "TOCSIN_TEST_CAPTURE_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		fmt.Fprintln(os.Stderr, child(name))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child writes events with their number as payload, and tells how many it has flushed.
func child(name string) error {
	signal.Ignore(syscall.SIGXFSZ) // a file that gets too large is an error of the write
	w, err := Create(name, false, WriterOptions{Gzip: strings.HasSuffix(name, ".gz")})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		payload := append(binary.LittleEndian.AppendUint64(nil, uint64(i)), bytes.Repeat([]byte{'x'}, i%3000)...)
		if err := w.Write(scapevent.Append(nil, 1, uint64(i), payload)); err != nil {
			return err
		}
		if i%100 == 99 {
			if err := w.Flush(); err != nil {
				return err
			}
			if _, err := fmt.Println(i + 1); err != nil {
				return err
			}
		}
	}
}

// What a process had flushed when it was killed is there, in order, and nothing that it did not
// write.
func TestKill(t *testing.T) {
	for round := range 6 {
		name := filepath.Join(t.TempDir(), "c.scap")
		if round%2 == 1 {
			name += ".gz"
		}
		process := exec.Command(os.Args[0])
		process.Env = append(os.Environ(), childEnv+"="+name)
		out, err := process.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		flushed := 0
		lines := bufio.NewScanner(out)
		for flushed < 300*(round+1) && lines.Scan() {
			if flushed, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
		}
		if err := process.Process.Kill(); err != nil {
			t.Error(err)
		}
		for lines.Scan() { // what it told before the kill came
			if n, err := strconv.Atoi(lines.Text()); err == nil && n%100 == 0 {
				flushed = n
			}
		}
		_ = process.Wait()
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := NewReader(f, ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for ; ; n++ {
			e, err := r.Next()
			if err != nil {
				// The system may have cut the last write short.
				if !errors.Is(err, io.EOF) && !errors.Is(err, ErrTruncated) {
					t.Error(err)
				}
				break
			}
			if data := e.Data(); len(data) != 8+n%3000 || binary.LittleEndian.Uint64(data) != uint64(n) {
				t.Fatalf("event %d has another payload", n)
			}
		}
		f.Close()
		if flushed == 0 || n < flushed {
			t.Errorf("%d events are there of %d", n, flushed)
		}
	}
}
