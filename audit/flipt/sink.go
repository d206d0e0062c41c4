package flipt

import (
	"context"
	"fmt"
	"io"
)

// Sink brings events somewhere.
type Sink interface {
	// SendAudits delivers the events in their order, goes on behind one that fails, and
	// returns all errors together: those of this package are [*DeliveryError], and tell which
	// events they are about. Any other error means that perhaps none is delivered: a [Fanout]
	// sends them again, each alone. It returns soon after ctx has ended. The events are shared
	// with other sinks and must not be changed.
	SendAudits(ctx context.Context, events []Event) error
	// Close releases what the sink holds. It may be called while SendAudits runs, and more than
	// once.
	io.Closer
	// String returns the name of the kind: "log", "webhook", ...
	fmt.Stringer
}

// The names of Flipt's kinds of sinks. Those of the last two are here for completeness: events go to
// Kafka by way of a Tocsin hub, and Flipt's cloud is gone.
const (
	SinkLog       = "log"
	SinkWebhook   = "webhook"
	SinkTemplates = "templates"
	SinkKafka     = "kafka"
	SinkCloud     = "cloud"
)

// DeliveryError says which events of a batch a sink failed to deliver; the others are
// delivered.
type DeliveryError struct {
	Sink     string
	Failures []Failure // by ascending index, at least one
}

// Failure is an event that was not delivered.
type Failure struct {
	Index int // in the batch
	Err   error
	// Temporary: trying again later can help.
	Temporary bool
}

// Error describes the first failure.
func (e *DeliveryError) Error() string {
	if len(e.Failures) == 0 {
		return fmt.Sprintf("sink %s did not deliver events", e.Sink)
	}
	text := fmt.Sprintf("sink %s: %v", e.Sink, e.Failures[0].Err)
	if more := len(e.Failures) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// Unwrap returns the errors of all failures.
func (e *DeliveryError) Unwrap() []error {
	all := make([]error, len(e.Failures))
	for i := range e.Failures {
		all[i] = e.Failures[i].Err
	}
	return all
}

// each calls send for every event and collects what fails. Once ctx has ended nothing more is
// tried.
func each(ctx context.Context, sink string, events []Event, send func(ctx context.Context, e *Event) (temporary bool, err error)) error {
	var failures []Failure
	for i := range events {
		if err := context.Cause(ctx); err != nil {
			failures = append(failures, Failure{i, err, true})
			continue
		}
		if temporary, err := send(ctx, &events[i]); err != nil {
			failures = append(failures, Failure{i, err, temporary})
		}
	}
	if len(failures) == 0 {
		return nil
	}
	return &DeliveryError{sink, failures}
}
