package fields

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record is a Record.
type record struct {
	seq    uint64
	events []*event.Event
}

func (r record) Len() int                 { return len(r.events) }
func (r record) Event(i int) *event.Event { return r.events[i] }
func (r record) Position(i int) position.Position {
	return position.Position{Seq: r.seq, Index: uint32(i)}
}

var sequence uint64

func recordOf(payloads ...string) record {
	sequence++
	r := record{seq: sequence}
	for _, p := range payloads {
		r.events = append(r.events, fieldstest.Event(p))
	}
	return r
}

// rig is a registry with one plugin.
type rig struct {
	*Registry
	plugin *fieldstest.Plugin
	source *fieldstest.Source
	log    *bytes.Buffer
}

func newRig() *rig {
	r := &rig{plugin: fieldstest.New(), log: new(bytes.Buffer)}
	r.source = fieldstest.NewSource("fake", r.plugin)
	r.Registry = New(Options{Logger: slog.New(slog.NewTextHandler(r.log, nil))})
	r.Add(r.source)
	return r
}

func (r *rig) use(t *testing.T, names ...string) *Use {
	t.Helper()
	u, err := r.Use(names...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Release)
	return u
}

// text returns a field of an event as a list of texts, or why it is missing.
func text(v *View, event, field int) string {
	texts, _ := v.At(event).Texts(field)
	if m := v.Missing(); m != nil {
		return fmt.Sprintf("missing(final=%v): %s", m.Final, m.Reason)
	}
	return strings.Join(texts, ",")
}

// One call has all fields in use and all events of the record, whoever asks first, and there is
// none before somebody does.
func TestOneCall(t *testing.T) {
	r := newRig()
	a := r.use(t, "fake.text", "fake.list")
	b := r.use(t, "fake.value[text]", "fake.number")
	released := r.use(t, "fake.addr")
	released.Release()
	rec := recordOf(`{"text":"x","number":5}`, `{"list":["p","q"]}`, `{}`)
	rec.events = append(rec.events, &event.Event{ID: "other", Type: "kv-v2/data-write"})

	va, vb := a.View(t.Context(), rec), b.View(t.Context(), rec)
	if got := text(va, 3, 0); got != "" || len(r.plugin.Calls()) != 0 {
		t.Errorf("%q, calls %v: an event of no plugin was asked about", got, r.plugin.Calls())
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { text(b.View(t.Context(), rec), 0, 0) })
	}
	all.Wait()
	for i, want := range []string{"x,", ",p,q", ",", ","} {
		if got := text(va, i, 0) + "," + text(va, i, 1); got != want {
			t.Errorf("event %d: %q, want %q", i, got, want)
		}
	}
	if got := text(vb, 0, 0) + text(vb, 0, 1); got != "x5" {
		t.Error(got)
	}
	calls := r.plugin.Calls()
	if len(calls) != 1 || calls[0].Events != 3 || len(calls[0].Fields) != 4 {
		t.Errorf("calls: %v", calls)
	}
	// A field that came into use later is asked for alone.
	late := r.use(t, "fake.ok", "fake.text")
	text(late.View(t.Context(), rec), 0, 0)
	if calls = r.plugin.Calls(); len(calls) != 2 || calls[1].Events != 3 {
		t.Errorf("calls: %v", calls)
	}
}

