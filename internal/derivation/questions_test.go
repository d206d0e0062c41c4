package derivation

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// kvEntry is a successful response entry of a kv mount, in a namespace if point has
// two elements.
func kvEntry(point, accessor, path, operation, data string) string {
	ns := ""
	if i := strings.Index(strings.TrimSuffix(point, "/"), "/"); i >= 0 {
		ns = point[:i+1]
	}
	return fmt.Sprintf(`{"time":"2026-11-27T03:02:25.5Z","type":"response","auth":{"client_token":"hmac-sha256:%064d"},"request":{"id":"7fc8bef6-28b0-2d24-013f-%012d","operation":%q,"mount_point":%q,"mount_type":"kv","mount_accessor":%q,"namespace":{"id":"x","path":%q},"path":%q,"data":%s},"response":{"mount_type":"kv","mount_accessor":%q}}`,
		1, counter(), operation, point, accessor, ns, strings.TrimPrefix(point, ns)+path, data, accessor)
}

var entries int

func counter() int { entries++; return entries }

func apply(t *testing.T, d *Deriver, line string) []*event.Event {
	t.Helper()
	var p auditlog.Parser
	e, err := p.Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return d.Apply(e)
}

// one returns the only event of a line.
func one(t *testing.T, d *Deriver, line string) *event.Event {
	t.Helper()
	all := apply(t, d, line)
	if len(all) != 1 {
		t.Fatalf("%d events", len(all))
	}
	return all[0]
}

func assumed(e *event.Event) bool {
	_, ok := e.Extensions.Text(ExtCertainty)
	return ok
}

func TestMountsAreAskedForAndTold(t *testing.T) {
	d := New(Options{Source: "vault://t", KVVersions: map[string]int{"mine/": 1}})
	undelete := func(point, accessor string) *event.Event {
		return one(t, d, kvEntry(point, accessor, "delete/a", "update", `{"versions":[1]}`))
	}
	if e := undelete("secret/", "kv_1"); e.Type != "kv-v2/delete" || !assumed(e) {
		t.Fatalf("without knowledge: %v", e)
	}
	undelete("ns1/kv/", "kv_2")
	undelete("ns1/kv/", "kv_2")
	if e := undelete("mine/", "kv_3"); e.Type != "kv-v1/write" {
		t.Errorf("a version that is configured: %s", e.Type)
	}
	q := d.Questions()
	want := []UnknownMount{{"ns1/", "ns1/kv/", "kv_2"}, {"", "secret/", "kv_1"}}
	if fmt.Sprint(q.Mounts) != fmt.Sprint(want) || len(q.Devices) != 0 {
		t.Errorf("asked for %v, %v", q.Mounts, q.Devices)
	}
	if !d.Questions().IsZero() {
		t.Error("asked twice")
	}
	d.Answer(Answers{Mounts: []Mount{
		{"secret/", "kv_1", 1}, {"ns1/kv/", "kv_2", 2}, {"mine/", "kv_3", 2}, {"old/", "", 1}, {"later/", "kv_4", 1}, {"odd/", "kv_5", 3},
	}})
	for _, tc := range []struct {
		point, accessor, kind string
	}{
		{"secret/", "kv_1", "kv-v1/write"},
		{"mine/", "kv_3", "kv-v1/write"},  // what is configured wins
		{"old/", "", "kv-v1/write"},       // by path
		{"later/", "kv_4", "kv-v1/write"}, // a mount that comes later
		{"moved/", "kv_4", "kv-v1/write"}, // and was moved
		{"later/", "kv_9", "kv-v2/delete"},
		{"odd/", "kv_5", "kv-v2/delete"},
	} {
		if e := undelete(tc.point, tc.accessor); e.Type != tc.kind {
			t.Errorf("%s %s: %s, want %s", tc.point, tc.accessor, e.Type, tc.kind)
		}
	}
	// The other mount on the path of one that was told is not taken for it.
	if q := d.Questions(); fmt.Sprint(q.Mounts) != fmt.Sprint([]UnknownMount{{"", "later/", "kv_9"}, {"", "odd/", "kv_5"}}) {
		t.Errorf("asked for %v", q.Mounts)
	}
	// Evidence in an entry is about that moment; what was told is not.
	if e := one(t, d, kvEntry("ns1/kv/", "kv_2", "a", "update", `{"x":1}`)); e.Type != "kv-v1/write" {
		t.Errorf("against evidence: %s", e.Type)
	}
	// Of old servers, only a mount that has no accessor goes by its path.
	d.Reset()
	if e := undelete("secret/", "kv_1"); !assumed(e) {
		t.Error("an answer outlives Reset")
	}
}

