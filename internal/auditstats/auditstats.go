// Package auditstats sums up audit logs of Vault and OpenBao for somebody who has to find
// out what is going on: how much was asked when, where, by whom, how it ended, and how long
// it took. It pairs the entries as package trace does.
//
// Memory is bounded, whatever a log has: of millions of different paths or clients the most
// frequent ones are found, and the [Report] says how exact that is. Values of requests and
// responses are not looked at. Texts that callers have chosen, such as paths, names and
// errors, have what looks like a secret masked.
package auditstats

import (
	"bytes"
	"cmp"
	"container/heap"
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/leak"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/tail"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// How many different keys are counted. What is rarer than one in that many may be left out.
const (
	maxPaths   = 20_000
	maxClients = 20_000
	maxErrors  = 5_000
	maxGroups  = 2_500 // mounts, kinds of requests: with a histogram each

	// MaxTop is the most that Options.Top may be.
	MaxTop = 1000
)

// Options say what is summed up.
type Options struct {
	// Server is the name of the server, as in the source of its events. It is part of
	// trace ids of requests whose id is no UUID.
	Server string
	// Top is how many lines each list has, at most MaxTop.
	Top int
	// Only requests that began at Since or later, and before Until. Zero: all.
	Since, Until time.Time
	// Only requests to one of these mounts, with their namespaces, and with one of these
	// operations. Empty: all.
	Mounts, Operations []string
	// Failed: only requests that failed.
	Failed bool
	// Window is how far behind a request its response may be. Zero: trace.DefaultWindow.
	Window time.Duration
}

// Collector sums up lines. It is not safe for concurrent use.
type Collector struct {
	o       Options
	masks   *leak.Rules
	source  string
	parser  auditlog.Parser
	tracer  *trace.Tracer
	last    time.Time // of the last entry
	event   event.Event
	fields  [3]event.Field
	spans   []*trace.Span
	key     []byte
	lines   uint64
	blank   uint64
	entries [2]uint64 // requests, responses
	bad     map[string]uint64

	requests    uint64
	failed      uint64
	outcomes    [trace.Outcomes]uint64
	noResponse  uint64
	noRequest   uint64
	first, till time.Time
	all         durations
	timeline    timeline
	operations  *top[tally]
	kinds       *top[timed]
	mounts      *top[timed]
	paths       *top[tally]
	errors      *top[example]
	clients     *top[tally]
	denied      *top[example]
	logins      *top[example]
	roots       *top[example]
	slowest     slowest
	incomplete  []Request // the first of them
}

// tally is what is counted of one key.
type tally struct {
	failed, denied uint64
	root           bool
}

// timed is a tally with durations.
type timed struct {
	tally
	durations durations
}

// example is the last request that was counted under a key.
type example struct {
	id, path, operation string
	at                  time.Time
}

// New returns a Collector that has seen nothing.
func New(o Options) (*Collector, error) {
	if o.Top < 1 || o.Top > MaxTop {
		return nil, fmt.Errorf("the length of lists must be 1 to %d", MaxTop)
	}
	tracer, err := trace.NewTracer(trace.Options{Bare: true, Window: o.Window})
	if err != nil {
		return nil, err
	}
	masks, err := leak.New(leak.Options{Action: leak.Mask})
	if err != nil {
		return nil, err
	}
	c := &Collector{
		o: o, masks: masks, tracer: tracer, source: event.SourceVault(o.Server), bad: make(map[string]uint64),
		operations: newTop[tally](maxGroups), kinds: newTop[timed](maxGroups), mounts: newTop[timed](maxGroups),
		paths: newTop[tally](maxPaths), errors: newTop[example](maxErrors), clients: newTop[tally](maxClients),
		denied: newTop[example](maxClients), logins: newTop[example](maxClients), roots: newTop[example](maxClients),
	}
	for i, mount := range o.Mounts {
		if i == 0 {
			c.o.Mounts = nil // not the caller's
		}
		c.o.Mounts = append(c.o.Mounts, strings.Trim(mount, "/")+"/")
	}
	return c, nil
}

// Add takes the next lines of a log.
func (c *Collector) Add(lines []tail.Line) {
	for i := range lines {
		c.line(&lines[i])
	}
	c.spans = c.tracer.Flush(c.spans)
	c.count()
}

// reasonTooLong is why a line was not read.
const reasonTooLong = "too-long"

func (c *Collector) line(l *tail.Line) {
	c.lines++
	if l.Kind == tail.TooLong {
		c.bad[reasonTooLong]++
		return
	}
	e, err := c.parser.Parse(l.Data)
	if err != nil {
		if len(bytes.TrimSpace(l.Data)) == 0 {
			c.blank++
			return
		}
		reason := "unknown"
		if syntax, ok := err.(*auditlog.SyntaxError); ok {
			reason = syntax.Reason
		}
		c.bad[reason]++
		return
	}
	if !e.Time.IsZero() {
		c.last = e.Time
	}
	c.event = event.Event{Type: "audit/request", Source: c.source, Time: c.last, Data: e.Line()}
	if e.IsResponse {
		c.event.Type = "audit/response"
		c.entries[1]++
	} else {
		c.entries[0]++
	}
	f := c.fields[:0]
	for _, field := range [...]event.Field{
		{Key: event.MetadataOperation, Value: e.Request.Operation}, {Key: "request_id", Value: e.Request.ID}, {Key: "request_path", Value: e.Request.Path},
	} {
		if field.Value != "" {
			f = append(f, field)
		}
	}
	c.event.Metadata = f
	c.spans = c.tracer.Add(c.spans, &c.event, position.Position{})
	if len(c.spans) >= 256 {
		c.count()
	}
}

// Close counts what waits for an entry that has not come. It must be called before the last
// report, and nothing must be added behind it.
func (c *Collector) Close() {
	c.spans = c.tracer.Close(c.spans)
	c.count()
}

// count counts the requests of the spans and lets go of them.
func (c *Collector) count() {
	for _, s := range c.spans {
		if s.Counts() && c.wanted(s) {
			c.request(s)
		}
	}
	clear(c.spans)
	c.spans = c.spans[:0]
}

func (c *Collector) wanted(s *trace.Span) bool {
	r := &s.Request
	switch o := &c.o; {
	case !o.Since.IsZero() && s.Start.Before(o.Since), !o.Until.IsZero() && !s.Start.Before(o.Until):
		return false
	case o.Failed && !s.Failed:
		return false
	case len(o.Operations) > 0 && !isOne(o.Operations, r.Operation):
		return false
	case len(o.Mounts) > 0:
		c.key = append(append(c.key[:0], r.Namespace...), r.MountPoint...)
		return isOne(c.o.Mounts, string(c.key))
	}
	return true
}

func isOne(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

func (c *Collector) request(s *trace.Span) {
	r := &s.Request
	outcome := s.Outcome()
	denied := outcome == trace.Denied
	c.requests++
	c.outcomes[outcome]++
	if s.Failed {
		c.failed++
	}
	if c.first.IsZero() || s.Start.Before(c.first) {
		c.first = s.Start
	}
	if s.End.After(c.till) {
		c.till = s.End
	}
	c.timeline.add(s.Start, s.Failed)

	operation := c.operations.add(c.keyOf(r.Operation))
	operation.value.add(s, denied)
	kind := c.kinds.add(c.keyOf(s.Name))
	kind.value.add(s, denied)
	mount := c.mounts.add(c.keyOf(r.Namespace, r.MountPoint, "\x00", r.MountType))
	mount.value.add(s, denied)
	if s.Kind == trace.Complete {
		d := s.Duration()
		c.all.add(d)
		kind.value.durations.add(d)
		mount.value.durations.add(d)
		if len(c.slowest) < c.o.Top || d > c.slowest[0].Duration {
			c.slow(s)
		}
	}
	c.paths.add(c.keyOf(r.Namespace, r.Path)).value.add(s, denied)
	client := c.keyOf(r.DisplayName, "\x00", r.EntityID, "\x00", r.RemoteAddress)
	c.clients.add(client).value.add(s, denied)
	if denied {
		c.denied.add(client).value.set(s)
	}
	if r.Root {
		c.roots.add(client).value.set(s)
	}
	if s.Failed {
		if r.IsLogin() {
			c.logins.add(c.keyOf(r.Namespace, r.Path, "\x00", r.RemoteAddress)).value.set(s)
		}
		c.errors.add(c.keyOf(outcome.String(), "\x00", s.Message)).value.set(s)
	}
	if s.Incomplete() {
		if s.Kind == trace.RequestOnly {
			c.noResponse++
		} else {
			c.noRequest++
		}
		if len(c.incomplete) < c.o.Top {
			c.incomplete = append(c.incomplete, c.describe(s))
		}
	}
}

// keyOf joins the parts of a key. It is valid until the next call.
func (c *Collector) keyOf(parts ...string) []byte {
	c.key = c.key[:0]
	for _, p := range parts {
		short := clip(p, maxPartBytes)
		if c.key = append(c.key, short...); len(short) < len(p) {
			c.key = append(c.key, "…"...)
		}
	}
	return c.key
}

// Bounds of what is kept of a text.
const (
	maxPartBytes = 512 // of what is counted
	maxTextBytes = 128 // of what should be short
)

// clip returns the beginning of a text, without the word that does not fit: half a secret
// does not look like one.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[:most]
	if i := strings.LastIndexAny(s, " /\n\t\"',"); i > 0 {
		s = s[:i+1]
	}
	return s
}

// cut returns a copy of the beginning of a text.
func cut(s string, most int) string {
	short := clip(s, most)
	if len(short) < len(s) {
		return strings.ToValidUTF8(short, "") + "…"
	}
	return strings.Clone(s)
}

func (t *tally) add(s *trace.Span, denied bool) {
	if s.Failed {
		t.failed++
	}
	if denied {
		t.denied++
	}
	t.root = t.root || s.Request.Root
}

// set makes a request the example. Its texts are copied: those of the span hold on to the
// lines of the log.
func (e *example) set(s *trace.Span) {
	if !e.at.IsZero() && s.Start.Before(e.at) {
		return
	}
	r := &s.Request
	e.at = s.Start
	e.id, e.operation = cut(r.ID, maxTextBytes), cut(r.Operation, maxTextBytes)
	e.path = cut(r.Namespace+r.Path, maxPartBytes)
}

func (c *Collector) describe(s *trace.Span) Request {
	r := &s.Request
	return Request{
		ID: cut(r.ID, maxTextBytes), TraceID: s.TraceID.String(), Start: s.Start, Duration: s.Duration(), Complete: s.Kind == trace.Complete, Outcome: s.Outcome().String(),
		Operation: cut(r.Operation, maxTextBytes), Path: cut(r.Namespace+r.Path, maxPartBytes),
		Client: Client{DisplayName: cut(r.DisplayName, maxTextBytes), EntityID: cut(r.EntityID, maxTextBytes), RemoteAddress: cut(r.RemoteAddress, maxTextBytes)},
	}
}

// slow takes a request into the slowest ones.
func (c *Collector) slow(s *trace.Span) {
	if len(c.slowest) == c.o.Top {
		c.slowest[0] = c.describe(s)
		heap.Fix(&c.slowest, 0)
		return
	}
	heap.Push(&c.slowest, c.describe(s))
}

// slowest is a heap of requests, the quickest first.
type slowest []Request

func (h slowest) Len() int           { return len(h) }
func (h slowest) Less(i, k int) bool { return slower(&h[k], &h[i]) < 0 }
func (h slowest) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *slowest) Push(x any)        { *h = append(*h, x.(Request)) }
func (h *slowest) Pop() any          { panic("auditstats: nothing is taken out of the heap") }

// slower orders requests: the slowest first, the earlier of equal ones.
func slower(a, b *Request) int {
	return cmp.Or(cmp.Compare(b.Duration, a.Duration), a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID))
}
