//go:build !linux

package child

import (
	"errors"
	"os"
	"os/exec"
)

func isolate(cmd *exec.Cmd) {}

// awaitExit leaves the waiting to the reaping, and what the process started alone.
func awaitExit(*os.Process) {}

func killGroup(p *os.Process) { _ = p.Kill() }

func interrupt(p *os.Process) { _ = p.Signal(os.Interrupt) }

func limitMemory(_ int, most int64) error {
	if most > 0 {
		return errors.New("limit its memory: only Linux can do that; remove max_memory")
	}
	return nil
}

func memoryOf(int) int64 { return 0 }