func TestTypes(t *testing.T) {
	r := newRig()
	u := r.use(t, "fake.text", "fake.list", "fake.number", "fake.ok", "fake.time", "fake.took", "fake.addr", "fake.net", "fake.value[none]")
	v := u.View(t.Context(), recordOf(`{"text":"x","list":["a","b"],"number":7,"ok":true,"time":1700000000000000000,"took":1500000000,"addr":"10.0.0.1","net":"10.0.0.0/8"}`)).At(0)
	value := func(field int) Value {
		t.Helper()
		x, err := v.Value(field)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	if x := value(1); x.Len() != 2 || !x.List() || x.Text(1) != "b" || x.Type() != sourceplugin.String {
		t.Error(x)
	}
	if n, ok := value(2).Number(0); n != 7 || !ok || value(2).Text(0) != "7" {
		t.Error(n, ok)
	}
	if b, ok := value(3).Bool(0); !b || !ok || value(3).Text(0) != "true" {
		t.Error(b, ok)
	}
	if x, ok := value(4).Time(0); x.UnixNano() != 1700000000000000000 || !ok || value(4).Text(0) != "2023-11-14T22:13:20Z" {
		t.Error(x, ok)
	}
	if x, ok := value(5).Duration(0); x != 1500*time.Millisecond || !ok || value(5).Text(0) != "1.5s" {
		t.Error(x, ok)
	}
	if x, ok := value(6).Addr(0); x.String() != "10.0.0.1" || !ok || value(6).Text(0) != "10.0.0.1" {
		t.Error(x, ok)
	}
	if x, ok := value(7).Prefix(0); x.String() != "10.0.0.0/8" || !ok {
		t.Error(x, ok)
	}
	if x := value(8); x.Len() != 0 || x.Field() != nil || x.Type() != 0 || x.List() {
		t.Error(x)
	}
	if _, ok := value(0).Number(0); ok {
		t.Error("a text is a number")
	}
	if _, ok := value(2).Time(0); ok {
		t.Error("a number is a time")
	}
	defer func() {
		if recover() == nil {
			t.Error("there is an element that there is not")
		}
	}()
	value(0).Text(1)
}

func TestCheck(t *testing.T) {
	if err := New(Options{}).Check("a.b", nil); err == nil || !strings.Contains(err.Error(), "plugins.sources is empty") {
		t.Error(err)
	}
	r := newRig()
	other := fieldstest.NewSource("other", nil)
	r.Add(other)
	check := func(field, reason string) {
		t.Helper()
		err := r.Check(field, nil)
		if reason == "" && err != nil || reason != "" && (err == nil || !strings.Contains(err.Error(), reason)) {
			t.Errorf("%s: %v, want %q", field, err, reason)
		}
	}
	check("fake.text", "")
	check("fake.value[x]", "")
	check("fake.value", "needs an argument")
	check("fake.text[x]", "takes no argument")
	for text, want := range map[string]string{"7": "", "seven": "is a number"} {
		if err := r.Check("fake.number", &text); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	check("fake.txet", `did you mean "fake.text"?`)
	check("ka.verb", "") // the other one may have it
	if err := r.Known("fake.text", "ka.verb"); !errors.Is(err, ErrNotYet) || !strings.Contains(err.Error(), "field ka.verb") || !strings.Contains(err.Error(), "the plugin of the source other has not been started yet") {
		t.Error(err)
	}
	check("ka.verb[", "does not end with ]")

	// It has run once, and so is known although it does not run any more.
	about := fieldstest.New()
	about.About.Fields = []sourceplugin.Field{{Name: "ka.verb"}}
	other.Set(about)
	check("ka.verb", "")
	other.Set(nil)
	check("ka.verb", "")
	if err := r.Known("fake.text", "ka.verb", "fake.value[x]"); err != nil {
		t.Error(err)
	}
	check("ka.vreb", `did you mean "ka.verb"?`)
	check("evt.something", "unknown field")
	about.About.Capabilities.Extract = false
	check("ka.verb", "unknown field")
}

// A plugin is asked about the events of the event sources that it extracts from.
func TestWhoIsAsked(t *testing.T) {
	plugin := func(change func(*sourceplugin.Description)) *fieldstest.Plugin {
		p := fieldstest.New()
		change(&p.About)
		return p
	}
	for name, tt := range map[string]struct {
		change func(*sourceplugin.Description)
		asked  bool
		why    string
	}{
		"its own event source":    {func(*sourceplugin.Description) {}, true, ""},
		"another event source":    {func(d *sourceplugin.Description) { d.EventSource = "others" }, false, ""},
		"all event sources":       {func(d *sourceplugin.Description) { d.ID, d.EventSource = 0, "" }, true, ""},
		"this one":                {func(d *sourceplugin.Description) { d.EventSource, d.ExtractSources = "x", []string{"a", "fakes"} }, true, ""},
		"not this one":            {func(d *sourceplugin.Description) { d.ExtractSources = []string{"a"} }, false, ""},
		"it extracts nothing":     {func(d *sourceplugin.Description) { d.Capabilities.Extract = false }, false, `unknown field "fake.text"; the plugin has none`},
		"it has no such field":    {func(d *sourceplugin.Description) { d.Fields = d.Fields[1:] }, false, `unknown field "fake.text"; did you mean "fake.net"?`},
		"the field takes no such": {func(d *sourceplugin.Description) { d.Fields[0].Arg.Required = true }, false, "field fake.text needs an argument in brackets: fake.text"},
	} {
		r := New(Options{})
		p := plugin(tt.change)
		r.Add(fieldstest.NewSource("some", p))
		u, _ := r.Use("fake.text")
		got := text(u.View(t.Context(), recordOf(`{"text":"x"}`)), 0, 0)
		want := map[bool]string{true: "x"}[tt.asked]
		if tt.why != "" {
			want = "missing(final=false): it does not exist: " + tt.why
		}
		if got != want || (len(p.Calls()) == 1) != tt.asked {
			t.Errorf("%s: %q, calls %v", name, got, p.Calls())
		}
	}

	// Of several the one that the event came from, else the first that runs.
	first, own := fieldstest.New(), fieldstest.New()
	r := New(Options{})
	r.Add(fieldstest.NewSource("first", first))
	source := fieldstest.NewSource("fake", own)
	r.Add(source)
	u, _ := r.Use("fake.text")
	text(u.View(t.Context(), recordOf(`{"text":"x"}`)), 0, 0)
	if len(first.Calls()) != 0 || len(own.Calls()) != 1 {
		t.Error(first.Calls(), own.Calls())
	}
	source.Set(nil)
	if got := text(u.View(t.Context(), recordOf(`{"text":"x"}`)), 0, 0); got != "x" || len(first.Calls()) != 1 {
		t.Error(got, first.Calls())
	}
}

// Events that only look like those of a plugin are not shown to one.
func TestForeignEvents(t *testing.T) {
	r := newRig()
	u := r.use(t, "fake.text")
	rec := recordOf(`{"text":"x"}`)
	rec.events = append(rec.events, &event.Event{ID: "1", Type: "falco/fakes", Data: []byte(`{"text":"y"}`)}, &event.Event{ID: "2", Type: "falco/"})
	v := u.View(t.Context(), rec)
	if a, b, c := text(v, 0, 0), text(v, 1, 0), text(v, 2, 0); a != "x" || b != "" || c != "" || r.plugin.Calls()[0].Events != 1 {
		t.Error(a, b, c, r.plugin.Calls())
	}
}

func TestNotRunning(t *testing.T) {
	r := newRig()
	r.source.Set(nil)
	u := r.use(t, "fake.text")
	rec := recordOf(`{"text":"x"}`, `{}`)
	v := u.View(t.Context(), rec)
	if got := text(v, 0, 0); got != "missing(final=false): the plugin of the source fake has not been started yet" {
		t.Error(got)
	}
	if _, err := v.Value(0); err == nil {
		t.Error("a value that is missing is no error")
	}
	r.source.Set(r.plugin)
	if got := text(u.View(t.Context(), rec), 0, 0); got != "x" {
		t.Error(got)
	}
	r.source.Set(nil)
	if got := text(u.View(t.Context(), rec), 0, 0); got != "x" {
		t.Errorf("what was extracted is forgotten: %s", got)
	}
	if got := text(u.View(t.Context(), recordOf(`{"text":"x"}`)), 0, 0); got != "missing(final=false): the plugin of the source fake does not run" {
		t.Error(got)
	}
	if n := testutil.ToFloat64(r.metrics.missing.WithLabelValues(reasonUnavailable)); n != 3 {
		t.Errorf("counted %v", n)
	}
	if n := strings.Count(r.log.String(), "could not be extracted"); n != 1 {
		t.Errorf("logged %d times: %s", n, r.log)
	}
}

// One event with which a plugin fails costs the others nothing, and is known for what it is when
// the plugin has survived it.
func TestOneBadEvent(t *testing.T) {
	r := newRig()
	u := r.use(t, "fake.text")
	var payloads []string
	for i := range 20 {
		payloads = append(payloads, fmt.Sprintf(`{"text":"x%d"}`, i))
	}
	payloads[13] = `{"fail":true}`
	rec := recordOf(payloads...)
	v := u.View(t.Context(), rec)
	for i := range 20 {
		want := fmt.Sprintf("x%d", i)
		if i == 13 {
			want = "missing(final=false): the plugin of the source fake has failed: this event is too much"
		}
		if got := text(v, i, 0); got != want {
			t.Errorf("event %d: %s", i, got)
		}
	}
	calls := len(r.plugin.Calls())
	v = u.View(t.Context(), rec)
	if got := text(v, 13, 0); !strings.HasPrefix(got, "missing(final=true)") {
		t.Error(got)
	}
	text(u.View(t.Context(), rec), 13, 0)
	if got := r.plugin.Calls(); len(got) != calls+1 || got[calls].Events != 1 {
		t.Errorf("calls: %v", got)
	}
	if n := testutil.ToFloat64(r.metrics.missing.WithLabelValues(reasonRefused)); n != 1 {
		t.Errorf("counted %v", n)
	}
}

// A plugin that ends with an event has not refused it.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		u := r.use(t, "fake.text")
		crashing := func() *fieldstest.Plugin {
			p := fieldstest.New()
			p.Before = func(context.Context, []sourceplugin.Event) error {
				r.source.Set(nil)
				return errors.New("broken pipe")
			}
			return p
		}
		// Nor one that is known to have ended before its source knows it.
		ended := fieldstest.New()
		ended.Before = func(context.Context, []sourceplugin.Event) error {
			return fmt.Errorf("read: %w", sourceplugin.ErrExited)
		}
		r.source.Set(ended)
		other := recordOf(`{"text":"x"}`, `{"text":"y"}`)
		for range 3 {
			if got := text(u.View(t.Context(), other), 0, 0); !strings.HasPrefix(got, "missing(final=false)") {
				t.Error(got)
			}
			time.Sleep(time.Minute)
		}
		if n := len(ended.Calls()); n != 3 {
			t.Errorf("it was asked %d times", n)
		}
		rec := recordOf(`{"text":"x"}`)
		for range 3 {
			r.source.Set(crashing())
			if got := text(u.View(t.Context(), rec), 0, 0); !strings.HasPrefix(got, "missing(final=false): the plugin of the source fake has failed: broken pipe") {
				t.Error(got)
			}
		}
		// Nor when its end was not noticed.
		for range 3 {
			p := fieldstest.New()
			p.Before = func(context.Context, []sourceplugin.Event) error { return errors.New("broken pipe") }
			r.source.Set(p)
			if got := text(u.View(t.Context(), rec), 0, 0); !strings.HasPrefix(got, "missing(final=false)") {
				t.Error(got)
			}
		}
		r.source.Set(fieldstest.New())
		if got := text(u.View(t.Context(), rec), 0, 0); got != "x" {
			t.Error(got)
		}
	})
}

