package alerting

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/trail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = time.Minute
	source   = "tocsin://test"
)

func openJournal(t *testing.T) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return j
}

// ruleText is a rule about events of the hub.
func ruleText(name, condition, more string) string {
	text := fmt.Sprintf("- rule: %s\n  desc: d\n  condition: %s\n  output: '%s %%event.type %%event.metadata[who]'\n  priority: WARNING\n  source: tocsin\n", name, condition, name)
	for line := range strings.SplitSeq(more, "\n") {
		if line != "" {
			text += "  " + line + "\n"
		}
	}
	return text
}

// setup is an Alerting with all that it needs.
type setup struct {
	t       *testing.T
	journal *journal.Journal
	file    string // of rules
	o       Options

	mu      sync.Mutex
	records []trail.Record
}

func newSetup(t *testing.T, rules string) *setup {
	s := &setup{t: t, journal: openJournal(t), file: filepath.Join(t.TempDir(), "rules.yaml")}
	s.write(rules)
	s.o = Options{
		Journal: s.journal, Paths: []string{s.file}, Fields: fields.New(fields.Options{}), FromStart: true, Reload: 20 * time.Millisecond,
		Source: source, Hostname: "here", Rules: rule.Options{Location: time.UTC},
		Record: func(r trail.Record) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.records = append(s.records, r)
		},
	}
	return s
}

// write replaces the rules, as a careful editor does.
func (s *setup) write(rules string) {
	s.t.Helper()
	if err := os.WriteFile(s.file+".new", []byte(rules), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.file+".new", s.file); err != nil {
		s.t.Fatal(err)
	}
}

// start runs an Alerting until stop is called, or the test ends.
func (s *setup) start() (a *Alerting, stop func()) {
	s.t.Helper()
	a, err := New(s.o)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		})
	}
	s.t.Cleanup(stop)
	return a, stop
}

// told returns what was recorded of a kind.
func (s *setup) told(what string) (list []trail.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if r.What == what {
			list = append(list, r)
		}
	}
	return list
}

func (s *setup) append(events ...*event.Event) {
	s.t.Helper()
	for len(events) > 0 {
		n := min(len(events), 100)
		if _, err := s.journal.Append(s.t.Context(), events[:n]...); err != nil {
			s.t.Fatal(err)
		}
		events = events[n:]
	}
}

// alerts returns the events of alerts in the journal.
func (s *setup) alerts() (list []*event.Event) {
	s.t.Helper()
	end := s.journal.End()
	reader := s.journal.Read(journal.Position{})
	for !end.IsZero() {
		b, err := reader.Next(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			if e := b.Event(i); strings.HasPrefix(e.Type, severity.AlertTypes) {
				list = append(list, e)
			}
		}
		if b.End().Compare(end) >= 0 {
			return list
		}
	}
	return list
}

func outputs(alerts []*event.Event) string {
	var list []string
	for _, e := range alerts {
		text, _ := e.Metadata.Text(severity.MetadataOutput)
		list = append(list, text)
	}
	return strings.Join(list, " | ")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// judged waits until all events of the journal are.
func (s *setup) judged(a *Alerting) {
	s.t.Helper()
	eventually(s.t, "all is judged", func() bool {
		st, end := a.Status(), s.journal.End()
		return st.At.Compare(end) >= 0
	})
}

func app(n int, typ string, metadata ...string) *event.Event {
	e := event.NewNotification(typ, metadata...)
	e.ID, e.Source, e.Namespace, e.Path = fmt.Sprint("event-", n), "app://test", "team/", "secret/x"
	e.Metadata.Set(event.MetadataPath, e.Path)
	return e
}

func TestAlertsAreEvents(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("A rule!", `event.metadata[who] = me`, "tags: [mitre_persistence, T1098.001, x]"))
	a, _ := s.start()
	s.append(app(1, "app/a", "who", "me"), app(2, "app/b", "who", "you"), app(3, "app/c"))
	s.judged(a)
	alerts := s.alerts()
	if len(alerts) != 1 {
		t.Fatalf("%d alerts: %s", len(alerts), outputs(alerts))
	}
	e := alerts[0]
	if e.Type != "alert/a-rule" || e.Path != "sys/rules/a-rule" || e.Namespace != "team/" || e.Source != source || severity.Of(e) != severity.Warning {
		t.Errorf("got %+v", e)
	}
	for key, want := range map[string]string{
		"path": "sys/rules/a-rule", "priority": "Warning", "rule": "A rule!", "output": "A rule! app/a me", "tags": "T1098.001,mitre_persistence,x", "mitre_tactics": "persistence",
		"mitre_techniques": "T1098.001", "event_source": "tocsin", "event_id": "event-1", "event_type": "app/a", "event_path": "secret/x", "count": "1",
	} {
		if got, _ := e.Metadata.Text(key); got != want {
			t.Errorf("metadata %s is %q, not %q", key, got, want)
		}
	}
	if n, _ := e.Extensions.Get("severitynumber"); n.Value != "13" || !n.JSON {
		t.Errorf("severity number %+v", n)
	}
	var data map[string]any
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	if data["time"] != e.Time.UTC().Format("2006-01-02T15:04:05.000000000Z") {
		t.Errorf("time %v", data["time"])
	}
	delete(data, "time")
	got, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"count":1,"event_ids":["event-1"],"hostname":"here","output":"A rule! app/a me","output_fields":{"event.metadata[who]":"me","event.type":"app/a"},"priority":"Warning","rule":"A rule!","source":"tocsin","tags":["T1098.001","mitre_persistence","x"]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := a.Health(); err != nil {
		t.Error(err)
	}
	st := a.Status()
	if st.State != "judging" || len(st.Rules) != 1 || st.Rules[0].Alerts != 1 || st.Rules[0].State != "active" || st.Events < 3 {
		t.Errorf("got %+v", st)
	}
	if told := s.told("rules-loaded"); len(told) != 1 {
		t.Errorf("told %+v", told)
	}
}

