package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tocsin-events/tocsin/internal/auditstats"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/tail"
	"github.com/tocsin-events/tocsin/internal/trace"
)

const auditStatsLong = `Read audit logs of Vault or OpenBao and print what somebody wants to know first when
something is wrong: how many requests there were when, how they ended and how long they took;
the mounts, paths and clients with most of them; errors; the slowest requests; who was denied,
failed to log in, or used a root token; and requests of which an entry is missing.

Several files are read one after the other, oldest first; '-' is standard input. Files that
are compressed with gzip or zstd are recognised. No hub is needed and nothing is stored. Ctrl-C ends
the reading and prints what was counted so far.

Memory is bounded: of very many different paths or clients the most frequent ones are found,
and figures that are not exact are marked. Texts that look like a secret are masked.
docs/audit-stats.md explains the output.

Exit codes: 0 done; 1 a file cannot be read; 2 wrong usage; 3 done, but some lines were
no audit entries.`

const auditStatsExample = `  tocsin audit stats /var/log/vault/audit.log

  # Rotated files too, and longer lists.
  tocsin audit stats --top 25 audit.log.2.gz audit.log.1 audit.log

  # What failed below one mount during the incident?
  tocsin audit stats --failed --mount secret/ --since 2026-11-21T01:45:00Z --until 2026-11-21T02:00:00Z audit.log

  # The last hour; for programs.
  tocsin audit stats --since 1h -o json audit.log | jq '.denied.items[]'`

// statsOutput is the value of --output.
type statsOutput string

const (
	statsText statsOutput = "text"
	statsJSON statsOutput = "json"
)

func (o *statsOutput) String() string { return string(*o) }
func (o *statsOutput) Type() string   { return "format" }

func (o *statsOutput) Set(s string) error {
	switch v := statsOutput(s); v {
	case statsText, statsJSON:
		*o = v
		return nil
	}
	return errors.New("must be text or json")
}

// momentFlag is a time, or how long it was before now.
type momentFlag struct {
	time time.Time
	text string
}

func (m *momentFlag) String() string { return m.text }
func (m *momentFlag) Type() string   { return "time" }

func (m *momentFlag) Set(s string) error {
	if d, err := config.ParseDuration(s); err == nil {
		m.time, m.text = time.Now().Add(-time.Duration(d)), s
		return nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, s); err == nil {
			m.time, m.text = at, s
			return nil
		}
	}
	return errors.New("must be a time such as 2026-11-21T01:49:00Z, a day such as 2026-11-21 (UTC), or how long ago that was, such as 90m or 2d")
}

type auditStatsFlags struct {
	output       statsOutput
	top          int
	since, until momentFlag
	name         string
	window       time.Duration
	mounts       []string
	operations   []string
	failed       bool
	verbose      bool
}

func newAuditStats(s *Streams) *cobra.Command {
	f := auditStatsFlags{output: statsText}
	cmd := &cobra.Command{
		Use:     "stats FILE...",
		Short:   "Sum up audit logs: rates, errors, slow requests, clients",
		Long:    auditStatsLong,
		Example: auditStatsExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "the FILE is missing ('-' is standard input)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.top < 1 || f.top > auditstats.MaxTop:
				return usagef(cmd, "--top must be 1 to %d", auditstats.MaxTop)
			case f.window <= 0:
				return usagef(cmd, "--window must be more than 0")
			case !f.since.time.IsZero() && !f.until.time.IsZero() && !f.since.time.Before(f.until.time):
				return usagef(cmd, "--since must be before --until")
			}
			return f.run(cmd.Context(), s, args)
		},
	}
	flags := cmd.Flags()
	flags.VarP(&f.output, "output", "o", "text or json")
	flags.IntVarP(&f.top, "top", "n", 10, "length of the lists")
	flags.Var(&f.since, "since", "only requests that began then or later: a `time`, or how long ago")
	flags.Var(&f.until, "until", "only requests that began before that `time`")
	flags.StringVar(&f.name, "name", "vault", "`name` of the server, as the hub knows it: part of some trace ids")
	flags.DurationVar(&f.window, "window", trace.DefaultWindow, "how far behind a request its response may stand")
	flags.StringSliceVar(&f.mounts, "mount", nil, "only requests to this `mount`, with its namespace, for example secret/ or ns1/kv/; repeatable")
	flags.StringSliceVar(&f.operations, "operation", nil, "only requests with this `operation`, for example update; repeatable")
	flags.BoolVar(&f.failed, "failed", false, "only requests that failed")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "print on standard error how long it took even when it is no terminal")
	return cmd
}

