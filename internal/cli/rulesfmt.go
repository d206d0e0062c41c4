package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/rule/layout"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/terminal"
	"github.com/tocsin-events/tocsin/rules"
)

func newRulesFmt(s *Streams) *cobra.Command {
	var check, differences bool
	cmd := &cobra.Command{
		Use:   "fmt FILE...",
		Short: "Rewrite files of rules in the canonical layout",
		Long: `Rewrite files of rules in the canonical layout, in place, and print the names of those that
changed; of a directory, all files of rules in it. '-' reads standard input and prints to
standard output.

Items have a blank line between them, everything is indented by two, and a condition, also one
of a window, is on one line, or, if it does not fit there, has a line for every term. Comments,
the order, and what the rules mean stay as they are, and so does what is in brackets or braces.
A condition that cannot be read is left as it is: "tocsin rules check" says what is wrong with
it. So is a file that cannot be read or laid out; the others are rewritten nevertheless, and the
exit code is 1.

With --check nothing is written: the names of files with another layout are printed, and
the exit code is 1 if there are any. With --diff nothing is written, either: what would
change is printed.`,
		Example: `  tocsin rules fmt rules/

  # In CI: are all files in the canonical layout?
  tocsin rules fmt --check rules/

  # What would change?
  tocsin rules fmt --diff rules/team-a.yaml`,
		Args: ruleFileArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			for _, name := range names {
				if strings.HasPrefix(name, rules.Prefix) {
					return usagef(cmd, "%s comes with the program and is no file", name)
				}
			}
			changed := 0
			names, err := ruleFileNames(names)
			if err != nil {
				return err
			}
			var failed []error
			for _, name := range names {
				differs, err := formatRules(s, name, check, differences)
				switch {
				case isClosedOutput(err):
					return err
				case err != nil:
					failed = append(failed, err)
				case differs:
					changed++
				}
			}
			if check && changed > 0 {
				failed = append(failed, fmt.Errorf("%d of %d files of rules are not in the canonical layout; \"tocsin rules fmt\" rewrites them", changed, len(names)))
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing, only say which files would change")
	cmd.Flags().BoolVar(&differences, "diff", false, "write nothing, only print what would change")
	return cmd
}

// formatRules formats one file and reports whether that changes it.
func formatRules(s *Streams, name string, check, differences bool) (differs bool, err error) {
	files, err := readRuleFiles(s.In, []string{name})
	if err != nil {
		return false, err
	}
	file := files[0]
	formatted, err := layout.Format(file.Content)
	if err != nil {
		return false, fmt.Errorf("%s: %w", visible(file.Name), err)
	}
	differs = layout.Changed(file.Content, formatted)
	switch {
	case differs && differences:
		err = printRulesDiff(s, file, formatted)
	case differs && check:
		_, err = fmt.Fprintln(s.Out, visible(file.Name))
	case check || differences:
	case name == "-":
		_, err = s.Out.Write(formatted)
	case differs:
		if err = rewriteRules(name, formatted); err == nil {
			_, err = fmt.Fprintln(s.Out, visible(name))
		}
	}
	return differs, err
}

// printRulesDiff prints what would change in a file.
func printRulesDiff(s *Streams, file load.File, formatted []byte) error {
	name := visible(file.Name)
	text := string(diff.Diff(name, file.Content, name+" (formatted)", formatted))
	if terminal.Is(s.Out) {
		text = visibleLines(text)
	}
	_, err := fmt.Fprint(s.Out, text)
	return err
}

// rewriteRules replaces the content of a file, which may be a link, and keeps its permissions.
func rewriteRules(name string, content []byte) error {
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		return ruleFileError(name, err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return ruleFileError(name, err)
	}
	if err := replaceFile(target, content, info.Mode().Perm()); err != nil {
		return fmt.Errorf("write %s: %w", visible(name), err)
	}
	return nil
}
