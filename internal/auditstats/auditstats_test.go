package auditstats

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/internal/tail"
)

var update = flag.Bool("update", false, "write the golden files anew")

const recordings = "../auditlog/testdata/"

var recordingNames = []string{"openbao-audit-small", "kv025-audit-small"}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(recordings + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// collect sums up a log.
func collect(t testing.TB, o Options, log []byte) *Collector {
	t.Helper()
	if o.Top == 0 {
		o.Top = 5
	}
	if o.Server == "" {
		o.Server = "vault"
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for lines, err := range tail.ReadLines(bytes.NewReader(log), 1<<20) {
		if err != nil {
			t.Fatal(err)
		}
		c.Add(lines)
	}
	c.Close()
	return c
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; look at it with -update and git diff:\n%s", path, got)
	}
}

func TestGolden(t *testing.T) {
	for _, name := range recordingNames {
		r := collect(t, Options{}, read(t, name)).Report(BucketsFor(80))
		var text, coloured bytes.Buffer
		if err := r.WriteText(&text, TextOptions{Width: 80}); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", text.Bytes())
		for line := range strings.Lines(text.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%s: a line of %d characters: %s", name, n, line)
			}
		}
		if err := r.WriteText(&coloured, TextOptions{Width: 80, Colours: true}); err != nil {
			t.Fatal(err)
		}
		plain := coloured.String()
		for _, style := range []string{bold, dim, red, reset} {
			plain = strings.ReplaceAll(plain, style, "")
		}
		if strip := func(s string) string { return strings.Join(strings.Fields(s), " ") }; strip(plain) != strip(text.String()) || !strings.Contains(coloured.String(), bold) {
			t.Errorf("%s: colours change the text:\n%s", name, plain)
		}
		out, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", append(out, '\n'))
	}
}

// naiveEntry is an entry as encoding/json has it.
type naiveEntry struct {
	Time  time.Time
	Type  string
	Error string
	Auth  struct {
		DisplayName string `json:"display_name"`
		EntityID    string `json:"entity_id"`
		Policies    []string
	}
	Request struct {
		ID, Operation, Path string
		MountPoint          string `json:"mount_point"`
		MountType           string `json:"mount_type"`
		RemoteAddress       string `json:"remote_address"`
		Namespace           struct{ Path string }
	}
	Response struct {
		Data map[string]any
		Auth struct {
			DisplayName string `json:"display_name"`
			EntityID    string `json:"entity_id"`
		}
		Secret any
	}
}

func (e *naiveEntry) failed() bool {
	code, _ := e.Response.Data["http_status_code"].(float64)
	_, errorAnswer := e.Response.Data["error"]
	_, withData := e.Response.Data["data"]
	only := len(e.Response.Data) == 1 || len(e.Response.Data) == 2 && withData
	return e.Error != "" || code >= 400 || errorAnswer && only && e.Response.Secret == nil
}

