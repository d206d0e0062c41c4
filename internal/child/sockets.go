package child

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocketPath is how long the path of a socket may be on all systems.
const maxSocketPath = 103

// longestSocket is what go-plugin puts below a directory for sockets, at the longest.
const longestSocket = "/plugin-dir4294967295/plugin4294967295"

// SocketDir makes the directory in which a hub has the sockets of its plugins, and removes what
// an earlier hub has left there. Home is a directory that nobody else uses meanwhile, which the
// caller sees to. The sockets are below it if their paths can be that long and the file system
// has sockets, else in a directory for temporary files, under a name that belongs to home.
func SocketDir(home string) (string, error) {
	home, err := filepath.Abs(home)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(home))
	name := fmt.Sprintf("tocsin-%d-%s", os.Geteuid(), hex.EncodeToString(sum[:6]))
	var failed []error
	for _, dir := range []string{filepath.Join(home, "sockets"), filepath.Join(os.TempDir(), name), filepath.Join("/tmp", name)} {
		if err := emptySocketDir(dir); err != nil {
			failed = append(failed, err)
			continue
		}
		return dir, nil
	}
	return "", fmt.Errorf("make a directory for the sockets of plugins: %w; set TMPDIR to a directory with a short path", errors.Join(failed...))
}

func emptySocketDir(dir string) error {
	if len(dir)+len(longestSocket) > maxSocketPath {
		return fmt.Errorf("%s: the path is too long for sockets", dir)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// In a directory that belongs to all, it may be somebody else's, or a link.
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is not a directory of this user alone", dir)
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range old {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "probe"))
	if err != nil {
		return err
	}
	return l.Close() // which removes it
}
