package fields

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Several plugins are asked about a record at the same time: each waits here for the other.
func TestAskedAtTheSameTime(t *testing.T) {
	t.Parallel()
	r := New(Options{Timeout: time.Minute})
	var asked [2]chan struct{}
	for i := range asked {
		asked[i] = make(chan struct{})
	}
	for i, name := range []string{"fake", "mate"} {
		p := fieldstest.New()
		for k := range p.About.Fields {
			p.About.Fields[k].Name = strings.Replace(p.About.Fields[k].Name, "fake", name, 1)
		}
		p.Before = func(ctx context.Context, _ []sourceplugin.Event) error {
			close(asked[i])
			select {
			case <-asked[1-i]:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		r.Add(fieldstest.NewSource(name, p))
	}
	u, err := r.Use("fake.text", "mate.number")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Release()
	rec := recordOf()
	rec.events = []*event.Event{fieldstest.Event(`{"text":"a","number":1}`), fieldstest.Event(`{"text":"b","number":2}`)}
	v := u.View(t.Context(), rec)
	for i, want := range []string{"a 1", "b 2"} {
		v.At(i)
		text, _ := v.Texts(0)
		number, _ := v.Texts(1)
		if got := strings.Join(slices.Concat(text, number), " "); got != want || v.Missing() != nil {
			t.Errorf("%q instead of %q, %v", got, want, v.Missing())
		}
	}
}
