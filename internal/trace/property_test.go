package trace

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// entryOf makes the audit event of an entry.
func entryOf(source, id string, response bool, at time.Time) *event.Event {
	kind, kindOfEvent := "request", typeRequest
	answer := ""
	if response {
		kind, kindOfEvent, answer = "response", typeResponse, `,"response":{"mount_type":"kv"}`
	}
	field := ""
	if id != "" {
		field = fmt.Sprintf(`"id":%q,`, id)
	}
	text := at.Format(time.RFC3339Nano)
	e := &event.Event{
		ID: event.DeriveID(kind, source, id, text), Type: kindOfEvent, Source: source, Time: at, Path: "sys/audit/x",
		Data: fmt.Appendf(nil, `{"time":%q,"type":%q,"auth":{"display_name":"token"},"request":{%s"operation":"read","mount_point":"kv/","mount_type":"kv","path":"kv/a"}%s}`,
			text, kind, field, answer),
	}
	if id != "" {
		e.Metadata.Set(metadataRequestID, id)
	}
	e.Metadata.Set(event.MetadataOperation, "read")
	e.Metadata.Set(metadataRequestPath, "kv/a")
	return e
}

// outcome is what a span says about pairing.
type outcome struct {
	source, id     string
	kind           Completeness
	opened, closed position.Position
	start, end     time.Time
	derived        string
}

func (o outcome) String() string {
	return fmt.Sprintf("%s %s %s %d.%d..%d.%d %s +%s [%s]", o.source, o.id, o.kind, o.opened.Seq, o.opened.Index, o.closed.Seq, o.closed.Index,
		o.start.Format(time.TimeOnly), o.end.Sub(o.start), o.derived)
}

func outcomeOf(s *Span) outcome {
	id, _ := s.Get("request.id")
	derived, _ := s.Get(attrEventIDs)
	return outcome{s.Source, id.Text, s.Kind, s.Opened, s.Closed, s.Start, s.End, strings.Join(derived.Texts, " ")}
}

func sorted(list []outcome) []outcome {
	slices.SortFunc(list, func(a, b outcome) int {
		return cmp.Or(a.opened.Compare(b.opened), a.closed.Compare(b.closed), cmp.Compare(a.id, b.id))
	})
	return list
}

// stream is a random journal: requests with entries that are lost, doubled, late, and in
// either order, of several sources that use the same ids.
func stream(r *rand.Rand, window time.Duration) []placed {
	type due struct {
		after time.Duration
		e     *event.Event
		ids   int // derived events that follow
	}
	base := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	var entries []due
	clock := time.Duration(0)
	for range 20 + r.IntN(60) {
		clock += time.Duration(r.Int64N(int64(window / 8)))
		if r.IntN(30) == 0 {
			clock += 2 * window
		}
		id := uuid.NewString()
		switch r.IntN(10) {
		case 0:
			id = fmt.Sprintf("dev-%d", len(entries)) // no UUID
		case 1:
			id = ""
		}
		for s := range 1 + r.IntN(2) {
			source := fmt.Sprintf("vault://s%d", s)
			took := time.Duration(r.Int64N(int64(window / 10)))
			switch r.IntN(8) {
			case 0:
				took = time.Duration(r.Int64N(int64(window * 18 / 10)))
			case 1:
				took = -took // the response line comes first
			}
			request := entryOf(source, id, false, base.Add(clock))
			response := entryOf(source, id, true, base.Add(clock+time.Duration(r.Int64N(int64(time.Second)))-100*time.Millisecond))
			parts := []due{{clock, request, 0}, {clock + took, response, r.IntN(3)}}
			if r.IntN(6) == 0 { // lost
				parts = slices.Delete(parts, 0, 1)
			} else if r.IntN(6) == 0 {
				parts = parts[:1]
			}
			if r.IntN(5) == 0 && id != "" {
				again := parts[r.IntN(len(parts))]
				again.after += time.Duration(r.Int64N(int64(window / 3)))
				again.ids = 0
				parts = append(parts, again)
			}
			entries = append(entries, parts...)
		}
	}
	slices.SortStableFunc(entries, func(a, b due) int { return cmp.Compare(a.after, b.after) })
	var out []placed
	at := position.Position{Seq: 1}
	left := 1 + r.IntN(8)
	recorded := time.Duration(0)
	for _, d := range entries {
		if left--; left < 0 {
			left = r.IntN(8)
			at.Seq++
			at.Index = 0
		}
		if at.Index == 0 {
			recorded = max(recorded, d.after) // all of a record are recorded at once
		}
		add := func(e event.Event) {
			e.Recorded = base.Add(recorded)
			out = append(out, placed{&e, at})
			at.Index++
			at.Ordinal++
		}
		add(*d.e)
		var p auditlog.Parser
		entry, err := p.Parse(d.e.Data)
		if err != nil {
			panic(err)
		}
		c := tracecontext.FromEntry(d.e.Source, entry)
		for i := range d.ids {
			e := event.Event{ID: fmt.Sprintf("derived-%d-%s", i, d.e.ID), Type: "kv-v2/data-write", Source: d.e.Source, Time: d.e.Time}
			if e.Extensions.Set(extTraceparent, c.Traceparent()); i == 1 {
				e.Extensions = nil // as older versions made them
				e.Extensions.Set(extRequestID, entry.Request.ID)
			}
			add(e)
		}
		if r.IntN(4) == 0 { // somebody else's
			add(event.Event{ID: "other", Type: "app/x", Source: "/app", Time: d.e.Time})
		}
	}
	return out
}