// What windows know survives a restart, and nothing is judged twice.
func TestResume(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("many", `event.type = "app/fail"`, "window: {count: 3, within: 1h, by: ['event.metadata[who]']}")+ruleText("each", `event.type = "app/a"`, ""))
	_, stop := s.start()
	s.append(app(1, "app/fail", "who", "me"), app(2, "app/fail", "who", "me"), app(3, "app/a"))
	eventually(t, "an alert", func() bool { return len(s.alerts()) == 1 })
	stop()
	s.append(app(4, "app/fail", "who", "me"), app(5, "app/a"))
	a, stop := s.start()
	s.judged(a)
	stop()
	if got := outputs(s.alerts()); got != "each app/a <NA> | many app/fail me | each app/a <NA>" {
		t.Errorf("got %s", got)
	}
}

// forgetful is a journal that stores no progress any more.
type forgetful struct {
	*journal.Journal
	off chan struct{} // closed: from now on
}

func (f *forgetful) State(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	select {
	case <-f.off:
		return nil, errors.New("not now")
	default:
		return f.Journal.State(ctx, bucket)
	}
}

// What is stored for a large memory does not become more and more, also not by attempts that fail.
func TestLargeMemory(t *testing.T) {
	t.Parallel()
	f := &forgetful{openJournal(t), make(chan struct{})}
	r := record{journal: f}
	memory := make([]byte, 2*inlineBytes)
	rand.NewChaCha8([32]byte{}).Read(memory)
	save := func() error { return r.save(t.Context(), journal.Position{}, memory) }
	if err := save(); err != nil {
		t.Fatal(err)
	}
	close(f.off)
	for range 3 {
		if save() == nil {
			t.Fatal("it is no failure")
		}
	}
	f.off = make(chan struct{})
	for range 10 {
		if err := save(); err != nil {
			t.Fatal(err)
		}
	}
	objects, err := f.Objects(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := objects.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%d objects, %v", len(list), err)
	}
	if list, err := objects.List(t.Context(), jetstream.ListObjectsShowDeleted()); err != nil || len(list) > 5 {
		t.Errorf("%d objects with those that were removed, %v", len(list), err)
	}
	again := record{journal: f}
	if _, is, known, err := again.load(t.Context()); err != nil || !known || !bytes.Equal(is, memory) {
		t.Errorf("read back: %t, %v", known, err)
	}
}

