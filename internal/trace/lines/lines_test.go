package lines

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
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
