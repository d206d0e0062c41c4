package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

const (
	runningSink = `{"name":"a","type":"webhook","origin":"api","state":"running","definition":{"name":"a","type":"webhook","disabled":false,"from":"end","webhook":{"url":"https://a.example","bearer_token":"<secret>"}},` +
		`"created":"2026-01-02T03:04:05Z","updated":"2026-01-02T03:04:05Z","position":"p1","lag_events":0,"lag_seconds":0,"counts":{"delivered":7,"retried":2},"dead_letters":3,"dead_letter_bytes":20480}`
	failingSink = `{"name":"b","type":"kafka","origin":"file","state":"failing","health":"sink b: nothing \u001b[2J delivered","position":"p2","lag_events":12,"lag_seconds":75.5,` +
		`"outage":{"since":"2026-01-02T03:04:05Z","attempts":4,"reason":"connection refused"},"counts":{"delivered":0},"dead_letters":0}`
	removedLeft = `{"name":"c","origin":"removed","state":"removed","position":"p3","lag_events":31,"counts":{},"dead_letters":1}`
	noSink      = `{"errors":["no such sink: \"a\""]}`
)

// sinkHub is a fake hub that has the answers of a test by METHOD path, and 404 for the rest.
func sinkHub(t *testing.T, answers map[string]string) *fakeHub {
	t.Helper()
	h := newFakeHub(t)
	h.answer = func(request string) (int, string) {
		parts := strings.SplitN(request, " ", 3)
		if answer, ok := answers[parts[0]+" "+strings.TrimPrefix(parts[1], "/api/v1/")]; ok {
			if status, text, ok := strings.Cut(answer, "|"); ok && len(status) == 3 {
				n := 0
				fmt.Sscan(status, &n)
				return n, text
			}
			return 200, answer
		}
		return 404, noSink
	}
	return h
}

