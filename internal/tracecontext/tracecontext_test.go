package tracecontext

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

func TestParseTraceparent(t *testing.T) {
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for _, c := range []struct {
		field string
		ok    bool
		flags Flags
	}{
		{"00-" + trace + "-" + parent + "-01", true, Sampled},
		{"00-" + trace + "-" + parent + "-00", true, 0},
		{"00-" + trace + "-" + parent + "-03", true, Sampled | Random},
		{"00-" + trace + "-" + parent + "-ff", true, Sampled | Random}, // unknown flags are not passed on
		{"cc-" + trace + "-" + parent + "-01", true, Sampled},
		{"cc-" + trace + "-" + parent + "-01-what-the-future-brings", true, Sampled},
		{"cc-" + trace + "-" + parent + "-01.", false, 0},
		{"cc-" + trace + "-" + parent + "-01-" + strings.Repeat("x", 600), false, 0},
		{"00-" + trace + "-" + parent + "-01-more", false, 0},
		{"00-" + trace + "-" + parent + "-01-", false, 0},
		{"ff-" + trace + "-" + parent + "-01", false, 0},
		{"00-" + strings.ToUpper(trace) + "-" + parent + "-01", false, 0},
		{"00-" + strings.Repeat("0", 32) + "-" + parent + "-01", false, 0},
		{"00-" + trace + "-" + strings.Repeat("0", 16) + "-01", false, 0},
		{"00-" + trace + "-" + parent + "-0", false, 0},
		{"00-" + trace + "-" + parent + "-0g", false, 0},
		{"00_" + trace + "-" + parent + "-01", false, 0},
		{" 00-" + trace + "-" + parent + "-01", false, 0},
		{"hmac-sha256:a1a11d8fcc7ea86937a93ad677d6207c27ea49c4d9ecab9b1c5c30c050641f08", false, 0},
		{"", false, 0},
	} {
		p, ok := ParseTraceparent(c.field)
		if ok != c.ok || p.Flags != c.flags || ok && (p.TraceID.String() != trace || p.Parent.String() != parent) || !ok && p != (Traceparent{}) {
			t.Errorf("%q: %+v, %t", c.field, p, ok)
		}
	}
}

func TestParseTracestate(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("k%d=v,", 33), ",")
	for i := range 33 {
		many = strings.Replace(many, "%d", fmt.Sprint(i), 1)
	}
	for _, c := range []struct {
		fields []string
		want   string
		ok     bool
	}{
		{nil, "", true},
		{[]string{"rojo=00f067aa0ba902b7"}, "rojo=00f067aa0ba902b7", true},
		{[]string{"a=1", "b=2"}, "a=1,b=2", true},
		{[]string{" a=1 ,\t, b=2 x,"}, "a=1,b=2 x", true},
		{[]string{"t1@sys=x,0abc@z=y,a/b-c_d*e=~"}, "t1@sys=x,0abc@z=y,a/b-c_d*e=~", true},
		{[]string{"a=1,a=2"}, "", false},
		{[]string{"a"}, "", false},
		{[]string{"A=1"}, "", false},
		{[]string{"a="}, "", false},
		{[]string{"a=b=c"}, "", false},
		{[]string{"a=\x01"}, "", false},
		{[]string{"a@1b=x"}, "", false},
		{[]string{"a=é"}, "", false},
		{[]string{many}, "", false},
		{[]string{strings.TrimSuffix(many, ",k32=v")}, strings.TrimSuffix(many, ",k32=v"), true},
		{[]string{"a=" + strings.Repeat("x", 257)}, "", false},
		{[]string{"a=" + strings.Repeat("x", 256) + ",b=" + strings.Repeat("x", 256)}, "", false},
	} {
		if got, ok := ParseTracestate(c.fields...); got != c.want || ok != c.ok {
			t.Errorf("%q: %q, %t", c.fields, got, ok)
		}
	}
}

func parse(t testing.TB, line string) *auditlog.Entry {
	t.Helper()
	var p auditlog.Parser
	e, err := p.Parse([]byte(line))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return e
}

func entry(kind, at, id, headers string) string {
	return fmt.Sprintf(`{"time":%q,"type":%q,"request":{"id":%q,"operation":"read","path":"kv/a","headers":%s}}`, at, kind, id, headers)
}

