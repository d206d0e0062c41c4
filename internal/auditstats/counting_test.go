package auditstats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Counts are never too low, too high by at most what is said, and nothing frequent is
// missing; with few keys everything is exact.
func TestTop(t *testing.T) {
	for _, test := range []struct{ max, keys, n int }{{10, 10, 1000}, {10, 11, 1000}, {10, 1000, 20_000}, {100, 100_000, 50_000}, {1, 50, 1000}} {
		rng := rand.New(rand.NewPCG(1, uint64(test.keys)))
		c := newTop[int](test.max)
		exact := map[string]uint64{}
		for range test.n {
			// Some keys are far more frequent than others.
			key := fmt.Sprint(int(math.Pow(rng.Float64(), 4) * float64(test.keys)))
			exact[key]++
			it := c.add([]byte(key))
			it.value++
			if it.key != key || it.count < uint64(it.value) {
				t.Fatalf("%+v for %s", it, key)
			}
		}
		found := map[string]bool{}
		list := c.most(test.max)
		for i, it := range list {
			found[it.key] = true
			if it.count < exact[it.key] || it.count-it.over > exact[it.key] || it.over > uint64(test.n/test.max) || uint64(it.value) > exact[it.key] || uint64(it.value) < it.count-it.over {
				t.Errorf("%+v: %s: counted %d, at most %d too high, noted %d, is %d", test, it.key, it.count, it.over, it.value, exact[it.key])
			}
			if i > 0 && list[i-1].count < it.count {
				t.Errorf("%+v: not in order", test)
			}
		}
		for key, n := range exact {
			if n > uint64(test.n/test.max) && !found[key] {
				t.Errorf("%+v: %s occurs %d times and is missing", test, key, n)
			}
		}
		if small := len(exact) <= test.max; c.exact() != small || small && len(list) != len(exact) {
			t.Errorf("%+v: exact %t, %d of %d", test, c.exact(), len(list), len(exact))
		}
	}
}

func TestDurations(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var d durations
	var all []time.Duration
	for range 10_000 {
		v := time.Duration(math.Exp(rng.Float64()*18) * 2000) // 2 µs to 130 s
		all = append(all, v)
		d.add(v)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 1} {
		want := all[max(0, int(q*10_000+0.5)-1)]
		if got := d.quantile(q); got < want || float64(got) > float64(want)*(1+1.0/perDoubling) {
			t.Errorf("quantile %v: %v, is %v", q, got, want)
		}
	}
	for _, v := range []time.Duration{0, 1, 1023, 1024, 1087, 1088, time.Hour, math.MaxInt64} {
		var one durations
		one.add(v)
		if got := one.quantile(0.5); got != v {
			t.Errorf("of %v alone: %v", v, got)
		}
	}
	if (&durations{}).quantile(0.5) != 0 || (&durations{}).mean() != 0 {
		t.Error("of none")
	}
}

func TestTimeline(t *testing.T) {
	start := time.Date(2026, 11, 21, 1, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		length time.Duration
		step   int64
	}{{10 * time.Second, 1}, {3 * time.Minute, 5}, {time.Hour, 60}, {24 * time.Hour, 1800}, {30 * 24 * time.Hour, 43200}, {20 * 365 * 24 * time.Hour, 364 * 86400}} {
		var l timeline
		const n = 20_000
		for i := range n {
			l.add(start.Add(test.length/n*time.Duration(i)), i%10 == 0)
		}
		if len(l.moments) > maxMoments {
			t.Errorf("%v: %d moments", test.length, len(l.moments))
		}
		r := l.report(80)
		requests, failed := uint64(0), uint64(0)
		for i, b := range r.Buckets {
			requests += b.Requests
			failed += b.Failed
			if i > 0 && b.Start.Unix()-r.Buckets[i-1].Start.Unix() != r.StepSeconds {
				t.Errorf("%v: bucket %d begins at %v", test.length, i, b.Start)
			}
		}
		if requests != n || failed != n/10 || r.StepSeconds != test.step || len(r.Buckets) > 80 {
			t.Errorf("%v: %d requests, %d failed in %d buckets of %d s", test.length, requests, failed, len(r.Buckets), r.StepSeconds)
		}
	}
}

// Times that are nonsense cost neither memory nor time, and have a text form.
func TestTimelineOfNonsense(t *testing.T) {
	var l timeline
	for year := range 10_000 {
		for month := range 3 {
			l.add(time.Date(year, time.Month(month+1), 1, 0, 0, 0, 0, time.UTC), false)
		}
	}
	if len(l.moments) > maxMoments {
		t.Errorf("%d moments", len(l.moments))
	}
	for _, n := range []int{1, 50, 2000} {
		r := l.report(n)
		if len(r.Buckets) > n {
			t.Errorf("%d buckets, at most %d were asked for", len(r.Buckets), n)
		}
		for _, b := range r.Buckets {
			if _, err := b.Start.MarshalText(); err != nil {
				t.Error(err)
			}
		}
	}
	if r := new(timeline).report(10); len(r.Buckets) != 0 || r.Buckets == nil {
		t.Errorf("of nothing: %+v", r)
	}
}