// Fields of others with which a plugin cannot work cost nobody else anything.
func TestFieldsOfOthers(t *testing.T) {
	r := newRig()
	mine := r.use(t, "fake.text")
	r.use(t, "fake.value[evil]")
	evil := errors.New("evil")
	p := &picky{Plugin: r.plugin, err: evil}
	r.source.Set(p)
	rec := recordOf(`{"text":"x"}`)
	if got := text(mine.View(t.Context(), rec), 0, 0); got != "x" {
		t.Error(got)
	}
	if calls := r.plugin.Calls(); p.refused != 1 || len(calls) != 1 {
		t.Error(p.refused, calls)
	}
	theirs := r.use(t, "fake.value[evil]")
	if got := text(theirs.View(t.Context(), rec), 0, 0); !strings.HasPrefix(got, "missing") {
		t.Error(got)
	}
}

// picky fails when it is asked for a field with the argument evil.
type picky struct {
	*fieldstest.Plugin
	err     error
	refused int
}

func (p *picky) Extract(ctx context.Context, events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
	for _, f := range fields {
		if f.Arg == "evil" {
			p.refused++
			return sourceplugin.Values{}, p.err
		}
	}
	return p.Plugin.Extract(ctx, events, fields)
}

// A plugin that does not answer costs the timeout once, and is then left alone for a moment.
func TestHang(t *testing.T) {
	for name, obeys := range map[string]bool{"obeys its context": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig()
				u := r.use(t, "fake.text")
				release := make(chan struct{})
				r.plugin.Before = func(ctx context.Context, _ []sourceplugin.Event) error {
					if obeys {
						<-ctx.Done()
						return ctx.Err()
					}
					<-release
					return nil
				}
				begun := time.Now()
				for range 3 {
					got := text(u.View(t.Context(), recordOf(`{"text":"x"}`, `{}`)), 0, 0)
					if got != "missing(final=false): the plugin of the source fake has not answered within 5s" {
						t.Error(got)
					}
				}
				if took := time.Since(begun); took < DefaultTimeout || took > DefaultTimeout+time.Second || len(r.plugin.Calls()) != 1 {
					t.Errorf("it took %s and %d calls", took, len(r.plugin.Calls()))
				}
				for range 10 {
					time.Sleep(mostRest)
					text(u.View(t.Context(), recordOf(`{"text":"x"}`)), 0, 0)
				}
				if n := len(r.plugin.Calls()); !obeys && n != maxStrays {
					t.Errorf("%d calls hang", n)
				}
				close(release)
				synctest.Wait()
				r.source.Set(fieldstest.New())
				if got := text(u.View(t.Context(), recordOf(`{"text":"x"}`)), 0, 0); got != "x" {
					t.Error(got)
				}
			})
		})
	}
}

