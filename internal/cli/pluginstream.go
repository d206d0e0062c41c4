package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// streamFlags are the flags of "plugin run" for source plugins.
type streamFlags struct {
	config  string
	open    string
	fields  []string
	count   int
	capture string
	force   bool
	metrics bool
}

// streamFlagNames are flags that only source plugins have, vaultFlagNames those that only Vault
// plugins have.
var (
	streamFlagNames = []string{"config", "open", "field", "count", "capture", "force", "metrics"}
	vaultFlagNames  = []string{"path", "option", "name", "namespace", "login-policy", "no-reload", "all", "data-dir", "root-token", "listen", "address-file", "log-level"}
)

func (f *streamFlags) register(flags *pflag.FlagSet) {
	registerPluginConfig(flags, &f.config)
	flags.StringVar(&f.open, "open", "", "`params` that the stream of a source plugin is opened with; @FILE reads a file, @- standard input")
	flags.StringArrayVar(&f.fields, "field", nil, "`field` to extract from each event: NAME or NAME[ARGUMENT]; repeatable")
	flags.IntVarP(&f.count, "count", "n", 0, "stop after this many events of a source plugin; 0 means never")
	flags.StringVar(&f.capture, "capture", "", "record the events in this `file` too, a capture (.scap, or .scap.gz: compressed)")
	flags.BoolVar(&f.force, "force", false, "replace the file of --capture if it exists")
	flags.BoolVar(&f.metrics, "metrics", false, "print the metrics of a source plugin on standard error at the end")
}

// registerPluginConfig registers --config.
func registerPluginConfig(flags *pflag.FlagSet, to *string) {
	flags.StringVar(to, "config", "", "`text` of the config of a source plugin, mostly JSON; @FILE reads a file, @- standard input")
}

// changed returns the first of these flags that is given; "" if none is.
func changed(flags *pflag.FlagSet, names []string) string {
	for _, name := range names {
		if flags.Changed(name) {
			return name
		}
	}
	return ""
}

// maxParamBytes bounds a config and the params of a stream.
const maxParamBytes = 4 << 20

