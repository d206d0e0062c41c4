package flipt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a sink that does as told.
type fake struct {
	name string
	send func(ctx context.Context, events []Event) error

	mu     sync.Mutex
	calls  int
	got    []string // keys of flags
	closed int
	bad    error // of Close
}

func (f *fake) SendAudits(ctx context.Context, events []Event) error {
	f.mu.Lock()
	f.calls++
	f.mu.Unlock()
	if f.send != nil {
		if err := f.send(ctx, events); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		m, _ := e.Payload.(map[string]any)
		f.got = append(f.got, fmt.Sprint(m["key"]))
	}
	return nil
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return f.bad
}

func (f *fake) String() string { return f.name }

func (f *fake) keys() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.got, " ")
}

func failing(err error) func(context.Context, []Event) error {
	return func(context.Context, []Event) error { return err }
}

func hanging(ctx context.Context, _ []Event) error {
	<-ctx.Done()
	return ctx.Err()
}

// given collects what is given up.
type given struct {
	mu  sync.Mutex
	all map[string][]string
}

func (g *given) up(sink string, events []Event, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all == nil {
		g.all = make(map[string][]string)
	}
	for _, e := range events {
		m, _ := e.Payload.(map[string]any)
		g.all[sink] = append(g.all[sink], fmt.Sprintf("%v: %v", m["key"], err))
	}
}

func (g *given) of(sink string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.all[sink], "; ")
}

var quiet = slog.New(slog.DiscardHandler)

func fanout(o FanoutOptions, sinks ...Sink) *Fanout {
	o.Logger = quiet
	return NewFanout(sinks, o)
}

// Behaviour 20.
func TestEverySinkGetsEveryBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &fake{name: "a", send: failing(errors.New("a fails"))}, &fake{name: "b"}
		c, d := &fake{name: "c", send: func(context.Context, []Event) error { panic("c") }}, &fake{name: "d"}
		var gone given
		f := fanout(FanoutOptions{GiveUp: gone.up}, a, b, c, d)
		if err := f.SendAudits(t.Context(), nil); err != nil || a.calls+b.calls != 0 {
			t.Error("a sink was called without events")
		}
		err := f.SendAudits(t.Context(), []Event{flagEvent("1"), {}, flagEvent("2")})
		for _, want := range []string{"sink a: a fails", "sink c: the sink panicked: c", "event 1: event not valid"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v has no %q", err, want)
			}
		}
		if !errors.Is(err, ErrNotValid) {
			t.Error(err)
		}
		if b.keys() != "1 2" || d.keys() != "1 2" {
			t.Errorf("%q %q", b.keys(), d.keys())
		}
		if gone.of("a") != "" || gone.of("c") != "1: the sink panicked: c; 2: the sink panicked: c" || gone.of("b") != "" {
			t.Error(gone.all)
		}
		if err := f.Shutdown(t.Context()); !errors.Is(err, ErrShutdown) || !strings.Contains(err.Error(), "sink a: 2 events were not delivered") {
			t.Error(err)
		}
		if gone.of("a") != "1: auditing was shut down; 2: auditing was shut down" {
			t.Error(gone.all)
		}
		stats := f.Stats()
		if stats[0].GivenUp != 2 || stats[1].Delivered != 2 || stats[1].Queued != 0 || stats[1].Sink != "b" {
			t.Errorf("%+v", stats)
		}
		if err := f.SendAudits(t.Context(), []Event{flagEvent("3")}); !errors.Is(err, ErrShutdown) {
			t.Error(err)
		}
	})
}

