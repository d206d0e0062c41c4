package cli

import "testing"

// What is printed of texts that others have chosen changes neither the cursor nor the
// direction of a terminal.
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
	} {
		if got := visible(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}
