package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/derivation"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit/enrich"
	"github.com/tocsin-events/tocsin/internal/syslog"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// vaultServer is a real server in development mode.
type vaultServer struct {
	*cli
	address string
	dir     string // for its audit logs
}

// startVault runs the server of the executable that TOCSIN_TEST_VAULT_CLI names.
func startVault(t *testing.T) *vaultServer {
	t.Helper()
	program := os.Getenv(vaultCLI)
	if program == "" {
		t.Skip(vaultCLI + " names no vault or bao executable")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := listener.Addr().String()
	listener.Close()
	home, dir := t.TempDir(), t.TempDir()
	s := &vaultServer{address: "http://" + host, dir: dir}
	s.cli = &cli{t, program, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}}
	for _, prefix := range []string{"VAULT_", "BAO_"} {
		s.env = append(s.env, prefix+"ADDR="+s.address, prefix+"TOKEN="+rootToken)
	}
	args := []string{"server", "-dev", "-dev-no-store-token", "-dev-root-token-id=" + rootToken, "-dev-listen-address=" + host}
	if strings.Contains(s.run(0, "", "version"), "OpenBao") { // which takes devices over its API only when told to
		config := filepath.Join(home, "bao.hcl")
		if err := os.WriteFile(config, []byte("unsafe_allow_api_audit_creation = true\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-config="+config)
	}
	server := exec.Command(program, args...)
	server.Env = s.env
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGTERM)
		server.Wait()
		if t.Failed() {
			t.Logf("the server's log:\n%s", &log)
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Get(s.address + "/v1/sys/health")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == 200 {
				return s
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not answer: %v", err)
		}
	}
}

// post makes a request as root and checks that it succeeds.
func (s *vaultServer) post(path, body string, headers ...string) {
	s.t.Helper()
	r, err := http.NewRequest("POST", s.address+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", rootToken)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, _ := io.ReadAll(response.Body); response.StatusCode >= 300 {
		s.t.Errorf("POST %s: %d %s", path, response.StatusCode, answer)
	}
}

// enableFile makes a file audit device and returns its file.
func (s *vaultServer) enableFile(path string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, path+".log")
	s.run(0, "", "audit", "enable", "-path="+path, "file", "file_path="+file)
	return file
}

