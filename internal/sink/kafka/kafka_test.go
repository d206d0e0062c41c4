package kafka

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
)

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "6"); err != nil { // they wait most of the time
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func cluster(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func sink(t *testing.T, o Options) *Sink {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// send sends once, for at most d, and returns the outcome of each event.
func send(t *testing.T, s deliver.Sink, d time.Duration, items ...deliver.Item) []deliver.Result {
	t.Helper()
	return sendBatch(t, s, d, &deliver.Batch{Items: items, Attempt: 1})
}

func sendBatch(t *testing.T, s deliver.Sink, d time.Duration, b *deliver.Batch) []deliver.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	results := b.Results(s.Send(ctx, b))
	for _, r := range results {
		if len(r.Reason) > deliver.MaxReasonBytes || strings.ContainsAny(r.Reason, "\n\r") {
			t.Errorf("reason %q", r.Reason)
		}
		if (r.Reason == "") != (r.Outcome == deliver.Delivered) {
			t.Errorf("%s with reason %q", r.Outcome, r.Reason)
		}
	}
	return results
}

// wantOutcomes compares outcomes, and returns the reasons.
func wantOutcomes(t *testing.T, got []deliver.Result, want ...deliver.Outcome) string {
	t.Helper()
	var reasons []string
	for i, r := range got {
		if r.Outcome != want[min(i, len(want)-1)] {
			t.Errorf("event %d of %d: %s (%s), want %s", i, len(got), r.Outcome, r.Reason, want[min(i, len(want)-1)])
			break
		}
		reasons = append(reasons, r.Reason)
	}
	return strings.Join(reasons, "\n")
}

var made atomic.Uint32

// item returns an event about a path.
func item(path string) deliver.Item {
	n := made.Add(1)
	e := &event.Event{
		ID: fmt.Sprintf("id-%d", n), Source: "vault://node-1", Type: "kv-v2/data-write", Namespace: "team-a/", Path: path,
		Time:     time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC),
		Metadata: event.Fields{{Key: "n", Value: "3", JSON: true}, {Key: "path", Value: path}},
	}
	return deliver.Item{Event: e, At: position.Position{Seq: 7, Index: n, Ordinal: uint64(n)}}
}

// records reads n records of a topic, all there are if n is 0.
func records(t *testing.T, c *kfake.Cluster, topic string, n int) []*kgo.Record {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []*kgo.Record
	for len(got) < n {
		f := client.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			t.Fatalf("after %d records of %s: %v", len(got), topic, err)
		}
		f.EachRecord(func(r *kgo.Record) { got = append(got, r) })
	}
	if len(got) > n {
		t.Fatalf("%d records of %s, want %d", len(got), topic, n)
	}
	return got
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func TestSend(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(4, "audit"))
	for _, o := range []Options{
		{Encoding: CloudEvents},
		{Encoding: Raw, Compression: "gzip"},
		{Encoding: Vault, Compression: "snappy", Key: KeyType},
		{Encoding: Avro, Compression: "lz4", Key: KeyNone},
		{Encoding: Protobuf, Compression: "zstd", Acks: AcksLeader},
	} {
		t.Run(string(o.Encoding), func(t *testing.T) {
			topic := "t-" + string(o.Encoding)
			if err := c.CreateTopic(topic, 4, nil); err != nil {
				t.Fatal(err)
			}
			o.Brokers, o.Topic = c.ListenAddrs(), topic
			s := sink(t, o)
			var items []deliver.Item
			for i := range 40 {
				items = append(items, item(fmt.Sprintf("secret/data/%d", i%7)))
			}
			wantOutcomes(t, send(t, s, 10*time.Second, items...), deliver.Delivered)
			got := records(t, c, topic, len(items))
			place := make(map[string]int) // of ids in their partition
			partition := make(map[string]int32)
			for i, r := range got {
				id := header(r, "ce_id")
				place[id] = i
				if p, ok := partition[string(r.Key)]; ok && p != r.Partition && o.Key != KeyNone {
					t.Errorf("key %s is in partitions %d and %d", r.Key, p, r.Partition)
				}
				partition[string(r.Key)] = r.Partition
				if header(r, "ce_specversion") != "1.0" || header(r, "ce_type") != "kv-v2/data-write" || header(r, "ce_source") != "vault://node-1" ||
					header(r, "ce_time") != "2026-03-04T05:06:07.89Z" || header(r, "ce_namespace") != "team-a/" || len(header(r, "ce_sequence")) != 32 {
					t.Errorf("headers %s", r.Headers)
				}
			}
			for i, it := range items {
				if i >= 7 && place[it.Event.ID] < place[items[i-7].Event.ID] && o.Key != KeyNone {
					t.Errorf("event %d of %s is before the one that came before it", i, it.Event.Path)
				}
			}
			want := map[Key]string{"": "team-a/secret/data/0", KeyType: "kv-v2/data-write", KeyNone: ""}[o.Key]
			first := got[place[items[0].Event.ID]]
			if string(first.Key) != want {
				t.Errorf("key %q, want %q", first.Key, want)
			}
			if o.Key == KeyNone && first.Key != nil {
				t.Error("no key must be null, not empty")
			}
		})
	}
}

