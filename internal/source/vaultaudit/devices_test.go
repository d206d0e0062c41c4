package vaultaudit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// deviceLine is line n of the log as another device writes it: with another salt, and a
// little later.
func deviceLine(device byte, n int) string {
	line := strings.ReplaceAll(auditLine(n), `hmac-sha256:0`, fmt.Sprintf(`hmac-sha256:%x`, device))
	return strings.Replace(line, `Z","type"`, fmt.Sprintf(`%d1Z","type"`, device), 1)
}

// entryKey names the entry of an event: its kind and the id of its request.
func entryKey(e *event.Event) string {
	id, _ := e.Metadata.Text(metadataRequestID)
	return e.Type + " " + id
}

func lineKey(n int) string {
	if n%2 == 0 {
		return TypeRequest + " " + requestID(n/2)
	}
	return TypeResponse + " " + requestID(n/2)
}

// checkUnion fails unless the journal has each of the wanted lines exactly once.
func checkUnion(tb testing.TB, j *journal.Journal, want map[int]bool) {
	tb.Helper()
	got := map[string]int{}
	derived := map[string]int{}
	for _, e := range allEvents(tb, j) {
		if strings.HasPrefix(e.Type, "audit/") {
			got[entryKey(e)]++
		} else {
			derived[e.ID]++
		}
	}
	for n := range want {
		if got[lineKey(n)] != 1 {
			tb.Fatalf("line %d is there %d times; %d different ones of %d", n, got[lineKey(n)], len(got), len(want))
		}
	}
	if len(got) != len(want) {
		tb.Fatalf("%d different entries, want %d", len(got), len(want))
	}
	for id, n := range derived {
		if n != 1 {
			tb.Fatalf("notification %s is there %d times", id, n)
		}
	}
}

// another adds a device with a file of its own, and returns its path.
func (s *stand) another(name string) string {
	path := filepath.Join(s.dir, name+".log")
	s.config.Inputs = append(s.config.Inputs, Input{Name: name, Paths: []string{path}})
	return path
}

func appendTo(tb testing.TB, path, text string) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// TestTwoDevices writes the same entries to two files, in different orders and with
// losses on both, in random pieces, while the source is stopped and started again.
// The journal gets the union, each entry once.
func TestTwoDevices(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			const lines = 6_000
			rnd := rand.New(rand.NewPCG(seed, 7))
			s := newStand(t)
			paths := []string{s.path, s.another("second")}
			want := map[int]bool{}
			var texts [2][]string
			for device := range texts {
				order := make([]int, lines)
				for n := range order {
					order[n] = n
				}
				for i := range order { // entries overtake each other a little
					k := min(i+rnd.IntN(20), lines-1)
					order[i], order[k] = order[k], order[i]
				}
				for _, n := range order {
					if rnd.IntN(10) == 0 {
						continue // lost
					}
					want[n] = true
					texts[device] = append(texts[device], deviceLine(byte(device), n)+"\n")
				}
			}
			s.start()
			for len(texts[0])+len(texts[1]) > 0 {
				device := rnd.IntN(2)
				n := min(rnd.IntN(400), len(texts[device]))
				appendTo(t, paths[device], strings.Join(texts[device][:n], ""))
				texts[device] = texts[device][n:]
				if rnd.IntN(12) == 0 {
					s.restart()
				}
			}
			s.waitFor("the union", func() bool { return len(lineEvents(t, s.journal)) >= len(want) })
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			checkUnion(t, s.journal, want)
			for _, e := range lineEvents(t, s.journal) {
				device, _ := e.Metadata.Text(metadataDevice)
				if second := strings.Contains(string(e.Data), `"client_token":"hmac-sha256:1`); second != (device == "second") {
					t.Fatalf("device %q: %s", device, e.Data)
				}
			}
		})
	}
}

