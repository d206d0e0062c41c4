package derivation

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// hashedBy is text as a device with this salt hashes it.
func hashedBy(salt, text string) string {
	m := hmac.New(sha256.New, []byte(salt))
	m.Write([]byte(text))
	return "hmac-sha256:" + hex.EncodeToString(m.Sum(nil))
}

// TestDevices shows that what a hash of one device stands for is not taken for what
// one of another stands for, neither its meaning nor the lack of it.
func TestDevices(t *testing.T) {
	var table dictionary
	table.reset(map[string]int64{hashedBy("", "7"): 7})
	digestOf := func(device, text string) digest {
		table.use(device)
		h, ok := table.parse(hashedBy(device, text))
		if !ok {
			t.Fatal("not a hash")
		}
		return h
	}
	table.learn(digestOf("a", "1"), 1)
	if n, ok := table.lookup(digestOf("a", "1")); !ok || n != 1 {
		t.Errorf("the hash of 1 is %d, %v", n, ok)
	}
	if _, ok := table.lookup(digestOf("b", "1")); ok {
		t.Error("a hash that was never learnt has a meaning")
	}
	if table.differs(digestOf("b", "1"), 1) {
		t.Error("1 as another device hashes it is told to be another number")
	}
	if !table.differs(digestOf("a", "2"), 1) || !table.differs(digestOf("", "2"), 7) {
		t.Error("another number is not told apart")
	}
	empty := digestOf("a", "")
	table.sawDeletionTime(empty, whichVersion{1, 1})
	table.sawDeletionTime(digestOf("b", ""), whichVersion{2, 1})
	if !table.sawDeletionTime(empty, whichVersion{3, 1}) || !table.isEmpty(empty.short()) {
		t.Error("the hash of the empty text was not learnt")
	}
	if table.isEmpty(digestOf("b", "").short()) || table.isNotEmpty(digestOf("b", "1")) || !table.isNotEmpty(digestOf("a", "1")) {
		t.Error("what is known of one device is taken for another")
	}
	for i := range 2 * maxDevices {
		table.use(fmt.Sprint(i))
		table.learn(digestOf(fmt.Sprint(i), "1"), 1)
	}
	if len(table.devices) > maxDevices || len(table.numbers) > maxDevices+2 || len(table.digests) > len(table.numbers) {
		t.Errorf("%d devices with %d numbers, %d digests", len(table.devices), len(table.numbers), len(table.digests))
	}
	if n, ok := table.lookup(digestOf("a", "1")); !ok || n != 1 {
		t.Errorf("the hash of 1 is %d, %v", n, ok)
	}
}

// TestSnapshotOfDevices shows that a restored state knows the devices apart.
func TestSnapshotOfDevices(t *testing.T) {
	d := New(Options{Source: "vault://t"})
	for _, device := range []string{"", "a", "b"} {
		d.Device(device)
		for n := range int64(3) {
			h, _ := d.hashes.parse(hashedBy(device, fmt.Sprint(n)))
			d.hashes.learn(h, n)
		}
	}
	b, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	again := New(Options{Source: "vault://t"})
	if err := again.Restore(b); err != nil {
		t.Fatal(err)
	}
	for _, device := range []string{"b", "a", ""} {
		again.Device(device)
		h, _ := again.hashes.parse(hashedBy(device, "2"))
		if n, ok := again.hashes.lookup(h); !ok || n != 2 || again.hashes.differs(h, 2) || !again.hashes.differs(h, 1) {
			t.Errorf("device %q: %d, %v", device, n, ok)
		}
	}
	if c, _ := again.Snapshot(); !bytes.Equal(b, c) {
		t.Error("the snapshot of the restored state differs")
	}
}

// TestFirstLayout shows that a state of the first layout, which knew one device, is
// read: the second half of a recording gives the same events as without it.
func TestFirstLayout(t *testing.T) {
	old, err := os.ReadFile("testdata/snapshot-v1.bin")
	if err != nil {
		t.Fatal(err)
	}
	lines := readLines(t, "../auditlog/testdata/kv025-audit-small.jsonl")
	whole, restored := New(Options{Source: "vault://t"}), New(Options{Source: "vault://t"})
	derive(t, whole, lines[:len(lines)/2])
	if err := restored.Restore(old); err != nil {
		t.Fatal(err)
	}
	want, _ := whole.Snapshot()
	if got, _ := restored.Snapshot(); !bytes.Equal(got, want) {
		t.Error("the state is not the one that was stored")
	}
	var p auditlog.Parser
	for i, line := range lines[len(lines)/2:] {
		e, err := p.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := clone(restored.Apply(e)), clone(whole.Apply(e)); !reflect.DeepEqual(got, want) {
			t.Fatalf("line %d: got %v, want %v", i, got, want)
		}
	}
}

// TestResponseBeforeItsRequest shows that a request which comes after its response,
// because it took another device, is not waited for.
func TestResponseBeforeItsRequest(t *testing.T) {
	entry := func(kind string, n int, more string) []byte {
		return fmt.Appendf(nil, `{"time":"2026-11-21T06:00:%02dZ","type":%q,"request":{"id":"00000000-0000-4000-8000-%012d","operation":"update","mount_point":"secret/","mount_type":"kv","path":"secret/data/app","data":{"data":{}}}%s}`, n%60, kind, n, more)
	}
	response := func(n int) []byte {
		return entry("response", n, fmt.Sprintf(`,"response":{"mount_type":"kv","data":{"created_time":"2026-11-21T06:00:00Z","version":%d}}`, n))
	}
	d := New(Options{Source: "vault://t"})
	d.Device("a")
	derive(t, d, [][]byte{response(1), response(2)})
	d.Device("b")
	derive(t, d, [][]byte{entry("request", 1, ""), entry("request", 2, "")})
	if n := len(d.flights.byID); n != 0 {
		t.Errorf("%d requests are waited for", n)
	}
	for n := range 5000 { // bounded
		derive(t, d, [][]byte{response(n + 3)})
	}
	if n := len(d.flights.early.ids); n != len(d.flights.early.ring) {
		t.Errorf("%d responses are remembered", n)
	}
}
