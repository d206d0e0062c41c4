package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
)

// faultRounds is the environment variable that says how often to kill.
const faultRounds = "TOCSIN_FAULT_ROUNDS"

// TestKillDuringChanges kills the hub while tokens are made and revoked and policies
// written, and shows after each restart that what was answered is so: a token that was
// made is valid, one that was revoked is not, nor are those made with it, and a policy
// has the text that was stored. In the end all of it is in the trail, once.
func TestKillDuringChanges(t *testing.T) {
	t.Parallel()
	rounds := 4
	if text := os.Getenv(faultRounds); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	k := newKilled(t)
	k.start()
	k.change("POST", "sys/policies/acl/maker", root, map[string]any{"policy": `path "auth/token/create" { capabilities = ["update"] }`})
	for round := range rounds {
		var changing sync.WaitGroup
		for w := range k.workers {
			changing.Go(func() { k.workers[w].changeAll() })
		}
		time.Sleep(time.Duration(20+rand.IntN(300)) * time.Millisecond)
		k.kill()
		changing.Wait()
		if round%4 == 3 { // in the middle of a start
			k.launch()
			time.Sleep(time.Duration(rand.IntN(80)) * time.Millisecond)
			k.kill()
		}
		k.start()
		for _, w := range k.workers {
			w.check(w.made[min(w.checked, len(w.made)):])
			w.checked = max(0, len(w.made)-50) // a token made lately may still be revoked
		}
		if t.Failed() {
			return
		}
	}
	made, revoked := 0, 0
	for _, w := range k.workers {
		w.check(w.made)
		made += len(w.made)
		for _, m := range w.made {
			if m.revoked {
				revoked++
			}
		}
	}
	k.checkTrail(made, revoked)
	t.Logf("%d tokens made, %d revoked", made, revoked)
	if made == 0 || revoked == 0 {
		t.Error("nothing was tested")
	}
}

// root is the root token of the hub that is killed.
const root = "the-root-token"

// killed is a hub that is killed and started again with the same data.
type killed struct {
	*testing.T
	dir     string
	starts  int
	process *exec.Cmd
	said    *bytes.Buffer
	url     string
	client  *http.Client
	workers []*changer
}

