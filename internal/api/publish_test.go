package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/publish"
)

const (
	structured = "application/cloudevents+json"
	batched    = "application/cloudevents-batch+json"
)

// made is a CloudEvent in JSON with further members.
func made(id, members string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":"shop/order-made"%s}`, id, members)
}

// post publishes, with pairs of header names and values.
func (n *node) post(contentType, body string, header ...string) ask {
	q := ask{method: "POST", path: eventsPath, body: body, header: map[string]string{"Content-Type": contentType}}
	for i := 0; i < len(header); i += 2 {
		q.header[header[i]] = header[i+1]
	}
	return q
}

// stored returns the events in the journal that are not of the hub about itself.
func (n *node) stored() []*event.Event {
	n.t.Helper()
	var found []*event.Event
	r := n.journal.Read(journal.Position{})
	end := n.journal.End()
	for at := (journal.Position{}); at.Compare(end) < 0; {
		b, err := r.Next(n.t.Context())
		if err != nil {
			n.t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			if e := b.Event(i); !strings.HasPrefix(e.Type, "tocsin/") {
				found = append(found, e)
			}
			at = b.Position(i)
		}
	}
	return found
}

func ids(events []*event.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.ID)
	}
	return strings.Join(all, " ")
}

func TestPublishModes(t *testing.T) {
	n := startNode(t, nil)
	for _, tt := range []struct {
		q    ask
		want string
	}{
		{n.post("application/json", `{"order":1}`, "ce-specversion", "1.0", "ce-id", "b%311", "ce-source", "/shop", "ce-type", "shop/order-made", "ce-subject", "orders/1", "ce-zone", `"a b"`), `{"accepted":1,"duplicates":0}`},
		{n.post(structured, made("s1", `,"subject":"orders/2","data":{"order":2}`)), `{"accepted":1,"duplicates":0}`},
		{n.post(structured+"; charset=UTF-8", made("s2", ``), "X-Vault-Namespace", "ns1", "ce-id", "ignored"), `{"accepted":1,"duplicates":0}`},
		{n.post(batched, "["+made("a1", "")+","+made("a2", `,"namespace":"ns1/ns2"`)+"]"), `{"accepted":2,"duplicates":0}`},
		{n.post(batched, "[]"), `{"accepted":0,"duplicates":0}`},
	} {
		status, raw, header := n.try(tt.q)
		if status != 200 || string(raw) != tt.want+"\n" || header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v: %d %s %v", tt.q, status, raw, header)
		}
	}
	all := n.stored()
	if got := ids(all); got != "b11 s1 s2 a1 a2" {
		t.Fatalf("stored %s", got)
	}
	if e := all[0]; e.Path != "orders/1" || string(e.Data) != `{"order":1}` || e.DataContentType != "application/json" || e.Namespace != "" || e.Time.IsZero() || e.Recorded.IsZero() ||
		fmt.Sprint(e.Extensions) != "[{zone a b false}]" {
		t.Errorf("%+v", e)
	}
	if all[2].Namespace != "ns1/" || all[4].Namespace != "ns1/ns2/" || string(all[1].Data) != `{"order":2}` {
		t.Errorf("%+v %+v", all[2], all[4])
	}
}

