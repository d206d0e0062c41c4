package journal

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A directory that is closed can be opened again, also while a child that was just forked has its
// lock file open.
func TestDataDirUnlocks(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	ofChild, err := unix.Dup(int(d.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ofChild)
	if _, err := openDataDir(path); err == nil {
		t.Error("it is opened twice")
	}
	d.close()
	if d, err = openDataDir(path); err != nil {
		t.Fatal(err)
	}
	d.close()
}