// After a crash the events behind the stored cursor are judged again, and alerts that are in the
// journal already do not come again.
func TestAfterACrash(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("many", `event.type = "app/fail"`, "window: {count: 3, within: 1h}")+ruleText("each", `event.type = "app/a"`, ""))
	f := &forgetful{s.journal, make(chan struct{})}
	s.o.Journal = f
	a, stop := s.start()
	s.append(app(1, "app/fail"), app(2, "app/a"))
	s.judged(a)
	eventually(t, "the cursor is stored", func() bool {
		r := record{journal: s.journal}
		at, _, _, err := r.load(t.Context())
		return err == nil && at.Compare(s.journal.End()) >= 0
	})
	close(f.off)
	s.append(app(3, "app/fail"), app(4, "app/fail"), app(5, "app/a"))
	eventually(t, "alerts", func() bool { return len(s.alerts()) == 3 })
	eventually(t, "the trouble is told", func() bool { return a.Health() != nil })
	stop()

	s.o.Journal = s.journal
	a, stop = s.start()
	s.append(app(6, "app/a"))
	s.judged(a)
	stop()
	after := s.alerts()
	if got := outputs(after); got != "each app/a <NA> | many app/fail <NA> | each app/a <NA> | each app/a <NA>" {
		t.Errorf("got %s", got)
	}
	if n := a.stats.repeats.Load(); n != 2 {
		t.Errorf("%d repeats", n)
	}
	seen := make(map[string]bool)
	for _, e := range after {
		if seen[e.ID] {
			t.Errorf("the alert %s is there twice", e.ID)
		}
		seen[e.ID] = true
	}
}

// Rules that change all the time under load: each event is judged once, by one of them.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	text := func(version int) string {
		return ruleText("versioned", `event.type = "app/a" and event.path exists`, fmt.Sprintf("# version %d", version)) +
			ruleText("many", `event.type = "app/a"`, "window: {count: 100, within: 1h}") + ruleText(fmt.Sprint("other", version), "event.type = never", "")
	}
	s := newSetup(t, text(0))
	a, _ := s.start()
	const events = 5000
	var reloads atomic.Int64
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; i < events; i += 10 {
			for reloads.Load() < int64(i/1000) && t.Context().Err() == nil { // there are some all the time
				time.Sleep(time.Millisecond)
			}
			var unit []*event.Event
			for k := range 10 {
				unit = append(unit, app(i+k, "app/a"))
			}
			if _, err := s.journal.Append(t.Context(), unit...); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for running := true; running; reloads.Add(1) {
		s.write(text(int(reloads.Load()) + 1))
		if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-written:
			running = false
		default:
		}
	}
	s.judged(a)
	of := make(map[string]int)
	many := 0
	for _, e := range s.alerts() {
		if e.Type == "alert/many" {
			many++
			continue
		}
		id, _ := e.Metadata.Text(MetadataEventID)
		of[id]++
	}
	for i := range events {
		if n := of[fmt.Sprint("event-", i)]; n != 1 {
			t.Fatalf("event %d has %d alerts, after %d reloads", i, n, reloads.Load())
		}
	}
	if many != events/100 {
		t.Errorf("the window has raised %d alerts instead of %d: it lost its memory", many, events/100)
	}
}

func TestRefusedRulesChangeNothing(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("old", `event.type = "app/a"`, ""))
	a, _ := s.start()
	s.append(app(1, "app/a"))
	s.judged(a)
	s.write(ruleText("new", `event.typ = "app/a"`, ""))
	eventually(t, "the change is refused", func() bool { return len(s.told("rules-refused")) == 1 })
	err := a.Health()
	if err == nil || !strings.Contains(err.Error(), "rules.yaml:3:") || !strings.Contains(err.Error(), "the 1 rules from before judge") {
		t.Errorf("health: %v", err)
	}
	if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); !errors.Is(err, ErrRefused) {
		t.Errorf("reload: %v", err)
	}
	s.append(app(2, "app/a"))
	s.judged(a)
	s.write(ruleText("new", `event.type = "app/a"`, ""))
	eventually(t, "the change is loaded", func() bool { return len(s.told("rules-loaded")) == 2 })
	if err := a.Health(); err != nil {
		t.Error(err)
	}
	s.append(app(3, "app/a"))
	s.judged(a)
	if got := outputs(s.alerts()); got != "old app/a <NA> | old app/a <NA> | new app/a <NA>" {
		t.Errorf("got %s", got)
	}
	if l, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); err != nil || !l.Unchanged {
		t.Errorf("got %+v, %v", l, err)
	}
}

// Without rules that can be loaded events wait, and are judged by the first that can.
func TestBrokenAtTheStart(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "- rule: [")
	a, _ := s.start()
	s.append(app(1, "app/a"))
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "no rules are there") {
		t.Errorf("health: %v", err)
	}
	s.write(ruleText("new", `event.type = "app/a"`, ""))
	eventually(t, "an alert", func() bool { return len(s.alerts()) == 1 })
}

