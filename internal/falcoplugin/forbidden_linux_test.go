//go:build (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A file that the user of the process may not read is told of as that.
func TestLoadForbidden(t *testing.T) {
	content, err := os.ReadFile(build(t))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "forbidden") // not below directories that are closed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "plugin.so")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, dir} {
		if err := os.Chmod(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	problems := make(chan error)
	try := func() {
		go func() {
			// The thread, whose user it is, ends with the goroutine.
			runtime.LockOSThread()
			if os.Getuid() == 0 {
				_, _ = unix.SetfsuidRetUid(65534)
			}
			_, err := Load(path)
			problems <- err
		}()
	}
	try()
	wantError(t, <-problems, "the user of this process may not look into its directory")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	try()
	wantError(t, <-problems, "the user of this process may not read it; change its owner or its mode")
}
