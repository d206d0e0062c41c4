package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const teamPolicy = `
path "sys/events/subscribe/kv-v2/*" {
  capabilities = ["read"]
}

path "secret/data/team-a/*" {
  capabilities          = ["list", "subscribe"]
  subscribe_event_types = ["kv-v2/*"]
}

path "secret/data/{{token.metadata.team}}/own" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["*"]
}

path "secret/*" {
  capabilities = ["read"]
}
`

// inDir makes files and changes to their directory.
func inDir(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

func TestPolicyTest(t *testing.T) {
	cleanEnvironment(t)
	inDir(t, map[string]string{
		"team.hcl": teamPolicy,
		"more.hcl": "path \"secret/data/team-a/*\" {\n  capabilities = [\"update\"]\n}\npath \"secret/data/team-a/hidden\" {\n  capabilities = [\"deny\"]\n}\n",
		"ns.hcl":   "path \"ns1/secret/*\" {\n  capabilities = [\"subscribe\"]\n  subscribe_event_types = [\"*\"]\n}\n",
	})
	for _, tc := range []struct {
		name, args string
		code       int
		want       string
	}{
		{
			name: "allowed", args: "--policy team.hcl --path /secret/data/team-a/db --event-type kv-v2/data-write",
			want: `Allowed: see kv-v2/data-write on secret/data/team-a/db
The rule grants subscribe and its event type "kv-v2/*" matches.

The rule that decides:
  team.hcl:6:6  secret/data/team-a/*  list, subscribe; events kv-v2/*

Rules that match as well, and do not count:
  team.hcl:16:6  secret/*  read  the other is longer

Rules that were skipped because of their templates:
  team.hcl:11:6  secret/data/{{token.metadata.team}}/own  {{token.metadata.team}} has no value
`,
		},
		{
			name: "another type", args: "--policy team.hcl --path secret/data/team-a/db --event-type database/creds-create --meta team=a", code: exitNotAllowed,
			want: `Not allowed: see database/creds-create on secret/data/team-a/db
None of the event types of the rule matches "database/creds-create".

The rule that decides:
  team.hcl:6:6  secret/data/team-a/*  list, subscribe; events kv-v2/*

Rules that match as well, and do not count:
  team.hcl:16:6  secret/*  read  the other is longer
`,
		},
		{
			name: "two policies", args: "--policy team.hcl --policy more.hcl --path secret/data/team-a/db --capability update --meta team=a",
			want: `Allowed: update on secret/data/team-a/db
The rule grants update.

The rule that decides:
  team.hcl:6:6  secret/data/team-a/*  list, subscribe, update; events kv-v2/*
  more.hcl:1:6                        (the same pattern: both count together)

Rules that match as well, and do not count:
  team.hcl:16:6  secret/*  read  the other is longer
`,
		},
		{
			name: "denied", args: "--policy team.hcl --policy more.hcl --path secret/data/team-a/hidden --event-type kv-v2/delete --meta team=a", code: exitNotAllowed,
			want: `Not allowed: see kv-v2/delete on secret/data/team-a/hidden
The rule denies.

The rule that decides:
  more.hcl:4:6  secret/data/team-a/hidden  deny

Rules that match as well, and do not count:
  team.hcl:6:6   secret/data/team-a/*  list, subscribe, update; events kv-v2/*  the other is the path itself
  more.hcl:1:6                         (the same pattern: both count together)
  team.hcl:16:6  secret/*              read                                     the other is the path itself
`,
		},
		{
			name: "template", args: "--policy team.hcl --meta team=b --path secret/data/b/own --event-type any/thing",
			want: `Allowed: see any/thing on secret/data/b/own
The rule grants subscribe and its event type "*" matches.

The rule that decides:
  team.hcl:11:6  secret/data/b/own  subscribe; events *

Rules that match as well, and do not count:
  team.hcl:16:6  secret/*  read  the other is the path itself
`,
		},
		{
			name: "connect", args: "--policy team.hcl --meta team=a --subscribe kv-v2/*",
			want: `Allowed: subscribe to kv-v2/*
The rule grants read.

The rule that decides:
  team.hcl:2:6  sys/events/subscribe/kv-v2/*  read
`,
		},
		{
			name: "connect to more", args: "--policy team.hcl --meta team=a --subscribe *", code: exitNotAllowed,
			want: `Not allowed: subscribe to *
No rule matches the path.
`,
		},
		{
			name: "another namespace", args: "--policy ns.hcl --event-namespace ns1 --path secret/data/x --event-type t",
			want: `Allowed: see t on ns1/secret/data/x
The rule grants subscribe and its event type "*" matches.

The rule that decides:
  ns.hcl:1:6  ns1/secret/*  subscribe; events *
`,
		},
		{
			name: "policies of a namespace", args: "--policy team.hcl --meta team=a --namespace ns1/ --subscribe kv-v2/*",
			want: `Allowed: subscribe to kv-v2/* in ns1/
The rule grants read.

The rule that decides:
  team.hcl:2:6  ns1/sys/events/subscribe/kv-v2/*  read
`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := command(t, "", append([]string{"policy", "test"}, strings.Fields(tc.args)...)...)
			if code != tc.code || stdout != tc.want || stderr != "" {
				t.Errorf("exit %d\n%s%s\nwant\n%s", code, stdout, stderr, tc.want)
			}
			code, stdout, _ = command(t, "", append([]string{"policy", "test", "--format", "json"}, strings.Fields(tc.args)...)...)
			var d decisionJSON
			if err := json.Unmarshal([]byte(stdout), &d); err != nil || code != tc.code || d.Allowed != (code == exitOK) || !strings.Contains(tc.want, sentence(d.Reason)) {
				t.Errorf("as JSON: exit %d\n%s\n%v", code, stdout, err)
			}
		})
	}
}