// Who does not wait any more is no failure of the plugin.
func TestNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		u := r.use(t, "fake.text")
		r.plugin.Before = func(ctx context.Context, _ []sourceplugin.Event) error {
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		rec := recordOf(`{"text":"x"}`)
		go func() { text(u.View(ctx, rec), 0, 0) }()
		synctest.Wait()
		done, stop := context.WithCancel(t.Context())
		stop()
		if got := text(u.View(done, rec), 0, 0); got != "missing(final=false): it was not waited for" {
			t.Error(got)
		}
		if got := text(u.View(ctx, rec), 0, 0); got != "missing(final=false): it was not waited for" {
			t.Error(got)
		}
		r.plugin.Before = nil
		if got := text(u.View(t.Context(), rec), 0, 0); got != "x" {
			t.Error(got)
		}
	})
}

func TestPanic(t *testing.T) {
	r := newRig()
	u := r.use(t, "fake.text")
	r.plugin.Before = func(context.Context, []sourceplugin.Event) error { panic("oops") }
	if got := text(u.View(t.Context(), recordOf(`{}`)), 0, 0); !strings.HasSuffix(got, "it panicked: oops") {
		t.Error(got)
	}
}

// An answer that cannot be is none.
func TestLies(t *testing.T) {
	for name, wrong := range map[string]func(*sourceplugin.Values){
		"no counts":        func(v *sourceplugin.Values) { v.Counts = nil },
		"too many":         func(v *sourceplugin.Values) { v.Counts = append(v.Counts, 0) },
		"counts overflow":  func(v *sourceplugin.Values) { v.Counts[0] = 1<<32 - 1 },
		"lengths overflow": func(v *sourceplugin.Values) { v.Lengths[0] = 1<<32 - 1 },
		"bytes left over":  func(v *sourceplugin.Values) { v.Bytes = append(v.Bytes, 'x') },
		"no list":          func(v *sourceplugin.Values) { v.Counts[0], v.Lengths = 2, append(v.Lengths, 0) },
		"too much":         func(v *sourceplugin.Values) { v.Bytes, v.Lengths[0] = make([]byte, answerBytes+1), answerBytes+1 },
	} {
		r := newRig()
		r.plugin.Wrong = wrong
		u := r.use(t, "fake.text")
		if got := text(u.View(t.Context(), recordOf(`{"text":"x"}`, `{"text":"y"}`)), 0, 0); !strings.HasPrefix(got, "missing(final=false)") {
			t.Errorf("%s: %s", name, got)
		}
	}
	r := newRig()
	r.plugin.Wrong = func(v *sourceplugin.Values) { *v = sourceplugin.Values{} }
	u := r.use(t, "fake.text")
	if got := text(u.View(t.Context(), recordOf(`{"text":"x"}`)), 0, 0); got != "" {
		t.Error(got)
	}
	// Texts of numbers that are none are shown as what they are.
	r.plugin.Wrong = func(v *sourceplugin.Values) { v.Lengths[0], v.Bytes = 2, []byte{1, 2} }
	u = r.use(t, "fake.number")
	v := u.View(t.Context(), recordOf(`{"number":1}`))
	if got := text(v, 0, 0); got != "0102" {
		t.Error(got)
	}
	if x, _ := v.Value(0); x.Len() != 1 {
		t.Error(x)
	} else if _, ok := x.Number(0); ok {
		t.Error("two bytes are a number")
	}
}

