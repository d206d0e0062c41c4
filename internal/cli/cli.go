// Package cli is the command line: one file per command. It parses arguments,
// prints, and translates errors into exit codes and advice; what a command does
// is done by other packages.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/terminal"
)

// Exit codes. They are part of the interface and documented in the help.
const (
	exitOK         = 0 // done, or ended by the user
	exitError      = 1 // something failed
	exitUsage      = 2 // unknown command or flag, wrong arguments
	exitIncomplete = 3 // done, but some input was not understood or was refused
	exitNotAllowed = 4 // done, and the answer is that it is not allowed
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Hangups makes SIGHUP something that is received instead of the end of the program;
	// nil: that is not possible.
	Hangups func() <-chan struct{}
}

// Run executes one command line (without the program's name) and returns its exit
// code. The end of ctx is the user's wish to stop.
func Run(ctx context.Context, args []string, s Streams) int {
	root := newRoot(&s)
	root.SetArgs(doubleDashes(root, args))
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitOK // the user wanted it to end
	case isClosedOutput(err):
		return exitOK // the reader of our output wanted no more
	}
	if errors.Is(err, errNotAllowed) {
		return exitNotAllowed // which was printed
	}
	if incomplete, ok := errors.AsType[*incompleteError](err); ok {
		if incomplete.message != "" {
			fmt.Fprintln(s.Err, incomplete.message)
		}
		return exitIncomplete
	}
	if usage, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(s.Err, "Error: %v\nSee \"%s --help\".\n", usage.err, usage.command)
		return exitUsage
	}
	if config.IsProblem(err) {
		fmt.Fprintf(s.Err, "Error: the configuration is not valid:\n%v\n", err)
		return exitError
	}
	fmt.Fprintf(s.Err, "Error: %v\n", err)
	return exitError
}

// isClosedOutput reports whether an error says that nobody reads our output any more. A
// connection to a hub can break in the same way, which is a failure.
func isClosedOutput(err error) bool {
	if _, network := errors.AsType[*net.OpError](err); network {
		return false
	}
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}

// usageError is a command line that cannot be understood.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{command: cmd.CommandPath(), err: fmt.Errorf(format, args...)}
}

// incompleteError is a run that did its work and has to say that some of the
// input was not understood. The message is empty when everything was said.
type incompleteError struct{ message string }

func (e *incompleteError) Error() string { return e.message }

// adviceError adds what to do next to an error.
type adviceError struct {
	err    error
	advice string
}

func (e *adviceError) Error() string { return e.err.Error() + "\n" + e.advice }
func (e *adviceError) Unwrap() error { return e.err }

// exactArgs is cobra.ExactArgs with an error that names the argument.
func exactArgs(n int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < n:
			return usagef(cmd, "%s is missing", names)
		case len(args) > n:
			return usagef(cmd, "unexpected argument %q", args[n])
		}
		return nil
	}
}

// newGroup returns a command that only has subcommands. Alone it prints its help.
func newGroup(use, short, long string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: cobra.ArbitraryArgs, // so that RunE can suggest a command
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	cmd.AddCommand(sub...)
	return cmd
}

func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := config.Nearest(name, names); near != "" {
		return usagef(cmd, "unknown command %q; did you mean %q?", name, near)
	}
	return usagef(cmd, "unknown command %q; known are %s", name, strings.Join(names, ", "))
}

// flagError turns what pflag says about a flag into an error with a suggestion.
func flagError(cmd *cobra.Command, err error) error {
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		name := missing.GetSpecifiedName()
		if letters, _, _ := strings.Cut(missing.GetSpecifiedShortnames(), "="); len(letters) > 1 {
			name = letters // meant as one name, with one dash
		} else if letters != "" {
			return usagef(cmd, "unknown flag -%s", letters)
		}
		if near := config.Nearest(name, names); near != "" {
			return usagef(cmd, "unknown flag --%s; did you mean --%s?", name, near)
		}
		return usagef(cmd, "unknown flag --%s", name)
	}
	return &usageError{command: cmd.CommandPath(), err: err}
}

// doubleDashes rewrites Vault's spelling of flags, -filter=x, to --filter=x.
// Only names of flags that exist are rewritten, up to the argument "--".
func doubleDashes(root *cobra.Command, args []string) []string {
	known := make(map[string]bool)
	var collect func(*cobra.Command)
	collect = func(c *cobra.Command) {
		note := func(f *pflag.Flag) { known[f.Name] = true }
		c.Flags().VisitAll(note)
		c.PersistentFlags().VisitAll(note)
		for _, sub := range c.Commands() {
			collect(sub)
		}
	}
	collect(root)
	out := slices.Clone(args)
	for i, a := range out {
		if a == "--" {
			break
		}
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			if name, _, _ := strings.Cut(a[1:], "="); known[name] {
				out[i] = "-" + a
			}
		}
	}
	return out
}

// isTerminal reports whether w is a terminal, so that a person is looking.
func isTerminal(w any) bool { return terminal.Is(w) }

// colours reports whether output to w may be coloured.
func colours(w any) bool { return terminal.Colours(w) }
