package condition

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// recorded is a condition that the real engine has judged.
type recorded struct{ condition, verdict, message string }

var recordedLine = regexp.MustCompile(`^(.*?)\s{2,}(HIT|no|ERR \S+)\s*(.*)$`)

func readRecorded(t testing.TB) (all []recorded) {
	t.Helper()
	text, err := os.ReadFile("testdata/conditions.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		m := recordedLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			// A long condition leaves one blank only.
			m = regexp.MustCompile(`^(.*) (HIT|no|ERR \S+)\s*(.*)$`).FindStringSubmatch(strings.TrimRight(line, "\n"))
		}
		if m == nil {
			t.Fatalf("no verdict in %q", line)
		}
		all = append(all, recorded{strings.TrimSpace(m[1]), strings.TrimSpace(m[2]), m[3]})
	}
	return all
}

// notGrammar are beginnings and parts of errors that come from fields, types and macros.
var notGrammar = []string{
	"filter error:", "filter '", "filter_check called", "is not a valid number", "invalid regex", "Undefined macro",
	"unknown field transfomer", "has type '",
}

func parse(text string) (Expr, error) { return Parse(&Text{Content: text}) }

func TestRecordedConditions(t *testing.T) {
	refused := 0
	all := readRecorded(t)
	for _, r := range all {
		want := ""
		if strings.HasPrefix(r.verdict, "ERR") && !slices.ContainsFunc(notGrammar, func(s string) bool { return strings.Contains(r.message, s) }) {
			want = r.message
			refused++
		}
		e, err := parse(r.condition)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", r.condition, err)
		case want != "" && (err == nil || err.Error() != want):
			t.Errorf("%s\ngot  %v\nwant %s", r.condition, err, want)
		case err == nil:
			checkRoundTrip(t, e)
		}
	}
	if len(all) < 100 || refused < 10 {
		t.Errorf("%d conditions with %d mistakes: are these all?", len(all), refused)
	}
}

// checkRoundTrip checks that a tree is the same after it was written and read again.
func checkRoundTrip(t *testing.T, e Expr) {
	t.Helper()
	text := String(e)
	again, err := parse(text)
	if err != nil {
		var where *Error
		errors.As(err, &where)
		t.Errorf("%s\n%*s^ %v", text, where.At.Offset, "", err)
		return
	}
	if !Same(e, again) {
		t.Errorf("%s became %s", text, String(again))
	}
}
