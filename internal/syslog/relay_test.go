package syslog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/syslog"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// relayed are the entries that the relays of testdata were given.
func relayed(t *testing.T) (entries []string) {
	long := func(n int) string {
		return fmt.Sprintf(`{"time":"2026-11-21T01:49:30Z","type":"request","request":{"id":"7fc8bef6-28b0-2d24-013f-%012d","path":"big","data":{"k":"%s"}}}`, n, strings.Repeat("x", n))
	}
	for _, d := range recorded(t) {
		entries = append(entries, string(entry(d)))
	}
	return append(entries, long(3000), long(9000), entries[0], long(12000), entries[1])
}

// What relays pass on comes out as the server wrote it, byte for byte, and what they
// have cut short is recognised as that and is glued to nothing.
func TestRelays(t *testing.T) {
	for _, name := range []string{
		"rsyslog-counted.raw", "rsyslog-lines.raw", "rsyslog-udp.jsonl",
		"syslog-ng-counted.raw", "syslog-ng-lines.raw", "syslog-ng-udp.jsonl",
	} {
		t.Run(name, func(t *testing.T) {
			file, err := os.ReadFile("testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, ".jsonl") {
				var bodies []string
				for line := range bytes.Lines(file) {
					var d string
					if err := json.Unmarshal(line, &d); err != nil {
						t.Fatal(err)
					}
					bodies = append(bodies, string(syslog.Body([]byte(d))))
				}
				checkRelayed(t, bodies)
				return
			}
			for n := 0; n <= len(file); n += 61 {
				c := chunks{file[:n], file[n:]}
				var bodies []string
				for _, l := range readAll(t, &c, 0) {
					if l.Kind != tail.Whole {
						t.Fatalf("cut at %d: a line of kind %d", n, l.Kind)
					}
					bodies = append(bodies, string(l.Data))
				}
				checkRelayed(t, bodies)
			}
		})
	}
}

func checkRelayed(t *testing.T, bodies []string) {
	t.Helper()
	want := relayed(t)
	if len(bodies) != len(want) {
		t.Fatalf("%d messages", len(bodies))
	}
	var p auditlog.Parser
	for i, body := range bodies {
		_, err := p.Parse([]byte(body))
		if len(want[i]) < 8<<10 {
			if body != want[i] || err != nil {
				t.Fatalf("message %d: %v\ngot  %.200q\nwant %.200q", i, err, body, want[i])
			}
			continue
		}
		syntax, ok := errors.AsType[*auditlog.SyntaxError](err)
		if !ok || syntax.Reason != auditlog.ReasonTruncated || !strings.HasPrefix(want[i], body) {
			t.Fatalf("message %d, %d of %d bytes: %v", i, len(body), len(want[i]), err)
		}
	}
}
