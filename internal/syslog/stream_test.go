package syslog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tocsin-events/tocsin/internal/syslog"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// chunks reads its parts one by one.
type chunks [][]byte

func (c *chunks) Read(b []byte) (int, error) {
	if len(*c) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*c)[0])
	if (*c)[0] = (*c)[0][n:]; len((*c)[0]) == 0 {
		*c = (*c)[1:]
	}
	return n, nil
}

// readAll returns the lines of r, and checks that their bytes stay as they are.
func readAll(tb testing.TB, r io.Reader, maxLine int) []tail.Line {
	tb.Helper()
	var lines []tail.Line
	var kept []string
	for batch, err := range syslog.ReadMessages(r, maxLine) {
		if err != nil {
			tb.Fatal(err)
		}
		for _, l := range batch {
			lines = append(lines, l)
			kept = append(kept, string(l.Data))
		}
	}
	for i, l := range lines {
		if string(l.Data) != kept[i] {
			tb.Fatalf("line %d was written over", i)
		}
	}
	return lines
}

// show describes lines in a way that fits into a table.
func show(lines []tail.Line) []string {
	var s []string
	for _, l := range lines {
		text := string(l.Data)
		switch l.Kind {
		case tail.Torn:
			text = "torn " + text
		case tail.TooLong:
			text = fmt.Sprintf("too long %d %s", l.Size, text)
		default:
			if l.Size != int64(len(l.Data)) {
				text = fmt.Sprintf("wrong size %d %s", l.Size, text)
			}
		}
		s = append(s, text)
	}
	return s
}

func count(message string) string { return fmt.Sprintf("%d %s", len(message), message) }

func TestReadMessages(t *testing.T) {
	const (
		bsd  = "<38>Nov 21 01:49:29 vault[1]: "
		ietf = `<38>1 2026-11-21T01:49:29Z host vault 7 - [x@1 a="{"] `
	)
	for _, test := range []struct {
		name, stream string
		want         []string
	}{
		{"nothing", "", nil},
		{"only line ends", "\n\r\n\x00\n", nil},
		{"lines", bsd + "{1}\n" + ietf + "{2}\r\n{3}\n@cee:{4}\n", []string{"{1}", "{2}", "{3}", "{4}"}},
		{"counted", count(bsd+"{1}") + count(ietf+"{2}") + count("{3}"), []string{"{1}", "{2}", "{3}"}},
		{"counted, line ends counted", count(bsd+"{1}\n") + count(ietf+"{2}\r\n"), []string{"{1}", "{2}"}},
		{"counted, line ends between", count(bsd+"{1}") + "\n" + count(ietf+"{2}") + "\r\n", []string{"{1}", "{2}"}},
		{"counted, line ends inside", count(bsd + "{\n\"a\":\r\n1}"), []string{"{\n\"a\":\r\n1}"}},
		{"mixed", count(bsd+"{1}") + bsd + "{2}\n" + count(ietf+"{3}\n") + "{4}\n" + count("{5}"), []string{"{1}", "{2}", "{3}", "{4}", "{5}"}},
		{"spaces at the end", bsd + "{1}  \n" + count(bsd+"{2}  "), []string{"{1}  ", "{2}  "}},
		{"no count: digits", "2026-11-21 {1}\n12\n12 34 {2}\n", []string{"2026-11-21 {1}", "12", "12 34 {2}"}},
		{"no count: a zero before it", "05 {1}\n{2}\n", []string{"05 {1}", "{2}"}},
		{"no count: not believed", "1073741825 <38>x\n99999999999999999999 <38>y\n{1}\n", []string{"1073741825 <38>x", "99999999999999999999 <38>y", "{1}"}},
		{"torn line", bsd + "{1}\n" + bsd + "{2", []string{"{1}", "torn {2"}},
		{"torn count", bsd + "{1}\n" + "12", []string{"{1}", "torn 12"}},
		{"torn counted", count(bsd+"{1}") + "99 " + bsd + "{2}", []string{"{1}", "torn {2}"}},
		{"count too small", "33 " + bsd + "{12345}\n" + bsd + "{2}\n", []string{"{12", "345}", "{2}"}},
		{"header alone", bsd + "\n" + bsd + "{1}\n", []string{"Nov 21 01:49:29 vault[1]: ", "{1}"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			stream := []byte(test.stream)
			for n := range len(stream) + 1 {
				c := chunks{stream[:n], stream[n:]}
				if got := show(readAll(t, &c, 0)); !slices.Equal(got, test.want) {
					t.Fatalf("cut at %d:\ngot  %q\nwant %q", n, got, test.want)
				}
			}
			if got := show(readAll(t, iotest.OneByteReader(bytes.NewReader(stream)), 0)); !slices.Equal(got, test.want) {
				t.Errorf("byte by byte:\ngot  %q\nwant %q", got, test.want)
			}
		})
	}
}