// A plugin that always fails is not asked about every event alone.
func TestAlwaysFails(t *testing.T) {
	r := newRig()
	u := r.use(t, "fake.text")
	r.plugin.Before = func(context.Context, []sourceplugin.Event) error { return errors.New("no") }
	payloads := make([]string, 1000)
	for i := range payloads {
		payloads[i] = "{}"
	}
	rec := recordOf(payloads...)
	if got := text(u.View(t.Context(), rec), 999, 0); !strings.HasPrefix(got, "missing(final=false)") {
		t.Error(got)
	}
	if n := len(r.plugin.Calls()); n > maxCalls {
		t.Errorf("%d calls", n)
	}
}

// Many and large events are asked about in parts.
func TestChunks(t *testing.T) {
	r := newRig()
	u := r.use(t, "fake.text")
	large := `{"text":"` + strings.Repeat("x", 600<<10) + `"}`
	v := u.View(t.Context(), recordOf(large, `{"text":"y"}`, large, large, `{"text":"z"}`))
	if a, b, c := text(v, 0, 0), text(v, 1, 0), text(v, 4, 0); len(a) != 600<<10 || b != "y" || c != "z" {
		t.Error(len(a), b, c)
	}
	if calls := r.plugin.Calls(); len(calls) != 3 || calls[0].Events != 2 || calls[2].Events != 2 {
		t.Error(calls)
	}
}

