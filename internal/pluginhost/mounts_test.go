package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

	// Disabled while it is detached, its storage is gone.
	b.config.Mounts = b.config.Mounts[:1]
	b.start()
	if gone, err := b.host.Disable(t.Context(), Secret, "", "deep/er"); err != nil || gone == nil {
		t.Errorf("disable a detached mount: %v, %v", gone, err)
	}
	b.stop()
	b.config.Mounts = append(b.config.Mounts, secretMount("deep/er"))
	b.start()
	if got := b.do(vaultplugin.ReadOperation, "deep/er/a", nil); got != "nothing" {
		t.Errorf("after it was disabled: %s", got)
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
