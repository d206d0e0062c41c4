package pluginhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

func secretMount(path string, options ...string) MountConfig {
	c := MountConfig{Class: Secret, Path: path, Plugin: "fake"}
	for i := 0; i+1 < len(options); i += 2 {
		if c.Options == nil {
			c.Options = make(map[string]string)
		}
		c.Options[options[i]] = options[i+1]
	}
	return c
}

// Mounts of the configuration answer, share a process, and keep what they have stored over
// a restart.
func TestConfiguredMounts(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("secret"), secretMount("deep/er/", "version", "2"), {Class: Secret, Namespace: "ns1", Path: "secret", Plugin: "fake"}}
	b.start()
	for _, path := range []string{"secret/a", "deep/er/a", "ns1/secret/a"} {
		if got := b.put(path, path); got != "nothing" {
			t.Errorf("write %s: %s", path, got)
		}
	}
	if n := b.farm.count(); n != 1 {
		t.Errorf("%d processes", n)
	}
	if got := b.do(vaultplugin.ReadOperation, "ns1/secret/a", nil); got != "[process:1 value:ns1/secret/a]" {
		t.Errorf("read: %s", got)
	}
	for _, path := range []string{"secrets/a", "deep/a", "other", "ns1/x", "auth/secret/a"} {
		if got := b.do(vaultplugin.ReadOperation, path, nil); got != "no mount" {
			t.Errorf("read %s: %s", path, got)
		}
	}
	first := *b.host.at(Secret, "", "secret").Record()
	if !strings.HasPrefix(first.Accessor, "fake_") || first.Path != "secret/" || first.Origin != FromConfig {
		t.Errorf("record %+v", first)
	}
	b.stop()

	b.start()
	if got := b.do(vaultplugin.ReadOperation, "deep/er/a", nil); got != "[process:2 value:deep/er/a]" {
		t.Errorf("after a restart: %s", got)
	}
	if again := *b.host.at(Secret, "", "secret").Record(); again.UUID != first.UUID || again.Accessor != first.Accessor {
		t.Errorf("another mount after a restart: %+v", again)
	}
	b.stop()

	// A mount that the configuration has no more does not run and keeps its storage.
	b.config.Mounts = b.config.Mounts[:1]
	b.start()
	if got := b.do(vaultplugin.ReadOperation, "deep/er/a", nil); got != "no mount" {
		t.Errorf("detached: %s", got)
	}
	if m := b.host.at(Secret, "", "deep/er"); m == nil || m.Record().State != Detached {
		t.Error("the detached mount is not shown")
	}
	if err := b.host.Health(); err != nil {
		t.Errorf("health with a detached mount: %v", err)
	}
	if _, err := b.host.Enable(t.Context(), secretMount("deep")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a mount above a detached one: %v", err)
	}
	b.stop()
	b.config.Mounts = append(b.config.Mounts, secretMount("deep/er"))
	b.start()
	if got := b.do(vaultplugin.ReadOperation, "deep/er/a", nil); !strings.Contains(got, "value:deep/er/a") {
		t.Errorf("attached again: %s", got)
	}
	b.stop()

	for name, mount := range map[string]MountConfig{
		"another plugin": {Class: Secret, Path: "deep/er", Plugin: "other"}, "overlap": secretMount("secret/more"), "bad path": secretMount("a/../b"),
	} {
		b.config.Mounts = []MountConfig{secretMount("secret"), mount}
		if err := b.tryStart(); err == nil || !strings.Contains(err.Error(), "of the configuration") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnableAndDisable(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake(), {Class: Auth, Name: "fake", Command: b.fake().Command}}
	b.config.Mounts = []MountConfig{secretMount("fixed")}
	b.start()
	m, err := b.host.Enable(t.Context(), secretMount("/dyn/"))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.put("dyn/a/b", "1"); got != "nothing" {
		t.Errorf("write: %s", got)
	}
	if _, err := b.host.Enable(t.Context(), MountConfig{Class: Auth, Path: "who", Plugin: "fake", Options: map[string]string{"type": "auth"}, LoginPolicies: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	if got := b.host.at(Auth, "", "who").Record(); got.LoginPolicies != nil || got.Full() != "auth/who/" || !strings.HasPrefix(got.Accessor, "auth_fake_") {
		t.Errorf("auth mount %+v", got)
	}
	for name, c := range map[string]MountConfig{
		"taken":           secretMount("dyn"),
		"below":           secretMount("dyn/x"),
		"above":           {Class: Secret, Path: "fixed", Plugin: "fake", Namespace: ""},
		"as a namespace":  {Class: Secret, Path: "a", Plugin: "fake", Namespace: "dyn"},
		"sys":             secretMount("sys"),
		"below sys":       secretMount("sys/x"),
		"auth":            secretMount("auth/x"),
		"inner sys":       secretMount("a/sys/b"),
		"token":           {Class: Auth, Path: "token", Plugin: "fake"},
		"login":           {Class: Auth, Path: "jwt", Plugin: "fake"},
		"star":            secretMount("a*"),
		"plus":            secretMount("+"),
		"space":           secretMount("a b"),
		"dots":            secretMount("../a"),
		"empty element":   secretMount("a//b"),
		"empty":           secretMount("/"),
		"long":            secretMount(strings.Repeat("a", 300)),
		"not UTF-8":       secretMount("\xff"),
		"unknown plugin":  {Class: Secret, Path: "x", Plugin: "none"},
		"bad plugin name": {Class: Secret, Path: "x", Plugin: "a/b"},
		"bad class":       {Class: "database", Path: "x", Plugin: "fake"},
		"wrong class":     {Class: Auth, Path: "x", Plugin: "fake"},
		"does not open":   secretMount("x", "fail", "open"),
	} {
		if _, err := b.host.Enable(t.Context(), c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(b.host.All()); n != 3 {
		t.Errorf("%d mounts", n)
	}
	if _, err := b.host.Disable(t.Context(), Secret, "", "fixed"); !errors.Is(err, ErrInvalid) {
		t.Errorf("disable a mount of the configuration: %v", err)
	}
	b.stop()

	b.start()
	if got := b.do(vaultplugin.ReadOperation, "dyn/a/b", nil); !strings.Contains(got, "value:1") {
		t.Errorf("after a restart: %s", got)
	}
	gone, err := b.host.Disable(t.Context(), Secret, "", "dyn")
	if err != nil || gone.UUID != m.Record().UUID {
		t.Fatal(gone, err)
	}
	if gone, err := b.host.Disable(t.Context(), Secret, "", "dyn"); gone != nil || err != nil {
		t.Errorf("once more: %v, %v", gone, err)
	}
	if got := b.do(vaultplugin.ReadOperation, "dyn/a/b", nil); got != "no mount" {
		t.Errorf("disabled: %s", got)
	}
	if _, err := b.host.Enable(t.Context(), secretMount("dyn")); err != nil {
		t.Fatal(err)
	}
	if got := b.do(vaultplugin.ReadOperation, "dyn/a/b", nil); got != "nothing" {
		t.Errorf("a new mount has the storage of the old one: %s", got)
	}
	b.stop()
}

// What a crash in the middle has left is completed at the next start.
func TestInterrupted(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.start()
	for _, state := range []State{creating, removing} {
		r := newRecord(secretMount(string(state)), FromAPI)
		r.State = state
		if err := b.host.store(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if _, err := b.config.Box.Compartment(t.Context(), r.UUID); err != nil {
			t.Fatal(err)
		}
	}
	b.stop()
	b.start()
	if n := len(b.host.All()); n != 0 {
		t.Errorf("%d mounts", n)
	}
	if names, err := b.host.system.List(t.Context(), mountPrefix); err != nil || len(names) != 0 {
		t.Errorf("records %v, %v", names, err)
	}
	b.stop()
}

func TestTune(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.start()
	if _, err := b.host.Enable(t.Context(), secretMount("a", "version", "1")); err != nil {
		t.Fatal(err)
	}
	text, hour := "for x", time.Hour
	if err := b.host.Tune(t.Context(), Secret, "", "a", Tuning{Description: &text, MaxLeaseTTL: &hour, Options: map[string]string{"version": "2"}}); err != nil {
		t.Fatal(err)
	}
	r := b.host.at(Secret, "", "a").Record()
	if r.Description != text || r.MaxLeaseTTL != hour || r.Options["version"] != "2" {
		t.Errorf("record %+v", r)
	}
	if p := b.farm.last(); p.opened != 2 || b.farm.count() != 1 {
		t.Errorf("set up %d times in %d processes", p.opened, b.farm.count())
	}
	// Options with which the plugin does not start are taken back.
	if err := b.host.Tune(t.Context(), Secret, "", "a", Tuning{Options: map[string]string{"fail": "open"}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("bad options: %v", err)
	}
	if r := b.host.at(Secret, "", "a").Record(); r.Options["fail"] != "" {
		t.Errorf("record %+v", r)
	}
	if got := b.put("a/x", "1"); got != "nothing" || b.farm.count() != 1 {
		t.Errorf("what ran before does not go on: %s, %d processes", got, b.farm.count())
	}
	if err := b.host.Tune(t.Context(), Secret, "", "none", Tuning{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no mount: %v", err)
	}
	b.stop()
}

func TestCatalog(t *testing.T) {
	b := newBench(t)
	sum := func(content string) string {
		s := sha256.Sum256([]byte(content))
		return hex.EncodeToString(s[:])
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(b.dir, "link")); err != nil {
		t.Fatal(err)
	}
	b.config.Plugins = []Plugin{{Class: Secret, Name: "configured", Command: b.fake().Command}}
	b.start()
	good := Plugin{Class: Secret, Name: "reg", Command: "fake", SHA256: strings.ToUpper(sum("version 1")), Env: []string{"A=b"}}
	change := func(f func(*Plugin)) Plugin { p := good; f(&p); return p }
	for name, p := range map[string]Plugin{
		"no sum":        change(func(p *Plugin) { p.SHA256 = "" }),
		"bad sum":       change(func(p *Plugin) { p.SHA256 = "abc" }),
		"absolute":      change(func(p *Plugin) { p.Command = b.fake().Command }),
		"outside":       change(func(p *Plugin) { p.Command = "../fake" }),
		"link":          change(func(p *Plugin) { p.Command = "link" }),
		"missing":       change(func(p *Plugin) { p.Command = "none" }),
		"NUL":           change(func(p *Plugin) { p.Args = []string{"a\x00"} }),
		"no variable":   change(func(p *Plugin) { p.Env = []string{"a"} }),
		"class":         change(func(p *Plugin) { p.Class = "database" }),
		"name":          change(func(p *Plugin) { p.Name = "a b" }),
		"version":       change(func(p *Plugin) { p.Version = "a/b" }),
		"configuration": change(func(p *Plugin) { p.Name = "configured" }),
	} {
		if err := b.host.Register(t.Context(), p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.host.Register(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if err := b.host.Register(t.Context(), change(func(p *Plugin) { p.Version = "v1.0.0+x" })); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.start()
	var names []string
	for _, p := range b.host.Plugins() {
		names = append(names, string(p.Class)+"/"+p.Name+"/"+p.Version)
	}
	if got := strings.Join(names, " "); got != "secret/configured/ secret/reg/ secret/reg/v1.0.0+x" {
		t.Errorf("after a restart: %s", got)
	}
	if p, err := b.host.Plugin(Secret, "reg", ""); err != nil || p.SHA256 != sum("version 1") || p.Env[0] != "A=b" {
		t.Errorf("%+v, %v", p, err)
	}
	mount := secretMount("m")
	mount.Plugin = "reg"
	if _, err := b.host.Enable(t.Context(), mount); err != nil {
		t.Fatal(err)
	}
	if o := b.farm.last().options; hex.EncodeToString(o.SHA256) != sum("version 1") || o.Command != filepath.Join(b.dir, "fake") || o.Env[0] != "A=b" {
		t.Errorf("options %+v", o)
	}
	if err := b.host.Deregister(t.Context(), Secret, "reg", ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("deregister one in use: %v", err)
	}
	if err := b.host.Deregister(t.Context(), Secret, "configured", ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("deregister one of the configuration: %v", err)
	}
	for range 2 {
		if err := b.host.Deregister(t.Context(), Secret, "reg", "v1.0.0+x"); err != nil {
			t.Error(err)
		}
	}
	// Another file is not started, and what runs goes on.
	b.write("fake", "version 2")
	if _, err := b.host.Reload(t.Context(), Secret, "reg"); !errors.Is(err, vaultplugin.ErrChecksum) {
		t.Errorf("reload another file: %v", err)
	}
	if got := b.put("m/a", "1"); got != "nothing" || b.farm.count() != 1 {
		t.Errorf("after that: %s, %d processes", got, b.farm.count())
	}
	b.stop()

	b.config.Directory = ""
	b.start()
	if err := b.host.Register(t.Context(), good); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "plugins.directory") {
		t.Errorf("no directory: %v", err)
	}
	b.stop()
}

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

func TestEvents(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake(), {Class: Auth, Name: "who", Command: b.fake().Command, Version: "v1.2.3"}}
	b.config.Mounts = []MountConfig{
		{Class: Secret, Namespace: "ns1", Path: "se/cret", Plugin: "fake", Options: map[string]string{"version": "2", "says": "v0.25.0"}},
		{Class: Auth, Path: "u", Plugin: "who", Options: map[string]string{"type": "auth"}},
	}
	b.start()
	b.eventually("runs", func() bool { ready, _ := b.host.Ready(); return ready })
	fields := func(pairs ...string) event.Fields {
		f := event.Fields{}
		for i := 0; i < len(pairs); i += 2 {
			f.Set(pairs[i], pairs[i+1])
		}
		return f
	}
	typed := fields("a", "b")
	typed.SetJSON("path", "5")
	typed.SetJSON("data_path", `{"x":1}`)
	send := func(mount, eventType string, data *vaultplugin.EventData) {
		t.Helper()
		m, _ := b.host.Find("", mount+"x")
		m.mu.Lock()
		setup := m.current.backend.(*fakeBackend).setup
		m.mu.Unlock()
		if err := setup.SendEvent(t.Context(), eventType, data); err != nil {
			t.Errorf("%s: %v", eventType, err)
		}
	}
	for _, tt := range []struct {
		name, mount, eventType string
		data                   vaultplugin.EventData
		want                   string // path data_path type, or "" for a refusal
	}{
		{"as usual", "ns1/se/cret/", "kv-v2/data-write", vaultplugin.EventData{ID: "1", Metadata: fields("path", "data/foo", "data_path", "data/foo", "operation", "x")}, "se/cret/data/foo se/cret/data/foo"},
		{"auth", "auth/u/", "who/login", vaultplugin.EventData{ID: "2", Metadata: fields("path", "login")}, "auth/u/login "},
		{"no id", "auth/u/", "who/login", vaultplugin.EventData{Metadata: fields("path", "login")}, "auth/u/login "},
		{"no metadata", "auth/u/", "who/x", vaultplugin.EventData{ID: "3"}, " "},
		{"no pairs", "auth/u/", "who/x", vaultplugin.EventData{ID: "4", Metadata: event.Fields{}}, " "},
		{"empty path", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "5", Metadata: fields("path", "")}, "se/cret "},
		{"slash", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "6", Metadata: fields("path", "/a/b/")}, "se/cret/a/b "},
		{"typed paths count as empty", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "7", Metadata: typed}, "se/cret se/cret"},
		{"dots within", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "8", Metadata: fields("path", "a/../b")}, "se/cret/b "},
		{"to the mount", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "9", Metadata: fields("path", "a/..")}, "se/cret "},
		{"out", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "a", Metadata: fields("path", "../other")}, ""},
		{"out by data_path", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "b", Metadata: fields("path", "a", "data_path", "../../x")}, ""},
		{"to a neighbour that begins alike", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "c", Metadata: fields("path", "../cret2/x")}, ""},
		{"reserved", "ns1/se/cret/", "tocsin/token-create", vaultplugin.EventData{ID: "d"}, ""},
		{"reserved audit", "ns1/se/cret/", "audit/request", vaultplugin.EventData{ID: "e"}, ""},
		{"no type", "ns1/se/cret/", "", vaultplugin.EventData{ID: "f"}, ""},
		{"glob", "ns1/se/cret/", "a*", vaultplugin.EventData{ID: "g"}, ""},
		{"too large", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "h", Metadata: fields("k", strings.Repeat("v", 100<<10))}, ""},
		{"not UTF-8", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "i", Metadata: fields("k", "\xff")}, ""},
		{"control characters in the id", "ns1/se/cret/", "x", vaultplugin.EventData{ID: "a\nb"}, ""},
	} {
		before := len(b.intake.all())
		original := tt.data.Metadata.Clone()
		send(tt.mount, tt.eventType, &tt.data)
		if !slices.Equal(original, tt.data.Metadata) {
			t.Errorf("%s: the plugin's data was changed", tt.name)
		}
		all := b.intake.all()[before:]
		if tt.want == "" {
			if len(all) != 0 {
				t.Errorf("%s: published %+v", tt.name, all[0])
			}
			continue
		}
		if len(all) != 1 {
			t.Errorf("%s: %d events", tt.name, len(all))
			continue
		}
		e := all[0]
		dataPath, _ := e.Metadata.Text("data_path")
		if got := e.Path + " " + dataPath; got != tt.want {
			t.Errorf("%s: paths %q, want %q", tt.name, got, tt.want)
		}
		if e.ID == "" || tt.data.ID != "" && e.ID != tt.data.ID || e.Source != "vault://node-1" || e.Type != tt.eventType || e.Time.IsZero() {
			t.Errorf("%s: %+v", tt.name, e)
		}
		if (e.Metadata == nil) != (tt.data.Metadata == nil) {
			t.Errorf("%s: metadata %v", tt.name, e.Metadata)
		}
	}
	all := b.intake.all()
	r := b.host.at(Secret, "ns1/", "se/cret").Record()
	if p := *all[0].Plugin; p != (event.PluginInfo{MountClass: "secret", MountAccessor: r.Accessor, MountPath: "se/cret/", Plugin: "fake", PluginVersion: "v0.25.0", Version: "2"}) || all[0].Namespace != "ns1/" {
		t.Errorf("plugin info %+v in %q", p, all[0].Namespace)
	}
	if p := *all[1].Plugin; p.MountClass != "auth" || p.PluginVersion != "v1.2.3" || p.MountPath != "u/" {
		t.Errorf("plugin info %+v", p)
	}

	// A journal that pushes back for a while takes the event in the end.
	b.intake.mu.Lock()
	b.intake.fail = []error{&journal.PushbackError{RetryAfter: time.Millisecond}, &journal.PushbackError{RetryAfter: time.Millisecond}}
	b.intake.mu.Unlock()
	before := len(b.intake.all())
	send("auth/u/", "who/patient", &vaultplugin.EventData{ID: "p"})
	if len(b.intake.all()) != before+1 {
		t.Error("the event was not published")
	}
	// One that does not is told to the plugin.
	b.intake.mu.Lock()
	b.intake.fail = []error{&journal.PushbackError{RetryAfter: time.Hour}}
	b.intake.mu.Unlock()
	m, _ := b.host.Find("", "auth/u/x")
	if err := m.sendEvent(t.Context(), "", "who/late", &vaultplugin.EventData{ID: "q"}); err == nil {
		t.Error("the plugin is not told")
	}
	b.stop()
}

