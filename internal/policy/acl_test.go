package policy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// acl combines policies of the root namespace.
func acl(tb testing.TB, texts ...string) *ACL {
	tb.Helper()
	var bound []Bound
	for i, text := range texts {
		bound = append(bound, Bound{parse(tb, fmt.Sprint("p", i), text), ""})
	}
	return Compile(bound, nil)
}

// rules writes a policy in short: "PATTERN: CAPABILITY ...; ...".
func rules(short string) string {
	var b strings.Builder
	for rule := range strings.SplitSeq(short, ";") {
		pattern, capabilities, _ := strings.Cut(rule, ":")
		names := strings.Fields(capabilities)
		for i, n := range names {
			names[i] = fmt.Sprintf("%q", n)
		}
		fmt.Fprintf(&b, "path %q { capabilities = [%s] }\n", strings.TrimSpace(pattern), strings.Join(names, ", "))
	}
	return b.String()
}

// Capabilities looks paths up as lists are; other operations differ only in what
// TestList has.
func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		name     string
		policies []string
		want     map[string]string // by path
	}{
		{"no match", []string{"a: read"}, map[string]string{"b": "deny", "": "deny", "a/b": "deny", "aa": "deny", "a": "read", "/a": "read", "//a": "read"}},
		{"exact", []string{"a/b: read"}, map[string]string{"a/b": "read", "a/b/": "read", "a/b//": "deny", "a": "deny", "A/b": "deny"}},
		{"exact with slash", []string{"a/: read"}, map[string]string{"a/": "read", "a": "deny"}},
		{"prefix", []string{"a/b*: read"}, map[string]string{"a/b": "read", "a/bc/d": "read", "a/": "deny", "a/c": "deny"}},
		{"prefix of all", []string{"*: read"}, map[string]string{"": "read", "x": "read", "x/y": "read"}},
		{"star elsewhere is literal", []string{"a/*/b: read; x**: list"}, map[string]string{"a/*/b": "read", "a/x/b": "deny", "x*": "list", "x*y": "list", "xy": "deny"}},
		{"plus", []string{"a/+/b: read"}, map[string]string{"a/x/b": "read", "a//b": "read", "a/x/y/b": "deny", "a/b": "deny", "a/x/b/c": "deny", "a/x/bc": "deny"}},
		{"plus alone", []string{"+: read"}, map[string]string{"a": "read", "": "read", "a/b": "deny", "a/": "read"}},
		{"plus first", []string{"+/a: read"}, map[string]string{"x/a": "read", "/a": "deny", "a": "deny", "x/y/a": "deny"}},
		{"plus last", []string{"a/+: read"}, map[string]string{"a/x": "read", "a/": "read", "a": "deny", "a/x/y": "deny"}},
		{"plus and star", []string{"a/+/b*: read"}, map[string]string{"a/x/b": "read", "a/x/bc": "read", "a/x/b/c": "read", "a/x/bc/d/e": "read", "a/x/c": "deny", "a/b": "deny"}},
		{"plus and slash star", []string{"a/+/*: read"}, map[string]string{"a/x/y": "read", "a/x/y/z": "read", "a/x/": "read", "a/x": "deny"}},
		{"plus within a segment is literal", []string{"a/+b: read; c+/d: list; +e: update"},
			map[string]string{"a/+b": "read", "a/xb": "deny", "c+/d": "list", "cx/d": "deny", "+e": "update", "xe": "deny"}},
		{"all pluses", []string{"+/+/+: read"}, map[string]string{"a/b/c": "read", "//": "deny", "a//c": "read", "a/b": "deny"}},

		// 1. Equal patterns are united, and deny is stronger.
		{"united in a policy", []string{"a: read; a: list"}, map[string]string{"a": "list read"}},
		{"united over policies", []string{"a/*: read", "a/*: update"}, map[string]string{"a/x": "read update"}},
		{"united with a leading slash", []string{"a/*: read", "/a/*: update"}, map[string]string{"a/x": "read update"}},
		{"united with plus", []string{"+/x: read", "+/x: update", "+/y: sudo"}, map[string]string{"a/x": "read update"}},
		{"deny first", []string{"a: deny", "a: read"}, map[string]string{"a": "deny"}},
		{"deny last", []string{"a: read", "a: deny"}, map[string]string{"a": "deny"}},
		{"deny between", []string{"+/a: read; +/a: deny; +/a: update"}, map[string]string{"x/a": "deny"}},
		{"prefix and exact are not equal", []string{"a*: read", "a: deny"}, map[string]string{"a": "deny", "ab": "read"}},

		// 2. Different patterns are never merged, one wins.
		{"exact over all", []string{"a/b: read; a/*: list; a/+: update; a/b*: sudo"}, map[string]string{"a/b": "read", "a/c": "update", "a/bc": "sudo", "a/c/d": "list"}},
		{"exact that denies", []string{"a/b: deny; a/*: read"}, map[string]string{"a/b": "deny", "a/c": "read"}},
		{"exact without capabilities", []string{"a/b:; a/*: read"}, map[string]string{"a/b": "deny", "a/c": "read"}},
		{"longest prefix", []string{"a*: read; a/b*: list; a/*: update; *: sudo"}, map[string]string{"a/bc": "list", "a/c": "update", "ac": "read", "x": "sudo"}},
		{"longer prefix denies", []string{"a/*: read; a/b/*: deny"}, map[string]string{"a/b/c": "deny", "a/b": "read"}},
		{"shorter prefix denies", []string{"a/*: deny; a/b/*: read"}, map[string]string{"a/b/c": "read", "a/b": "deny"}},
		{"later first wildcard", []string{"a/+/c: read; a/b/*: list"}, map[string]string{"a/b/c": "list", "a/x/c": "read"}},
		{"later first plus", []string{"a/+/b/c: read; a/x/+/c: list"}, map[string]string{"a/x/b/c": "list"}},
		{"later wildcard denies", []string{"+/b: read; a/+: deny"}, map[string]string{"a/b": "deny"}},
		{"earlier wildcard denies", []string{"+/b: deny; a/+: read"}, map[string]string{"a/b": "read"}},
		{"no star at the end", []string{"a/+: read; a/*: list"}, map[string]string{"a/x": "read", "a/x/y": "list"}},
		{"no star at the end, both with plus", []string{"a/+/b: read; a/+/*: list"}, map[string]string{"a/x/b": "read", "a/x/c": "list"}},
		{"star outdone by more pluses", []string{"a/+/+: read; a/+/b*: list"}, map[string]string{"a/x/b": "read"}},
		{"fewer pluses", []string{"a/+/+/d: read; a/+/c/+: list; a/+/c/d: update"}, map[string]string{"a/x/c/d": "update", "a/x/y/d": "read"}},
		{"fewer pluses with stars", []string{"a/+/+/*: read; a/+/c*: list; a/*: update"}, map[string]string{"a/x/c/d": "update"}},
		{"longer", []string{"a/+/b*: read; a/+/bc*: list"}, map[string]string{"a/x/bcd": "list", "a/x/bd": "read"}},
		{"longer with equal pluses", []string{"a/+/+/long: read; a/+/x/+: list"}, map[string]string{"a/y/x/long": "read"}},
		{"lexicographically larger", []string{"a/+/+/b: read; a/+/b/+: list"}, map[string]string{"a/x/b/b": "list"}},
		{"literal plus counts as the first", []string{"a+b/+: read; +/c: list; a+b/*: update"}, map[string]string{"a+b/c": "update"}},

		// A rule that matches by "+" is not merged with others either.
		{"winner has nothing", []string{"a/*: read; a/+:"}, map[string]string{"a/x": "deny", "a/x/y": "read"}},
		{"sudo", []string{"a: sudo"}, map[string]string{"a": "sudo"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var texts []string
			for _, p := range tt.policies {
				texts = append(texts, rules(p))
			}
			a := acl(t, texts...)
			for path, want := range tt.want {
				if got := strings.Join(a.Capabilities(path).Names(), " "); got != want {
					t.Errorf("%q: got %q, want %q", path, got, want)
				}
			}
		})
	}
}

