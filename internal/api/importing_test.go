package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

const entriesPath = "/api/v1/audit/prod/entries"

// auditLogs takes in the logs of all servers, and remembers what came.
type auditLogs struct {
	mu     sync.Mutex
	err    error
	hold   chan struct{} // Import waits until it is closed, or for the end of the request
	asked  []string
	chunks []vaultaudit.Chunk
	ended  []error // of requests that ended while Import waited
}

var auditNames = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func (l *auditLogs) AuditLog(server string) (AuditLog, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !auditNames.MatchString(server) {
		return nil, fmt.Errorf("%w: %.80q", ErrNoAuditLog, server)
	}
	l.asked = append(l.asked, server)
	return l, nil
}

func (l *auditLogs) ImportState(context.Context, string) (vaultaudit.Imported, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return vaultaudit.Imported{Offset: 42}, l.err
}

func (l *auditLogs) Import(ctx context.Context, c vaultaudit.Chunk) (vaultaudit.Imported, vaultaudit.Counted, error) {
	l.mu.Lock()
	l.chunks = append(l.chunks, c)
	err, hold := l.err, l.hold
	l.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ended = append(l.ended, ctx.Err())
			return vaultaudit.Imported{}, vaultaudit.Counted{}, ctx.Err()
		}
	}
	return vaultaudit.Imported{Offset: c.Offset + c.Length, Complete: c.Last}, vaultaudit.Counted{Lines: uint64(strings.Count(string(c.Data), "\n"))}, err
}

func (l *auditLogs) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// took returns the chunks that came since it was called last.
func (l *auditLogs) took() []vaultaudit.Chunk {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.chunks
	l.chunks = nil
	return all
}

// await waits until what is true.
func (l *auditLogs) await(t *testing.T, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		yes := what()
		l.mu.Unlock()
		if yes {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the import does not get there")
		}
	}
}

func startImporting(t *testing.T) (*node, *auditLogs) {
	t.Helper()
	logs := new(auditLogs)
	return startNode(t, func(o *Options) { o.AuditLogs = logs }), logs
}

func entries(query, body string, header ...string) ask {
	q := ask{method: "POST", path: entriesPath + query, body: body, header: map[string]string{}}
	for i := 0; i < len(header); i += 2 {
		q.header[header[i]] = header[i+1]
	}
	return q
}

// TestImportWho: the right is update and sudo on the path of the server, at the root.
func TestImportWho(t *testing.T) {
	n, logs := startImporting(t)
	policies := map[string]string{
		"both":     `path "sys/audit/prod" { capabilities = ["update", "sudo"] }`,
		"all":      `path "sys/audit/+" { capabilities = ["update", "sudo"] }`,
		"no-sudo":  `path "sys/audit/prod" { capabilities = ["create", "read", "update", "delete"] }`,
		"sudo":     `path "sys/audit/prod" { capabilities = ["read", "sudo"] }`,
		"other":    `path "sys/audit/staging" { capabilities = ["update", "sudo"] }`,
		"entries":  `path "sys/audit/prod/entries" { capabilities = ["update", "sudo"] }`,
		"publish":  `path "sys/events/publish/*" { capabilities = ["create", "update"] }`,
		"but-prod": `path "sys/audit/*" { capabilities = ["update", "sudo"] } path "sys/audit/prod" { capabilities = ["deny"] }`,
	}
	tokens := map[string]string{"root": "root", "none": "-", "unknown": "nope"}
	for name, text := range policies {
		n.putPolicy("", name, text)
		tokens[name] = n.newToken(fmt.Sprintf(`{"policies":[%q],"ttl":"1h"}`, name))
	}
	n.putPolicy("ns1/", "both", policies["both"])
	tokens["namespace"] = n.must(ask{method: "POST", path: "/v1/ns1/auth/token/create", body: `{"policies":["both"],"ttl":"1h"}`}).auth()["client_token"].(string)
	allowed := map[string]bool{"root": true, "both": true, "all": true}
	denied := 0
	for name, token := range tokens {
		for _, method := range []string{"POST", "GET"} {
			for _, namespace := range []string{"", "ns1"} {
				q := entries("", "{}\n", "X-Vault-Namespace", namespace)
				q.method, q.token = method, token
				status, b := n.do(q)
				if allowed[name] {
					if status != 200 {
						t.Errorf("%s, %s: %d %v", name, method, status, b)
					}
					continue
				}
				denied++
				if status != 403 || len(b.errors()) != 1 || !strings.Contains(b.errors()[0], "permission denied") {
					t.Errorf("%s, %s, namespace %q: %d %v", name, method, namespace, status, b)
				}
			}
		}
	}
	if got := len(logs.took()); got != 2*len(allowed) {
		t.Errorf("%d imports", got)
	}
	if e := n.await("request-denied", 1); e.Path != "sys/audit/prod" || e.Namespace != "" || field(e, "operation") != "update" {
		t.Errorf("recorded %+v", e)
	}
	n.await("request-denied", min(denied, DefaultFailuresBurst))

	// Each request is a use, also one that fails.
	twice := n.newToken(`{"policies":["both"],"num_uses":2,"ttl":"1h"}`)
	for i, want := range []int{400, 200, 403} {
		q := entries([]string{"?log=-", "", ""}[i], "{}\n")
		q.token = twice
		if status, b := n.do(q); status != want {
			t.Errorf("use %d: %d %v", i, status, b)
		}
	}
}

