package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/terminal"
)

const rulesCheckLong = `Check files of rules as a hub does when it loads them, and print all errors and warnings with
their places. No hub is needed.

FILES are files of rules in this order, or directories of them; "-" is standard input. A later
file may append to what is in earlier ones, override it and use it, so files that belong
together are checked together.

Rules about the events of a plugin are checked with the fields of the plugin: --plugin starts
it, --hub-config starts those of a hub's configuration, and --fields reads what a plugin has told
before. Without it, its rules are skipped with a warning, as a hub and Falco do.

With "-o json" the result is that of Falco's option -V, with its codes and places. --describe
prints the compiled form of every rule, macro and list as Falco's option -L does.

Exit codes: 0 the rules are valid; 1 they are not, or, with --strict, there are warnings; 2
wrong usage.`

const rulesCheckExample = `  tocsin rules check rules/

  # In CI: warnings are errors, too.
  tocsin rules check --strict rules/

  # Rules about the events of a plugin, and a configuration that has such plugins.
  tocsin rules check k8s_audit_rules.yaml --plugin /usr/share/falco/plugins/libk8saudit.so
  tocsin rules check rules/ --hub-config /etc/tocsin/tocsin.yaml

  # Where the plugin cannot run: its fields, as it has told them elsewhere.
  tocsin plugin inspect -o json libk8saudit.so > k8saudit.json
  tocsin rules check k8s_audit_rules.yaml --fields k8saudit.json

  # What is a rule in the end, with its macros, lists and exceptions?
  tocsin rules check rules/ --describe | jq -r '.rules[].details.condition_compiled'`

// rulesCheck are the flags of "rules check".
type rulesCheck struct {
	plugins     rulePlugins
	fieldFiles  []string
	hubConfig   string
	strict      bool
	strictLists bool
	describe    bool
	quiet       bool
	format      answerFlag
}

func newRulesCheck(s *Streams) *cobra.Command {
	c := rulesCheck{format: answerText}
	cmd := &cobra.Command{
		Use:     "check FILE|DIRECTORY...",
		Short:   "Check files of rules",
		Long:    rulesCheckLong,
		Example: rulesCheckExample,
		Args:    ruleFileArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(cmd, args, s)
		},
	}
	flags := cmd.Flags()
	c.plugins.register(flags)
	flags.StringVar(&c.hubConfig, "hub-config", "", "`file` with the configuration of a hub, whose source plugins are started for their fields")
	flags.StringArrayVar(&c.fieldFiles, "fields", nil, "`file` with the fields of a plugin: the JSON of \"tocsin plugin inspect\", or, as SOURCE=FILE, a list as plugins of Falco give it; repeatable")
	flags.BoolVar(&c.strict, "strict", false, "warnings are errors")
	flags.BoolVar(&c.strictLists, "strict-lists", false, "leave names of lists in quoted texts alone, where Falco replaces them")
	flags.BoolVar(&c.describe, "describe", false, "print the compiled form of rules, macros and lists, as JSON")
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "print errors only")
	flags.VarP(&c.format, "output", "o", "text (for people) or json (in the shape of Falco's option -V)")
	return cmd
}

func (c *rulesCheck) run(cmd *cobra.Command, args []string, s *Streams) error {
	if err := c.plugins.check(cmd); err != nil {
		return err
	}
	if err := c.addHubPlugins(); err != nil {
		return err
	}
	files, err := readRuleFiles(s.In, args)
	if err != nil {
		return err
	}
	known, fromFiles, err := c.descriptions(cmd, s)
	if err != nil {
		return err
	}
	compiler := rule.NewCompiler(known, false)
	for _, problem := range compiler.Problems() {
		fmt.Fprintf(s.Err, "Note: %s.\n", visible(problem.Error()))
	}
	o := load.Options{
		Compiler: compiler, Plugins: known, AnyPlugins: fromFiles, StrictLists: c.strictLists, Sources: compiler.Sources(), Partial: rule.Partial,
		AllErrors: c.format == answerText, // Falco tells the first of each file
	}
	var described json.RawMessage
	var report *load.Report
	count := 0
	if c.describe {
		described, report = load.Describe(files, o)
	} else {
		var rules []*load.Rule
		rules, report = load.Load(files, o)
		count = len(rules)
	}
	if err := c.print(s, report, described, count); err != nil {
		return err
	}
	errs, warnings := report.Final()
	switch {
	case len(errs) > 0:
		return &adviceError{fmt.Errorf("the rules are not valid: %s", countOf(len(errs), "error")), "Until that is mended a hub keeps the rules that it has."}
	case c.strict && len(warnings) > 0:
		return fmt.Errorf("there are warnings, and --strict takes them for errors: %s", countOf(len(warnings), "warning"))
	}
	return nil
}

// addHubPlugins adds the source plugins of a configuration to those of the command line.
func (c *rulesCheck) addHubPlugins() error {
	if c.hubConfig == "" {
		return nil
	}
	hub, err := config.Load(c.hubConfig)
	if err != nil {
		return err
	}
	for _, p := range hub.Plugins.Sources {
		if len(c.plugins.list) == maxRulePlugins {
			return fmt.Errorf("there are more than %d plugins", maxRulePlugins)
		}
		c.plugins.list = append(c.plugins.list, rulePlugin{file: p.Library + p.Command, config: p.ConfigText(), args: p.Args, environment: p.Env})
	}
	return nil
}

