//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadChecked(t *testing.T) {
	library := filepath.Join(t.TempDir(), "plugin.so")
	content, err := os.ReadFile(build(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(library, content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	l, err := LoadChecked(library, sum[:])
	if err != nil || l.Describe().Name != "testbed" {
		t.Fatal(err)
	}
	if err := os.WriteFile(library, append(content, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadChecked(library, sum[:]); !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), library) {
		t.Error(err)
	}
	text := []byte("no library")
	if err := os.WriteFile(library, text, 0o600); err != nil {
		t.Fatal(err)
	}
	sum = sha256.Sum256(text)
	if _, err := LoadChecked(library, sum[:]); err == nil || !strings.Contains(err.Error(), library) || strings.Contains(err.Error(), "/proc/") {
		t.Error(err)
	}
	if _, err := LoadChecked(t.TempDir(), sum[:]); err == nil {
		t.Error("a directory was loaded")
	}
}
