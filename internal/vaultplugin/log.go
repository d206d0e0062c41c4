package vaultplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
)

const (
	maxLogLine  = 16 << 10 // longer lines are cut
	maxLogAttrs = 32
	// A plugin may log logBurst lines at once, and logRate lines a second. What is more
	// is counted and not written.
	logBurst = 500
	logRate  = 100
)

// lineLog turns what a plugin writes into log messages: the JSON lines of hclog with
// their levels and values, everything else as it is. It is written to by one goroutine.
type lineLog struct {
	logger *slog.Logger
	bucket bucket
	line   []byte
	cut    bool // the rest of the line is dropped
	panics bool // what follows is a stack trace

	mu   sync.Mutex
	last []string // the last few lines, or the panic
}

func newLineLog(logger *slog.Logger) *lineLog {
	return &lineLog{logger: logger, bucket: bucket{level: logBurst}}
}

// Write never fails, so that a plugin never blocks on its output.
func (l *lineLog) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part, rest, ended := bytes.Cut(b, []byte{'\n'})
		b = rest
		if room := maxLogLine - len(l.line); len(part) > room {
			part, l.cut = part[:room], true
		}
		l.line = append(l.line, part...)
		if ended {
			l.flush()
		}
	}
	return n, nil
}

// flush ends the line.
func (l *lineLog) flush() {
	line, cut := l.line, l.cut
	l.line, l.cut = l.line[:0], false
	line = bytes.TrimRight(line, "\r")
	if len(line) == 0 {
		return
	}
	level, text, attrs := l.parse(line, cut)
	l.remember(text)
	if !l.logger.Enabled(context.Background(), level) {
		return
	}
	dropped, ok := l.bucket.take(time.Now())
	if !ok {
		return
	}
	if dropped > 0 {
		l.logger.Warn("the plugin logs too much, lines were dropped", "lines", dropped)
	}
	l.logger.LogAttrs(context.Background(), level, text, attrs...)
}

func (l *lineLog) parse(line []byte, cut bool) (slog.Level, string, []slog.Attr) {
	if line[0] == '{' && !cut {
		if level, text, attrs, ok := parseHclog(line); ok {
			return level, text, attrs
		}
	}
	text := printable(string(line))
	if cut {
		text += " ... (cut)"
	}
	if strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ") {
		l.panics = true
	}
	if l.panics {
		return slog.LevelError, text, nil
	}
	for prefix, level := range levelPrefixes {
		if strings.HasPrefix(text, prefix) {
			return level, text, nil
		}
	}
	return slog.LevelDebug, text, nil
}

var levelPrefixes = map[string]slog.Level{
	"[INFO]": slog.LevelInfo, "[WARN]": slog.LevelWarn, "[ERROR]": slog.LevelError, "[ERR]": slog.LevelError,
}

// parseHclog reads a line of hclog's JSON format.
func parseHclog(line []byte) (level slog.Level, text string, attrs []slog.Attr, ok bool) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	var values map[string]any
	if err := d.Decode(&values); err != nil || d.More() {
		return 0, "", nil, false
	}
	text, ok = values["@message"].(string)
	name, hasLevel := values["@level"].(string)
	if !ok || !hasLevel {
		return 0, "", nil, false
	}
	switch strings.ToLower(name) {
	case "info":
		level = slog.LevelInfo
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	default: // trace among them
		level = slog.LevelDebug
	}
	delete(values, "@message")
	delete(values, "@level")
	delete(values, "@timestamp")
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for i, key := range keys {
		if i == maxLogAttrs {
			attrs = append(attrs, slog.Int("more", len(keys)-i))
			break
		}
		value := values[key]
		if s, ok := value.(string); ok {
			value = printable(s)
		}
		attrs = append(attrs, slog.Any(printable(strings.TrimPrefix(key, "@")), value))
	}
	return level, printable(text), attrs, true
}

// printable makes a text safe for a terminal and for JSON.
func printable(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 && utf8.ValidString(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if unprintable(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

func unprintable(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }

const rememberedLines = 3

func (l *lineLog) remember(text string) {
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.panics && len(l.last) > 0 && strings.HasPrefix(l.last[0], "panic: "):
		return // the stack is not worth remembering
	case strings.HasPrefix(text, "panic: "):
		l.last = []string{text}
	default:
		if len(l.last) == rememberedLines {
			l.last = append(l.last[:0], l.last[1:]...)
		}
		l.last = append(l.last, text)
	}
}

// tail is what the plugin wrote last, for an error message.
func (l *lineLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last, "; ")
}

// bucket lets a burst pass, and then a rate.
type bucket struct {
	level   float64
	at      time.Time
	dropped int
}

func (b *bucket) take(now time.Time) (dropped int, ok bool) {
	if !b.at.IsZero() {
		b.level = min(logBurst, b.level+now.Sub(b.at).Seconds()*logRate)
	}
	b.at = now
	if b.level < 1 {
		b.dropped++
		return 0, false
	}
	b.level--
	dropped, b.dropped = b.dropped, 0
	return dropped, true
}

// goPluginLog is the log of go-plugin itself, which is of use only to debug. The errors
// that matter are returned.
func goPluginLog(logger *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off})
	l.RegisterSink(goPluginSink{logger})
	return l
}

type goPluginSink struct{ logger *slog.Logger }

func (s goPluginSink) Accept(name string, level hclog.Level, text string, args ...any) {
	if level < hclog.Debug {
		return
	}
	for i, a := range args {
		switch v := a.(type) {
		case error:
			args[i] = printable(v.Error())
		case string:
			args[i] = printable(v)
		case fmt.Stringer, int, bool, []string:
		default:
			args[i] = fmt.Sprintf("%.200v", a)
		}
	}
	s.logger.Debug("go-plugin: "+text, args...)
}