// TestConformance sends the vectors of package event to a server.
func TestConformance(t *testing.T) {
	send := func(t *testing.T, means, refused any, q ask) {
		t.Helper()
		n := startNode(t, nil) // of its own, because many vectors have the same id
		before := len(n.stored())
		status, answer := n.do(q)
		stored := len(n.stored()) - before
		if refused == nil {
			want := 1
			if list, ok := means.([]any); ok {
				want = len(list)
			}
			if status != 200 || answer["accepted"].(float64)+answer["duplicates"].(float64) != float64(want) || answer["accepted"] != float64(stored) || stored == 0 && want > 0 {
				t.Errorf("%d %v, %d stored", status, answer, stored)
			}
			return
		}
		want := 400
		if refused == "format" {
			want = 415
		}
		list, _ := answer["refused"].([]any)
		if indices, ok := refused.(map[string]any); ok && len(list) != len(indices) {
			t.Errorf("refused %v, want %v", list, indices)
		}
		if status != want || stored != 0 || len(answer.errors()) == 0 {
			t.Errorf("%d %v, %d stored", status, answer, stored)
		}
	}
	for file, contentType := range map[string]string{"events.json": structured, "batches.json": batched, "http.json": ""} {
		raw, err := os.ReadFile("../../event/testdata/conformance/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var vectors []struct {
			Name         string
			Event, Batch json.RawMessage
			Header       map[string]string
			Body         string
			Means        any
			Refused      any
		}
		if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors) == 0 {
			t.Fatal(err)
		}
		for _, v := range vectors {
			if contentType != "" {
				v.Header, v.Body = map[string]string{"Content-Type": contentType}, string(v.Event)+string(v.Batch)
			}
			t.Run(v.Name, func(t *testing.T) {
				t.Parallel()
				send(t, v.Means, v.Refused, ask{method: "POST", path: eventsPath, body: v.Body, header: v.Header})
			})
		}
	}
}

