package jsontext_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/jsontext"
)

// FuzzAppendUnescaped: of strings that are JSON it makes what encoding/json makes, and of others
// it makes something.
func FuzzAppendUnescaped(f *testing.F) {
	for _, s := range []string{``, `a`, `\n\t\b\f\r\"\\\/`, `\u00e9x`, `\ud83d\ude00`, `\ud83d`, `\ude00\ud83d`, `\ud83d\u0041`, `é\u0000`, `\u12`, `\`, `\x`, "a\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := string(jsontext.AppendUnescaped([]byte("before "), s))
		var want string
		if json.Unmarshal([]byte(`"`+s+`"`), &want) != nil {
			return
		}
		// encoding/json also replaces each byte that is not UTF-8.
		if got, ok := strings.CutPrefix(got, "before "); !ok || string([]rune(got)) != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	})
}