func TestDirectories(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "")
	dir := filepath.Join(t.TempDir(), "rules.d")
	s.o.Paths = []string{dir}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("b.yaml", ruleText("x", `event.type = "app/b"`, "tags: [b]"))
	write("a.yml", ruleText("x", `event.type = "app/a"`, ""))
	write(".hidden.yaml", "- [")
	write("a.test.yaml", "tests: []")
	write("c.yaml.bak", "- [")
	a, _ := s.start()
	eventually(t, "the rules judge", func() bool { return a.Status().State == "judging" })
	if st := a.Status(); st.Files != 2 || len(st.Rules) != 1 || fmt.Sprint(st.Rules[0].Tags) != "[b]" {
		t.Errorf("got %+v", st)
	}
	write("d.yaml", ruleText("y", `event.type = "app/b"`, ""))
	eventually(t, "the new file is loaded", func() bool { return len(a.Status().Rules) == 2 })
	d := filepath.Join(dir, "d.yaml")
	if err := errors.Join(os.Rename(d, d+".target"), os.Symlink(d+".target", d)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); err != nil {
		t.Error(err)
	}
	if err := os.Rename(d+".target", d+".gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Reload(t.Context(), ReasonRequest, trail.Who{}); err == nil || len(a.Status().Rules) != 2 {
		t.Errorf("a link to nothing takes rules away: %v, %d rules", err, len(a.Status().Rules))
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the missing directory is told", func() bool { return a.Health() != nil })
	if st := a.Status(); len(st.Rules) != 2 {
		t.Errorf("got %+v", st)
	}
}

const fakeRule = "- rule: number\n  desc: d\n  condition: fake.number > 5\n  output: '%fake.text'\n  priority: INFO\n  source: fakes\n"

// Events wait for a plugin that is not known yet, and for one that does not run.
func TestWaitingForPlugins(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule)
	from := fieldstest.NewSource("fake", nil)
	s.o.Fields.Add(from)
	s.append(fieldstest.Event(`{"number": 6, "text": "first"}`))
	a, _ := s.start()
	eventually(t, "the rule waits", func() bool { return a.Status().State == "waiting" })
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "rules wait for plugins: number, because the plugin of the source fake has not been started yet") {
		t.Errorf("health: %v", err)
	}
	plugin := fieldstest.New()
	from.Set(plugin)
	eventually(t, "an alert", func() bool { return outputs(s.alerts()) == "first" })
	from.Set(nil)
	s.append(fieldstest.Event(`{"number": 7, "text": "second"}`))
	eventually(t, "the event waits", func() bool { return a.Status().State == "waiting" })
	from.Set(plugin)
	eventually(t, "another alert", func() bool { return outputs(s.alerts()) == "first | second" })
	eventually(t, "nothing waits", func() bool { return a.Status().State == "judging" && a.Health() == nil })
	if st := a.Status(); st.Missing != 0 {
		t.Errorf("%d events were judged without a value", st.Missing)
	}
}

// What their windows remember is there again when the plugin is known again after a start, even if
// the hub was stopped before.
func TestMemoryWaitsForPlugins(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule+"  window: {count: 2, within: 1h}\n")
	plugin := fieldstest.New()
	from := fieldstest.NewSource("fake", plugin)
	s.o.Fields.Add(from)
	a, stop := s.start()
	s.append(fieldstest.Event(`{"number": 6, "text": "first"}`))
	s.judged(a)
	stop()
	for range 2 {
		s.o.Fields, from = fields.New(fields.Options{}), fieldstest.NewSource("fake", nil)
		s.o.Fields.Add(from)
		stop()
		a, stop = s.start()
		eventually(t, "the rule waits", func() bool { return a.Status().State == "waiting" })
	}
	from.Set(plugin)
	s.append(fieldstest.Event(`{"number": 7, "text": "second"}`))
	eventually(t, "an alert about both", func() bool { return outputs(s.alerts()) == "second" })
}

// Rules that ask for a field that the plugin turns out not to have are refused once, and again only
// when something has changed.
func TestRefusedForAPlugin(t *testing.T) {
	t.Parallel()
	s := newSetup(t, strings.ReplaceAll(fakeRule, "fake.number", "fake.nothing"))
	s.o.Reload = -1
	from := fieldstest.NewSource("fake", nil)
	s.o.Fields.Add(from)
	a, err := New(s.o)
	if err != nil {
		t.Fatal(err)
	}
	var tried plugins
	a.loadForPlugins(t.Context(), &tried)
	from.Set(fieldstest.New())
	for range 5 {
		a.loadForPlugins(t.Context(), &tried)
	}
	if told := s.told("rules-refused"); len(told) != 1 || a.Health() == nil {
		t.Errorf("refused %d times, health: %v", len(told), a.Health())
	}
}

