package trail

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// show returns an event as lines of text.
func show(e *event.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %q %q\n", e.Type, e.Source, e.Namespace, e.Path)
	for f := range e.Metadata.All() {
		fmt.Fprintf(&b, "%s=%s\n", f.Key, f.Value)
	}
	return b.String()
}

func TestEvent(t *testing.T) {
	m := newMaker("hub 1/a", event.DefaultLimits)
	who := Who{
		DisplayName: "token-ci", Accessor: "acc", EntityID: "e-1", Policies: []string{"default", `we"ird`},
		Provider: "token", Remote: "192.0.2.1",
	}
	for _, tt := range []struct {
		name   string
		record Record
		want   string
	}{
		{
			"done", Record{
				What: "policy-write", Namespace: "/ns1", Path: "sys/policies/acl/team", Operation: "update", Modified: true, Who: who,
				Fields: event.Fields{{Key: "name", Value: "team"}, {Key: "uses", Value: "3", JSON: true}},
			},
			`tocsin/policy-write tocsin://hub%201%2Fa "ns1/" "sys/policies/acl/team"
accessor=acc
display_name=token-ci
entity_id=e-1
modified=true
name=team
operation=update
outcome=done
path=sys/policies/acl/team
policies=["default","we\"ird"]
provider=token
remote_address=192.0.2.1
uses=3
`,
		},
		{
			"refused, nobody known", Record{
				What: "login-denied", Path: "auth/jwt/login", Operation: "update", Who: Who{Remote: "::1"}, Error: "permission denied",
			},
			`tocsin/login-denied tocsin://hub%201%2Fa "" "auth/jwt/login"
error=permission denied
modified=false
operation=update
outcome=refused
path=auth/jwt/login
remote_address=::1
`,
		},
		{
			"fields cannot replace what is known", Record{
				What: "x", Path: "a", Operation: "read", Who: Who{Accessor: "acc"},
				Fields: event.Fields{{Key: "path", Value: "b"}, {Key: "accessor", Value: "b"}, {Key: "outcome", Value: "b"}, {Key: "error", Value: "b"}, {Key: "", Value: "b"}, {Key: "empty"}},
			},
			`tocsin/x tocsin://hub%201%2Fa "" "a"
accessor=acc
modified=false
operation=read
outcome=done
path=a
`,
		},
		{
			"a path that is not UTF-8 is for root", Record{What: "x", Namespace: "ns1", Path: "secret/\xff", Operation: "read", Fields: event.Fields{{Key: "path", Value: "b"}}},
			`tocsin/x tocsin://hub%201%2Fa "" ""
modified=false
operation=read
outcome=done
shown_namespace=ns1/
shown_path=secret/` + "\uFFFD\n",
		},
		{
			"a namespace with a line break is for root", Record{What: "x", Namespace: "ns\n1", Path: "secret/a", Operation: "read"},
			`tocsin/x tocsin://hub%201%2Fa "" ""
modified=false
operation=read
outcome=done
shown_namespace=ns
1/
shown_path=secret/a
`,
		},
		{
			"a type from outside", Record{What: "a *\x00\u00e4" + strings.Repeat("b", 100)},
			`tocsin/a----` + strings.Repeat("b", maxWhat-9) + `... tocsin://hub%201%2Fa "" ""` + "\nmodified=false\noperation=\noutcome=done\npath=\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := m.event(tt.record, noon)
			if err != nil {
				t.Fatal(err)
			}
			if got := show(e); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if e.ID == "" || !e.Time.Equal(noon) {
				t.Errorf("id %q, time %v", e.ID, e.Time)
			}
		})
	}
}

