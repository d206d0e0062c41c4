package file

import (
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// born returns when a file was made. Where the file system does not know, it is when it was
// written to last.
func born(f *os.File, info fs.FileInfo) time.Time {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_SYNC_AS_STAT, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return info.ModTime()
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
}
