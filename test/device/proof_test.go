package device_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// faultTime is the environment variable that says how long each test sends.
const faultTime = "TOCSIN_FAULT_TIME"

// period is how long a test sends.
func period(t *testing.T, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(faultTime)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	rate = 1000 // entries per second and device
	// blocked is the longest that a writer may be held up while the hub is there. Not less
	// than a busy machine with few cores holds up any program.
	blocked = 50 * time.Millisecond
	spool   = "{max_bytes: 1GiB, reserve_bytes: 8MiB}"
)

// Sockets and the connections of tcp are held by the service manager while the hub is
// restarted again and again: no write fails, and no entry is lost.
func TestRestarts(t *testing.T) {
	h := newHub(t, t.TempDir(), spool, true)
	h.start()
	l := startLoad(h, rate, "unix", "tcp", "http")
	restarts := 0
	for end := time.Now().Add(period(t, 3*time.Second)); time.Now().Before(end); restarts++ {
		time.Sleep(700 * time.Millisecond)
		l.gone(func() { h.stop(); h.start() })
	}
	time.Sleep(300 * time.Millisecond)
	l.stop(h)
	h.settled()
	t.Logf("%d restarts", restarts)
	l.check(t, h.entries(), map[string]expectation{
		"unix": {slowest: blocked}, "tcp": {slowest: blocked}, "http": {slowest: answered},
	})
}

// answered is the longest that the HTTP device waits: its entries are synced first.
const answered = time.Second

// The hub is killed again and again: what it had in memory is lost, no more.
func TestKills(t *testing.T) {
	h := newHub(t, t.TempDir(), spool, true)
	h.start()
	l := startLoad(h, rate, "unix", "tcp", "http")
	kills := 0
	for end := time.Now().Add(period(t, 3*time.Second)); time.Now().Before(end); kills++ {
		time.Sleep(700 * time.Millisecond)
		l.gone(func() { h.kill(); h.start() })
	}
	time.Sleep(300 * time.Millisecond)
	l.stop(h)
	h.settled()
	t.Logf("%d kills", kills)
	// At each kill a line that was read and not written yet, or half of one, may be lost.
	const each = 5
	l.check(t, h.entries(), map[string]expectation{
		"unix": {slowest: blocked, lost: kills * each, mayFail: true}, "tcp": {slowest: blocked, lost: kills * each, mayFail: true},
		"http": {slowest: answered, mayFail: true},
	})
}

// Without a service manager, senders are refused while the hub is gone. What a unix socket
// or HTTP accepted is not lost.
func TestRestartsWithoutSystemd(t *testing.T) {
	h := newHub(t, t.TempDir(), spool, false)
	h.start()
	l := startLoad(h, rate, "unix", "http")
	for end := time.Now().Add(period(t, 2*time.Second)); time.Now().Before(end); {
		time.Sleep(700 * time.Millisecond)
		l.gone(func() { h.stop(); h.start() })
	}
	time.Sleep(300 * time.Millisecond)
	l.stop(h)
	h.settled()
	l.check(t, h.entries(), map[string]expectation{"unix": {slowest: blocked, mayFail: true}, "http": {slowest: answered, mayFail: true}})
}

// fileSystem mounts an ext4 file system of that many MiB of its own.
func fileSystem(t *testing.T, dir string, mib int) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(mib) << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs a file system of its own (root): %v: %v %s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	os.Remove(filepath.Join(dir, "lost+found"))
}

// freeze makes every write to a file system wait until thaw.
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	const freezeCall, thawCall = 0xC0045877, 0xC0045878 // FIFREEZE, FITHAW of linux/fs.h
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), freezeCall, 0); err != nil {
		t.Fatalf("freeze the file system: %v", err)
	}
	done := false
	thaw = func() {
		if !done {
			done = true
			if err := unix.IoctlSetInt(int(f.Fd()), thawCall, 0); err != nil {
				t.Errorf("thaw the file system: %v", err)
			}
			f.Close()
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// The disk of the journal stands still, so that the journal does, too: nobody waits for it.
func TestJournalStandsStill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := filepath.Join(dir, "data")
	fileSystem(t, disk, 512)
	if err := os.Symlink(t.TempDir(), filepath.Join(disk, "spool")); err != nil { // has a disk of its own
		t.Fatal(err)
	}
	h := newHub(t, dir, spool, true)
	h.start()
	l := startLoad(h, rate, "unix", "tcp", "http")
	time.Sleep(time.Second)
	thaw := freeze(t, disk)
	time.Sleep(period(t, 2*time.Second))
	h.await("the journal stands still", func() bool { return h.metric("tocsin_spool_lines") >= rate })
	thaw()
	time.Sleep(time.Second)
	l.stop(h)
	h.settled()
	l.check(t, h.entries(), map[string]expectation{
		// An append that ran into its time limit is repeated, and may have been stored.
		"unix": {slowest: blocked, repeats: true}, "tcp": {slowest: blocked, repeats: true}, "http": {slowest: answered, repeats: true},
	})
}

// The disk of journal and spool is full: the reserve keeps entries. When that is used,
// too, entries are dropped and counted, and still nobody waits.
func TestDiskFullOfDevices(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]time.Duration{"the reserve is enough": 2 * time.Second, "the reserve is used up": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fileSystem(t, dir, 192)
			reserve := "{memory_bytes: 1MiB, max_bytes: 32MiB, reserve_bytes: 16MiB}"
			if more == 0 {
				reserve = "{memory_bytes: 1MiB, max_bytes: 32MiB, reserve_bytes: 8MiB}"
			}
			h := newHub(t, dir, reserve, true)
			h.start()
			l := startLoad(h, rate, "unix", "tcp")
			time.Sleep(time.Second)
			ballast := fill(t, dir)
			if more > 0 {
				time.Sleep(more)
			} else {
				h.await("entries are dropped", func() bool { return h.metric("tocsin_spool_dropped_lines_total") > 0 })
			}
			for _, path := range ballast {
				os.Remove(path)
			}
			time.Sleep(time.Second)
			l.stop(h)
			h.settled()
			dropped := int(h.metric("tocsin_spool_dropped_lines_total"))
			t.Logf("%d lines were dropped", dropped)
			if more > 0 && dropped > 0 {
				t.Errorf("%d lines were dropped although the reserve was there", dropped)
			}
			seen := h.entries()
			l.check(t, seen, map[string]expectation{"unix": {slowest: blocked, lost: dropped}, "tcp": {slowest: blocked, lost: dropped}})
			missing := 0
			for _, d := range l.devices {
				for i, ok := range d.accepted {
					if ok && seen[d.first+uint64(i)] == 0 {
						missing++
					}
				}
			}
			if missing != dropped {
				t.Errorf("%d entries are missing, %d were counted", missing, dropped)
			}
		})
	}
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
