package receiver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// Bounds of requests. The HTTP device of OpenBao has no timeout of its own: what is
// answered late delays the requests of its server's clients.
const (
	answerTime    = time.Second      // after the body has come
	headerTimeout = 10 * time.Second // for the header, and for the body
	idleTimeout   = 10 * time.Minute // between two requests
	maxHeader     = 16 << 10
	// bodySlack is what a body may have beside its longest line: line feeds, a line or two.
	bodySlack = 64 << 10
	// maxBodyLines is how many lines a body may have. The device sends one.
	maxBodyLines = 100_000
	// firstBody is how much memory a body gets before more of it has come.
	firstBody = 32 << 10
	// leftoverTime is how long a refusal waits for the body that it is not interested in.
	leftoverTime = 100 * time.Millisecond
	// drainTime is how long requests that are on the way are waited for in the end.
	drainTime = 250 * time.Millisecond
)

// web is the server of HTTP devices. Answers have no body: the device does not read it,
// and could not use the connection again. The reason of a refusal is in a header.
type web struct {
	*Receiver
	server *http.Server
	bodies atomic.Int64           // memory of bodies that are being received or stored
	asked  atomic.Int64           // when a request came last, in Unix nanoseconds
	secret atomic.Pointer[string] // why the secret cannot be read, or nil
}

func newWeb(r *Receiver) *web {
	w := &web{Receiver: r}
	w.server = &http.Server{
		Handler:           http.HandlerFunc(w.handle),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	w.server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		return context.WithValue(ctx, connectionKey{}, conn)
	}
	w.server.Protocols = new(http.Protocols)
	w.server.Protocols.SetHTTP1(true)
	return w
}

// connectionKey is where the context of a request has its connection.
type connectionKey struct{}

// serve answers requests until the endpoint stops.
func (w *web) serve(e *endpoint) {
	var l net.Listener = webListener{w, e}
	if w.config.TLS != nil {
		settings := w.config.TLS.Clone()
		settings.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, settings)
	}
	if err := w.server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		w.failed(err)
	}
}

// webListener is the endpoint as the server of package http sees it.
type webListener struct {
	w *web
	e *endpoint
}

func (l webListener) Accept() (net.Conn, error) {
	c, err := l.w.next(l.e)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (l webListener) Close() error   { return nil } // the receiver's
func (l webListener) Addr() net.Addr { return l.e.addr() }

// stop answers what is on the way and closes connections between two requests.
func (w *web) stop(ctx context.Context) error {
	w.running.Wait() // nothing more is accepted
	// A connection that is used now is closed by its next answer, which no sender can
	// mistake. One that is silent is closed by Shutdown.
	begin := time.Now()
	for w.table.count() > 0 && time.Since(begin) < drainTime && time.Since(time.Unix(0, w.asked.Load())) < drainTime/2 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	if err := w.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("some requests were cut: %w", err), w.server.Close())
	}
	return nil
}

// refusal is an answer that is not success.
type refusal struct {
	code   int
	reason string
}

func (w *web) handle(response http.ResponseWriter, request *http.Request) {
	w.asked.Store(time.Now().UnixNano())
	header := response.Header()
	if w.stopping.Load() {
		header.Set("Connection", "close")
	}
	code := http.StatusNoContent
	if no := w.take(request); no != nil {
		// The server reads what is left of the body before it answers, so that the
		// connection can be used again; if that takes long, it is closed instead.
		http.NewResponseController(response).SetReadDeadline(time.Now().Add(leftoverTime))
		code = no.code
		header.Set("Tocsin-Reason", no.reason)
		switch code {
		case http.StatusUnauthorized:
			header.Set("WWW-Authenticate", "Bearer")
		case http.StatusMethodNotAllowed:
			header.Set("Allow", http.MethodPost)
		case http.StatusServiceUnavailable:
			header.Set("Retry-After", "1")
		}
	}
	w.counts.answered(code)
	if c, ok := request.Context().Value(connectionKey{}).(*connection); ok && code == http.StatusNoContent {
		c.proven.Store(true)
	}
	if code != http.StatusNoContent {
		header.Set("Content-Length", "0")
	}
	response.WriteHeader(code)
}

// take makes what a request brings durable.
func (w *web) take(request *http.Request) *refusal {
	if request.Method != http.MethodPost {
		return &refusal{http.StatusMethodNotAllowed, "only POST"}
	}
	if request.Header.Get("Origin") != "" || request.Header.Get("Sec-Fetch-Mode") != "" {
		// Any page could make the browser of this machine send entries.
		return &refusal{http.StatusForbidden, "no web page may send entries"}
	}
	if no := w.authenticate(request); no != nil {
		return no
	}
	if encoding := request.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return &refusal{http.StatusUnsupportedMediaType, "no Content-Encoding is understood"}
	}
	body := w.newBody()
	defer body.release()
	if no := body.read(request); no != nil {
		return no
	}
	lines, no := body.lines()
	if no != nil {
		return no
	}
	if len(lines) == 0 {
		return nil // nothing was sent, and that is stored
	}
	ctx, cancel := context.WithTimeout(request.Context(), answerTime)
	defer cancel()
	err := w.store(ctx, lines, len(body.text))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, inbox.ErrFull):
		return &refusal{http.StatusServiceUnavailable, "the spool is full"}
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{http.StatusServiceUnavailable, "it was not durable within " + answerTime.String()}
	}
	return &refusal{http.StatusServiceUnavailable, "the receiver is ending"}
}