func TestSinkCommands(t *testing.T) {
	tested := func(outcome string) string {
		return `{"outcome":"` + outcome + `","status":403,"reason":"HTTP 403","event_id":"e1","event_type":"tocsin/sink-test","took_seconds":0.0123}`
	}
	attempts := `{"attempts":[{"at":"2026-01-02T03:04:06Z","took_seconds":0.5,"events":2,"first_event_type":"kv/new","attempt":3,"outcome":"retry","status":503,"reason":"busy"},` +
		`{"at":"2026-01-02T03:04:05Z","took_seconds":0.25,"events":1,"first_event_type":"kv/old","attempt":1,"outcome":"delivered","test":true}]}`
	for _, tc := range []struct {
		args           string
		answers        map[string]string
		requests       []string // METHOD path?query body, in their order
		code           int
		stdout, stderr []string
	}{
		{
			args: "list", answers: map[string]string{"GET sinks": `{"sinks":[` + runningSink + "," + failingSink + "," + removedLeft + `]}`},
			stdout: []string{"NAME  TYPE     STATE    LAG         DELIVERED  DEAD  PROBLEM\n", "a     webhook  running  -           7          3     \n", "b     kafka    failing  12 (1m16s)  0          0     sink b: nothing \ufffd[2J delivered\n", "c     -        removed  31          0          1"},
		},
		{args: "list", answers: map[string]string{"GET sinks": `{"sinks":[]}`}, stderr: []string{"There are no sinks."}},
		{args: "list --format json", answers: map[string]string{"GET sinks": `{"sinks":[]}`}, stdout: []string{"[]\n"}},
		{args: "list", answers: map[string]string{"GET sinks": `403|{"errors":["permission denied"]}`}, code: 1, stderr: []string{"permission denied", "This takes list on sys/sinks/."}},
		{
			args: "show a", answers: map[string]string{"GET sinks/a": runningSink},
			stdout: []string{"defined in    added while the hub ran\n", "delivered     7 since the hub was started (2 sent once more)\n", `dead letters  3, 20 KiB ("tocsin sink dlq list a")`,
				"Definition:\n  name: a\n  type: webhook\n  webhook:\n    url: https://a.example\n    bearer_token: <secret>\n"},
		},
		{args: "show a --definition --all", answers: map[string]string{"GET sinks/a": runningSink}, stdout: []string{"name: a\ntype: webhook\ndisabled: false\nfrom: end\n"}},
		{
			args: "show b", answers: map[string]string{"GET sinks/b": failingSink},
			stdout: []string{"state         failing; nothing is delivered since ", "after 4 failed attempts: connection refused\n", "lag           12 events", "the oldest 1m16s old", "the configuration file of the hub"},
		},
		{
			args: "show d", answers: map[string]string{"GET sinks/d": `{"name":"d","type":"file","origin":"file","state":"disabled","definition":{"disabled":true},"held":{"by":"disabled","reason":"disabled: true in its definition","since":"2026-01-02T03:04:05Z"},"counts":{}}`},
			stdout: []string{": disabled: true in its definition; set it to false there\n"},
		},
		{args: "show a", code: 1, stderr: []string{`Error: no such sink: "a"`, `"tocsin sink list"`}},
		{args: "show c --definition", answers: map[string]string{"GET sinks/c": removedLeft}, code: 1, stderr: []string{"the sink c was removed"}},
		{args: "show ../a", code: 2, stderr: []string{`"../a" is no name of a sink`}},
		{
			args: "test a --event-type kv/x", answers: map[string]string{"POST sinks/a/test": tested("delivered")}, requests: []string{`POST sinks/a/test {"type":"kv/x"}`},
			stdout: []string{"outcome  delivered\n", "event    tocsin/sink-test e1\n", "took     12.3ms\n"},
		},
		{args: "test a", answers: map[string]string{"POST sinks/a/test": tested("refused")}, code: 1, stdout: []string{"refused; such an event becomes a dead letter", "HTTP 403"}, stderr: []string{"the event was not delivered"}},
		{args: "test a --format json", answers: map[string]string{"POST sinks/a/test": tested("retry")}, code: 1, stdout: []string{`"outcome": "retry"`}, stderr: []string{"not delivered"}},
		{args: "pause a --reason why", answers: map[string]string{"POST sinks/a/pause": runningSink}, requests: []string{`POST sinks/a/pause {"reason":"why"}`}, stdout: []string{"Sink a is paused"}},
		{args: "disable a", answers: map[string]string{"POST sinks/a/disable": runningSink}, requests: []string{`POST sinks/a/disable {"reason":""}`}, stdout: []string{"Sink a is disabled"}},
		{args: "resume a", answers: map[string]string{"POST sinks/a/resume": `409|{"errors":["sink a: it is disabled in its definition"]}`}, requests: []string{`POST sinks/a/resume {}`}, code: 1, stderr: []string{"Error: sink a: it is disabled in its definition\n"}},
		{args: "resume a", answers: map[string]string{"POST sinks/a/resume": `403|{"errors":["permission denied"]}`}, code: 1, stderr: []string{"This takes update and sudo on sys/sinks/a."}},
		{
			args: "attempts a", answers: map[string]string{"GET sinks/a/attempts": attempts},
			stdout: []string{"kv/old       test\n", "500ms  2       retry      503     kv/new       attempt 3: busy\n"},
		},
		{args: "attempts a -n 1 --format json", answers: map[string]string{"GET sinks/a/attempts": attempts}, stdout: []string{"kv/new"}},
		{args: "attempts a", answers: map[string]string{"GET sinks/a/attempts": `{"attempts":[]}`}, stderr: []string{"Nothing was sent"}},
		{args: "remove a", code: 2, stderr: []string{"say --yes"}, answers: map[string]string{"GET sinks/a": runningSink}},
		{args: "remove a --yes", answers: map[string]string{"DELETE sinks/a?state=keep": `{"kept":true,"dead_letters":3,"dead_letter_bytes":9}`}, stdout: []string{"Its place in the journal and 3 dead letters are kept; --drop"}},
		{args: "remove a --yes --drop", answers: map[string]string{"DELETE sinks/a?state=drop": `{"kept":false}`}, stdout: []string{"with its place in the journal and its dead letters"}},
		{args: "remove a --keep --drop", code: 2, stderr: []string{"contradict"}},
		{args: "replay a", code: 2, stderr: []string{"--since is missing"}},
		{args: "replay a --since 7d", answers: map[string]string{"POST sinks/a/replay": `202|{"id":"r1","after":"","until":"p"}`}, requests: []string{`POST sinks/a/replay {"since":"168h0m0s","until":""}`}, stdout: []string{"its id is r1"}},
		{
			args: "replay a --since oldest --wait", code: 3,
			answers: map[string]string{"POST sinks/a/replay": `202|{"id":"r1"}`, "GET sinks/a": `{"state":"running","replays":[{"id":"r0","state":"running"},{"id":"r1","state":"done","sent":5,"set_aside":1}]}`},
			stdout:  []string{"Sent once more: 5 events (1 became dead letters).\n"}, stderr: []string{`"tocsin sink dlq list a" shows why.`},
		},
		{
			args: "replay a --since oldest --wait", code: 1, stderr: []string{"the replay was cancelled"}, stdout: []string{"Sent once more: 0 events"},
			answers: map[string]string{"POST sinks/a/replay": `202|{"id":"r1"}`, "GET sinks/a": `{"state":"running","replays":[{"id":"r1","state":"cancelled"}]}`},
		},
		{
			args: "replay a --since oldest --wait", code: 1, stderr: []string{"the hub does not know any more how it ended", "tocsin sink cancel a r1"},
			answers: map[string]string{"POST sinks/a/replay": `202|{"id":"r1"}`, "GET sinks/a": `{"state":"running"}`},
		},
		{
			args: "replay a --since oldest --wait --timeout 1s", code: 1, stderr: []string{"Waiting: the sink is paused: rebuilt.\n", "not done within the time of --timeout"},
			answers: map[string]string{"POST sinks/a/replay": `202|{"id":"r1"}`, "GET sinks/a": `{"state":"paused","held":{"by":"paused","reason":"rebuilt"},"replays":[{"id":"r1","state":"running"}]}`},
		},
		{args: "replays a", answers: map[string]string{"GET sinks/a/replays": `{"replays":[{"id":"r1","state":"done","sent":4}],"redrives":[{"id":"r2","state":"running","refused":1}]}`}, stdout: []string{"replay   r1: done", "redrive  r2: running", "0 delivered (1 stay dead letters)"}},
		{args: "cancel a r1", answers: map[string]string{"DELETE sinks/a/replays/r1": `{}`}, stdout: []string{"It is cancelled."}},
		{args: "cancel a r1", answers: map[string]string{"DELETE sinks/a/replays/r1": `404|{"errors":["no such replay"]}`}, code: 1, stderr: []string{"Error: no such replay\n"}},
		{args: "cancel a ../x", code: 2, stderr: []string{"is no id of a replay"}},
		{args: "kinds", answers: map[string]string{"GET sink-kinds": `{"common":[],"kinds":[{"type":"file"},{"type":"stdout","only_in_file":true}]}`}, stdout: []string{"file    lines in a file, rotated\n", "only in the configuration file"}},
		{
			args:    "kinds file",
			answers: map[string]string{"GET sink-kinds": `{"kinds":[{"type":"file","fields":[{"key":"path","type":"text","doc":"The file."},{"key":"keep","type":"number","doc":"How many.","default":"3","min":"1","max":"9","zero":"all"},{"key":"h","type":"list","doc":"Has:","fields":[{"key":"n","type":"text","doc":"Name."}]}]}]}`},
			stdout:  []string{"file.path  (text)\n    The file.\n", "file.keep  (number)\n    How many. Default: 3. From: 1. To: 9. 0: all.\n", "file.h[].n  (text)\n"},
		},
		{args: "kinds flie", answers: map[string]string{"GET sink-kinds": `{"kinds":[{"type":"file"}]}`}, code: 2, stderr: []string{`did you mean "file"?`}},
	} {
		t.Run(tc.args, func(t *testing.T) {
			h := sinkHub(t, tc.answers)
			code, stdout, stderr := command(t, "", append([]string{"sink"}, strings.Fields(tc.args)...)...)
			if code != tc.code {
				t.Errorf("exit %d, want %d\n%s%s", code, tc.code, stdout, stderr)
			}
			for i, want := range tc.requests {
				if i >= len(h.requests) || strings.Replace(h.requests[i], "/api/v1/", "", 1) != want {
					t.Errorf("requests %q, want %q", h.requests, want)
				}
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
			if len(tc.stdout) == 0 && stdout != "" || len(tc.stderr) == 0 && stderr != "" {
				t.Errorf("also printed\n%s%s", stdout, stderr)
			}
		})
	}
}

// TestFollowAttempts: those that come are printed once, and those that --limit left out not.
func TestFollowAttempts(t *testing.T) {
	h := newFakeHub(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	h.answer = func(string) (int, string) {
		asked++
		var list []string // the newest first
		for n := min(asked, 4) + 2; n > 0; n-- {
			list = append(list, fmt.Sprintf(`{"at":"2026-01-02T03:04:%02dZ","first_event_type":"kv/%d","outcome":"delivered","events":1}`, n, n))
		}
		if asked == 5 {
			cancel()
		}
		return 200, `{"attempts":[` + strings.Join(list, ",") + `]}`
	}
	var out, errs strings.Builder
	code := Run(ctx, []string{"sink", "attempts", "a", "--follow", "-n", "1"}, Streams{Out: &out, Err: &errs})
	if code != exitOK || errs.Len() > 0 {
		t.Errorf("exit %d, %s", code, errs.String())
	}
	var types []string
	for line := range strings.Lines(out.String()) {
		types = append(types, strings.Fields(line)[len(strings.Fields(line))-1])
	}
	if got := strings.Join(types, " "); got != "REASON kv/3 kv/4 kv/5 kv/6" {
		t.Errorf("printed %s", got)
	}
}

// lettersHub has dead letters with these ids, three on a page.
func lettersHub(t *testing.T, ids ...uint64) *fakeHub {
	t.Helper()
	h := newFakeHub(t)
	h.answer = func(request string) (int, string) {
		switch {
		case strings.HasPrefix(request, "GET /api/v1/sinks/a/dead-letters?"):
			var after uint64
			fmt.Sscanf(request, "GET /api/v1/sinks/a/dead-letters?after=%d", &after)
			var list []string
			var next uint64
			for _, id := range ids {
				if id > after && len(list) < 3 {
					list = append(list, fmt.Sprintf(`{"id":%d,"event_type":"shop/order","cause":"refused","attempts":1,"reason":"no\u0007"}`, id))
					next = id
				}
			}
			if len(ids) == 0 || next == ids[len(ids)-1] {
				next = 0
			}
			return 200, fmt.Sprintf(`{"dead_letters":[%s],"total":%d,"next":%d}`, strings.Join(list, ","), len(ids), next)
		case strings.HasPrefix(request, "POST /api/v1/sinks/a/dead-letters/redrive"):
			return 202, `{"id":"r1","dead_letters":4}`
		case request == "GET /api/v1/sinks/a":
			return 200, `{"state":"running","redrives":[{"id":"r1","state":"done","sent":3,"refused":1}]}`
		case strings.HasPrefix(request, "DELETE /api/v1/sinks/a/dead-letters?"):
			return 200, `{"removed":2,"dead_letters":1}`
		}
		return 404, `{"errors":["no such dead letter"]}`
	}
	return h
}

func TestDeadLetterCommands(t *testing.T) {
	var many []uint64
	for id := range uint64(250) {
		many = append(many, 2*id+1)
	}
	for _, tc := range []struct {
		args           string
		ids            []uint64
		last           string // request
		code           int
		stdout, stderr string
	}{
		{args: "list a", ids: []uint64{1, 2, 5, 9}, stdout: "9   -             refused  1         shop/order        no\ufffd\n"},
		{args: "list a --limit 2", ids: []uint64{1, 2, 5}, stderr: "There are 3 in all. Those that come next: --after 2; all: --limit 0.\n"},
		{args: "list a --after 2 --format json", ids: []uint64{1, 2, 5}, stdout: `"id": 5`},
		{args: "list a", stderr: "There are no dead letters."},
		{args: "show a 7", code: 1, stderr: "no such dead letter"},
		{args: "show a x", code: 2, stderr: `"x" is no id of a dead letter`},
		{args: "redrive a", code: 2, stderr: "say which dead letters: ids and ranges such as 3 5-9, or --all"},
		{args: "redrive a 3 --all", code: 2, stderr: "say which dead letters"},
		{args: "redrive a 9-3", code: 2, stderr: "the range 9-3 ends before it begins"},
		{args: "redrive a 0", code: 2, stderr: "is no id"},
		{args: "redrive a -- -3", code: 2, stderr: "is no id"},
		{args: "redrive a 18446744073709551615", code: 2, stderr: "is no id"},
		{args: "redrive a 3-9", last: `POST /api/v1/sinks/a/dead-letters/redrive {"from":3,"to":9}`, stdout: "Sent once more: 4 dead letters."},
		{args: "redrive a --all", last: `POST /api/v1/sinks/a/dead-letters/redrive {"all":true}`, stdout: "its id is r1"},
		{args: "redrive a 9,1 2-6", ids: []uint64{1, 2, 5, 7, 9, 11}, last: `POST /api/v1/sinks/a/dead-letters/redrive {"ids":[1,2,5,9]}`, stdout: "its id is r1"},
		{args: "redrive a 3-4 6-6,20-30", ids: []uint64{1}, code: 0, last: `POST /api/v1/sinks/a/dead-letters/redrive {"ids":[6]}`, stdout: "its id is r1"},
		{args: "redrive a 3-4 20-30", ids: []uint64{1}, code: 1, stderr: "there are no such dead letters"},
		{args: "redrive a --all --wait", code: 3, last: "GET /api/v1/sinks/a", stdout: "Delivered: 3 of 4 dead letters (1 stay).\n", stderr: `"tocsin sink dlq list a" shows why.`},
		{args: "purge a 1", code: 2, stderr: "say --yes"},
		{args: "purge a 1-9 --yes", ids: []uint64{1, 2, 5, 11}, last: "DELETE /api/v1/sinks/a/dead-letters?ids=1%2C2%2C5", stdout: "Removed: 2 dead letters. There are 1 left.\n"},
		{args: "purge a --all --yes", last: "DELETE /api/v1/sinks/a/dead-letters?all=true", stdout: "Removed: 2 dead letters."},
		// In pieces that fit into a URL.
		{args: "purge a 1-499 --yes", ids: many, last: "DELETE /api/v1/sinks/a/dead-letters?ids=" + strings.ReplaceAll(joinIDs(many[200:]), ",", "%2C"), stdout: "Removed: 4 dead letters."},
	} {
		t.Run(tc.args, func(t *testing.T) {
			h := lettersHub(t, tc.ids...)
			code, stdout, stderr := command(t, "", append([]string{"sink", "dlq"}, strings.Fields(tc.args)...)...)
			if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) || tc.stderr == "" && stderr != "" {
				t.Errorf("exit %d, want %d\n%s%s", code, tc.code, stdout, stderr)
			}
			if tc.last != "" && (len(h.requests) == 0 || h.requests[len(h.requests)-1] != tc.last) {
				t.Errorf("requests %q, want %q", h.requests, tc.last)
			}
			if code == exitUsage && len(h.requests) > 0 {
				t.Errorf("requests %q", h.requests)
			}
		})
	}
}

// TestSinkDefinitions: what is sent of files and flags, read as the hub reads it.
func TestSinkDefinitions(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := write("secret", "s3cret\n")
	key1, key2 := write("k1", standardwebhooks.NewSecret()), write("k2", standardwebhooks.NewSecret())
	body := write("body", "{\n  \"text\": {{.Summary}}\n}\n")
	t.Setenv("SINK_PASSWORD", "pass-w0rd")
	yaml := write("sink.yaml", "# a comment\nname: a\ntype: webhook\nevents: {types: [\"kv-v2/*\"]}\nwebhook:\n  url: https://a.example/in\n  username: u\n  password: {env: SINK_PASSWORD}\n  headers:\n    - {name: X-Key, secret: {file: "+secret+"}}\n")
	for _, tc := range []struct {
		name    string
		args    []string
		stdin   string
		want    string // the definition, with defaults left out
		secrets map[string]string
	}{
		{
			name: "flags", args: []string{"--type", "webhook", "--url", "https://a.example", "--types", "kv-v2/*, pki/*", "--filter", `operation == "x"`, "--from", "start", "--set", "batch.events=7", "--set", "batch.delay=2s", "--set", "gzip=true", "--secret", "bearer_token=@" + secret},
			want:    "name: a\ntype: webhook\nevents:\n  types:\n    - kv-v2/*\n    - pki/*\n  filter: operation == \"x\"\nfrom: start\nbatch:\n  events: 7\n  delay: 2s\nwebhook:\n  url: https://a.example\n  bearer_token: <secret>\n  gzip: true\n",
			secrets: map[string]string{"webhook.bearer_token": "s3cret"},
		},
		{
			name: "the type may come last", args: []string{"--set", "preset=slack", "--secret", "secret_url=-", "--set", "type=template"}, stdin: "https://hooks.example/x\n",
			want: "name: a\ntype: template\ntemplate:\n  secret_url: <secret>\n  preset: slack\n", secrets: map[string]string{"template.secret_url": "https://hooks.example/x"},
		},
		{
			name: "lists", args: []string{"--type", "kafka", "--set", "brokers=k1:9092", "--set", "brokers=k2:9092", "--set", "topic=1234", "--set", `events={types: [a/b], pairs: ["flag:*"]}`},
			want: "name: a\ntype: kafka\nevents:\n  types:\n    - a/b\n  pairs:\n    - flag:*\nkafka:\n  brokers:\n    - k1:9092\n    - k2:9092\n  topic: \"1234\"\n",
		},
		{
			name: "elements", args: []string{"--type", "webhook", "--url", "https://a.example", "--set", "headers[0].name=X-A", "--set", "headers[0].value=1", "--set", "webhook.headers[1].name=X-B", "--secret", "headers[1].secret=env:SINK_PASSWORD", "--secret", "signing_keys=@" + key1, "--secret", "signing_keys=@" + key2},
			want:    "name: a\ntype: webhook\nwebhook:\n  url: https://a.example\n  headers:\n    - name: X-A\n      value: \"1\"\n    - name: X-B\n      secret: <secret>\n  signing_keys:\n    - <secret>\n    - <secret>\n",
			secrets: map[string]string{"webhook.headers[1].secret": "pass-w0rd"},
		},
		{
			name: "texts of files, names with dots", args: []string{"--type", "otlp_logs", "--url", "http://127.0.0.1:4318", "--set", "resource.service.name=x", "--set", "resource.a=true"},
			want: "name: a\ntype: otlp_logs\notlp_logs:\n  url: http://127.0.0.1:4318\n  resource:\n    a: \"true\"\n    service.name: x\n",
		},
		{
			name: "text of a file", args: []string{"--type", "template", "--url", "https://a.example", "--set-file", "body=" + body},
			want: "name: a\ntype: template\ntemplate:\n  url: https://a.example\n  body: |-\n    {\n      \"text\": {{.Summary}}\n    }\n",
		},
		{
			name: "a file", args: []string{"-f", yaml},
			want:    "name: a\ntype: webhook\nevents:\n  types:\n    - kv-v2/*\nwebhook:\n  url: https://a.example/in\n  headers:\n    - name: X-Key\n      secret: <secret>\n  username: u\n  password: <secret>\n",
			secrets: map[string]string{"webhook.password": "pass-w0rd", "webhook.headers[0].secret": "s3cret"},
		},
		{
			name: "a file and flags", args: []string{"-f", yaml, "--types", "x/*", "--set", "headers=[]", "--secret", "password=@" + secret},
			want:    "name: a\ntype: webhook\nevents:\n  types:\n    - x/*\nwebhook:\n  url: https://a.example/in\n  username: u\n  password: <secret>\n",
			secrets: map[string]string{"webhook.password": "s3cret"},
		},
		{
			name: "standard input, as JSON", args: []string{"--file", "-", "--set", "webhook.gzip=true"}, stdin: `{"name":"a","type":"webhook","webhook":{"url":"https://a.example"}}`,
			want: "name: a\ntype: webhook\nwebhook:\n  url: https://a.example\n  gzip: true\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := sinkHub(t, nil)
			var sent string
			h.answer = func(request string) (int, string) {
				if text, ok := strings.CutPrefix(request, "PUT /api/v1/sinks/a "); ok {
					sent = text
					return 201, runningSink
				}
				return 404, noSink
			}
			code, stdout, stderr := command(t, tc.stdin, append([]string{"sink", "add", "a"}, tc.args...)...)
			if code != exitOK || !strings.Contains(stdout, "Sink a is added. It is sent what happens from now on.\n") {
				t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
			}
			s, err := config.ParseSink("a", []byte(sent))
			if err != nil {
				t.Fatalf("%s\n%v", sent, err)
			}
			if got, err := definitionYAML(s.JSON(), false); err != nil || got != tc.want {
				t.Errorf("sent\n%s\nwant\n%s\n%v", got, tc.want, err)
			}
			for key, want := range tc.secrets {
				if got := s.Secrets()[key]; got != want {
					t.Errorf("%s is %q, want %q", key, got, want)
				}
			}
			// What is shown instead of being sent has no secrets.
			code, stdout, stderr = command(t, tc.stdin, append([]string{"sink", "add", "a", "--dry-run"}, tc.args...)...)
			if code != exitOK || stdout != tc.want || !strings.Contains(stderr, "Nothing was sent") || strings.Contains(stdout+stderr, "s3cret") {
				t.Errorf("dry run: exit %d\n%s%s", code, stdout, stderr)
			}
		})
	}
}