// descriptions returns what plugins tell of themselves, those that run and those in files.
func (c *rulesCheck) descriptions(cmd *cobra.Command, s *Streams) (known []*sourceplugin.Description, fromFiles bool, err error) {
	started, err := c.plugins.start(cmd.Context(), s)
	if err != nil {
		return nil, false, err
	}
	known = started.descriptions()
	if err := started.Close(cmd.Context()); err != nil {
		return nil, false, err
	}
	for _, name := range c.fieldFiles {
		d, err := readFieldsFile(name)
		if err != nil {
			return nil, false, err
		}
		if i := slices.IndexFunc(known, func(o *sourceplugin.Description) bool { return d.Name != "" && o.Name == d.Name }); i >= 0 {
			return nil, false, fmt.Errorf("--fields %s: the plugin %s is there already", visible(name), visible(d.Name))
		}
		fromFiles = fromFiles || d.Version == ""
		known = append(known, d)
	}
	return known, fromFiles, nil
}

func (c *rulesCheck) print(s *Streams, report *load.Report, described json.RawMessage, rules int) error {
	if c.format == answerJSON {
		b, err := report.MarshalJSON()
		if err != nil {
			return err
		}
		var result map[string]json.RawMessage
		if err := json.Unmarshal(b, &result); err != nil {
			return err
		}
		if described != nil {
			result["falco_describe_results"] = described
		}
		return printJSON(s.Out, result)
	}
	out := s.Out
	if c.describe {
		out = s.Err // what is wrong is not part of the result
	}
	errs, warnings := report.Final()
	notes := report.Notes()
	if c.quiet {
		warnings, notes = nil, nil
	}
	p := diagnosticPrinter{w: out, colours: terminal.Colours(out)}
	p.print(errs, warnings)
	for _, d := range notes {
		p.diagnostic(d, p.paint(paintBold, "note"), "")
	}
	for _, f := range report.Files {
		if f.LeftOut > 0 && !c.quiet {
			p.line(p.paint(paintBold, visible(f.Name)), ": and ", countOf(f.LeftOut, "more warning"))
		}
	}
	switch {
	case p.err != nil:
		return p.err
	case described != nil:
		return printJSON(s.Out, described)
	case len(errs) > 0 || c.quiet:
		return nil
	}
	summary := fmt.Sprintf("%s in %s: ok", countOf(rules, "rule"), countOf(len(report.Files), "file"))
	if len(warnings) > 0 {
		summary += ", with " + countOf(len(warnings), "warning")
	}
	_, err := fmt.Fprintln(out, summary)
	return err
}

// countOf returns "1 rule" or "2 rules".
func countOf(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// diagnosticPrinter prints errors and warnings for people.
type diagnosticPrinter struct {
	w       io.Writer
	colours bool
	err     error
}

// What colours there are.
const (
	paintError   = "\x1b[1;31m"
	paintWarning = "\x1b[1;33m"
	paintDim     = "\x1b[2m"
	paintBold    = "\x1b[1m"
	paintEnd     = "\x1b[0m"
)

func (p *diagnosticPrinter) paint(colour, text string) string {
	if !p.colours || text == "" {
		return text
	}
	return colour + text + paintEnd
}

func (p *diagnosticPrinter) line(parts ...string) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, strings.Join(parts, ""))
	}
}

func (p *diagnosticPrinter) print(errs, warnings []*load.Diagnostic) {
	for _, d := range errs {
		p.diagnostic(d, p.paint(paintError, "error"), "")
	}
	// A file of many rules about the events of one plugin says the same for each.
	skipped := make(map[string]int)
	for _, d := range warnings {
		if d.Code == load.WarnUnknownSource {
			skipped[d.Message]++
		}
	}
	for _, d := range warnings {
		more := ""
		if d.Code == load.WarnUnknownSource {
			n := skipped[d.Message]
			if n == 0 {
				continue
			}
			skipped[d.Message] = 0
			if n > 1 {
				more = "; the same is true of " + countOf(n-1, "more rule")
			}
		}
		p.diagnostic(d, p.paint(paintWarning, "warning"), more)
	}
}

// diagnostic prints one: where, what, the line, and what to do.
func (p *diagnosticPrinter) diagnostic(d *load.Diagnostic, kind, more string) {
	text := visible(d.Text())
	if d.Item != "" {
		text = visible(d.Item) + ": " + text
	}
	code := ""
	if d.Code != "" {
		code = p.paint(paintDim, " ("+string(d.Code)+")")
	}
	p.line(p.paint(paintBold, visible(d.At.String())), ": ", kind, ": ", text, more, code)
	hint := visible(d.Hint)
	if d.Line == "" || d.At.Line == 0 {
		if hint != "" {
			p.line("    ", hint)
		}
		return
	}
	number := fmt.Sprintf("%6d | ", d.At.Line)
	p.line(p.paint(paintDim, number), visible(strings.ReplaceAll(d.Line, "\t", " ")))
	caret := strings.Repeat(" ", max(d.At.Column-1, 0)) + p.paint(paintError, strings.Repeat("^", max(d.Width, 1)))
	if hint != "" {
		caret += " " + hint
	}
	p.line(p.paint(paintDim, "       | "), caret)
}

var errNoFields = errors.New("it is neither the JSON of \"tocsin plugin inspect\" nor a list of fields")
