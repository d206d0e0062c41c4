package compat

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// captured is a line of "tocsin capture cat --format json".
type captured struct {
	Nanos      uint64          `json:"nanos"`
	PluginID   uint32          `json:"plugin_id"`
	Async      string          `json:"async"`
	Data       *string         `json:"data"`
	DataBase64 []byte          `json:"data_base64"`
	Event      json.RawMessage `json:"event"`
}

func (c *captured) payload() string {
	switch {
	case c.Data != nil:
		return *c.Data
	case c.Event != nil:
		return string(c.Event)
	}
	return string(c.DataBase64)
}

// TestSysdig has the real sysdig read captures that a hub's journal was written into, and write
// them again: the events, their times and their payloads are the same.
func TestSysdig(t *testing.T) {
	out, err := exec.Command("../../scripts/sysdig.sh").Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) && failed.ExitCode() == 3 {
		t.Skipf("SKIPPED: there is no sysdig: %s", failed.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	sysdig := lines[len(lines)-1]
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	address := run(t, "dev", "--demo", "--listen", "127.0.0.1:0", "--root-token", rootToken)
	home, dir := t.TempDir(), t.TempDir()
	tocsin := &cli{t, program, []string{"HOME=" + home, "TOCSIN_ADDR=" + address, "TOCSIN_TOKEN=" + rootToken}}
	file := func(name string) string { return filepath.Join(dir, name) }

	var events strings.Builder
	for i := range 200 {
		size := i
		if i == 100 {
			size = 300_000 // more than the lengths of other events can say
		}
		fmt.Fprintf(&events, `{"specversion":"1.0","id":"%d","source":"/sysdig","type":"compat/e","subject":"p","time":"2026-11-27T10:00:00.%09dZ","datacontenttype":"application/json","data":{"text":"%s"}}`+"\n",
			i, i*1001, strings.Repeat("x", size))
	}
	tocsin.want(0, events.String(), []string{"Stored: 200 events"}, "events", "publish", "--cloudevents")
	tocsin.want(0, "", []string{"Stored: 10 events"}, "capture", "replay", "../../internal/capture/testdata/falco-real.scap")

	// Two plugins, one of which has asynchronous events, too.
	for i := range 3 {
		for _, e := range [][2]string{{"falco/mixed/renewed", "999"}, {"falco/mixed", "999"}, {"falco/mixed-other", "998"}} {
			tocsin.run(0, "", "events", "publish", e[0], "plugin_id="+e[1], "path=p", "--data", fmt.Sprintf("\xff%d", i))
		}
	}

	for name, tc := range map[string]struct {
		events int // 0: some
		async  int // of them; sysdig 0.29 passes over them
		args   []string
	}{
		"ours.scap":    {200, 0, []string{"compat/e"}},
		"ours.scap.gz": {200, 0, []string{"compat/e"}},
		"falco.scap":   {10, 0, []string{"falco/k8s_audit"}},
		"audit.scap":   {0, 0, []string{"audit/*"}},
		"mixed.scap":   {9, 3, []string{"falco/mixed*"}},
		"all.scap":     {0, 3, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tocsin := &cli{t, tocsin.program, tocsin.env}
			tocsin.run(0, "", append([]string{"capture", "write", "--since", "oldest", file(name)}, tc.args...)...)
			cat := func(name string) (list []captured) {
				d := json.NewDecoder(strings.NewReader(tocsin.run(0, "", "capture", "cat", "--format", "json", file(name))))
				for d.More() {
					var c captured
					if err := d.Decode(&c); err != nil {
						t.Fatal(err)
					}
					list = append(list, c)
				}
				return list
			}
			want := cat(name)
			if len(want) == 0 || tc.events > 0 && len(want) != tc.events {
				t.Fatalf("there are %d events", len(want))
			}
			all := len(want)
			if want = slices.DeleteFunc(want, func(c captured) bool { return c.Async != "" }); all-len(want) != tc.async {
				t.Fatalf("there are %d asynchronous events", all-len(want))
			}
			// What it prints.
			out, err := exec.Command(sysdig, "-r", file(name), "-p", "%evt.num %evt.rawtime %evt.type %evt.args").Output()
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range strings.Lines(string(out)) {
				var num, nanos uint64
				var rest string
				if _, err := fmt.Sscanf(line, "%d %d %s", &num, &nanos, &rest); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				if n == len(want) {
					t.Fatalf("one more: %q", line)
				}
				if e := &want[n]; num != uint64(n+1) || nanos != e.Nanos || !strings.Contains(line, "plugin ID="+strconv.FormatUint(uint64(e.PluginID), 10)+" ") ||
					utf8.ValidString(e.payload()) && !strings.Contains(line, "event_data="+e.payload()[:min(40, len(e.payload()))]) {
					t.Errorf("event %d: %q, want %d, %.60q", n, line, e.Nanos, e.payload())
				}
				n++
			}
			if n != len(want) {
				t.Errorf("sysdig shows %d events of %d", n, len(want))
			}
			// What it writes.
			if out, err := exec.Command(sysdig, "-r", file(name), "-w", file("again-"+name)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			again := cat("again-" + name)
			if len(again) != len(want) {
				t.Fatalf("sysdig has written %d events of %d", len(again), len(want))
			}
			for i := range want {
				if again[i].Nanos != want[i].Nanos || again[i].PluginID != want[i].PluginID || again[i].payload() != want[i].payload() {
					t.Errorf("event %d: %d %d %.60q, want %d %d %.60q", i, again[i].PluginID, again[i].Nanos, again[i].payload(), want[i].PluginID, want[i].Nanos, want[i].payload())
				}
			}
			// In it the blocks with events are the same bytes.
			ours, theirs := eventsOf(t, file(name)), eventsOf(t, file("again-"+name))
			const async = 402 // the type of the event, in its header
			ours = slices.DeleteFunc(ours, func(b []byte) bool { return int(b[30])|int(b[31])<<8 == async })
			if len(ours) != len(want) || len(theirs) != len(want) {
				t.Fatalf("%d events in the file and %d in that of sysdig, of %d", len(ours), len(theirs), len(want))
			}
			for i := range ours {
				if !bytes.Equal(ours[i], theirs[i]) {
					t.Errorf("event %d: %.60x, sysdig writes %.60x", i, ours[i], theirs[i])
				}
			}
			for _, f := range []string{name, "again-" + name} {
				if b, err := os.ReadFile(file(f)); err != nil || len(b) == 0 {
					t.Errorf("%s: %v", f, err)
				} else if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) != strings.HasSuffix(f, ".gz") && f == name {
					t.Errorf("%s is compressed, or is not", f)
				}
			}
		})
	}
}

// eventsOf returns the blocks with events. It knows no more of captures than that.
func eventsOf(t *testing.T, name string) (events [][]byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	u32 := func(b []byte) uint32 { return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24 }
	for len(b) > 0 {
		kind, total := u32(b), u32(b[4:])
		if total < 12 || int(total) > len(b) || total%4 != 0 {
			t.Fatalf("%s: a block of the type %#x has %d bytes, %d are there", name, kind, total, len(b))
		}
		if slices.Contains([]uint32{0x216, 0x217, 0x221, 0x222}, kind) {
			events = append(events, b[:total])
		}
		b = b[total:]
	}
	return events
}
