package compat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/derivation"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// freePort returns a port that nothing listens on at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// One hub receives all audit devices of one real server at once, and asks it for what
// they hide: every entry is stored once, although it comes over each of them, and the
// version lists of the command line tool can be read.
func TestRealServerWithAllDevices(t *testing.T) {
	s := startVault(t)
	dir := s.dir
	tcp, udp := freePort(t), freePort(t)
	devices := []struct{ name, kind, address, enable string }{
		{"file", "vault_audit_file", "", "file file_path=" + dir + "/audit.log"},
		{"unix", "vault_audit_socket", "unix:" + dir + "/audit.sock", "socket socket_type=unix address=" + dir + "/audit.sock"},
		{"tcp", "vault_audit_socket", "tcp:127.0.0.1:" + tcp, "socket socket_type=tcp address=127.0.0.1:" + tcp},
		{"udp", "vault_audit_socket", "udp:127.0.0.1:" + udp, "socket socket_type=udp address=127.0.0.1:" + udp},
		{"syslog", "vault_audit_syslog", "unixgram:/dev/log", "syslog tag=vault facility=AUTH"},
	}
	if _, err := os.Lstat("/dev/log"); !errors.Is(err, fs.ErrNotExist) || os.Geteuid() != 0 {
		t.Log("without syslog: /dev/log cannot be ours")
		devices = devices[:len(devices)-1]
	} else {
		t.Cleanup(func() { os.Remove("/dev/log") })
	}
	var sources strings.Builder
	for _, d := range devices {
		where := "address: \"" + d.address + "\""
		if d.address == "" {
			where = "path: " + dir + "/audit.log"
		}
		fmt.Fprintf(&sources, "  - {name: %s, server: vault, type: %s, %s, vault: {address: %q, token: {file: %s/root}, device: %s}}\n",
			d.name, d.kind, where, s.address, dir, d.name)
	}
	config := filepath.Join(dir, "tocsin.yaml")
	for file, text := range map[string]string{
		filepath.Join(dir, "root"): rootToken,
		config: fmt.Sprintf("listen: {address: \"127.0.0.1:0\"}\ndata_dir: %[1]s/data\nauth: {root_token: {file: %[1]s/root}}\nsources:\n%[2]s",
			dir, &sources),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hub := run(t, "server", "--config", config)

	// The hub is there first: a new device is tried at once.
	for _, d := range devices {
		s.run(0, "", append([]string{"audit", "enable", "-path=" + d.name}, strings.Fields(d.enable)...)...)
	}
	// Each device was unknown when the server was asked first.
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		status, text := getJSON(t, hub+"/api/v1/health")
		if status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("health: %d %s", status, text)
		}
	}
	for i := range 5 {
		s.run(0, "", "kv", "put", "secret/app", fmt.Sprintf("password=%d", i))
	}
	s.run(0, "", "kv", "delete", "-versions=2,3", "secret/app")
	s.run(0, "", "kv", "undelete", "-versions=3", "secret/app")
	s.run(0, "", "kv", "destroy", "-versions=1", "secret/app")
	s.post("secret/data/large", `{"data":{"`+strings.Repeat("k", 60_000)+`":1}}`) // near what a datagram over UDP can have
	s.run(0, "", "kv", "put", "secret/end", "x=1")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sub, err := client.Subscribe(ctx, "*", client.Options{Address: hub, Token: rootToken, Since: "oldest", Format: client.FormatCloudEvents})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	var events []*event.Event
	for {
		m, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("after %d events: %v", len(events), err)
		}
		events = append(events, m.Event)
		if m.Event.Type == "kv-v2/data-write" && m.Event.Path == "secret/data/end" {
			break
		}
	}

	seen := make(map[string]int)
	over := make(map[string]int)
	for _, e := range events {
		switch e.Type {
		case vaultaudit.TypeRequest, vaultaudit.TypeResponse:
			id, _ := e.Metadata.Text("request_id")
			path, _ := e.Metadata.Text("request_path")
			device, ok := e.Metadata.Text("device")
			if !ok {
				device = "the first"
			}
			over[device]++
			if id == "" || path == "sys/audit/test" { // the probe of a device is its own
				continue
			}
			if seen[e.Type+" "+id]++; seen[e.Type+" "+id] > 1 {
				t.Errorf("%s of %s %s is there %d times", e.Type, path, id, seen[e.Type+" "+id])
			}
		case vaultaudit.TypeQuarantined, vaultaudit.TypeLost:
			t.Errorf("%s: %s %s", e.Type, e.Note, e.Data)
		}
	}
	t.Logf("%d entries, first over these devices: %v", len(seen), over)
	if len(over) < 2 {
		t.Errorf("entries came over %v", over)
	}
	for path, want := range map[string]string{
		"secret/data/app":     "[kv-v2/data-write current_version=1 kv-v2/data-write current_version=2 kv-v2/data-write current_version=3 kv-v2/data-write current_version=4 kv-v2/data-write current_version=5]",
		"secret/delete/app":   "[kv-v2/delete current_version=5 deleted_versions=[2,3]]",
		"secret/undelete/app": "[kv-v2/undelete current_version=5 undeleted_versions=[3]]",
		"secret/destroy/app":  "[kv-v2/destroy current_version=5 destroyed_versions=[1]]",
		"secret/data/large":   "[kv-v2/data-write current_version=1]",
	} {
		if got := fmt.Sprint(notifications(events, path)); got != want {
			t.Errorf("%s: %s\nwant %s", path, got, want)
		}
	}
	for _, e := range events {
		if v, ok := e.Extensions.Text(derivation.ExtCertainty); ok && strings.HasPrefix(e.Type, "kv-") {
			t.Errorf("%s of %s is %s", e.Type, e.Path, v)
		}
	}
}