// 2 and 3: what lists are granted, with and without a trailing slash.
func TestList(t *testing.T) {
	for _, tt := range []struct {
		name, policy string
		list, read   map[string]bool
	}{
		{"exact without slash", "a/b: list read", map[string]bool{"a/b": true, "a/b/": true, "a/b//": false}, map[string]bool{"a/b": true, "a/b/": false}},
		{"exact with slash", "a/b/: list read", map[string]bool{"a/b": false, "a/b/": true}, map[string]bool{"a/b": false, "a/b/": true}},
		{"exact of both", "a/b: list; a/b/: deny", map[string]bool{"a/b": true, "a/b/": false}, nil},
		{"exact without slash over prefix", "a/b: list; a/b/*: deny; a/b/+: deny", map[string]bool{"a/b/": true, "a/b/c": false}, nil},
		{"exact without slash denies", "a/b: deny; a/b/*: list", map[string]bool{"a/b/": false, "a/b/c": true}, nil},
		{"plus without slash", "a/+: list read", map[string]bool{"a/b": true, "a/b/": true, "a/b/c": false}, map[string]bool{"a/b/": false}},
		{"plus with slash", "a/+/: list read", map[string]bool{"a/b": false, "a/b/": true}, map[string]bool{"a/b/": true}},
		{"prefix with slash", "a/b/*: list", map[string]bool{"a/b": false, "a/b/": true}, nil},
		{"prefix denies where plus matches without slash", "a/+: list; a/b/*: deny", map[string]bool{"a/b": true, "a/b/": false, "a/c/": true}, nil},
		{"less specific deny", "*: deny; a/+: list", map[string]bool{"a/b": true, "a/b/": true}, nil},
		{"plus denies where prefix lists", "a/*: list; a/+: deny", map[string]bool{"a/b": false, "a/b/": false, "a/b/c": true}, nil},
		{"plus with slash denies", "a/+: list; a/+/: deny", map[string]bool{"a/b": true, "a/b/": false}, nil},
		{"more specific rule without list", "a/+: list; a/b/*: read", map[string]bool{"a/b/": true}, map[string]bool{"a/b/": true}},
		{"more specific list", "*: list; a/b/*: list; a/+: deny", map[string]bool{"a/b/": true, "a/c/": false}, nil},
		{"prefix of the trimmed path", "a/b*: list; a/b/*: deny", map[string]bool{"a/b/": false, "a/b": true}, nil},
		{"neither", "a/+: read; a/b/*: update", map[string]bool{"a/b/": false}, nil},
		{"only one slash is trimmed", "a/+: list", map[string]bool{"a/b//": false}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := acl(t, rules(tt.policy))
			for path, want := range tt.list {
				if got := a.Allows(List, path, nil); got != want {
					t.Errorf("list %q: %v", path, got)
				}
				if got := a.Capabilities(path).Has(List); got != want {
					t.Errorf("capability list of %q: %v", path, got)
				}
			}
			for path, want := range tt.read {
				if got := a.Allows(Read, path, nil); got != want {
					t.Errorf("read %q: %v", path, got)
				}
			}
		})
	}
	// If neither denies nor lists, the most specific one counts.
	a := acl(t, rules("a/+: read; a/b/*: update"))
	if got := a.Capabilities("a/b/"); got != Update {
		t.Errorf("got %v", got)
	}
}

