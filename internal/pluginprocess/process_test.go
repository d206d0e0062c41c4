//go:build unix

package pluginprocess_test

import (
	"bufio"
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
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/internal/cli"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const (
	roleVariable = "TOCSIN_TEST_PROCESS"
	toyID        = 1_073_742_100
)

// The test is its own child: a toy, or "tocsin plugin-host".
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	if len(os.Args) > 1 && os.Args[1] == "plugin-host" {
		os.Exit(cli.Run(context.Background(), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	goleak.VerifyTestMain(m)
}

// play is what the test does as a child.
func play(role string) int {
	switch role {
	case "toy":
		return pluginwire.Main(pluginwire.Offer{Description: toyDescription(), Init: newToy})
	case "host": // of a toy, whose pid it tells
		p, err := pluginprocess.Launch(context.Background(), toyOptions(), `{"size":1}`)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(p.PID())
		select {}
	}
	return 0
}

func toyDescription() *sourceplugin.Description {
	return &sourceplugin.Description{
		Name: "toy", Version: "1.0.0", ID: toyID, EventSource: "toy",
		ConfigSchema: `{"type":"object","properties":{"size":{"type":"integer","minimum":1},"token":{"type":"string","maxLength":3}},"additionalProperties":false}`,
		Capabilities: sourceplugin.Capabilities{Source: true, Metrics: true, Resume: true, SetConfig: true, Strings: true},
	}
}

// toy does as its stream is told.
type toy struct{ config string }

func newToy(_ context.Context, config string) (sourceplugin.Plugin, error) {
	fmt.Println("printed")
	fmt.Fprintln(os.Stderr, `{"@level":"warn","@message":"the config is here","length":`+strconv.Itoa(len(config))+`}`)
	return &toy{config}, nil
}

func (*toy) Describe() *sourceplugin.Description { return toyDescription() }
func (*toy) OpenParams(context.Context) ([]sourceplugin.OpenParam, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (*toy) Extract(context.Context, []sourceplugin.Event, []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
	return sourceplugin.Values{}, sourceplugin.ErrNotSupported
}
func (*toy) Metrics(context.Context) ([]sourceplugin.Metric, error) { return nil, nil }
func (*toy) SetConfig(context.Context, string) error                { return nil }
func (*toy) Close(context.Context) error                            { return nil }

func (t *toy) Strings(_ context.Context, events []sourceplugin.Event) ([]string, error) {
	texts := make([]string, len(events))
	for i, e := range events {
		what, name, _ := strings.Cut(string(e.Data()), " ")
		switch what {
		case "config":
			texts[i] = t.config
		case "variable":
			texts[i] = os.Getenv(name)
		case "hang":
			select {}
		case "child":
			c := exec.Command("sleep", "1000")
			if err := c.Start(); err != nil {
				return nil, err
			}
			texts[i] = strconv.Itoa(c.Process.Pid)
		}
	}
	return texts, nil
}

func (*toy) Open(_ context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	switch what, text, _ := strings.Cut(o.Params, " "); what {
	case "panic":
		go panic(text)
		select {}
	case "exit":
		fmt.Fprintln(os.Stderr, text)
		os.Exit(7)
	case "eat":
		var all [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
			time.Sleep(20 * time.Millisecond) // so that it is looked at in time
			runtime.KeepAlive(all)
		}
	case "cling":
		os.Stdout.Close()
		return &clinging{}, nil
	}
	count, size := 0, 0
	if _, err := fmt.Sscan(o.Params, &count, &size); err != nil {
		return nil, fmt.Errorf("params %q: %w", o.Params, err)
	}
	return &counting{left: count, data: make([]byte, size)}, nil
}

type counting struct {
	left int
	data []byte
}

func (c *counting) Next(_ context.Context, b *sourceplugin.Batch) error {
	b.Reset()
	for c.left > 0 && (len(b.Events) == 0 || len(b.Events) < 256<<10) {
		b.Events = scapevent.Append(b.Events, toyID, 1, c.data)
		b.Count++
		c.left--
	}
	if c.left == 0 {
		return io.EOF
	}
	return nil
}
func (*counting) Acknowledge(context.Context, []byte) error { return nil }
func (*counting) Close(context.Context) error               { return nil }
func (*counting) Progress(context.Context) (sourceplugin.Progress, error) {
	return sourceplugin.Progress{}, sourceplugin.ErrNotSupported
}

// clinging does not end.
type clinging struct{ counting }

func (*clinging) Next(ctx context.Context, b *sourceplugin.Batch) error { select {} }
func (*clinging) Close(context.Context) error                           { select {} }

func toyOptions() pluginprocess.Options {
	return pluginprocess.Options{Name: "toy", Command: os.Args[0], Env: []string{roleVariable + "=toy", "GORACE=atexit_sleep_ms=0"}}
}

func launch(t testing.TB, change ...func(*pluginprocess.Options)) *pluginprocess.Process {
	t.Helper()
	o := toyOptions()
	for _, c := range change {
		c(&o)
	}
	p, err := pluginprocess.Launch(t.Context(), o, `{"size":1}`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

func ask(t testing.TB, p *pluginprocess.Process, what string) (string, error) {
	t.Helper()
	texts, err := p.Strings(t.Context(), []sourceplugin.Event{{Event: scapevent.Append(nil, toyID, 1, []byte(what))}})
	if err != nil {
		return "", err
	}
	return texts[0], nil
}

// log is what was logged.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestProcess(t *testing.T) {
	t.Setenv("HUB_SECRET", "secret")
	var logged log
	p := launch(t, func(o *pluginprocess.Options) {
		o.Env = append(o.Env, "GIVEN=given")
		o.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	})
	if d := p.Describe(); d.Name != "toy" || d.ID != toyID {
		t.Errorf("%+v", d)
	}
	for question, want := range map[string]string{"config": `{"size":1}`, "variable HUB_SECRET": "", "variable GIVEN": "given", "variable PATH": os.Getenv("PATH")} {
		if got, err := ask(t, p, question); got != want || err != nil {
			t.Errorf("%s: %q %v", question, got, err)
		}
	}
	eventually(t, "the log does not come", func() bool { return strings.Contains(logged.String(), "the config is here") })
	if line := logged.String(); !strings.Contains(line, "level=WARN") || !strings.Contains(line, "level=INFO msg=printed") || !strings.Contains(line, "plugin=toy") {
		t.Error(line)
	}
	if n, _, err := drain(t, p, "100000 16"); n != 100_000 || !errors.Is(err, io.EOF) {
		t.Error(n, err)
	}
	if err := p.ExitError(); err != nil {
		t.Error(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := ask(t, p, "config"); !errors.Is(err, sourceplugin.ErrExited) {
		t.Error(err)
	}
	if !gone(p.PID()) {
		t.Error("the process is still there")
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// drain counts the events and bytes of a stream.
func drain(t testing.TB, p sourceplugin.Plugin, params string) (events, bytes int, err error) {
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: params})
	if err != nil {
		return 0, 0, err
	}
	var b sourceplugin.Batch
	for err == nil {
		err = s.Next(t.Context(), &b)
		events += b.Count
		bytes += len(b.Events)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	return events, bytes, err
}

// What does not fit the schema never reaches the plugin, and is not repeated.
func TestConfig(t *testing.T) {
	for config, want := range map[string]string{
		`{"size":0}`:              "config: it does not fit the schema of the plugin: /size must be",
		`{"size":1,"other":true}`: `"other"`,
		`{"token":"secret"}`:      "/token must have at most 3 characters",
		`{`:                       "is not JSON",
	} {
		p, err := pluginprocess.Launch(t.Context(), toyOptions(), config)
		if err == nil {
			_ = p.Close(t.Context())
		}
		if !errors.Is(err, pluginprocess.ErrConfig) || !strings.HasPrefix(err.Error(), "plugin toy: ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", config, err)
		}
	}
	p, err := pluginprocess.Launch(t.Context(), toyOptions(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	if got, err := ask(t, p, "config"); got != "{}" || err != nil {
		t.Error(got, err)
	}
	if err := p.SetConfig(t.Context(), `{"size":"x"}`); !errors.Is(err, pluginprocess.ErrConfig) {
		t.Error(err)
	}
	if err := p.SetConfig(t.Context(), `{"size":2}`); err != nil {
		t.Error(err)
	}
}

// An error says how the process has died.
func TestDeaths(t *testing.T) {
	for params, want := range map[string][]string{
		"panic of the toy": {"the process of the plugin has ended (exit status 2); it wrote: panic: of the toy"},
		"exit no license":  {"the process of the plugin has ended (exit status 7); it wrote: ", "no license"},
	} {
		t.Run(params, func(t *testing.T) {
			p := launch(t)
			_, err := p.Open(t.Context(), sourceplugin.Open{Params: params})
			if !errors.Is(err, sourceplugin.ErrExited) || !strings.HasPrefix(err.Error(), "plugin toy: ") {
				t.Fatal(err)
			}
			for _, text := range want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in: %v", text, err)
				}
			}
			<-p.Exited()
			if err := p.ExitError(); !errors.Is(err, sourceplugin.ErrExited) {
				t.Error(err)
			}
		})
	}
	p := launch(t)
	_ = syscall.Kill(p.PID(), syscall.SIGKILL)
	if _, err := ask(t, p, "config"); !errors.Is(err, sourceplugin.ErrExited) || !strings.Contains(err.Error(), "signal: killed") {
		t.Error(err)
	}
}

// raceDetector: the test has the race detector, which reserves memory without end.
var raceDetector bool

func TestMemory(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector needs more memory than the limit")
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux limits memory")
	}
	p := launch(t, func(o *pluginprocess.Options) { o.MaxMemory = 200 << 20 })
	if got, err := ask(t, p, "variable GOMEMLIMIT"); got != strconv.Itoa(175<<20) || err != nil {
		t.Error(got, err)
	}
	if _, err := p.Open(t.Context(), sourceplugin.Open{Params: "eat"}); !errors.Is(err, pluginprocess.ErrMemory) || !errors.Is(err, sourceplugin.ErrExited) || !strings.Contains(err.Error(), "200 MiB are allowed") {
		t.Error(err)
	}
}

func TestChecksum(t *testing.T) {
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(program)
	launch(t, func(o *pluginprocess.Options) { o.SHA256 = sum[:] })
	o := toyOptions()
	sum[0]++
	o.SHA256 = sum[:]
	if _, err := pluginprocess.Start(t.Context(), o); !errors.Is(err, pluginprocess.ErrChecksum) || !strings.HasPrefix(err.Error(), "plugin toy: ") {
		t.Error(err)
	}
}

// A plugin that hangs is left at the end of the time for a call, and killed by Close.
func TestHangs(t *testing.T) {
	p := launch(t, func(o *pluginprocess.Options) {
		o.CallTimeout, o.StopTimeout = 100*time.Millisecond, 200*time.Millisecond
	})
	if _, err := ask(t, p, "hang"); !errors.Is(err, sourceplugin.ErrTimeout) || !strings.Contains(err.Error(), "plugin toy: Strings: ") {
		t.Error(err)
	}
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: "cling"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var b sourceplugin.Batch
	if err := s.Next(ctx, &b); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	began := time.Now()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if !gone(p.PID()) {
		t.Error("the process is still there")
	}
}

func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // who adopted it need not have noticed
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// What a plugin has started ends with it.
func TestChildren(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs process groups")
	}
	p := launch(t)
	text, err := ask(t, p, "child")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(text)
	if err != nil || gone(pid) {
		t.Fatal(text)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the child of the plugin is still there", func() bool { return gone(pid) })
}

// No plugin outlives a hub that was killed, nor one that a script of it has started.
func TestHubIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a signal at the death of the parent")
	}
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), roleVariable+"=host", "TMPDIR="+t.TempDir())
	host.Stderr = os.Stderr
	stdout, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || gone(pid) {
		t.Fatal(line)
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	eventually(t, "the plugin outlived the hub", func() bool { return gone(pid) })
}

// A plugin behind a script ends when the script is killed.
func TestScript(t *testing.T) {
	file, pids := filepath.Join(t.TempDir(), "plugin.sh"), filepath.Join(t.TempDir(), "pid")
	script := fmt.Sprintf("#!/bin/sh\n%s &\necho $! >%s\nwait\n", os.Args[0], pids)
	if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	p := launch(t, func(o *pluginprocess.Options) { o.Command = file })
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || gone(pid) {
		t.Fatal(string(text))
	}
	_ = syscall.Kill(p.PID(), syscall.SIGKILL)
	<-p.Exited()
	eventually(t, "the plugin outlived its script", func() bool { return gone(pid) })
}

// What does not become a plugin is an error that has what it wrote, and nothing is left of it.
func TestNoPlugin(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		script string
		is     error
		want   []string
	}{
		"exits":     {"echo no license >&2; exit 3", sourceplugin.ErrExited, []string{"exit status 3", "no license"}},
		"silent":    {"exit 0", sourceplugin.ErrExited, []string{"it must be a plugin that speaks the plugin protocol"}},
		"talks":     {"echo hello; sleep 60", sourceplugin.ErrProtocol, []string{"hello"}},
		"waits":     {"echo $$ >" + dir + "/pid; sleep 60 & wait", sourceplugin.ErrTimeout, []string{"not ready within"}},
		"tcp":       {"echo '1|1|tcp|127.0.0.1:1|grpc|'; sleep 60", sourceplugin.ErrProtocol, []string{"PLUGIN_UNIX_SOCKET_DIR"}},
		"elsewhere": {"echo '1|1|unix|/run/docker.sock|grpc|'; sleep 60", sourceplugin.ErrProtocol, []string{"PLUGIN_UNIX_SOCKET_DIR"}},
		"no socket": {"touch $PLUGIN_UNIX_SOCKET_DIR/x; echo \"1|1|unix|$PLUGIN_UNIX_SOCKET_DIR/x|grpc|\"; sleep 60", sourceplugin.ErrProtocol, []string{"PLUGIN_UNIX_SOCKET_DIR"}},
		"version":   {"echo '1|9|unix|/x|grpc|'; sleep 60", sourceplugin.ErrProtocol, []string{"9"}},
		"long":      {"head -c 100000 /dev/zero | tr '\\0' x; sleep 60", sourceplugin.ErrProtocol, nil},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, name)
			if err := os.WriteFile(file, []byte("#!/bin/sh\n"+tc.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			_, err := pluginprocess.Start(t.Context(), pluginprocess.Options{Command: file, StartTimeout: 2 * time.Second})
			if !errors.Is(err, tc.is) || !strings.HasPrefix(err.Error(), "plugin "+name+": ") {
				t.Fatal(err)
			}
			for _, text := range tc.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in: %v", text, err)
				}
			}
		})
	}
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || !gone(pid) {
		t.Errorf("the process %s is there", text)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "plugin-dir*")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

func BenchmarkProcess(b *testing.B) {
	for _, size := range []int{16, 700} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			p := launch(b)
			b.ResetTimer()
			n, bytes, err := drain(b, p, fmt.Sprint(b.N, size))
			if n != b.N || !errors.Is(err, io.EOF) {
				b.Fatal(n, err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.SetBytes(int64(bytes / b.N))
		})
	}
}
