//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// libraries are those that were built, each once, for the children too.
var libraries struct {
	sync.Mutex
	dir string
}

// librariesVariable is the environment variable that tells children where the libraries are.
const librariesVariable = "TOCSIN_FALCOPLUGIN_LIBRARIES"

func TestMain(m *testing.M) {
	libraries.dir = os.Getenv(librariesVariable)
	if libraries.dir != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "falcoplugin")
	if err != nil {
		panic(err)
	}
	libraries.dir = dir
	os.Setenv(librariesVariable, dir)
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Println(err)
		code = 1
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// build builds the test plugin with flags of the C compiler.
func build(t testing.TB, flags ...string) string {
	t.Helper()
	return buildWith(t, strings.Join(flags, " "), func(out string) *exec.Cmd {
		args := append([]string{"-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"}, flags...)
		return exec.Command("gcc", append(args, "-o", out, "testdata/plugin.c", "-lpthread")...)
	})
}

// buildGo builds the plugin in Go.
func buildGo(t testing.TB, flags ...string) string {
	t.Helper()
	return buildWith(t, "go "+strings.Join(flags, " "), func(out string) *exec.Cmd {
		cmd := exec.Command("go", append(append([]string{"build", "-buildmode=c-shared"}, flags...), "-o", out, ".")...)
		cmd.Dir = "testdata/goplugin"
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=")
		return cmd
	})
}

func buildWith(t testing.TB, key string, command func(out string) *exec.Cmd) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no C compiler")
	}
	libraries.Lock()
	defer libraries.Unlock()
	path := filepath.Join(libraries.dir, fmt.Sprintf("plugin%x.so", sha256.Sum256([]byte(key))))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	whole := fmt.Sprintf("%s.%d", path, os.Getpid())
	if out, err := command(whole).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Rename(whole, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB, flags ...string) *Library {
	t.Helper()
	l, err := Load(build(t, flags...))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// start initialises the test plugin and closes it at the end.
func start(t testing.TB, config string, flags ...string) *Plugin {
	t.Helper()
	return initPlugin(t, load(t, flags...), config)
}

func initPlugin(t testing.TB, l *Library, config string) *Plugin {
	t.Helper()
	p, err := l.Init(t.Context(), config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p.(*Plugin)
}

func open(t testing.TB, p *Plugin, o sourceplugin.Open) sourceplugin.Stream {
	t.Helper()
	s, err := p.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// got is what a stream gave until it ended.
type got struct {
	events  []scapevent.Event
	dropped int
	reason  string
	err     error
}

// readAll reads a stream to its end, or until it has given enough events.
func readAll(t testing.TB, s sourceplugin.Stream, enough int) got {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var g got
	var b sourceplugin.Batch
	for g.err == nil && (enough == 0 || len(g.events) < enough) {
		g.err = s.Next(ctx, &b)
		rest := bytes.Clone(b.Events)
		for range b.Count {
			var e scapevent.Event
			var err error
			if e, rest, err = scapevent.Next(rest); err != nil {
				t.Fatal(err)
			}
			g.events = append(g.events, e)
		}
		if len(rest) > 0 {
			t.Fatalf("%d bytes behind the events", len(rest))
		}
		g.dropped += b.Dropped
		if b.DroppedReason != "" {
			g.reason = b.DroppedReason
		}
	}
	return g
}

// read opens a stream, reads it to its end and closes it.
func read(t testing.TB, p *Plugin, params string, limit int) got {
	t.Helper()
	s := open(t, p, sourceplugin.Open{Params: params, MaxEventBytes: limit})
	g := readAll(t, s, 0)
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	return g
}

const childVariable = "TOCSIN_FALCOPLUGIN_CHILD"

// inChild runs the rest of a test in a process of its own and returns true there. In the test
// itself it returns false and what the process wrote, with the error of its end.
func inChild(t *testing.T) (child bool, output string, err error) {
	t.Helper()
	return inChildFor(t, time.Minute)
}

func inChildFor(t *testing.T, limit time.Duration) (child bool, output string, err error) {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		return true, "", nil
	}
	if os.Getenv(childVariable) != "" {
		t.SkipNow()
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	run := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", run, "-test.v", "-test.timeout", "0")
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name())
	out, err := cmd.CombinedOutput()
	return false, string(out), err
}

func wantError(t testing.TB, err error, want string) {
	t.Helper()
	switch {
	case err == nil && want != "":
		t.Errorf("no error instead of %q", want)
	case err != nil && want == "":
		t.Errorf("error %q", err)
	case err != nil && !strings.Contains(err.Error(), want):
		t.Errorf("error %q instead of %q", err, want)
	}
}

func wantEOF(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, io.EOF) {
		t.Errorf("error %v instead of the end", err)
	}
}
