package webhook

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "8"); err != nil { // they wait most of the time
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var loopback, _ = outbound.NewGuard("127.0.0.0/8")

func text(s string) outbound.Secret { return func() (string, error) { return s, nil } }

// receiver is a real server that can fail in all ways.
type receiver struct {
	t       testing.TB
	options Options
	address string
	wg      sync.WaitGroup

	mu      sync.Mutex
	mode    delivertest.Mode
	changed chan struct{} // closed with the next mode
	server  *http.Server  // nil: nobody listens
	arrived []delivertest.Arrival
}

func newReceiver(t testing.TB, o Options) *receiver {
	r := &receiver{t: t, options: o, changed: make(chan struct{}), mode: delivertest.Refuses, address: "127.0.0.1:0"}
	r.Set(delivertest.Works)
	t.Cleanup(func() {
		r.Set(delivertest.Refuses)
		r.wg.Wait()
	})
	return r
}

func (r *receiver) Sink(*slog.Logger) (deliver.Sink, error) {
	o := r.options
	o.URL = "http://" + r.address + "/hook"
	return New(o)
}

func (r *receiver) Set(m delivertest.Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = m
	close(r.changed)
	r.changed = make(chan struct{})
	switch {
	case m == delivertest.Refuses && r.server != nil:
		r.server.Close()
		r.server = nil
	case m != delivertest.Refuses && r.server == nil:
		l, err := net.Listen("tcp", r.address)
		if err != nil {
			r.t.Errorf("listen again: %v", err)
			return
		}
		r.address = l.Addr().String()
		server := &http.Server{Handler: r, ErrorLog: log.New(io.Discard, "", 0)}
		r.server = server
		r.wg.Go(func() { server.Serve(l) })
	}
}

func (r *receiver) Arrived() []delivertest.Arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.arrived)
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	mode, changed := r.mode, r.changed
	r.mu.Unlock()
	switch mode {
	case delivertest.Hangs:
		<-changed
		panic(http.ErrAbortHandler)
	case delivertest.Closes:
		panic(http.ErrAbortHandler)
	case delivertest.Slow:
		time.Sleep(20 * time.Millisecond)
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if err := verify(q, body); err != nil {
		r.t.Error(err)
	}
	arrivals, types := read(r.t, q, body)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.mode == delivertest.Fails:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.mode == delivertest.RefusesOne && slices.Contains(types, delivertest.RefusedType):
		w.WriteHeader(http.StatusUnprocessableEntity)
		io.WriteString(w, "no: "+q.Header.Get("Authorization"))
	default:
		r.arrived = append(r.arrived, arrivals...)
	}
}

// The keys of tests.
var (
	secretKey             = standardwebhooks.NewSecret()
	privateKey, publicKey = standardwebhooks.NewKeyPair()
	signingKeys           = []outbound.Secret{text(secretKey), text(privateKey)}
	verifyFirst, _        = standardwebhooks.ParseKey(secretKey)
	verifySecond, _       = standardwebhooks.ParseKey(publicKey)
	fliptSecret           = "flipt's own secret"
	bearer                = "s3cret-bearer-token"
	connection            = outbound.Options{Guard: loopback, UserAgent: "tocsin/test", Bearer: text(bearer), Timeout: time.Minute}
)

// verify checks all signatures of a request.
func verify(q *http.Request, body []byte) error {
	for _, k := range []standardwebhooks.Key{verifyFirst, verifySecond} {
		if err := standardwebhooks.Verify([]standardwebhooks.Key{k}, q.Header, body, time.Now(), 0); err != nil {
			return fmt.Errorf("%v: %w", k, err)
		}
	}
	mac := hmac.New(sha256.New, []byte(fliptSecret))
	mac.Write(body)
	if got, want := q.Header.Get("X-Flipt-Webhook-Signature"), hex.EncodeToString(mac.Sum(nil)); got != want {
		return fmt.Errorf("flipt's signature is %s, want %s", got, want)
	}
	return nil
}

