package alerting

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// A mistake in the files does not end detection when the hub is started with it: the last rules
// that were right judge, with what they remember, until it is mended.
func TestBrokenAfterARestart(t *testing.T) {
	t.Parallel()
	good := ruleText("each", `event.type = "app/a"`, "") + ruleText("two", `event.type = "app/b"`, "window: {count: 2, within: 1h}")
	s := newSetup(t, good)
	s.o.Builtin = []load.File{{Name: "builtin:x", Content: []byte(ruleText("builtin", `event.type = "app/c"`, ""))}}
	a, stop := s.start()
	s.append(app(1, "app/a"), app(2, "app/b"), app(3, "app/c"))
	s.judged(a)
	stop()
	if told := s.told("rules-earlier"); len(told) != 0 {
		t.Errorf("told %+v", told)
	}
	// The program is another one, too.
	s.o.Builtin = []load.File{{Name: "builtin:x", Content: []byte(ruleText("renamed", `event.type = "app/c"`, ""))}}
	s.write(strings.Replace(good, "event.type", "event.typ", 1))
	for i := range 2 { // what was kept stays kept
		a, stop = s.start()
		s.append(app(10*i+4, "app/a"), app(10*i+5, "app/b"), app(10*i+6, "app/c"))
		s.judged(a)
		err := a.Health()
		if err == nil || !strings.Contains(err.Error(), "rules.yaml:3:") || !strings.Contains(err.Error(), "the 3 rules that were loaded at 2") || !strings.Contains(err.Error(), "before the start, judge since 2") {
			t.Errorf("health: %v", err)
		}
		if st := a.Status(); st.Earlier.IsZero() || st.Refused == nil || st.State != "judging" {
			t.Errorf("got %+v", st)
		}
		if told := s.told("rules-earlier"); len(told) != i+1 {
			t.Errorf("told %+v", told)
		}
		if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); !errors.Is(err, ErrRefused) {
			t.Errorf("reload: %v", err)
		}
		if i == 0 {
			stop()
		}
	}
	const before = "each app/a <NA> | builtin app/c <NA>"
	if got := outputs(s.alerts()); got != before+" | each app/a <NA> | two app/b <NA> | builtin app/c <NA> | each app/a <NA> | builtin app/c <NA>" {
		t.Errorf("got %s", got)
	}
	s.write(good)
	eventually(t, "the files are loaded", func() bool { return a.Health() == nil && a.Status().Earlier.IsZero() })
	s.append(app(20, "app/b"), app(21, "app/c"))
	s.judged(a)
	if got := outputs(s.alerts()); !strings.HasSuffix(got, " | two app/b <NA> | renamed app/c <NA>") {
		t.Errorf("got %s", got)
	}
}

// So it is with files that are not there, and without rules that were right nothing judges.
func TestNothingCanBeRead(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("each", `event.type = "app/a"`, ""))
	a, stop := s.start()
	s.append(app(1, "app/a"))
	s.judged(a)
	stop()
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	a, stop = s.start()
	s.append(app(2, "app/a"))
	s.judged(a)
	stop()
	if got := outputs(s.alerts()); got != "each app/a <NA> | each app/a <NA>" {
		t.Errorf("got %s", got)
	}
	// What was kept has become of no use: another program knows other fields, say.
	r := record{journal: s.journal}
	bad := kept{files: []load.File{{Name: "old.yaml", Content: []byte(ruleText("old", "event.gone exists", ""))}}, since: time.Now()}
	bad.print = fingerprint(bad.files)
	if err := r.keep(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	a, stop = s.start()
	eventually(t, "it is told", func() bool {
		err := a.Health()
		return err != nil && strings.Contains(err.Error(), "no rules are there, and those from before the start cannot be used: old.yaml:3:")
	})
	stop()
}

// A mistake that shows only when the plugin tells its fields does not end detection either.
func TestBrokenForAPlugin(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule)
	plugin := fieldstest.New()
	s.o.Fields.Add(fieldstest.NewSource("fake", plugin))
	a, stop := s.start()
	s.append(fieldstest.Event(`{"number": 6, "text": "first"}`))
	s.judged(a)
	stop()
	s.write(strings.ReplaceAll(fakeRule, "fake.number", "fake.nothing"))
	from := fieldstest.NewSource("fake", nil)
	s.o.Fields = fields.New(fields.Options{})
	s.o.Fields.Add(from)
	a, _ = s.start()
	eventually(t, "the rule waits", func() bool { return a.Status().State == "waiting" })
	s.append(fieldstest.Event(`{"number": 7, "text": "second"}`))
	from.Set(plugin)
	eventually(t, "an alert of the rule from before", func() bool { return outputs(s.alerts()) == "first | second" })
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "nonexistent field fake.nothing") || !strings.Contains(err.Error(), "before the start") {
		t.Errorf("health: %v", err)
	}
}

