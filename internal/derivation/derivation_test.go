package derivation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// TestModel compares with the model server over random runs: nothing missed, no
// value that contradicts, and, where the log begins before the mounts were made,
// less than 1 % extra.
func TestModel(t *testing.T) {
	for _, callers := range []int{1, 8} {
		for _, hashed := range []bool{false, true} {
			for _, born := range []bool{true, false} {
				t.Run(fmt.Sprintf("callers=%d,hashed=%v,born=%v", callers, hashed, born), func(t *testing.T) {
					t.Parallel()
					var events, extra, assumed int
					left := make(map[string]int)
					for seed := range 3 {
						m := newModel(run{seed: uint64(seed), callers: callers, calls: 900, keys: 16, hashed: hashed,
							textTimes: !hashed, casRate: 7 * seed, expiry: seed%2 == 1, born: born, text: 30})
						got := onlyKV(derive(t, New(Options{Source: "vault://model"}), m.play()))
						s := compare(m.want, got)
						for _, x := range s.missed {
							t.Errorf("seed %d: missed: %s", seed, x)
						}
						for _, x := range s.contradicted {
							t.Errorf("seed %d: contradicted: %s", seed, x)
						}
						events += len(m.want)
						extra += len(s.extra)
						assumed += s.assumed
						for k, n := range s.left {
							left[k] += n
						}
					}
					t.Logf("%d events, %d extra (%.2f %%), %d marked as assumed, left out %v", events, extra, 100*float64(extra)/float64(events), assumed, left)
					if born && extra*100 >= events {
						t.Errorf("%d of %d events are extra", extra, events)
					}
				})
			}
		}
	}
}

// TestEveryExtraIsMarked: an event that should not be is marked as assumed, or
// held back.
func TestEveryExtraIsMarked(t *testing.T) {
	m := newModel(run{seed: 99, callers: 8, calls: 1500, keys: 4, textTimes: true, casRate: 10, expiry: true, text: 50})
	lines := m.play()
	events := onlyKV(derive(t, New(Options{Source: "vault://model"}), lines))
	s := compare(m.want, events)
	if len(s.extra) == 0 {
		t.Fatal("the run has no extra event to look at")
	}
	for _, x := range s.extra {
		if !strings.Contains(x, ExtCertainty+":"+Assumed) {
			t.Errorf("not marked: %s", x)
		}
	}
	d := New(Options{Source: "vault://model", HoldUncertain: true})
	held := onlyKV(derive(t, d, lines))
	if s := compare(m.want, held); len(s.extra) > 0 || s.assumed > 0 {
		t.Errorf("%d extra and %d marked events although uncertain ones are held back", len(s.extra), s.assumed)
	}
	if n := d.Stats().Held; int(n) != len(events)-len(held) {
		t.Errorf("counted %d held events, want %d", n, len(events)-len(held))
	}
}

func clone(events []*event.Event) []event.Event {
	var out []event.Event
	for _, e := range events {
		out = append(out, *e)
	}
	return out
}

// TestSnapshot restores the state somewhere in a stream and expects the same events
// as without.
func TestSnapshot(t *testing.T) {
	lines := readLines(t, "../auditlog/testdata/kv025-audit-small.jsonl")
	m := newModel(run{seed: 5, callers: 8, calls: 700, keys: 6, hashed: true, casRate: 10, expiry: true, born: true, text: 30})
	for name, lines := range map[string][][]byte{"recorded": lines, "model": m.play()} {
		for _, o := range []Options{{Source: "vault://t"}, {Source: "vault://t", MaxKeys: 5}} {
			t.Run(fmt.Sprintf("%s,keys=%d", name, o.MaxKeys), func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(1, 2))
				whole := New(o)
				parts := New(o)
				var p auditlog.Parser
				for i, line := range lines {
					e, err := p.Parse(line)
					if err != nil {
						t.Fatal(err)
					}
					want, got := clone(whole.Apply(e)), clone(parts.Apply(e))
					if !reflect.DeepEqual(got, want) {
						t.Fatalf("line %d: got %v, want %v", i+1, got, want)
					}
					if rnd.IntN(20) > 0 {
						continue
					}
					b, err := parts.Snapshot()
					if err != nil {
						t.Fatal(err)
					}
					parts = New(o)
					if err := parts.Restore(b); err != nil {
						t.Fatalf("line %d: %v", i+1, err)
					}
					again, err := parts.Snapshot()
					if err != nil || !bytes.Equal(again, b) {
						t.Fatalf("line %d: the snapshot of a restored state differs: %v", i+1, err)
					}
				}
			})
		}
	}
}

