package webhook

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

// TestReceiversOfTheDocumentation runs the programs in docs/sink-webhook.md and sends to them.
func TestReceiversOfTheDocumentation(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	page, err := os.ReadFile("../../../docs/sink-webhook.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		_, rest, found := strings.Cut(string(page), "```"+language+"\n")
		code, _, ended := strings.Cut(rest, "\n```")
		if !found || !ended {
			t.Fatalf("no %s in the page", language)
		}
		return code + "\n"
	}
	dir := t.TempDir()
	write := func(name, code string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("go", func(t *testing.T) {
		program := filepath.Join(dir, "receiver")
		if out, err := exec.Command("go", "build", "-o", program, write("receiver.go", block("go"))).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		tryReceiver(t, true, program)
	})
	t.Run("python", func(t *testing.T) {
		python, err := exec.LookPath("python3")
		if err != nil {
			t.Skip("there is no python3")
		}
		tryReceiver(t, false, python, write("receiver.py", block("python")))
	})
}

// tryReceiver starts a receiver, and sends what it must take and what it must not.
func tryReceiver(t *testing.T, ed25519 bool, command ...string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	secret, other := standardwebhooks.NewSecret(), standardwebhooks.NewSecret()
	private, public := standardwebhooks.NewKeyPair()
	args := append(command[1:], address, secret)
	if ed25519 {
		args = append(args, public)
	}
	ctx, cancel := context.WithCancel(t.Context())
	receiver := exec.CommandContext(ctx, command[0], args...)
	receiver.Stderr = os.Stderr
	out, err := receiver.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := receiver.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := receiver.Wait(); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}()
	send := func(key string) deliver.Result {
		s := open(t, Options{URL: "http://" + address + "/tocsin", SigningKeys: []outbound.Secret{text(other), text(key)}})
		defer s.Close()
		return s.Send(ctx, &deliver.Batch{Items: []deliver.Item{sample()}})
	}
	result := send(secret)
	for begun := time.Now(); strings.Contains(result.Reason, "refuses connections"); result = send(secret) {
		if time.Since(begun) > 20*time.Second {
			t.Fatal(errors.New("the receiver does not listen"))
		}
		time.Sleep(10 * time.Millisecond) // until it listens
	}
	if result.Outcome != deliver.Delivered {
		t.Fatalf("%+v", result)
	}
	lines := bufio.NewReader(out)
	const want = "8d3ff6f5-33e7-5d4b-9aef-0d6cc2f5b8f4 kv-v2/data-write secret/data/app\n"
	if got, err := lines.ReadString('\n'); err != nil || got != want {
		t.Errorf("it has printed %q, %v, want %q", got, err, want)
	}
	if r := send(other); r.Status != 401 {
		t.Errorf("a wrong key: %+v", r)
	}
	if r := send(private); ed25519 && r.Outcome != deliver.Delivered || !ed25519 && r.Status != 401 {
		t.Errorf("ed25519: %+v", r)
	}
}

func FuzzStandard(f *testing.F) {
	f.Add("kv-v2/data-write", "secret/data/app", "id", []byte(`{"a":1}`), "application/json")
	f.Add("", "\u2028\"\\", "\x00", []byte("\xff"), "text/plain")
	f.Fuzz(func(t *testing.T, eventType, path, id string, data []byte, contentType string) {
		item := sample()
		e := *item.Event
		e.Type, e.Path, e.ID, e.Data, e.DataContentType = eventType, path, id, data, contentType
		item.Event = &e
		checkStandard(t, appendStandard(nil, item), eventType)
	})
}
