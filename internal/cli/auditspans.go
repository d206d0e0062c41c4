package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/tail"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/lines"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
)

const auditSpansLong = `Read audit logs of Vault or OpenBao and print one span for each request: what was asked, by
whom, how it ended, and how long it took, from the request entry to the response entry.
Several files are read one after the other, oldest first; '-' is standard input. Files that
are compressed with gzip or zstd are recognised. No hub is needed and nothing is stored.

The output is text for people, json with one span per line, or otlp with one OTLP/JSON
ExportTraceServiceRequest per line, which an OpenTelemetry Collector reads (receiver
otlpjsonfile) and any OTLP/HTTP endpoint takes as a body.

Requests of which an entry is missing are printed too, and counted on standard error.
What a span has, and how it is named, is in docs/traces.md.

Exit codes: 0 done; 1 a file cannot be read; 2 wrong usage; 3 done, but some lines were
no audit entries.`

const auditSpansExample = `  tocsin audit spans /var/log/vault/audit.log

  # What was slow?
  tocsin audit spans --min-duration 100ms audit.log.1.gz audit.log

  # What failed below one mount, as JSON?
  tocsin audit spans --failed --mount secret/ -o json audit.log | jq .attributes

  # One request, whose id a client has shown.
  tocsin audit spans --request-id 520854b6-9454-49f7-3334-8aba186064a1 audit.log

  # Into any tracing system that takes OTLP.
  tocsin audit spans -o otlp audit.log | while read -r request; do
    curl -sS -H 'Content-Type: application/json' -d "$request" http://127.0.0.1:4318/v1/traces
  done`

// spanOutput is the value of --output.
type spanOutput string

const (
	spansText spanOutput = "text"
	spansJSON spanOutput = "json"
	spansOTLP spanOutput = "otlp"
)

func (o *spanOutput) String() string { return string(*o) }
func (o *spanOutput) Type() string   { return "format" }

func (o *spanOutput) Set(s string) error {
	switch v := spanOutput(s); v {
	case spansText, spansJSON, spansOTLP:
		*o = v
		return nil
	}
	return errors.New("must be text, json or otlp")
}

type auditSpansFlags struct {
	output      spanOutput
	verbose     bool
	name        string
	window      time.Duration
	minDuration time.Duration
	failed      bool
	incomplete  bool
	operations  []string
	mounts      []string
	requestIDs  []string
}

func newAuditSpans(s *Streams) *cobra.Command {
	f := auditSpansFlags{output: spansText}
	cmd := &cobra.Command{
		Use:     "spans FILE...",
		Short:   "Print the requests of audit logs as spans with their durations",
		Long:    auditSpansLong,
		Example: auditSpansExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "the FILE is missing ('-' is standard input)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.window <= 0 || f.minDuration < 0 {
				return usagef(cmd, "--window must be more than 0, --min-duration not less")
			}
			return f.run(cmd.Context(), s, args)
		},
	}
	flags := cmd.Flags()
	flags.VarP(&f.output, "output", "o", "text, json (one span per line) or otlp (one OTLP/JSON request per line)")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "print a summary on standard error even when it is no terminal")
	flags.StringVar(&f.name, "name", "vault", "`name` of the server: the service of the spans")
	flags.DurationVar(&f.window, "window", trace.DefaultWindow, "how far behind a request its response may stand")
	flags.DurationVar(&f.minDuration, "min-duration", 0, "only requests that took at least this `long`")
	flags.BoolVar(&f.failed, "failed", false, "only requests that failed")
	flags.BoolVar(&f.incomplete, "incomplete", false, "only requests of which an entry is missing")
	flags.StringSliceVar(&f.operations, "operation", nil, "only requests with this `operation`, for example update; repeatable")
	flags.StringSliceVar(&f.mounts, "mount", nil, "only requests to this `mount`, with its namespace, for example secret/ or ns1/kv/; repeatable")
	flags.StringSliceVar(&f.requestIDs, "request-id", nil, "only the request with this `id`; repeatable")
	return cmd
}

// wanted says whether a span is to be printed.
func (f *auditSpansFlags) wanted(s *trace.Span) bool {
	is := func(key string, values []string, trim string) bool {
		if len(values) == 0 {
			return true
		}
		v, ok := s.Get(key)
		return ok && slices.ContainsFunc(values, func(want string) bool { return strings.Trim(want, trim) == strings.Trim(v.Text, trim) })
	}
	return s.Duration() >= f.minDuration && (!f.failed || s.Failed) && (!f.incomplete || s.Incomplete()) &&
		is("request.operation", f.operations, "") && is("request.mount_point", f.mounts, "/") && is("request.id", f.requestIDs, "")
}

// spansRun is one run of "audit spans".
type spansRun struct {
	flags      *auditSpansFlags
	translator *vaultaudit.Translator
	tracer     *trace.Tracer
	encoder    *otlp.Encoder
	out        *bufio.Writer

	spans   []*trace.Span // not printed yet
	buf     []byte
	stats   vaultaudit.Stats
	printed int
}

