package fields

import (
	"fmt"
	"testing"

	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
)

// What it costs to decide about the events of records by two fields, for one who asks and for
// those who come after him, with a plugin that is a function call away.
func BenchmarkView(b *testing.B) {
	const events = 256
	for _, askers := range []int{1, 10} {
		b.Run(fmt.Sprintf("askers=%d", askers), func(b *testing.B) {
			plugin := fieldstest.New()
			r := New(Options{})
			r.Add(fieldstest.NewSource("fake", plugin))
			u, err := r.Use("fake.text", "fake.number")
			if err != nil {
				b.Fatal(err)
			}
			defer u.Release()
			rec := recordOf()
			for i := range events {
				rec.events = append(rec.events, fieldstest.Event(fmt.Sprintf(`{"text":"x%d","number":%d}`, i, i)))
			}
			found := 0
			for n := 0; b.Loop(); n++ {
				rec.seq = uint64(n + 1) // another record
				for range askers {
					v := u.View(b.Context(), rec)
					for i := range events {
						if texts, _ := v.At(i).Texts(0); len(texts) == 1 && texts[0] == "x7" {
							found++
						}
					}
				}
			}
			if calls := len(plugin.Calls()); found != calls*askers || calls != b.N {
				b.Fatalf("%d found, %d calls for %d records", found, calls, b.N)
			}
			b.ReportMetric(float64(b.N*events*askers)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(len(plugin.Calls()))/float64(b.N), "calls/record")
		})
	}
}