// TestWrongSinkDefinitions: what is wrong is named where the user wrote it, and no secret is
// repeated.
func TestWrongSinkDefinitions(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		"typo.yaml":    "type: webhook\nwebhook:\n  urll: https://a.example\n",
		"secret.yaml":  "type: webhook\nwebhook:\n  url: https://a.example\n  bearer_token: s3cret\n",
		"missing.yaml": "type: webhook\nwebhook:\n  url: https://a.example\n  bearer_token: {file: nowhere}\n",
		"broken.yaml":  "type: webhook\nwebhook: {\n",
		"two.yaml":     "type: webhook\n---\ntype: kafka\n",
		"list.yaml":    "- type: webhook\n",
		"empty.yaml":   "# nothing\n",
		"alias.yaml":   "type: webhook\nwebhook: &a\n  url: https://a.example\nfile: *a\n",
		"twice.yaml":   "type: webhook\ntype: kafka\nwebhook: {url: \"https://a.example\"}\n",
		"key":          "s3cret\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		args string
		code int
		want []string
	}{
		{"-f typo.yaml", 1, []string{"\ntypo.yaml:3:3: unknown key \"urll\" in sink.webhook; did you mean \"url\"?\n"}},
		{"-f typo.yaml --set batch.events=0 --set evnts.types=x", 1, []string{"\ntypo.yaml:3:3: unknown key \"urll\"", "\n--set batch.events: sink.batch.events: ", "\n--set evnts.types: unknown key \"evnts\" in sink; did you mean \"events\"?"}},
		{"-f secret.yaml", 1, []string{"secret.yaml:4:17: sink.webhook.bearer_token: a secret is given by value here"}},
		{"-f missing.yaml", 1, []string{"missing.yaml:4:17: read secret: open nowhere"}},
		{"-f broken.yaml", 1, []string{"broken.yaml:3: not valid YAML"}},
		{"-f two.yaml", 1, []string{"two.yaml:2:1: a second document begins here"}},
		{"-f list.yaml", 1, []string{"list.yaml:1:1: sink: must be a section with keys"}},
		{"-f empty.yaml", 1, []string{"empty.yaml"}},
		{"-f alias.yaml", 1, []string{"alias.yaml:4:7: sink.file: anchors and aliases are not supported"}},
		{"-f twice.yaml", 1, []string{"twice.yaml:2:1: sink.type: is set a second time; the first is in line 1"}},
		{"-f nowhere.yaml", 1, []string{"--file: open nowhere.yaml"}},
		{"", 2, []string{"there is no definition: give --file, or --type"}},
		{"--type webhook", 1, []string{"sink.webhook: has no url"}},
		{"--type webhok --url https://a.example", 1, []string{`--type: sink.type: `}},
		{"--type webhook --url https://a.example --set bearer_token=s3cret", 1, []string{"--set bearer_token: a secret is no argument"}},
		{"--type webhook --set webhook={bearer_token:{value:s3cret}}", 1, []string{"--set webhook: "}},
		{"--type webhook --set webhook={bearer_token:~{value:~s3cret}}", 1, []string{"--set webhook: a secret is no argument"}},
		{"--type webhook --set signing_keys=[s3cret]", 1, []string{"--set signing_keys: a secret is no argument"}},
		{"--type template --set preset=slack --url https://hooks.slack.com/services/s3cret", 1, []string{"--url: this URL is itself a secret, so that it belongs into secret_url"}},
		{"--type webhook --set webhook={url:~https://hooks.slack.com/services/s3cret}", 1, []string{"--set webhook: this URL is itself a secret"}},
		{"--type webhook --secret bearer_token=s3cret", 2, []string{"--secret bearer_token: a secret is no argument", "history of the shell"}},
		{"--type webhook --secret s3cret", 2, []string{"--secret: write KEY=@FILE"}},
		{"--type webhook --secret bearer_token=@", 2, []string{"a secret is no argument"}},
		{"--type webhook --secret bearer_token=prompt", 1, []string{"--secret bearer_token: standard input is no terminal"}},
		{"--type webhook --secret bearer_token=-", 1, []string{"standard input is empty"}},
		{"--type webhook --secret bearer_token=- --secret flipt_secret=-", 2, []string{"use it once"}},
		{"--type webhook --secret bearer_token=env:NO_SUCH_VARIABLE", 1, []string{"environment variable NO_SUCH_VARIABLE is not set"}},
		{"--type webhook --secret url=@key", 1, []string{"--secret url: is no secret, and would be shown; write --set url=VALUE"}},
		{"--type webhook --set-file bearer_token=key", 1, []string{"--set-file bearer_token: is a secret; write --secret bearer_token=@FILE"}},
		{"--type webhook --set webhook=1", 1, []string{"webhook is a section; set one of its keys"}},
		{"--type webhook --set headers[2].name=x", 1, []string{"there is no element 2"}},
		{"--type webhook --set a..b=x", 1, []string{"is no key"}},
		{"--type webhook --set x", 2, []string{"--set: write KEY=VALUE"}},
		{"--type webhook --url https://a.example --set url.x=1", 1, []string{"--set url.x: "}},
	} {
		t.Run(tc.args, func(t *testing.T) {
			h := sinkHub(t, nil)
			h.answer = func(request string) (int, string) {
				text, ok := strings.CutPrefix(request, "PUT /api/v1/sinks/a ")
				if !ok {
					return 404, noSink
				}
				_, err := config.ParseSink("a", []byte(text))
				if err == nil {
					return 201, runningSink
				}
				answer, _ := json.Marshal(map[string]any{"errors": strings.Split(err.Error(), "\n")})
				return 400, string(answer)
			}
			args := []string{"sink", "add", "a"}
			for _, arg := range strings.Fields(tc.args) {
				args = append(args, strings.ReplaceAll(arg, "~", " "))
			}
			for _, dry := range []bool{false, true} {
				if dry {
					args = append(args, "--dry-run")
				}
				code, stdout, stderr := command(t, "", args...)
				if code != tc.code || stdout != "" || strings.Contains(stderr, "s3cret") {
					t.Errorf("dry run %v: exit %d\n%s%s", dry, code, stdout, stderr)
				}
				for _, want := range tc.want {
					if !strings.Contains(stderr, want) {
						t.Errorf("dry run %v: stderr lacks %q:\n%s", dry, want, stderr)
					}
				}
			}
		})
	}
}

