package compat

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	bao "github.com/openbao/openbao/api/v2"
)

// hostedHub is a hub, run as for real use, that hosts plugins.
type hostedHub struct {
	t       *testing.T
	address string
	process *os.Process
	exited  chan struct{}
	config  string
	home    string
	plugins string // directory
}

// startHosted runs a hub with mounts, in the form of its configuration. "DIR" in it is a
// directory that has the executables of the named plugins.
func startHosted(t *testing.T, mounts string, plugins ...string) *hostedHub {
	t.Helper()
	dir := t.TempDir()
	h := &hostedHub{t: t, config: filepath.Join(dir, "tocsin.yaml"), home: t.TempDir(), plugins: filepath.Join(dir, "plugins")}
	if err := os.Mkdir(h.plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range plugins {
		copyFile(t, pluginBinary(t, name), filepath.Join(h.plugins, name), "")
	}
	text := fmt.Sprintf(`
node: bench
listen: {address: "127.0.0.1:0"}
data_dir: %[1]s/data
auth: {root_token: {file: %[1]s/root}}
plugins:
  storage_key_command: [cat, %[1]s/key]
  directory: %[2]s
  mounts:
%[3]s
log: {level: info}
`, dir, h.plugins, strings.ReplaceAll(mounts, "DIR", h.plugins))
	for file, content := range map[string]string{h.config: text, filepath.Join(dir, "root"): rootToken, filepath.Join(dir, "key"): strings.Repeat("0123456789abcdef", 4)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	t.Cleanup(h.stop)
	return h
}

// copyFile copies an executable and puts something behind it, so that it has another
// checksum.
func copyFile(t *testing.T, from, to, more string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".new", append(content, more...), 0o755)
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (h *hostedHub) start() {
	h.t.Helper()
	program, err := binary()
	if err != nil {
		h.t.Fatal(err)
	}
	addressFile := filepath.Join(h.t.TempDir(), "address")
	hub := exec.Command(program, "server", "--config", h.config, "--address-file", addressFile)
	hub.Env = append(os.Environ(), "HOME="+h.home, "XDG_CACHE_HOME="+h.home, "XDG_CONFIG_HOME="+h.home)
	stderr, err := hub.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := hub.Start(); err != nil {
		h.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			h.t.Log("hub: " + lines.Text())
		}
		hub.Wait()
		close(exited)
	}()
	h.process, h.exited = hub.Process, exited
	h.eventually("the hub listens", func() bool {
		b, err := os.ReadFile(addressFile)
		h.address = strings.TrimSpace(string(b))
		return err == nil && strings.HasSuffix(string(b), "\n")
	})
}

// stop ends the hub in good order.
func (h *hostedHub) stop() {
	h.process.Signal(syscall.SIGTERM)
	select {
	case <-h.exited:
	case <-time.After(15 * time.Second):
		h.process.Kill()
		<-h.exited
		h.t.Error("the hub did not stop within 15 s of SIGTERM")
	}
	h.eventually("no plugin is left", func() bool { return len(h.pids()) == 0 })
}

func (h *hostedHub) eventually(what string, condition func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// pids returns the processes of the hub's plugins. A process that is executed from a
// descriptor has the path as its first argument.
func (h *hostedHub) pids() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		h.t.Skip("there is no /proc")
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environment, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || !strings.Contains(string(environment), "VAULT_BACKEND_PLUGIN=") {
			continue
		}
		arguments, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && strings.HasPrefix(string(arguments), h.plugins) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *hostedHub) client() *api.Client {
	h.t.Helper()
	config := api.DefaultConfig()
	config.Address, config.MaxRetries = h.address, 0
	c, err := api.NewClient(config)
	if err != nil {
		h.t.Fatal(err)
	}
	c.SetToken(rootToken)
	return c
}

// hostedEvent is what a subscriber sees, as far as it is compared.
type hostedEvent struct {
	ID     string
	Source string
	Data   struct {
		Event struct {
			ID       string
			Metadata map[string]any
		}
		EventType  string         `json:"event_type"`
		PluginInfo map[string]any `json:"plugin_info"`
	}
}

// String has type and metadata, in the order of its keys.
func (e *hostedEvent) String() string {
	metadata, _ := json.Marshal(e.Data.Event.Metadata)
	return e.Data.EventType + " " + string(metadata)
}

// follow subscribes as Vault's command line tool does.
func (h *hostedHub) follow(eventType, since string) <-chan *hostedEvent {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	query := url.Values{"json": {"true"}}
	if since != "" {
		query.Set("since", since)
	}
	conn, _, err := dial(ctx, h.client(), eventType, query)
	if err != nil {
		cancel()
		h.t.Fatal(err)
	}
	events, done := make(chan *hostedEvent, 100_000), make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, message, err := conn.Read(ctx)
			if err != nil {
				return
			}
			e := new(hostedEvent)
			if err := json.Unmarshal(message, e); err != nil {
				h.t.Errorf("message %q: %v", message, err)
			}
			events <- e
		}
	}()
	h.t.Cleanup(func() {
		cancel()
		conn.CloseNow()
		<-done
	})
	return events
}

