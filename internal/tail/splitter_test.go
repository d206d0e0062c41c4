package tail

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// split cuts a stream into pieces, and after each of them goes on with another
// splitter.
func split(t *testing.T, stream []byte, maxLine int, pieces ...int) (lines []string) {
	t.Helper()
	s := NewSplitter(maxLine)
	var got []Line
	for _, n := range append(pieces, len(stream)) {
		n = min(n, len(stream))
		for n > 0 {
			k := copy(s.Space(), stream[:n])
			got = s.Cut(got, k)
			stream, n = stream[k:], n-k
		}
		next := NewSplitter(maxLine)
		got = next.Resume(got, s.Rest())
		s = next
	}
	for _, l := range got {
		lines = append(lines, fmt.Sprintf("%d %d %q", l.Kind, l.Size, l.Data))
	}
	if r := s.Rest(); !r.Empty() {
		lines = append(lines, fmt.Sprintf("rest %d %q", r.Skipped, r.Data))
	}
	return lines
}

// whole is what ReadLines makes of a stream: what a splitter has to make of it, too.
func whole(stream []byte, maxLine int) (lines []string) {
	for batch := range ReadLines(bytes.NewReader(stream), maxLine) {
		for _, l := range batch {
			lines = append(lines, fmt.Sprintf("%d %d %q", l.Kind, l.Size, l.Data))
		}
	}
	return lines
}

func TestSplitterGoesOnAnywhere(t *testing.T) {
	stream := []byte("one\n\ntwo\r\n" + strings.Repeat("long", 30) + "\n\x00\x00three\nfour\n")
	want := fmt.Sprint(whole(stream, 50))
	for i := range stream {
		for j := i; j < len(stream); j += 7 {
			if got := fmt.Sprint(split(t, stream, 50, i, j-i)); got != want {
				t.Fatalf("cut at %d and %d:\n%s\nwant\n%s", i, j, got, want)
			}
		}
	}
	if got := split(t, []byte("a\nb"), 50); fmt.Sprint(got) != `[0 1 "a" rest 0 "b"]` {
		t.Errorf("a beginning: %v", got)
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add([]byte("one\ntwo\n"), 3, uint8(10))
	f.Add([]byte(strings.Repeat("x", 300)+"\nshort\n"), 150, uint8(40))
	f.Add([]byte("\x00\x00\n\r\n\n\x00a"), 1, uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, cut int, maxLine uint8) {
		stream = append(stream, '\n') // so that no rest is left
		if cut < 0 {
			cut = -(cut + 1)
		}
		most := int(maxLine) + 1
		got, want := fmt.Sprint(split(t, stream, most, cut%len(stream))), fmt.Sprint(whole(stream, most))
		if got != want {
			t.Errorf("cut at %d:\n%s\nwant\n%s", cut%len(stream), got, want)
		}
	})
}