// TestPublishRefusals has the rows of the table of answers that are about requests.
func TestPublishRefusals(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "publisher", `path "sys/events/publish/shop/*" { capabilities = ["create"] }
		path "ns1/sys/events/publish/shop/*" { capabilities = ["create"] }`)
	publisher := n.newToken(`{"policies":["publisher"]}`)
	none := n.newToken(`{"policies":["default"]}`)
	good := made("good", "")
	other := strings.Replace(made("other", ""), "shop/order-made", "bank/transfer", 1)
	large := made("large", `,"data":"`+strings.Repeat("x", event.DefaultLimits.MaxEventBytes)+`"`)
	as := func(q ask, token string) ask { q.token = token; return q }
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		text   string // contained in the answer
	}{
		{"no token", as(n.post(structured, good), "-"), 403, `permission denied`},
		{"invalid token", as(n.post(structured, good), "nope"), 403, `invalid token`},
		{"token without rights", as(n.post(structured, good), none), 403, `{"errors":["event 0: type: publishing it needs the capability create on \"sys/events/publish/shop/order-made\""],"refused":[{"index":0,"id":"good","code":"denied","message":"type: publishing it needs`},
		{"another type", as(n.post(batched, "["+good+","+other+"]"), publisher), 403, `"refused":[{"index":1,"id":"other","code":"denied"`},
		{"another namespace", as(n.post(structured, good, "X-Vault-Namespace", "ns2"), publisher), 403, `\"ns2/sys/events/publish/shop/order-made\"`},
		{"namespace beside", as(n.post(structured, made("x", `,"namespace":"ns2"`), "X-Vault-Namespace", "ns1"), publisher), 403, `namespace: is not that of the request, nor below it`},
		{"namespace that cannot be", n.post(structured, good, "X-Vault-Namespace", "a/sys"), 400, `cannot be part of a namespace`},
		{"denied and broken", as(n.post(batched, "["+other+",{}]"), publisher), 400, `"refused":[{"index":1,"id":"","code":"invalid","message":"specversion: is missing"}]`},
		{"too large", n.post(structured, large), 413, `"code":"too-large"`},
		{"too large and broken", n.post(batched, "["+strings.Replace(large, "shop/", "a b", 1)+","+large+"]"), 400, `"index":0,"id":"large","code":"invalid"`},
		{"too large all", n.post(batched, "["+large+","+large+"]"), 413, `"index":1,"id":"large","code":"too-large","message":"event: `},
		{"too many", n.post(batched, "["+strings.Repeat(`{"id":"1"},`, maxEvents)+good+"]"), 413, `events of a batch: 10001 is more than the limit of 10000; send fewer at once`},
		{"broken events", n.post(batched, "["+good+`,5,{"id":"x","type":""},`+good+"]"), 400, `{"errors":["event 1: event: is not an object","event 2: type: is empty"],"refused":[{"index":1,"id":"","code":"invalid","message":"event: is not an object"},{"index":2,"id":"x","code":"invalid","message":"type: is empty"}]}`},
		{"broken array", n.post(batched, "["+good+",]"), 400, `{"errors":["batch: is not JSON:`},
		{"broken event", n.post(structured, good+"}"), 400, `"errors":["event 0: event: is not JSON`},
		{"empty body", n.post(structured, ""), 400, `ends at byte 0`},
		{"not UTF-8", n.post(structured, strings.Replace(good, "good", "\xff", 1)), 400, `is not UTF-8`},
		{"binary, something missing", n.post("text/plain", "x", "ce-id", "1"), 400, `specversion: is missing`},
		{"no CloudEvent", n.post("application/json", "{}"), 415, `the Content-Type is \"application/json\", and there are no headers ce-*`},
		{"no content type", ask{method: "POST", path: eventsPath, body: "{}"}, 415, `the Content-Type is \"\"`},
		{"other format", n.post("application/cloudevents+avro", "x"), 415, `unknown event format \"application/cloudevents+avro\"`},
		{"other charset", n.post(structured+"; charset=latin1", good), 415, `JSON is always UTF-8`},
		{"other encoding", n.post(structured, good, "Content-Encoding", "br"), 415, `the Content-Encoding is \"br\"; send gzip, zstd, or none`},
		{"two encodings", n.post(structured, good, "Content-Encoding", "gzip, gzip"), 415, `\"gzip, gzip\"`},
		{"partial", ask{method: "POST", path: eventsPath + "?partial=maybe", body: good, header: map[string]string{"Content-Type": structured}}, 400, `\"maybe\" is neither true nor false`},
		{"token in the URL", ask{method: "POST", path: eventsPath + "?access_token=root", token: "-", body: good, header: map[string]string{"Content-Type": structured}}, 400, `the URL has a token`},
		{"GET", ask{method: "GET", path: eventsPath}, 405, `the method is \"GET\", it must be POST`},
		{"PUT", ask{method: "PUT", path: eventsPath, body: good}, 405, `must be POST`},
		{"HEAD", ask{method: "HEAD", path: eventsPath}, 405, ``},
		{"below", ask{method: "POST", path: eventsPath + "/x", body: good}, 404, `unknown path`},
	} {
		status, raw, header := n.try(tt.q)
		if status != tt.status || !strings.Contains(string(raw), tt.text) {
			t.Errorf("%s: %d %.500s", tt.name, status, raw)
		}
		if status == 405 && header.Get("Allow") != "POST, OPTIONS" || status == 415 && header.Get("Accept-Encoding") != "gzip, zstd" {
			t.Errorf("%s: header %v", tt.name, header)
		}
		if len(raw) > 2000 {
			t.Errorf("%s: an answer of %d bytes", tt.name, len(raw))
		}
	}
	if got := n.stored(); len(got) != 0 {
		t.Errorf("stored %s", ids(got))
	}
	if status, b := n.do(as(n.post(structured, good, "X-Vault-Namespace", "ns1"), publisher)); status != 200 {
		t.Errorf("%d %v", status, b)
	}
	if used := n.api.publisher.bodies.used.Load(); used != 0 {
		t.Errorf("%d bytes of bodies are still held", used)
	}
	without := startNode(t, func(o *Options) { o.Intake = nil })
	if status, _ := without.do(without.post(structured, good)); status != 404 {
		t.Errorf("without intake: %d", status)
	}
}

