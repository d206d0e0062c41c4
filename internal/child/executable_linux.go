package child

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// descriptorPath is a path by which a child process can execute an open file. There is
// none where the kernel hides the descriptors of this process from its children, as it
// does when the hub has file capabilities, or where /proc is missing.
func descriptorPath(f *os.File) (string, bool) {
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 1 {
		return "", false
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	_, err := os.Stat(path)
	return path, err == nil
}

// changeTime is when a file was last written to in any way; unlike its modification time
// it cannot be set.
func changeTime(info os.FileInfo) time.Time {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(s.Ctim.Unix())
	}
	return info.ModTime()
}
