package vaultaudit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/tail"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	// The client of NATS may leave a goroutine behind that waits on a channel which it has
	// set to nil: one that starts while the last answer to a put into an object store comes.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// auditLine is line n of a made-up log in which requests and responses of kv v2
// writes alternate. One in ten requests writes a key that is deleted 100, 1,000 or
// 5,000 requests later, and once more, which changes nothing: a translator must
// remember what was how to tell that.
func auditLine(n int) string {
	request := n / 2
	kind, operation, key, version := "request", "update", fmt.Sprintf("key%d", request%49), request/49+1
	switch request % 10 {
	case 4:
		key, version = fmt.Sprintf("once%d", request), 1
	case 9:
		lag := [...]int{100, 1000, 5000}[request/20%3]
		operation, key, version = "delete", fmt.Sprintf("once%d", request/20*20+4-lag), 0
	}
	var data, response string
	if version > 0 {
		data = fmt.Sprintf(`,"data":{"data":{"value":"hmac-sha256:%064d"}}`, n)
	}
	if n%2 == 1 {
		kind, response = "response", `,"response":{"mount_type":"kv","mount_accessor":"kv_1"}`
		if version > 0 {
			response = fmt.Sprintf(`,"response":{"mount_type":"kv","mount_accessor":"kv_1","data":{"created_time":"2026-11-21T06:00:00Z","custom_metadata":null,"deletion_time":"hmac-sha256:%064d","destroyed":false,"version":%d}}`, 1, version)
		}
	}
	return fmt.Sprintf(`{"time":"2026-11-21T06:%02d:%02d.%06dZ","type":%q,"auth":{"client_token":"hmac-sha256:%064d","accessor":"hmac-sha256:%064d","display_name":"token","policies":["default"],"token_type":"service"},"request":{"id":%q,"operation":%q,"mount_point":"secret/","mount_type":"kv","mount_accessor":"kv_1","mount_class":"secret","client_token":"hmac-sha256:%064d","namespace":{"id":"root"},"path":"secret/data/%s"%s,"remote_address":"127.0.0.1"}%s}`,
		n/60000%60, n/1000%60, n%1000, kind, 2, 3, requestID(request), operation, 2, key, data, response)
}

// requestID is the id of request n.
func requestID(n int) string { return uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)).String() }

// auditLines are lines from to to of the log.
func auditLines(from, to int) string {
	var b strings.Builder
	for n := from; n < to; n++ {
		b.WriteString(auditLine(n))
		b.WriteByte('\n')
	}
	return b.String()
}

