package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
)

// killedRules raise an alert about each event, and one about every ten of them.
const killedRules = `- rule: Each
  desc: d
  condition: event.type = "app/counted"
  output: '%event.id'
  priority: INFO
  source: tocsin
- rule: Ten
  desc: d
  condition: event.type = "app/counted"
  output: '%event.id'
  priority: WARNING
  source: tocsin
  window: {count: 10, within: 1h}
`

// TestKillDuringAlerts kills the hub while events are published and judged. In the end there is
// exactly one alert about each event, and what the window had counted was not forgotten.
func TestKillDuringAlerts(t *testing.T) {
	t.Parallel()
	k := newKilled(t)
	rules := filepath.Join(k.dir, "rules.yaml")
	if err := os.WriteFile(rules, []byte(killedRules), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(k.dir, "tocsin.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "rules: {files: [%s]}\n", rules)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	k.start()
	const publishers = 4
	var published [publishers]int
	publish := func(p int) {
		for {
			id := fmt.Sprintf("p%d-%d", p, published[p])
			body := fmt.Sprintf(`{"specversion":"1.0","id":"%s","source":"/p%d","type":"app/counted","subject":"counted"}`, id, p)
			r, err := http.NewRequest("POST", k.url+"/api/v1/events", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("X-Vault-Token", root)
			r.Header.Set("Content-Type", "application/cloudevents+json")
			response, err := k.client.Do(r)
			if err != nil {
				return // killed; whether it was stored is not known, so it is sent again with the same id
			}
			text, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || response.StatusCode/100 != 2 {
				if err == nil && response.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("%d %s", response.StatusCode, text)
				}
				return
			}
			published[p]++
		}
	}
	for range 5 {
		var publishing sync.WaitGroup
		for p := range publishers {
			publishing.Go(func() { publish(p) })
		}
		time.Sleep(time.Duration(200+rand.IntN(1500)) * time.Millisecond)
		k.kill()
		publishing.Wait()
		if t.Failed() {
			return
		}
		k.start()
	}
	total := 0
	for p := range publishers {
		// What was not answered may be stored.
		body := fmt.Sprintf(`{"specversion":"1.0","id":"p%d-%d","source":"/p%d","type":"app/counted","subject":"counted"}`, p, published[p], p)
		r, err := http.NewRequest("POST", k.url+"/api/v1/events", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Vault-Token", root)
		r.Header.Set("Content-Type", "application/cloudevents+json")
		response, err := k.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		published[p]++
		total += published[p]
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	s, err := client.Subscribe(ctx, "*", client.Options{Address: k.url, Token: root, Since: "oldest"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stored := 0
	seen, about := make(map[string]bool), make(map[string]int)
	tens := 0
	for len(about) < total || tens < stored/10 {
		m, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("%d alerts about %d events, %d of ten: %v", len(about), total, tens, err)
		}
		switch m.Event.Type {
		case "app/counted":
			stored++
		case "alert/each":
			id, _ := m.Event.Metadata.Text("event_id")
			about[id]++
		case "alert/ten":
			tens++
		default:
			continue
		}
		if m.Event.Type != "app/counted" {
			if seen[m.Event.ID] {
				t.Errorf("the alert %s is there twice", m.Event.ID)
			}
			seen[m.Event.ID] = true
		}
	}
	for id, n := range about {
		if n != 1 && stored == total {
			t.Errorf("%d alerts about the event %s", n, id)
		}
	}
	t.Logf("%d events published, %d stored, %d alerts about ten of them", total, stored, tens)
	if total < 50 {
		t.Error("hardly anything was tested")
	}

	response, err := k.get("/api/v1/rules")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Problem string
		Missed  uint64 `json:"missed_events"`
	}
	if err := json.Unmarshal(response, &list); err != nil || list.Problem != "" || list.Missed != 0 {
		t.Errorf("%s, %v", response, err)
	}
}

// TestKillWithBrokenRules starts the hub with a mistake in its rules, and kills it. The rules from
// before judge each time, with what they remember, until the file is mended.
func TestKillWithBrokenRules(t *testing.T) {
	t.Parallel()
	k := newKilled(t)
	rules := filepath.Join(k.dir, "rules.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(killedRules)
	f, err := os.OpenFile(filepath.Join(k.dir, "tocsin.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "rules: {files: [%s], reload: 500ms}\n", rules)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	published := 0
	publish := func() {
		t.Helper()
		published++
		body := fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/p","type":"app/counted"}`, published)
		r, err := http.NewRequest("POST", k.url+"/api/v1/events", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Vault-Token", root)
		r.Header.Set("Content-Type", "application/cloudevents+json")
		response, err := k.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode/100 != 2 {
			t.Fatal(response.Status)
		}
	}
	alerts := func(types string, n int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		s, err := client.Subscribe(ctx, types, client.Options{Address: k.url, Token: root, Since: "oldest"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range n {
			if _, err := s.Next(ctx); err != nil {
				t.Fatalf("%d alerts of %d: %v\n%s", i, n, err, k.page("/api/v1/rules"))
			}
		}
	}
	k.start()
	publish()
	alerts("alert/each", published)
	// Files are kept when the progress is stored, at the latest when the hub is stopped.
	if err := k.process.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := k.process.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, k.said)
	}
	write(strings.Replace(killedRules, "event.type", "event.typ", 1))
	for range 3 {
		k.start()
		publish()
		publish()
		publish()
		alerts("alert/each", published)
		var list struct {
			Problem string
			Earlier time.Time
			Refused []string
		}
		if page := k.page("/api/v1/rules"); json.Unmarshal([]byte(page), &list) != nil || list.Earlier.IsZero() || len(list.Refused) == 0 || !strings.Contains(list.Problem, "before the start, judge since") {
			t.Errorf("got %s", page)
		}
		k.kill()
	}
	k.start()
	alerts("tocsin/rules-earlier", 4)
	write(killedRules)
	k.until("the file is loaded", func() bool { return !strings.Contains(k.page("/api/v1/rules"), `"problem"`) })
	alerts("alert/ten", 1) // about the first ten, over four starts
}

// get returns the body of an answer.
func (k *killed) get(path string) ([]byte, error) {
	r, err := http.NewRequest("GET", k.url+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Vault-Token", root)
	response, err := k.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}
