package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/position"
	sink "github.com/tocsin-events/tocsin/internal/sink/kafka"
)

func newSink(t *testing.T, o sink.Options) *sink.Sink {
	t.Helper()
	s, err := sink.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// send sends once and returns what became of each event. No reason has a password.
func send(t *testing.T, s *sink.Sink, timeout time.Duration, items ...deliver.Item) []deliver.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	b := &deliver.Batch{Items: items, Attempt: 1}
	results := b.Results(s.Send(ctx, b))
	for _, r := range results {
		for _, secret := range []string{userPassword, wrongPassword} {
			if strings.Contains(r.Reason, secret) {
				t.Errorf("a password is in %q", r.Reason)
			}
		}
	}
	return results
}

// want fails unless all events have an outcome, and returns the reason of the first.
func want(t *testing.T, results []deliver.Result, outcome deliver.Outcome, reason string) {
	t.Helper()
	for i, r := range results {
		if r.Outcome != outcome || !strings.Contains(r.Reason, reason) {
			t.Fatalf("event %d: %s (%s), want %s (%s)", i, r.Outcome, r.Reason, outcome, reason)
		}
	}
	if outcome != deliver.Delivered {
		t.Logf("%s: %s", outcome, results[0].Reason)
	}
}

// events returns n events about a few paths. Of each path they are in order.
func events(n int) []deliver.Item {
	items := make([]deliver.Item, n)
	for i := range items {
		path := fmt.Sprintf("secret/data/app-%d", i%11)
		at := time.Date(2026, 3, 4, 5, 6, 7, i*1000, time.UTC)
		items[i] = deliver.Item{
			Event: &event.Event{
				ID: event.NewID(), Source: "vault://node-1", Type: "kv-v2/data-write", Namespace: "team-a/", Path: path, Time: at, Recorded: at.Add(time.Second),
				Metadata: event.Fields{{Key: "n", Value: fmt.Sprint(i), JSON: true}, {Key: "operation", Value: "data-write"}, {Key: "path", Value: path}},
				Plugin:   &event.PluginInfo{MountClass: "secret", MountPath: "secret/", Plugin: "kv", Version: "2"},
			},
			At: position.Position{Seq: uint64(i/5 + 1), Index: uint32(i % 5), Ordinal: uint64(i)},
		}
		if i%3 == 0 {
			e := items[i].Event
			e.Data, e.DataContentType = fmt.Appendf(nil, `{"n":%d,"text":"é<>&"}`, i), "application/json"
		}
	}
	return items
}

