package nats

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const maxPayload = 9 << 20

// receiver is a server in the process with a proxy before it, which does to connections what a
// test wants.
type receiver struct {
	t       testing.TB
	options server.Options
	server  *server.Server
	admin   *nats.Conn // beside the proxy
	stream  jetstream.Stream
	js      jetstream.JetStream
	proxy   *proxy
	limited bool // the stream takes nothing
}

// newReceiver starts a server with a stream of all subjects below tocsin, but for one, which
// takes nothing.
func newReceiver(t testing.TB, change func(*server.Options)) *receiver {
	r := &receiver{t: t, options: server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: t.TempDir(), MaxPayload: maxPayload, MaxPending: 64 << 20,
		AuthTimeout: 60, // seconds: clients on a busy machine are slow
	}}
	if change != nil {
		change(&r.options)
	}
	r.start()
	t.Cleanup(r.stop)
	r.proxy = newProxy(t, r.server.Addr().String())
	ctx := context.Background()
	var err error
	r.stream, err = r.js.CreateStream(ctx, r.config(0))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.js.CreateStream(ctx, jetstream.StreamConfig{Name: "REFUSED", Subjects: []string{"tocsin.delivertest.refused"}, MaxMsgSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *receiver) config(most int64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "EVENTS", Subjects: []string{"tocsin.kv-v2.>", "tocsin.audit.>", "tocsin.shop.>", "tocsin.hostile.>", "tocsin.large.>", "tocsin.with_dots.>", "tocsin." + strings.Repeat("t", 110) + ".*"},
		Discard: jetstream.DiscardNew, MaxMsgs: most, Duplicates: time.Minute,
	}
}

func (r *receiver) start() {
	o := r.options
	s, err := server.NewServer(&o)
	if err != nil {
		r.t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		r.t.Fatal("the server does not begin")
	}
	r.server = s
	r.options.Port = s.Addr().(*net.TCPAddr).Port
	if len(o.Users) > 0 {
		o.Username, o.Password = o.Users[0].Username, o.Users[0].Password
	}
	r.admin, err = nats.Connect("", nats.InProcessServer(s), nats.NoReconnect(), nats.UserInfo(o.Username, o.Password), nats.Token(o.Authorization))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.js, err = jetstream.New(r.admin); err != nil {
		r.t.Fatal(err)
	}
}

func (r *receiver) stop() {
	r.admin.Close()
	r.server.Shutdown()
	r.server.WaitForShutdown()
}

func (r *receiver) url() string { return "nats://" + r.proxy.address() }

func (r *receiver) Sink(*slog.Logger) (deliver.Sink, error) {
	return New(Options{URLs: []string{r.url()}, Subject: "tocsin.{type}", Format: format.CloudEvents})
}

func (r *receiver) Set(m delivertest.Mode) {
	if full := m == delivertest.Fails; full != r.limited {
		info, err := r.stream.Info(context.Background())
		if err != nil {
			r.t.Fatal(err)
		}
		most := int64(0)
		if full {
			most = int64(info.State.Msgs)
		}
		if _, err := r.js.UpdateStream(context.Background(), r.config(most)); err != nil {
			r.t.Fatal(err)
		}
		r.limited = full
	}
	r.proxy.set(m)
}

