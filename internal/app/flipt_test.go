package app

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
)

// fliptWebhook is a request of a real Flipt server.
type fliptWebhook struct {
	Method, Path, Body, Scenario string
	Headers                      [][2]string
}

func recordedWebhooks(t *testing.T) (all []fliptWebhook) {
	t.Helper()
	f, err := os.Open("../fliptevent/testdata/webhooks.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Buffer(nil, 1<<20); s.Scan(); {
		var w fliptWebhook
		if err := json.Unmarshal(s.Bytes(), &w); err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	if len(all) != 238 {
		t.Fatalf("%d requests", len(all))
	}
	return all
}

// send sends a request as it was recorded, and returns the status of the answer.
func (w *fliptWebhook) send(t *testing.T, url string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequest(w.Method, url, strings.NewReader(w.Body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range w.Headers {
		if h[0] != "Host" && h[0] != "Content-Length" && h[0] != "Accept-Encoding" {
			r.Header.Add(h[0], h[1])
		}
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

func (w *fliptWebhook) signed() bool {
	for _, h := range w.Headers {
		if h[0] == "X-Flipt-Webhook-Signature" {
			return true
		}
	}
	return false
}

func fliptSource(name string, unsigned config.Unsigned, secrets ...string) config.Source {
	s := config.DefaultSource()
	s.Type, s.Name, s.Unsigned = config.Flipt, name, unsigned
	for _, secret := range secrets {
		s.SigningSecrets = append(s.SigningSecrets, config.SecretValue(secret))
	}
	return s
}

// fliptEvents returns n events of Flipt servers in the order of the journal.
func fliptEvents(t *testing.T, a *App, n int) (all []*client.Message) {
	t.Helper()
	s := subscribe(t, a, client.Options{Format: client.FormatCloudEvents, Since: "oldest"}, "flipt/*")
	defer s.Close()
	for len(all) < n {
		m, _ := next(t, s)
		all = append(all, m)
	}
	return all
}

// Every request that real servers sent is taken with the right secret, and every event comes
// out as it was.
func TestFliptWebhooksWithTheRightSecret(t *testing.T) {
	o := options(t)
	o.Config.Sources = append(o.Config.Sources, fliptSource("prod", config.UnsignedLoopback, "the next one", "s3crET-recorded"))
	a, _ := start(t, o)
	url := a.URL() + "/api/v1/ingest/flipt"
	var posted []fliptWebhook
	for i, w := range recordedWebhooks(t) {
		to := url
		if i%2 == 0 {
			to += "/prod"
		}
		status, answer := w.send(t, to)
		if w.Method == "GET" { // after a redirect: the server must see that the event is lost
			if status != 503 {
				t.Errorf("a GET is answered %d", status)
			}
			continue
		}
		if status != 200 {
			t.Fatalf("%d %s of %s", status, answer, w.Body)
		}
		posted = append(posted, w)
	}
	if len(posted) != 236 {
		t.Fatal(len(posted))
	}
	quarantined := 0
	for i, m := range fliptEvents(t, a, len(posted)) {
		e, body := m.Event, posted[i].Body
		if e.Type == fliptevent.TypeQuarantined { // the journal has it as it came, CloudEvents have it compact
			var b bytes.Buffer
			_ = json.Compact(&b, []byte(body))
			body = b.String()
		}
		if string(e.Data) != body {
			t.Fatalf("%d:\n got %s\nwant %s", i, e.Data, body)
		}
		if e.Type == fliptevent.TypeQuarantined {
			quarantined++
			if !strings.HasPrefix(posted[i].Path, "/tmpl") {
				t.Errorf("quarantined: %s", body)
			}
			continue
		}
		back, err := fliptevent.FromEvent(e)
		if err != nil || string(fliptevent.AppendWebhook(nil, back)) != body {
			t.Errorf("%v: %s", err, body)
		}
		if e.Source != "flipt://prod" || !strings.HasPrefix(e.Path, "flipt/prod/") {
			t.Errorf("%s %s", e.Source, e.Path)
		}
	}
	if quarantined != 28 {
		t.Errorf("%d were quarantined", quarantined)
	}
	await(t, a.URL()+"/metrics", `tocsin_appended_total{component="source",name="prod"} 236`, `tocsin_quarantined_total{component="source",name="prod"} 28`)
}

// With a wrong secret, or none, nothing is taken, and no answer is one that Flipt takes for a
// delivery.
func TestFliptWebhooksWithTheWrongSecret(t *testing.T) {
	for name, c := range map[string]struct {
		source config.Source
		taken  int // of those without a signature
	}{
		"wrong":          {fliptSource("prod", config.UnsignedRefuse, "s3crET"), 0},
		"wrong, or none": {fliptSource("prod", config.UnsignedLoopback, "s3crET"), 137},
		"token":          {fliptSource("prod", config.UnsignedToken), 10}, // templates with the header Authorization: Bearer t0ken
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.Config.Listen.FailedLogins.Max = 0 // no limit
			o.Config.Sources = append(o.Config.Sources, c.source)
			a, _ := start(t, o)
			taken := 0
			for _, w := range recordedWebhooks(t) {
				status, _ := w.send(t, a.URL()+"/api/v1/ingest/flipt/prod")
				switch {
				case status == 200 && !w.signed():
					taken++
				case status != 503 && status != 429:
					t.Fatalf("%d for %s %s", status, w.Method, w.Path)
				}
			}
			if taken != c.taken {
				t.Errorf("%d were taken, want %d", taken, c.taken)
			}
			s := subscribe(t, a, client.Options{Since: "oldest"}, "tocsin/request-denied")
			m, _ := next(t, s)
			if path, _ := m.Event.Metadata.Text("path"); path != "sys/flipt/prod" {
				t.Errorf("recorded for %q", path)
			}
		})
	}
}

func TestFliptWebhookAdmission(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Config.Sources = append(o.Config.Sources,
		fliptSource("signed", config.UnsignedRefuse, "k"), fliptSource("local", config.UnsignedLoopback), fliptSource("tokens", config.UnsignedToken))
	a, _ := start(t, o)
	may := policyToken(t, a, `path "sys/events/publish/flipt/*" { capabilities = ["create"] }`)
	mayNot := policyToken(t, a, `path "sys/events/publish/flipt/segment/*" { capabilities = ["create"] }`)
	const body = `{"version":"0.2","type":"flag","action":"created","metadata":{},"payload":null,"timestamp":"2026-11-21T01:38:10Z","status":"denied"}`
	for _, c := range []struct {
		path   string
		method string
		header []string
		status int
	}{
		{"/local", "POST", nil, 200},
		{"/local", "POST", []string{"X-Forwarded-For", "127.0.0.1"}, 503},
		{"/local", "POST", []string{"Forwarded", "for=127.0.0.1"}, 503},
		{"/local", "POST", []string{"X-Forwarded-Proto", "https"}, 503},
		{"/local", "POST", []string{"Origin", "https://evil.example.com"}, 503},
		{"/local", "POST", []string{"Origin", "null"}, 503},
		{"/local", "POST", []string{"Sec-Fetch-Site", "cross-site"}, 503},
		{"/local", "POST", []string{"X-Flipt-Webhook-Signature", "00"}, 503},
		{"/local", "POST", []string{"Content-Encoding", "gzip"}, 503},
		{"/local", "PUT", nil, 405},
		{"/local", "GET", nil, 405},
		{"/local", "GET", []string{"Referer", "http://x"}, 503},
		{"/tokens", "POST", nil, 503},
		{"/tokens", "POST", []string{"X-Vault-Token", root}, 200},
		{"/tokens", "POST", []string{"Authorization", "Bearer " + may}, 200},
		{"/tokens", "POST", []string{"X-Vault-Token", mayNot}, 503},
		{"/tokens", "POST", []string{"X-Vault-Token", "wrong"}, 503},
		{"/signed", "POST", []string{"X-Vault-Token", root}, 503},
		{"/signed", "POST", nil, 503},
		{"/unknown", "POST", []string{"X-Vault-Token", root}, 503},
		{"", "POST", nil, 503}, // which of them?
	} {
		w := fliptWebhook{Method: c.method, Body: body}
		for i := 0; i+1 < len(c.header); i += 2 {
			w.Headers = append(w.Headers, [2]string{c.header[i], c.header[i+1]})
		}
		status, answer := w.send(t, a.URL()+"/api/v1/ingest/flipt"+c.path)
		if status != c.status && !(c.status == 503 && status == 429) {
			t.Errorf("%s %s %v: %d %s, want %d", c.method, c.path, c.header, status, answer, c.status)
		}
		for _, secret := range []string{root, may, mayNot} {
			if strings.Contains(answer, secret) && len(secret) > 8 {
				t.Errorf("the answer has a token: %s", answer)
			}
		}
	}
	if n := len(fliptEvents(t, a, 3)); n != 3 {
		t.Error(n)
	}
	large := fliptWebhook{Method: "POST", Body: strings.Repeat("x", 9<<20)}
	if status, _ := large.send(t, a.URL()+"/api/v1/ingest/flipt/local"); status != 503 {
		t.Errorf("a body of 9 MiB is answered %d", status)
	}
	large.Body = strings.Replace(body, "null", `{"key":"`+strings.Repeat("x", 2<<20)+`"}`, 1)
	if status, answer := large.send(t, a.URL()+"/api/v1/ingest/flipt/local"); status != 200 || !strings.Contains(answer, "quarantined") {
		t.Fatalf("a body of 2 MiB is answered %d %s", status, answer)
	}
	m := fliptEvents(t, a, 4)[3]
	response, err := http.NewRequest("GET", a.URL()+m.Event.DataRef, nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Header.Set("X-Vault-Token", root)
	r, err := http.DefaultClient.Do(response)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, _ := io.ReadAll(r.Body); string(b) != large.Body {
		t.Errorf("%d bytes were kept, %d sent", len(b), len(large.Body))
	}
}

// policyToken makes a token with one policy.
func policyToken(t *testing.T, a *App, policy string) string {
	t.Helper()
	name := fmt.Sprintf("p%d", len(policy))
	if status, answer := call(t, a, root, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": policy}); status/100 != 2 {
		t.Fatal(status, answer)
	}
	status, answer := call(t, a, root, "POST", "auth/token/create", map[string]any{"policies": []string{name}})
	if status != 200 {
		t.Fatal(status, answer)
	}
	token, _ := answer["client_token"].(string)
	if token == "" {
		t.Fatal(answer)
	}
	return token
}

// The journal is full: 503 with Retry-After, and nothing is lost.
func TestFliptWebhookWhileTheJournalIsClosed(t *testing.T) {
	o := options(t)
	o.Config.Sources = append(o.Config.Sources, fliptSource("local", config.UnsignedLoopback))
	a, _ := start(t, o)
	if err := a.journal.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := http.Post(a.URL()+"/api/v1/ingest/flipt", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
}

// The secret is read again with every request.
func TestFliptSecretIsRotated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	conf := filepath.Join(t.TempDir(), "t.yaml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "sources: [{name: prod, type: flipt, signing_secrets: [{file: %s}]}]\n", file), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(conf)
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Config.Sources = c.Sources
	a, _ := start(t, o)
	var signed *fliptWebhook
	for _, w := range recordedWebhooks(t) {
		if w.signed() {
			signed = &w
			break
		}
	}
	for secret, want := range map[string]int{"old": 503, "s3crET-recorded": 200} {
		write(secret)
		if status, answer := signed.send(t, a.URL()+"/api/v1/ingest/flipt"); status != want {
			t.Errorf("%s: %d %s", secret, status, answer)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if status, answer := signed.send(t, a.URL()+"/api/v1/ingest/flipt"); status != 503 || strings.Contains(answer, file) {
		t.Errorf("%d %s", status, answer)
	}
	if _, page := get(t, a.URL()+"/api/v1/health"); !strings.Contains(page, "source prod") {
		t.Errorf("health does not say that the secret is missing: %s", page)
	}
}

// A log comes in through the API, for a server without a source, too.
func TestFliptEntries(t *testing.T) {
	a, _ := start(t, options(t))
	log, err := os.ReadFile("../fliptevent/testdata/log.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	for line := range bytes.Lines(log) {
		body.WriteString("0 ")
		body.Write(line)
	}
	post := func(path, token string, b string) (int, string) {
		t.Helper()
		w := fliptWebhook{Method: "POST", Body: b, Headers: [][2]string{{"X-Vault-Token", token}}}
		return w.send(t, a.URL()+"/api/v1/ingest/flipt/"+path)
	}
	may := policyToken(t, a, `path "sys/flipt/old" { capabilities = ["update", "sudo"] }`)
	mayNot := policyToken(t, a, `path "sys/flipt/old" { capabilities = ["update"] }`)
	for _, c := range []struct {
		path, token, body string
		status            int
		answer            string
	}{
		{"old/entries?dry_run=true", may, body.String(), 200, `"accepted":56,"duplicates":0`},
		{"old/entries", may, body.String(), 200, `"accepted":56,"duplicates":0`},
		{"old/entries", root, body.String(), 200, `"accepted":0,"duplicates":56`},
		{"old/entries", mayNot, body.String(), 403, ""},
		{"other/entries", may, body.String(), 403, ""},
		{"old/entries", "", body.String(), 403, ""},
		{"old/entries?dry_run=maybe", may, "0 x\n", 400, "dry_run"},
		{"old/entries?%zz", may, "0 x\n", 400, "query"},
		{"old/entries", may, "x\n", 400, "number of equal lines"},
		{"Not-A-Name/entries", root, "0 x\n", 400, "names have"},
	} {
		if status, answer := post(c.path, c.token, c.body); status != c.status || !strings.Contains(answer, c.answer) {
			t.Errorf("%s: %d %s, want %d %s", c.path, status, answer, c.status, c.answer)
		}
	}
	for i, m := range fliptEvents(t, a, 56) {
		back, err := fliptevent.FromEvent(m.Event)
		if err != nil {
			t.Fatal(err)
		}
		line := append(fliptevent.AppendLogLine(nil, back), '\n')
		if want := bytes.SplitAfter(log, []byte("\n"))[i]; !bytes.Equal(line, want) {
			t.Errorf(" got %swant %s", line, want)
		}
	}
}