func TestRestoreErrors(t *testing.T) {
	d := New(Options{Source: "vault://t"})
	derive(t, d, readLines(t, "../auditlog/testdata/openbao-audit-small.jsonl"))
	good, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	empty, _ := New(Options{}).Snapshot()
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"other version": append([]byte{200}, good[1:]...),
		"cut":           good[:len(good)/2],
		"changed":       bytes.Replace(bytes.Clone(good), []byte("secret/"), []byte("sEcret/"), 1),
		"longer":        append(bytes.Clone(good), 0),
		"left over":     resum(append(bytes.Clone(good[:len(good)-4]), 1, 2, 3)),
	} {
		if err := d.Restore(b); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: error %v", name, err)
		}
		if after, _ := d.Snapshot(); !bytes.Equal(after, empty) {
			t.Errorf("%s: the state is not empty after a failed Restore", name)
		}
	}
	if err := d.Restore(good); err != nil {
		t.Error(err)
	}
}

// resum appends the checksum.
func resum(body []byte) []byte {
	return binary.BigEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
}

func FuzzRestore(f *testing.F) {
	d := New(Options{Source: "vault://t"})
	lines := readLines(f, "../auditlog/testdata/kv025-audit-small.jsonl")
	for i := 0; i < len(lines); i += 90 {
		derive(f, d, lines[i:min(i+45, len(lines))])
		b, err := d.Snapshot()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-4])
		d = New(Options{Source: "vault://t"})
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d := New(Options{Source: "vault://t", MaxKeys: 50})
		if err := d.Restore(resum(bytes.Clone(body))); err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatal(err)
			}
			return
		}
		b, err := d.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		derive(t, d, lines[:60]) // whatever the state says, no panic
		if err := New(Options{Source: "vault://t", MaxKeys: 50}).Restore(b); err != nil {
			t.Fatalf("a snapshot of a restored state is refused: %v", err)
		}
	})
}

func FuzzApply(f *testing.F) {
	lines := readLines(f, "../auditlog/testdata/kv025-audit-small.jsonl")
	for i := 0; i < len(lines); i += 30 {
		f.Add(lines[i])
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		d := New(Options{Source: "vault://t"})
		var p auditlog.Parser
		for range 3 {
			e, err := p.Parse(line)
			if err != nil {
				return
			}
			for _, ev := range d.Apply(e) {
				if err := event.DefaultLimits.Check(ev); err != nil && !ev.Time.IsZero() {
					t.Fatalf("%v: %+v", err, ev)
				}
			}
		}
	})
}

// TestBounds keeps few keys and misses nothing.
func TestBounds(t *testing.T) {
	m := newModel(run{seed: 3, callers: 1, calls: 1500, keys: 60, textTimes: true, born: true})
	lines := m.play()
	for _, o := range []Options{{Source: "vault://t", MaxKeys: 7}, {Source: "vault://t", MaxStateBytes: 8 * keyOverhead}} {
		d := New(o)
		s := compare(m.want, onlyKV(derive(t, d, lines)))
		if len(s.missed)+len(s.contradicted) > 0 {
			t.Errorf("missed %v, contradicted %v", s.missed, s.contradicted)
		}
		if n := len(d.keys.byName); n > 8 {
			t.Errorf("%d keys are kept", n)
		}
	}
}