func (r *receiver) messages() (list []*jetstream.RawStreamMsg) {
	r.t.Helper()
	info, err := r.stream.Info(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := r.stream.GetMsg(context.Background(), seq)
		if err != nil {
			r.t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

func (r *receiver) Arrived() (list []delivertest.Arrival) {
	for _, m := range r.messages() {
		e, err := event.ParseCloudEvent(m.Data)
		if err != nil {
			r.t.Errorf("no event: %v", err)
			continue
		}
		list = append(list, delivertest.Arrival{ID: e.ID, Event: e})
	}
	return list
}

// proxy is between a client and the server.
type proxy struct {
	t      testing.TB
	server string
	at     string

	mu       sync.Mutex
	mode     delivertest.Mode
	changed  chan struct{} // closed when the mode changes
	listener net.Listener  // nil: nobody listens
	conns    map[net.Conn]bool
	accepted int
	running  sync.WaitGroup
}

func newProxy(t testing.TB, server string) *proxy {
	p := &proxy{t: t, server: server, at: "127.0.0.1:0", changed: make(chan struct{}), conns: make(map[net.Conn]bool)}
	p.listen()
	t.Cleanup(func() {
		p.set(delivertest.Refuses)
		p.running.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.at }

func (p *proxy) listen() {
	l, err := net.Listen("tcp", p.at)
	if err != nil {
		p.t.Error(err)
		return
	}
	p.at, p.listener = l.Addr().String(), l
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.accepted++
			p.mu.Unlock()
			p.running.Go(func() { p.serve(c) })
		}
	})
}

func (p *proxy) set(m delivertest.Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m == delivertest.Refuses && p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
		for c := range p.conns {
			_ = c.Close()
		}
	}
	if m != delivertest.Refuses && p.listener == nil {
		p.listen()
	}
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *proxy) state() (delivertest.Mode, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.changed
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	upstream, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer upstream.Close()
	p.mu.Lock()
	p.conns[client], p.conns[upstream] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, client)
		delete(p.conns, upstream)
		p.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { p.copy(upstream, client, false); upstream.Close(); client.Close() })
	both.Go(func() { p.copy(client, upstream, true); upstream.Close(); client.Close() })
	both.Wait()
}

// copy passes on what is read, or does something else.
func (p *proxy) copy(to io.Writer, from net.Conn, answers bool) {
	buf := make([]byte, 32<<10)
	for {
		mode, changed := p.state()
		if mode == delivertest.Hangs {
			<-changed
			continue
		}
		// A new mode must reach who waits to read.
		_ = from.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		n, err := from.Read(buf)
		if n > 0 {
			for mode, changed = p.state(); mode == delivertest.Hangs; mode, changed = p.state() {
				<-changed
			}
			switch {
			case mode == delivertest.Slow:
				time.Sleep(2 * time.Millisecond)
			case mode == delivertest.Closes && answers:
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		var timeout net.Error
		if err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
			return
		}
	}
}

func TestConformance(t *testing.T) {
	const password = "correct horse battery staple"
	secret := func() (string, error) { return password, nil }
	delivertest.Run(t, delivertest.Harness{
		Receiver: func(t testing.TB) delivertest.Receiver {
			r := newReceiver(t, func(o *server.Options) { o.Username, o.Password = "tocsin", password })
			return &withPassword{r, secret}
		},
		Modes:        []delivertest.Mode{delivertest.Fails, delivertest.Refuses, delivertest.Closes, delivertest.Hangs, delivertest.Slow, delivertest.RefusesOne},
		LargestData:  8 << 20,
		TooLargeData: maxPayload,
		Deduplicates: true,
		Secrets:      []string{password},
		Options:      []any{Options{Password: secret}, &Options{Token: secret}, TLS{Key: secret}},
		Errors: func(testing.TB) (errs []error) {
			for _, o := range []Options{
				{Password: secret}, {Username: "a", Password: secret, Token: secret},
				{Credentials: secret, TLS: TLS{Cert: secret, Key: secret}}, {TLS: TLS{CA: secret}},
				{Password: func() (string, error) { return "", errors.New("cannot be read") }, Username: "a"},
				{URLs: []string{"nats://user:" + password + "@127.0.0.1"}},
				{URLs: []string{"nats://127.0.0.1/" + password}},
				{URLs: []string{"nats://[" + password}},
			} {
				if o.URLs == nil {
					o.URLs = []string{"nats://127.0.0.1:4222"}
				}
				o.Subject, o.Format = "tocsin.{type}", format.CloudEvents
				_, err := New(o)
				errs = append(errs, err)
			}
			return errs
		},
	})
}

type withPassword struct {
	*receiver
	secret Secret
}

func (r *withPassword) Sink(*slog.Logger) (deliver.Sink, error) {
	return New(Options{URLs: []string{r.url()}, Subject: "tocsin.{type}", Format: format.CloudEvents, Username: "tocsin", Password: r.secret})
}
