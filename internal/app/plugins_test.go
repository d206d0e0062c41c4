package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
	"github.com/tocsin-events/tocsin/internal/strongbox"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// A hub that has the wrong key for its storage does not start, says which key it wants, and
// changes nothing.
func TestStorageKey(t *testing.T) {
	o := options(t)
	right, wrong := strongbox.NewKey(), strongbox.NewKey()
	file := filepath.Join(t.TempDir(), "key")
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.Config.Plugins.StorageKey = config.SecretFromFile(file)
	try := func() error {
		t.Helper()
		a, err := New(t.Context(), o)
		if err != nil {
			return err
		}
		return a.Close()
	}
	write(right.Encode())
	if err := try(); err != nil {
		t.Fatal(err)
	}
	write(wrong.Encode())
	err := try()
	if !errors.Is(err, strongbox.ErrWrongKey) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), right.ID()) || !strings.Contains(err.Error(), o.Config.DataDir) {
		t.Errorf("wrong key: %v", err)
	}
	write("nonsense")
	if err := try(); err == nil || !strings.Contains(err.Error(), "plugins.storage_key") || !strings.Contains(err.Error(), "openssl rand") || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("no key: %v", err)
	}
	write(wrong.Encode(), right.Encode())
	if err := try(); err != nil {
		t.Errorf("new and old key: %v", err)
	}

	o.Config.Plugins.StorageKey = config.Secret{}
	for script, want := range map[string]string{
		"echo " + wrong.Encode():             "",
		"echo " + right.Encode():             "the command /bin/sh",
		"echo sorry >&2; exit 3":             "sorry",
		"echo " + wrong.Encode() + "; false": "exit status 1",
		"exit 0":                             "there is no key",
	} {
		o.Config.Plugins.StorageKeyCommand = []string{"/bin/sh", "-c", script}
		err := try()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", script, err)
		}
		if err != nil && strings.Contains(err.Error(), wrong.Encode()) {
			t.Errorf("%q: the key is in the error: %v", script, err)
		}
	}
}

// A plugin that does not start does not keep the hub from starting: health says so.
func TestPluginDoesNotStart(t *testing.T) {
	o := options(t)
	file := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.Config.Plugins.StorageKey = config.SecretValue(strongbox.NewKey().Encode())
	m := config.DefaultMount()
	m.Path, m.Command = "broken", file
	o.Config.Plugins.Mounts = []config.Mount{m}
	a, _ := start(t, o)
	for {
		if running, err := a.Plugins(); err != nil && !running {
			break
		}
	}
	status, body := get(t, a.URL()+"/api/v1/health")
	if status != 503 || !strings.Contains(body, "mount broken/") || !strings.Contains(body, `"ready":true`) {
		t.Errorf("health: %d %s", status, body)
	}
	if status, _ := call(t, a, root, "GET", "sys/mounts", nil); status != 200 {
		t.Errorf("mounts: %d", status)
	}
}

// fakes are plugins that are no processes and answer nothing.
type fakes struct {
	sum string // of the executable "fake"
	mu  sync.Mutex
	all []*fakeProcess
}

// hostFakes configures a hub that hosts fakes.
func hostFakes(t *testing.T, o *Options) *fakes {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fake"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(nil)
	f := &fakes{sum: hex.EncodeToString(sum[:])}
	o.Config.Plugins.Directory = dir
	o.Config.Plugins.StorageKey = config.SecretValue(strongbox.NewKey().Encode())
	o.launch = func(context.Context, vaultplugin.Options) (pluginhost.Process, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		p := &fakeProcess{exited: make(chan struct{})}
		f.all = append(f.all, p)
		return p, nil
	}
	return f
}

// crash ends all plugins.
func (f *fakes) crash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.all {
		p.Kill()
	}
}

func (f *fakes) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all)
}

type fakeProcess struct {
	vaultplugin.Backend
	once   sync.Once
	exited chan struct{}
}

func (p *fakeProcess) Open(context.Context, vaultplugin.Setup) (pluginhost.Backend, error) {
	return p, nil
}
func (p *fakeProcess) Multiplexed() bool                { return true }
func (p *fakeProcess) Exited() <-chan struct{}          { return p.exited }
func (p *fakeProcess) ExitError() error                 { return errors.New("exit status 2") }
func (p *fakeProcess) PID() int                         { return 0 }
func (p *fakeProcess) Stop(context.Context)             { p.Kill() }
func (p *fakeProcess) Kill()                            { p.once.Do(func() { close(p.exited) }) }
func (p *fakeProcess) Type() vaultplugin.Type           { return vaultplugin.TypeSecret }
func (p *fakeProcess) Version() string                  { return "" }
func (p *fakeProcess) SpecialPaths() vaultplugin.Paths  { return vaultplugin.Paths{} }
func (p *fakeProcess) Initialize(context.Context) error { return nil }
func (p *fakeProcess) Close(context.Context)            {}

// Mounts of the configuration use its plugins, not others of the same name that are
// registered while the hub runs.
func TestPluginConfigVersion(t *testing.T) {
	_, mounts := pluginConfig(config.Plugins{Mounts: []config.Mount{
		{Path: "b", Type: config.MountSecret, Name: "kv"},
		{Path: "a", Type: config.MountSecret, Name: "kv", Command: "/kv", Version: "v1"},
		{Path: "c", Type: config.MountAuth, Name: "kv", Command: "/kv"},
	}})
	for i, want := range []string{"v1", "v1", ""} {
		if mounts[i].Version != want {
			t.Errorf("mount %s has the version %q, want %q", mounts[i].Path, mounts[i].Version, want)
		}
	}
}