// TestHostileBounds: requests that never end, and mounts without end, do not grow
// the state.
func TestHostileBounds(t *testing.T) {
	d := New(Options{Source: "vault://t", MaxKeys: 100})
	var p auditlog.Parser
	for i := range maxFlights + 1000 {
		line := fmt.Sprintf(`{"time":"2026-01-01T00:00:00Z","type":"request","request":{"id":"r%d","operation":"update","mount_type":"kv","mount_point":"m%d/","path":"m%d/data/a","mount_accessor":"a%d"}}`, i, i%(maxMounts+50), i%(maxMounts+50), i%(maxMounts+50))
		e, err := p.Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		d.Apply(e)
	}
	if len(d.flights.byID) > maxFlights || len(d.mounts.byID) > maxMounts || len(d.mounts.byPoint) > maxMounts || len(d.keys.byName) > 100 {
		t.Errorf("%d requests, %d mounts, %d keys", len(d.flights.byID), len(d.mounts.byID), len(d.keys.byName))
	}
	e, err := p.Parse([]byte(`{"time":"2026-01-01T01:00:00Z","type":"request"}`))
	if err != nil {
		t.Fatal(err)
	}
	if d.Apply(e); len(d.flights.byID) != 0 {
		t.Errorf("%d requests are waited for after an hour", len(d.flights.byID))
	}
}

// TestResponsesOnly: a stream without request entries has nothing to show what was
// concurrent, so nothing is suppressed wrongly.
func TestResponsesOnly(t *testing.T) {
	m := newModel(run{seed: 8, callers: 8, calls: 1000, keys: 10, textTimes: true, born: true})
	var lines [][]byte
	for _, line := range m.play() {
		if bytes.Contains(line, []byte(`"type":"response"`)) {
			lines = append(lines, line)
		}
	}
	s := compare(m.want, onlyKV(derive(t, New(Options{Source: "vault://t"}), lines)))
	s.report(t)
}

// TestGap: after a gap nothing is missed, although what was known may be wrong.
func TestGap(t *testing.T) {
	m := newModel(run{seed: 12, callers: 2, calls: 1500, keys: 8, textTimes: true, born: true})
	lines := m.play()
	from, to := len(lines)/3, len(lines)/3+200
	d := New(Options{Source: "vault://t"})
	derive(t, d, lines[:from])
	d.Gap()
	got := onlyKV(derive(t, d, lines[to:]))
	seen := make(map[string]bool)
	for _, line := range lines[to:] {
		if i := bytes.Index(line, []byte(`"id":"`)); bytes.Contains(line, []byte(`"type":"response"`)) {
			seen[string(line[i+6:i+42])] = true
		}
	}
	var want []truth
	for _, w := range m.want {
		if seen[w.request] {
			want = append(want, w)
		}
	}
	if len(want) < 500 {
		t.Fatalf("only %d events after the gap", len(want))
	}
	compare(want, got).report(t)
}

// TestOldVault takes from the recording what Vault 1.9 did not write yet.
func TestOldVault(t *testing.T) {
	lines := readLines(t, "../auditlog/testdata/openbao-audit-small.jsonl")
	whole := onlyKV(derive(t, New(Options{Source: "vault://t"}), lines))
	var old [][]byte
	for _, line := range lines {
		for _, name := range []string{"mount_point", "mount_accessor", "mount_class", "mount_running_version", "mount_running_plugin_version"} {
			for {
				i := bytes.Index(line, []byte(`"`+name+`":"`))
				if i < 0 {
					break
				}
				j := i + len(name) + 4
				j += bytes.IndexByte(line[j:], '"') + 1
				if line[j] == ',' {
					j++
				}
				line = append(bytes.Clone(line[:i]), line[j:]...)
			}
		}
		line = bytes.ReplaceAll(line, []byte(",}"), []byte("}"))
		old = append(old, line)
	}
	got := onlyKV(derive(t, New(Options{Source: "vault://t"}), old))
	byID := make(map[string]*event.Event)
	for _, e := range got {
		byID[e.ID] = e
	}
	for _, w := range whole {
		e := byID[w.ID]
		if e == nil {
			t.Errorf("missed %s %s", w.Type, w.Path)
			continue
		}
		for f := range e.Metadata.All() {
			if v, _ := w.Metadata.Text(f.Key); v != f.Value {
				t.Errorf("%s %s: %s = %q, want %q", w.Type, w.Path, f.Key, f.Value, v)
			}
		}
	}
	if len(got) != len(whole) {
		t.Errorf("%d events, want %d", len(got), len(whole))
	}
}

