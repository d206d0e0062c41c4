package fields

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const (
	// chunkEvents and chunkBytes bound what a plugin is asked about at once; a single event may
	// have more bytes.
	chunkEvents = 4096
	chunkBytes  = 1 << 20
	// answerBytes and answerElements bound what it answers.
	answerBytes    = 32 << 20
	answerElements = 1 << 20
	// maxCalls bounds the calls that find out which events a plugin refuses.
	maxCalls = 64
	// maxDeaths is how often a plugin may end with one event.
	maxDeaths = 5
	// maxReason bounds what is repeated of the error of a plugin.
	maxReason = 256
)

// columns returns the columns of fields of a record, which has an event of a plugin.
func (r *Registry) columns(ctx context.Context, rec Record, names []string) []*column {
	t := r.tableOf(rec)
	complete := func() (list []*column, ok bool) {
		ok = true
		for _, name := range names {
			c := t.column(name)
			list = append(list, c)
			ok = ok && c != nil && !c.missing
		}
		return list, ok
	}
	list, ok := complete()
	if ok {
		return list
	}
	if t.lock(ctx) != nil {
		l := newLoad(ctx, r, t, rec, names, len(names))
		l.giveUp(errInterrupted.Error())
		return l.columns
	}
	defer t.unlock()
	if list, ok = complete(); ok {
		return list
	}
	together := names
	if !slices.ContainsFunc(list, func(c *column) bool { return c != nil }) {
		together = r.together(names)
	}
	l := newLoad(ctx, r, t, rec, together, len(names))
	l.run()
	if l.failed.Load() && len(together) > len(names) {
		// The fields of others are not to cost these their values.
		l = newLoad(ctx, r, t, rec, names, len(names))
		l.run()
	}
	l.keep()
	return l.columns[:len(names)]
}

// errInterrupted is why nothing is known when nobody waits any more.
var errInterrupted = errors.New("it was not waited for")

// load is the work of asking plugins about a record.
type load struct {
	registry *Registry
	table    *table
	rec      Record
	parent   context.Context
	ctx      context.Context // ends when the time is over

	names   []string
	own     int       // of names; the others are those of others
	before  []*column // as they are in the table; nil for those that are not
	columns []*column // as they become
	plans   map[planKey]*plan
	of      []*plan // of each event
	jobs    []*job

	// Jobs go on at the same time. Each writes other cells of the columns, and all of them these.
	calls  atomic.Int64
	failed atomic.Bool // a call has
	bytes  atomic.Int64
}

func newLoad(ctx context.Context, r *Registry, t *table, rec Record, names []string, own int) *load {
	l := &load{registry: r, table: t, rec: rec, parent: ctx, names: names, own: own, plans: make(map[planKey]*plan), of: make([]*plan, rec.Len())}
	for _, name := range names {
		before, c := t.column(name), &column{cells: make([]cell, rec.Len())}
		if before != nil {
			copy(c.cells, before.cells)
		}
		l.before, l.columns = append(l.before, before), append(l.columns, c)
	}
	return l
}

// pending says whether a value is to be asked for.
func (l *load) pending(name, event int) bool {
	b := l.before[name]
	return b == nil || b.cells[event].unavailable()
}

// planKey is what decides which plugin is asked about an event.
type planKey struct{ eventType, source string }

// plan has a target for each field.
type plan struct {
	targets []target
	orphan  bool // no plugin extracts from the event source
}

// target is who is asked for a field; without job, missing is why nobody can be, and nil if there
// is nobody whom the field is of.
type target struct {
	job     *job
	missing *part
}

// job is what one plugin is asked.
type job struct {
	extractor *extractor
	plugin    sourceplugin.Plugin
	about     *sourceplugin.Description
	names     []int // of load.names
	requests  []sourceplugin.FieldRequest
	events    []int
}

// run asks the plugins for what is pending.
func (l *load) run() {
	ctx, cancel := context.WithTimeout(l.parent, l.registry.o.Timeout)
	defer cancel()
	l.ctx = ctx
	for i := range l.rec.Len() {
		e := l.rec.Event(i)
		if !isPlugins(e.Type) {
			continue
		}
		l.of[i] = l.plan(e)
		for name, t := range l.of[i].targets {
			if !l.pending(name, i) {
				continue
			}
			l.note(name, i, t.missing)
			if j := t.job; j != nil && (len(j.events) == 0 || j.events[len(j.events)-1] != i) {
				j.events = append(j.events, i)
			}
		}
	}
	if len(l.jobs) == 1 {
		l.do(l.jobs[0])
		return
	}
	var wg sync.WaitGroup
	for _, j := range l.jobs {
		wg.Go(func() { l.do(j) })
	}
	wg.Wait()
}

