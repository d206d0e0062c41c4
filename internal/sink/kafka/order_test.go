package kafka

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// TestResendBehind says which events are sent again behind one that is.
func TestResendBehind(t *testing.T) {
	t.Parallel()
	type one struct {
		path      string
		partition int32
		outcome   deliver.Outcome
		want      deliver.Outcome
	}
	const ok, retry, doubtful, never = deliver.Delivered, deliver.Retry, deliver.Doubtful, deliver.Impossible
	for name, events := range map[string][]one{
		"all delivered":         {{"a", 0, ok, ok}, {"a", 0, ok, ok}},
		"same path":             {{"a", 0, ok, ok}, {"a", 0, retry, retry}, {"a", 0, ok, retry}, {"a", 0, ok, retry}},
		"path without a place":  {{"a", -1, retry, retry}, {"a", 2, ok, retry}, {"b", 2, ok, ok}},
		"same partition":        {{"a", 1, doubtful, doubtful}, {"b", 1, ok, retry}, {"c", 2, ok, ok}},
		"another partition":     {{"a", 1, retry, retry}, {"b", 2, ok, ok}, {"", 2, ok, ok}},
		"one that never is":     {{"a", 0, never, never}, {"a", 0, ok, ok}},
		"no path":               {{"", -1, retry, retry}, {"", 1, ok, ok}},
		"not what comes before": {{"a", 1, ok, ok}, {"b", 1, retry, retry}},
	} {
		a := &attempt{batch: &deliver.Batch{}}
		for _, e := range events {
			it := item(e.path)
			it.Event.Namespace = ""
			a.batch.Items = append(a.batch.Items, it)
			a.states = append(a.states, state{record: &kgo.Record{Topic: "t"}, partition: e.partition, verdict: verdict{outcome: e.outcome}})
		}
		a.resendBehind()
		for i, e := range events {
			if got := a.states[i].verdict.outcome; got != e.want {
				t.Errorf("%s: event %d is %s, want %s", name, i, got, e.want)
			}
		}
	}
}

// TestLostAnswers lets the broker store records and answer that it could not: the client repeats them
// in the same Send, and they are stored once.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(3, "audit"))
	requests := 0
	lost := c.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1, // with which it stores them all the same
		When: func(kmsg.Request) bool { requests++; return requests%3 == 0 },
	})
	defer lost.Remove()
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit"})
	var items []deliver.Item
	for i := range 24 {
		it := item(fmt.Sprintf("p-%d", i%4))
		items = append(items, it)
		wantOutcomes(t, send(t, s, 10*time.Second, it), deliver.Delivered)
	}
	if lost.Hits() < 5 {
		t.Errorf("%d answers were lost", lost.Hits())
	}
	got := records(t, c, "audit", len(items))
	at := make(map[string]int)
	for i, r := range got {
		at[header(r, "ce_id")] = i
	}
	for i := 4; i < len(items); i++ {
		if at[items[i].Event.ID] < at[items[i-4].Event.ID] {
			t.Errorf("event %d is before the one that came before it", i)
		}
	}
}

// TestBeginsAnew makes a client impossible to use, and one that knows too many topics.
func TestBeginsAnew(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "audit"))
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit"})
	denied := true
	c.ControlKey(int16(kmsg.InitProducerID), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp, nil, denied
	})
	if reason := wantOutcomes(t, send(t, s, 5*time.Second, item("a")), deliver.Retry); !strings.Contains(reason, "IDEMPOTENT_WRITE") {
		t.Errorf("reason %q", reason)
	}
	denied = false
	wantOutcomes(t, send(t, s, 5*time.Second, item("a")), deliver.Delivered)

	first := s.current
	first.mu.Lock()
	for i := range MaxTopics {
		first.topics[fmt.Sprint(i)] = 1 << 20
	}
	first.mu.Unlock()
	wantOutcomes(t, send(t, s, 5*time.Second, item("a")), deliver.Delivered)
	wantOutcomes(t, send(t, s, 5*time.Second, item("a")), deliver.Delivered)
	if s.current == first || len(s.current.topics) != 1 {
		t.Errorf("the client knows %d topics", len(s.current.topics))
	}
	records(t, c, "audit", 3)
}

