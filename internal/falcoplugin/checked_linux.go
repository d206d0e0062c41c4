package falcoplugin

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// sealed returns memory to write a library to, and the path to load it from after done, from
// when on nobody can change it. It lasts as long as the process, like the library.
func sealed() (into io.Writer, path string, done func() error, err error) {
	fd, err := unix.MemfdCreate("library", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 there is no other kind
		fd, err = unix.MemfdCreate("library", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, "", nil, fmt.Errorf("memory for a checked copy: %w", err)
	}
	f := os.NewFile(uintptr(fd), "library")
	checked = append(checked, f)
	seal := func() error {
		_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
		return err
	}
	return f, fmt.Sprintf("/proc/self/fd/%d", fd), seal, nil
}

// checked keeps the copies open.
var checked []*os.File
