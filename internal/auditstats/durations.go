package auditstats

import (
	"math/bits"
	"time"
)

// durations is a histogram with buckets that are at most a sixteenth wider than the one
// before, from a microsecond to more than an hour. It takes 2 kB.
type durations struct {
	buckets [durationBuckets]uint32
	n       uint64
	sum     time.Duration
	max     time.Duration
}

const (
	perDoubling     = 16
	firstDoubling   = 10 // of nanoseconds: what is shorter is in the first bucket
	durationBuckets = (43 - firstDoubling) * perDoubling
)

func (d *durations) add(t time.Duration) {
	i := 0
	if n := bits.Len64(uint64(t)); n > firstDoubling {
		i = (n-1-firstDoubling)*perDoubling + int(uint64(t)>>(n-5)&(perDoubling-1))
	}
	d.buckets[min(i, durationBuckets-1)]++
	d.n++
	d.sum += t
	d.max = max(d.max, t)
}

// quantile returns a duration that this part of all do not exceed, at most a sixteenth too
// high.
func (d *durations) quantile(q float64) time.Duration {
	if d.n == 0 {
		return 0
	}
	rank := uint64(q*float64(d.n) + 0.5)
	rank = max(1, min(rank, d.n))
	var seen uint64
	for i, n := range d.buckets {
		if seen += uint64(n); seen >= rank && i < durationBuckets-1 {
			return min(d.max, bucketEnd(i))
		}
	}
	return d.max
}

// bucketEnd is the longest duration of a bucket.
func bucketEnd(i int) time.Duration {
	doubling, part := i/perDoubling, i%perDoubling
	return time.Duration(1)<<(doubling+firstDoubling-4)*time.Duration(perDoubling+part+1) - 1
}

func (d *durations) mean() time.Duration {
	if d.n == 0 {
		return 0
	}
	return d.sum / time.Duration(d.n)
}