// A sink of one's own need not know of DeliveryError: what it fails with is sent again, and one
// event that it can never take keeps no other from it.
func TestPlainErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone given
		var down atomic.Bool
		down.Store(true)
		s := &fake{name: "own"}
		s.send = func(_ context.Context, events []Event) error {
			for _, e := range events {
				if m, _ := e.Payload.(map[string]any); down.Load() || m["key"] == "poison" {
					return errors.New("no")
				}
			}
			return nil
		}
		f := fanout(FanoutOptions{GiveUp: gone.up, GiveUpAfter: time.Hour}, s, nil)
		if err := f.SendAudits(t.Context(), []Event{flagEvent("poison"), flagEvent("2"), flagEvent("3"), flagEvent("4")}); err == nil || !strings.Contains(err.Error(), "sink own: no") {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		s.mu.Lock()
		calls := s.calls
		s.mu.Unlock()
		if s.keys() != "" || calls > 20 {
			t.Errorf("%q after %d calls", s.keys(), calls)
		}
		down.Store(false)
		time.Sleep(2 * time.Minute)
		if s.keys() != "2 3 4" {
			t.Errorf("%q", s.keys())
		}
		time.Sleep(2 * time.Hour)
		if gone.of("own") != "poison: no" {
			t.Error(gone.all)
		}
		if err := f.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Behaviour 21.
func TestShutdownClosesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := errors.New("one"), errors.New("two")
		a, b, c := &fake{name: "a", bad: one}, &fake{name: "b"}, &fake{name: "c", bad: two}
		f := fanout(FanoutOptions{}, a, b, c)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if err := f.Shutdown(context.Background()); !errors.Is(err, one) || !errors.Is(err, two) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if a.closed != 1 || b.closed != 1 || c.closed != 1 {
			t.Error(a.closed, b.closed, c.closed)
		}
	})
}

// A sink that hangs, and one that is down, hold up no other, for as long as one likes: in
// Flipt the file had 1 line of 10 then (facts: one goroutine for all sinks).
func TestDeadSinksStarveNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := &fake{name: "hangs", send: hanging}
		s := &script{answers: []func(*http.Request) (*http.Response, error){refused}}
		down, err := NewWebhookSink(WebhookOptions{URL: "http://example.com", Client: &http.Client{Transport: s}})
		if err != nil {
			t.Fatal(err)
		}
		live := &fake{name: "live"}
		var gone given
		f := fanout(FanoutOptions{GiveUp: gone.up}, hangs, down, live)
		begin := time.Now()
		var want []string
		for i := range 1000 {
			key := fmt.Sprint(i)
			want = append(want, key)
			if err := f.SendAudits(t.Context(), []Event{flagEvent(key)}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if live.keys() != strings.Join(want, " ") {
			t.Errorf("the live sink got %q", live.keys())
		}
		// It waited for the dead ones once.
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err = f.Shutdown(ctx)
		if err == nil || !strings.Contains(err.Error(), "sink webhook: 1000 events were not delivered") {
			t.Error(err)
		}
		if n := len(gone.all["webhook"]); n != 1000 {
			t.Errorf("%d events were handed back", n)
		}
		if n := len(gone.all["hangs"]); n != 1000 {
			t.Errorf("%d events were handed back", n)
		}
	})
}

// What fails temporarily is tried again until it is delivered, in order when nothing can be
// delivered.
func TestTemporaryFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(time.Hour)
		s := fake{name: "s", send: func(_ context.Context, events []Event) error {
			if time.Now().After(up) {
				return nil
			}
			var failures []Failure
			for i := range events {
				failures = append(failures, Failure{i, errors.New("down"), true})
			}
			return &DeliveryError{"s", failures}
		}}
		var gone given
		f := fanout(FanoutOptions{GiveUp: gone.up}, &s)
		err := f.SendAudits(t.Context(), []Event{flagEvent("1"), flagEvent("2")})
		if err == nil || !strings.Contains(err.Error(), "down") {
			t.Error(err)
		}
		if err := f.SendAudits(t.Context(), []Event{flagEvent("3")}); err != nil {
			t.Error(err)
		}
		if err := f.ForceFlush(t.Context()); err != nil {
			t.Error(err)
		}
		if s.keys() != "1 2 3" || gone.of("s") != "" {
			t.Errorf("%q, given up: %q", s.keys(), gone.of("s"))
		}
		if took := time.Since(up); took < 0 || took > 2*time.Minute {
			t.Errorf("it noticed %s late", took)
		}
		// It is waited for again.
		if err := f.SendAudits(t.Context(), []Event{flagEvent("4")}); err != nil || s.keys() != "1 2 3 4" {
			t.Errorf("%v %q", err, s.keys())
		}
		if st := f.Stats()[0]; st.Delivered != 4 || st.Retried < 10 {
			t.Errorf("%+v", st)
		}
		if err := f.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// One event that always fails does not hold up the others, and is given up at last.
func TestPoisonedEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fake{name: "s"}
		good := make(map[string]bool)
		s.send = func(_ context.Context, events []Event) error {
			var failures []Failure
			for i, e := range events {
				key := e.Payload.(map[string]any)["key"].(string)
				switch key {
				case "bad":
					failures = append(failures, Failure{i, errors.New("500"), true})
				case "refused":
					failures = append(failures, Failure{i, errors.New("400"), false})
				default:
					good[key] = true
				}
			}
			if failures == nil {
				return nil
			}
			return &DeliveryError{"s", failures}
		}
		var gone given
		f := fanout(FanoutOptions{GiveUp: gone.up, GiveUpAfter: time.Hour}, s)
		err := f.SendAudits(t.Context(), []Event{flagEvent("bad"), flagEvent("refused"), flagEvent("a")})
		if err == nil {
			t.Error("no error")
		}
		_ = f.SendAudits(t.Context(), []Event{flagEvent("b")})
		if err := f.ForceFlush(t.Context()); err != nil {
			t.Error(err)
		}
		if len(good) != 2 || gone.of("s") != "refused: 400; bad: 500" {
			t.Errorf("%v %q", good, gone.of("s"))
		}
		if st := f.Stats()[0]; st.Delivered != 2 || st.GivenUp != 2 {
			t.Errorf("%+v", st)
		}
		_ = f.Shutdown(t.Context())
	})
}

func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs, live := &fake{name: "hangs", send: hanging}, &fake{name: "live"}
		var gone given
		f := fanout(FanoutOptions{QueueEvents: 2, BatchEvents: 1, Timeout: time.Hour, GiveUp: gone.up}, hangs, live)
		var full int
		for i := range 10 {
			if err := f.SendAudits(t.Context(), []Event{flagEvent(fmt.Sprint(i))}); errors.Is(err, ErrQueueFull) {
				full++
			} else if err != nil {
				t.Error(err)
			}
		}
		if full != 7 || live.keys() != "0 1 2 3 4 5 6 7 8 9" || len(gone.all["hangs"]) != 7 {
			t.Errorf("%d times full, live got %q, given up %q", full, live.keys(), gone.of("hangs"))
		}
		if st := f.Stats()[0]; st.Queued != 3 || st.GivenUp != 7 {
			t.Errorf("%+v", st)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.ForceFlush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := f.Shutdown(ctx); !errors.Is(err, ErrShutdown) {
			t.Error(err)
		}
		// Every event has a fate: it is delivered or given back.
		if n := len(gone.all["hangs"]); n != 10 {
			t.Errorf("%d of 10 were given back", n)
		}
	})
}

// A sink that does not come back even when its context has ended does not hang the end.
func TestStuckSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		s := &fake{name: "stuck", send: func(context.Context, []Event) error { <-free; return nil }}
		f := fanout(FanoutOptions{}, s)
		_ = f.SendAudits(t.Context(), []Event{flagEvent("1")})
		begin := time.Now()
		err := f.Shutdown(context.Background())
		if err == nil || !strings.Contains(err.Error(), "does not come back") || time.Since(begin) > 32*time.Second || s.closed != 1 {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		close(free)
	})
}

func TestPayloadThatCannotBeEncoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got Event
		s := &fake{name: "s", send: func(_ context.Context, events []Event) error { got = events[0]; return nil }}
		f := fanout(FanoutOptions{}, s)
		e := flagEvent("a")
		e.Payload = func() {}
		err := f.SendAudits(t.Context(), []Event{e})
		if err == nil || !strings.Contains(mustJSON(t, got.Payload), "unsupported type") {
			t.Errorf("%v %v", err, got)
		}
		_ = f.Shutdown(t.Context())
	})
}

