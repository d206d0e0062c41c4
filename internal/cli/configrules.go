package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/tocsin-events/tocsin/internal/alerting"
	"github.com/tocsin-events/tocsin/internal/app"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/terminal"
)

// checkRules prints what is wrong with the files of rules of a configuration, as far as it can be
// told without its plugins, and what that leaves out.
func checkRules(s *Streams, c config.Config, file string) error {
	if !c.Rules.Enabled() {
		return nil
	}
	missing := false
	for i, path := range c.Rules.Files {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(s.Err, "Note: rules.files[%d]: there is no file or directory %s here\n", i, visible(path))
			missing = true
		}
	}
	if missing { // others may need what is in them
		fmt.Fprintln(s.Err, "Note: rules.files are not checked")
		return nil
	}
	files, err := app.BuiltinRules(c.Rules.Builtin)
	if err != nil {
		return err
	}
	own, err := alerting.ReadFiles(c.Rules.Files)
	if err != nil {
		return fmt.Errorf("rules.files: %w", err)
	}
	files = append(files, own...)
	o := app.RuleOptions(c.Rules)
	o.Incomplete = len(c.Plugins.Sources) > 0
	compiler := rule.NewCompiler(nil, o.Incomplete)
	_, report := load.Load(files, load.Options{
		Compiler: compiler, AnyPlugins: o.Incomplete, Minimum: o.Minimum, Selections: o.Selections, StrictLists: o.StrictLists,
		Sources: compiler.Sources(), Partial: rule.Partial, AllErrors: true,
	})
	var set *rule.Set
	if report.OK() {
		set, report = rule.Compile(files, o)
	}
	errs, warnings := report.Final()
	p := diagnosticPrinter{w: s.Err, colours: terminal.Colours(s.Err)}
	p.print(errs, warnings)
	switch {
	case p.err != nil:
		return p.err
	case set == nil:
		return &adviceError{fmt.Errorf("the rules are not valid: %s", countOf(len(errs), "error")), "Until that is mended a hub keeps the rules that it has."}
	case len(set.Waiting()) > 0:
		var names []string
		for _, r := range set.Waiting() {
			names = append(names, visible(r.Name))
		}
		fmt.Fprintf(s.Err, "Note: not all is checked of %s about events of plugins, which are not started for it: %s. \"tocsin rules check --hub-config %s FILES\" starts them\n",
			countOf(len(names), "rule"), strings.Join(names[:min(len(names), maxNamed)], ", "), visible(file))
	}
	return nil
}

// maxNamed bounds the rules that are named in one line.
const maxNamed = 20
