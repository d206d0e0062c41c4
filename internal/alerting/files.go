package alerting

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/rule/ruletest"
)

// expand returns the files that paths stand for: a directory for its .yaml and .yml files, in the
// order of their names, without those that begin with a dot, tests of rules, and directories below it.
func expand(paths []string) (list []string, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
		if !info.IsDir() {
			if !info.Mode().IsRegular() {
				return nil, fmt.Errorf("read rules: %s is neither a file nor a directory", path)
			}
			list = append(list, path)
			continue
		}
		entries, err := os.ReadDir(path) // sorted
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
		for _, e := range entries {
			name := e.Name()
			if ext := filepath.Ext(name); strings.HasPrefix(name, ".") || ext != ".yaml" && ext != ".yml" || ruletest.IsTest(name) {
				continue
			}
			file := filepath.Join(path, name)
			info, err := os.Stat(file)
			// A link to nothing is a mistake, not a file less: its rules would just be gone. A file that
			// has been removed meanwhile is none.
			dangling := errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink != 0
			if err == nil && info.Mode().IsRegular() || err != nil && !errors.Is(err, fs.ErrNotExist) || dangling {
				list = append(list, file)
			}
		}
	}
	if len(list) > load.MaxFiles {
		return nil, fmt.Errorf("there are %d files of rules, more than %d", len(list), load.MaxFiles)
	}
	return list, nil
}

// signature is what changes when files do, as far as it can be told without reading them.
type signature [sha256.Size]byte

// look returns the signature of the files that paths stand for. It has one, too, when they cannot
// be read.
func look(paths []string) signature {
	h := sha256.New()
	list, err := expand(paths)
	if err != nil {
		fmt.Fprintf(h, "%v\n", err)
	}
	for _, file := range list {
		info, err := os.Stat(file)
		if err != nil {
			fmt.Fprintf(h, "%q %v\n", file, err)
			continue
		}
		fmt.Fprintf(h, "%q %d %d %v %s\n", file, info.Size(), info.ModTime().UnixNano(), info.Mode(), inode(info))
	}
	return signature(h.Sum(nil))
}

// ReadFiles reads the files that paths, of files and directories, stand for, as a hub does: with its
// bounds, in its order.
func ReadFiles(paths []string) (files []load.File, err error) {
	list, err := expand(paths)
	if err != nil {
		return nil, err
	}
	all := 0
	for _, name := range list {
		content, err := readFile(name)
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
		if all += len(content); all > load.MaxBytes {
			return nil, fmt.Errorf("the files of rules have more than %d bytes", load.MaxBytes)
		}
		files = append(files, load.File{Name: name, Content: content})
	}
	return files, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, load.MaxFileBytes+1))
	if err == nil && len(content) > load.MaxFileBytes {
		err = fmt.Errorf("%s has more than %d bytes", name, load.MaxFileBytes)
	}
	return content, err
}

// inode tells a file from another one of the same name.
func inode(info fs.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprint(st.Dev, " ", st.Ino)
	}
	return ""
}

// fingerprint tells whether files are others than before.
func fingerprint(files []load.File) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %d\n", f.Name, len(f.Content))
		h.Write(f.Content)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
