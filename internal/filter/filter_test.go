package filter

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-bexpr"
	"github.com/tocsin-events/tocsin/event"
)

func kvEvent(change func(*event.Event)) *event.Event {
	e := &event.Event{
		ID: event.NewID(), Type: "kv-v2/data-write", Namespace: "ns1/", Source: event.SourceVault("node-1"), Path: "secret/data/app", Time: time.Now(),
		Plugin: &event.PluginInfo{MountClass: "secret", MountAccessor: "kv_5dc4d18e", MountPath: "secret/", Plugin: "kv", Version: "2"},
	}
	e.Metadata.Set("data_path", "secret/data/foo")
	e.Metadata.Set("operation", "data-write")
	if change != nil {
		change(e)
	}
	return e
}

func TestFilter(t *testing.T) {
	e := kvEvent(nil)
	bare := &event.Event{Type: "token/create"}
	for _, tt := range []struct {
		text       string
		match, has bool // of e, of an event without metadata and plugin
	}{
		{`event_type == kv`, false, false},
		{`namespace == ns1/`, true, false},
		{`source_plugin_mount == secret/`, true, false},
		{`data_path == secret/data/foo and operation != "data-write"`, false, false},
		{`data_path == secret/data/foo and operation == "data-write"`, true, false},
		{`event_type contains "kv"`, true, false},
		{`"kv" in event_type`, true, false},
		{`"kv" not in event_type`, false, true},
		{`data_path is empty`, false, true},
		{`data_path is not empty`, true, false},
		{`source_plugin_is_local == false`, true, true},
		{`source_plugin_is_local != 0`, false, false},
		{`"/event_type" == "kv-v2/data-write"`, true, false},
		{`event_type matches "^kv-v[12]/"`, true, false},
		{`event_type not matches "^kv-v[12]/"`, false, true},
		{`not (event_type == "x" or namespace == "y")`, true, true},
		{`event_type == "token/create" or operation == "data-write"`, true, true},
	} {
		f, err := Compile("  " + tt.text + "\n")
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if f.String() != tt.text {
			t.Errorf("text %q, want %q", f.String(), tt.text)
		}
		if f.Match(e) != tt.match || f.Match(bare) != tt.has {
			t.Errorf("%s: %v and %v, want %v and %v", tt.text, f.Match(e), f.Match(bare), tt.match, tt.has)
		}
	}
	local := kvEvent(func(e *event.Event) { e.Plugin.IsLocal = true })
	if f, _ := Compile("source_plugin_is_local == true"); !f.Match(local) || f.Match(e) {
		t.Error("source_plugin_is_local")
	}
	if f, err := Compile(" \n"); f != nil || err != nil || !f.Match(e) || f.String() != "" {
		t.Error("the empty filter does not select everything")
	}
}

func TestFilterRefused(t *testing.T) {
	for text, reason := range map[string]string{
		`event_type ==`:                         "cannot be parsed",
		`event_type == kv-v2/data-write`:        "cannot be parsed",
		`path == "x"`:                           `unknown selector "path"`,
		`metadata.a == b`:                       `unknown selector "metadata.a"`,
		`event_type.x == b`:                     `unknown selector "event_type.x"`,
		`"" == b`:                               `unknown selector ""`,
		`event_type == a or nosuch == "x"`:      `unknown selector "nosuch"`,
		`not nosuch is empty`:                   `unknown selector "nosuch"`,
		`event_type matches "("`:                "invalid regular expression",
		`data_path matches ".{0,600}.{0,600}x"`: "too large regular expressions",
		`data_path matches ".{0,600}x" or data_path matches ".{0,600}y"`: "too large regular expressions",
		`event_type is nil`:                                                   "does not apply to event_type",
		`source_plugin_is_local == maybe`:                                     "neither true nor false",
		`source_plugin_is_local contains "t"`:                                 "does not apply to source_plugin_is_local",
		`any event_type as x { x == "a" }`:                                    "not a collection",
		strings.Repeat("(", 50):                                               "cannot be parsed",
		`event_type == "` + strings.Repeat("x", 5000):                         "at most 4096",
		strings.Repeat("(", 12) + "event_type == a" + strings.Repeat(")", 12): "max number of expressions",
	} {
		_, err := Compile(text)
		var refused *Error
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%.60s: got %v, want %q", text, err, reason)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60s: the error has several lines: %q", text, err)
		}
	}
}

// datum is an event as bexpr itself wants to see it.
type datum struct {
	EventType string `bexpr:"event_type"`
	Operation string `bexpr:"operation"`
	Mount     string `bexpr:"source_plugin_mount"`
	DataPath  string `bexpr:"data_path"`
	Namespace string `bexpr:"namespace"`
	Local     bool   `bexpr:"source_plugin_is_local"`
}

func datumOf(e *event.Event) datum {
	operation, _ := e.Metadata.Text("operation")
	dataPath, _ := e.Metadata.Text("data_path")
	d := datum{EventType: e.Type, Operation: operation, DataPath: dataPath, Namespace: e.Namespace}
	if e.Plugin != nil {
		d.Mount, d.Local = e.Plugin.MountPath, e.Plugin.IsLocal
	}
	return d
}

