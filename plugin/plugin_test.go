package plugin_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/plugin"
)

// recorder is a sender that remembers.
type recorder struct {
	ctx    context.Context
	events []*event.Event
	err    error
}

func (r *recorder) SendEvent(ctx context.Context, e *event.Event) error {
	r.ctx, r.events = ctx, append(r.events, e)
	return r.err
}

// The rules of Vault's SDK, as observed with it.
func TestSendEvent(t *testing.T) {
	field := func(k, v string) event.Field { return event.Field{Key: k, Value: v} }
	for name, tc := range map[string]struct {
		metadata []string
		want     event.Fields
		path     string
	}{
		"none":      {nil, event.Fields{}, ""},
		"one":       {[]string{"x"}, event.Fields{field(plugin.ExtraValueAtEnd, "x")}, ""},
		"pair":      {[]string{"k", "v"}, event.Fields{field("k", "v")}, ""},
		"three":     {[]string{"k", "v", "x"}, event.Fields{field(plugin.ExtraValueAtEnd, "x"), field("k", "v")}, ""},
		"twice":     {[]string{"k", "1", "a", "2", "k", "3"}, event.Fields{field("a", "2"), field("k", "3")}, ""},
		"empty":     {[]string{"", ""}, event.Fields{field("", "")}, ""},
		"with path": {[]string{plugin.Path, "a/b", plugin.DataPath, "a/data/b", plugin.Operation, "o", plugin.Modified, "true"}, event.Fields{field("data_path", "a/data/b"), field("modified", "true"), field("operation", "o"), field("path", "a/b")}, "a/b"},
		"ten": {[]string{"j", "9", "i", "8", "h", "7", "g", "6", "f", "5", "e", "4", "d", "3", "c", "2", "b", "1", "a", "0"},
			event.Fields{field("a", "0"), field("b", "1"), field("c", "2"), field("d", "3"), field("e", "4"), field("f", "5"), field("g", "6"), field("h", "7"), field("i", "8"), field("j", "9")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := new(recorder)
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // does not matter
			if err := plugin.SendEvent(ctx, r, "kv-v2/data-write", tc.metadata...); err != nil {
				t.Fatal(err)
			}
			e := r.events[0]
			if e.Type != "kv-v2/data-write" || e.Metadata == nil || !slices.Equal(e.Metadata, tc.want) || e.Path != tc.path {
				t.Errorf("%+v", e)
			}
			if id, err := uuid.Parse(e.ID); err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
				t.Errorf("the id is %q", e.ID)
			}
			if time.Since(e.Time).Abs() > time.Minute || e.Source != "" || e.Namespace != "" || r.ctx != ctx {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestNoSender(t *testing.T) {
	if err := plugin.SendEvent(t.Context(), nil, "kv-v2/data-write"); !errors.Is(err, plugin.ErrNoEvents) {
		t.Error(err)
	}
	broken := errors.New("broken")
	if err := plugin.SendEvent(t.Context(), &recorder{err: broken}, "kv-v2/data-write"); err != broken {
		t.Error(err)
	}
}

// A plugin tells that it has written, and goes on if nobody listens.
func ExampleSendEvent() {
	var sender plugin.Sender // given by the host, or nil
	err := plugin.SendEvent(context.Background(), sender, "kv-v2/data-write",
		plugin.Path, "secret/data/app", plugin.Operation, "data-write", plugin.Modified, "true")
	if errors.Is(err, plugin.ErrNoEvents) {
		fmt.Println("without events")
	}
	// Output: without events
}