// runShell runs commands of our documentation with the real tool, under its name.
func (s *vaultServer) runShell(script string) {
	s.t.Helper()
	bin := s.t.TempDir()
	if err := os.Symlink(s.program, filepath.Join(bin, "vault")); err != nil {
		s.t.Fatal(err)
	}
	shell := exec.Command("sh", "-e")
	shell.Stdin = strings.NewReader(script)
	shell.Dir = s.dir
	shell.Env = append(s.env[:len(s.env):len(s.env)], "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := shell.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
}

// documented returns the first shell block of a section of a page in docs.
func documented(t *testing.T, page, section string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## "+section+"\n")
	_, rest, _ = strings.Cut(rest, "```sh\n")
	block, _, ok := strings.Cut(rest, "\n```")
	if !ok {
		t.Fatalf("docs/%s has no commands under %q", page, section)
	}
	return block
}

// ask runs an asker until it has told mounts and hashes.
func (s *vaultServer) ask(device, token string) []derivation.Answers {
	s.t.Helper()
	a, err := enrich.New(enrich.Config{
		Name: "vault", Device: device, Address: s.address, Interval: time.Hour,
		Token:  func() (string, error) { return token, nil },
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); <-done }()
	var all []derivation.Answers
	for deadline := time.Now().Add(patience); len(all) < 2; time.Sleep(5 * time.Millisecond) {
		all = append(all, a.Exchange(derivation.Questions{})...)
		if err := a.Health(); err != nil || time.Now().After(deadline) {
			s.t.Fatalf("asking the server: %v, %d answers", err, len(all))
		}
	}
	return all
}

// refusal runs an asker until it says what is wrong.
func (s *vaultServer) refusal(device, token string) string {
	s.t.Helper()
	a, err := enrich.New(enrich.Config{
		Name: "vault", Device: device, Address: s.address, Interval: time.Hour,
		Token:  func() (string, error) { return token, nil },
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(patience); a.Health() == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("nothing is wrong")
		}
	}
	return a.Health().Error()
}

// translate makes the events of an audit log.
func translate(t *testing.T, file string, answers ...derivation.Answers) []*event.Event {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	translator := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "vault"})
	translator.Consult(func(derivation.Questions) []derivation.Answers { return answers })
	var events []*event.Event
	if _, err := vaultaudit.Events(t.Context(), f, translator, func(e *event.Event) error { events = append(events, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return events
}

// notifications describes the events that are derived for a path.
func notifications(events []*event.Event, path string) (all []string) {
	for _, e := range events {
		if e.Path != path || strings.HasPrefix(e.Type, "audit/") {
			continue
		}
		s := e.Type
		for _, key := range []string{"current_version", "deleted_versions", "undeleted_versions", "destroyed_versions"} {
			if v, ok := e.Metadata.Text(key); ok {
				s += " " + key + "=" + v
			}
		}
		for _, name := range []string{derivation.ExtVersionCount, derivation.ExtCertainty} {
			if v, ok := e.Extensions.Text(name); ok {
				s += " " + name + "=" + v
			}
		}
		all = append(all, s)
	}
	return all
}

// The command line tool sends version numbers as texts, which the audit device hashes,
// and whether a kv mount has version 1 or 2 is in no entry. With a token that has the
// documented rights, and no others, both are known.
func TestRealServerIsAsked(t *testing.T) {
	s := startVault(t)
	file := s.enableFile("file")
	s.run(0, "", "secrets", "enable", "-path=old", "-version=1", "kv")
	for i := range 5 {
		s.run(0, "", "kv", "put", "secret/app", fmt.Sprintf("password=%d", i))
	}
	s.run(0, "", "kv", "delete", "-versions=2,3", "secret/app")
	s.run(0, "", "kv", "undelete", "-versions=3", "secret/app")
	s.run(0, "", "kv", "destroy", "-versions=1", "secret/app")
	s.post("secret/destroy/app", `{"versions":[4]}`)
	s.post("old/delete/x", `{"versions":"1"}`) // a key called "delete/x", of a v1 mount

	s.runShell(documented(t, "enrichment.md", "The token"))
	token, err := os.ReadFile(filepath.Join(s.dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	limited := string(bytes.TrimSpace(token))
	if out := s.as(limited).run(2, "", "kv", "get", "secret/app"); !strings.Contains(out, "403") {
		t.Errorf("the token reads secrets: %s", out)
	}
	if out := s.as(limited).run(2, "", "write", "sys/audit-hash/file", "input=password"); !strings.Contains(out, "permission denied") {
		t.Errorf("the token hashes texts: %s", out)
	}
	answers := s.ask("file", limited)

	before, after := translate(t, file), translate(t, file, answers...)
	for _, tc := range []struct {
		path          string
		before, after []string
	}{
		{"secret/delete/app", []string{"kv-v2/delete current_version=5 versioncount=2"}, []string{"kv-v2/delete current_version=5 deleted_versions=[2,3]"}},
		{"secret/undelete/app", []string{"kv-v2/undelete current_version=5 versioncount=1"}, []string{"kv-v2/undelete current_version=5 undeleted_versions=[3]"}},
		{"secret/destroy/app", []string{"kv-v2/destroy current_version=5 versioncount=1", "kv-v2/destroy current_version=5 versioncount=1"},
			[]string{"kv-v2/destroy current_version=5 destroyed_versions=[1]", "kv-v2/destroy current_version=5 destroyed_versions=[4]"}},
		{"old/delete/x", nil, []string{"kv-v1/write"}},
	} {
		got, want := notifications(before, tc.path), tc.before
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s without answers: %q, want %q", tc.path, got, want)
		}
		got, want = notifications(after, tc.path), tc.after
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s with answers: %q, want %q", tc.path, got, want)
		}
	}
	for _, events := range [][]*event.Event{before, after} {
		for _, e := range events {
			if e.Type == vaultaudit.TypeQuarantined {
				t.Errorf("quarantined: %s", e.Note)
			}
		}
	}

	// What the server refuses comes with its remedy.
	lookup := s.run(0, "", "token", "create", "-policy=default", "-field=token")
	if text := s.refusal("file", strings.TrimSpace(lookup)); !strings.Contains(text, `path "sys/mounts" { capabilities = ["read"] }`) || !strings.Contains(text, `path "sys/audit-hash/file" { capabilities = ["update"] }`) {
		t.Errorf("without rights: %s", text)
	} else {
		t.Log(text)
	}
	if text := s.refusal("nope", rootToken); !strings.Contains(text, "nope") || !strings.Contains(text, "audit list") {
		t.Errorf("without the device: %s", text)
	} else {
		t.Log(text)
	}

	// A device that is enabled again hashes in another way.
	s.enableFile("other")
	s.run(0, "", "audit", "disable", "file")
	os.Remove(file)
	file = s.enableFile("file")
	s.run(0, "", "kv", "destroy", "-versions=4", "secret/app")
	if got := notifications(translate(t, file, answers...), "secret/destroy/app"); len(got) != 1 || strings.Contains(got[0], "destroyed_versions") {
		t.Errorf("with the hashes of the device before: %q", got)
	}
	if got := notifications(translate(t, file, s.ask("file", limited)...), "secret/destroy/app"); len(got) != 1 || !strings.Contains(got[0], "destroyed_versions=[4]") {
		t.Errorf("with its own hashes: %q", got)
	}
}

// The header "traceparent" is in the entries once the server is told to audit it.
func TestRealServerAuditsTraceParent(t *testing.T) {
	s := startVault(t)
	file := s.enableFile("file")
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s.post("secret/data/a", `{"data":{"x":"1"}}`, "traceparent", parent)
	count := func() int {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(text, []byte(`"traceparent":["`+parent+`"]`))
	}
	if n := count(); n != 0 {
		t.Errorf("%d entries have the header before it is configured", n)
	}
	s.run(0, "", "write", "sys/config/auditing/request-headers/traceparent", "hmac=false")
	s.post("secret/data/a", `{"data":{"x":"2"}}`, "traceparent", parent)
	if n := count(); n != 2 { // request and response
		t.Errorf("%d entries have the header", n)
	}
}

// What the syslog device sends to the local socket is what the file device writes.
func TestRealServerWritesToSyslog(t *testing.T) {
	s := startVault(t)
	local := listenSyslog(t)
	datagrams := make(chan []byte, 1000)
	go func() {
		defer close(datagrams)
		buf := make([]byte, 1<<20)
		for {
			n, err := local.Read(buf)
			if err != nil {
				return
			}
			datagrams <- bytes.Clone(buf[:n])
		}
	}()
	s.run(0, "", "audit", "enable", "-path=local", "syslog", "tag=vault", "facility=AUTH")
	file := s.enableFile("file")
	s.run(0, "", "kv", "put", "secret/a", "x=1")
	s.post("secret/data/b", `{"data":{"`+strings.Repeat("k", 100_000)+`":1}}`)
	local.Close()

	// The same requests, under the same ids, by both devices.
	ids := make(map[string]int)
	for _, e := range translate(t, file) {
		if strings.HasPrefix(e.Type, "audit/") {
			ids[e.ID]++
		}
	}
	translator := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "vault"})
	var stream bytes.Buffer
	found := 0
	for d := range datagrams {
		if found == 0 {
			t.Logf("%.200s", d)
		}
		for _, e := range translator.Translate(nil, syslog.Body(d)) {
			if e.Type == vaultaudit.TypeQuarantined {
				t.Errorf("quarantined: %s: %.300s", e.Note, d)
			}
			if ids[e.ID] > 0 {
				found++
			}
		}
		fmt.Fprintf(&stream, "%d %s", len(d), d)
		stream.Write(d)
	}
	if found < 6 || found < len(ids)-2 { // of the device's own creation the one has the request, the other the response
		t.Errorf("%d of %d entries came over syslog", found, len(ids))
	}
	count := 0
	for lines, err := range syslog.ReadMessages(&stream, 0) {
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			if l.Kind != tail.Whole || !json.Valid(l.Data) {
				t.Errorf("%d %.100q", l.Kind, l.Data)
			}
			count++
		}
	}
	if count < 2*found {
		t.Errorf("%d messages of a stream that has each entry twice", count)
	}
}

// listenSyslog makes the local syslog socket, if there is none and we may.
func listenSyslog(t *testing.T) *net.UnixConn {
	t.Helper()
	const path = "/dev/log"
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Skip(path + " belongs to somebody else")
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Skipf("no local syslog socket: %v", err)
	}
	conn.SetReadBuffer(4 << 20)
	t.Cleanup(func() { conn.Close(); os.Remove(path) })
	return conn
}
