package child

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// short returns an empty directory with a short path.
func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSocketDir(t *testing.T) {
	tmp := short(t)
	t.Setenv("TMPDIR", tmp)
	home := short(t)
	long := filepath.Join(home, strings.Repeat("long", 20))
	mine := filepath.Join(home, "mine")
	linked := filepath.Join(home, "linked")
	for _, dir := range []string{long, mine, linked} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	target := short(t)
	precious := filepath.Join(target, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(linked, "sockets")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(linked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}

	for name, tc := range map[string]struct{ home, below string }{
		"home":             {mine, mine},
		"long path":        {long, tmp},
		"not a directory":  {linked, tmp},
		"home, once again": {mine, mine},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := SocketDir(tc.home)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Dir(dir) != tc.below {
				t.Errorf("%s is not in %s", dir, tc.below)
			}
			info, err := os.Stat(dir)
			if err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%v, %v", info, err)
			}
			// As go-plugin does, at the longest.
			made := filepath.Join(dir, "plugin-dir4294967295")
			if err := os.Mkdir(made, 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(made, "plugin4294967295"))
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false) // as if it was killed
			l.Close()
			again, err := SocketDir(tc.home)
			if err != nil || again != dir {
				t.Errorf("%s, then %s: %v", dir, again, err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%v, %v", left, err)
			}
		})
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("behind a link: %v", err)
	}
	a, _ := SocketDir(long)
	b, err := SocketDir(long + "er")
	if err != nil || a == b || filepath.Dir(b) != tmp {
		t.Errorf("two homes have %s and %s: %v", a, b, err)
	}
}

// What others can look into is not taken.
func TestSocketDirOfOthers(t *testing.T) {
	tmp := short(t)
	t.Setenv("TMPDIR", tmp)
	home := short(t)
	if err := os.Mkdir(filepath.Join(home, "sockets"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(home, "sockets"), 0o755); err != nil {
		t.Fatal(err)
	}
	if dir, err := SocketDir(home); err != nil || filepath.Dir(dir) != tmp {
		t.Errorf("%s, %v", dir, err)
	}
	if _, err := os.Stat(filepath.Join(home, "sockets", "probe")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
