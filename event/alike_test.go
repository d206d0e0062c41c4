package event

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// Whatever field differs but the three makes two events not alike.
func TestAlike(t *testing.T) {
	make := func() *Event {
		e := &Event{
			ID: "1", Type: "a/b", Namespace: "n/", Source: "s", Path: "p", EntityIDs: []string{"e"}, Note: "n", Plugin: &PluginInfo{},
			Time: time.Unix(1, 0), Recorded: time.Unix(2, 0), Data: []byte("x"), DataContentType: "text/plain", DataSchema: "d", DataRef: "r",
		}
		e.Metadata.Set("path", "p")
		e.Extensions.Set("x", "y")
		return e
	}
	e := make()
	same := *e
	same.ID, same.Time, same.Data = "2", time.Unix(3, 0), nil
	if !same.Alike(e) || !new(Event).Alike(new(Event)) {
		t.Error("an event is not like itself")
	}
	other := reflect.ValueOf(make()).Elem()
	for i := range other.NumField() {
		name := other.Type().Field(i).Name
		if name == "ID" || name == "Time" || name == "Data" {
			continue
		}
		for _, value := range []reflect.Value{reflect.Zero(other.Field(i).Type()), other.Field(i)} {
			changed := *e
			field := reflect.ValueOf(&changed).Elem().Field(i)
			field.Set(value)
			if reflect.DeepEqual(&changed, e) != (value == other.Field(i)) {
				t.Fatalf("%s of the test is %v", name, value)
			}
			shares := field.Kind() == reflect.String || name == "Recorded" // is compared by value
			if got := changed.Alike(e); got != (shares && reflect.DeepEqual(&changed, e)) {
				t.Errorf("%s: alike is %v", name, got)
			}
		}
	}
	empty := Event{Metadata: Fields{}}
	if empty.Alike(new(Event)) {
		t.Error("no metadata and empty metadata are alike")
	}
}

func TestCheckLike(t *testing.T) {
	limits := DefaultLimits
	limits.MaxEventBytes = 100
	good := &Event{ID: "1", Type: "a/b", Source: "s", Time: time.Unix(1, 0), Metadata: Fields{{Key: "k", Value: "v"}}}
	if err := limits.Check(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Event){
		"nothing":      func(*Event) {},
		"good":         func(e *Event) { e.ID, e.Data = "é", make([]byte, 91) },
		"no id":        func(e *Event) { e.ID = "" },
		"id":           func(e *Event) { e.ID = "a\nb" },
		"id, no UTF-8": func(e *Event) { e.ID = "\xff" },
		"no time":      func(e *Event) { e.Time = time.Time{} },
		"time":         func(e *Event) { e.Time = time.Unix(1<<40, 0) },
		"data":         func(e *Event) { e.Data = make([]byte, 1000) },
		"data, by one": func(e *Event) { e.Data = make([]byte, 100-7+1) },
		"large id":     func(e *Event) { e.ID = strings.Repeat("x", 101) },
	} {
		e := *good
		change(&e)
		if !e.Alike(good) {
			t.Errorf("%s: not alike", name)
		}
		want, got := limits.Check(&e), limits.CheckLike(&e, good)
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: %v instead of %v", name, got, want)
		}
	}
}
