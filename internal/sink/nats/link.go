package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// link is one connection. When it has ended, another one is made: nothing is kept for a
// connection that may come back.
type link struct {
	conn  *nats.Conn
	raw   *dialer
	inbox string // acknowledgements come to subjects that begin so

	gone chan struct{} // closed when the connection has ended
	once sync.Once

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]waiter // by the token in the subject of the acknowledgement
	cause   error             // why the connection is of no use; nil: it may be
}

// waiter waits for the acknowledgement of one message.
type waiter struct {
	subject string
	item    int
	answers chan<- answer
}

// answer is what became of one message.
type answer struct {
	token  uint64
	item   int
	result deliver.Result
}

var (
	errLost       = errors.New("the connection was lost")
	errStuck      = errors.New("the server does not read what is sent to it")
	errUnanswered = errors.New("no acknowledgement in time")
	errNoInbox    = errors.New("the user may not receive acknowledgements; let it subscribe to _INBOX.>")
)

// dialer makes the connection, which ctx bounds until it is ready.
type dialer struct {
	ctx     context.Context
	connect func(ctx context.Context, network, address string) (net.Conn, error)
	config  *tls.Config // nil: that of the system
	last    *conn       // belongs to who connects
	host    string      // of it

	mu   sync.Mutex
	conn net.Conn
	err  error // of the last server that could not be connected to
}

// Dial implements [nats.CustomDialer].
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.connect(d.ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn, d.err = conn, err
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	d.last, d.host = newConn(conn), host
	return d.last, nil
}

// SkipTLSHandshake is asked at the moment at which the connection is to be encrypted. It
// does that, so that the client need not; when it fails, nothing comes through the connection any
// more.
func (d *dialer) SkipTLSHandshake() bool {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.config != nil {
		config = d.config.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = d.host
	}
	if err := d.last.secure(d.ctx, config); err != nil {
		d.last.refuse(fmt.Errorf("TLS: %w", err))
	}
	return true
}

// cut ends the connection, whatever it is doing.
func (d *dialer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		_ = d.conn.Close()
	}
}

// dial connects to one of the servers.
func dial(ctx context.Context, urls []string, connect func(context.Context, string, string) (net.Conn, error), config *tls.Config, options []nats.Option) (*link, error) {
	if connect == nil {
		connect = new(net.Dialer).DialContext
	}
	l := &link{raw: &dialer{ctx: ctx, connect: connect, config: config}, gone: make(chan struct{}), waiting: make(map[uint64]waiter)}
	stop := context.AfterFunc(ctx, l.raw.cut)
	conn, err := nats.Connect(strings.Join(urls, ","), append(options,
		nats.SetCustomDialer(l.raw),
		nats.ClosedHandler(func(*nats.Conn) { l.end() }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.failed(err) }),
	)...)
	if !stop() && err == nil {
		conn.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		l.raw.cut()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		switch {
		case errors.Is(err, nats.ErrNoServers) && l.raw.err != nil:
			err = l.raw.err
		case l.raw.last != nil && l.raw.last.failed != nil:
			err = l.raw.last.failed
		}
		return nil, err
	}
	l.conn, l.inbox = conn, conn.NewInbox()+"."
	sub, err := conn.Subscribe(l.inbox+"*", l.acknowledged)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1) // one for each message that is waited for
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) end() { l.once.Do(func() { close(l.gone) }) }

func (l *link) ended() bool {
	select {
	case <-l.gone:
		return true
	default:
		return l.conn.IsClosed()
	}
}

// close ends the connection. Who writes to it holds its lock, so the socket is closed first.
func (l *link) close() {
	l.end()
	l.raw.cut()
	l.conn.Close()
}