func newKilled(t *testing.T) *killed {
	k := &killed{T: t, dir: t.TempDir(), client: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	config := fmt.Sprintf("data_dir: %s\nlisten: {address: \"127.0.0.1:0\", failed_logins: {max: 0}}\n", filepath.Join(k.dir, "data"))
	if err := os.WriteFile(filepath.Join(k.dir, "tocsin.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		k.workers = append(k.workers, &changer{killed: k, policy: fmt.Sprintf("worker-%d", i)})
	}
	t.Cleanup(k.kill)
	return k
}

// launch starts the program and does not wait for anything.
func (k *killed) launch() {
	k.Helper()
	k.starts++
	k.said = new(bytes.Buffer)
	k.process = exec.Command(filepath.Join(programDir, "tocsin"), "server", "--config", filepath.Join(k.dir, "tocsin.yaml"), "--address-file", k.addressFile())
	k.process.Env = append(os.Environ(), "TOCSIN_ROOT_TOKEN="+root)
	k.process.Stderr = k.said
	if err := k.process.Start(); err != nil {
		k.Fatal(err)
	}
}

func (k *killed) addressFile() string {
	return filepath.Join(k.dir, fmt.Sprintf("address-%d", k.starts))
}

// start starts the program and waits until it serves.
func (k *killed) start() {
	k.Helper()
	k.launch()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if address, err := os.ReadFile(k.addressFile()); err == nil {
			k.url = strings.TrimSpace(string(address))
			if response, err := k.client.Get(k.url + "/api/v1/health/ready"); err == nil {
				response.Body.Close()
				if response.StatusCode == http.StatusOK {
					return
				}
			}
		}
		if time.Now().After(deadline) {
			k.kill() // so that what it said can be read
			k.Fatalf("start %d: the hub does not serve:\n%s", k.starts, k.said)
		}
	}
}

// kill ends the program as kill -9 does.
func (k *killed) kill() {
	if k.process == nil {
		return
	}
	k.process.Process.Kill()
	k.process.Wait()
	k.process = nil
	k.client.CloseIdleConnections()
}

// ask makes a request. The error says that there was no whole answer.
func (k *killed) ask(method, path, token string, body any) (status int, auth answerAuth, data map[string]any, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, auth, nil, err
	}
	r, err := http.NewRequest(method, k.url+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		return 0, auth, nil, err
	}
	r.Header.Set("X-Vault-Token", token)
	response, err := k.client.Do(r)
	if err != nil {
		return 0, auth, nil, err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	if err != nil {
		return 0, auth, nil, err
	}
	var answer struct {
		Auth answerAuth
		Data map[string]any
	}
	if len(text) > 0 {
		err = json.Unmarshal(text, &answer)
	}
	return response.StatusCode, answer.Auth, answer.Data, err
}

type answerAuth struct {
	ClientToken string `json:"client_token"`
	Accessor    string `json:"accessor"`
}

// change makes a request that changes something. It returns false when there was no
// answer.
func (k *killed) change(method, path, token string, body any) (auth answerAuth, answered bool) {
	status, auth, data, err := k.ask(method, path, token, body)
	if err != nil {
		return auth, false
	}
	if status/100 != 2 {
		k.Errorf("%s %s: %d %v", method, path, status, data)
	}
	return auth, true
}

// made is a token whose creation was answered.
type made struct {
	answerAuth
	parent  *made // nil: root
	revoked bool  // the revocation was answered
	asked   bool  // for the revocation
	gone    bool  // it was not valid after a restart
}

// mayBeGone and mustBeGone are what is allowed after a restart.
func (m *made) mayBeGone() bool  { return m != nil && (m.asked || m.parent.mayBeGone()) }
func (m *made) mustBeGone() bool { return m != nil && (m.revoked || m.gone || m.parent.mustBeGone()) }

// changer makes changes, one after the other.
type changer struct {
	*killed
	made    []*made
	checked int // those before are done with
	policy  string
	stored  int // of the policy: the last text that was answered
	sent    int // and the last one that was sent
}

func (c *changer) text() string {
	return fmt.Sprintf("path \"n%d\" { capabilities = [\"read\"] }", c.sent)
}

// changeAll makes changes until one is not answered.
func (c *changer) changeAll() {
	create := map[string]any{"policies": []string{"maker"}, "ttl": "1h"}
	for !c.Failed() {
		var parent *made
		token := root
		if n := len(c.made); n > 0 && rand.IntN(3) == 0 {
			if m := c.made[max(0, n-1-rand.IntN(5))]; !m.mayBeGone() {
				parent, token = m, m.ClientToken
			}
		}
		auth, ok := c.change("POST", "auth/token/create", token, create)
		if !ok {
			return
		}
		c.made = append(c.made, &made{answerAuth: auth, parent: parent})
		if m := c.made[max(0, len(c.made)-1-rand.IntN(10))]; rand.IntN(2) == 0 && !m.mayBeGone() {
			m.asked = true
			if _, m.revoked = c.change("POST", "auth/token/revoke", root, map[string]any{"token": m.ClientToken}); !m.revoked {
				return
			}
		}
		c.sent++
		if _, ok := c.change("POST", "sys/policies/acl/"+c.policy, root, map[string]any{"policy": c.text()}); !ok {
			return
		}
		c.stored = c.sent
	}
}

// check compares what the hub says with what it said before it was killed.
func (c *changer) check(tokens []*made) {
	c.Helper()
	for _, m := range tokens {
		status, _, data, err := c.ask("GET", "auth/token/lookup-self", m.ClientToken, nil)
		switch {
		case err != nil:
			c.Fatal(err)
		case status == http.StatusOK && m.mustBeGone():
			c.Errorf("token %s is valid again, or it was revoked (%v), or a token that it was made with", m.Accessor, m.revoked)
		case status == http.StatusOK && (data["accessor"] != m.Accessor || fmt.Sprint(data["policies"]) != "[default maker]"):
			c.Errorf("token %s is another one: %v", m.Accessor, data)
		case status == http.StatusForbidden && m.mayBeGone():
			m.gone = true
		case status != http.StatusOK && status != http.StatusForbidden, !m.mayBeGone() && status != http.StatusOK:
			c.Errorf("token %s: status %d", m.Accessor, status)
		}
	}
	if c.sent == 0 {
		return
	}
	status, _, data, err := c.ask("GET", "sys/policies/acl/"+c.policy, root, nil)
	if err != nil {
		c.Fatal(err)
	}
	var got int
	if status == http.StatusOK {
		fmt.Sscanf(fmt.Sprint(data["policy"]), "path \"n%d\"", &got)
	}
	if got != c.stored && got != c.sent {
		c.Errorf("policy %s: status %d, text %d, last answered %d, last sent %d", c.policy, status, got, c.stored, c.sent)
	}
	c.stored, c.sent = got, got
}

// checkTrail shows that each answered change is recorded, once.
func (k *killed) checkTrail(made, revoked int) {
	wanted := map[string]map[string]int{"tocsin/token-create": {}, "tocsin/token-revoke": {}}
	for _, w := range k.workers {
		for _, m := range w.made {
			wanted["tocsin/token-create"][m.Accessor] = 0
			if m.revoked {
				wanted["tocsin/token-revoke"][m.Accessor] = 0
			}
		}
	}
	ctx, cancel := context.WithTimeout(k.Context(), time.Minute)
	defer cancel()
	for eventType, want := range map[string]int{"tocsin/token-create": made, "tocsin/token-revoke": revoked} {
		s, err := client.Subscribe(ctx, eventType, client.Options{Address: k.url, Token: root, Since: "oldest"})
		if err != nil {
			k.Fatal(err)
		}
		for found := 0; found < want; {
			m, err := s.Next(ctx)
			if err != nil {
				k.Errorf("of %d events %s there are %d: %v", want, eventType, found, err)
				break
			}
			accessor, _ := m.Event.Metadata.Text("target_accessor")
			n, ok := wanted[eventType][accessor]
			if !ok {
				continue // it was not answered
			}
			if n++; n > 1 {
				k.Errorf("%s of %s is recorded %d times", eventType, accessor, n)
			} else {
				found++
			}
			wanted[eventType][accessor] = n
		}
		if err := s.Close(); err != nil && !errors.Is(err, context.Canceled) {
			k.Error(err)
		}
	}
}
