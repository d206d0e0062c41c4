package pluginclient

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/terminal"
)

const (
	maxLine    = 16 << 10 // of what a process writes; the rest is cut off
	tailLines  = 3
	tailLength = 300
	// A process may log burst lines at once, and rate lines a second; others are left out.
	burst, rate = 500, 100
)

// lines logs what a process writes on its error output: the JSON lines of hclog with their
// levels, everything else as it is. It remembers the end.
type lines struct {
	log *slog.Logger

	mu     sync.Mutex
	line   []byte
	last   []string
	wrote  time.Time
	budget float64
	at     time.Time
	panics bool
	// starting: what is written is a part of the error if it does not start, so it is logged for
	// debugging only.
	starting bool
}

func (l *lines) started() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starting = false
}

// Write never fails, so that a process never waits for its output.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(b)
	l.wrote = time.Now()
	for len(b) > 0 {
		part, rest, ended := bytes.Cut(b, []byte{'\n'})
		l.line = append(l.line, part[:min(len(part), maxLine-len(l.line))]...)
		if b = rest; ended {
			l.end()
		}
	}
	return n, nil
}

// end logs a line.
func (l *lines) end() {
	line := bytes.TrimRight(l.line, "\r")
	l.line = l.line[:0]
	if len(line) == 0 {
		return
	}
	var entry struct {
		Level   string `json:"@level"`
		Message string `json:"@message"`
	}
	level, text := slog.LevelInfo, string(line)
	if json.Unmarshal(line, &entry) == nil && entry.Message != "" {
		text = entry.Message
		switch strings.ToLower(entry.Level) {
		case "info":
		case "warn":
			level = slog.LevelWarn
		case "error":
			level = slog.LevelError
		default:
			level = slog.LevelDebug
		}
	}
	if l.starting {
		level = slog.LevelDebug
	}
	text = strings.TrimPrefix(terminal.Visible(text), "Error: ")
	l.remember(text)
	now := time.Now()
	if !l.at.IsZero() {
		l.budget = min(burst, l.budget+now.Sub(l.at).Seconds()*rate)
	} else {
		l.budget = burst
	}
	if l.at = now; l.budget < 1 {
		return
	}
	l.budget--
	l.log.Log(context.Background(), level, text)
}

func (l *lines) remember(text string) {
	if len(text) > tailLength {
		text = strings.ToValidUTF8(text[:tailLength], "") + "..."
	}
	first := strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ") || strings.HasPrefix(text, "SIGSEGV")
	switch {
	case l.panics:
		return // the stack is not worth remembering
	case first:
		l.panics, l.last = true, nil
	case len(l.last) == tailLines:
		l.last = append(l.last[:0], l.last[1:]...)
	}
	l.last = append(l.last, text)
}

// tail is what was written last, for an error.
func (l *lines) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last, "; ")
}

// settle waits until nothing was written for a moment, at most for so long.
func (l *lines) settle(most time.Duration) {
	const quiet = 50 * time.Millisecond
	for deadline := time.Now().Add(most); time.Now().Before(deadline); {
		time.Sleep(quiet)
		l.mu.Lock()
		settled := len(l.last) > 0 && time.Since(l.wrote) >= quiet
		l.mu.Unlock()
		if settled {
			return
		}
	}
}