// store makes lines durable.
func (w *web) store(ctx context.Context, lines []tail.Line, size int) error {
	in, err := w.target.wait(ctx)
	if err != nil {
		return err
	}
	position, err := in.Put(ctx, lines)
	if err != nil {
		return err
	}
	w.counts.lines.Add(uint64(len(lines)))
	w.counts.bytes.Add(uint64(size))
	return in.Durable(ctx, position)
}

// authenticate checks the secret.
func (w *web) authenticate(request *http.Request) *refusal {
	if w.config.Secret == nil {
		return nil
	}
	want, err := w.config.Secret()
	if err != nil || want == "" {
		text := "secret: is empty"
		if err != nil {
			text = "secret: " + err.Error()
		}
		w.secret.Store(&text)
		return &refusal{http.StatusServiceUnavailable, "the receiver does not know its secret"}
	}
	w.secret.Store(nil)
	var got string
	if w.config.SecretHeader != "" {
		got = request.Header.Get(w.config.SecretHeader)
	} else if scheme, token, ok := strings.Cut(request.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		got = strings.TrimSpace(token)
	}
	// Of equal length, so that not even that can be measured.
	g, s := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	if subtle.ConstantTimeCompare(g[:], s[:]) != 1 {
		return &refusal{http.StatusUnauthorized, "wrong secret"}
	}
	return nil
}

// health is what is wrong beside the listener.
func (w *web) health() error {
	if text := w.secret.Load(); text != nil {
		return errors.New(*text)
	}
	return nil
}

// body receives one body in memory that is accounted for.
type body struct {
	web  *web
	text []byte
	held int64
}

func (w *web) newBody() *body { return &body{web: w} }

// mostBodies is the memory of all bodies together.
func (w *web) mostBodies() int64 { return 4*w.mostBody() + 64<<20 }

func (w *web) mostBody() int64 { return int64(w.config.MaxLine) + bodySlack }

// grow makes room for n bytes altogether.
func (b *body) grow(n int64) bool {
	if b.web.bodies.Add(n-b.held) > b.web.mostBodies() && n > b.held {
		b.web.bodies.Add(b.held - n)
		return false
	}
	b.held = n
	text := make([]byte, len(b.text), n)
	copy(text, b.text)
	b.text = text
	return true
}

// release gives the memory back.
func (b *body) release() { b.web.bodies.Add(-b.held) }

// lines cuts what was received. Lines take memory beside their bytes, which is many times
// as much when they are short.
func (b *body) lines() ([]tail.Line, *refusal) {
	n := bytes.Count(b.text, []byte("\n")) + 1
	if n > maxBodyLines {
		b.web.counts.tooLong.Add(1)
		return nil, &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d lines", maxBodyLines)}
	}
	memory := int64(n) * lineMemory
	if b.held += memory; b.web.bodies.Add(memory) > b.web.mostBodies() {
		b.web.counts.refusedMemory.Add(1)
		return nil, &refusal{http.StatusServiceUnavailable, "too many large bodies at once"}
	}
	return b.web.cutBody(make([]tail.Line, 0, n), b.text), nil
}

// read receives the body of a request.
func (b *body) read(request *http.Request) *refusal {
	most := b.web.mostBody()
	tooLarge := &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes; see max_line", most)}
	if request.ContentLength > most {
		b.web.counts.tooLong.Add(1)
		return tooLarge
	}
	size := int64(firstBody)
	if n := request.ContentLength; n >= 0 && n < size {
		size = n + 1 // and the end
	}
	for {
		if !b.grow(size) {
			b.web.counts.refusedMemory.Add(1)
			return &refusal{http.StatusServiceUnavailable, "too many large bodies at once"}
		}
		for len(b.text) < cap(b.text) {
			n, err := request.Body.Read(b.text[len(b.text):cap(b.text)])
			b.text = b.text[:len(b.text)+n]
			if int64(len(b.text)) > most {
				b.web.counts.tooLong.Add(1)
				return tooLarge
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				if len(b.text) > 0 {
					b.web.counts.torn.Add(1)
				}
				return &refusal{http.StatusBadRequest, "the body did not come to its end"}
			}
		}
		size = min(2*size, most+1)
	}
}
