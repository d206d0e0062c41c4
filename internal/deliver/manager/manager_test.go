package manager

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// Sinks of the file and of run time send, and go on after a restart where they were.
func TestBoth(t *testing.T) {
	b := newBench(t)
	b.o.Sinks = []config.Sink{fileSink("file-one", nil)}
	b.open()
	i := b.put("run-one", hook)
	if i.Origin != API || i.Created.IsZero() || i.Health != nil || i.Definition.Webhook.URL != "https://hooks.example.com/a" {
		t.Errorf("the new sink: %+v", i)
	}
	b.awaitCondition("run-one", deliver.Running)
	b.append("1", "2")
	b.awaitGot("file-one", "1", "2")
	b.awaitGot("run-one", "1", "2")
	b.reopen()
	b.append("3")
	b.awaitGot("file-one", "1", "2", "3")
	b.awaitGot("run-one", "1", "2", "3")
	list, err := b.m.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != "file-one" || list[0].Origin != File || list[1].Name != "run-one" || list[1].Origin != API {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if created := list[1].Created; !created.Equal(i.Created) {
		t.Errorf("created %v, was %v", created, i.Created)
	}
	b.m.Reopen()
	b.receiver.mu.Lock()
	if b.receiver.reopen != 2 {
		t.Errorf("%d sinks were reopened", b.receiver.reopen)
	}
	b.receiver.mu.Unlock()
	if report := b.o.Health.Report(); !report.OK() || len(report.Checks) != 2 {
		t.Errorf("health: %+v", report)
	}
}

// A sink that is replaced goes on at its place; counters and the time of making go on too.
func TestReplace(t *testing.T) {
	b := newBench(t).open()
	first := b.put("a", hook)
	b.awaitCondition("a", deliver.Running)
	b.append("1")
	b.awaitGot("a", "1")
	if err := b.m.Pause(t.Context(), "a", "test"); err != nil {
		t.Fatal(err)
	}
	b.append("2")
	i := b.put("a", strings.Replace(hook, "com/a", "com/b", 1))
	if !i.Created.Equal(first.Created) {
		t.Errorf("created %v, was %v", i.Created, first.Created)
	}
	b.awaitCondition("a", deliver.Paused)
	if err := b.m.Resume(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	b.awaitGot("a", "1", "2")
	await(t, "counters", func() bool { return b.info("a").Status.Delivered == 2 })
	if got := b.info("a").Definition.Webhook.URL; got != "https://hooks.example.com/b" {
		t.Errorf("the url is %s", got)
	}
	// One that cannot be made changes nothing.
	for what, text := range map[string]string{
		"not made":  strings.Replace(hook, "com/a", "com/unmakeable", 1),
		"not valid": "type: webhook\nwebhook: {urll: a}\n",
	} {
		if _, _, err := b.m.Put(t.Context(), "a", []byte(text)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	b.append("3")
	b.awaitGot("a", "1", "2", "3")
	b.reopen()
	b.append("4")
	b.awaitGot("a", "1", "2", "3", "4")
}

// What is refused is refused with what is wrong, and nothing is stored.
func TestRefused(t *testing.T) {
	b := newBench(t)
	b.o.Sinks = []config.Sink{fileSink("file-one", nil)}
	b.o.Delivery.MaxSinks = 2
	b.open()
	for name, test := range map[string]struct {
		name, text, want string
		err              error
	}{
		"of the file":   {"file-one", hook, "change it there", ErrInFile},
		"stdout":        {"a", "type: stdout", "only the configuration file of the hub can say that", nil},
		"secret kept":   {"a", strings.Replace(hook, "com/a'", "com/a', bearer_token: <secret>", 1), "there is no sink yet that has one", nil},
		"cannot be":     {"a", strings.Replace(hook, "com/a", "com/unmakeable", 1), "choose another", nil},
		"file path":     {"a", "type: file\nfile: {path: /etc/cron.d/x}", "is not below", nil},
		"relative path": {"a", "type: file\nfile: {path: x}", "", nil},
	} {
		_, _, err := b.m.Put(t.Context(), test.name, []byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) || test.err != nil && !errors.Is(err, test.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.put("a", hook)
	if _, _, err := b.m.Put(t.Context(), "b", []byte(hook)); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
	if _, err := b.m.Delete(t.Context(), "file-one", false); !errors.Is(err, ErrInFile) {
		t.Errorf("delete one of the file: %v", err)
	}
	if _, err := b.m.Delete(t.Context(), "c", false); !errors.Is(err, ErrNoSink) {
		t.Errorf("delete none: %v", err)
	}
	for what, err := range map[string]error{
		"pause":  b.m.Pause(t.Context(), "c", ""),
		"resume": b.m.Resume(t.Context(), "c"),
		"cancel": b.m.CancelReplay(t.Context(), "c", "x"),
	} {
		if !errors.Is(err, ErrNoSink) {
			t.Errorf("%s none: %v", what, err)
		}
	}
	b.reopen()
	if list, err := b.m.List(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("after a restart: %+v, %v", list, err)
	}
}

// A sink that was removed leaves its place and its dead letters, or not.
func TestDelete(t *testing.T) {
	b := newBench(t).open()
	b.put("a", hook)
	b.awaitCondition("a", deliver.Running)
	b.append("1")
	b.awaitGot("a", "1")
	b.receiver.say("a", deliver.Result{Outcome: deliver.Refused, Status: 400, Reason: "no"})
	b.append("2")
	await(t, "a dead letter", func() bool { return b.info("a").Status.DeadLetters == 1 })
	d, err := b.m.Delete(t.Context(), "a", true)
	if err != nil || !d.Kept || d.DeadLetters != 1 || d.DeadLetterBytes == 0 {
		t.Errorf("deleted: %+v, %v", d, err)
	}
	b.append("3")
	check := func() {
		t.Helper()
		list, err := b.m.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Origin != Removed || list[0].Status.DeadLetters != 1 || list[0].Status.LagEvents != 1 {
			t.Errorf("list: %+v, %v", list, err)
		}
		if letters, err := b.m.Letters(t.Context(), "a", 0, 10); err != nil || len(letters) != 1 || letters[0].Event.ID != "2" {
			t.Errorf("letters: %+v, %v", letters, err)
		}
	}
	check()
	if report := b.o.Health.Report(); !report.OK() || len(report.Checks) != 0 {
		t.Errorf("health: %+v", report)
	}
	b.reopen()
	check()
	b.receiver.say("a", deliver.Result{})
	b.put("a", hook) // goes on
	b.awaitGot("a", "1", "3")
	if d, err = b.m.Delete(t.Context(), "a", false); err != nil || d.Kept || d.DeadLetters != 1 {
		t.Errorf("dropped: %+v, %v", d, err)
	}
	if _, err := b.m.Get(t.Context(), "a"); !errors.Is(err, ErrNoSink) {
		t.Errorf("get: %v", err)
	}
	b.put("a", hook) // begins at the end
	b.awaitCondition("a", deliver.Running)
	b.append("4")
	b.awaitGot("a", "1", "3", "4")
	if d, err = b.m.Delete(t.Context(), "a", true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.m.Delete(t.Context(), "a", false); err != nil { // what was left
		t.Fatal(err)
	}
	b.reopen()
	if list, err := b.m.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("after all was dropped: %+v, %v", list, err)
	}
}

// The names of the file come first; a stored sink of the same name rests meanwhile.
func TestNameOfFile(t *testing.T) {
	b := newBench(t).open()
	b.put("a", withSecret("s3cret"))
	b.awaitCondition("a", deliver.Running)
	b.append("1")
	b.awaitGot("a", "1")
	b.o.Sinks = []config.Sink{fileSink("a", nil)}
	b.reopen()
	if i := b.info("a"); i.Origin != File || i.Definition.Webhook.BearerToken.IsSet() {
		t.Errorf("with one in the file: %+v", i)
	}
	b.append("2")
	b.awaitGot("a", "1", "2")
	b.o.Sinks = nil
	b.reopen()
	if i := b.info("a"); i.Origin != API || i.Health != nil {
		t.Errorf("without: %+v", i)
	}
	b.append("3")
	b.awaitGot("a", "1", "2", "3")
}

// A sink of the file that cannot be made keeps the hub from starting; one that was added at
// run time is kept, and red.
func TestCannotBeMade(t *testing.T) {
	b := newBench(t)
	b.o.Sinks = []config.Sink{fileSink("one", nil), fileSink("two", func(s *config.Sink) { s.Webhook.URL = "https://unmakeable" })}
	err := b.tryOpen()
	if err == nil || !strings.Contains(err.Error(), "sinks[1] (two): url: this one cannot be made; choose another") {
		t.Fatalf("open: %v", err)
	}
	if b.receiver.open != 0 {
		t.Errorf("%d sinks are not closed", b.receiver.open)
	}
	b.m, b.o.Sinks = nil, nil
	b.reopen()
	b.put("a", hook)
	b.put("b", hook)
	b.awaitCondition("a", deliver.Running)
	b.awaitCondition("b", deliver.Running)
	b.append("1")
	b.awaitGot("a", "1")
	b.awaitGot("b", "1")
	await(t, "the place of a is stored", func() bool {
		st, ok, err := b.m.sinks["a"].store.Load(t.Context())
		return ok && err == nil && st.Through.Ordinal == 0 && !st.Through.IsZero()
	})
	// As another version of the program, or another machine, finds it.
	r := record{Version: recordVersion, Created: time.Unix(1, 0), Updated: time.Unix(1, 0), Definition: strings.Replace(hook, "com/a", "com/unmakeable", 1)}
	if err := b.m.store(t.Context(), "a", r); err != nil {
		t.Fatal(err)
	}
	r.Definition = "type: webhook\nfuture: 1\n"
	if err := b.m.store(t.Context(), "c", r); err != nil {
		t.Fatal(err)
	}
	kv, err := b.m.definitions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"d": `{"version":2}`, "e": `nothing`} {
		if _, err := kv.PutString(t.Context(), name, text); err != nil {
			t.Fatal(err)
		}
	}
	b.reopen()
	for name, want := range map[string]string{"a": "choose another", "c": `unknown key "future"`, "d": "a newer version of tocsin stored it", "e": "cannot be read"} {
		i := b.info(name)
		if i.Origin != API || i.Problem == nil || !errors.Is(i.Problem, ErrBroken) || !strings.Contains(i.Problem.Error(), want) || !strings.Contains(i.Problem.Error(), "write it again, or remove it") {
			t.Errorf("%s: %+v", name, i.Problem)
		}
		if err := b.m.Pause(t.Context(), name, ""); !errors.Is(err, ErrBroken) {
			t.Errorf("pause %s: %v", name, err)
		}
	}
	if i := b.info("a"); i.Status.LagEvents != 0 || i.Status.Position.IsZero() {
		t.Errorf("the place of a broken one: %+v", i.Status)
	}
	if report := b.o.Health.Report(); report.OK() || !report.Ready || len(report.Checks) != 5 {
		t.Errorf("health: %+v", report)
	}
	b.append("2")
	b.awaitGot("b", "1", "2") // the other runs
	b.put("a", hook)
	b.awaitGot("a", "1", "2")
	for _, name := range []string{"c", "d", "e"} {
		if _, err := b.m.Delete(t.Context(), name, false); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if report := b.o.Health.Report(); !report.OK() {
		t.Errorf("health: %+v", report)
	}
}

// A definition that says disabled is obeyed, also when it does not say so any more.
func TestDisabledByDefinition(t *testing.T) {
	b := newBench(t)
	b.o.Sinks = []config.Sink{fileSink("a", func(s *config.Sink) { s.Disabled = true })}
	b.open()
	b.awaitCondition("a", deliver.Disabled)
	b.append("1")
	if err := b.m.Resume(t.Context(), "a"); !errors.Is(err, ErrConflict) {
		t.Errorf("resume: %v", err)
	}
	b.reopen()
	b.awaitCondition("a", deliver.Disabled)
	b.append("2")
	b.o.Sinks[0].Disabled = false
	b.reopen()
	b.awaitGot("a", "1", "2")
	// What somebody has disabled by hand stays so.
	if err := b.m.Disable(t.Context(), "a", "broken"); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	b.awaitCondition("a", deliver.Disabled)
	if held := b.info("a").Status.Held; held.Reason != "broken" {
		t.Errorf("held: %+v", held)
	}
}

func TestLettersAndReplays(t *testing.T) {
	b := newBench(t).open()
	b.put("a", hook)
	b.awaitCondition("a", deliver.Running)
	b.receiver.say("a", deliver.Result{Outcome: deliver.Refused, Status: 400, Reason: "no"})
	b.append("1", "2", "3", "4")
	await(t, "dead letters", func() bool { return b.info("a").Status.DeadLetters == 4 })
	letters, err := b.m.Letters(t.Context(), "a", 0, 10)
	if err != nil || len(letters) != 4 || letters[0].Status != 400 || letters[0].Cause != "refused" {
		t.Fatalf("letters: %+v, %v", letters, err)
	}
	ids := make(map[string]uint64)
	for _, l := range letters {
		ids[l.Event.ID] = l.ID
	}
	if l, err := b.m.Letter(t.Context(), "a", ids["2"]); err != nil || l.Event.ID != "2" {
		t.Errorf("letter: %+v, %v", l, err)
	}
	if _, err := b.m.Letter(t.Context(), "a", 999); !errors.Is(err, deliver.ErrNoLetter) {
		t.Errorf("no letter: %v", err)
	}
	if n, err := b.m.Purge(t.Context(), "a", []uint64{ids["1"], 999}, 0); n != 1 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	b.receiver.say("a", deliver.Result{})
	if id, n, err := b.m.Redrive(t.Context(), "a", deliver.Letters{IDs: []uint64{ids["2"]}}); id == "" || n != 1 || err != nil {
		t.Errorf("redrive: %q, %d, %v", id, n, err)
	}
	if _, _, err := b.m.Redrive(t.Context(), "a", deliver.Letters{IDs: []uint64{999}}); !errors.Is(err, deliver.ErrNoLetter) {
		t.Errorf("redrive of none: %v", err)
	}
	b.awaitGot("a", "2")
	await(t, "the letter is gone", func() bool { n, _, _ := b.m.Count(t.Context(), "a"); return n == 2 })
	soon := time.Now()
	defer func() {
		await(t, "the count", func() bool { return b.info("a").Status.DeadLetters == 0 })
		if time.Since(soon) > 5*time.Second {
			t.Error("what was removed is counted late")
		}
	}()
	if n, err := b.m.Purge(t.Context(), "a", nil, AllLetters); n != 2 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	id, r, err := b.m.Replay(t.Context(), "a", "oldest", "3")
	if err != nil || id == "" || r.Until.Ordinal != 2 {
		t.Fatalf("replay: %q, %+v, %v", id, r, err)
	}
	b.awaitGot("a", "2", "1", "2", "3")
	for what, test := range map[string]struct {
		since, until string
		want         error
	}{
		"nothing":   {"0s", "", ErrRange},
		"backwards": {"3", "1", ErrRange},
		"no event":  {"nobody", "", journal.ErrNotFound},
		"no time":   {"2026-13-01", "", journal.ErrBadSince},
		"no until":  {"oldest", "-5m", journal.ErrBadSince},
	} {
		if _, _, err := b.m.Replay(t.Context(), "a", test.since, test.until); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := b.m.CancelReplay(t.Context(), "a", "x"); !errors.Is(err, deliver.ErrNoReplay) {
		t.Errorf("cancel: %v", err)
	}
	attempts, err := b.m.Attempts("a")
	if err != nil || len(attempts) == 0 {
		t.Errorf("attempts: %+v, %v", attempts, err)
	}
}

func TestTest(t *testing.T) {
	b := newBench(t)
	b.o.Sample = func(eventType string) (*event.Event, bool) {
		return &event.Event{ID: "sample", Type: eventType, Source: "x", Time: time.Unix(1, 0)}, eventType == "shop/order"
	}
	b.open()
	b.put("a", hook)
	if err := b.m.Pause(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	result, e, err := b.m.Test(t.Context(), "a", "")
	if err != nil || result.Outcome != deliver.Delivered || e.Type != TestType || e.Path != "sys/sinks/a" {
		t.Errorf("test: %+v, %+v, %v", result, e, err)
	}
	if err := event.DefaultLimits.Check(e); err != nil {
		t.Errorf("the event: %v", err)
	}
	b.receiver.say("a", deliver.Result{Outcome: deliver.Refused, Status: 404, Reason: "nobody here"})
	result, e, err = b.m.Test(t.Context(), "a", "shop/order")
	if err != nil || result.Status != 404 || e.Type != "shop/order" || e.ID == "sample" {
		t.Errorf("test of a type: %+v, %+v, %v", result, e, err)
	}
	if _, _, err := b.m.Test(t.Context(), "a", "nobody/knows"); !errors.Is(err, ErrNoSample) {
		t.Errorf("test of no type: %v", err)
	}
	if n, _, err := b.m.Count(t.Context(), "a"); n != 0 || err != nil {
		t.Errorf("tests became %d dead letters, %v", n, err)
	}
}

// What comes after a sink was added, or the hub was opened with a new one, is for the sink,
// also when nothing of it has run before the end.
func TestBeginsAtOnce(t *testing.T) {
	b := newBench(t)
	b.open()
	b.append("before")
	for i := range 20 {
		name, event := fmt.Sprint("sink-", i), fmt.Sprint("event-", i)
		b.put(name, hook)
		if _, known, err := b.m.sinks[name].store.Load(t.Context()); !known || err != nil {
			t.Fatalf("the place of %s is not stored when the sink was added: %v", name, err)
		}
		b.append(event)
	}
	for i := range 20 {
		await(t, fmt.Sprint("sink-", i), func() bool { return len(b.receiver.received(fmt.Sprint("sink-", i))) == 20-i })
	}
	b.close()

	b.o.Sinks = []config.Sink{fileSink("new", nil)}
	var err error
	if b.journal, err = journal.Open(t.Context(), journal.Config{Dir: b.o.DataDir, Logger: b.o.Logger}); err != nil {
		t.Fatal(err)
	}
	b.o.Journal, b.o.Registry, b.o.Health = b.journal, nil, nil
	if b.m, err = Open(t.Context(), b.o); err != nil {
		t.Fatal(err)
	}
	b.append("between") // it is open, and not started
	b.reopen()
	b.awaitGot("new", "between")
}
