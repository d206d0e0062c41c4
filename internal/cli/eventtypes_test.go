package cli

import (
	"strings"
	"testing"
)

const (
	typesAnswer = `{"types":[{"type":"kv-v2/delete","origin":"built-in","description":"Versions of a secret were deleted.","metadata":[]},` +
		`{"type":"shop/or\u001bder","origin":"learnt","metadata":[{"key":"a"},{"key":"b"}],"seen":{"events":17,"source":"app://x","namespaces":["","ns1/"]},"schema":{"mode":"warn","for":"shop/*"}}]}`
	typeAnswer = `{"type":"shop/order","origin":"configured","description":"An order.","since":"0.1.0","vault_since":"1.13","metadata":[{"key":"path","kinds":["text"],"meaning":"where"}],` +
		`"content_types":["application/json"],"seen":{"events":17,"first":"2026-01-01T00:00:00Z","last":"2026-01-02T00:00:00Z","source":"app://x","namespaces":["","ns1/"],"more":2},` +
		`"schema":{"mode":"refuse","for":"shop/*","schema":{"required":["<order>"]}},"example":{"id":"1","type":"shop/order"}}`
)

func TestEventTypes(t *testing.T) {
	t.Setenv("TZ", "UTC")
	for _, tc := range []struct {
		name, args     string
		status         int
		answer         string
		request        string
		code           int
		stdout, stderr []string
	}{
		{
			name: "all", args: "events types", status: 200, answer: typesAnswer, request: "GET /api/v1/event-types",
			stdout: []string{"TYPE ", "kv-v2/delete  built-in  -       -       Versions of a secret were deleted.\n", "shop/or\ufffdder   learnt    17      warn    metadata: a, b\n"},
		},
		{name: "some", args: "events types kv-v2/* --origin learnt", status: 200, answer: `{"types":[]}`, request: "GET /api/v1/event-types?origin=learnt&type=kv-v2%2F%2A", stderr: []string{"No event type"}},
		{name: "JSON", args: "events types -format=json shop/*", status: 200, answer: typesAnswer, request: "GET /api/v1/event-types?type=shop%2F%2A", stdout: []string{"[\n  {\n    \"type\": \"kv-v2/delete\""}},
		{name: "no JSON", args: "events types --format json", status: 200, answer: `{"types":[]}`, request: "GET /api/v1/event-types", stdout: []string{"[]\n"}},
		{name: "denied", args: "events types", status: 403, answer: `{"errors":["permission denied"]}`, request: "GET /api/v1/event-types", code: 1, stderr: []string{"Error: server answered 403: permission denied\nThe token from"}},
		{name: "old hub", args: "events types", status: 404, answer: `{"errors":["unknown path"]}`, request: "GET /api/v1/event-types", code: 1, stderr: []string{"Is http://127.0.0.1:"}},
		{name: "no hub", args: "events types", status: 200, answer: `hello`, request: "GET /api/v1/event-types", code: 1, stderr: []string{"Is http://127.0.0.1:"}},
		{name: "origin", args: "events types --origin made-up", code: 2, stderr: []string{"--origin must be"}},
		{name: "two globs", args: "events types a b", code: 2, stderr: []string{`unexpected argument "b"`}},
		{
			name: "show", args: "events types show shop/order --namespace ns1", status: 200, answer: typeAnswer, request: "GET /api/v1/event-types/shop/order",
			stdout: []string{
				"type           shop/order\n", "since          0.1.0 (Vault 1.13)\n", "events         about 17, from 2026-01-01 00:00:00 to 2026-01-02 00:00:00\n", "namespaces     root, ns1/\n",
				"more metadata  in 2 events, not kept\n", "schema         for shop/*; events that do not adhere: refuse\n", "\nMetadata:\n  path  text  where\n",
				"\nExample, with values that are made up:\n  {\n    \"id\": \"1\",\n    \"type\": \"shop/order\"\n  }\n", "\nSchema:\n  {\n    \"required\": [\n      \"<order>\"\n",
			},
		},
		{name: "show as JSON", args: "events types show --format json shop/*", status: 200, answer: `{"type":"shop/*"}`, request: "GET /api/v1/event-types/shop/%2A", stdout: []string{"{\n  \"type\": \"shop/*\"\n}\n"}},
		{name: "show nothing", args: "events types show a/b --namespace ns1", status: 404, answer: `{"errors":["the event type \"a/b\" is not known here"]}`, request: "GET /api/v1/event-types/a/b", code: 1,
			stderr: []string{`Error: the event type "a/b" is not known in namespace "ns1"`, `"tocsin events types" prints`}},
		{name: "show what", args: "events types show", code: 2, stderr: []string{"the event TYPE is missing"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newFakeHub(t)
			h.answer = func(string) (int, string) { return tc.status, tc.answer }
			code, stdout, stderr := command(t, "", strings.Fields(tc.args)...)
			if code != tc.code || strings.Join(h.requests, "\n") != tc.request && tc.name != "show as JSON" {
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
			if strings.Contains(stderr, "\nThe token") && strings.Count(stderr, "The token") > 1 {
				t.Errorf("the advice is there twice: %s", stderr)
			}
		})
	}
}

// TestEventTypesPages: all pages of a long answer are printed.
func TestEventTypesPages(t *testing.T) {
	h := newFakeHub(t)
	h.answer = func(request string) (int, string) {
		if strings.Contains(request, "after=a%2Fb") {
			return 200, `{"types":[{"type":"c/d","origin":"learnt"}]}`
		}
		return 200, `{"types":[{"type":"a/b","origin":"learnt"}],"more":true}`
	}
	_, stdout, _ := command(t, "", "events", "types")
	if !strings.Contains(stdout, "a/b") || !strings.Contains(stdout, "c/d") || len(h.requests) != 2 {
		t.Errorf("%v\n%s", h.requests, stdout)
	}
}
