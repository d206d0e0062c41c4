package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/eventinput"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// ruleInput says which files events are read from.
type ruleInput struct {
	audit, events, captures []string
	name                    string
	kvVersions              map[string]int
	sources                 sourceFlag
}

func (f *ruleInput) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.audit, "audit", nil, "read the audit log of a Vault or OpenBao in this `file`, and the notifications that follow from it; '-' is standard input; repeatable, oldest first")
	flags.StringArrayVar(&f.events, "events", nil, "read CloudEvents from this `file`, one per line; '-' is standard input; repeatable")
	flags.StringArrayVar(&f.captures, "capture", nil, "read the events of this capture `file` (.scap); '-' is standard input; repeatable")
	flags.StringVar(&f.name, "audit-name", "vault", "`name` of the server of --audit, for the source of its events: vault://NAME")
	flags.StringToIntVar(&f.kvVersions, "kv-version", nil, "`mount=1|2` of kv mounts for which the log of --audit does not tell the version; repeatable")
	flags.Var(&f.sources, "event-source", "event source of the plugin with an id, in a --capture; repeatable")
}

// given says whether events are read from files.
func (f *ruleInput) given() bool { return len(f.audit)+len(f.events)+len(f.captures) > 0 }

// check refuses what makes no sense.
func (f *ruleInput) check(cmd *cobra.Command, rules []string) error {
	standard := 0
	for _, list := range [][]string{rules, f.audit, f.events, f.captures} {
		for _, name := range list {
			if name == "-" {
				standard++
			}
			if name == "" {
				return usagef(cmd, "the name of a file is empty")
			}
		}
	}
	if standard > 1 {
		return usagef(cmd, "'-' is standard input, which can be read once")
	}
	for mount, version := range f.kvVersions {
		if version != 1 && version != 2 {
			return usagef(cmd, "--kv-version %s=%d: the version must be 1 or 2", mount, version)
		}
	}
	return nil
}

// ruleReading reads the files.
type ruleReading struct {
	input   *ruleInput
	s       *Streams
	plugins *startedPlugins
	to      *eventinput.Collector
	notes   *notes
	replay  *falcoevent.Replay
	told    captureNotes

	size, read atomic.Int64 // bytes of the files, as they are stored
	// incomplete is what was not understood, in sentences.
	incomplete []string
}

// maxToldLines is how many lines that are no event are told about one by one.
const maxToldLines = 10

