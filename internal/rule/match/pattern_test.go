package match

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "a/b/.c", true}, {"**a", "a", true}, {"a*", "ba", false},
		{"?", "", false}, {"?", "/", true}, {"?", "é", false}, {"??", "é", true}, {"*.go", ".go", true}, {"a*b*c", "axxbyybzc", true}, {"a*b*c", "axxbyybz", false},
		{"[abc]", "b", true}, {"[abc]", "d", false}, {"[!abc]", "d", true}, {"[^abc]", "a", false}, {"[a-c]x", "bx", true}, {"[a-c-]", "-", true}, {"[]a]", "]", true},
		{"[!]a]", "]", false}, {"[!]a]", "b", true}, {"[a-]", "-", true}, {`[\]]`, "]", true}, {`[\a-\c]`, "b", true}, {"[c-a]", "b", false},
		{"[a", "[a", true}, {"[a", "a", false}, {"[", "[", true}, {"a[", "a[", true}, {"[!", "[!", true}, {"[]", "[]", true},
		{"[[:alpha:]]", "x", true}, {"[[:alpha:]]", "1", false}, {"[![:digit:]]", "x", true}, {"[[:digit:][:upper:]_]", "_", true}, {"[[:nope:]]", ":]", false}, {"[a[:nope:]]", "a", true}, {"[[:nope:]a]", "a", false}, {"[![:nope:]]", "a", false}, {"[[:Alpha:]]", "A]", true},
		{"[[:space:]]", "\t", true}, {"[[:punct:]]", "!", true}, {"[[:xdigit:]]", "F", true}, {"[[:xdigit:]]", "g", false}, {"[[.-.]]", "-", true}, {"[[=a=]]", "a", true},
		{`\*`, "*", true}, {`\*`, "a", false}, {`\`, `\`, false}, {`a\`, "a", false}, {`\a`, "a", true}, {`\\`, `\`, true},
	} {
		if got := glob(x.pattern, x.text, false); got != x.want {
			t.Errorf("glob(%q, %q): %v", x.pattern, x.text, got)
		}
	}
	for _, x := range []struct {
		pattern, text string
		want          bool
	}{
		{"A*c", "aBC", true}, {"[a-c]", "B", true}, {"[A-C]", "b", true}, {"[!a]", "A", false}, {"[[:upper:]]", "a", false}, {"[.-[]", "a", false}, {`\A`, "a", true}, {"é", "É", false},
	} {
		if got := glob(x.pattern, x.text, true); got != x.want {
			t.Errorf("glob(%q, %q) with fold: %v", x.pattern, x.text, got)
		}
	}
	if !glob(strings.Repeat("*a", 100)+"*", strings.Repeat("a", 1<<16), false) || glob(strings.Repeat("*a", 100)+"b", strings.Repeat("a", 1<<16), false) {
		t.Error("many stars")
	}
}

// TestRecordedGlobs: what fnmatch(3) of glibc said about random patterns.
func TestRecordedGlobs(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/globs.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if got := glob(f[0], f[1], f[2] == "1"); got != (f[3] == "1") {
			t.Errorf("%q glob %q, fold %s: %v", f[1], f[0], f[2], got)
		}
		n++
	}
	if n != 3000 {
		t.Errorf("%d lines", n)
	}
}

func TestRegex(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "ab", false}, {"a|ab", "ab", true}, {"ab|a", "a", true}, {"(a|ab)(c|bcd)", "abcd", true}, {"a.b", "a\nb", false}, {"a[^x]b", "a\nb", true},
		{"^a$", "a", true}, {"a$(.|[^.])^b", "a\nb", true}, {"[[:digit:]]{3}", "201", true}, {".", "\xff", true}, {"..", "\xff\xfe", true}, {".", "é", true},
		{"[[:space:]]*", " \n\t", true}, {"", "", true}, {"", "a", false}, {"()", "", true}, {`\.`, ".", true}, {`\x41`, "A", true},
	} {
		re, _, err := compileRegex(x.pattern)
		if err != nil {
			t.Errorf("%s: %v", x.pattern, err)
			continue
		}
		if got := re.MatchString(x.text); got != x.want {
			t.Errorf("%q regex %q: %v", x.text, x.pattern, got)
		}
	}
}

// TestRecordedRegexes: what RE2 said about random patterns.
func TestRecordedRegexes(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/regexes.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Texts    []string
		Patterns [][3]string // a pattern, for each text whether it fits, or the error
	}
	if err := json.Unmarshal(b, &recorded); err != nil {
		t.Fatal(err)
	}
	for _, p := range recorded.Patterns {
		re, _, err := compileRegex(p[0])
		switch {
		case p[2] != "":
			if err == nil || err.Error() != "invalid regex pattern: "+p[2] {
				t.Errorf("%q: %v, want %s", p[0], err, p[2])
			}
		case err != nil:
			t.Errorf("%q: %v", p[0], err)
		default:
			for i, text := range recorded.Texts {
				if re.MatchString(text) != (p[1][i] == '1') {
					t.Errorf("%q regex %q: %v", text, p[0], p[1][i] != '1')
				}
			}
		}
	}
	if len(recorded.Patterns) != 800 {
		t.Errorf("%d patterns", len(recorded.Patterns))
	}
}