// What is counted is what a naive program counts.
func TestNaive(t *testing.T) {
	for _, name := range recordingNames {
		log := read(t, name)
		var entries []naiveEntry
		responses := map[string]bool{}
		requests := map[string]time.Time{}
		for line := range bytes.Lines(log) {
			var e naiveEntry
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatal(err)
			}
			entries = append(entries, e)
			if e.Type == "response" {
				responses[e.Request.ID] = true
			} else {
				requests[e.Request.ID] = e.Time
			}
		}
		want := map[string]uint64{}
		var longest, sum time.Duration
		for _, e := range entries {
			r := e.Request
			if e.Type == "request" && responses[r.ID] {
				continue
			}
			who := e.Auth.DisplayName + "|" + e.Auth.EntityID
			if who == "|" {
				who = e.Response.Auth.DisplayName + "|" + e.Response.Auth.EntityID
			}
			keys := []string{"all", "path " + r.Namespace.Path + r.Path, "mount " + r.MountPoint, "operation " + r.Operation, "client " + who + "|" + r.RemoteAddress}
			if e.failed() {
				for _, k := range keys {
					want["failed "+k]++
				}
			}
			if slices.Contains(e.Auth.Policies, "root") {
				keys = append(keys, "root "+who+"|"+r.RemoteAddress)
			}
			for _, k := range keys {
				want[k]++
			}
			if began, ok := requests[r.ID]; ok && r.ID != "" && e.Type == "response" {
				longest, sum = max(longest, e.Time.Sub(began)), sum+e.Time.Sub(began)
				want["pairs"]++
			}
		}
		r := collect(t, Options{Top: MaxTop}, log).Report(100)
		got := map[string]uint64{"all": r.Requests, "failed all": r.Failed, "pairs": r.Durations.Count}
		add := func(key string, n, failed uint64) {
			got[key] += n
			if failed > 0 {
				got["failed "+key] += failed
			}
		}
		for _, g := range r.Paths.Items {
			add("path "+g.Name, g.Requests, g.Failed)
		}
		for _, g := range r.Mounts.Items {
			add("mount "+g.Name, g.Requests, g.Failed)
		}
		for _, g := range r.Operations.Items {
			add("operation "+g.Name, g.Requests, g.Failed)
		}
		for _, c := range r.Clients.Items {
			add("client "+c.DisplayName+"|"+c.EntityID+"|"+c.RemoteAddress, c.Requests, c.Failed)
		}
		for _, c := range r.Root.Items {
			add("root "+c.DisplayName+"|"+c.EntityID+"|"+c.RemoteAddress, c.Requests, 0)
		}
		for k := range maps.Keys(got) {
			want[k] += 0
		}
		for k, n := range want {
			if got[k] != n {
				t.Errorf("%s: %s: %d, want %d", name, k, got[k], n)
			}
		}
		if r.Durations.Max != longest || r.Durations.Mean != sum/time.Duration(r.Durations.Count) || r.Slowest[0].Duration != longest {
			t.Errorf("%s: durations %+v, longest %v", name, r.Durations, longest)
		}
		var inBuckets, failedInBuckets uint64
		for _, b := range r.Timeline.Buckets {
			inBuckets += b.Requests
			failedInBuckets += b.Failed
		}
		if inBuckets != r.Requests || failedInBuckets != r.Failed {
			t.Errorf("%s: %d requests in the timeline, %d failed", name, inBuckets, failedInBuckets)
		}
		for _, l := range []bool{r.Paths.Exact, r.Clients.Exact, r.Errors.Exact, r.Mounts.Exact, r.Kinds.Exact} {
			if !l {
				t.Errorf("%s: a list is not exact", name)
			}
		}
	}
}

func TestFilters(t *testing.T) {
	log := read(t, "openbao-audit-small")
	all := collect(t, Options{Top: 100}, log).Report(100)
	find := func(l List[Group], name string) Group {
		i := slices.IndexFunc(l.Items, func(g Group) bool { return g.Name == name })
		if i < 0 {
			t.Fatalf("no %s", name)
		}
		return l.Items[i]
	}
	half := time.Date(2026, 11, 21, 1, 49, 31, 0, time.UTC)
	count := func(o Options) uint64 { return collect(t, o, log).Report(10).Requests }
	if got, want := count(Options{Mounts: []string{"/secret"}}), find(all.Mounts, "secret/").Requests; got != want {
		t.Errorf("--mount: %d, want %d", got, want)
	}
	if got, want := count(Options{Mounts: []string{"ns1/kv/", "kv1"}}), find(all.Mounts, "ns1/kv/").Requests+find(all.Mounts, "kv1/").Requests; got != want {
		t.Errorf("two mounts: %d, want %d", got, want)
	}
	if got, want := count(Options{Operations: []string{"read"}}), find(all.Operations, "read").Requests; got != want {
		t.Errorf("--operation: %d, want %d", got, want)
	}
	if got := count(Options{Failed: true}); got != all.Failed {
		t.Errorf("--failed: %d, want %d", got, all.Failed)
	}
	before, after := count(Options{Until: half}), count(Options{Since: half})
	if before == 0 || after == 0 || before+after != all.Requests {
		t.Errorf("%d before, %d after, %d in all", before, after, all.Requests)
	}
	if got := count(Options{Mounts: []string{"nothing"}}); got != 0 {
		t.Errorf("%d requests to a mount that there is not", got)
	}
}