func (f *auditSpansFlags) run(ctx context.Context, s *Streams, files []string) error {
	tracer, err := trace.NewTracer(trace.Options{Window: f.window})
	if err != nil {
		return err
	}
	r := spansRun{
		flags:      f,
		translator: vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: f.name}),
		tracer:     tracer,
		encoder:    otlp.NewEncoder(otlp.Options{Version: version()}),
		out:        bufio.NewWriterSize(s.Out, 64<<10),
	}
	start := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- r.files(ctx, s.In, files) }()
	select {
	case err := <-ended:
		if err = errors.Join(err, r.out.Flush()); err != nil {
			return err
		}
	case <-ctx.Done():
		// As in "audit events": a read cannot be interrupted.
		return ctx.Err()
	}
	lines := r.stats.Lines - r.stats.Blank
	if f.verbose || isTerminal(s.Err) {
		t := r.tracer.Stats()
		fmt.Fprintf(s.Err, "%d lines, %d requests, %d failed, %d without a response, %d without a request, %d spans printed, %v\n",
			lines, t.Complete+t.Expected+t.RequestOnly+t.ResponseOnly, t.Failed, t.RequestOnly, t.ResponseOnly, r.printed,
			time.Since(start).Round(time.Millisecond))
		if t.Duplicates > 0 {
			fmt.Fprintf(s.Err, "%d entries repeat others and were passed over\n", t.Duplicates)
		}
	}
	if bad := r.stats.Quarantined; bad > 0 {
		message := fmt.Sprintf("%d of %d lines were not understood", bad, lines)
		if r.stats.TooLong > 0 {
			message += fmt.Sprintf(", of them %d longer than %s", r.stats.TooLong, config.Size(tail.DefaultMaxLine))
		}
		return &incompleteError{message + "; \"tocsin audit events --all\" prints them with the reason"}
	}
	return nil
}

// files reads one file after the other; "-" is standard input.
func (r *spansRun) files(ctx context.Context, in io.Reader, names []string) error {
	for _, name := range names {
		if err := r.file(ctx, in, name); err != nil {
			return err
		}
	}
	r.spans = r.tracer.Close(r.spans)
	return r.print()
}

func (r *spansRun) file(ctx context.Context, in io.Reader, name string) error {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return auditFileError(name, err)
		}
		defer f.Close()
		in = f
	}
	input := &printingReader{in: in, run: r}
	var lines io.Reader = input
	if name != "-" {
		plain, err := decompressed(input)
		if err != nil {
			return auditFileError(name, err)
		}
		lines = plain
	}
	stats, err := vaultaudit.Events(ctx, lines, r.translator, func(e *event.Event) error {
		r.spans = r.tracer.Add(r.spans, e, journal.Position{})
		return nil
	})
	r.stats.Lines += stats.Lines
	r.stats.Blank += stats.Blank
	r.stats.Quarantined += stats.Quarantined
	r.stats.TooLong += stats.TooLong
	switch {
	case input.printErr != nil:
		return input.printErr
	case input.err != nil:
		return auditFileError(name, input.err)
	case err != nil && ctx.Err() == nil: // of the compressed form
		return auditFileError(name, err)
	}
	return err
}

// decompressed returns what is in a file, which may be compressed with gzip or zstd.
func decompressed(in io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(in, 64<<10)
	head, _ := b.Peek(4) // an error comes again with the next read
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, zstdMagic):
		return zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxImportWindow))
	}
	return b, nil
}

// The first bytes of compressed files.
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// printingReader prints the spans that are complete before it waits for more input. It
// remembers the error of a read.
type printingReader struct {
	in       io.Reader
	run      *spansRun
	err      error
	printErr error
}

func (p *printingReader) Read(b []byte) (int, error) {
	p.run.spans = p.run.tracer.Flush(p.run.spans)
	if p.printErr = errors.Join(p.run.print(), p.run.out.Flush()); p.printErr != nil {
		return 0, p.printErr
	}
	n, err := p.in.Read(b)
	if err != nil && err != io.EOF {
		p.err = err
	}
	return n, err
}

// spansPerRequest is how many spans one OTLP request has at most.
const spansPerRequest = 500

// print writes the spans that are wanted.
func (r *spansRun) print() error {
	r.spans = slices.DeleteFunc(r.spans, func(s *trace.Span) bool { return !r.flags.wanted(s) })
	r.printed += len(r.spans)
	b := r.buf[:0]
	switch r.flags.output {
	case spansOTLP:
		for part := range slices.Chunk(r.spans, spansPerRequest) {
			b = append(r.encoder.AppendJSON(b, part), '\n')
		}
	case spansJSON:
		for _, s := range r.spans {
			b = lines.AppendJSON(b, s)
		}
	default:
		for _, s := range r.spans {
			b = lines.AppendText(b, s)
		}
	}
	r.buf = b
	clear(r.spans)
	r.spans = r.spans[:0]
	_, err := r.out.Write(b)
	return err
}