func TestStructured(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(1, "audit"))
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit"})
	it := item("secret/data/a")
	b := &deliver.Batch{Items: []deliver.Item{it}, Attempt: 2, Replay: "r1", Redriven: true}
	wantOutcomes(t, sendBatch(t, s, 10*time.Second, b), deliver.Delivered)
	r := records(t, c, "audit", 1)[0]
	if got := header(r, "content-type"); got != "application/cloudevents+json" {
		t.Errorf("content-type %q", got)
	}
	if header(r, "tocsin-replay") != "r1" || header(r, "tocsin-redriven") != "true" {
		t.Errorf("headers %s", r.Headers)
	}
	e, err := event.ParseCloudEvent(r.Value)
	if err != nil {
		t.Fatal(err)
	}
	if e.ID != it.Event.ID || e.Path != it.Event.Path {
		t.Errorf("read back %+v", e)
	}
}

func TestTopic(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, test := range []struct{ topic, eventType, source, want string }{
		{"audit", "a/b", "s", "audit"},
		{"vault.{type}", "kv-v2/data-write", "s", "vault.kv-v2.data-write"},
		{"{type}", "../..", "s", "....."},
		{"{type}", "/", "s", "event"},
		{"{type}", "//", "s", "event"},
		{"{source}-{type}", "a", "vault://é b", "vault.....b-a"},
		{"{type}{type}", "a", "", "aa"},
		{"x{type}", long, "", "x" + long[:231] + "-6ab4b1ab2ee9e5a6"},
	} {
		template, err := parseTopic(test.topic)
		if err != nil {
			t.Errorf("%s: %v", test.topic, err)
			continue
		}
		got := template.of(&event.Event{Type: test.eventType, Source: test.source})
		if len(test.want) == maxTopicBytes {
			if len(got) != maxTopicBytes || got[:232] != test.want[:232] {
				t.Errorf("%s: %s", test.topic, got)
			}
			if other := template.of(&event.Event{Type: test.eventType + "y"}); other == got {
				t.Errorf("two types have the topic %s", got)
			}
			continue
		}
		if got != test.want {
			t.Errorf("%s of %s, %s: %s, want %s", test.topic, test.eventType, test.source, got, test.want)
		}
		if template.variable() != strings.Contains(test.topic, "{") {
			t.Errorf("%s: variable is %v", test.topic, template.variable())
		}
	}
	for _, wrong := range []string{"", ".", "..", "a b", "a/{type}", "{path}", "{type", "type}", "{{type}}", "é", strings.Repeat("a", 250)} {
		if err := CheckTopic(wrong); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	secret := func() (string, error) { return "hunter2", nil }
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{Topic: "a"}, "no brokers"},
		{Options{Brokers: []string{"a b"}, Topic: "a"}, "no address of a broker"},
		{Options{Brokers: []string{"host:0"}, Topic: "a"}, "no address of a broker"},
		{Options{Brokers: []string{"host:http"}, Topic: "a"}, "no address of a broker"},
		{Options{Brokers: []string{"kafka://host:9092"}, Topic: "a"}, "no address of a broker"},
		{Options{Brokers: make([]string, 65), Topic: "a"}, "at most 64"},
		{Options{Brokers: []string{"h"}}, "no topic"},
		{Options{Brokers: []string{"h"}, Topic: "a", Key: "x"}, "unknown key"},
		{Options{Brokers: []string{"h"}, Topic: "a", Acks: "x"}, "unknown acks"},
		{Options{Brokers: []string{"h"}, Topic: "a", Encoding: "xml"}, "unknown encoding"},
		{Options{Brokers: []string{"h"}, Topic: "a", Compression: "x"}, "unknown compression"},
		{Options{Brokers: []string{"h"}, Topic: "a", MaxMessageBytes: 1}, "max_message_bytes"},
		{Options{Brokers: []string{"h"}, Topic: "a", SASL: SASL{Mechanism: "gssapi"}}, "unknown mechanism"},
		{Options{Brokers: []string{"h"}, Topic: "a", SASL: SASL{Mechanism: SASLPlain, Username: "u"}}, "username and a password"},
		{Options{Brokers: []string{"h"}, Topic: "a", SASL: SASL{Mechanism: SASLPlain, Username: "u", Password: func() (string, error) { return "", errors.New("no such file") }}}, "no such file"},
		{Options{Brokers: []string{"h"}, Topic: "a", TLS: &TLS{CA: secret}}, "ca has no certificate"},
		{Options{Brokers: []string{"h"}, Topic: "a", TLS: &TLS{Cert: secret}}, "belong together"},
		{Options{Brokers: []string{"h"}, Topic: "a", TLS: &TLS{Cert: secret, Key: secret}}, "cert and key"},
		{Options{Brokers: []string{"h"}, Topic: "a", Registry: Registry{URL: "http://r"}}, "not for cloudevents"},
		{Options{Brokers: []string{"h"}, Topic: "a", Encoding: Avro, Registry: Registry{URL: "ftp://r"}}, "the url is none"},
		{Options{Brokers: []string{"h"}, Topic: "a", Encoding: Avro, Registry: Registry{URL: "http://u:hunter2@r"}}, "has a user"},
		{Options{Brokers: []string{"h"}, Topic: "a", Encoding: Avro, Registry: Registry{URL: "http://r?x"}}, "query"},
	} {
		s, err := New(test.o)
		if err == nil {
			s.Close()
			t.Errorf("%+v is accepted, want %q", test.o, test.want)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	for _, good := range []string{"kafka", "kafka.example.com", "kafka.example.com:9092", "10.0.0.1:9092", "[::1]:9092", "b-1_x:1"} {
		if err := CheckBroker(good); err != nil {
			t.Error(err)
		}
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := sink(t, Options{Brokers: []string{closedPort(t)}, Topic: "audit", Timeout: 2 * time.Second})
	start := time.Now()
	reason := wantOutcomes(t, send(t, s, time.Minute, item("a"), item("b")), deliver.Retry)
	if !strings.Contains(reason, "connection refused") {
		t.Errorf("reason %q", reason)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("took %s", d)
	}
	if n := s.current.client.BufferedProduceRecords(); n != 0 {
		t.Errorf("%d records are left in the client", n)
	}
}

// silent accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
	return l.Addr().String()
}

func TestSilentBroker(t *testing.T) {
	t.Parallel()
	s := sink(t, Options{Brokers: []string{silent(t)}, Topic: "audit"})
	start := time.Now()
	wantOutcomes(t, send(t, s, 300*time.Millisecond, item("a")), deliver.Retry)
	if d := time.Since(start); d > DefaultTimeout/2 {
		t.Errorf("took %s", d)
	}
}

func TestCloseDuringSend(t *testing.T) {
	s := sink(t, Options{Brokers: []string{silent(t)}, Topic: "audit"})
	done := make(chan []deliver.Result)
	go func() { done <- send(t, s, time.Minute, item("a")) }()
	for {
		s.mu.Lock()
		begun := s.current != nil
		s.mu.Unlock()
		if begun {
			break
		}
		time.Sleep(time.Millisecond)
	}
	s.Close()
	s.Close()
	wantOutcomes(t, <-done, deliver.Retry)
	wantOutcomes(t, send(t, s, time.Second, item("a")), deliver.Retry)
}

func TestMissingTopic(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "kv.write"))
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit"})
	reason := wantOutcomes(t, send(t, s, 5*time.Second, item("a")), deliver.Retry)
	if !strings.Contains(reason, `topic "audit" does not exist; create it, or set auto_topics: true`) {
		t.Errorf("reason %q", reason)
	}
	// With a topic for each type, one that is missing must not stop the others.
	s = sink(t, Options{Brokers: c.ListenAddrs(), Topic: "{type}"})
	there, missing := item("a"), item("a")
	there.Event.Type = "kv/write"
	wantOutcomes(t, send(t, s, 5*time.Second, there, missing, there), deliver.Delivered, deliver.Doubtful, deliver.Delivered)
	records(t, c, "kv.write", 2)
}