func TestEventEnvelope(t *testing.T) {
	lines := readLines(t, "../auditlog/testdata/openbao-audit-small.jsonl")
	events := derive(t, New(Options{Source: "vault://t"}), lines)
	again := derive(t, New(Options{Source: "vault://t", OmitCaller: true}), lines)
	ids := make(map[string]bool)
	for i, e := range events {
		if err := event.DefaultLimits.Check(e); err != nil {
			t.Errorf("%s: %v", e.Type, err)
		}
		if ids[e.ID] {
			t.Errorf("%s: id %s occurs twice", e.Type, e.ID)
		}
		ids[e.ID] = true
		if again[i].ID != e.ID {
			t.Errorf("%s: another id in another run", e.Type)
		}
		if p, _ := e.Metadata.Text(event.MetadataPath); p != e.Path || p == "" {
			t.Errorf("%s: path %q, metadata path %q", e.Type, e.Path, p)
		}
		for k := 1; k < len(e.Metadata); k++ {
			if e.Metadata[k-1].Key >= e.Metadata[k].Key {
				t.Errorf("%s: metadata is not sorted: %v", e.Type, e.Metadata)
			}
		}
		for k := 1; k < len(e.Extensions); k++ {
			if e.Extensions[k-1].Key >= e.Extensions[k].Key {
				t.Errorf("%s: extensions are not sorted: %v", e.Type, e.Extensions)
			}
		}
		for x := range again[i].Extensions.All() {
			if x.Key != ExtCertainty && x.Key != ExtVersionCount && x.Key != ExtTraceparent {
				t.Errorf("%s: extension %s although the caller is left out", e.Type, x.Key)
			}
		}
	}
	var in *event.Event
	for _, e := range events {
		if e.Type == "kv-v2/data-write" && e.Namespace == "ns1/child/" {
			in = e
		}
	}
	if in == nil || in.Plugin == nil || in.Plugin.MountPath != "kv/" || in.Plugin.Version != "2" || in.Plugin.Plugin != "kv" ||
		in.Plugin.MountClass != "secret" || in.Plugin.MountAccessor == "" || in.Plugin.PluginVersion != "v2.6.2+builtin.bao" {
		t.Errorf("event of a child namespace: %+v", in)
	}
}

// TestTraceContext: events point to the span of their request, in its caller's trace if it
// has one; who the caller is does not show then if that is to be left out.
func TestTraceContext(t *testing.T) {
	const line = `{"time":"2026-01-01T00:00:00Z","type":"response","auth":{"accessor":"hmac-sha256:0000000000000000000000000000000000000000000000000000000000000000","token_type":"service"},` +
		`"request":{"id":"520854b6-9454-49f7-3334-8aba186064a1","operation":"update","mount_point":"sys/","mount_type":"system","mount_class":"secret","path":"sys/policies/acl/a"%s},"response":{"mount_type":"system"}}`
	const joined = `,"headers":{"traceparent":["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"],"tracestate":["a=1"]}`
	for _, c := range []struct {
		headers string
		omit    bool
		parent  string
		state   string
	}{
		{"", false, "00-520854b6945449f733348aba186064a1-", ""},
		{joined, false, "00-4bf92f3577b34da6a3ce929d0e0e4736-", "a=1"},
		{joined, true, "00-4bf92f3577b34da6a3ce929d0e0e4736-", ""},
	} {
		var p auditlog.Parser
		e, err := p.Parse(fmt.Appendf(nil, line, c.headers))
		if err != nil {
			t.Fatal(err)
		}
		events := New(Options{Source: "vault://a", OmitCaller: c.omit}).Apply(e)
		if len(events) != 1 {
			t.Fatalf("%d events", len(events))
		}
		parent, _ := events[0].Extensions.Text(ExtTraceparent)
		state, _ := events[0].Extensions.Text(ExtTracestate)
		want := tracecontext.FromEntry("vault://a", e)
		if parent != want.Traceparent() || !strings.HasPrefix(parent, c.parent) || state != c.state {
			t.Errorf("%+v: %q, %q", c, parent, state)
		}
		if err := event.DefaultLimits.Check(events[0]); err != nil {
			t.Error(err)
		}
	}
}
