package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Some tests need another process, which is this program with childEnv.
const childEnv = "TOCSIN_CLIENT_TEST_CHILD"

// runChild is what the program does as a child; false if it is none.
func runChild() bool {
	switch os.Getenv(childEnv) {
	case "hub":
		hubChild()
	case "spool":
		spoolChild()
	default:
		return false
	}
	return true
}

// child starts this program as a child, and returns it with its standard output.
func child(t testing.TB, what string, env ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childEnv+"="+what), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // a child ends when its standard input does
		in.Close()
		cmd.Wait()
	})
	return cmd, bufio.NewReader(out)
}

// startHub starts a publishHub that keeps nothing in a process of its own.
func startHub(t testing.TB) (address string) {
	t.Helper()
	_, out := child(t, "hub")
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func hubChild() {
	h := &publishHub{store: newStore(), maxBody: 64 << 20}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.publish(w, r)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.events = nil
		clear(h.known)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	defer server.Close()
	fmt.Println(server.URL)
	io.Copy(io.Discard, os.Stdin)
}

// spoolChild sends events without end, and prints the number of those of which it knows
// that they are safe.
func spoolChild() {
	ctx := context.Background()
	p, err := newPublisher(PublisherOptions{
		Address: os.Getenv("HUB"), Spool: &Spool{Dir: os.Getenv("SPOOL"), MaxBytes: 1 << 30}, MaxBatchEvents: 20,
	}, quickPublish)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for n := 0; ; n++ {
		e := numbered(n)
		e.ID = os.Getenv("ROUND") + "-" + e.ID
		if err := p.SendEvent(ctx, e); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if n%50 == 49 {
			if err := p.Sync(ctx); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Println(n + 1)
		}
	}
}