func TestAutoTopics(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.AllowAutoTopicCreation())
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "made", AutoTopics: true})
	wantOutcomes(t, send(t, s, 10*time.Second, item("a")), deliver.Delivered)
	records(t, c, "made", 1)
	without := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "other"})
	wantOutcomes(t, send(t, without, 10*time.Second, item("a")), deliver.Retry)
	if c.TopicInfo("other") != nil {
		t.Error("the topic was made although nobody asked for it")
	}
}

func TestTooLarge(t *testing.T) {
	c := cluster(t)
	if err := c.CreateTopic("audit", 1, map[string]string{"max.message.bytes": "20000"}); err != nil {
		t.Fatal(err)
	}
	large := item("a")
	large.Event.Data, large.Event.DataContentType = []byte(strings.Repeat("x", 30_000)), "text/plain"
	items := []deliver.Item{item("a"), large}
	for range 100 {
		it := item("a")
		it.Event.Data, it.Event.DataContentType = []byte(strings.Repeat("x", 1000)), "text/plain"
		items = append(items, it)
	}
	// What the topic takes is asked for, so that batches fit.
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit"})
	reason := wantOutcomes(t, send(t, s, 10*time.Second, items...), deliver.Delivered, deliver.Impossible, deliver.Delivered)
	if !strings.Contains(reason, "raise max.message.bytes of the topic") {
		t.Errorf("reason %q", reason)
	}
	records(t, c, "audit", len(items)-1)
	// A size that is set and wrong is no reason to give an event up.
	s = sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit", MaxMessageBytes: 1 << 20})
	reason = wantOutcomes(t, send(t, s, 10*time.Second, large), deliver.Doubtful)
	if !strings.Contains(reason, "max_message_bytes") {
		t.Errorf("reason %q", reason)
	}
}

func TestBrokerErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err     *kerr.Error
		outcome deliver.Outcome
		reason  string
	}{
		{kerr.TopicAuthorizationFailed, deliver.Retry, `may not write to topic "audit"; allow it WRITE`},
		{kerr.ClusterAuthorizationFailed, deliver.Retry, "IDEMPOTENT_WRITE"},
		{kerr.InvalidRecord, deliver.Doubtful, "refused a batch"},
		{kerr.InvalidTimestamp, deliver.Doubtful, "refused a batch"},
		{kerr.PolicyViolation, deliver.Doubtful, "refused a batch"},
		{kerr.UnknownServerError, deliver.Doubtful, "UNKNOWN_SERVER_ERROR"},
		{kerr.NotEnoughReplicas, deliver.Retry, "in time"},
		{kerr.KafkaStorageError, deliver.Retry, "in time"},
	} {
		t.Run(test.err.Message, func(t *testing.T) {
			c := cluster(t, kfake.SeedTopics(1, "audit"))
			s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit"})
			broken := true
			c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				if !broken {
					return nil, nil, false
				}
				return refusal(req, test.err), nil, true
			})
			a, b := item("a"), item("b")
			reason := wantOutcomes(t, send(t, s, time.Second, a, b), test.outcome)
			if !strings.Contains(reason, test.reason) {
				t.Errorf("reason %q, want %q", reason, test.reason)
			}
			// Whatever it was: when it is over, the sink goes on.
			c.Control(func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, false })
			broken = false
			wantOutcomes(t, send(t, s, 10*time.Second, a, b), deliver.Delivered)
			records(t, c, "audit", 2)
		})
	}
}
