//go:build linux && amd64

package plugins

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

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
