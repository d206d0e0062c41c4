// Package ruletest runs tests of rules: files that say which events happen and which alerts are
// raised about them. Times are those that a test says, so its result is the same whenever and
// wherever it runs.
//
// A file NAME.test.yaml stands beside the rules that it tests, NAME.yaml. docs/rules-test.md
// describes it.
package ruletest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/rules"
)

// Bounds of tests.
const (
	maxFileBytes = 8 << 20   // of a file of tests or rules
	maxInput     = 256 << 20 // of a file of events, unpacked
	maxTimes     = 100_000   // repeats of an event
	maxEvents    = 5_000_000 // of a test
	maxAlerts    = 100_000   // of a test
	maxShown     = 10        // alerts that a failure shows
)

// Suffixes end the names of files of tests.
var Suffixes = []string{".test.yaml", ".test.yml", "_test.yaml", "_test.yml"}

// IsTest says whether a file is one of tests, by its name.
func IsTest(name string) bool {
	return slices.ContainsFunc(Suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
}

// Options say how files are run.
type Options struct {
	// Only runs the tests whose names fit; nil: all.
	Only *regexp.Regexp
	// Compile is what rules are compiled with. Matching and Location are the file's to say.
	Compile rule.Options
	// Run is what runs are made with.
	Run rule.RunOptions
}

// Result is what came of files of tests.
type Result struct {
	Files    []FileResult `json:"files"`
	Passed   int          `json:"passed"`
	Failed   int          `json:"failed"` // files that cannot be run count as one
	Coverage []Coverage   `json:"coverage"`
}

// FileResult is what came of one file.
type FileResult struct {
	File string `json:"file"`
	// Error says why none of the tests ran.
	Error string       `json:"error,omitempty"`
	Tests []TestResult `json:"tests"`
}

// TestResult is what came of one test.
type TestResult struct {
	Name     string    `json:"name"`
	Line     int       `json:"line"`
	Passed   bool      `json:"passed"`
	Events   int       `json:"events"`
	Alerts   int       `json:"alerts"`
	Failures []Failure `json:"failures,omitempty"`

	raised map[string]bool // rules that were raised and expected
}

// Failure is one thing that is not as it should be.
type Failure struct {
	Line int `json:"line"` // of what was expected
	// Message is one line; Details are lines that show more.
	Message string   `json:"message"`
	Details []string `json:"details,omitempty"`
}

// Coverage says of a rule whether a test that passed has expected an alert of it.
type Coverage struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Rule   string `json:"rule"`
	Tested bool   `json:"tested"`
}

// Find returns the files of tests that names stand for: files, and directories with all that is
// below them, in order. The error wraps [ErrNoTests] if a directory has none.
func Find(names []string) ([]string, error) {
	var files []string
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, name)
			continue
		}
		before := len(files)
		err = filepath.WalkDir(name, func(path string, d os.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && path != name && strings.HasPrefix(d.Name(), "."):
				return filepath.SkipDir
			case !d.IsDir() && IsTest(path):
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(files) == before {
			return nil, fmt.Errorf("%s: %w", name, ErrNoTests)
		}
	}
	return files, nil
}

// ErrNoTests is wrapped by the error of [Find] for a directory without tests.
var ErrNoTests = errors.New("there are no files of tests: their names end with " + Suffixes[0])

// Run runs files of tests, and calls done, if it is not nil, after each. The error is that of ctx;
// what is wrong with files is in the result.
func Run(ctx context.Context, files []string, o Options, done func(FileResult)) (*Result, error) {
	res := new(Result)
	covered := map[[2]string]int{} // file and rule: index in Coverage
	for _, name := range files {
		f := FileResult{File: name, Tests: []TestResult{}}
		of, err := runFile(ctx, name, o, &f)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			f.Error = err.Error()
			res.Failed++
		}
		for _, r := range of {
			at := [2]string{r.At.File, r.Name}
			if _, ok := covered[at]; !ok {
				covered[at] = len(res.Coverage)
				res.Coverage = append(res.Coverage, Coverage{File: r.At.File, Line: r.At.Line, Rule: r.Name})
			}
		}
		for i := range f.Tests {
			t := &f.Tests[i]
			if !t.Passed {
				res.Failed++
				continue
			}
			res.Passed++
			for _, r := range of {
				if t.raised[r.Name] {
					res.Coverage[covered[[2]string{r.At.File, r.Name}]].Tested = true
				}
			}
		}
		res.Files = append(res.Files, f)
		if done != nil {
			done(f)
		}
	}
	return res, nil
}

