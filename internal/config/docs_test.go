package config

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestDocs keeps the page for users and the program the same.
func TestDocs(t *testing.T) {
	const page = "../../docs/configuration.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin := strings.LastIndex(string(text), "```yaml\n") + len("```yaml\n")
	end := strings.LastIndex(string(text), "```")
	var want bytes.Buffer
	if err := Default().Write(&want); err != nil {
		t.Fatal(err)
	}
	if string(text[begin:end]) == want.String() {
		return
	}
	if !*update {
		t.Fatalf("%s is not what `tocsin config show` prints; run: go test ./internal/config -run TestDocs -update", page)
	}
	if err := os.WriteFile(page, []byte(string(text[:begin])+want.String()+string(text[end:])), 0o644); err != nil {
		t.Fatal(err)
	}
}
