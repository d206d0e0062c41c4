package falcoevent

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func one(t testing.TB, b []byte) scapevent.Event {
	t.Helper()
	e, rest, err := scapevent.Next(b)
	if err != nil || len(rest) > 0 {
		t.Fatalf("%x: %v", b, err)
	}
	return e
}

var origin = NewOrigin("audit", "team-a", "", &sourceplugin.Description{Name: "k8saudit", Version: "0.18.0", ID: 1, EventSource: "k8s_audit"})

// What a plugin gave comes back from the journal, byte for byte.
func TestPluginEvents(t *testing.T) {
	const nanos = 1_700_000_000_123_456_789
	for name, tc := range map[string]struct {
		bytes                  []byte
		eventType, contentType string
	}{
		"object":         {scapevent.Append(nil, 1, nanos, []byte(`{"a": [1,  2]}`)), "falco/k8s_audit", contentJSON},
		"several lines":  {scapevent.Append(nil, 1, nanos, []byte("{\n}")), "falco/k8s_audit", contentBytes},
		"white space":    {scapevent.Append(nil, 1, nanos, []byte("{} ")), "falco/k8s_audit", contentBytes},
		"no object":      {scapevent.Append(nil, 1, nanos, []byte("[1]")), "falco/k8s_audit", contentBytes},
		"cut":            {scapevent.Append(nil, 1, nanos, []byte(`{"a":}`)), "falco/k8s_audit", contentBytes},
		"bytes":          {scapevent.Append(nil, 1, nanos, []byte{0, 255}), "falco/k8s_audit", contentBytes},
		"nothing":        {scapevent.Append(nil, 1, 0, nil), "falco/k8s_audit", contentBytes},
		"late":           {scapevent.Append(nil, 1, math.MaxInt64, nil), "falco/k8s_audit", contentBytes},
		"async":          {scapevent.AppendAsync(nil, 1, nanos, "renewed", []byte("x")), "falco/k8s_audit/renewed", contentBytes},
		"async, odd":     {scapevent.AppendAsync(nil, 1, nanos, "a b/%*\xff", nil), "falco/k8s_audit/a%20b%2F%25%2A%FF", contentBytes},
		"async, no name": {scapevent.AppendAsync(nil, 1, nanos, "", nil), "falco/k8s_audit/", contentBytes},
	} {
		t.Run(name, func(t *testing.T) {
			var e event.Event
			origin.Set(&e, "id", one(t, tc.bytes))
			if e.Type != tc.eventType || e.DataContentType != tc.contentType || e.Source != "plugin://audit" || e.Namespace != "team-a/" ||
				e.Path != "falco/k8s_audit/audit" {
				t.Errorf("%+v", e)
			}
			if err := event.DefaultLimits.Check(&e); err != nil {
				t.Error(err)
			}
			// Over the wire, too.
			wired, err := event.ParseCloudEvent(event.AppendCloudEvent(nil, &e, ""))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range []*event.Event{&e, wired} {
				if again, err := Append([]byte("x"), e); err != nil || !bytes.Equal(again[1:], tc.bytes) {
					t.Errorf("%x\nbecame\n%x\n%v", tc.bytes, again[1:], err)
				}
			}
			if _, err := Parse(one(t, tc.bytes)); !errors.Is(err, ErrNotOurs) {
				t.Errorf("parsed: %v", err)
			}
		})
	}
}