// read takes a body apart by what its headers say.
func read(t testing.TB, q *http.Request, body []byte) (arrivals []delivertest.Arrival, types []string) {
	if q.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		if body, err = io.ReadAll(z); err != nil {
			t.Error(err)
		}
	}
	var parts []json.RawMessage
	switch contentType := q.Header.Get("Content-Type"); {
	case contentType == "application/x-ndjson":
		for line := range bytes.Lines(body) {
			parts = append(parts, bytes.TrimSuffix(line, []byte("\n")))
		}
	case bytes.HasPrefix(body, []byte("[")):
		if err := json.Unmarshal(body, &parts); err != nil {
			t.Errorf("%s: %v", contentType, err)
		}
	default:
		parts = append(parts, body)
	}
	for _, part := range parts {
		if !json.Valid(part) {
			t.Errorf("%.200q is not JSON", part)
			continue
		}
		var standard struct {
			ID   string `json:"id"`
			Type string `json:"event_type"`
		}
		if bytes.HasPrefix(part, []byte(`{"specversion"`)) {
			e, err := event.ParseCloudEvent(part)
			if err != nil {
				t.Errorf("%.200q: %v", part, err)
				continue
			}
			arrivals, types = append(arrivals, delivertest.Arrival{ID: e.ID, Event: e}), append(types, e.Type)
			continue
		}
		if err := json.Unmarshal(part, &standard); err != nil {
			t.Errorf("%.200q: %v", part, err)
		}
		arrivals, types = append(arrivals, delivertest.Arrival{ID: standard.ID}), append(types, standard.Type)
	}
	return arrivals, types
}

func TestConformance(t *testing.T) {
	variants := make(map[string]delivertest.Harness)
	for name, o := range map[string]Options{
		"event cloudevents gzip":      {Format: format.CloudEvents, Gzip: true},
		"lines standard":              {Body: Lines},
		"cloudevents batch, in parts": {Body: CloudEventsBatch, Format: format.CloudEvents, MaxBytes: 2 << 20},
	} {
		o.Connection, o.SigningKeys, o.FliptSecret = connection, signingKeys, text(fliptSecret)
		if o.MaxBytes == 0 {
			o.MaxBytes = 16 << 20
		}
		variants[name] = delivertest.Harness{
			Receiver: func(t testing.TB) delivertest.Receiver { return newReceiver(t, o) },
			Modes: []delivertest.Mode{
				delivertest.Fails, delivertest.Refuses, delivertest.Closes, delivertest.Hangs, delivertest.Slow, delivertest.RefusesOne,
			},
			LargestData: 1 << 20, TooLargeData: 17 << 20,
			Secrets: []string{secretKey, privateKey, fliptSecret, bearer},
			Errors: func(t testing.TB) []error {
				var errs []error
				for _, change := range []func(*Options){
					func(o *Options) { o.SigningKeys = []outbound.Secret{text(secretKey + "!")} },
					func(o *Options) { o.URL = "http://user:" + bearer + "@127.0.0.1/" },
					func(o *Options) { o.Connection.Bearer = text(bearer + "\n") },
				} {
					o := o
					o.URL = "http://127.0.0.1:1/"
					change(&o)
					_, err := New(o)
					errs = append(errs, err)
				}
				return errs
			},
		}
	}
	delivertest.RunEach(t, variants)
}

var at = time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC)

func sample() deliver.Item {
	e := event.NewNotification("kv-v2/data-write", "path", "secret/data/app", "operation", "data-write", "modified", "true")
	e.ID, e.Source, e.Time, e.Namespace = "8d3ff6f5-33e7-5d4b-9aef-0d6cc2f5b8f4", "vault://node-1", at, "team-a/"
	return deliver.Item{Event: e, At: position.Position{Seq: 7, Index: 0, Ordinal: 99}}
}

// captured is a request.
type captured struct {
	header http.Header
	body   string
}