// publish sends messages in their order, and waits for the acknowledgements. It returns how
// many were answered, and why not all.
func (l *link) publish(ctx context.Context, closing <-chan struct{}, messages []message, decide func(int, deliver.Result)) (answered int, err error) {
	answers := make(chan answer, len(messages)) // so that nobody waits to give one
	open := make(map[uint64]struct{}, len(messages))
	l.mu.Lock()
	first := l.next
	for i := range messages {
		m := &messages[i]
		l.waiting[l.next] = waiter{m.msg.Subject, m.item, answers}
		open[l.next] = struct{}{}
		m.msg.Reply = l.inbox + strconv.FormatUint(l.next, 36)
		l.next++
	}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for token := range open {
			delete(l.waiting, token)
		}
	}()

	done := make(chan error, 1)
	go func() { done <- l.write(messages, first) }()
	writing := (<-chan error)(done) // nil: it has ended
	for len(open) > 0 && err == nil {
		select {
		case a := <-answers:
			delete(open, a.token)
			decide(a.item, a.result)
			answered++
		case err = <-writing:
			writing = nil
		case <-ctx.Done():
			err = errUnanswered
		case <-closing:
			err = errClosed
		case <-l.gone:
			err = l.lost()
		}
	}
	if writing == nil {
		return answered, err
	}
	if err != nil {
		l.raw.cut() // else it could go on for ever
	}
	if wrote := <-writing; err != nil && wrote != nil && errors.Is(err, errUnanswered) {
		err = errStuck
	}
	return answered, err
}

// write sends messages, the first of which has a token.
func (l *link) write(messages []message, token uint64) error {
	for i := range messages {
		err := l.conn.PublishMsg(messages[i].msg)
		switch {
		case err == nil:
		case errors.Is(err, nats.ErrMaxPayload):
			l.answer(token+uint64(i), deliver.Result{Outcome: deliver.Impossible, Reason: fmt.Sprintf(
				"the message of %d bytes is larger than the server allows, which is %d; raise max_payload there", len(messages[i].msg.Data), l.conn.MaxPayload())})
		case errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg):
			l.answer(token+uint64(i), deliver.Result{Outcome: deliver.Impossible, Reason: shown("no message can be made of it: " + err.Error())})
		case errors.Is(err, nats.ErrConnectionClosed):
			return l.lost()
		default:
			return err
		}
	}
	return nil
}

// answer says what became of the message of a token, once.
func (l *link) answer(token uint64, r deliver.Result) {
	l.mu.Lock()
	w, ok := l.waiting[token]
	delete(l.waiting, token)
	l.mu.Unlock()
	if ok {
		w.answers <- answer{token, w.item, r}
	}
}

// lost is why the connection has ended.
func (l *link) lost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return l.cause
	}
	if err := l.conn.LastError(); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return errLost
}

// failed is told what the server says outside of acknowledgements.
func (l *link) failed(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	_, what, _ := strings.Cut(err.Error(), "Permissions Violation for ")
	if quoted, ok := strings.CutPrefix(what, "Publish to "); ok {
		subject := strings.Trim(quoted, `"`)
		l.mu.Lock()
		var tokens []uint64
		for token, w := range l.waiting {
			if w.subject == subject {
				tokens = append(tokens, token)
			}
		}
		l.mu.Unlock()
		for _, token := range tokens {
			l.answer(token, deliver.Result{Outcome: deliver.Doubtful, Reason: shown("the user may not publish to " + subject + "; let it, or change the subject of the sink")})
		}
		return
	}
	l.mu.Lock()
	l.cause = errNoInbox
	l.mu.Unlock()
	l.end()
}

// Error codes of JetStream.
const (
	codeTooLarge      = 10054 // the message is larger than the stream allows
	codeHeaderTooLong = 10097
)

// acknowledged takes the answer to a message.
func (l *link) acknowledged(m *nats.Msg) {
	token, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, l.inbox), 36, 64)
	if err != nil {
		return // nobody has asked for it
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		l.mu.Lock()
		subject := l.waiting[token].subject
		l.mu.Unlock()
		l.answer(token, deliver.Result{Outcome: deliver.Doubtful, Status: 503, Reason: shown("no stream has the subject " + subject + "; add it to one, or change the subject of the sink")})
		return
	}
	l.answer(token, result(m.Data))
}