func TestSpecialPaths(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	m, _ := b.host.Find("", "a/x")
	for path, want := range map[string]Access{
		"x": {}, "admin/x": {Sudo: true}, "admin": {}, "admin/": {Sudo: true}, "login": {Open: true}, "login/x": {}, "open/a/b": {Open: true}, "opened": {},
		"role/r/login": {Open: true}, "role//login": {}, "role/r/x/login": {}, "role/r/login/x": {},
	} {
		got, err := m.Access(t.Context(), path)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	b.stop()
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"*", "anything/at/all", true}, {"a*", "ab/c", true}, {"a/*", "a", false}, {"+/login", "x/login", true}, {"+", "a/b", false}, {"+/*", "a/b/c", true}, {"a/+/c*", "a/b/cd/e", true},
		{"", "", true}, {"", "a", false}, {"a/+", "a/", false},
	} {
		if got := matchPattern(tt.pattern, tt.path); got != tt.want {
			t.Errorf("%q matches %q: %v", tt.pattern, tt.path, got)
		}
	}
}

func TestHash(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a"), secretMount("b")}
	b.start()
	one, two := b.host.at(Secret, "", "a"), b.host.at(Secret, "", "b")
	if one.Hash("t") == two.Hash("t") || one.Hash("") != "" || strings.Contains(one.Hash("token"), "token") {
		t.Error("hashes of tokens")
	}
	b.stop()
}