// But not for ever.
func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule+ruleText("own", `event.type = "app/a"`, ""))
	s.o.Patience = 300 * time.Millisecond
	from := fieldstest.NewSource("fake", nil)
	s.o.Fields.Add(from)
	s.append(fieldstest.Event(`{"number": 6, "text": "first"}`), app(1, "app/a"))
	a, _ := s.start()
	eventually(t, "an alert", func() bool { return outputs(s.alerts()) == "own app/a <NA>" })
	if told := s.told("rules-waiting"); len(told) != 1 {
		t.Errorf("told %+v", told)
	}
	plugin := fieldstest.New()
	from.Set(plugin)
	eventually(t, "the rule judges", func() bool { return a.Status().State == "judging" })
	from.Set(nil)
	s.append(fieldstest.Event(`{"number": 6, "text": "second"}`), app(2, "app/a"))
	eventually(t, "another alert", func() bool { return outputs(s.alerts()) == "own app/a <NA> | own app/a <NA>" })
	if st := a.Status(); st.State != "blind" || st.Missing != 1 || len(s.told("rules-blind")) != 1 {
		t.Errorf("got %+v", st)
	}
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "judged without a field of a plugin") {
		t.Errorf("health: %v", err)
	}
	from.Set(plugin)
	eventually(t, "it sees again", func() bool {
		s.append(fieldstest.Event(`{"number": 7, "text": "third"}`))
		return a.Status().State == "judging"
	})
	if len(s.told("rules-sighted")) != 1 {
		t.Error("that it sees again is not told")
	}
	eventually(t, "the last alert", func() bool { return strings.HasSuffix(outputs(s.alerts()), "third") })
}

// A payload that cannot be read for too long does not leave the rules blind when payloads can be
// read again.
func TestPayloadsComeBack(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("large", "event.data[/n] exists", ""))
	s.o.Patience = 100 * time.Millisecond
	var broken atomic.Bool
	s.o.Payload = func(context.Context, string) ([]byte, error) {
		if broken.Load() {
			return nil, errors.New("broken")
		}
		return []byte(`{"n": 1}`), nil
	}
	large := func(n int) *event.Event {
		e := app(n, "app/large")
		e.DataRef = "objects/large"
		return e
	}
	broken.Store(true)
	a, _ := s.start()
	s.append(large(1))
	eventually(t, "it is judged without", func() bool { return a.Status().State == "blind" && a.Status().Missing == 1 })
	broken.Store(false)
	s.append(large(2))
	eventually(t, "an alert", func() bool { return len(s.alerts()) == 1 })
	eventually(t, "it sees again", func() bool { return a.Status().State == "judging" && a.Health() == nil })
}

func TestHeldBack(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("held", `event.type = "app/a"`, "throttle: {every: 200ms}"))
	a, _ := s.start()
	var events []*event.Event
	for i := range 50 {
		events = append(events, app(i, "app/a"))
	}
	s.append(events...)
	eventually(t, "what was held back is told", func() bool {
		all := s.alerts()
		n := len(all)
		for _, e := range all {
			text, _ := e.Metadata.Text(MetadataSuppressed)
			k := 0
			fmt.Sscan(text, &k)
			n += k
			if strings.Contains(outputs([]*event.Event{e}), "held back") {
				n-- // it stands for itself
			}
		}
		return n == 50
	})
	if st := a.Status(); st.Rules[0].Alerts >= 50 || st.Held == 0 {
		t.Errorf("got %+v", st)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("counted", `event.type = "app/a"`, "")+ruleText("off", `event.type exists`, "enabled: false"))
	reg := prometheus.NewPedanticRegistry()
	s.o.Registry = reg
	a, _ := s.start()
	s.append(app(1, "app/a"), app(2, "app/a"), app(3, "app/b"))
	s.judged(a)
	values := make(map[string]float64)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"tocsin_rules_alerts_total Warning counted": 2, "tocsin_rules_events_total tocsin": 3, "tocsin_rules_loaded active": 1, "tocsin_rules_loaded disabled": 1,
		"tocsin_rules_reloads_total loaded": 1, "tocsin_rules_reloads_total refused": 0, "tocsin_rules_refused": 0, "tocsin_rules_missing_values_total": 0,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v, not %v", name, got, want)
		}
	}
}