// fliptEvents returns events that came from Flipt.
func fliptEvents(t *testing.T, n int) []deliver.Item {
	t.Helper()
	items := make([]deliver.Item, n)
	for i := range items {
		line := fmt.Appendf(nil, `{"version":"0.2","type":"rollout","action":"updated","metadata":{"actor":{"authentication":"token","ip":"192.0.2.7"}},"payload":{"flag_key":"f%d","list":[1,"x",{"a":null}],"namespace_key":"default","rank":%d,"threshold":{"percentage":12.5,"value":true}},"timestamp":"2026-11-21T01:57:16Z","status":"success"}`, i%7, i)
		f, err := fliptevent.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		e, err := fliptevent.ToEvent(line, f, fliptevent.Origin{Server: "prod", Occurrence: i, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		items[i] = deliver.Item{Event: e, At: position.Position{Seq: uint64(i + 1), Ordinal: uint64(i)}}
	}
	return items
}

// checkRecords compares headers, keys and order of records with the events.
func checkRecords(t *testing.T, records []*kgo.Record, items []deliver.Item, key func(*event.Event) string) map[string]*kgo.Record {
	t.Helper()
	byID := make(map[string]*kgo.Record)
	next := make(map[string]int) // of each key: index of its last event
	partitions := make(map[string]int32)
	index := make(map[string]int)
	for i, it := range items {
		index[it.Event.ID] = i
	}
	used := make(map[int32]bool)
	for _, r := range records {
		i, ok := index[header(r, "ce_id")]
		if !ok {
			t.Fatalf("a record of event %q", header(r, "ce_id"))
		}
		e := items[i].Event
		byID[e.ID] = r
		used[r.Partition] = true
		if string(r.Key) != key(e) {
			t.Errorf("key %q, want %q", r.Key, key(e))
		}
		if p, ok := partitions[string(r.Key)]; ok && p != r.Partition {
			t.Errorf("key %q is in partitions %d and %d", r.Key, p, r.Partition)
		}
		partitions[string(r.Key)] = r.Partition
		if last, ok := next[string(r.Key)]; ok && last >= i && key(e) != "" {
			t.Errorf("event %d of key %q is behind event %d", i, r.Key, last)
		}
		next[string(r.Key)] = i
		for name, value := range map[string]string{
			"ce_specversion": "1.0", "ce_type": e.Type, "ce_source": e.Source, "ce_time": e.Time.Format(time.RFC3339Nano),
			"ce_subject": e.Path, "ce_namespace": e.Namespace, "ce_sequence": items[i].At.String(),
		} {
			if got := header(r, name); got != value {
				t.Errorf("header %s is %q, want %q", name, got, value)
			}
		}
	}
	if len(partitions) > 5 && len(used) < 2 {
		t.Errorf("%d keys are all in one partition", len(partitions))
	}
	return byID
}

func pathKey(e *event.Event) string { return e.Namespace + e.Path }

// TestEncodings reads back what was written in every encoding, with every compression.
func TestEncodings(t *testing.T) {
	b := startBroker(t)
	for _, test := range []struct {
		encoding    sink.Encoding
		compression string
		code        uint8
		contentType string
		check       func(t *testing.T, e *event.Event, at, contentType string, value []byte)
	}{
		{sink.CloudEvents, "none", 0, "application/cloudevents+json", func(t *testing.T, e *event.Event, at, _ string, value []byte) {
			got, err := event.ParseCloudEvent(value)
			if err != nil {
				t.Fatal(err)
			}
			if s, _ := got.Extensions.Text(event.ExtensionSequence); s != at {
				t.Errorf("sequence %q, want %q", s, at)
			}
			got.Extensions = nil
			want := *e
			if e.Data == nil {
				got.DataContentType, got.DataSchema = "", ""
			}
			if got.ID != want.ID || got.Path != want.Path || !reflect.DeepEqual(got.Metadata, want.Metadata) || string(got.Data) != string(want.Data) || !got.Time.Equal(want.Time) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}},
		{sink.Raw, "gzip", 1, "", func(t *testing.T, e *event.Event, _, contentType string, value []byte) {
			wanted, _ := json.Marshal(nil)
			if wanted = e.Data; e.Data == nil {
				wanted = e.Metadata.AppendJSON(nil)
			}
			if string(value) != string(wanted) || contentType != "application/json" {
				t.Errorf("%s: %s, want %s", contentType, value, wanted)
			}
		}},
		{sink.Vault, "snappy", 2, "application/json", func(t *testing.T, e *event.Event, _, _ string, value []byte) {
			got, err := event.ParseVaultJSON(value)
			if err != nil || got.ID != e.ID || got.Path != e.Path {
				t.Errorf("%s: %v", value, err)
			}
		}},
		{sink.Flipt, "lz4", 3, "application/json", func(t *testing.T, e *event.Event, _, _ string, value []byte) {
			if _, err := fliptevent.Decode(value); err != nil {
				t.Errorf("%s: %v", value, err)
			}
		}},
		{sink.Avro, "zstd", 4, "application/avro", nil},
	} {
		t.Run(string(test.encoding), func(t *testing.T) {
			topic := b.topic(t, 3)
			s := newSink(t, sink.Options{Brokers: []string{b.address("PLAINTEXT")}, Topic: topic, Encoding: test.encoding, Compression: test.compression})
			items := events(120)
			want(t, send(t, s, 20*time.Second, items...), deliver.Delivered, "")
			records := b.read(t, topic, len(items))
			byID := checkRecords(t, records, items, pathKey)
			compressed := false
			for _, r := range records {
				compressed = compressed || r.Attrs.CompressionType() == test.code
			}
			if !compressed {
				t.Errorf("no batch is compressed with %s", test.compression)
			}
			for _, it := range items {
				r := byID[it.Event.ID]
				contentType := header(r, "content-type")
				if test.contentType != "" && contentType != test.contentType {
					t.Errorf("content-type %q", contentType)
				}
				if test.check != nil {
					test.check(t, it.Event, it.At.String(), contentType, r.Value)
				}
			}
			if test.encoding == sink.CloudEvents { // Kafka's own tool reads the same
				out := b.console(t, topic, 1, "--property", "print.headers=true", "--property", "print.key=true")
				if !strings.Contains(out, "ce_type:kv-v2/data-write") || !strings.Contains(out, "team-a/secret/data/app-") || !strings.Contains(out, `"specversion":"1.0"`) {
					t.Errorf("the console consumer shows %s", out)
				}
				t.Logf("the console consumer shows %s", out)
			}
		})
	}
}

// TestSchemas writes every encoding that has a schema, with a registry, and decodes it by the
// schema that the registry has.
func TestSchemas(t *testing.T) {
	b, r := startBroker(t), startRegistry(t)
	for _, encoding := range []sink.Encoding{sink.Avro, sink.Protobuf, sink.FliptAvro, sink.FliptProtobuf} {
		t.Run(string(encoding), func(t *testing.T) {
			topic := b.topic(t, 3)
			items := events(60)
			key, keyOf := sink.KeyPath, pathKey
			if strings.HasPrefix(string(encoding), "flipt") {
				items = fliptEvents(t, 60)
				key, keyOf = sink.KeyType, func(*event.Event) string { return "rollout" } // as Flipt has it
			}
			s := newSink(t, sink.Options{
				Brokers: []string{b.address("PLAINTEXT")}, Topic: topic, Encoding: encoding, Key: key, Compression: "zstd",
				Registry: sink.Registry{URL: r.url()},
			})
			want(t, send(t, s, 20*time.Second, items...), deliver.Delivered, "")
			byID := checkRecords(t, b.read(t, topic, len(items)), items, keyOf)
			form, text, _ := r.schemaOf(t, byID[items[0].Event.ID].Value)
			for i, it := range items {
				e, value := it.Event, byID[it.Event.ID].Value
				var got any
				switch encoding {
				case sink.Avro:
					m := decodeAvro(t, text, value[5:])
					checkAvro(t, m, it)
				case sink.Protobuf:
					m := decodeProto(t, compiled(t, text), "Event", value[5:], true)
					j, err := protojson.Marshal(m)
					if err != nil {
						t.Fatal(err)
					}
					checkProto(t, j, it)
				case sink.FliptAvro:
					m := decodeAvro(t, text, value[5:])
					payload := m["payload"].(map[string]any)
					for k, v := range payload { // the library names the branch of a union
						if branch, ok := v.(map[string]any); ok {
							for _, payload[k] = range branch {
							}
						}
					}
					got = []any{m["version"], m["type"], m["action"], m["timestamp"], m["status"], payload["flag_key"], payload["rank"], payload["threshold"], payload["list"]}
					wanted := []any{"0.2", "rollout", "updated", "2026-11-21T01:57:16Z", "success", fmt.Sprintf("f%d", i%7), float64(i), `{"percentage":12.5,"value":true}`, `[1,"x",{"a":null}]`}
					if !reflect.DeepEqual(got, wanted) {
						t.Fatalf("got %v, want %v", got, wanted)
					}
				case sink.FliptProtobuf:
					m := decodeProto(t, compiled(t, text), "Event", value[5:], true)
					j, err := protojson.Marshal(m)
					if err != nil {
						t.Fatal(err)
					}
					var a, w any
					json.Unmarshal(j, &a)
					json.Unmarshal(e.Data, &w)
					if !reflect.DeepEqual(a, w) {
						t.Fatalf("got %s, want %s", j, e.Data)
					}
				}
			}
			if wantForm := map[bool]string{true: "PROTOBUF", false: ""}[strings.HasSuffix(string(encoding), "protobuf")]; form != wantForm && !(wantForm == "" && form == "AVRO") {
				t.Errorf("schema of type %q", form)
			}
			// Another sink finds the same schema, and only looks.
			other := newSink(t, sink.Options{
				Brokers: []string{b.address("PLAINTEXT")}, Topic: topic, Encoding: encoding, Key: key,
				Registry: sink.Registry{URL: r.url(), LookUp: true},
			})
			want(t, send(t, other, 20*time.Second, items[0]), deliver.Delivered, "")
			var versions []int
			r.call(t, "GET", "/subjects/"+topic+"-value/versions", nil, &versions)
			if !slices.Equal(versions, []int{1}) {
				t.Errorf("versions %v", versions)
			}
		})
	}
}

func checkAvro(t *testing.T, m map[string]any, it deliver.Item) {
	t.Helper()
	e := it.Event
	metadata, _ := m["metadata"].(map[string]any)
	typed, _ := m["metadata_json"].(map[string]any)
	n, _ := e.Metadata.Get("n")
	at, _ := m["time"].(time.Time)
	if m["id"] != e.ID || m["source"] != e.Source || m["type"] != e.Type || m["subject"] != e.Path || m["namespace"] != e.Namespace ||
		m["sequence"] != it.At.String() || metadata["path"] != e.Path || typed["n"] != n.Value || !at.Equal(e.Time.Truncate(time.Microsecond)) {
		t.Fatalf("got %v", m)
	}
	if data, _ := m["data"].([]byte); string(data) != string(e.Data) {
		t.Errorf("data %s, want %s", data, e.Data)
	}
}

func checkProto(t *testing.T, text []byte, it deliver.Item) {
	t.Helper()
	e := it.Event
	var m struct {
		ID, Source, Type, Subject, Namespace, Sequence string
		Time, Recorded                                 time.Time
		Metadata, MetadataJSON                         map[string]string
		Data                                           []byte
		Plugin                                         struct{ MountPath, Plugin string }
	}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	n, _ := e.Metadata.Get("n")
	if m.ID != e.ID || m.Source != e.Source || m.Type != e.Type || m.Subject != e.Path || m.Namespace != e.Namespace || m.Sequence != it.At.String() ||
		!m.Time.Equal(e.Time) || !m.Recorded.Equal(e.Recorded) || m.Metadata["path"] != e.Path || m.MetadataJSON["n"] != n.Value || string(m.Data) != string(e.Data) ||
		m.Plugin.MountPath != "secret/" {
		t.Fatalf("got %s", text)
	}
}

// TestRegistryTroubles is what happens when the registry says no, or nothing.
func TestRegistryTroubles(t *testing.T) {
	b, r := startBroker(t), startRegistry(t)
	topic := b.topic(t, 1)
	options := sink.Options{Brokers: []string{b.address("PLAINTEXT")}, Topic: topic, Encoding: sink.Avro, Registry: sink.Registry{URL: r.url()}}
	lookUp := options
	lookUp.Registry.LookUp = true
	want(t, send(t, newSink(t, lookUp), 10*time.Second, events(2)...), deliver.Retry, "is not registered")

	wrong := options
	wrong.Registry.URL = "http://127.0.0.1:" + r.port + "/nowhere"
	want(t, send(t, newSink(t, wrong), 10*time.Second, events(2)...), deliver.Retry, "check the url")

	// Somebody else's schema, which ours is not compatible with.
	r.call(t, "PUT", "/config/"+topic+"-value", map[string]string{"compatibility": "BACKWARD"}, nil)
	r.call(t, "POST", "/subjects/"+topic+"-value/versions", map[string]string{"schema": `{"type":"record","name":"Other","fields":[{"name":"n","type":"long"}]}`}, nil)
	want(t, send(t, newSink(t, options), 10*time.Second, events(2)...), deliver.Retry, "not compatible with what is registered")

	// While the registry is down, what a sink knows of it is enough; another sink waits.
	known := options
	known.Registry.Subject = topic + "-own"
	s := newSink(t, known)
	want(t, send(t, s, 10*time.Second, events(1)...), deliver.Delivered, "")
	r.stop()
	want(t, send(t, s, 10*time.Second, events(1)...), deliver.Delivered, "")
	other := newSink(t, known)
	want(t, send(t, other, 10*time.Second, events(2)...), deliver.Retry, "connection refused")
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	want(t, send(t, other, 10*time.Second, events(1)...), deliver.Delivered, "")
	b.read(t, topic, 3)
}

func value(s string) func() (string, error) { return func() (string, error) { return s, nil } }

func TestLogins(t *testing.T) {
	b := startBroker(t)
	topic := b.topic(t, 1)
	written := 0
	for _, mechanism := range []sink.Mechanism{sink.SASLPlain, sink.SASLSHA256, sink.SASLSHA512} {
		for _, listener := range []string{"SASL", "SASLTLS"} {
			t.Run(fmt.Sprintf("%s on %s", mechanism, listener), func(t *testing.T) {
				o := sink.Options{
					Brokers: []string{b.address(listener)}, Topic: topic, Timeout: 8 * time.Second,
					SASL: sink.SASL{Mechanism: mechanism, Username: userName, Password: value(userPassword)},
				}
				if listener == "SASLTLS" {
					o.TLS = &sink.TLS{CA: value(b.ca.pem)}
				}
				want(t, send(t, newSink(t, o), 10*time.Second, events(3)...), deliver.Delivered, "")
				written += 3
				// A wrong password is no reason to give events up, and the right one is read when
				// it is there.
				password := wrongPassword
				o.SASL.Password = func() (string, error) { return password, nil }
				s := newSink(t, o)
				want(t, send(t, s, 10*time.Second, events(2)...), deliver.Retry, `the broker did not let user "alice" in with `+string(mechanism))
				password = userPassword
				want(t, send(t, s, 10*time.Second, events(1)...), deliver.Delivered, "")
				written++
			})
		}
	}
	t.Run("none", func(t *testing.T) {
		s := newSink(t, sink.Options{Brokers: []string{b.address("SASL")}, Topic: topic, Timeout: 4 * time.Second})
		want(t, send(t, s, 5*time.Second, events(1)...), deliver.Retry, "login")
	})
	b.read(t, topic, written)
}

func TestMutualTLS(t *testing.T) {
	b := startBroker(t)
	topic := b.topic(t, 1)
	cert, key, err := b.ca.issue("tocsin")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	foreignCert, foreignKey, err := stranger.issue("tocsin")
	if err != nil {
		t.Fatal(err)
	}
	good := sink.Options{
		Brokers: []string{b.address("MTLS")}, Topic: topic, Timeout: 4 * time.Second,
		TLS: &sink.TLS{CA: value(b.ca.pem), Cert: value(cert), Key: value(key)},
	}
	want(t, send(t, newSink(t, good), 10*time.Second, events(5)...), deliver.Delivered, "")
	for name, tls := range map[string]*sink.TLS{
		"no certificate":      {CA: value(b.ca.pem)},
		"foreign certificate": {CA: value(b.ca.pem), Cert: value(foreignCert), Key: value(foreignKey)},
		"foreign broker":      {CA: value(stranger.pem), Cert: value(cert), Key: value(key)},
		"another name":        {CA: value(b.ca.pem), Cert: value(cert), Key: value(key), ServerName: "kafka.example.com"},
		"system authorities":  {Cert: value(cert), Key: value(key)},
		"no TLS":              nil,
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			o.TLS = tls
			results := send(t, newSink(t, o), 6*time.Second, events(1)...)
			want(t, results, deliver.Retry, "")
			t.Log(results[0].Reason)
		})
	}
	b.read(t, topic, 5)
}

