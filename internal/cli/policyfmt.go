package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/policy"
)

func newPolicyFmt(s *Streams) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt FILE...",
		Short: "Rewrite policies in the canonical layout",
		Long: `Rewrite the files of policies in the canonical layout, in place, and print the names of
those that changed; '-' reads standard input and prints to standard output.

A file that is no valid policy is left as it is, and every error in it is printed with
its line and column.

With --check nothing is written: the names of files with another layout are printed, and
the exit code is 1 if there are any.`,
		Example: `  tocsin policy fmt team-a.hcl

  # In CI: are all files in the canonical layout?
  tocsin policy fmt --check policies/*.hcl`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "the FILE is missing ('-' is standard input)")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, files []string) error {
			changed := 0
			for _, file := range files {
				differs, err := formatPolicy(s, file, check)
				if err != nil {
					return err
				}
				if differs {
					changed++
				}
			}
			if check && changed > 0 {
				return fmt.Errorf("%d of %d policies are not in the canonical layout; \"tocsin policy fmt\" rewrites them", changed, len(files))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing, only say which files would change")
	return cmd
}

// formatPolicy formats one file and reports whether that changes it.
func formatPolicy(s *Streams, file string, check bool) (differs bool, err error) {
	text, err := readPolicy(s.In, file)
	if err != nil {
		return false, err
	}
	formatted, err := policy.Format(text)
	if err != nil {
		return false, policyError(shownFile(file), err)
	}
	differs = formatted != text
	switch {
	case check && !differs:
	case check:
		_, err = fmt.Fprintln(s.Out, shownFile(file))
	case file == "-":
		_, err = fmt.Fprint(s.Out, formatted)
	case differs:
		if err = rewriteFile(file, formatted); err == nil {
			_, err = fmt.Fprintln(s.Out, file)
		}
	}
	return differs, err
}

// rewriteFile replaces the content of a file, which may be a link, and keeps its
// permissions.
func rewriteFile(file, text string) error {
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	if err := replaceFile(target, []byte(text), info.Mode().Perm()); err != nil {
		return fmt.Errorf("write policy %s: %w", file, err)
	}
	return nil
}
