package trial

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tocsin-events/tocsin/internal/terminal"
)

// WriteText writes the report for people, with times of a place.
func (r *Report) WriteText(w io.Writer, in *time.Location) error {
	var b strings.Builder
	r.span(&b, in)
	loud := r.loudest()
	if len(loud) > 0 {
		b.WriteByte('\n')
		r.table(&b, loud, in)
		b.WriteByte('\n')
		r.histogram(&b, in)
	}
	r.silent(&b)
	r.others(&b)
	for _, rule := range loud {
		r.samples(&b, rule, in)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func number(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

const clockFormat = "2006-01-02 15:04:05"

// span says what was looked at.
func (r *Report) span(b *strings.Builder, in *time.Location) {
	b.WriteString(number(r.Events, "event", "events"))
	if r.From != nil {
		fmt.Fprintf(b, ", from %s to %s", r.From.In(in).Format(clockFormat), r.To.In(in).Format(clockFormat))
	}
	fmt.Fprintf(b, ": %s", number(r.Alerts, "alert", "alerts"))
	if r.Suppressed > 0 {
		fmt.Fprintf(b, ", and %d held back by throttles", r.Suppressed)
	}
	b.WriteString(".\n")
}

// table has a line for each rule that raised alerts. Columns that say nothing are left out.
func (r *Report) table(b *strings.Builder, loud []*Rule, in *time.Location) {
	held := slices.ContainsFunc(loud, func(r *Rule) bool { return r.Suppressed > 0 })
	live := slices.ContainsFunc(r.Rules, func(r Rule) bool { return r.Live > 0 })
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	cells := []string{"ALERTS"}
	if held {
		cells = append(cells, "HELD BACK")
	}
	if live {
		cells = append(cells, "RAISED THEN")
	}
	fmt.Fprintln(t, strings.Join(append(cells, "PRIORITY", "RULE", "LAST", "TIME LINE"), "\t"))
	for _, rule := range loud {
		cells = []string{fmt.Sprint(rule.Alerts)}
		if held {
			cells = append(cells, fmt.Sprint(rule.Suppressed))
		}
		if live {
			cells = append(cells, fmt.Sprint(rule.Live))
		}
		cells = append(cells, rule.Priority, terminal.Visible(rule.Rule), rule.Last.In(in).Format(clockFormat), spark(rule.TimeLine))
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	_ = t.Flush() // to memory
}

// sparkWidth bounds the time line in a table.
const sparkWidth = 20

// spark draws counts in a few columns.
func spark(counts []uint64) string {
	per := (len(counts) + sparkWidth - 1) / sparkWidth
	var sums []uint64
	for i, n := range counts {
		if i%per == 0 {
			sums = append(sums, 0)
		}
		sums[len(sums)-1] += n
	}
	most := slices.Max(sums)
	levels := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, n := range sums {
		if n == 0 {
			b.WriteByte('.')
			continue
		}
		b.WriteRune(levels[int(float64(n)/float64(most)*float64(len(levels)-1))])
	}
	return b.String()
}

const (
	histogramLines = 24
	barWidth       = 40
)

// histogram draws when the alerts were.
func (r *Report) histogram(b *strings.Builder, in *time.Location) {
	width := r.BinSeconds
	first, last := r.Bins[0].Unix(), r.Bins[len(r.Bins)-1].Unix()
	for floor(last, width)-floor(first, width) >= histogramLines {
		width = wider(width)
	}
	type line struct {
		start time.Time
		n     uint64
	}
	lines := make([]line, floor(last, width)-floor(first, width)+1)
	for i := range lines {
		lines[i].start = time.Unix((floor(first, width)+int64(i))*width, 0)
	}
	for i, n := range r.TimeLine {
		lines[floor(r.Bins[i].Unix(), width)-floor(first, width)].n += n
	}
	most, digits := uint64(1), 1
	for _, l := range lines {
		most = max(most, l.n)
		digits = max(digits, len(fmt.Sprint(l.n)))
	}
	format := clockFormat
	switch {
	case width%day == 0 && lines[0].start.In(in).Hour() == 0:
		format = "2006-01-02"
	case width%minute == 0:
		format = "2006-01-02 15:04"
	}
	fmt.Fprintf(b, "Alerts in each %s from\n", span(width))
	for _, l := range lines {
		bar := int(float64(l.n) / float64(most) * barWidth)
		if l.n > 0 {
			bar = max(bar, 1)
		}
		fmt.Fprintln(b, strings.TrimRight(fmt.Sprintf("%s  %*d  %s", l.start.In(in).Format(format), digits, l.n, strings.Repeat("█", bar)), " "))
	}
}

// span is a number of seconds in words.
func span(seconds int64) string {
	for _, unit := range []struct {
		seconds int64
		name    string
	}{{day, "day"}, {hour, "hour"}, {minute, "minute"}} {
		switch n := seconds / unit.seconds; {
		case n == 0 || seconds%unit.seconds != 0:
		case n == 1:
			return unit.name
		default:
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	if seconds == 1 {
		return "second"
	}
	return fmt.Sprintf("%d seconds", seconds)
}

// silent names the rules that raised nothing.
func (r *Report) silent(b *strings.Builder) {
	var names []string
	for i := range r.Rules {
		if rule := &r.Rules[i]; rule.Alerts == 0 {
			name := terminal.Visible(rule.Rule)
			if rule.Live > 0 {
				name += fmt.Sprintf(" (%d raised then)", rule.Live)
			}
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(b, "\nNo alert by %s:\n", number(uint64(len(names)), "rule", "rules"))
	for _, name := range names {
		fmt.Fprintf(b, "  %s\n", name)
	}
}

// others tells which other rules raised alerts then.
func (r *Report) others(b *strings.Builder) {
	if len(r.Other) == 0 {
		return
	}
	b.WriteString("\nRaised then by rules that were not tried:\n")
	var names []string
	for name := range r.Other {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(b, "  %s: %d\n", terminal.Visible(name), r.Other[name])
	}
}

// samples shows alerts of a rule.
func (r *Report) samples(b *strings.Builder, rule *Rule, in *time.Location) {
	if len(rule.Samples) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s (%s)\n", terminal.Visible(rule.Rule), rule.Priority)
	for _, s := range rule.Samples {
		fmt.Fprintf(b, "  %s  %s", s.Time.In(in).Format(clockFormat), terminal.Visible(s.Output))
		if s.Count > 1 {
			fmt.Fprintf(b, " (%d events)", s.Count)
		}
		if s.Suppressed > 0 {
			fmt.Fprintf(b, " (%d held back before)", s.Suppressed)
		}
		b.WriteByte('\n')
	}
	if more := rule.Alerts - uint64(len(rule.Samples)); more > 0 {
		fmt.Fprintf(b, "  and %d more\n", more)
	}
}
