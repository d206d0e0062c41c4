package trial

import "time"

// maxBins bounds the time line.
const maxBins = 60

// widths are those that bins may have. Each is a multiple of the one before, so that bins can be
// put together; behind the last one they double.
var widths = []int64{
	1, 5, 10, 30,
	minute, 5 * minute, 10 * minute, 30 * minute,
	hour, 3 * hour, 6 * hour, 12 * hour, day,
}

// Widths are in seconds: centuries are no [time.Duration].
const minute, hour, day int64 = 60, 60 * minute, 24 * hour

// wider returns the width that follows.
func wider(w int64) int64 {
	for _, next := range widths {
		if next > w {
			return next
		}
	}
	return 2 * w
}

// timeline divides a time into at most maxBins parts of a width that suits, whatever comes first:
// where it begins and ends is known only at the end.
type timeline struct {
	width int64
	start int64 // of the first bin, in widths since 1970
	bins  int
}

// at returns in which bin, counted from 1970, a time is.
func (l *timeline) at(t time.Time) int64 { return floor(t.Unix(), l.width) }

func floor(n, by int64) int64 {
	q := n / by
	if n%by < 0 {
		q--
	}
	return q
}

// latest bounds the times that are counted as what they are: year 9999.
const latest = 253402300799

// include makes the time line have a bin for a time. each is asked to change all counts.
func (l *timeline) include(t time.Time, each func(func([]uint64) []uint64)) {
	t = within(t)
	if l.bins == 0 {
		l.width, l.bins = widths[0], 1
		l.start = l.at(t)
		return
	}
	for {
		i := l.at(t)
		switch {
		case i >= l.start && i < l.start+int64(l.bins):
			return
		case i >= l.start && i < l.start+maxBins:
			l.bins = int(i-l.start) + 1
			return
		case i < l.start && l.start-i+int64(l.bins) <= maxBins:
			earlier := int(l.start - i)
			each(func(counts []uint64) []uint64 { return append(make([]uint64, earlier), counts...) })
			l.start, l.bins = i, l.bins+earlier
			return
		}
		l.widen(each)
	}
}

// widen puts bins together.
func (l *timeline) widen(each func(func([]uint64) []uint64)) {
	next := wider(l.width)
	factor := next / l.width
	start := floor(l.start, factor)
	end := floor(l.start+int64(l.bins)-1, factor)
	each(func(counts []uint64) []uint64 {
		joined := make([]uint64, 0, end-start+1)
		for i, n := range counts {
			at := int(floor(l.start+int64(i), factor) - start)
			for len(joined) <= at {
				joined = append(joined, 0)
			}
			joined[at] += n
		}
		return joined
	})
	l.width, l.start, l.bins = next, start, int(end-start)+1
}

// count counts something at a time that is included.
func (l *timeline) count(counts []uint64, t time.Time) []uint64 {
	i := int(l.at(within(t)) - l.start)
	for len(counts) <= i {
		counts = append(counts, 0)
	}
	counts[i]++
	return counts
}

// starts returns when each bin begins.
func (l *timeline) starts() []time.Time {
	list := make([]time.Time, l.bins)
	for i := range list {
		list[i] = time.Unix((l.start+int64(i))*l.width, 0).UTC()
	}
	return list
}

// within moves times that nobody can mean.
func within(t time.Time) time.Time {
	switch s := t.Unix(); {
	case s < -latest:
		return time.Unix(-latest, 0)
	case s > latest:
		return time.Unix(latest, 0)
	}
	return t
}
