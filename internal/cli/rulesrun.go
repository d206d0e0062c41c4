package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/eventinput"
	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/output"
	"github.com/tocsin-events/tocsin/internal/severity"
)

const rulesRunLong = `Judge events by rules and print the alerts, one per line, in the form of Falco: as JSON, or as text
with "-o text". No hub is needed, nothing is stored and nothing is sent.

FILES are files of rules in this order, or directories of them; "-" is standard input, and
builtin:vault a set of rules that comes with the program. The
events come from streams of plugins until these end or until Ctrl-C, or from files:
audit logs (--audit), lines of CloudEvents (--events) and captures (--capture), which may be
given together and are read in this order. With files the plugins only extract fields.

--config and --open belong to the --plugin before them. All plugins that have a stream are
opened, unless --enable-source or --disable-source say otherwise. When one stream fails the
others go on.

Rules with a window or a throttle, which Falco does not have, add the members "count",
"suppressed", "key" and "event_ids" to the JSON of their alerts. At the end a summary is written
to standard error, as by Falco; --summary json makes it JSON, --summary none leaves it out.

Exit codes: 0 the end, --count events, or Ctrl-C; 1 the rules are not valid, a file cannot be
read, or a plugin or stream failed; 2 wrong usage; 3 done, but some of the input was not
understood.`

const rulesRunExample = `  # What would Falco say about these events of a plugin?
  tocsin rules run rules.yaml --plugin ./libdummy.so --open '{"start": 1, "maxEvents": 100}'

  # Two plugins: one that has the events, one that extracts further fields of them.
  tocsin rules run rules/ --plugin libk8saudit.so --open http://:9765/k8s-audit --plugin libjson.so

  # A capture that Falco has written, and the plugin that knows its events.
  tocsin rules run rules.yaml --capture falco.scap --plugin libk8saudit.so

  # An audit log of Vault, and only what is an error or worse.
  tocsin rules run rules/vault.yaml --audit /var/log/vault/audit.log --priority error -o text

  # CloudEvents, as "tocsin events subscribe --format cloudevents" prints them.
  tocsin rules run rules.yaml --events events.jsonl`

// alertFormat is the value of --output of "rules run".
type alertFormat string

const (
	alertJSON alertFormat = "json"
	alertText alertFormat = "text"
)

func (f *alertFormat) String() string { return string(*f) }
func (f *alertFormat) Type() string   { return "format" }
func (f *alertFormat) Set(v string) error {
	switch a := alertFormat(v); a {
	case alertJSON, alertText:
		*f = a
		return nil
	}
	return errors.New("must be json or text")
}

// summaryFormat is the value of --summary.
type summaryFormat string

const (
	summaryText summaryFormat = "text"
	summaryJSON summaryFormat = "json"
	summaryNone summaryFormat = "none"
)

func (f *summaryFormat) String() string { return string(*f) }
func (f *summaryFormat) Type() string   { return "format" }
func (f *summaryFormat) Set(v string) error {
	switch a := summaryFormat(v); a {
	case summaryText, summaryJSON, summaryNone:
		*f = a
		return nil
	}
	return errors.New("must be text, json or none")
}

type rulesRunFlags struct {
	ruleFlags
	rulePlugins
	ruleInput
	output  alertFormat
	summary summaryFormat
	iso8601 bool
	count   uint64
}

func newRulesRun(s *Streams) *cobra.Command {
	f := rulesRunFlags{output: alertJSON, summary: summaryText}
	cmd := &cobra.Command{
		Use:     "run FILES...",
		Short:   "Judge events of plugins or files by rules and print the alerts",
		Long:    rulesRunLong,
		Example: rulesRunExample,
		Args:    ruleFileArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.rulePlugins.check(cmd); err != nil {
				return err
			}
			if err := f.ruleInput.check(cmd, args); err != nil {
				return err
			}
			if !f.given() && len(f.list) == 0 {
				return usagef(cmd, "there are no events to judge: give --plugin, --audit, --events or --capture")
			}
			return f.run(cmd, s, args)
		},
	}
	flags := cmd.Flags()
	f.rulePlugins.register(flags)
	f.registerStreams(flags)
	f.ruleInput.register(flags)
	f.ruleFlags.register(flags)
	flags.VarP(&f.output, "output", "o", "how alerts are printed: json or text")
	flags.BoolVar(&f.iso8601, "iso-8601", false, "begin the messages of alerts with the date and the time in UTC, instead of a clock time")
	flags.Var(&f.summary, "summary", "what is written to standard error at the end: text, json or none")
	flags.Uint64VarP(&f.count, "count", "n", 0, "stop after this many events; 0 means never")
	return cmd
}