// Events of all other types come back with all that they have.
func TestOwnEvents(t *testing.T) {
	at := time.Date(2026, 11, 27, 12, 0, 0, 123456789, time.UTC)
	own := map[string]*event.Event{
		"notification": {Type: "kv-v2/data-write", Metadata: event.Fields{{Key: "a", Value: "1"}, {Key: "b", Value: "true", JSON: true}}, EntityIDs: []string{"e"}, Note: "n"},
		"payload":      {Type: "audit/request", Data: []byte(`{"a":1}`), DataContentType: contentJSON, Namespace: "ns/", Path: "p", Plugin: &event.PluginInfo{Plugin: "kv", IsLocal: true}},
		"recorded":     {Type: "x", Recorded: at.Add(time.Second), Extensions: event.Fields{{Key: "x", Value: "y"}}, Data: []byte{0}, DataContentType: contentBytes},
		"old":          {Type: "x", Time: time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)},
		"far":          {Type: "x", Time: time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"no id":        {Type: "falco/x", Data: []byte("x")},
		"odd id":       {Type: "falco/x", Data: []byte("x"), Metadata: event.Fields{{Key: "plugin_id", Value: "-1"}}},
		"our id":       {Type: "falco/x", Data: []byte("x"), Metadata: event.Fields{{Key: "plugin_id", Value: "1416586099"}}},
		"no payload":   {Type: "falco/x", Metadata: event.Fields{{Key: "plugin_id", Value: "1"}}},
		"odd name":     {Type: "falco/x/%", Data: []byte("x"), Metadata: event.Fields{{Key: "plugin_id", Value: "1"}}},
		"no such time": {Type: "falco/x", Time: time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), Data: []byte("x"), DataContentType: contentBytes, Metadata: event.Fields{{Key: "plugin_id", Value: "1"}}},
		"late":         {Type: "falco/x", Time: time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC), Data: []byte("x"), DataContentType: contentBytes, Metadata: event.Fields{{Key: "plugin_id", Value: "1"}}},
		"name of NUL":  {Type: "falco/x/%00", Data: []byte("x"), Metadata: event.Fields{{Key: "plugin_id", Value: "1"}}},
	}
	for name, e := range own {
		t.Run(name, func(t *testing.T) {
			e.ID, e.Source = "id", "s"
			if e.Time.IsZero() {
				e.Time = at
			}
			if err := event.DefaultLimits.Check(e); err != nil {
				t.Fatal(err)
			}
			b, err := Append(nil, e)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(one(t, b))
			if err != nil || !got.Time.Equal(e.Time) {
				t.Fatalf("%v: %v", got, err)
			}
			got.Time = e.Time
			want, err := event.ParseCloudEvent(event.AppendCloudEvent(nil, e, ""))
			if err != nil {
				t.Fatal(err)
			}
			want.Time = e.Time
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%+v\nbecame\n%+v", want, got)
			}
		})
	}
}

func TestParseOthers(t *testing.T) {
	for name, b := range map[string][]byte{
		"no JSON": scapevent.Append(nil, PluginID, 1, []byte("x")),
		"empty":   scapevent.Append(nil, PluginID, 1, nil),
	} {
		if _, err := Parse(one(t, b)); err == nil || errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(one(t, scapevent.AppendAsync(nil, PluginID, 1, "n", []byte("{}")))); !errors.Is(err, ErrNotOurs) {
		t.Errorf("asynchronous: %v", err)
	}
	if PluginID < 1073741824 || PluginID > 2147483647 {
		t.Error("the id is outside the private block")
	}
}

// FuzzSet: whatever a plugin gives is an event that the journal takes, and comes back.
func FuzzSet(f *testing.F) {
	f.Add(scapevent.Append(nil, 1, 2, []byte("{}")))
	f.Add(scapevent.AppendAsync(nil, 1, 5, "a b", []byte("{}")))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, _, err := scapevent.Next(b)
		if err != nil || in.Nanos() > math.MaxInt64 || in.PluginID() != 1 || len(in.Name()) > 64 {
			return
		}
		in.SetThread(scapevent.NoThread)
		var e event.Event
		origin.Set(&e, "id", in)
		if err := event.DefaultLimits.Check(&e); err != nil {
			t.Fatal(err)
		}
		if again, err := Append(nil, &e); err != nil || !bytes.Equal(again, in) {
			t.Errorf("%x became %x: %v", in, again, err)
		}
	})
}

func BenchmarkSet(b *testing.B) {
	in := one(b, scapevent.Append(nil, 1, 2, append(append([]byte(`{"text":"`), bytes.Repeat([]byte("some text "), 69)...), `"}`...)))
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	var e event.Event
	for b.Loop() {
		origin.Set(&e, "id", in)
	}
}
