package kafka

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
)

const secret = "the-password-of-the-sink"

func password() (string, error) { return secret, nil }

func TestConformance(t *testing.T) {
	t.Parallel()
	delivertest.Run(t, delivertest.Harness{
		Receiver: func(t testing.TB) delivertest.Receiver { return newReceiver(t) },
		Modes:    []delivertest.Mode{delivertest.Fails, delivertest.Refuses, delivertest.Closes, delivertest.Hangs, delivertest.Slow},
		Without: map[delivertest.Mode]string{
			delivertest.RefusesOne: "a broker refuses batches of records, for what the topic is; that is doubtful, also of one record",
		},
		TooLargeData: 16 << 20,
		Secrets:      []string{secret},
		Options:      []any{(&receiver{}).options()},
		Errors: func(t testing.TB) (list []error) {
			for _, change := range []func(*Options){
				func(o *Options) { o.Brokers = nil },
				func(o *Options) { o.SASL.Mechanism = "x" },
				func(o *Options) { o.Encoding = Avro; o.Registry = Registry{URL: "http://u:" + secret + "@h"} },
				func(o *Options) { o.TLS = &TLS{CA: password} },
				func(o *Options) { o.TLS = &TLS{Cert: password, Key: password} },
			} {
				o := (&receiver{address: "h"}).options()
				change(&o)
				_, err := New(o)
				list = append(list, err)
			}
			return list
		},
	})
}

// receiver is a fake cluster behind a network that can be disturbed.
type receiver struct {
	cluster  *kfake.Cluster
	inside   string // where the broker listens
	address  string // where clients connect, which the broker says to be its own
	reader   *kgo.Client
	arrived  []delivertest.Arrival
	handling sync.WaitGroup

	mu       sync.Mutex
	mode     delivertest.Mode
	listener net.Listener // nil while nobody listens
	conns    map[net.Conn]bool
	changed  chan struct{} // closed when the mode changes
}

// elsewhere is a listener that says to be at another address.
type elsewhere struct {
	net.Listener
	addr net.Addr
}

func (e elsewhere) Addr() net.Addr { return e.addr }

func newReceiver(t testing.TB) *receiver {
	r := &receiver{conns: make(map[net.Conn]bool), changed: make(chan struct{})}
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.listener, r.address = outside, outside.Addr().String()
	r.cluster, err = kfake.NewCluster(
		kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "tocsin", secret),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			r.inside = l.Addr().String()
			return elsewhere{l, outside.Addr()}, nil
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cluster.CreateTopic("audit", 1, map[string]string{"max.message.bytes": "16000000"}); err != nil {
		t.Fatal(err)
	}
	r.cluster.ControlKey(int16(kmsg.Produce), r.produce)
	s := &Sink{o: r.options(), secrets: newSecretBox()}
	r.reader, err = kgo.NewClient(
		kgo.SeedBrokers(r.address), kgo.SASL(s.mechanism()), kgo.ConsumeTopics("audit"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(100*time.Millisecond),
		kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, r.inside)
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	r.handling.Go(func() { r.accept(outside) })
	t.Cleanup(func() {
		r.reader.Close()
		r.Set(delivertest.Refuses)
		r.cluster.Close()
		r.handling.Wait()
	})
	return r
}

func (r *receiver) options() Options {
	return Options{
		Brokers: []string{r.address}, Topic: "audit", Compression: "snappy", Timeout: time.Minute,
		SASL: SASL{Mechanism: SASLSHA256, Username: "tocsin", Password: password},
	}
}

func (r *receiver) Sink(*slog.Logger) (deliver.Sink, error) { return New(r.options()) }

func (r *receiver) Set(m delivertest.Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m == delivertest.Refuses || m == delivertest.Closes || r.mode == delivertest.Hangs {
		for c := range r.conns {
			c.Close()
		}
	}
	if m == delivertest.Refuses && r.listener != nil {
		r.listener.Close()
		r.listener = nil
	}
	for m != delivertest.Refuses && r.listener == nil {
		if l, err := net.Listen("tcp", r.address); err == nil {
			r.listener = l
			r.handling.Go(func() { r.accept(l) })
		}
	}
	r.mode = m
	close(r.changed)
	r.changed = make(chan struct{})
}

// now returns the mode, and a channel that is closed when it changes.
func (r *receiver) now() (delivertest.Mode, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mode, r.changed
}

// produce answers in the mode in which the broker cannot take anything.
func (r *receiver) produce(req kmsg.Request) (kmsg.Response, error, bool) {
	r.cluster.KeepControl()
	if m, _ := r.now(); m != delivertest.Fails {
		return nil, nil, false
	}
	// One that the client does not try again by itself until the time is up.
	return refusal(req, kerr.TopicAuthorizationFailed), nil, true
}

// refusal answers a produce request with an error for each partition.
func refusal(req kmsg.Request, code *kerr.Error) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.(*kmsg.ProduceRequest).Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (r *receiver) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.inside)
		if err != nil {
			client.Close()
			continue
		}
		r.mu.Lock()
		r.conns[client] = true
		r.mu.Unlock()
		r.handling.Go(func() { // answers
			io.Copy(client, server)
			client.Close()
		})
		r.handling.Go(func() { // requests
			r.pass(server, client)
			client.Close()
			server.Close()
			r.mu.Lock()
			delete(r.conns, client)
			r.mu.Unlock()
		})
	}
}

func (r *receiver) pass(server, client net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		for m, changed := r.now(); m == delivertest.Hangs; m, changed = r.now() {
			<-changed
		}
		n, err := client.Read(buffer)
		switch m, changed := r.now(); m {
		case delivertest.Closes, delivertest.Refuses:
			return
		case delivertest.Slow:
			select {
			case <-changed:
			case <-time.After(20 * time.Millisecond):
			}
		case delivertest.Hangs:
			<-changed
		}
		if _, werr := server.Write(buffer[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (r *receiver) Arrived() []delivertest.Arrival {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for int64(len(r.arrived)) < r.cluster.PartitionInfo("audit", 0).HighWatermark && ctx.Err() == nil {
		r.reader.PollFetches(ctx).EachRecord(func(record *kgo.Record) {
			a := delivertest.Arrival{ID: header(record, "ce_id")}
			a.Event, _ = event.ParseCloudEvent(record.Value)
			r.arrived = append(r.arrived, a)
		})
	}
	return r.arrived
}
