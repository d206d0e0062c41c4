package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/eventinput"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/trial"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

const rulesTryLong = `Tell what rules would have said about events of the past: how many alerts each rule would have
raised, when, and the first of them. Nothing is stored and nothing is sent.

FILES are files of rules in this order, or directories of them; "-" is standard input, and
builtin:vault a set of rules that comes with the program. The
events are those of a hub since --since, from its journal, and of all namespaces that the token
may see. The alerts that its own rules raised in that time are counted beside, unless --type leaves alerts out. --data-dir takes
them from the data directory of a hub that does not run; --audit, --events and --capture from
files. Fields of a plugin are known with --plugin, which is not opened.

The memory that is needed does not grow with the time that is looked at.

Exit codes: 0 done, whatever the rules said; 1 the rules are not valid, the hub cannot be reached
or refuses, or a file cannot be read; 2 wrong usage; 3 some of the events could not be looked at,
or Ctrl-C: what was looked at is told.`

const rulesTryExample = `  # What would these rules have said in the last day?
  tocsin rules try rules.yaml --since 24h

  # About last week, with five alerts of each rule, without what is less than a warning.
  tocsin rules try rules.yaml --since 7d --samples 5 --priority warning

  # About what was recorded by Vault itself, or by Falco.
  tocsin rules try rules/vault.yaml --audit /var/log/vault/audit.log
  tocsin rules try rules.yaml --capture falco.scap --plugin libk8saudit.so

  # The rules with the most alerts, for scripts.
  tocsin rules try rules.yaml -o json | jq '.rules | sort_by(-.alerts)[:3]'`

type rulesTryFlags struct {
	connectFlags
	ruleFlags
	rulePlugins
	ruleInput
	format     answerFlag
	since      string
	until      string
	types      []string
	namespaces []string
	dataDir    string
	samples    int

	from, to time.Time // since, if it is a time, and until
	selected selection
}

func newRulesTry(s *Streams) *cobra.Command {
	f := rulesTryFlags{format: answerText}
	cmd := &cobra.Command{
		Use:     "try FILES...",
		Short:   "Tell what rules would have said about the past",
		Long:    rulesTryLong,
		Example: rulesTryExample,
		Args:    ruleFileArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args); err != nil {
				return err
			}
			return f.run(cmd, s, args)
		},
	}
	f.connectFlags.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "24h", "begin in the past: a duration such as 7d, an RFC 3339 `time`, a position, an event id, or oldest")
	flags.StringVar(&f.until, "until", "", "end in the past: a `time` (RFC 3339) or a duration such as 1h; what was recorded then or later is left out")
	flags.StringArrayVar(&f.types, "type", nil, "look only at events of these types, a `glob` such as 'audit/*'; repeatable")
	flags.StringArrayVar(&f.namespaces, "namespaces", []string{"*"}, "`glob` of further namespaces, relative to the request's; repeatable")
	flags.StringVar(&f.dataDir, "data-dir", "", "take the events from the data `directory` of a hub that does not run")
	f.ruleInput.register(flags)
	f.rulePlugins.register(flags)
	f.ruleFlags.register(flags)
	flags.IntVar(&f.samples, "samples", trial.DefaultSamples, "how many alerts of each rule are shown")
	flags.VarP(&f.format, "output", "o", "text (for people) or json (for scripts)")
	return cmd
}

func (f *rulesTryFlags) check(cmd *cobra.Command, args []string) (err error) {
	flags := cmd.Flags()
	switch {
	case f.samples < 0 || f.samples > 1000:
		return usagef(cmd, "--samples %d: it must be between 0 and 1000", f.samples)
	case f.since == "":
		return usagef(cmd, "--since is empty; \"oldest\" is all there is")
	case f.given() && f.dataDir != "":
		return usagef(cmd, "the events come from files or from --data-dir, not from both")
	case f.given() && (flags.Changed("address") || flags.Changed("namespaces")):
		return usagef(cmd, "the events come from files or from a hub, not from both")
	case f.dataDir != "" && flags.Changed("address"):
		return usagef(cmd, "the events come from a hub or from --data-dir, not from both")
	case f.given() && flags.Changed("since") || f.given() && f.until != "":
		// Files are looked at as a whole, unless that is a time.
		if _, err := pointInTime(f.since, time.Now()); err != nil && flags.Changed("since") {
			return usagef(cmd, "--since, of files: %w", err)
		}
	}
	_, f.selected = newSelection(f.types, nil)
	now := time.Now()
	if f.to, err = pointInTime(f.until, now); err != nil {
		return usagef(cmd, "--until: %w", err)
	}
	if from, err := pointInTime(f.since, now); err == nil && (!f.given() || flags.Changed("since")) {
		f.from = from
	}
	if !f.to.IsZero() && !f.from.IsZero() && !f.from.Before(f.to) {
		return usagef(cmd, "--since %s is not before --until %s", f.since, f.until)
	}
	if err := f.rulePlugins.check(cmd); err != nil {
		return err
	}
	return f.ruleInput.check(cmd, args)
}

