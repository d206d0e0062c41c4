package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// A plugin that ends is started again, and the request under way is repeated once.
func TestCrash(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a"), secretMount("b")}
	b.start()
	b.put("a/x", "1")
	b.put("b/x", "1")
	b.farm.last().end(errors.New("plugin fake: signal: killed: panic: s3cret"))
	if got := b.put("a/x", "2"); got != "nothing" {
		t.Errorf("write after the end: %s", got)
	}
	if got := b.do(vaultplugin.ReadOperation, "b/x", nil); !strings.Contains(got, "value:1") {
		t.Errorf("the other mount: %s", got)
	}
	b.eventually("incidents", func() bool { return len(b.incidents()) == 4 })
	got := b.incidents()
	slices.Sort(got)
	b.mu.Lock()
	for _, i := range b.happened {
		if i.What == "plugin-crash" && i.Error != "signal: killed" {
			t.Errorf("incident %+v", i)
		}
	}
	b.mu.Unlock()
	if want := "plugin-crash a/ plugin-crash b/ plugin-restart a/ plugin-restart b/"; strings.Join(got, " ") != want {
		t.Errorf("incidents %v", got)
	}
	if n := b.farm.alive(); n != 1 {
		t.Errorf("%d processes", n)
	}

	// In the middle of a request: once it is repeated, twice it is an error.
	for ends, want := range []string{"nothing", "nothing", "does not run at the moment"} {
		var done atomic.Int32
		b.farm.set(func(f *farm) {
			f.answer = func(be *fakeBackend, r *vaultplugin.Request) (*vaultplugin.Response, error) {
				if r.Path == "victim" && int(done.Add(1)) <= ends {
					be.process.end(errors.New("exit status 2"))
					return nil, vaultplugin.ErrExited
				}
				return nil, nil
			}
		})
		if got := b.put("a/victim", "1"); !strings.Contains(got, want) {
			t.Errorf("%d ends: %s", ends, got)
		}
	}
	b.stop()
}

