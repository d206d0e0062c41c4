package syslog_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/syslog"
)

// recorded returns the datagrams that a server sent to the local socket.
func recorded(tb testing.TB) [][]byte {
	tb.Helper()
	file, err := os.ReadFile("testdata/openbao-syslog-datagrams.jsonl")
	if err != nil {
		tb.Fatal(err)
	}
	var datagrams [][]byte
	for line := range bytes.Lines(file) {
		var r struct{ Datagram string }
		if err := json.Unmarshal(line, &r); err != nil {
			tb.Fatal(err)
		}
		datagrams = append(datagrams, []byte(r.Datagram))
	}
	if len(datagrams) != 5 {
		tb.Fatalf("%d datagrams", len(datagrams))
	}
	return datagrams
}

// entry returns what a recorded datagram carries, found without the package.
func entry(datagram []byte) []byte {
	return bytes.TrimSuffix(datagram[bytes.IndexByte(datagram, '{'):], []byte("\n"))
}

func TestRecordedBodies(t *testing.T) {
	raw, err := os.ReadFile("testdata/openbao-syslog-first3.raw")
	if err != nil {
		t.Fatal(err)
	}
	datagrams := recorded(t)
	for line := range bytes.Lines(raw) {
		datagrams = append(datagrams, line)
	}
	for i, d := range datagrams {
		if got, want := syslog.Body(d), entry(d); !bytes.Equal(got, want) {
			t.Errorf("datagram %d\ngot  %q\nwant %q", i, got, want)
		}
	}
}

var headers = []struct{ name, header string }{
	{"none", ""},
	{"local", "<38>Nov 21 01:49:29 openbao[29483]: "},
	{"local, day with one digit", "<38>Nov  1 01:49:29 vault[1]: "},
	{"day with a zero", "<38>Nov 01 01:49:29 vault[1]: "},
	{"relayed", "<38>Nov 21 01:49:29 vault-0.example.org vault[7]: "},
	{"relayed, IPv4", "<38>Nov 21 01:49:29 10.0.0.7 vault[7]: "},
	{"without process id", "<38>Nov 21 01:49:29 host vault: "},
	{"odd tag", "<38>Nov 21 01:49:29 host vault-server/audit.log_1[7]: "},
	{"RFC 3339 time, as rsyslog forwards", "<38>2026-11-21T01:49:29.123456+00:00 host vault[7]: "},
	{"RFC 3339 time in UTC", "<38>2026-11-21T01:49:29Z host vault[7]: "},
	{"fractions", "<38>Nov 21 01:49:29.123 host vault[7]: "},
	{"more spaces", "<38>Nov 21 01:49:29 host vault[7]:    "},
	{"cookie", "<38>Nov 21 01:49:29 vault[7]: @cee: "},
	{"cookie without space", "<38>Nov 21 01:49:29 host vault[7]: @cee:"},
	{"cookie alone", "@cee: "},
	{"byte order mark", "<38>Nov 21 01:49:29 host vault[7]: \xef\xbb\xbf"},
	{"5424", "<38>1 2026-11-21T01:49:29.123456Z host vault 7 - - "},
	{"5424, offset", "<38>1 2026-11-21T01:49:29+01:00 host vault 7 ID47 - "},
	{"5424, nothing known", "<38>1 - - - - - - "},
	{"5424, byte order mark", "<38>1 2026-11-21T01:49:29Z host vault 7 - - \xef\xbb\xbf"},
	{"5424, cookie", "<38>1 2026-11-21T01:49:29Z host vault 7 - - @cee: "},
	{"5424, structured data", `<38>1 2026-11-21T01:49:29Z host vault 7 - [timeQuality tzKnown="1"][meta@1 sequenceId="1"] `},
	{"5424, braces and escapes in structured data", `<38>1 2026-11-21T01:49:29Z host vault 7 - [x@1 a="{\"b\":{" b="\]{"] `},
	{"5424, long structured data", `<38>1 2026-11-21T01:49:29Z host vault 7 - [x@1 a="` + strings.Repeat("a{", 16) + strings.Repeat("a", 4<<10) + `"] `},
}

