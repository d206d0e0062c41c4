package auditstats

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/trace"
)

// Report is the summary of a log. Durations are in nanoseconds.
type Report struct {
	Server string `json:"server"`
	// First and Last are when the first request began and the last one ended; nil when
	// there was none.
	First *time.Time `json:"first"`
	Last  *time.Time `json:"last"`

	Lines           uint64            `json:"lines"`
	RequestEntries  uint64            `json:"request_entries"`
	ResponseEntries uint64            `json:"response_entries"`
	Repeated        uint64            `json:"repeated_entries"` // passed over
	Quarantined     uint64            `json:"quarantined_lines"`
	Reasons         map[string]uint64 `json:"quarantined_reasons"` // why lines are no audit entries

	Requests   uint64            `json:"requests"`
	Failed     uint64            `json:"failed"`
	Outcomes   map[string]uint64 `json:"outcomes"`
	NoResponse uint64            `json:"without_response"`
	NoRequest  uint64            `json:"without_request"`
	Durations  Durations         `json:"duration"`
	Timeline   Timeline          `json:"timeline"`

	Kinds         List[Group]   `json:"kinds"`
	Operations    List[Group]   `json:"operations"`
	Mounts        List[Group]   `json:"mounts"`
	Paths         List[Group]   `json:"paths"`
	Errors        List[Failure] `json:"errors"`
	Slowest       []Request     `json:"slowest"`
	Clients       List[Caller]  `json:"clients"`
	Denied        List[Caller]  `json:"denied"`
	FailedLogins  List[Login]   `json:"failed_logins"`
	Root          List[Caller]  `json:"root"`
	WithoutAnswer []Request     `json:"incomplete"` // the first of them
}

// List is the most frequent things of a kind.
type List[T any] struct {
	// Exact says that all counts are, and that nothing more frequent is missing. Otherwise
	// counts may be too high by what the item says, and other figures of an item too low
	// by as much.
	Exact bool `json:"exact"`
	// Distinct is how many different ones there are; of a list that is not exact, how many
	// are told apart.
	Distinct int `json:"distinct"`
	Items    []T `json:"items"`
}

// Counted is how often something was there.
type Counted struct {
	Requests uint64 `json:"requests"`
	// TooHigh is by how much Requests may be too high.
	TooHigh uint64 `json:"too_high,omitempty"`
}

// Durations are what requests took that have both entries. The quantiles are at most a
// sixteenth too high.
type Durations struct {
	Count uint64        `json:"count"`
	Mean  time.Duration `json:"mean_ns"`
	P50   time.Duration `json:"p50_ns"`
	P90   time.Duration `json:"p90_ns"`
	P99   time.Duration `json:"p99_ns"`
	Max   time.Duration `json:"max_ns"`
}

// Group is requests that have something in common: the name.
type Group struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"` // of a mount
	Counted
	Failed    uint64     `json:"failed"`
	Denied    uint64     `json:"denied"`
	Durations *Durations `json:"duration,omitempty"`
}

// Client is who made a request.
type Client struct {
	DisplayName   string `json:"display_name"`
	EntityID      string `json:"entity_id,omitempty"`
	RemoteAddress string `json:"remote_address"`
}

// Caller is the requests of a client. Which ones is up to the list: Last is the last of
// these.
type Caller struct {
	Client
	Counted
	Failed uint64 `json:"failed,omitempty"`
	Denied uint64 `json:"denied,omitempty"`
	Root   bool   `json:"root,omitempty"` // has used a token with the policy root
	Last   *Last  `json:"last,omitempty"`
}

// Failure is requests that failed for the same reason.
type Failure struct {
	Outcome string `json:"outcome"`
	Text    string `json:"text"`
	Counted
	Last Last `json:"last"`
}

// Login is attempts to log in that failed.
type Login struct {
	Path          string `json:"path"`
	RemoteAddress string `json:"remote_address"`
	Counted
	Last Last `json:"last"`
}

// Last is one request: the last of those that were counted.
type Last struct {
	Time      time.Time `json:"time"`
	ID        string    `json:"id"`
	Operation string    `json:"operation"`
	Path      string    `json:"path"`
}

// Request is one request.
type Request struct {
	ID        string        `json:"id"`
	TraceID   string        `json:"trace_id"`
	Start     time.Time     `json:"start"`
	Duration  time.Duration `json:"duration_ns"`
	Complete  bool          `json:"complete"` // has both entries, and so a duration
	Outcome   string        `json:"outcome"`
	Operation string        `json:"operation"`
	Path      string        `json:"path"`
	Client    Client        `json:"client"`
}

