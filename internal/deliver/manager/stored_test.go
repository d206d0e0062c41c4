package manager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

func TestSecrets(t *testing.T) {
	b := newBench(t).open()
	const secret = "hunter2-hunter2-hunter2"
	i := b.put("a", withSecret(secret))
	b.put("plain", hook)
	b.awaitCondition("a", deliver.Running)
	if b.receiver.keys["a"] != secret {
		t.Errorf("the sink has the key %q", b.receiver.keys["a"])
	}
	text := string(i.Definition.JSON()) + string(i.Definition.YAML()) + fmt.Sprintf("%+v %#v", i, i)
	if strings.Contains(text, secret) {
		t.Error("the secret is shown")
	}
	info, err := os.Stat(filepath.Join(b.o.DataDir, KeyFile))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
	// What was read is written back, with another filter.
	b.put("a", strings.Replace(string(i.Definition.YAML()), "shop/*", "shop/**", 1))
	b.reopen()
	if b.receiver.keys["a"] != secret {
		t.Errorf("after a restart the sink has the key %q", b.receiver.keys["a"])
	}
	b.append("1")
	b.awaitGot("a", "1")
	checkNowhere(t, b.o.DataDir, secret)

	// The key is another one: the sink is red, the others run, and it says what to do.
	b.close()
	key := filepath.Join(b.o.DataDir, KeyFile)
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func() error{
		"another": func() error { return os.WriteFile(key, []byte(strings.Repeat("A", 43)+"="), 0o600) },
		"missing": func() error { return os.Remove(key) },
		"broken":  func() error { return os.WriteFile(key, []byte("x"), 0o600) },
	} {
		if err := errors.Join(os.WriteFile(key, good, 0o600), spoil()); err != nil {
			t.Fatal(err)
		}
		b.open()
		i := b.info("a")
		if i.Problem == nil || !strings.Contains(i.Problem.Error(), "its secrets cannot be read") || !strings.Contains(i.Problem.Error(), key) {
			t.Errorf("%s: %v", what, i.Problem)
		}
		if i.Definition.Webhook.URL == "" || strings.Contains(string(i.Definition.JSON()), secret) {
			t.Errorf("%s: definition %s", what, i.Definition.JSON())
		}
		if b.info("plain").Health != nil {
			t.Errorf("%s: the other one: %v", what, b.info("plain").Health)
		}
		if _, _, err := b.m.Put(t.Context(), "b", []byte(withSecret("other"))); err == nil {
			t.Errorf("%s: another secret was stored under a key that does not open the first", what)
		}
		if _, _, err := b.m.Put(t.Context(), "a", i.Definition.YAML()); err == nil {
			t.Errorf("%s: a secret was kept that cannot be read", what)
		}
		b.close()
	}
	if err := os.WriteFile(key, good, 0o600); err != nil {
		t.Fatal(err)
	}
	b.open()
	if i := b.info("a"); i.Health != nil {
		t.Errorf("with the right key: %v", i.Health)
	}
	b.append("2")
	b.awaitGot("a", "1", "2")

	// When the key is lost for good, the sinks are removed, and a new one is made.
	b.close()
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	b.open()
	if _, err := b.m.Delete(t.Context(), "a", true); err != nil {
		t.Fatal(err)
	}
	b.put("a", withSecret("another-secret"))
	b.reopen()
	if b.receiver.keys["a"] != "another-secret" {
		t.Errorf("the key is %q", b.receiver.keys["a"])
	}
}

// The key of the configuration is used instead of the file, and can be replaced.
func TestConfiguredKey(t *testing.T) {
	b := newBench(t)
	one, two := strings.Repeat("A", 43)+"=", strings.Repeat("B", 42)+"A="
	b.o.Delivery.SecretsKey = config.SecretValue(one)
	b.open()
	b.put("a", withSecret("s3cret"))
	if _, err := os.Stat(filepath.Join(b.o.DataDir, KeyFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key file was made: %v", err)
	}
	for _, keys := range []string{two + "\n" + one, two} {
		b.o.Delivery.SecretsKey = config.SecretValue(keys)
		b.reopen()
		if i := b.info("a"); i.Health != nil || b.receiver.keys["a"] != "s3cret" {
			t.Errorf("%v, %q", i.Health, b.receiver.keys["a"])
		}
	}
	b.o.Delivery.SecretsKey = config.SecretFromFile(filepath.Join(b.dir, "missing"))
	b.reopen()
	if i := b.info("a"); i.Problem == nil || !strings.Contains(i.Problem.Error(), "delivery.secrets_key") {
		t.Errorf("%v", i.Problem)
	}
}

// A secret does not open together with another definition than its own.
func TestSecretBelongsToDefinition(t *testing.T) {
	b := newBench(t).open()
	b.put("a", withSecret("s3cret"))
	records, _, err := b.m.loadRecords(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := records["a"]
	r.Definition = strings.Replace(r.Definition, "hooks.example.com", "evil.example.com", 1)
	if err := b.m.store(t.Context(), "a", r); err != nil {
		t.Fatal(err)
	}
	r = records["a"]
	r.Definition = strings.Replace(r.Definition, "name: a", "name: b", 1)
	if err := b.m.store(t.Context(), "b", r); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	for _, name := range []string{"a", "b"} {
		if i := b.info(name); i.Problem == nil || !strings.Contains(i.Problem.Error(), "do not belong to this definition") {
			t.Errorf("%s: %v", name, i.Problem)
		}
	}
}

// checkNowhere looks for a secret in all files.
func checkNowhere(t *testing.T, dir, secret string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), secret) {
			t.Errorf("%s has the secret", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