const hostileLine = `{"time":"%s","type":%s,"error":%s,"auth":{"display_name":%s,"policies":["root"]},"request":{"id":%s,"operation":%s,"path":%s,"mount_point":%s,"remote_address":%s}}` + "\n"

// No text of a log reaches a terminal or a reader as it is if it could do harm there, and
// secrets are masked wherever they were put.
func TestHostile(t *testing.T) {
	var log bytes.Buffer
	token := "hvs.CAESIJ0123456789abcdefghijkl"
	long := strings.Repeat("a", 290) + "/" + token
	for i, s := range []string{"\x1b[31mred\x1b[0m", "a\nb\r\nc\td", "\u202egnp.exe", "\u0000\u0000", strings.Repeat("ä", 5000), token, "x/" + token + "/y", "token=" + token, long, ""} {
		q, _ := json.Marshal(s)
		fmt.Fprintf(&log, hostileLine, "2026-01-01T00:00:00Z", `"request"`, q, q, fmt.Sprintf(`"%s%d"`, strings.Trim(string(q), `"`), i), q, q, q, q)
		fmt.Fprintf(&log, hostileLine, "2026-01-01T00:00:01Z", `"response"`, q, q, fmt.Sprintf(`"%s%d"`, strings.Trim(string(q), `"`), i), q, q, q, q)
	}
	log.WriteString("not json\n\n{\"type\":\n" + strings.Repeat("z", 2<<20) + "\n")
	fmt.Fprintf(&log, hostileLine, "0000-01-01T00:00:00Z", `"request"`, `""`, `""`, `"a"`, `"read"`, `"auth/x/login/y"`, `"auth/x/"`, `"1.1.1.1"`)
	fmt.Fprintf(&log, hostileLine, "9999-12-31T23:59:59Z", `"response"`, `"wrong"`, `""`, `"a"`, `"read"`, `"auth/x/login/y"`, `"auth/x/"`, `"1.1.1.1"`)
	r := collect(t, Options{Top: 100}, log.Bytes()).Report(BucketsFor(80))
	if r.Quarantined != 3 || r.Reasons[reasonTooLong] != 1 {
		t.Errorf("quarantined %d: %v", r.Quarantined, r.Reasons)
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text, TextOptions{Width: 80}); err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{string(out), text.String()} {
		for _, part := range []string{"hvs.", "CAESI", "0123456789", "\x1b", "\u202e", "\u0000", `\u0000`, `\u001b`, "\t"} {
			if strings.Contains(shown, part) {
				t.Errorf("%q is shown in\n%.3000s", part, shown)
			}
		}
		if !strings.Contains(shown, "masked:vault-token") || !utf8.ValidString(shown) {
			t.Errorf("nothing is masked in\n%.3000s", shown)
		}
	}
	for line := range strings.Lines(text.String()) {
		if n := utf8.RuneCountInString(line); n > 200 {
			t.Errorf("a line of %d characters", n)
		}
	}
}

