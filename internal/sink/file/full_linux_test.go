package file

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
)

// TestFull: a disk that is really full. Nothing half is left, and when there is room again, it
// goes on.
func TestFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	write(t, ballast, strings.Repeat("x", 100<<10))
	path := filepath.Join(dir, "f")
	s := open(t, Options{Path: path, RotateBytes: 64 << 10})
	sent := 0
	for ; ; sent += 20 {
		b := &deliver.Batch{Items: delivertest.Events(sent, 20)}
		r := s.Send(t.Context(), b)
		if r.Outcome == deliver.Retry {
			if !strings.Contains(r.Reason, "no space left on device; make room on the disk") {
				t.Errorf("reason: %s", r.Reason)
			}
			break
		}
		if sent > 10_000 {
			t.Fatal("the disk does not become full")
		}
	}
	for range 5 {
		_ = s.Send(t.Context(), &deliver.Batch{Items: delivertest.Events(sent, 20)})
	}
	wantEvents(t, path, sent)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	send(t, s, sent, 20)
	wantEvents(t, path, sent+20)
	_ = s.Close()
}
