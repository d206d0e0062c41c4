package acceptance

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// receivers are the HTTP servers of a story, by their names.
type receivers struct {
	mu  sync.Mutex
	all map[string]*receiver
}

// receiver is an HTTP server that answers as it is told, and writes a line for each request
// into a file: the status, the method, the path, the headers that were asked for, the body.
type receiver struct {
	server *httptest.Server
	mu     sync.Mutex
	file   string
	logged []string
	status int
	body   string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	line := []string{strconv.Itoa(r.status), request.Method, request.URL.Path}
	for _, name := range r.logged {
		line = append(line, request.Header.Get(name))
	}
	line = append(line, strings.Join(strings.Fields(string(body)), " "))
	f, err := os.OpenFile(r.file, os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, strings.Join(line, " "))
		f.Close()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(r.status)
	io.WriteString(w, r.body)
}

// receive NAME [HEADER]... starts a receiver. The variable NAME is its URL; its requests are
// in the file NAME.requests.
func (all *receivers) receive(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: receive NAME [HEADER]...")
	}
	r := &receiver{file: ts.MkAbs(args[0] + ".requests"), logged: args[1:], status: http.StatusOK}
	ts.Check(os.WriteFile(r.file, nil, 0o600))
	r.server = httptest.NewServer(r)
	ts.Defer(r.server.Close)
	ts.Setenv(args[0], r.server.URL)
	all.mu.Lock()
	defer all.mu.Unlock()
	all.all[ts.Getenv("WORK")+args[0]] = r
}

// answers NAME STATUS [BODY] is what a receiver answers from now on.
func (all *receivers) answers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: answers NAME STATUS [BODY]")
	}
	all.mu.Lock()
	r := all.all[ts.Getenv("WORK")+args[0]]
	all.mu.Unlock()
	if r == nil {
		ts.Fatalf("there is no receiver %s", args[0])
	}
	status, err := strconv.Atoi(args[1])
	ts.Check(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status, r.body = status, strings.Join(args[2:], "")
}

// until TEXT PROGRAM ARG... runs a program again and again until it prints the text.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until TEXT PROGRAM ARG...")
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if got := ts.ReadFile("stdout"); strings.Contains(got, args[0]) {
			return
		} else if time.Now().After(deadline) {
			ts.Fatalf("%s does not print %q after %v: %v\n%s%s", args[1], args[0], patience, err, got, ts.ReadFile("stderr"))
		}
	}
}
