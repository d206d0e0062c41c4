package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

const auditImportLong = `Bring old audit logs of Vault, OpenBao or Flipt into the journal of a hub, those of Vault
and OpenBao with the notifications that follow from them, under the times of their entries.
Files may be compressed with gzip or zstd. Give several in their order, oldest first; "-" is the
standard input (flipt only).

The command can be interrupted and run again, from another directory too: the hub knows
how far a log is by its first bytes, whatever the file is called and whether it is
compressed. An entry that the hub has already, for example because a source follows
the same file, is not stored again.

A log of Flipt is its log sink, from a file or the standard output, in the encoding json or
console. It is sent from its beginning each time: the hub recognises what it has.

The token needs the capabilities update and sudo on sys/audit/NAME, or sys/flipt/NAME for
logs of Flipt.

Exit codes: 0 everything is stored; 1 a file cannot be read, the hub cannot be reached or does
not take it, or the import was interrupted: run it again; 2 wrong usage; 3 everything is
stored, but some lines were no audit entries.`

const auditImportExample = `  tocsin audit import --name vault /var/log/vault/audit.log.2.gz /var/log/vault/audit.log.1

  # What would be new?
  tocsin audit import --name vault --dry-run audit-2026-*.log.gz

  # The log of a Flipt server, and what it printed in a cluster
  tocsin audit import --format flipt --name prod /var/log/flipt/audit.log
  kubectl logs deploy/flipt | tocsin audit import --format flipt --name prod -`

const (
	// importChunk is how much of a log is sent at once, at least when there is so much.
	importChunk = 2 << 20
	// maxImportLine is the longest line that is sent whole. The hub takes bodies of 8 MiB.
	maxImportLine = 5 << 20
	// longLinePrefix is what is sent of a longer line.
	longLinePrefix = 4 << 10
	// logHead is how many bytes of a log name it.
	logHead = 1 << 10
	// importPatience is how long a hub may not be reached or be busy.
	importPatience = time.Minute
	// importAnswer is how long it may take to store a chunk; the first one takes longest.
	importAnswer = 6 * time.Minute
	// maxImportWindow bounds the memory of a decoder of zstd.
	maxImportWindow = 128 << 20
)

type importFlags struct {
	connectFlags
	format answerFlag
	log    importFormat
	name   string
	dryRun bool
}

func newAuditImport(s *Streams) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:     "import FILE...",
		Short:   "Bring old audit logs into a hub",
		Long:    auditImportLong,
		Example: auditImportExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "the FILE is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.log == importFlipt && !cmd.Flags().Changed("name") {
				f.name = defaultFliptName
			}
			if f.name == "" {
				return usagef(cmd, "--name is empty; it is the server that wrote the log")
			}
			return f.run(cmd.Context(), s, args)
		},
	}
	f.register(cmd)
	f.format, f.log = answerText, importVault
	flags := cmd.Flags()
	flags.VarP(&f.format, "output", "o", "text (for people) or json (for scripts)")
	flags.Var(&f.log, "format", "what wrote the logs: vault (also OpenBao) or flipt")
	flags.StringVar(&f.name, "name", "vault", "`name` of the server that wrote the logs, as in the source of its events: vault://NAME or flipt://NAME")
	flags.BoolVar(&f.dryRun, "dry-run", false, "store nothing, count what would be stored")
	return cmd
}

// importSummary is what became of the files.
type importSummary struct {
	DryRun bool            `json:"dry_run,omitempty"`
	Files  []*importedFile `json:"files"`
}

type importedFile struct {
	File        string `json:"file"`
	Log         string `json:"log"` // its name at the hub
	Complete    bool   `json:"complete"`
	Lines       uint64 `json:"lines"`      // sent now
	Accepted    uint64 `json:"accepted"`   // of them new
	Duplicates  uint64 `json:"duplicates"` // and known
	Quarantined uint64 `json:"quarantined"`
	Skipped     uint64 `json:"skipped,omitempty"` // Flipt: about something else
	Events      uint64 `json:"events"`            // stored, with notifications
	Before      int64  `json:"bytes_before"`      // of the log, imported before
	Error       string `json:"error,omitempty"`
}

