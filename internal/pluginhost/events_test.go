package pluginhost

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

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
	// So does one whose request was cancelled.
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	who, _ := b.host.Find("", "auth/u/x")
	if err := who.sendEvent(cancelled, "", "who/cancelled", &vaultplugin.EventData{ID: "c"}); err != nil || len(b.intake.all()) != before+2 {
		t.Errorf("a cancelled request: %v", err)
	}
	// One that does not is told to the plugin.
	b.intake.mu.Lock()
	b.intake.fail = []error{&journal.PushbackError{RetryAfter: time.Hour}}
	b.intake.mu.Unlock()
	if err := who.sendEvent(t.Context(), "", "who/late", &vaultplugin.EventData{ID: "q"}); err == nil {
		t.Error("the plugin is not told")
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
