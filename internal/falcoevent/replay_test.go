package falcoevent

import (
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
	if e := a[1]; string(e.Data) != "same" || e.Source != "plugin://lab" || e.Namespace != "team/" || e.Path != "falco/mine/lab" {
		t.Errorf("%+v", e)
	}
	if e := a[4]; e.ID != "own" || e.Source != "vault://v" || e.Namespace != "" {
		t.Errorf("%+v", e)
	}
}