// The recorded messages come out byte for byte, in every framing, cut at every byte
// into two reads.
func TestRecordedStreams(t *testing.T) {
	datagrams := recorded(t)
	var want []string
	framed := map[string]*bytes.Buffer{"lines": {}, "counted": {}, "counted without line ends": {}, "mixed": {}}
	for i, d := range datagrams {
		want = append(want, string(entry(d)))
		framed["lines"].Write(d)
		framed["counted"].WriteString(count(string(d)))
		framed["counted without line ends"].WriteString(count(string(bytes.TrimSuffix(d, []byte("\n")))))
		if i%2 == 0 {
			framed["mixed"].Write(d)
		} else {
			framed["mixed"].WriteString(count(string(d)))
		}
	}
	for name, buf := range framed {
		t.Run(name, func(t *testing.T) {
			stream := buf.Bytes()
			for n := range len(stream) + 1 {
				c := chunks{stream[:n], stream[n:]}
				if got := show(readAll(t, &c, 0)); !slices.Equal(got, want) {
					t.Fatalf("cut at %d:\ngot  %q\nwant %q", n, got, want)
				}
			}
		})
	}
}

func TestTooLong(t *testing.T) {
	const maxLine = 100
	const header = "<38>Nov 21 01:49:29 vault[1]: "
	for _, size := range []int{maxLine - 1, maxLine, maxLine + 1, 20 << 10, 40 << 10, 600 << 10} {
		body := "{" + strings.Repeat("a", size-2) + "}"
		for _, end := range []string{"", "\n", "\r\n"} {
			for name, message := range map[string]string{"line": header + body + end, "counted": count(header + body + end)} {
				if name == "line" && end == "" {
					continue
				}
				want := []string{"{1}", body, "{2}"}
				if size > maxLine {
					want[1] = fmt.Sprintf("too long %d %s", size, body[:maxLine])
				}
				stream := header + "{1}\n" + message + count(header+"{2}")
				for _, r := range []io.Reader{
					strings.NewReader(stream),
					iotest.OneByteReader(strings.NewReader(stream)),
					iotest.HalfReader(strings.NewReader(stream)),
				} {
					if got := show(readAll(t, r, maxLine)); !slices.Equal(got, want) {
						t.Errorf("%s of %d bytes, end %q: got %.200q", name, size, end, got)
					}
				}
			}
		}
	}
}

// zeros yields n bytes.
type zeros struct{ n int64 }

func (z *zeros) Read(b []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), z.n))
	for i := range b[:n] {
		b[i] = 'x'
	}
	z.n -= int64(n)
	return n, nil
}

// A count that announces a gigabyte takes no memory, and the stream goes on behind it.
func TestHugeCount(t *testing.T) {
	const n = 1 << 30
	stream := func() io.Reader {
		return io.MultiReader(strings.NewReader(fmt.Sprintf("%d <", n)), &zeros{n - 1}, strings.NewReader("{1}\n"))
	}
	announced := testing.AllocsPerRun(1, func() {
		readAll(t, strings.NewReader(fmt.Sprintf("%d <", n)), 0)
	})
	if announced > 50 {
		t.Errorf("%v allocations for what was only announced", announced)
	}
	lines := readAll(t, stream(), 1<<20)
	if len(lines) != 2 || lines[0].Kind != tail.TooLong || lines[0].Size != n || len(lines[0].Data) != tail.PrefixBytes || string(lines[1].Data) != "{1}" {
		t.Errorf("got %.300q", show(lines))
	}
	lines = readAll(t, io.MultiReader(strings.NewReader(fmt.Sprintf("%d <", n)), &zeros{4 << 20}), 1<<20)
	if len(lines) != 1 || lines[0].Kind != tail.TooLong || lines[0].Size != 4<<20+1 {
		t.Errorf("at the end of the stream: got %.300q", show(lines))
	}
}