// plan finds out who is asked about an event.
func (l *load) plan(e *event.Event) *plan {
	key := planKey{e.Type, e.Source}
	if p := l.plans[key]; p != nil {
		return p
	}
	p := new(plan)
	source := eventSource(e.Type)
	all := l.registry.all()
	// The plugin that the event came from knows it best.
	if own := slices.IndexFunc(all, func(x *extractor) bool { return falcoevent.Source(x.source.Name()) == e.Source }); own > 0 {
		all = slices.Concat(all[own:own+1], all[:own], all[own+1:])
	}
	for name := range l.names {
		p.targets = append(p.targets, l.target(name, source, all))
	}
	p.orphan = !slices.ContainsFunc(all, func(x *extractor) bool {
		d := x.describe()
		return d == nil || extracts(d, source)
	})
	l.plans[key] = p
	return p
}

func (l *load) target(name int, source string, all []*extractor) target {
	var why string // the first that could be asked, but not now
	unknown, known := "", false
	for _, x := range all {
		p, d, runs := x.look()
		if d == nil {
			if unknown == "" {
				unknown = x.obstacle(runs)
			}
			continue
		}
		q, ok := request(d, l.names[name])
		if !ok {
			continue
		}
		known = true
		if !extracts(d, source) {
			continue
		}
		if reason := x.obstacle(runs); reason != "" {
			if why == "" {
				why = reason
			}
			continue
		}
		return target{job: l.job(x, p, d, name, q)}
	}
	if why == "" && !known {
		if why = unknown; why == "" { // which may have the field
			if err := l.registry.Check(l.names[name], nil); err != nil {
				why = "it does not exist: " + clean(err)
			}
		}
	}
	if why == "" {
		return target{}
	}
	return target{missing: &part{missing: &Missing{Field: l.names[name], Reason: why}}}
}

func (l *load) job(x *extractor, p sourceplugin.Plugin, d *sourceplugin.Description, name int, q sourceplugin.FieldRequest) *job {
	i := slices.IndexFunc(l.jobs, func(j *job) bool { return j.extractor == x && j.plugin == p })
	if i < 0 {
		i = len(l.jobs)
		l.jobs = append(l.jobs, &job{extractor: x, plugin: p, about: d})
	}
	j := l.jobs[i]
	if !slices.Contains(j.names, name) {
		j.names, j.requests = append(j.names, name), append(j.requests, q)
	}
	return j
}

// eventSource returns the event source that the type of an event says.
func eventSource(eventType string) string {
	text, _, _ := strings.Cut(strings.TrimPrefix(eventType, falcoevent.TypePrefix), "/")
	if source, err := url.PathUnescape(text); err == nil {
		return source
	}
	return text
}

// question is events as a plugin is asked about them.
type question struct {
	events []sourceplugin.Event
	at     []int // in the record
}

// do asks the plugin of a job about all its events.
func (l *load) do(j *job) {
	for rest := j.events; len(rest) > 0; {
		q, n := l.ask(j, rest)
		if ok := l.answer(j, q); !ok {
			l.miss(j, rest[n:], "it was not asked, because it has failed with other events", nil, false)
			return
		}
		rest = rest[n:]
	}
}

// ask makes a question of the first events of a list, and says how many these are.
func (l *load) ask(j *job, list []int) (q question, n int) {
	var buf []byte
	var ends []int
	among := l.among(j, list[0])
	most := chunkEvents
	if among > 0 {
		most = max(among/2, 1)
	}
	for _, i := range list {
		e := l.rec.Event(i)
		if n > 0 && (n == most || l.among(j, i) != among || e.DataRef != "" || len(buf)+len(e.Data) > chunkBytes) {
			break
		}
		n++
		e, why, final := l.whole(e)
		if why != "" {
			l.miss(j, []int{i}, why, nil, final)
			continue
		}
		begin := len(buf)
		next, err := falcoevent.Append(buf, e)
		if err != nil {
			l.miss(j, []int{i}, clean(err), nil, true)
			continue
		}
		if buf = next; scapevent.Event(buf[begin:]).PluginID() == falcoevent.PluginID {
			buf = buf[:begin] // no event of a plugin, whatever its type says
			continue
		}
		q.at, ends = append(q.at, i), append(ends, len(buf))
	}
	q.events = make([]sourceplugin.Event, len(q.at))
	begin := 0
	for k, end := range ends {
		q.events[k] = sourceplugin.Event{Event: scapevent.Event(buf[begin:end:end]), Source: eventSource(l.rec.Event(q.at[k]).Type)}
		begin = end
	}
	return q, n
}

