package child

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Errors that a caller can act on.
var (
	// ErrChecksum says that the file is not the one that was asked for.
	ErrChecksum = errors.New("the checksum of the executable is not the registered one")
	// ErrMemory says that a process was killed because of Options.MaxMemory.
	ErrMemory = errors.New("it was ended because it used too much memory")
)

// program is an executable that is ready to be started.
type program struct {
	path string
	// file and info are those of a checked executable, as it was before the check.
	file *os.File
	info os.FileInfo
}

// checkExecutable checks an executable. On Linux the path it returns denotes the file that
// was checked, whatever happens to the directory entry meanwhile.
func checkExecutable(path string, sum []byte) (*program, error) {
	if !filepath.IsAbs(path) {
		var err error
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file; name the executable", path)
	}
	p := &program{path: path}
	if sum == nil {
		return p, nil
	}
	if p.file, err = os.Open(path); err != nil {
		return nil, err
	}
	if err := p.check(sum); err != nil {
		p.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func (p *program) check(sum []byte) error {
	var err error
	if p.info, err = p.file.Stat(); err != nil {
		return err
	}
	if !p.info.Mode().IsRegular() {
		return errors.New("is not a file")
	}
	hash := sha256.New()
	start := make([]byte, 2)
	if _, err := io.ReadFull(p.file, start); err != nil {
		return err
	}
	hash.Write(start)
	if _, err := io.Copy(hash, p.file); err != nil {
		return err
	}
	if got := hash.Sum(nil); subtle.ConstantTimeCompare(got, sum) != 1 {
		return fmt.Errorf("%w: it is %x", ErrChecksum, got)
	}
	// An interpreter opens a script by its name, which must not be that of a descriptor
	// that it does not have.
	if script := string(start) == "#!"; !script {
		if path, ok := descriptorPath(p.file); ok {
			p.path = path
		}
	}
	return nil
}

// unchanged returns an error when the file was written to, or another was put in its
// place and may have been started, since before the check. It is called after the start:
// Linux neither executes a file that is open for writing, nor opens one for writing that
// is executed, so that nothing can happen in between or later.
func (p *program) unchanged() error {
	if p.file == nil {
		return nil
	}
	info, err := os.Stat(p.path)
	if err != nil {
		return err
	}
	if !os.SameFile(info, p.info) || info.Size() != p.info.Size() || !changeTime(info).Equal(changeTime(p.info)) {
		return fmt.Errorf("%w: it was changed while it was started", ErrChecksum)
	}
	return nil
}

// notStarted is the error for a command that the system does not start, and says what to do.
func notStarted(command string, err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err // its path may be that of a descriptor
	}
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		hint = "; it is no program for this machine: a program must be built for it, and a script begins with #! and its interpreter"
	case errors.Is(err, fs.ErrPermission):
		hint = "; it must be executable for the user of this process (chmod +x), and its file system not be mounted with noexec"
	case errors.Is(err, fs.ErrNotExist):
		hint = "; the file is there, but not what starts it: the interpreter that a script names behind #!, or the dynamic linker of a program"
	case errors.Is(err, syscall.ETXTBSY):
		hint = "; somebody is still writing to it"
	}
	return fmt.Errorf("start %s: %w%s", command, err, hint)
}

func (p *program) close() {
	if p.file != nil {
		p.file.Close()
	}
}
