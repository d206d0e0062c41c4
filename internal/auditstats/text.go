package auditstats

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// TextOptions say how a report is written for people.
type TextOptions struct {
	Width   int // of a line, in characters
	Colours bool
}

// The least and the most columns that are made use of.
const (
	minWidth = 80
	maxWidth = 200
)

// BucketsFor returns how many buckets a timeline should have to be drawn in so many columns.
func BucketsFor(width int) int { return clampWidth(width) - chartLabel - 1 }

func clampWidth(width int) int { return max(minWidth, min(width, maxWidth)) }

// WriteText writes the report for people. Every line ends within the width, except where a
// figure is larger than expected.
func (r *Report) WriteText(w io.Writer, o TextOptions) error {
	b := bufio.NewWriter(w)
	t := text{w: b, width: clampWidth(o.Width), colours: o.Colours, stamp: time.DateTime}
	if r.First != nil && r.First.Format(time.DateOnly) == r.Last.Format(time.DateOnly) {
		t.stamp = "15:04:05.000"
	}
	t.summary(r)
	if r.Requests > 0 {
		t.chart(r.Timeline)
		t.groups("Kinds of requests", r.Kinds, true)
		t.operations(r.Operations)
		t.groups("Mounts", r.Mounts, true)
		t.groups("Paths", r.Paths, false)
		t.failures(r.Errors)
		t.requests("Slowest requests", r.Slowest)
		t.clients(r.Clients)
		t.callers("Denied", r.Denied)
		t.logins(r.FailedLogins)
		t.callers("Use of root tokens", r.Root)
		t.requests(incompleteTitle(r), r.WithoutAnswer)
	}
	return b.Flush()
}

func incompleteTitle(r *Report) string {
	title := fmt.Sprintf("Incomplete: %s without a response, %s without a request", number(r.NoResponse), number(r.NoRequest))
	if n := uint64(len(r.WithoutAnswer)); n < r.NoResponse+r.NoRequest {
		title += fmt.Sprintf("; the first %d", n)
	}
	return title
}

// text writes.
type text struct {
	w       *bufio.Writer
	width   int
	colours bool
	stamp   string // layout of a time
}

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[31m"
	reset = "\x1b[0m"
)

func (t *text) styled(style, s string) string {
	if !t.colours || s == "" {
		return s
	}
	return style + s + reset
}

func (t *text) line(s string) { t.w.WriteString(strings.TrimRight(s, " ") + "\n") }

func (t *text) title(s string) { t.line("\n" + t.styled(bold, s)) }

// inexact is what the title of a list says.
func inexact[T any](title string, l List[T]) string {
	switch {
	case !l.Exact:
		return title + fmt.Sprintf(", the most frequent of more than %s (~: at most so many)", number(uint64(l.Distinct)))
	case l.Distinct > len(l.Items):
		return title + fmt.Sprintf(", the top %d of %s", len(l.Items), number(uint64(l.Distinct)))
	}
	return title
}

func (t *text) summary(r *Report) {
	if r.First != nil {
		t.line(fmt.Sprintf("%s to %s, %s", stamp(*r.First), stamp(*r.Last), span(r.Last.Sub(*r.First))))
	}
	if r.Requests == 0 {
		t.line("no requests")
	} else {
		counts := []string{number(r.Requests) + " requests"}
		for _, outcome := range slices.Sorted(maps.Keys(r.Outcomes)) {
			counts = append(counts, outcome+" "+number(r.Outcomes[outcome]))
		}
		t.wrap(counts)
		if d := r.Durations; d.Count > 0 {
			t.wrap([]string{"duration: mean " + short(d.Mean), "median " + short(d.P50), "90 % within " + short(d.P90),
				"99 % within " + short(d.P99), "longest " + short(d.Max)})
		}
	}
	counts := []string{number(r.Lines) + " lines", number(r.RequestEntries) + " request entries", number(r.ResponseEntries) + " response entries"}
	if r.Repeated > 0 {
		counts = append(counts, number(r.Repeated)+" repeated")
	}
	t.wrap(counts)
	if r.Quarantined > 0 {
		var reasons []string
		for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
			reasons = append(reasons, reason+" "+number(r.Reasons[reason]))
		}
		t.line(t.styled(red, number(r.Quarantined)+" lines are no audit entries:"))
		t.wrap(reasons)
	}
}

