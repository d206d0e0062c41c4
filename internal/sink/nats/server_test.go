package nats

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

func fixed(s string) Secret { return func() (string, error) { return s, nil } }

// sink makes a sink for a receiver.
func (r *receiver) sink(change func(*Options)) *Sink {
	r.t.Helper()
	o := Options{URLs: []string{r.url()}, Subject: "tocsin.{type}", Format: format.CloudEvents}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = s.Close() })
	return s
}

func send(t testing.TB, s *Sink, b *deliver.Batch) []deliver.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return b.Results(s.Send(ctx, b))
}

func batch(first, n int) *deliver.Batch {
	return &deliver.Batch{Items: delivertest.Events(first, n)}
}

func wantAll(t testing.TB, results []deliver.Result, want deliver.Outcome, reason string) {
	t.Helper()
	for i, r := range results {
		if r.Outcome != want || !strings.Contains(r.Reason, reason) {
			t.Errorf("event %d: %s, %q; want %s, %q", i, r.Outcome, r.Reason, want, reason)
		}
	}
}

func TestMessages(t *testing.T) {
	r := newReceiver(t, nil)
	e := &event.Event{
		ID: "1 \"ä\n", Type: "hostile/a.b", Source: "https://ü/x", Time: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC),
		Data: []byte("<data>"), DataContentType: "text/plain",
	}
	for _, tt := range []struct {
		format      format.Format
		change      func(*deliver.Batch)
		contentType string
		body        string
		headers     map[string]string
	}{
		{format.CloudEvents, func(*deliver.Batch) {}, "application/cloudevents+json", `{"specversion":"1.0","id":`, map[string]string{"ce-specversion": ""}},
		{format.Raw, func(b *deliver.Batch) { b.Redriven = true }, "text/plain", "<data>", map[string]string{"ce-specversion": "1.0", "tocsin-redriven": "true"}},
		{format.Vault, func(b *deliver.Batch) { b.Replay = "r 1" }, "application/json", `{"id":"1 `, map[string]string{"tocsin-replay": "r%201", "Nats-Msg-Id": "1%20%22%C3%A4%0A https://%C3%BC/x r%201"}},
		{format.Flipt, func(*deliver.Batch) {}, "application/json", `{"version":"0.2"`, map[string]string{"tocsin-replay": "", "Nats-Msg-Id": "1%20%22%C3%A4%0A https://%C3%BC/x"}},
	} {
		s := r.sink(func(o *Options) { o.Format = tt.format })
		b := &deliver.Batch{Items: []deliver.Item{{Event: e}}}
		tt.change(b)
		e.ID += " " // else a repeat
		if tt.format == format.Vault || tt.format == format.Flipt {
			e.ID = "1 \"ä\n"
		}
		m, err := s.message(b, 0)
		if err != nil {
			t.Fatal(err)
		}
		wantAll(t, send(t, s, b), deliver.Delivered, "")
		if m.Subject != "tocsin.hostile.a_b" || !strings.HasPrefix(string(m.Data), tt.body) {
			t.Errorf("%s: %s %s", tt.format, m.Subject, m.Data)
		}
		want := map[string]string{
			"ce-type": "hostile/a.b", "ce-source": "https://%C3%BC/x", "ce-time": "2026-03-04T05:06:07.000000008Z", "content-type": tt.contentType,
		}
		for k, v := range tt.headers {
			want[k] = v
		}
		for k, v := range want {
			if got := m.Header.Get(k); got != v {
				t.Errorf("%s: %s is %q, want %q", tt.format, k, got, v)
			}
		}
	}
	// What is stored is what was made.
	stored := r.messages()
	if len(stored) != 4 {
		t.Fatalf("%d messages", len(stored))
	}
	if h := stored[3].Header; h.Get("ce-source") != "https://%C3%BC/x" || h.Get("ce-id") != "1%20%22%C3%A4%0A" || stored[3].Subject != "tocsin.hostile.a_b" {
		t.Errorf("stored: %s %v", stored[3].Subject, h)
	}
}

// TestLongHeaders: what an event says does not make a message that no stream takes.
func TestLongHeaders(t *testing.T) {
	r := newReceiver(t, nil)
	s := r.sink(nil)
	long := strings.Repeat("\n", 60<<10)
	b := &deliver.Batch{Items: []deliver.Item{
		{Event: &event.Event{ID: "a" + long, Type: "hostile/x", Source: "/s", Time: time.Now()}},
		{Event: &event.Event{ID: "b" + long, Type: "hostile/x", Source: "/s", Time: time.Now()}},
		{Event: &event.Event{ID: "c", Type: "hostile/x", Source: long, Time: time.Now()}},
	}}
	wantAll(t, send(t, s, b), deliver.Delivered, "")
	if n := len(r.messages()); n != 3 {
		t.Errorf("%d messages are stored", n)
	}
}