// TestPublishPartial: what can be stored is, and each of the others is told.
func TestPublishPartial(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "publisher", `path "sys/events/publish/shop/*" { capabilities = ["create"] }`)
	publisher := n.newToken(`{"policies":["publisher"]}`)
	other := strings.Replace(made("other", ""), "shop/order-made", "bank/transfer", 1)
	send := func(contentType, body string) (int, string) {
		q := n.post(contentType, body)
		q.path, q.token = eventsPath+"?partial=true", publisher
		status, raw, _ := n.try(q)
		return status, string(raw)
	}
	status, answer := send(batched, "[5,"+made("1", "")+","+other+`,{"id":"x"},`+made("2", "")+","+other+"]")
	const denied = `"code":"denied","message":"type: publishing it needs the capability create on \"sys/events/publish/bank/transfer\""}`
	if want := `{"accepted":2,"duplicates":0,"refused":[{"index":0,"id":"","code":"invalid","message":"event: is not an object"},{"index":2,"id":"other",` + denied +
		`,{"index":3,"id":"x","code":"invalid","message":"specversion: is missing"},{"index":5,"id":"other",` + denied + "]}\n"; status != 207 || answer != want {
		t.Errorf("%d %s, want %s", status, answer, want)
	}
	if got := ids(n.stored()); got != "1 2" {
		t.Errorf("stored %s", got)
	}
	if status, answer := send(batched, "["+made("3", "")+"]"); status != 200 || answer != `{"accepted":1,"duplicates":0}`+"\n" {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer := send(structured, "{}"); status != 207 || !strings.HasPrefix(answer, `{"accepted":0,"duplicates":0,"refused":[{"index":0,`) {
		t.Errorf("%d %s", status, answer)
	}
	// An array that is none is refused as a whole, because nobody knows its events.
	if status, answer := send(batched, "["+made("4", "")); status != 400 || strings.Contains(answer, "refused") {
		t.Errorf("%d %s", status, answer)
	}
	// One record for a request, however many were denied.
	e := n.await("publish-denied", 1)
	if e.Path != "sys/events/publish/bank/transfer" || field(e, "count") != "2" || field(e, "operation") != "publish" || field(e, "outcome") != "refused" ||
		field(e, "display_name") != "token" || field(e, "error") == "" {
		t.Errorf("recorded %+v", e)
	}
}

// warner is a catalogue that warns of some events.
type warner struct{}

func (warner) Check(e *event.Event) (string, error) {
	switch e.ID {
	case "warn":
		return "data.order: is not a number", nil
	case "refuse":
		return "", errors.New("data.order: is not a number")
	}
	return "", nil
}

func (warner) Learn(*event.Event) {}

func TestPublishWarnings(t *testing.T) {
	n := startNode(t, func(o *Options) {
		o.Intake = publish.New(publish.Options{Journal: o.Positions.(*journal.Journal), Catalog: warner{}})
	})
	status, raw, _ := n.try(n.post(batched, "["+made("1", "")+","+made("warn", "")+"]"))
	if want := `{"accepted":2,"duplicates":0,"warnings":[{"index":1,"message":"data.order: is not a number"}]}` + "\n"; status != 200 || string(raw) != want {
		t.Errorf("%d %s", status, raw)
	}
	q := n.post(batched, `[{},`+strings.Replace(made("warn", ""), "/shop", "/other", 1)+","+made("refuse", "")+"]")
	q.path += "?partial=1"
	status, raw, _ = n.try(q)
	if want := `{"accepted":1,"duplicates":0,"warnings":[{"index":1,"message":"data.order: is not a number"}],"refused":[{"index":0,"id":"","code":"invalid","message":"specversion: is missing"},` +
		`{"index":2,"id":"refuse","code":"schema","message":"data.order: is not a number"}]}` + "\n"; status != 207 || string(raw) != want {
		t.Errorf("%d %s", status, raw)
	}
}