// TestCrashWithDevices puts back what was stored to what it was at some moment before,
// as if the process had been killed then, and starts again with devices that are
// read in another order than before.
func TestCrashWithDevices(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	second := s.another("second")
	third := filepath.Join(s.dir, "third-1.log")
	s.config.Inputs = append(s.config.Inputs, Input{Name: "third", Paths: []string{filepath.Join(s.dir, "third-*.log")}})
	want := map[int]bool{}
	var texts [3]strings.Builder
	rnd := rand.New(rand.NewPCG(3, 4))
	write := func(from, to int) {
		for n := from; n < to; n++ {
			for device := range texts {
				if rnd.IntN(3) > 0 {
					want[n] = true
					texts[device].WriteString(deviceLine(byte(device), n) + "\n")
				}
			}
		}
		for device, path := range []string{s.path, second, third} {
			appendTo(t, path, texts[device].String())
			texts[device].Reset()
		}
	}
	run := func(repeated int) {
		t.Helper()
		s.start(func(f *Source) { f.scanEvery = 20 * time.Millisecond })
		s.waitFor("all lines", func() bool {
			return s.file.Stats().Repeated >= uint64(repeated) && len(lineEvents(t, s.journal)) >= len(want)
		})
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		checkUnion(t, s.journal, want)
	}
	write(0, 2000)
	run(0)
	for round := range 5 {
		position, state := s.stored()
		before := len(want)
		write(2000+round*1000, 3000+round*1000)
		run(0)
		s.restore(position, state)
		slices.Reverse(s.config.Inputs)
		run(len(want) - before)
	}
}

// TestWindowIsBounded shows that what came lately is forgotten by number and by age.
func TestWindowIsBounded(t *testing.T) {
	now := time.Now()
	w := newWindow(100, time.Minute)
	for n := range 1000 {
		w.add(idKey(requestID(n)), seen{number: 7}, now)
		if len(w.later)+len(w.earlier) > 200 {
			t.Fatal("too many")
		}
		for k := max(0, n-99); k <= n; k++ {
			if how, ok := w.find(idKey(requestID(k))); !ok || how.number != 7 {
				t.Fatalf("%d was forgotten at %d", k, n)
			}
		}
	}
	w.expire(now.Add(59 * time.Second))
	w.expire(now.Add(61 * time.Second))
	if _, ok := w.find(idKey(requestID(999))); !ok {
		t.Error("forgotten too early")
	}
	w.expire(now.Add(121 * time.Second))
	if n := len(w.later) + len(w.earlier); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// TestFeed shows that batches come in the order of their times, and that a reader whose
// entries are always the oldest does not keep out others.
func TestFeed(t *testing.T) {
	f := newFeed()
	readers := []*reader{}
	for range 3 {
		readers = append(readers, &reader{input: &input{}, room: make(chan struct{}, 100), spare: make(chan *batch, 1)})
	}
	f.room = make(chan struct{}, 100)
	line := func(second int) []tail.Line {
		return []tail.Line{{Data: fmt.Appendf(nil, `{"type":"request","time":"2026-11-21T06:00:%02dZ"}`, second)}}
	}
	for _, second := range []int{1, 4, 7} {
		f.put(t.Context(), &batch{from: readers[0], lines: line(second)})
		f.put(t.Context(), &batch{from: readers[1], lines: line(second + 1)})
	}
	var got []int
	for range 6 {
		b, _ := f.take()
		got = append(got, b.time.Second())
		f.done(b)
	}
	if fmt.Sprint(got) != "[1 2 4 5 7 8]" {
		t.Errorf("order %v", got)
	}
	for range 20 {
		f.put(t.Context(), &batch{from: readers[0], lines: line(0)})
	}
	f.put(t.Context(), &batch{from: readers[2], lines: line(59)})
	for n := 1; ; n++ {
		b, _ := f.take()
		if b == nil || n > fairTurn {
			t.Fatal("one reader kept out another")
		}
		f.done(b)
		if b.from == readers[2] {
			break
		}
	}
}

// putInbox opens an inbox and makes it an input.
func (s *stand) putInbox(name string, o inbox.Options) *inbox.Inbox {
	s.Helper()
	o.Dir = filepath.Join(s.dir, name)
	o.ReserveBytes, o.SegmentBytes = 8<<20, 1<<20
	x, err := inbox.Open(o)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if s.stop != nil {
			s.stop()
		}
		x.Close(context.Background())
	})
	at := slices.IndexFunc(s.config.Inputs, func(in Input) bool { return in.Name == name })
	if at < 0 {
		s.config.Inputs = append(s.config.Inputs, Input{Name: name})
		at = len(s.config.Inputs) - 1
	}
	s.config.Inputs[at].Inbox = x
	return x
}