// stand is a journal and a log that a Source follows.
type stand struct {
	*testing.T
	dir, path string
	journal   *journal.Journal
	config    Config
	log       syncBuffer
	metrics   *metrics.Metrics
	file      *Source
	stop      func() error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func openJournal(tb testing.TB, dir string, limits event.Limits) *journal.Journal {
	tb.Helper()
	j, err := journal.Open(tb.Context(), journal.Config{Dir: filepath.Join(dir, "data"), Limits: limits, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return j
}

func newStand(t *testing.T) *stand {
	t.Helper()
	return newStandWith(t, event.Limits{})
}

func newStandWith(t *testing.T, limits event.Limits) *stand {
	t.Helper()
	dir := t.TempDir()
	s := &stand{T: t, dir: dir, path: filepath.Join(dir, "audit.log"), metrics: metrics.New(nil)}
	s.config = fileConfig(s.path)
	s.config.Limits = limits
	s.journal = openJournal(t, dir, limits)
	t.Cleanup(func() {
		if s.stop != nil {
			s.stop()
		}
		if err := s.journal.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// start follows the log until stop is called.
func (s *stand) start(change ...func(*Source)) {
	s.Helper()
	f, err := New(s.config, Deps{Journal: s.journal, Metrics: s.metrics, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	if err != nil {
		s.Fatal(err)
	}
	for _, c := range change {
		c(f)
	}
	s.file = f
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	s.stop = func() error {
		cancel()
		s.stop = nil
		return <-done
	}
}

// restart stops the source in good order and starts a new one.
func (s *stand) restart() {
	s.Helper()
	if err := s.stop(); err != nil {
		s.Fatal(err)
	}
	s.start()
}

func (s *stand) write(text string) {
	s.Helper()
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		s.Fatal(err)
	}
}

// waitFor waits until ok.
func (s *stand) waitFor(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("%s did not come; health %v, stats %+v, log\n%s", what, s.file.Health(), s.file.Stats(), &s.log)
		}
	}
}

// waitLines waits until the journal has the events of n lines.
func (s *stand) waitLines(n int) {
	s.Helper()
	s.waitFor(fmt.Sprintf("line %d", n), func() bool { return len(lineEvents(s, s.journal)) >= n })
}

// allEvents reads a journal from its begin to its end.
func allEvents(tb testing.TB, j *journal.Journal) []*event.Event {
	tb.Helper()
	var events []*event.Event
	end := j.End()
	r := j.Read(journal.Position{})
	for at := (journal.Position{}); at.Compare(end) < 0; {
		b, err := r.Next(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			events = append(events, b.Event(i))
		}
		at = b.End()
	}
	return events
}

// lineEvents are those events that stand for lines.
func lineEvents(tb testing.TB, j *journal.Journal) (events []*event.Event) {
	tb.Helper()
	for _, e := range allEvents(tb, j) {
		if strings.HasPrefix(e.Type, "audit/") {
			events = append(events, e)
		}
	}
	return events
}

// eventCount is how many events lines 0 to n of the log make.
func eventCount(n int) (count uint64) {
	t := NewTranslator(TranslatorConfig{Name: "test"})
	for line := range n {
		count += uint64(len(t.Translate(nil, []byte(auditLine(line)))))
	}
	return count
}

// checkExactlyOnce fails unless the journal has exactly what a translator that was
// never interrupted makes of lines 0 to n of the log, in that order.
func checkExactlyOnce(tb testing.TB, j *journal.Journal, n int) {
	tb.Helper()
	got := allEvents(tb, j)
	oracle := NewTranslator(TranslatorConfig{Name: "test"})
	for line := range n {
		for _, want := range oracle.Translate(nil, []byte(auditLine(line))) {
			if len(got) == 0 {
				tb.Fatalf("the journal ends before line %d", line)
			}
			e := got[0]
			got = got[1:]
			if e.ID != want.ID || e.Type != want.Type || !bytes.Equal(e.Data, want.Data) ||
				!slices.Equal(e.Metadata, want.Metadata) || !slices.Equal(e.Extensions, want.Extensions) {
				tb.Fatalf("line %d: got %s %v %v %.300s\nwant %s %v %v %.300s", line, e.Type, e.Metadata, e.Extensions, e.Data, want.Type, want.Metadata, want.Extensions, want.Data)
			}
		}
	}
	if len(got) > 0 {
		tb.Fatalf("%d events too many, the first is %s %.300s", len(got), got[0].Type, got[0].Data)
	}
}

// fileConfig is the configuration of a server with one file.
func fileConfig(path string) Config {
	return Config{Name: "test", Inputs: []Input{{Name: "test", Paths: []string{path}}}}
}

// TestFile follows a log through a restart; the events behind it tell whether the
// state of the derivation came through, too.
func TestFile(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.write(auditLines(0, 1000))
	s.start()
	s.waitLines(1000)
	s.write(auditLines(1000, 2001))
	s.waitLines(2001)
	checkExactlyOnce(t, s.journal, 2001)
	s.restart()
	s.write(auditLines(2001, 3000))
	s.waitLines(3000)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	checkExactlyOnce(t, s.journal, 3000)
	if st := s.file.Stats(); st.Lines != 999 || st.Repeated != 0 || st.Quarantined != 0 || st.Events != eventCount(3000)-eventCount(2001) {
		t.Errorf("stats %+v", st)
	}
}

func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const lines = 20_000
	s := newStand(t)
	s.start()
	failed := make(chan error, 1)
	go func() {
		failed <- func() error {
			f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			for n := 0; n < lines && err == nil; n++ {
				_, err = f.WriteString(auditLine(n) + "\n")
				if n == 100 { // it begins with the file that is there
					for s.file.Stats().Lines == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				if n%1000 == 999 && err == nil {
					f.Close()
					if err = os.Rename(s.path, fmt.Sprintf("%s-20261121%05d", s.path, n)); err == nil {
						f, err = os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
					}
				}
			}
			return errors.Join(err, f.Close())
		}()
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	s.waitFor("the end", func() bool { return s.file.Stats().Events >= eventCount(lines) })
	checkExactlyOnce(t, s.journal, lines)
}

// TestBadLines shows what becomes of everything that is no audit entry.
func TestBadLines(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.config.Inputs[0].MaxLine = 100_000
	secret := "hvs." + strings.Repeat("S", 30)
	long := `{"request":{"data":"` + strings.Repeat("x", 200_000)
	s.write("\n \r\n" + "garbage " + secret + "\n" + auditLines(0, 1) + strings.Repeat("[", 10_000) + "\n\x00\x00\xff\xfe\n" + long + "\n" + auditLines(1, 2) + `{"half":`)
	s.start()
	s.waitLines(6)
	if err := os.Truncate(s.path, 0); err != nil {
		t.Fatal(err)
	}
	s.waitLines(7)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range lineEvents(t, s.journal) {
		reason, _ := e.Metadata.Text(metadataReason)
		size, _ := e.Metadata.Text(metadataSize)
		torn, _ := e.Metadata.Text(metadataTorn)
		got = append(got, strings.TrimRight(strings.Join([]string{e.Type, reason, size, torn}, " "), " "))
		if bytes.Contains(e.Data, []byte(secret)) || len(e.Data) > 10_000 {
			t.Errorf("data of %d bytes: %.100q", len(e.Data), e.Data)
		}
	}
	want := []string{
		"audit/quarantined not-json", "audit/request", "audit/quarantined not-json", "audit/quarantined not-json",
		"audit/quarantined too-long 200020", "audit/response", "audit/quarantined truncated  true",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	st := s.file.Stats()
	if st.Blank != 2 || st.Quarantined != 5 || st.TooLong != 1 || st.Lines != 9 {
		t.Errorf("stats %+v", st)
	}
	log := s.log.String()
	if strings.Contains(log, "SSSS") || strings.Contains(log, "garbage") {
		t.Errorf("content in the log:\n%s", log)
	}
	if n := strings.Count(log, "lines that are no audit entries"); n < 1 || n > 2 {
		t.Errorf("%d messages about bad lines:\n%s", n, log)
	}
}

// TestLargeEntry shows the claim check.
func TestLargeEntry(t *testing.T) {
	s := newStand(t)
	request, response := auditLine(0), auditLine(1)
	value := strings.Repeat("hmac-sha256:"+strings.Repeat("0", 64)+`","`, 20_000)
	request = strings.Replace(request, `"value":"`, `"many":["`+value+`"],"value":"`, 1)
	if len(request) < event.DefaultLimits.MaxEventBytes {
		t.Fatal("the line is not large")
	}
	s.write(request + "\n" + response + "\n" + request + "\n")
	s.start()
	s.waitLines(3)
	events := allEvents(t, s.journal)
	if len(events) != 4 || events[2].Type != "kv-v2/data-write" {
		t.Fatalf("%d events", len(events))
	}
	name, ok := strings.CutPrefix(events[0].DataRef, PayloadPath)
	if !ok || events[0].Data != nil || events[0].DataContentType != "application/json" {
		t.Fatalf("data reference %q, %d bytes of data", events[0].DataRef, len(events[0].Data))
	}
	store, err := s.journal.Objects(t.Context(), PayloadBucket)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := store.GetBytes(t.Context(), name); err != nil || string(b) != request {
		t.Errorf("%d bytes stored, want %d (%v)", len(b), len(request), err)
	}
}

// fullDisk is a journal that stores no payloads for a while.
type fullDisk struct {
	Journal
	full     atomic.Bool
	deadline atomic.Int64 // nanoseconds that a store of a payload has
}

func (d *fullDisk) Payloads(ctx context.Context, bucket string) (jetstream.ObjectStore, error) {
	store, err := d.Journal.Payloads(ctx, bucket)
	return fullStore{store, d}, err
}

type fullStore struct {
	jetstream.ObjectStore
	*fullDisk
}

func (s fullStore) PutBytes(ctx context.Context, name string, data []byte) (*jetstream.ObjectInfo, error) {
	if s.full.Load() {
		return nil, syscall.ENOSPC
	}
	if at, ok := ctx.Deadline(); ok {
		s.deadline.Store(int64(time.Until(at)))
	}
	return s.ObjectStore.PutBytes(ctx, name, data)
}

// TestPayloadTrouble shows that an entry whose bytes cannot be stored holds up what
// comes after it, visibly, and that all goes on in order when they can.
func TestPayloadTrouble(t *testing.T) {
	t.Parallel()
	s := newStandWith(t, event.Limits{MaxTypeBytes: 100, MaxMetadataKeys: 100, MaxMetadataBytes: 10_000, MaxEventBytes: 20_000})
	large := strings.Replace(auditLine(2), `"value":"`, `"many":["hmac-sha256:`+strings.Repeat("0", 20_000)+`"],"value":"`, 1)
	s.write(auditLines(0, 2) + large + "\n" + auditLines(3, 6))
	var disk fullDisk
	disk.full.Store(true)
	s.start(func(f *Source) { disk.Journal, f.journal = f.journal, &disk })
	s.waitFor("trouble", func() bool {
		err := s.file.Health()
		return errors.Is(err, syscall.ENOSPC) && strings.Contains(err.Error(), "large audit entry")
	})
	if n := len(lineEvents(t, s.journal)); n > 2 {
		t.Errorf("%d lines overtook the one whose bytes were not stored", n)
	}
	disk.full.Store(false)
	s.waitLines(6)
	s.waitFor("health", func() bool { return s.file.Health() == nil })
	for i, e := range lineEvents(t, s.journal) {
		if id, _ := e.Metadata.Text(metadataRequestID); id != requestID(i/2) || (e.DataRef != "") != (i == 2) {
			t.Errorf("event %d is of request %s, data reference %q", i, id, e.DataRef)
		}
	}
	if d := time.Duration(disk.deadline.Load()); d < payloadTimeout/2 {
		t.Errorf("a store of a payload has %v", d)
	}
}

// TestLimits shows that an entry which cannot be an event is kept and holds up
// nothing.
func TestLimits(t *testing.T) {
	limits := event.DefaultLimits
	limits.MaxMetadataBytes = 1000
	s := newStandWith(t, limits)
	odd := strings.Replace(auditLine(2), "secret/data/key1", "secret/data/"+strings.Repeat("k", 2000), 1)
	s.write(auditLines(0, 2) + odd + "\n" + auditLines(3, 6))
	s.start()
	s.waitLines(6)
	var got []string
	for _, e := range lineEvents(t, s.journal) {
		got = append(got, e.Type)
		if e.Type == TypeQuarantined && string(e.Data) != odd {
			t.Errorf("data %.100q", e.Data)
		}
	}
	if want := "[audit/request audit/response audit/quarantined audit/response audit/request audit/response]"; fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
	s.waitFor("stats", func() bool { return s.file.Stats().Quarantined == 1 })
	if err := s.file.Health(); err != nil {
		t.Error(err)
	}
	m := s.metrics.Component("source", "test")
	if r, a, q := testutil.ToFloat64(m.Received), testutil.ToFloat64(m.Appended), testutil.ToFloat64(m.Quarantined); r != 6 || a != 9 || q != 1 {
		t.Errorf("metrics: %v lines received, %v events appended, %v quarantined", r, a, q)
	}
}

func TestTroubleWithTheFile(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.path = filepath.Join(s.dir, "missing", "audit.log")
	s.config.Inputs[0].Paths = []string{s.path}
	s.start()
	health := func(text string) func() bool {
		return func() bool {
			err := s.file.Health()
			return err != nil && strings.Contains(err.Error(), text) && strings.Contains(err.Error(), s.path)
		}
	}
	s.waitFor("health of a missing file", health("no such file"))
	if err := os.MkdirAll(s.path, 0o700); err != nil {
		t.Fatal(err)
	}
	s.waitFor("health of a directory", health("is a directory"))
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	s.write(auditLines(0, 2))
	s.waitLines(2)
	s.waitFor("health", func() bool { return s.file.Health() == nil })
}

func TestFromEnd(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.config.Inputs[0].From = tail.End
	s.write("old\n")
	s.start()
	s.waitFor("position", func() bool { position, _ := s.stored(); return position != nil })
	s.restart() // before anything was appended: what comes meanwhile is not old
	s.write(auditLines(0, 2))
	s.waitLines(2)
	checkExactlyOnce(t, s.journal, 2)
}

func TestNewErrors(t *testing.T) {
	file := Input{Name: "x", Paths: []string{"x"}}
	for _, c := range []Config{
		{Inputs: []Input{file}}, {Name: "x", Inputs: []Input{{}}}, {Name: "x", Inputs: []Input{{Name: "x"}}},
		{Name: "x", Inputs: []Input{{Paths: []string{"x"}}}}, {Name: "x", Inputs: []Input{file, file}},
		{Name: "x", Inputs: []Input{{Name: "x", Paths: []string{"x"}, From: "middle"}}},
		{Name: "x", Inputs: []Input{{Name: "x", Paths: []string{"["}}}},
		{Name: "x", Inputs: []Input{{Name: "x", Paths: []string{"x"}, Inbox: new(inbox.Inbox)}}},
	} {
		if _, err := New(c, Deps{}); err == nil {
			t.Errorf("no error for %+v", c)
		}
	}
}

func TestEvents(t *testing.T) {
	text := auditLines(0, 4) + "\nnot an entry\n" + strings.TrimSuffix(auditLines(4, 6), "\n")
	var types []string
	st, err := Events(t.Context(), strings.NewReader(text), NewTranslator(TranslatorConfig{Name: "x"}), func(e *event.Event) error {
		types = append(types, e.Type)
		return nil
	})
	want := "[audit/request audit/response kv-v2/data-write audit/request audit/response kv-v2/data-write audit/quarantined audit/request audit/response kv-v2/data-write]"
	if err != nil || fmt.Sprint(types) != want {
		t.Errorf("got %v, %v", types, err)
	}
	if st.Lines != 8 || st.Blank != 1 || st.Quarantined != 1 || st.Events != 10 {
		t.Errorf("stats %+v", st)
	}
	stop := errors.New("stop")
	if _, err := Events(t.Context(), strings.NewReader(text), NewTranslator(TranslatorConfig{Name: "x"}), func(*event.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Events(ctx, strings.NewReader(text), NewTranslator(TranslatorConfig{Name: "x"}), func(*event.Event) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