func TestToldVersionsAreKept(t *testing.T) {
	d := New(Options{Source: "vault://t"})
	d.Answer(Answers{Mounts: []Mount{{"secret/", "kv_1", 1}}})
	apply(t, d, kvEntry("secret/", "kv_1", "delete/a", "update", `{"versions":[1]}`))
	b, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	again := New(Options{Source: "vault://t"})
	if err := again.Restore(b); err != nil {
		t.Fatal(err)
	}
	if e := one(t, again, kvEntry("secret/", "kv_1", "delete/a", "update", `{"versions":[1]}`)); e.Type != "kv-v1/write" || assumed(e) {
		t.Errorf("after a restart: %v", e)
	}
}

func TestHashesAreAskedForAndTold(t *testing.T) {
	d := New(Options{Source: "vault://t", KVVersions: map[string]int{"secret/": 2}, VersionHashes: map[string]int64{hashedBy("", "9"): 9}})
	destroy := func(device, versions string) *event.Event {
		d.Device(device)
		return one(t, d, kvEntry("secret/", "kv_1", "destroy/a", "update", fmt.Sprintf(`{"versions":[%q]}`, versions)))
	}
	versions := func(e *event.Event) string { v, _ := e.Metadata.Text("destroyed_versions"); return v }
	if v := versions(destroy("a", hashedBy("a", "3"))); v != "" {
		t.Fatalf("read %q", v)
	}
	destroy("b", hashedBy("b", "3"))
	if q := d.Questions(); fmt.Sprint(q.Devices) != "[a b]" || len(q.Mounts) != 0 {
		t.Errorf("asked for %v", q)
	}
	d.Device("b")
	d.Answer(Answers{Device: "a", Hashes: map[string]int64{hashedBy("a", "3"): 3, "hmac-sha256:short": 4, hashedBy("a", "12"): 12}})
	// The answer does not change which device the entries are of.
	if e := one(t, d, kvEntry("secret/", "kv_1", "destroy/a", "update", fmt.Sprintf(`{"versions":[%q]}`, hashedBy("a", "3")))); versions(e) != "" {
		t.Error("the hash of another device was read")
	}
	d.Questions()
	if v := versions(destroy("a", hashedBy("a", "12"))); v != "[12]" {
		t.Errorf("read %q", v)
	}
	if !d.Questions().IsZero() {
		t.Error("asked for what is known")
	}
	// What the server said is certain: it corrects, and is not corrected.
	h, _ := d.hashes.parse(hashedBy("a", "5"))
	d.hashes.learn(h, 6)
	d.Answer(Answers{Device: "a", Hashes: map[string]int64{hashedBy("a", "5"): 5}})
	d.hashes.learn(h, 7)
	if v := versions(destroy("a", hashedBy("a", "5"))); v != "[5]" {
		t.Errorf("read %q", v)
	}
	if _, ok := d.hashes.digests[whichNumber{h.device, 6}]; ok {
		t.Error("the wrong meaning is kept the other way round")
	}
	// What is configured is not overruled.
	d.Answer(Answers{Hashes: map[string]int64{hashedBy("", "9"): 8}})
	if v := versions(destroy("", hashedBy("", "9"))); v != "[9]" {
		t.Errorf("read %q", v)
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	d := New(Options{Source: "vault://t"})
	for i := range 3 * maxQuestions {
		apply(t, d, kvEntry(fmt.Sprintf("m%d/", i), "", "delete/a", "update", `{"versions":[1]}`))
	}
	if n := len(d.Questions().Mounts); n != maxQuestions {
		t.Errorf("%d questions", n)
	}
	var many []Mount
	for i := range 2*maxMounts + 10 {
		many = append(many, Mount{fmt.Sprintf("m%d/", i), fmt.Sprintf("kv_%d", i), 1})
	}
	d.Answer(Answers{Mounts: many})
	if n := len(d.open.byAccessor) + len(d.open.byPoint); n > 2*maxMounts {
		t.Errorf("%d versions are kept", n)
	}
	if e := one(t, d, kvEntry(many[len(many)-1].Point, many[len(many)-1].Accessor, "delete/a", "update", `{"versions":[1]}`)); e.Type != "kv-v1/write" {
		t.Errorf("the last one told: %s", e.Type)
	}
}
