package inbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of that many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("needs a small file system and the right to mount one (root): mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// A full disk: the reserve is used, then the memory, then lines are dropped and counted;
// Put answers at once all the time. When there is room again everything that was taken is
// read, with the news of what was dropped in its place.
func TestInboxDiskFull(t *testing.T) {
	disk := smallDisk(t, 24)
	x := open(t, Options{
		Dir: filepath.Join(disk, "spool"), SegmentBytes: 512 << 10, MaxBytes: 1 << 30,
		ReserveBytes: 8 << 20, MemoryBytes: 2 << 20, SyncInterval: 50 * time.Millisecond,
	})
	var ballast int
	for ; ; ballast++ { // to the last byte
		f, err := os.Create(filepath.Join(disk, fmt.Sprint("ballast", ballast)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(make([]byte, 1<<20))
		f.Close()
		if errors.Is(err, unix.ENOSPC) {
			break
		}
	}
	type seen struct{ text, lost string }
	var want []seen
	var dropped, droppedBytes, longest = 0, 0, time.Duration(0)
	states := make(map[State]bool)
	n := 0
	some := func() {
		for range 10 {
			text := fmt.Sprintf("%d %s", n, strings.Repeat("x", 1300))
			n++
			start := time.Now()
			_, err := x.Put(t.Context(), lines(text))
			longest = max(longest, time.Since(start))
			switch {
			case err == nil:
				if dropped > 0 {
					want = append(want, seen{lost: fmt.Sprint(dropped, droppedBytes)})
					dropped, droppedBytes = 0, 0
				}
				want = append(want, seen{text: text})
			case errors.Is(err, ErrFull):
				dropped++
				droppedBytes += len(text)
			default:
				t.Fatal(err)
			}
		}
	}
	for range 2000 { // 26 MB
		some()
		await(t, "the writer", func() bool { s := x.Stats(); return s.MemoryLines == 0 || s.State >= MemoryOnly })
		s := x.Stats()
		if !states[s.State] {
			states[s.State] = true
			t.Logf("after %d lines: %v: %v", n, s.State, x.Health())
		}
	}
	for _, s := range []State{OnReserve, MemoryOnly, Dropping} {
		if !states[s] {
			t.Errorf("it was never %v", s)
		}
	}
	if err := x.Health(); err == nil || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "free space") {
		t.Error(err)
	}
	kept := len(want)
	if kept < (8<<20+1<<20)/1400 {
		t.Errorf("only %d lines were kept", kept)
	}
	t.Logf("the longest Put took %v", longest) // TestSlowDisk shows that it waits for no disk
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	x.mu.Lock()
	end := x.end()
	x.mu.Unlock()
	if err := x.Durable(ctx, end); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("what is in memory is durable: %v", err)
	}
	for i := range ballast + 1 {
		if err := os.Remove(filepath.Join(disk, fmt.Sprint("ballast", i))); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "room", func() bool { return x.Stats().MemoryLines == 0 })
	for range 10 {
		some()
	}
	if err := x.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	var b Batch
	for i := 0; i < len(want); {
		if err := x.Read(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		if b.Lost != nil {
			if got := fmt.Sprint(b.Lost.Lines, b.Lost.Bytes); want[i].lost != got || b.Lost.Reason != Full || b.Lost.Last.Before(b.Lost.First) {
				t.Fatalf("%d: lost %s, want %+v", i, got, want[i])
			}
			i++
		}
		for _, l := range b.Lines {
			if string(l.Data) != want[i].text {
				t.Fatalf("%d: %.20q, want %.20q, %s", i, l.Data, want[i].text, want[i].lost)
			}
			i++
		}
		x.Release(b.After())
	}
	if s := x.Stats(); s.DroppedLines == 0 || int(s.DroppedLines)+kept+100 < n || s.FileBytes > 8<<20 {
		t.Errorf("%+v", s)
	}
	await(t, "health", func() bool { return x.Health() == nil })
	shut(t, x)
}
