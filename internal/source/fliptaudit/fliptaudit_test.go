package fliptaudit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/audit/flipt"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openJournal(t *testing.T, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func closeJournal(t *testing.T, j *journal.Journal) {
	t.Helper()
	if err := j.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// stored returns the events of a journal.
func stored(t *testing.T, j *journal.Journal) (all []*event.Event) {
	t.Helper()
	s := New(Config{Name: "prod"}, Deps{Journal: j})
	err := s.scan(t.Context(), journal.Position{}, j.End(), func(e *event.Event) error {
		all = append(all, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func source(j Journal, c Config) *Source {
	c.Name = "prod"
	return New(c, Deps{Journal: j, Logger: slog.New(slog.DiscardHandler)})
}

func body(key string) []byte {
	return []byte(`{"version":"0.2","type":"flag","action":"created","metadata":{},"payload":{"key":"` + key + `","namespace_key":"n"},"timestamp":"2026-11-21T01:38:10Z","status":"success"}`)
}

// receive takes a body in and answers it or not.
func receive(t *testing.T, s *Source, b []byte, answered bool) *Receipt {
	t.Helper()
	r, err := s.Receive(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	r.Done(answered)
	return r
}

// A request that was not answered is the same event again; one that was answered is not.
func TestRepeats(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir)
	s := source(j, Config{})
	for i, c := range []struct {
		key              string
		answered, repeat bool
	}{
		{"a", true, false}, {"a", true, false}, // two equal events
		{"b", false, false}, {"b", false, true}, {"b", true, true}, // one, tried three times
		{"b", false, false}, {"b", true, true}, // another one
		{"a", true, false},
	} {
		if r := receive(t, s, body(c.key), c.answered); r.Repeat != c.repeat || r.Quarantined != nil || r.Type != "flipt/flag/created" {
			t.Errorf("%d: %+v", i, r)
		}
	}
	count := func(want string) (all []*event.Event) {
		t.Helper()
		keys := ""
		ids := make(map[string]bool)
		for _, e := range stored(t, j) {
			key, _ := e.Metadata.Text("key")
			keys += key
			if ids[e.ID] {
				t.Error("an id is there twice")
			}
			ids[e.ID] = true
			all = append(all, e)
		}
		if keys != want {
			t.Errorf("events %s, want %s", keys, want)
		}
		return all
	}
	before := count("aabba")
	closeJournal(t, j)

	// After a restart it cannot be told whether there was an answer: nothing is lost, and a
	// repeat can be recognised.
	j = openJournal(t, dir)
	defer closeJournal(t, j)
	s = source(j, Config{})
	for _, answered := range []bool{false, true, true} {
		receive(t, s, body("b"), answered)
	}
	receive(t, s, body("c"), true)
	after := count("aabbabbc")
	if id, _ := after[5].Metadata.Text(fliptevent.MetadataRepeatOf); id != before[2].ID {
		t.Errorf("repeats %q, want %q", id, before[2].ID)
	}
	for _, i := range []int{4, 6, 7} {
		if _, doubt := after[i].Metadata.Get(fliptevent.MetadataRepeatOf); doubt {
			t.Errorf("event %d is doubted", i)
		}
	}
}

// slow is a journal whose Append waits.
type slow struct {
	*journal.Journal
	begun chan struct{}
	go_   chan struct{}
	fail  error
}

func (s *slow) Append(ctx context.Context, events ...*event.Event) (journal.Position, error) {
	if s.begun != nil {
		s.begun <- struct{}{}
		<-s.go_
	}
	if s.fail != nil {
		return journal.Position{}, s.fail
	}
	return s.Journal.Append(ctx, events...)
}

// What happens while a client has gone, or a second request comes before the first is
// through.
func TestRequestsThatOverlap(t *testing.T) {
	j := openJournal(t, t.TempDir())
	defer closeJournal(t, j)
	hold := &slow{Journal: j, begun: make(chan struct{}), go_: make(chan struct{})}
	s := source(hold, Config{})
	ctx, gone := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		r, err := s.Receive(ctx, body("a"))
		if err != nil {
			t.Error(err)
			return
		}
		r.Done(ctx.Err() == nil)
	})
	<-hold.begun
	gone() // as after five seconds
	all.Go(func() {
		r, err := s.Receive(t.Context(), body("a"))
		if err != nil {
			t.Error(err)
			return
		}
		if !r.Repeat {
			t.Error("the repeat is another event")
		}
		r.Done(true)
	})
	// One that does not want to wait.
	if _, err := s.Receive(ctx, body("a")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	hold.go_ <- struct{}{}
	all.Wait()
	if n := len(stored(t, j)); n != 1 {
		t.Errorf("%d events", n)
	}

	failing := &slow{Journal: j, fail: errors.New("disk full")}
	s = source(failing, Config{})
	if _, err := s.Receive(t.Context(), body("z")); err == nil {
		t.Error("no error")
	}
	failing.fail = nil
	if r := receive(t, s, body("z"), true); r.Repeat {
		t.Error("what was not stored is a repeat")
	}
	if n := len(stored(t, j)); n != 2 {
		t.Errorf("%d events", n)
	}
}

func TestManyEqualAtOnce(t *testing.T) {
	j := openJournal(t, t.TempDir())
	defer closeJournal(t, j)
	s := source(j, Config{})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			r, err := s.Receive(t.Context(), body("a"))
			if err != nil {
				t.Error(err)
				return
			}
			r.Done(true)
		})
	}
	all.Wait()
	if n := len(stored(t, j)); n != 20 {
		t.Errorf("%d events", n)
	}
}

