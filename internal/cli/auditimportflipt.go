package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tocsin-events/tocsin/internal/fliptevent"
)

// importFormat is what kind of log is imported.
type importFormat string

// The kinds of logs.
const (
	importVault importFormat = "vault"
	importFlipt importFormat = "flipt"
)

// String implements pflag.Value.
func (f *importFormat) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *importFormat) Type() string { return "format" }

// Set implements pflag.Value.
func (f *importFormat) Set(text string) error {
	switch importFormat(text) {
	case importVault, importFlipt:
		*f = importFormat(text)
		return nil
	}
	return fmt.Errorf("must be %s or %s", importVault, importFlipt)
}

// defaultFliptName is the name of a Flipt server when --name is not given.
const defaultFliptName = "flipt"

// fliptCounted is what became of lines.
type fliptCounted struct {
	Lines       uint64 `json:"lines"`
	Accepted    uint64 `json:"accepted"`
	Duplicates  uint64 `json:"duplicates"`
	Quarantined uint64 `json:"quarantined"`
	Skipped     uint64 `json:"skipped"`
}

// fliptFile imports one log of Flipt. The hub recognises what it has, so the log is always sent
// from its beginning.
func (r *importing) fliptFile(ctx context.Context, file *importedFile) error {
	log, err := r.openFlipt(file.File)
	if err != nil {
		return err
	}
	defer log.Close()
	r.progress.begin(file)
	r.equal.newFile()
	for {
		data, length, last, err := log.chunk()
		if err != nil {
			return &logError{file.File, err}
		}
		if length > 0 {
			counted, err := r.sendFlipt(ctx, r.equal.number(data))
			if err != nil {
				return err
			}
			file.Lines += counted.Lines
			file.Accepted += counted.Accepted
			file.Duplicates += counted.Duplicates
			file.Quarantined += counted.Quarantined
			file.Skipped += counted.Skipped
			file.Events += counted.Accepted
			r.progress.show(log.position(), log.size)
		}
		if last {
			file.Complete = true
			return nil
		}
	}
}

// openFlipt opens a log; "-" is the standard input.
func (r *importing) openFlipt(name string) (*auditLog, error) {
	if name != "-" {
		return openLog(name)
	}
	in := r.stdin
	if in == nil {
		return nil, errStdinTwice
	}
	r.stdin = nil
	return readLog(in)
}

// sendFlipt sends numbered lines, as often as it must be tried.
func (r *importing) sendFlipt(ctx context.Context, lines []byte) (c fliptCounted, err error) {
	var body bytes.Buffer
	w, err := gzip.NewWriterLevel(&body, gzip.BestSpeed)
	if err != nil {
		return c, err
	}
	if _, err := w.Write(lines); err != nil {
		return c, err
	}
	if err := w.Close(); err != nil {
		return c, err
	}
	q := url.Values{}
	if r.dryRun {
		q.Set("dry_run", "true")
	}
	var since time.Time
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		answer, err := r.sendOnce(ctx, q, body.Bytes())
		if err == nil {
			return c, decodeJSON(answer, &c)
		}
		if ctx.Err() != nil || !tryAgain(err) {
			return c, err
		}
		if since.IsZero() {
			since = time.Now()
			r.progress.clear()
			fmt.Fprintf(r.progress.w, "%s; trying again for %s\n", visible(err.Error()), importPatience)
		}
		if time.Since(since) > importPatience {
			return c, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return c, ctx.Err()
		}
	}
}

func (r *importing) sendOnce(ctx context.Context, q url.Values, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, importAnswer)
	defer cancel()
	return r.client.Send(ctx, "ingest/flipt/"+r.name+"/entries", q, http.Header{"Content-Encoding": {"gzip"}, "Content-Type": {"text/plain; charset=utf-8"}}, body)
}

// fliptText says what became of a log of Flipt.
func (i *importedFile) fliptText(dry bool) string {
	name := visible(i.File)
	if i.Error != "" && i.Lines == 0 {
		return name + ": not imported"
	}
	would := "stored"
	if dry {
		would = "would be stored"
	}
	text := fmt.Sprintf("%s: %d lines, %d %s, %d known already", name, i.Lines, i.Accepted, would, i.Duplicates)
	if i.Skipped > 0 {
		text += fmt.Sprintf(", %d about something else", i.Skipped)
	}
	if i.Quarantined > 0 {
		text += fmt.Sprintf(", %d not understood", i.Quarantined)
	}
	if i.Error != "" {
		text += "; not complete"
	}
	return text
}

// maxEqual is how many lines are remembered, at least. Equal ones have the same time, so they are near
// each other.
const maxEqual = 500_000

// equalLines counts equal events of logs, because these have no ids: the second of two
// equal ones is another event, and not the first one again.
type equalLines struct {
	recent, former map[[16]byte]int
	last           string // timestamp of the last event
	begins         bool   // a file begins
}

// newFile says that another file begins. What it has in common with the one before counts only if
// it goes on in the same second: else a copy of a log would be other events.
func (q *equalLines) newFile() { q.begins = true }

// number returns lines, each behind the number of equal events before it and a space.
func (q *equalLines) number(lines []byte) []byte {
	out := make([]byte, 0, len(lines)+bytes.Count(lines, []byte("\n"))*2)
	for line := range bytes.Lines(lines) {
		line = bytes.TrimRight(line, "\r\n")
		key := line
		e, _, err := fliptevent.DecodeLine(line)
		if err == nil {
			if q.begins && e.Timestamp != q.last {
				q.recent, q.former = nil, nil
			}
			q.begins, q.last = false, e.Timestamp
			key = fliptevent.AppendLogLine(nil, e)
		}
		out = append(strconv.AppendInt(out, int64(q.count(key)), 10), ' ')
		out = append(append(out, line...), '\n')
	}
	return out
}

func (q *equalLines) count(key []byte) int {
	sum := sha256.Sum256(key)
	short := [16]byte(sum[:16])
	n, ok := q.recent[short]
	if !ok {
		n = q.former[short]
	}
	if q.recent == nil || len(q.recent) == maxEqual {
		q.former, q.recent = q.recent, make(map[[16]byte]int)
	}
	q.recent[short] = n + 1
	return n
}

var errStdinTwice = errors.New("the standard input can be read once only")