func TestRefusals(t *testing.T) {
	b := startBroker(t)
	t.Run("too large", func(t *testing.T) {
		topic := b.topic(t, 1, "max.message.bytes", "30000")
		s := newSink(t, sink.Options{Brokers: []string{b.address("PLAINTEXT")}, Topic: topic})
		items := events(300)
		large := items[7].Event
		noise := make([]byte, 25_000)
		for i := range noise {
			noise[i] = byte(rand.IntN(256))
		}
		large.Data, large.DataContentType = noise, "application/octet-stream" // base64 makes it larger
		results := send(t, s, 20*time.Second, items...)
		want(t, results[7:8], deliver.Impossible, "raise max.message.bytes of the topic")
		want(t, append(results[:7:7], results[8:]...), deliver.Delivered, "")
		b.read(t, topic, len(items)-1)
		// What was set in the sink is wrong: the broker decides, and nothing is given up by us.
		s = newSink(t, sink.Options{Brokers: []string{b.address("PLAINTEXT")}, Topic: topic, MaxMessageBytes: 1 << 20})
		want(t, send(t, s, 20*time.Second, items[7]), deliver.Doubtful, "does not take 1048576 bytes at once")
	})
	t.Run("missing topic", func(t *testing.T) {
		name := "missing-topic"
		s := newSink(t, sink.Options{Brokers: []string{b.address("PLAINTEXT")}, Topic: name})
		want(t, send(t, s, 10*time.Second, events(2)...), deliver.Retry, `topic "missing-topic" does not exist; create it, or set auto_topics: true`)
		b.create(t, name, 1)
		items := events(2)
		eventually(t, "the topic is seen", func() bool { return send(t, s, 10*time.Second, items...)[0].Outcome == deliver.Delivered })
		b.read(t, name, 2)
	})
	t.Run("auto topics", func(t *testing.T) {
		s := newSink(t, sink.Options{Brokers: []string{b.address("PLAINTEXT")}, Topic: "made.{type}", AutoTopics: true})
		items := events(9)
		items[3].Event.Type = "kv-v1/write"
		want(t, send(t, s, 20*time.Second, items...), deliver.Delivered, "")
		b.read(t, "made.kv-v2.data-write", 8)
		b.read(t, "made.kv-v1.write", 1)
	})
	t.Run("not allowed", func(t *testing.T) {
		topic := b.topic(t, 1)
		allow := b.deny(t, deniedName, topic)
		s := newSink(t, sink.Options{
			Brokers: []string{b.address("SASL")}, Topic: topic,
			SASL: sink.SASL{Mechanism: sink.SASLPlain, Username: deniedName, Password: value(userPassword)},
		})
		eventually(t, "the rule is in force", func() bool {
			r := send(t, s, 10*time.Second, events(1)...)[0]
			return r.Outcome == deliver.Retry && strings.Contains(r.Reason, fmt.Sprintf(`user "mallory" may not write to topic %q; allow it WRITE`, topic))
		})
		allow()
		items := events(1)
		eventually(t, "the rule is gone", func() bool { return send(t, s, 10*time.Second, items...)[0].Outcome == deliver.Delivered })
	})
	t.Run("compacted without keys", func(t *testing.T) {
		topic := b.topic(t, 1, "cleanup.policy", "compact")
		s := newSink(t, sink.Options{Brokers: []string{b.address("PLAINTEXT")}, Topic: topic, Key: sink.KeyNone})
		want(t, send(t, s, 10*time.Second, events(2)...), deliver.Doubtful, "a compacted topic needs keys")
	})
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not: %s", what)
}

