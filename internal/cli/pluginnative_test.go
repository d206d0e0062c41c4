//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/capture"
)

// The test is its own child: as "tocsin plugin-host", which loads libraries.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "plugin-host" {
		os.Exit(Run(context.Background(), os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	os.Exit(m.Run())
}

// nativePlugin compiles the plugin that behaves as it is told.
func nativePlugin(t testing.TB, options ...string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no C compiler")
	}
	path := filepath.Join(t.TempDir(), "plugin.so")
	args := append([]string{"-shared", "-fPIC", "-O1", "-o", path, "../falcoplugin/testdata/plugin.c", "-lpthread"}, options...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

func TestInspectNative(t *testing.T) {
	file := nativePlugin(t)
	code, stdout, stderr := run(t, "plugin", "inspect", file)
	for _, want := range []string{
		"name           testbed\n", "required API   3.12.0 (of Falco's plugin API)\n", "id             1073742001\n", "event source   test_source\n",
		"capabilities   source, extract, open-params, strings, progress, metrics, set-config\n",
		"t.key[KEY]          string          key\n", "t.nums[INDEX]?      list of uint64  numbers\n", "t.str               string          payload (info)\n",
		"count;count=5             five events\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if code != exitOK || stderr != "" || t.Failed() {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run(t, "plugin", "inspect", "-o", "json", file)
	var got inspected
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK || got.Name != "testbed" || got.ID != 1073742001 || len(got.OpenParams) != 2 ||
		got.Fields[10].Usage != "t.key[KEY]" || !got.Fields[10].Argument.Required || !got.Fields[9].List || got.Fields[9].Type != "uint64" {
		t.Errorf("exit %d %v\n%s%s", code, err, stdout, stderr)
	}
}

func TestRunNative(t *testing.T) {
	file := nativePlugin(t)
	code, stdout, stderr := run(t, "plugin", "run", file, "--open", "count;count=3;size=2", "--field", "t.u64", "--field", "t.key[a b]")
	if code != exitUsage || !strings.Contains(stderr, "must be in quotes") || stdout != "" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run(t, "plugin", "run", file, "--open", "count;count=3;size=2", "--count", "2", "--field", "t.u64", "--field", "t.none", "--field", `t.strs`)
	want := `1 1970-01-01T00:00:00.000000001Z test_source test_source #1: aa  t.u64=2  t.none=<NA>  t.strs=(`
	if code != exitOK || !strings.HasPrefix(stdout, want) || strings.Count(stdout, "\n") != 2 || stderr != "" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run(t, "plugin", "run", file, "--open", "count;count=1;size=2", "-o", "json", "--field", "t.u64", "--field", "t.none", "--field", "t.bool", "--field", "t.ip4", "--metrics")
	var line struct {
		Data   string
		Plugin string
		Fields map[string]any
	}
	if err := json.Unmarshal([]byte(stdout), &line); err != nil || code != exitOK || line.Data != "aa" || line.Plugin != "testbed" || line.Fields["t.u64"] != 2.0 || line.Fields["t.none"] != nil || !strings.Contains(stderr, "(counter)") {
		t.Errorf("exit %d %v\n%s%s", code, err, stdout, stderr)
	}
	for params, want := range map[string]string{
		"fail-at-end;count=2": "broke at the end",
		"crash":               "the process of the plugin has ended",
	} {
		code, stdout, stderr := run(t, "plugin", "run", file, "--open", params)
		if code != exitError || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d\n%s%s", params, code, stdout, stderr)
		}
	}
	for _, command := range []string{"run", "inspect"} {
		if code, _, stderr := run(t, "plugin", command, file, "--", "-v"); code != exitUsage || !strings.Contains(stderr, `a library takes no arguments, such as "-v"; --config is for its config`) {
			t.Errorf("%s: exit %d\n%s", command, code, stderr)
		}
	}
	nowhere := filepath.Join(t.TempDir(), "not", "a.scap")
	if code, _, stderr := run(t, "plugin", "run", file, "--open", "count", "--capture", nowhere); code != exitError || !strings.Contains(stderr, "create the capture "+nowhere+": ") || !strings.Contains(stderr, "Give a name in a directory that is there") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	bad := filepath.Join(t.TempDir(), "bad.so")
	if err := os.WriteFile(bad, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, "plugin", "run", bad); code != exitError || !strings.Contains(stderr, "plugin bad.so: ") || !strings.Contains(stderr, ": load the library") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
}

// stoppedNative runs a plugin that gives five events and waits, and stops it by Ctrl-C.
func stoppedNative(t *testing.T, scap string, args ...string) (code int, said string) {
	t.Helper()
	file := nativePlugin(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	lines, out := io.Pipe()
	var stderr strings.Builder
	done := make(chan int, 1)
	go func() {
		args := append([]string{"plugin", "run", file, "--open", "stay;count=5", "--capture", scap}, args...)
		code := Run(ctx, args, Streams{In: strings.NewReader(""), Out: out, Err: &stderr})
		out.Close()
		done <- code
	}()
	buf := make([]byte, 64<<10)
	n := 0
	for n < 5 {
		m, err := lines.Read(buf)
		if err != nil {
			t.Fatal(err, stderr.String())
		}
		n += strings.Count(string(buf[:m]), "\n")
	}
	stop()
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	select {
	case code = <-done:
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	return code, stderr.String()
}

// Ctrl-C ends it in good order, with what was captured.
func TestStopNative(t *testing.T) {
	scap := filepath.Join(t.TempDir(), "a.scap")
	if code, stderr := stoppedNative(t, scap); code != exitOK || !strings.Contains(stderr, "5 events.") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	f, err := os.Open(scap)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capture.NewReader(f, capture.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, io.EOF) || r.Stats().Events != 5 {
		t.Error(r.Stats(), err)
	}
}

// A capture that the disk does not take is a failure, told of once, however the run ends.
func TestFullNative(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	if code, stderr := stoppedNative(t, "/dev/full", "--force"); code != exitError || strings.Count(stderr, "no space left") != 1 {
		t.Errorf("stopped: exit %d\n%s", code, stderr)
	}
	for _, params := range []string{"count;count=2", "count;count=400;size=2000"} {
		code, _, stderr := run(t, "plugin", "run", nativePlugin(t), "--open", params, "--capture", "/dev/full", "--force")
		if code != exitError || strings.Count(stderr, "no space left") != 1 {
			t.Errorf("%s: exit %d\n%s", params, code, stderr)
		}
	}
	if code, _, stderr := run(t, "plugin", "run", nativePlugin(t), "--capture", "-"); code != exitUsage || !strings.Contains(stderr, "--capture takes a file") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
}

// Fields of a plugin are among those that rules may ask for.
func TestRulesFieldsOfPlugin(t *testing.T) {
	file := nativePlugin(t)
	code, stdout, stderr := run(t, "rules", "fields", "--plugin", file, "--source", "test_source")
	if code != exitOK || stderr != "" || !strings.Contains(stdout, "t.key[KEY] ") || !strings.Contains(stdout, "(testbed) key\n") || strings.Contains(stdout, "audit.type") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if code, stdout, _ := run(t, "rules", "fields", "--plugin", file, "--source", "other"); code != exitOK || strings.Contains(stdout, "testbed") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}
