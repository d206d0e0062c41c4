//go:build unix

package cli

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ownOutput returns standard output for this program alone: what a library prints goes to standard
// error from now on, and so into the log of the hub instead of between what the hub has to read.
func ownOutput(out io.Writer) (io.Writer, error) {
	if out != os.Stdout {
		return out, nil
	}
	fd, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.Dup2(int(os.Stderr.Fd()), int(os.Stdout.Fd()))
	}
	if err != nil {
		return nil, fmt.Errorf("keep standard output from the library: %w", err)
	}
	return os.NewFile(uintptr(fd), "standard output"), nil
}