// bodies are bytes that must come out as they went in.
var bodies = []struct{ name, body string }{
	{"entry", `{"time":"2026-11-21T01:49:29.7Z","type":"request","request":{"path":"sys/audit/test"}}`},
	{"spaces at the end", "{\"a\":1}  \t "},
	{"not UTF-8", "{\"a\":\"\xff\xfe\x80\"}"},
	{"text like a header", `{"a":"<38>Nov 21 01:49:29 vault[1]: {}","b":"@cee: {}"}`},
	{"control bytes", "{\"a\":\"\x01\x00\x7f\"}"},
	{"line ends inside", "{\"a\":\r\n1}"},
	{"cut", `{"time":"2026-11-21T01:49:29.7Z","type":"requ`},
	{"one byte", `{`},
}

func TestBody(t *testing.T) {
	for _, h := range headers {
		for _, b := range bodies {
			for _, end := range []string{"", "\n", "\r\n", "\x00", "\n\x00"} {
				message := h.header + b.body + end
				for range 2 { // the second time, the header is known
					if got := string(syslog.Body([]byte(message))); got != b.body {
						t.Errorf("%s, %s, end %q:\ngot  %q\nwant %q", h.name, b.name, end, got, b.body)
					}
				}
			}
		}
	}
}

// What is in no known format is still read: package auditlog finds the entry behind it.
func TestUnknownHeaders(t *testing.T) {
	const want = `{"type":"request","request":{"path":"a"}}`
	for _, message := range []string{
		"<38>" + want,
		"<38> " + want,
		"<38>openbao[29483]: " + want,
		"<999>Nov 21 01:49:29 vault[1]: " + want,
		"<38>Feb 31 01:49:29 vault[1]: " + want,
		"<38>Nov 21 01:49:29 fe80::1 vault[1]: " + want,
		"<38>Nov 21 01:49:29 host two words[1]: " + want,
		"<38>Nov 21 01:49:29 host " + strings.Repeat("long", 20) + "[1]: " + want,
		"<38>Nov 21 01:49:29 2026 host vault[1]: " + want,
		"Nov 21 01:49:29 host vault[1]: " + want,
		"2026-11-21T01:49:29Z host vault[1]: " + want,
		"<38>Nov 21 01:49:29 host vault[1] " + want,
		"<38>1 yesterday host vault 7 - - " + want,
		"<38>1 2026-11-21T01:49:29Z host vault 7 - [x@1 a=\"b\"]" + want,
		"<>" + want,
		"<38" + want,
	} {
		var p auditlog.Parser
		e, err := p.Parse(syslog.Body([]byte(message)))
		if err != nil || string(e.Line()) != want {
			t.Errorf("%q: %v", message, err)
		}
	}
}

func TestNoEntry(t *testing.T) {
	for message, want := range map[string]string{
		"":                                 "",
		"\n":                               "",
		"<38>":                             "",
		"<38>Nov 21 01:49:29 vault[1]: \n": "",
		"<38>Nov 21 01:49:29 host vault[1]: core":                                "core",
		"<38>Nov 21 01:49:29 vault: <json:object name=\"auth\">\n":               "<json:object name=\"auth\">",
		"<38>Nov 21 01:49:29 vault: " + strings.Repeat("x", 2<<10):               strings.Repeat("x", 2<<10),
		"<38>Nov 21 01:49:29 vault: " + strings.Repeat("x", 2<<10) + " {\"a\":1": strings.Repeat("x", 2<<10) + " {\"a\":1",
	} {
		if got := string(syslog.Body([]byte(message))); got != want && !(want == "" && strings.HasPrefix(got, "Nov 21")) {
			t.Errorf("%q: got %q, want %q", message, got, want)
		}
	}
}

