package hubplugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/pluginlocal"
	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/websocket"
	"github.com/tocsin-events/tocsin/plugin"
	"github.com/tocsin-events/tocsin/plugin/plugintest"
	"github.com/tocsin-events/tocsin/rules"
)

// The plugin does all that the kit for plugins asks of one, with a real hub.
func TestKit(t *testing.T) {
	o := plugintest.Options{
		BadConfigs: []string{`{"address":"ftp://x"}`, `{"addresses":"x"}`, `{"token":"a","token_file":"b"}`, `{"types":["a b"]}`, `{"max_event_bytes":1}`},
		BadParams: []string{
			"kv-v2/*", `{"addresses":"x"}`, `{"token_file":"/nowhere"}`, `{"token":"a b"}`, `{"types":"x"}`, `{"token":"wrong"}`, `{"since":"yesterday"}`, `{"filter":"what"}`, "http://127.0.0.1:1?token=secret",
			"http://127.0.0.1:1?x=y", "http://127.0.0.1:1?follow=perhaps", "http://user@127.0.0.1:1",
		},
		Params: `{"types":["app/*"],"since":"oldest","follow":false}`,
		Events: 500,
		Check: func(t testing.TB, events []plugin.Event) {
			for i, e := range events {
				got, err := event.ParseCloudEvent(e.Data)
				if err != nil || got.ID != fmt.Sprint("id-", i) || !e.Time.Equal(got.Time) || e.Time.Nanosecond() != 123 {
					t.Fatalf("event %d: %s %v", i, e.Data, err)
				}
			}
		},
		Values: map[string][]string{
			"event.id": {"id-0", "id-1"}, "event.type": {"app/number"}, "event.metadata[n]": {"0", "1"}, "event.metadata[x]": {"<NA>"},
			"event.data[/n]": {"0", "1"}, "event.data[/text]": {"ä"}, "event.source": {"test"}, "event.path": {"numbers/0"},
			"audit.type": {"<NA>"}, "audit.auth.policies": {"<NA>"},
		},
		Feed: []plugin.Event{{Data: []byte("{}")}, {Data: []byte("\x00")}, {Data: []byte(strings.Repeat("[", 100_000))}},
	}
	if !pluginwire.Hosted() {
		h := startHub(t, false)
		h.publish(0, 500)
		o.Config = configText(t, Config{Address: h.url(), Token: token})
	}
	plugintest.Run(t, New(), o)
}

