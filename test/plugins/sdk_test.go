//go:build linux && amd64

package plugins

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/plugin"
	"github.com/tocsin-events/tocsin/plugin/plugintest"
	"github.com/tocsin-events/tocsin/test/plugins/testdata/native/everything"
)

var programs struct {
	sync.Mutex
	dir   string
	built map[string]string
}

func TestMain(m *testing.M) {
	if os.Getenv("TOCSIN_TESTS") != "all" && !pluginwire.Hosted() { // plugins do not have the variable
		fmt.Println("skipped, because it builds many programs and takes a minute: TOCSIN_TESTS=all runs it, and .ci/run does")
		return
	}
	dir, err := os.MkdirTemp("", "plugins")
	if err != nil {
		panic(err)
	}
	programs.dir, programs.built = dir, map[string]string{}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// buildGo builds a Go program, or a library of one, once for all tests.
func buildGo(t testing.TB, from string, cgo bool, flags ...string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	key := fmt.Sprint(from, flags)
	if path, ok := programs.built[key]; ok {
		return path
	}
	path := filepath.Join(programs.dir, fmt.Sprintf("program%d", len(programs.built)))
	if cgo {
		path += ".so"
	}
	command := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), from)...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if cgo {
		if _, err := exec.LookPath("gcc"); err != nil {
			t.Skip("there is no C compiler")
		}
		command.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", from, err, out)
	}
	programs.built[key] = path
	return path
}

// hubProgram returns the program of the hub.
func hubProgram(t testing.TB) string { return buildGo(t, "../../cmd/tocsin", false) }

// shared returns a Go program as a shared library.
func shared(t testing.TB, from string, flags ...string) string {
	return buildGo(t, from, true, append([]string{"-buildmode=c-shared"}, flags...)...)
}

const nativeEverything = "./testdata/native"

var everythingOptions = plugintest.Options{
	Config: `{"prefix":"<"}`, BadConfigs: []string{`{"prefix":1}`, `{"x":1}`, `{"fail":"init"}`},
	Params: `{"count":1000,"note":300,"size":40}`, BadParams: []string{`{"count":-1}`, `[]`, `{"count":1e15}`},
	Events: 1003,
	Check: func(t testing.TB, events []plugin.Event) {
		notes := 0
		for i, e := range events {
			want := fmt.Sprintf("%-40d", i+1-notes)
			if e.Name == "note" {
				notes++
				want = fmt.Sprint(300 * notes)
			}
			if string(e.Data) != want {
				t.Errorf("event %d is %q instead of %q", i+1, e.Data, want)
				return
			}
		}
	},
	Values: map[string][]string{
		"e.n": {"1", "2"}, "e.even": {"false", "true"}, "e.time": {"1970-01-01T00:00:01.000000005Z"}, "e.since": {"1s", "2s"},
		"e.addr": {"10.0.0.1", "10.0.0.2"}, "e.net": {"fd00::1/128"}, "e.addrs": {"(fd00::1,10.0.0.1,fd00::1)"},
		"e.digits": {"(1)", "(2)"}, "e.digits[0]": {"(1)"}, "e.digits[1]": {"<NA>"}, "e.divides": {"(true,false,false)", "(true,true,false)"},
		"e.divides[2]": {"(false)", "(true)"}, "e.numbers": {"(0)", "(0,1)"}, "e.none": {"<NA>"}, "e.of": {"@everything"},
		`e.bad["ä b"]`: {"ä b"},
	},
	Feed: []plugin.Event{{Data: []byte("7")}, {Data: []byte("none")}, {Data: []byte("1999")}},
}

// A plugin of the SDK passes the same checks in the process, as a process, and as a library.
func TestEverything(t *testing.T) {
	t.Run("native", func(t *testing.T) {
		if testing.Short() {
			t.Skip("builds programs and takes seconds")
		}
		program := plugintest.Program{Command: hubProgram(t), Args: []string{"plugin-host", shared(t, nativeEverything)}}
		plugintest.RunProgram(t, program, everythingOptions)
	})
	t.Run("portable", func(t *testing.T) { plugintest.Run(t, everything.New(), everythingOptions) })
}

// cHost compiles the host in C.
func cHost(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "host")
	if out, err := exec.Command("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", path, "testdata/host.c", "-lpthread", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// A host that knows nothing of ours gets what the API says, from eight threads at once, while
// garbage is collected all the time.
func TestHostInC(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and takes seconds")
	}
	full := shared(t, nativeEverything, "-ldflags=-X main.api=3.11.0")
	host := cHost(t)
	for name, tc := range map[string]struct {
		config, params, rounds string
		want                   []string
		times                  int // that the first is there
	}{
		"events":           {`{"prefix":"<"}`, `{"count":200,"note":70}`, "3", []string{"200 events\n", "\n48 notes, logged\n", "API 3.11.0\n"}, 24},
		"many rounds":      {`{"prefix":"<"}`, `{"count":3}`, "40", []string{"3 events\n"}, 320},
		"nothing comes":    {`{"prefix":"<"}`, `{"count":20,"end":"stay"}`, "1", []string{"20 events\n"}, 8},
		"init fails":       {`{"fail":"init"}`, "", "3", []string{"told to fail: ää"}, 8},
		"init panics":      {`{"fail":"panic"}`, "", "3", []string{"panic in New: told to panic\n"}, 8},
		"large events":     {`{"prefix":"<"}`, `{"count":100,"size":60000}`, "1", []string{"100 events\n"}, 8},
		"no events at all": {`{"prefix":"<"}`, `{"count":0}`, "2", []string{"0 events\n"}, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			command := exec.CommandContext(ctx, host, full, tc.config, tc.params, "8", tc.rounds)
			command.Env = append(os.Environ(), "GOGC=1", "GODEBUG=cgocheck=1,invalidptr=1")
			var errs bytes.Buffer
			command.Stderr = &errs
			out, err := command.Output()
			if err != nil {
				t.Fatalf("%v\n%s\n%.2000s", err, out, &errs)
			}
			for _, want := range tc.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
			if n := strings.Count(string(out), tc.want[0]); n != tc.times {
				t.Errorf("%q is there %d times instead of %d", tc.want[0], n, tc.times)
			}
		})
	}
}

// Functions that the plugin needs and the library lacks are told, and so is a version that is none.
func TestHalf(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and takes seconds")
	}
	out, err := exec.Command(hubProgram(t), "plugin", "run", shared(t, nativeEverything+"/half"), "--open", `{"count":1}`).CombinedOutput()
	for _, want := range []string{"does not import plugin/native/async,", "does not import plugin/native/setconfig,", "does not import plugin/native/progress,", `Options.API is "3"; it must be a version 3.x.y`} {
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %s", err, out)
		}
	}
}
