package falcoevent

import (
	"bytes"
	"math"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// replayed returns the events that a stream becomes.
func replayed(t *testing.T, stream []byte) (list []*event.Event) {
	t.Helper()
	r := NewReplay("lab", "team/", "", map[uint32]string{999: "mine"})
	for len(stream) > 0 {
		e, rest, err := scapevent.Next(stream)
		if err != nil {
			t.Fatal(err)
		}
		out, err := r.Event(e)
		if err != nil {
			t.Fatal(err)
		}
		clear(stream[:len(e)]) // nothing of it is kept
		list, stream = append(list, out), rest
	}
	return list
}

// A stream is the same events each time, equal ones are different events, and another stream has
// others.
func TestReplay(t *testing.T) {
	own, err := Append(nil, &event.Event{ID: "own", Type: "kv-v2/data-write", Source: "vault://v", Time: scapevent.Event(scapevent.Append(nil, 0, 5, nil)).Time()})
	if err != nil {
		t.Fatal(err)
	}
	stream := func(first string) (b []byte) {
		b = scapevent.Append(b, 1, 1, []byte(first))
		b = scapevent.Append(b, 999, 2, []byte("same"))
		b = scapevent.Append(b, 999, 2, []byte("same"))
		b = scapevent.AppendAsync(b, 998, 3, "n", nil)
		return append(b, own...)
	}
	a, again, other := replayed(t, stream("a")), replayed(t, append(stream("a"), scapevent.Append(nil, 1, 9, nil)...)), replayed(t, stream("b"))
	seen := make(map[string]bool)
	for i, want := range []string{"falco/k8s_audit", "falco/mine", "falco/mine", "falco/plugin-998/n", "kv-v2/data-write"} {
		e := a[i]
		if e.Type != want || e.ID != again[i].ID || seen[e.ID] {
			t.Errorf("event %d is %q with the id %q, then %q", i, e.Type, e.ID, again[i].ID)
		}
		if seen[e.ID] = true; (i < 4) != (e.ID != other[i].ID) {
			t.Errorf("event %d of another stream has the id %q", i, other[i].ID)
		}
		if err := event.DefaultLimits.Check(e); err != nil {
			t.Error(err)
		}
	}
	// Streams that begin alike have what they have in common.
	fork := replayed(t, append(scapevent.Append(nil, 1, 1, []byte("a")), scapevent.Append(nil, 999, 2, []byte("fork"))...))
	if fork[0].ID != a[0].ID || fork[1].ID == a[1].ID {
		t.Errorf("%q and %q", fork[0].ID, fork[1].ID)
	}
	if e := a[1]; string(e.Data) != "same" || e.Source != "plugin://lab" || e.Namespace != "team/" || e.Path != "falco/mine/lab" {
		t.Errorf("%+v", e)
	}
	if e := a[4]; e.ID != "own" || e.Source != "vault://v" || e.Namespace != "" {
		t.Errorf("%+v", e)
	}
}

// FuzzReplay: whatever a capture has becomes an event, or an error; an event of a plugin is one
// that the journal takes, and is the same bytes again.
func FuzzReplay(f *testing.F) {
	own, err := Append(nil, &event.Event{ID: "own", Type: "kv-v2/data-write", Source: "vault://v", Time: scapevent.Event(scapevent.Append(nil, 0, 5, nil)).Time()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Add(append(scapevent.AppendAsync(nil, 1, 5, "a b", []byte("{}")), own...))
	f.Add(scapevent.Append(nil, PluginID, scapevent.NoTime, []byte(`{"specversion":"1.0"}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReplay("lab", "", "", nil)
		ids := make(map[string]bool)
		for len(b) > 0 {
			in, rest, err := scapevent.Next(b)
			if err != nil {
				return
			}
			b = rest
			e, err := r.Event(in)
			if ours := in.PluginID() == PluginID && in.Type() == scapevent.Plugin; ours || err != nil {
				if !ours {
					t.Fatal(err)
				}
				continue
			}
			if ids[e.ID] {
				t.Fatalf("%s twice", e.ID)
			}
			ids[e.ID] = true
			if in.PluginID() == PluginID || in.Nanos() > math.MaxInt64 || len(in.Name()) > 64 {
				continue // comes back as another one
			}
			if err := event.DefaultLimits.Check(e); err != nil {
				t.Fatal(err)
			}
			in = bytes.Clone(in)
			in.SetThread(scapevent.NoThread)
			if again, err := Append(nil, e); err != nil || !bytes.Equal(again, in) {
				t.Fatalf("%x became %x: %v", in, again, err)
			}
		}
	})
}

// What is not known is called by its id.
func TestEventSource(t *testing.T) {
	r := NewReplay("", "", "", map[uint32]string{1: "renamed", 999: "mine"})
	for id, want := range map[uint32]string{1: "renamed", 999: "mine", 2: "aws_cloudtrail", 998: "plugin-998"} {
		if source, known := r.EventSource(id); source != want || known != (id != 998) {
			t.Errorf("%d is %q, known: %v", id, source, known)
		}
	}
}
