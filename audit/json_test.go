package audit

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// anyText is a text that may be anything.
func anyText(r *rand.Rand) string {
	pieces := []string{"", "a", "Ada", `"`, `\`, "\n", "\x00", "\x7f", "é", "\u2028", "\xff", "𝄞", "<b>&", " ", "/", "~"}
	var b strings.Builder
	for range r.IntN(4) {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

func anyEvent(r *rand.Rand) Event {
	e := Event{
		ID: "id", Sequence: r.Uint64() >> r.IntN(64), Time: time.Unix(r.Int64N(1<<33), r.Int64N(1e9)).UTC(), Service: "shop",
		Action: "create", Outcome: Denied, Reason: anyText(r), Target: Target{"order", anyText(r), anyText(r), anyText(r), anyText(r)},
		Actor:     Actor{anyText(r), anyText(r), anyText(r), anyText(r), anyText(r), anyText(r), anyText(r), nil},
		RequestID: anyText(r), Traceparent: anyText(r), Tracestate: anyText(r),
	}
	for range r.IntN(3) {
		e.Actor.Roles = append(e.Actor.Roles, anyText(r))
		if e.Metadata == nil {
			e.Metadata = make(map[string]string)
		}
		e.Metadata[strings.ToValidUTF8(anyText(r), "\uFFFD")] = anyText(r)
		e.Truncated = append(e.Truncated, Truncation{anyText(r), r.Int() >> 20})
	}
	if r.IntN(2) == 0 {
		e.Changes = &Changes{Added: []string{anyText(r)}, Changed: []string{"/a", anyText(r)}, More: r.IntN(3)}
	}
	if r.IntN(2) == 0 {
		e.Dropped = &Dropped{r.Uint64(), e.Time, e.Time.Add(time.Second)}
	}
	values := []any{nil, json.RawMessage(`{"a":[1,2,{"b":"]}\""}],"c":null}`), json.RawMessage(`12.5`), json.RawMessage(`"x\ty"`), json.RawMessage(`true`), json.RawMessage(`[]`)}
	e.Before, e.After, e.Payload = values[r.IntN(len(values))], values[r.IntN(len(values))], values[r.IntN(len(values))]
	return e
}

// clean8 makes texts what they become in JSON.
func clean8(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(string([]rune(v.String())))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type() != reflect.TypeFor[time.Time]() {
				clean8(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.Type() != reflect.TypeFor[json.RawMessage]() {
			for i := range v.Len() {
				clean8(v.Index(i))
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			clean8(v.Elem())
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			v.SetMapIndex(k, reflect.ValueOf(string([]rune(v.MapIndex(k).String()))))
		}
	}
}

func TestJSONRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		want := anyEvent(r)
		text, err := want.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(text) || !utf8.Valid(text) || strings.ContainsAny(string(text), "\n\x00") {
			t.Fatalf("%q", text)
		}
		clean8(reflect.ValueOf(&want).Elem())
		var got Event
		if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s\ngot  %+v\nwant %+v\n%v", text, got, want, err)
		}
		own := ownReader{data: text, text: string(text)}
		var fast Event
		if !own.event(&fast) || own.failed || !reflect.DeepEqual(fast, want) {
			t.Fatalf("%s\nown reader %+v\nwant %+v", text, fast, want)
		}
		again, err := got.MarshalJSON()
		if err != nil || string(again) != string(text) {
			t.Fatalf("again %s, %v", again, err)
		}
	}
}

func TestUnmarshalErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"version":"1","id":"x","time":"2026-03-01T12:00:00Z","action":"a","outcome":"success","target":{"type":"t"},"later":[1]}`, ""},
		{`{"version":"2","action":"a"}`, `version is "2"`},
		{`{"version":"1","action":"a b","outcome":"success","target":{"type":"t"}}`, "Action"},
		{`{"version":"1","action":"a","target":{"type":"t"}}`, "Outcome"},
		{`{"version":1}`, "cannot unmarshal"},
	} {
		var e Event
		err := json.Unmarshal([]byte(c.text), &e)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := json.Marshal(Event{}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// FuzzReadOwn holds the fast reader against encoding/json.
func FuzzReadOwn(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		e := anyEvent(r)
		text, err := e.MarshalJSON()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"version":"1","action":"a","outcome":"success","target":{"type":"t"},"payload":01}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := ownReader{data: text, text: string(text)}
		var fast Event
		if !r.event(&fast) || r.failed || r.at != len(text) || fast.check() != nil {
			return // left to encoding/json
		}
		if !utf8.Valid(text) {
			return // texts differ in what is not UTF-8
		}
		var slow Event
		if err := slow.UnmarshalJSON(text); err != nil {
			t.Fatalf("%q is read, encoding/json says %v", text, err)
		}
		slow.Time = slow.Time.UTC()
		if slow.Dropped != nil {
			slow.Dropped.First, slow.Dropped.Last = slow.Dropped.First.UTC(), slow.Dropped.Last.UTC()
		}
		if !reflect.DeepEqual(fast, slow) {
			t.Fatalf("%q\nfast %+v\nslow %+v", text, fast, slow)
		}
	})
}