// whole returns an event with its payload, and why it cannot be had.
func (l *load) whole(e *event.Event) (_ *event.Event, why string, final bool) {
	if e.DataRef == "" || len(e.Data) > 0 || l.registry.o.Payload == nil {
		return e, "", false
	}
	data, err := l.registry.o.Payload(l.ctx, e.DataRef)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "its payload was removed", true
	case err != nil:
		return nil, "its payload cannot be read: " + clean(err), false
	}
	copied := *e
	copied.Data = data
	return &copied, "", false
}

// answer asks the plugin and keeps what it says. It returns false if it cannot be asked now.
func (l *load) answer(j *job, q question) bool {
	if len(q.at) == 0 {
		return true
	}
	l.calls.Add(1)
	values, err := j.extractor.call(l.ctx, j.plugin, q.events, j.requests)
	if err == nil {
		err = l.store(j, q, values)
	}
	m, name := l.registry.metrics, j.extractor.source.Name()
	if err == nil {
		m.calls.WithLabelValues(name, outcomeAnswered).Inc()
		m.events.WithLabelValues(name).Add(float64(len(q.at)))
		j.extractor.worked()
		return true
	}
	l.failed.Store(true)
	if l.parent.Err() != nil {
		l.miss(j, q.at, errInterrupted.Error(), nil, false)
		return false
	}
	m.calls.WithLabelValues(name, outcomeFailed).Inc()
	why := fmt.Sprintf("the plugin of the source %s has failed: %s", name, clean(err))
	switch {
	case l.ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		why = fmt.Sprintf("the plugin of the source %s has not answered within %s", name, l.registry.o.Timeout)
	case errors.Is(err, errStuck), errors.Is(err, sourceplugin.ErrNotSupported):
	case errors.Is(err, sourceplugin.ErrExited), !j.extractor.runs(j.plugin):
		j.extractor.failed(why)
		l.accuse(j, q.at, why)
		return false
	case l.own < len(l.names), l.calls.Load() >= maxCalls:
	case len(q.at) == 1:
		l.refuse(j, q.at[0], why)
		return true
	default:
		half := len(q.at) / 2
		first, second := question{q.events[:half], q.at[:half]}, question{q.events[half:], q.at[half:]}
		if !l.answer(j, first) {
			l.miss(j, second.at, why, nil, false)
			return false
		}
		return l.answer(j, second)
	}
	if l.own == len(l.names) {
		j.extractor.failed(why)
	}
	l.miss(j, q.at, why, nil, false)
	return false
}

// refuse notes that the plugin has failed with one event. If it did that before, and still
// runs, that is final.
func (l *load) refuse(j *job, event int, why string) {
	again := true
	for _, name := range j.names {
		if l.mine(j, name, event) {
			before := l.before[name]
			again = again && before != nil && before.cells[event].part != nil && before.cells[event].part.by == j.plugin
		}
	}
	l.miss(j, []int{event}, why, j.plugin, again)
}

// mine says whether a value is asked for by a job.
func (l *load) mine(j *job, name, event int) bool {
	return l.pending(name, event) && l.of[event].targets[name].job == j
}

// miss notes why values are missing.
func (l *load) miss(j *job, events []int, why string, by sourceplugin.Plugin, final bool) {
	for _, name := range j.names {
		p := &part{missing: &Missing{Field: l.names[name], Reason: why, Final: final}, by: by}
		for _, i := range events {
			if l.mine(j, name, i) {
				l.note(name, i, p)
			}
		}
	}
}

// note notes why a value is missing. With how many others the event was when the plugin ended is
// not forgotten.
func (l *load) note(name, event int, p *part) {
	if old := l.accused(name, event); old != nil && p != nil && p.among == 0 {
		copied := *p
		copied.among, copied.alone = old.among, old.alone
		p = &copied
	}
	l.columns[name].cells[event] = cell{part: p}
}

// accused returns what is known of an event with which the plugin has ended; nil: it has not.
func (l *load) accused(name, event int) *part {
	if b := l.before[name]; b != nil {
		if p := b.cells[event].part; p != nil && p.among > 0 {
			return p
		}
	}
	return nil
}

// among returns with how many others an event was when the plugin ended, 0 if it did not.
func (l *load) among(j *job, event int) (n int) {
	for _, name := range j.names {
		if p := l.accused(name, event); p != nil && l.mine(j, name, event) {
			n = max(n, p.among)
		}
	}
	return n
}

// accuse notes that the plugin has ended when it was asked about events. They are asked about in
// halves from then on. One with which it ends alone, again and again, is refused.
func (l *load) accuse(j *job, events []int, why string) {
	for _, name := range j.names {
		for _, i := range events {
			if !l.mine(j, name, i) {
				continue
			}
			p := &part{missing: &Missing{Field: l.names[name], Reason: why}, among: len(events)}
			if len(events) == 1 {
				p.alone = 1
				if old := l.accused(name, i); old != nil {
					p.alone = old.alone + 1
				}
				p.missing.Final = p.alone >= maxDeaths
			}
			l.columns[name].cells[i] = cell{part: p}
		}
	}
}

