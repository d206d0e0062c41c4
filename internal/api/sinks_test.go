package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// endpoint is where the sinks of a test send to.
type endpoint struct {
	mu     sync.Mutex
	answer deliver.Result
	got    []string
}

func (e *endpoint) say(r deliver.Result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = r
}

func (e *endpoint) received() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

func (e *endpoint) Send(_ context.Context, b *deliver.Batch) deliver.Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.answer.Outcome == deliver.Delivered {
		for _, i := range b.Items {
			e.got = append(e.got, i.Event.ID)
		}
	}
	return e.answer
}

func (e *endpoint) Close() error { return nil }

const testSink = `{"type":"webhook","events":{"types":["shop/*"]},"webhook":{"url":"https://hooks.example.com/a","bearer_token":{"value":"hunter2"}}}`

// startSinks starts a node with a sink of the file, "in-file".
func startSinks(t *testing.T) (*node, *endpoint) {
	t.Helper()
	e := new(endpoint)
	var m *manager.Manager
	n := startNode(t, func(o *Options) {
		fixed := config.DefaultSink()
		fixed.Name, fixed.Type, fixed.Webhook.URL = "in-file", config.SinkTypeWebhook, "https://hooks.example.com/file"
		fixed.Webhook.BearerToken = config.SecretFromEnv("HOOK_TOKEN")
		fixed.Events.Types = []string{"nothing"}
		var err error
		m, err = manager.Open(t.Context(), manager.Options{
			Journal: o.Positions.(*journal.Journal), DataDir: t.TempDir(), Delivery: config.Default().Delivery, Sinks: []config.Sink{fixed},
			Make: func(c config.Sink, _ manager.Origin) (deliver.Sink, error) {
				if c.Webhook.URL == "https://unmakeable" {
					return nil, fmt.Errorf("webhook.url: choose another")
				}
				return e, nil
			},
			Sample: func(name string) (*event.Event, bool) {
				return &event.Event{ID: "x", Type: name, Source: "x", Time: time.Now()}, name == "kv-v2/data-write"
			},
			Node: "test", Record: o.Trail.Record,
		})
		if err != nil {
			t.Fatal(err)
		}
		o.Sinks = m
		m.Start()
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return n, e
}

func (n *node) sell(ids ...string) {
	n.t.Helper()
	for _, id := range ids {
		e := &event.Event{ID: id, Type: "shop/order", Source: "/shop", Path: "shop/" + id, Time: time.Now().UTC(), Data: []byte(`{"n":1}`), DataContentType: "application/json"}
		if _, err := n.journal.Append(n.t.Context(), e); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) awaitTrue(what string, done func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// decoded decodes an answer into the structure that clients have.
func decoded[T any](t *testing.T, b body) (v T) {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func sinkAsk(method, path, body string) ask {
	return ask{method: method, path: "/api/v1/sinks" + path, body: body}
}

func (n *node) awaitState(name, state string) Sink {
	n.t.Helper()
	var s Sink
	n.awaitTrue(name+" is "+state, func() bool {
		text, err := json.Marshal(n.must(sinkAsk("GET", "/"+name, "")))
		if err == nil {
			s = Sink{}
			err = json.Unmarshal(text, &s)
		}
		if err != nil {
			n.t.Fatal(err)
		}
		return s.State == state
	})
	return s
}

// The life of a sink: it is added, sends, is changed, held and removed, and all of it is
// recorded, without its secret.
func TestSinkLife(t *testing.T) {
	n, e := startSinks(t)
	status, b := n.do(sinkAsk("PUT", "/a", testSink))
	if status != 201 {
		t.Fatalf("%d %v", status, b)
	}
	if s := decoded[Sink](t, b); s.Name != "a" || s.Type != "webhook" || s.Origin != "api" || s.Created == nil || strings.Contains(string(s.Definition), "hunter2") {
		t.Errorf("created: %+v", s)
	}
	s := n.awaitState("a", "running")
	n.sell("1")
	n.awaitTrue("it is sent", func() bool { return slices.Equal(e.received(), []string{"1"}) })

	// What was read is changed and written back.
	if status, b := n.do(sinkAsk("PUT", "/a", strings.Replace(string(s.Definition), `"timeout":"20s"`, `"timeout":"5s"`, 1))); status != 200 {
		t.Fatalf("%d %v", status, b)
	}
	if s := n.awaitState("a", "running"); !strings.Contains(string(s.Definition), `"timeout":"5s"`) {
		t.Errorf("changed: %s", s.Definition)
	}
	if s := decoded[Sink](t, n.must(sinkAsk("POST", "/a/pause", `{"reason":"main tenance\nnow"}`))); s.State != "paused" || s.Held == nil || s.Held.Reason != "main tenance now" {
		t.Errorf("paused: %+v", s)
	}
	n.sell("2")
	if s := decoded[Sink](t, n.must(sinkAsk("POST", "/a/resume", ""))); s.Held != nil {
		t.Errorf("resumed: %+v", s)
	}
	n.awaitTrue("it is sent", func() bool { return slices.Equal(e.received(), []string{"1", "2"}) })
	if s := decoded[Sink](t, n.must(sinkAsk("POST", "/a/disable", `{}`))); s.State != "disabled" {
		t.Errorf("disabled: %+v", s)
	}
	if r := decoded[SinkTested](t, n.must(sinkAsk("POST", "/a/test", ""))); r.Outcome != "delivered" || r.Type != "tocsin/sink-test" || r.EventID == "" {
		t.Errorf("tested: %+v", r)
	}
	e.say(deliver.Result{Outcome: deliver.Refused, Status: 404, Reason: "nobody"})
	if r := decoded[SinkTested](t, n.must(sinkAsk("POST", "/a/test", `{"type":"kv-v2/data-write"}`))); r.Outcome != "refused" || r.Status != 404 || r.Reason != "nobody" {
		t.Errorf("tested: %+v", r)
	}
	attempts := decoded[SinkAttempts](t, n.must(sinkAsk("GET", "/a/attempts", "")))
	if len(attempts.Attempts) < 2 || !attempts.Attempts[0].Test || attempts.Attempts[0].Status != 404 {
		t.Errorf("attempts: %+v", attempts)
	}
	list := decoded[SinkList](t, n.must(sinkAsk("GET", "", "")))
	if len(list.Sinks) != 2 || list.Sinks[0].Name != "a" || list.Sinks[1].Origin != "file" || list.Sinks[0].Definition != nil {
		t.Errorf("list: %+v", list)
	}
	// Of the file nothing is said about where secrets are.
	if s := decoded[Sink](t, n.must(sinkAsk("GET", "/in-file", ""))); strings.Contains(string(s.Definition), "HOOK_TOKEN") || !strings.Contains(string(s.Definition), `"bearer_token":"`) {
		t.Errorf("of the file: %s", s.Definition)
	}
	if d := decoded[SinkDeleted](t, n.must(sinkAsk("DELETE", "/a", ""))); !d.Kept {
		t.Errorf("deleted: %+v", d)
	}
	if s := decoded[Sink](t, n.must(sinkAsk("GET", "/a", ""))); s.Origin != "removed" || s.State != "removed" {
		t.Errorf("what is left: %+v", s)
	}
	if d := decoded[SinkDeleted](t, n.must(sinkAsk("DELETE", "/a?state=drop", ""))); d.Kept {
		t.Errorf("dropped: %+v", d)
	}
	if status, b := n.do(sinkAsk("GET", "/a", "")); status != 404 {
		t.Errorf("%d %v", status, b)
	}
	for what, count := range map[string]int{"sink-create": 1, "sink-update": 1, "sink-paused": 1, "sink-resumed": 1, "sink-disabled": 1, "sink-test": 2, "sink-delete": 2} {
		events := n.trail(what)
		if len(events) != count {
			t.Errorf("%d records %s, want %d", len(events), what, count)
			continue
		}
		record := events[0]
		if record.Path != "sys/sinks/a" || field(record, "sink") != "a" || field(record, "display_name") != "root" {
			t.Errorf("%s: %+v", what, record)
		}
		if strings.Contains(string(event.AppendCloudEvent(nil, record, "")), "hunter2") {
			t.Errorf("%s has the secret", what)
		}
	}
	if r := n.trail("sink-paused")[0]; field(r, "reason") != "main tenance now" || field(r, "operation") != "pause" || field(r, "modified") != "true" {
		t.Errorf("recorded: %+v", r)
	}
}

func TestDeadLettersAndReplays(t *testing.T) {
	n, e := startSinks(t)
	n.must(sinkAsk("PUT", "/a", testSink))
	n.awaitState("a", "running")
	e.say(deliver.Result{Outcome: deliver.Refused, Status: 400, Reason: "no"})
	n.sell("1", "2", "3", "4")
	n.awaitTrue("dead letters", func() bool {
		return decoded[DeadLetterList](t, n.must(sinkAsk("GET", "/a/dead-letters", ""))).Total == 4
	})
	page := decoded[DeadLetterList](t, n.must(sinkAsk("GET", "/a/dead-letters?limit=3", "")))
	if len(page.Letters) != 3 || page.Next != page.Letters[2].ID || page.Bytes == 0 {
		t.Fatalf("page: %+v", page)
	}
	l := page.Letters[0]
	if l.Cause != "refused" || l.Status != 400 || l.Reason != "no" || l.Type != "shop/order" || l.Position == "" || l.Event != nil || l.First == nil {
		t.Errorf("letter: %+v", l)
	}
	rest := decoded[DeadLetterList](t, n.must(sinkAsk("GET", fmt.Sprintf("/a/dead-letters?after=%d", page.Next), "")))
	if len(rest.Letters) != 1 || rest.Next != 0 {
		t.Errorf("rest: %+v", rest)
	}
	one := decoded[DeadLetter](t, n.must(sinkAsk("GET", fmt.Sprintf("/a/dead-letters/%d", l.ID), "")))
	got, err := event.ParseCloudEvent(one.Event)
	if err != nil || got.ID != l.EventID || string(got.Data) != `{"n":1}` {
		t.Errorf("event: %s, %v", one.Event, err)
	}
	if p := decoded[SinkPurged](t, n.must(sinkAsk("DELETE", fmt.Sprintf("/a/dead-letters/%d", l.ID), ""))); p.Removed != 1 || p.Letters != 3 {
		t.Errorf("purged: %+v", p)
	}
	e.say(deliver.Result{})
	id := page.Letters[1].ID
	status, b := n.do(sinkAsk("POST", "/a/dead-letters/redrive", fmt.Sprintf(`{"ids":[%d]}`, id)))
	r := decoded[SinkRedriven](t, b)
	if status != 202 || r.ID == "" || r.Letters != 1 {
		t.Errorf("redriven: %d %+v", status, r)
	}
	n.awaitTrue("redriven", func() bool {
		return decoded[DeadLetterList](t, n.must(sinkAsk("GET", "/a/dead-letters", ""))).Total == 2
	})
	n.awaitTrue("redrive done", func() bool {
		return decoded[SinkRedrive](t, n.must(sinkAsk("GET", "/a/replays/"+r.ID, ""))).State == "done"
	})
	n.must(sinkAsk("POST", "/a/dead-letters/redrive", `{"all":true}`))
	n.awaitTrue("all redriven", func() bool {
		return decoded[DeadLetterList](t, n.must(sinkAsk("GET", "/a/dead-letters", ""))).Total == 0
	})
	if len(e.received()) != 3 {
		t.Errorf("got %v", e.received())
	}
	if r := decoded[SinkRedriven](t, n.must(sinkAsk("POST", "/a/dead-letters/redrive", `{"from":1}`))); r.Letters != 0 {
		t.Errorf("redriven of none: %+v", r)
	}
	if p := decoded[SinkPurged](t, n.must(sinkAsk("DELETE", "/a/dead-letters?all=true", ""))); p.Removed != 0 {
		t.Errorf("purged: %+v", p)
	}
	n.must(sinkAsk("POST", "/a/pause", ""))
	status, b = n.do(sinkAsk("POST", "/a/replay", `{"since":"oldest"}`))
	replay := decoded[SinkReplayed](t, b)
	if status != 202 || replay.ID == "" || replay.Until == "" {
		t.Fatalf("replay: %d %+v", status, replay)
	}
	if all := decoded[SinkReplays](t, n.must(sinkAsk("GET", "/a/replays", ""))); len(all.Replays) != 1 || all.Replays[0].State != "running" || len(all.Redrives) == 0 {
		t.Errorf("replays: %+v", all)
	}
	if r := decoded[SinkReplay](t, n.must(sinkAsk("DELETE", "/a/replays/"+replay.ID, ""))); r.State != "cancelled" {
		t.Errorf("cancelled: %+v", r)
	}
	for what, count := range map[string]int{"sink-purge": 2, "sink-redrive": 3, "sink-replay": 1, "sink-replay-cancel": 1} {
		if events := n.trail(what); len(events) != count {
			t.Errorf("%d records %s, want %d", len(events), what, count)
		}
	}
	if r := n.await("sink-letters-read", 1); r.Path != "sys/sinks/a" || field(r, "modified") != "false" {
		t.Errorf("recorded: %+v", r)
	}
}

// TestSinkRights: looking needs read, everything else the capability and sudo, in the root
// namespace.
func TestSinkRights(t *testing.T) {
	n, _ := startSinks(t)
	n.must(sinkAsk("PUT", "/a", testSink))
	policies := map[string]string{
		"all":     `path "sys/sinks/*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`,
		"look":    `path "sys/sinks/*" { capabilities = ["read", "list"] }`,
		"no-sudo": `path "sys/sinks/*" { capabilities = ["create", "read", "update", "delete", "list"] }`,
		"peek":    `path "sys/sinks/a" { capabilities = ["read", "sudo"] }`,
		"create":  `path "sys/sinks/*" { capabilities = ["create", "sudo"] }`,
		"change":  `path "sys/sinks/a" { capabilities = ["update", "sudo"] }`,
		"remove":  `path "sys/sinks/a" { capabilities = ["delete", "sudo"] }`,
		"other":   `path "sys/sinks/b" { capabilities = ["create", "read", "update", "delete", "sudo"] }`,
		"but-a":   `path "sys/sinks/*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] } path "sys/sinks/a" { capabilities = ["deny"] }`,
	}
	tokens := map[string]string{"root": "root", "none": "-", "unknown": "nope"}
	for name, text := range policies {
		n.putPolicy("", name, text)
		tokens[name] = n.newToken(fmt.Sprintf(`{"policies":[%q],"ttl":"1h"}`, name))
	}
	for _, tt := range []struct {
		q       ask
		allowed string
	}{
		{sinkAsk("GET", "", ""), "root all look no-sudo but-a"},
		{sinkAsk("GET", "/a", ""), "root all look no-sudo peek"},
		{sinkAsk("GET", "/a/attempts", ""), "root all look no-sudo peek"},
		{sinkAsk("GET", "/a/replays", ""), "root all look no-sudo peek"},
		{sinkAsk("GET", "/a/dead-letters", ""), "root all peek"},
		{sinkAsk("GET", "/a/dead-letters/7", ""), "root all peek"},
		{sinkAsk("POST", "/a/test", ""), "root all change"},
		{sinkAsk("POST", "/a/pause", ""), "root all change"},
		{sinkAsk("POST", "/a/disable", ""), "root all change"},
		{sinkAsk("POST", "/a/resume", ""), "root all change"},
		{sinkAsk("POST", "/a/replay", `{"since":"0s"}`), "root all change"},
		{sinkAsk("DELETE", "/a/replays/x", ""), "root all change"},
		{sinkAsk("POST", "/a/dead-letters/redrive", `{"all":true}`), "root all change"},
		{sinkAsk("DELETE", "/a/dead-letters?all=true", ""), "root all remove"},
		{sinkAsk("DELETE", "/a/dead-letters/7", ""), "root all remove"},
		{sinkAsk("PUT", "/a", "{}"), "root all change"},
		{sinkAsk("PUT", "/new", "{}"), "root all create but-a"},
		{sinkAsk("DELETE", "/a?state=wrong", ""), "root all remove"},
	} {
		for name, token := range tokens {
			for _, namespace := range []string{"", "ns1"} {
				q := tt.q
				q.token, q.header = token, map[string]string{"X-Vault-Namespace": namespace}
				status, b := n.do(q)
				allowed := slices.Contains(strings.Fields(tt.allowed), name)
				if denied := status == 403; denied == allowed {
					t.Errorf("%s %s with %s: %d %v", q.method, q.path, name, status, b)
				}
			}
		}
	}
	// Those that somebody may not see are not on the list.
	q := sinkAsk("GET", "", "")
	q.token = tokens["but-a"]
	if list := decoded[SinkList](t, n.must(q)); len(list.Sinks) != 1 || list.Sinks[0].Name != "in-file" {
		t.Errorf("list: %+v", list)
	}
	if e := n.await("request-denied", 1); !strings.HasPrefix(e.Path, "sys/sinks/") {
		t.Errorf("recorded %+v", e)
	}
	// The kinds are no secret, but for those who have a token.
	kinds := ask{method: "GET", path: "/api/v1/sink-kinds", token: tokens["other"]}
	if k := decoded[SinkKinds](t, n.must(kinds)); len(k.Kinds) < 7 || len(k.Common) < 5 {
		t.Errorf("kinds: %+v", k)
	}
	kinds.token = "-"
	if status, b := n.do(kinds); status != 403 {
		t.Errorf("kinds without a token: %d %v", status, b)
	}
}

// What is wrong is said, with its place, and without secrets.
func TestSinkRequests(t *testing.T) {
	n, _ := startSinks(t)
	n.must(sinkAsk("PUT", "/a", testSink))
	hook := func(fields string) string {
		return "type: webhook\nwebhook:\n  url: https://a.example\n  " + fields + "\n"
	}
	for name, tt := range map[string]struct {
		q      ask
		status int
		want   string
	}{
		"two problems":    {sinkAsk("PUT", "/b", hook("urll: x")+"tmeout: 5s\n"), 400, `definition:4:3: unknown key "urll" in sink.webhook; did you mean "url"?|definition:5:1: unknown key "tmeout" in sink; did you mean "timeout"?`},
		"no YAML":         {sinkAsk("PUT", "/b", "{"), 400, "definition:"},
		"empty":           {sinkAsk("PUT", "/b", ""), 400, "sink.type"},
		"reference":       {sinkAsk("PUT", "/b", hook("bearer_token: {file: /etc/shadow}")), 400, "only its configuration file can say"},
		"secret as text":  {sinkAsk("PUT", "/b", hook("bearer_token: hunter2")), 400, "write {value: SECRET}"},
		"cannot be made":  {sinkAsk("PUT", "/b", "type: webhook\nwebhook: {url: 'https://unmakeable'}"), 400, "the sink cannot be made as it is defined: webhook.url: choose another"},
		"place moved":     {sinkAsk("PUT", "/a", strings.NewReplacer("hooks.", "evil.", `{"value":"hunter2"}`, `"<secret>"`).Replace(testSink)), 400, "a secret is kept only for the place it was given for"},
		"another name":    {sinkAsk("PUT", "/b", "name: c\n"+hook("gzip: true")), 400, `"c" is not the name "b"`},
		"of the file":     {sinkAsk("PUT", "/in-file", testSink), 409, "configuration file of the hub: change it there"},
		"delete of it":    {sinkAsk("DELETE", "/in-file", ""), 409, "configuration file of the hub: remove it there"},
		"bad name":        {sinkAsk("PUT", "/B%20b", testSink), 400, "the name of a sink is"},
		"path":            {sinkAsk("PUT", "/..%2fa", testSink), 400, "the name of a sink is"},
		"too large":       {sinkAsk("PUT", "/b", strings.Repeat("#", 1<<20+1)), 413, "the body has more than 1048576 bytes"},
		"large":           {sinkAsk("PUT", "/b", strings.Repeat("#", 300<<10)), 400, "is larger than the limit of 256KiB"},
		"compressed":      {ask{method: "PUT", path: "/api/v1/sinks/b", body: "x", header: map[string]string{"Content-Encoding": "gzip"}}, 415, "must not be compressed"},
		"unknown":         {sinkAsk("GET", "/b", ""), 404, `no such sink: "b"`},
		"pause unknown":   {sinkAsk("POST", "/b/pause", ""), 404, `no such sink`},
		"letters unknown": {sinkAsk("GET", "/b/dead-letters", ""), 404, `no such sink`},
		"delete unknown":  {sinkAsk("DELETE", "/b?state=drop", ""), 404, `no such sink`},
		"state":           {sinkAsk("DELETE", "/a?state=maybe", ""), 400, `"maybe", it must be keep, or drop`},
		"parameter":       {sinkAsk("DELETE", "/a?stat=drop", ""), 400, `unknown parameter "stat"; there are state`},
		"twice":           {sinkAsk("DELETE", "/a?state=drop&state=keep", ""), 400, `several times`},
		"method":          {sinkAsk("PATCH", "/a", ""), 405, `it must be GET or PUT or DELETE`},
		"method below":    {sinkAsk("GET", "/a/pause", ""), 405, `it must be POST`},
		"member":          {sinkAsk("POST", "/a/pause", `{"resaon":"x"}`), 400, `unknown field`},
		"no JSON":         {sinkAsk("POST", "/a/pause", `reason`), 400, `an object with reason`},
		"more":            {sinkAsk("POST", "/a/pause", `{} {}`), 400, `there is more behind it`},
		"long reason":     {sinkAsk("POST", "/a/pause", `{"reason":"`+strings.Repeat("x", 501)+`"}`), 400, `longer than 500 bytes`},
		"no sample":       {sinkAsk("POST", "/a/test", `{"type":"no/such"}`), 400, `there is no example of the event type "no/such"`},
		"letter":          {sinkAsk("GET", "/a/dead-letters/x", ""), 400, `is no id of a dead letter`},
		"no letter":       {sinkAsk("GET", "/a/dead-letters/9", ""), 404, `no such dead letter: 9 of sink a`},
		"limit":           {sinkAsk("GET", "/a/dead-letters?limit=0", ""), 400, `a number from 1 to 1000`},
		"after":           {sinkAsk("GET", "/a/dead-letters?after=-1", ""), 400, `the parameter after is "-1"`},
		"redrive nothing": {sinkAsk("POST", "/a/dead-letters/redrive", ""), 400, `say which dead letters`},
		"redrive both":    {sinkAsk("POST", "/a/dead-letters/redrive", `{"all":true,"ids":[1]}`), 400, `say which dead letters`},
		"redrive turned":  {sinkAsk("POST", "/a/dead-letters/redrive", `{"from":5,"to":1}`), 400, `from is more than to`},
		"redrive none":    {sinkAsk("POST", "/a/dead-letters/redrive", `{"ids":[77]}`), 404, `no such dead letter`},
		"purge nothing":   {sinkAsk("DELETE", "/a/dead-letters", ""), 400, `say which dead letters`},
		"purge two":       {sinkAsk("DELETE", "/a/dead-letters?all=true&through=3", ""), 400, `say which dead letters`},
		"purge ids":       {sinkAsk("DELETE", "/a/dead-letters?ids=1,x", ""), 400, `"x", which is no id`},
		"replay nothing":  {sinkAsk("POST", "/a/replay", ""), 400, `since is missing`},
		"replay since":    {sinkAsk("POST", "/a/replay", `{"since":"-5m"}`), 400, `since: invalid since: duration -5m is negative`},
		"replay empty":    {sinkAsk("POST", "/a/replay", `{"since":"0s"}`), 400, `the journal has no events from since until there`},
		"no replay":       {sinkAsk("GET", "/a/replays/x", ""), 404, `no such replay`},
		"cancel none":     {sinkAsk("DELETE", "/a/replays/x", ""), 404, `no such replay`},
		"deeper":          {sinkAsk("GET", "/a/b/c/d", ""), 404, `unknown path`},
	} {
		status, raw, header := n.try(tt.q)
		var b body
		if err := json.Unmarshal(raw, &b); err != nil {
			t.Errorf("%s: the answer %q is not JSON", name, raw)
			continue
		}
		text := strings.Join(b.errors(), "|")
		if status != tt.status || !strings.Contains(text, tt.want) || strings.Contains(text, "hunter2") {
			t.Errorf("%s: %d %q, want %d %q", name, status, text, tt.status, tt.want)
		}
		if status == 405 && header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", name)
		}
	}
	if list := decoded[SinkList](t, n.must(sinkAsk("GET", "", ""))); len(list.Sinks) != 2 {
		t.Errorf("something was made: %+v", list)
	}
	if status, _, _ := n.try(sinkAsk("HEAD", "/a", "")); status != http.StatusOK {
		t.Errorf("HEAD: %d", status)
	}
}

// A change that cannot be recorded is not answered as done.
func TestSinkNotRecorded(t *testing.T) {
	n, _ := startSinks(t)
	n.trailed.fail(journal.ErrUnavailable)
	status, b := n.do(sinkAsk("PUT", "/a", testSink))
	if status != 503 || !strings.Contains(strings.Join(b.errors(), " "), "the sink was written, but this could not be recorded in the journal") {
		t.Errorf("%d %v", status, b)
	}
	n.trailed.fail(nil)
	n.must(sinkAsk("GET", "/a", ""))
}
