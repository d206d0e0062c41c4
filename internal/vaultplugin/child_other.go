//go:build !linux

package vaultplugin

import (
	"os"
	"os/exec"
)

func isolate(cmd *exec.Cmd) {}

// awaitExit leaves the waiting to the reaping, and what the process started alone.
func awaitExit(*os.Process) {}

func killGroup(p *os.Process) { _ = p.Kill() }
