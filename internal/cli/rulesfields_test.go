package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/eventfields"
)

func TestRulesFields(t *testing.T) {
	const answer = `{"fields":[{"name":"ka.verb","type":"string","list":true,"usage":"ka.verb[KEY]?","sources":["k8s_audit"],"plugin":"k8s\u001baudit","description":"The verb."}],` +
		`"problems":["the field a is not used"],"not_started":["later"]}`
	for _, tc := range []struct {
		name, args     string
		status         int
		request        string
		code           int
		stdout, stderr []string
	}{
		{name: "all", args: "", stdout: []string{"FIELD ", "evt.num ", "uint64 ", "  all     The number", "audit.auth.policies ", "list of string  tocsin  All policies", "event.data[KEY]? "}},
		{name: "of a plugin", args: "--source k8s_audit", stdout: []string{"json.value[KEY]", "event.type"}, stderr: []string{`Note: no plugin that is known here has the event source "k8s_audit"`}},
		{
			name: "of a hub", args: "--hub", status: 200, request: "GET /api/v1/rule-fields", stdout: []string{"ka.verb[KEY]?  list of string  k8s_audit  (k8s\ufffdaudit) The verb.\n"},
			stderr: []string{"Note: the field a is not used.\n", "Note: the plugin of the source later has not been started yet, so its fields are not known.\n"},
		},
		{name: "of a source of a hub", args: "--hub --source a/b -o json", status: 200, request: "GET /api/v1/rule-fields?source=a%2Fb", stdout: []string{`"usage": "ka.verb[KEY]?"`}},
		{name: "denied", args: "--hub", status: 403, request: "GET /api/v1/rule-fields", code: exitError, stderr: []string{"read on sys/rule-fields"}},
		{name: "both", args: "--hub --plugin x.so", code: exitUsage, stderr: []string{"--hub and --plugin cannot be used together"}},
		{name: "no plugin", args: "--plugin nowhere.so", code: exitError, stderr: []string{"nowhere.so"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newFakeHub(t)
			h.answer = func(string) (int, string) {
				if tc.status != 200 {
					return tc.status, `{"errors":["permission denied"]}`
				}
				return 200, answer
			}
			code, stdout, stderr := command(t, "", append([]string{"rules", "fields"}, strings.Fields(tc.args)...)...)
			if code != tc.code || strings.Join(h.requests, "\n") != tc.request {
				t.Errorf("code %d, requests %q", code, h.requests)
			}
			for _, want := range tc.stdout {
				if !strings.Contains(stdout, want) {
					t.Errorf("no %q in\n%s", want, stdout)
				}
			}
			for _, want := range tc.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in\n%s", want, stderr)
				}
			}
			if tc.name == "of a plugin" && strings.Contains(stdout, "audit.type") {
				t.Error("fields of audit entries are not those of plugins")
			}
		})
	}
	var list []eventfields.Listed
	code, stdout, stderr := run(t, "rules", "fields", "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || code != exitOK || stderr != "" || len(list) < 100 {
		t.Errorf("exit %d, %v\n%s", code, err, stderr)
	}
}
