package jsontext

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// Whatever stands where, a text is what encoding/json reads back.
func TestAppendString(t *testing.T) {
	for c := range 256 {
		for length := range 20 {
			for at := range length {
				b := bytes.Repeat([]byte("~"), length)
				b[at] = byte(c)
				b[length-1-at] = byte(c)
				var got string
				if err := json.Unmarshal(AppendString(nil, string(b)), &got); err != nil || got != valid(string(b)) {
					t.Fatalf("%q became %q: %v", b, got, err)
				}
			}
		}
	}
}

// valid replaces each byte that is not UTF-8.
func valid(s string) string { return string([]rune(s)) }

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain text of more than eight", `"quoted" and \escaped\`, "\x00\x1f\x7f\x80", "Ünïcødé \u2028 日本語", "\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := AppendString([]byte("x"), s)
		var got string
		if err := json.Unmarshal(b[1:], &got); err != nil || got != valid(s) || b[0] != 'x' {
			t.Fatalf("%q became %q: %v", s, b, err)
		}
	})
}

func BenchmarkAppendString(b *testing.B) {
	s := strings.Repeat("u-1042 Ada ", 4)
	dst := make([]byte, 0, 100)
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		dst = AppendString(dst[:0], s)
	}
}