// paramText returns what a flag stands for: its text, or for @FILE what is in the file.
func paramText(flag, value string, in io.Reader) (string, error) {
	name, isFile := strings.CutPrefix(value, "@")
	if !isFile {
		return value, nil
	}
	what := name
	if name == "-" {
		what = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("--%s: %w", flag, err)
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxParamBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("--%s: %w", flag, readError(what, err))
	case len(text) > maxParamBytes:
		return "", fmt.Errorf("--%s: %s has more than %d bytes", flag, what, maxParamBytes)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// check refuses what makes no sense, whatever the plugin is.
func (f *streamFlags) check(cmd *cobra.Command) error {
	switch {
	case f.count < 0:
		return usagef(cmd, "--count %d: the number of events cannot be negative", f.count)
	case f.force && f.capture == "":
		return usagef(cmd, "--force is for --capture")
	case f.capture == "-":
		return usagef(cmd, "--capture takes a file: the standard output has the events as text")
	case f.config == "@-" && f.open == "@-":
		return usagef(cmd, "--config and --open cannot both be standard input")
	}
	return nil
}

// requests reads --field.
func (f *streamFlags) requests(cmd *cobra.Command, d *sourceplugin.Description) ([]sourceplugin.FieldRequest, error) {
	if len(f.fields) > 0 && !d.Capabilities.Extract {
		return nil, usagef(cmd, "--field: the plugin %s extracts no fields", d.Name)
	}
	var requests []sourceplugin.FieldRequest
	for _, text := range f.fields {
		r, err := fieldtext.Parse(text, d.Fields)
		if err != nil {
			return nil, usagef(cmd, "--field: %w", err)
		}
		requests = append(requests, r)
	}
	return requests, nil
}

// run starts a source plugin, opens its stream and prints its events.
func (f *streamFlags) run(cmd *cobra.Command, s *Streams, l *pluginLaunch, output outputFlag) (err error) {
	ctx := cmd.Context()
	if err := f.check(cmd); err != nil {
		return err
	}
	pluginConfig, err := paramText("config", f.config, s.In)
	if err != nil {
		return err
	}
	open, err := paramText("open", f.open, s.In)
	if err != nil {
		return err
	}
	program, err := l.start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		err = errors.Join(err, program.Close(ending))
	}()
	d := program.Describe()
	if !d.Capabilities.Source {
		return &adviceError{fmt.Errorf("the plugin %s has no stream of events", visible(d.Name)), fmt.Sprintf("\"tocsin plugin inspect %s\" tells what it can do.", l.file)}
	}
	requests, err := f.requests(cmd, d)
	if err != nil {
		return err
	}
	var file *capture.FileWriter
	if f.capture != "" {
		if file, err = newCaptureWriter(s, f.capture, f.force, false, ""); err != nil {
			return err
		}
	}
	p, err := initPlugin(ctx, program, pluginConfig, l.file)
	if err == nil {
		r := &streamRun{
			plugin: p, description: d, name: d.Name, requests: requests, count: uint64(f.count), out: s.Out, progress: s.Err,
			json: output == outputJSON, file: file,
		}
		err = r.run(ctx, open)
		if f.metrics && !errors.Is(err, errStopped) {
			printMetrics(context.WithoutCancel(ctx), s.Err, p)
		}
	}
	if errors.Is(err, errStopped) {
		err = nil // the user wanted it, but not that something is lost
	}
	if file != nil {
		failed := file.Sync()
		if closed := file.Close(); failed == nil {
			failed = closed
		}
		switch {
		case failed != nil && errors.Is(err, failed): // was met before
		case failed != nil:
			err = errors.Join(err, fmt.Errorf("write the capture: %w", failed))
		case file.Events() == 0:
			fmt.Fprintln(s.Err, "There was no event, so there is no capture.")
		default:
			fmt.Fprintf(s.Err, "Written to %s: %s.\n", visible(f.capture), eventCount(file.Events()))
		}
	}
	return err
}

// initPlugin gives a plugin its config.
func initPlugin(ctx context.Context, program *pluginprocess.Process, text, file string) (sourceplugin.Plugin, error) {
	err := program.Init(ctx, text)
	if err != nil && ctx.Err() == nil && program.Describe().ConfigSchema != "" {
		return nil, &adviceError{err, fmt.Sprintf("\"tocsin plugin inspect %s\" prints the schema of its config, which --config gives.", file)}
	}
	if err != nil {
		return nil, err
	}
	return program, nil
}

// printMetrics prints what a plugin counts, if it does.
func printMetrics(ctx context.Context, w io.Writer, p sourceplugin.Plugin) {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	metrics, err := p.Metrics(ctx)
	switch {
	case errors.Is(err, sourceplugin.ErrNotSupported), err == nil && len(metrics) == 0:
		fmt.Fprintln(w, "The plugin has no metrics.")
	case err != nil:
		fmt.Fprintf(w, "The metrics cannot be read: %v\n", err)
	}
	for _, m := range metrics {
		kind := "gauge"
		if m.Monotonic {
			kind = "counter"
		}
		fmt.Fprintf(w, "%s %v (%s)\n", visible(m.Name), m.Value, kind)
	}
}

// errStopped is the user's wish to end.
var errStopped = errors.New("stopped")

// streamRun is a stream whose events are printed.
type streamRun struct {
	plugin      sourceplugin.Plugin
	description *sourceplugin.Description
	name        string
	requests    []sourceplugin.FieldRequest
	count       uint64 // 0: no end
	out         io.Writer
	progress    io.Writer // a terminal, or nothing is written to it
	json        bool
	file        *capture.FileWriter // nil: none

	mu    sync.Mutex // the file, and the terminal
	shown bool       // the line of the progress is there

	printer  *streamPrinter
	number   uint64 // of the last event
	tooLarge uint64 // for the capture
	dropped  uint64
	reason   string // of what was dropped
}

// run opens the stream and returns at its end: nil, errStopped, or a failure.
func (r *streamRun) run(ctx context.Context, params string) (err error) {
	r.printer = newStreamPrinter(r)
	stream, err := r.plugin.Open(ctx, sourceplugin.Open{Params: params})
	if err != nil {
		if ctx.Err() != nil {
			return errStopped
		}
		return fmt.Errorf("open the stream: %w", err)
	}
	stop := r.background(ctx, stream)
	err = r.read(ctx, stream)
	stop()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	closed := stream.Close(ending)
	switch {
	case err == nil && closed != nil:
		return fmt.Errorf("close the stream: %w", closed)
	case err != nil:
		return err
	case r.dropped > 0:
		return &incompleteError{fmt.Sprintf("%s left out: %s.", wasWere(r.dropped), visible(r.reason))}
	case r.tooLarge > 0:
		return &incompleteError{fmt.Sprintf("%s too large for a capture.", wasWere(r.tooLarge))}
	}
	return nil
}

func wasWere(n uint64) string {
	if n == 1 {
		return "1 event was"
	}
	return fmt.Sprintf("%d events were", n)
}

// read prints events up to the end of the stream, or as many as are wanted.
func (r *streamRun) read(ctx context.Context, stream sourceplugin.Stream) error {
	var b sourceplugin.Batch
	for {
		b.Reset()
		next := stream.Next(ctx, &b)
		if b.Dropped > 0 {
			r.dropped += uint64(b.Dropped)
			r.reason = b.DroppedReason
		}
		if err := r.batch(ctx, b.Events); err != nil {
			if ctx.Err() != nil && !isClosedOutput(err) {
				return errStopped
			}
			return err
		}
		switch {
		case r.count > 0 && r.number >= r.count, errors.Is(next, io.EOF):
			return nil
		case ctx.Err() != nil:
			return errStopped
		case next != nil:
			return next
		}
		if b.Position != nil {
			// What is printed needs no repetition.
			if err := stream.Acknowledge(ctx, b.Position); err != nil && ctx.Err() == nil && !errors.Is(err, sourceplugin.ErrNotSupported) {
				return err
			}
		}
	}
}

// Chunks are what the plugin is asked about at once.
const (
	chunkEvents = 1024
	chunkBytes  = 4 << 20
)

// batch prints a batch, in chunks.
func (r *streamRun) batch(ctx context.Context, rest []byte) error {
	var chunk []sourceplugin.Event
	for len(rest) > 0 && (r.count == 0 || r.number < r.count) {
		chunk = chunk[:0]
		for size := 0; len(rest) > 0 && len(chunk) < chunkEvents && size < chunkBytes && (r.count == 0 || r.number < r.count); {
			e, behind, err := scapevent.Next(rest)
			if err != nil {
				return fmt.Errorf("plugin %s: %w", visible(r.name), err)
			}
			rest = behind
			r.number++
			size += len(e)
			chunk = append(chunk, sourceplugin.Event{Event: e, Number: r.number, Source: r.description.EventSource})
		}
		if err := r.record(chunk); err != nil {
			return err
		}
		if err := r.printer.chunk(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

// record writes events to the capture.
func (r *streamRun) record(chunk []sourceplugin.Event) error {
	if r.file == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range chunk {
		err := r.file.Write(e.Event)
		if errors.Is(err, capture.ErrTooLarge) {
			r.tooLarge++
		} else if err != nil {
			return fmt.Errorf("write the capture: %w", err)
		}
	}
	return nil
}

// write writes lines, above the line of the progress if there is one.
func (r *streamRun) write(lines []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shown {
		r.shown = false
		fmt.Fprint(r.progress, eraseLine)
	}
	_, err := r.out.Write(lines)
	return err
}

// background writes what of the capture is not written yet, once a second, and shows the
// progress on a terminal if the plugin tells it, up to stop.
func (r *streamRun) background(ctx context.Context, stream sourceplugin.Stream) (stop func()) {
	show := r.description.Capabilities.Progress && isTerminal(r.progress)
	if !show && r.file == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(flushEvery)
		defer ticker.Stop()
		for {
			if show {
				show = r.showProgress(ctx, stream)
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if r.file != nil {
				r.mu.Lock()
				_ = r.file.Flush() // the next write has the same error
				r.mu.Unlock()
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.shown {
			r.shown = false
			fmt.Fprint(r.progress, eraseLine)
		}
	}
}

// showProgress returns false if there is none to show.
func (r *streamRun) showProgress(ctx context.Context, stream sourceplugin.Stream) bool {
	p, err := stream.Progress(ctx)
	if err != nil {
		return !errors.Is(err, sourceplugin.ErrNotSupported)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprint(r.progress, eraseLine, fit(streamProgress(p), outputWidth(r.progress)))
	r.shown = true
	return true
}

// streamProgress is the progress for people.
func streamProgress(p sourceplugin.Progress) string {
	text := fmt.Sprintf("%.1f %%", 100*min(max(p.Fraction, 0), 1))
	if p.Text != "" && p.Text != text {
		text += " · " + visible(p.Text)
	}
	return text
}

// defaultPluginLevel is what a plugin may say on standard error unless told otherwise.
const defaultPluginLevel = logLevelFlag(config.LogLevel("info"))
