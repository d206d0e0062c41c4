package plugintest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// maxAsked is how many events are asked about at once.
const maxAsked = 1000

// texts: each event has a text, whatever it is asked for with.
func texts(x *trial) {
	list := x.material()
	list = list[:min(len(list), maxAsked)]
	all := x.texts(list)
	for i := range min(len(list), 10) {
		if one := x.texts(list[i : i+1]); len(one) == 1 && i < len(all) && one[0] != all[i] {
			x.Errorf("event %d alone has the text %q, and among others %q", i+1, one[0], all[i])
		}
	}
}

func (x *trial) texts(list []sourceplugin.Event) (all []string) {
	x.Helper()
	x.ask("Strings", func(ctx context.Context) (err error) { all, err = x.plugin.Strings(ctx, list); return err })
	if len(all) != len(list) {
		x.Errorf("%d events have %d texts", len(list), len(all))
	}
	for i, text := range all {
		if text == "" || !utf8.ValidString(text) {
			x.Errorf("event %d has the text %q", i+1, text)
		}
	}
	return all
}

func knownType(t sourceplugin.FieldType) bool {
	switch t {
	case sourceplugin.Uint64, sourceplugin.String, sourceplugin.RelTime, sourceplugin.AbsTime, sourceplugin.Bool, sourceplugin.IPAddr, sourceplugin.IPNet:
		return true
	}
	return false
}