func TestLongTexts(t *testing.T) {
	m := newMaker(strings.Repeat("n", 1000), event.DefaultLimits)
	long := strings.Repeat("\u00e4", 100_000)
	policies := make([]string, 10_000)
	for i := range policies {
		policies[i] = fmt.Sprintf("policy-%d", i)
	}
	e, err := m.event(Record{
		What: "x", Path: long, Error: long, Who: Who{DisplayName: long, Policies: policies},
		Fields: event.Fields{{Key: long, Value: long}},
	}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if size := e.Size(); size > 16<<10 {
		t.Errorf("the event has %d bytes", size)
	}
	if e.Path != "" {
		t.Error("a path that was cut selects who may see the event")
	}
	for _, key := range []string{"error", "display_name", "shown_path"} {
		if text, _ := e.Metadata.Text(key); len(text) > maxText || len(text) < maxText-8 || !strings.HasSuffix(text, "\u00e4...") {
			t.Errorf("%s has %d bytes and ends in %q", key, len(text), text[max(0, len(text)-8):])
		}
	}
	text, _ := e.Metadata.Text("policies")
	var names []string
	if err := json.Unmarshal([]byte(text), &names); err != nil {
		t.Fatal(err)
	}
	n := len(names) - 1
	if want := fmt.Sprintf("... and %d more", len(policies)-n); n < 100 || !slices.Equal(names[:n], policies[:n]) || names[n] != want {
		t.Errorf("%d names, the last %q, want %q", n, names[n], want)
	}
}

// hostile are texts of which records are made in the property test.
var hostile = []string{
	"", "a", "/", "//", "root", "/root/", "ns1/", "a//b/", "\x00", "\xff\xfe", "\u2028", "\u0085", "*", " ", "a\nb", "\uFFFD", `"`, `\`, "\u00e4",
	strings.Repeat("\xff", 700), strings.Repeat("a", 511), strings.Repeat("b", 5000), strings.Repeat("\u00e4", 4000), strings.Repeat("\x01", 3000),
	"path", "policies", "modified",
}

// Whatever a record holds, the event satisfies the limits, down to the smallest that
// can be configured.
func TestEveryRecordFits(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	text := func() string {
		s := hostile[random.IntN(len(hostile))]
		if random.IntN(3) == 0 {
			s += hostile[random.IntN(len(hostile))]
		}
		return s
	}
	for i := range 20_000 {
		limits := event.DefaultLimits
		if i%2 == 0 {
			limits = event.Limits{MaxTypeBytes: 16 + random.IntN(64), MaxMetadataKeys: 8 + random.IntN(10), MaxMetadataBytes: 1<<10 + random.IntN(8<<10), MaxEventBytes: 1<<10 + random.IntN(8<<10)}
		}
		r := Record{
			What: text(), Namespace: text(), Path: text(), Operation: text(), Modified: i%3 == 0, Error: text(),
			Who: Who{DisplayName: text(), Accessor: text(), EntityID: text(), Provider: text(), Remote: text()},
		}
		for range random.IntN(4) {
			r.Who.Policies = append(r.Who.Policies, text())
			r.Fields = append(r.Fields, event.Field{Key: text(), Value: text(), JSON: random.IntN(2) == 0})
		}
		m := newMaker(text(), limits)
		e, err := m.event(r, noon)
		if err != nil {
			t.Fatalf("seed %d: %v for %+v with %+v", seed, err, r, limits)
		}
		checkEvent(t, r, e)
		if _, err := m.lost(loss{1 << 60, noon}, noon); err != nil {
			t.Fatalf("seed %d: loss: %v with %+v", seed, err, limits)
		}
	}
}

func checkEvent(t *testing.T, r Record, e *event.Event) {
	t.Helper()
	if e.Path != "" && (e.Path != r.Path || e.Namespace != event.CanonicalNamespace(r.Namespace)) {
		t.Fatalf("%q in %q became %q in %q, which other policies judge", r.Path, r.Namespace, e.Path, e.Namespace)
	}
	if policies, ok := e.Metadata.Text("policies"); ok {
		var names []string
		if err := json.Unmarshal([]byte(policies), &names); err != nil {
			t.Fatalf("policies %q: %v", policies, err)
		}
	}
	for _, key := range []string{"operation", "modified", "outcome"} {
		if _, ok := e.Metadata.Text(key); !ok {
			t.Fatalf("no %s in %s for %+v", key, show(e), r)
		}
	}
}

func FuzzEvent(f *testing.F) {
	for _, s := range hostile {
		f.Add(s, s, s, s, uint16(0))
		f.Add("token-create", s, "auth/token/create", "x", uint16(1000))
	}
	f.Fuzz(func(t *testing.T, what, namespace, path, other string, size uint16) {
		m := newMaker(other, event.Limits{MaxTypeBytes: 16, MaxMetadataKeys: 9, MaxMetadataBytes: 1 << 10, MaxEventBytes: 1<<10 + int(size)})
		r := Record{
			What: what, Namespace: namespace, Path: path, Operation: other, Error: path,
			Who: Who{DisplayName: other, Policies: []string{other, path, what}}, Fields: event.Fields{{Key: other, Value: namespace}},
		}
		e, err := m.event(r, noon)
		if err != nil {
			t.Fatal(err)
		}
		checkEvent(t, r, e)
	})
}

func TestClean(t *testing.T) {
	for _, tt := range []struct {
		in   string
		most int
		want string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "..."},
		{"abcde", 4, "a..."},
		{"abcde", 2, ""},
		{"abcde", -1, ""},
		{"\xffa", 10, "\uFFFDa"},
		{"a\xff\xffb", 6, "a\uFFFDb"},
		{"a\xffb\xff", 6, "a..."},
		{"a\u00e4\u00e4\u00e4", 6, "a\u00e4..."},
	} {
		got := clean(tt.in, tt.most)
		if got != tt.want || !utf8.ValidString(got) {
			t.Errorf("clean(%q, %d) = %q, want %q", tt.in, tt.most, got, tt.want)
		}
	}
}
