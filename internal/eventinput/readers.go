package eventinput

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// AuditLog reads an audit log to its end: the entries, and behind each the notifications that
// follow from it. Lines that are no entries are events, too, and are counted. The error is that of
// the reader, of ctx or of emit.
func AuditLog(ctx context.Context, in io.Reader, t *vaultaudit.Translator, to *Collector) (vaultaudit.Stats, error) {
	stats, err := vaultaudit.Events(ctx, in, t, to.Add)
	if err == nil {
		err = to.Flush()
	}
	return stats, err
}

// maxLineBytes bounds a line with a CloudEvent: an event of the largest size that a hub can be
// configured to take fits, escaped.
const maxLineBytes = 64 << 20

// ErrLineTooLong is of a line that is not looked at.
var ErrLineTooLong = fmt.Errorf("the line has more than %d bytes", maxLineBytes)

// CloudEvents reads lines with a CloudEvent each, to the end. bad is told the number of every
// line, counted from 1, that is none, and why; its error ends the reading. Empty lines are passed
// over.
func CloudEvents(ctx context.Context, in io.Reader, to *Collector, bad func(line int, err error) error) error {
	r := bufio.NewReaderSize(in, 256<<10)
	for line := 1; ; line++ {
		text, err := readLine(r)
		end := err != nil && !errors.Is(err, ErrLineTooLong)
		if end && !errors.Is(err, io.EOF) {
			return err
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			var e *event.Event
			if e, err = event.ParseCloudEvent(text); err == nil {
				err = to.Add(e)
				if err != nil {
					return err
				}
			}
		} else if end {
			err = nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			if err := bad(line, err); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if end {
			return to.Flush()
		}
	}
}

// readLine returns the next line, in memory of its own. The rest of one that is too long is
// skipped.
func readLine(r *bufio.Reader) (line []byte, err error) {
	tooLong := false
	for {
		part, err := r.ReadSlice('\n')
		if !tooLong {
			if line = append(line, part...); len(line) > maxLineBytes {
				line, tooLong = nil, true
			}
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == nil && tooLong:
			return nil, ErrLineTooLong
		}
		return line, err
	}
}

// Capture reads a capture to its end, as replay makes events of it. Before every event next is
// told about it, and bad about one that is none of the hub's, although it says so, and why. The
// error is that of the reader, but for io.EOF, which is none, of ctx or of emit.
func Capture(ctx context.Context, r *capture.Reader, replay *falcoevent.Replay, to *Collector, next func(*capture.Record), bad func(*capture.Record, error)) error {
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return to.Flush()
		}
		if err != nil {
			return errors.Join(err, to.Flush())
		}
		next(rec)
		if e, err := replay.Event(rec.Event); err != nil {
			bad(rec, err)
		} else if err := to.Add(e); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
