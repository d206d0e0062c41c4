//go:build linux && amd64

package plugins

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// library compiles the plugin that behaves as it is told.
func library(t *testing.T, name string, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".so")
	args := append([]string{"-shared", "-fPIC", "-O1", "-o", path, "../../internal/falcoplugin/testdata/plugin.c", "-lpthread"}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// told is what the hub says of a source.
type told struct {
	Name            string
	State           string
	Events, Dropped uint64
	Starts          uint64
	LastError       *struct{ Kind, Reason string } `json:"last_error"`
}

// sources returns what the hub says of all of them.
func (s *server) sources(t *testing.T) map[string]told {
	t.Helper()
	var list struct{ Sources []told }
	if err := json.Unmarshal(s.get(t, "/api/v1/plugin-sources"), &list); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]told)
	for _, one := range list.Sources {
		all[one.Name] = one
	}
	return all
}

func (s *server) get(t *testing.T, page string) []byte {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.url+page, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", "t0ken")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("%s: %v\n%s", answer.Status, err, body)
	}
	return body
}

// hosts returns the processes of a hub that have loaded a library.
func hosts(hub string) (all []int) {
	for _, pid := range pids(hub) {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(line), "plugin-host") {
			all = append(all, pid)
		}
	}
	return all
}

// bad is a source that cannot work, and how the hub tells it.
type bad struct {
	library string // "" is the one that can be told what to do
	rest    string // of its element in the configuration
	kind    string // an expression, as the next
	want    string // is in the reason
	events  uint64 // that are stored nevertheless
	dropped uint64
	states  []string // nil: failed
}