// requests are one for each field that can do without an argument, and some for the others.
func (x *trial) requests() (list []sourceplugin.FieldRequest) {
	for i, f := range x.about.Fields {
		if !f.Arg.Required {
			list = append(list, sourceplugin.FieldRequest{Index: i})
		}
		if f.Arg.Index {
			for _, n := range []uint64{0, 1, math.MaxUint32, math.MaxUint64} {
				list = append(list, sourceplugin.FieldRequest{Index: i, Arg: fmt.Sprint(n), ArgIndex: n, ArgPresent: true})
			}
		}
		if f.Arg.Key {
			for _, key := range []string{"a", "0", "a.b", "a/b", "no such key", `"]`, "ä\u202e", strings.Repeat("k", 2000)} {
				list = append(list, sourceplugin.FieldRequest{Index: i, Arg: key, ArgPresent: true})
			}
		}
	}
	for text := range x.o.Values {
		r, err := fieldtext.Parse(text, x.about.Fields)
		if err != nil {
			x.Fatalf("Options.Values: %v", err)
		}
		if !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	return list
}

// extract returns the values, as texts, of all requests of all events, which are checked.
func (x *trial) extract(list []sourceplugin.Event, requests []sourceplugin.FieldRequest) []string {
	x.Helper()
	var v sourceplugin.Values
	x.ask("Extract", func(ctx context.Context) (err error) { v, err = x.plugin.Extract(ctx, list, requests); return err })
	if x.Failed() {
		return nil
	}
	r, err := fieldtext.NewReader(v, len(list), len(requests))
	if err != nil {
		x.Fatalf("Extract: %v", err)
	}
	if n := len(v.Offsets); n != 0 && n != 2*len(v.Lengths) {
		x.Fatalf("Extract: %d offsets for %d values", n, len(v.Lengths))
	}
	texts := make([]string, 0, len(list)*len(requests))
	var elements [][]byte
	at := 0
	for i := range list {
		for _, request := range requests {
			f := &x.about.Fields[request.Index]
			elements = r.Next(elements)
			if len(elements) > 1 && !f.List {
				x.Errorf("the field %s is no list, and has %d values", f.Name, len(elements))
			}
			for _, e := range elements {
				if problem := wrong(f.Type, e); problem != "" {
					x.Errorf("a value of the field %s (%s) %s", f.Name, fieldtext.TypeName(f), problem)
				}
				if len(v.Offsets) > 0 {
					start, length := uint64(v.Offsets[2*at]), uint64(v.Offsets[2*at+1])
					if start+length > uint64(len(list[i].Event)) {
						x.Errorf("a value of the field %s lies at %d to %d of an event of %d bytes", f.Name, start, start+length, len(list[i].Event))
					}
				}
				at++
			}
			texts = append(texts, string(fieldtext.AppendText(nil, f, elements)))
		}
	}
	return texts
}

// wrong says what is wrong with a value of a type.
func wrong(t sourceplugin.FieldType, e []byte) string {
	size := func(ok bool) string {
		if ok {
			return ""
		}
		return fmt.Sprintf("has %d bytes", len(e))
	}
	switch t {
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		return size(len(e) == 8)
	case sourceplugin.Bool:
		if len(e) == 1 && e[0] > 1 {
			return fmt.Sprintf("is %d, which is neither true nor false", e[0])
		}
		return size(len(e) == 1)
	case sourceplugin.IPAddr:
		return size(len(e) == 4 || len(e) == 16)
	}
	if !utf8.Valid(e) {
		return fmt.Sprintf("is no UTF-8: %.100q", e)
	}
	return ""
}

// fields: all fields of all events have values that fit, the same ones however they are asked for.
func fields(x *trial) {
	list, requests := x.material(), x.requests()
	list = list[:min(len(list), maxAsked)]
	if len(list) == 0 {
		x.Fatalf("there are no events to extract fields from")
	}
	all := x.extract(list, requests)
	if all == nil {
		return
	}
	// One event with one field, and the other way round.
	for i := 0; i < len(list); i += 1 + len(list)/5 {
		for j, r := range requests {
			one := x.extract(list[i:i+1], []sourceplugin.FieldRequest{r})
			if want := all[i*len(requests)+j]; len(one) == 1 && one[0] != want {
				x.Errorf("the field %s of event %d is %q alone, and %q among others", x.about.Fields[r.Index].Name, i+1, one[0], want)
			}
		}
	}
	backwards, back := slices.Clone(list), slices.Clone(requests)
	slices.Reverse(backwards)
	slices.Reverse(back)
	got := x.extract(backwards, back)
	slices.Reverse(got)
	if got != nil && !slices.Equal(got, all) {
		x.Errorf("fields have other values when they are asked for in another order")
	}
	for text, want := range x.o.Values {
		r, _ := fieldtext.Parse(text, x.about.Fields)
		j := slices.Index(requests, r)
		for i, value := range want {
			if i >= len(list) {
				x.Errorf("Options.Values has %d values of %s, and there are %d events", len(want), text, len(list))
				break
			}
			if got := all[i*len(requests)+j]; got != value {
				x.Errorf("the field %s of event %d is %q, want %q", text, i+1, got, value)
			}
		}
	}
	for j, r := range requests {
		has := false
		for i := range list {
			has = has || all[i*len(requests)+j] != fieldtext.NoValue
		}
		if f := &x.about.Fields[r.Index]; !has && !r.ArgPresent {
			x.Logf("no event has the field %s", f.Name)
		}
	}
}

// arguments: what a field cannot be asked for with is refused, or has no value.
func arguments(x *trial) {
	list := x.material()
	list = list[:min(len(list), 1)]
	for i, f := range x.about.Fields {
		for text, r := range map[string]sourceplugin.FieldRequest{
			"without an argument, which it needs":    {Index: i},
			"with an argument, which it cannot have": {Index: i, Arg: "a", ArgPresent: true},
		} {
			if r.ArgPresent && (f.Arg.Index || f.Arg.Key) || !r.ArgPresent && !f.Arg.Required {
				continue
			}
			x.within(x.o.Patience, "Extract", func(ctx context.Context) {
				v, err := x.plugin.Extract(ctx, list, []sourceplugin.FieldRequest{r})
				if err != nil {
					x.refused("the field "+f.Name+" "+text, err)
				} else if !r.ArgPresent && len(v.Lengths) > 0 {
					x.Errorf("the field %s has a value %s", f.Name, text)
				}
			})
		}
	}
	x.within(x.o.Patience, "Extract", func(ctx context.Context) {
		if _, err := x.plugin.Extract(ctx, list, []sourceplugin.FieldRequest{{Index: len(x.about.Fields)}}); len(list) > 0 {
			x.refused("a field that there is not", err)
		}
	})
}

// foreign: events that the plugin does not understand do not break it.
func foreign(x *trial) {
	can := x.about.Capabilities
	if !can.Extract && !can.Strings {
		return
	}
	var list []sourceplugin.Event
	add := func(e scapevent.Event) {
		list = append(list, sourceplugin.Event{Event: e, Source: x.about.EventSource}, sourceplugin.Event{Event: e, Number: math.MaxUint64, Source: "another source"})
	}
	payloads := [][]byte{nil, {0}, []byte("{"), []byte("[]"), []byte("null"), []byte(`{"a":[{}]}`), []byte("18446744073709551616"), slices.Repeat([]byte{0xff}, 100), slices.Repeat([]byte("["), 100_000)}
	for _, e := range x.material() {
		if data := e.Data(); len(data) > 1 {
			payloads = append(payloads, data[:len(data)/2], append(slices.Clone(data), data...))
		}
		if len(payloads) > 30 {
			break
		}
	}
	for i, data := range payloads {
		id := x.about.ID
		if id == 0 || i%2 == 1 {
			id = foreignID
		}
		add(scapevent.Append(nil, id, uint64(i)<<60, data))
		if i == 0 {
			add(scapevent.AppendAsync(nil, id, 0, "no such name", data))
		}
	}
	if can.Strings {
		x.ask("Strings of events of others", func(ctx context.Context) error {
			got, err := x.plugin.Strings(ctx, list)
			if err == nil && len(got) != len(list) {
				return fmt.Errorf("%d events have %d texts", len(list), len(got))
			}
			return err
		})
	}
	if requests := x.requests(); can.Extract && len(requests) > 0 {
		x.extract(list, requests)
		x.ask("Extract without events", func(ctx context.Context) error { _, err := x.plugin.Extract(ctx, nil, requests); return err })
		x.ask("Extract without fields", func(ctx context.Context) error { _, err := x.plugin.Extract(ctx, list, nil); return err })
	}
}