func put(tb testing.TB, x *inbox.Inbox, lines ...string) inbox.Position {
	tb.Helper()
	var batch []inbox.Line
	for _, l := range lines {
		batch = append(batch, inbox.Line{Data: []byte(l), Size: int64(len(l))})
	}
	p, err := x.Put(tb.Context(), batch)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// TestInbox shows that lines of an inbox become events, that what is sent again is
// recognised, also beside a file, that senders are answered, and that a restart goes on
// where the last run ended.
func TestInbox(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	x := s.putInbox("socket", inbox.Options{})
	s.start()
	const lines = 2000
	want := map[int]bool{}
	var last inbox.Position
	for n := range lines {
		want[n] = true
		last = put(t, x, deviceLine(1, n))
		if n%3 == 0 {
			last = put(t, x, deviceLine(1, n)) // the sender was not sure
		}
	}
	if err := x.Durable(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	s.waitFor("the lines", func() bool { return s.file.InputStats("socket").Lines == lines+(lines+2)/3 })
	s.write(auditLines(0, lines+10))
	for n := range 10 {
		want[lines+n] = true
	}
	s.waitFor("the union", func() bool { return len(lineEvents(t, s.journal)) >= len(want) })
	s.waitFor("all lines", func() bool { return s.file.InputStats("test").Lines == lines+10 })
	checkUnion(t, s.journal, want)
	if a, b := s.file.InputStats("socket"), s.file.InputStats("test"); a.Duplicates != (lines+2)/3 || b.Duplicates != lines {
		t.Errorf("duplicates: %d, %d", a.Duplicates, b.Duplicates)
	}
	if n := testutil.ToFloat64(s.metrics.Component("source", "test").Duplicates); n != lines {
		t.Errorf("metric says %v duplicates", n)
	}
	s.waitFor("release", func() bool { return x.Stats().DiskLines == 0 })

	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	put(t, x, deviceLine(1, lines+10), deviceLine(1, 5))
	want[lines+10] = true
	if err := x.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.putInbox("socket", inbox.Options{})
	s.start()
	s.waitFor("both lines", func() bool { return s.file.InputStats("socket").Lines == 2 })
	s.waitFor("the events", func() bool { return len(lineEvents(t, s.journal)) >= len(want) })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	checkUnion(t, s.journal, want)
}

// TestSameIDAgain shows that an entry does not hide another one that comes over the same
// device with the same id, also after a restart: only the same bytes are the same entry.
func TestSameIDAgain(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.config.Inputs = nil
	x := s.putInbox("socket", inbox.Options{})
	s.start()
	genuine := auditLine(0)
	forged := strings.Replace(genuine, "127.0.0.1", "127.0.0.2", 1)
	other := strings.Replace(genuine, "127.0.0.1", "127.0.0.3", 1)
	put(t, x, forged, forged, genuine, genuine)
	s.waitFor("the lines", func() bool { return s.file.Stats().Lines == 4 })
	s.waitLines(2)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	x = s.putInbox("socket", inbox.Options{})
	s.start()
	put(t, x, genuine, other)
	s.waitFor("the lines", func() bool { return s.file.Stats().Lines == 2 })
	s.waitLines(3)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	events := lineEvents(t, s.journal)
	if len(events) != 3 {
		t.Fatalf("%d events", len(events))
	}
	for i, want := range []string{forged, genuine, other} {
		if string(events[i].Data) != want {
			t.Errorf("event %d is %s", i, events[i].Data)
		}
	}
}

// TestLost shows that lines which an inbox could not keep become an event in their
// place, once.
func TestLost(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.config.Inputs = nil
	x := s.putInbox("socket", inbox.Options{MemoryBytes: 1 << 20, MaxBytes: 8 << 20})
	first := auditLine(0)
	kept := 0
	for {
		_, err := x.Put(t.Context(), []inbox.Line{{Data: []byte(fmt.Sprintf("%*d", 4000, kept)), Size: 4000}})
		if err != nil {
			break
		}
		kept++
	}
	s.start()
	s.waitFor("room", func() bool { return len(lineEvents(t, s.journal)) > kept })
	put(t, x, first)
	s.waitFor("the entry", func() bool {
		events := lineEvents(t, s.journal)
		return events[len(events)-1].Type == TypeRequest
	})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	events := lineEvents(t, s.journal)
	if len(events) != kept+2 {
		t.Fatalf("%d events, want %d", len(events), kept+2)
	}
	e := events[kept]
	if e.Type != TypeLost || e.Path != "sys/audit/test" || e.Source != "vault://test" {
		t.Fatalf("event %+v", e)
	}
	metadata := map[string]string{}
	for _, f := range e.Metadata {
		metadata[f.Key] = f.Value
	}
	for key, want := range map[string]string{"reason": "full", "lines": "1", "bytes": "4000", "device": "socket", "path": "sys/audit/test"} {
		if metadata[key] != want {
			t.Errorf("metadata %s is %q, want %q", key, metadata[key], want)
		}
	}
	for _, key := range []string{"from", "to"} {
		if _, err := time.Parse(time.RFC3339Nano, metadata[key]); err != nil {
			t.Errorf("metadata %s: %v", key, err)
		}
	}
	if st := s.file.Stats(); st.Lost != 1 {
		t.Errorf("stats %+v", st)
	}
	if err := event.DefaultLimits.Check(e); err != nil {
		t.Error(err)
	}
}

// TestCutAndWhole shows that an entry which came cut over one device is taken when it
// comes whole over another.
func TestCutAndWhole(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	second := s.another("second")
	s.write(auditLine(0)[:300] + "\n")
	s.start()
	s.waitLines(1)
	appendTo(t, second, auditLine(0)+"\n")
	s.waitLines(2)
	s.write(auditLine(0) + "\n")
	s.waitFor("the duplicate", func() bool { return s.file.InputStats("test").Duplicates == 1 })
	events := lineEvents(t, s.journal)
	if len(events) != 2 || events[0].Type != TypeQuarantined || events[1].Type != TypeRequest {
		t.Errorf("events %v", events)
	}
}

// TestFailingInput shows that an input which cannot be read holds up no other, and that
// its health is told apart.
func TestFailingInput(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	second := s.another("second")
	if err := os.Mkdir(second, 0o700); err != nil {
		t.Fatal(err)
	}
	s.write(auditLines(0, 100))
	s.start()
	s.waitLines(100)
	s.waitFor("trouble", func() bool { return s.file.InputHealth("second") != nil && s.file.Health() != nil })
	if err := s.file.InputHealth("test"); err != nil {
		t.Error(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	checkExactlyOnce(t, s.journal, 100)
}

// TestFirstVersion goes on where a process ended that knew one file, from what that one
// stored.
func TestFirstVersion(t *testing.T) {
	for _, name := range []string{"test", "file"} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t)
			s.write(auditLines(0, 300))
			s.start()
			s.waitLines(300)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			// Of what that process stored, only what belongs to this file and journal is
			// replaced: it had read and noted 300 lines, and made 200 more durable.
			now, _ := s.stored()
			s.write(auditLines(300, 500))
			s.start()
			s.waitLines(500)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			stored, state := firstVersion(t, now)
			s.restore(stored, state)
			s.write(auditLines(500, 900))
			s.config.Inputs = slices.Clone(s.config.Inputs)
			s.config.Inputs[0].Name = name
			s.start()
			s.waitLines(900)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			if st := s.file.Stats(); st.Repeated != 200 || st.Lines != 600 {
				t.Errorf("stats %+v", st)
			}
			if name == "test" {
				checkExactlyOnce(t, s.journal, 900)
			}
			want := map[int]bool{}
			for n := range 900 {
				want[n] = true
			}
			checkUnion(t, s.journal, want)
			var r record
			stored, _ = s.stored()
			if err := json.Unmarshal(stored, &r); err != nil || r.Version != recordVersion || r.Inputs[name].Files[s.path].IsZero() {
				t.Errorf("%v: stored %s", err, stored)
			}
		})
	}
}