func TestImportNames(t *testing.T) {
	n, logs := startImporting(t)
	n.putPolicy("", "all", `path "sys/audit/*" { capabilities = ["update", "sudo"] }`)
	for _, token := range []string{"root", n.newToken(`{"policies":["all"],"ttl":"1h"}`)} {
		for _, name := range []string{"PROD", "a%20b", "a%2Fb", "%2E%2E%2Fb", "%2e%2e", "%ff%fe", "%00", "a%0Ab", "*", "+", strings.Repeat("x", 64), strings.Repeat("%C3%A4", 3000)} {
			a := n.raw(request("POST", "/api/v1/audit/"+name+"/entries", "X-Vault-Token: "+token, "Content-Length: 0"))
			if a.StatusCode != 400 && a.StatusCode != 403 && a.StatusCode != 307 && a.StatusCode != 301 || len(a.body) > 1000 && a.StatusCode == 400 {
				t.Errorf("%.40q: %d %.200q", name, a.StatusCode, a.body)
			}
		}
	}
	for _, path := range []string{"/api/v1/audit/entries", "/api/v1/audit//entries", "/api/v1/audit/prod", "/api/v1/audit/prod/entries/", "/api/v1/audit/a/b/entries"} {
		if status, raw, _ := n.try(ask{method: "POST", path: path}); status != 404 && status != 307 && status != 301 {
			t.Errorf("%s: %d %s", path, status, raw)
		}
	}
	// Whoever may not import learns nothing about names, and the record has only text.
	for i, name := range []string{"%ff%fe", "a%0Ab", strings.Repeat("%ff", 2000)} {
		if status, raw, _ := n.try(ask{method: "POST", path: "/api/v1/audit/" + name + "/entries", token: n.newToken(`{"policies":["default"],"ttl":"1h"}`)}); status != 403 || strings.Contains(string(raw), "name") {
			t.Errorf("%.20s: %d %.200s", name, status, raw)
		}
		e := n.await("request-denied", i+1)
		if !utf8.ValidString(e.Path) || len(e.Path) > 200 {
			t.Errorf("recorded %q", e.Path)
		}
	}
	if len(logs.asked) != 0 || len(logs.took()) != 0 {
		t.Errorf("logs of %q are taken in", logs.asked)
	}
}

