package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/rule/ruletest"
	"github.com/tocsin-events/tocsin/rules"
)

// maxRuleFiles bounds how many files of rules are found.
const maxRuleFiles = 10_000

// ruleFileArgs checks that there are FILES.
func ruleFileArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef(cmd, "the FILES are missing: files of rules, directories of them, or '-' for standard input")
	}
	standard := 0
	for _, a := range args {
		if a == "-" {
			standard++
		}
	}
	if standard > 1 {
		return usagef(cmd, "'-' is standard input, which can be read once")
	}
	return nil
}

// readRuleFiles reads files of rules in the order that is given. Of a directory they are the files
// in it whose names end with .yaml or .yml, by name, as in Falco, but for those with tests; "-" is
// standard input, and builtin:NAME a set of rules that comes with the program.
func readRuleFiles(in io.Reader, names []string) ([]load.File, error) {
	names, err := ruleFileNames(names)
	if err != nil {
		return nil, err
	}
	if len(names) > load.MaxFiles {
		return nil, fmt.Errorf("there are %d files of rules, more than the %d that a hub takes", len(names), load.MaxFiles)
	}
	var files []load.File
	all := 0
	for _, name := range names {
		if strings.HasPrefix(name, rules.Prefix) {
			content, ok := rules.Content(name)
			if !ok {
				return nil, fmt.Errorf("there are no rules %s; there are %s", visible(name), strings.Join(rules.Names(), ", "))
			}
			files = append(files, load.File{Name: name, Content: content})
			continue
		}
		content, err := readRuleFile(in, name)
		if err != nil {
			return nil, err
		}
		if all += len(content); all > load.MaxBytes {
			return nil, fmt.Errorf("the files of rules have more than %d bytes together, which is what a hub takes", load.MaxBytes)
		}
		if name == "-" {
			name = standardInput
		}
		files = append(files, load.File{Name: name, Content: content})
	}
	return files, nil
}

// standardInput is how the file "-" is called.
const standardInput = "standard input"

// readRuleFile reads one file of rules.
func readRuleFile(in io.Reader, name string) ([]byte, error) {
	shown := standardInput
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, ruleFileError(name, err)
		}
		defer f.Close()
		in, shown = f, name
	}
	content, err := io.ReadAll(io.LimitReader(in, load.MaxFileBytes+1))
	switch {
	case err != nil:
		return nil, ruleFileError(shown, err)
	case len(content) > load.MaxFileBytes:
		return nil, fmt.Errorf("%s has more than %d bytes, which no file of rules may have", visible(shown), load.MaxFileBytes)
	}
	return content, nil
}

// ruleFileNames replaces directories by the files of rules in them.
func ruleFileNames(names []string) (files []string, err error) {
	for _, name := range names {
		info, err := os.Stat(name)
		switch {
		case name == "-" || err != nil: // who opens it says what is wrong
			files = append(files, name)
			continue
		case !info.IsDir():
			files = append(files, name)
			continue
		}
		entries, err := os.ReadDir(name)
		if err != nil {
			return nil, ruleFileError(name, err)
		}
		found := len(files)
		for _, e := range entries {
			path := filepath.Join(name, e.Name())
			if ext := filepath.Ext(path); ext != ".yaml" && ext != ".yml" || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
				continue // as a hub does
			}
			if ruletest.IsTest(path) {
				continue
			}
			files = append(files, path)
		}
		if len(files) == found {
			return nil, fmt.Errorf("the directory %s has no files of rules: their names end with .yaml or .yml", visible(name))
		}
		if len(files) > maxRuleFiles {
			return nil, fmt.Errorf("there are more than %d files of rules", maxRuleFiles)
		}
	}
	return files, nil
}

func ruleFileError(name string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("the file of rules %s does not exist", visible(name))
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the file of rules %s may not be read by this user", visible(name))
	}
	return fmt.Errorf("read %s: %w", visible(name), err)
}
