package compat

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsServer is the real program, on an address that stays over restarts.
type natsServer struct {
	t       *testing.T
	program string
	address string
	store   string
	command *exec.Cmd
}

func newNATSServer(t *testing.T) *natsServer {
	t.Helper()
	s := &natsServer{t: t, program: filepath.Join(t.TempDir(), "nats-server"), store: t.TempDir()}
	if out, err := exec.Command("go", "build", "-o", s.program, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	l.Close()
	t.Cleanup(s.kill)
	return s
}

func (s *natsServer) start() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	s.command = exec.Command(s.program, "-a", "127.0.0.1", "-p", port, "-js", "-sd", s.store)
	if err := s.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("nats-server does not listen: %v", err)
		}
	}
}

func (s *natsServer) kill() {
	if s.command != nil {
		s.command.Process.Kill()
		s.command.Wait()
		s.command = nil
	}
}

// TestNATS sends events to a nats-server that is killed and started again meanwhile, and reads
// the stream with its own client: every event is there, of each path in order, once.
func TestNATS(t *testing.T) {
	server := newNATSServer(t)
	server.start()
	stream := func() jetstream.Stream {
		nc, err := nats.Connect("nats://" + server.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		s, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"tocsin.>"}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	stream()
	config := filepath.Join(t.TempDir(), "tocsin.yaml")
	text := fmt.Sprintf(`
listen: {address: "127.0.0.1:0"}
data_dir: %s
auth: {root_token: {env: COMPAT_ROOT}}
sinks:
  - name: nats
    type: nats
    events: {types: ["shop/*"]}
    retry: {first: 20ms, most: 200ms}
    timeout: 2s
    nats: {urls: ["nats://%s"]}
`, t.TempDir(), server.address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("COMPAT_ROOT", rootToken)
	hub := run(t, "server", "--config", config)

	const paths, rounds, each = 5, 3, 40
	published := 0
	for round := range rounds {
		for i := range each {
			if round > 0 && i == each/2 {
				server.kill()
			}
			n := round*each + i
			body := fmt.Sprintf(`{"specversion":"1.0","id":"e-%d","source":"/shop","type":"shop/order","subject":"orders/%d","data":{"n":%d}}`, n, n%paths, n)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, hub+"/api/v1/events", bytes.NewBufferString(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/cloudevents+json")
			r.Header.Set("X-Vault-Token", rootToken)
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusAccepted {
				t.Fatalf("event %d: %s", n, answer.Status)
			}
			published++
		}
		if server.command == nil {
			server.start()
		}
	}

	s := stream()
	var info *jetstream.StreamInfo
	for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var err error
		if info, err = s.Info(t.Context()); err == nil && info.State.Msgs >= uint64(published) {
			break
		}
	}
	if info == nil || info.State.Msgs != uint64(published) {
		t.Fatalf("the stream has %+v, want %d messages", info, published)
	}
	last := make(map[string]int)
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscanf(string(m.Data[strings.LastIndex(string(m.Data), `{"n":`):]), `{"n":%d}`, &n); err != nil {
			t.Fatalf("%s: %v", m.Data, err)
		}
		path := fmt.Sprint(n % paths)
		if before, seen := last[path]; seen && before >= n {
			t.Errorf("event %d of path %s is behind %d", n, path, before)
		}
		last[path] = n
		if m.Subject != "tocsin.shop.order" || !strings.Contains(m.Header.Get(nats.MsgIdHdr), fmt.Sprintf("e-%d", n)) {
			t.Errorf("event %d has the subject %s and the header %v", n, m.Subject, m.Header)
		}
	}
}