func TestImportRequests(t *testing.T) {
	t.Parallel()
	n, logs := startImporting(t)
	line := `{"type":"request"}` + "\n"
	for _, tt := range []struct {
		q      ask
		status int
		text   string
		want   vaultaudit.Chunk
	}{
		{entries("", line), 200, `{"offset":19,"complete":false,"lines":1,"accepted":0,"duplicates":0,"quarantined":0,"events":0}` + "\n", vaultaudit.Chunk{Data: []byte(line), Length: 19}},
		{entries("?log=aB9&offset=7&length=100&last=true&dry_run=1", line), 200, `{"offset":107,"complete":true,`, vaultaudit.Chunk{Log: "aB9", Offset: 7, Data: []byte(line), Length: 100, Last: true, DryRun: true}},
		{entries("?length=3", line), 200, `{"offset":19,`, vaultaudit.Chunk{Data: []byte(line), Length: 19}},
		{entries("?last=true", ""), 200, `{"offset":0,"complete":true,"lines":0,`, vaultaudit.Chunk{Last: true}},
		{entries("", compressed("gzip", line), "Content-Encoding", "gzip"), 200, `{"offset":19,`, vaultaudit.Chunk{Data: []byte(line), Length: 19}},
		{entries("", compressed("zstd", line), "Content-Encoding", "ZSTD"), 200, `{"offset":19,`, vaultaudit.Chunk{Data: []byte(line), Length: 19}},
		{ask{method: "GET", path: entriesPath + "?log=a"}, 200, `{"offset":42,"complete":false,`, vaultaudit.Chunk{}},

		{ask{method: "PUT", path: entriesPath}, 405, "it must be GET or POST", vaultaudit.Chunk{}},
		{entries("?log=a-b", line), 400, "invalid parameter log", vaultaudit.Chunk{}},
		{entries("?log="+strings.Repeat("a", 65), line), 400, "invalid parameter log", vaultaudit.Chunk{}},
		{entries("?log=a%0A", line), 400, "invalid parameter log", vaultaudit.Chunk{}},
		{entries("?offset=-1", line), 400, "invalid parameter offset", vaultaudit.Chunk{}},
		{entries("?offset=9223372036854775807", line), 400, "invalid parameter offset", vaultaudit.Chunk{}},
		{entries("?length=1e3", line), 400, "invalid parameter length", vaultaudit.Chunk{}},
		{entries("?last=maybe", line), 400, "invalid parameter last", vaultaudit.Chunk{}},
		{entries("?dry_run=maybe", line), 400, "invalid parameter dry_run", vaultaudit.Chunk{}},
		{entries("?dry_run=%zz", line), 400, "the query cannot be read", vaultaudit.Chunk{}},
		{entries("?last=true;dry_run=true", line), 400, "the query cannot be read", vaultaudit.Chunk{}},

		{entries("", line, "Content-Encoding", "br"), 415, "send gzip, zstd, or none", vaultaudit.Chunk{}},
		{entries("", line, "Content-Encoding", "gzip, gzip"), 415, "send gzip, zstd, or none", vaultaudit.Chunk{}},
		{entries("", line, "Content-Encoding", "gzip"), 400, "the body is not gzip", vaultaudit.Chunk{}},
		{entries("", "", "Content-Encoding", "gzip"), 400, "the body is not gzip: it ends too early", vaultaudit.Chunk{}},
		{entries("", compressed("gzip", line)[:20], "Content-Encoding", "gzip"), 400, "the body is not gzip: it ends too early", vaultaudit.Chunk{}},
		{entries("", compressed("gzip", line)+"x", "Content-Encoding", "gzip"), 400, "the body is not gzip", vaultaudit.Chunk{}},
		{entries("", strings.Repeat("x", maxEventsBody+1)), 413, "the body has more than 8388608 bytes", vaultaudit.Chunk{}},
		{entries("", compressed("gzip", strings.Repeat("\x00", 100<<20)), "Content-Encoding", "gzip"), 413, "more than 16777216 bytes after decompression", vaultaudit.Chunk{}},
		{entries("", compressed("zstd", strings.Repeat("\x00", 100<<20)), "Content-Encoding", "zstd"), 413, "more than 16777216 bytes after decompression", vaultaudit.Chunk{}},
	} {
		status, raw, header := n.try(tt.q)
		if status != tt.status || !strings.Contains(string(raw), tt.text) || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %v: %d %.300s; want %d, %q", tt.q.method, tt.q.path, tt.q.header, status, raw, tt.status, tt.text)
		}
		if status == 413 && strings.Contains(string(raw), "events") {
			t.Errorf("who sends lines is told of events: %s", raw)
		}
		want := 0
		if tt.status == 200 && tt.q.method == "POST" {
			want = 1
		}
		got := logs.took()
		if len(got) != want || want == 1 && fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s: took %+v, want %+v", tt.q.path, got, tt.want)
		}
	}
	n.awaitBodies(func(used int64) bool { return used == 0 })
	// As large as allowed.
	if status, b := n.do(entries("", strings.Repeat("\n", maxEventsBody))); status != 200 || b["offset"] != float64(maxEventsBody) {
		t.Errorf("%d %v", status, b)
	}
	if status, b := n.do(entries("", compressed("gzip", strings.Repeat("\n", maxEventsContent)), "Content-Encoding", "gzip")); status != 200 || b["lines"] != float64(maxEventsContent) {
		t.Errorf("%d %v", status, b)
	}
}