// capture starts a server that keeps requests and answers with the next of the statuses.
func capture(t testing.TB, statuses ...int) (url string, requests func() []captured) {
	t.Helper()
	var mu sync.Mutex
	var all []captured
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, captured{r.Header, string(body)})
		if n := len(all); n <= len(statuses) {
			w.WriteHeader(statuses[n-1])
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []captured { mu.Lock(); defer mu.Unlock(); return all }
}

func open(t testing.TB, o Options) *Sink {
	t.Helper()
	if o.Connection.Guard == nil {
		o.Connection = connection
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestHeaders(t *testing.T) {
	url, requests := capture(t)
	s := open(t, Options{URL: url, SigningKeys: signingKeys, FliptSecret: text(fliptSecret)})
	s.now = func() time.Time { return time.Unix(1772600767, 999) }
	odd := sample()
	e := *odd.Event
	e.ID, e.Source, e.Type = "order 1.\"ü\"\r\nX: y", "/orders", "shop/100%"
	odd.Event = &e
	batches := []*deliver.Batch{
		{Items: []deliver.Item{sample()}, Attempt: 1},
		{Items: []deliver.Item{sample()}, Attempt: 2, Replay: "r 1", Redriven: true},
		{Items: []deliver.Item{odd}},
	}
	for _, b := range batches {
		if r := s.Send(t.Context(), b); r.Outcome != deliver.Delivered {
			t.Fatalf("%+v", r)
		}
	}
	common := map[string]string{"Content-Type": "application/json", "User-Agent": "tocsin/test", "Authorization": "Bearer " + bearer, "Webhook-Timestamp": "1772600767"}
	wants := []map[string]string{
		{"Tocsin-Attempt": "1", "Tocsin-Event-Type": "kv-v2/data-write", "Webhook-Id": "8d3ff6f5-33e7-5d4b-9aef-0d6cc2f5b8f4"},
		{"Tocsin-Attempt": "2", "Tocsin-Event-Type": "kv-v2/data-write", "Webhook-Id": "8d3ff6f5-33e7-5d4b-9aef-0d6cc2f5b8f4",
			"Tocsin-Replay": "r%201", "Tocsin-Redriven": "true"},
		{"Tocsin-Attempt": "1", "Tocsin-Event-Id": "order%201.%22%C3%BC%22%0D%0AX:%20y", "Tocsin-Event-Type": "shop/100%25", "Webhook-Id": event.DeriveID("webhook event", "/orders", e.ID)},
	}
	for i, q := range requests() {
		h := q.header.Clone()
		for name, value := range common {
			wants[i][name] = value
		}
		for name, want := range wants[i] {
			if got := h.Get(name); got != want {
				t.Errorf("%d: %s: %q, want %q", i, name, got, want)
			}
		}
		if len(h) != len(wants[i])+3 { // Content-Length and two signatures
			t.Errorf("%d: %d headers: %v", i, len(h), h)
		}
		if err := standardwebhooks.Verify([]standardwebhooks.Key{verifySecond}, h, []byte(q.body), time.Unix(1772600767, 0), 0); err != nil {
			t.Error(err)
		}
	}
}

func TestStandard(t *testing.T) {
	data := func(contentType, data string) deliver.Item {
		item := sample()
		e := *item.Event
		e.Data, e.DataContentType = []byte(data), contentType
		item.Event = &e
		return item
	}
	ref := data("application/json", "")
	ref.Event.Data, ref.Event.DataRef = nil, "/v1/audit/payload/1f"
	bare := deliver.Item{Event: &event.Event{ID: "a\"\u2028b", Source: "/x", Type: "deploy", Time: at.In(time.FixedZone("", 3600))}}
	const lead = `{"type":"kv_v2.data_write","timestamp":"2026-03-04T05:06:07.89Z","id":"8d3ff6f5-33e7-5d4b-9aef-0d6cc2f5b8f4","source":"vault://node-1",` +
		`"event_type":"kv-v2/data-write","namespace":"team-a/","path":"secret/data/app","sequence":"000000000000e0000000000000000033",`
	const metadata = `{"path":"secret/data/app","operation":"data-write","modified":"true"}`
	tests := []struct {
		item deliver.Item
		want string
	}{
		{sample(), lead + `"data":` + metadata + `}`},
		{data("application/json", " {\"a\":\n1}"), lead + `"metadata":` + metadata + `,"data":{"a":1}}`},
		{data("text/plain", "two\nlines"), lead + `"metadata":` + metadata + `,"data":"two\nlines"}`},
		{data("application/octet-stream", "\xff"), lead + `"metadata":` + metadata + `,"data":"base64:/w=="}`},
		{ref, lead + `"data":{"dataref":"/v1/audit/payload/1f","metadata":` + metadata + `}}`},
		{bare, `{"type":"deploy","timestamp":"2026-03-04T05:06:07.89Z","id":"a\"\u2028b","source":"/x","event_type":"deploy","data":{}}`},
	}
	for _, tt := range tests {
		got := string(appendStandard(nil, tt.item))
		if !json.Valid([]byte(got)) {
			t.Errorf("%s is not JSON", got)
		}
		var a, b map[string]any
		if json.Unmarshal([]byte(got), &a) != nil || json.Unmarshal([]byte(tt.want), &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%s\nwant\n%s", got, tt.want)
		}
	}
}

// standardType is what types may be.
var standardType = regexp.MustCompile(`^[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)*$`)

func checkStandard(t *testing.T, b []byte, eventType string) {
	t.Helper()
	var got struct {
		Type, Timestamp string
		EventType       string `json:"event_type"`
		Data            json.RawMessage
	}
	if err := json.Unmarshal(b, &got); err != nil || bytes.ContainsAny(b, "\r\n") {
		t.Fatalf("%q: %v", b, err)
	}
	if !standardType.MatchString(got.Type) || got.Data == nil || utf8.ValidString(eventType) && got.EventType != eventType {
		t.Fatalf("%q", b)
	}
}

func TestTypes(t *testing.T) {
	for in, want := range map[string]string{
		"kv-v2/data-write": "kv_v2.data_write", "flipt/flag/created": "flipt.flag.created", "a.b": "a.b", "A_9": "A_9", "": "_", "/": "_._", "a//b": "a._.b", "a/": "a._", "ü/ä ö": "_._ _",
	} {
		want = strings.ReplaceAll(want, " ", "_")
		if got := string(AppendType([]byte("x"), in)); got != "x"+want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestBatchIDs(t *testing.T) {
	url, requests := capture(t)
	s := open(t, Options{URL: url, Body: Array})
	a, b := sample(), sample()
	other := *b.Event
	other.ID = "b3ff6f5a-33e7-5d4b-9aef-0d6cc2f5b8f4"
	b.Event = &other
	for _, items := range [][]deliver.Item{{a, b}, {a, b}, {b, a}, {a}, {b, b}} {
		s.Send(t.Context(), &deliver.Batch{Items: items, Attempt: 3})
	}
	var ids []string
	for _, q := range requests() {
		ids = append(ids, q.header.Get("Webhook-Id"))
		if q.header.Get("Tocsin-Event-Id") != "" || q.header.Get("Tocsin-Events") == "" {
			t.Errorf("%v", q.header)
		}
	}
	if ids[0] != ids[1] || ids[0] == ids[2] || ids[3] != a.Event.ID || ids[4] == other.ID {
		t.Errorf("%q", ids)
	}
}

// TestParts is about batches that go in several requests.
func TestParts(t *testing.T) {
	items := make([]deliver.Item, 6)
	for i := range items {
		items[i] = sample()
		e := *items[i].Event
		e.ID, e.DataContentType = fmt.Sprintf("%d", i), "text/plain"
		e.Data = []byte(strings.Repeat(fmt.Sprint(i), 300))
		items[i].Event = &e
	}
	items[2].Event.Data = make([]byte, 2000)
	const maxBytes = 1800 // two of them
	type outcomes = []deliver.Outcome
	const ok, retry, refused, impossible, doubtful = deliver.Delivered, deliver.Retry, deliver.Refused, deliver.Impossible, deliver.Doubtful
	tests := []struct {
		name     string
		body     Body
		statuses []int
		sizes    []string // of the requests
		want     outcomes
	}{
		{"event", One, nil, []string{"", "", "", "", ""}, outcomes{ok, ok, impossible, ok, ok, ok}},
		{"event refused", One, []int{400}, []string{"", "", "", "", ""}, outcomes{refused, ok, impossible, ok, ok, ok}},
		{"event fails", One, []int{200, 500}, []string{"", ""}, outcomes{ok, doubtful, retry, retry, retry, retry}},
		{"event, later", One, []int{503}, []string{""}, outcomes{retry, retry, retry, retry, retry, retry}},
		{"array", Array, nil, []string{"2", "2", "1"}, outcomes{ok, ok, impossible, ok, ok, ok}},
		{"array fails", Array, []int{200, 500}, []string{"2", "2"}, outcomes{ok, ok, impossible, doubtful, doubtful, retry}},
		{"array refused", Array, []int{400}, []string{"2"}, outcomes{refused, refused, retry, retry, retry, retry}},
		{"lines", Lines, []int{200, 200, 400}, []string{"2", "2", "1"}, outcomes{ok, ok, impossible, ok, ok, refused}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			url, requests := capture(t, tt.statuses...)
			s := open(t, Options{URL: url, Body: tt.body, MaxBytes: maxBytes})
			b := &deliver.Batch{Items: items}
			results := b.Results(s.Send(t.Context(), b))
			var got outcomes
			for _, r := range results {
				got = append(got, r.Outcome)
			}
			var sizes []string
			for _, q := range requests() {
				sizes = append(sizes, q.header.Get("Tocsin-Events"))
				if len(q.body) > maxBytes {
					t.Errorf("a body of %d bytes", len(q.body))
				}
			}
			if !slices.Equal(got, tt.want) || !slices.Equal(sizes, tt.sizes) {
				t.Errorf("%v in %q, want %v in %q", got, sizes, tt.want, tt.sizes)
			}
		})
	}
}

// TestMaxBytes finds the exact limit.
func TestMaxBytes(t *testing.T) {
	for _, body := range []Body{One, Array, Lines} {
		url, requests := capture(t)
		open(t, Options{URL: url, Body: body}).Send(t.Context(), &deliver.Batch{Items: []deliver.Item{sample(), sample()}[:1]})
		size := len(requests()[0].body)
		for off, want := range map[int]deliver.Outcome{0: deliver.Delivered, -1: deliver.Impossible} {
			b := &deliver.Batch{Items: []deliver.Item{sample()}}
			r := b.Results(open(t, Options{URL: url, Body: body, MaxBytes: size + off}).Send(t.Context(), b))[0]
			if r.Outcome != want || want == deliver.Impossible && r.Reason != fmt.Sprintf("takes %d bytes, and the largest body is %d", size, size-1) {
				t.Errorf("%s %d: %+v, want %v", body, off, r, want)
			}
		}
	}
}

func TestContentTypes(t *testing.T) {
	item := sample()
	e := *item.Event
	e.Data, e.DataContentType = []byte("x"), "text/x-ü"
	item.Event = &e
	tests := []struct {
		o    Options
		item deliver.Item
		want string
	}{
		{Options{}, sample(), "application/json"},
		{Options{Body: Array}, sample(), "application/json"},
		{Options{Body: Lines}, sample(), "application/x-ndjson"},
		{Options{Format: format.CloudEvents}, sample(), "application/cloudevents+json"},
		{Options{Format: format.CloudEvents, Body: Array}, sample(), "application/cloudevents-batch+json"},
		{Options{Format: format.CloudEvents, Body: CloudEventsBatch}, sample(), "application/cloudevents-batch+json"},
		{Options{Format: format.Vault}, sample(), "application/json"},
		{Options{Format: format.Raw}, sample(), "application/json"},
		{Options{Format: format.Raw}, item, "application/octet-stream"}, // its own is no header
	}
	for _, tt := range tests {
		url, requests := capture(t)
		tt.o.URL = url
		if r := open(t, tt.o).Send(t.Context(), &deliver.Batch{Items: []deliver.Item{tt.item}}); r.Outcome != deliver.Delivered {
			t.Errorf("%+v: %+v", tt.o, r)
			continue
		}
		if got := requests()[0].header.Get("Content-Type"); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.o.Body, tt.o.Format, got, tt.want)
		}
	}
}

// TestKeysChange is about files that somebody replaces.
func TestKeysChange(t *testing.T) {
	url, requests := capture(t)
	first, second := standardwebhooks.NewSecret(), standardwebhooks.NewSecret()
	now, problem := first, error(nil)
	s := open(t, Options{URL: url, SigningKeys: []outbound.Secret{func() (string, error) { return now, problem }}})
	send := func() deliver.Result { return s.Send(t.Context(), &deliver.Batch{Items: []deliver.Item{sample()}}) }
	send()
	now = second
	send()
	for i, text := range []string{first, second} {
		key, _ := standardwebhooks.ParseKey(text)
		q := requests()[i]
		if err := standardwebhooks.Verify([]standardwebhooks.Key{key}, q.header, []byte(q.body), time.Now(), 0); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	now = publicKey
	if r := send(); r.Outcome != deliver.Retry || !strings.Contains(r.Reason, "signing key 1 is a public key") {
		t.Errorf("%+v", r)
	}
	now = "whsec_" + second
	if r := send(); r.Outcome != deliver.Retry || strings.Contains(r.Reason, second) {
		t.Errorf("%+v", r)
	}
	problem = errors.New("read secret: it is not there")
	if r := send(); r.Outcome != deliver.Retry || r.Reason != "signing key 1: read secret: it is not there" {
		t.Errorf("%+v", r)
	}
	if len(requests()) != 2 {
		t.Error("something was sent without a good signature")
	}
}

func TestBadOptions(t *testing.T) {
	for part, o := range map[string]Options{
		"url is empty":           {},
		"url: 127.0.0.1 is":      {URL: "http://127.0.0.1/"},
		"unknown format":         {URL: "https://h.example/", Format: "xml"},
		"unknown body":           {URL: "https://h.example/", Body: "form"},
		"needs the format cloud": {URL: "https://h.example/", Body: CloudEventsBatch},
		"signing key 1 is no":    {URL: "https://h.example/", SigningKeys: []outbound.Secret{text("x")}},
		"tls: ca has no":         {URL: "https://h.example/", Connection: outbound.Options{TLS: outbound.TLS{CA: text("x")}}},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", part, err)
		}
	}
}

// TestFliptSignatures checks what Flipt itself has signed.
func TestFliptSignatures(t *testing.T) {
	f, err := os.Open("testdata/flipt-signed-webhooks.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	key := newFliptKey("s3crET-recorded")
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for ; lines.Scan(); n++ {
		var recorded struct{ Signature, Body string }
		if err := json.Unmarshal(lines.Bytes(), &recorded); err != nil {
			t.Fatal(err)
		}
		if got := key.sign([]byte(recorded.Body)); got != recorded.Signature {
			t.Errorf("%d: %s, want %s", n, got, recorded.Signature)
		}
	}
	if err := lines.Err(); err != nil || n != 99 {
		t.Errorf("%d requests, %v", n, err)
	}
	for body, want := range map[string]string{
		`{"hello": "world"}`: "18140945e2c08976ed68adeb0bf80d2fa695d533957cb0e531812798de6b9fad",
		`{"version":"","type":"flag","action":"create","metadata":{},"payload":null,"timestamp":"","status":""}`: "6bc16d7434cbd746abfd25e3350a3f43fba04883b7f0b83f09bbc373116f84b0",
	} {
		if got := newFliptKey("s3crET").sign([]byte(body)); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}