func FuzzWithin(f *testing.F) {
	for _, s := range []string{"", "a", "../x", "a/../../secret/x", "/..", "./.", "a//b", "..\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if full, err := within("se/cret/", value); err == nil && full != "se/cret" && !strings.HasPrefix(full, "se/cret/") {
			t.Errorf("%q is %q", value, full)
		}
	})
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

// slowMatch says the same as matchPattern, by a regular expression.
func slowMatch(pattern, path string) bool {
	pattern, prefix := strings.CutSuffix(pattern, "*")
	elements := strings.Split(pattern, "/")
	for i, e := range elements {
		if elements[i] = regexp.QuoteMeta(e); e == "+" {
			elements[i] = "[^/]+"
		}
	}
	end := "$"
	if prefix {
		end = ""
	}
	return regexp.MustCompile("(?s)^" + strings.Join(elements, "/") + end).MatchString(path)
}

func FuzzMatchPattern(f *testing.F) {
	for _, seed := range [][2]string{{"login/*", "login/a"}, {"+/login", "a/login"}, {"a/+/b*", "a/x/bc"}, {"", ""}, {"*", "x"}, {"+*", "a/b"}, {"/", "/"}, {"a/+", "a/"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(path) {
			return
		}
		if got := matchPattern(pattern, path); got != slowMatch(pattern, path) {
			t.Errorf("%q matches %q: %v", pattern, path, got)
		}
	})
}

