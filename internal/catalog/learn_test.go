package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openJournal(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(context.Background()) })
	return j
}

func openCatalog(t testing.TB, j *journal.Journal, declared ...Declared) *Catalog {
	t.Helper()
	c, err := Open(t.Context(), Config{State: j.State, Declared: declared})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// bare is a catalogue without a storage.
func bare(declared ...Declared) *Catalog {
	c := &Catalog{exact: make(map[string]*declaredType), learnt: make(map[place]*seen), room: room{groups: make(map[string]*budget)}}
	for _, d := range declared {
		compiled, err := compile(d)
		if err != nil {
			panic(err)
		}
		c.declare(compiled)
	}
	c.tick(time.Now())
	return c
}

func published(namespace, eventType string, metadata ...string) *event.Event {
	e := event.NewNotification(eventType, metadata...)
	e.Namespace, e.Source = namespace, "app://a"
	return e
}

func everywhere(string) bool { return true }

func TestLearn(t *testing.T) {
	c := bare()
	first := published("", "shop/order", "path", "shop/1", "customer", "secret customer")
	first.Metadata.SetJSON("items", "3")
	c.Learn(first)
	second := published("ns1/", "shop/order", "path", "shop/2")
	second.Metadata.SetJSON("items", "[1]")
	second.Source = "app://b"
	second.Data, second.DataContentType = []byte(`{"a":1}`), "application/json; charset=utf-8"
	for range 3 {
		c.Learn(second)
	}
	got, ok := c.Lookup("shop/order", everywhere)
	if !ok || got.Origin != Learnt || got.Description != "" || got.Since != "" {
		t.Fatalf("%+v", got)
	}
	want := `[{"key":"customer","kinds":["text"]},{"key":"items","kinds":["number","array"]},{"key":"path","kinds":["text"]}]`
	if b, _ := json.Marshal(got.Metadata); string(b) != want {
		t.Errorf("metadata %s", b)
	}
	s := got.Seen
	if s.Events != 4 || s.Source != "app://a" || !slices.Equal(s.In, []string{"", "ns1/"}) || !s.NoData || s.Beyond != 0 ||
		!slices.Equal(got.ContentTypes, []string{"application/json"}) {
		t.Errorf("%+v %v", s, got.ContentTypes)
	}
	if now := time.Now(); now.Sub(s.Last) > 2*time.Minute || s.First.After(s.Last) || s.Last.Second() != 0 {
		t.Errorf("seen from %v to %v", s.First, s.Last)
	}
	all, _ := json.Marshal(got)
	if strings.Contains(string(all), "secret customer") || strings.Contains(string(all), "shop/1") {
		t.Errorf("there is a value: %s", all)
	}
	e, err := event.ParseCloudEvent(got.Example)
	if err != nil || e.Path != "PATH" || string(e.Data) != `"DATA"` {
		t.Errorf("example %s: %v", got.Example, err)
	}
	if _, ok := c.Lookup("shop/nothing", everywhere); ok {
		t.Error("there is a type that nobody has published")
	}
}

// TestNamespaces: what was learnt in one is not shown to those who see only others.
func TestNamespaces(t *testing.T) {
	c := bare()
	c.Learn(published("ns1/", "a/one", "x", "1"))
	c.Learn(published("ns1/sub/", "a/two"))
	c.Learn(published("ns2/", "a/one", "y", "1"))
	c.Learn(published("ns2/", "kv-v2/data-write", "z", "1"))
	names := func(sees func(string) bool) (all []string) {
		types, _ := c.List(Query{Sees: sees, Limit: 1000, Origin: Learnt})
		for _, one := range types {
			all = append(all, one.Name)
		}
		return all
	}
	below := func(ns string) func(string) bool {
		return func(n string) bool { return strings.HasPrefix(n, ns) }
	}
	for ns, want := range map[string]string{"": "a/one a/two", "ns1/": "a/one a/two", "ns1/sub/": "a/two", "ns2/": "a/one", "ns3/": ""} {
		if got := strings.Join(names(below(ns)), " "); got != want {
			t.Errorf("in %q: %s, want %s", ns, got, want)
		}
	}
	one, _ := c.Lookup("a/one", below("ns1/"))
	if len(one.Metadata) != 1 || one.Metadata[0].Name != "x" || !slices.Equal(one.Seen.In, []string{"ns1/"}) {
		t.Errorf("%+v", one)
	}
	if _, ok := c.Lookup("a/two", below("ns2/")); ok {
		t.Error("a type of another namespace is found")
	}
	known, _ := c.Lookup("kv-v2/data-write", below("ns1/"))
	if known.Seen != nil || known.Origin != BuiltIn {
		t.Errorf("%+v", known)
	}
	known, _ = c.Lookup("kv-v2/data-write", below("ns2/"))
	if known.Seen == nil || known.Seen.Events != 1 || known.Origin != BuiltIn || known.key("z").Kinds[0] != "text" || known.VaultSince != "1.13" {
		t.Errorf("%+v", known)
	}
	if again := knownTypes["kv-v2/data-write"]; slices.ContainsFunc(again.Metadata, func(k Key) bool { return k.Name == "z" }) {
		t.Error("what was learnt has changed the table")
	}
}

func TestList(t *testing.T) {
	c := bare(Declared{Type: "app/a", Description: "A."}, Declared{Type: "shop/*", Description: "Something of the shop.", Metadata: map[string]string{"order": "its number"}},
		Declared{Type: "kv-v2/config-write", Description: "Ours."})
	c.Learn(published("", "app/a"))
	c.Learn(published("", "shop/order", "order", "1"))
	c.Learn(published("", "other/x"))
	list := func(q Query) string {
		q.Sees = everywhere
		if q.Limit == 0 {
			q.Limit = 1000
		}
		types, more := c.List(q)
		var b strings.Builder
		for _, one := range types {
			fmt.Fprintf(&b, "%s %s %q %d\n", one.Name, one.Origin, one.Description, len(one.Metadata))
		}
		if more {
			b.WriteString("...\n")
		}
		return b.String()
	}
	glob := func(s string) *event.Glob { g := event.CompileGlob(s); return &g }
	for _, tt := range []struct {
		name string
		q    Query
		want string
	}{
		{"configured", Query{Origin: Configured}, "app/a configured \"A.\" 0\nshop/* configured \"Something of the shop.\" 1\n"},
		{"learnt", Query{Origin: Learnt}, "other/x learnt \"\" 0\nshop/order learnt \"Something of the shop.\" 1\n"},
		{"built-in, described anew", Query{Origin: BuiltIn, Glob: glob("kv-v2/c*")}, "kv-v2/config-write built-in \"Ours.\" 4\n"},
		{"pages", Query{Glob: glob("*o*/*x"), Limit: 1}, "other/x learnt \"\" 0\n"},
		{"first page", Query{Glob: glob("shop/*"), Limit: 1}, "shop/* configured \"Something of the shop.\" 1\n...\n"},
		{"second page", Query{Glob: glob("shop/*"), Limit: 1, After: "shop/*"}, "shop/order learnt \"Something of the shop.\" 1\n"},
		{"hidden", Query{Glob: glob("shop/*"), Hides: func(n string) bool { return n == "shop/order" }}, "shop/* configured \"Something of the shop.\" 1\n"},
		{"nothing", Query{Glob: glob("nothing")}, ""},
	} {
		if got := list(tt.q); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
	all, _ := c.List(Query{Sees: everywhere, Limit: 1000})
	if len(all) != len(builtIns)+4 {
		t.Errorf("%d types", len(all))
	}
	for _, one := range all {
		if one.Example != nil {
			t.Errorf("%s: the list has an example", one.Name)
		}
	}
	if order, _ := c.Lookup("shop/order", everywhere); order.key("order").Meaning != "its number" {
		t.Errorf("%+v", order)
	}
}

// TestBounds: whoever makes up types uses up only what is meant for such as them.
func TestBounds(t *testing.T) {
	c := bare()
	for i := range 3 * maxPerProducer {
		c.Learn(published("", fmt.Sprintf("evil/%d", i)))
	}
	if n := len(c.learnt); n != maxPerProducer {
		t.Errorf("one producer has %d types", n)
	}
	for i := range 2 * maxPerNamespace {
		c.Learn(published(fmt.Sprintf("ns1/%d/", i), fmt.Sprintf("evil%d/x", i)))
	}
	if n := len(c.learnt) - maxPerProducer; n != maxPerNamespace {
		t.Errorf("one namespace has %d types", n)
	}
	c.Learn(published("", "good/x"))
	c.Learn(published("ns2/", "good/x"))
	if c.learnt[place{"", "good/x"}] == nil || c.learnt[place{"ns2/", "good/x"}] == nil {
		t.Error("others have no room any more")
	}
	if s := c.Stats(); s.Unlearnt != 2*maxPerProducer+maxPerNamespace || s.Learnt != len(c.learnt) {
		t.Errorf("%+v", s)
	}
	for ns := range 20 {
		for i := range maxPerNamespace {
			c.Learn(published(fmt.Sprintf("n%d/", ns), fmt.Sprintf("evil%d/x", i)))
		}
	}
	if len(c.learnt) != maxLearnt {
		t.Errorf("%d types in all", len(c.learnt))
	}
	for _, e := range []*event.Event{published("", strings.Repeat("t", 300)), published(strings.Repeat("n", 600)+"/", "x"), published("", "a\tb")} {
		if c.Learn(e); c.learnt[place{e.Namespace, e.Type}] != nil {
			t.Errorf("%.20q... was learnt", e.Type)
		}
	}
	// When what is old is forgotten there is room again, and nothing else has changed.
	c.forget(time.Now().Add(forgetAfter + time.Hour))
	if len(c.learnt) != 0 || c.room.bytes != 0 || len(c.room.groups) != 0 || c.room.shards != [shards]int{} {
		t.Errorf("%d types and %d bytes are left", len(c.learnt), c.room.bytes)
	}
}

func TestBoundsOfKeys(t *testing.T) {
	c := bare()
	many := published("", "a/b")
	for i := range 100 {
		many.Metadata.Set(fmt.Sprintf("k%03d", i), "v")
	}
	many.Metadata.Set(strings.Repeat("k", 200), "v")
	many.Metadata.Set("tab\t", "v")
	for i := range 10 {
		many.Data, many.DataContentType = []byte("x"), fmt.Sprintf("text/x%d", i)
		c.Learn(many)
	}
	got, _ := c.Lookup("a/b", everywhere)
	if len(got.Metadata) != maxKeys || len(got.ContentTypes) != maxContentTypes || got.Seen.Beyond != 10 || got.Seen.NoData {
		t.Errorf("%d keys, %d content types, %+v", len(got.Metadata), len(got.ContentTypes), got.Seen)
	}
	// The names of one namespace take at most some memory.
	key := func(i, j int) string { return fmt.Sprintf("%s%d-%d", strings.Repeat("k", 100), i, j) }
	for i := range maxPerNamespace {
		e := published("big/", fmt.Sprintf("p%d/x", i))
		for j := range maxKeys {
			e.Metadata.Set(key(i, j), "v")
		}
		c.Learn(e)
		c.Learn(e)
	}
	b := c.room.groups["big"]
	if b.bytes > maxGroupBytes || b.bytes < maxGroupBytes/2 || c.room.bytes > maxLearntBytes {
		t.Errorf("%d bytes, %d in all", b.bytes, c.room.bytes)
	}
	for shard, n := range c.room.shards {
		if n > maxShardBytes {
			t.Errorf("shard %d has %d bytes", shard, n)
		}
	}
}

func TestLearnAllocatesNothing(t *testing.T) {
	c := bare(Declared{Type: "x/*"})
	e := published("ns1/", "kv-v2/data-write", "path", "secret/data/app/db", "data_path", "secret/data/app/db", "operation", "data-write",
		"modified", "true", "current_version", "3")
	c.Learn(e)
	if n := testing.AllocsPerRun(100, func() {
		c.Learn(e)
		if w, err := c.Check(e); w != "" || err != nil {
			t.Fatal(w, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLearn(b *testing.B) {
	c := bare()
	for i := range 1000 {
		c.Learn(published("ns1/", fmt.Sprintf("p%d/x", i)))
	}
	e := published("ns1/", "kv-v2/data-write", "path", "secret/data/app/db", "data_path", "secret/data/app/db", "operation", "data-write",
		"modified", "true", "current_version", "3")
	c.Learn(e)
	b.ReportAllocs()
	for b.Loop() {
		c.Learn(e)
	}
}

// BenchmarkLearnNot is about events for whose type there is no room.
func BenchmarkLearnNot(b *testing.B) {
	c := bare()
	for i := range maxPerProducer {
		c.Learn(published("ns1/", fmt.Sprintf("p/%d", i)))
	}
	e := published("ns1/", "p/one-more")
	b.ReportAllocs()
	for b.Loop() {
		c.Learn(e)
	}
}
