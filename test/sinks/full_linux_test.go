package sinks

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tocsin-events/tocsin/internal/api"
)

// smallDisk mounts a file system of that many MiB.
func smallDisk(t *testing.T, dir string, mib int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("needs a small file system and the right to mount one (root): mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill takes all the space of a file system.
func fill(t *testing.T, dir string) (files []string) {
	t.Helper()
	for size := 4 << 20; size >= 4<<10; size /= 4 {
		for {
			path := filepath.Join(dir, fmt.Sprintf("ballast-%d", len(files)))
			files = append(files, path)
			if os.WriteFile(path, make([]byte, size), 0o600) != nil {
				break
			}
		}
	}
	return files
}

// TestDiskFullOfDeadLetters: the disk of the hub has no room for dead letters. What should
// become one waits, and its path behind it; all else goes on, and the sink says what is
// wrong. When there is room again nothing is lost, also when the hub was killed meanwhile.
func TestDiskFullOfDeadLetters(t *testing.T) {
	t.Parallel()
	for name, killed := range map[string]bool{"goes on": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "small")
			smallDisk(t, data, 128)
			const paths = 7
			hook := newReceiver(t, func(id string) bool { return number(id)%(2*paths) == 0 }) // of one path
			h := newHub(t, filepath.Join(data, "data"), fmt.Sprintf(`
delivery: {allow: [127.0.0.1], stop_timeout: 500ms}
sinks:
  - {name: hook, type: webhook, from: start, events: {types: ["shop/*"]}, concurrency: 8, retry: {first: 5ms, most: 50ms}, webhook: {url: %q, format: cloudevents}}
`, hook.url()))
			hook.set(func() { hook.status = 503 })
			h.start()
			p := publish(h, 0, 10, paths, time.Millisecond)
			await(t, "events are published", func() bool { return len(p.acks()) >= 200 }, func() string { return "they are not" })
			all := p.stop()
			h.awaitSink("hook", "it fails", func(s api.Sink) bool { return s.Outage != nil })
			ballast := fill(t, data)
			hook.set(func() { hook.status = 0 })
			var others []string
			for _, id := range all {
				if number(id)%paths != 0 {
					others = append(others, id)
				}
			}
			await(t, "other paths go on", func() bool { return hook.hasAll(others) }, func() string { return fmt.Sprintf("%+v", h.sink("hook")) })
			s := h.awaitSink("hook", "it says what is wrong", func(s api.Sink) bool { return s.Problem != "" })
			t.Logf("problem: %s; health: %s", s.Problem, s.Health)
			if s.Letters != 0 || s.LagEvents == 0 {
				t.Errorf("there was room: %+v", s)
			}
			if killed {
				h.kill()
			}
			for _, path := range ballast {
				os.Remove(path)
			}
			if killed {
				h.start()
			}
			h.awaitSink("hook", "all is sent", settled)
			h.awaitSink("hook", "dead letters are counted", func(s api.Sink) bool { return s.Letters > 0 })
			report(t, "hook", history{arrivals: hook.arrivals(), letters: h.letters("hook"), refused: hook.refuses}, all)
		})
	}
}
