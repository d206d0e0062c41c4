package flipt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Encodings of a log.
const (
	EncodingJSON    = "json"
	EncodingConsole = "console"
)

// LogOptions configure a [LogSink].
type LogOptions struct {
	// File is appended to; it and the directories above it are created when they are
	// missing. Empty: the lines go to Output.
	File string
	// Output is where lines go without a file; nil: the standard output.
	Output io.Writer
	// Encoding is "json" or "console". Empty: ServerEncoding, which is "console" when it is empty, too.
	Encoding       string
	ServerEncoding string
	// Sync makes SendAudits return only when the lines are on the disk.
	Sync bool
}

// LogSink writes each event as a line:
//
//	file, json        {"version":"0.2",...,"timestamp":"..."}
//	file, console     {"version": "0.2", ..., "timestamp": "..."}
//	output, json      {"T":"2026-11-27T06:00:00Z","M":"AUDIT","version":"0.2",...}
//	output, console   2026-11-27T06:00:00Z TAB AUDIT TAB {"version": "0.2", ...}
type LogSink struct {
	o       LogOptions
	console bool

	mu     sync.Mutex
	file   *os.File // nil: there is none
	torn   bool     // the last line was not written to its end
	closed bool
}

var errLogClosed = errors.New("the audit log is closed")

// NewLogSink returns a sink and opens its file.
func NewLogSink(o LogOptions) (*LogSink, error) {
	s := &LogSink{o: o}
	encoding := o.Encoding
	if encoding == "" {
		encoding = o.ServerEncoding
	}
	switch encoding {
	case "", EncodingConsole:
		s.console = true
	case EncodingJSON:
	default:
		return nil, fmt.Errorf("the encoding of the audit log is %q; it must be %s or %s", encoding, EncodingJSON, EncodingConsole)
	}
	if o.File == "" {
		if s.o.Output == nil {
			s.o.Output = os.Stdout
		}
		return s, nil
	}
	return s, s.open()
}

func (s *LogSink) open() error {
	if err := os.MkdirAll(filepath.Dir(s.o.File), 0o755); err != nil {
		return fmt.Errorf("create the directory of the audit log: %w", err)
	}
	f, err := os.OpenFile(s.o.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.torn = f, false
	return nil
}

// Reopen opens the file anew, after somebody has moved it away. When it fails, the old one is
// written to as before.
func (s *LogSink) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errLogClosed
	}
	if s.file == nil {
		return nil
	}
	return s.open()
}

// SendAudits writes the events.
func (s *LogSink) SendAudits(ctx context.Context, events []Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := each(ctx, SinkLog, events, func(_ context.Context, e *Event) (bool, error) {
		line, err := s.line(e)
		if err != nil {
			return false, err
		}
		return true, s.write(line)
	})
	if err == nil && s.o.Sync && s.file != nil {
		if err := s.file.Sync(); err != nil {
			return fmt.Errorf("sync the audit log: %w", err)
		}
	}
	return err
}

func (s *LogSink) line(e *Event) (line []byte, err error) {
	now := time.Now().Format(time.RFC3339)
	switch {
	case s.file == nil && s.console:
		line = append(append(line, now...), "\tAUDIT\t"...)
		line, err = e.AppendConsole(line)
	case s.file == nil:
		var object []byte
		object, err = e.AppendLogLine(nil)
		line = append(append(line, `{"T":"`...), now...)
		line = append(line, `","M":"AUDIT",`...)
		line = append(line, bytes.TrimPrefix(object, []byte("{"))...)
	case s.console:
		line, err = e.AppendConsole(nil)
	default:
		line, err = e.AppendLogLine(nil)
	}
	return append(line, '\n'), err
}

// write writes a line at once. After one that was cut off the next one begins a new line.
func (s *LogSink) write(line []byte) error {
	if s.closed {
		return errLogClosed
	}
	var w io.Writer = s.o.Output
	if s.file != nil {
		w = s.file
	}
	if s.torn {
		if _, err := w.Write([]byte("\n")); err != nil {
			return fmt.Errorf("write the audit log: %w", err)
		}
		s.torn = false
	}
	n, err := w.Write(line)
	if err != nil {
		s.torn = n > 0
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// Close syncs and closes the file.
func (s *LogSink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.file == nil {
		return nil
	}
	return errors.Join(s.file.Sync(), s.file.Close())
}

// String returns "log".
func (s *LogSink) String() string { return SinkLog }