// Whatever comes is stored.
func TestQuarantine(t *testing.T) {
	j := openJournal(t, t.TempDir())
	defer closeJournal(t, j)
	kept := ""
	s := New(Config{Name: "prod", Limits: event.Limits{MaxTypeBytes: 64, MaxMetadataKeys: 20, MaxMetadataBytes: 400, MaxEventBytes: 2000}},
		Deps{Journal: j, Keep: func(_ context.Context, data []byte) (string, error) { kept = string(data); return "/kept", nil }})
	noise := make([]byte, 100)
	rand.Read(noise)
	large := body(strings.Repeat("k", 3000))
	for _, b := range [][]byte{
		nil, []byte("{}"), []byte(`{"event":"flag created"}`), noise,
		bytes.Replace(body("x"), []byte(`"flag"`), []byte(`"fl ag"`), 1),
		large,
		body(strings.Repeat("k", 300)), // metadata
	} {
		r := receive(t, s, b, true)
		if r.Quarantined == nil || r.Type != fliptevent.TypeQuarantined {
			t.Errorf("%.100q is no event: %+v", b, r)
		}
	}
	all := stored(t, j)
	if len(all) != 7 {
		t.Fatalf("%d events", len(all))
	}
	for i, e := range all {
		if reason, _ := e.Metadata.Text(fliptevent.MetadataReason); reason == "" || e.Type != fliptevent.TypeQuarantined || e.Path != "flipt/prod" {
			t.Errorf("%d: %+v", i, e)
		}
	}
	if !bytes.Equal(all[3].Data, noise) || all[5].DataRef != "/kept" || kept != string(large) || all[5].Data != nil {
		t.Errorf("%+v", all[5])
	}
	if size, _ := all[5].Metadata.Text(fliptevent.MetadataSize); size != fmt.Sprint(len(large)) {
		t.Error(size)
	}
}

func TestVerify(t *testing.T) {
	secret := func(s string, err error) func() (string, error) { return func() (string, error) { return s, err } }
	b := body("a")
	for name, c := range map[string]struct {
		secrets       []func() (string, error)
		good, trouble bool
	}{
		"right":             {[]func() (string, error){secret("k", nil)}, true, false},
		"second":            {[]func() (string, error){secret("old", nil), secret("k", nil)}, true, false},
		"wrong":             {[]func() (string, error){secret("old", nil)}, false, false},
		"none":              {nil, false, false},
		"unreadable":        {[]func() (string, error){secret("", errors.New("gone"))}, false, true},
		"empty":             {[]func() (string, error){secret("", nil)}, false, true},
		"one is unreadable": {[]func() (string, error){secret("", errors.New("gone")), secret("k", nil)}, true, false},
	} {
		s := source(nil, Config{Secrets: c.secrets})
		good, err := s.Verify(flipt.Sign("k", b), b)
		if good != c.good || errors.Is(err, ErrSecret) != c.trouble {
			t.Errorf("%s: %v %v", name, good, err)
		}
		if unhealthy := s.Health() != nil; unhealthy != strings.Contains(name, "unreadable") && unhealthy != (name == "empty") {
			t.Errorf("%s: %v", name, s.Health())
		}
	}
	s := source(nil, Config{Secrets: []func() (string, error){secret("", nil)}})
	if good, _ := s.Verify(flipt.Sign("", b), b); good {
		t.Error("an empty secret signs")
	}
}

// numbered puts before each line how many equal events came before.
func numbered(all [][]byte) (out []byte) {
	count := make(map[string]int)
	for _, line := range all {
		key := string(line)
		if e, _, err := fliptevent.DecodeLine(line); err == nil {
			key = string(fliptevent.AppendLogLine(nil, e))
		}
		out = fmt.Appendf(out, "%d %s\n", count[key], line)
		count[key]++
	}
	return out
}

func recordedLog(t *testing.T) (all [][]byte) {
	t.Helper()
	f, err := os.Open("../../fliptevent/testdata/log.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		all = append(all, bytes.Clone(s.Bytes()))
	}
	return all
}

