package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// settleTime is how long the client has to give up records after the context of Send has
// ended. It does so at once, unless it waits for something that does not look at the context.
const settleTime = 500 * time.Millisecond

// attempt is one call of Send.
type attempt struct {
	sink     *Sink
	producer *producer
	batch    *deliver.Batch
	states   []state // of the events
	// ended says why the context of the attempt has ended.
	ended func() error
}

// state is what became of one event so far.
type state struct {
	record *kgo.Record
	// partition is where the record was put, -1: nowhere that is known.
	partition int32
	verdict   verdict
	decided   bool
}

func (a *attempt) decide(i int, v verdict) {
	a.states[i].verdict, a.states[i].decided = v, true
}

// prepare makes records of the events whose topics are ready.
func (a *attempt) prepare(ctx context.Context) {
	topics := make([]string, len(a.batch.Items))
	seen := make(map[string]bool)
	var unknown []string
	for i, item := range a.batch.Items {
		a.states[i].partition = -1
		topic := a.sink.topic.of(item.Event)
		topics[i] = topic
		if seen[topic] || a.producer.known(topic) {
			continue
		}
		if len(unknown) == MaxTopics {
			a.decide(i, verdict{outcome: deliver.Retry, reason: fmt.Sprintf("events for more than %d topics at once; the rest follows", MaxTopics)})
			continue
		}
		seen[topic] = true
		unknown = append(unknown, topic)
	}
	failed := a.producer.look(ctx, unknown)
	prefixes := make(map[string]prefix) // of the values, by topic
	for i, item := range a.batch.Items {
		topic := topics[i]
		if a.states[i].decided {
			continue
		}
		if err := failed[topic]; err != nil {
			a.decide(i, a.judge(topic, err))
			continue
		}
		lead, ok := prefixes[topic]
		if !ok {
			lead = a.sink.prefix(ctx, topic)
			prefixes[topic] = lead
		}
		if lead.err != nil {
			a.decide(i, verdict{outcome: deliver.Retry, reason: lead.err.Error()})
			continue
		}
		record, err := a.sink.record(topic, lead.bytes, item, a.batch)
		if err != nil {
			a.decide(i, verdict{outcome: deliver.Impossible, reason: fmt.Sprintf("cannot be made %s: %v", a.sink.o.Encoding, err)})
			continue
		}
		if n, most := batchBytes(record), a.producer.maxBytes(topic); n > most {
			a.decide(i, verdict{outcome: deliver.Impossible, reason: fmt.Sprintf("the record has %d bytes, topic %q takes at most %d; raise max.message.bytes of the topic, or max_message_bytes of the sink", n, topic, most)})
			continue
		}
		a.states[i].record = record
	}
}

// produce puts the records into the client, and waits until it is known what became of all of
// them, or the context has ended.
func (a *attempt) produce(ctx context.Context) {
	var w waiting
	for i := range a.states {
		st := &a.states[i]
		if st.record == nil {
			continue
		}
		w.add()
		a.producer.client.TryProduce(ctx, st.record, func(r *kgo.Record, err error) {
			w.done(func() {
				st.partition = r.Partition
				if err == nil {
					a.decide(i, verdict{outcome: deliver.Delivered})
					return
				}
				a.decide(i, a.judge(r.Topic, err))
			})
		})
	}
	if w.wait(ctx) {
		return
	}
	// Something is still with the client. Whatever it does with it later is before what is put
	// into it from now on, in each partition.
	for i := range a.states {
		if st := &a.states[i]; !st.decided {
			a.decide(i, a.judge(st.record.Topic, context.Cause(ctx)))
		}
	}
}

// waiting waits for the answers of a client. The state of an attempt is written under its lock,
// and not any more after wait has returned.
type waiting struct {
	mu       sync.Mutex
	left     int
	over     bool
	finished chan struct{}
}

func (w *waiting) add() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finished == nil {
		w.finished = make(chan struct{})
		w.left = 1 // wait's own
	}
	w.left++
}

// done is called with what there is to note of an answer.
func (w *waiting) done(note func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	note()
	w.leave()
}

func (w *waiting) leave() {
	if w.left--; w.left == 0 {
		close(w.finished)
	}
}

// wait returns whether everything was answered, at the latest a moment after ctx has ended.
func (w *waiting) wait(ctx context.Context) bool {
	w.mu.Lock()
	if w.finished == nil {
		w.mu.Unlock()
		return true
	}
	w.leave()
	w.mu.Unlock()
	select {
	case <-w.finished:
		return true
	case <-ctx.Done():
	}
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-w.finished:
	case <-timer.C:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	return w.left == 0
}

// report says what became of the events, and remembers what that says about topics.
func (a *attempt) report() deliver.Result {
	a.resendBehind()
	replace := a.producer.crowded()
	delivered := 0
	for i := range a.states {
		v := a.states[i].verdict
		switch v.outcome {
		case deliver.Delivered:
			delivered++
		case deliver.Retry, deliver.Doubtful:
			if r := a.states[i].record; r != nil {
				a.producer.forget(r.Topic)
			}
		}
		replace = replace || v.replace
	}
	if replace {
		a.producer.retire()
	}
	base := a.states[0].verdict
	if delivered > 0 {
		base = verdict{outcome: deliver.Delivered}
	}
	for i := range a.states {
		if v := a.states[i].verdict; v != base {
			a.batch.Decide(i, a.sink.result(v))
		}
	}
	return a.sink.result(base)
}

// resendBehind turns delivered into retry for events behind one of the same path, or in the
// same partition, that is to be sent again.
func (a *attempt) resendBehind() {
	type place struct {
		topic     string
		partition int32
	}
	type path struct{ topic, namespace, path string }
	places, paths := make(map[place]bool), make(map[path]bool)
	for i := range a.states {
		st, e := &a.states[i], a.batch.Items[i].Event
		if st.record == nil {
			// The topic is that of the events around it, or nothing for it was sent.
			continue
		}
		at, of := place{st.record.Topic, st.partition}, path{st.record.Topic, e.Namespace, e.Path}
		switch st.verdict.outcome {
		case deliver.Delivered:
			if places[at] || e.Path != "" && paths[of] {
				a.decide(i, verdict{outcome: deliver.Retry, reason: "is sent again, behind an event that came before it"})
			}
		case deliver.Retry, deliver.Doubtful:
			paths[of] = true
			if st.partition >= 0 {
				places[at] = true
			}
		}
	}
}