// TestImportNotNow: what cannot be taken in now is told so, with a time to try again.
func TestImportNotNow(t *testing.T) {
	n, logs := startImporting(t)
	for _, tt := range []struct {
		err    error
		status int
		after  string
		text   string
	}{
		{vaultaudit.ErrOffset, 409, "", "does not begin where the import goes on"},
		{vaultaudit.ErrImporting, 409, "", "another log of this server is being imported"},
		{vaultaudit.ErrTooMany, 422, "", "more than an import can compare with"},
		{vaultaudit.ErrNotRunning, 503, "1", "try again"},
		{journal.ErrBusy, 429, "1", "faster than the disk takes them"},
		{errors.Join(journal.ErrFull, &journal.PushbackError{RetryAfter: 7 * time.Second}), 503, "7", "no space left"},
		{journal.ErrUnavailable, 503, "1", "send the same request again later"},
		{journal.ErrClosed, 503, "1", "send the same request again later"},
		{context.DeadlineExceeded, 503, "1", "send the same request again"},
		{errors.New("secret detail"), 500, "", "internal error"},
	} {
		logs.fail(fmt.Errorf("import into prod: %w", tt.err))
		for _, method := range []string{"POST", "GET"} {
			q := entries("?log=a", "{}\n")
			q.method = method
			status, raw, header := n.try(q)
			if status != tt.status || header.Get("Retry-After") != tt.after || !strings.Contains(string(raw), tt.text) || !strings.Contains(string(raw), `"errors":[`) || strings.Contains(string(raw), "secret detail") {
				t.Errorf("%s, %v: %d %s, Retry-After %q", method, tt.err, status, raw, header.Get("Retry-After"))
			}
		}
	}
	logs.fail(nil)
	n.must(entries("?log=a", "{}\n"))
}

// TestManyImports: imports that wait hold the memory of their lines, and only that; those
// for which there is none are refused.
func TestManyImports(t *testing.T) {
	n, logs := startImporting(t)
	n.api.publisher.bodies = newBodies(1 << 20)
	logs.hold = make(chan struct{})
	body := strings.Repeat("x", 200<<10)
	statuses := make(chan int)
	for range 3 {
		logs.mu.Lock()
		before := len(logs.chunks)
		logs.mu.Unlock()
		go func() {
			r, err := http.NewRequest("POST", "http://"+n.addr+entriesPath, strings.NewReader(body))
			if err != nil {
				panic(err)
			}
			r.Header.Set("X-Vault-Token", "root")
			res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
			if err != nil {
				statuses <- 0
				return
			}
			res.Body.Close()
			statuses <- res.StatusCode
		}()
		logs.await(t, func() bool { return len(logs.chunks) > before })
	}
	if used := n.api.publisher.bodies.used.Load(); used != int64(3*len(body)) {
		t.Errorf("%d bytes are counted for three bodies of %d", used, len(body))
	}
	status, raw, header := n.try(entries("", body))
	if status != 429 || header.Get("Retry-After") != "1" || !strings.Contains(string(raw), "at the moment; try again") {
		t.Errorf("%d %s %v", status, raw, header)
	}
	close(logs.hold)
	for range 3 {
		if status := <-statuses; status != 200 {
			t.Errorf("an import that waited: %d", status)
		}
	}
	n.awaitBodies(func(used int64) bool { return used == 0 })
	n.must(entries("", body))
}

