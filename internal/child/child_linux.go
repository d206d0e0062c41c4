package child

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolate gives a command a process group of its own, so that an interrupt typed at the
// terminal reaches the hub alone, and a life that ends with the thread that starts it.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit returns when a child process has ended, and kills what it started. It does
// not reap it, so that its id, which is that of the group, belongs to nobody else yet.
func awaitExit(p *os.Process) {
	for unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	killGroup(p)
}

func killGroup(p *os.Process) { _ = unix.Kill(-p.Pid, unix.SIGKILL) }

func interrupt(p *os.Process) { _ = unix.Kill(p.Pid, unix.SIGTERM) }

// limitMemory is the bound behind the bound: a process that takes memory faster than it is looked
// at gets an error of the system for it. It applies to what the process starts, too.
func limitMemory(pid int, most int64) error {
	if most <= 0 {
		return nil
	}
	limit := uint64(most)*2 + 256<<20 // what is reserved and never touched counts here
	if err := unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil && err != unix.ESRCH {
		return fmt.Errorf("limit its memory: %w", err)
	}
	return nil
}

// memoryOf returns how much memory a process has for itself: what is resident, without files
// and what is shared; 0 if it has ended.
func memoryOf(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(text), &size, &resident, &shared); err != nil {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}
