package delivery

import (
	"context"
	"time"

	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/export"
)

const (
	// doubts is how often a receiver may fail with a batch before it is sent in parts, and
	// with a single span before that is given up, if it has taken others meanwhile.
	doubts = 5
	// splitBudget is how many requests are made to find the spans of a batch that a
	// receiver does not take. What is not found by then is given up together.
	splitBudget = 64
)

// sender brings one batch to the receiver.
type sender struct {
	*Delivery
	budget int    // of requests for parts
	begin  uint64 // how often the receiver had answered before the first attempt
}

// deliver sends until the receiver has taken the spans, or has said that it never will. It
// returns false when the delivery is stopped before.
func (s *sender) deliver(ctx context.Context, payload export.Payload, spans []*trace.Span) bool {
	failures := 0
	for {
		pass, ok := s.gate.enter(ctx, s.stopping)
		if !ok {
			return false
		}
		answer := s.config.Exporter.Export(ctx, payload)
		if ctx.Err() != nil && answer.Outcome != export.Delivered {
			pass.given()
			return false
		}
		switch answer.Outcome {
		case export.Delivered:
			s.recovered(pass)
			s.delivered(len(spans), answer)
			return true
		case export.Doubtful:
			failures++
			s.failed(pass, answer)
			works := s.gate.passed() > s.begin
			if failures >= doubts && (works || s.divisible(spans)) {
				return s.split(ctx, spans, answer)
			}
		case export.Retry:
			s.failed(pass, answer)
		default:
			s.recovered(pass)
			return s.split(ctx, spans, answer)
		}
		s.counts.retried.Add(1)
	}
}

func (s *sender) divisible(spans []*trace.Span) bool { return len(spans) > 1 && s.budget >= 2 }

// split sends the halves of a batch that the receiver does not take as a whole.
func (s *sender) split(ctx context.Context, spans []*trace.Span, answer export.Answer) bool {
	if !s.divisible(spans) {
		s.reject(len(spans), answer.Reason)
		s.counts.batchesRejected.Add(1)
		return true
	}
	s.budget -= 2
	s.counts.split.Add(1)
	for _, half := range [][]*trace.Span{spans[:len(spans)/2], spans[len(spans)/2:]} {
		if !s.deliver(ctx, s.encode(half), half) {
			return false
		}
	}
	return true
}

func (d *Delivery) delivered(spans int, answer export.Answer) {
	d.counts.batches.Add(1)
	taken := spans - answer.Rejected
	d.metrics.Delivered.Add(float64(taken))
	d.counts.delivered.Add(uint64(taken))
	switch {
	case answer.Rejected > 0:
		d.reject(answer.Rejected, answer.Reason)
	case answer.Reason != "":
		if skipped, ok := d.warnings.answers.Allow(); ok {
			d.log.Warn("The receiver takes the spans, but says something about them.", "answer", answer.Reason, "messages_skipped", skipped)
		}
	}
}

// reject counts spans that are given up.
func (d *Delivery) reject(spans int, reason string) {
	d.counts.rejected.Add(uint64(spans))
	d.rejected.Store(&rejection{time.Now(), spans, reason})
	if skipped, ok := d.warnings.rejected.Allow(); ok {
		d.log.Error("The receiver refuses spans. They are not sent again.", "spans", spans, "reason", reason, "messages_skipped", skipped)
	}
}

// warnEvery is the time between two messages about one outage.
const warnEvery = 5 * time.Minute

func (d *Delivery) failed(p pass, answer export.Answer) {
	p.failed(answer.After, answer.Reason)
	now := time.Now().UnixNano()
	if next := d.warnings.nextFailing.Load(); now < next || !d.warnings.nextFailing.CompareAndSwap(next, now+int64(warnEvery)) {
		return
	}
	o := d.gate.outage()
	d.log.Warn("Spans cannot be delivered. They stay in the journal and are sent later.", "reason", answer.Reason, "attempts", o.failures, "since", o.since.UTC().Format(time.RFC3339))
}

func (d *Delivery) recovered(p pass) {
	if outage, failures := p.succeeded(); failures > 0 {
		d.warnings.nextFailing.Store(0)
		d.log.Info("Spans are delivered again.", "outage", outage.Round(time.Millisecond), "attempts", failures)
	}
}