// statsRun is one run of "audit stats".
type statsRun struct {
	collector *auditstats.Collector
	progress  *progress

	mu    sync.Mutex // for the collector, while it may be interrupted
	ended bool
}

func (f *auditStatsFlags) run(ctx context.Context, s *Streams, files []string) error {
	c, err := auditstats.New(auditstats.Options{
		Server: f.name, Top: f.top, Since: f.since.time, Until: f.until.time,
		Mounts: f.mounts, Operations: f.operations, Failed: f.failed, Window: f.window,
	})
	if err != nil {
		return err
	}
	r := &statsRun{collector: c, progress: newProgress(s.Err, files)}
	start := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- r.files(s.In, files) }()
	stopProgress := r.progress.show()
	select {
	case err = <-ended:
		stopProgress()
	case <-ctx.Done():
		// A read cannot be interrupted. What was read counts.
		stopProgress()
		fmt.Fprintln(s.Err, "interrupted; this is what was read so far")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return err
	}
	r.ended = true
	c.Close()
	width := outputWidth(s.Out)
	report := c.Report(auditstats.BucketsFor(width))
	if f.output == statsJSON {
		enc := json.NewEncoder(s.Out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		err = enc.Encode(report)
	} else {
		err = report.WriteText(s.Out, auditstats.TextOptions{Width: width, Colours: colours(s.Out)})
	}
	if err != nil {
		return err
	}
	if f.verbose || isTerminal(s.Err) {
		took := time.Since(start)
		fmt.Fprintf(s.Err, "%d lines in %v\n", report.Lines, took.Round(time.Millisecond))
	}
	if bad := report.Quarantined; bad > 0 {
		return &incompleteError{fmt.Sprintf("%d of %d lines were not understood; \"tocsin audit events --all\" prints them with the reason", bad, report.Lines)}
	}
	return nil
}

// files reads one file after the other; "-" is standard input.
func (r *statsRun) files(in io.Reader, names []string) error {
	for _, name := range names {
		if err := r.file(in, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *statsRun) file(in io.Reader, name string) error {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return auditFileError(name, err)
		}
		defer f.Close()
		in = f
	}
	input := &countingReader{in: in, n: &r.progress.bytes}
	plain, err := decompressed(input)
	if err != nil {
		return auditFileError(name, err)
	}
	for lines, err := range tail.ReadLines(plain, 0) {
		if !r.add(lines) {
			return nil
		}
		if err != nil {
			return auditFileError(name, err)
		}
	}
	return nil
}

// add returns false when nobody wants more.
func (r *statsRun) add(lines []tail.Line) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.collector.Add(lines)
	r.progress.lines.Add(uint64(len(lines)))
	return true
}

// countingReader counts the bytes that are read, before they are decompressed.
type countingReader struct {
	in io.Reader
	n  *atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// progress tells people on a terminal how far the reading has come.
type progress struct {
	w     io.Writer
	total int64 // bytes; 0: not known
	bytes atomic.Int64
	lines atomic.Uint64
}

func newProgress(w io.Writer, files []string) *progress {
	p := &progress{w: w}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() {
			p.total = 0
			break
		}
		p.total += info.Size()
	}
	return p
}

// show writes once a second into the same line of a terminal, if it is one. The returned
// function ends that and clears the line.
func (p *progress) show() (stop func()) {
	if !isTerminal(p.w) {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		start := time.Now()
		for {
			select {
			case <-done:
				fmt.Fprint(p.w, eraseLine)
				return
			case now := <-ticker.C:
				fmt.Fprint(p.w, eraseLine+p.line(now.Sub(start)))
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

func (p *progress) line(elapsed time.Duration) string {
	lines := p.lines.Load()
	line := fmt.Sprintf("%d lines, %.0f/s", lines, float64(lines)/elapsed.Seconds())
	if p.total > 0 {
		line = fmt.Sprintf("%3d %%  %s", min(100, p.bytes.Load()*100/p.total), line)
	}
	return line
}

// defaultWidth is for output that goes into a file or a pipe.
const defaultWidth = 100

// outputWidth returns how many columns a line of output may have: that of the terminal, or
// what COLUMNS says.
func outputWidth(w any) int {
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	if f, ok := w.(*os.File); ok && isTerminal(w) {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return int(size.Col)
		}
	}
	return defaultWidth
}
