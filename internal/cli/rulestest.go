package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/ruletest"
)

const rulesTestLong = `Run tests of rules: files that say which events happen and which alerts are expected.

FILES are files of tests, or directories that are searched for them; without, the current
directory. The tests of rules.yaml are in rules.test.yaml beside it. docs/rules-test.md
describes the files. No hub is needed, and times are those that the tests say.

Rules about events of plugins need the plugins, with --plugin, for the fields that they
extract.

Exit codes: 0 all tests passed; 1 one failed, or a file is not right; 2 wrong usage.`

const rulesTestExample = `  # All tests below a directory.
  tocsin rules test rules/

  # Those about root tokens, and which rules no test expects an alert of.
  tocsin rules test rules/vault.test.yaml --run '(?i)root' --coverage

  # Rules about events of a plugin.
  tocsin rules test k8s.test.yaml --plugin libk8saudit.so --plugin libjson.so`

type rulesTestFlags struct {
	rulePlugins
	output   answerFlag
	pattern  string
	coverage bool
	verbose  bool
}

func newRulesTest(s *Streams) *cobra.Command {
	f := rulesTestFlags{output: answerText}
	cmd := &cobra.Command{
		Use:     "test [FILES]",
		Short:   "Run tests of rules: events in, expected alerts out",
		Long:    rulesTestLong,
		Example: rulesTestExample,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.rulePlugins.check(cmd); err != nil {
				return err
			}
			var only *regexp.Regexp
			if f.pattern != "" {
				var err error
				if only, err = regexp.Compile(f.pattern); err != nil {
					return usagef(cmd, "--run: %v", err)
				}
			}
			if len(args) == 0 {
				args = []string{"."}
			}
			return f.run(cmd, s, args, only)
		},
	}
	flags := cmd.Flags()
	f.rulePlugins.register(flags)
	flags.VarP(&f.output, "output", "o", "text (for people) or json (for scripts)")
	flags.StringVar(&f.pattern, "run", "", "run only tests whose names match this `regex` (RE2)")
	flags.BoolVar(&f.coverage, "coverage", false, "say which rules no test expects an alert of")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "print the names of tests that passed, too")
	return cmd
}

func (f *rulesTestFlags) run(cmd *cobra.Command, s *Streams, names []string, only *regexp.Regexp) (err error) {
	ctx := cmd.Context()
	files, err := ruletest.Find(names)
	if err != nil {
		if missing, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrNotExist) {
			return &adviceError{fmt.Errorf("the file of tests %s does not exist", visible(missing.Path)), "FILES are files of tests, such as rules.test.yaml, or directories with such files."}
		}
		return err
	}
	plugins, err := f.start(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plugins.Close(ctx)) }()
	o := ruletest.Options{
		Only:    only,
		Compile: rule.Options{Plugins: plugins.descriptions(), Hostname: "test"},
		Run:     rule.RunOptions{Fields: plugins.registry},
	}
	var done func(ruletest.FileResult)
	if f.output == answerText {
		done = func(r ruletest.FileResult) { f.printFile(s.Out, r) }
	}
	res, err := ruletest.Run(ctx, files, o, done)
	if err != nil {
		return err
	}
	if res.Passed+res.Failed == 0 {
		return fmt.Errorf("there is no test whose name matches --run %q", f.pattern)
	}
	if f.output == answerJSON {
		if !f.coverage {
			res.Coverage = nil
		}
		if err := printJSON(s.Out, res); err != nil {
			return err
		}
	} else {
		f.printEnd(s.Out, res)
	}
	if res.Failed > 0 {
		return fmt.Errorf("%d of %s failed", res.Failed, testCount(res.Failed+res.Passed))
	}
	return nil
}

func testCount(n int) string {
	if n == 1 {
		return "1 test"
	}
	return fmt.Sprintf("%d tests", n)
}

// printFile prints what came of a file: a line if all is well, else what is wrong.
func (f *rulesTestFlags) printFile(w io.Writer, r ruletest.FileResult) {
	if r.Error != "" {
		fmt.Fprintf(w, "FAIL  %s\n", visible(r.File))
		printIndented(w, "      ", r.Error)
		return
	}
	passed := 0
	for _, t := range r.Tests {
		if t.Passed {
			passed++
		}
	}
	switch {
	case len(r.Tests) == 0:
		return // --run wants none of them
	case passed == len(r.Tests):
		fmt.Fprintf(w, "ok    %s  %s\n", visible(r.File), testCount(passed))
	default:
		fmt.Fprintf(w, "FAIL  %s  %d of %s failed\n", visible(r.File), len(r.Tests)-passed, testCount(len(r.Tests)))
	}
	for _, t := range r.Tests {
		if t.Passed {
			if f.verbose {
				fmt.Fprintf(w, "      ok    %s\n", visible(t.Name))
			}
			continue
		}
		fmt.Fprintf(w, "      FAIL  %s (%s:%d)\n", visible(t.Name), visible(r.File), t.Line)
		for _, x := range t.Failures {
			fmt.Fprintf(w, "            line %d: %s\n", x.Line, visible(x.Message))
			for _, d := range x.Details {
				printIndented(w, "              ", d)
			}
		}
	}
}

func printIndented(w io.Writer, indent, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(w, "%s%s\n", indent, visible(line))
	}
}

func (f *rulesTestFlags) printEnd(w io.Writer, res *ruletest.Result) {
	fmt.Fprintf(w, "%s passed, %d failed.\n", testCount(res.Passed), res.Failed)
	if !f.coverage {
		return
	}
	tested := 0
	for _, c := range res.Coverage {
		if c.Tested {
			tested++
		}
	}
	if tested == len(res.Coverage) {
		fmt.Fprintf(w, "All %d rules are tested.\n", tested)
		return
	}
	fmt.Fprintf(w, "%d of %d rules are tested. No test that passed expects an alert of:\n", tested, len(res.Coverage))
	for _, c := range res.Coverage {
		if !c.Tested {
			fmt.Fprintf(w, "      %s (%s:%d)\n", visible(c.Rule), visible(c.File), c.Line)
		}
	}
}