// firstVersion returns what a process of the first version stored, with the file and the
// positions of a later record.
func firstVersion(t *testing.T, now []byte) (stored, state []byte) {
	t.Helper()
	var r record
	if err := json.Unmarshal(now, &r); err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/progress-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := os.ReadFile("testdata/state-v1.bin")
	if err != nil {
		t.Fatal(err)
	}
	var old map[string]any
	if err := json.Unmarshal(golden, &old); err != nil {
		t.Fatal(err)
	}
	in := r.Inputs["test"]
	file := slices.Collect(maps.Values(in.Files))[0].Files[0]
	was := old["file"].(map[string]any)["files"].([]any)[0].(map[string]any)
	if was["offset"].(float64) != float64(file.Offset) || was["head"].(map[string]any)["sum"] != file.Head.Sum {
		t.Fatalf("the golden file is of another log: %v, want %+v", was, file)
	}
	was["device"], was["inode"], was["modified"] = file.Device, file.Inode, file.Modified
	old["journal"] = in.Journal
	if stored, err = json.Marshal(old); err != nil {
		t.Fatal(err)
	}
	_, snapshot, err := openState(sealed)
	if err != nil {
		t.Fatal(err)
	}
	at, err := journal.ParsePosition(in.Journal)
	if err != nil {
		t.Fatal(err)
	}
	return stored, sealState(at, snapshot)
}

