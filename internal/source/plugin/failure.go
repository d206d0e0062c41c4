package plugin

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind is what has failed.
type Kind string

// Kinds of failures.
const (
	NotStarted Kind = "start"    // the plugin, or its stream, could not be started
	Broken     Kind = "failure"  // its stream has failed, or its process has ended
	Hanging    Kind = "timeout"  // it did not answer
	Lying      Kind = "protocol" // it has sent what is not allowed
	Refused    Kind = "refused"  // it cannot be what the configuration wants; it is not started again
	NoState    Kind = "state"    // the resume position cannot be read from the journal's storage
)

// Failure is why a plugin does not run.
type Failure struct {
	Kind   Kind
	Reason string // on one line
}

func (f *Failure) Error() string { return f.Reason }

// health is what everybody may read.
func (k Kind) health() string {
	switch k {
	case NotStarted:
		return "the plugin, or its stream, cannot be started; the log says why"
	case Hanging:
		return "the plugin did not answer in time and is started again"
	case Lying:
		return "the plugin has sent what is not allowed; the log says what"
	case Refused:
		return "the plugin is refused; the log says why"
	case NoState:
		return "the resume position cannot be read"
	}
	return "the plugin or its stream has failed; the log says why"
}

func failure(k Kind, format string, args ...any) *Failure {
	return &Failure{k, clean(fmt.Sprintf(format, args...), maxReason)}
}

// maxReason bounds what is kept of the text of an error, in bytes.
const maxReason = 1 << 10

// redact takes the secrets that a plugin knows out of its text.
func (s *Source) redact(text string) string {
	for _, secret := range s.config.Secrets {
		text = strings.ReplaceAll(text, secret, "<secret>")
	}
	return text
}

// clean makes text of a plugin harmless and short: one line of valid UTF-8.
func clean(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "..."
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return '\uFFFD'
		}
		return r
	}, s))
}
