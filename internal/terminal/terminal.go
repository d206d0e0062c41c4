// Package terminal shows to people what others have written: texts that cannot move the
// cursor, and events on one line each.
package terminal

import (
	"io/fs"
	"os"
	"strings"
	"unicode"

	"github.com/tocsin-events/tocsin/event"
)

// Is reports whether w is a terminal, so that a person is looking.
func Is(w any) bool {
	f, ok := w.(interface {
		Stat() (fs.FileInfo, error)
		Name() string
	})
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// Colours reports whether output to w may be coloured (no-color.org).
func Colours(w any) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && Is(w)
}

// Visible replaces what would move the cursor or hide text on a terminal by U+FFFD: control
// characters, line breaks, what changes the direction, characters without a shape, and bytes
// that are no characters. Names in events come from whoever could write them to a server.
func Visible(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

const (
	dim   = "\x1b[2m"
	bold  = "\x1b[1m"
	reset = "\x1b[0m"
)

// AppendEvent appends what a person looks for first, in one line without a newline: when,
// what, where, and the rest of the metadata, and at the end the position, unless it is "". Of an
// alert it is how bad it is and what the rule says.
func AppendEvent(b []byte, e *event.Event, position string, colours bool) []byte {
	styled := func(b []byte, style, text string) []byte {
		if !colours {
			return append(b, text...)
		}
		return append(append(append(b, style...), text...), reset...)
	}
	b = styled(b, dim, e.Time.Local().Format("2006-01-02 15:04:05.000"))
	b = append(b, "  "...)
	kind := Visible(e.Type)
	if n := 22 - len(kind); n > 0 {
		kind += strings.Repeat(" ", n)
	}
	b = styled(b, bold, kind)
	if output, ok := e.Metadata.Text("output"); ok && strings.HasPrefix(e.Type, "alert/") {
		priority, _ := e.Metadata.Text("priority")
		b = append(b, "  "...)
		b = styled(b, bold, Visible(priority))
		b = append(b, ": "...)
		b = append(b, Visible(output)...)
		if held, ok := e.Metadata.Text("suppressed"); ok {
			b = append(b, "  "...)
			b = styled(b, dim, "suppressed=")
			b = append(b, Visible(held)...)
		}
		return withPosition(b, position, styled)
	}
	path := e.Path
	if dataPath, ok := e.Metadata.Text(event.MetadataDataPath); ok {
		path = dataPath
	}
	b = append(b, "  "...)
	b = append(b, Visible(e.Namespace+path)...)
	for f := range e.Metadata.All() {
		switch f.Key {
		case event.MetadataPath, event.MetadataDataPath, event.MetadataOperation, event.MetadataModified:
			continue // told by type and path
		}
		b = append(b, "  "...)
		b = styled(b, dim, Visible(f.Key)+"=")
		b = append(b, Visible(f.Value)...)
	}
	return withPosition(b, position, styled)
}

func withPosition(b []byte, position string, styled func(b []byte, style, text string) []byte) []byte {
	if position != "" {
		b = append(b, "  "...)
		b = styled(b, dim, position)
	}
	return b
}
