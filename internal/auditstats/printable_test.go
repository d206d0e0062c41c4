package auditstats

import (
	"testing"
	"unicode/utf8"
)

// A byte that is no character can be a control character of a terminal that does not
// speak UTF-8: 0x9b begins what moves its cursor.
func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"secret/data/ä":   "secret/data/ä",
		"a\x9b31mb":       "a\ufffd31mb",
		"a\xffb":          "a\ufffdb",
		"a\x1b[31m\nb":    "a\ufffd[31m b",
		"a\u202eb\u2066c": "a\ufffdb\ufffdc",
	} {
		if got := printable(s); got != want || !utf8.ValidString(got) {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}
