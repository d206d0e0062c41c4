package tail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// wantLine is what the obviously right slow version says about one line.
type wantLine struct {
	data string
	end  int64
	size int64
	kind Kind
}

// splitSlowly is the oracle of the splitter.
func splitSlowly(text []byte, maxLine int) (lines []wantLine, nuls int64) {
	parts := bytes.Split(text, []byte("\n"))
	var end int64
	for i, p := range parts {
		whole := i < len(parts)-1
		end += int64(len(p))
		if whole {
			end++
		}
		b := bytes.TrimLeft(p, "\x00")
		nuls += int64(len(p) - len(b))
		l := wantLine{data: string(b), end: end, size: int64(len(b))}
		switch {
		case len(b) > maxLine:
			l.kind, l.data = TooLong, string(b[:min(PrefixBytes, maxLine)])
		case whole:
			l.data = strings.TrimSuffix(l.data, "\r")
		case len(b) == 0:
			continue
		default:
			l.kind = Torn
		}
		lines = append(lines, l)
	}
	return lines, nuls
}

// erratic reads pieces of random sizes.
type erratic struct {
	b   []byte
	rnd *rand.Rand
}

func (e *erratic) Read(p []byte) (int, error) {
	if len(e.b) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(e.b), 1+e.rnd.IntN(1<<e.rnd.IntN(17)))
	copy(p, e.b[:n])
	e.b = e.b[n:]
	return n, nil
}

func checkSplit(t *testing.T, text []byte, maxLine int, seed uint64) {
	t.Helper()
	want, _ := splitSlowly(text, maxLine)
	var got []Line
	for lines, err := range ReadLines(&erratic{bytes.Clone(text), rand.New(rand.NewPCG(seed, 1))}, maxLine) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, lines...)
	}
	// Compared only now: no line may have been overwritten by what was read later.
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d", len(got), len(want))
	}
	for i, g := range got {
		if have := (wantLine{string(g.Data), g.End, g.Size, g.Kind}); have != want[i] {
			t.Fatalf("line %d: got %.80q, want %.80q", i, fmt.Sprint(have), fmt.Sprint(want[i]))
		}
	}
}

func TestSplit(t *testing.T) {
	tests := map[string]string{
		"empty":                "",
		"one":                  "a\n",
		"no end":               "a",
		"blank lines":          "\n\n\na\n\n",
		"CRLF":                 "a\r\nb\r\n\r\nc\r",
		"CR inside":            "a\rb\n",
		"NULs before a line":   "\x00\x00\x00a\n\x00b\x00\n\x00\n\x00",
		"longest":              "12345678\nx\n",
		"one too long":         "123456789\nx\n",
		"one too long, no end": "x\n123456789",
		"NULs do not count":    "\x00\x0012345678\n\x00123456789\n",
		"CR counts":            "12345678\r\n1234567\r\n",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20) {
				checkSplit(t, []byte(text), 8, seed)
			}
		})
	}
}

func TestSplitNULsAreCounted(t *testing.T) {
	s := newSplitter(0, 100)
	text := []byte(strings.Repeat("\x00", 300_000) + "a\n\x00\x00b")
	var lines []Line
	for len(text) > 0 {
		n := copy(s.space(), text)
		text = text[n:]
		lines = s.cut(lines, n)
	}
	if len(lines) != 1 || string(lines[0].Data) != "a" || lines[0].End != 300_002 || s.nuls != 300_002 {
		t.Errorf("lines %v, %d NULs", lines, s.nuls)
	}
}

// FuzzSplit repeats text, so that small inputs reach over the borders of chunks.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("a\nbb\r\n\x00ccc\n"), uint8(1), uint16(8), uint64(1))
	f.Add([]byte("0123456789\n"), uint8(250), uint16(9), uint64(2))
	f.Add([]byte("x"), uint8(100), uint16(60_000), uint64(3))
	f.Add([]byte("\x00\r\n\n\r"), uint8(200), uint16(1), uint64(4))
	f.Fuzz(func(t *testing.T, text []byte, times uint8, maxLine uint16, seed uint64) {
		n := min(len(text)*int(times)*int(times), 200_000) // up to 65,025 times
		if n > 0 {
			text = bytes.Repeat(text, n/len(text)+1)[:n]
		}
		checkSplit(t, text, int(maxLine)+1, seed)
	})
}

// TestLongLines shows the limit at its real size, and that a line above it does
// not stay in memory.
func TestLongLines(t *testing.T) {
	x := func(n int) io.Reader { return io.LimitReader(repeat('x'), int64(n)) }
	r := io.MultiReader(x(DefaultMaxLine), strings.NewReader("\n"), x(DefaultMaxLine+1), strings.NewReader("\nafter\n"))
	var got []string
	var biggest int
	s := newSplitter(0, DefaultMaxLine)
	for {
		n, err := r.Read(s.space())
		for _, l := range s.cut(nil, n) {
			got = append(got, fmt.Sprintf("%d:%d:%d", l.Kind, l.Size, len(l.Data)))
		}
		biggest = max(biggest, cap(s.buf))
		if err != nil {
			break
		}
	}
	want := fmt.Sprintf("[%d:%d:%d %d:%d:%d 0:5:5]", Whole, DefaultMaxLine, DefaultMaxLine, TooLong, DefaultMaxLine+1, PrefixBytes)
	if fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if biggest > DefaultMaxLine+maxChunk || cap(s.buf) > maxChunk {
		t.Errorf("buffer grew to %d and stayed at %d bytes", biggest, cap(s.buf))
	}
}

type repeat byte

func (r repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

func TestReadLinesErrors(t *testing.T) {
	broken := errors.New("broken")
	var got []string
	for lines, err := range ReadLines(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)), 0) {
		for _, l := range lines {
			got = append(got, fmt.Sprintf("%s/%d", l.Data, l.Kind))
		}
		if err != nil {
			got = append(got, err.Error())
		}
	}
	if s := fmt.Sprint(got); s != "[a/0 b/1 broken]" {
		t.Errorf("got %s", s)
	}
	for range ReadLines(strings.NewReader("a\nb\n"), 0) {
		break // must not panic
	}
	for _, err := range ReadLines(stuck{}, 0) {
		if !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("got %v", err)
		}
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func BenchmarkSplit(b *testing.B) {
	line := append(bytes.Repeat([]byte("x"), 1365), '\n')
	text := bytes.Repeat(line, 20_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		n := 0
		for lines := range ReadLines(bytes.NewReader(text), 0) {
			n += len(lines)
		}
		if n != 20_000 {
			b.Fatal(n)
		}
	}
}
