package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// captureBytes is a capture of events.
func captureBytes(t testing.TB, o capture.WriterOptions, events ...scapevent.Event) []byte {
	t.Helper()
	var out bytes.Buffer
	w := capture.NewWriter(&out, o)
	for _, e := range events {
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// saved is a file with a content.
func saved(t testing.TB, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "t.scap")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Of a plugin whose event source is not known that is said once, and it can be given.
func TestCatUnknownPlugin(t *testing.T) {
	name := saved(t, captureBytes(t, capture.WriterOptions{}, scapevent.Append(nil, 999, 1, []byte("a")), scapevent.Append(nil, 999, 2, []byte("b")), scapevent.Append(nil, 1, 3, nil)))
	code, stdout, stderr := run(t, "capture", "cat", name)
	if code != exitOK || stdout != "1 1970-01-01T00:00:00.000000001Z plugin-999 a\n2 1970-01-01T00:00:00.000000002Z plugin-999 b\n3 1970-01-01T00:00:00.000000003Z k8s_audit \n" ||
		stderr != "The event source of the plugin 999 is not known, so it is called plugin-999; --event-source 999=NAME gives it.\n" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	for format, want := range map[string]string{"text": "Z mine a\n", "json": `"event_source":"mine"`, "cloudevents": `"type":"falco/mine"`} {
		code, stdout, stderr = run(t, "capture", "cat", "--format", format, "--event-source", "999=mine", name)
		if code != exitOK || !strings.Contains(stdout, want) || stderr != "" {
			t.Errorf("exit %d\n%s%s", code, stdout, stderr)
		}
	}
}

// A capture of system calls is not silently empty.
func TestCaptureOfSystemCalls(t *testing.T) {
	file := captureBytes(t, capture.WriterOptions{}, scapevent.Append(nil, 1, 1, nil))
	call := bytes.Clone(file)
	call[28+8+2+20] = 1 // the type of the event
	name := saved(t, call)
	for _, args := range [][]string{{"cat", name}, {"cat", "--format", "json", name}} {
		code, stdout, stderr := run(t, append([]string{"capture"}, args...)...)
		if code != exitOK || stdout != "" || stderr != "1 event was passed over: of system calls, or of unknown types. sysdig reads them.\n" {
			t.Errorf("exit %d\n%s%s", code, stdout, stderr)
		}
	}
	if code, stdout, _ := run(t, "capture", "info", name); code != exitOK || !strings.Contains(stdout, "system calls  1\n") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

// What is wrong with a file decides about the exit code.
func TestCaptureExitCodes(t *testing.T) {
	plain := captureBytes(t, capture.WriterOptions{}, scapevent.Append(nil, 1, 1, []byte("abc")))
	compressed := captureBytes(t, capture.WriterOptions{Gzip: true}, scapevent.Append(nil, 1, 1, []byte("abc")))
	random := make([]byte, 1<<20)
	for i := range random {
		random[i] = byte(i * i >> 7)
	}
	damaged := captureBytes(t, capture.WriterOptions{Gzip: true}, scapevent.Append(nil, 1, 1, []byte("abc")), scapevent.Append(nil, 1, 1, random))
	for i := len(damaged) / 2; i < len(damaged)-8; i++ {
		damaged[i] = 0xff
	}
	for name, tc := range map[string]struct {
		file []byte
		code int
		want string
	}{
		"whole":                {plain, exitOK, ""},
		"compressed":           {compressed, exitOK, ""},
		"in the first block":   {plain[:20], exitIncomplete, "truncated"},
		"in the first length":  {plain[:3], exitIncomplete, "truncated"},
		"in an event":          {plain[:len(plain)-1], exitIncomplete, "truncated"},
		"compressed, its end":  {compressed[:len(compressed)-1], exitIncomplete, "truncated"},
		"compressed, its head": {compressed[:5], exitIncomplete, "truncated"},
		"damaged":              {damaged, exitIncomplete, "at byte 84"},
		"empty":                {nil, exitError, "it is empty"},
		"text":                 {[]byte("hello"), exitError, "it is no capture"},
		"trailing":             {append(bytes.Clone(compressed), "some garbage"...), exitIncomplete, "malformed capture"},
	} {
		file := saved(t, tc.file)
		for _, command := range []string{"info", "cat"} {
			code, stdout, stderr := run(t, "capture", command, file)
			if code != tc.code || !strings.Contains(stderr, tc.want) || tc.code != exitOK && !strings.Contains(stderr, file) {
				t.Errorf("%s, %s: exit %d\n%s%s", name, command, code, stdout, stderr)
			}
		}
	}
	dir := t.TempDir()
	if code, _, stderr := run(t, "capture", "info", dir); code != exitError || strings.Count(stderr, dir) != 1 || !strings.Contains(stderr, "is a directory") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// A capture that has nothing is not silently empty, either.
func TestCaptureEmpty(t *testing.T) {
	name := saved(t, captureBytes(t, capture.WriterOptions{}, scapevent.Append(nil, 1, 1, nil))[:28])
	if code, stdout, stderr := run(t, "capture", "cat", name); code != exitOK || stdout != "" || stderr != "There are no events in it.\n" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
}

// Ctrl-C ends also the reading of a file in which nothing comes for a long time.
func TestInfoStopped(t *testing.T) {
	name := saved(t, captureBytes(t, capture.WriterOptions{}, scapevent.Append(nil, 1, 1, nil)))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const blocks, size = 100, 4<<30 - 4
	at := int64(28 + 52)
	for range blocks {
		length := binary.LittleEndian.AppendUint32(nil, size)
		if _, err := f.WriteAt(append([]byte{0x99, 9, 0, 0}, length...), at); err != nil {
			t.Skipf("the file system has no room for holes: %v", err)
		}
		at += size
		if _, err := f.WriteAt(length, at-4); err != nil {
			t.Skipf("the file system has no room for holes: %v", err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	time.AfterFunc(100*time.Millisecond, stop)
	start := time.Now()
	for _, args := range [][]string{{"info"}, {"cat", "--format", "json"}} {
		var out strings.Builder
		if code := Run(ctx, append(append([]string{"capture"}, args...), name), Streams{Out: &out, Err: io.Discard}); code != exitOK || args[0] == "info" && out.Len() > 0 {
			t.Errorf("exit %d\n%s", code, out.String())
		}
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

// Many plugins are not many rows.
func TestInfoManyPlugins(t *testing.T) {
	var events []scapevent.Event
	for id := range maxListedPlugins + 5 {
		events = append(events, scapevent.Append(nil, uint32(id), 1, nil))
	}
	code, stdout, stderr := run(t, "capture", "info", "--format", "json", saved(t, captureBytes(t, capture.WriterOptions{}, events...)))
	var info captureInfo
	if err := json.Unmarshal([]byte(stdout), &info); err != nil || code != exitOK || len(info.Plugins) != maxListedPlugins || info.Others != 5 || info.Events != uint64(len(events)) {
		t.Errorf("exit %d, %v %s", code, err, stderr)
	}
}

// A payload that JSON cannot hold is not changed, whoever has made it.
func TestCatBytes(t *testing.T) {
	payload := []byte("{\"a\":\"\xff\"}")
	code, stdout, _ := run(t, "capture", "cat", "--format", "json", saved(t, captureBytes(t, capture.WriterOptions{}, scapevent.Append(nil, falcoevent.PluginID, 1, payload))))
	var c struct {
		DataBase64 []byte `json:"data_base64"`
	}
	if err := json.Unmarshal([]byte(stdout), &c); err != nil || code != exitOK || !bytes.Equal(c.DataBase64, payload) {
		t.Errorf("exit %d, %v\n%s", code, err, stdout)
	}
}

// Everything of an event is in its line, also what is larger than a piece, and no line is broken.
func TestCatLines(t *testing.T) {
	long := strings.Repeat("ä\u2028\"\n", pieceBytes/3)
	for name, tc := range map[string]struct {
		e        scapevent.Event
		text     string // what follows the time
		json     string // what follows the nanos
		sequence string
	}{
		"text":    {scapevent.Append(nil, 999, 1, []byte("a\tb")), "plugin-999 a" + visible("\t") + "b", `"plugin_id":999,"hostname":"h","data":"a\tb"}`, ""},
		"long":    {scapevent.Append(nil, 1, 1, []byte(long)), "k8s_audit " + visible(long), "", long},
		"bytes":   {scapevent.Append(nil, 1, 1, bytes.Repeat([]byte{0xff}, 100)), "k8s_audit " + strings.Repeat("ff", 32) + "... (100 bytes)", `"plugin_id":1,"event_source":"k8s_audit","hostname":"h","data_base64":"` + strings.Repeat("/", 133) + `w=="}`, ""},
		"empty":   {scapevent.Append(nil, 1, 1, nil), "k8s_audit ", `"plugin_id":1,"event_source":"k8s_audit","hostname":"h","data":""}`, ""},
		"async":   {scapevent.AppendAsync(nil, 1, 1, "n\"", []byte("x")), `k8s_audit/n" x`, `"plugin_id":1,"event_source":"k8s_audit","hostname":"h","async":"n\"","data":"x"}`, ""},
		"ours":    {scapevent.Append(nil, falcoevent.PluginID, 1, []byte("{\n\"a\": 1}")), "tocsin {" + visible("\n") + "\"a\": 1}", `"plugin_id":1416586099,"event_source":"tocsin","hostname":"h","event":{"a":1}}`, ""},
		"no JSON": {scapevent.Append(nil, falcoevent.PluginID, 1, []byte("{")), "tocsin {", `"plugin_id":1416586099,"event_source":"tocsin","hostname":"h","data":"{"}`, ""},
	} {
		file := saved(t, captureBytes(t, capture.WriterOptions{Machine: &capture.Machine{Hostname: "h"}}, tc.e, tc.e))
		code, stdout, _ := run(t, "capture", "cat", file)
		if lines := strings.SplitAfter(stdout, "\n"); code != exitOK || len(lines) != 3 || lines[1] != "2 1970-01-01T00:00:00.000000001Z "+tc.text+"\n" {
			t.Errorf("%s: exit %d, %.200q", name, code, stdout)
		}
		code, stdout, _ = run(t, "capture", "cat", "--format", "json", file)
		lines := strings.SplitAfter(stdout, "\n")
		var c struct{ Data string }
		if err := json.Unmarshal([]byte(lines[0]), &c); err != nil || code != exitOK || len(lines) != 3 || !strings.HasPrefix(lines[0], `{"number":1,"offset":220,"time":"1970-01-01T00:00:00.000000001Z","nanos":1,`) {
			t.Errorf("%s: exit %d, %v, %.200q", name, code, err, stdout)
		}
		if _, rest, _ := strings.Cut(lines[1], `"nanos":1,`); tc.json != "" && rest != tc.json+"\n" || c.Data != tc.sequence && tc.sequence != "" {
			t.Errorf("%s: %.300q", name, rest)
		}
	}
}

// Large events cost little beyond their own size, and what no hub takes is left out where it would
// be published.
func TestCatLarge(t *testing.T) {
	const size = 40 << 20
	file := saved(t, captureBytes(t, capture.WriterOptions{Gzip: true}, scapevent.Append(nil, 1, 1, make([]byte, size)), scapevent.Append(nil, 1, 2, bytes.Repeat([]byte{0xff}, size)), scapevent.Append(nil, 1, 3, nil)))
	for format, want := range map[string]int{"text": exitOK, "json": exitOK, "cloudevents": exitIncomplete} {
		out := measuredOutput{}
		var errs strings.Builder
		code := Run(t.Context(), []string{"capture", "cat", "--format", format, file}, Streams{Out: &out, Err: &errs})
		if code != want || (code == exitOK) != (out.lines == 3) || out.live > 2*size || code == exitOK && out.live < size {
			t.Errorf("%s: exit %d, %d lines, %d bytes of memory\n%s", format, code, out.lines, out.live, errs.String())
		}
	}
}

// What no hub takes is not sent to one, and the others are.
func TestReplayLarge(t *testing.T) {
	cleanEnvironment(t)
	var stored atomic.Int32
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var events []json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
			t.Error(err)
		}
		stored.Add(int32(len(events)))
		accept(w, events)
	}))
	defer hub.Close()
	file := saved(t, captureBytes(t, capture.WriterOptions{}, scapevent.Append(nil, 1, 1, nil), scapevent.Append(nil, 1, 1, make([]byte, maxCatBytes)), scapevent.Append(nil, 1, 1, []byte("x"))))
	code, stdout, stderr := run(t, "capture", "replay", "--address", hub.URL, file)
	if code != exitIncomplete || stored.Load() != 2 || stdout != "Stored: 2 events; refused: 1.\n" || !strings.Contains(stderr, "Event 2: invalid: it has 16777254 bytes, and no hub takes more than 16777216\n") {
		t.Errorf("exit %d, %d stored\n%s%s", code, stored.Load(), stdout, stderr)
	}
}

// measuredOutput counts lines, and the memory that is used while they are written.
type measuredOutput struct {
	lines, bytes, measured int
	live                   uint64
}

func (o *measuredOutput) Write(p []byte) (int, error) {
	o.lines += bytes.Count(p, []byte("\n"))
	if o.bytes += len(p); o.bytes-o.measured > 16<<20 {
		o.measured = o.bytes
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		o.live = max(o.live, m.HeapAlloc)
	}
	return len(p), nil
}

// lockedOutput is what a command has written so far.
type lockedOutput struct{ lines chan string }

func (o lockedOutput) Write(p []byte) (int, error) {
	o.lines <- string(p)
	return len(p), nil
}

// Of a pipe every event is printed before the next one is waited for, and Ctrl-C ends the waiting.
func TestCatPipe(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	in, feed := io.Pipe()
	defer feed.Close()
	file := captureBytes(t, capture.WriterOptions{}, scapevent.Append(nil, 1, 1, []byte("first!")), scapevent.Append(nil, 1, 2, []byte("second")))
	one := 28 + (len(file)-28)/2
	out := lockedOutput{make(chan string, 10)}
	done := make(chan int)
	go func() {
		done <- Run(ctx, []string{"capture", "cat", "-"}, Streams{In: in, Out: out, Err: io.Discard})
	}()
	for i, part := range [][]byte{file[:one+10], file[one+10:]} {
		if _, err := feed.Write(part); err != nil {
			t.Fatal(err)
		}
		if line := <-out.lines; !strings.HasSuffix(line, []string{" first!\n", " second\n"}[i]) {
			t.Errorf("printed %q", line)
		}
	}
	stop()
	if code := <-done; code != exitOK {
		t.Errorf("exit %d", code)
	}
	// The others, too.
	for _, args := range [][]string{{"capture", "info", "-"}, {"capture", "replay", "--address", "http://127.0.0.1:1", "-"}} {
		if code := Run(ctx, args, Streams{In: in, Out: io.Discard, Err: io.Discard}); code != exitOK {
			t.Errorf("%s: exit %d", args, code)
		}
	}
}

// The pace of a replay is that of the times, and what is older does not wait.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
		p := pace{speed: 2}
		for _, tc := range []struct{ event, due float64 }{{10, 0}, {12, 1}, {11, 1}, {-1e6, 1}, {30, 10}} {
			if err := p.wait(t.Context(), at(tc.event)); err != nil || time.Since(start) != time.Duration(tc.due*float64(time.Second)) {
				t.Errorf("%v: %v, %v", tc.event, time.Since(start), err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for _, speed := range []float64{1e-300, 1} {
			p.speed = speed
			if err := p.wait(ctx, time.Unix(0, math.MaxInt64)); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		p = pace{}
		before := time.Now()
		if err := p.wait(t.Context(), at(1e9)); err != nil || !time.Now().Equal(before) {
			t.Error(err)
		}
	})
}

// A large payload is fetched, checked, and told about if it cannot be had.
func TestFetchPayload(t *testing.T) {
	payload := bytes.Repeat([]byte("large "), 4<<20) // more than an answer may have
	var requests atomic.Int32
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := requests.Add(1); {
		case n == 1 && r.URL.Path == "/api/v1/payloads/a/b":
			w.WriteHeader(http.StatusServiceUnavailable) // for a moment
		case r.Header.Get("X-Vault-Token") != "root":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"errors":["permission denied"]}`)
		case r.URL.Path == "/api/v1/payloads/a/b":
			w.Write(payload)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"errors":["there is no payload"]}`)
		}
	}))
	defer hub.Close()
	sum := sha256.Sum256(payload)
	kept := func(name, hash string) *event.Event {
		return &event.Event{ID: "i", Source: "s", Type: "falco/x", Time: time.Unix(1, 0), DataRef: vaultaudit.PayloadPath + name, DataContentType: "application/octet-stream",
			Metadata: event.Fields{{Key: "plugin_id", Value: "999"}, {Key: "sha256", Value: hash}}}
	}
	for name, tc := range map[string]struct {
		token   string
		event   *event.Event
		without string
	}{
		"fetched":      {"root", kept("a/b", hex.EncodeToString(sum[:])), ""},
		"other bytes":  {"root", kept("a/b", "00"), "other bytes"},
		"removed":      {"root", kept("c", hex.EncodeToString(sum[:])), "there is no payload"},
		"no right":     {"other", kept("a/b", hex.EncodeToString(sum[:])), "only a root token may fetch it"},
		"of an upload": {"root", &event.Event{ID: "i", Source: "s", Type: "falco/x", Time: time.Unix(1, 0), DataRef: "https://elsewhere.example/"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "c.scap")
			w, err := capture.Create(file, false, capture.WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			requests.Store(0)
			r := &captureWriting{w: w, connection: &connection{address: hub.URL, token: tc.token, namespace: "ns", transport: new(http.Transport)}}
			again := *tc.event
			if err := r.write(t.Context(), tc.event); err != nil {
				t.Fatal(err)
			}
			if name == "no right" { // is not asked for again
				asked := requests.Load()
				if err := r.write(t.Context(), &again); err != nil || requests.Load() != asked || r.answer.Without != 2 {
					t.Errorf("%v, %d requests behind %d, %+v", err, requests.Load(), asked, r.answer)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err = (&captureWriteFlags{}).report(&out, file, w.Events(), &r.answer)
			if _, incomplete := errors.AsType[*incompleteError](err); incomplete != (tc.without != "") || err != nil && !strings.Contains(err.Error(), tc.without) {
				t.Errorf("%v", err)
			}
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			in, err := capture.NewReader(f, capture.ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			e, err := in.Next()
			if err != nil {
				t.Fatal(err)
			}
			if name == "fetched" {
				if e.PluginID() != 999 || !bytes.Equal(e.Data(), payload) {
					t.Errorf("%d, %.50q", e.PluginID(), e.Data())
				}
			} else if own, err := falcoevent.Parse(e.Event); err != nil || own.DataRef == "" {
				t.Errorf("%+v, %v", own, err)
			}
		})
	}
}

// A capture is not printed onto a terminal, a name that cannot be is refused before a hub is asked,
// and --until and --follow contradict each other.
func TestCaptureWriteUsage(t *testing.T) {
	cleanEnvironment(t)
	for want, args := range map[string][]string{
		"give one of them":   {"--since", "1h", "--until", "1m", "--follow", "x.scap"},
		"give --since":       {"x.scap"},
		"FILE is missing":    {"--since", "1h"},
		"not before":         {"--since", "10m", "--until", "1h", "x.scap"},
		"is not before":      {"--since", "2026-01-02T00:00:00Z", "--until", "2026-01-02T00:00:00Z", "x.scap"},
		"neither":            {"--since", "1h", "--until", "soon", "x.scap"},
		"is a directory":     {"--since", "1h", "--force", t.TempDir()},
		"already exists":     {"--since", "1h", saved(t, nil)},
		"no such file":       {"--since", "1h", filepath.Join(t.TempDir(), "no", "x.scap")},
		"Is the hub running": {"--since", "1h", "--address", "http://127.0.0.1:1", filepath.Join(t.TempDir(), "x.scap")},
	} {
		if code, _, stderr := run(t, append([]string{"capture", "write"}, args...)...); code == exitOK || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s", args, code, stderr)
		}
	}
	for _, args := range [][]string{{"--speed", "-1"}, {"--speed", "NaN"}, {"--speed", "Inf"}, {"--after", "-1"}} {
		if code, _, stderr := run(t, append([]string{"capture", "replay", "x.scap"}, args...)...); code != exitUsage {
			t.Errorf("%s: exit %d, %s", args, code, stderr)
		}
	}
}

// A disk that is full is told of once.
func TestCaptureDiskFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	w, err := newCaptureWriter(&Streams{}, "/dev/full", true, false, "")
	if err != nil {
		t.Fatal(err)
	}
	r := &captureWriting{w: w, connection: &connection{}}
	if err := r.write(t.Context(), &event.Event{ID: "i", Source: "s", Type: "x", Time: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	if err := closeCapture(w, w.Sync()); err == nil || strings.Count(err.Error(), "no space left") != 1 {
		t.Error(err)
	}
	other := errors.New("the hub is gone")
	if err := closeCapture(w, other); !errors.Is(err, other) || !strings.Contains(err.Error(), "no space left") {
		t.Error(err)
	}
}