// trying is one run of "rules try".
type trying struct {
	flags *rulesTryFlags
	s     *Streams
	trial *trial.Trial
	judge *ruleJudge
	notes *notes

	payload func(ctx context.Context, ref string) ([]byte, error) // of where the events are

	mu     sync.Mutex   // for the progress
	reader *ruleReading // of files
	events uint64
	alerts uint64
	at     time.Time // of the last event

	incomplete []string
	without    int // payloads that could not be had
	why        string
}

func (f *rulesTryFlags) run(cmd *cobra.Command, s *Streams, names []string) (err error) {
	ctx := cmd.Context()
	plugins, err := f.start(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plugins.Close(ctx)) }()
	o, err := f.options(cmd, plugins)
	if err != nil {
		return err
	}
	set, err := compileRules(s, names, o)
	if err != nil {
		return err
	}
	t := &trying{flags: f, s: s, notes: newNotes(s.Err, true), trial: trial.New(set.Loaded(), f.samples)}
	plugins.payloads(t.fetch)
	run, err := set.NewRun(rule.RunOptions{Fields: plugins.registry, Summary: plugins.summary, Payload: t.fetch})
	if err != nil {
		return err
	}
	defer run.Close()
	t.judge = &ruleJudge{run: run, plugins: plugins, notes: t.notes, alert: t.alert}
	stop := ruleTicker(t.notes, isTerminal(s.Err), t.progress)
	switch {
	case f.given():
		err = t.files(ctx, plugins)
	case f.dataDir != "":
		err = t.directory(ctx)
	default:
		err = t.hub(ctx)
	}
	stop()
	switch {
	case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
		t.incomplete = append(t.incomplete, "Stopped before the end.")
	case err != nil:
		return err
	}
	if err := t.judge.end(); err != nil {
		return err
	}
	if f.format == answerJSON {
		err = printJSON(s.Out, t.trial.Report())
	} else {
		err = t.trial.Report().WriteText(s.Out, f.location())
	}
	if err != nil {
		return err
	}
	if t.without > 0 {
		t.incomplete = append(t.incomplete, fmt.Sprintf("%s looked at without the payload, which is kept beside the journal and cannot be had: %s", wasWere(uint64(t.without)), visible(t.why)))
	}
	if len(t.incomplete) > 0 {
		return &incompleteError{strings.Join(t.incomplete, "\n")}
	}
	return nil
}

// progress says how far it is, in one line.
func (t *trying) progress() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := fmt.Sprintf("%s, %s", eventCount(t.events), alertCount(t.alerts))
	if !t.at.IsZero() {
		text += ", up to " + t.at.In(t.flags.location()).Format("2006-01-02 15:04:05")
	}
	share, known := 0.0, false
	if t.reader != nil {
		share, known = t.reader.share()
	} else if !t.flags.from.IsZero() && !t.at.IsZero() {
		end := t.flags.to
		if end.IsZero() {
			end = time.Now()
		}
		share, known = float64(t.at.Sub(t.flags.from))/float64(end.Sub(t.flags.from)), true
	}
	if known {
		text = fmt.Sprintf("%.0f %% · %s", 100*min(max(share, 0), 1), text)
	}
	return text
}

func (t *trying) alert(a *rule.Alert) error {
	t.trial.Alert(a)
	t.mu.Lock()
	t.alerts++
	t.mu.Unlock()
	return nil
}

// record judges a record.
func (t *trying) record(ctx context.Context, rec fields.Record) error {
	for i := range rec.Len() {
		t.trial.Event(rec.Event(i))
	}
	if err := t.judge.record(ctx, rec); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events += uint64(rec.Len())
	if t.at = rec.Event(rec.Len() - 1).Recorded; t.at.IsZero() {
		t.at = rec.Event(rec.Len() - 1).Time
	}
	return nil
}

// wanted says whether an event is one of the time that is looked at. Those of files have no time
// of recording.
func (t *trying) wanted(e *event.Event) bool {
	at := e.Recorded
	if at.IsZero() {
		at = e.Time
	}
	return t.flags.selected.has(e) && (t.flags.from.IsZero() || !at.Before(t.flags.from)) && (t.flags.to.IsZero() || at.Before(t.flags.to))
}

// files looks at the events of files.
func (t *trying) files(ctx context.Context, plugins *startedPlugins) error {
	wanted := eventinput.NewCollector(func(rec *eventinput.Record) error { return t.record(ctx, rec) })
	all := eventinput.NewCollector(func(rec *eventinput.Record) error {
		for i := range rec.Len() {
			if e := rec.Event(i); t.wanted(e) {
				if err := wanted.Add(e); err != nil {
					return err
				}
			}
		}
		return nil
	})
	reader := &ruleReading{input: &t.flags.ruleInput, s: t.s, plugins: plugins, to: all, notes: t.notes}
	t.mu.Lock()
	t.reader = reader
	t.mu.Unlock()
	err := reader.files(ctx)
	t.incomplete = append(t.incomplete, reader.incomplete...)
	return errors.Join(err, wanted.Flush())
}