// A plugin that does not start is tried again with pauses; requests are told when to come
// again, and health says why.
func TestDoesNotStart(t *testing.T) {
	b := newBench(t)
	b.farm.broken = errors.New("no such luck")
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	b.eventually("health", func() bool {
		err := b.host.Health()
		return err != nil && strings.Contains(err.Error(), "mount a/: the plugin cannot be started") && !strings.Contains(err.Error(), "luck")
	})
	if ready, err := b.host.Ready(); ready || err == nil {
		t.Errorf("ready: %v %v", ready, err)
	}
	m, _ := b.host.Find("", "a/x")
	b.eventually("several failures", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.failures >= 3 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := m.Handle(ctx, &vaultplugin.Request{Operation: vaultplugin.ReadOperation, Path: "x"})
	if down, ok := errors.AsType[*DownError](err); !ok || down.RetryAfter < time.Second || !errors.Is(err, ErrDown) {
		t.Errorf("a request: %v", err)
	}
	b.farm.set(func(f *farm) { f.broken = nil })
	if got := b.put("a/x", "1"); got != "nothing" {
		t.Errorf("when it starts again: %s", got)
	}
	if err := b.host.Health(); err != nil {
		t.Errorf("health: %v", err)
	}
	b.stop()
	if got := b.put("a/x", "1"); !strings.Contains(got, ErrClosed.Error()) {
		t.Errorf("after the end: %s", got)
	}
}

// A plugin that does not answer anything any more is ended; one that is only slow is not.
func TestHung(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	b.put("a/x", "1")
	b.farm.set(func(f *farm) {
		f.answer = func(be *fakeBackend, r *vaultplugin.Request) (*vaultplugin.Response, error) {
			if r.Path != "slow" && r.Path != "hang" {
				return nil, nil
			}
			if r.Path == "hang" {
				be.process.mu.Lock()
				be.process.err = errHung
				be.process.mu.Unlock()
			}
			return nil, fmt.Errorf("call: %w", vaultplugin.ErrTimeout)
		}
	})
	if got := b.put("a/slow", "1"); !strings.Contains(got, vaultplugin.ErrTimeout.Error()) {
		t.Errorf("slow: %s", got)
	}
	if got := b.put("a/hang", "1"); !strings.Contains(got, vaultplugin.ErrTimeout.Error()) {
		t.Errorf("hang: %s", got)
	}
	b.eventually("another process", func() bool { return b.farm.count() == 2 })
	if got := b.put("a/x", "2"); got != "nothing" {
		t.Errorf("after that: %s", got)
	}
	b.stop()
}

// Plugins that cannot share a process get one for each mount.
func TestNotMultiplexed(t *testing.T) {
	b := newBench(t)
	b.farm.single = true
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a"), secretMount("b"), secretMount("c")}
	b.start()
	for _, path := range []string{"a/x", "b/x", "c/x"} {
		if got := b.put(path, "1"); got != "nothing" {
			t.Errorf("%s: %s", path, got)
		}
	}
	if n := b.farm.alive(); n != 3 {
		t.Errorf("%d processes", n)
	}
	if _, err := b.host.Reload(t.Context(), "", "fake"); err != nil {
		t.Fatal(err)
	}
	b.eventually("the old ones have ended", func() bool { return b.farm.alive() == 3 && b.farm.count() == 6 })
	b.stop()
}

// While a plugin is replaced by another executable, again and again, every request is
// answered, and nothing that was answered is lost.
func TestReload(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a"), secretMount("b")}
	b.start()
	b.put("a/warm", "1")
	b.put("b/warm", "1")
	var writing sync.WaitGroup
	var stop atomic.Bool
	var done atomic.Int64
	written := make([]int, 4)
	for w := range written {
		writing.Go(func() {
			path := fmt.Sprintf("%s/w%d", []string{"a", "b"}[w%2], w)
			for n := 1; !stop.Load(); n++ {
				if got := b.put(path, fmt.Sprint(n)); got != "nothing" {
					t.Errorf("write %s: %s", path, got)
					return
				}
				written[w] = n
				done.Add(1)
			}
		})
	}
	for i := range 5 {
		before := done.Load()
		b.eventually("writes", func() bool { return done.Load() > before+10 })
		b.write("fake", fmt.Sprintf("version %d", i+2))
		mounts, err := b.host.Reload(t.Context(), Secret, "fake")
		if err != nil || len(mounts) != 2 {
			t.Fatal(mounts, err)
		}
	}
	stop.Store(true)
	writing.Wait()
	for w, n := range written {
		path := fmt.Sprintf("%s/w%d", []string{"a", "b"}[w%2], w)
		if got := b.do(vaultplugin.ReadOperation, path, nil); got != fmt.Sprintf("[process:6 value:%d]", n) {
			t.Errorf("%s: %s, want %d", path, got, n)
		}
	}
	b.eventually("only the last runs", func() bool { return b.farm.alive() == 1 })
	events := 0
	for _, e := range b.intake.all() {
		if strings.Contains(e.Path, "/w") {
			events++
		}
	}
	sum := 0
	for _, n := range written {
		sum += n
	}
	if events < sum {
		t.Errorf("%d events of %d writes", events, sum)
	}
	if len(b.incidents()) != 0 {
		t.Errorf("incidents %v", b.incidents())
	}
	// One that does not start leaves what runs.
	b.farm.set(func(f *farm) { f.broken = errors.New("bad build") })
	b.write("fake", "bad")
	if _, err := b.host.Reload(t.Context(), Secret, "fake"); err == nil || !strings.Contains(err.Error(), "bad build") {
		t.Errorf("bad build: %v", err)
	}
	if got := b.put("a/x", "1"); got != "nothing" {
		t.Errorf("after a bad build: %s", got)
	}
	if _, err := b.host.Reload(t.Context(), Secret, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown plugin: %v", err)
	}
	if _, err := b.host.ReloadMounts(t.Context(), "none/"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown mount: %v", err)
	}
	b.stop()
}

// A new executable in the place of the old one is noticed.
func TestWatch(t *testing.T) {
	b := newBench(t)
	p := b.fake()
	p.Watch = true
	b.config.Plugins = []Plugin{p}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	b.put("a/x", "1")
	b.write("fake", "a new version")
	b.eventually("reloaded", func() bool { return slices.Contains(b.incidents(), "plugin-reload a/") })
	if got := b.do(vaultplugin.ReadOperation, "a/x", nil); got != "[process:2 value:1]" {
		t.Errorf("after that: %s", got)
	}
	b.stop()
}

// What a kv plugin refuses in its first moments is repeated, and nothing else is.
func TestWarmUp(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	var asked atomic.Int32
	const text = "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly."
	b.farm.set(func(f *farm) {
		f.answer = func(_ *fakeBackend, r *vaultplugin.Request) (*vaultplugin.Response, error) {
			switch n := asked.Add(1); {
			case r.Path == "other":
				return &vaultplugin.Response{Data: map[string]any{"error": "no"}}, nil
			case n <= 2:
				return &vaultplugin.Response{Data: map[string]any{"error": text}}, &vaultplugin.RemoteError{Kind: vaultplugin.KindInvalidRequest, Message: "invalid request"}
			case n == 3:
				return nil, &vaultplugin.RemoteError{Kind: vaultplugin.KindInvalidRequest, Message: text}
			}
			return nil, nil
		}
	})
	if got := b.put("a/x", "1"); got != "nothing" || asked.Load() != 4 {
		t.Errorf("%s after %d tries", got, asked.Load())
	}
	asked.Store(0)
	if got := b.put("a/other", "1"); got != "[error:no]" || asked.Load() != 1 {
		t.Errorf("%s after %d tries", got, asked.Load())
	}
	b.stop()
}

// The end of the host does not wait for a plugin that does not start.
func TestCloseDuringEnable(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	entered := make(chan struct{})
	b.config.Launch = func(ctx context.Context, _ vaultplugin.Options) (Process, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	b.config.StartTimeout = time.Hour
	b.start()
	failed := make(chan error)
	go func() {
		_, err := b.host.Enable(context.WithoutCancel(t.Context()), secretMount("a"))
		failed <- err
	}()
	<-entered
	b.stop()
	if err := <-failed; err == nil {
		t.Error("it was mounted")
	}
	if _, err := b.host.Enable(t.Context(), secretMount("a")); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// Starts, ends, reloads and requests at the same time: there are never two backends of one
// mount, and in the end it answers.
func TestEverythingAtOnce(t *testing.T) {
	b := newBench(t)
	b.farm.slow = time.Millisecond
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a"), secretMount("b")}
	b.start()
	b.eventually("runs", func() bool { ready, _ := b.host.Ready(); return ready })
	var busy sync.WaitGroup
	var stop atomic.Bool
	for _, path := range []string{"a/x", "b/x", "a/y"} {
		busy.Go(func() {
			for n := 0; !stop.Load(); n++ {
				if got := b.put(path, fmt.Sprint(n)); got != "nothing" && !strings.Contains(got, "does not run") {
					t.Errorf("%s: %s", path, got)
				}
			}
		})
	}
	for i := range 30 {
		if i%3 == 0 {
			b.farm.last().end(errors.New("signal: killed"))
		}
		if _, err := b.host.Reload(t.Context(), Secret, "fake"); err != nil && !errors.Is(err, vaultplugin.ErrExited) {
			t.Error(err)
		}
	}
	stop.Store(true)
	busy.Wait()
	b.eventually("it answers", func() bool { return b.put("a/x", "last") == "nothing" && b.put("b/x", "last") == "nothing" })
	b.eventually("one process", func() bool { return b.farm.alive() == 1 })
	b.stop()
}
