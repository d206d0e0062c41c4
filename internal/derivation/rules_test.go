package derivation

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
)

var update = flag.Bool("update", false, "rewrite golden files and docs/event-types.md")

// golden compares got with a file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		wl, gl := strings.Split(string(want), "\n"), strings.Split(got, "\n")
		for i := range max(len(wl), len(gl)) {
			w, g := "", ""
			if i < len(wl) {
				w = wl[i]
			}
			if i < len(gl) {
				g = gl[i]
			}
			if w != g {
				t.Fatalf("%s, line %d (run with -update after a wanted change):\n got %s\nwant %s", file, i+1, g, w)
			}
		}
	}
}

// TestRecordedRules shows every event beside kv of the recorded runs.
func TestRecordedRules(t *testing.T) {
	for _, name := range []string{"openbao", "kv025"} {
		var b strings.Builder
		lines := readLines(t, "../auditlog/testdata/"+name+"-audit-small.jsonl")
		for _, e := range derive(t, New(Options{Source: "vault://t"}), lines) {
			if strings.HasPrefix(e.Type, "kv-v") {
				continue
			}
			fmt.Fprintf(&b, "%s ns=%q", e.Type, e.Namespace)
			for f := range e.Metadata.All() {
				fmt.Fprintf(&b, " %s=%q", f.Key, f.Value)
			}
			if p := e.Plugin; p != nil {
				fmt.Fprintf(&b, " mount=%s %s %s", p.MountClass, p.Plugin, p.MountPath)
			}
			b.WriteByte('\n')
		}
		golden(t, "testdata/"+name+"-rules.golden", b.String())
	}
}

func TestRules(t *testing.T) {
	types := make(map[string]bool)
	for _, r := range Rules {
		if err := event.CheckType(r.Type); err != nil {
			t.Errorf("%s: %v", r.Type, err)
		}
		if strings.HasPrefix(r.Path, "{") {
			t.Errorf("%s: the index needs a literal first element, not %s", r.Type, r.Path)
		}
		if strings.HasPrefix(r.Type, "kv-v") || strings.HasPrefix(r.Type, "audit/") {
			t.Errorf("%s: the name is taken", r.Type)
		}
		types[r.Type] = true
	}
	// Names of Vault's own events with these prefixes; others must not look like them.
	vault := strings.Fields(`database/config-delete database/config-write database/creds-create database/role-create database/role-delete
		database/role-update database/root-rotate database/rotate database/static-creds-create database/static-role-create
		database/static-role-delete database/static-role-update database/reset database/root-rotate-fail database/rotate-fail
		database/static-creds-create-fail database/reload database/reload-connection database/reload-connection-fail
		ldap/config-delete ldap/config-write ldap/creds-create ldap/library-check-in ldap/library-check-out ldap/library-create
		ldap/library-delete ldap/library-update ldap/role-create ldap/role-delete ldap/role-update ldap/root-rotate ldap/rotate
		ldap/static-role-create ldap/static-role-delete ldap/static-role-update ldap/creds-create-fail ldap/root-rotate-fail
		ldap/rotate-fail azure/config-write azure/creds-create azure/rotate azure/creds-create-fail azure/rotate-fail
		azure/role-create azure/role-update azure/static-role-update`)
	for kind := range types {
		for _, plugin := range []string{"database/", "ldap/", "azure/"} {
			if strings.HasPrefix(kind, plugin) && !slices.Contains(vault, kind) {
				t.Errorf("%s looks like a name of Vault, but is none", kind)
			}
		}
	}
}

