package pluginhost

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// early is a plugin that sends an event as soon as it is set up, before anybody has asked
// for its version.
type early struct {
	*fakeProcess
	sending *sync.WaitGroup
}

func (p early) Open(ctx context.Context, s vaultplugin.Setup) (Backend, error) {
	b, err := p.fakeProcess.Open(ctx, s)
	if err == nil {
		p.sending.Go(func() { _ = s.SendEvent(context.Background(), "fake/early", &vaultplugin.EventData{ID: event.NewID()}) })
	}
	return b, err
}

func TestEventDuringSetup(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a", "says", "v9")}
	var sending sync.WaitGroup
	b.config.Launch = func(ctx context.Context, o vaultplugin.Options) (Process, error) {
		p, err := b.farm.launch(ctx, o)
		if err != nil {
			return nil, err
		}
		return early{p.(*fakeProcess), &sending}, nil
	}
	b.start()
	b.eventually("the event", func() bool { return len(b.intake.all()) == 1 })
	if got := b.put("a/x", "1"); got != "nothing" {
		t.Error(got)
	}
	if all := b.intake.all(); all[1].Plugin.PluginVersion != "v9" {
		t.Errorf("version %q", all[1].Plugin.PluginVersion)
	}
	sending.Wait()
	b.stop()
}

// Nobody who knows a mount, its plugin among them, can try out which token a hash is of.
func TestHashIsSecret(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	m := b.host.at(Secret, "", "a")
	before := m.Hash("t")
	guess := hmac.New(sha256.New, []byte("tocsin client token "+m.Record().UUID))
	guess.Write([]byte("t"))
	if before == "hmac-sha256:"+hex.EncodeToString(guess.Sum(nil)) {
		t.Error("the hash has no secret in it")
	}
	b.stop()
	b.start()
	if after := b.host.at(Secret, "", "a").Hash("t"); after != before {
		t.Errorf("%s after a restart, %s before", after, before)
	}
	b.stop()
}

// The check of existence is told of the mount like any request.
func TestExistenceCheckKnowsTheMount(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	m := b.host.at(Secret, "", "a")
	r := &vaultplugin.Request{Operation: vaultplugin.UpdateOperation, Path: "x"}
	if _, err := m.Exists(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if r.MountPoint != "a/" || r.MountType != "fake" || r.MountAccessor != m.Record().Accessor {
		t.Errorf("the plugin is told %+v", r)
	}
	b.stop()
}

// On a full disk the hub starts with the mounts that it has, and they can be disabled.
func TestFullDisk(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	if _, err := b.host.Enable(t.Context(), secretMount("b")); err != nil {
		t.Fatal(err)
	}
	b.put("a/old", "1")
	b.stop()

	b.config.Ready = func() error { return errors.New("no space left") }
	if err := b.tryStart(); err != nil {
		t.Fatal("it does not start: ", err)
	}
	b.host.Start()
	if got := b.put("a/x", "1"); !strings.Contains(got, "no space left") {
		t.Errorf("a write of a plugin: %s", got)
	}
	m := b.host.at(Secret, "", "a")
	if err := (mountStorage{m.storage, b.config.Ready}).Delete(t.Context(), "old"); err != nil || m.storage.Len() != 0 {
		t.Errorf("deleting makes room: %v, %d keys", err, m.storage.Len())
	}
	if gone, err := b.host.Disable(t.Context(), Secret, "", "b"); err != nil || gone == nil {
		t.Errorf("disable: %v, %v", gone, err)
	}
	b.stop()
}

// What is no file is not opened: that could block until the hub is killed.
func TestExecutableIsNoFile(t *testing.T) {
	b := newBench(t)
	pipe := filepath.Join(b.dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { // ends who is blocked
		if fd, err := syscall.Open(pipe, syscall.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
			syscall.Close(fd)
		}
	})
	done := make(chan error, 1)
	go func() {
		_, err := checksum(pipe)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a pipe has a checksum")
		}
	case <-time.After(time.Minute):
		t.Error("it blocks")
	}
}

// The version "-" would be stored in the place of a plugin that has none.
func TestVersionIsAName(t *testing.T) {
	p := Plugin{Class: Secret, Name: "p", Version: "-", Command: "fake"}
	if err := p.check(); !errors.Is(err, ErrInvalid) {
		t.Errorf("%v", err)
	}
}

// A mount keeps the version that it was made with, whatever else is registered later.
func TestMountKeepsItsVersion(t *testing.T) {
	b := newBench(t)
	b.start()
	sum := sha256.Sum256([]byte("version 1"))
	p := Plugin{Class: Secret, Name: "fake", Version: "v1", Command: "fake", SHA256: hex.EncodeToString(sum[:])}
	if err := b.host.Register(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	m, err := b.host.Enable(t.Context(), secretMount("a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p.Version = range []string{"v2", ""} {
		if err := b.host.Register(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := b.host.Deregister(t.Context(), Secret, "fake", "v1"); !errors.Is(err, ErrInvalid) {
			t.Errorf("deregister what is in use: %v", err)
		}
		if _, err := b.host.ReloadMounts(t.Context(), "a/"); err != nil {
			t.Error(err)
		}
		if version, _ := m.Running(); version != "v1" {
			t.Errorf("version %q runs", version)
		}
	}
	b.stop()
}

// An event whose id was seen is not published, and not counted as if it were.
func TestRepeatedID(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	m := b.host.at(Secret, "", "a")
	for range 2 {
		if err := m.sendEvent(t.Context(), "", "fake/x", &vaultplugin.EventData{ID: "1"}); err != nil {
			t.Fatal(err)
		}
	}
	if published, repeated := testutil.ToFloat64(m.events.published), testutil.ToFloat64(m.events.repeated); published != 1 || repeated != 1 {
		t.Errorf("%v published, %v repeated", published, repeated)
	}
	b.stop()
}