func TestPolicyTestJSON(t *testing.T) {
	cleanEnvironment(t)
	code, stdout, stderr := command(t, teamPolicy, "policy", "test", "-policy=-", "-path=secret/data/team-a/x", "-event-type=kv-v2/delete", "-format=json")
	const want = `{
  "allowed": true,
  "reason": "the rule grants subscribe and its event type \"kv-v2/*\" matches",
  "path": "secret/data/team-a/x",
  "operation": [
    "subscribe"
  ],
  "event_type": "kv-v2/delete",
  "rule": {
    "pattern": "secret/data/team-a/*",
    "capabilities": [
      "list",
      "subscribe"
    ],
    "event_types": [
      "kv-v2/*"
    ],
    "places": [
      {
        "policy": "standard input",
        "namespace": "",
        "line": 6,
        "column": 6,
        "pattern": "secret/data/team-a/*"
      }
    ]
  },
  "lost": [
    {
      "pattern": "secret/*",
      "capabilities": [
        "read"
      ],
      "event_types": [],
      "places": [
        {
          "policy": "standard input",
          "namespace": "",
          "line": 16,
          "column": 6,
          "pattern": "secret/*"
        }
      ],
      "reason": "the other is longer"
    }
  ],
  "skipped": [
    {
      "policy": "standard input",
      "namespace": "",
      "line": 11,
      "column": 6,
      "pattern": "secret/data/{{token.metadata.team}}/own",
      "reason": "{{token.metadata.team}} has no value"
    }
  ]
}
`
	if code != exitOK || stdout != want || stderr != "" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
}

// Who asks: each flag for templates gives its value.
func TestPolicyTestSubject(t *testing.T) {
	cleanEnvironment(t)
	for template, flag := range map[string]string{
		"token.metadata.k":               "--meta k=v",
		"token.display_name":             "--display-name v",
		"jwt.claims.k":                   "--claim k=v",
		"identity.entity.id":             "--entity-id v",
		"identity.entity.name":           "--entity-name v",
		"identity.entity.metadata.k":     "--entity-meta k=v",
		"identity.entity.aliases.a.name": "--alias a=v",
		"identity.groups.names.g.id":     "--group g=v",
		"identity.groups.ids.v.name":     "--group v=v",
	} {
		text := "path \"x/{{" + template + "}}\" {\n  capabilities = [\"read\"]\n}\n"
		args := append(strings.Fields("policy test --policy - --path x/v --capability read"), strings.Fields(flag)...)
		if code, stdout, stderr := command(t, text, args...); code != exitOK {
			t.Errorf("%s: exit %d\n%s%s", flag, code, stdout, stderr)
		}
	}
}

