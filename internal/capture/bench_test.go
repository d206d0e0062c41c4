package capture

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

const benchEvents = 200_000

func benchEvent() []byte {
	return scapevent.Append(nil, 3, 1, bytes.Repeat([]byte("x"), 700))
}

func benchFile(b *testing.B, name string) int64 {
	w, err := Create(name, true, WriterOptions{})
	if err != nil {
		b.Fatal(err)
	}
	e := benchEvent()
	for range benchEvents {
		if err := w.Write(e); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}

// BenchmarkWrite, BenchmarkRead and BenchmarkCopy handle the same bytes; the disk cache holds
// them.
func BenchmarkWrite(b *testing.B) {
	name := filepath.Join(b.TempDir(), "c.scap")
	b.SetBytes(benchFile(b, name))
	for b.Loop() {
		if err := os.Remove(name); err != nil {
			b.Fatal(err)
		}
		benchFile(b, name)
	}
}

func BenchmarkRead(b *testing.B) {
	name := filepath.Join(b.TempDir(), "c.scap")
	b.SetBytes(benchFile(b, name))
	for b.Loop() {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		r, err := NewReader(f, ReaderOptions{})
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, io.EOF) || r.Stats().Events != benchEvents {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkCopy(b *testing.B) {
	name := filepath.Join(b.TempDir(), "c.scap")
	b.SetBytes(benchFile(b, name))
	buf := make([]byte, 256<<10)
	for b.Loop() {
		in, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		_ = os.Remove(name + ".copy")
		out, err := os.Create(name + ".copy")
		if err != nil {
			b.Fatal(err)
		}
		// Not what the kernel can copy by itself.
		if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buf); err != nil {
			b.Fatal(err)
		}
		in.Close()
		out.Close()
	}
}