// Native plugins that do everything wrong that can be done end their own source, each with a
// message that says what is wrong. A source that works beside them has all its events, the hub
// ends in time, and no process is left.
func TestMisbehaviour(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds programs and takes seconds")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no C compiler")
	}
	hub, _ := build(t)
	plugin := library(t, "testbed")
	text, foreign := filepath.Join(t.TempDir(), "text.so"), filepath.Join(t.TempDir(), "arm.so")
	content, err := os.ReadFile(plugin)
	if err != nil {
		t.Fatal(err)
	}
	arm := slices.Clone(content)
	arm[18] = 183
	for path, b := range map[string][]byte{text: []byte("no library"), foreign: arm} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trace := filepath.Join(t.TempDir(), "trace")
	// Who comes second is refused, so these wait until the good one has come.
	first := filepath.Join(t.TempDir(), "first")
	second := fmt.Sprintf("config: 'init-wait %s', start_timeout: 2m", first)
	const good = 20_000
	all := map[string]bad{
		// Files.
		"text":        {library: text, kind: "start", want: "load the library: .*text.so.*it is no shared library"},
		"arm":         {library: foreign, kind: "start", want: `built for another machine \(aarch64, 64 bit\), and this is amd64`},
		"missing":     {library: "/nowhere/libplugin.so", kind: "start", want: "No such file or directory; give the path of a library"},
		"directory":   {library: t.TempDir(), kind: "start", want: "it is a directory; name the library"},
		"checksum":    {rest: "sha256: " + strings.Repeat("0a", 32), kind: "start", want: "the checksum of the library is not the one that was asked for: it is [0-9a-f]{64}"},
		"constructor": {library: library(t, "constructor", "-DCONSTRUCTOR=*(volatile int *)8 = 1"), kind: "start", want: `the process of the plugin has ended before it was ready \(exit status 2\): SIGSEGV: segmentation violation`},
		// What they say of themselves.
		"newer":     {library: library(t, "newer", `-DAPI_VERSION="3.13.0"`), kind: "start", want: "it requires version 3.13.0 of the plugin API, and this is 3.12.0: the minor version is too new; get a newer Tocsin"},
		"older":     {library: library(t, "older", `-DAPI_VERSION="2.9.0"`), kind: "start", want: "the major versions differ"},
		"version":   {library: library(t, "version", `-DPLUGIN_VERSION="1.0"`), kind: "start", want: `the version of the plugin, "1.0", is not three numbers`},
		"symbol":    {library: library(t, "symbol", "-DNO_DESTROY"), kind: "start", want: "is no Falco plugin: it lacks plugin_destroy"},
		"half":      {library: library(t, "half", "-DNO_NEXT_BATCH"), kind: "start", want: "it has half of event sourcing: plugin_open and plugin_close, but not plugin_next_batch"},
		"nameless":  {library: library(t, "nameless", "-DPLUGIN_NAME=(void*)0"), kind: "start", want: "plugin_get_name returned NULL"},
		"same-id":   {library: library(t, "sameid", `-DPLUGIN_NAME="other"`), rest: second, kind: "refused", want: `the plugin "other" has the id 1073742001, and so has the plugin "testbed": each plugin needs an id of its own; that one is already the plugin of the source`},
		"same-name": {library: library(t, "samename", "-DPLUGIN_ID=1073742002", `-DPLUGIN_SOURCE="other"`), rest: second, kind: "refused", want: `there are two plugins "testbed"`},
		"same-field": {library: library(t, "samefield", "-DPLUGIN_ID=1073742003", `-DPLUGIN_SOURCE="third"`, `-DPLUGIN_NAME="third"`, `-DEXTRACT_SOURCES="[\"test_source\"]"`), rest: second, kind: "refused",
			want: `the plugin "third" extracts the field t.u64 from events that the plugin "testbed" extracts it from, too`},
		"schema": {library: library(t, "schema", "-DPLUGIN_ID=1073742004", `-DPLUGIN_SOURCE="fourth"`, `-DPLUGIN_NAME="fourth"`, `-DSCHEMA="{\"properties\":{\"port\":{\"type\":\"integer\"}}}"`, `-DFIELDS="[{\"name\":\"x.y\",\"type\":\"bool\",\"desc\":\"d\"}]"`),
			rest: "config: {port: secret}", kind: "start", want: "config: it does not fit the schema of the plugin: /port must be integer"},
		// Init and open.
		"init":       {rest: "config: init-fail", kind: "start", want: "plugin testbed: cannot be initialised: told to fail"},
		"init-null":  {rest: "config: init-null", kind: "start", want: "it says that it worked, but it returned NULL"},
		"init-crash": {rest: "config: init-crash", kind: "start", want: "SIGSEGV: segmentation violation"},
		"init-hang":  {rest: "config: init-hang, start_timeout: 3s", kind: "timeout", want: "the plugin cannot be started"},
		"open":       {rest: "open: open-fail", kind: "start", want: "its stream cannot be opened: .*plugin_open: no such stream"},
		// Batches.
		"zero":        {rest: "open: zero", kind: "failure", want: "plugin_next_batch: it says that it worked, but gave no event"},
		"fail":        {rest: "open: fail", kind: "failure", want: "plugin testbed: plugin_next_batch: the stream broke"},
		"at-end":      {rest: "open: fail-at-end;count=10", kind: "failure", want: "broke at the end", events: 10},
		"unsupported": {rest: "open: unsupported", kind: "failure", want: "plugin_next_batch returned not supported and does not say why"},
		"unknown":     {rest: "open: unknown", kind: "failure", want: "the unknown code 42"},
		"null-list":   {rest: "open: null-list", kind: "failure", want: "says that there are 3 events, but gave NULL"},
		"many":        {rest: "open: many", kind: "failure", want: "4294967295 events in a batch are more than"},
		"null-event":  {rest: "open: null-event", kind: "failure", want: "event 3 of 4: it is NULL", events: 2},
		"foreign-id":  {rest: "open: foreign-id", kind: "failure", want: "event 3 of 4: it has the plugin id 12 instead of 1073742001", events: 2},
		"bad-type":    {rest: "open: bad-type", kind: "failure", want: "type 402 with 2 parameters is not type 322 with 2", events: 2},
		"bad-nparams": {rest: "open: bad-nparams", kind: "failure", want: "type 322 with 3 parameters", events: 2},
		"bad-length":  {rest: "open: bad-length", kind: "failure", want: "do not make", events: 2},
		"tiny":        {rest: "open: tiny", kind: "failure", want: "5 bytes are no event of a plugin", events: 2},
		"huge":        {rest: `open: "count;count=3;size=2000000;batch=1", max_event: 1MiB`, dropped: 3, states: []string{"ended"}},
		"large":       {rest: `open: "count;count=2;size=20971400;batch=1"`, events: 2, states: []string{"ended"}}, // right below 20 MiB, the default
		"crash":       {rest: "open: crash", kind: "failure|start", want: `the process of the plugin has ended \(exit status 2\); it wrote: SIGSEGV: segmentation violation`},
		"exit":        {rest: "open: exit", kind: "failure|start", want: `the process of the plugin has ended \(exit status 3\)`},
		"hang":        {rest: "open: hang, call_timeout: 5s", kind: "timeout", want: "it has not answered for 5s when it was asked for its (metrics|progress)"},
		"close-hang":  {rest: "open: close-hang;count=5", kind: "failure", want: "the process ends, since the library does not: plugin testbed: plugin_close has not returned", events: 5},
		"memory":      {rest: `open: "count;count=1;size=200000000;batch=1", max_memory: 100MiB, max_event: 256MiB`, kind: "failure|start", want: "it was ended because it used too much memory|the process of the plugin has ended"},
		"stderr":      {rest: "open: flood;count=10", events: 10, states: []string{"ended"}},
	}
	var config strings.Builder
	dir := t.TempDir()
	data, token, file := filepath.Join(dir, "data"), filepath.Join(dir, "token"), filepath.Join(dir, "tocsin.yaml")
	fmt.Fprintf(&config, "listen: {address: \"127.0.0.1:0\"}\ndata_dir: %s\nauth: {root_token: {file: %s}}\nplugins:\n  sources:\n", data, token)
	fmt.Fprintf(&config, "    - {name: good, library: %s, open: \"stay;count=%d;batch=100\", restart: never, env: {TESTBED_TRACE: %s}}\n", plugin, good, trace)
	for name, one := range all {
		path, rest := one.library, one.rest
		if path == "" {
			path = plugin
		}
		if rest != "" {
			rest = ", " + rest
		}
		fmt.Fprintf(&config, "    - {name: %s, library: %s, restart: never%s}\n", name, path, rest)
	}
	for path, text := range map[string]string{token: "t0ken\n", file: config.String()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, hub, file, t.TempDir())

	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		now := s.sources(t)
		var missing []string
		for name, one := range all {
			states := one.states
			if states == nil {
				states = []string{"failed"}
			}
			if got := now[name]; !slices.Contains(states, got.State) || got.Events < one.events || got.Dropped < one.dropped {
				missing = append(missing, fmt.Sprintf("%s: %+v %+v", name, got, got.LastError))
			}
		}
		if now["good"].State == "running" {
			if err := os.WriteFile(first, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if now["good"].Events < good {
			missing = append(missing, fmt.Sprintf("good: %+v", now["good"]))
		}
		if len(missing) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not in time: %s\n%s", strings.Join(missing, "\n"), s.log)
		}
	}
	now := s.sources(t)
	for name, one := range all {
		got := now[name]
		starts := got.Starts
		if got.State == "ended" && starts > 0 {
			starts = 1 // who extracts fields goes on with that only, in another process
		}
		switch {
		case got.Events != one.events || got.Dropped != one.dropped || starts != 1 || got.Starts > 2:
			t.Errorf("%s: %+v", name, got)
		case one.want == "":
		case got.LastError == nil || !regexp.MustCompile("^("+one.kind+")$").MatchString(got.LastError.Kind) || !regexp.MustCompile(one.want).MatchString(got.LastError.Reason):
			t.Errorf("%s: %+v, want %s: %s", name, got.LastError, one.kind, one.want)
		case !strings.Contains(s.log.String(), "source="+name+" "):
			t.Errorf("%s is not in the log", name)
		}
		if got.LastError != nil && strings.Contains(got.LastError.Reason, "secret") {
			t.Errorf("%s: %s", name, got.LastError.Reason)
		}
	}
	if got := now["good"]; got.State != "running" || got.Events != good || got.Starts != 1 {
		t.Errorf("%+v", got)
	}
	if health := string(s.get(t, "/api/v1/health")); !strings.Contains(health, `"degraded"`) || !strings.Contains(health, "source crash") {
		t.Error(health)
	}

	// It ends in good order: what works is closed and destroyed, and nothing is left.
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		t.Fatalf("the hub does not end\n%s", s.log)
	}
	if code := s.command.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d\n%s", code, s.log)
	}
	await(t, "no process is left", s.log, func() bool { return len(hosts(hub)) == 0 })
	if b, err := os.ReadFile(trace); err != nil || strings.Join(strings.Fields(string(b)), " ") != "init open close destroy" {
		t.Errorf("%q %v", b, err)
	}
	j, err := journal.Open(t.Context(), journal.Config{Dir: data, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(context.Background())
	counts, at := map[string]uint64{}, journal.Position{}
	for end, r := j.End(), j.Read(journal.Position{}); at.Compare(end) < 0; {
		b, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			e := b.Event(i)
			if !strings.HasPrefix(e.Type, "falco/") {
				continue
			}
			name := strings.TrimPrefix(e.Source, "plugin://")
			counts[name]++
			if size, _ := e.Metadata.Get("size"); name == "large" && (e.DataRef == "" || fmt.Sprint(size.Value) != "20971400") {
				t.Errorf("a large event: %q %+v", e.DataRef, e.Metadata)
			}
		}
		at = b.End()
	}
	if counts["good"] != good || counts["at-end"] != 10 || counts["foreign-id"] != 2 || counts["large"] != 2 {
		t.Error(counts)
	}
}