func TestSinkAddAndSet(t *testing.T) {
	put := "PUT /api/v1/sinks/a "
	for _, tc := range []struct {
		name, args     string
		there          string // what GET answers
		sent           string // the definition
		tested         string // outcome
		code           int
		stdout, stderr string
	}{
		{name: "add what is there", args: "add a --type webhook --url https://b.example", there: runningSink, code: 1, stderr: "there is already a sink a\nChange it with \"tocsin sink set a\""},
		{name: "set what is not there", args: "set a --set gzip=true", code: 1, stderr: "there is no sink a\n"},
		{name: "set nothing", args: "set a", there: runningSink, code: 2, stderr: "there is nothing to change"},
		{name: "after a removed one", args: "add a --type webhook --url https://b.example", there: strings.ReplaceAll(removedLeft, `"c"`, `"a"`), stdout: "It goes on where the removed one"},
		{
			name: "set keeps the rest", args: "set a --set gzip=true --types x/*", there: runningSink, stdout: "Sink a is changed.\n",
			sent: "name: a\ntype: webhook\nevents:\n  types:\n    - x/*\nwebhook:\n  url: https://a.example\n  bearer_token: <secret>\n  gzip: true\n",
		},
		{name: "unset", args: "set a --unset webhook.bearer_token --unset retry", there: runningSink, stdout: "changed", sent: "name: a\ntype: webhook\nwebhook:\n  url: https://a.example\n"},
		{name: "test", args: "add a --type webhook --url https://b.example --test", tested: "delivered", stdout: "outcome  delivered"},
		{name: "test that fails", args: "add a --type webhook --url https://b.example --test", tested: "refused", code: 3, stdout: "refused; such", stderr: "The sink stays. \"tocsin sink set a\" changes it"},
		{name: "test as JSON", args: "add a --type webhook --url https://b.example --test --format json", tested: "refused", code: 3, stdout: `"outcome": "refused"`, stderr: "The sink stays."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newFakeHub(t)
			var sent string
			h.answer = func(request string) (int, string) {
				switch {
				case request == "GET /api/v1/sinks/a" && tc.there != "":
					return 200, tc.there
				case strings.HasPrefix(request, put):
					sent = strings.TrimPrefix(request, put)
					return 200, runningSink
				case strings.HasPrefix(request, "POST /api/v1/sinks/a/test"):
					return 200, `{"outcome":"` + tc.tested + `"}`
				}
				return 404, noSink
			}
			code, stdout, stderr := command(t, "", append([]string{"sink"}, strings.Fields(tc.args)...)...)
			if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) || tc.stderr == "" && stderr != "" {
				t.Errorf("exit %d\n%s%s", code, stdout, stderr)
			}
			if tc.sent == "" {
				return
			}
			s, err := config.ParseSink("a", []byte(sent))
			if err != nil {
				t.Fatalf("%s\n%v", sent, err)
			}
			if got, err := definitionYAML(s.JSON(), false); err != nil || got != tc.sent {
				t.Errorf("sent\n%s\nwant\n%s\n%v", got, tc.sent, err)
			}
		})
	}
}

