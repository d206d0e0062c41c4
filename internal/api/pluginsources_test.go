package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/source/plugin"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

type fixedSources []plugin.Status

func (f fixedSources) Statuses() []plugin.Status { return f }

// How source plugins are is told to those who may read it.
func TestPluginSources(t *testing.T) {
	at := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	n := startNode(t, func(o *Options) {
		o.PluginSources = fixedSources{
			{
				Name: "a", State: plugin.Waiting, Since: at, Plugin: "k8saudit", Version: "0.18.0", ID: 1, EventSource: "k8s_audit", Resumable: true, Events: 5, Dropped: 2,
				LastEvent: at, Progress: &sourceplugin.Progress{Fraction: 0.5, Text: "half"}, Starts: 3, Failures: 2,
				LastError: "connection refused", LastErrorKind: plugin.Broken, LastErrorAt: at, NextStart: at.Add(time.Second),
			},
			{Name: "b", State: plugin.Idle, Since: at},
		}
	})
	get := func(path, token string) ask {
		return ask{method: "GET", path: "/api/v1/plugin-sources" + path, token: token}
	}
	list := decoded[PluginSourceList](t, n.must(get("", ""))).Sources
	if len(list) != 2 || list[1].Name != "b" || list[1].LastEvent != nil || list[1].LastError != nil {
		t.Fatalf("%+v", list)
	}
	a := decoded[PluginSource](t, n.must(get("/a", "")))
	if a.State != "waiting" || a.Events != 5 || a.Dropped != 2 || a.Progress.Fraction != 0.5 || a.LastError.Kind != "failure" || a.LastError.Reason != "connection refused" || !a.NextStart.Equal(at.Add(time.Second)) {
		t.Errorf("%+v", a)
	}
	for name, tc := range map[string]struct {
		q    ask
		want int
	}{
		"unknown":   {get("/c", ""), http.StatusNotFound},
		"parameter": {get("/a?x=1", ""), http.StatusBadRequest},
		"method":    {ask{method: "POST", path: "/api/v1/plugin-sources/a"}, http.StatusMethodNotAllowed},
	} {
		if status, b := n.do(tc.q); status != tc.want {
			t.Errorf("%s: %d %v", name, status, b)
		}
	}

	policies := map[string]string{
		"all":   `path "sys/plugin-sources/*" { capabilities = ["read", "list"] }`,
		"list":  `path "sys/plugin-sources/" { capabilities = ["list"] }`,
		"look":  `path "sys/plugin-sources/a" { capabilities = ["read"] }`,
		"but-a": `path "sys/plugin-sources/*" { capabilities = ["read", "list"] } path "sys/plugin-sources/a" { capabilities = ["deny"] }`,
	}
	tokens := map[string]string{"root": "root", "none": "-", "unknown": "nope"}
	for name, text := range policies {
		n.putPolicy("", name, text)
		tokens[name] = n.newToken(fmt.Sprintf(`{"policies":[%q],"ttl":"1h"}`, name))
	}
	for path, allowed := range map[string]string{"": "root all list but-a", "/a": "root all look"} {
		for name, token := range tokens {
			want := http.StatusForbidden
			if slices.Contains(strings.Fields(allowed), name) {
				want = http.StatusOK
			}
			status, b := n.do(get(path, token))
			if status != want {
				t.Errorf("%s as %s: %d %v", path, name, status, b)
			}
			if path == "" && name == "but-a" && strings.Contains(fmt.Sprint(b), "k8saudit") {
				t.Errorf("%v", b)
			}
		}
	}
}