func TestAllows(t *testing.T) {
	a := acl(t, rules("a: create read update delete list patch recover; b: read sudo; c: subscribe; d: deny"))
	for _, op := range []Capabilities{Create, Read, Update, Delete, List, Patch, Recover} {
		if !a.Allows(op, "a", nil) || a.Allows(op|Sudo, "a", nil) || a.Allows(op, "c", nil) || a.Allows(op, "d", nil) || a.Allows(op, "x", nil) {
			t.Errorf("%v is decided wrongly", op)
		}
	}
	if !a.Allows(Read|Sudo, "b", nil) || a.Allows(Update|Sudo, "b", nil) || !a.Allows(Read, "b", nil) {
		t.Error("sudo is decided wrongly")
	}
	for _, op := range []Capabilities{0, Sudo, Subscribe, Deny, Root, Read | Subscribe, Read | Root, Deny | Read} {
		for _, path := range []string{"a", "b", "c", "d"} {
			if a.Allows(op, path, nil) {
				t.Errorf("%q allows %b", path, op)
			}
		}
	}
	// Vault refuses what is not wrapped; wrapping is not possible here.
	a = acl(t, `path "a" {
  capabilities = ["read", "list", "delete", "subscribe"]
  min_wrapping_ttl = 5
  subscribe_event_types = ["*"]
}
path "b" { capabilities = ["read"] }`, `path "b" { max_wrapping_ttl = "1h" }`)
	if a.Allows(Read, "a", nil) || a.Allows(List, "a", nil) || a.Allows(Delete, "a", nil) || a.Allows(Read, "b", nil) {
		t.Error("a rule with a wrapping TTL allows an operation")
	}
	if a.Capabilities("a") != Read|List|Delete|Subscribe || !a.MaySee("", "a", "kv") {
		t.Error("a wrapping TTL matters where it must not")
	}
}