// Events reach sinks as the caller had them at the time.
func TestEventsAreCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		var got string
		s := &fake{name: "s", send: func(_ context.Context, events []Event) error { <-free; got = mustJSON(t, &events[0]); return nil }}
		f := fanout(FanoutOptions{Wait: -1}, s)
		e := flagEvent("")
		payload := &Flag{Key: "before"}
		e.Payload = payload
		_ = f.SendAudits(t.Context(), []Event{e})
		payload.Key, e.Metadata.Actor.Authentication = "after", "after"
		close(free)
		_ = f.ForceFlush(t.Context())
		if strings.Contains(got, "after") {
			t.Error(got)
		}
		_ = f.Shutdown(t.Context())
	})
}

// Every template has a queue of its own.
func TestTemplatesAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		got := make(map[string]int)
		transport := roundTripper(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			got[r.URL.Host]++
			if r.URL.Host == "down" {
				return status(500)(r)
			}
			return status(200)(r)
		})
		sink, err := NewTemplateSink(TemplateOptions{Client: &http.Client{Transport: transport}, Templates: []WebhookTemplate{{URL: "http://down", Body: "{}"}, {URL: "http://live", Body: "{}"}}})
		if err != nil {
			t.Fatal(err)
		}
		f := fanout(FanoutOptions{}, sink)
		for range 3 {
			_ = f.SendAudits(t.Context(), []Event{flagEvent("a")})
		}
		time.Sleep(10 * time.Minute)
		mu.Lock()
		if got["live"] != 3 || got["down"] < 20 {
			t.Error(got)
		}
		mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = f.Shutdown(ctx)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fake{name: "s"}
		checker, err := NewChecker([]string{"flag:created"})
		if err != nil {
			t.Fatal(err)
		}
		l := NewLogger(checker, fanout(FanoutOptions{}, s))
		log := func(action Action, key string) error {
			return l.Log(t.Context(), NewEvent(Request{Resource: ResourceFlag, Action: action}, nil, &Flag{Key: key}))
		}
		if log(ActionCreate, "1") != nil || log(ActionDelete, "2") != nil || log(ActionCreate, "3") != nil {
			t.Error("not logged")
		}
		if err := l.Log(t.Context(), new(Event)); err != ErrNotValid {
			t.Error(err)
		}
		if err := l.Log(t.Context(), nil); err != ErrNotValid {
			t.Error(err)
		}
		if err := l.Shutdown(t.Context()); err != nil || s.keys() != "1 3" {
			t.Errorf("%v %q", err, s.keys())
		}
		for checker, want := range map[EventPairChecker]int{nil: 1, NoOpChecker{}: 0, (*Checker)(nil): 0} {
			s := &fake{name: "s"}
			l := NewLogger(checker, fanout(FanoutOptions{}, s))
			_ = l.Log(t.Context(), NewEvent(Request{Resource: "order", Action: "read"}, nil, nil))
			_ = l.Shutdown(t.Context())
			if len(s.got) != want {
				t.Errorf("%v: %d events", checker, len(s.got))
			}
		}
	})
}

