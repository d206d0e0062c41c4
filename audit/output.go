package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/leak"
)

// Sink is a place of your own to which events are brought.
type Sink interface {
	// Send takes events, oldest first, and returns when they are safe. It is called by one
	// goroutine at a time, and returns soon after ctx has ended. It tries once: after an
	// error it is called again with the same events, later and later, for as long as it takes. A
	// [SendError] says more: that events are refused for good, or when to come back.
	//
	// An event may come more than once, with the same ID. The events are not used by others.
	// If the Sink has a method Close() error, it is called when the logger ends.
	Send(ctx context.Context, events []Event) error
}

// SendError says what became of events that a [Sink] did not take.
type SendError struct {
	// Err is why. Its text is kept with dead letters, so it must have no secrets.
	Err error
	// Refused means that they would be refused again: they become dead letters. Otherwise
	// they are sent again.
	Refused bool
	// Events are the indices of the events that this is about; the others were delivered. Nil
	// means all.
	Events []int
	// After is how long the sink wants to be left alone.
	After time.Duration
}

func (e *SendError) Error() string {
	if e.Err == nil {
		return "the sink did not take events"
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *SendError) Unwrap() error { return e.Err }

// Filter selects events for a sink: all of it must hold. The zero value selects all.
type Filter struct {
	// Pairs are "noun:verb", where * stands for any: "order:create", "*:delete", "order:*".
	// The noun is Target.Type, the verb Action. Empty: all.
	Pairs []string
	// Outcomes selects by outcome. Empty: all.
	Outcomes []Outcome
	// Match is asked about each event that the rest selects; nil: all. It must not
	// block, and may be called concurrently.
	Match func(*Event) bool
}

// Output is a sink, and how events are brought to it. [To], [ToHub], [ToFile], [ToStdout] and
// [ToWebhook] make one. The fields may be changed before it is given to [New].
type Output struct {
	// Name tells the sink from others: its place in the queue and its dead letters belong to
	// the name. 1 to 63 lower-case letters, digits, "-" and "_".
	Name string
	// Filter selects the events.
	Filter Filter
	// Batch is how many events are sent together at most; 0: what suits the sink.
	Batch int
	// Timeout bounds one attempt; 0: 20 seconds.
	Timeout time.Duration
	// FirstRetry and MaxRetry bound the pauses after failures, which are random and grow; 0: a
	// second and five minutes.
	FirstRetry, MaxRetry time.Duration
	// GiveUp is for how long an event may fail that the sink was reached with; then it
	// becomes a dead letter. A sink that cannot be reached is waited for in any case. 0: 72
	// hours.
	GiveUp time.Duration

	make func(*Logger) (deliver.Sink, error)
	// defaults of the kind
	batch, batchBytes int
}

// Named returns the output under another name.
func (o Output) Named(name string) Output {
	o.Name = name
	return o
}

// Only returns the output with a filter.
func (o Output) Only(f Filter) Output {
	o.Filter = f
	return o
}

// To brings events to a sink of your own.
func To(name string, s Sink) Output {
	return Output{Name: name, make: func(l *Logger) (deliver.Sink, error) {
		if s == nil {
			return nil, errors.New("the Sink is nil")
		}
		return &ownSink{sink: s, log: l.log, turn: make(chan struct{}, 1)}, nil
	}}
}

var outputName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (o *Output) check() error {
	switch {
	case !outputName.MatchString(o.Name):
		return fmt.Errorf("the name %q of a sink must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit", cut(o.Name, 80))
	case o.make == nil:
		return fmt.Errorf("sink %s: make it with To, ToHub, ToFile, ToStdout or ToWebhook", o.Name)
	case o.Batch < 0 || min(o.Timeout, o.FirstRetry, o.MaxRetry, o.GiveUp) < 0:
		return fmt.Errorf("sink %s: sizes and times cannot be negative", o.Name)
	}
	for _, pair := range o.Filter.Pairs {
		noun, verb, ok := strings.Cut(pair, ":")
		if !ok || noun != "*" && !isName(noun) || verb != "*" && !isName(verb) {
			return fmt.Errorf("sink %s: the pair %q must be noun:verb, such as \"order:create\" or \"*:delete\"", o.Name, cut(pair, 80))
		}
	}
	for _, outcome := range o.Filter.Outcomes {
		if !slices.Contains([]Outcome{Success, Denied, Failure, Error}, outcome) {
			return fmt.Errorf("sink %s: the outcome %q is none of success, denied, failure and error", o.Name, cut(string(outcome), 80))
		}
	}
	return nil
}

func (o *Output) policy() deliver.Policy {
	return deliver.Policy{
		Order:     deliver.All,
		MaxEvents: cmp.Or(o.Batch, o.batch, deliver.DefaultMaxEvents),
		MaxBytes:  cmp.Or(o.batchBytes, deliver.DefaultMaxBytes),
		Backoff:   deliver.Backoff{First: cmp.Or(o.FirstRetry, deliver.DefaultBackoff.First), Most: max(cmp.Or(o.MaxRetry, deliver.DefaultBackoff.Most), o.FirstRetry)},
		GiveUp:    cmp.Or(o.GiveUp, 72*time.Hour),
		Timeout:   cmp.Or(o.Timeout, deliver.DefaultTimeout),
		// Close has waited as long as its caller wanted.
		StopTimeout: 500 * time.Millisecond,
	}
}

// match returns what selects events for a delivery, nil for all.
func (f *Filter) match(log *slog.Logger) func(*event.Event) bool {
	if len(f.Pairs) == 0 && len(f.Outcomes) == 0 && f.Match == nil {
		return nil
	}
	pairs := make(map[[2]string]bool)
	for _, pair := range f.Pairs {
		noun, verb, _ := strings.Cut(pair, ":")
		pairs[[2]string{noun, verb}] = true
	}
	return func(e *event.Event) bool {
		if len(pairs) > 0 {
			noun, _ := e.Metadata.Text(metaTarget)
			verb, _ := e.Metadata.Text(event.MetadataOperation)
			if !pairs[[2]string{noun, verb}] && !pairs[[2]string{noun, "*"}] && !pairs[[2]string{"*", verb}] && !pairs[[2]string{"*", "*"}] {
				return false
			}
		}
		if len(f.Outcomes) > 0 {
			outcome, _ := e.Metadata.Text(metaOutcome)
			if !slices.Contains(f.Outcomes, Outcome(outcome)) {
				return false
			}
		}
		if f.Match == nil {
			return true
		}
		return f.ask(e, log)
	}
}

// ask calls Match. An event about which it panics is sent.
func (f *Filter) ask(e *event.Event, log *slog.Logger) (yes bool) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("the filter of a sink has panicked; the event is sent", "panic", fmt.Sprintf("%T", p))
			yes = true
		}
	}()
	a, err := readOwn(e.Data)
	if a.detach(); err != nil {
		return true
	}
	return f.Match(&a)
}

