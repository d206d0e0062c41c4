//go:build !linux

package pluginclient

import "os/exec"

// isolate does nothing: the system has no means.
func isolate(*exec.Cmd) {}

// killGroup ends the process. What it has started is left alone.
func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = cmd.Process.Kill()
	}
}