func (f *rulesRunFlags) run(cmd *cobra.Command, s *Streams, names []string) (err error) {
	ctx := cmd.Context()
	plugins, err := f.start(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plugins.Close(ctx)) }()
	var streams []eventinput.Stream
	if !f.given() {
		if streams, err = plugins.streams(cmd, &f.rulePlugins); err != nil {
			return err
		}
	}
	o, err := f.options(cmd, plugins)
	if err != nil {
		return err
	}
	set, err := compileRules(s, names, o)
	if err != nil {
		return err
	}
	run, err := set.NewRun(rule.RunOptions{Fields: plugins.registry, Summary: plugins.summary})
	if err != nil {
		return err
	}
	defer run.Close()

	p := &alertPrinter{flags: f, out: s.Out, notes: newNotes(s.Err, true), host: o.Hostname, summary: newRunSummary()}
	p.judge = &ruleJudge{run: run, plugins: plugins, notes: p.notes, alert: p.alert}
	collector := eventinput.NewCollector(func(rec *eventinput.Record) error { return p.record(ctx, rec) })
	collector.Limit(f.count)
	reading := &ruleReading{input: &f.ruleInput, s: s, plugins: plugins, to: collector, notes: p.notes}
	stop := ruleTicker(p.notes, isTerminal(s.Err), func() string { return p.progress(reading) })
	var failed []error
	if f.given() {
		err = reading.files(ctx)
	} else {
		err = eventinput.Streams(ctx, streams, collector, func(s eventinput.Stream, err error) {
			switch {
			case err != nil:
				failed = append(failed, err) // it has the name of the plugin
				if len(streams) > 1 {
					p.notes.say("A stream has failed: %s. The others go on.", visible(err.Error()))
				}
			case len(streams) > 1:
				p.notes.say("The stream of the plugin %s has ended.", pluginName(s.Plugin))
			}
		}, func(s eventinput.Stream, n int, reason string) {
			p.dropped += uint64(n)
			p.reason = reason
		})
	}
	stop()
	if errors.Is(err, eventinput.ErrEnough) || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // the user wanted it
	}
	if isClosedOutput(err) {
		return err
	}
	if ended := p.end(); err == nil {
		err = ended
	}
	if err == nil || p.events.Load() > 0 {
		err = errors.Join(err, p.writeSummary(s.Err))
	}
	if err = errors.Join(append([]error{err}, failed...)...); err != nil {
		return err
	}
	if p.dropped > 0 {
		reading.incomplete = append(reading.incomplete, fmt.Sprintf("%s left out: %s.", wasWere(p.dropped), visible(p.reason)))
	}
	if len(reading.incomplete) > 0 {
		return &incompleteError{strings.Join(reading.incomplete, "\n")}
	}
	return nil
}

// alertPrinter prints alerts, and counts them.
type alertPrinter struct {
	flags   *rulesRunFlags
	judge   *ruleJudge
	out     io.Writer
	notes   *notes
	host    string
	summary *runSummary
	buf     []byte
	dropped uint64
	reason  string

	events, alerts atomic.Uint64 // for the progress
}

// record judges a record and prints the alerts.
func (p *alertPrinter) record(ctx context.Context, rec *eventinput.Record) error {
	p.buf = p.buf[:0]
	err := p.judge.record(ctx, rec)
	if err == nil {
		p.events.Add(uint64(rec.Len()))
		for i := range rec.Len() {
			p.summary.event(rec.Event(i))
		}
	}
	if wrote := p.flush(); wrote != nil {
		return wrote
	}
	if cap(p.buf) > 4<<20 {
		p.buf = nil
	}
	return err
}

// end prints what is left when no event follows.
func (p *alertPrinter) end() error {
	return errors.Join(p.judge.end(), p.flush())
}

// flush writes the lines that are there, above the line of the progress.
func (p *alertPrinter) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	p.notes.mu.Lock()
	defer p.notes.mu.Unlock()
	p.notes.erase()
	_, err := p.out.Write(p.buf)
	p.buf = p.buf[:0]
	return err
}

// maxAlertBytes bounds what is kept of alerts before it is written.
const maxAlertBytes = 1 << 20

func (p *alertPrinter) alert(a *rule.Alert) error {
	p.alerts.Add(1)
	p.summary.alert(a)
	line := output.Alert{
		Hostname: p.host, Priority: a.Rule.Priority, Rule: a.Rule.Name, Source: a.Rule.Source, Tags: a.Rule.Tags, Time: a.Time,
		ISO8601: p.flags.iso8601, Message: a.Output,
	}
	for _, f := range a.Fields {
		line.Fields = append(line.Fields, output.Field{Name: f.Name, JSON: f.JSON})
	}
	if p.flags.output == alertText {
		p.buf = line.AppendText(p.buf, p.flags.location())
	} else {
		p.buf = appendExtension(line.AppendJSON(p.buf, p.flags.location()), a)
	}
	if len(p.buf) < maxAlertBytes {
		return nil
	}
	return p.flush()
}

