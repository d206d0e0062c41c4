package kafka

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// hub is a running program.
type hub struct {
	program, config, dir string
	process              *exec.Cmd
	log                  *lockedBuffer
}

func (h *hub) start(t *testing.T) {
	t.Helper()
	h.process = exec.Command(h.program, "server", "--config", h.config)
	h.process.Env = append(os.Environ(), "HOME="+h.dir, "XDG_CACHE_HOME="+h.dir, "XDG_CONFIG_HOME="+h.dir, "KAFKA_PASSWORD="+userPassword, "TOCSIN_ROOT_TOKEN=a-token-of-root-for-tests")
	h.process.Stdout, h.process.Stderr = h.log, h.log
	if err := h.process.Start(); err != nil {
		t.Fatal(err)
	}
}

func (h *hub) end(signal syscall.Signal) {
	h.process.Process.Signal(signal)
	h.process.Wait()
}

// TestHub follows an audit log with the real program, which is killed, as is the broker: every
// entry is in Kafka, and first comes in its order, and the password is in no log.
func TestHub(t *testing.T) {
	b := startBroker(t)
	topic := b.topic(t, 3)
	h := &hub{dir: t.TempDir(), log: new(lockedBuffer)}
	h.program, h.config = filepath.Join(h.dir, "tocsin"), filepath.Join(h.dir, "tocsin.yaml")
	build := exec.Command("go", "build", "-o", h.program, "./cmd/tocsin")
	build.Dir, build.Env = "../../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the hub: %v: %s", err, out)
	}
	ca, audit := filepath.Join(h.dir, "ca.pem"), filepath.Join(h.dir, "audit.log")
	if err := os.WriteFile(ca, []byte(b.ca.pem), 0o600); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
data_dir: %s
listen: {address: "127.0.0.1:0"}
sources: [{name: vault, type: vault_audit_file, path: %s}]
sinks:
  - name: archive
    type: kafka
    from: start
    events: {types: [audit/request]}
    concurrency: 4
    batch: {events: 20, delay: 0s}
    retry: {first: 50ms, most: 500ms}
    timeout: 4s
    kafka:
      brokers: [%s]
      topic: %s
      encoding: raw
      sasl: {mechanism: scram-sha-512, username: alice, password: {env: KAFKA_PASSWORD}}
      tls: {ca: {file: %s}}
`, filepath.Join(h.dir, "data"), audit, b.address("SASLTLS"), topic, ca)
	if err := os.WriteFile(h.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(audit, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var lines []string
	write := func(n int) {
		t.Helper()
		for range n {
			i := len(lines)
			var id [16]byte
			rand.Read(id[:])
			line := fmt.Sprintf(`{"time":%q,"type":"request","auth":{"token_type":"service"},"request":{"id":"%x-%x-%x-%x-%x","operation":"update","namespace":{"id":"root"},"path":"secret/data/app-%d","data":{"n":%d}}}`,
				time.Now().UTC().Format(time.RFC3339Nano), id[:4], id[4:6], id[6:8], id[8:10], id[10:], i%9, i)
			lines = append(lines, line)
			if _, err := fmt.Fprintln(log, line); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the hub says:\n%s", h.log)
		}
	})
	h.start(t)
	ended := false
	defer func() {
		if !ended {
			h.end(syscall.SIGKILL)
		}
	}()
	at := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d records are there", n), func() bool { return len(b.read(t, topic, -1)) >= n })
	}
	write(300)
	at(50)
	h.end(syscall.SIGKILL)
	write(300)
	h.start(t)
	at(320)
	b.kill(syscall.SIGKILL)
	write(300)
	h.end(syscall.SIGKILL) // with the broker down
	h.start(t)
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	write(100)

	var records []*kgo.Record
	eventually(t, "everything is in Kafka", func() bool {
		records = b.read(t, topic, -1)
		values := make(map[string]bool)
		for _, r := range records {
			values[string(r.Value)] = true
		}
		return !slices.ContainsFunc(lines, func(l string) bool { return !values[l] })
	})
	h.end(syscall.SIGTERM)
	ended = true
	slices.SortStableFunc(records, func(a, b *kgo.Record) int { return int(a.Offset - b.Offset) })
	seen, next := make(map[string]bool), 0
	for _, r := range records {
		// The path of all entries is that of their device, so they are in one partition.
		if string(r.Key) != "sys/audit/vault" || header(r, "ce_type") != "audit/request" || header(r, "content-type") != "application/json" {
			t.Fatalf("key %q, headers %s", r.Key, r.Headers)
		}
		if value := string(r.Value); !seen[value] {
			seen[value] = true
			if value != lines[next] {
				t.Fatalf("entry %d does not first come behind entry %d: %s", next, next-1, value)
			}
			next++
		}
	}
	if strings.Contains(h.log.String(), userPassword) {
		t.Error("the password is in the log of the hub")
	}
	t.Logf("%d records of %d entries", len(records), len(lines))
}