// TestManyTopics sends events whose types would be more topics than are looked at in one call.
func TestManyTopics(t *testing.T) {
	c := cluster(t)
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "{type}"})
	var items []deliver.Item
	for i := range MaxTopics + 50 {
		it := item("a")
		it.Event.Type = fmt.Sprintf("t/%d", i)
		items = append(items, it)
	}
	results := send(t, s, 10*time.Second, items...)
	if results[0].Outcome != deliver.Doubtful || results[MaxTopics-1].Outcome != deliver.Doubtful || results[MaxTopics].Outcome != deliver.Retry {
		t.Errorf("%v, %v, %v", results[0], results[MaxTopics-1], results[MaxTopics])
	}
	if !strings.Contains(results[MaxTopics].Reason, "more than 1000 topics at once") {
		t.Errorf("reason %q", results[MaxTopics].Reason)
	}
}

// TestPasswordRepeated has a broker that says the password in its answer.
func TestPasswordRepeated(t *testing.T) {
	c := cluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "another one"))
	c.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		said := "wrong password hunter2 of \x00alice\x00hunter2\nsorry"
		resp.ErrorCode, resp.ErrorMessage = kerr.SaslAuthenticationFailed.Code, &said
		return resp, nil, true
	})
	s := sink(t, Options{
		Brokers: c.ListenAddrs(), Topic: "audit",
		SASL: SASL{Mechanism: SASLPlain, Username: "alice", Password: func() (string, error) { return "hunter2", nil }},
	})
	reason := wantOutcomes(t, send(t, s, 5*time.Second, item("a")), deliver.Retry)
	if strings.Contains(reason, "hunter2") || !strings.Contains(reason, `did not let user "alice" in with plain`) {
		t.Errorf("reason %q", reason)
	}
}

// TestPasswordUnreadable has a password that is gone after the start.
func TestPasswordUnreadable(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(1, "audit"), kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "hunter2"))
	var broken error
	s := sink(t, Options{
		Brokers: c.ListenAddrs(), Topic: "audit",
		SASL: SASL{Mechanism: SASLPlain, Username: "alice", Password: func() (string, error) { return "hunter2", broken }},
	})
	broken = fmt.Errorf("read secret: open /etc/kafka-password: no such file or directory")
	if reason := wantOutcomes(t, send(t, s, 2*time.Second, item("a")), deliver.Retry); !strings.Contains(reason, "/etc/kafka-password") {
		t.Errorf("reason %q", reason)
	}
	broken = nil
	wantOutcomes(t, send(t, s, 5*time.Second, item("a")), deliver.Delivered)
}

// TestConcurrent sends the events of many paths at the same time through few partitions.
func TestConcurrent(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(2, "audit"))
	s := sink(t, Options{Brokers: c.ListenAddrs(), Topic: "audit", Compression: "lz4"})
	var sending sync.WaitGroup
	const senders, rounds = 12, 40
	all := make([][]deliver.Item, senders)
	for i := range all {
		for range rounds * 3 {
			all[i] = append(all[i], item(fmt.Sprintf("p-%d", i)))
		}
		sending.Go(func() {
			for part := range slices.Chunk(all[i], 3) {
				wantOutcomes(t, send(t, s, 10*time.Second, part...), deliver.Delivered)
			}
		})
	}
	sending.Wait()
	next := make(map[string]int)
	for _, r := range records(t, c, "audit", senders*rounds*3) {
		var i int
		fmt.Sscanf(string(r.Key), "team-a/p-%d", &i)
		if want := all[i][next[string(r.Key)]].Event.ID; header(r, "ce_id") != want {
			t.Fatalf("record %s, want %s", header(r, "ce_id"), want)
		}
		next[string(r.Key)]++
	}
}
