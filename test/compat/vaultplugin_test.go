package compat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// pluginDir is where plugins are built, once each.
var pluginDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "tocsin-plugins-") })

var pluginBuilds sync.Map // name to func() (string, error)

// pluginBinary builds the executable of plugins/NAME.
func pluginBinary(t testing.TB, name string) string {
	t.Helper()
	build, _ := pluginBuilds.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		dir, err := pluginDir()
		if err != nil {
			return "", err
		}
		program := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-o", program, "./plugins/"+name)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build: %w\n%s", err, out)
		}
		return program, nil
	}))
	program, err := build.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// launch starts a plugin that ends with the test.
func launch(t testing.TB, name string, env ...string) *vaultplugin.Process {
	t.Helper()
	p, err := vaultplugin.Launch(t.Context(), vaultplugin.Options{
		Name:    name,
		Command: pluginBinary(t, name),
		Env:     env,
		Logger:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// pluginMount is a mount of a plugin with a storage in memory and a record of its events.
type pluginMount struct {
	*vaultplugin.Backend
	storage *memoryStorage

	mu     sync.Mutex
	events []pluginEvent
}

type pluginEvent struct {
	kind string
	data *vaultplugin.EventData
}

// String is the event in a form to compare: the type and the metadata in key order.
func (e pluginEvent) String() string {
	text := e.kind
	for _, f := range e.data.Metadata {
		text += fmt.Sprintf(" %s=%s", f.Key, f.Value)
	}
	return text
}

func openMount(t testing.TB, p *vaultplugin.Process, config map[string]string) *pluginMount {
	t.Helper()
	m := &pluginMount{storage: newMemoryStorage()}
	var err error
	m.Backend, err = p.Open(t.Context(), vaultplugin.Setup{
		Config:      config,
		BackendUUID: "7f3b2a54-0000-4000-8000-000000000001",
		Storage:     m.storage,
		SendEvent: func(_ context.Context, kind string, data *vaultplugin.EventData) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.events = append(m.events, pluginEvent{kind, data})
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Initialize(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// taken returns the events since the last call.
func (m *pluginMount) taken() []pluginEvent {
	m.mu.Lock()
	defer m.mu.Unlock()
	events := m.events
	m.events = nil
	return events
}

// do sends a request as a front end does: with an existence check before a write.
func (m *pluginMount) do(ctx context.Context, op vaultplugin.Operation, path string, data map[string]any) (*vaultplugin.Response, error) {
	r := &vaultplugin.Request{ID: "r", Operation: op, Path: path, Data: data, MountPoint: "mount/"}
	if op == vaultplugin.UpdateOperation {
		found, exists, err := m.HandleExistenceCheck(ctx, r)
		if err != nil {
			return nil, err
		}
		if found && !exists {
			r.Operation = vaultplugin.CreateOperation
		}
	}
	return m.HandleRequest(ctx, r)
}

// upgraded waits until kv v2 has made itself ready, and forgets what it said.
func (m *pluginMount) upgraded(t testing.TB) {
	t.Helper()
	eventually(t, func() error {
		r, err := m.do(t.Context(), vaultplugin.ReadOperation, "config", nil)
		if text, failed := r.ErrorText(); failed {
			return errors.New(text)
		}
		return err
	})
	m.taken()
}

func eventually(t testing.TB, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// memoryStorage is the obvious storage.
type memoryStorage struct {
	mu      sync.Mutex
	entries map[string][]byte
	fail    error // of writes
}

func newMemoryStorage() *memoryStorage { return &memoryStorage{entries: map[string][]byte{}} }

func (s *memoryStorage) List(_ context.Context, prefix string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for key := range s.entries {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			rest = rest[:i+1]
		}
		if !slices.Contains(names, rest) {
			names = append(names, rest)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (s *memoryStorage) Get(_ context.Context, key string) (*vaultplugin.StorageEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, ok := s.entries[key]; ok {
		return &vaultplugin.StorageEntry{Key: key, Value: value}, nil
	}
	return nil, nil
}

func (s *memoryStorage) Put(_ context.Context, e *vaultplugin.StorageEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.entries[e.Key] = e.Value
	return nil
}

func (s *memoryStorage) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	delete(s.entries, key)
	return nil
}