// Rules that judge are compiled anew when a plugin is known, though their files have mistakes by
// then.
func TestPluginComesWhileFilesAreBroken(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule)
	from := fieldstest.NewSource("fake", nil)
	s.o.Fields.Add(from)
	a, _ := s.start()
	eventually(t, "the rule waits", func() bool { return a.Status().State == "waiting" })
	s.write("- rule: [")
	eventually(t, "the change is refused", func() bool { return len(s.told("rules-refused")) == 1 })
	from.Set(fieldstest.New())
	s.append(fieldstest.Event(`{"number": 7, "text": "first"}`))
	eventually(t, "an alert", func() bool { return outputs(s.alerts()) == "first" })
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "the 1 rules from before judge") {
		t.Errorf("health: %v", err)
	}
}

// Files of any size are kept, once, and what is damaged is not taken for them.
func TestKeptFiles(t *testing.T) {
	t.Parallel()
	r := record{journal: openJournal(t)}
	if k, err := r.kept(t.Context()); err != nil || !k.since.IsZero() {
		t.Fatalf("got %+v, %v", k, err)
	}
	random := rand.NewChaCha8([32]byte{})
	for i := range 5 {
		content := make([]byte, 100+i%2*3*inlineBytes)
		random.Read(content)
		k := kept{files: []load.File{{Name: "a", Content: content}, {Name: "b"}}, since: time.Unix(int64(i), 0)}
		k.print = fingerprint(k.files)
		if err := r.keep(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		got, err := r.kept(t.Context())
		if err != nil || got.print != k.print || !got.since.Equal(k.since) || len(got.files) != 2 || !bytes.Equal(got.files[0].Content, content) {
			t.Fatalf("%d: got %+v, %v", i, got.print, err)
		}
	}
	objects, err := r.journal.Objects(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := objects.List(t.Context()); err == nil && len(list) > 0 {
		t.Errorf("%d objects of files that are small", len(list))
	}
	kv, err := r.journal.State(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), keptKey)
	if err != nil {
		t.Fatal(err)
	}
	for i, damaged := range []string{"", "{}", `{"version":1}`, `{"version":1,"object":"none"}`, strings.Replace(string(entry.Value()), `"sha256":"`, `"sha256":"0`, 1)} {
		if _, err := kv.Put(t.Context(), keptKey, []byte(damaged)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.kept(t.Context()); !errors.Is(err, errRecord) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// What rules that wait for a plugin remember is there when it comes, though other events were
// judged without them.
func TestMemoryOutlivesPatience(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule+"  window: {count: 2, within: 1h}\n"+ruleText("own", `event.type = "app/a"`, ""))
	plugin := fieldstest.New()
	from := fieldstest.NewSource("fake", plugin)
	s.o.Fields.Add(from)
	a, stop := s.start()
	s.append(fieldstest.Event(`{"number": 6, "text": "first"}`))
	s.judged(a)
	stop()
	s.o.Patience = 50 * time.Millisecond
	for i := range 2 {
		s.o.Fields, from = fields.New(fields.Options{}), fieldstest.NewSource("fake", nil)
		s.o.Fields.Add(from)
		stop()
		a, stop = s.start()
		s.append(app(i, "app/a"))
		eventually(t, "other rules judge", func() bool { return len(s.alerts()) == i+1 })
	}
	from.Set(plugin)
	eventually(t, "the rule judges", func() bool { return a.Status().State == "judging" })
	s.append(fieldstest.Event(`{"number": 7, "text": "second"}`))
	eventually(t, "an alert about both", func() bool { return strings.HasSuffix(outputs(s.alerts()), " | second") })
}

// What a throttle has held back of a rule that is gone after a start is told, as a number.
func TestHeldBackOfRulesThatAreGone(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("held", `event.type = "app/a"`, "throttle: {every: 1h}"))
	a, stop := s.start()
	s.append(app(1, "app/a"), app(2, "app/a"), app(3, "app/a"))
	s.judged(a)
	stop()
	s.write(ruleText("renamed", `event.type = "app/a"`, "throttle: {every: 1h}"))
	a, _ = s.start()
	eventually(t, "the rules judge", func() bool { return a.Status().State == "judging" })
	told := s.told("rules-memory-lost")
	if len(told) != 1 || !strings.Contains(told[0].Error, "held") {
		t.Fatalf("told %+v", told)
	}
	if n := fmt.Sprint(told[0].Fields); !strings.Contains(n, "count") || !strings.Contains(n, "2") {
		t.Errorf("told %s", n)
	}
}

func FuzzUnpackFiles(f *testing.F) {
	packed, err := packFiles([]load.File{{Name: "a", Content: []byte("- list: x\n")}, {Name: "b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add(packed[:len(packed)/2])
	f.Add(pack([]byte(`[{"name":"a","content":"?"}]`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := unpackFiles(b)
		if err != nil {
			return
		}
		again, err := packFiles(files)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := unpackFiles(again); err != nil || fingerprint(same) != fingerprint(files) {
			t.Fatalf("it is another one when it is stored again: %v", err)
		}
	})
}