// launch makes a plugin run inside the test.
func launch(t testing.TB, c Config) sourceplugin.Plugin {
	t.Helper()
	p, err := pluginlocal.Launch(t.Context(), New(), configText(t, c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func open(t testing.TB, p sourceplugin.Plugin, params string) sourceplugin.Stream {
	t.Helper()
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: params})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reader collects the events of a stream.
type reader struct {
	t      testing.TB
	stream sourceplugin.Stream
	batch  sourceplugin.Batch
	events []scapevent.Event
	own    []*event.Event
	last   []byte
}

// next asks once.
func (r *reader) next() error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := r.stream.Next(ctx, &r.batch)
	if took := time.Since(start); took > 20*time.Second {
		r.t.Errorf("it has returned after %v", took)
	}
	for rest := bytes.Clone(r.batch.Events); len(rest) > 0; {
		var e scapevent.Event
		var bad error
		if e, rest, bad = scapevent.Next(rest); bad != nil {
			r.t.Fatal(bad)
		}
		own, bad := falcoevent.Parse(e)
		if bad != nil {
			r.t.Fatal(bad)
		}
		r.events, r.own = append(r.events, e), append(r.own, own)
	}
	if r.batch.Position != nil {
		r.last = bytes.Clone(r.batch.Position)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// until reads until there are so many events.
func (r *reader) until(n int) {
	r.t.Helper()
	await(r.t, fmt.Sprintf("%d events", n), func() bool {
		if err := r.next(); err != nil {
			r.t.Fatalf("%d events and then: %v", len(r.events), err)
		}
		return len(r.events) >= n
	})
}

func (r *reader) ids() (ids []string) {
	for _, e := range r.own {
		ids = append(ids, e.ID)
	}
	return ids
}

func wantIDs(t testing.TB, got []string, first, last int) {
	t.Helper()
	var want []string
	for n := first; n < last; n++ {
		want = append(want, fmt.Sprint("id-", n))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d events instead of %d to %d: %.300v", len(got), first, last, got)
	}
}

// The payload is the message of the hub, and all fields are those of the hub's own rules.
func TestFieldsAreTheHubs(t *testing.T) {
	h := startHub(t, true)
	h.awaitEvents("audit/*", 400)
	h.publish(0, 10)
	want := h.all("*")
	p := launch(t, Config{Address: h.url(), Token: token})
	r := &reader{t: t, stream: open(t, p, h.url()+"?since=oldest")}
	r.until(len(want))
	for i := range want {
		if !bytes.Equal(r.events[i].Data(), want[i]) {
			t.Fatalf("event %d is\n%s\ninstead of\n%s", i, r.events[i].Data(), want[i])
		}
	}
	var asked []sourceplugin.Event
	for i, e := range r.events {
		asked = append(asked, sourceplugin.Event{Event: e, Number: uint64(i + 1), Source: "tocsin"})
	}
	requests := field.NewRequests(known())
	args := map[string][]string{
		"event.data": {"", "/n", "/request/path"}, "event.metadata": {"n", "operation", "path"}, "audit.auth.metadata": {"username"},
		"audit.request.data": {"", "/data/password", "options"}, "audit.response.data": {"", "/keys"},
	}
	for _, f := range known() {
		if !f.Arg.Required {
			add(t, requests, f.Name, "", false)
		}
		for _, arg := range args[f.Name] {
			add(t, requests, f.Name, arg, true)
		}
	}
	var list []sourceplugin.FieldRequest
	for _, q := range requests.List() {
		list = append(list, q.FieldRequest)
	}
	// One by one, as Falco asks, the same event for each field; and all at once.
	got, err := p.Extract(t.Context(), asked, list)
	if err != nil {
		t.Fatal(err)
	}
	row, err := eventfields.NewReader("tocsin", requests.List(), eventfields.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer row.Close()
	values := 0
	for i, e := range r.own {
		row.Event(t.Context(), e)
		one, err := p.Extract(t.Context(), asked[i:i+1], list[i%len(list):i%len(list)+1])
		if err != nil {
			t.Fatal(err)
		}
		for f := range list {
			elements := row.Values(f)
			n := int(got.Counts[0])
			if n != len(elements) {
				t.Errorf("event %d: %s has %d values instead of %d", i, requests.List()[f].Text, n, len(elements))
			}
			if f == i%len(list) && one.Counts[0] != got.Counts[0] {
				t.Errorf("event %d: %s alone has %d values instead of %d", i, requests.List()[f].Text, one.Counts[0], n)
			}
			for k := range n {
				value := got.Bytes[:got.Lengths[k]]
				got.Bytes = got.Bytes[got.Lengths[k]:]
				if k < len(elements) && string(value) != encoded(requests.List()[f].Field.Type, elements[k]) {
					t.Errorf("event %d: %s is %q instead of %+v", i, requests.List()[f].Text, value, elements[k])
				}
				values++
			}
			got.Counts, got.Lengths = got.Counts[1:], got.Lengths[n:]
		}
	}
	if values < 20*len(r.events) {
		t.Errorf("%d values of %d events", values, len(r.events))
	}
	texts, err := p.Strings(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	audit := slices.IndexFunc(texts, func(s string) bool { return strings.Contains(s, " by ") })
	if audit < 0 || !slices.Contains(texts, "app/number numbers/3 n=3") {
		t.Errorf("%.2000q", texts)
	} else {
		t.Log(texts[audit])
	}
	for _, text := range texts {
		if strings.ContainsAny(text, "\n\r\x1b") || len(text) > maxSummary {
			t.Errorf("%q", text)
		}
	}
}

func add(t testing.TB, q *field.Requests, name, arg string, present bool) {
	t.Helper()
	if _, err := q.Add(name, arg, present); err != nil {
		t.Fatal(err)
	}
}

func encoded(kind sourceplugin.FieldType, e field.Element) string {
	switch kind {
	case sourceplugin.Bool:
		return string([]byte{byte(e.Number)})
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		b := make([]byte, 8)
		for i := range b {
			b[i] = byte(e.Number >> (8 * i))
		}
		return string(b)
	}
	return e.Text
}

// A hub that ends and comes back is no gap: each event comes once, in order.
func TestRestarts(t *testing.T) {
	h := startHub(t, false)
	p := launch(t, Config{Address: h.url(), Token: token})
	r := &reader{t: t, stream: open(t, p, `{"types":["app/*"]}`)}
	n := 0
	for range 4 {
		h.publish(n, n+50)
		r.until(n + 50)
		n += 50
		h.stop()
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.publish(n, n+50)
		n += 50
	}
	r.until(n)
	wantIDs(t, r.ids(), 0, n)
	// And from a position that the host kept.
	position := r.last
	if err := r.stream.Close(t.Context()); err != nil {
		t.Error(err)
	}
	h.publish(n, n+5)
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: `{"types":["app/*"]}`, Resume: position})
	if err != nil {
		t.Fatal(err)
	}
	again := &reader{t: t, stream: s}
	again.until(5)
	wantIDs(t, again.ids(), n, n+5)
}

// A hub that is not there when the stream is opened is waited for, and what happens meanwhile is
// not lost.
func TestHubComesLater(t *testing.T) {
	h := startHub(t, false)
	p := launch(t, Config{Address: h.url(), Token: token})
	h.stop()
	r := &reader{t: t, stream: open(t, p, `{"types":["app/*"]}`)}
	if err := r.next(); err != nil || len(r.events) > 0 {
		t.Fatal(err)
	}
	h.start()
	h.publish(0, 20)
	r.until(20)
	wantIDs(t, r.ids(), 0, 20)
}

// The next stream goes on where the file says, and events that were handed over and not asked
// behind come again.
func TestPositionFile(t *testing.T) {
	h := startHub(t, false)
	file := filepath.Join(t.TempDir(), "position")
	p := launch(t, Config{Address: h.url(), Token: token, PositionFile: file, Since: "oldest", Types: []string{"app/*"}})
	h.publish(0, 30)
	first := &reader{t: t, stream: open(t, p, "")}
	first.until(30)
	if err := first.next(); err != nil { // it has taken them
		t.Fatal(err)
	}
	if err := first.stream.Close(t.Context()); err != nil {
		t.Error(err)
	}
	h.publish(30, 40)
	second := &reader{t: t, stream: open(t, p, "")}
	second.until(10)
	wantIDs(t, second.ids(), 30, 40)
	if err := second.stream.Close(t.Context()); err != nil { // who knows whether it has taken them
		t.Error(err)
	}
	third := &reader{t: t, stream: open(t, p, "")}
	third.until(10)
	wantIDs(t, third.ids(), 30, 40)

	// A position of another journal is a gap, and not the end.
	if err := os.WriteFile(file, []byte("zzzzzzzz\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := &reader{t: t, stream: open(t, p, "")}
	other.until(41)
	if other.own[0].Type != TypeGap {
		t.Errorf("the first event is %+v", other.own[0])
	}
	wantIDs(t, other.ids()[1:], 0, 40)
	if err := os.WriteFile(file, []byte("no position\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(t.Context(), sourceplugin.Open{}); err == nil || !strings.Contains(err.Error(), "has no position") {
		t.Error(err)
	}
}

// Types and filters select.
func TestSelection(t *testing.T) {
	h := startHub(t, true)
	h.awaitEvents("audit/*", 400)
	h.publish(0, 10)
	p := launch(t, Config{Address: h.url(), Token: token, Since: "oldest"})
	for params, want := range map[string]func(*event.Event) bool{
		`{"types":["app/*","audit/request"],"follow":false}`: func(e *event.Event) bool { return e.Type == "app/number" || e.Type == "audit/request" },
		`{"types":["a*p/*"],"follow":false}`:                 func(e *event.Event) bool { return e.Type == "app/number" },
		`{"types":["app/*","kv-v2/data-write"],"filter":"operation == \"data-write\" or operation == x","follow":false}`: func(e *event.Event) bool { return e.Type == "kv-v2/data-write" },
		h.url() + "?types=app/number,nothing/*&follow=false":                                                             func(e *event.Event) bool { return e.Type == "app/number" },
	} {
		r := &reader{t: t, stream: open(t, p, params)}
		for {
			err := r.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for _, raw := range h.all("*") {
			if e, err := event.ParseCloudEvent(raw); err == nil && want(e) {
				n++
			}
		}
		if bad := slices.IndexFunc(r.own, func(e *event.Event) bool { return !want(e) }); n == 0 || len(r.own) != n || bad >= 0 {
			t.Errorf("%s: %d events instead of %d", params, len(r.own), n)
		}
	}
}

// A token that is not valid any more is told, and the one that is in its file then is used.
func TestToken(t *testing.T) {
	h := startHub(t, false)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wr0ng")
	p := launch(t, Config{Address: h.url(), TokenFile: file, Types: []string{"app/*"}})
	_, err := p.Open(t.Context(), sourceplugin.Open{})
	if err == nil || !strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "wr0ng") {
		t.Fatal(err)
	}
	write(token)
	r := &reader{t: t, stream: open(t, p, "")}
	h.publish(0, 5)
	r.until(5)
	// The hub comes back with another root token. That is told once, and ends nothing.
	h.stop()
	h.token = "an0ther"
	h.start()
	await(t, "the hub has refused", func() bool {
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
		return r.own[len(r.own)-1].Type == TypeRefused
	})
	h.publish(5, 10)
	write(h.token)
	r.until(11)
	ids := r.ids()
	wantIDs(t, append(ids[:5:5], ids[6:]...), 0, 10)
}

// fakeHub does what it likes with connections.
func fakeHub(t testing.TB, serve func(w http.ResponseWriter, r *http.Request)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(serve))
	t.Cleanup(s.Close)
	return s.URL
}

// A hub that does not answer, or nonsense, holds up nobody.
func TestWildHubs(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	accept := func(w http.ResponseWriter, r *http.Request, say func(net.Conn)) {
		handshake, err := websocket.Check(r, websocket.Options{})
		if err != nil {
			t.Error(err)
			return
		}
		_ = handshake
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
		say(c)
		_, _ = io.Copy(io.Discard, c)
	}
	var gaps atomic.Int64
	t.Cleanup(func() {
		if n := gaps.Load(); n < 1 || n > 200 {
			t.Errorf("the hub that only has gaps was asked %d times", n)
		}
	})
	frame := func(op byte, payload []byte) []byte {
		b := []byte{0x80 | op, 127, 0, 0, 0, 0, byte(len(payload) >> 24), byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload))}
		return append(b, payload...)
	}
	for name, hub := range map[string]string{
		"silent":     "http://" + silent.Addr().String(),
		"no one":     "http://127.0.0.1:1",
		"overloaded": fakeHub(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }),
		"quiet":      fakeHub(t, func(w http.ResponseWriter, r *http.Request) { accept(w, r, func(net.Conn) {}) }),
		"rubbish": fakeHub(t, func(w http.ResponseWriter, r *http.Request) {
			accept(w, r, func(c net.Conn) { c.Write(bytes.Repeat([]byte("rubbish"), 1000)) })
		}),
		"length": fakeHub(t, func(w http.ResponseWriter, r *http.Request) {
			accept(w, r, func(c net.Conn) { c.Write([]byte{0x81, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) })
		}),
		"gaps": fakeHub(t, func(w http.ResponseWriter, r *http.Request) {
			accept(w, r, func(c net.Conn) { gaps.Add(1); c.Write([]byte{0x88, 2, 0x11, 0x3a}) })
		}),
		"no JSON": fakeHub(t, func(w http.ResponseWriter, r *http.Request) {
			accept(w, r, func(c net.Conn) { c.Write(frame(1, []byte("no JSON"))) })
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, Config{Address: hub, Token: token, MaxEventBytes: 1 << 20})
			s := open(t, p, "")
			r := &reader{t: t, stream: s}
			for range 20 {
				if err := r.next(); err != nil {
					t.Fatal(err)
				}
			}
			for _, e := range r.own {
				if e.Type != TypeGap {
					t.Errorf("%+v", e)
				}
			}
			start := time.Now()
			if err := s.Close(t.Context()); err != nil || time.Since(start) > 20*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	}
}

// Events of many MiB pass; one that is larger than was allowed is a gap, and others follow.
func TestGiantEvents(t *testing.T) {
	h := startHub(t, false)
	giant := func(n, size int) {
		t.Helper()
		e := numbered(n)
		e.Data = fmt.Appendf(nil, `{"text":"%s"}`, strings.Repeat("x", size))
		h.send(e)
	}
	p := launch(t, Config{Address: h.url(), Token: token, Types: []string{"app/*"}, MaxEventBytes: 600 << 10})
	r := &reader{t: t, stream: open(t, p, "")}
	h.publish(0, 3)
	giant(3, 500<<10)
	r.until(4)
	giant(4, 700<<10)
	await(t, "a gap", func() bool {
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
		return r.own[len(r.own)-1].Type == TypeGap
	})
	n := 5
	await(t, "events behind it", func() bool {
		h.publish(n, n+1)
		n++
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
		return r.own[len(r.own)-1].Type != TypeGap
	})
}

// The rules that the program ships ask for nothing that Falco and the plugin have not.
func TestFieldsOfShippedRules(t *testing.T) {
	has := map[string]bool{}
	for _, f := range known() {
		has[f.Name] = true
	}
	asked := 0
	for _, name := range rules.Names() {
		content, ok := rules.Content(name)
		if !ok {
			t.Fatal(name)
		}
		for _, m := range regexp.MustCompile(`(?m)(^ *#.*$)|\b((event|audit|json|jevt)\.[a-z_.]*[a-z_])`).FindAllStringSubmatch(string(content), -1) {
			if field := m[2]; field != "" {
				if asked++; !has[field] {
					t.Errorf("%s asks for %s, which the plugin has not", name, field)
				}
			}
		}
	}
	if asked < 100 {
		t.Errorf("%d fields were found", asked)
	}
}
