package receiver

import (
	"bytes"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/tail"
)

// streams makes a stream of each kind.
var streams = map[string]func(io.Reader) stream{
	"lines":  func(from io.Reader) stream { return newLines(from, tail.DefaultMaxLine, nil) },
	"syslog": func(from io.Reader) stream { return newMessages(from, tail.DefaultMaxLine, nil) },
}

// silentAfter is a sender that says hardly any more after some text.
type silentAfter struct {
	text    *bytes.Reader
	reached bool
}

func (s *silentAfter) Read(b []byte) (int, error) {
	if s.text.Len() == 0 {
		s.reached = true
		return copy(b, "b\n"), nil
	}
	return s.text.Read(b)
}

// TestManyShortLines shows that a stream does not hold on to memory for as many lines as
// it had at once: there may be a thousand connections.
func TestManyShortLines(t *testing.T) {
	const connections = 32
	text := bytes.Repeat([]byte("a\n"), 1<<20)
	for name, open := range streams {
		t.Run(name, func(t *testing.T) {
			before := heap()
			var all []stream
			for range connections {
				from := &silentAfter{text: bytes.NewReader(text)}
				s := open(from)
				for begin := time.Now(); !from.reached; {
					if _, err := s.next(); err != nil {
						t.Fatal(err)
					}
					if time.Since(begin) > 5*time.Second {
						t.Fatal("2 MiB of short lines take more than 5 s")
					}
				}
				all = append(all, s)
			}
			if each := (heap() - before) / connections; each > 2<<20 {
				t.Errorf("a silent connection holds %d bytes", each)
			}
			for _, s := range all {
				s.rest()
			}
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
