package lines

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/tracetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGolden(t *testing.T) {
	for file, appendLine := range map[string]func([]byte, *trace.Span) []byte{
		"testdata/spans.txt": AppendText, "testdata/spans.jsonl": AppendJSON,
	} {
		var got []byte
		for _, s := range tracetest.Spans() {
			got = appendLine(got, s)
		}
		if bytes.Count(got, []byte("\n")) != len(tracetest.Spans()) {
			t.Errorf("%s: not one line for each span", file)
		}
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: got\n%s", file, got)
		}
	}
	for _, s := range tracetest.Spans() {
		if line := AppendJSON(nil, s); !json.Valid(line) {
			t.Errorf("%s", line)
		}
	}
}

// TestColumns: what comes before the service is as wide whatever became of the request.
func TestColumns(t *testing.T) {
	const at = len("2026-03-14T15:09:26.535Z    1.23ms failed ")
	for _, test := range []struct {
		kind     trace.Completeness
		expected bool
		failed   bool
		outcome  string
		missing  string
	}{
		{trace.Complete, false, false, "ok", ""},
		{trace.Complete, false, true, "failed", ""},
		{trace.RequestOnly, false, false, "?", "  [no response]"},
		{trace.RequestOnly, false, true, "failed", "  [no response]"},
		{trace.RequestOnly, true, false, "ok", ""},
		{trace.ResponseOnly, false, false, "ok", "  [no request]"},
		{trace.ResponseOnly, false, true, "failed", "  [no request]"},
	} {
		s := tracetest.Numbered(1, 1)[0]
		s.Kind, s.Expected, s.Failed = test.kind, test.expected, test.failed
		line := string(AppendText(nil, s))
		columns, rest, _ := strings.Cut(line, "prod")
		if len(columns) != at || strings.Fields(columns)[2] != test.outcome || !strings.HasPrefix(rest, "  read secret/data/…"+test.missing+"  from ") {
			t.Errorf("%+v: %s", test, line)
		}
	}
}
