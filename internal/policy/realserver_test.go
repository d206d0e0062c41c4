package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestBesideRealServer compares what random policies allow with what a real Vault or
// OpenBao says. It needs the address of a server that may be written to in
// TOCSIN_TEST_UPSTREAM, and a root token of it in TOCSIN_TEST_UPSTREAM_TOKEN.
//
// Paths with a slash at the end are left out: what they are compared with depends on
// the version of the server.
func TestBesideRealServer(t *testing.T) {
	server := realServer{t, os.Getenv("TOCSIN_TEST_UPSTREAM"), os.Getenv("TOCSIN_TEST_UPSTREAM_TOKEN")}
	if server.address == "" {
		t.Skip("TOCSIN_TEST_UPSTREAM names no server")
	}
	const rounds, paths = 500, 30
	compared := 0
	for range rounds {
		var bound []Bound
		var names, texts []string
		for i := range 2 {
			name, text := fmt.Sprintf("tocsin-test-%d", i), randomText()
			p, _, err := Parse(name, text)
			status, answer := server.put("sys/policies/acl/"+name, map[string]any{"policy": text})
			if (err == nil) != (status == http.StatusNoContent) {
				t.Fatalf("the server answers %d %v, we say %v to\n%s", status, answer, err, text)
			}
			if err == nil {
				bound, names, texts = append(bound, Bound{Policy: p}), append(names, name), append(texts, text)
			}
		}
		if len(bound) == 0 {
			continue
		}
		_, created := server.put("auth/token/create", map[string]any{"policies": names, "no_default_policy": true, "ttl": "1m"})
		token := created["auth"].(map[string]any)["client_token"]
		asked := randomPaths(paths)
		status, answer := server.put("sys/capabilities", map[string]any{"token": token, "paths": asked})
		if status != http.StatusOK {
			t.Fatal(status, answer)
		}
		acl := Compile(bound, nil)
		for _, path := range asked {
			var theirs []string
			for _, name := range answer["data"].(map[string]any)[path].([]any) {
				theirs = append(theirs, name.(string))
			}
			slices.Sort(theirs)
			if ours := acl.Capabilities(path).Names(); !slices.Equal(ours, theirs) {
				t.Errorf("%q: the server says %v, we say %v of\n%s", path, theirs, ours, strings.Join(texts, "\n"))
			}
			compared++
		}
		server.put("auth/token/revoke", map[string]any{"token": token})
	}
	t.Logf("%d answers compared", compared)
}

// randomText is a policy whose rules compete for the paths of randomPaths. Some
// texts are not valid.
func randomText() string {
	segments := []string{"a", "b", "ab", "+", "a*", "*", "", "+a", "a+", "b*", "+*", "a*b"}
	capabilities := []string{"create", "read", "update", "delete", "list", "sudo", "deny", "patch", "subscribe"}
	var b strings.Builder
	seen := make(map[string]bool)
	for range 1 + rand.IntN(6) {
		pattern := strings.Join(pick(segments, 4), "/")
		if rand.IntN(4) == 0 {
			pattern += "*"
		}
		if !seen[pattern] {
			seen[pattern] = true
			fmt.Fprintf(&b, "path %q { capabilities = [\"%s\"] }\n", pattern, strings.Join(pick(capabilities, 3), `", "`))
		}
	}
	return b.String()
}

func randomPaths(n int) []string {
	var paths []string
	for len(paths) < n {
		path := strings.Join(pick([]string{"a", "b", "ab", "aba", "", "abc", "+", "*"}, 4), "/")
		if path != "" && path[0] != '/' && path[len(path)-1] != '/' {
			paths = append(paths, path)
		}
	}
	return paths
}

// pick returns one to most elements.
func pick(from []string, most int) []string {
	var picked []string
	for range 1 + rand.IntN(most) {
		picked = append(picked, from[rand.IntN(len(from))])
	}
	return picked
}

type realServer struct {
	t              *testing.T
	address, token string
}

func (s realServer) put(path string, body map[string]any) (status int, answer map[string]any) {
	s.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut, s.address+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", s.token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(content) > 0 {
		if err := json.Unmarshal(content, &answer); err != nil {
			s.t.Fatalf("%s: %s", err, content)
		}
	}
	return response.StatusCode, answer
}
