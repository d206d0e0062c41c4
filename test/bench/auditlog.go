package main

import (
	"bytes"
	"os"
	"regexp"
	"strconv"

	"github.com/tocsin-events/tocsin/internal/demo"
)

// auditLog makes an endless audit log out of the recorded one: every repetition
// has other request ids, so that no entry is the same as another.
type auditLog struct {
	pieces [][]byte // the recording, cut before and after each part that changes
	run    int
	out    []byte
}

var requestID = regexp.MustCompile(`"request":\{"id":"([0-9a-f]{8})-`)

func newAuditLog() (*auditLog, error) {
	text, err := demo.Recording()
	if err != nil {
		return nil, err
	}
	l := &auditLog{}
	end := 0
	for _, m := range requestID.FindAllSubmatchIndex(text, -1) {
		l.pieces = append(l.pieces, text[end:m[2]])
		end = m[2]
	}
	l.pieces = append(l.pieces, text[end:])
	return l, nil
}

// next returns one repetition of the log; it is valid until the next call.
func (l *auditLog) next() []byte {
	l.run++
	out := l.out[:0]
	for i, piece := range l.pieces {
		at := len(out)
		out = append(out, piece...)
		if i > 0 { // the piece begins with the eight digits of a request id
			var hex [8]byte
			n := uint64(l.run) ^ parseHex(piece[:8])
			for k := 7; k >= 0; k-- {
				hex[k] = "0123456789abcdef"[n&15]
				n >>= 4
			}
			copy(out[at:], hex[:])
		}
	}
	l.out = out
	return out
}

func parseHex(b []byte) uint64 {
	n, _ := strconv.ParseUint(string(b), 16, 64)
	return n
}

// write makes a log of at least size bytes at path and returns its lines.
func (l *auditLog) write(path string, size int64) (lines int, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for written := int64(0); written < size; {
		b := l.next()
		if _, err := f.Write(b); err != nil {
			return 0, err
		}
		written += int64(len(b))
		lines += bytes.Count(b, []byte("\n"))
	}
	return lines, f.Close()
}