// TestImportGone: whoever goes away gives the memory back, while sending or waiting.
func TestImportGone(t *testing.T) {
	n, logs := startImporting(t)
	logs.hold = make(chan struct{})
	head := request("POST", entriesPath, "Content-Length: 1000")
	conn, _ := n.open(head + "{}\n")
	n.awaitBodies(func(used int64) bool { return used > 0 })
	conn.Close()
	n.awaitBodies(func(used int64) bool { return used == 0 })
	if got := logs.took(); len(got) != 0 {
		t.Errorf("half a body is imported: %+v", got)
	}
	conn, _ = n.open(head + strings.Repeat("\n", 1000))
	logs.await(t, func() bool { return len(logs.chunks) == 1 })
	conn.Close()
	logs.await(t, func() bool { return len(logs.ended) == 1 })
	n.awaitBodies(func(used int64) bool { return used == 0 })
	if !errors.Is(logs.ended[0], context.Canceled) {
		t.Error(logs.ended)
	}
}

// TestImportRevokedWhileSending: a token that ends while lines are being sent imports
// nothing.
func TestImportRevokedWhileSending(t *testing.T) {
	t.Parallel()
	n, logs := startImporting(t)
	token := n.newToken(`{"policies":["root"],"ttl":"1h"}`)
	conn, r := n.open(request("POST", entriesPath, "Content-Length: 3", "X-Vault-Token: "+token) + "{")
	n.awaitBodies(func(used int64) bool { return used > 0 })
	begin := time.Now()
	n.must(ask{method: "POST", path: "/v1/auth/token/revoke", body: `{"token":"` + token + `"}`})
	for time.Since(begin) <= slowBody {
		time.Sleep(slowBody / 10)
	}
	io.WriteString(conn, "}\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 403 {
		t.Errorf("%v %v", res, err)
	}
	if got := logs.took(); len(got) != 0 {
		t.Errorf("took %+v", got)
	}
}

// realLogs is the source of one server.
type realLogs struct{ source *vaultaudit.Source }

func (r *realLogs) AuditLog(string) (AuditLog, error) {
	if r.source == nil {
		return nil, vaultaudit.ErrNotRunning
	}
	return r.source, nil
}

// TestImportReal imports into the journal.
func TestImportReal(t *testing.T) {
	logs := new(realLogs)
	n := startNode(t, func(o *Options) { o.AuditLogs = logs })
	if status, _, header := n.try(entries("", "")); status != 503 || header.Get("Retry-After") != "1" {
		t.Errorf("not running: %d %v", status, header)
	}
	source, err := vaultaudit.New(vaultaudit.Config{Name: "prod", Limits: event.DefaultLimits, ShutdownTimeout: 10 * time.Second},
		vaultaudit.Deps{Journal: n.journal, Metrics: metrics.New(nil), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	logs.source = source
	entry := func(id string) string {
		return `{"time":"2026-03-14T15:09:26Z","type":"request","auth":{"token_type":"service"},"request":{"id":"` + id + `","operation":"read","path":"secret/data/a","mount_type":"kv"}}` + "\n"
	}
	one, two := entry("00000000-0000-4000-8000-000000000001"), entry("00000000-0000-4000-8000-000000000002")
	for _, tt := range []struct {
		q      ask
		status int
		text   string
	}{
		{entries("?log=a&dry_run=true", one), 200, `"lines":1,"accepted":1,"duplicates":0,"quarantined":0,`},
		{ask{method: "GET", path: entriesPath + "?log=a"}, 200, `{"offset":0,"complete":false,`},
		{entries("?log=a", compressed("gzip", one), "Content-Encoding", "gzip"), 200, fmt.Sprintf(`{"offset":%d,"complete":false,"lines":1,"accepted":1,"duplicates":0,"quarantined":0,`, len(one))},
		{entries("?log=a", one), 409, "does not begin where the import goes on"},
		{entries("?log=b", one), 409, "another log of this server is being imported"},
		{entries(fmt.Sprintf("?log=a&last=true&offset=%d", len(one)), one+two+"nonsense"), 200, `"complete":true,"lines":3,"accepted":2,"duplicates":1,"quarantined":1,`},
		{ask{method: "GET", path: entriesPath + "?log=a"}, 200, fmt.Sprintf(`{"offset":%d,"complete":true,`, 2*len(one)+len(two)+len("nonsense"))},
	} {
		if status, raw, _ := n.try(tt.q); status != tt.status || !strings.Contains(string(raw), tt.text) {
			t.Errorf("%s %s: %d %s; want %d, %s", tt.q.method, tt.q.path, status, raw, tt.status, tt.text)
		}
	}
	if got := n.stored(); len(got) != 3 {
		t.Errorf("stored %s", ids(got))
	}
}