// hub looks at the events of a hub.
func (t *trying) hub(ctx context.Context) error {
	c, err := t.flags.resolve()
	if err != nil {
		return err
	}
	denied := false
	t.payload = func(ctx context.Context, ref string) ([]byte, error) {
		name, kept := strings.CutPrefix(ref, vaultaudit.PayloadPath)
		if !kept || denied {
			return nil, fmt.Errorf("it cannot be had: %w", fs.ErrNotExist)
		}
		data, err := c.payload(ctx, name)
		if errors.Is(err, client.ErrPermission) {
			denied = true
			err = fmt.Errorf("only a root token may fetch it: %w", fs.ErrNotExist)
		}
		return data, err
	}
	gaps := 0
	subscribe, _ := newSelection(t.flags.types, nil)
	sub, err := client.Subscribe(ctx, subscribe, client.Options{
		Address: c.address, Token: c.token, Namespace: c.namespace, Namespaces: t.flags.namespaces,
		Since: sinceValue(t.flags.since), NoFollow: true, Format: client.FormatCloudEvents,
		HTTPClient: &http.Client{Transport: c.transport},
		Notify: func(n client.Notice) {
			if n.Kind == client.Gap {
				gaps++
			}
			t.notes.mu.Lock()
			defer t.notes.mu.Unlock()
			t.notes.erase()
			reportNotice(t.s.Err, n)
		},
	})
	if err != nil {
		return c.advise(err)
	}
	defer sub.Close()
	to := eventinput.NewCollector(func(rec *eventinput.Record) error { return t.record(ctx, rec) })
	for {
		m, err := sub.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			if gaps > 0 {
				t.incomplete = append(t.incomplete, "Events were missing: see above.")
			}
			return to.Flush()
		case ctx.Err() != nil:
			return errors.Join(to.Flush(), ctx.Err())
		case err != nil:
			return c.advise(err)
		}
		e := m.Event
		if !t.flags.to.IsZero() && !e.Recorded.Before(t.flags.to) {
			return to.Flush() // what follows was recorded later
		}
		if !t.flags.selected.has(e) {
			continue
		}
		if e.Extensions.Delete(event.ExtensionSequence); len(e.Extensions) == 0 {
			e.Extensions = nil
		}
		if err := to.Add(e); err != nil {
			return err
		}
	}
}

// directory looks at the events in the data directory of a hub.
func (t *trying) directory(ctx context.Context) (err error) {
	dir := t.flags.dataDir
	if _, err := os.Stat(filepath.Join(dir, "VERSION")); err != nil {
		return &adviceError{fmt.Errorf("%s is no data directory of a hub: %w", visible(dir), err), "It is what data_dir in the configuration of the hub says."}
	}
	j, err := journal.Open(ctx, journal.Config{Dir: dir, ReserveBytes: -1, Logger: newLogger(t.s.Err, config.Log{Level: "error", Format: "text"})})
	if errors.Is(err, journal.ErrLocked) {
		return &adviceError{err, "A hub uses it: without --data-dir the events come from that."}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close(context.WithoutCancel(ctx))) }()
	t.payload = func(ctx context.Context, ref string) ([]byte, error) { return vaultaudit.Payload(ctx, j, ref) }
	after, err := j.Since(ctx, sinceValue(t.flags.since), time.Now())
	if err != nil {
		return err
	}
	end := j.End()
	to := eventinput.NewCollector(func(rec *eventinput.Record) error { return t.record(ctx, rec) })
	for r := j.Read(after); after.Compare(end) < 0; {
		b, err := r.Next(ctx)
		if gap, ok := errors.AsType[*journal.GapError](err); ok {
			t.incomplete = append(t.incomplete, gap.Error())
			continue
		}
		if err != nil {
			return err
		}
		if !t.flags.to.IsZero() && !b.Recorded().Before(t.flags.to) {
			break
		}
		for i := range b.Len() {
			if e := b.Event(i); t.flags.selected.has(e) {
				if err := to.Add(e); err != nil {
					return err
				}
			}
		}
		after = b.End()
	}
	return to.Flush()
}

// fetch returns a payload that is kept beside the journal. What cannot be had is counted.
func (t *trying) fetch(ctx context.Context, ref string) (data []byte, err error) {
	err = fs.ErrNotExist
	if t.payload != nil {
		data, err = t.payload(ctx, ref)
	}
	if err != nil && ctx.Err() == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.without++; t.why == "" {
			t.why = strings.TrimSuffix(err.Error(), ": "+fs.ErrNotExist.Error())
		}
		if !errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", err, fs.ErrNotExist) // it was tried often enough
		}
	}
	return data, err
}
