package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/pluginprocess"
)

// endTime is how long a plugin may take to end.
const endTime = 10 * time.Second

// pluginLaunch says which plugin is started, and how.
type pluginLaunch struct {
	file string // an absolute path
	args []string
	env  []string
	log  *slog.Logger
}

// start starts the process of a plugin: of an executable, or of this program for a library,
// whose crash ends only that.
func (l *pluginLaunch) start(ctx context.Context) (*pluginprocess.Process, error) {
	o := pluginprocess.Options{Name: filepath.Base(l.file), Command: l.file, Args: l.args, Env: l.env, Logger: l.log}
	if isLibrary(l.file) {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the program that loads libraries: %w", err)
		}
		o.Command, o.Args = self, []string{"plugin-host", l.file}
	}
	return pluginprocess.Start(ctx, o)
}

// checkArgs refuses arguments for a library.
func checkArgs(cmd *cobra.Command, file string, args []string) error {
	if isLibrary(file) && len(args) > 0 {
		return usagef(cmd, "a library takes no arguments, such as %q; --config is for its config", args[0])
	}
	return nil
}

// isLibrary reports whether the name of a file is that of a shared library.
func isLibrary(name string) bool {
	base := filepath.Base(name)
	return strings.HasSuffix(base, ".so") || strings.HasSuffix(base, ".dylib") || strings.Contains(base, ".so.")
}

// findPlugin returns the absolute path of a library, or of an executable, which may be one of
// $PATH.
func findPlugin(name string) (string, error) {
	library := isLibrary(name)
	if !library && !strings.ContainsRune(name, filepath.Separator) {
		if found, err := exec.LookPath(name); err == nil {
			name = found
		}
	}
	name, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("find the plugin: %w", err)
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", &adviceError{fmt.Errorf("find the plugin: %w", err), "Give the path of a library (.so), or of an executable. If it is not built yet, build it first."}
	case err != nil:
		return "", fmt.Errorf("find the plugin: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file; name the library or the executable in it", name)
	case !library && info.Mode()&0o111 == 0:
		return "", &adviceError{fmt.Errorf("%s is not executable", name), "Make it executable with chmod +x. The name of a library ends with .so."}
	}
	return name, nil
}