// files reads all of them. The error is that of ctx, of a file that cannot be read, or of who
// judges.
func (r *ruleReading) files(ctx context.Context) error {
	for _, list := range [][]string{r.input.audit, r.input.events, r.input.captures} {
		for _, name := range list {
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
				r.size.Add(info.Size())
			}
		}
	}
	if len(r.input.audit) > 0 {
		versions := make(map[string]int, len(r.input.kvVersions))
		for mount, version := range r.input.kvVersions {
			versions[strings.Trim(mount, "/")+"/"] = version
		}
		t := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: r.input.name, KVVersions: versions})
		var stats vaultaudit.Stats
		for _, name := range r.input.audit {
			if err := r.auditLog(ctx, name, t, &stats); err != nil {
				return err
			}
		}
		if stats.Quarantined > 0 {
			r.incomplete = append(r.incomplete, fmt.Sprintf("%d of %d lines of the audit log were not understood.", stats.Quarantined, stats.Lines-stats.Blank))
		}
	}
	for _, name := range r.input.events {
		if err := r.cloudEvents(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range r.input.captures {
		if err := r.capture(ctx, name); err != nil {
			return err
		}
	}
	return r.to.Flush()
}

// open opens a file; "-" is standard input. A pipe that has nothing to read does not hold up the
// end of ctx, and what was read before is judged before more is waited for.
func (r *ruleReading) open(ctx context.Context, name string) (in io.Reader, end func(), err error) {
	if name == "-" {
		return newWaitingReader(ctx, r.s.In, r.to.Flush), func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	counted := &countingReader{in: f, n: &r.read}
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return newWaitingReader(ctx, counted, r.to.Flush), func() { f.Close() }, nil
	}
	return contextReader{ctx, counted}, func() { f.Close() }, nil
}

func (r *ruleReading) auditLog(ctx context.Context, name string, t *vaultaudit.Translator, sum *vaultaudit.Stats) error {
	in, end, err := r.open(ctx, name)
	if err != nil {
		return auditFileError(name, err)
	}
	defer end()
	plain, err := decompressed(in)
	if err != nil {
		return auditFileError(name, err)
	}
	source := &failingReader{in: plain}
	stats, err := eventinput.AuditLog(ctx, source, t, r.to)
	sum.Lines += stats.Lines
	sum.Blank += stats.Blank
	sum.Quarantined += stats.Quarantined
	if source.err != nil && ctx.Err() == nil && errors.Is(err, source.err) {
		return auditFileError(name, source.err)
	}
	return err
}

// failingReader remembers why a read failed, to tell it from what failed elsewhere.
type failingReader struct {
	in  io.Reader
	err error
}

func (f *failingReader) Read(p []byte) (int, error) {
	n, err := f.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

func (r *ruleReading) cloudEvents(ctx context.Context, name string) error {
	shown := name
	if name == "-" {
		shown = "standard input"
	}
	in, end, err := r.open(ctx, name)
	if err != nil {
		return err
	}
	defer end()
	plain, err := decompressed(in)
	if err != nil {
		return readError(visible(shown), err)
	}
	source := &failingReader{in: plain}
	bad := 0
	err = eventinput.CloudEvents(ctx, source, r.to, func(line int, err error) error {
		if bad++; bad <= maxToldLines {
			r.notes.say("%s, line %d: %s", visible(shown), line, visible(err.Error()))
		}
		return nil
	})
	if bad > 0 {
		r.incomplete = append(r.incomplete, fmt.Sprintf("%d lines of %s are no CloudEvents.", bad, visible(shown)))
	}
	if source.err != nil && ctx.Err() == nil && errors.Is(err, source.err) {
		return readError(visible(shown), err)
	}
	return err
}

func (r *ruleReading) capture(ctx context.Context, name string) error {
	in, end, err := r.open(ctx, name)
	if err != nil {
		return err
	}
	defer end()
	source := &failingReader{in: in}
	file, err := capture.NewReader(source, capture.ReaderOptions{})
	if err != nil {
		return captureEnd(name, err)
	}
	if r.replay == nil {
		r.replay = falcoevent.NewReplay("capture", "", "", r.input.sources)
		r.replay.Plugins(r.plugins.descriptions()...)
		r.told.replay = r.replay
	}
	unread := uint64(0)
	err = eventinput.Capture(ctx, file, r.replay, r.to, func(rec *capture.Record) {
		if note := r.told.plugin(rec.PluginID()); note != "" {
			r.notes.say("%s", note)
		}
	}, func(*capture.Record, error) { unread++ })
	if unread > 0 {
		r.incomplete = append(r.incomplete, fmt.Sprintf("%s of Tocsin's plugin %s no CloudEvent.", eventCount(unread), isOrAre(unread)))
	}
	if stats := file.Stats(); err == nil {
		if stats.Foreign > 0 {
			r.notes.say("%s passed over: of system calls, or of unknown types.", wasWere(stats.Foreign))
		}
	}
	if err == nil || ctx.Err() != nil || !isDamaged(err) && (source.err == nil || !errors.Is(err, source.err)) {
		return err
	}
	err = captureEnd(name, err)
	if incomplete, ok := errors.AsType[*incompleteError](err); ok {
		r.incomplete = append(r.incomplete, incomplete.message)
		return nil
	}
	return err
}

// share returns how much of the files is read, and whether that is known.
func (r *ruleReading) share() (float64, bool) {
	size := r.size.Load()
	if size == 0 {
		return 0, false
	}
	return min(float64(r.read.Load())/float64(size), 1), true
}
