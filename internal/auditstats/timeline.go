package auditstats

import (
	"slices"
	"time"
)

// timeline counts requests by when they began. It keeps at most maxMoments moments; when
// there are more, they get longer.
type timeline struct {
	step    int // index in steps
	moments map[int64]moment
}

// moment is what began in one step of time.
type moment struct{ requests, failed uint64 }

const maxMoments = 8192

// steps are the lengths of a moment in seconds. Each divides the next.
var steps = []int64{1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600, 364 * 24 * 3600, 3640 * 24 * 3600}

// shownSteps are the lengths that a report has.
var shownSteps = []int64{
	1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600, 28 * 24 * 3600, 364 * 24 * 3600, 3640 * 24 * 3600,
}

func (t *timeline) add(at time.Time, failed bool) {
	if t.moments == nil {
		t.moments = make(map[int64]moment)
	}
	k := floor(at.Unix(), steps[t.step])
	m := t.moments[k]
	m.requests++
	if failed {
		m.failed++
	}
	t.moments[k] = m
	for len(t.moments) > maxMoments && t.step+1 < len(steps) {
		t.step++
		coarse := make(map[int64]moment)
		for k, m := range t.moments {
			k = floor(k, steps[t.step])
			c := coarse[k]
			coarse[k] = moment{c.requests + m.requests, c.failed + m.failed}
		}
		t.moments = coarse
	}
}

// floor returns the largest multiple of step that is not above n.
func floor(n, step int64) int64 {
	r := n % step
	if r < 0 {
		r += step
	}
	return n - r
}

// beginning is a time that has a text form: entries have years from 0 on.
func beginning(unix int64) time.Time {
	return time.Unix(max(unix, yearZero), 0).UTC()
}

var yearZero = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).Unix()

// Bucket is the requests that began in one step of a [Timeline].
type Bucket struct {
	Start    time.Time `json:"start"`
	Requests uint64    `json:"requests"`
	Failed   uint64    `json:"failed"`
}

// Timeline is requests over time.
type Timeline struct {
	StepSeconds int64 `json:"step_seconds"`
	// Buckets without a gap, from the first request to the last; unless that would be more
	// than were asked for even with the longest step: then those without requests are left
	// out.
	Buckets []Bucket `json:"buckets"`
}

// report returns at most n buckets of equal length.
func (t *timeline) report(n int) Timeline {
	if len(t.moments) == 0 {
		return Timeline{StepSeconds: 1, Buckets: []Bucket{}}
	}
	keys := make([]int64, 0, len(t.moments))
	for k := range t.moments {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	first, last := keys[0], keys[len(keys)-1]
	own := steps[t.step]
	step := shownSteps[len(shownSteps)-1]
	for _, s := range shownSteps {
		if s%own == 0 && (floor(last, s)-floor(first, s))/s < int64(n) {
			step = s
			break
		}
	}
	step = max(step, own)
	out := Timeline{StepSeconds: step}
	sparse := (floor(last, step)-floor(first, step))/step >= int64(n)
	for _, k := range keys {
		start := beginning(floor(k, step))
		for i := len(out.Buckets); !sparse && i > 0 && out.Buckets[i-1].Start.Before(start.Add(-time.Duration(step)*time.Second)); i++ {
			out.Buckets = append(out.Buckets, Bucket{Start: beginning(floor(out.Buckets[i-1].Start.Unix()+step, step))})
		}
		if i := len(out.Buckets); i == 0 || !out.Buckets[i-1].Start.Equal(start) {
			if sparse && i >= n {
				break
			}
			out.Buckets = append(out.Buckets, Bucket{Start: start})
		}
		b := &out.Buckets[len(out.Buckets)-1]
		m := t.moments[k]
		b.Requests += m.requests
		b.Failed += m.failed
	}
	return out
}
