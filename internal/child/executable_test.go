package child

import (
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// copyOf copies a program of the system.
func copyOf(t *testing.T, program, to string) (sum []byte) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skip(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(content)
	return hash[:]
}

func TestExecutableIsReplacedAfterTheCheck(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	dir := t.TempDir()
	path, other := filepath.Join(dir, "program"), filepath.Join(dir, "other")
	sum := copyOf(t, "true", path)
	copyOf(t, "false", other)
	p, err := checkExecutable(path, sum)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if err := (&exec.Cmd{Path: p.path, Args: []string{"true"}}).Run(); err != nil {
		t.Errorf("the other program ran: %v", err)
	}
	if err := exec.Command(path).Run(); err == nil {
		t.Error("the program was not replaced")
	}
}

func TestExecutableIsWrittenAfterTheCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	sum := copyOf(t, "true", path)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // times of files are as coarse as a tick of the clock
	p, err := checkExecutable(path, sum)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.unchanged(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	past := p.info.ModTime()
	if err := os.Chtimes(path, past, past); err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	if err := p.unchanged(); runtime.GOOS == "linux" && !errors.Is(err, ErrChecksum) {
		t.Errorf("got %v", err)
	}
}