// Behaviours 22, 31, 37 and 38.
func TestConfig(t *testing.T) {
	if c := DefaultConfig(); c.Validate() != nil || c.Enabled() {
		t.Error("the default is wrong")
	}
	for want, change := range map[string]func(c *Config){
		"buffer capacity below 2 or above 10":                     func(c *Config) { c.Buffer.Capacity = 1000 },
		"buffer capacity below 2 or above 10 ":                    func(c *Config) { c.Buffer.Capacity = 1 },
		"flush period below 2 minutes or greater than 5 minutes":  func(c *Config) { c.Buffer.FlushPeriod = 30 * time.Minute },
		"flush period below 2 minutes or greater than 5 minutes ": func(c *Config) { c.Buffer.FlushPeriod = time.Minute },
		"url or template(s) not provided":                         func(c *Config) { c.Sinks.Webhook.Enabled = true },
		"only one of url or template(s) allowed": func(c *Config) {
			c.Sinks.Webhook = WebhookConfig{Enabled: true, URL: "http://x", Templates: []WebhookTemplateConfig{{}}}
		},
		"kafka topic not provided":             func(c *Config) { c.Sinks.Kafka.Enabled = true },
		"kafka bootstrap_servers not provided": func(c *Config) { c.Sinks.Kafka = KafkaConfig{Enabled: true, Topic: "t"} },
		"unsupported encoding: json": func(c *Config) {
			c.Sinks.Kafka = KafkaConfig{Enabled: true, Topic: "t", BootstrapServers: []string{"b"}, Encoding: "json"}
		},
		"unsupported encoding: xml": func(c *Config) { c.Sinks.Log = LogConfig{Enabled: true, Encoding: "xml"} },
		"invalid noun: foo":         func(c *Config) { c.Sinks.Log.Enabled, c.Events = true, []string{"foo:created"} },
		"no event pairs exist":      func(c *Config) { c.Sinks.Log.Enabled, c.Events = true, nil },
		"the URL of the webhook is none; write for example https://example.com/audit": func(c *Config) { c.Sinks.Webhook.Enabled, c.Sinks.Webhook.URL = true, "x" },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || err.Error() != strings.TrimRight(want, " ") {
			t.Errorf("%v, want %s", err, want)
		}
		if _, err := c.Open(OpenOptions{}); err == nil {
			t.Error("opened")
		}
	}
	c := DefaultConfig()
	c.Events = []string{"nonsense"}
	if checker, err := c.Checker(); c.Validate() != nil || err != nil || checker != (NoOpChecker{}) {
		t.Error("events count without a sink")
	}
}

func TestConfigOpen(t *testing.T) {
	open := func(change func(c *Config), o OpenOptions) (string, error) {
		c := DefaultConfig()
		change(&c)
		o.Output = io.Discard
		sinks, err := c.Open(o)
		for _, s := range sinks {
			defer s.Close()
		}
		if _, err := c.Checker(); err != nil {
			t.Error(err)
		}
		return fmt.Sprint(sinks), err
	}
	for _, c := range []struct {
		want, fails string
		change      func(c *Config)
	}{
		{"[]", "", func(*Config) {}},
		{"[log webhook]", "", func(c *Config) {
			c.Sinks.Webhook.Enabled, c.Sinks.Webhook.URL, c.Sinks.Webhook.MaxBackoffDuration = true, "http://x", -1
			c.Sinks.Log.Enabled = true
		}},
		{"[templates]", "", func(c *Config) {
			c.Sinks.Webhook.Enabled, c.Sinks.Webhook.Templates = true, []WebhookTemplateConfig{{URL: "http://x", Body: "{}"}}
		}},
		{"[]", "failed to create webhook template sink: template: :1: unclosed action", func(c *Config) {
			c.Sinks.Webhook.Enabled, c.Sinks.Webhook.Templates = true, []WebhookTemplateConfig{{URL: "http://x", Body: "{{"}}
			c.Sinks.Log.Enabled = true
		}},
		{"[]", "creating audit log sink: ", func(c *Config) { c.Sinks.Log = LogConfig{Enabled: true, File: filepath.Dir(t.TempDir())} }},
		{"[]", "Tocsin hub", func(c *Config) {
			c.Sinks.Kafka = KafkaConfig{Enabled: true, Topic: "t", BootstrapServers: []string{"b"}}
		}},
		{"[]", "cloud", func(c *Config) { c.Sinks.Cloud.Enabled = true }},
	} {
		for _, attempts := range []bool{false, true} {
			got, err := open(c.change, OpenOptions{AttemptsBudget: attempts})
			if got != c.want || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s %v, want %s %s", got, err, c.want, c.fails)
			}
		}
	}
}