// wrap writes a list, the later lines of which are indented.
func (t *text) wrap(list []string) {
	line := ""
	for i, s := range list {
		if i > 0 {
			s = ", " + s
		}
		if utf8.RuneCountInString(line)+utf8.RuneCountInString(s) > t.width {
			t.line(line + ",")
			line, s = "  ", strings.TrimPrefix(s, ", ")
		}
		line += s
	}
	t.line(line)
}

const (
	chartHeight = 6
	chartLabel  = 9 // columns left of the chart
)

var eighths = []rune(" ▁▂▃▄▅▆▇█")

// chart draws the requests over time, and below them those that failed.
func (t *text) chart(l Timeline) {
	if len(l.Buckets) == 0 {
		return
	}
	columns := t.width - chartLabel - 1
	each := max(1, min(columns/len(l.Buckets), 8))
	most, mostFailed := uint64(1), uint64(0)
	for _, b := range l.Buckets {
		most, mostFailed = max(most, b.Requests), max(mostFailed, b.Failed)
	}
	step := time.Duration(l.StepSeconds) * time.Second
	t.title(fmt.Sprintf("Requests per %s", unit(step)))
	t.bars(l, chartHeight, each, most, "", func(b Bucket) uint64 { return b.Requests })
	if mostFailed > 0 {
		t.line(strings.Repeat(" ", chartLabel) + t.styled(dim, "failed:"))
		t.bars(l, 2, each, mostFailed, red, func(b Bucket) uint64 { return b.Failed })
	}
	first, last := l.Buckets[0].Start, l.Buckets[len(l.Buckets)-1].Start
	layout := "15:04:05"
	if step >= 24*time.Hour || last.Sub(first) >= 48*time.Hour {
		layout = "2006-01-02"
	}
	from, to := first.Format(layout), last.Format(layout)
	axis := from
	if room := len(l.Buckets)*each - len(from) - len(to); room > 0 && from != to {
		axis += strings.Repeat(" ", room) + to
	}
	t.line(strings.Repeat(" ", chartLabel+1) + t.styled(dim, axis))
}

// bars draws one bar for each bucket, in rows of eighths. What is not nothing is seen.
func (t *text) bars(l Timeline, height, each int, most uint64, style string, of func(Bucket) uint64) {
	for row := height; row > 0; row-- {
		label := ""
		if row == height {
			label = number(most)
		}
		var line strings.Builder
		for _, b := range l.Buckets {
			n := of(b)
			filled := int(float64(n) / float64(most) * float64(height*8))
			if n > 0 {
				filled = max(filled, 1)
			}
			cell := eighths[max(0, min(8, filled-(row-1)*8))]
			line.WriteString(strings.Repeat(string(cell), each))
		}
		t.line(fmt.Sprintf("%*s %s", chartLabel-1, label, t.styled(dim, "│")) + t.styled(style, strings.TrimRight(line.String(), " ")))
	}
}

// row writes columns of figures and then a text, which gets the room that is left.
func (t *text) row(figures, rest string) {
	t.line(figures + fit(rest, t.width-utf8.RuneCountInString(figures)))
}

func (t *text) head(figures, rest string) { t.line(t.styled(dim, figures+rest)) }

func (n Counted) String() string {
	if n.TooHigh > 0 {
		return "~" + number(n.Requests)
	}
	return number(n.Requests)
}

func (t *text) groups(title string, l List[Group], durations bool) {
	if len(l.Items) == 0 {
		return
	}
	t.title(inexact(title, l))
	if durations {
		t.head("  requests   failed   median      99 %  ", "")
	} else {
		t.head("  requests   failed  ", "")
	}
	for _, g := range l.Items {
		figures := fmt.Sprintf("%10s %8s  ", g.Counted, none(g.Failed))
		if durations {
			median, most := "-", "-"
			if g.Durations != nil {
				median, most = short(g.Durations.P50), short(g.Durations.P99)
			}
			figures = fmt.Sprintf("%10s %8s %8s %9s  ", g.Counted, none(g.Failed), median, most)
		}
		name := orDash(g.Name)
		if g.Type != "" {
			name += " (" + g.Type + ")"
		}
		t.row(figures, name)
	}
}

