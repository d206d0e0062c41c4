package cli

import (
	"fmt"
	"strings"
	"testing"
)

func fliptLine(key, second string) string {
	return `{"version":"0.2","type":"flag","action":"created","status":"success","metadata":{},"payload":{"key":"` + key + `"},"timestamp":"2026-11-21T01:38:` + second + `Z"}` + "\n"
}

// Equal events are counted, in whatever form they are, and the same in every pass.
func TestEqualLines(t *testing.T) {
	numbers := func(q *equalLines, lines string) (all string) {
		out := string(q.number([]byte(lines)))
		for i, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
			n, rest, _ := strings.Cut(line, " ")
			all += n
			if want := strings.TrimRight(strings.Split(lines, "\n")[i], "\r"); rest != want {
				t.Errorf("%q became %q", want, rest)
			}
		}
		return all
	}
	a, b := fliptLine("a", "10"), fliptLine("b", "11")
	printed := strings.Replace(a, "{", `{"T":"x","M":"AUDIT",`, 1)
	log := a + b + a + "torn\n" + printed + "torn\r\n" + b
	const want = "0010211"
	for range 2 {
		if got := numbers(new(equalLines), log); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for name, c := range map[string]struct{ first, second, want string }{
		"a copy":              {a + b, a + b, "00"},
		"the log goes on":     {a + b, b + a, "11"},
		"the next second":     {a + b, fliptLine("c", "12") + b, "00"},
		"an empty log":        {a + b, "", ""},
		"begins with nothing": {a, "noise\n" + a, "01"},
	} {
		var q equalLines
		q.newFile()
		numbers(&q, c.first)
		q.newFile()
		if c.second == "" {
			q.number(nil)
			continue
		}
		if got := numbers(&q, c.second); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	var q equalLines
	for i := range 2*maxEqual + 10 {
		q.count(fmt.Append(nil, i))
	}
	if len(q.recent)+len(q.former) > 2*maxEqual || q.count(fmt.Append(nil, 2*maxEqual)) != 1 {
		t.Error("what is remembered is not bounded, or the newest is forgotten")
	}
}