func sampleEvents() []*event.Event {
	return []*event.Event{
		kvEvent(nil),
		kvEvent(func(e *event.Event) { e.Plugin = nil }),
		kvEvent(func(e *event.Event) { e.Plugin.IsLocal = true; e.Type = "a" }),
		kvEvent(func(e *event.Event) { e.Metadata = nil; e.Namespace = "" }),
		kvEvent(func(e *event.Event) { e.Metadata.SetJSON("operation", "7"); e.Type = "b" }),
	}
}

// TestFilterLikeBexpr compares random expressions with the library's own
// evaluation, which decides by reflection for every event anew.
func TestFilterLikeBexpr(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	var expression func(depth int) string
	expression = func(depth int) string {
		if depth > 0 {
			switch rng.IntN(4) {
			case 0:
				return "not " + pick("(%s)", "(%s)") // replaced below
			case 1:
				return expression(depth-1) + " and " + expression(depth-1)
			case 2:
				return expression(depth-1) + " or " + expression(depth-1)
			}
		}
		if rng.IntN(6) == 0 {
			return "source_plugin_is_local " + pick("==", "!=") + " " + pick("true", "false", "1", "F")
		}
		selector := pick("event_type", "operation", "source_plugin_mount", "data_path", "namespace", `"/event_type"`)
		value := pick(`"a"`, `"b"`, `"kv-v2/data-write"`, `"data-write"`, `"secret/"`, `"ns1/"`, `"^.*/"`, `""`, "secret", "7")
		switch rng.IntN(4) {
		case 0:
			return selector + pick(" is empty", " is not empty")
		case 1:
			return value + pick(" in ", " not in ") + strings.Trim(selector, `"/`)
		}
		return selector + pick(" == ", " != ", " contains ", " not contains ", " matches ", " not matches ") + value
	}
	events := sampleEvents()
	for range 300 {
		text := expression(2)
		for strings.Contains(text, "%s") {
			text = strings.Replace(text, "%s", expression(1), 1)
		}
		slow, err := bexpr.CreateEvaluator(text)
		f, ferr := Compile(text)
		if (err == nil) != (ferr == nil) {
			t.Fatalf("%s: bexpr says %v, we say %v", text, err, ferr)
		}
		if err != nil {
			continue
		}
		for i, e := range events {
			want, err := slow.Evaluate(datumOf(e))
			if err != nil {
				t.Fatalf("%s: bexpr cannot evaluate it: %v", text, err)
			}
			if got := f.Match(e); got != want {
				t.Fatalf("%s on event %d: got %v, want %v", text, i, got, want)
			}
		}
	}
}

// FuzzFilter: any text is compiled or refused in bounded time, and what is
// compiled agrees with bexpr.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{`event_type == "kv-v2/data-write"`, `"kv" in event_type and not (namespace is empty)`, `source_plugin_is_local != true`,
		`data_path matches "^secret/.*"`, `"/operation" != a or b == c`, `((((event_type == a))))`, `any x as y { y == 1 }`, "event_type == `raw`", `event_type == -1.5`} {
		f.Add(text)
	}
	events := sampleEvents()
	f.Fuzz(func(t *testing.T, text string) {
		begin := time.Now()
		filter, err := Compile(text)
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("took %v", took)
		}
		if err != nil || filter == nil {
			return
		}
		slow, err := bexpr.CreateEvaluator(strings.TrimSpace(text))
		if err != nil {
			t.Fatalf("%q compiled, bexpr says %v", text, err)
		}
		for _, e := range events {
			want, err := slow.Evaluate(datumOf(e))
			if err != nil {
				t.Fatalf("%q compiled, bexpr cannot evaluate it: %v", text, err)
			}
			if got := filter.Match(e); got != want {
				t.Fatalf("%q: got %v, want %v", text, got, want)
			}
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	f, err := Compile(`event_type == "kv-v2/data-write" and data_path contains "foo" and operation != "x"`)
	if err != nil {
		b.Fatal(err)
	}
	slow, err := bexpr.CreateEvaluator(f.String())
	if err != nil {
		b.Fatal(err)
	}
	e := kvEvent(nil)
	b.Run("compiled", func(b *testing.B) {
		for b.Loop() {
			f.Match(e)
		}
	})
	b.Run("bexpr", func(b *testing.B) {
		d := datumOf(e)
		for b.Loop() {
			if _, err := slow.Evaluate(d); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func ExampleCompile() {
	f, err := Compile(`event_type contains "kv-v2" and operation == "data-write"`)
	fmt.Println(f, err)
	_, err = Compile(`path == "secret/data/app"`)
	fmt.Println(err)
	// Output:
	// event_type contains "kv-v2" and operation == "data-write" <nil>
	// filter: has an unknown selector "path"; there are data_path, event_type, field["..."], namespace, operation, priority, source_plugin_is_local, source_plugin_mount
}

func TestPriority(t *testing.T) {
	f, err := Compile(`priority == "Critical" or priority == "Alert"`)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		eventType, priority string
		want                bool
	}{{"alert/x", "Critical", true}, {"alert/x", "Warning", false}, {"alert/x", "", false}, {"app/x", "Critical", false}} {
		e := &event.Event{Type: tt.eventType}
		e.Metadata.Set("priority", tt.priority)
		if got := f.Match(e); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
