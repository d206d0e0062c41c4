package fields

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const (
	// firstRest and mostRest bound how long a plugin is left alone that has failed.
	firstRest = 250 * time.Millisecond
	mostRest  = 15 * time.Second
	// maxStrays bounds the calls of a plugin that go on although nobody waits for them.
	maxStrays = 4
)

// extractor is a source whose plugin is asked.
type extractor struct {
	source Extractor

	mu       sync.Mutex
	plugin   sourceplugin.Plugin       // that ran last
	about    *sourceplugin.Description // what it said; nil: none has run
	failures int                       // in a row
	rests    time.Time                 // until then
	trouble  string                    // why
	strays   int
	hushed   time.Time // no summaries until then
}

// look returns the plugin if it runs, and notes what it says of itself.
func (e *extractor) look() (p sourceplugin.Plugin, about *sourceplugin.Description, runs bool) {
	p, runs = e.source.Plugin()
	e.mu.Lock()
	defer e.mu.Unlock()
	if runs && p != e.plugin {
		e.plugin, e.about = p, p.Describe()
		e.failures, e.rests = 0, time.Time{}
	}
	return p, e.about, runs
}

// describe returns what the plugin says of itself, nil if it never ran.
func (e *extractor) describe() *sourceplugin.Description {
	_, about, _ := e.look()
	return about
}

// obstacle returns why the plugin cannot be asked now, if it runs or not; "" if it can.
func (e *extractor) obstacle(runs bool) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !runs && e.about == nil:
		return fmt.Sprintf("the plugin of the source %s has not been started yet", e.source.Name())
	case !runs:
		return fmt.Sprintf("the plugin of the source %s does not run", e.source.Name())
	case time.Now().Before(e.rests):
		return e.trouble
	}
	return ""
}

// extracts says whether the plugin extracts from events of an event source: those that it names,
// else its own if it has one, else all.
func extracts(d *sourceplugin.Description, eventSource string) bool {
	switch {
	case !d.Capabilities.Extract:
		return false
	case len(d.ExtractSources) > 0:
		return slices.Contains(d.ExtractSources, eventSource)
	}
	return d.EventSource == "" || d.EventSource == eventSource
}

// request returns how the plugin is asked for a field, if it has it.
func request(d *sourceplugin.Description, name string) (sourceplugin.FieldRequest, bool) {
	if d == nil || !d.Capabilities.Extract {
		return sourceplugin.FieldRequest{}, false
	}
	q, err := fieldtext.Parse(name, d.Fields)
	return q, err == nil
}

// errStuck means that too many calls of a plugin have not come back.
var errStuck = errors.New("earlier questions are not answered yet")

// call asks a plugin. It returns soon after ctx has ended, whatever the plugin does.
func (e *extractor) call(ctx context.Context, p sourceplugin.Plugin, events []sourceplugin.Event, requests []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
	e.mu.Lock()
	if e.strays >= maxStrays {
		e.mu.Unlock()
		return sourceplugin.Values{}, errStuck
	}
	e.mu.Unlock()
	type answer struct {
		values sourceplugin.Values
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			if v := recover(); v != nil {
				a.err = fmt.Errorf("it panicked: %v", v)
			}
			answers <- a
		}()
		a.values, a.err = p.Extract(ctx, events, requests)
	}()
	select {
	case a := <-answers:
		return a.values, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-answers: // it obeys ctx
		return a.values, a.err
	case <-time.After(strayAfter):
	}
	e.mu.Lock()
	e.strays++
	e.mu.Unlock()
	go func() {
		<-answers
		e.mu.Lock()
		e.strays--
		e.mu.Unlock()
	}()
	return sourceplugin.Values{}, ctx.Err()
}

// strayAfter is how long a plugin has to come back after its time is over.
const strayAfter = 100 * time.Millisecond

// runs says whether p is still the plugin that runs.
func (e *extractor) runs(p sourceplugin.Plugin) bool {
	q, ok := e.source.Plugin()
	return ok && q == p
}

// failed has the plugin left alone for a moment.
func (e *extractor) failed(why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rests = time.Now().Add(min(firstRest<<min(e.failures, 20), mostRest))
	e.failures++
	e.trouble = why
}

func (e *extractor) worked() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures, e.rests = 0, time.Time{}
}