// importing is one run of "audit import".
type importing struct {
	*importFlags
	hub      *connection
	client   *vaultclient.Client
	progress *importProgress
	stdin    io.Reader  // nil: it was read
	equal    equalLines // of logs of Flipt
}

func (f *importFlags) run(ctx context.Context, s *Streams, files []string) error {
	hub, err := f.resolve()
	if err != nil {
		return err
	}
	c, err := hub.client()
	if err != nil {
		return err
	}
	r := importing{importFlags: f, hub: hub, client: c, progress: &importProgress{w: s.Err, live: isTerminal(s.Err)}, stdin: s.In}
	summary := importSummary{DryRun: f.dryRun}
	var failed error
	for _, name := range files {
		file := &importedFile{File: name}
		summary.Files = append(summary.Files, file)
		text := file.text
		if f.log == importFlipt {
			failed, text = r.fliptFile(ctx, file), file.fliptText
		} else {
			failed = r.file(ctx, file)
		}
		r.progress.clear()
		if failed != nil {
			file.Error = failed.Error()
		}
		if f.format == answerText {
			fmt.Fprintln(s.Out, text(f.dryRun))
		}
		if failed != nil {
			break
		}
	}
	if f.format == answerJSON {
		if err := printJSON(s.Out, summary); err != nil {
			return err
		}
	}
	if failed != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted; run the command again to go on")
		}
		path := "sys/audit/"
		if f.log == importFlipt {
			path = "sys/flipt/"
		}
		return needs(hub.advise(failed), "update and sudo on "+path+f.name)
	}
	var bad uint64
	for _, file := range summary.Files {
		bad += file.Quarantined
	}
	if bad > 0 {
		what := "audit entries; they are events of the type audit/quarantined"
		if f.log == importFlipt {
			what = "audit events; they are events of the type flipt/quarantined"
		}
		return &incompleteError{fmt.Sprintf("%d lines were no %s, with the reason", bad, what)}
	}
	return nil
}

func (i *importedFile) text(dry bool) string {
	name := visible(i.File)
	switch {
	case i.Error != "" && i.Log == "":
		return name + ": not imported"
	case i.Complete && i.Lines == 0 && i.Before > 0:
		return name + ": imported before"
	}
	would := "stored"
	if dry {
		would = "would be stored"
	}
	text := fmt.Sprintf("%s: %d lines, %d %s, %d known already", name, i.Lines, i.Accepted, would, i.Duplicates)
	if i.Quarantined > 0 {
		text += fmt.Sprintf(", %d not understood", i.Quarantined)
	}
	if i.Error != "" {
		text += "; not complete"
	}
	return text
}