// A recorded log is imported once, however often, in whatever pieces and after a restart,
// and comes out byte for byte.
func TestImport(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir)
	log := recordedLog(t)
	log = append(log, log[0]) // equal events
	data := numbered(log)
	s := source(j, Config{})
	// Two of them were received over the webhook.
	for _, i := range []int{0, 7} {
		e, err := fliptevent.Decode(log[i])
		if err != nil {
			t.Fatal(err)
		}
		receive(t, s, fliptevent.AppendWebhook(nil, e), true)
	}
	n := uint64(len(log))
	check := func(s *Source, data []byte, dry bool, want Counted) {
		t.Helper()
		got, err := s.Import(t.Context(), data, dry)
		if err != nil || got != want {
			t.Errorf("%+v %v, want %+v", got, err, want)
		}
	}
	half := bytes.IndexByte(data[len(data)/2:], '\n') + len(data)/2 + 1
	first := uint64(bytes.Count(data[:half], []byte("\n")))
	check(s, data, true, Counted{Lines: n, Accepted: n - 2, Duplicates: 2})
	check(s, data[:half], false, Counted{Lines: first, Accepted: first - 2, Duplicates: 2})
	check(s, data, true, Counted{Lines: n, Accepted: n - first, Duplicates: first})
	check(s, data, false, Counted{Lines: n, Accepted: n - first, Duplicates: first})
	check(s, data, false, Counted{Lines: n, Duplicates: n})
	closeJournal(t, j)
	j = openJournal(t, dir)
	defer closeJournal(t, j)
	s = source(j, Config{})
	check(s, data, false, Counted{Lines: n, Duplicates: n})
	all := stored(t, j)
	if len(all) != len(log) {
		t.Fatalf("%d events, want %d", len(all), len(log))
	}
	out := make(map[string]int)
	for _, e := range all {
		back, err := fliptevent.FromEvent(e)
		if err != nil {
			t.Fatal(err)
		}
		out[string(fliptevent.AppendLogLine(nil, back))]++
	}
	for _, line := range log {
		if out[string(line)]--; out[string(line)] < 0 {
			t.Errorf("%s is missing", line)
		}
	}
	if imported, _ := all[3].Metadata.Text(fliptevent.MetadataImported); imported != "true" {
		t.Errorf("%v", all[3].Metadata)
	}
	s.forgetImport()
	check(s, data, false, Counted{Lines: n, Duplicates: n})
}

func TestImportOtherLines(t *testing.T) {
	j := openJournal(t, t.TempDir())
	defer closeJournal(t, j)
	s := source(j, Config{})
	event := string(recordedLog(t)[0])
	lines := []string{
		"", event, // an event
		`{"L":"INFO","T":"2026-11-21T01:38:10Z","M":"starting"}`, // of the server
		"2026-11-21T01:38:10Z\tINFO\tstarting\t{\"a\": 1}",       // of the server
		"banner",
		event[:50],                // torn
		"t\tAUDIT\t" + event[:50], // torn
		`{"T":"x","M":"AUDIT"}`,   // no event
		"t\tAUDIT\t" + strings.Replace(event, "created", "deleted", 1),
	}
	data := ""
	for _, line := range lines {
		data += "0 " + line + "\n"
	}
	got, err := s.Import(t.Context(), []byte(data), false)
	if want := (Counted{Lines: 9, Accepted: 5, Quarantined: 3, Skipped: 4}); err != nil || got != want {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"x\n", "-1 x\n", "1x\n", "99999999999 x\n", event + "\n", "0 " + event + "\n\n"} {
		if _, err := s.Import(t.Context(), []byte(bad), false); !errors.Is(err, ErrChunk) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// More than one batch.
	var many []byte
	for i := range 3 * importBatch {
		many = fmt.Appendf(many, "0 %s\n", body(fmt.Sprint(i)))
	}
	if got, err := s.Import(t.Context(), many, false); err != nil || got.Accepted != 3*importBatch {
		t.Errorf("%+v %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := s.Import(ctx, many, false); err == nil {
		t.Error("a request that has ended was imported")
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("0 {}\n"))
	f.Add(append([]byte("0 "), body("a")...))
	f.Add([]byte("1 t\tAUDIT\t{}\n2 \xff"))
	limits := event.DefaultLimits
	s := New(Config{Name: "prod", Limits: limits}, Deps{Journal: units{}})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, line := range []bool{false, true} {
			d := read(b, line)
			ev, err := s.make(t.Context(), &d, fliptevent.Origin{})
			if err != nil {
				t.Fatal(err)
			}
			if err := limits.Check(ev); err != nil {
				t.Fatal(err)
			}
			if ev.Type != d.Type() && ev.Type != fliptevent.TypeQuarantined {
				t.Fatalf("type %q, not %q", ev.Type, d.Type())
			}
			if _, err := json.Marshal(ev.Metadata); err != nil {
				t.Fatal(err)
			}
		}
		_, _, _ = cutCount(b)
		_ = isAudit(b)
	})
}

// units is a journal that only says how large its units are.
type units struct{ Journal }

func (units) MaxUnitBytes() int { return 4 << 20 }