func TestSinkKeys(t *testing.T) {
	cleanEnvironment(t)
	t.Chdir(t.TempDir())
	code, stdout, stderr := command(t, "", "sink", "keygen", "--out", "key")
	private, err := os.ReadFile("key")
	if code != exitOK || err != nil || !strings.Contains(stdout, "whpk_") || strings.Contains(stdout+stderr, "whsk_") || !strings.HasPrefix(string(private), "whsk_") {
		t.Fatalf("exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if info, err := os.Stat("key"); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if code, _, stderr := command(t, "", "sink", "keygen", "--out", "key"); code != exitError || !strings.Contains(stderr, "keys are not overwritten") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	_, public, _ := command(t, "", "sink", "keygen", "--public-of", "key")
	if !strings.Contains(stdout, strings.TrimSpace(public)) || !strings.HasPrefix(public, "whpk_") {
		t.Errorf("public %q, before %q", public, stdout)
	}
	if _, secret, _ := command(t, "", "sink", "keygen", "--kind", "hmac"); !strings.HasPrefix(secret, "whsec_") || strings.Count(secret, "\n") != 1 {
		t.Errorf("secret %q", secret)
	}
	if err := os.WriteFile("public", []byte(public), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := standardwebhooks.ParseKey(strings.TrimSpace(string(private)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		at   time.Time
		body string
		args []string
		code int
		want string
	}{
		{at: time.Now(), body: "body", want: "The signature is valid.\n"},
		{at: time.Now(), body: "bodY", code: 1, want: "no signature fits\nIs the body what came"},
		{at: time.Now().Add(-time.Hour), body: "body", code: 1, want: "--any-time"},
		{at: time.Now().Add(-time.Hour), body: "body", args: []string{"--any-time"}, want: "The signature is valid.\n"},
	} {
		signature := string(standardwebhooks.AppendSignatures(nil, []standardwebhooks.Key{k}, "id1", tc.at, []byte("body")))
		args := append([]string{"sink", "verify", "-", "--key", "public", "-H", "webhook-id: id1", "-H", fmt.Sprintf("webhook-timestamp: %d", tc.at.Unix()), "-H", "webhook-signature: " + signature}, tc.args...)
		if code, stdout, stderr := command(t, tc.body, args...); code != tc.code || !strings.Contains(stdout+stderr, tc.want) {
			t.Errorf("exit %d, want %d %q\n%s%s", code, tc.code, tc.want, stdout, stderr)
		}
	}
	for want, args := range map[string][]string{"--key is missing": {"x"}, `must be 'NAME: VALUE'`: {"x", "--key", "public", "-H", "x"}} {
		if code, _, stderr := command(t, "", append([]string{"sink", "verify"}, args...)...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("exit %d, %s", code, stderr)
		}
	}
}

func TestDevSinks(t *testing.T) {
	sinks, err := devSinks{"file:events.jsonl", "stdout", "stdout:raw", "webhook:http://10.1.2.3:9000/hook", "otlp:http://127.0.0.1:4318", "kafka:127.0.0.1:9092/events"}.sinks()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.DataDir = t.TempDir()
	c.Sinks, c.Delivery = sinks, devDelivery()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	var names []string
	for _, s := range sinks {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "file stdout stdout-2 webhook otlp kafka" {
		t.Errorf("names %s", got)
	}
	if !filepath.IsAbs(sinks[0].File.Path) || sinks[3].Webhook.Allow[0] != "10.1.2.3" || sinks[2].Stdout.Format != "raw" {
		t.Errorf("%+v", sinks)
	}
	for _, wrong := range []string{"file", "file:", "webhook", "kafka:127.0.0.1:9092", "slack:x", ""} {
		if _, err := (devSinks{wrong}).sinks(); err == nil || !strings.Contains(err.Error(), "--sink") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// FuzzSinkDefinition: whatever files and flags say, nothing panics, what is sent can be read
// as it was meant or is refused, and a secret on the command line is never sent.
func FuzzSinkDefinition(f *testing.F) {
	f.Add("type: webhook\nwebhook: {url: 'https://a.example'}\n", "webhook.headers[0].name", "x")
	f.Add("type: webhook\nwebhook: &a {url: x}\nfile: *a\n", "bearer_token", "s3cret")
	f.Add("{}", "events", "{types: [a, {b: c}]}")
	f.Add("a: &a [*a]", "type", "[")
	f.Add("type: otlp_logs", "resource.service.name", "x")
	f.Add("? [a]\n: b\n", "a[0][1].b", "{")
	f.Fuzz(func(t *testing.T, text, key, value string) {
		d, err := parseSinkDefinition("file", []byte(text))
		if err != nil {
			return
		}
		if err := d.put(key, "--set", parsedValue(key, value)); err != nil {
			d = newSinkDefinition()
		}
		if d.put(key, "--set", parsedValue(key, `{bearer_token: {value: "s3cret"}, value: "s3cret"}`)) == nil {
			if sent, err := d.encode(); err == nil {
				if s, err := config.ParseSink("a", sent); err == nil && len(s.Secrets()) > 0 && strings.Contains(fmt.Sprint(s.Secrets()), "s3cret") && !strings.Contains(text, "s3cret") {
					t.Errorf("sent %s", sent)
				}
			}
		}
		_ = d.remove(key)
		sent, err := d.encode()
		if err != nil {
			return
		}
		if _, err := config.ParseSink("a", sent); err != nil {
			_ = d.problems(problemTexts(err)).Error()
		} else if s, _ := config.ParseSink("a", sent); true {
			if _, err := definitionYAML(s.JSON(), false); err != nil {
				t.Errorf("%s: %v", sent, err)
			}
		}
	})
}

// TestRedriveCommand: "sink redrive" is "sink dlq redrive".
func TestRedriveCommand(t *testing.T) {
	h := lettersHub(t)
	code, stdout, stderr := command(t, "", "sink", "redrive", "a", "--all")
	if code != 0 || !strings.Contains(stdout, "Sent once more: 4 dead letters.") || len(h.requests) != 1 {
		t.Errorf("exit %d\n%s%s%q", code, stdout, stderr, h.requests)
	}
}
