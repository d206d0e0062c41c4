package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeHub answers each request with what a test says, and remembers the requests.
type fakeHub struct {
	*httptest.Server
	requests []string // METHOD path?query body
	tokens   []string
	answer   func(request string) (status int, body string)
}

func newFakeHub(t *testing.T) *fakeHub {
	t.Helper()
	cleanEnvironment(t)
	h := &fakeHub{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		request := strings.TrimSpace(r.Method + " " + r.RequestURI + " " + string(body))
		h.requests = append(h.requests, request)
		h.tokens = append(h.tokens, r.Header.Get("X-Vault-Token")+"@"+r.Header.Get("X-Vault-Namespace"))
		status, answer := h.answer(request)
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	t.Cleanup(h.Close)
	t.Setenv(addressEnv, h.URL)
	t.Setenv(tokenEnv, "t0ken")
	return h
}

// command executes a command line with standard input.
func command(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	code = Run(t.Context(), args, Streams{In: strings.NewReader(stdin), Out: &out, Err: &err})
	return code, out.String(), err.String()
}

const (
	authAnswer = `{"request_id":"r","lease_id":"","renewable":false,"data":null,"warnings":["it is <short>"],"auth":{"client_token":"hvs.made","accessor":"acc1",` +
		`"policies":["default","team"],"token_policies":["default","team"],"metadata":{"b":"2","a":"1"},"lease_duration":3600,"renewable":true,"entity_id":"","token_type":"service","orphan":true,"num_uses":3},"mount_type":"token"}`
	lookupAnswer = `{"request_id":"r","data":{"id":"hvs.it","accessor":"acc1","display_name":"token-x","policies":["default","team"],"namespace_path":"ns1/","path":"auth/token/create","meta":null,` +
		`"issue_time":"2026-01-02T03:04:05Z","expire_time":"2026-01-02T04:04:05Z","ttl":90,"period":0,"explicit_max_ttl":86400,"num_uses":0,"renewable":true,"orphan":false,"creation_ttl":3600},"warnings":null,"auth":null}`
)

func TestManage(t *testing.T) {
	for _, tc := range []struct {
		name, args, stdin string
		status            int
		answer            string
		request           string // the one that is made
		code              int
		stdout, stderr    []string
	}{
		{
			name: "policy write", args: "policy write team -", stdin: "path \"a\" {}\n", status: 204,
			request: `PUT /v1/sys/policies/acl/team {"policy":"path \"a\" {}\n"}`, stdout: []string{"Policy team is stored.\n"},
		},
		{
			name: "policy write with a warning", args: "policy write Team -", stdin: "# none", status: 200, answer: `{"warnings":["lower case"]}`,
			request: `PUT /v1/sys/policies/acl/Team {"policy":"# none"}`, stdout: []string{"is stored"}, stderr: []string{"Warning: lower case\n"},
		},
		{
			name: "policy write refused", args: "policy write root -", stdin: "# none", status: 400, answer: `{"errors":["cannot update \"root\""]}`,
			request: `PUT /v1/sys/policies/acl/root {"policy":"# none"}`, code: 1, stderr: []string{`Error: server answered 400: cannot update "root"`},
		},
		{
			name: "policy read", args: "policy read team", status: 200, answer: `{"data":{"name":"team","policy":"path \"a\" {}\n"}}`,
			request: "GET /v1/sys/policies/acl/team", stdout: []string{"path \"a\" {}\n"},
		},
		{
			name: "policy read as JSON", args: "policy read team -format=json", status: 200, answer: `{"data":{"name":"team","policy":"<a>"}}`,
			request: "GET /v1/sys/policies/acl/team", stdout: []string{"{\n  \"policy\": \"<a>\"\n}\n"},
		},
		{
			name: "policy read of none", args: "policy read team --namespace ns1", status: 404, answer: `{"errors":[]}`,
			request: "GET /v1/sys/policies/acl/team", code: 1, stderr: []string{`Error: there is no policy "team" in namespace "ns1"`, `"tocsin policy list"`},
		},
		{
			name: "policy read from something else", args: "policy read team", status: 404, answer: `404 page not found`,
			request: "GET /v1/sys/policies/acl/team", code: 1, stderr: []string{"Is http://127.0.0.1:"},
		},
		{
			name: "policy list", args: "policy list", status: 200, answer: `{"data":{"keys":["default","te\u001bam"],"policies":[]}}`,
			request: "GET /v1/sys/policies/acl?list=true", stdout: []string{"default\nte\ufffdam\n"},
		},
		{
			name: "policy list as JSON", args: "policy list --format json", status: 200, answer: `{"data":{"keys":["default"]}}`,
			request: "GET /v1/sys/policies/acl?list=true", stdout: []string{"[\n  \"default\"\n]\n"},
		},
		{
			name: "policy list of none", args: "policy list --format json", status: 404, answer: `{"errors":[]}`,
			request: "GET /v1/sys/policies/acl?list=true", stdout: []string{"[]\n"},
		},
		{
			name: "policy delete", args: "policy delete team", status: 204,
			request: "DELETE /v1/sys/policies/acl/team", stdout: []string{"Policy team is removed.\n"},
		},
		{
			name: "denied", args: "policy delete team", status: 403, answer: `{"errors":["permission denied"]}`,
			request: "DELETE /v1/sys/policies/acl/team", code: 1, stderr: []string{"Error: server answered 403: permission denied\n", "The token from $TOCSIN_TOKEN is not valid at http"},
		},
		{
			name: "token create", args: "token create -policy=team --policy x --ttl 1h --period 1d --explicit-max-ttl 30d --use-limit 3 --metadata a=1 --metadata b=2=3 --display-name x --no-default-policy --renewable=false",
			status: 200, answer: authAnswer,
			request: `POST /v1/auth/token/create {"display_name":"x","explicit_max_ttl":"2592000s","meta":{"a":"1","b":"2=3"},"no_default_policy":true,"num_uses":3,"period":"86400s","policies":["team","x"],"renewable":false,"ttl":"3600s","type":"service"}`,
			stdout:  []string{"token      hvs.made\n", "accessor   acc1\n", "policies   default, team\n", "metadata   a=1, b=2\n", "valid      1h\n", "uses left  3\n"},
			stderr:  []string{"Warning: it is <short>\n"},
		},
		{
			name: "token create for scripts", args: "token create --orphan -field=token", status: 200, answer: authAnswer,
			request: `POST /v1/auth/token/create-orphan {"display_name":"","explicit_max_ttl":"0s","no_default_policy":false,"num_uses":0,"period":"0s","renewable":true,"ttl":"0s","type":"service"}`,
			stdout:  []string{"hvs.made\n"},
		},
		{
			name: "token create as JSON", args: "token create --orphan --format json", status: 200, answer: authAnswer,
			request: `POST /v1/auth/token/create-orphan {"display_name":"","explicit_max_ttl":"0s","no_default_policy":false,"num_uses":0,"period":"0s","renewable":true,"ttl":"0s","type":"service"}`,
			stdout:  []string{`    "client_token": "hvs.made",`, `    "lease_duration": 3600,`},
		},
		{
			name: "token list", args: "token list", status: 200, answer: `{"data":{"keys":["acc1","acc2"]}}`,
			request: "GET /v1/auth/token/accessors?list=true", stdout: []string{"acc1\nacc2\n"},
		},
		{
			name: "token lookup", args: "token lookup", status: 200, answer: lookupAnswer, request: "GET /v1/auth/token/lookup-self",
			stdout: []string{"accessor          acc1\n", "expires           2026-01-02T04:04:05Z (in 1m30s)\n", "explicit max ttl  1d\n", "namespace         ns1/\n"},
		},
		{
			name: "token lookup as JSON", args: "token lookup --format json", status: 200, answer: lookupAnswer, request: "GET /v1/auth/token/lookup-self",
			stdout: []string{`"accessor": "acc1"`, `"creation_ttl": 3600`},
		},
		{
			name: "token lookup by accessor", args: "token lookup --accessor acc1", status: 200, answer: lookupAnswer,
			request: `POST /v1/auth/token/lookup-accessor {"accessor":"acc1"}`, stdout: []string{"acc1"},
		},
		{
			name: "token lookup of one on standard input", args: "token lookup -", stdin: "hvs.it\n", status: 200, answer: lookupAnswer,
			request: `POST /v1/auth/token/lookup {"token":"hvs.it"}`, stdout: []string{"acc1"},
		},
		{
			name: "token renew", args: "token renew", status: 200, answer: authAnswer,
			request: `PUT /v1/auth/token/renew-self {}`, stdout: []string{"valid      1h\n"}, stderr: []string{"Warning"},
		},
		{
			name: "token renew as JSON", args: "token renew --increment 2h --accessor acc1 --format json", status: 200, answer: authAnswer,
			request: `PUT /v1/auth/token/renew-accessor {"accessor":"acc1","increment":"7200s"}`, stdout: []string{`"accessor": "acc1"`},
		},
		{
			name: "token renew of one on standard input", args: "token renew -", stdin: "hvs.it", status: 200, answer: authAnswer,
			request: `PUT /v1/auth/token/renew {"token":"hvs.it"}`, stdout: []string{"acc1"},
		},
		{
			name: "token revoke", args: "token revoke -self", status: 204, request: `PUT /v1/auth/token/revoke-self {}`, stdout: []string{"The token is revoked.\n"},
		},
		{
			name: "token revoke by accessor", args: "token revoke --accessor acc1", status: 204, request: `PUT /v1/auth/token/revoke-accessor {"accessor":"acc1"}`,
			stdout: []string{"revoked"},
		},
		{
			name: "token revoke of one on standard input", args: "token revoke -mode=orphan -", stdin: "hvs.it", status: 204,
			request: `PUT /v1/auth/token/revoke-orphan {"token":"hvs.it"}`, stdout: []string{"revoked"},
		},
		{
			name: "token capabilities", args: "token capabilities secret/a", status: 200, answer: `{"data":{"capabilities":["list","subscribe"],"secret/a":["list","subscribe"]}}`,
			request: `POST /v1/sys/capabilities-self {"paths":["secret/a"]}`, stdout: []string{"list, subscribe\n"},
		},
		{
			name: "token capabilities of another", args: "token capabilities --format json secret/a -", stdin: "hvs.it", status: 200, answer: `{"data":{"capabilities":["deny"]}}`,
			request: `POST /v1/sys/capabilities {"paths":["secret/a"],"token":"hvs.it"}`, stdout: []string{"[\n  \"deny\"\n]\n"},
		},
		{
			name: "not an answer", args: "token lookup", status: 200, answer: "<html>", request: "GET /v1/auth/token/lookup-self", code: 1,
			stderr: []string{"the answer is not of Vault's API", "Is http://127.0.0.1:"},
		},
		{
			name: "data of another kind", args: "token lookup", status: 200, answer: `{"data":[1]}`, request: "GET /v1/auth/token/lookup-self", code: 1,
			stderr: []string{"the answer is not of Vault's API"},
		},
		{
			name: "no token in the answer", args: "token create", status: 200, answer: `{}`, code: 1, stderr: []string{"it has no token"},
			request: `POST /v1/auth/token/create {"display_name":"","explicit_max_ttl":"0s","no_default_policy":false,"num_uses":0,"period":"0s","renewable":true,"ttl":"0s","type":"service"}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newFakeHub(t)
			h.answer = func(string) (int, string) { return tc.status, tc.answer }
			code, stdout, stderr := command(t, tc.stdin, strings.Fields(tc.args)...)
			if code != tc.code || len(h.requests) != 1 || h.requests[0] != tc.request {
				t.Fatalf("exit %d, requests %q\n%s%s", code, h.requests, stdout, stderr)
			}
			for _, want := range tc.stdout {
				if !strings.Contains(stdout, want) {
					t.Errorf("stdout lacks %q:\n%s", want, stdout)
				}
			}
			for _, want := range tc.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr lacks %q:\n%s", want, stderr)
				}
			}
			if len(tc.stdout) == 0 && stdout != "" || len(tc.stderr) == 0 && stderr != "" && tc.answer != authAnswer {
				t.Errorf("also printed\n%s%s", stdout, stderr)
			}
			if !strings.HasPrefix(tc.args, "token create") && strings.Contains(stdout+stderr, "hvs.") || strings.Contains(stdout+stderr, "t0ken") {
				t.Errorf("a token was printed:\n%s%s", stdout, stderr)
			}
		})
	}
}

// What is wrong with a text is said with the place; nothing is sent.
func TestPolicyWriteChecksFirst(t *testing.T) {
	h := newFakeHub(t)
	file := filepath.Join(t.TempDir(), "bad.hcl")
	if err := os.WriteFile(file, []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := command(t, "", "policy", "write", "team", file)
	if code != exitError || stdout != "" || !strings.Contains(stderr, "\n"+file+":1:") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, _, stderr = command(t, strings.Repeat("x", 300<<10), "policy", "write", "team", "-")
	if code != exitError || !strings.Contains(stderr, "standard input is larger than 256 KiB") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	if code, _, stderr = command(t, "", "policy", "write", "team", file+"x"); code != exitError || !strings.Contains(stderr, "no such file") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	if code, _, _ = command(t, "", "policy", "write", " ", file); code != exitUsage {
		t.Errorf("an empty name: exit %d", code)
	}
	if len(h.requests) > 0 {
		t.Errorf("requests %q", h.requests)
	}
}

// An argument that could be a token is not repeated.
func TestTokensAreNoArguments(t *testing.T) {
	newFakeHub(t)
	for _, args := range []string{"login hvs.s3cret", "token lookup hvs.s3cret", "token renew hvs.s3cret", "token revoke hvs.s3cret", "token capabilities a hvs.s3cret", "token create hvs.s3cret", "logout hvs.s3cret"} {
		code, stdout, stderr := command(t, "", strings.Fields(args)...)
		if code != exitUsage || strings.Contains(stdout+stderr, "s3cret") {
			t.Errorf("%s: exit %d\n%s%s", args, code, stdout, stderr)
		}
	}
}

func TestTokenInput(t *testing.T) {
	h := newFakeHub(t)
	for stdin, want := range map[string]string{
		"":                                   "standard input is empty",
		" \n":                                "standard input is empty",
		"hvs.one\nhvs.two\n":                 "more than a token",
		"hvs.one two":                        "more than a token",
		"hvs.\xff\xfe":                       "more than a token",
		"hvs.\x1b[2J":                        "more than a token",
		strings.Repeat("x", maxTokenBytes*2): "more than 65536 bytes",
	} {
		code, _, stderr := command(t, stdin, "token", "lookup", "-")
		if code != exitError || !strings.Contains(stderr, want) || strings.Contains(stderr, "hvs") {
			t.Errorf("%.20q: exit %d, %s", stdin, code, stderr)
		}
	}
	if len(h.requests) > 0 {
		t.Errorf("requests %q", h.requests)
	}
}

func TestLogin(t *testing.T) {
	h := newFakeHub(t)
	t.Setenv(tokenEnv, "")
	status := 403
	h.answer = func(string) (int, string) {
		if status != 200 {
			return status, `{"errors":["bad token"]}`
		}
		return 200, lookupAnswer
	}
	// One that is not accepted is not kept.
	code, stdout, stderr := command(t, "hvs.it\n", "login")
	if code != exitError || stdout != "" || !strings.Contains(stderr, "The token from standard input is not valid") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if token, err := storedToken(parsed(t, h.URL)); token != "" || err != nil {
		t.Errorf("stored %q, %v", token, err)
	}
	status = 200
	code, stdout, stderr = command(t, "  hvs.it\r\n", "login")
	if code != exitOK || stderr != "" || !strings.Contains(stdout, "accessor          acc1\n") || strings.Contains(stdout, "hvs") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	file, err := tokenFile(parsed(t, h.URL))
	if err != nil || !strings.Contains(stdout, file) {
		t.Errorf("%s, %v", file, err)
	}
	for path, mode := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	// Later commands use it, at this address only.
	if code, _, stderr = command(t, "", "token", "lookup"); code != exitOK || h.tokens[len(h.tokens)-1] != "hvs.it@" {
		t.Errorf("exit %d, token %q\n%s", code, h.tokens, stderr)
	}
	if code, _, stderr = command(t, "", "token", "lookup", "--address", strings.Replace(h.URL, "127.0.0.1", "localhost", 1)); h.tokens[len(h.tokens)-1] != "@" {
		t.Errorf("exit %d, token %q\n%s", code, h.tokens, stderr)
	}
	// What goes before it is said.
	t.Setenv(tokenEnv, "other")
	if _, _, stderr = command(t, "hvs.it", "login", "-"); !strings.Contains(stderr, "Warning: TOCSIN_TOKEN is set") {
		t.Errorf("stderr %s", stderr)
	}
	t.Setenv(tokenEnv, "")
	// From a file.
	other := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(other, []byte("hvs.file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr = command(t, "", "login", "--token-file", other, "--namespace", "ns1"); code != exitOK || h.tokens[len(h.tokens)-1] != "hvs.file@ns1" {
		t.Errorf("exit %d, token %q\n%s", code, h.tokens, stderr)
	}
	// A JWT is exchanged, without sending it as a token.
	exchanged := h.answer
	h.answer = func(request string) (int, string) {
		if strings.HasPrefix(request, "POST") {
			return 200, authAnswer
		}
		return exchanged(request)
	}
	code, stdout, stderr = command(t, "ey.J.WT", "login", "--method", "ci")
	n := len(h.tokens)
	if code != exitOK || h.requests[n-2] != `POST /v1/auth/ci/login {"jwt":"ey.J.WT"}` || h.tokens[n-2] != "@" || h.tokens[n-1] != "hvs.made@" || strings.Contains(stdout, "hvs") {
		t.Errorf("exit %d, %q %q\n%s%s", code, h.requests[n-2:], h.tokens[n-2:], stdout, stderr)
	}
	h.answer = func(string) (int, string) { return 404, `{"errors":["unsupported path"]}` }
	if code, _, stderr = command(t, "ey.J.WT", "login", "--method", "cj"); code != exitError || !strings.Contains(stderr, "an issuer of the name cj in auth.jwt?") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	h.answer = func(string) (int, string) { return 403, `{"errors":["permission denied"]}` }
	if code, _, stderr = command(t, "ey.J.WT", "login", "--method", "ci"); code != exitError || !strings.Contains(stderr, "The token from standard input is not valid") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	h.answer = exchanged
	if code, _, stderr = command(t, "ey.J.WT", "login", "--method", "../x"); code != exitUsage {
		t.Errorf("exit %d, %s", code, stderr)
	}
	// The end.
	if code, stdout, _ = command(t, "", "logout"); code != exitOK || !strings.Contains(stdout, "is removed here") {
		t.Errorf("exit %d, %s", code, stdout)
	}
	if code, stdout, _ = command(t, "", "logout"); code != exitOK || !strings.Contains(stdout, "No token is stored") {
		t.Errorf("exit %d, %s", code, stdout)
	}
	if code, _, stderr = command(t, "", "token", "lookup"); h.tokens[len(h.tokens)-1] != "@" {
		t.Errorf("exit %d, token %q\n%s", code, h.tokens, stderr)
	}
}

// Revoking the token of a login removes it here as well, and no other does.
func TestRevokeEndsLogin(t *testing.T) {
	h := newFakeHub(t)
	t.Setenv(tokenEnv, "")
	h.answer = func(string) (int, string) { return 204, "" }
	for _, tc := range []struct {
		args, stdin string
		left        string
	}{
		{"token revoke --self", "", ""},
		{"token revoke -", "hvs.it", ""},
		{"token revoke -", "hvs.other", "hvs.it"},
		{"token revoke --accessor x", "", "hvs.it"},
	} {
		if _, err := storeToken(parsed(t, h.URL), "hvs.it"); err != nil {
			t.Fatal(err)
		}
		if code, _, stderr := command(t, tc.stdin, strings.Fields(tc.args)...); code != exitOK {
			t.Errorf("%s: exit %d, %s", tc.args, code, stderr)
		}
		if left, err := storedToken(parsed(t, h.URL)); left != tc.left || err != nil {
			t.Errorf("%s %s: %q is left, %v", tc.args, tc.stdin, left, err)
		}
	}
}

func TestStatus(t *testing.T) {
	h := newFakeHub(t)
	for _, tc := range []struct {
		name   string
		status int
		body   string
		code   int
		want   string
	}{
		{"ok", 200, `{"status":"ok","live":true,"ready":true,"checks":[{"name":"journal","ok":true,"since":"2026-01-02T03:04:05Z"}]}`, 0, "journal  ok\n"},
		{"degraded", 503, `{"status":"degraded","live":true,"ready":true,"checks":[{"name":"source","ok":false,"reason":"no \u001bfile","since":"2026-01-02T03:04:05Z"}]}`, 0, "no \ufffdfile (since 2026-01-0"},
		{"unready", 503, `{"status":"unready","live":true,"ready":false,"checks":[{"name":"journal","ok":false,"reason":"disk full"}]}`, 1, "status   unready\njournal  disk full"},
		{"not a hub", 404, `404 page not found`, 1, "Is http://127.0.0.1"},
		{"something else", 200, `{}`, 1, "Is http://127.0.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.answer = func(request string) (int, string) {
				if request == "GET /v1/sys/seal-status" {
					return 200, `{"version":"1.2.3"}`
				}
				return tc.status, tc.body
			}
			code, stdout, stderr := command(t, "", "status")
			if code != tc.code || !strings.Contains(stdout+stderr, tc.want) || strings.Contains(stdout, "status") != strings.Contains(stdout, "version  1.2.3") {
				t.Errorf("exit %d\n%s%s", code, stdout, stderr)
			}
			if h.tokens[len(h.tokens)-1] != "@" {
				t.Error("the token was sent")
			}
			code, stdout, _ = command(t, "", "status", "--format", "json")
			if code != tc.code || tc.code == 0 && !json.Valid([]byte(stdout)) {
				t.Errorf("as JSON: exit %d\n%s", code, stdout)
			}
		})
	}
}

func TestPolicyFmt(t *testing.T) {
	dir := t.TempDir()
	const messy, tidy = "path   \"a\" { capabilities=[\"read\"] }", "path \"a\" {\n  capabilities = [\"read\"]\n}\n"
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	one, two, bad := write("one.hcl", messy, 0o640), write("two.hcl", tidy, 0o600), write("bad.hcl", "path \"a\" {\n  capabilites = []\n}\n", 0o600)
	link := filepath.Join(dir, "link.hcl")
	if err := os.Symlink(one, link); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := command(t, "", "policy", "fmt", "--check", one, two)
	if code != exitError || stdout != one+"\n" || !strings.Contains(stderr, "1 of 2 policies are not in the canonical layout") || read(one) != messy {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = command(t, "", "policy", "fmt", bad, one)
	if code != exitError || stdout != "" || !strings.Contains(stderr, fmt.Sprintf("\n%s:2:", bad)) || read(one) != messy {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = command(t, "", "policy", "fmt", link, two)
	if code != exitOK || stdout != link+"\n" || stderr != "" || read(one) != tidy {
		t.Errorf("exit %d\n%s%s%s", code, stdout, stderr, read(one))
	}
	if info, err := os.Lstat(one); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is replaced: %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if code, stdout, stderr = command(t, messy, "policy", "fmt", "-"); code != exitOK || stdout != tidy || stderr != "" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if code, stdout, _ = command(t, messy, "policy", "fmt", "--check", "-"); code != exitError || stdout != "standard input\n" {
		t.Errorf("exit %d\n%s", code, stdout)
	}
	if code, stdout, _ = command(t, tidy, "policy", "fmt", "--check", "-"); code != exitOK || stdout != "" {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}