// Ctrl-C ends "tocsin plugin run", with what was captured, and leaves no process, whatever the
// library does.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds programs and takes seconds")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no C compiler")
	}
	program, _ := build(t)
	plugin := library(t, "testbed")
	for params, events := range map[string]int{"stay;count=3": 3, "idle": 0, "hang": 0, "stubborn": 0, "close-hang;count=3": 3} {
		t.Run(params, func(t *testing.T) {
			t.Parallel()
			trace, capture := filepath.Join(t.TempDir(), "trace"), filepath.Join(t.TempDir(), "c.scap")
			command := exec.Command(program, "plugin", "run", plugin, "--open", params, "--capture", capture, "--env", "TESTBED_TRACE="+trace)
			out, log := new(safeBuffer), new(safeBuffer)
			command.Stdout, command.Stderr = out, log
			command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell does it
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = command.Wait()
			}()
			defer func() {
				_ = command.Process.Kill()
				<-ended
			}()
			await(t, "it is open", log, func() bool {
				b, err := os.ReadFile(trace)
				return err == nil && strings.Contains(string(b), "open") && strings.Count(out.String(), "\n") == events
			})
			if err := syscall.Kill(-command.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(time.Minute):
				t.Fatalf("it does not end\n%s", log)
			}
			if code := command.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit %d\n%s", code, log)
			}
			await(t, "no process is left", log, func() bool { return len(hosts(program)) == 0 })
			if b, err := os.ReadFile(capture); (err == nil) != (events > 0) || events > 0 && (!strings.HasPrefix(string(b), "\x0a\x0d\x0d\x0a") || !strings.Contains(log.String(), "3 events.")) {
				t.Errorf("%v %d bytes\n%s", err, len(b), log)
			}
		})
	}
}
