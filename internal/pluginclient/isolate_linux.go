package pluginclient

import (
	"os/exec"
	"syscall"
)

// isolate gives a command a process group of its own, so that an interrupt typed at the
// terminal reaches the hub alone, and a life that ends with the thread that starts it.
func isolate(cmd *exec.Cmd) {
	cmd.Cancel = func() error { killGroup(cmd); return nil }
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup ends the process and what it has started.
func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}
