package jsontext

import (
	"encoding/json"
	"strings"
	"testing"
)

var validSamples = []string{
	"", " ", "{}", "[]", `{"a":1}`, ` {"a" : [1, -2.5e+10, true, false, null, "x\n\u00e9"] } `, `{"a":}`, `{"a"}`, `{a:1}`, `{"a":1,}`, `[1,]`, `[,]`, `01`, `-`, `1.`, `1e`, `1e5`, `0`,
	`-0.0`, `+1`, `tru`, `nul`, `"`, `"\`, `"\x"`, `"\u12g4"`, `"\u12"`, "\"\x00\"", "\"\x1f\"", "\"\x7f\xff\"", `"long text of more than eight bytes, with \" and \\ in it"`, `1 2`, `{}{}`, "\ufeff{}", `{"a":1 "b":2}`,
	strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001), strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
}

func TestValid(t *testing.T) {
	for _, s := range validSamples {
		if got, want := Valid([]byte(s)), json.Valid([]byte(s)); got != want {
			t.Errorf("%.100q: %v", s, got)
		}
	}
}

func FuzzValid(f *testing.F) {
	for _, s := range validSamples {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, want := Valid(b), json.Valid(b); got != want {
			t.Errorf("%q: %v", b, got)
		}
	})
}

func BenchmarkValid(b *testing.B) {
	text := []byte(`{"text":"` + strings.Repeat("some text ", 69) + `"}`)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Valid(text)
	}
}
