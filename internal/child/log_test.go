package child

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// logged returns what becomes of an output.
func logged(output string, secrets ...string) (lines []string, tail string) {
	var out bytes.Buffer
	l := newLineLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})), slog.LevelDebug, false, secrets)
	_, _ = l.Write([]byte(output))
	l.flush()
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n"), l.tail()
}

// What the plugin knows as a secret is in no line, and not in the tail.
func TestLogSecrets(t *testing.T) {
	lines, tail := logged("the token is s3cr3t-token, s3cr3t-token\n"+`{"@level":"info","@message":"with s3cr3t-token","token":"s3cr3t-token"}`+"\n", "s3cr3t-token", "")
	all := strings.Join(append(lines, tail), "\n")
	if strings.Contains(all, "s3cr3t") || strings.Count(all, "<secret>") < 6 || len(lines) != 2 {
		t.Error(all)
	}
}

func TestLogLines(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{"@level":"info","@message":"m","@module":"kv","@timestamp":"2026-01-01T00:00:00.000000Z","n":123456789012345678,"a":"b c"}`, `level=INFO msg=m module=kv a="b c" n=123456789012345678`},
		{`{"@level":"TRACE","@message":"m"}`, `level=DEBUG msg=m`},
		{`{"@level":"warn","@message":"a\nb\u001b[0m"}`, "level=WARN msg=\"a b\uFFFD[0m\""},
		{`{"@level":"error","@message":"m","o":{"x":[1,null]}}`, `level=ERROR msg=m o="map[x:[1 <nil>]]"`},
		{`{"@level":5,"@message":"m"}`, `level=DEBUG msg="{\"@level\":5,\"@message\":\"m\"}"`},
		{`{"@level":"info","@message":"m"} trailing`, `level=DEBUG msg="{\"@level\":\"info\",\"@message\":\"m\"} trailing"`},
		{`{"a":1}`, `level=DEBUG msg="{\"a\":1}"`},
		{"{", `level=DEBUG msg={`},
		{"[WARN] careful\r", `level=WARN msg="[WARN] careful"`},
		{"plain \xff text", "level=DEBUG msg=\"plain \uFFFD text\""},
		{"panic: oh", `level=ERROR msg="panic: oh"`},
	} {
		if lines, _ := logged(tt.in); len(lines) != 1 || lines[0] != tt.want {
			t.Errorf("%s\ngot  %s\nwant %s", tt.in, strings.Join(lines, "\n     "), tt.want)
		}
	}
}

func TestLogTail(t *testing.T) {
	for in, want := range map[string]string{
		"":             "",
		"\n\n":         "",
		"a\nb\nc\nd\n": "b; c; d",
		"a\npanic: x\n\ngoroutine 1\nmain.go:1\n":    "panic: x",
		"a\nSIGSEGV: x\ngoroutine 1\n":               "SIGSEGV: x",
		"z\na\nb\nno memory\nSIGABRT: abort\nPC=0\n": "a; b; no memory; SIGABRT: abort",
		`{"@level":"error","@message":"m"}`:          "m",
		strings.Repeat("x", 400):                     strings.Repeat("x", 300) + "...",
	} {
		if _, got := logged(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// Of a crash the stack of the goroutine that did it is an error, and those of all others are for
// who debugs.
func TestLogOfCrash(t *testing.T) {
	lines, _ := logged("before\npanic: x\n\ngoroutine 5 [running]:\nmain.f()\n\tmain.go:1\n\ngoroutine 1 [select]:\nmain.main()\nrax 0x0\n")
	var got []string
	for _, line := range lines {
		got = append(got, strings.TrimPrefix(strings.Fields(line)[0], "level="))
	}
	if want := "DEBUG ERROR ERROR ERROR ERROR DEBUG DEBUG DEBUG"; strings.Join(got, " ") != want {
		t.Errorf("%s\n%s", strings.Join(got, " "), strings.Join(lines, "\n"))
	}
}

func TestLogIsBounded(t *testing.T) {
	lines, _ := logged(strings.Repeat("x", 10*maxLogLine))
	if len(lines) != 1 || len(lines[0]) > maxLogLine+100 || !strings.HasSuffix(lines[0], `... (cut)"`) {
		t.Errorf("got %d lines", len(lines))
	}
	var many strings.Builder
	for i := range maxLogAttrs + 5 {
		fmt.Fprintf(&many, `,"k%02d":1`, i)
	}
	lines, _ = logged(`{"@level":"info","@message":"m"` + many.String() + "}")
	if !strings.HasSuffix(lines[0], "k31=1 more=5") {
		t.Errorf("got %s", lines[0])
	}
}

func TestLogRate(t *testing.T) {
	b := bucket{level: logBurst}
	now := time.Unix(0, 0)
	take := func(n int) (passed, dropped int) {
		for range n {
			if d, ok := b.take(now); ok {
				passed++
				dropped += d
			}
		}
		return passed, dropped
	}
	if passed, _ := take(2 * logBurst); passed != logBurst {
		t.Errorf("%d of a burst passed", passed)
	}
	now = now.Add(time.Second)
	if passed, dropped := take(2 * logBurst); passed != logRate || dropped != logBurst {
		t.Errorf("%d passed in a second, %d were told as dropped", passed, dropped)
	}
	now = now.Add(time.Hour)
	if passed, _ := take(2 * logBurst); passed != logBurst {
		t.Errorf("%d passed after a rest", passed)
	}
}

func FuzzLog(f *testing.F) {
	for _, s := range []string{"", "plain\n", `{"@level":"info","@message":"m","a":[1,{}]}` + "\n", "{\n}\n", "panic: x\n\ngoroutine 1 [running]:\n", "\x00\xff\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		begin := time.Now()
		lines, tail := logged(string(b))
		// With each that there is room for later comes how many were dropped.
		if later := int(time.Since(begin).Seconds()*logRate) + 1; len(lines) > logBurst+2*later {
			t.Errorf("%d lines", len(lines))
		}
		for _, s := range append(lines, tail) {
			if !utf8.ValidString(s) || strings.IndexFunc(s, unicode.IsControl) >= 0 {
				t.Errorf("%q is not printable", s)
			}
		}
	})
}