// TestPublishNotNow: what cannot be stored now is told so, with a time to try again.
func TestPublishNotNow(t *testing.T) {
	n := startNode(t, nil)
	q := n.post(batched, "["+made("1", "")+"]")
	for _, tt := range []struct {
		err    error
		status int
		after  string
		text   string
	}{
		{fmt.Errorf("append: %w", journal.ErrBusy), 429, "1", "events come faster than the disk takes them"},
		{errors.Join(journal.ErrFull, &journal.PushbackError{RetryAfter: 7 * time.Second}), 503, "7", "no space left"},
		{fmt.Errorf("append: %w", journal.ErrUnavailable), 503, "1", "cannot be stored at the moment"},
		{journal.ErrClosed, 503, "1", "cannot be stored at the moment"},
		{&event.LimitError{Part: "events appended together", Size: 9, Max: 4}, 413, "", "events appended together: 9 is more than the limit of 4; send fewer events at once"},
		{errors.New("secret detail"), 500, "", "internal error"},
	} {
		n.published.fail(tt.err)
		status, raw, header := n.try(q)
		if status != tt.status || header.Get("Retry-After") != tt.after || !strings.Contains(string(raw), tt.text) || strings.Contains(string(raw), "secret detail") {
			t.Errorf("%d %s, Retry-After %q; want %d, %q", status, raw, header.Get("Retry-After"), tt.status, tt.after)
		}
	}
	n.published.fail(nil)
	n.must(q)
}

// TestPublishFull: the same with a journal that has no space, and no gate.
func TestPublishFull(t *testing.T) {
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), ReserveBytes: 1 << 60, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(t.Context())
	n := startNode(t, func(o *Options) { o.Intake = publish.New(publish.Options{Journal: j}) })
	status, raw, header := n.try(n.post(structured, made("1", "")))
	if status != 503 || header.Get("Retry-After") == "" || !strings.Contains(string(raw), "there is no space left for events") {
		t.Errorf("%d %s %v", status, raw, header)
	}
}

func TestPublishRecordsAndUses(t *testing.T) {
	n := startNode(t, nil)
	n.do(ask{method: "POST", path: eventsPath, token: "nope"})
	if e := n.await("publish-denied", 1); e.Path != "sys/events/publish/" || field(e, "error") != "permission denied; invalid token" || field(e, "accessor") != "" {
		t.Errorf("recorded %+v", e)
	}
	twice := n.newToken(`{"policies":["root"],"num_uses":2,"ttl":"1h"}`)
	for i, want := range []int{200, 200, 403} {
		q := n.post(structured, made(fmt.Sprint(i), ""))
		q.token = twice
		if status, b := n.do(q); status != want {
			t.Errorf("use %d: %d %v", i, status, b)
		}
	}
	if got := ids(n.stored()); got != "0 1" {
		t.Errorf("stored %s", got)
	}
	// What is wrong with a request is nobody's denial.
	n.do(n.post(structured, "{}"))
	n.do(n.post("text/plain", "{}"))
	n.await("publish-denied", 2)
	if all := n.trail("publish-denied"); len(all) != 2 {
		t.Errorf("%d records", len(all))
	}
	// Beyond the limit of failures an address is refused unseen.
	for range 2 * DefaultFailuresBurst {
		n.do(ask{method: "POST", path: eventsPath, token: "nope"})
	}
	q := n.post(structured, made("x", ""))
	q.token = "nope"
	if status, _, header := n.try(q); status != 429 || header.Get("Retry-After") == "" {
		t.Errorf("%d %v", status, header)
	}
	if status, _ := n.do(n.post(structured, made("x", ""))); status != 200 {
		t.Errorf("with a known token: %d", status)
	}
}

// TestWebhookHandshake is section 4 of HTTP 1.1 Web Hooks for Event Delivery.
func TestWebhookHandshake(t *testing.T) {
	n := startNode(t, nil)
	status, raw, header := n.try(ask{method: "OPTIONS", path: eventsPath, token: "-", header: map[string]string{
		"WebHook-Request-Origin": "events.example.com", "WebHook-Request-Callback": "http://127.0.0.1:1/confirm", "WebHook-Request-Rate": "120"}})
	if status != 200 || len(raw) != 0 || header.Get("Allow") != "POST, OPTIONS" || header.Get("WebHook-Allowed-Origin") != "*" || header.Get("WebHook-Allowed-Rate") != "*" {
		t.Errorf("%d %q %v", status, raw, header)
	}
	status, _, header = n.try(ask{method: "OPTIONS", path: eventsPath, token: "-"})
	if status != 200 || header.Get("Allow") != "POST, OPTIONS" || header.Get("WebHook-Allowed-Origin") != "" {
		t.Errorf("without origin: %d %v", status, header)
	}
}