// appendExtension adds what an alert of a rule with a window or a throttle has beside those of
// Falco to its line of JSON.
func appendExtension(line []byte, a *rule.Alert) []byte {
	if a.Rule.Window == nil && a.Rule.Throttle == nil {
		return line
	}
	line = bytes.TrimSuffix(line, []byte("}\n"))
	line = fmt.Appendf(line, `,"count":%d,"suppressed":%d`, a.Count, a.Suppressed)
	if a.Summary {
		line = append(line, `,"summary":true`...)
	}
	line = append(line, `,"key":{`...)
	for i, k := range a.Key {
		if i > 0 {
			line = append(line, ',')
		}
		line = append(jsontext.AppendString(line, k.Name), ':')
		line = jsontext.AppendString(line, k.Value)
	}
	line = append(line, `},"event_ids":`...)
	if len(a.EventIDs) == 0 {
		line = append(line, "[]"...)
	} else {
		line = jsontext.AppendStrings(line, a.EventIDs)
	}
	return append(line, "}\n"...)
}

// progress says how far it is, in one line.
func (p *alertPrinter) progress(r *ruleReading) string {
	text := fmt.Sprintf("%s, %s", eventCount(p.events.Load()), alertCount(p.alerts.Load()))
	if share, known := r.share(); known {
		text = fmt.Sprintf("%.0f %% · %s", 100*share, text)
	}
	return text
}

func alertCount(n uint64) string {
	if n == 1 {
		return "1 alert"
	}
	return fmt.Sprintf("%d alerts", n)
}

// runSummary counts what happened.
type runSummary struct {
	Events     uint64            `json:"events"` // that were looked at
	Sources    map[string]uint64 `json:"sources"`
	Alerts     uint64            `json:"alerts"`
	Suppressed uint64            `json:"suppressed"`
	Severities map[string]uint64 `json:"severities"`
	Rules      map[string]uint64 `json:"rules"`
	From       *time.Time        `json:"from,omitempty"`
	To         *time.Time        `json:"to,omitempty"`
}

func newRunSummary() *runSummary {
	return &runSummary{Sources: make(map[string]uint64), Severities: make(map[string]uint64), Rules: make(map[string]uint64)}
}

// maxSummarySources bounds the event sources that are counted one by one.
const maxSummarySources = 1000

func (s *runSummary) event(e *event.Event) {
	s.Events++
	if source := rule.SourceOf(e); s.Sources[source] > 0 || len(s.Sources) < maxSummarySources {
		s.Sources[source]++
	}
	at := e.Time.UTC()
	if s.From == nil || at.Before(*s.From) {
		s.From = &at
	}
	if s.To == nil || at.After(*s.To) {
		s.To = &at
	}
}

func (s *runSummary) alert(a *rule.Alert) {
	s.Suppressed += uint64(max(a.Suppressed, 0))
	if a.Summary {
		return
	}
	s.Alerts++
	s.Severities[a.Rule.Priority.String()]++
	s.Rules[a.Rule.Name]++
}

// writeSummary writes it, in the form of Falco if it is for people.
func (p *alertPrinter) writeSummary(w io.Writer) error {
	s := p.summary
	switch p.flags.summary {
	case summaryNone:
		return nil
	case summaryJSON:
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		_, err = w.Write(append(text, '\n'))
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Events read: %d\nEvents detected: %d\n", s.Events, s.Alerts)
	if s.Suppressed > 0 {
		fmt.Fprintf(&b, "Held back by throttles: %d\n", s.Suppressed)
	}
	if s.Alerts > 0 {
		b.WriteString("Rule counts by severity:\n")
		for level := severity.Emergency; level <= severity.Debug; level++ {
			if n := s.Severities[level.String()]; n > 0 {
				fmt.Fprintf(&b, "   %s: %d\n", shortPriority(level), n)
			}
		}
		b.WriteString("Triggered rules by rule name:\n")
		for _, name := range slices.Sorted(maps.Keys(s.Rules)) {
			fmt.Fprintf(&b, "   %s: %d\n", visible(name), s.Rules[name])
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shortPriority returns the name of a priority as Falco's summary has it.
func shortPriority(s severity.Severity) string {
	if s == severity.Informational {
		return "INFO"
	}
	return strings.ToUpper(s.String())
}
