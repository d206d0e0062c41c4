package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
)

// orderRule is a rule about events that tests publish.
const orderRule = `- rule: Large order
  desc: Somebody has ordered much.
  condition: event.type = "shop/order" and json.value[/amount] = 500
  output: 'Order of %json.value[/amount] by %json.value[/customer]'
  priority: CRITICAL
  source: tocsin
  tags: [shop]
`

// withRules has a hub judge by a file of rules, and returns its name.
func withRules(t *testing.T, o *Options, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "rules.yaml")
	writeRules(t, file, text)
	o.Config.Rules.Files = []string{file}
	o.Config.Rules.Reload = config.Duration(500 * time.Millisecond)
	return file
}

func writeRules(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// reloadRulesOf loads rules and those with a mistake, and the first again.
func reloadRulesOf(t *testing.T, a *App, file string) {
	t.Helper()
	writeRules(t, file, "- rule: [")
	if status, text := askRules(t, a, "POST", "/reload", root, nil); status != http.StatusBadRequest || !strings.Contains(text, "rules.yaml:1:") {
		t.Errorf("%d %s", status, text)
	}
	writeRules(t, file, orderRule)
	if status, text := askRules(t, a, "POST", "/reload", root, nil); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
}

// askRules makes a request below /api/v1/rules.
func askRules(t *testing.T, a *App, method, path, token string, v any) (status int, text string) {
	t.Helper()
	r, err := http.NewRequest(method, a.URL()+"/api/v1/rules"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if v != nil && response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, v); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
	}
	return response.StatusCode, string(body)
}

func publishOrder(t *testing.T, a *App, n, amount int) {
	t.Helper()
	body := fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/shop","type":"shop/order","subject":"orders","data":{"customer":"c%d","amount":%d}}`, n, n, amount)
	r, err := http.NewRequest("POST", a.URL()+"/api/v1/events", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", root)
	r.Header.Set("Content-Type", "application/cloudevents+json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("%d %s", response.StatusCode, text)
	}
}

// Alerts are events: subscribed to, counted, and listed with their rules; by those who may.
func TestRules(t *testing.T) {
	t.Parallel()
	o := options(t)
	file := withRules(t, &o, orderRule+strings.Replace(orderRule, "Large order", "Other", 1))
	a, _ := start(t, o)
	alerts := subscribe(t, a, client.Options{}, "alert/*")
	publishOrder(t, a, 1, 50)
	publishOrder(t, a, 2, 500)
	m, _ := next(t, alerts)
	if out, _ := m.Event.Metadata.Text("output"); m.Event.Type != "alert/large-order" || out != "Order of 500 by c2" {
		t.Errorf("got %s %q", m.Event.Type, out)
	}

	var list api.RuleList
	if status, text := askRules(t, a, "GET", "", root, &list); status != 200 || list.State != "judging" || len(list.Rules) != 2 || list.Rules[0].Alerts != 1 || list.Rules[0].Slug != "large-order" || list.Files != 1 {
		t.Errorf("%d %s", status, text)
	}
	var one api.Rule
	if status, text := askRules(t, a, "GET", "/large-order", root, &one); status != 200 || one.Condition == "" || one.Priority != "Critical" {
		t.Errorf("%d %s", status, text)
	}
	if status, _ := askRules(t, a, "GET", "/nothing", root, nil); status != 404 {
		t.Errorf("a rule that there is not: %d", status)
	}
	if status, _ := askRules(t, a, "GET", "/reload", root, nil); status != 405 {
		t.Errorf("reload by GET: %d", status)
	}
	if status, _ := askRules(t, a, "GET", "?x=y", root, nil); status != 400 {
		t.Errorf("an unknown parameter: %d", status)
	}
	if status, _ := askRules(t, a, "GET", "", "wrong", nil); status != 403 {
		t.Errorf("a wrong token: %d", status)
	}
	if status, _ := call(t, a, root, "PUT", "sys/policies/acl/looks", map[string]any{"policy": `path "sys/rules/" { capabilities = ["list"] } path "sys/rules/other" { capabilities = ["deny"] }`}); status/100 != 2 {
		t.Fatal(status)
	}
	_, answer := call(t, a, root, "POST", "auth/token/create", map[string]any{"policies": []string{"looks"}})
	looks, _ := answer["client_token"].(string)
	if status, text := askRules(t, a, "GET", "", looks, &list); status != 200 || len(list.Rules) != 1 {
		t.Errorf("%d %s", status, text)
	}
	for method, path := range map[string]string{"GET": "/large-order", "POST": "/reload"} {
		if status, _ := askRules(t, a, method, path, looks, nil); status != 403 {
			t.Errorf("%s %s: %d", method, path, status)
		}
	}
	if status, text := call(t, a, root, "GET", "sys/health", nil); status != 200 {
		t.Errorf("%d %v", status, text)
	}

	// A signal loads them, too.
	writeRules(t, file, strings.Replace(orderRule, "Large order", "Big order", 1))
	a.Reopen()
	publishOrder(t, a, 3, 500)
	if m, _ := next(t, alerts); m.Event.Type != "alert/big-order" {
		t.Errorf("got %s", m.Event.Type)
	}
}

func TestNoRules(t *testing.T) {
	t.Parallel()
	a, _ := start(t, options(t))
	var list api.RuleList
	if status, text := askRules(t, a, "GET", "", root, &list); status != 200 || list.State != "off" || len(list.Rules) != 0 {
		t.Errorf("%d %s", status, text)
	}
	if status, text := askRules(t, a, "POST", "/reload", root, nil); status != 404 || !strings.Contains(text, "this hub has no rules") {
		t.Errorf("%d %s", status, text)
	}
}

// The rules that come with the program raise alerts about a recorded audit log.
func TestBuiltinRules(t *testing.T) {
	t.Parallel()
	o := options(t, "../auditlog/testdata/openbao-audit-small.jsonl")
	o.Config.Rules.Builtin = []config.RuleSet{config.RulesVault}
	o.Config.Rules.From = config.FromStart
	a, _ := start(t, o)
	alerts := subscribe(t, a, client.Options{Since: "oldest"}, "alert/*")
	for {
		if m, _ := next(t, alerts); m.Event.Type == "alert/vault-root-token-used" {
			return
		}
	}
}

// Rules with a mistake keep nothing else from working.
func TestBrokenRules(t *testing.T) {
	t.Parallel()
	o := options(t)
	file := withRules(t, &o, "- rule: [")
	a, _ := start(t, o)
	publishOrder(t, a, 1, 500)
	report := a.health.Report()
	if report.Status != "degraded" || !report.Ready {
		t.Errorf("got %+v", report)
	}
	writeRules(t, file, orderRule)
	alerts := subscribe(t, a, client.Options{Since: "oldest"}, "alert/*")
	if m, _ := next(t, alerts); m.Event.Type != "alert/large-order" {
		t.Errorf("got %s", m.Event.Type)
	}
	for deadline := time.Now().Add(time.Minute); a.health.Report().Status != "ok"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %+v", a.health.Report())
		}
	}
}
