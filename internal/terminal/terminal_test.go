package terminal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
)

// What is printed of texts that others have chosen changes neither the cursor nor the
// direction of a terminal, and hides nothing.
func TestVisible(t *testing.T) {
	for s, want := range map[string]string{
		"ä/b c":              "ä/b c",
		"\x1b[31m":           "\ufffd[31m",
		"\u009b31m":          "\ufffd31m",
		"\x9b31m":            "\ufffd31m",
		"a\u202eb":           "a\ufffdb",
		"a\u2066b\u2069c":    "a\ufffdb\ufffdc",
		"a\u200eb\u200fc":    "a\ufffdb\ufffdc",
		"a\u061cb\nc\u2028d": "a\ufffdb\ufffdc\ufffdd",
		"a\u200bb\ufeffc":    "a\ufffdb\ufffdc",
		"a\U000e0041b\x7f":   "a\ufffdb\ufffd",
		"tab\there\r":        "tab\ufffdhere\ufffd",
	} {
		if got := Visible(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

func TestAppendEvent(t *testing.T) {
	e := &event.Event{
		Type: "kv-v2/data-write", Namespace: "team-a/", Path: "secret/data/\x1b[2Jx", Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local),
		Metadata: event.Fields{{Key: "current_version", Value: "3"}, {Key: "path", Value: "secret/data/x"}, {Key: "z\n", Value: "\u202e"}},
	}
	const plain = "2026-03-04 05:06:07.000  kv-v2/data-write        team-a/secret/data/\ufffd[2Jx  current_version=3  z\ufffd=\ufffd"
	if got := string(AppendEvent([]byte("> "), e, "", false)); got != "> "+plain {
		t.Errorf("got  %q\nwant %q", got, plain)
	}
	coloured := string(AppendEvent(nil, e, "0a1", true))
	without := strings.NewReplacer(dim, "", bold, "", reset, "").Replace(coloured)
	if without != plain+"  0a1" || !strings.Contains(coloured, bold+"kv-v2/data-write") {
		t.Errorf("with colours: %q", coloured)
	}
}

func TestAppendAlert(t *testing.T) {
	e := &event.Event{
		Type: "alert/a-rule", Path: "sys/rules/a-rule", Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local),
		Metadata: event.Fields{{Key: "output", Value: "by \x1b[2Jme"}, {Key: "priority", Value: "Warning"}, {Key: "suppressed", Value: "3"}},
	}
	const want = "2026-03-04 05:06:07.000  alert/a-rule            Warning: by \ufffd[2Jme  suppressed=3  0a1"
	if got := string(AppendEvent(nil, e, "0a1", false)); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestIs(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, w := range []any{f, null, &bytes.Buffer{}, nil} {
		if Is(w) || Colours(w) {
			t.Errorf("%T is a terminal", w)
		}
	}
}

func FuzzAppendEvent(f *testing.F) {
	f.Add("kv-v2/data-write", "secret/x\x1b[31m", "k", "\u009b2J\n")
	f.Add("alert/x", "secret/x", "output", "\u009b2J\n")
	f.Fuzz(func(t *testing.T, kind, path, key, value string) {
		e := &event.Event{Type: kind, Path: path, Namespace: path, Metadata: event.Fields{{Key: key, Value: value}}}
		line := string(AppendEvent(nil, e, "", false))
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) && r != utf8.RuneError }); i >= 0 || !utf8.ValidString(line) {
			t.Errorf("%q", line)
		}
	})
}