// The mount of a path is that with the longest path which begins it.
func TestFindModel(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	path := func() string {
		elements := make([]string, 1+random.IntN(4))
		for i := range elements {
			elements[i] = []string{"a", "b", "auth", "ab", ""}[random.IntN(5)]
		}
		return strings.Join(elements, "/")
	}
	m := newMetrics(nil)
	for range 2000 {
		var mounts []*Mount
		for range random.IntN(5) {
			mounts = append(mounts, newMount(&Host{metrics: m}, Record{MountConfig: MountConfig{Class: Secret, Path: path() + "/"}}, nil))
		}
		table, full := newTable(mounts), path()
		want, rest := "", ""
		for _, mount := range mounts {
			at := mount.Record().Full()
			if strings.HasPrefix(full, at) && len(at) > len(want) {
				want, rest = at, full[len(at):]
			}
		}
		if want == "" && slices.ContainsFunc(mounts, func(m *Mount) bool { return m.Record().Full() == full+"/" }) {
			want = full + "/"
		}
		got, gotRest := table.find(full)
		if (got == nil) != (want == "") || got != nil && (got.Record().Full() != want || gotRest != rest) {
			t.Fatalf("seed %d: %q is at %v with %q, want %q with %q", seed, full, got, gotRest, want, rest)
		}
	}
}