// TestDuplicates: within the window, a stream has an event once, and events of the same id of
// another source, and replays, are others.
func TestDuplicates(t *testing.T) {
	r := newReceiver(t, nil)
	s := r.sink(nil)
	e := func(id, source string) deliver.Item {
		return deliver.Item{Event: &event.Event{ID: id, Source: source, Type: "hostile/x", Time: time.Now()}}
	}
	for _, tt := range []struct {
		batch deliver.Batch
		want  int
	}{
		{deliver.Batch{Items: []deliver.Item{e("1", "/a"), e("1", "/b"), e("1", "/a")}}, 2},
		{deliver.Batch{Items: []deliver.Item{e("1", "/a")}}, 2},
		{deliver.Batch{Items: []deliver.Item{e("1 /a", "")}}, 3},
		{deliver.Batch{Items: []deliver.Item{e("1", "/a")}, Replay: "r"}, 4},
		{deliver.Batch{Items: []deliver.Item{e("1", "/a")}, Replay: "r"}, 4},
		{deliver.Batch{Items: []deliver.Item{e("1", "/a")}, Redriven: true}, 4},
	} {
		wantAll(t, send(t, s, &tt.batch), deliver.Delivered, "")
		if got := len(r.messages()); got != tt.want {
			t.Errorf("%d messages are stored, want %d", got, tt.want)
		}
	}
}