// Rules with what cannot be satisfied here deny, also those they are merged with,
// and hide less specific ones as rules that deny do.
func TestUnsupported(t *testing.T) {
	for _, key := range []string{`mfa_methods = ["x"]`, `control_group = { factor "f" {} }`} {
		a := acl(t, rules("a/*: read list; a/+: list read"), `path "a/b*" {
  capabilities = ["list", "read", "subscribe"]
  subscribe_event_types = ["*"]
  `+key+`
}`, `path "a/b*" { capabilities = ["update", "subscribe"] subscribe_event_types = ["*"] }`)
		if got := a.Capabilities("a/b"); got != Deny {
			t.Errorf("%s: got %v", key, got)
		}
		if a.Allows(Update, "a/b", nil) || a.Allows(List, "a/b/", nil) || a.MaySee("", "a/b", "kv") || !a.Allows(Read, "a/c", nil) {
			t.Errorf("%s: decided wrongly", key)
		}
	}
}

func TestRoot(t *testing.T) {
	other := parse(t, "other", rules("a: read"))
	named := parse(t, "root", rules("a: read"))
	for _, tt := range []struct {
		name     string
		policies []Bound
		want     bool
	}{
		{"alone", []Bound{{RootPolicy, ""}}, true},
		{"in a namespace", []Bound{{RootPolicy, "ns1/"}}, false},
		{"before another", []Bound{{RootPolicy, ""}, {other, ""}}, false},
		{"after another", []Bound{{other, ""}, {RootPolicy, ""}}, false},
		{"only its name", []Bound{{named, ""}}, false},
		{"none", nil, false},
		{"nil", []Bound{{nil, ""}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := Compile(tt.policies, nil)
			x := a.Explain(Query{Path: "x", Operation: Subscribe, EventType: "kv"})
			for what, got := range map[string]bool{
				"root": a.Root(), "capability": a.Capabilities("x") == Root, "sudo": a.Allows(Delete|Sudo, "x", nil),
				"see": a.MaySee("ns1/", "x", "kv"), "see without a path": a.MaySee("", "", "kv"), "decide": a.Decide("", "", "kv"), "explain": x.Allowed,
			} {
				if got != tt.want {
					t.Errorf("%s: %v", what, got)
				}
			}
		})
	}
	for _, a := range []*ACL{nil, new(ACL)} {
		if a.Root() || a.Capabilities("a") != 0 || a.Allows(Read, "a", nil) || a.MaySee("", "a", "t") || a.Decide("", "a", "t") || a.Explain(Query{Path: "a", Operation: Read}).Allowed {
			t.Errorf("%v allows something", a)
		}
	}
}

