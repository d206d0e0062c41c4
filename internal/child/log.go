package child

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	plain  slog.Level // of lines that do not say theirs
	quiet  atomic.Bool
	bucket bucket
	line   []byte
	cut    bool // the rest of the line is dropped
	panics bool // what follows is a stack trace
	stacks int  // of goroutines that the trace has had
	hidden [][]byte

	mu   sync.Mutex
	last []string // the last few lines, or the panic
}

func newLineLog(logger *slog.Logger, plain slog.Level, quiet bool, secrets []string) *lineLog {
	l := &lineLog{logger: logger, plain: plain, bucket: bucket{level: logBurst}}
	l.quiet.Store(quiet)
	for _, s := range secrets {
		if s != "" {
			l.hidden = append(l.hidden, []byte(s))
		}
	}
	return l
}

// NewLog returns a writer that logs what a plugin writes to it, without secrets and at a bounded
// rate. Only one goroutine at a time may use it.
func NewLog(logger *slog.Logger, secrets ...string) io.Writer {
	return newLineLog(logger, slog.LevelDebug, false, secrets)
}

func (l *lineLog) loud() { l.quiet.Store(false) }

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
	for _, secret := range l.hidden {
		line = bytes.ReplaceAll(line, secret, []byte("<secret>"))
	}
	level, text, attrs := l.parse(line, cut)
	l.remember(text)
	if l.quiet.Load() {
		level = slog.LevelDebug
	}
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
	text := Printable(string(line))
	if cut {
		text += " ... (cut)"
	}
	if isPanic(text) {
		l.panics, l.stacks = true, 0
	}
	if l.panics {
		if strings.HasPrefix(text, "goroutine ") {
			l.stacks++
		}
		if l.stacks > 1 { // the first one did it; the others may be hundreds
			return slog.LevelDebug, text, nil
		}
		return slog.LevelError, text, nil
	}
	for prefix, level := range levelPrefixes {
		if strings.HasPrefix(text, prefix) {
			return level, text, nil
		}
	}
	return l.plain, text, nil
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
			value = Printable(s)
		}
		attrs = append(attrs, slog.Any(Printable(strings.TrimPrefix(key, "@")), value))
	}
	return level, Printable(text), attrs, true
}

// Printable makes a text of a plugin safe for a terminal and for JSON.
func Printable(s string) string {
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

// isPanic says whether a line is the first of a crash of a Go program.
func isPanic(text string) bool {
	for _, prefix := range []string{"panic: ", "fatal error: ", "SIGSEGV: ", "SIGBUS: ", "SIGABRT: ", "SIGFPE: ", "SIGILL: ", "runtime: out of memory"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

const rememberedLines = 3

func (l *lineLog) remember(text string) {
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.panics && len(l.last) > 0 && isPanic(l.last[len(l.last)-1]):
		return // the stack is not worth remembering
	case isPanic(text):
		l.panics = true
		if !strings.HasPrefix(text, "SIGABRT: ") { // why a program aborts it says itself, before
			l.last = nil
		}
		l.last = append(l.last, text)
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

// GoPluginLog is the log of go-plugin itself, which is of use only to debug. The errors
// that matter are returned.
func GoPluginLog(logger *slog.Logger) hclog.Logger {
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
			args[i] = Printable(v.Error())
		case string:
			args[i] = Printable(v)
		case fmt.Stringer, int, bool, []string:
		default:
			args[i] = fmt.Sprintf("%.200v", a)
		}
	}
	s.logger.Debug("go-plugin: "+text, args...)
}