func TestReadErrors(t *testing.T) {
	broken := errors.New("broken")
	r := io.MultiReader(strings.NewReader("{1}\n{2"), iotest.ErrReader(broken))
	var got []string
	var last error
	for lines, err := range syslog.ReadMessages(r, 0) {
		got = append(got, show(lines)...)
		last = err
	}
	if !slices.Equal(got, []string{"{1}", "torn {2"}) || !errors.Is(last, broken) {
		t.Errorf("got %q, %v", got, last)
	}
	for _, err := range syslog.ReadMessages(readerFunc(func([]byte) (int, error) { return 0, nil }), 0) {
		last = err
	}
	if !errors.Is(last, io.ErrNoProgress) {
		t.Errorf("a reader that yields nothing: %v", last)
	}
	for range syslog.ReadMessages(strings.NewReader("{1}\n{2}\n"), 0) {
		break // must not go on
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// End of a line is where its framing ends: a stream that is read again from there
// yields the rest.
func TestEnd(t *testing.T) {
	var stream bytes.Buffer
	for i, d := range recorded(t) {
		if i%2 == 0 {
			stream.Write(d)
		} else {
			stream.WriteString(count(string(d)))
		}
	}
	whole := readAll(t, bytes.NewReader(stream.Bytes()), 0)
	for i, l := range whole {
		rest := readAll(t, bytes.NewReader(stream.Bytes()[l.End:]), 0)
		if got, want := show(rest), show(whole[i+1:]); !slices.Equal(got, want) {
			t.Errorf("behind line %d: got %.200q", i, got)
		}
	}
}

func BenchmarkReadMessages(b *testing.B) {
	var lines, counted bytes.Buffer
	for range 200 {
		for _, d := range recorded(b) {
			lines.Write(d)
			counted.WriteString(count(string(d)))
		}
	}
	for _, bench := range []struct {
		name   string
		stream []byte
	}{{"lines", lines.Bytes()}, {"counted", counted.Bytes()}} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(int64(len(bench.stream)))
			b.ReportAllocs()
			for b.Loop() {
				for range syslog.ReadMessages(bytes.NewReader(bench.stream), 0) {
				}
			}
		})
	}
}

// However a stream is cut into reads, the messages are the same, and no byte of a
// message is lost.
func FuzzReadMessages(f *testing.F) {
	var lines, counted bytes.Buffer
	for _, d := range [][]byte{recorded(f)[0], []byte("<38>1 - - - - - - {}\n")} { // long seeds take long to be made smaller
		lines.Write(d)
		counted.WriteString(count(string(d)))
	}
	f.Add(lines.Bytes(), uint64(1), uint16(0))
	f.Add(counted.Bytes(), uint64(2), uint16(0))
	f.Add(counted.Bytes(), uint64(2), uint16(300))
	f.Add(append(bytes.Clone(counted.Bytes()), lines.Bytes()...), uint64(3), uint16(100))
	f.Add([]byte("1073741824 <38>{}\n"), uint64(4), uint16(10))
	f.Add([]byte("9 <38>{}\n\n\x00 12 {\n"), uint64(5), uint16(0))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64, maxLine uint16) {
		whole := readAll(t, bytes.NewReader(stream), int(maxLine))
		random := rand.New(rand.NewPCG(seed, 0))
		var parts chunks
		for rest := stream; len(rest) > 0; {
			n := 1 + random.IntN(min(len(rest), 1<<random.IntN(12)))
			parts = append(parts, rest[:n])
			rest = rest[n:]
		}
		if got, want := show(readAll(t, &parts, int(maxLine))), show(whole); !slices.Equal(got, want) {
			t.Fatalf("in %d reads %.500q\nin one %.500q", len(parts), got, want)
		}
		for _, l := range whole {
			if l.End > int64(len(stream)) || l.Kind != tail.TooLong && !bytes.Contains(stream, l.Data) {
				t.Fatalf("line %+v is not in the stream", l)
			}
		}
	})
}
