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

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// pluginProgram is a source plugin that runs and has not been given its config.
type pluginProgram interface {
	Describe() *sourceplugin.Description
	// Init gives it its config. It is called once.
	Init(ctx context.Context, config string) (sourceplugin.Plugin, error)
	// Close ends it, with what Init returned.
	Close(ctx context.Context) error
}

// endTime is how long a plugin may take to end.
const endTime = 10 * time.Second

// pluginLaunch says which plugin is started, and how.
type pluginLaunch struct {
	file string // an absolute path
	args []string
	env  []string
	log  *slog.Logger
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