// TestLateRequest holds a request back in the network until what it had was sent again, and
// more behind it. When it arrives in the end, the broker must not store it: it has the epoch
// of the producer before. Without idempotence it does, which shows that it arrives.
func TestLateRequest(t *testing.T) {
	b := startBroker(t)
	for _, acks := range []sink.Acks{sink.AcksAll, sink.AcksLeader} {
		t.Run(string(acks), func(t *testing.T) {
			topic := b.topic(t, 1)
			s := newSink(t, sink.Options{Brokers: []string{b.address("GATED")}, Topic: topic, Timeout: 4 * time.Second, Acks: acks})
			items := events(23)
			for _, it := range items {
				it.Event.Path = "one"
			}
			want(t, send(t, s, 10*time.Second, items[0]), deliver.Delivered, "")
			b.gate.set(true)
			want(t, send(t, s, 500*time.Millisecond, items[1:12]...), deliver.Retry, "in time")
			if b.gate.held() == 0 {
				t.Fatal("no request is on its way")
			}
			// Again, with a connection that works.
			eventually(t, "the repeat is delivered", func() bool { return send(t, s, 5*time.Second, items[1:12]...)[0].Outcome == deliver.Delivered })
			want(t, send(t, s, 5*time.Second, items[12:]...), deliver.Delivered, "")
			b.gate.set(false)
			eventually(t, "the late request is gone", func() bool { return b.gate.held() == 0 })
			if acks == sink.AcksLeader {
				eventually(t, "the late request is stored", func() bool { return len(b.read(t, topic, -1)) > len(items) })
				return
			}
			want(t, send(t, s, 5*time.Second, events(1)...), deliver.Delivered, "")
			var ids []string
			for _, r := range b.read(t, topic, len(items)+1) {
				ids = append(ids, header(r, "ce_id"))
			}
			for i, it := range items {
				if ids[i] != it.Event.ID {
					t.Fatalf("record %d is not event %d", i, i)
				}
			}
		})
	}
}