// TestRuleEntries shows what single entries give.
func TestRuleEntries(t *testing.T) {
	const ok = `,"response":{}`
	tests := []struct{ name, entry, want string }{
		{"policy with slashes", `"type":"response","request":{"operation":"update","mount_type":"system","mount_point":"sys/","path":"sys/policies/acl/a/b"}` + ok,
			`policy/write modified=true name=a/b operation=write path=sys/policies/acl/a/b`},
		{"mount in a namespace", `"type":"response","request":{"operation":"update","namespace":{"id":"x","path":"ns1/"},"mount_type":"ns_system","mount_point":"ns1/sys/","path":"sys/mounts/a/b"}` + ok,
			`mount/enable modified=true mount=a/b operation=enable path=sys/mounts/a/b`},
		{"tune", `"type":"response","request":{"operation":"update","mount_type":"system","path":"sys/mounts/a/b/tune"}` + ok,
			`mount/tune modified=true mount=a/b operation=tune path=sys/mounts/a/b/tune`},
		{"old Vault without mount type", `"type":"response","request":{"operation":"delete","path":"sys/policy/a"}` + ok,
			`policy/delete modified=true name=a operation=delete path=sys/policy/a`},
		{"lease and its engine", `"type":"response","request":{"operation":"read","mount_type":"database","mount_class":"secret","mount_point":"db/","path":"db/creds/app"},"response":{"secret":{"lease_id":"db/creds/app/x"},"data":{"a":1}}`,
			"database/creds-create modified=true name=app operation=creds-create path=db/creds/app\n" +
				"lease/issued lease_id=db/creds/app/x modified=true operation=issued path=db/creds/app"},
		{"failed rotation", `"type":"response","error":"x","request":{"operation":"update","mount_type":"database","mount_class":"secret","mount_point":"db/","path":"db/rotate-root/pg"},"response":{}`,
			`database/root-rotate-fail modified=false name=pg operation=root-rotate-fail path=db/rotate-root/pg`},
		{"ldap auth is not the ldap engine", `"type":"response","request":{"operation":"update","mount_type":"ldap","mount_class":"auth","mount_point":"auth/ldap/","path":"auth/ldap/config"}` + ok,
			`auth/config-write method=ldap modified=true operation=config-write path=auth/ldap/config`},
		{"login", `"type":"response","request":{"operation":"update","mount_type":"userpass","mount_class":"auth","mount_point":"auth/up/","path":"auth/up/login/bob"},"response":{"auth":{"client_token":"x","display_name":"up-bob","policies":["a","b"],"token_type":"service","entity_id":"e"}}`,
			`auth/login display_name=up-bob entity_id=e method=userpass modified=true operation=login path=auth/up/login/bob policies=a,b token_type=service`},
		{"failed login without error text", `"type":"response","request":{"operation":"update","mount_type":"userpass","mount_class":"auth","mount_point":"auth/up/","path":"auth/up/login/bob"},"response":{"data":{"error":"x"}}`,
			`auth/login-failed method=userpass modified=false name=bob operation=login-failed path=auth/up/login/bob`},
		{"denied by policy", `"type":"response","error":"1 error occurred:\n\t* permission denied\n\n","auth":{"policy_results":{"allowed":false}},"request":{"operation":"read","mount_type":"kv","mount_point":"kv/","path":"kv/data/a"},"response":{}`,
			`request/denied modified=false operation=denied path=kv/data/a reason=policy request_operation=read`},
		{"what a plugin calls so", `"type":"response","error":"1 error occurred:\n\t* pq: permission denied for table users\n\n","request":{"operation":"read","mount_type":"database","mount_point":"db/","path":"db/config"},"response":{}`, ``},
		{"the request entry of a denied request", `"type":"request","error":"permission denied","request":{"operation":"read","mount_type":"kv","mount_point":"kv/","path":"kv/data/a"}`, ``},
		{"reading a policy", `"type":"response","request":{"operation":"read","mount_type":"system","mount_point":"sys/","path":"sys/policies/acl/a"}` + ok, ``},
		{"token in a mount named like the token store", `"type":"response","request":{"operation":"update","mount_type":"kv","mount_point":"auth/token/","path":"auth/token/create"}` + ok,
			`kv-v1/write data_path=auth/token/create modified=true operation=write path=auth/token/create`},
		{"seal", `"type":"request","request":{"operation":"update","mount_type":"system","mount_point":"sys/","path":"sys/seal"}`,
			`seal/seal modified=true operation=seal path=sys/seal`},
		{"seal-status is not seal", `"type":"request","request":{"operation":"update","mount_type":"system","mount_point":"sys/","path":"sys/seal-status"}`, ``},
	}
	for _, tt := range tests {
		e, err := new(auditlog.Parser).Parse([]byte(`{"time":"2026-01-01T00:00:00Z",` + tt.entry + `}`))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		var got []string
		for _, ev := range New(Options{Source: "vault://t"}).Apply(e) {
			s := ev.Type
			for f := range ev.Metadata.All() {
				s += " " + f.Key + "=" + f.Value
			}
			got = append(got, s)
		}
		if g := strings.Join(got, "\n"); g != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, g, tt.want)
		}
	}
}

// TestEventTypesDoc keeps the table in docs/event-types.md equal to the one in the
// code.
func TestEventTypesDoc(t *testing.T) {
	const file, begin, end = "../../docs/event-types.md", "<!-- begin table -->\n", "<!-- end table -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no table between %q and %q", file, begin, end)
	}
	golden(t, file, before+begin+ruleTable()+end+after)
}

// ruleTable is the documentation of Rules, one line per type.
func ruleTable() string {
	var order []string
	paths, metadata := make(map[string][]string), make(map[string][]string)
	add := func(to map[string][]string, kind, text string) {
		if !slices.Contains(to[kind], text) {
			to[kind] = append(to[kind], text)
		}
	}
	for _, r := range Rules {
		if !slices.Contains(order, r.Type) {
			order = append(order, r.Type)
		}
		where := fmt.Sprintf("%s: %s `%s`", r.Mounts, r.Operations, r.Path)
		where = strings.ReplaceAll(where, "*", "any auth method")
		switch r.When {
		case OnFailure:
			where += ", failed"
		case OnRequest:
			where += ", from the request entry"
		case OnRefusal:
			where += ", refused"
		}
		add(paths, r.Type, where)
		for _, key := range r.Metadata() {
			add(metadata, r.Type, key)
		}
	}
	var b strings.Builder
	b.WriteString("| type | request | metadata beside path, operation, modified |\n|---|---|---|\n")
	for _, kind := range order {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", kind, strings.Join(paths[kind], "; "), strings.Join(metadata[kind], ", "))
	}
	for _, g := range GeneralRules {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", g.Type, g.When, g.Extra)
	}
	return b.String()
}
