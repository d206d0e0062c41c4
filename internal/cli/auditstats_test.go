package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// What was read before Ctrl-C is summed up.
func TestAuditStatsInterrupted(t *testing.T) {
	log, err := os.ReadFile("../auditlog/testdata/openbao-audit-small.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("COLUMNS", "80")
	in, pipe := io.Pipe()
	defer pipe.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs bytes.Buffer
	code := make(chan int, 1)
	go func() { code <- Run(ctx, []string{"audit", "stats", "-"}, Streams{In: in, Out: &out, Err: &errs}) }()
	// A write ends when all of it was read, and that is when what was read before is counted.
	for _, part := range [][]byte{log, []byte("\n"), []byte("\n"), []byte("\n")} {
		if _, err := pipe.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("exit code %d: %s", got, errs.String())
	}
	if !strings.Contains(out.String(), "\n242 requests, ") || !strings.Contains(errs.String(), "interrupted; this is what was read so far\n") {
		t.Errorf("%s\n%s", out.String(), errs.String())
	}
}

func TestReadingProgress(t *testing.T) {
	p := progress{total: 2000}
	p.bytes.Add(500)
	p.lines.Add(300)
	if got := p.line(3 * time.Second); got != " 25 %  300 lines, 100/s" {
		t.Errorf("%q", got)
	}
	p.total = 0
	if got := p.line(3 * time.Second); got != "300 lines, 100/s" {
		t.Errorf("%q", got)
	}
}

func TestOutputWidth(t *testing.T) {
	for columns, want := range map[string]int{"": defaultWidth, "132": 132, "-1": defaultWidth, "x": defaultWidth} {
		t.Setenv("COLUMNS", columns)
		if got := outputWidth(new(bytes.Buffer)); got != want {
			t.Errorf("COLUMNS=%s: %d", columns, got)
		}
	}
}