// Millions of paths and clients take no more memory than some, and the frequent ones are
// found.
func TestBoundedMemory(t *testing.T) {
	c, err := New(Options{Server: "vault", Top: 10})
	if err != nil {
		t.Fatal(err)
	}
	const n = 120_000
	var lines []tail.Line
	add := func(i int, path string) {
		id := uuid.UUID{byte(i), byte(i >> 8), byte(i >> 16), 15: 1}
		for k, kind := range []string{"request", "response"} {
			data := fmt.Appendf(nil, `{"time":"2026-01-%02dT%02d:%02d:%02d.%dZ","type":"%s","error":"error %d","auth":{"display_name":"user%d","policies":["root"]},"request":{"id":"%s","operation":"update","path":"%s","mount_point":"m%d/","remote_address":"10.%d.%d.%d"}}`,
				1+i%28, i%24, i%60, i%60, k, kind, i, i, id, path, i, i>>16, i>>8&255, i&255)
			lines = append(lines, tail.Line{Data: data, Size: int64(len(data)) + 1})
		}
		if len(lines) >= 100 {
			c.Add(lines)
			lines = nil
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		path := fmt.Sprintf("secret/data/%d/%s", i, strings.Repeat("x", i%400))
		if i%50 == 0 {
			path = "secret/data/popular"
		}
		add(i, path)
	}
	c.Add(lines)
	lines = nil
	c.Close()
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20
	t.Logf("%d MB", used)
	if used > 100 {
		t.Errorf("%d MB are used", used)
	}
	r := c.Report(100)
	if r.Requests != n || r.Paths.Exact || r.Clients.Exact || r.Errors.Exact {
		t.Errorf("%d requests, exact %t, %t, %t", r.Requests, r.Paths.Exact, r.Clients.Exact, r.Errors.Exact)
	}
	if p := r.Paths.Items[0]; p.Name != "secret/data/popular" || p.Requests-p.TooHigh > n/50 || p.Requests < n/50 {
		t.Errorf("most frequent: %+v", p)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text, TextOptions{Width: 100}); err != nil || !strings.Contains(text.String(), "the most frequent of more than 20,000 (~: at most so many)") {
		t.Errorf("%v: nothing says that the list is not exact:\n%s", err, text.String())
	}
	runtime.KeepAlive(c)
}

func TestOptions(t *testing.T) {
	for _, top := range []int{0, -1, MaxTop + 1} {
		if _, err := New(Options{Top: top}); err == nil {
			t.Errorf("top %d was accepted", top)
		}
	}
	empty := collect(t, Options{}, nil).Report(10)
	var text bytes.Buffer
	if err := empty.WriteText(&text, TextOptions{}); err != nil || text.String() != "no requests\n0 lines, 0 request entries, 0 response entries\n" {
		t.Errorf("%v: %q", err, text.String())
	}
	if out, err := json.Marshal(empty); err != nil || bytes.Contains(out, []byte("null")) && !bytes.Contains(out, []byte(`"first":null`)) {
		t.Errorf("%v: %s", err, out)
	}
}

// FuzzCollector reads anything.
func FuzzCollector(f *testing.F) {
	for _, name := range recordingNames {
		lines := bytes.SplitAfter(read(f, name), []byte("\n"))
		for i := 0; i < len(lines); i += 40 {
			f.Add(bytes.Join(lines[i:min(i+4, len(lines))], nil))
		}
	}
	f.Add([]byte(fmt.Sprintf(hostileLine, "0000-01-01T00:00:00Z", `"response"`, `"\u0000"`, `"\ud800"`, `"\n"`, `""`, `"///"`, `"/"`, `"\u001b"`)))
	f.Fuzz(func(t *testing.T, log []byte) {
		r := collect(t, Options{}, log).Report(50)
		if _, err := json.Marshal(r); err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := r.WriteText(&text, TextOptions{Width: 80}); err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(text.Bytes()) || bytes.ContainsAny(text.Bytes(), "\x1b\r\x00") {
			t.Fatalf("%q", text.Bytes())
		}
		var sum uint64
		for _, n := range r.Outcomes {
			sum += n
		}
		if sum != r.Requests || r.Requests > r.RequestEntries+r.ResponseEntries || len(r.Timeline.Buckets) > 50 {
			t.Fatalf("%+v", r)
		}
	})
}

// BenchmarkCollector reports lines for a second.
func BenchmarkCollector(b *testing.B) {
	log := read(b, "openbao-audit-small")
	var lines []tail.Line
	for batch := range tail.ReadLines(bytes.NewReader(log), 0) {
		lines = append(lines, batch...)
	}
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		c, err := New(Options{Server: "vault", Top: 10})
		if err != nil {
			b.Fatal(err)
		}
		c.Add(lines)
		c.Close()
	}
	b.ReportMetric(float64(len(lines)*b.N)/b.Elapsed().Seconds(), "lines/s")
}