// runFile runs the tests of a file and returns the rules that it is about.
func runFile(ctx context.Context, name string, o Options, res *FileResult) ([]*load.Rule, error) {
	f, err := readFile(name)
	if err != nil {
		return nil, err
	}
	sets := map[string]*rule.Set{} // by what tests add to the rules
	var all []*load.Rule
	for _, t := range f.tests {
		if o.Only != nil && !o.Only.MatchString(t.name) {
			continue
		}
		key := t.with + "\x00" + strings.Join(t.only, "\x00")
		set := sets[key]
		if set == nil {
			if set, err = f.compile(t, o); err != nil {
				return all, err
			}
			sets[key] = set
			for _, r := range set.Rules() {
				if r.Enabled && r.At.File != inlineName && !slices.ContainsFunc(all, func(o *load.Rule) bool { return o.Name == r.Name }) {
					all = append(all, r)
				}
			}
		}
		tr, err := t.run(ctx, f, set, o)
		if err != nil {
			return all, err
		}
		res.Tests = append(res.Tests, tr)
	}
	return all, nil
}

// inlineName is the name of the rules that a test adds.
const inlineName = "with"

// compile compiles the rules of a test.
func (f *file) compile(t *test, o Options) (*rule.Set, error) {
	var files []load.File
	for _, name := range f.rules {
		content, ok := rules.Content(name)
		if !ok {
			var err error
			if content, err = readAll(name, maxFileBytes); err != nil {
				return nil, f.errorf(f.rulesAt, "rules: %w", err)
			}
		}
		files = append(files, load.File{Name: name, Content: content})
	}
	for _, text := range []string{f.with, t.with} {
		if text != "" {
			files = append(files, load.File{Name: inlineName, Content: []byte(text)})
		}
	}
	ro := o.Compile
	ro.Location = f.location
	if f.matching != "" {
		ro.Matching = f.matching
	}
	if len(t.only) > 0 {
		ro.Selections = append(slices.Clone(ro.Selections), load.Selection{Rule: "*"})
		for _, name := range t.only {
			ro.Selections = append(ro.Selections, load.Selection{Enable: true, Rule: name})
		}
	}
	set, report := rule.Compile(files, ro)
	if set == nil {
		return nil, f.errorf(f.rulesAt, "the rules are not valid:%s", problems(report))
	}
	for _, pattern := range t.only {
		if !slices.ContainsFunc(set.Rules(), func(r *load.Rule) bool { return r.Enabled && matches(pattern, r.Name) }) {
			return nil, f.errorf(t.at, "only: there is no rule %q%s", pattern, hint(pattern, names(set)))
		}
	}
	return set, nil
}

func names(set *rule.Set) (names []string) {
	for _, r := range set.Rules() {
		names = append(names, r.Name)
	}
	return names
}

// matches says whether a name fits a pattern with wildcards, as in selections.
func matches(pattern, name string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], after
	}
}

// problems returns the errors of a report, each on lines of its own.
func problems(report *load.Report) string {
	var b strings.Builder
	for _, f := range report.Files {
		for _, d := range f.Errors {
			b.WriteString("\n  ")
			b.WriteString(d.Error())
		}
	}
	return b.String()
}

// DefaultStart is when tests begin that do not say it: a Wednesday.
var DefaultStart = time.Date(2026, 1, 7, 10, 0, 0, 0, time.UTC)