func TestPolicyTestUsage(t *testing.T) {
	cleanEnvironment(t)
	for args, want := range map[string]string{
		"--path a --event-type b":                              "say whose policies",
		"--policy x --path a":                                  "say what is asked",
		"--policy x --path a --event-type b --capability read": "say what is asked",
		"--policy x --event-type b":                            "--path PATH is missing",
		"--policy x --subscribe b --path a":                    "--subscribe has no --path",
		"--policy x --path a --capability fly":                 `there is no capability "fly"`,
		"--policy x --path a --capability subscribe":           "for events there is --event-type",
		"--policy x --path a --capability sudo":                "must be an operation",
		"--policy x --path a --event-type b --meta c":          "must be KEY=VALUE",
	} {
		code, stdout, stderr := command(t, "", append([]string{"policy", "test"}, strings.Fields(args)...)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d\n%s%s", args, code, stdout, stderr)
		}
	}
	code, stdout, stderr := command(t, "path \"a\" {\n  capabilities = [\"raed\"]\n}", strings.Fields("policy test --policy - --path a --capability read")...)
	if code != exitError || stdout != "" || !strings.Contains(stderr, "\nstandard input:2:") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
}

// The policies of a hub and of its tokens.
func TestPolicyTestOfAHub(t *testing.T) {
	h := newFakeHub(t)
	h.answer = func(request string) (int, string) {
		policy, _ := json.Marshal(teamPolicy)
		switch request {
		case "GET /v1/sys/policies/acl/team":
			return 200, `{"data":{"policy":` + string(policy) + `}}`
		case "GET /v1/sys/policies/acl/default":
			return 200, `{"data":{"policy":"path \"auth/token/lookup-self\" {\n  capabilities = [\"read\"]\n}"}}`
		case "GET /v1/sys/policies/acl/gone":
			return 404, `{"errors":[]}`
		case "GET /v1/auth/token/lookup-self":
			return 200, `{"data":{"id":"hvs.it","policies":["default","team"],"identity_policies":["team","gone"],"namespace_path":"ns1/","meta":{"team":"z"},"display_name":"d","entity_id":"e"}}`
		case `POST /v1/auth/token/lookup-accessor {"accessor":"root"}`:
			return 200, `{"data":{"policies":["root"],"namespace_path":"","meta":null}}`
		}
		return 403, `{"errors":["permission denied"]}`
	}
	for _, tc := range []struct {
		name, args string
		code       int
		stdout     string
		stderr     string
		tokens     string
	}{
		{"by name", "--policy-name team --path secret/data/team-a/x --event-type kv-v2/delete", 0, "  team:6:6  secret/data/team-a/*", "", "t0ken@"},
		{"by name in a namespace", "--policy-name team --namespace ns1 --path secret/data/team-a/x --event-type kv-v2/delete", 0, "  team:6:6  ns1/secret/data/team-a/*", "", "t0ken@ns1"},
		{"of the token", "--self --event-namespace ns1 --path secret/data/z/own --event-type kv-v2/delete", 0, "  team:11:6  ns1/secret/data/z/own", "Warning: there is no policy \"gone\" in namespace \"ns1/\": it allows nothing\n", "t0ken@ t0ken@ns1/ t0ken@ns1/ t0ken@ns1/"},
		{"of the token, as another", "--self --meta team=y --event-namespace ns1 --path secret/data/y/own --event-type kv-v2/delete", 0, "  team:11:6  ns1/secret/data/y/own", "Warning: ", "t0ken@ t0ken@ns1/ t0ken@ns1/ t0ken@ns1/"},
		{"of the token, not in root", "--self --path secret/data/z/own --event-type kv-v2/delete", exitNotAllowed, "No rule matches the path.", "Warning: ", "t0ken@ t0ken@ns1/ t0ken@ns1/ t0ken@ns1/"},
		{"of root", "--accessor root --path any/thing --event-type t", 0, "The policy root allows everything.", "", "t0ken@"},
		{"with a file", "--policy more.hcl --policy-name team --path other --event-type t", 0, "more.hcl:1:6", "", "t0ken@"},
		{"not readable", "--policy-name secret --path any/thing --event-type t", 1, "", "Error: policy secret: server answered 403", "t0ken@"},
		{"missing", "--policy-name gone --path any/thing --event-type t", exitNotAllowed, "No rule matches the path.", "Warning: there is no policy \"gone\"", "t0ken@"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inDir(t, map[string]string{"more.hcl": "path \"other\" {\n  capabilities = [\"subscribe\"]\n  subscribe_event_types = [\"*\"]\n}\n"})
			h.tokens = nil
			code, stdout, stderr := command(t, "", append([]string{"policy", "test"}, strings.Fields(tc.args)...)...)
			if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) || tc.stderr == "" && stderr != "" || strings.Contains(stdout+stderr, "hvs.") {
				t.Errorf("exit %d\n%s%s", code, stdout, stderr)
			}
			if got := strings.Join(h.tokens, " "); got != tc.tokens {
				t.Errorf("requests of %s", got)
			}
		})
	}
}