// TestRestart: the server ends and comes back; the sink makes another connection, and what
// was acknowledged is there.
func TestRestart(t *testing.T) {
	r := newReceiver(t, nil)
	s := r.sink(func(o *Options) { o.URLs = []string{"nats://" + r.server.Addr().String()} })
	wantAll(t, send(t, s, batch(0, 10)), deliver.Delivered, "")
	for i := range 2 {
		r.stop()
		wantAll(t, send(t, s, batch(10, 1)), deliver.Retry, "127.0.0.1")
		r.start()
		var err error
		if r.stream, err = r.js.Stream(context.Background(), "EVENTS"); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for {
			if got := send(t, s, batch(10+10*i, 10)); got[9].Outcome == deliver.Delivered {
				break
			} else if time.Since(begun) > time.Minute {
				t.Fatalf("%+v", got[9])
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if n := len(r.messages()); n != 30 {
		t.Errorf("%d messages are stored", n)
	}
}

// TestOtherServers: one that does not answer does not keep the sink from the others.
func TestOtherServers(t *testing.T) {
	r := newReceiver(t, nil)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for range 3 { // their order is random
		s := r.sink(func(o *Options) {
			o.URLs = []string{"nats://" + silent.Addr().String(), "nats://" + closed.Addr().String(), r.url()}
			o.Timeout = 6 * time.Second
		})
		wantAll(t, send(t, s, batch(0, 1)), deliver.Delivered, "")
	}
}

func TestNoStream(t *testing.T) {
	r := newReceiver(t, nil)
	s := r.sink(func(o *Options) { o.Subject = "nowhere.{type}" })
	wantAll(t, send(t, s, batch(2, 1)), deliver.Doubtful, "no stream has the subject nowhere.kv-v2.data-write; add it to one, or change the subject of the sink")

	// Somebody listens, but does not store anything.
	deaf, err := r.admin.Subscribe("nowhere.kv-v2.>", func(*nats.Msg) {})
	if err = errors.Join(err, r.admin.Flush()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	b := batch(2, 1)
	wantAll(t, b.Results(s.Send(ctx, b)), deliver.Retry, "no acknowledgement in time")
	_ = deaf.Unsubscribe()
	for i, answer := range []string{"ok", `{"stream":"x"}`, `{"seq":1}`, `[]`, ""} {
		helpful, err := r.admin.Subscribe("nowhere.kv-v2.>", func(m *nats.Msg) { _ = m.Respond([]byte(answer)) })
		if err != nil {
			t.Fatal(err)
		}
		if err := r.admin.Flush(); err != nil {
			t.Fatal(err)
		}
		wantAll(t, send(t, s, batch(2+3*i, 1)), deliver.Doubtful, "who is no stream")
		_ = helpful.Unsubscribe()
	}

	// One event of a batch has no stream, the others do.
	s = r.sink(nil)
	b = batch(0, 5)
	other := *b.Items[2].Event
	other.Type = "nowhere/at-all"
	b.Items[2].Event = &other
	results := send(t, s, b)
	wantAll(t, results[2:3], deliver.Doubtful, "tocsin.nowhere.at-all")
	wantAll(t, append(results[:2:2], results[3:]...), deliver.Delivered, "")
}

func TestStreamFull(t *testing.T) {
	r := newReceiver(t, nil)
	s := r.sink(nil)
	wantAll(t, send(t, s, batch(0, 3)), deliver.Delivered, "")
	r.Set(delivertest.Fails)
	results := send(t, s, batch(3, 3))
	wantAll(t, results, deliver.Retry, "maximum messages exceeded")
	if results[0].Status != 503 {
		t.Errorf("status %d", results[0].Status)
	}
}

func TestResult(t *testing.T) {
	for text, want := range map[string]deliver.Outcome{
		`{"stream":"S","seq":1}`:                                                     deliver.Delivered,
		`{"stream":"S","seq":1,"duplicate":true,"domain":"d"}`:                       deliver.Delivered,
		`{"error":{"code":400,"err_code":10054,"description":"too large"}}`:          deliver.Refused,
		`{"error":{"code":400,"err_code":10097,"description":"header"}}`:             deliver.Refused,
		`{"error":{"code":503,"err_code":10077,"description":"maximum bytes"}}`:      deliver.Retry,
		`{"error":{"code":500,"err_code":10023,"description":"insufficient"}}`:       deliver.Retry,
		`{"error":{"code":400,"err_code":10109,"description":"sealed"}}`:             deliver.Doubtful,
		`{"error":{"code":400,"description":"` + strings.Repeat("\\n", 1000) + `"}}`: deliver.Doubtful,
		`{}`: deliver.Doubtful, `null`: deliver.Doubtful, "": deliver.Doubtful, "x": deliver.Doubtful, `{"stream":5}`: deliver.Doubtful,
	} {
		r := result([]byte(text))
		if r.Outcome != want || r.Outcome != deliver.Delivered && r.Reason == "" || len(r.Reason) > deliver.MaxReasonBytes || strings.ContainsAny(r.Reason, "\r\n") {
			t.Errorf("%.60s: %+v", text, r)
		}
	}
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"stream":"S","seq":1}`))
	f.Add([]byte(`{"error":{"code":400,"err_code":10054,"description":"too large"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := result(text)
		if r.Outcome != deliver.Delivered && r.Reason == "" || len(r.Reason) > deliver.MaxReasonBytes || strings.ContainsAny(r.Reason, "\r\n\x1b") {
			t.Errorf("%+v", r)
		}
	})
}

func TestPermissions(t *testing.T) {
	account := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"tocsin.audit.>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}
	deaf := &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{">"}}}
	r := newReceiver(t, func(o *server.Options) {
		o.Username, o.Password = "", ""
		o.Users = []*server.User{{Username: "admin", Password: "admin"}, {Username: "some", Password: "x", Permissions: account}, {Username: "deaf", Password: "x", Permissions: deaf}}
	})
	user := func(name string) func(*Options) {
		return func(o *Options) { o.Username, o.Password = name, fixed("x") }
	}
	b := batch(0, 6) // audit, shop, kv-v2, ...
	results := send(t, r.sink(user("some")), b)
	for i, got := range results {
		if i%3 == 0 {
			wantAll(t, results[i:i+1], deliver.Delivered, "")
		} else {
			wantAll(t, []deliver.Result{got}, deliver.Doubtful, "the user may not publish to tocsin.")
		}
	}
	wantAll(t, send(t, r.sink(user("deaf")), batch(0, 1)), deliver.Retry, "let it subscribe to _INBOX.>")
	wantAll(t, send(t, r.sink(user("nobody")), batch(0, 1)), deliver.Retry, "check username and password")
	wantAll(t, send(t, r.sink(nil), batch(0, 1)), deliver.Retry, "check username and password")
}

// TestSecretsAreReadAgain: a password that has changed is used for the next connection.
func TestSecretsAreReadAgain(t *testing.T) {
	r := newReceiver(t, func(o *server.Options) { o.Authorization = "the new token" })
	var token atomic.Value
	token.Store("the old token")
	s := r.sink(func(o *Options) { o.Token = func() (string, error) { return token.Load().(string), nil } })
	wantAll(t, send(t, s, batch(0, 1)), deliver.Retry, "does not let the sink in")
	token.Store("the new token")
	wantAll(t, send(t, s, batch(0, 1)), deliver.Delivered, "")
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue("localhost", net.IPv4(127, 0, 0, 1))
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	clientCert, clientKey := ca.issue("client", nil)
	r := newReceiver(t, func(o *server.Options) {
		o.TLS, o.TLSVerify, o.TLSTimeout = true, true, 5
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	})
	good := TLS{CA: fixed(ca.pem), Cert: fixed(clientCert), Key: fixed(clientKey)}
	with := func(change func(*TLS)) func(*Options) {
		return func(o *Options) { o.TLS = good; change(&o.TLS) }
	}
	wantAll(t, send(t, r.sink(with(func(*TLS) {})), batch(0, 2)), deliver.Delivered, "")
	wantAll(t, send(t, r.sink(func(o *Options) {
		o.TLS, o.URLs = good, []string{"tls://" + r.proxy.address()}
	}), batch(0, 2)), deliver.Delivered, "")
	wantAll(t, send(t, r.sink(with(func(c *TLS) { c.ServerName = "localhost" })), batch(0, 2)), deliver.Delivered, "")
	wantAll(t, send(t, r.sink(with(func(c *TLS) { c.ServerName = "other" })), batch(0, 2)), deliver.Retry, "x509")
	wantAll(t, send(t, r.sink(with(func(c *TLS) { c.CA = fixed(newAuthority(t).pem) })), batch(0, 2)), deliver.Retry, "x509")
	wantAll(t, send(t, r.sink(with(func(c *TLS) { c.Cert, c.Key = nil, nil })), batch(0, 2)), deliver.Retry, "127.0.0.1")
	// TLS was asked for: nothing is sent without.
	plain := newReceiver(t, nil)
	wantAll(t, send(t, plain.sink(with(func(*TLS) {})), batch(0, 2)), deliver.Retry, "has no TLS")
	wantAll(t, send(t, plain.sink(func(o *Options) { o.URLs = []string{"tls://" + plain.proxy.address()} }), batch(0, 2)), deliver.Retry, "has no TLS")
}

type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key, a.pem, _ = a.make(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	return a
}

func (a *authority) issue(name string, ip net.IP) (cert, key string) {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip != nil {
		c.IPAddresses = []net.IP{ip}
	}
	_, _, cert, key = a.make(c, a)
	return cert, key
}

func (a *authority) make(c *x509.Certificate, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey, string, string) {
	a.t.Helper()
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	by, signer := c, key
	if parent != nil {
		by, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	text := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return cert, key, text("CERTIFICATE", der), text("PRIVATE KEY", b)
}

// TestCredentials logs in with a JWT and the seed of its key, as a credentials file has them.
func TestCredentials(t *testing.T) {
	keyPair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		kp, err := create()
		if err != nil {
			t.Fatal(err)
		}
		public, err := kp.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return kp, public
	}
	operator, operatorKey := keyPair(nkeys.CreateOperator)
	account, accountKey := keyPair(nkeys.CreateAccount)
	_, systemKey := keyPair(nkeys.CreateAccount)
	user, userKey := keyPair(nkeys.CreateUser)
	sign := func(c jwt.Claims, by nkeys.KeyPair) string {
		text, err := c.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	oc := jwt.NewOperatorClaims(operatorKey)
	oc.SystemAccount = systemKey
	ac := jwt.NewAccountClaims(accountKey)
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	uc := jwt.NewUserClaims(userKey)
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := jwt.FormatUserConfig(sign(uc, account), seed)
	if err != nil {
		t.Fatal(err)
	}
	resolver := &server.MemAccResolver{}
	_ = resolver.Store(accountKey, sign(ac, operator))
	_ = resolver.Store(systemKey, sign(jwt.NewAccountClaims(systemKey), operator))
	trusted, err := jwt.DecodeOperatorClaims(sign(oc, operator))
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(), AuthTimeout: 60,
		TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: resolver, SystemAccount: systemKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not begin")
	}
	admin, err := nats.Connect(s.ClientURL(), nats.UserCredentialBytes(credentials), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	js, err := jetstream.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "E", Subjects: []string{"e.>"}})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]deliver.Outcome{string(credentials): deliver.Delivered, "nothing of that kind": deliver.Retry} {
		sink, err := New(Options{URLs: []string{s.ClientURL()}, Subject: "e.{type}", Format: format.Vault, Credentials: fixed(text)})
		if err != nil {
			t.Fatal(err)
		}
		results := send(t, sink, batch(0, 3))
		wantAll(t, results, want, "")
		if strings.Contains(fmt.Sprint(results), string(seed)) || strings.Contains(fmt.Sprint(results), text) {
			t.Errorf("the credentials are shown: %+v", results)
		}
		_ = sink.Close()
	}
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != 3 {
		t.Errorf("%+v, %v", info, err)
	}
}
