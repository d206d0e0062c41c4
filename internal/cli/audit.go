package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/tail"
)

const auditEventsLong = `Read audit logs of Vault or OpenBao and print the notifications that follow from them, one
JSON object per line. Several files are read one after the other, oldest first; '-' is
standard input. Files that are compressed with gzip or zstd are recognised. No hub is needed
and nothing is stored.

Lines that are no audit entries are counted on standard error and printed as events only
with --all. Unhashed values in logs of a device with log_raw are redacted.

Exit codes: 0 done; 1 a file cannot be read; 2 wrong usage; 3 done, but some lines were
no audit entries.`

const auditEventsExample = `  tocsin audit events /var/log/vault/audit.log

  # Rotated files first.
  tocsin audit events audit.log.2.gz audit.log.1 audit.log

  # Which secrets were destroyed?
  tocsin audit events --type 'kv-v2/destroy' audit.log | jq .data.event.metadata.path

  # The audit entries too, as CloudEvents.
  tocsin audit events --all --format cloudevents audit.log`

type auditFlags struct {
	format     formatFlag
	output     outputFlag
	all        bool
	keepRaw    bool
	verbose    bool
	eventType  string
	name       string
	kvVersions map[string]int
}

func newAuditEvents(s *Streams) *cobra.Command {
	f := auditFlags{format: formatFlag(client.FormatVault), output: outputJSON}
	cmd := &cobra.Command{
		Use:     "events FILE...",
		Short:   "Print the notifications that follow from audit logs",
		Long:    auditEventsLong,
		Example: auditEventsExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "the FILE is missing ('-' is standard input)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for mount, version := range f.kvVersions {
				if version != 1 && version != 2 {
					return usagef(cmd, "--kv-version %s=%d: the version must be 1 or 2", mount, version)
				}
			}
			return f.run(cmd.Context(), s, args)
		},
	}
	flags := cmd.Flags()
	flags.Var(&f.format, "format", "encoding of the events: vault or cloudevents")
	flags.VarP(&f.output, "output", "o", "json (one event per line) or pretty (for people)")
	flags.BoolVar(&f.all, "all", false, "print the audit entries and lines that were not understood as well")
	flags.BoolVar(&f.keepRaw, "keep-raw", false, "do not redact unhashed values (with --all)")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "print a summary on standard error even when it is no terminal")
	flags.StringVar(&f.eventType, "type", "*", "`glob` of the event types to print")
	flags.StringVar(&f.name, "name", "vault", "`name` of the server, for the source of the events: vault://NAME")
	flags.StringToIntVar(&f.kvVersions, "kv-version", nil, "`mount=1|2` of kv mounts for which the log does not tell the version; repeatable")
	return cmd
}

// auditRun is one run of "audit events".
type auditRun struct {
	flags      *auditFlags
	translator *vaultaudit.Translator
	wanted     event.Glob
	out        *bufio.Writer
	printer    *printer
	buf        []byte

	stats   vaultaudit.Stats
	printed int
}

func (f *auditFlags) run(ctx context.Context, s *Streams, files []string) error {
	versions := make(map[string]int, len(f.kvVersions))
	for mount, version := range f.kvVersions {
		versions[strings.Trim(mount, "/")+"/"] = version
	}
	out := bufio.NewWriterSize(s.Out, 64<<10)
	r := auditRun{
		flags:      f,
		translator: vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: f.name, KeepRaw: f.keepRaw, KVVersions: versions}),
		wanted:     event.CompileGlob(f.eventType),
		out:        out,
		printer:    &printer{w: out, output: f.output, colours: f.output == outputPretty && colours(s.Out)},
	}
	start := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- r.files(ctx, s, files) }()
	select {
	case err := <-ended:
		if err = errors.Join(err, out.Flush()); err != nil {
			return err
		}
	case <-ctx.Done():
		// A read from a terminal or a pipe cannot be interrupted, so nobody waits
		// for it: the process ends.
		return ctx.Err()
	}
	bad := r.stats.Quarantined
	if f.verbose || isTerminal(s.Err) {
		fmt.Fprintf(s.Err, "%d lines, %d events printed, %d lines not understood, %v\n",
			r.stats.Lines-r.stats.Blank, r.printed, bad, time.Since(start).Round(time.Millisecond))
	}
	if bad > 0 {
		message := fmt.Sprintf("%d of %d lines were not understood", bad, r.stats.Lines-r.stats.Blank)
		if r.stats.TooLong > 0 {
			message += fmt.Sprintf(", of them %d longer than %s", r.stats.TooLong, config.Size(tail.DefaultMaxLine))
		}
		if !f.all {
			message += "; --all prints them as audit/quarantined events with the reason"
		}
		return &incompleteError{message}
	}
	return nil
}

// files reads one file after the other; "-" is standard input.
func (r *auditRun) files(ctx context.Context, s *Streams, names []string) error {
	for _, name := range names {
		if err := r.file(ctx, s.In, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *auditRun) file(ctx context.Context, in io.Reader, name string) error {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return auditFileError(name, err)
		}
		defer f.Close()
		in = f
	}
	input := &flushingReader{in: in, out: r.out}
	var lines io.Reader = input
	if name != "-" {
		plain, err := decompressed(input)
		if err != nil {
			return auditFileError(name, err)
		}
		lines = plain
	}
	stats, err := vaultaudit.Events(ctx, lines, r.translator, r.print)
	r.stats.Lines += stats.Lines
	r.stats.Blank += stats.Blank
	r.stats.Quarantined += stats.Quarantined
	r.stats.TooLong += stats.TooLong
	switch {
	case input.err != nil:
		return auditFileError(name, input.err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return auditFileError(name, err)
	}
	return err
}

// flushingReader flushes what was printed so far before it waits for more input,
// so that a pipe shows every event at once. It remembers the error of a read.
type flushingReader struct {
	in  io.Reader
	out *bufio.Writer
	err error
}

func (r *flushingReader) Read(p []byte) (int, error) {
	if err := r.out.Flush(); err != nil {
		return 0, err
	}
	n, err := r.in.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

func (r *auditRun) print(e *event.Event) error {
	audit := e.Type == vaultaudit.TypeRequest || e.Type == vaultaudit.TypeResponse || e.Type == vaultaudit.TypeQuarantined
	if audit && !r.flags.all || !r.wanted.Match(e.Type) {
		return nil
	}
	r.printed++
	switch {
	case r.flags.output == outputPretty:
		return r.printer.pretty(e, "", false)
	case client.Format(r.flags.format) == client.FormatCloudEvents:
		r.buf = event.AppendCloudEvent(r.buf[:0], e, "")
	default:
		r.buf = event.AppendVaultJSON(r.buf[:0], e, "")
	}
	return r.printer.line(r.buf)
}

// auditFileError says which file cannot be read and what to do.
func auditFileError(name string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("audit log %s does not exist", name)
	case errors.Is(err, os.ErrPermission):
		return &adviceError{err: fmt.Errorf("audit log %s may not be read by this user", name), advice: "Run the command as the user of the server, or as a member of the group of the file."}
	case errors.Is(err, io.ErrUnexpectedEOF): // only a decompressor says so
		return fmt.Errorf("audit log %s ends in the middle of its compressed data; it was cut short, or is still being written", name)
	case errors.Is(err, syscall.EISDIR):
		return fmt.Errorf("%s is a directory; name the audit log in it", name)
	}
	return fmt.Errorf("read audit log %s: %w", name, err)
}