// A hub that goes away and comes back costs the server no time and no request, as there
// is a second device, and what it wrote meanwhile is there afterwards, once.
func TestRealServerWhileTheHubRestarts(t *testing.T) {
	s := startVault(t)
	dir := s.dir
	config := filepath.Join(dir, "tocsin.yaml")
	for file, text := range map[string]string{
		filepath.Join(dir, "root"): rootToken,
		config: fmt.Sprintf(`listen: {address: "127.0.0.1:0"}
data_dir: %[1]s/data
auth: {root_token: {file: %[1]s/root}}
sources:
  - {name: file, server: vault, path: %[1]s/audit.log}
  - {name: unix, server: vault, type: vault_audit_socket, address: "unix:%[1]s/audit.sock"}
`, dir),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, stop := runUntil(t, "server", "--config", config)
	s.run(0, "", "audit", "enable", "file", "file_path="+dir+"/audit.log")
	s.run(0, "", "audit", "enable", "-path=unix", "socket", "socket_type=unix", "address="+dir+"/audit.sock")

	// One writer, who goes on through all of it.
	const each = 150
	var slowest time.Duration
	written := 0
	write := func(n int) {
		for range n {
			start := time.Now()
			written++
			s.post("secret/data/k", fmt.Sprintf(`{"data":{"n":%d}}`, written))
			slowest = max(slowest, time.Since(start))
		}
	}
	write(each)
	done := make(chan struct{})
	go func() { defer close(done); stop() }()
	for stopped := false; !stopped; { // while it stops
		write(1)
		select {
		case <-done:
			stopped = true
		default:
		}
	}
	write(each) // while it is gone
	started := make(chan string, 1)
	go func() {
		defer close(started)
		address, _ := runUntil(t, "server", "--config", config)
		started <- address
	}()
	hub := ""
	for hub == "" { // while it starts
		write(1)
		select {
		case address, ok := <-started:
			if !ok {
				t.FailNow()
			}
			hub = address
		default:
		}
	}
	write(each)
	t.Logf("%d writes, the slowest took %v", written, slowest)
	if slowest > time.Second { // the device's write timeout is two
		t.Errorf("a write took %v", slowest)
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sub, err := client.Subscribe(ctx, "*", client.Options{Address: hub, Token: rootToken, Since: "oldest", Format: client.FormatCloudEvents})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	// What only the file has from while the hub was gone may come behind what the socket
	// brings since.
	entries, over, versions := 0, make(map[string]int), make(map[string]int)
	for len(versions) < written || entries < 2*written {
		m, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("%d of %d writes, %d entries: %v", len(versions), written, entries, err)
		}
		switch e := m.Event; e.Type {
		case "kv-v2/data-write":
			v, _ := e.Metadata.Text("current_version")
			if versions[v]++; versions[v] > 1 {
				t.Errorf("write %s came %d times", v, versions[v])
			}
		case vaultaudit.TypeRequest, vaultaudit.TypeResponse:
			if path, _ := e.Metadata.Text("request_path"); path == "secret/data/k" {
				entries++
				device, _ := e.Metadata.Text("device")
				over[device]++
			}
		case vaultaudit.TypeLost:
			t.Errorf("%s: %s", e.Type, e.Note)
		}
	}
	t.Logf("entries by the device over which they came first: %v", over)
	if entries != 2*written {
		t.Errorf("%d entries of %d writes", entries, written)
	}
	if over["unix"] == 0 || over["file"] == 0 {
		t.Errorf("entries came over %v", over)
	}
}

// getJSON returns the answer to a request without a token.
func getJSON(t *testing.T, url string) (status int, text string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !json.Valid(body) {
		t.Fatalf("%s: %v %s", url, err, body)
	}
	return response.StatusCode, string(body)
}