type request struct{ source, id string }

// obvious says what spans a stream gives: entries are gone through request by request, not
// in the order in which they come. It also tells of which requests an entry was repeated.
func obvious(events []placed, window time.Duration) (out []outcome, repeated map[request]bool) {
	byRequest := map[request][]int{}
	repeated = map[request]bool{}
	derived := func(i int) string {
		var ids []string
		for _, e := range events[i+1:] {
			if e.at.Seq != events[i].at.Seq || e.Type == typeRequest || e.Type == typeResponse {
				break
			}
			if e.Type == "kv-v2/data-write" {
				if _, ok := e.Extensions.Text(extTraceparent); !ok && requestID(events[i].Event) == "" {
					continue // nothing says to what it belongs
				}
				ids = append(ids, e.ID)
			}
		}
		return strings.Join(ids, " ")
	}
	alone := func(i int, closed position.Position) {
		e := events[i]
		kind := RequestOnly
		if e.Type == typeResponse {
			kind = ResponseOnly
		}
		out = append(out, outcome{e.Source, requestID(e.Event), kind, e.at, closed, e.Time, e.Time, derived(i)})
	}
	for i, e := range events {
		if e.Type != typeRequest && e.Type != typeResponse {
			continue
		}
		if requestID(e.Event) == "" {
			alone(i, e.at)
			continue
		}
		k := request{e.Source, requestID(e.Event)}
		if slices.ContainsFunc(byRequest[k], func(o int) bool { return events[o].Type == e.Type }) {
			repeated[k] = true
		} else {
			byRequest[k] = append(byRequest[k], i)
		}
	}
	for _, entries := range byRequest {
		first := events[entries[0]]
		if len(entries) == 2 {
			second := events[entries[1]]
			if second.Recorded.Sub(first.Recorded) < window {
				asked, answered, answer := first, second, entries[1]
				if first.Type == typeResponse {
					asked, answered, answer = second, first, entries[0]
				}
				end := answered.Time
				if end.Before(asked.Time) {
					end = asked.Time
				}
				out = append(out, outcome{first.Source, requestID(first.Event), Complete, first.at, second.at, asked.Time, end, derived(answer)})
				continue
			}
		}
		for _, i := range entries {
			last := events[len(events)-1].at
			closed := position.Position{Seq: last.Seq, Index: position.BetweenRecords, Ordinal: last.Ordinal}
			for _, e := range events {
				if e.Recorded.Sub(events[i].Recorded) >= window {
					closed = e.at
					break
				}
			}
			alone(i, closed)
		}
	}
	return sorted(out), repeated
}

func requestID(e *event.Event) string {
	id, _ := e.Metadata.Text(metadataRequestID)
	return id
}