func TestMaySee(t *testing.T) {
	policy := `
path "secret/data/app/*" { capabilities = ["list", "subscribe"] subscribe_event_types = ["kv-v2/data-*", "kv-v2/data-*"] }
path "secret/data/app/private" { capabilities = ["deny"] }
path "all" { capabilities = ["subscribe"] subscribe_event_types = ["*"] }
path "none" { capabilities = ["subscribe"] }
path "empty" { capabilities = ["subscribe"] subscribe_event_types = [] }
path "reader" { capabilities = ["read", "list", "sudo"] subscribe_event_types = ["*"] }
path "united" { capabilities = ["subscribe"] }
path "late" { capabilities = ["read"] subscribe_event_types = ["a"] }
path "db/+/config" { capabilities = ["subscribe"] subscribe_event_types = ["database/*", "x"] }
path "slash/*" { capabilities = ["deny"] }
path "slash/+" { capabilities = ["subscribe", "list"] subscribe_event_types = ["*"] }
`
	more := `
path "united" { subscribe_event_types = ["b", "c"] }
path "late" { capabilities = ["subscribe"] }
`
	a := Compile([]Bound{{parse(t, "p", policy), ""}, {parse(t, "more", more), ""}, {parse(t, "ns", policy), "ns1/"}}, nil)
	for _, tt := range []struct {
		namespace, path, typ string
		want                 bool
	}{
		{"", "secret/data/app/x", "kv-v2/data-write", true},
		{"", "/secret/data/app/x", "kv-v2/data-write", true},
		{"", "secret/data/app/x", "kv-v2/metadata-write", false},
		{"", "secret/data/app", "kv-v2/data-write", false},
		{"", "secret/data/app/private", "kv-v2/data-write", false},
		{"", "all", "anything/at/all", true},
		{"", "none", "kv", false},
		{"", "empty", "kv", false},
		{"", "reader", "kv", false},
		{"", "united", "b", true},
		{"", "united", "d", false},
		{"", "late", "a", true},
		{"", "db/x/config", "database/rotate", true},
		{"", "db/x/config", "databases", false},
		{"", "db/x/config", "x", true},
		{"", "", "kv", false},
		{"", "/", "kv", false},
		{"ns1/", "", "kv", false},
		{"", "unknown", "kv", false},
		{"", "slash/x", "kv", true},
		{"", "slash/x/", "kv", true}, // looked up as a list: the deny is less specific
		{"", "slash/x/y", "kv", false},
		{"ns1/", "all", "kv", true},
		{"", "ns1/all", "kv", true}, // the same path
		{"ns1/", "/all", "kv", true},
		{"ns1/", "united", "b", false},
		{"ns2/", "all", "kv", false},
		{"ns1/ns2/", "all", "kv", false},
	} {
		for range 2 { // decided and remembered
			if got := a.MaySee(tt.namespace, tt.path, tt.typ); got != tt.want {
				t.Errorf("%q %q %q: got %v", tt.namespace, tt.path, tt.typ, got)
			}
		}
	}
}

func TestNamespaces(t *testing.T) {
	p := parse(t, "p", rules("/a/*: read; +: update"))
	a := Compile([]Bound{{p, "ns1/"}, {p, "ns1/ns2/"}}, nil)
	for path, want := range map[string]Capabilities{
		"a/x": 0, "x": 0, "ns1/a/x": Read, "ns1/x": Update, "ns1/ns2/a/x": Read, "ns1/ns2/x": Update, "ns3/a/x": 0, "ns1/x/y": 0, "ns1/": Update,
	} {
		if got := a.Capabilities(path); got != want {
			t.Errorf("%q: got %v, want %v", path, got, want)
		}
	}
}

// Decisions are the same whoever asks at the same time, while the cache is filled and
// begun anew.
func TestConcurrency(t *testing.T) {
	a := acl(t, "path \"a/+\" { capabilities = [\"subscribe\"] subscribe_event_types = [\"k*\"] }\n"+rules("a/1*: deny"))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 4000 {
				n := (i*7 + worker) % 3000
				path := fmt.Sprint("a/", n)
				want := !strings.HasPrefix(path, "a/1")
				if a.MaySee("", path, "kv") != want || a.MaySee("", path, "x") || a.Allows(Read, path, nil) {
					t.Errorf("%s: not %v", path, want)
					return
				}
			}
		})
	}
	wg.Wait()
}