// result is what an acknowledgement means.
func result(text []byte) deliver.Result {
	var ack struct {
		Stream   string `json:"stream"`
		Sequence uint64 `json:"seq"`
		Error    *struct {
			Code        int    `json:"code"`
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	err := json.Unmarshal(text, &ack)
	switch {
	case err == nil && ack.Error != nil:
		r := deliver.Result{Outcome: deliver.Retry, Status: ack.Error.Code, Reason: shown(fmt.Sprintf("the stream says: %q (%d)", cut(ack.Error.Description), ack.Error.ErrCode))}
		switch {
		case ack.Error.ErrCode == codeTooLarge, ack.Error.ErrCode == codeHeaderTooLong:
			r.Outcome = deliver.Refused
		case ack.Error.Code >= 400 && ack.Error.Code < 500:
			r.Outcome = deliver.Doubtful
		}
		return r
	case err == nil && ack.Stream != "" && ack.Sequence > 0:
		return deliver.Result{}
	}
	return deliver.Result{Outcome: deliver.Doubtful, Reason: "somebody has answered who is no stream; a stream must have the subject, and nobody else answer on it"}
}

// cut bounds what others say.
func cut(s string) string {
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "..."
	}
	return s
}

// settings are the options of a connection, with the secrets as they are now.
func (s *Sink) settings() ([]nats.Option, *tls.Config, error) {
	o := []nats.Option{
		nats.Name(s.o.Name),
		nats.NoReconnect(),
		nats.IgnoreDiscoveredServers(),
		nats.SkipHostLookup(), // the dialer does, for as long as there is time
		nats.Timeout(max(s.o.Timeout/time.Duration(len(s.o.URLs)), time.Second)), // there is time for each
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.NoEcho(),
	}
	for _, secret := range []struct {
		name string
		read Secret
		use  func(string) nats.Option
	}{
		{"password", s.o.Password, func(v string) nats.Option { return nats.UserInfo(s.o.Username, v) }},
		{"token", s.o.Token, nats.Token},
		{"credentials", s.o.Credentials, func(v string) nats.Option { return nats.UserCredentialBytes([]byte(v)) }},
	} {
		if secret.read == nil {
			continue
		}
		v, err := secret.read()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", secret.name, err)
		}
		o = append(o, secret.use(v))
		s.secrets.keep(v)
	}
	if s.o.Username != "" && s.o.Password == nil {
		o = append(o, nats.UserInfo(s.o.Username, ""))
	}
	config, err := s.o.TLS.config()
	if err != nil {
		return nil, nil, err
	}
	if config != nil {
		o = append(o, nats.Secure(config)) // the dialer uses it; this makes that it must
	}
	return o, config, nil
}

// config makes the settings of TLS, nil for the zero TLS. Errors do not repeat what was read.
func (t *TLS) config() (*tls.Config, error) {
	if t.CA == nil && t.Cert == nil && t.Key == nil && t.ServerName == "" {
		return nil, nil
	}
	if (t.Cert == nil) != (t.Key == nil) {
		return nil, errors.New("tls: cert and key belong together")
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	read := func(name string, s Secret) (string, error) {
		text, err := s()
		if err != nil {
			return "", fmt.Errorf("tls: %s: %w", name, err)
		}
		return text, nil
	}
	if t.CA != nil {
		text, err := read("ca", t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(text)) {
			return nil, errors.New("tls: ca has no certificate in PEM form")
		}
	}
	if t.Cert == nil {
		return c, nil
	}
	cert, err := read("cert", t.Cert)
	if err != nil {
		return nil, err
	}
	key, err := read("key", t.Key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		return nil, fmt.Errorf("tls: the client certificate and its key cannot be used: %w", err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
