package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vaultCLI names a "vault" or "bao" executable, which is too large to be kept here.
const vaultCLI = "TOCSIN_TEST_VAULT_CLI"

// cli runs the real command line tool against a hub.
type cli struct {
	t       *testing.T
	program string
	env     []string
}

func (c *cli) command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, c.program, args...)
	command.Env = c.env
	return command
}

// run executes one command with standard input and checks its exit code.
func (c *cli) run(code int, stdin string, args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	command := c.command(ctx, args...)
	command.Stdin = strings.NewReader(stdin)
	out, err := command.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if got := command.ProcessState.ExitCode(); got != code {
		c.t.Errorf("%s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, out)
	}
	return string(out)
}

// want is run that checks what is printed.
func (c *cli) want(code int, stdin string, texts []string, args ...string) string {
	c.t.Helper()
	out := c.run(code, stdin, args...)
	for _, text := range texts {
		if !strings.Contains(out, text) {
			c.t.Errorf("%s: %q is not in\n%s", strings.Join(args, " "), text, out)
		}
	}
	return out
}

// as returns the tool with another token.
func (c *cli) as(token string) *cli {
	return &cli{c.t, c.program, append(c.env[:len(c.env):len(c.env)], "VAULT_TOKEN="+token, "BAO_TOKEN="+token)}
}

func TestRealCommandLine(t *testing.T) {
	program := os.Getenv(vaultCLI)
	if program == "" {
		t.Skip(vaultCLI + " names no vault or bao executable")
	}
	h := startSecureHub(t)
	home := t.TempDir()
	c := &cli{t, program, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}}
	for _, prefix := range []string{"VAULT_", "BAO_"} {
		c.env = append(c.env, prefix+"ADDR="+h.address, prefix+"CACERT="+h.ca, prefix+"MAX_RETRIES=0")
	}

	// status, without a token.
	c.want(0, "", []string{"Initialized", "true", "Sealed", "false"}, "status")
	var status struct {
		Sealed, Initialized bool
		Version             string
	}
	if err := json.Unmarshal([]byte(c.run(0, "", "status", "-format=json")), &status); err != nil || status.Sealed || !status.Initialized || status.Version == "" {
		t.Errorf("status %+v, %v", status, err)
	}

	// login stores the token.
	c.want(2, "nonsense", []string{"permission denied"}, "login", "-")
	c.want(0, rootToken, []string{"Success! You are now authenticated", "policies", `["root"]`}, "login", "-")
	c.want(0, "", []string{"root"}, "token", "lookup")

	// policy.
	file := filepath.Join(t.TempDir(), "team.hcl")
	const text = "path \"sys/events/subscribe/*\" {\n  capabilities = [\"read\"]\n}\n\npath \"secret/+/a/*\" {\n  capabilities          = [\"list\", \"subscribe\"]\n  subscribe_event_types = [\"kv-v2/*\"]\n}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.want(0, "", []string{"Success! Uploaded policy: team"}, "policy", "write", "team", file)
	c.want(0, text, []string{"Success! Uploaded policy: other"}, "policy", "write", "other", "-")
	c.want(0, "", []string{text}, "policy", "read", "team")
	c.want(2, "", []string{"No policy named: none"}, "policy", "read", "none")
	c.want(0, "", []string{"default\n", "root\n", "team\n"}, "policy", "list")
	c.want(0, "", []string{"Success! Deleted policy: other"}, "policy", "delete", "other")
	c.want(2, "path \"a\" {\n  capabilites = []\n}", []string{"Code: 400", "capabilites"}, "policy", "write", "bad", "-")
	c.want(2, "", []string{"Code: 400"}, "policy", "delete", "root")

	// token.
	var made struct {
		Auth struct {
			ClientToken   string   `json:"client_token"`
			Policies      []string `json:"policies"`
			LeaseDuration int      `json:"lease_duration"`
			Accessor      string   `json:"accessor"`
		}
	}
	out := c.run(0, "", "token", "create", "-policy=team", "-ttl=1h", "-display-name=x", "-metadata=team=a", "-format=json")
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Auth.LeaseDuration != 3600 || len(made.Auth.Policies) != 2 {
		t.Fatalf("%s\n%v", out, err)
	}
	token, accessor := made.Auth.ClientToken, made.Auth.Accessor
	c.want(0, "", []string{accessor, "token-x", "[default team]", "map[team:a]"}, "token", "lookup", token)
	c.want(0, "", []string{accessor, "n/a"}, "token", "lookup", "-accessor", accessor)
	c.want(2, "", []string{"Code: 403", "bad token"}, "token", "lookup", "hvs.nonsense")
	c.want(0, "", []string{"token_renewable", "true", "2h"}, "token", "renew", "-increment=2h", token)
	c.want(0, "", []string{"2h"}, "token", "renew", "-increment=2h", "-accessor", accessor)
	c.as(token).want(0, "", []string{"1h30m"}, "token", "renew", "-increment=90m")
	c.want(0, "", []string{"read"}, "token", "capabilities", token, "sys/events/subscribe/kv*")
	c.as(token).want(0, "", []string{"list, subscribe"}, "token", "capabilities", "secret/data/a/x")
	c.as(token).want(2, "", []string{"permission denied"}, "policy", "list")

	// kv asks for the mount first. There is none.
	c.run(2, "", "kv", "get", "-mount=secret", "app")
	c.run(2, "", "kv", "put", "-mount=secret", "app", "a=b")

	// events subscribe, until the token is revoked.
	c.as("nonsense").want(1, "", []string{"got 403"}, "events", "subscribe", "kv-v2/*")
	c.want(1, "", []string{"got 400"}, "events", "subscribe", "-filter=event_type ==", "kv-v2/*")
	c.want(1, "", []string{"Not enough arguments"}, "events", "subscribe")
	subscriber := c.as(token).command(t.Context(), "events", "subscribe", "kv-v2/*")
	stdout, err := subscriber.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	subscriber.Stderr = &stderr
	if err := subscriber.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		b := make([]byte, 64<<10)
		for {
			n, err := stdout.Read(b)
			if n > 0 {
				lines <- string(b[:n])
			}
			if err != nil {
				if err != io.EOF && !errors.Is(err, os.ErrClosed) {
					t.Log(err)
				}
				return
			}
		}
	}()
	var printed string
	for deadline := time.Now().Add(patience); printed == "" && time.Now().Before(deadline); {
		h.write("", "b/hidden")
		h.write("", "a/seen")
		select {
		case printed = <-lines:
		case <-time.After(200 * time.Millisecond):
		}
	}
	var envelope struct {
		Data struct {
			Event     struct{ Metadata struct{ Path string } }
			EventType string `json:"event_type"`
		}
	}
	first, _, _ := strings.Cut(printed, "\n")
	if err := json.Unmarshal([]byte(first), &envelope); err != nil || envelope.Data.Event.Metadata.Path != "secret/data/a/seen" || envelope.Data.EventType != "kv-v2/data-write" {
		t.Errorf("printed %q, %v", printed, err)
	}
	if strings.Contains(printed, "hidden") {
		t.Error("an event that the policy does not allow was printed")
	}
	c.want(0, "", []string{"Success! Revoked token (if it existed)"}, "token", "revoke", "-accessor", accessor)
	for line := range lines { // until it ends
		if strings.Contains(line, "hidden") {
			t.Error("an event that the policy does not allow was printed")
		}
	}
	subscriber.Wait()
	if code := subscriber.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "token revoked") {
		t.Errorf("the subscriber ended with exit code %d and %s", code, stderr.String())
	}
	c.as(token).want(2, "", []string{"permission denied"}, "token", "lookup")

	// The others of token.
	c.want(0, "", []string{"token_policies"}, "token", "create", "-orphan", "-period=1h", "-no-default-policy", "-policy=team", "-use-limit=5", "-explicit-max-ttl=10h")
	out = strings.TrimSpace(c.run(0, "", "token", "create", "-policy=default", "-field=token"))
	c.as(out).want(0, "", []string{"Success! Revoked token"}, "token", "revoke", "-self")
	out = strings.TrimSpace(c.run(0, "", "token", "create", "-policy=default", "-field=token"))
	c.want(0, "", []string{"Success! Revoked token"}, "token", "revoke", "-mode=orphan", out)
	c.as(out).run(2, "", "token", "lookup")
	c.want(0, "", []string{"Keys"}, "list", "auth/token/accessors")
	c.want(0, "", []string{"sys/"}, "secrets", "list")
	c.want(0, "", []string{"token/"}, "auth", "list")
}