// Report returns what was counted so far, with a timeline of at most so many buckets.
func (c *Collector) Report(buckets int) *Report {
	r := &Report{
		Server: c.o.Server, Lines: c.lines - c.blank, RequestEntries: c.entries[0], ResponseEntries: c.entries[1],
		Repeated: c.tracer.Stats().Duplicates, Reasons: make(map[string]uint64),
		Requests: c.requests, Failed: c.failed, Outcomes: make(map[string]uint64), NoResponse: c.noResponse, NoRequest: c.noRequest,
		Durations: c.all.report(), Timeline: c.timeline.report(buckets),
		Operations: list(c, c.operations, func(it *item[tally]) Group { return c.group(it.key, it.value) }),
		Kinds:      list(c, c.kinds, func(it *item[timed]) Group { return c.timedGroup(it.key, &it.value) }),
		Mounts:     list(c, c.mounts, func(it *item[timed]) Group { return c.timedGroup(it.key, &it.value) }),
		Paths:      list(c, c.paths, func(it *item[tally]) Group { return c.group(it.key, it.value) }),
		Errors: list(c, c.errors, func(it *item[example]) Failure {
			outcome, text, _ := strings.Cut(it.key, "\x00")
			return Failure{Outcome: outcome, Text: c.message(text), Last: c.lastOf(it.value)}
		}),
		Clients: list(c, c.clients, func(it *item[tally]) Caller {
			return Caller{Client: c.client(it.key), Failed: it.value.failed, Denied: it.value.denied, Root: it.value.root}
		}),
		Denied: list(c, c.denied, c.caller),
		Root:   list(c, c.roots, c.caller),
		FailedLogins: list(c, c.logins, func(it *item[example]) Login {
			path, address, _ := strings.Cut(it.key, "\x00")
			return Login{Path: c.path(path), RemoteAddress: c.text(address), Last: c.lastOf(it.value)}
		}),
		Slowest: []Request{}, WithoutAnswer: []Request{},
	}
	if c.requests > 0 {
		first, last := c.first.UTC(), c.till.UTC()
		r.First, r.Last = &first, &last
	}
	for reason, n := range c.bad {
		r.Reasons[reason] = n
		r.Quarantined += n
	}
	for o, n := range c.outcomes {
		if n > 0 {
			r.Outcomes[trace.Outcome(o).String()] = n
		}
	}
	for _, one := range c.slowest {
		r.Slowest = append(r.Slowest, c.clean(one))
	}
	slices.SortFunc(r.Slowest, func(a, b Request) int { return slower(&a, &b) })
	for _, one := range c.incomplete {
		r.WithoutAnswer = append(r.WithoutAnswer, c.clean(one))
	}
	return r
}

// list returns the most frequent things.
func list[V, T any](c *Collector, t *top[V], make func(*item[V]) T) List[T] {
	l := List[T]{Exact: t.exact(), Distinct: len(t.items), Items: []T{}}
	for _, it := range t.most(c.o.Top) {
		one := make(it)
		if counted, ok := any(&one).(interface{ setCount(n, over uint64) }); ok {
			counted.setCount(it.count, it.over)
		}
		l.Items = append(l.Items, one)
	}
	return l
}

func (n *Counted) setCount(count, over uint64) { n.Requests, n.TooHigh = count, over }

func (d *durations) report() Durations {
	return Durations{Count: d.n, Mean: d.mean(), P50: d.quantile(0.5), P90: d.quantile(0.9), P99: d.quantile(0.99), Max: d.max}
}

func (c *Collector) group(key string, v tally) Group {
	name, mountType, _ := strings.Cut(key, "\x00")
	return Group{Name: c.path(name), Type: c.text(mountType), Failed: v.failed, Denied: v.denied}
}

func (c *Collector) timedGroup(key string, v *timed) Group {
	g := c.group(key, v.tally)
	if v.durations.n > 0 {
		d := v.durations.report()
		g.Durations = &d
	}
	return g
}

func (c *Collector) caller(it *item[example]) Caller {
	last := c.lastOf(it.value)
	return Caller{Client: c.client(it.key), Last: &last}
}

func (c *Collector) client(key string) Client {
	name, rest, _ := strings.Cut(key, "\x00")
	entity, address, _ := strings.Cut(rest, "\x00")
	return Client{DisplayName: c.text(name), EntityID: c.text(entity), RemoteAddress: c.text(address)}
}

func (c *Collector) lastOf(e example) Last {
	return Last{Time: e.at.UTC(), ID: c.text(e.id), Operation: c.text(e.operation), Path: c.path(e.path)}
}

func (c *Collector) clean(r Request) Request {
	r.ID, r.Operation, r.Path, r.Start = c.text(r.ID), c.text(r.Operation), c.path(r.Path), r.Start.UTC()
	r.Client = Client{DisplayName: c.text(r.Client.DisplayName), EntityID: c.text(r.Client.EntityID), RemoteAddress: c.text(r.Client.RemoteAddress)}
	return r
}

// text makes a text that somebody has chosen fit to be shown: printable, in one line, and
// without what looks like a secret.
func (c *Collector) text(s string) string { return c.masks.Masked(printable(s)) }

// path is text for a path, of which only the elements are masked that look like a secret.
func (c *Collector) path(s string) string {
	s = printable(s)
	if c.masks.Masked(s) == s {
		return s
	}
	elements := strings.Split(s, "/")
	for i, e := range elements {
		elements[i] = c.masks.Masked(e)
	}
	return c.masks.Masked(strings.Join(elements, "/"))
}

// maxMessage is how many bytes of an error are shown.
const maxMessage = 240

// message is the text of an error. The server wraps them in a list of mostly one.
func (c *Collector) message(s string) string {
	if s == "" {
		return "(the log does not tell why)"
	}
	text := s
	if _, list, ok := strings.Cut(s, " occurred:\n\t* "); ok {
		text = strings.ReplaceAll(strings.TrimSpace(list), "\n\t* ", "; ")
	}
	return cut(c.text(text), maxMessage)
}

// printable puts a text into one line and leaves out what would move the cursor of a
// terminal or hide text.
func printable(s string) string {
	plain := utf8.ValidString(s) // else bytes that are no characters, which move a cursor, too
	for _, r := range s {
		if !unicode.IsPrint(r) {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	return strings.Join(strings.Fields(s), " ")
}