// TestRestart kills the broker again and again while events are sent as a delivery does it:
// several at a time, those of one path one after the other.
func TestRestart(t *testing.T) {
	b := startBroker(t)
	topic := b.topic(t, 4)
	s := newSink(t, sink.Options{Brokers: []string{b.address("PLAINTEXT")}, Topic: topic, Compression: "lz4", Timeout: 4 * time.Second})
	const paths, perPath, batch = 8, 400, 10
	var sending sync.WaitGroup
	var mu sync.Mutex
	attempts, again := 0, make(map[string]bool) // events that were reported as to be sent again
	for p := range paths {
		items := events(perPath)
		for i := range items {
			items[i].Event.Path = fmt.Sprintf("path-%d", p)
			items[i].Event.ID = fmt.Sprintf("%d-%04d", p, i)
		}
		sending.Go(func() {
			for len(items) > 0 {
				n := min(batch, len(items))
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				bt := &deliver.Batch{Items: items[:n], Attempt: 1}
				results := bt.Results(s.Send(ctx, bt))
				cancel()
				mu.Lock()
				attempts++
				done := 0
				for i, r := range results {
					if r.Outcome == deliver.Delivered {
						if done != i {
							t.Errorf("event %s is delivered behind one that is not", items[i].Event.ID)
						}
						done++
					} else {
						again[items[i].Event.ID] = true
						if r.Outcome != deliver.Retry {
							t.Errorf("%s: %s", r.Outcome, r.Reason)
						}
					}
				}
				mu.Unlock()
				items = items[done:]
				if done == 0 {
					select { // a delivery pauses
					case <-time.After(50 * time.Millisecond):
					case <-t.Context().Done():
						return
					}
				}
				if t.Failed() {
					return
				}
				time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond) // so that it takes longer than the restarts
			}
		})
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		eventually(t, "something is delivered", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return attempts > 40
		})
		b.kill(signal)
		if err := b.start(); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		attempts = 0
		mu.Unlock()
	}
	sending.Wait()
	first, last, count := make(map[string]int), make(map[string]string), make(map[string]int)
	records := b.read(t, topic, -1)
	slices.SortStableFunc(records, func(a, b *kgo.Record) int { return int(a.Offset - b.Offset) })
	for _, r := range records {
		id, key := header(r, "ce_id"), string(r.Key)
		count[id]++
		if count[id] == 1 {
			var n int
			fmt.Sscanf(id[2:], "%d", &n)
			if n != first[key] {
				t.Fatalf("the first record of event %s comes when event %d of its path is due", id, first[key])
			}
			first[key]++
		} else if !again[id] {
			t.Errorf("event %s is there %d times, and was never to be sent again", id, count[id])
		}
		last[key] = id
	}
	for p := range paths {
		key := fmt.Sprintf("team-a/path-%d", p)
		if first[key] != perPath || last[key] != fmt.Sprintf("%d-%04d", p, perPath-1) {
			t.Errorf("%s: %d events of %d, the last is %s", key, first[key], perPath, last[key])
		}
	}
	t.Logf("%d records of %d events, %d were reported as to be sent again", len(records), paths*perPath, len(again))
}