func (t *text) operations(l List[Group]) {
	var list []string
	for _, g := range l.Items {
		list = append(list, fit(orDash(g.Name), 32)+" "+g.Counted.String())
	}
	t.title(inexact("Operations", l))
	t.wrap(list)
}

func (t *text) failures(l List[Failure]) {
	if len(l.Items) == 0 {
		return
	}
	t.title(inexact("Errors", l))
	t.head("  requests  outcome       ", "error; below it the last request that had it")
	for _, f := range l.Items {
		t.row(fmt.Sprintf("%10s  %-12s  ", f.Counted, f.Outcome), f.Text)
		t.detail(&f.Last)
	}
}

func (t *text) requests(title string, list []Request) {
	if len(list) == 0 {
		return
	}
	t.title(title)
	for _, r := range list {
		took := "-"
		if r.Complete {
			took = short(r.Duration)
		}
		t.row(fmt.Sprintf("%10s  %-12s  ", took, r.Outcome), orDash(r.Operation)+" "+r.Path)
		t.row(detailIndent+r.Start.Format(t.stamp)+"  "+shownID(r.ID)+"  ", who(r.Client))
	}
}

func (t *text) clients(l List[Caller]) {
	if len(l.Items) == 0 {
		return
	}
	t.title(inexact("Clients", l))
	t.head("  requests   failed   denied  ", "")
	for _, c := range l.Items {
		name := who(c.Client)
		if c.EntityID != "" {
			name += "  entity " + c.EntityID
		}
		t.row(fmt.Sprintf("%10s %8s %8s  ", c.Counted, none(c.Failed), none(c.Denied)), name)
	}
}

func (t *text) callers(title string, l List[Caller]) {
	if len(l.Items) == 0 {
		return
	}
	t.title(inexact(title, l))
	for _, c := range l.Items {
		t.row(fmt.Sprintf("%10s  ", c.Counted), who(c.Client)+", last:")
		t.detail(c.Last)
	}
}

func (t *text) logins(l List[Login]) {
	if len(l.Items) == 0 {
		return
	}
	t.title(inexact("Failed logins", l))
	for _, f := range l.Items {
		t.row(fmt.Sprintf("%10s  ", f.Counted), orDash(f.RemoteAddress)+"  "+f.Path+"  last "+f.Last.Time.Format(t.stamp))
	}
}

const detailIndent = "            "

// shownID is whole for all ids that a server makes by itself.
func shownID(id string) string { return fit(orDash(id), 48) }

// detail writes which request was the last. Its id is left whole: people search for it.
func (t *text) detail(l *Last) {
	t.row(detailIndent+l.Time.Format(t.stamp)+"  "+shownID(l.ID)+"  ", orDash(l.Operation)+" "+l.Path)
}

func who(c Client) string { return orDash(c.DisplayName) + " from " + orDash(c.RemoteAddress) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// none is a figure that is not written when it is 0.
func none(n uint64) string {
	if n == 0 {
		return "-"
	}
	return number(n)
}

// fit shortens a text in the middle, where paths and clients differ least.
func fit(s string, width int) string {
	runes := []rune(s)
	if width = max(width, 8); len(runes) <= width {
		return s
	}
	head := (width - 1) / 2
	return string(runes[:head]) + "…" + string(runes[len(runes)-(width-1-head):])
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") }

// number writes a number with a comma between thousands.
func number(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short writes a duration with two or three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// span writes how long something lasted as a whole.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d < 2*day {
		return short(d)
	}
	return fmt.Sprintf("%d days %s", d/day, (d % day).Round(time.Minute))
}

// unit names a step of time.
func unit(step time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{7 * 24 * time.Hour, "week"}, {24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := step / u.d; step%u.d == 0 && n > 0 {
			if n == 1 {
				return u.name
			}
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return step.String()
}
