package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/fliptaudit"
)

// fliptSources is one source, whose journal can be made to wait.
type fliptSources struct {
	source *fliptaudit.Source
	held   heldJournal
}

func (f *fliptSources) Source(string) *fliptaudit.Source       { return f.source }
func (f *fliptSources) Log(string) (*fliptaudit.Source, error) { return f.source, nil }

type heldJournal struct {
	*journal.Journal
	begun, goOn chan struct{} // nil: it does not wait
	err         error
}

func (h *heldJournal) Append(ctx context.Context, events ...*event.Event) (journal.Position, error) {
	if h.begun != nil {
		h.begun <- struct{}{}
		<-h.goOn
	}
	if h.err != nil {
		return journal.Position{}, h.err
	}
	return h.Journal.Append(ctx, events...)
}

func startFlipt(t *testing.T) (*node, *fliptSources) {
	t.Helper()
	f := new(fliptSources)
	n := startNode(t, func(o *Options) { o.Flipt = f })
	f.held.Journal = n.journal
	f.source = fliptaudit.New(fliptaudit.Config{Name: "prod", Unsigned: fliptaudit.FromLoopback}, fliptaudit.Deps{Journal: &f.held})
	return n, f
}

const fliptBody = `{"version":"0.2","type":"flag","action":"created","metadata":{},"payload":null,"timestamp":"2026-11-21T01:38:10Z","status":"denied"}`

func fliptRequest(ctx context.Context) *http.Request {
	r := httptest.NewRequestWithContext(ctx, "POST", "/api/v1/ingest/flipt/prod", strings.NewReader(fliptBody))
	r.RemoteAddr = "127.0.0.1:1234"
	return r
}

// deaf is a client that cannot be written to.
type deaf struct{ *httptest.ResponseRecorder }

func (deaf) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// A request whose answer did not get to the client comes again, and is the same event;
// one that was answered is another event.
func TestFliptRequestThatWasCutOff(t *testing.T) {
	n, f := startFlipt(t)
	send := func(want string) {
		t.Helper()
		w := httptest.NewRecorder()
		n.api.ServeHTTP(w, fliptRequest(t.Context()))
		if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != want {
			t.Errorf("%d %s, want %s", w.Code, got, want)
		}
	}
	const one, again = `{"accepted":1}`, `{"accepted":0,"duplicates":1}`

	// The client goes while its event is stored.
	f.held.begun, f.held.goOn = make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { n.api.ServeHTTP(httptest.NewRecorder(), fliptRequest(ctx)) })
	<-f.held.begun
	cancel()
	f.held.goOn <- struct{}{}
	all.Wait()
	f.held.begun = nil
	send(again)
	send(one)

	// The answer cannot be written.
	n.api.ServeHTTP(deaf{httptest.NewRecorder()}, fliptRequest(t.Context()))
	send(again)
	send(one)

	// The event cannot be stored.
	f.held.err = errors.Join(journal.ErrFull, journal.ErrPushback)
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, fliptRequest(t.Context()))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	f.held.err = nil
	send(one)
	if got := n.journal.End().NextOrdinal(); got != 5 {
		t.Errorf("%d events are stored, want 5", got)
	}
}

// Who sends bodies with signatures that nobody can check before they have ended takes no
// memory from those who publish, and one who sends no signature at all none whatever.
func TestFliptStrangersAndPublishers(t *testing.T) {
	n, _ := startFlipt(t)
	n.api.unproven = newBodies(10 * minBodyBytes)
	n.api.publisher.bodies = newBodies(10 * minBodyBytes)
	head := func(signature string) string {
		return request("POST", "/api/v1/ingest/flipt/prod", "X-Flipt-Webhook-Signature: "+signature, "Content-Length: 8000000", "X-Vault-Token: ")
	}
	var slow []net.Conn
	for range 10 {
		conn, _ := n.open(head(strings.Repeat("0", 64)) + "{")
		slow = append(slow, conn)
	}
	for n.api.unproven.used.Load() != 10*minBodyBytes {
		if t.Context().Err() != nil {
			t.Fatal("the bodies are not received")
		}
		time.Sleep(time.Millisecond)
	}
	n.must(n.post(structured, made("1", "")))
	for _, conn := range slow {
		conn.Close()
	}
	for n.api.unproven.used.Load() != 0 {
		time.Sleep(time.Millisecond)
	}
	// No signature has this form: it is answered before all of the body has come.
	_, r := n.open(head("00") + strings.Repeat(" ", maxUnread))
	if response, err := http.ReadResponse(r, nil); err != nil || response.StatusCode != 503 {
		t.Errorf("%v %v", response, err)
	}
}
