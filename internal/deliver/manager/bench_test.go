package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/trail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is what sinks of a test send to, by the name of the sink.
type receiver struct {
	mu     sync.Mutex
	got    map[string][]string       // ids of events
	answer map[string]deliver.Result // what it says; delivered where nothing is set
	open   int
	reopen int
	keys   map[string]string // the bearer token that the sink had
}

func newReceiver() *receiver {
	return &receiver{got: make(map[string][]string), answer: make(map[string]deliver.Result), keys: make(map[string]string)}
}

// make is a constructor of sinks.
func (r *receiver) make(c config.Sink, _ Origin) (deliver.Sink, error) {
	key := ""
	if c.Webhook.BearerToken.IsSet() {
		var err error
		if key, err = c.Webhook.BearerToken.Reveal(); err != nil {
			return nil, err
		}
	}
	if strings.Contains(c.Webhook.URL, "unmakeable") {
		return nil, errors.New("url: this one cannot be made; choose another")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[c.Name] = key
	r.open++
	return &fakeSink{r: r, name: c.Name}, nil
}

func (r *receiver) say(name string, result deliver.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer[name] = result
}

func (r *receiver) received(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got[name])
}

type fakeSink struct {
	r    *receiver
	name string
	once sync.Once
}

func (s *fakeSink) Send(_ context.Context, b *deliver.Batch) deliver.Result {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	result := s.r.answer[s.name]
	if result.Outcome == deliver.Delivered {
		for _, i := range b.Items {
			s.r.got[s.name] = append(s.r.got[s.name], i.Event.ID)
		}
	}
	return result
}

func (s *fakeSink) Close() error {
	s.once.Do(func() {
		s.r.mu.Lock()
		defer s.r.mu.Unlock()
		s.r.open--
	})
	return nil
}

func (s *fakeSink) Reopen() error {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.reopen++
	return nil
}

// bench is a manager on a journal in a directory that can be opened again.
type bench struct {
	t        *testing.T
	dir      string
	journal  *journal.Journal
	receiver *receiver
	o        Options
	m        *Manager
	registry *prometheus.Registry

	mu      sync.Mutex
	records []trail.Record
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), receiver: newReceiver()}
	b.o = Options{DataDir: filepath.Join(b.dir, "data"), Delivery: config.Default().Delivery, Node: "hub-1", Logger: slog.New(slog.DiscardHandler)}
	b.o.Delivery.FilesBelow = filepath.Join(b.dir, "files")
	t.Cleanup(b.close)
	return b
}

func (b *bench) record(r trail.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, r)
}

// recorded returns the kinds of the records so far.
func (b *bench) recorded() (kinds []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.records {
		kinds = append(kinds, r.What)
	}
	return kinds
}

// tryOpen opens the journal and the manager, and starts it.
func (b *bench) tryOpen() error {
	b.t.Helper()
	var err error
	if b.journal, err = journal.Open(b.t.Context(), journal.Config{Dir: b.o.DataDir, Logger: b.o.Logger}); err != nil {
		b.t.Fatal(err)
	}
	b.registry = prometheus.NewRegistry()
	b.o.Journal, b.o.Make, b.o.Record, b.o.Health, b.o.Registry = b.journal, b.receiver.make, b.record, new(health.Registry), b.registry
	if b.m, err = Open(b.t.Context(), b.o); err != nil {
		return err
	}
	b.m.Start()
	return nil
}

func (b *bench) open() *bench {
	b.t.Helper()
	if err := b.tryOpen(); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *bench) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if b.m != nil {
		if err := b.m.Stop(ctx); err != nil {
			b.t.Error(err)
		}
		b.m = nil
		b.receiver.mu.Lock()
		if b.receiver.open != 0 {
			b.t.Errorf("%d sinks are not closed", b.receiver.open)
		}
		b.receiver.mu.Unlock()
	}
	if b.journal != nil {
		if err := b.journal.Close(ctx); err != nil {
			b.t.Error(err)
		}
		b.journal = nil
	}
}

func (b *bench) reopen() *bench {
	b.t.Helper()
	b.close()
	return b.open()
}

func (b *bench) put(name, text string) Info {
	b.t.Helper()
	i, _, err := b.m.Put(b.t.Context(), name, []byte(text))
	if err != nil {
		b.t.Fatalf("put %s: %v", name, err)
	}
	return i
}

func (b *bench) append(ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		e := &event.Event{ID: id, Type: "shop/order", Source: "/shop", Path: "shop/" + id, Time: time.Now().UTC()}
		if _, err := b.journal.Append(b.t.Context(), e); err != nil {
			b.t.Fatal(err)
		}
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// awaitGot waits until the sink has got these events, in any order.
func (b *bench) awaitGot(name string, ids ...string) {
	b.t.Helper()
	slices.Sort(ids)
	await(b.t, fmt.Sprintf("%s gets %v", name, ids), func() bool { return slices.Equal(slices.Sorted(slices.Values(b.receiver.received(name))), ids) })
}

func (b *bench) info(name string) Info {
	b.t.Helper()
	i, err := b.m.Get(b.t.Context(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	return i
}

func (b *bench) awaitCondition(name string, want deliver.Condition) {
	b.t.Helper()
	await(b.t, name+" is "+string(want), func() bool { return b.info(name).Status.Condition == want })
}

// fileSink is a sink of the configuration file.
func fileSink(name string, set func(*config.Sink)) config.Sink {
	s := config.DefaultSink()
	s.Name, s.Type = name, config.SinkTypeWebhook
	s.Webhook.URL = "https://hooks.example.com/" + name
	s.Events.Types = []string{"shop/*"}
	if set != nil {
		set(&s)
	}
	return s
}

const hook = "type: webhook\nevents: {types: [shop/*]}\nwebhook: {url: 'https://hooks.example.com/a'}\n"

func withSecret(secret string) string {
	return "type: webhook\nevents: {types: [shop/*]}\nwebhook: {url: 'https://hooks.example.com/a', bearer_token: {value: " + secret + "}}\n"
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func atoi(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Error(err)
	}
	return n
}