func TestFromEntryIDs(t *testing.T) {
	const id, at, later = "520854b6-9454-49f7-3334-8aba186064a1", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"
	from := func(source, kind, at, id string) Context {
		return FromEntry(source, parse(t, entry(kind, at, id, "null")))
	}
	response := from("vault://a", "response", at, id)
	if got := response.TraceID.String(); got != strings.ReplaceAll(id, "-", "") {
		t.Errorf("trace id %s of request %s", got, id)
	}
	if response.Joined() || response.Flags != Sampled|Random || response.SpanID.IsZero() {
		t.Errorf("%+v", response)
	}
	// Written down, because events that were sent long ago have them.
	if got := response.Traceparent(); got != "00-520854b6945449f733348aba186064a1-e0ab1b56b03f461d-03" {
		t.Errorf("the ids are no longer what they were: %s", got)
	}
	same := from("vault://a", "response", later, id)
	if same != response {
		t.Error("the time of an entry with a UUID matters")
	}
	for name, other := range map[string]Context{
		"the request entry": from("vault://a", "request", at, id),
		"another source":    from("vault://b", "response", at, id),
	} {
		if other.SpanID == response.SpanID || other.TraceID != response.TraceID {
			t.Errorf("%s: %+v", name, other)
		}
	}
	root, rootLater := from("vault://a", "response", at, "dev-gen-root"), from("vault://a", "response", later, "dev-gen-root")
	if root.TraceID != rootLater.TraceID || root.TraceID.IsZero() || root.SpanID == rootLater.SpanID {
		t.Errorf("an id that is not unique: %+v %+v", root, rootLater)
	}
	none, noneLater := from("vault://a", "response", at, ""), from("vault://a", "response", later, "")
	if none.TraceID == noneLater.TraceID || none.TraceID.IsZero() || none.SpanID == noneLater.SpanID {
		t.Errorf("no id: %+v %+v", none, noneLater)
	}
	if zero := from("vault://a", "response", at, "00000000-0000-0000-0000-000000000000"); zero.TraceID.IsZero() {
		t.Error("a trace id of zeros is not valid")
	}
	long := from("vault://a", "response", at, strings.Repeat("x", 5000))
	if longer := from("vault://a", "response", at, strings.Repeat("x", 5001)); long.TraceID == longer.TraceID || long.TraceID.IsZero() {
		t.Error("long ids are not told apart")
	}
}

func TestFromEntryJoins(t *testing.T) {
	const field = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	const own = "520854b6945449f733348aba186064a1"
	for _, c := range []struct {
		name, headers string
		joined        bool
		state         string
	}{
		{"as usual", `{"traceparent":["` + field + `"],"tracestate":["a=1","b=2"]}`, true, "a=1,b=2"},
		{"no state", `{"traceparent":["` + field + `"]}`, true, ""},
		{"bad state", `{"traceparent":["` + field + `"],"tracestate":["A"]}`, true, ""},
		{"hashed state", `{"traceparent":["` + field + `"],"tracestate":["hmac-sha256:a1a11d8fcc7ea86937a93ad677d6207c27ea49c4d9ecab9b1c5c30c050641f08"]}`, true, ""},
		{"two values", `{"traceparent":["` + field + `","` + field + `"]}`, false, ""},
		{"twice", `{"traceparent":["` + field + `"],"traceparent":["` + field + `"]}`, false, ""},
		{"hashed", `{"traceparent":["hmac-sha256:a1a11d8fcc7ea86937a93ad677d6207c27ea49c4d9ecab9b1c5c30c050641f08"]}`, false, ""},
		{"no list", `{"traceparent":"` + field + `"}`, false, ""},
		{"no text", `{"traceparent":[1]}`, false, ""},
		{"empty", `{"traceparent":[]}`, false, ""},
		{"state alone", `{"tracestate":["a=1"]}`, false, ""},
		{"headers are no object", `["traceparent"]`, false, ""},
	} {
		got := FromEntry("vault://a", parse(t, entry("response", "2026-01-01T00:00:00Z", "520854b6-9454-49f7-3334-8aba186064a1", c.headers)))
		want := own
		if c.joined {
			want = "4bf92f3577b34da6a3ce929d0e0e4736"
		}
		if got.Joined() != c.joined || got.TraceID.String() != want || got.State != c.state || c.joined && (got.Flags != 0 || got.Parent.String() != "00f067aa0ba902b7") {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestRecordedTraceparent: request 169 of the recording was sent with a traceparent.
func TestRecordedTraceparent(t *testing.T) {
	b, err := os.ReadFile("../auditlog/testdata/openbao-audit-small.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(b) {
		c := FromEntry("vault://a", parse(t, string(line)))
		if !c.Joined() {
			continue
		}
		n++
		if !bytes.Contains(line, []byte(`"x-op-seq":["169"]`)) || c.TraceID.String() != "4bf92f3577b34da6a3ce929d0e0e4736" ||
			c.Parent.String() != "00f067aa0ba902b7" || c.Flags != Sampled || c.SpanID == c.Parent {
			t.Errorf("%+v", c)
		}
	}
	if n != 2 {
		t.Errorf("%d entries have joined a trace, want the two of one request", n)
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x")
	f.Add("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
	f.Fuzz(func(t *testing.T, s string) {
		if p, ok := ParseTraceparent(s); ok {
			again := string(AppendTraceparent(nil, p.TraceID, p.Parent, p.Flags))
			if q, ok := ParseTraceparent(again); !ok || q != p {
				t.Errorf("%q became %q", s, again)
			}
			if s[:2] == "00" && s[:53] != again[:53] {
				t.Errorf("%q became %q", s, again)
			}
		}
		if state, ok := ParseTracestate(s); ok {
			if again, ok := ParseTracestate(state); !ok || again != state || len(state) > maxStateBytes {
				t.Errorf("%q became %q, then %q", s, state, again)
			}
		} else if state != "" {
			t.Errorf("%q is not valid and gave %q", s, state)
		}
	})
}
