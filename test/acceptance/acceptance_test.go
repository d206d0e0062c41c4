// Package acceptance runs stories with the real program: each file in
// testdata/script is what a user types and sees.
package acceptance

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var programDir string // where the built program is

func TestMain(m *testing.M) {
	// Whoever runs the tests may have SIGHUP ignored, as nohup does. A signal that
	// is caught here has its default action again in the programs that are started.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tocsin-acceptance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "tocsin"), "../../cmd/tocsin")
	// It is made without cgo. What go test has compiled for other tests may have it, and all
	// is compiled twice then, for which only those who run all tests have the time.
	if os.Getenv("TOCSIN_TESTS") == "all" {
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		return 1
	}
	programDir = dir
	// They wait for programs most of the time.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func TestStories(t *testing.T) {
	t.Parallel()
	receivers := receivers{all: make(map[string]*receiver)}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("TOCSIN_UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", programDir+string(filepath.ListSeparator)+os.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "cache"))
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			e.Setenv("TMPDIR", filepath.Join(e.WorkDir, "tmp"))
			audit, err := filepath.Abs("testdata/audit.jsonl")
			e.Setenv("AUDIT", audit)
			flipt, fliptErr := filepath.Abs("../../internal/fliptevent/testdata/log.jsonl")
			e.Setenv("FLIPT", flipt)
			scap, scapErr := filepath.Abs("../../internal/capture/testdata/falco-real.scap")
			e.Setenv("SCAP", scap)
			policies, policiesErr := filepath.Abs("../../docs/policies")
			e.Setenv("POLICIES", policies)
			return errors.Join(err, fliptErr, scapErr, policiesErr, os.Mkdir(filepath.Join(e.WorkDir, "tmp"), 0o755))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":      await,
			"awaitlines": awaitLines,
			"awaitpage":  awaitPage,
			"readenv":    readEnv,
			"freeport":   freePort,
			"http":       request,
			"post":       post,
			"lines":      lines,
			"exits":      exits,
			"certs":      certificates,
			"receive":    receivers.receive,
			"answers":    receivers.answers,
			"until":      until,
		},
	})
}

// patience is how long a story waits for something that should happen soon.
const patience = time.Minute

// await FILE [TEXT] waits until a file exists and contains the text.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: await FILE [TEXT]")
	}
	path, text := ts.MkAbs(args[0]), strings.Join(args[1:], "")
	var got []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var err error
		if got, err = os.ReadFile(path); err == nil && strings.Contains(string(got), text) {
			return
		}
	}
	ts.Fatalf("%s does not contain %q after %v:\n%s", args[0], text, patience, got)
}

// awaitlines COUNT FILE waits until a file exists and has at least that many lines.
func awaitLines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: awaitlines COUNT FILE")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	path := ts.MkAbs(args[1])
	var got []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var err error
		if got, err = os.ReadFile(path); err == nil && bytes.Count(got, []byte("\n")) >= want {
			return
		}
	}
	ts.Fatalf("%s has %d lines after %v, want %d:\n%s", args[1], bytes.Count(got, []byte("\n")), patience, want, got)
}

// awaitpage URL TEXT waits until a page contains the text.
func awaitPage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: awaitpage URL TEXT")
	}
	var got []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		response, err := http.Get(args[0])
		ts.Check(err)
		got, err = io.ReadAll(response.Body)
		ts.Check(errors.Join(err, response.Body.Close()))
		if strings.Contains(string(got), args[1]) {
			return
		}
	}
	ts.Fatalf("%s does not contain %q after %v:\n%s", args[0], args[1], patience, got)
}

// readenv NAME FILE sets a variable to the content of a file.
func readEnv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: readenv NAME FILE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// freeport NAME sets a variable to a port that nobody listens on.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], port)
}

// http STATUS URL [HEADER: VALUE]... makes a GET request, checks the status, and
// prints the body.
func request(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: http STATUS URL [HEADER: VALUE]...")
	}
	exchange(ts, http.MethodGet, args[0], args[1], nil, args[2:])
}

// post STATUS URL FILE [HEADER: VALUE]... makes a POST request with the content of a file,
// checks the status, and prints the body.
func post(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: post STATUS URL FILE [HEADER: VALUE]...")
	}
	exchange(ts, http.MethodPost, args[0], args[1], strings.NewReader(ts.ReadFile(args[2])), args[3:])
}

func exchange(ts *testscript.TestScript, method, status, url string, content io.Reader, headers []string) {
	r, err := http.NewRequest(method, url, content)
	ts.Check(err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		r.Header.Set(name, strings.TrimSpace(value))
	}
	response, err := (&http.Client{Timeout: patience}).Do(r)
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	ts.Stdout().Write(body)
	if got := fmt.Sprint(response.StatusCode); got != status {
		ts.Fatalf("status %s, want %s: %s", got, status, body)
	}
}

// lines COUNT FILE checks the number of lines.
func lines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lines COUNT FILE")
	}
	if got := fmt.Sprint(strings.Count(ts.ReadFile(args[1]), "\n")); got != args[0] {
		ts.Fatalf("%s has %s lines, want %s", args[1], got, args[0])
	}
}

// exits CODE PROGRAM ARG... runs a program and checks its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if got := fmt.Sprint(code); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}