// withRestarts feeds a stream to tracers that are dropped now and then, together with the
// spans that are not delivered yet. It returns what was delivered.
func withRestarts(t *testing.T, r *rand.Rand, events []placed, o Options) (delivered []outcome, restarts int) {
	type batch struct {
		spans    []outcome
		progress Progress
	}
	var stored Progress
	var waiting []batch
	tr := newTracer(t, o)
	for i := 0; i < len(events); {
		var spans []*Span
		seq := events[i].at.Seq
		cut := func() {
			b := batch{progress: tr.Progress()}
			for _, s := range spans {
				b.spans = append(b.spans, outcomeOf(s))
			}
			waiting = append(waiting, b)
			spans = spans[:0]
		}
		for first := i; i < len(events) && events[i].at.Seq == seq; i++ {
			if i > first && IsEntry(events[i].Event) && r.IntN(3) == 0 {
				spans = tr.Settle(spans)
				cut()
			}
			spans = tr.Add(spans, events[i].Event, events[i].at)
		}
		spans = tr.Flush(spans)
		cut()
		if r.IntN(3) == 0 {
			for n := 1 + r.IntN(len(waiting)); n > 0; n-- {
				delivered = append(delivered, waiting[0].spans...)
				stored = waiting[0].progress
				waiting = waiting[1:]
			}
		}
		if r.IntN(8) == 0 && restarts < 30 {
			restarts++
			waiting = nil
			text, err := stored.MarshalText()
			if err != nil {
				t.Fatal(err)
			}
			o.Resume = Progress{}
			if err := o.Resume.UnmarshalText(text); err != nil {
				t.Fatal(err)
			}
			tr = newTracer(t, o)
			for i = 0; i < len(events) && events[i].at.Compare(o.Resume.Read) <= 0; i++ {
			}
		}
	}
	for _, b := range waiting {
		delivered = append(delivered, b.spans...)
	}
	for _, s := range tr.Close(nil) {
		delivered = append(delivered, outcomeOf(s))
	}
	return sorted(delivered), restarts
}

func TestPairingProperty(t *testing.T) {
	const window = 3 * time.Minute
	restarts := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 7))
		events := stream(r, window)
		want, repeated := obvious(events, window)
		var got []outcome
		ids := map[string]outcome{}
		for _, s := range run(newTracer(t, Options{Window: window}), events) {
			o := outcomeOf(s)
			got = append(got, o)
			id := s.TraceID.String() + s.SpanID.String()
			if other, twice := ids[id]; twice {
				t.Errorf("seed %d: two spans have one id:\n%s\n%s", seed, o, other)
			}
			ids[id] = o
		}
		compareOutcomes(t, fmt.Sprintf("seed %d", seed), sorted(got), want)
		got, n := withRestarts(t, r, events, Options{Window: window})
		restarts += n
		// Whoever sees an entry a second time after a restart cannot know that it is the
		// second time, so there may be more spans then, but not none.
		for k := range repeated {
			ofRequest := func(o outcome) bool { return o.source == k.source && o.id == k.id }
			if !slices.ContainsFunc(got, ofRequest) {
				t.Errorf("seed %d: %v has no span", seed, k)
			}
			got = slices.DeleteFunc(got, ofRequest)
			want = slices.DeleteFunc(want, ofRequest)
		}
		compareOutcomes(t, fmt.Sprintf("seed %d, %d restarts", seed, n), got, want)
		if t.Failed() {
			return
		}
	}
	if restarts < 1000 {
		t.Errorf("only %d restarts", restarts)
	}
}

func compareOutcomes(t *testing.T, what string, got, want []outcome) {
	t.Helper()
	i, k := 0, 0
	for i < len(got) || k < len(want) {
		switch {
		case i < len(got) && k < len(want) && got[i] == want[k]:
			i++
			k++
			continue
		case k == len(want) || i < len(got) && got[i].opened.Compare(want[k].opened) <= 0:
			t.Errorf("%s: unexpected %s", what, got[i])
			i++
		default:
			t.Errorf("%s: missing %s", what, want[k])
			k++
		}
	}
}