// file imports one file, from where the hub says, as often as it must be begun again.
func (r *importing) file(ctx context.Context, file *importedFile) error {
	log, err := openLog(file.File)
	if err != nil {
		return err
	}
	file.Log, err = log.fingerprint()
	log.Close()
	if err != nil {
		return fmt.Errorf("read %s: %w", file.File, err)
	}
	if file.Log == "" {
		file.Complete = true // it is empty
		return nil
	}
	r.progress.begin(file)
	var since time.Time // when the hub did not answer first
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		lines := file.Lines
		err := r.pass(ctx, file)
		if err == nil || ctx.Err() != nil || !tryAgain(err) {
			return err
		}
		if since.IsZero() || file.Lines > lines {
			since, pause = time.Now(), 200*time.Millisecond
			r.progress.clear()
			fmt.Fprintf(r.progress.w, "%s; trying again for %s\n", visible(err.Error()), importPatience)
		}
		if time.Since(since) > importPatience {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryAgain reports whether an import may go on after an error.
func tryAgain(err error) bool {
	if status, ok := errors.AsType[*client.StatusError](err); ok {
		switch status.StatusCode {
		case http.StatusConflict, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	_, network := errors.AsType[*url.Error](err)
	_, reading := errors.AsType[*logError](err)
	return network || !reading && !errors.Is(err, vaultclient.ErrNoAnswer)
}

// importState is what the hub says.
type importState struct {
	Offset      int64  `json:"offset"`
	Complete    bool   `json:"complete"`
	Lines       uint64 `json:"lines"`
	Accepted    uint64 `json:"accepted"`
	Duplicates  uint64 `json:"duplicates"`
	Quarantined uint64 `json:"quarantined"`
	Events      uint64 `json:"events"`
}

func (r *importing) path() string { return "audit/" + r.name + "/entries" }

// pass imports from where the hub says to the end of the file.
func (r *importing) pass(ctx context.Context, file *importedFile) error {
	var at importState
	if !r.dryRun {
		answer, err := r.client.Own(ctx, http.MethodGet, r.path(), url.Values{"log": {file.Log}}, nil)
		if err != nil {
			return err
		}
		if err := decodeJSON(answer, &at); err != nil {
			return err
		}
	}
	log, err := openLog(file.File)
	if err != nil {
		return err
	}
	defer log.Close()
	if file.Lines == 0 {
		file.Before = at.Offset
	}
	skipped, err := io.CopyN(io.Discard, log, at.Offset)
	switch {
	case errors.Is(err, io.EOF) && skipped < at.Offset:
		file.Complete = at.Complete // the hub has more of this log than the file
		return nil
	case err != nil:
		return &logError{file.File, err}
	}
	for {
		data, length, last, err := log.chunk()
		if err != nil {
			return &logError{file.File, err}
		}
		if length == 0 && at.Complete {
			file.Complete = true
			return nil
		}
		if at, err = r.send(ctx, file.Log, at.Offset, data, length, last); err != nil {
			return err
		}
		file.Lines += at.Lines
		file.Accepted += at.Accepted
		file.Duplicates += at.Duplicates
		file.Quarantined += at.Quarantined
		file.Events += at.Events
		r.progress.show(log.position(), log.size)
		if last {
			file.Complete = true
			return nil
		}
	}
}

// send sends a chunk.
func (r *importing) send(ctx context.Context, log string, offset int64, data []byte, length int64, last bool) (at importState, err error) {
	var body bytes.Buffer
	w, err := gzip.NewWriterLevel(&body, gzip.BestSpeed)
	if err != nil {
		return at, err
	}
	if _, err := w.Write(data); err != nil {
		return at, err
	}
	if err := w.Close(); err != nil {
		return at, err
	}
	q := url.Values{"log": {log}, "offset": {strconv.FormatInt(offset, 10)}, "length": {strconv.FormatInt(length, 10)}}
	if last {
		q.Set("last", "true")
	}
	if r.dryRun {
		q.Set("dry_run", "true")
	}
	ctx, cancel := context.WithTimeout(ctx, importAnswer)
	defer cancel()
	answer, err := r.client.Send(ctx, r.path(), q, http.Header{"Content-Encoding": {"gzip"}, "Content-Type": {"application/x-ndjson"}}, body.Bytes())
	if err != nil {
		return at, err
	}
	return at, decodeJSON(answer, &at)
}

// logError is a file that cannot be read.
type logError struct {
	file string
	err  error
}

func (e *logError) Error() string { return auditFileError(e.file, e.err).Error() }
func (e *logError) Unwrap() error { return e.err }

// auditLog is an open log, decompressed.
type auditLog struct {
	file  *os.File // nil: the standard input
	size  int64    // of the file
	r     *bufio.Reader
	close func()
}

// openLog opens a log for reading; whether it is compressed its first bytes tell.
func openLog(name string) (*auditLog, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	l := &auditLog{file: f, close: func() {}}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	l.size = info.Size()
	if err := l.read(name, f); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// readLog is openLog for what is open already, and is left open.
func readLog(in io.Reader) (*auditLog, error) {
	l := &auditLog{close: func() {}}
	return l, l.read("the standard input", in)
}

func (l *auditLog) read(name string, from io.Reader) error {
	in := bufio.NewReaderSize(from, 256<<10)
	head, _ := in.Peek(4)
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		z, err := gzip.NewReader(in)
		if err != nil {
			return &logError{name, err}
		}
		l.r = bufio.NewReaderSize(z, 256<<10)
	case bytes.HasPrefix(head, zstdMagic):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxImportWindow))
		if err != nil {
			return &logError{name, err}
		}
		l.r, l.close = bufio.NewReaderSize(z, 256<<10), z.Close
	default:
		l.r = in
	}
	return nil
}

func (l *auditLog) Read(p []byte) (int, error) { return l.r.Read(p) }

func (l *auditLog) Close() {
	l.close()
	if l.file != nil {
		l.file.Close()
	}
}

// position returns how much of the file was read.
func (l *auditLog) position() int64 {
	if l.file == nil {
		return 0
	}
	at, err := l.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	return at
}

// fingerprint names the log by its first bytes. It is empty for an empty log.
func (l *auditLog) fingerprint() (string, error) {
	head, err := io.ReadAll(io.LimitReader(l.r, logHead))
	if err != nil || len(head) == 0 {
		return "", err
	}
	sum := sha256.Sum256(head)
	return hex.EncodeToString(sum[:16]), nil
}

// chunk reads the next whole lines. length is how many bytes of the log they stand for:
// a line that is too long to be sent comes alone, and only its beginning.
func (l *auditLog) chunk() (data []byte, length int64, last bool, err error) {
	for {
		start, long := len(data), false
		for {
			part, err := l.r.ReadSlice('\n')
			length += int64(len(part))
			switch {
			case long:
			case len(data)+len(part)-start <= maxImportLine:
				data = append(data, part...)
			default:
				data, long = data[:start+longLinePrefix], true
			}
			if err == nil {
				break
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if errors.Is(err, io.EOF) {
				return data, length, true, nil
			}
			return nil, 0, false, err
		}
		if n := len(data); n > 0 && data[n-1] != '\n' {
			data = append(data, '\n')
		}
		if length >= importChunk {
			break
		}
	}
	_, err = l.r.Peek(1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, false, err
	}
	return data, length, err != nil, nil
}

// importProgress shows how far an import is.
type importProgress struct {
	w       io.Writer
	live    bool // on a terminal
	file    *importedFile
	started time.Time
	shown   time.Time
	line    bool // there is one
}

func (p *importProgress) begin(file *importedFile) {
	p.file, p.started, p.shown = file, time.Now(), time.Now()
}

// plainEvery is the time between two lines where there is no terminal.
const plainEvery = 30 * time.Second

func (p *importProgress) show(at, size int64) {
	now := time.Now()
	every := plainEvery
	if p.live {
		every = 100 * time.Millisecond
	}
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	text := p.text(at, size, now)
	if p.live {
		p.line = true
		fmt.Fprint(p.w, eraseLine+fit(text, outputWidth(p.w)))
		return
	}
	fmt.Fprintln(p.w, text)
}

// text says how far the file is, in 80 columns.
func (p *importProgress) text(at, size int64, now time.Time) string {
	elapsed := now.Sub(p.started)
	part := 1.0
	if size > 0 {
		part = min(float64(at)/float64(size), 1)
	}
	const width = 20
	full := int(part * width)
	bar := strings.Repeat("=", full) + strings.Repeat(" ", width-full)
	left := "?"
	if part > 0.01 {
		left = time.Duration(float64(elapsed) * (1 - part) / part).Round(time.Second).String()
	}
	name := visible(filepath.Base(p.file.File))
	if len(name) > 20 {
		name = name[:17] + "..."
	}
	return fmt.Sprintf("%s [%s] %3.0f%% of %.1f MB, %.0f lines/s, %s left", name, bar, 100*part, float64(size)/1e6, float64(p.file.Lines)/max(elapsed.Seconds(), 0.001), left)
}

// clear takes the line away.
func (p *importProgress) clear() {
	if p.line {
		fmt.Fprint(p.w, eraseLine)
		p.line = false
	}
}