func (h *hostedHub) next(events <-chan *hostedEvent) *hostedEvent {
	h.t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(patience):
		h.t.Fatal("no event")
		return nil
	}
}

const kvMounts = `
    - {path: secret, name: kv, command: DIR/kv, options: {version: "2"}}
    - {path: legacy, name: kv, options: {version: "1"}}
`

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The kv plugin takes "metadata/x/" for "metadata/x"; a rule about that is not got round.
func TestHostedSlash(t *testing.T) {
	h := startHosted(t, kvMounts, "kv")
	ctx, c := t.Context(), h.client()
	_, err := c.KVv2("secret").Put(ctx, "private", map[string]any{"a": "1"})
	must(t, err)
	must(t, c.Sys().PutPolicyWithContext(ctx, "p", `
path "secret/*"                { capabilities = ["read", "delete", "list"] }
path "secret/metadata/private" { capabilities = ["deny"] }`))
	token, err := c.Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{Policies: []string{"p"}})
	must(t, err)
	for _, method := range []string{"GET", "DELETE"} {
		for _, path := range []string{"private", "private/", "private%2F"} {
			r, err := http.NewRequestWithContext(ctx, method, h.address+"/v1/secret/metadata/"+path, nil)
			must(t, err)
			r.Header.Set("X-Vault-Token", token.Auth.ClientToken)
			answer, err := http.DefaultClient.Do(r)
			must(t, err)
			answer.Body.Close()
			if answer.StatusCode != http.StatusForbidden {
				t.Errorf("%s %s: %d", method, path, answer.StatusCode)
			}
		}
	}
	if got, err := c.KVv2("secret").Get(ctx, "private"); err != nil || got.Data["a"] != "1" {
		t.Errorf("it is not there any more: %v", err)
	}
}

