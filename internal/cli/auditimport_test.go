package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// chunks reads a log to its end.
func chunks(t testing.TB, name string) (data [][]byte, length int64) {
	t.Helper()
	l, err := openLog(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for {
		d, n, last, err := l.chunk()
		if err != nil {
			t.Fatal(err)
		}
		data, length = append(data, d), length+n
		if last {
			return data, length
		}
	}
}

func writeLog(t testing.TB, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLogChunks shows that a log comes in whole lines, compressed or not, with the same
// name, and that a line which is too long comes as its beginning, counted in full.
func TestLogChunks(t *testing.T) {
	var text bytes.Buffer
	for n := range 40_000 {
		fmt.Fprintf(&text, `{"n":%d,"x":%q}`+"\n", n, strings.Repeat("x", n%300))
	}
	text.WriteString("the end")
	var zipped, packed bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(text.Bytes())
	z.Close()
	p, _ := zstd.NewWriter(&packed)
	p.Write(text.Bytes())
	p.Close()
	names := map[string]bool{}
	for _, b := range [][]byte{text.Bytes(), zipped.Bytes(), packed.Bytes()} {
		path := writeLog(t, "log", b)
		data, length := chunks(t, path)
		if length != int64(text.Len()) || !bytes.Equal(bytes.Join(data, nil), text.Bytes()) {
			t.Errorf("%d chunks of %d bytes are not the log", len(data), length)
		}
		for i, d := range data[:len(data)-1] {
			if len(d) < importChunk || len(d) > importChunk+1<<10 || d[len(d)-1] != '\n' {
				t.Errorf("chunk %d has %d bytes", i, len(d))
			}
		}
		l, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		name, err := l.fingerprint()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		names[name] = true
	}
	if len(names) != 1 {
		t.Errorf("names %v", names)
	}

	long := append(bytes.Repeat([]byte("y"), maxImportLine+100), "\nshort\n"...)
	data, length := chunks(t, writeLog(t, "log", append([]byte("first\n"), long...)))
	if length != int64(len(long)+6) || len(data) != 2 || string(data[1]) != "short\n" || len(data[0]) != 6+longLinePrefix+1 {
		t.Errorf("%d chunks, %d bytes", len(data), length)
	}
}

func TestBrokenLogs(t *testing.T) {
	if _, err := openLog(t.TempDir()); err == nil {
		t.Error("a directory is opened")
	}
	for _, text := range []string{"\x1f\x8b", "\x1f\x8b\x08\x00garbage that is no gzip", "\x28\xb5\x2f\xfdgarbage"} {
		l, err := openLog(writeLog(t, "log", []byte(text)))
		if err == nil {
			_, _, _, err = l.chunk()
			l.Close()
		}
		if err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// TestImportProgress shows that the line fits into a terminal.
func TestImportProgress(t *testing.T) {
	now := time.Now()
	p := importProgress{file: &importedFile{File: "/var/log/" + strings.Repeat("a", 100) + ".log.gz", Lines: 123_456_789}, started: now.Add(-time.Hour)}
	for _, at := range []int64{0, 1 << 30, 50 << 30, 100 << 30, 200 << 30} {
		if text := p.text(at, 100<<30, now); len(text) > 100 || !strings.Contains(text, "lines/s") {
			t.Errorf("%d characters: %s", len(text), text)
		}
	}
	p.text(0, 0, p.started)
}

// FuzzLogChunks shows that whatever is in a file, its lines come complete and in order.
func FuzzLogChunks(f *testing.F) {
	f.Add([]byte("a\nb"))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := openLog(writeLog(t, "log", text))
		if err != nil {
			return
		}
		defer l.Close()
		data, length, last, err := l.chunk()
		compressed := bytes.HasPrefix(text, []byte{0x1f, 0x8b}) || bytes.HasPrefix(text, []byte{0x28, 0xb5, 0x2f, 0xfd})
		if !compressed && (err != nil || !last || length != int64(len(text)) || !bytes.Equal(data, text)) {
			t.Errorf("%q, %d, %v, %v", data, length, last, err)
		}
	})
}