// Payloads outside of events are fetched.
func TestPayloads(t *testing.T) {
	payloads := map[string]error{"gone": fs.ErrNotExist, "broken": errors.New("disk\nfull")}
	r := newRig()
	r.o.Payload = func(_ context.Context, ref string) ([]byte, error) {
		return []byte(`{"text":"` + ref + `"}`), payloads[ref]
	}
	u := r.use(t, "fake.text")
	rec := recordOf(`{"text":"x"}`, "", "", "", `{"text":"y"}`)
	for i, ref := range []string{"", "here", "gone", "broken", ""} {
		if ref != "" {
			rec.events[i].Data, rec.events[i].DataRef = nil, ref
		}
	}
	v := u.View(t.Context(), rec)
	for i, want := range []string{"x", "here", "missing(final=true): its payload was removed", "missing(final=false): its payload cannot be read: disk full", "y"} {
		if got := text(v, i, 0); got != want {
			t.Errorf("%d: %s", i, got)
		}
	}
}

// What is kept is bounded, and goes in the order of its last use.
func TestMemory(t *testing.T) {
	r := newRig()
	r.o.MemoryBytes = 100 << 10
	u := r.use(t, "fake.text")
	payload := `{"text":"` + strings.Repeat("x", 10<<10) + `"}`
	first := recordOf(payload)
	for range 50 {
		text(u.View(t.Context(), first), 0, 0)
		text(u.View(t.Context(), recordOf(payload)), 0, 0)
	}
	if n := len(r.plugin.Calls()); n != 51 {
		t.Errorf("%d calls: what was used was forgotten", n)
	}
	if r.bytes > r.o.MemoryBytes || r.bytes < r.o.MemoryBytes/2 || len(r.tables) != r.recent.Len() {
		t.Errorf("%d bytes in %d, %d tables", r.bytes, len(r.tables), r.recent.Len())
	}
	// What alone is too much is not kept, but works.
	r.o.MemoryBytes = 1 << 10
	rec := recordOf(payload)
	if got := text(u.View(t.Context(), rec), 0, 0); len(got) != 10<<10 || r.bytes > r.o.MemoryBytes {
		t.Error(len(got), r.bytes)
	}
	// Records without a place are not kept.
	rec.seq = 0
	text(u.View(t.Context(), rec), 0, 0)
	if len(r.tables) != r.recent.Len() || r.bytes > r.o.MemoryBytes {
		t.Error(len(r.tables), r.bytes)
	}
}

