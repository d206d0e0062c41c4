package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/source/plugin"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// ticker is a plugin of which a test says what Next does.
type ticker struct {
	id   uint32
	next func(ctx context.Context, b *sourceplugin.Batch) error
}

func (p *ticker) Describe() *sourceplugin.Description {
	return &sourceplugin.Description{Name: fmt.Sprintf("ticker%d", p.id), Version: "1.0.0", ID: p.id, EventSource: "ticks", Capabilities: sourceplugin.Capabilities{Source: true, Metrics: true}}
}
func (*ticker) OpenParams(context.Context) ([]sourceplugin.OpenParam, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (p *ticker) Open(context.Context, sourceplugin.Open) (sourceplugin.Stream, error) {
	return tickerStream{p}, nil
}
func (*ticker) Strings(context.Context, []sourceplugin.Event) ([]string, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (*ticker) Extract(context.Context, []sourceplugin.Event, []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
	return sourceplugin.Values{}, sourceplugin.ErrNotSupported
}
func (*ticker) Metrics(context.Context) ([]sourceplugin.Metric, error) {
	return []sourceplugin.Metric{{Name: "ticks", Value: 7}}, nil
}
func (*ticker) SetConfig(context.Context, string) error { return sourceplugin.ErrNotSupported }
func (*ticker) Close(context.Context) error             { return nil }

type tickerStream struct{ p *ticker }

func (s tickerStream) Next(ctx context.Context, b *sourceplugin.Batch) error { return s.p.next(ctx, b) }
func (tickerStream) Acknowledge(context.Context, []byte) error               { return nil }
func (tickerStream) Close(context.Context) error                             { return nil }
func (tickerStream) Progress(context.Context) (sourceplugin.Progress, error) {
	return sourceplugin.Progress{}, sourceplugin.ErrNotSupported
}

func sourceOf(name, command string) config.SourcePlugin {
	p := config.DefaultSourcePlugin()
	p.Name, p.Command = name, command
	return p
}

// sourceWithAllIncidents configures a source plugin that fails, runs well, and ends when it is
// asked to by the function.
func sourceWithAllIncidents(o *Options) (end func(*testing.T, *App)) {
	o.Config.Plugins.Sources = append(o.Config.Plugins.Sources, sourceOf("incidents", "/incidents"))
	o.steadyAfter = 10 * time.Millisecond
	started, ending := false, make(chan struct{})
	o.LaunchSource = func(context.Context, SourceProcess) (sourceplugin.Plugin, error) {
		if !started {
			started = true
			return nil, errors.New("not yet")
		}
		return &ticker{1, func(ctx context.Context, _ *sourceplugin.Batch) error {
			select {
			case <-ending:
				return io.EOF
			case <-ctx.Done():
				return ctx.Err()
			}
		}}, nil
	}
	return func(t *testing.T, a *App) {
		t.Helper()
		await := func(what string) {
			t.Helper()
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
				i := slices.IndexFunc(a.sources.all, func(s namedSource) bool { return s.name == "incidents" })
				status := a.sources.all[i].source.(*plugin.Source).Status()
				if fmt.Sprint(status.State, " ", status.Failures) == what {
					return
				} else if time.Now().After(deadline) {
					t.Fatalf("the source is %+v", status)
				}
			}
		}
		await("running 0")
		close(ending)
		await("ended 0")
	}
}

// Of three sources one fails, one hangs and one works: its events come, and the others are told
// of in health, metrics and events.
func TestPluginSources(t *testing.T) {
	o := options(t)
	hanging := sourceOf("hanging", "/hanging")
	hanging.CallTimeout = config.Duration(time.Second)
	o.Config.Plugins.Sources = []config.SourcePlugin{sourceOf("failing", "/failing"), hanging, sourceOf("working", "/working")}
	o.LaunchSource = func(_ context.Context, p SourceProcess) (sourceplugin.Plugin, error) {
		switch p.Command {
		case "/failing":
			return &ticker{1, func(context.Context, *sourceplugin.Batch) error { return io.ErrUnexpectedEOF }}, nil
		case "/hanging":
			stop := make(chan struct{})
			time.AfterFunc(3*time.Second, func() { close(stop) }) // as when its process is killed
			return &ticker{2, func(context.Context, *sourceplugin.Batch) error { <-stop; return io.ErrClosedPipe }}, nil
		}
		return &ticker{3, func(ctx context.Context, b *sourceplugin.Batch) error {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			b.Events, b.Count = scapevent.Append(b.Events, 3, scapevent.NoTime, []byte(`{"tick":1}`)), 1
			return nil
		}}, nil
	}
	a, _ := start(t, o)
	awaitText := func(page string, wants ...string) string {
		t.Helper()
		var text string
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			r, _ := http.NewRequest(http.MethodGet, a.URL()+page, nil)
			r.Header.Set("X-Vault-Token", root)
			if answer, err := http.DefaultClient.Do(r); err == nil {
				b, _ := io.ReadAll(answer.Body)
				answer.Body.Close()
				text = string(b)
			}
			if !slices.ContainsFunc(wants, func(w string) bool { return !strings.Contains(text, w) }) {
				return text
			}
			if time.Now().After(end) {
				t.Fatalf("%s is\n%s\nwithout %q", page, text, wants)
			}
		}
	}
	awaitText("/api/v1/plugin-sources/failing", `"kind":"failure"`, "its stream has failed: unexpected EOF")
	awaitText("/api/v1/plugin-sources/hanging", `"kind":"timeout"`)
	awaitText("/api/v1/plugin-sources/working", `"state":"running"`, `"event_source":"ticks"`)
	awaitText("/api/v1/plugin-sources", `"name":"failing"`, `"name":"hanging"`, `"name":"working"`)
	health := awaitText("/api/v1/health", `"status":"degraded"`, "the plugin or its stream has failed; the log says why")
	if strings.Contains(health, "unexpected EOF") {
		t.Errorf("health has the plugin's text: %s", health)
	}
	awaitText("/metrics", `tocsin_plugin_source_up{source="working"} 1`, `tocsin_plugin_metric{metric="ticks",source="working"} 7`, `tocsin_appended_total{component="source",name="working"}`)
	missing := map[string]bool{
		"falco/ticks falco/ticks/working":                        true,
		"tocsin/plugin-source-failed sys/plugin-sources/failing": true,
		"tocsin/plugin-source-failed sys/plugin-sources/hanging": true,
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := a.journal.Read(journal.Position{})
	for len(missing) > 0 {
		b, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("there is no %v: %v", missing, err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			delete(missing, b.Event(i).Type+" "+b.Event(i).Path)
		}
	}
}

func TestSourceProcess(t *testing.T) {
	t.Setenv("FOR_PLUGIN", "secret")
	t.Setenv("VERBOSE", "true")
	c := sourceOf("", "/opt/weather")
	c.Args, c.Env, c.PassEnv, c.Config = []string{"-v"}, config.Texts{"A": "b"}, []string{"FOR_PLUGIN", "NOT_THERE", "VERBOSE"}, map[string]any{"a": int64(1)}
	p := sourceProcess(c, "/usr/bin/tocsin")
	if p.Source != "weather" || p.Command != "/opt/weather" || !slices.Equal(p.Args, []string{"-v"}) || !slices.Equal(p.Env, []string{"A=b", "FOR_PLUGIN=secret", "VERBOSE=true"}) || !slices.Equal(p.Secrets, []string{"secret"}) || p.File != "/opt/weather" || p.Config != `{"a":1}` {
		t.Errorf("%+v", p)
	}
	c = config.DefaultSourcePlugin()
	c.Library = "/opt/libk8saudit.so"
	p = sourceProcess(c, "/usr/bin/tocsin")
	if p.Source != "k8saudit" || p.Command != "/usr/bin/tocsin" || !slices.Equal(p.Args, []string{"plugin-host", "/opt/libk8saudit.so"}) || p.File != "/opt/libk8saudit.so" {
		t.Errorf("%+v", p)
	}
}

// A program whose checksum is wrong is not started, and one that is no plugin is told of.
func TestChecksumOfSource(t *testing.T) {
	program, err := exec.LookPath("true")
	if err != nil {
		t.Skip(err)
	}
	wrong := sourceOf("wrong", program)
	wrong.SHA256 = strings.Repeat("0a", 32)
	_, err = launchSource(t.Context(), sourceProcess(wrong, ""))
	if !errors.Is(err, pluginprocess.ErrChecksum) {
		t.Error(err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	right := sourceOf("right", program)
	right.SHA256 = fmt.Sprintf("%x", sha256.Sum256(content))
	if _, err := launchSource(t.Context(), sourceProcess(right, "")); !errors.Is(err, sourceplugin.ErrExited) {
		t.Error(err)
	}
}

// The checksum of a library goes to the process that loads it.
func TestChecksumOfLibrary(t *testing.T) {
	dir := t.TempDir()
	host, library := filepath.Join(dir, "host"), filepath.Join(dir, "plugin.so")
	if err := os.WriteFile(host, []byte("#!/bin/sh\necho got \"$@\" >&2; exit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := config.DefaultSourcePlugin()
	c.Library, c.SHA256 = library, strings.Repeat("0a", 32)
	if _, err := launchSource(t.Context(), sourceProcess(c, host)); err == nil || !strings.Contains(err.Error(), "got plugin-host --sha256 "+c.SHA256+" "+library) {
		t.Error(err)
	}
}