// TestLaterVersion shows that what a later version stored is not touched.
func TestLaterVersion(t *testing.T) {
	if _, err := parseRecord([]byte(`{"version":3}`), "a", "b"); err == nil || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("error %v", err)
	}
	for _, text := range []string{``, `[]`, `{"version":1,"file":3}`, `{"version":2,"inputs":[]}`} {
		if _, err := parseRecord([]byte(text), "a", "b"); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// TestRemovedInput shows that lines of an input which is not configured any more are not
// waited for, and that what is stored of it stays.
func TestRemovedInput(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	second := s.another("second")
	s.write(auditLines(0, 100))
	s.start()
	s.waitLines(100)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	position, state := s.stored()
	appendTo(t, second, auditLines(100, 200))
	s.start()
	s.waitLines(200)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.restore(position, state)
	both := s.config.Inputs
	s.config.Inputs = both[:1]
	s.write(auditLines(200, 300))
	s.start()
	s.waitLines(300)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.config.Inputs = both
	s.start()
	s.waitFor("the second input", func() bool { return s.file.InputStats("second").Repeated == 100 })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	want := map[int]bool{}
	for n := range 300 {
		want[n] = true
	}
	checkUnion(t, s.journal, want)
}

// TestGivenUp shows that an input whose lines are gone is not waited for forever.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.write(auditLines(0, 100))
	s.start()
	s.waitLines(100)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	position, state := s.stored()
	s.write(auditLines(100, 200))
	s.start()
	s.waitLines(200)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.restore(position, state)
	if err := os.Truncate(s.path, int64(len(auditLines(0, 150)))); err != nil {
		t.Fatal(err)
	}
	s.start(func(f *Source) { f.settleAfter = 100 * time.Millisecond })
	s.waitFor("giving up", func() bool { return strings.Contains(s.log.String(), "not there any more") })
	s.waitFor("the position", func() bool {
		p, _ := s.stored()
		var r record
		if err := json.Unmarshal(p, &r); err != nil {
			t.Fatal(err)
		}
		return r.Inputs["test"].Files[s.path].Files[0].Offset == int64(len(auditLines(0, 150)))
	})
	if st := s.file.Stats(); st.Repeated != 50 {
		t.Errorf("stats %+v", st)
	}
}