// An entry that a relay has cut short is recognised as such, wherever it is cut
// behind its first byte.
func TestCutEntries(t *testing.T) {
	var p auditlog.Parser
	for _, d := range recorded(t) {
		whole := bytes.TrimSuffix(d, []byte("\n"))
		start := bytes.IndexByte(whole, '{')
		for n := start + 1; n < len(whole); n++ {
			_, err := p.Parse(syslog.Body(whole[:n]))
			syntax, ok := err.(*auditlog.SyntaxError)
			if !ok || syntax.Reason != auditlog.ReasonTruncated {
				t.Fatalf("cut after %d of %d bytes: %v", n, len(whole), err)
			}
		}
	}
}

// What is given out must not change when the message that a header was remembered
// from is written over.
func TestRememberedHeaderIsACopy(t *testing.T) {
	var p syslog.Parser
	d := []byte("<38>Nov 21 01:49:29 vault[1]: {}")
	p.Body(d)
	copy(d, "<38>1 - - - - - x      ")
	if got := string(p.Body([]byte("<38>Nov 21 01:49:29 vault[1]: {}"))); got != "{}" {
		t.Errorf("got %q", got)
	}
}

func TestBodyAllocates(t *testing.T) {
	var p syslog.Parser
	known := []byte("<38>Nov 21 01:49:29 openbao[29483]: {}")
	p.Body(known)
	if n := testing.AllocsPerRun(100, func() { p.Body(known) }); n != 0 {
		t.Errorf("%v allocations for a header that is known", n)
	}
	others := [2][]byte{[]byte("<38>Nov 21 01:49:29 openbao[29483]: {}"), []byte("<38>1 2026-11-21T01:49:29Z host vault 7 - - {}")}
	i := 0
	if n := testing.AllocsPerRun(100, func() { p.Body(others[i%2]); i++ }); n > 12 {
		t.Errorf("%v allocations for a header that is not known", n)
	}
}

func BenchmarkBody(b *testing.B) {
	d := recorded(b)[1]
	var p syslog.Parser
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.Body(d)
		}
	})
	for _, h := range headers[1:] {
		b.Run(strings.ReplaceAll(h.name, " ", "-"), func(b *testing.B) {
			messages := [2][]byte{[]byte(h.header + "{}"), []byte(strings.Replace(h.header, "<38>", "<39>", 1) + "{}")}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.Body(messages[i%2])
			}
		})
	}
}

func FuzzBody(f *testing.F) {
	for _, d := range recorded(f) {
		f.Add(d)
	}
	for _, h := range headers {
		f.Add([]byte(h.header + bodies[0].body + "\n"))
	}
	f.Add([]byte("<38>Nov 21 01:49:29 vault: <json:object"))
	var warm syslog.Parser
	f.Fuzz(func(t *testing.T, message []byte) {
		kept := bytes.Clone(message)
		var cold syslog.Parser
		body := cold.Body(message)
		if !bytes.Equal(message, kept) {
			t.Fatal("the message was written to")
		}
		if !bytes.HasSuffix(bytes.TrimRight(message, "\r\n\x00"), body) {
			t.Fatalf("%q is not the end of %q", body, message)
		}
		if again := warm.Body(message); !bytes.Equal(again, body) {
			t.Fatalf("%q after other messages, %q as the first", again, body)
		}
		if again := cold.Body(message); !bytes.Equal(again, body) {
			t.Fatalf("%q the second time, %q the first", again, body)
		}
		// No entry is lost: what package auditlog reads without us, it reads the same.
		var p auditlog.Parser
		if e, err := p.Parse(message); err == nil {
			line := bytes.Clone(e.Line())
			if e, err := p.Parse(body); err != nil || !bytes.Equal(e.Line(), line) {
				t.Fatalf("the entry %q is lost: %v", line, err)
			}
		}
	})
}
