//go:build unix

package vaultplugin

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
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
)

// start launches the test plugin in a role.
func start(t testing.TB, role string, change ...func(*Options)) *Process {
	t.Helper()
	o := Options{Name: role, Command: os.Args[0], Env: []string{roleVariable + "=" + role, "GORACE=atexit_sleep_ms=0"}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, c := range change {
		c(&o)
	}
	p, err := Launch(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// nowhere is a storage that keeps nothing.
type nowhere struct{ keys chan string }

func (nowhere) List(context.Context, string) ([]string, error)     { return nil, nil }
func (nowhere) Get(context.Context, string) (*StorageEntry, error) { return nil, nil }
func (nowhere) Delete(context.Context, string) error               { return nil }
func (n nowhere) Put(_ context.Context, e *StorageEntry) error {
	if n.keys != nil {
		n.keys <- e.Key
	}
	return nil
}

func mount(t testing.TB, p *Process, s Setup) *Backend {
	t.Helper()
	if s.Storage == nil {
		s.Storage = nowhere{}
	}
	b, err := p.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Initialize(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func ask(t testing.TB, b *Backend, path string) (*Response, error) {
	return b.HandleRequest(t.Context(), &Request{Operation: ReadOperation, Path: path})
}

func TestLaunchFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // where no other test makes directories
	sum := sha256.Sum256([]byte("something else"))
	for _, tt := range []struct {
		role string
		o    Options
		err  error
		text string
	}{
		{role: "exit", err: ErrExited, text: "exit status 7): it wrote: no license"},
		{role: "garbage", err: ErrProtocol, text: "hello, I am no plugin"},
		{role: "garbage", err: ErrProtocol, text: "it must be a plugin built with the SDK of Vault or OpenBao"},
		{role: "multiplexed", o: Options{Command: "/bin/true"}, err: ErrExited, text: "it must be a plugin built with the SDK of Vault or OpenBao"},
		{role: "long", err: ErrProtocol},
		{role: "old", err: ErrProtocol, text: "version"},
		{role: "foreign", err: ErrProtocol, text: "192.0.2.1"},
		{role: "deaf", err: ErrProtocol},
		{role: "silent", o: Options{StartTimeout: 300 * time.Millisecond}, err: ErrTimeout},
		{role: "multiplexed", o: Options{SHA256: sum[:]}, err: ErrChecksum, text: "it is "},
		{role: "multiplexed", o: Options{SHA256: []byte{}}, err: ErrChecksum},
		{role: "multiplexed", o: Options{Command: "/nonexistent"}, err: os.ErrNotExist},
		{role: "multiplexed", o: Options{Command: t.TempDir()}, text: "is not a file"},
		{role: "multiplexed", o: Options{Command: "process_test.go"}, err: os.ErrPermission},
		{role: "multiplexed", o: Options{Command: "sh"}, err: os.ErrNotExist},
	} {
		t.Run(tt.role+filepath.Base(tt.o.Command), func(t *testing.T) {
			tt.o.Env = []string{roleVariable + "=" + tt.role}
			if tt.o.Command == "" {
				tt.o.Command = os.Args[0]
			}
			dirs := socketDirs(t)
			_, err := Launch(t.Context(), tt.o)
			if err == nil || tt.err != nil && !errors.Is(err, tt.err) || !strings.Contains(strings.ReplaceAll(err.Error(), "; it wrote", ": it wrote"), tt.text) {
				t.Errorf("got %v, want %v %q", err, tt.err, tt.text)
			}
			if left := socketDirs(t); left > dirs {
				t.Errorf("%d directories were left", left-dirs)
			}
		})
	}
}

// socketDirs counts the directories of sockets, of this test only because it has its own TMPDIR.
func socketDirs(t *testing.T) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.TempDir(), "plugin*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestLaunchIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := Launch(ctx, Options{Command: os.Args[0], Env: []string{roleVariable + "=silent"}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	began := time.Now()
	if _, err := Launch(ctx, Options{Command: os.Args[0], Env: []string{roleVariable + "=silent"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("a launch that was cancelled before took %v", took)
	}
}

func TestBackends(t *testing.T) {
	for role, multiplexed := range map[string]bool{"multiplexed": true, "single": false} {
		t.Run(role, func(t *testing.T) {
			p := start(t, role)
			if p.Multiplexed() != multiplexed {
				t.Errorf("multiplexed is %v", p.Multiplexed())
			}
			stored := nowhere{make(chan string, 10)}
			b := mount(t, p, Setup{Storage: stored})
			if b.Type() != TypeSecret || b.Version() != "" {
				t.Errorf("got %v %q", b.Type(), b.Version())
			}
			if _, err := ask(t, b, "put/a/b"); err != nil || <-stored.keys != "a/b" {
				t.Errorf("got %v", err)
			}
			other, err := p.Open(t.Context(), Setup{Storage: nowhere{}})
			if multiplexed {
				if err != nil {
					t.Fatal(err)
				}
				other.Close(t.Context())
			} else if !errors.Is(err, ErrBusy) {
				t.Errorf("got %v", err)
			}
			if _, err := ask(t, b, "put/c"); err != nil || <-stored.keys != "c" {
				t.Errorf("got %v", err)
			}
			b.Close(t.Context())
			b.Close(t.Context())
			if _, err := ask(t, b, "echo"); !errors.Is(err, ErrClosed) {
				t.Errorf("got %v", err)
			}
			mount(t, p, Setup{})
		})
	}
}

func TestSetupFails(t *testing.T) {
	p := start(t, "single")
	var remote *RemoteError
	if _, err := p.Open(t.Context(), Setup{Storage: nowhere{}, Config: map[string]string{"fail": "why"}}); !errors.As(err, &remote) || remote.Message != "why" {
		t.Errorf("got %v", err)
	}
	if _, err := p.Open(t.Context(), Setup{}); err == nil {
		t.Error("a mount without storage was made")
	}
	mount(t, p, Setup{})
}

// A plugin that answers nonsense makes the call fail and nothing else.
func TestNonsense(t *testing.T) {
	p := start(t, "multiplexed")
	b := mount(t, p, Setup{SendEvent: func(_ context.Context, kind string, data *EventData) error {
		if data == nil || data.Metadata != nil || data.ID != "" {
			return fmt.Errorf("data are %+v", data)
		}
		if kind == "panic" {
			panic(kind)
		}
		return nil
	}})
	for path, want := range map[string]error{
		"echo":                                   nil,
		"data/":                                  nil,
		"data/null":                              nil,
		"data/{":                                 ErrProtocol,
		"data/[]":                                ErrProtocol,
		"data/{}{}":                              ErrProtocol,
		"data/{}x":                               ErrProtocol,
		"data/" + `"` + "text":                   ErrProtocol,
		"data/" + strings.Repeat(`{"a":`, 20000): ErrProtocol,
		"time":                                   ErrProtocol,
		"many":                                   ErrProtocol,
		"internal":                               ErrProtocol,
		"wrong":                                  ErrProtocol,
		"status/m":                               ErrProtocol, // unimplemented
		"status/n":                               ErrProtocol, // internal
		"status/i":                               ErrProtocol, // resource exhausted
		"status/z":                               ErrProtocol, // no such code
		"status/e":                               ErrTimeout,
		"event/x":                                nil,
		"event/panic":                            &RemoteError{},
		"method/pb.Storage/Steal":                &RemoteError{},
		"method/pb.Storage/Put":                  nil,
		"put/../x":                               &RemoteError{},
		"put/\x00":                               &RemoteError{},
		"put/" + strings.Repeat("x", DefaultMaxEntry): &RemoteError{},
		"error/":     &RemoteError{},
		"error/text": &RemoteError{},
		"status/c":   &RemoteError{},
	} {
		_, err := ask(t, b, path)
		var remote *RemoteError
		switch {
		case want == nil && err == nil:
		case want == nil || err == nil:
			t.Errorf("%.50s: got %v, want %v", path, err, want)
		case errors.As(want, &remote):
			if !errors.As(err, &remote) || remote.HTTPStatus() != 500 {
				t.Errorf("%.50s: got %v", path, err)
			}
		case !errors.Is(err, want):
			t.Errorf("%.50s: got %v, want %v", path, err, want)
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Errorf("%.50s: the error is %d bytes long", path, len(err.Error()))
		}
	}
	if _, err := b.HandleRequest(t.Context(), &Request{Path: "echo", Data: map[string]any{"x": make(chan int)}}); err == nil {
		t.Error("what is no JSON was sent")
	}
	if _, err := b.HandleRequest(t.Context(), &Request{Path: "\xff"}); err == nil {
		t.Error("what is not UTF-8 was sent")
	}
	if _, err := ask(t, b, "echo"); err != nil {
		t.Error(err)
	}
}

func TestNumbersKeepTheirDigits(t *testing.T) {
	b := mount(t, start(t, "single"), Setup{})
	r, err := b.HandleRequest(t.Context(), &Request{Path: "echo", Data: map[string]any{"n": json.Number("12345678901234567890.10"), "null": nil}})
	if err != nil || r.Data["n"] != json.Number("12345678901234567890.10") || len(r.Data) != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("HUB_SECRET", "secret")
	t.Setenv("LANG", "de_DE")
	b := mount(t, start(t, "multiplexed", func(o *Options) { o.Env = append(o.Env, "GIVEN=given", "PATH=/here", "VAULT_VERSION=1") }), Setup{})
	for name, want := range map[string]string{"HUB_SECRET": "", "LANG": "de_DE", "GIVEN": "given", "PATH": "/here", "VAULT_VERSION": DefaultVaultVersion, "VAULT_PLUGIN_AUTOMTLS_ENABLED": "true", "VAULT_PLUGIN_METADATA_MODE": "false"} {
		if r, err := ask(t, b, "environment/"+name); err != nil || r.Data[name] != want {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
}

func TestExit(t *testing.T) {
	for name, end := range map[string]func(*Process, *Backend){
		"by itself": func(_ *Process, b *Backend) { _, _ = ask(t, b, "exit") },
		"killed":    func(p *Process, _ *Backend) { _ = syscall.Kill(p.PID(), syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "multiplexed")
			b := mount(t, p, Setup{})
			waiting := make(chan error)
			go func() {
				_, err := ask(t, b, "hang")
				waiting <- err
			}()
			end(p, b)
			if err := <-waiting; !errors.Is(err, ErrExited) {
				t.Errorf("got %v", err)
			}
			<-p.Exited()
			if err := p.ExitError(); err == nil {
				t.Error("the exit has no reason")
			}
			if _, err := p.Open(t.Context(), Setup{Storage: nowhere{}}); !errors.Is(err, ErrExited) {
				t.Errorf("got %v", err)
			}
			b.Close(t.Context())
			p.Kill()
		})
	}
}

func TestTimeout(t *testing.T) {
	p := start(t, "multiplexed", func(o *Options) { o.CallTimeout = 200 * time.Millisecond })
	b := mount(t, p, Setup{})
	if _, err := ask(t, b, "hang"); !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.HandleRequest(ctx, &Request{Path: "hang"}); !errors.Is(err, ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := ask(t, b, "echo"); err != nil {
		t.Errorf("got %v", err)
	}
}

// A plugin that lives and does not listen any more is like one that does not answer.
func TestDoesNotListenAnyMore(t *testing.T) {
	p := start(t, "lingering", func(o *Options) { o.StopTimeout = 200 * time.Millisecond })
	b := mount(t, p, Setup{})
	if _, err := ask(t, b, "leave"); !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
	if err := b.InvalidateKey(t.Context(), ""); !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

// A plugin that does not clean up is killed in time, and what waits for it goes on.
func TestStopOfAPluginThatClings(t *testing.T) {
	p := start(t, "clinging", func(o *Options) { o.StopTimeout = 200 * time.Millisecond })
	mount(t, p, Setup{})
	began := time.Now()
	p.Kill()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if !gone(p.PID()) {
		t.Error("the process is still there")
	}
}

// Many mounts come and go while the process is stopped.
func TestStopUnderLoad(t *testing.T) {
	p := start(t, "multiplexed")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				b, err := p.Open(t.Context(), Setup{Storage: nowhere{}})
				if err != nil {
					return
				}
				_, _ = ask(t, b, "put/x")
				b.Close(t.Context())
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	p.Kill()
	wg.Wait()
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// What a plugin started ends with it, and does not delay the news.
func TestChildrenOfAPlugin(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs process groups")
	}
	p := start(t, "multiplexed")
	b := mount(t, p, Setup{})
	r, err := ask(t, b, "child")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(fmt.Sprint(r.Data["pid"]))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = ask(t, b, "exit")
	<-p.Exited()
	eventually(t, "the child of the plugin is still there", func() bool { return gone(pid) || zombie(pid) })
}

// zombie says whether a process has ended; who adopted it need not have noticed.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// No plugin outlives a hub that was killed.
func TestHostIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a signal at the death of the parent")
	}
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), roleVariable+"=host")
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
	if err != nil {
		t.Fatal(line)
	}
	if gone(pid) {
		t.Error("the plugin is not there")
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	eventually(t, "the plugin outlived its host", func() bool { return gone(pid) || zombie(pid) })
}

// The end of the thread that asked for the launch is not the end of the plugin.
func TestThreadOfLaunchEnds(t *testing.T) {
	var p *Process
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // without unlock, the thread ends with the goroutine
		p = start(t, "multiplexed")
	}()
	<-done
	b := mount(t, p, Setup{})
	for range 20 {
		runtime.GC()
		if _, err := ask(t, b, "echo"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestChecksum(t *testing.T) {
	program, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, program); err != nil {
		t.Fatal(err)
	}
	p := start(t, "single", func(o *Options) { o.SHA256 = hash.Sum(nil) })
	mount(t, p, Setup{})
}