// ownSink is a [Sink] as a delivery wants it.
type ownSink struct {
	sink Sink
	log  *slog.Logger
	turn chan struct{} // has an element: Send runs
}

// Send implements [deliver.Sink].
func (s *ownSink) Send(ctx context.Context, b *deliver.Batch) (result deliver.Result) {
	events := make([]Event, 0, len(b.Items))
	index := make([]int, 0, len(b.Items)) // of the item, by event
	for i, item := range b.Items {
		e, err := readOwn(item.Event.Data)
		if e.detach(); err != nil {
			b.Decide(i, deliver.Result{Outcome: deliver.Impossible, Reason: "it is no audit event"})
			continue
		}
		events, index = append(events, e), append(index, i)
	}
	if len(events) == 0 {
		return deliver.Result{}
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a sink has panicked", "panic", fmt.Sprintf("%T", p))
			result = deliver.Result{Outcome: deliver.Doubtful, Reason: "the sink has panicked"}
		}
	}()
	select { // a test comes beside the others
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return deliver.Result{Outcome: deliver.Retry, Reason: "the sink is busy"}
	}
	err := s.sink.Send(ctx, events)
	if err == nil {
		return deliver.Result{}
	}
	result = deliver.Result{Outcome: deliver.Doubtful, Reason: s.reason(err)}
	var said *SendError
	switch {
	case errors.As(err, &said):
		result.After = said.After
		if said.Refused {
			result.Outcome = deliver.Refused
		}
		if said.Events == nil && !said.Refused {
			return result
		}
		for i := range events {
			if said.Events == nil || slices.Contains(said.Events, i) {
				b.Decide(index[i], result)
			}
		}
		return deliver.Result{}
	case ctx.Err() != nil:
		result.Outcome = deliver.Retry
	}
	return result
}

// reason is the text of an error, without what looks like a secret.
func (s *ownSink) reason(err error) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, clean(err.Error(), deliver.MaxReasonBytes-8))
	if masked := alwaysMasked(text); masked != text {
		return masked
	}
	return text
}

// Close implements [deliver.Sink].
func (s *ownSink) Close() error {
	if c, ok := s.sink.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}

var secretRules = func() *leak.Rules {
	r, err := leak.New(leak.Options{Action: leak.Mask})
	if err != nil {
		panic(err)
	}
	return r
}()

// alwaysMasked hides what looks like a secret, whatever the redaction of the logger.
func alwaysMasked(text string) string { return secretRules.Masked(text) }
