package pluginhost

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSpecialPaths(t *testing.T) {
	b := newBench(t)
	b.config.Plugins = []Plugin{b.fake()}
	b.config.Mounts = []MountConfig{secretMount("a")}
	b.start()
	m, _ := b.host.Find("", "a/x")
	for path, want := range map[string]Access{
		"x": {}, "admin/x": {Sudo: true}, "admin": {}, "admin/": {Sudo: true}, "login": {Open: true}, "login/x": {}, "open/a/b": {Open: true}, "opened": {},
		"role/r/login": {Open: true}, "role//login": {}, "role/r/x/login": {}, "role/r/login/x": {},
	} {
		got, err := m.Access(t.Context(), path)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	b.stop()
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"*", "anything/at/all", true}, {"a*", "ab/c", true}, {"a/*", "a", false}, {"+/login", "x/login", true}, {"+", "a/b", false}, {"+/*", "a/b/c", true}, {"a/+/c*", "a/b/cd/e", true},
		{"", "", true}, {"", "a", false}, {"a/+", "a/", false},
	} {
		if got := matchPattern(tt.pattern, tt.path); got != tt.want {
			t.Errorf("%q matches %q: %v", tt.pattern, tt.path, got)
		}
	}
}

// slowMatch says the same as matchPattern, by a regular expression.
func slowMatch(pattern, path string) bool {
	pattern, prefix := strings.CutSuffix(pattern, "*")
	elements := strings.Split(pattern, "/")
	for i, e := range elements {
		if elements[i] = regexp.QuoteMeta(e); e == "+" {
			elements[i] = "[^/]+"
		}
	}
	end := "$"
	if prefix {
		end = ""
	}
	return regexp.MustCompile("(?s)^" + strings.Join(elements, "/") + end).MatchString(path)
}

func FuzzMatchPattern(f *testing.F) {
	for _, seed := range [][2]string{{"login/*", "login/a"}, {"+/login", "a/login"}, {"a/+/b*", "a/x/bc"}, {"", ""}, {"*", "x"}, {"+*", "a/b"}, {"/", "/"}, {"a/+", "a/"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(path) {
			return
		}
		if got := matchPattern(pattern, path); got != slowMatch(pattern, path) {
			t.Errorf("%q matches %q: %v", pattern, path, got)
		}
	})
}