func TestUses(t *testing.T) {
	r := newRig()
	var names []string
	for i := range MaxInUse {
		names = append(names, fmt.Sprint("f", i))
	}
	u := r.use(t, names...)
	if _, err := r.Use("one more"); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
	again := r.use(t, names[:5]...)
	u.Release()
	u.Release()
	if !reflect.DeepEqual(again.Names(), names[:5]) || len(r.uses) != 5 {
		t.Error(again.Names(), r.uses)
	}
	again.Release()
	if len(r.uses) != 0 {
		t.Error(r.uses)
	}
}

// FuzzAnswer: whatever a plugin answers, a view does not panic, and what it shows is a part of
// the answer.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1}, []byte{1, 1, 1}, []byte("xyz"))
	f.Add([]byte{0, 0, 0, 0}, []byte{}, []byte{})
	f.Add([]byte{0, 0, 2, 0}, []byte{8, 0}, []byte("12345678"))
	f.Add([]byte{1}, []byte{255}, []byte("x"))
	widen := func(b []byte) (list []uint32) {
		for _, c := range b {
			n := uint32(c)
			if c == 255 {
				n = 1<<32 - 1
			}
			list = append(list, n)
		}
		return list
	}
	f.Fuzz(func(t *testing.T, counts, lengths, answer []byte) {
		r := newRig()
		r.plugin.Wrong = func(v *sourceplugin.Values) {
			*v = sourceplugin.Values{Counts: widen(counts), Lengths: widen(lengths), Bytes: answer}
		}
		u := r.use(t, "fake.number", "fake.list")
		v := u.View(t.Context(), recordOf(`{}`, `{}`))
		size := 0
		for i := range 2 {
			for field := range 2 {
				text(v, i, field)
				x, err := v.Value(field)
				if err != nil {
					continue
				}
				for k := range x.Len() {
					size += len(x.part.raw[x.begin+uint32(k)])
					x.Number(k)
					x.Addr(k)
					x.Text(k)
				}
			}
		}
		if size > 2*len(answer) { // each event may have been asked about alone
			t.Errorf("%d bytes of %d", size, len(answer))
		}
	})
}