// TestPublishConcurrently: what many publish at once is stored once each, in order.
func TestPublishConcurrently(t *testing.T) {
	counters := metrics.New(nil)
	n := startNode(t, func(o *Options) {
		o.Counters = counters
		o.Intake = publish.New(publish.Options{Journal: o.Positions.(*journal.Journal), Metrics: counters})
	})
	const clients, requests, batch = 8, 20, 25
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for r := range requests {
				var events []string
				for i := range batch {
					events = append(events, made(fmt.Sprintf("%d-%03d", c, r*batch+i), `,"data":{"text":"`+strings.Repeat("x", 10*i)+`"}`))
				}
				contentType, body := batched, "["+strings.Join(events, ",")+"]"
				q := n.post(contentType, body)
				if r%3 == 1 {
					q = n.post(contentType, compressed("gzip", body), "Content-Encoding", "gzip")
				} else if r%3 == 2 {
					q = n.post(contentType, compressed("zstd", body), "Content-Encoding", "zstd")
				}
				if status, raw, _ := n.try(q); status != 200 || string(raw) != fmt.Sprintf(`{"accepted":%d,"duplicates":0}`+"\n", batch) {
					t.Errorf("%d %s", status, raw)
				}
			}
		})
	}
	wg.Wait()
	of := make(map[string][]string)
	for _, e := range n.stored() {
		client, number, _ := strings.Cut(e.ID, "-")
		of[client] = append(of[client], number)
		var i int
		fmt.Sscanf(number, "%d", &i)
		if want := `{"text":"` + strings.Repeat("x", 10*(i%batch)) + `"}`; string(e.Data) != want {
			t.Fatalf("event %s has the data %s", e.ID, e.Data)
		}
	}
	for c := range clients {
		if got := of[fmt.Sprint(c)]; len(got) != requests*batch || !slices.IsSorted(got) {
			t.Errorf("client %d: %d events, in order %v", c, len(got), slices.IsSorted(got))
		}
	}
	if used := n.api.publisher.bodies.used.Load(); used != 0 {
		t.Errorf("%d bytes of bodies are still held", used)
	}
	c := counters.Component("publish", "http")
	if received, appended := testutil.ToFloat64(c.Received), testutil.ToFloat64(c.Appended); received != clients*requests*batch || appended != received {
		t.Errorf("%v received, %v appended", received, appended)
	}
	n.do(n.post(batched, `[{},5,`+made("x", "")+`]`))
	n.do(n.post("text/plain", ``))
	if invalid, bad := testutil.ToFloat64(c.Refused("invalid")), testutil.ToFloat64(counters.Component("api", "vault").Refused("bad request")); invalid != 2 || bad != 1 {
		t.Errorf("%v invalid, %v bad requests", invalid, bad)
	}
}

// TestPublishedIsSeen: a subscriber gets what was published over HTTP.
func TestPublishedIsSeen(t *testing.T) {
	n := startNode(t, nil)
	s := n.subscribe("root", "shop/*", "")
	n.must(n.post(batched, "["+made("1", `,"subject":"a"`)+","+made("2", "")+"]"))
	n.must(n.post("text/plain", "x", "ce-specversion", "1.0", "ce-id", "3", "ce-source", "/", "ce-type", "shop/x"))
	for _, want := range []string{"1", "2", "3"} {
		if got := s.next(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// compressed returns text in an encoding.
func compressed(encoding, text string) string {
	var b strings.Builder
	w := compressor(encoding, &b)
	if _, err := w.Write([]byte(text)); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}