// Vault's client uses the real kv plugin through the hub, and its events are those that
// Vault would send, in order.
func TestHostedKV(t *testing.T) {
	h := startHosted(t, kvMounts, "kv")
	events := h.follow("kv*", "")
	ctx, c := t.Context(), h.client()
	two, one := c.KVv2("secret"), c.KVv1("legacy")

	_, err := two.Put(ctx, "foo", map[string]any{"a": "1"})
	must(t, err)
	_, err = two.Put(ctx, "foo", map[string]any{"a": "2"}, api.WithCheckAndSet(1))
	must(t, err)
	if _, err := two.Put(ctx, "foo", map[string]any{"a": "x"}, api.WithCheckAndSet(1)); err == nil || !strings.Contains(err.Error(), "check-and-set parameter did not match") {
		t.Errorf("check-and-set: %v", err)
	}
	_, err = two.Patch(ctx, "foo", map[string]any{"b": "3"})
	must(t, err)
	got, err := two.Get(ctx, "foo")
	must(t, err)
	if fmt.Sprint(got.Data) != "map[a:2 b:3]" || got.VersionMetadata.Version != 3 {
		t.Errorf("read %v %+v", got.Data, got.VersionMetadata)
	}
	first, err := two.GetVersion(ctx, "foo", 1)
	must(t, err)
	if fmt.Sprint(first.Data) != "map[a:1]" {
		t.Errorf("version 1: %v", first.Data)
	}
	must(t, two.Delete(ctx, "foo"))
	deleted, err := two.Get(ctx, "foo") // 404 with a body
	if err != nil || deleted.Data != nil || deleted.VersionMetadata.DeletionTime.IsZero() {
		t.Errorf("deleted: %+v, %v", deleted, err)
	}
	must(t, two.DeleteVersions(ctx, "foo", []int{1, 2}))
	must(t, two.Undelete(ctx, "foo", []int{1, 3}))
	must(t, two.Destroy(ctx, "foo", []int{1}))
	must(t, two.PutMetadata(ctx, "foo", api.KVMetadataPutInput{MaxVersions: 5, CustomMetadata: map[string]any{"owner": "x"}}))
	must(t, two.PatchMetadata(ctx, "foo", api.KVMetadataPatchInput{CustomMetadata: map[string]any{"owner": "y"}}))
	metadata, err := two.GetMetadata(ctx, "foo")
	if err != nil || metadata.CurrentVersion != 3 || metadata.CustomMetadata["owner"] != "y" || !metadata.Versions["1"].Destroyed {
		t.Errorf("metadata %+v, %v", metadata, err)
	}
	list, err := c.Logical().ListWithContext(ctx, "secret/metadata")
	if err != nil || fmt.Sprint(list.Data["keys"]) != "[foo]" {
		t.Errorf("list %+v, %v", list, err)
	}
	must(t, two.DeleteMetadata(ctx, "foo"))
	if list, err := c.Logical().ListWithContext(ctx, "secret/metadata"); list != nil || err != nil {
		t.Errorf("empty list %+v, %v", list, err)
	}
	if _, err := two.Get(ctx, "foo"); err == nil || !strings.Contains(err.Error(), "secret not found") {
		t.Errorf("gone: %v", err)
	}
	_, err = c.Logical().WriteWithContext(ctx, "secret/config", map[string]any{"max_versions": 7})
	must(t, err)
	must(t, one.Put(ctx, "bar", map[string]any{"k": "v"}))
	if got, err := one.Get(ctx, "bar"); err != nil || fmt.Sprint(got.Data) != "map[k:v]" {
		t.Errorf("version 1: %+v, %v", got, err)
	}
	must(t, one.Delete(ctx, "bar"))
	must(t, one.Delete(ctx, "bar"))

	want := []string{
		`kv-v2/data-write {"current_version":"1","data_path":"secret/data/foo","modified":"true","oldest_version":"0","operation":"data-write","path":"secret/data/foo"}`,
		`kv-v2/data-write {"current_version":"2","data_path":"secret/data/foo","modified":"true","oldest_version":"0","operation":"data-write","path":"secret/data/foo"}`,
		`kv-v2/data-patch {"current_version":"3","data_path":"secret/data/foo","modified":"true","oldest_version":"0","operation":"data-patch","path":"secret/data/foo"}`,
		`kv-v2/data-delete {"current_version":"3","modified":"true","oldest_version":"0","operation":"data-delete","path":"secret/data/foo"}`,
		`kv-v2/delete {"current_version":"3","deleted_versions":"[1,2]","modified":"true","oldest_version":"0","operation":"delete","path":"secret/delete/foo"}`,
		`kv-v2/undelete {"current_version":"3","data_path":"secret/data/foo","modified":"true","oldest_version":"0","operation":"undelete","path":"secret/undelete/foo","undeleted_versions":"[1,3]"}`,
		`kv-v2/destroy {"current_version":"3","destroyed_versions":"[1]","modified":"true","oldest_version":"0","operation":"destroy","path":"secret/destroy/foo"}`,
		`kv-v2/metadata-write {"data_path":"secret/metadata/foo","modified":"true","operation":"metadata-write","path":"secret/metadata/foo"}`,
		`kv-v2/metadata-patch {"data_path":"secret/metadata/foo","modified":"true","operation":"metadata-patch","path":"secret/metadata/foo"}`,
		`kv-v2/metadata-delete {"modified":"true","operation":"metadata-delete","path":"secret/metadata/foo"}`,
		`kv-v2/config-write {"data_path":"secret/config","modified":"true","operation":"config-write","path":"secret/config"}`,
		`kv-v1/write {"data_path":"legacy/bar","modified":"true","operation":"write","path":"legacy/bar"}`,
		`kv-v1/delete {"modified":"true","operation":"delete","path":"legacy/bar"}`,
		`kv-v1/delete {"modified":"true","operation":"delete","path":"legacy/bar"}`,
	}
	mounts, err := c.Sys().ListMountsWithContext(ctx)
	must(t, err)
	for _, line := range want {
		e := h.next(events)
		if e.String() != line {
			t.Errorf("got  %s\nwant %s", e, line)
		}
		mount, version := "secret/", "2"
		if strings.HasPrefix(line, "kv-v1") {
			mount, version = "legacy/", "1"
		}
		info := map[string]any{"mount_class": "secret", "mount_accessor": mounts[mount].Accessor, "mount_path": mount, "plugin": "kv", "version": version}
		if !reflect.DeepEqual(e.Data.PluginInfo, info) || e.ID != e.Data.Event.ID || e.Source != "vault://bench" {
			t.Errorf("%s: %v of %s, want %v", line, e.Data.PluginInfo, e.Source, info)
		}
	}
	if pids := h.pids(); len(pids) != 1 {
		t.Errorf("two mounts of one plugin have the processes %v", pids)
	}

	// Over a restart of the hub all is kept.
	_, err = two.Put(ctx, "kept", map[string]any{"a": "1"})
	must(t, err)
	h.stop()
	h.start()
	if got, err := h.client().KVv2("secret").Get(ctx, "kept"); err != nil || fmt.Sprint(got.Data) != "map[a:1]" {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
}

// OpenBao's client does the same, and makes mounts while the hub runs.
func TestHostedOpenBao(t *testing.T) {
	h := startHosted(t, kvMounts, "kv")
	config := bao.DefaultConfig()
	config.Address, config.MaxRetries = h.address, 0
	c, err := bao.NewClient(config)
	must(t, err)
	c.SetToken(rootToken)
	ctx := t.Context()
	sum, err := exec.Command("sha256sum", filepath.Join(h.plugins, "kv")).Output()
	must(t, err)
	must(t, c.Sys().RegisterPluginWithContext(ctx, &bao.RegisterPluginInput{Name: "registered", Type: 3, Command: "kv", SHA256: string(sum[:64])}))
	must(t, c.Sys().MountWithContext(ctx, "team/kv", &bao.MountInput{Type: "registered", Options: map[string]string{"version": "2"}}))
	events := h.follow("kv-v2/*", "")
	_, err = c.KVv2("team/kv").Put(ctx, "a/b", map[string]any{"x": "y"})
	must(t, err)
	if e := h.next(events); e.Data.Event.Metadata["path"] != "team/kv/data/a/b" || e.Data.PluginInfo["plugin"] != "registered" {
		t.Errorf("event %s %v", e, e.Data.PluginInfo)
	}
	if got, err := c.KVv2("team/kv").Get(ctx, "a/b"); err != nil || fmt.Sprint(got.Data) != "map[x:y]" {
		t.Errorf("read %+v, %v", got, err)
	}
	plugins, err := c.Sys().ListPluginsWithContext(ctx, &bao.ListPluginsInput{})
	if err != nil || len(plugins.Details) != 2 {
		t.Errorf("plugins %+v, %v", plugins, err)
	}
	mounts, err := c.Sys().ListMountsWithContext(ctx)
	if err != nil || mounts["team/kv/"] == nil || mounts["team/kv/"].RunningSha256 != string(sum[:64]) {
		t.Errorf("mounts %v, %v", mounts, err)
	}
	must(t, c.Sys().UnmountWithContext(ctx, "team/kv"))
	if _, err := c.KVv2("team/kv").Get(ctx, "a/b"); err == nil {
		t.Error("the mount is still there")
	}
	must(t, c.Sys().DeregisterPluginWithContext(ctx, &bao.DeregisterPluginInput{Name: "registered", Type: 3}))
}

// writer puts values under keys of its own, one after the other, and remembers the last
// that was answered.
type writer struct {
	acknowledged int
	tried        int
	versions     []int // that were answered
}

// writeWhile has writers put secrets while something happens to the plugin. Refusals are
// allowed up to a number.
func (h *hostedHub) writeWhile(writers int, happens func(done func() int)) []*writer {
	h.t.Helper()
	var all []*writer
	var writing sync.WaitGroup
	var stop atomic.Bool
	var done atomic.Int64
	for n := range writers {
		w := new(writer)
		all = append(all, w)
		kv := h.client().KVv2("secret")
		writing.Go(func() {
			for !stop.Load() {
				w.tried++
				stored, err := kv.Put(context.Background(), fmt.Sprintf("w%d", n), map[string]any{"n": w.tried})
				if err != nil {
					h.t.Logf("write %d of writer %d: %v", w.tried, n, err)
					time.Sleep(10 * time.Millisecond)
					continue
				}
				w.acknowledged = w.tried
				w.versions = append(w.versions, stored.VersionMetadata.Version)
				done.Add(1)
			}
		})
	}
	happens(func() int { return int(done.Load()) })
	stop.Store(true)
	writing.Wait()
	return all
}

// check compares what is stored with what was answered, and looks for an event of every
// answered write.
func (h *hostedHub) check(writers []*writer) {
	h.t.Helper()
	kv := h.client().KVv2("secret")
	total := 0
	for n, w := range writers {
		got, err := kv.Get(h.t.Context(), fmt.Sprintf("w%d", n))
		must(h.t, err)
		stored, err := got.Data["n"].(json.Number).Int64()
		must(h.t, err)
		if int(stored) < w.acknowledged || int(stored) > w.tried {
			h.t.Errorf("writer %d: %d is stored, %d was answered, %d tried", n, stored, w.acknowledged, w.tried)
		}
		total += w.acknowledged
	}
	if total == 0 {
		h.t.Fatal("nothing was written")
	}
}

// checkEvents looks for an event of every answered write.
func (h *hostedHub) checkEvents(writers []*writer) {
	h.t.Helper()
	_, err := h.client().KVv2("secret").Put(h.t.Context(), "marker", map[string]any{"a": "1"})
	must(h.t, err)
	events := h.follow("kv-v2/data-write", "oldest")
	seen := make(map[string]int)
	for {
		m := h.next(events).Data.Event.Metadata
		if m["path"] == "secret/data/marker" {
			break
		}
		seen[fmt.Sprint(m["path"], " ", m["current_version"])]++
	}
	for n, w := range writers {
		for _, version := range w.versions {
			if key := fmt.Sprintf("secret/data/w%d %d", n, version); seen[key] != 1 {
				h.t.Errorf("%d events of %s, which was answered", seen[key], key)
			}
		}
	}
}

// kill -9 of the plugin in the middle of writes: the client sees at most a pause, what was
// answered is there, and every answered write has its event.
func TestHostedKill(t *testing.T) {
	h := startHosted(t, kvMounts, "kv")
	_, err := h.client().KVv2("secret").Put(t.Context(), "warm", map[string]any{"a": "1"})
	must(t, err)
	const kills = 4
	writers := h.writeWhile(3, func(done func() int) {
		for range kills {
			before := done()
			h.eventually("some writes", func() bool { return done() > before+20 })
			for _, pid := range h.pids() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		before := done()
		h.eventually("writes after the last kill", func() bool { return done() > before+20 })
	})
	h.check(writers)
	h.checkEvents(writers)
	crashes := 0
	events := h.follow("tocsin/plugin-*", "oldest")
	for crashes < kills {
		if e := h.next(events); e.Data.EventType == "tocsin/plugin-crash" && e.Data.Event.Metadata["mount_path"] == "secret/" {
			crashes++
		}
	}
}

// A running plugin is replaced by another executable while it is used: no request fails.
func TestHostedUpgrade(t *testing.T) {
	h := startHosted(t, "    []\n", "kv")
	ctx, c := t.Context(), h.client()
	register := func(more string) {
		copyFile(t, pluginBinary(t, "kv"), filepath.Join(h.plugins, "kv"), more)
		sum, err := exec.Command("sha256sum", filepath.Join(h.plugins, "kv")).Output()
		must(t, err)
		must(t, c.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{Name: "kv", Type: api.PluginTypeSecrets, Command: "kv", SHA256: string(sum[:64])}))
	}
	register("")
	must(t, c.Sys().MountWithContext(ctx, "secret", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	must(t, c.Sys().MountWithContext(ctx, "second", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	_, err := c.KVv2("second").Put(ctx, "kept", map[string]any{"a": "1"})
	must(t, err)
	first := h.pids()
	writers := h.writeWhile(3, func(done func() int) {
		for i := range 3 {
			before := done()
			h.eventually("some writes", func() bool { return done() > before+10 })
			register(strings.Repeat("x", i+1))
			_, err := c.Sys().ReloadPluginWithContext(ctx, &api.ReloadPluginInput{Plugin: "kv"})
			must(t, err)
		}
	})
	for n, w := range writers {
		if w.acknowledged != w.tried {
			t.Errorf("writer %d: %d of %d writes were answered", n, w.acknowledged, w.tried)
		}
	}
	h.check(writers)
	h.checkEvents(writers)
	if got, err := c.KVv2("second").Get(ctx, "kept"); err != nil || fmt.Sprint(got.Data) != "map[a:1]" {
		t.Errorf("the other mount: %+v, %v", got, err)
	}
	h.eventually("one process", func() bool { return len(h.pids()) == 1 })
	if slices.Equal(first, h.pids()) {
		t.Error("the first process still runs")
	}
	// One that does not start leaves what runs.
	must(t, os.WriteFile(filepath.Join(h.plugins, "kv.new"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	must(t, os.Rename(filepath.Join(h.plugins, "kv.new"), filepath.Join(h.plugins, "kv")))
	if _, err := c.Sys().ReloadPluginWithContext(ctx, &api.ReloadPluginInput{Plugin: "kv"}); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("reload of another executable: %v", err)
	}
	if _, err := c.KVv2("second").Get(ctx, "kept"); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// The plugins end with the hub, also when it is killed, and what was written is there.
func TestHostedHubKilled(t *testing.T) {
	h := startHosted(t, kvMounts, "kv")
	_, err := h.client().KVv2("secret").Put(t.Context(), "a", map[string]any{"a": "1"})
	must(t, err)
	if len(h.pids()) != 1 {
		t.Fatalf("processes %v", h.pids())
	}
	h.process.Kill()
	<-h.exited
	h.eventually("no orphan", func() bool { return len(h.pids()) == 0 })
	h.start()
	if got, err := h.client().KVv2("secret").Get(t.Context(), "a"); err != nil || fmt.Sprint(got.Data) != "map[a:1]" {
		t.Errorf("after the restart: %+v, %v", got, err)
	}
}

// What a plugin should not send is refused and counted, and its writes are answered.
func TestHostedChatty(t *testing.T) {
	h := startHosted(t, "    - {path: chatty, command: DIR/chatty}\n", "chatty")
	events := h.follow("*", "")
	ctx, c := t.Context(), h.client()
	send := func(eventType string, metadata map[string]any, more ...string) {
		t.Helper()
		data := map[string]any{"type": eventType, "metadata": metadata, "id": "given-" + eventType}
		for i := 0; i+1 < len(more); i += 2 {
			data[more[i]] = more[i+1]
		}
		if _, err := c.Logical().WriteWithContext(ctx, "chatty/send", data); err != nil {
			t.Errorf("%s: %v", eventType, err)
		}
	}
	send("chatty/out", map[string]any{"path": "../other"})
	send("audit/request", map[string]any{"path": "x"})
	send("tocsin/token-create", map[string]any{"path": "x"})
	send("chatty/large", map[string]any{"k": strings.Repeat("v", 100<<10)})
	send("", map[string]any{"path": "x"})
	send("chatty/good", map[string]any{"path": "x"})
	for {
		e := h.next(events)
		if !strings.HasPrefix(e.Data.EventType, "chatty/") {
			if strings.HasPrefix(e.Data.EventType, "audit/") || e.Data.EventType == "tocsin/token-create" {
				t.Errorf("published %s", e)
			}
			continue
		}
		if e.Data.EventType != "chatty/good" || e.Data.Event.Metadata["path"] != "chatty/x" {
			t.Errorf("published %s", e)
		}
		break
	}
}

// codeBlock is a block of a page.
var codeBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// The plugin of the tutorial is the one that is built here, and does what the page says.
func TestTutorial(t *testing.T) {
	page, err := os.ReadFile("../../docs/plugin-tutorial.md")
	must(t, err)
	source, err := os.ReadFile("plugins/hello/main.go")
	must(t, err)
	if m := codeBlock.FindSubmatch(page); m == nil || string(m[1]) != string(source) {
		t.Error("docs/plugin-tutorial.md does not show test/compat/plugins/hello/main.go as it is")
	}
	dir := t.TempDir()
	copyFile(t, pluginBinary(t, "hello"), filepath.Join(dir, "hello"), "")
	program, err := binary()
	must(t, err)
	addressFile := filepath.Join(dir, "address")
	hub := exec.Command(program, "plugin", "run", "./hello", "--listen", "127.0.0.1:0", "--root-token", rootToken, "--address-file", addressFile)
	hub.Dir = dir
	hub.Env = append(os.Environ(), "HOME="+dir, "XDG_CACHE_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	hub.Stderr = t.Output()
	out, err := hub.StdoutPipe()
	must(t, err)
	must(t, hub.Start())
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			t.Log(s.Text())
			lines <- s.Text()
		}
		io.Copy(io.Discard, out)
	}()
	t.Cleanup(func() {
		hub.Process.Signal(syscall.SIGTERM)
		hub.Wait()
		if rest, _ := os.ReadDir(os.TempDir()); slices.ContainsFunc(rest, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "tocsin-plugin-") }) {
			t.Log("there are data directories in", os.TempDir())
		}
	})
	h := &hostedHub{t: t}
	h.eventually("the hub listens", func() bool {
		b, err := os.ReadFile(addressFile)
		h.address = strings.TrimSpace(string(b))
		return err == nil
	})
	want := func(pattern string) {
		t.Helper()
		timeout := time.After(patience)
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatalf("it has ended; no line like %s", pattern)
				}
				if regexp.MustCompile(pattern).MatchString(line) {
					return
				}
			case <-timeout:
				t.Fatalf("no line like %s", pattern)
			}
		}
	}
	want(`Plugin +hello, .*/hello, runs`)
	write := func(name string) {
		t.Helper()
		_, err := h.client().Logical().WriteWithContext(t.Context(), "hello/greetings/"+name, map[string]any{"text": "Hello"})
		must(t, err)
	}
	write("world")
	want(`hello/greeting-write +hello/greetings/world +name=world`)
	copyFile(t, pluginBinary(t, "hello"), filepath.Join(dir, "hello"), "another build")
	want(`tocsin/plugin-reload +sys/mounts/hello`)
	write("again")
	want(`hello/greeting-write +hello/greetings/again +name=again`)
	if got, err := h.client().Logical().ReadWithContext(t.Context(), "hello/greetings/world"); err != nil || got.Data["text"] != "Hello" {
		t.Errorf("after the reload: %+v, %v", got, err)
	}
}

// The commands for the plugins of a hub that runs.
func TestHostedCommands(t *testing.T) {
	h := startHosted(t, kvMounts, "kv")
	program, err := binary()
	must(t, err)
	tocsin := func(want string, args ...string) {
		t.Helper()
		command := exec.Command(program, args...)
		command.Env = append(os.Environ(), "HOME="+h.home, "XDG_CONFIG_HOME="+h.home, "XDG_CACHE_HOME="+h.home, "TOCSIN_ADDR="+h.address, "TOCSIN_TOKEN="+rootToken)
		out, err := command.CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			t.Errorf("%s: %v, want %s\n%s", strings.Join(args, " "), err, want, out)
		}
	}
	tocsin(`secret +kv +legacy/, secret/`, "plugin", "list")
	tocsin(`command +.*/kv`, "plugin", "info", "secret", "kv")
	tocsin(`Plugin mine is registered with the sha256 [0-9a-f]{64}`, "plugin", "register", "secret", "mine", "--command", "kv", "--file", filepath.Join(h.plugins, "kv"), "--version", "v1.0.0", "--env", "A=b")
	must(t, h.client().Sys().Mount("mine", &api.MountInput{Type: "mine"}))
	tocsin(`secret +mine +v1.0.0 +mine/`, "plugin", "list")
	tocsin(`"sha256": "[0-9a-f]{64}"`, "plugin", "info", "secret", "mine", "--format", "json")
	tocsin(`Reloaded: mine/`, "plugin", "reload", "mine")
	tocsin(`Reloaded: secret/`, "plugin", "reload", "--mount", "secret")
	must(t, h.client().Sys().Unmount("mine"))
	tocsin(`Plugin mine is not in the catalog`, "plugin", "deregister", "secret", "mine", "--version", "v1.0.0")
}

// The real command line tool, which asks for the mount before it does something.
func TestRealCommandLineKV(t *testing.T) {
	program := os.Getenv(vaultCLI)
	if program == "" {
		t.Skip(vaultCLI + " names no vault or bao executable")
	}
	h := startHosted(t, kvMounts, "kv")
	c := &cli{t, program, []string{"HOME=" + h.home, "PATH=" + os.Getenv("PATH")}}
	for _, prefix := range []string{"VAULT_", "BAO_"} {
		c.env = append(c.env, prefix+"ADDR="+h.address, prefix+"TOKEN="+rootToken, prefix+"MAX_RETRIES=0")
	}
	c.want(0, "", []string{"secret/data/app", "version"}, "kv", "put", "secret/app", "password=x")
	c.want(0, "", []string{"password", "x"}, "kv", "get", "secret/app")
	c.want(0, "", []string{"version"}, "kv", "patch", "secret/app", "user=y")
	c.want(0, "", []string{"app"}, "kv", "list", "secret")
	c.want(0, "", []string{"Success!"}, "kv", "put", "legacy/app", "a=b")
	c.want(0, "", []string{"Success!"}, "kv", "delete", "secret/app")
	c.want(0, "", []string{"Success!"}, "secrets", "enable", "-path=more", "-version=2", "kv")
	c.want(0, "", []string{"more/", "secret/"}, "secrets", "list")
	c.want(0, "", []string{"version"}, "kv", "put", "-mount=more", "a", "b=c")
	c.want(0, "", []string{"Success!"}, "secrets", "disable", "more")
	c.want(0, "", []string{"kv"}, "plugin", "list")
}

// An auth plugin lets people in, with the policies that the configuration allows it to give.
func TestHostedAuth(t *testing.T) {
	h := startHosted(t, `
    - {path: gate, type: auth, command: DIR/gate, login_policies: ["team-*"]}
    - {path: closed, type: auth, name: gate}
`, "gate")
	events := h.follow("gate/*", "")
	ctx, c := t.Context(), h.client()
	must(t, c.Sys().PutPolicy("team-a", `path "secret/x" { capabilities = ["read"] }`))
	c.ClearToken()
	login := func(path, password string) (*api.Secret, error) {
		return c.Logical().WriteWithContext(ctx, path, map[string]any{"password": password, "policies": "team-a,admin,root"})
	}
	in, err := login("auth/gate/login/jo", "open sesame")
	must(t, err)
	if fmt.Sprint(in.Auth.Policies) != "[default team-a]" || in.Auth.LeaseDuration != 600 || in.Auth.Metadata["user"] != "jo" {
		t.Errorf("login %+v", in.Auth)
	}
	if e := h.next(events); e.String() != `gate/login {"address":"127.0.0.1","path":"auth/gate/login/jo","user":"jo"}` || e.Data.PluginInfo["mount_class"] != "auth" || e.Data.PluginInfo["mount_path"] != "gate/" {
		t.Errorf("event %s %v", e, e.Data.PluginInfo)
	}
	if _, err := login("auth/gate/login/jo", "wrong"); err == nil || !strings.Contains(err.Error(), "invalid password") {
		t.Errorf("wrong password: %v", err)
	}
	if e := h.next(events); e.Data.EventType != "gate/login-fail" {
		t.Errorf("event %s", e)
	}
	if got, err := login("auth/closed/login/jo", "open sesame"); err == nil || !strings.Contains(err.Error(), "login_policies") {
		t.Errorf("a mount without login_policies: %+v, %v", got, err)
	}
	c.SetToken(in.Auth.ClientToken)
	if self, err := c.Auth().Token().LookupSelfWithContext(ctx); err != nil || self.Data["path"] != "auth/gate/login/jo" {
		t.Errorf("its token %+v, %v", self, err)
	}
	if _, err := c.Logical().ReadWithContext(ctx, "sys/mounts"); err == nil {
		t.Error("the token can do more than its policies say")
	}
}

// A request that hangs times out and costs others nothing; one that ends the process is
// repeated once and then refused, and the plugin is started again.
func TestHostedHangAndExit(t *testing.T) {
	h := startHosted(t, "    - {path: chatty, command: DIR/chatty}\n  request_timeout: 1s\n", "chatty")
	ctx, c := t.Context(), h.client()
	store := func(value string) {
		t.Helper()
		_, err := c.Logical().WriteWithContext(ctx, "chatty/store/a", map[string]any{"value": value})
		must(t, err)
	}
	store("1")
	pids := h.pids()
	hangs := make(chan error)
	go func() {
		_, err := c.Logical().ReadWithContext(ctx, "chatty/hang")
		hangs <- err
	}()
	store("2")
	if err := <-hangs; err == nil || !strings.Contains(err.Error(), "did not answer in time") || !strings.Contains(err.Error(), "Code: 504") {
		t.Errorf("hang: %v", err)
	}
	store("3")
	if !slices.Equal(pids, h.pids()) {
		t.Error("a plugin that is only slow was ended")
	}
	for _, path := range []string{"chatty/exit/3", "chatty/exit/0"} {
		if _, err := c.Logical().ReadWithContext(ctx, path); err == nil || !strings.Contains(err.Error(), "Code: 503") {
			t.Errorf("%s: %v", path, err)
		}
		store("4")
	}
	events := h.follow("tocsin/plugin-crash", "oldest")
	for _, reason := range []string{"exit status 3", "exit status 3", "exit status 0", "exit status 0"} {
		if e := h.next(events); e.Data.Event.Metadata["reason"] != reason {
			t.Errorf("crash %v, want %s", e.Data.Event.Metadata, reason)
		}
	}
}