// store keeps the values of an answer.
func (l *load) store(j *job, q question, v sourceplugin.Values) error {
	if len(v.Bytes) > answerBytes || len(v.Lengths) > answerElements {
		return fmt.Errorf("its answer has %d bytes and %d elements, more than the %d and %d that are allowed", len(v.Bytes), len(v.Lengths), answerBytes, answerElements)
	}
	values, err := fieldtext.NewReader(v, len(q.at), len(j.requests))
	if err != nil {
		return err
	}
	parts := make([]*part, len(j.requests))
	for k := range parts {
		parts[k] = &part{field: &j.about.Fields[j.requests[k].Index]}
	}
	all, at := string(v.Bytes), 0
	var elements [][]byte
	var text []byte
	for _, i := range q.at {
		for k, p := range parts {
			elements = values.Next(elements)
			begin := len(p.raw)
			if len(elements) > 1 && !p.field.List {
				return fmt.Errorf("the field %s, which is no list, has %d values", p.field.Name, len(elements))
			}
			for _, e := range elements {
				raw := all[at : at+len(e)]
				at += len(e)
				p.raw = append(p.raw, raw)
				if !isText(p.field.Type) {
					text = fieldtext.AppendElement(text[:0], p.field.Type, e)
					p.texts = append(p.texts, string(text))
				}
			}
			if name := j.names[k]; l.mine(j, name, i) {
				l.columns[name].cells[i] = cell{p, uint32(begin), uint32(len(elements))}
			}
		}
	}
	bytes := int64(len(all))
	for _, p := range parts {
		bytes += int64(16*len(p.raw) + 128)
		if isText(p.field.Type) {
			p.texts = p.raw
		} else {
			bytes += int64(48 * len(p.texts))
		}
	}
	l.bytes.Add(bytes)
	return nil
}

// isText says that elements of a type are encoded as people write them.
func isText(t sourceplugin.FieldType) bool {
	return t == sourceplugin.String || t == sourceplugin.IPNet
}

// giveUp notes that nothing is known of what is pending.
func (l *load) giveUp(why string) {
	for name := range l.names {
		p := &part{missing: &Missing{Field: l.names[name], Reason: why}}
		for i := range l.rec.Len() {
			if isPlugins(l.rec.Event(i).Type) && l.pending(name, i) {
				l.note(name, i, p)
			}
		}
	}
}

// keep puts what is known into the table: that of others only if nothing is missing.
func (l *load) keep() {
	for name, c := range l.columns {
		counted := l.count(name, c)
		if name >= l.own && c.missing {
			continue
		}
		counted()
		l.table.set(l.names[name], c)
		if l.before[name] == nil {
			l.bytes.Add(int64(24 * len(c.cells)))
		}
	}
	if l.before[0] == nil {
		orphans := 0
		for _, p := range l.of {
			if p != nil && p.orphan {
				orphans++
			}
		}
		l.registry.metrics.orphans.Add(float64(orphans))
	}
	l.registry.mu.Lock()
	defer l.registry.mu.Unlock()
	l.registry.grow(l.table, l.bytes.Load())
}

// count finds out what is missing of a column, and returns what makes that visible.
func (l *load) count(name int, c *column) func() {
	var unavailable, refused int
	var why *Missing
	for i := range c.cells {
		p := c.cells[i].part
		if p == nil || p.missing == nil || !l.pending(name, i) {
			continue
		}
		if why = p.missing; why.Final {
			refused++
		} else {
			unavailable++
			c.missing = true
		}
	}
	return func() {
		if why == nil || l.parent.Err() != nil {
			return
		}
		l.registry.metrics.missing.WithLabelValues(reasonUnavailable).Add(float64(unavailable))
		l.registry.metrics.missing.WithLabelValues(reasonRefused).Add(float64(refused))
		l.registry.warn(unavailable+refused, why.Error())
	}
}

// clean makes the text of an error one line that is not too long.
func clean(err error) string {
	text := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(err.Error(), "?"))
	if runes := []rune(text); len(runes) > maxReason {
		return string(runes[:maxReason]) + "..."
	}
	return text
}

// warn logs that values are missing, at most once in logEvery.
func (r *Registry) warn(values int, why string) {
	now := time.Now()
	r.mu.Lock()
	if now.Before(r.nextLog) {
		r.skipped++
		r.mu.Unlock()
		return
	}
	skipped := r.skipped
	r.skipped, r.nextLog = 0, now.Add(logEvery)
	r.mu.Unlock()
	r.o.Logger.Warn("Fields of events could not be extracted. Subscriptions and sinks that depend on them wait, unless the plugin fails with the event alone.", "values", values, "reason", why, "messages_skipped", skipped)
}
